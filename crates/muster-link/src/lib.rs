//! What lies between sockets and meaning, for the daemon, the command line and (WebSocket and TLS only) the hub.
//!
//! `tls` says whom we trust, `dial` opens a connection, `http` makes one JSON call, `websocket` moves messages,
//! `driver` runs a session over legs that may drop.
//! `print` writes to the terminal for programs that must not panic when it is closed, `signals` hears what asks them to stop.
//! This crate reads no configuration and no environment, and decides nothing about rights.

pub mod dial;
pub mod driver;
pub mod http;
pub mod print;
pub mod signals;
pub mod tls;
pub mod websocket;

#[cfg(any(test, feature = "test-relay"))]
mod test_hub;
#[cfg(any(test, feature = "test-relay"))]
pub mod test_relay;

/// Raises this process's bound on open files as far as the system lets it: each forwarded connection needs one.
/// Returns the bound that now holds, if the system tells it.
pub fn raise_open_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // A refusal leaves the old bound, which still works for fewer.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    getrlimit(Resource::Nofile).current
}
