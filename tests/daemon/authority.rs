//! The stub hub's authority: it certifies devices and its own servers, and signs orders.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use muster_proto::mqtt::SessionOpen;
use muster_proto::order::{COMMON_NAME, ORDERS_EKU, Order, OrderKind, SIGNED, SignedOrder};
use muster_proto::run::RunStart;
use muster_proto::token::Pin;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, PublicKeyData as _, SigningKey as _,
};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};

use crate::hub::UID;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// An authority, with the key by which it signs orders.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
    pub pin: Pin,
    orders: (KeyPair, Certificate),
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "stub");
        let ca = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let pin = muster_link::tls::pin_of(ca.der()).unwrap();
        let orders = certified(&issuer, COMMON_NAME, Some(ExtendedKeyUsagePurpose::Other(ORDERS_EKU.to_vec())));
        Self { issuer, pem: ca.pem(), pin, orders }
    }

    /// A server of the hub's that lets clients show a certificate.
    pub(crate) fn server(&self) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(muster_link::tls::provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.der()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).allow_unauthenticated().build().unwrap();
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let (chain, key) = self.server_certificate();
        Arc::new(builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap())
    }

    /// A server of the hub's that asks for no certificate.
    pub(crate) fn relay(&self) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(muster_link::tls::provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let (chain, key) = self.server_certificate();
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.enable_secret_extraction = true;
        Arc::new(config)
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()
    }

    fn server_certificate(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut server = CertificateParams::new(["127.0.0.1", "localhost"].map(str::to_owned)).unwrap();
        // As the real hub's at its shortest: it renews its own with 60 days left.
        server.not_before = (SystemTime::now() - 300 * DAY).into();
        server.not_after = (SystemTime::now() + 61 * DAY).into();
        let server = server.signed_by(&key, &self.issuer).unwrap();
        (vec![server.der().clone(), self.der()], PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())))
    }

    /// The identity for a request, as the real hub signs it.
    pub(crate) fn identity(&self, csr: &str, mqtt: &str) -> Value {
        let mut request = CertificateSigningRequestParams::from_pem(csr).unwrap();
        request.params.distinguished_name = rcgen::DistinguishedName::new();
        request.params.distinguished_name.push(DnType::CommonName, UID);
        request.params.not_before = (SystemTime::now() - DAY).into();
        request.params.not_after = (SystemTime::now() + 90 * DAY).into();
        let certificate = request.signed_by(&self.issuer).unwrap();
        json!({"uid": UID, "org": "acme", "name": "robot-1", "certificate": certificate.pem(), "ca": self.pem, "mqtt": {"url": format!("mqtts://{mqtt}")}})
    }

    /// A certificate and its key in PEM, as a device has them, and the digest of that key.
    pub(crate) fn device(&self) -> (String, String, String) {
        let (key, certificate) = certified(&self.issuer, UID, None);
        (certificate.pem(), key.serialize_pem(), hex(&key.subject_public_key_info()))
    }

    /// Signs an order, as the real hub does.
    pub(crate) fn sign(&self, order: &[u8]) -> SignedOrder {
        let (key, certificate) = &self.orders;
        signed(key, certificate, order)
    }

    /// Signs an order with a key that this authority certified for something else.
    pub(crate) fn sign_with_a_key_for(&self, usage: Option<ExtendedKeyUsagePurpose>, order: &[u8]) -> SignedOrder {
        let (key, certificate) = certified(&self.issuer, COMMON_NAME, usage);
        signed(&key, &certificate, order)
    }
}

fn certified(issuer: &Issuer<'static, KeyPair>, name: &str, usage: Option<ExtendedKeyUsagePurpose>) -> (KeyPair, Certificate) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages.extend(usage);
    params.not_before = (SystemTime::now() - DAY).into();
    params.not_after = (SystemTime::now() + 90 * DAY).into();
    let certificate = params.signed_by(&key, issuer).unwrap();
    (key, certificate)
}

fn signed(key: &KeyPair, certificate: &Certificate, order: &[u8]) -> SignedOrder {
    SignedOrder::new(order, &key.sign(&[SIGNED, order].concat()).unwrap(), certificate.der())
}

/// SHA-256 in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a device that sent this request is named in orders.
pub(crate) fn device_key(csr: &str) -> String {
    hex(&CertificateSigningRequestParams::from_pem(csr).unwrap().public_key.subject_public_key_info())
}

/// The bytes of an order for a session.
pub(crate) fn session_order(device_key: &str, open: &Value) -> Vec<u8> {
    let open: SessionOpen = serde_json::from_value(open.clone()).unwrap();
    Order { device: UID.parse().unwrap(), device_key: device_key.to_owned(), t: open.t, kind: OrderKind::Session { open } }.to_bytes()
}

/// The bytes of an order for a run.
pub(crate) fn run_order(device_key: &str, run: &str, start: &Value) -> Vec<u8> {
    let start: RunStart = serde_json::from_value(start.clone()).unwrap();
    let (t, run) = (start.t, run.parse().unwrap());
    Order { device: UID.parse().unwrap(), device_key: device_key.to_owned(), t, kind: OrderKind::Run { run, start } }.to_bytes()
}

/// A signed order as it travels.
pub(crate) fn on_the_wire(what: &str, order: &SignedOrder) -> Value {
    let mut value = serde_json::to_value(order).unwrap();
    value["do"] = what.into();
    value
}
