//! The key that signs orders: sessions and runs go to a device only with its signature (`muster_proto::order`).
//!
//! It is a key of its own, so that a device believes an order by it and by nothing else that the authority certified:
//! its certificate has a name and a usage that no other one has, and it is good for no TLS connection.
//! It is made anew when it is lost, damaged or near its end: each order carries the certificate, and devices keep none.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use muster_proto::Millis;
use muster_proto::order::{COMMON_NAME, ORDERS_EKU, ORDERS_EKU_DER, Order, SIGNED, SignedOrder};
use rcgen::{ExtendedKeyUsagePurpose, KeyPair, PublicKeyData as _, SigningKey as _};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{Ca, CaError, PeerName, SERVER_RENEW_BEFORE, files, leaf};
use crate::random;

/// Lifetime of the certificate.
const LIFETIME: Millis = super::SERVER_LIFETIME;

/// The key that signs orders, swapped in place when its certificate is renewed. Clones share it.
#[derive(Clone)]
pub struct OrderKey {
    dir: PathBuf,
    ca: Ca,
    current: Arc<RwLock<Arc<Current>>>,
}

struct Current {
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for OrderKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OrderKey")
    }
}

impl OrderKey {
    /// Loads the key of a data directory; makes it, or makes it anew when its certificate does not serve.
    ///
    /// # Errors
    /// When files cannot be read or written, or signing fails.
    pub fn open(dir: &Path, ca: &Ca, now: Millis) -> Result<Self, CaError> {
        let current = match load(dir, ca, now)? {
            Some(current) => current,
            None => issue(dir, ca, now)?,
        };
        Ok(Self { dir: dir.to_owned(), ca: ca.clone(), current: Arc::new(RwLock::new(Arc::new(current))) })
    }

    /// Renews it when it is near its end. Says whether it did.
    ///
    /// # Errors
    /// As [`OrderKey::open`].
    pub fn renew(&self, now: Millis) -> Result<bool, CaError> {
        if load(&self.dir, &self.ca, now)?.is_some() {
            return Ok(false);
        }
        let current = issue(&self.dir, &self.ca, now)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
        Ok(true)
    }

    /// Signs an order.
    ///
    /// # Errors
    /// When the system's random generator fails.
    pub fn sign(&self, order: &Order) -> Result<SignedOrder, CaError> {
        let current = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let bytes = order.to_bytes();
        let signature = current.key.sign(&[SIGNED, &bytes].concat())?;
        Ok(SignedOrder::new(&bytes, &signature, &current.certificate))
    }
}

fn paths(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join("orders.key"), dir.join("orders.pem"))
}

/// `None` when there is none that still serves. What is unreadable is made anew: nothing depends on this very key.
fn load(dir: &Path, ca: &Ca, now: Millis) -> Result<Option<Current>, CaError> {
    let (key, certificate) = paths(dir);
    let (Some(key), Some(certificate)) = (files::read(&key)?, files::read(&certificate)?) else { return Ok(None) };
    let (Ok(key), Ok(certificate)) = (KeyPair::from_pem(&key), CertificateDer::from_pem_slice(certificate.as_bytes())) else {
        return Ok(None);
    };
    let current = Current { key, certificate };
    Ok(serves(&current, ca, now).then_some(current))
}

fn serves(current: &Current, ca: &Ca, now: Millis) -> bool {
    let (Ok(name), Ok((_, certificate)), Ok((_, authority))) =
        (PeerName::read(&current.certificate), X509Certificate::from_der(&current.certificate), X509Certificate::from_der(ca.der()))
    else {
        return false;
    };
    let begins = certificate.validity().not_before.timestamp().saturating_mul(1000);
    let usages = certificate.extended_key_usage().ok().flatten();
    let usage = usages.is_some_and(|usages| usages.value.other.iter().any(|usage| usage.as_bytes() == ORDERS_EKU_DER));
    // One that is not valid yet was made by a clock that has been set back since.
    name.common_name == COMMON_NAME
        && name.key == random::sha256(&current.key.subject_public_key_info())
        && usage
        && begins <= now
        && name.expires_at - now > SERVER_RENEW_BEFORE
        && certificate.verify_signature(Some(authority.public_key())).is_ok()
}

