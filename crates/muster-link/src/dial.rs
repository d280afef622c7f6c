//! Opens one connection to a hub: name, TCP, perhaps an HTTP proxy, TLS.
//!
//! One timeout spans the whole. Every way to fail has its own type and its own sentence, because `musterd doctor` and `muster`
//! show them to a person who stands before a device. Nothing here tries again: that is the caller's decision.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use muster_proto::token::Pin;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::{self, CertificateFault};

mod proxy;

pub use proxy::{InvalidProxy, Proxy};

/// Longest dial, from the name to the end of the TLS handshake.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// Head start of one address before the next is tried beside it (RFC 8305, section 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// Bytes that the kernel may hold unsent on a connection: what is sent next is decided late, so that a keystroke stands behind little.
pub const NOTSENT_LOWAT: u32 = 128 * 1024;

/// How long what was sent may stay unacknowledged before the connection counts as dead: after a roam the old address is silent for ever,
/// and the kernel's own patience is a quarter of an hour. Longer than a lift ride's worth of lost packets on a radio link.
pub const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// Where something listens: a parsed URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// `https`, `wss`, `mqtts`.
    pub scheme: Box<str>,
    /// A name or an address, without brackets.
    pub host: Box<str>,
    /// The port, also where the URL leaves it out.
    pub port: u16,
    /// Path and query, starting with `/`.
    pub path: Box<str>,
}

/// Why a text is not a URL that can be dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is not a usable URL: {why}")]
pub struct InvalidUrl {
    /// The text.
    pub url: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl FromStr for Endpoint {
    type Err = InvalidUrl;

    fn from_str(url: &str) -> Result<Self, InvalidUrl> {
        let bad = |why| InvalidUrl { url: url.chars().take(200).collect(), why };
        let (scheme, rest) = url.trim().split_once("://").ok_or_else(|| bad("it must look like https://hub.example.com"))?;
        let scheme = scheme.to_ascii_lowercase();
        let default_port = match &*scheme {
            "https" | "wss" => 443,
            "mqtts" => 8883,
            "http" | "ws" | "mqtt" => return Err(bad("only encrypted connections are made: https, wss or mqtts")),
            _ => return Err(bad("the scheme must be https, wss or mqtts")),
        };
        let cut = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(cut);
        if authority.contains('@') {
            return Err(bad("it must not contain a user name or password"));
        }
        let (host, port) = split_port(authority).ok_or_else(|| bad("the host or the port is not valid"))?;
        if ServerName::try_from(host).is_err() {
            return Err(bad("the host is not a valid name or address"));
        }
        let path = path.split('#').next().unwrap_or_default();
        if path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(bad("the path contains white space"));
        }
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { scheme: scheme.into(), host: host.into(), port: port.unwrap_or(default_port), path: path.into() })
    }
}

/// Splits `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    (!host.is_empty()).then_some((host, port))
}

impl Endpoint {
    /// The address of a hub as a person writes it: `https://` may be left out.
    ///
    /// # Errors
    /// As for any URL; also with another scheme, or with a path.
    pub fn hub(text: &str) -> Result<Self, InvalidUrl> {
        let text = text.trim();
        let url = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
        let endpoint: Self = url.parse()?;
        let bad = |why| InvalidUrl { url: text.chars().take(200).collect(), why };
        match (&*endpoint.scheme, &*endpoint.path) {
            ("https", "/") => Ok(endpoint),
            ("https", _) => Err(bad("a hub's address ends with the host or its port")),
            _ => Err(bad("a hub's address starts with https://")),
        }
    }

    /// `host:port`, as a `Host` header and in messages.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.to_string() };
        format!("{host}:{}", self.port)
    }

    /// Another path at the same place.
    pub fn at(&self, path: &str) -> Self {
        Self { path: path.into(), ..self.clone() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme, self.authority(), self.path)
    }
}

