//! Reads the names and the key in a certificate. Verifies nothing: TLS has done that before anything gets here.

use muster_proto::id::SessionId;
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

/// The session that a certificate is for: its whole name is a session's id. The authority never signs such a name; a device does.
pub fn session_named(der: &CertificateDer<'_>) -> Option<SessionId> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut attributes = certificate.subject().iter_attributes();
    let (name, more) = (certificate.subject().iter_common_name().next()?, attributes.nth(1));
    if more.is_some() {
        return None;
    }
    name.as_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_refused() {
        for garbage in [&b""[..], b"x", &[0x30; 400]] {
            assert!(PeerName::read(&CertificateDer::from(garbage)).is_err());
            assert_eq!(session_named(&CertificateDer::from(garbage)), None);
        }
    }

    #[test]
    fn only_a_sessions_id_and_nothing_else_names_a_session() {
        use rcgen::{CertificateParams, DnType, KeyPair};
        let named = |names: &[(DnType, &str)]| {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            for (kind, name) in names {
                params.distinguished_name.push(kind.clone(), *name);
            }
            session_named(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der())
        };
        let id = "saaaaaaaaaaaaaaa";
        assert_eq!(named(&[(DnType::CommonName, id)]), Some(id.parse().unwrap()));
        for other in ["daaaaaaaaaaaaaaa", "muster orders", "", "saaaaaaaaaaaaaaaa", "saaaaaaaaaaaaaa "] {
            assert_eq!(named(&[(DnType::CommonName, other)]), None, "{other:?}");
        }
        assert_eq!(named(&[(DnType::CommonName, id), (DnType::OrganizationName, "acme")]), None);
        assert_eq!(named(&[(DnType::OrganizationName, id)]), None);
    }
}