fn issue(dir: &Path, ca: &Ca, now: Millis) -> Result<Current, CaError> {
    let mut params = leaf(COMMON_NAME, now, LIFETIME);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(ORDERS_EKU.to_vec())];
    let identity = ca.issue(&params)?;
    let (key, certificate) = paths(dir);
    files::write_private(&key, identity.key_pem.as_bytes())?;
    files::write_public(&certificate, identity.certificate_pem.as_bytes())?;
    Ok(Current { key: KeyPair::from_pem(&identity.key_pem)?, certificate: identity.certificate })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{self, DAY};
    use muster_proto::mqtt::SessionOpen;
    use muster_proto::order::{self, OrderKind};
    use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;

    fn order() -> Order {
        let open = SessionOpen {
            session: "saaaaaaaaaaaaaaa".parse().unwrap(),
            relay: "wss://hub/v1/sessions/saaaaaaaaaaaaaaa/device".into(),
            ticket: "t".into(),
            user: "ada@example.com".into(),
            project: "lab".parse().unwrap(),
            role: "connect".into(),
            reason: None,
            t: 7,
        };
        Order { device: "daaaaaaaaaaaaaaa".parse().unwrap(), device_key: "00".repeat(32), t: 7, kind: OrderKind::Session { open } }
    }

    #[test]
    fn an_order_is_signed_by_a_key_that_the_authority_certified_for_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let now = clock::now();
        let ca = Ca::open_or_create(dir.path(), now).unwrap();
        let key = OrderKey::open(dir.path(), &ca, now).unwrap();
        let (bytes, signature, certificate) = key.sign(&order()).unwrap().parts().unwrap();
        assert_eq!(order::read(&bytes).unwrap(), order());
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        let (_, authority) = X509Certificate::from_der(ca.der()).unwrap();
        parsed.verify_signature(Some(authority.public_key())).unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, parsed.public_key().subject_public_key.data.to_vec());
        public.verify(&[SIGNED, &bytes].concat(), &signature).unwrap();
        public.verify(&bytes, &signature).unwrap_err();
        let mut other = bytes.clone();
        other[20] ^= 1;
        public.verify(&[SIGNED, &other].concat(), &signature).unwrap_err();

        let usage = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(!usage.any && !usage.client_auth && !usage.server_auth && usage.other.len() == 1);
        assert_eq!(usage.other[0].as_bytes(), ORDERS_EKU_DER);
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(muster_link::tls::provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let refused = verifier.verify_client_cert(&CertificateDer::from(certificate), &[], rustls_pki_types::UnixTime::now());
        assert!(refused.is_err(), "it lets nobody in");
    }

    #[test]
    fn is_kept_while_it_serves_and_made_anew_when_it_does_not() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = clock::now();
        let [ca, stranger] = [dir.path(), other.path()].map(|dir| Ca::open_or_create(dir, now).unwrap());
        let certificate = |key: &OrderKey| key.current.read().unwrap().certificate.clone();
        let first = OrderKey::open(dir.path(), &ca, now).unwrap();
        let path = dir.path().join("orders.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(certificate(&first), certificate(&OrderKey::open(dir.path(), &ca, now).unwrap()));
        assert!(!first.renew(now + 300 * DAY).unwrap());
        let before = certificate(&first);
        assert!(first.renew(now + 306 * DAY).unwrap());
        assert_ne!(certificate(&first), before);
        assert!(first.renew(now).unwrap(), "the clock was months ahead and is right again");

        let before = certificate(&first);
        assert_ne!(certificate(&OrderKey::open(dir.path(), &stranger, now).unwrap()), before, "of another authority");
        let before = certificate(&OrderKey::open(dir.path(), &ca, now).unwrap());
        // A server certificate in its place, and a key that is not the certificate's.
        let server = ca.issue_server(&["muster orders".replace(' ', "-")], now).unwrap();
        std::fs::write(dir.path().join("orders.pem"), &server.certificate_pem).unwrap();
        std::fs::write(&path, &server.key_pem).unwrap();
        let next = OrderKey::open(dir.path(), &ca, now).unwrap();
        assert_ne!(certificate(&next), server.certificate);
        std::fs::write(&path, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert_ne!(certificate(&OrderKey::open(dir.path(), &ca, now).unwrap()), certificate(&next));
        std::fs::write(&path, "garbage").unwrap();
        assert_ne!(certificate(&OrderKey::open(dir.path(), &ca, now).unwrap()), before);
    }
}
