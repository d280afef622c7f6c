//! Client certificates that this hub signed while its clock was ahead: they are not valid yet, once it is right again.
//!
//! A device cannot mend that by itself: to ask for another certificate it has to be let in with the one that it has.
//! So a certificate is taken from its first moment on, early or not. That costs nothing: who signed it, and that it has not ended, is
//! checked as ever; and whether its key still speaks for a device is looked up in the store (`auth`), not in its dates.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Another verifier, for which no certificate comes too early.
#[derive(Debug)]
pub(super) struct NeverEarly(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for NeverEarly {
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match self.0.verify_client_cert(leaf, chain, now) {
            Err(Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })) => {
                let first = first_moment(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
                self.0.verify_client_cert(leaf, chain, first)
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.0.requires_raw_public_keys()
    }
}

fn first_moment(leaf: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let seconds = u64::try_from(leaf.validity().not_before.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Ca;
    use crate::clock::{self, DAY};
    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;
    use rustls_pki_types::pem::PemObject as _;

    #[test]
    fn what_was_signed_by_a_clock_ahead_is_taken_and_what_has_ended_or_is_of_another_is_not() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let now = clock::now();
        let [ca, stranger] = [dir.path(), other.path()].map(|dir| Ca::open_or_create(dir, now).unwrap());
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = Arc::new(muster_link::tls::provider());
        let strict = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let verifier = NeverEarly(Arc::clone(&strict));
        let csr = rcgen::CertificateParams::default().serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let key = crate::ca::DeviceKey::from_csr(&csr).unwrap();
        let leaf = |ca: &Ca, at| {
            let issued = ca.sign_device(&key, &"daaaaaaaaaaaaaaa".parse().unwrap(), &"acme".parse().unwrap(), at).unwrap();
            CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap()
        };
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.unsigned_abs()));
        assert!(verifier.verify_client_cert(&leaf(&ca, now), &[], at).is_ok());
        for days in [3, 400, 20_000] {
            let early = leaf(&ca, now + days * DAY);
            assert!(strict.verify_client_cert(&early, &[], at).is_err(), "{days}");
            assert!(verifier.verify_client_cert(&early, &[], at).is_ok(), "{days}");
            assert!(verifier.verify_client_cert(&leaf(&stranger, now + days * DAY), &[], at).is_err(), "{days}: of another authority");
        }
        assert!(verifier.verify_client_cert(&leaf(&ca, now - 91 * DAY), &[], at).is_err(), "it has ended");
        assert!(!verifier.client_auth_mandatory() || verifier.offer_client_auth());
    }
}
