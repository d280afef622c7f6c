//! Reads the names and the key in a certificate. Verifies nothing: TLS has done that before anything gets here.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::random;

/// What a certificate says of its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerName {
    /// CN: the device's uid.
    pub common_name: String,
    /// O: the organization.
    pub organization: Option<String>,
    /// SHA-256 of the public key.
    pub key: [u8; 32],
    /// Its end, in milliseconds since the epoch.
    pub expires_at: i64,
}

impl PeerName {
    /// Reads a certificate.
    ///
    /// # Errors
    /// When it does not parse or has no common name.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, &'static str> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| "the certificate does not parse")?;
        let subject = certificate.subject();
        let text = |attribute: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| Some(attribute?.as_str().ok()?.to_owned());
        Ok(Self {
            common_name: text(subject.iter_common_name().next()).ok_or("the certificate has no common name")?,
            organization: text(subject.iter_organization().next()),
            key: random::sha256(certificate.public_key().raw),
            expires_at: certificate.validity().not_after.timestamp().saturating_mul(1000),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_refused() {
        for garbage in [&b""[..], b"x", &[0x30; 400]] {
            assert!(PeerName::read(&CertificateDer::from(garbage)).is_err());
        }
    }
}
