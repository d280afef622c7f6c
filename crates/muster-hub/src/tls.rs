//! TLS of the hub's own ports: 1.3 only, the hub's leaf and its authority sent together, client certificates checked against the authority.
//!
//! The authority is sent so that a device or a person who holds only a token can check the pin in it.

mod devices;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use muster_proto::Millis;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientCertVerifierBuilder, ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::ca::{Ca, CaError, SERVER_RENEW_BEFORE, files};
use devices::Devices;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The authority or a file.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// rustls refused.
    #[error("cannot set up TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The verifier of client certificates could not be built.
    #[error("cannot set up TLS: {0}")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// The hub's server certificate, swapped in place when it is renewed. Clones share it.
#[derive(Debug, Clone)]
pub struct ServerCertificate {
    dir: PathBuf,
    names: Vec<String>,
    ca: Ca,
    current: Arc<RwLock<Arc<CertifiedKey>>>,
}

impl ServerCertificate {
    /// Loads the certificate of a data directory; makes it, or makes it anew when its names differ from `names`, it is near its end,
    /// or it is of another authority.
    ///
    /// # Errors
    /// When files cannot be written, or signing fails.
    pub fn open(dir: &Path, names: Vec<String>, ca: &Ca, now: Millis) -> Result<Self, TlsError> {
        let key = match load(dir, &names, ca, now)? {
            Some(key) => key,
            None => issue(dir, &names, ca, now)?,
        };
        Ok(Self { dir: dir.to_owned(), names, ca: ca.clone(), current: Arc::new(RwLock::new(Arc::new(key))) })
    }

    /// Renews it when it is near its end. Says whether it did.
    ///
    /// # Errors
    /// As [`ServerCertificate::open`].
    pub fn renew(&self, now: Millis) -> Result<bool, TlsError> {
        if load(&self.dir, &self.names, &self.ca, now)?.is_some() {
            return Ok(false);
        }
        let key = issue(&self.dir, &self.names, &self.ca, now)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
        Ok(true)
    }

    /// For the HTTPS port: a client certificate is welcome, not needed; a device's, or one that a device made for a session.
    ///
    /// # Errors
    /// When rustls refuses.
    pub fn https(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let inner = self.verifier(|builder| builder.allow_unauthenticated())?;
        let mut config = self.config(Devices { inner, sessions: true })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // The relay protects the records of sessions itself: `muster_link::websocket`.
        config.enable_secret_extraction = true;
        Ok(Arc::new(config))
    }

    /// For the MQTT port: nobody gets in without a device's certificate.
    ///
    /// # Errors
    /// When rustls refuses.
    pub fn mqtt(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let inner = self.verifier(|builder| builder)?;
        let mut config = self.config(Devices { inner, sessions: false })?;
        config.alpn_protocols = vec![b"mqtt".to_vec()];
        // Links last for days: tickets would cost memory and bytes and serve nobody.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Arc::new(config))
    }

    /// Checks client certificates against the authority.
    fn verifier(
        &self,
        rule: impl FnOnce(ClientCertVerifierBuilder) -> ClientCertVerifierBuilder,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone())?;
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(muster_link::tls::provider()));
        Ok(rule(builder).build()?)
    }

    fn config(&self, verifier: Devices) -> Result<ServerConfig, TlsError> {
        // AES-128-GCM first where the processor has AES: it costs the least for each byte of a session.
        let provider = Arc::new(muster_link::tls::provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(self.clone()));
        config.ignore_client_order = true;
        Ok(config)
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn paths(dir: &Path) -> (PathBuf, PathBuf) {
    (dir.join("server.key"), dir.join("server.pem"))
}

/// `None` when there is none that still serves. What is unreadable is made anew: nothing depends on this very key.
fn load(dir: &Path, names: &[String], ca: &Ca, now: Millis) -> Result<Option<CertifiedKey>, TlsError> {
    let (key, certificate) = paths(dir);
    let (Some(key), Some(certificate)) = (files::read(&key)?, files::read(&certificate)?) else { return Ok(None) };
    let (Ok(key), Ok(leaf)) = (PrivateKeyDer::from_pem_slice(key.as_bytes()), CertificateDer::from_pem_slice(certificate.as_bytes()))
    else {
        return Ok(None);
    };
    if !serves(&leaf, names, ca, now) {
        return Ok(None);
    }
    Ok(certified(leaf, ca, &key).ok().filter(|key| key.keys_match().is_ok()))
}

fn serves(leaf: &CertificateDer<'_>, names: &[String], ca: &Ca, now: Millis) -> bool {
    let (Ok((_, leaf)), Ok((_, authority))) = (X509Certificate::from_der(leaf), X509Certificate::from_der(ca.der())) else {
        return false;
    };
    let [begins, ends] = [leaf.validity().not_before, leaf.validity().not_after].map(|time| time.timestamp().saturating_mul(1000));
    let mut held: Vec<String> = match leaf.subject_alternative_name() {
        Ok(Some(extension)) => extension.value.general_names.iter().filter_map(name_of).collect(),
        _ => Vec::new(),
    };
    let mut wanted = names.to_vec();
    held.sort();
    wanted.sort();
    // One that is not valid yet was made by a clock that has been set back since: no device would believe it.
    begins <= now && ends - now > SERVER_RENEW_BEFORE && held == wanted && leaf.verify_signature(Some(authority.public_key())).is_ok()
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv4Addr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}

fn issue(dir: &Path, names: &[String], ca: &Ca, now: Millis) -> Result<CertifiedKey, TlsError> {
    let identity = ca.issue_server(names, now)?;
    let (key, certificate) = paths(dir);
    files::write_private(&key, identity.key_pem.as_bytes())?;
    files::write_public(&certificate, identity.certificate_pem.as_bytes())?;
    Ok(certified(identity.certificate, ca, &identity.key)?)
}

fn certified(leaf: CertificateDer<'static>, ca: &Ca, key: &PrivateKeyDer<'static>) -> Result<CertifiedKey, rustls::Error> {
    let key = rustls::crypto::ring::sign::any_ecdsa_type(key)?;
    Ok(CertifiedKey::new(vec![leaf, ca.der().clone()], key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{self, DAY};

    #[test]
    fn is_kept_while_it_serves_and_made_anew_when_it_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let now = clock::now();
        let ca = Ca::open_or_create(dir.path(), now).unwrap();
        let names = vec!["hub.example.com".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let leaf = |certificate: &ServerCertificate| certificate.current.read().unwrap().cert[0].clone();

        let first = ServerCertificate::open(dir.path(), names.clone(), &ca, now).unwrap();
        let again = ServerCertificate::open(dir.path(), names.clone(), &ca, now).unwrap();
        assert_eq!(leaf(&first), leaf(&again));
        assert!(!again.renew(now + 300 * DAY).unwrap());
        assert!(again.renew(now + 306 * DAY).unwrap());
        assert_ne!(leaf(&first), leaf(&again));

        let corrected = ServerCertificate::open(dir.path(), names.clone(), &ca, now + 20_000 * DAY).unwrap();
        assert!(corrected.renew(now).unwrap(), "the clock was years ahead and is right again");

        let renamed = ServerCertificate::open(dir.path(), vec!["other.example.com".to_owned()], &ca, now).unwrap();
        assert_ne!(leaf(&renamed), leaf(&again));
        std::fs::write(dir.path().join("server.key"), "garbage").unwrap();
        ServerCertificate::open(dir.path(), names, &ca, now).unwrap();
    }
}
