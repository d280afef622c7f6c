//! Client certificates that a device made for one session: a chain of two, the session's certificate and the device's.
//!
//! Whoever carries a session to the relay has a key for this session only, so that whoever captures it has that session, not the device.
//! The device's certificate is checked as ever; the session's is checked by the device's key, and by nothing else in it but its name.
//! Its dates are not looked at: the session's life bounds it, and a device's clock may be wrong.
//! What such a chain may do is decided where it is used ([`crate::peer::PeerCertificate`]).

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::ca::session_named;

/// Takes chains for a session as well as what another verifier takes.
#[derive(Debug)]
pub(super) struct WithSessions(pub(super) Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for WithSessions {
    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // By its name alone, as in `PeerCertificate::of`: nothing is checked in one way and used in the other.
        if session_named(leaf).is_none() {
            return self.0.verify_client_cert(leaf, chain, now);
        }
        let [device] = chain else { return Err(CertificateError::UnknownIssuer.into()) };
        let verified = self.0.verify_client_cert(device, &[], now)?;
        if is_signed_by(leaf, device) { Ok(verified) } else { Err(CertificateError::BadSignature.into()) }
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

fn is_signed_by(leaf: &CertificateDer<'_>, device: &CertificateDer<'_>) -> bool {
    let (Ok((_, leaf)), Ok((_, device))) = (X509Certificate::from_der(leaf), X509Certificate::from_der(device)) else { return false };
    leaf.verify_signature(Some(device.public_key())).is_ok()
}