/// Why a connection could not be opened. Each says what failed, on what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The name has no address.
    #[error("the name {host} cannot be resolved ({source}): check the name, and the DNS server of this network")]
    Dns {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nothing listens there.
    #[error("{address} refused the connection: the hub is not running there, or a firewall rejects it; check the port")]
    Refused {
        /// Host and port.
        address: String,
    },
    /// No way there.
    #[error("{address} cannot be reached ({source}): check this machine's network, route and firewall")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{address} did not answer within {} s while {stage}: the hub is down, or a firewall drops the connection", .after.as_secs())]
    Timeout {
        /// Host and port.
        address: String,
        /// What was waited for.
        stage: &'static str,
        /// How long.
        after: Duration,
    },
    /// The proxy refused or failed.
    #[error("the proxy {proxy} did not connect to {address}: {why}")]
    Proxy {
        /// The proxy's host and port.
        proxy: String,
        /// Host and port behind it.
        address: String,
        /// What it said, and what to do.
        why: String,
    },
    /// The certificate cannot be believed.
    #[error("{}", certificate_sentence(.address, *.fault, .source))]
    Certificate {
        /// Host and port.
        address: String,
        /// What is wrong.
        fault: CertificateFault,
        /// What the library said.
        source: rustls::Error,
    },
    /// The TLS handshake failed otherwise.
    #[error(
        "{address} did not complete the TLS handshake ({source}): is this the hub's TLS port, does something between interfere, and is this device's certificate still valid?"
    )]
    Tls {
        /// Host and port.
        address: String,
        /// What went wrong.
        source: io::Error,
    },
}

fn certificate_sentence(address: &str, fault: CertificateFault, source: &rustls::Error) -> String {
    match fault {
        CertificateFault::Authority => format!(
            "the certificate of {address} is not from the hub's authority: this is another hub than the token names, or something between opens the connection (TLS interception); compare the hub's fingerprint, or ask for an exception in the firewall"
        ),
        CertificateFault::Expired => {
            format!("the certificate of {address} has expired ({source}): check this machine's clock first, then the hub's certificate")
        }
        CertificateFault::NotYetValid => {
            format!("the certificate of {address} is not valid yet ({source}): this machine's clock is behind; set it")
        }
        CertificateFault::Name => format!(
            "the certificate of {address} is for other names ({source}): use the hub's public name, or add this one to `names` in the hub's configuration"
        ),
        CertificateFault::Other => format!("the certificate of {address} cannot be used: {source}"),
    }
}

impl DialError {
    fn of_connect(address: String, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused { address },
            io::ErrorKind::TimedOut => Self::Timeout { address, stage: "connecting", after: DIAL_TIMEOUT },
            _ => Self::Unreachable { address, source },
        }
    }

    fn of_tls(address: String, source: io::Error) -> Self {
        let error = source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match error.and_then(|error| Some((CertificateFault::of(error)?, error.clone()))) {
            Some((fault, source)) => Self::Certificate { address, fault, source },
            None => Self::Tls { address, source },
        }
    }
}

/// How connections are opened. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// Trust, identity and clock.
    pub tls: Arc<ClientConfig>,
    /// The way out, where there is only one.
    pub proxy: Option<Arc<Proxy>>,
    /// Bound of one whole dial.
    pub timeout: Duration,
}

