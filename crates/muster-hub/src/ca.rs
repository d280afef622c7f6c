//! The hub's certificate authority: one ECDSA P-256 key that signs devices, the hub's own servers, its key for orders, and nothing else.
//!
//! The key stays in the data directory with mode 0600.
//! A device's certificate carries names that the hub chose (its uid and organization) and the public key of the request; whatever else
//! the request asks for is ignored.

mod csr;
pub mod files;
mod orders;
mod peer;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muster_proto::Millis;
use muster_proto::id::{DeviceUid, OrgId};
use muster_proto::limits::DEVICE_CERTIFICATE_LIFETIME;
use muster_proto::token::Pin;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

use crate::clock::DAY;
use crate::random;

pub use csr::DeviceKey;
pub use orders::OrderKey;
pub use peer::{PeerName, session_named};

/// Lifetime of the authority: longer than the robots; a change of authority is a planned move.
const CA_LIFETIME: Millis = 20 * 365 * DAY;
/// Lifetime of the hub's own server certificate.
const SERVER_LIFETIME: Millis = 365 * DAY;
/// The server certificate is made anew when it has less than this left.
pub const SERVER_RENEW_BEFORE: Millis = 60 * DAY;
/// How far back certificates begin, for devices whose clock is behind.
const BACKDATED: Millis = DAY;

/// Why the authority could not do it.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file could not be read or written.
    #[error("cannot {verb} {path}: {source}")]
    File {
        /// "read" or "write".
        verb: &'static str,
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is there, but is not what it should be.
    #[error("{path} is not valid: {why}; restore it from a backup: devices trust only this authority")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Signing failed.
    #[error("cannot sign: {0}")]
    Sign(#[from] rcgen::Error),
}

/// The authority. Clones are cheap.
#[derive(Clone)]
pub struct Ca(Arc<Inner>);

struct Inner {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    pem: String,
    pin: Pin,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ca({})", self.0.pin)
    }
}

/// A certificate that was just signed.
#[derive(Debug, Clone)]
pub struct Issued {
    /// In PEM.
    pub pem: String,
    /// When it ends.
    pub expires_at: Millis,
}

/// A certificate of our own with its key.
pub struct Identity {
    /// Leaf certificate.
    pub certificate: CertificateDer<'static>,
    /// The same in PEM.
    pub certificate_pem: String,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The same in PEM.
    pub key_pem: String,
}

impl Ca {
    /// Opens the authority of a data directory, or makes it at the first start.
    ///
    /// # Errors
    /// When the files cannot be read or written, or are damaged. A half of the pair is never replaced silently.
    pub fn open_or_create(dir: &Path, now: Millis) -> Result<Self, CaError> {
        let (key_path, certificate_path) = (dir.join("ca.key"), dir.join("ca.pem"));
        match (files::read(&key_path)?, files::read(&certificate_path)?) {
            (Some(key), Some(certificate)) => Self::from_pem(&key, &certificate, &key_path, &certificate_path),
            (None, None) => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                let certificate = authority(now).self_signed(&key)?.pem();
                // The certificate last: without it the next start begins again; without the key nobody could.
                files::write_private(&key_path, key.serialize_pem().as_bytes())?;
                files::write_public(&certificate_path, certificate.as_bytes())?;
                Self::from_pem(&key.serialize_pem(), &certificate, &key_path, &certificate_path)
            }
            (Some(key), None) => {
                // The first start was cut between the two files; the key has signed nothing yet.
                let pair = KeyPair::from_pem(&key).map_err(|error| damaged(&key_path, &error))?;
                let certificate = authority(now).self_signed(&pair)?.pem();
                files::write_public(&certificate_path, certificate.as_bytes())?;
                Self::from_pem(&key, &certificate, &key_path, &certificate_path)
            }
            (None, Some(_)) => Err(damaged(&key_path, &"it is missing, while ca.pem is there")),
        }
    }

    /// The keys in a data directory that others than their owner may read, with their modes.
    ///
    /// # Errors
    /// When a file cannot be looked at.
    pub fn exposed_keys(dir: &Path) -> Result<Vec<(PathBuf, u32)>, CaError> {
        let mut exposed = Vec::new();
        for path in ["ca.key", "server.key", "orders.key"].map(|name| dir.join(name)) {
            let mode = files::open_to_others(&path);
            if let Some(mode) = mode.map_err(|source| CaError::File { verb: "look at", path: path.clone(), source })? {
                exposed.push((path, mode));
            }
        }
        Ok(exposed)
    }

    fn from_pem(key: &str, certificate: &str, key_path: &Path, certificate_path: &Path) -> Result<Self, CaError> {
        let key = KeyPair::from_pem(key).map_err(|error| damaged(key_path, &error))?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| damaged(certificate_path, &error))?;
        let name = PeerName::read(&der).map_err(|why| damaged(certificate_path, &why))?;
        let pin = Pin(random::sha256(&key.subject_public_key_info()));
        if name.key != pin.0 {
            return Err(damaged(certificate_path, &"its public key does not belong to ca.key"));
        }
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(|error| damaged(certificate_path, &error))?;
        Ok(Self(Arc::new(Inner { issuer, der, pem: certificate.to_owned(), pin })))
    }

    /// SHA-256 of the public key, as in tokens.
    pub fn pin(&self) -> Pin {
        self.0.pin
    }

    /// The certificate in PEM.
    pub fn pem(&self) -> &str {
        &self.0.pem
    }

    /// The certificate.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.0.der
    }

    /// Signs a device's client certificate: CN = uid, O = organization, 90 days, for the key of its request.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign_device(&self, key: &DeviceKey, uid: &DeviceUid, org: &OrgId, now: Millis) -> Result<Issued, CaError> {
        let lifetime = Millis::try_from(DEVICE_CERTIFICATE_LIFETIME.as_millis()).unwrap_or(90 * DAY);
        let mut params = leaf(uid.as_str(), now, lifetime);
        params.distinguished_name.push(DnType::OrganizationName, org.as_str());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let public = SubjectPublicKeyInfo::from_der(key.spki())?;
        let certificate = params.signed_by(&public, &self.0.issuer)?;
        Ok(Issued { pem: certificate.pem(), expires_at: now + lifetime })
    }

    /// Makes a server certificate with a new key for these DNS names and addresses.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate, or signing fails.
    pub fn issue_server(&self, names: &[String], now: Millis) -> Result<Identity, CaError> {
        let mut params = leaf(names.first().map_or("muster-hub", String::as_str), now, SERVER_LIFETIME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        self.issue(&params)
    }

    /// Makes a client certificate with a new key for a part of the hub itself, such as its link to an external broker.
    ///
    /// # Errors
    /// When signing fails.
    pub fn issue_client(&self, name: &str, now: Millis) -> Result<Identity, CaError> {
        let mut params = leaf(name, now, SERVER_LIFETIME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params)
    }

    fn issue(&self, params: &CertificateParams) -> Result<Identity, CaError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = params.signed_by(&key, &self.0.issuer)?;
        Ok(Identity {
            certificate: certificate.der().clone(),
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        })
    }
}

