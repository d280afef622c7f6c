//! What `muster forward` takes: a place here and a place that the device reaches. Pure.

use std::fmt;
use std::str::FromStr;

use muster_proto::session::Target;

/// One forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Spec {
    /// The port here; 0 takes a free one.
    pub(super) local: u16,
    /// Where the device connects.
    pub(super) remote: Remote,
}

/// A place that the device reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Remote {
    Tcp { host: String, port: u16 },
    Unix { path: String },
}

/// Why a text is not a forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct InvalidSpec {
    text: String,
    why: &'static str,
}

impl fmt::Display for InvalidSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a valid forward: {}. Write PORT, LOCAL:PORT, LOCAL:HOST:PORT or LOCAL:/PATH", self.text, self.why)
    }
}

/// The device itself: its policy's default.
const LOOPBACK: &str = "127.0.0.1";

impl FromStr for Spec {
    type Err = InvalidSpec;

    fn from_str(text: &str) -> Result<Self, InvalidSpec> {
        let bad = |why| InvalidSpec { text: text.to_owned(), why };
        let (first, rest) = match text.split_once(':') {
            None => {
                let port = port(text).ok_or_else(|| bad("the port is not 1 to 65535"))?;
                return Ok(Self { local: port, remote: Remote::Tcp { host: LOOPBACK.to_owned(), port } });
            }
            Some(parts) => parts,
        };
        let local = first.parse().map_err(|_| bad("the local port is not 0 to 65535"))?;
        if rest.starts_with('/') {
            return Ok(Self { local, remote: Remote::Unix { path: rest.to_owned() } });
        }
        // An IPv6 address has its own colons and stands in brackets.
        let (host, last) = rest.rsplit_once(':').unwrap_or((LOOPBACK, rest));
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = match bracketed {
            Some(host) => host,
            None if host.contains(':') => return Err(bad("an IPv6 address stands in brackets")),
            None => host,
        };
        if host.is_empty() || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(bad("the host is not a name or an address"));
        }
        let port = port(last).ok_or_else(|| bad("the port on the device is not 1 to 65535"))?;
        Ok(Self { local, remote: Remote::Tcp { host: host.to_owned(), port } })
    }
}

fn port(text: &str) -> Option<u16> {
    text.parse().ok().filter(|port| *port != 0)
}

impl Remote {
    /// As the protocol says it.
    pub(super) fn target(&self) -> Target {
        match self {
            Self::Tcp { host, port } => Target::Tcp { host: host.clone(), port: *port },
            Self::Unix { path } => Target::Unix { path: path.clone() },
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix { path } => f.write_str(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_parse() {
        for (text, local, remote) in [
            ("8765", 8765, "127.0.0.1:8765"),
            ("0:80", 0, "127.0.0.1:80"),
            ("8080:80", 8080, "127.0.0.1:80"),
            ("8443:10.0.0.2:443", 8443, "10.0.0.2:443"),
            ("8443:camera.local:443", 8443, "camera.local:443"),
            ("1:[fe80::1]:2", 1, "[fe80::1]:2"),
            ("5000:/run/app/api.sock", 5000, "/run/app/api.sock"),
        ] {
            let spec: Spec = text.parse().unwrap_or_else(|error: InvalidSpec| panic!("{error}"));
            assert_eq!((spec.local, spec.remote.to_string().as_str()), (local, remote), "{text}");
        }
        for bad in ["", "0", "x", "70000", "80:0", "80:x", "-1:80", "80::80", "1:fe80::1:2", "1:a b:2", "1:host:", "80:", "1:[::1]"] {
            assert!(bad.parse::<Spec>().is_err(), "{bad}");
        }
    }
}