impl Dialer {
    /// A dialer without proxy and with the usual timeout.
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls, proxy: None, timeout: DIAL_TIMEOUT }
    }

    /// The same through a proxy.
    pub fn via(self, proxy: Option<Proxy>) -> Self {
        Self { proxy: proxy.map(Arc::new), ..self }
    }

    /// Opens a TLS connection.
    ///
    /// # Errors
    /// See [`DialError`].
    pub async fn dial(&self, endpoint: &Endpoint) -> Result<TlsStream<TcpStream>, DialError> {
        let mut stage = "resolving its name";
        let timeout = self.timeout;
        match tokio::time::timeout(timeout, self.stages(endpoint, &mut stage)).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout { address: endpoint.authority(), stage, after: timeout }),
        }
    }

    async fn stages(&self, endpoint: &Endpoint, stage: &mut &'static str) -> Result<TlsStream<TcpStream>, DialError> {
        let tcp = match &self.proxy {
            None => {
                let addresses = resolve(&endpoint.host, endpoint.port).await?;
                *stage = "connecting";
                connect(addresses).await.map_err(|error| DialError::of_connect(endpoint.authority(), error))?
            }
            Some(proxy) => {
                *stage = "connecting through the proxy";
                proxy.connect(endpoint).await?
            }
        };
        tune(&tcp);
        *stage = "in the TLS handshake";
        let name = ServerName::try_from(endpoint.host.to_string()).map_err(|_| DialError::Dns {
            host: endpoint.host.to_string(),
            source: io::Error::new(io::ErrorKind::InvalidInput, "not a valid name"),
        })?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        connector.connect(name, tcp).await.map_err(|error| DialError::of_tls(endpoint.authority(), error))
    }
}

/// Asks an unknown hub which authority it has. Sends nothing but the handshake.
/// `None` if it does not send the authority that signed its certificate, as a public certificate's owner would not.
///
/// # Errors
/// See [`DialError`].
pub async fn probe(endpoint: &Endpoint, proxy: Option<Proxy>) -> Result<Option<Pin>, DialError> {
    let (tls, seen) =
        tls::probe_config().map_err(|error| DialError::Tls { address: endpoint.authority(), source: io::Error::other(error) })?;
    Dialer::new(tls).via(proxy).dial(endpoint).await?;
    Ok(seen.pin())
}

/// What every connection of ours wants: no waiting for more to send, a short queue in the kernel, and to know when it is dead.
pub fn tune(tcp: &TcpStream) {
    // They only make it better; a system that lacks one still works.
    let _ = tcp.set_nodelay(true);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = socket2::SockRef::from(tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    #[cfg(any(target_os = "linux", target_os = "android", target_os = "macos"))]
    let _ = socket2::SockRef::from(tcp).set_tcp_notsent_lowat(NOTSENT_LOWAT);
}

/// All addresses of a name, IPv6 and IPv4 in turn. An address needs no resolver and no thread.
async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, DialError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let failed = |source| DialError::Dns { host: host.to_owned(), source };
    let found: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.map_err(failed)?.collect();
    if found.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
    }
    Ok(interleave(found))
}

/// Keeps the resolver's first address first and lets the families take turns.
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = found.first().is_some_and(SocketAddr::is_ipv6);
    let (leading, other): (Vec<_>, Vec<_>) = found.into_iter().partition(|address| address.is_ipv6() == first_is_v6);
    let mut other = other.into_iter();
    let mut out: Vec<SocketAddr> = leading.into_iter().flat_map(|address| [Some(address), other.next()]).flatten().collect();
    out.extend(other);
    out
}

/// Connects to the first address that answers; each gets a head start over the next.
async fn connect(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut waiting = addresses.into_iter();
    let mut failure = None;
    loop {
        if let Some(address) = waiting.next() {
            attempts.spawn(TcpStream::connect(address));
        } else if attempts.is_empty() {
            return Err(failure.unwrap_or_else(|| io::Error::from(io::ErrorKind::NotFound)));
        }
        let outcome = if waiting.len() == 0 {
            attempts.join_next().await
        } else {
            match tokio::time::timeout(HEAD_START, attempts.join_next()).await {
                Ok(outcome) => outcome,
                Err(_) => continue,
            }
        };
        match outcome {
            Some(Ok(Ok(stream))) => return Ok(stream),
            // A refusal says more than "no route", which a missing IPv6 gives.
            Some(Ok(Err(error))) if failure.is_none() || error.kind() == io::ErrorKind::ConnectionRefused => failure = Some(error),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
