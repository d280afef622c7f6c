//! TLS 1.3 with pinned trust, for every connection that a device or an engineer opens.
//!
//! A hub usually has its own authority. Tokens name it by the SHA-256 of its public key, and the hub sends it along with its certificate:
//! so the first contact is already verified, and no file has to be copied.
//! The system's root certificates are never read: one pinned authority is smaller and says more.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use muster_proto::Millis;
use muster_proto::token::Pin;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring as provider_ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version};

/// TLS sessions that one client remembers, so that a new dial to the same hub is cheaper. It talks to one hub, rarely two.
const REMEMBERED: usize = 4;

/// Whose certificates are believed.
#[derive(Clone, PartialEq, Eq)]
pub enum Trust {
    /// The authority whose public key has this SHA-256; the server sends it in its chain.
    Pin(Pin),
    /// These authorities, by certificate.
    Ca(Vec<CertificateDer<'static>>),
}

impl Trust {
    /// Trust in the authorities of a PEM text.
    ///
    /// # Errors
    /// When it holds no certificate or does not parse.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TlsError> {
        Ok(Self::Ca(certificates(pem, "the CA file")?))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pin(pin) => write!(f, "Pin({pin})"),
            Self::Ca(list) => write!(f, "Ca({})", list.len()),
        }
    }
}

/// A client's certificate and its key.
pub struct Identity {
    /// The certificate, then what signed it.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key of the first certificate.
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// An identity from PEM texts.
    ///
    /// # Errors
    /// When one of them is not what it should be.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| TlsError::Pem { what: "the private key", why: error.to_string() })?;
        Ok(Self { chain: certificates(chain, "the client certificate")?, key })
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(***)")
    }
}

/// Why a TLS configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM text that is not what it should be.
    #[error("{what} is not valid PEM ({why}): copy it again, whole")]
    Pem {
        /// What the text should have been.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The library refuses the parts.
    #[error("the TLS identity cannot be used: {0}; certificate and key must belong together")]
    Identity(Error),
    /// The library refuses the authority.
    #[error("the CA certificate cannot be used: {0}")]
    Authority(Error),
}

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let list: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| TlsError::Pem { what, why: error.to_string() })?;
    if list.is_empty() {
        return Err(TlsError::Pem { what, why: "it holds no certificate".to_owned() });
    }
    Ok(list)
}

/// The later of the system's clock and the last time that a hub told.
///
/// A device with a dead clock battery wakes up in 1970; it must still be able to check a certificate's dates.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    /// A clock that never shows an earlier time than `floor`.
    pub fn with_floor(floor: Millis) -> Self {
        Self(Arc::new(AtomicI64::new(floor)))
    }

    /// A trusted hub said that it is this late.
    pub fn raise(&self, told: Millis) {
        self.0.fetch_max(told, Ordering::Relaxed);
    }

    /// The floor, to be kept on disk.
    pub fn floor(&self) -> Millis {
        self.0.load(Ordering::Relaxed)
    }

    /// Milliseconds since the epoch.
    pub fn now(&self) -> Millis {
        let system = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Millis::try_from(system.as_millis()).unwrap_or(Millis::MAX).max(self.floor())
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.now().unsigned_abs())))
    }
}

/// The cryptography of every connection, on both sides: ring; AES-128-GCM first where the processor has AES instructions, else ChaCha20.
///
/// AES-128-GCM costs a third less than ChaCha20 with such instructions, and several times more (and leaks timing) without.
pub fn provider() -> CryptoProvider {
    use provider_ring::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    let cipher_suites = if has_aes() {
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256]
    } else {
        vec![TLS13_CHACHA20_POLY1305_SHA256, TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384]
    };
    CryptoProvider { cipher_suites, ..provider_ring::default_provider() }
}

fn has_aes() -> bool {
    #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
    return std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
    return false;
}

