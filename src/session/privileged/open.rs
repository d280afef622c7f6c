//! Opens what the policy has granted: exactly that, as the visitor, in a process that does nothing else.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use muster_proto::session::code;
use musterd::policy::Dial;

use super::Refusal;

/// Longest wait for a target: what a person waits for, and under a TCP connection's own patience of minutes.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a granted TCP target.
pub(super) fn tcp(dial: &Dial) -> Result<OwnedFd, Refusal> {
    let (name, addresses) = match dial {
        Dial::Address(address, port) => (SocketAddr::new(*address, *port).to_string(), vec![SocketAddr::new(*address, *port)]),
        Dial::Loopback(port) => {
            let both = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
            (format!("port {port}"), both.map(|address| SocketAddr::new(address, *port)).to_vec())
        }
        Dial::Name(host, port) => {
            let name = format!("{host}:{port}");
            let found = (host.as_str(), *port)
                .to_socket_addrs()
                .map_err(|error| Refusal { code: code::UNREACHABLE.to_owned(), ..failure(&name, &error) })?;
            (name, found.collect())
        }
    };
    let (until, mut last) = (Instant::now() + TIMEOUT, io::Error::from(io::ErrorKind::NotFound));
    for address in addresses {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => return Ok(stream.into()),
            Err(error) => last = error,
        }
    }
    Err(failure(&name, &last))
}

/// Connects to a granted Unix socket.
pub(super) fn unix(path: &str) -> Result<OwnedFd, Refusal> {
    UnixStream::connect(path).map(OwnedFd::from).map_err(|error| failure(path, &error))
}

fn failure(name: &str, error: &io::Error) -> Refusal {
    let seconds = TIMEOUT.as_secs();
    let (code, message) = match error.kind() {
        io::ErrorKind::ConnectionRefused => (code::CONNECTION_REFUSED, format!("Nothing listens on {name} of the device.")),
        io::ErrorKind::NotFound => (code::NOT_FOUND, format!("The device has no {name}.")),
        io::ErrorKind::PermissionDenied => (code::DENIED, format!("Your user on the device may not open {name}.")),
        io::ErrorKind::TimedOut => (code::TIMEOUT, format!("{name} did not answer the device within {seconds} s.")),
        _ => (code::UNREACHABLE, format!("The device cannot reach {name}: {error}.")),
    };
    Refusal::new(code, message)
}
