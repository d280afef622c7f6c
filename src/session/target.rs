//! Dialling a stream's target on this device, after the policy has granted it: exactly what was granted, nothing else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use muster_link::driver::Io;
use muster_proto::session::code;
use tokio::net::{TcpStream, UnixStream};

use crate::policy::Dial;

/// Longest wait for a target: what a person waits for, and under a TCP connection's own patience of minutes.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a target gave no connection, for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// Connects to a granted TCP target.
pub(super) async fn tcp(dial: Dial) -> Result<Io, Failure> {
    let (name, addresses) = match dial {
        Dial::Address(address, port) => (SocketAddr::new(address, port).to_string(), vec![SocketAddr::new(address, port)]),
        Dial::Loopback(port) => {
            let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            (format!("port {port}"), both.map(|address| SocketAddr::new(address, port)).to_vec())
        }
        Dial::Name(host, port) => {
            let name = format!("{host}:{port}");
            let found = bounded(&name, tokio::net::lookup_host((host.as_str(), port))).await;
            let found = found.map_err(|failure| Failure { code: code::UNREACHABLE, ..failure })?;
            (name, found.collect())
        }
    };
    bounded(&name, TcpStream::connect(&addresses[..])).await.map(Io::tcp)
}

/// Connects to a granted Unix socket.
pub(super) async fn unix(path: &str) -> Result<Io, Failure> {
    bounded(path, UnixStream::connect(path)).await.map(Io::unix)
}

async fn bounded<T>(name: &str, attempt: impl Future<Output = io::Result<T>>) -> Result<T, Failure> {
    match tokio::time::timeout(TIMEOUT, attempt).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failure(name, &error)),
        Err(_) => Err(Failure { code: code::TIMEOUT, message: format!("{name} did not answer the device within {} s", TIMEOUT.as_secs()) }),
    }
}

fn failure(name: &str, error: &io::Error) -> Failure {
    let (code, message) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (code::CONNECTION_REFUSED, format!("nothing listens on {name} of the device")),
        io::ErrorKind::NotFound => (code::NOT_FOUND, format!("the device has no {name}")),
        io::ErrorKind::PermissionDenied => (code::DENIED, format!("the device's worker may not open {name}")),
        io::ErrorKind::TimedOut => (code::TIMEOUT, format!("{name} did not answer the device")),
        _ => (code::UNREACHABLE, format!("the device cannot reach {name}: {error}")),
    };
    Failure { code, message }
}
