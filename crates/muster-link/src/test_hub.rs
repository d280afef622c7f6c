//! A hub's TLS side for tests: an authority of its own, a certificate, and a pin.
#![expect(clippy::unwrap_used, reason = "only tests compile this")]

use std::sync::Arc;

use muster_proto::token::Pin;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::tls;

/// An authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) der: CertificateDer<'static>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    pub(crate) fn pin(&self) -> Pin {
        tls::pin_of(&self.der).unwrap()
    }

    /// A server for these names, in date by default.
    pub(crate) fn server(&self, names: &[&str]) -> Arc<ServerConfig> {
        self.server_with(names, |_| {})
    }

    pub(crate) fn server_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Arc<ServerConfig> {
        self.make(names, change, &self.der)
    }

    /// A server that shows another authority than the one that signed it.
    #[cfg(test)]
    pub(crate) fn server_showing(&self, names: &[&str], shown: &Self) -> Arc<ServerConfig> {
        self.make(names, |_| {}, &shown.der)
    }

    fn make(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams), shown: &CertificateDer<'static>) -> Arc<ServerConfig> {
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(tls::provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone(), shown.clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        config.enable_secret_extraction = true;
        Arc::new(config)
    }
}
