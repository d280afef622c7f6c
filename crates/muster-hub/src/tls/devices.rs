//! Which client certificates are taken: devices' own, and those that a device made for one session.
//!
//! **Early ones.** A certificate that this hub signed while its clock was ahead is not valid yet, once it is right again. A device cannot
//! mend that by itself: to ask for another certificate it has to be let in with the one that it has. So a certificate is taken from its
//! first moment on, early or not. That costs nothing: who signed it, and that it has not ended, is checked as ever; and whether its key
//! still speaks for a device is looked up in the store (`auth`), not in its dates.
//!
//! **Those for a session** are a chain of two: the session's certificate and the device's. Whoever carries a session to the relay has a
//! key for this session only, so that whoever captures it has that session, not the device. The device's certificate is checked as ever;
//! the session's is checked by the device's key, and by nothing else in it but its name. Its dates are not looked at: the session's life
//! bounds it, and a device's clock may be wrong. What such a chain may do is decided where it is used ([`crate::peer::PeerCertificate`]).

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::ca::session_named;

/// Takes what another verifier takes, early or not; and chains for a session, where those are wanted.
#[derive(Debug)]
pub(super) struct Devices {
    /// Checks a device's certificate against the authority.
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    /// Whether chains for a session are taken as well.
    pub(super) sessions: bool,
}

impl Devices {
    fn verify_device(&self, leaf: &CertificateDer<'_>, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<ClientCertVerified, Error> {
        match self.inner.verify_client_cert(leaf, chain, now) {
            Err(Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. })) => {
                let first = first_moment(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
                self.inner.verify_client_cert(leaf, chain, first)
            }
            verified => verified,
        }
    }
}

impl ClientCertVerifier for Devices {
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // By its name alone, as in `PeerCertificate::of`: nothing is checked in one way and used in the other.
        if !self.sessions || session_named(leaf).is_none() {
            return self.verify_device(leaf, chain, now);
        }
        let [device] = chain else { return Err(CertificateError::UnknownIssuer.into()) };
        let verified = self.verify_device(device, &[], now)?;
        if is_signed_by(leaf, device) { Ok(verified) } else { Err(CertificateError::BadSignature.into()) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, leaf, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, leaf, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.inner.requires_raw_public_keys()
    }
}

fn first_moment(leaf: &CertificateDer<'_>) -> Option<UnixTime> {
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    let seconds = u64::try_from(leaf.validity().not_before.timestamp()).ok()?;
    Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
}

fn is_signed_by(leaf: &CertificateDer<'_>, device: &CertificateDer<'_>) -> bool {
    let (Ok((_, leaf)), Ok((_, device))) = (X509Certificate::from_der(leaf), X509Certificate::from_der(device)) else { return false };
    leaf.verify_signature(Some(device.public_key())).is_ok()
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
        let verifier = Devices { inner: Arc::clone(&strict), sessions: false };
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