fn damaged(path: &Path, why: &dyn std::fmt::Display) -> CaError {
    CaError::Damaged { path: path.to_owned(), why: why.to_string() }
}

fn authority(now: Millis) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Muster hub CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial());
    (params.not_before, params.not_after) = (at(now - BACKDATED), at(now + CA_LIFETIME));
    params
}

fn leaf(name: &str, now: Millis, lifetime: Millis) -> CertificateParams {
    let mut params = CertificateParams::default();
    // A common name has at most 64 characters (RFC 5280, ub-common-name); verifiers look at the alternative names.
    params.distinguished_name = named(&name.chars().take(64).collect::<String>());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(serial());
    (params.not_before, params.not_after) = (at(now - BACKDATED), at(now + lifetime));
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// 127 random bits: positive, and never the same twice.
fn serial() -> SerialNumber {
    let mut bytes = random::bytes::<16>();
    bytes[0] &= 0x7f;
    SerialNumber::from_slice(&bytes)
}

fn at(t: Millis) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(t / 1000).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    const UID: &str = "daaaaaaaaaaaaaaa";

    #[test]
    fn the_authority_survives_a_restart_and_its_key_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let first = Ca::open_or_create(dir.path(), clock::now()).unwrap();
        let again = Ca::open_or_create(dir.path(), clock::now()).unwrap();
        assert_eq!(first.pin(), again.pin());
        assert_eq!(first.pem(), again.pem());
        let key = dir.path().join("ca.key");
        assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Ca::exposed_keys(dir.path()).unwrap(), []);
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
        assert_eq!(Ca::exposed_keys(dir.path()).unwrap(), [(key.clone(), 0o644)]);
        OrderKey::open(dir.path(), &again, clock::now()).unwrap();
        let orders = dir.path().join("orders.key");
        std::fs::set_permissions(&orders, PermissionsExt::from_mode(0o640)).unwrap();
        assert_eq!(Ca::exposed_keys(dir.path()).unwrap(), [(key, 0o644), (orders, 0o640)]);
        assert_eq!(Ca::exposed_keys(&dir.path().join("none")).unwrap(), []);
    }

    #[test]
    fn a_half_made_authority_is_completed_and_a_half_lost_one_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let first = Ca::open_or_create(dir.path(), clock::now()).unwrap();
        std::fs::remove_file(dir.path().join("ca.pem")).unwrap();
        assert_eq!(Ca::open_or_create(dir.path(), clock::now()).unwrap().pin(), first.pin());
        std::fs::remove_file(dir.path().join("ca.key")).unwrap();
        let error = Ca::open_or_create(dir.path(), clock::now()).unwrap_err().to_string();
        assert!(error.contains("ca.key") && error.contains("backup"), "{error}");
    }

    #[test]
    fn a_device_certificate_has_the_hubs_names_and_the_requests_key() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::open_or_create(dir.path(), clock::now()).unwrap();
        let pair = KeyPair::generate().unwrap();
        let mut wish = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        wish.distinguished_name = named("somebody else");
        let key = DeviceKey::from_csr(&wish.serialize_request(&pair).unwrap().pem().unwrap()).unwrap();
        let now = clock::now();
        let issued = ca.sign_device(&key, &UID.parse().unwrap(), &"acme".parse().unwrap(), now).unwrap();
        assert_eq!(issued.expires_at, now + 90 * DAY);
        let der = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap();
        let name = PeerName::read(&der).unwrap();
        assert_eq!((name.common_name.as_str(), name.organization.as_deref()), (UID, Some("acme")));
        assert_eq!(name.key, random::sha256(&pair.subject_public_key_info()));
        assert!(!String::from_utf8_lossy(&der).contains("evil"));
    }
}