/// A client's configuration: TLS 1.3 only, one trust, perhaps an identity of its own.
///
/// # Errors
/// When the identity's parts do not fit together or an authority cannot be used.
pub fn client_config(trust: &Trust, identity: Option<&Identity>, clock: &Clock) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(provider());
    let verifier = Verifier { judge: Roots::of(trust)?, algorithms: provider.signature_verification_algorithms };
    let builder = ClientConfig::builder_with_details(provider, Arc::new(clock.clone()))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(TlsError::Identity)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match identity {
        Some(identity) => builder.with_client_auth_cert(identity.chain.clone(), identity.key.clone_key()).map_err(TlsError::Identity)?,
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(REMEMBERED);
    // A session's WebSocket takes the record layer over.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

/// SHA-256 of a certificate's public key (SubjectPublicKeyInfo), as tokens carry it. `None` if it does not parse.
pub fn pin_of(certificate: &CertificateDer<'_>) -> Option<Pin> {
    let key = webpki::spki_for_anchor(&webpki::anchor_from_trusted_cert(certificate).ok()?);
    let digest = ring::digest::digest(&ring::digest::SHA256, &key);
    Some(Pin(digest.as_ref().try_into().ok()?))
}

/// A configuration that believes any server and notes which authority it showed. For `login` to an unknown hub:
/// a person compares the fingerprint before anything secret is sent. Never use it to send anything.
///
/// The second part gives, after a handshake, the pin of the authority that signed the server's certificate.
///
/// # Errors
/// Never in practice: ring speaks TLS 1.3.
pub fn probe_config() -> Result<(Arc<ClientConfig>, SeenAuthority), TlsError> {
    let provider = Arc::new(provider());
    let seen = SeenAuthority::default();
    let verifier = Verifier { judge: seen.clone(), algorithms: provider.signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(TlsError::Identity)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok((Arc::new(config), seen))
}

/// The authority that a probed server showed.
#[derive(Debug, Clone, Default)]
pub struct SeenAuthority(Arc<OnceLock<Pin>>);

impl SeenAuthority {
    /// The pin, once a handshake went through and the server sent the authority that signed its certificate.
    pub fn pin(&self) -> Option<Pin> {
        self.0.get().copied()
    }
}

/// What is decided about a server's certificate. That the server also has its key, the [`Verifier`] checks for all of them.
trait Judge: fmt::Debug + Send + Sync {
    fn judge(&self, server: &Presented<'_>, algorithms: &WebPkiSupportedAlgorithms) -> Result<(), Error>;
}

/// What a server presents, and when.
struct Presented<'a> {
    certificate: ParsedCertificate<'a>,
    intermediates: &'a [CertificateDer<'a>],
    name: &'a ServerName<'a>,
    now: UnixTime,
}

#[derive(Debug)]
struct Verifier<J> {
    judge: J,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<J: Judge> ServerCertVerifier for Verifier<J> {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        self.judge.judge(&Presented { certificate, intermediates, name, now }, &self.algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3 is spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Believes everybody, and notes who signed.
impl Judge for SeenAuthority {
    fn judge(&self, server: &Presented<'_>, algorithms: &WebPkiSupportedAlgorithms) -> Result<(), Error> {
        for candidate in server.intermediates {
            let mut root = RootCertStore::empty();
            if root.add(candidate.clone().into_owned()).is_err() {
                continue;
            }
            let signed = verify_server_cert_signed_by_trust_anchor(&server.certificate, &root, &[], server.now, algorithms.all);
            // Dates do not matter here: the real connection checks them.
            if matches!(
                signed.as_ref().err().map(CertificateFault::of),
                None | Some(Some(CertificateFault::Expired | CertificateFault::NotYetValid))
            ) && let Some(pin) = pin_of(candidate)
            {
                let _ = self.0.set(pin);
                break;
            }
        }
        Ok(())
    }
}

/// Believes a server whose chain leads to the trusted authority and whose certificate bears its name and is in date.
#[derive(Debug)]
enum Roots {
    /// The root is found in the presented chain.
    Pin(Pin),
    Known(RootCertStore),
}

impl Roots {
    fn of(trust: &Trust) -> Result<Self, TlsError> {
        Ok(match trust {
            Trust::Pin(pin) => Self::Pin(*pin),
            Trust::Ca(list) => {
                let mut store = RootCertStore::empty();
                for certificate in list {
                    store.add(certificate.clone()).map_err(TlsError::Authority)?;
                }
                Self::Known(store)
            }
        })
    }
}

impl Judge for Roots {
    fn judge(&self, server: &Presented<'_>, algorithms: &WebPkiSupportedAlgorithms) -> Result<(), Error> {
        let pinned;
        let roots = match self {
            Self::Known(store) => store,
            Self::Pin(pin) => {
                let mut store = RootCertStore::empty();
                let root = server.intermediates.iter().find(|candidate| pin_of(candidate) == Some(*pin));
                store.add(root.ok_or(CertificateError::UnknownIssuer)?.clone().into_owned())?;
                pinned = store;
                &pinned
            }
        };
        verify_server_cert_signed_by_trust_anchor(&server.certificate, roots, server.intermediates, server.now, algorithms.all)?;
        verify_server_name(&server.certificate, server.name)
    }
}

/// What is wrong with a server's certificate, for a sentence that helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CertificateFault {
    /// Not signed by the trusted authority: another hub, or something between that opens TLS.
    Authority,
    /// Past its date, by our clock.
    Expired,
    /// Before its date, by our clock.
    NotYetValid,
    /// It is for another name.
    Name,
    /// Anything else.
    Other,
}

impl CertificateFault {
    /// The fault behind a TLS error, if it is about the server's certificate.
    pub fn of(error: &Error) -> Option<Self> {
        let Error::InvalidCertificate(error) = error else { return None };
        Some(match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Authority,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::Name,
            _ => Self::Other,
        })
    }
}

#[cfg(test)]
mod tests;
