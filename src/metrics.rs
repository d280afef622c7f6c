//! The socket on which local programs add their own metrics: lines of `name value [unit]`.
//!
//! Any local user may write to it; so lines are bounded, names are plain, and a metric can never take the place of one of ours.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::daemon::Daemon;
use crate::local;
use crate::log::debug;

/// Programs at once; further ones wait.
const CONNECTIONS_MAX: usize = 16;
/// Longest line, in bytes.
const LINE_MAX: u64 = 256;
/// Longest name of a metric, in bytes.
const NAME_MAX: usize = 48;
/// A program that says nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(600);

/// Makes the socket, open to every local user.
///
/// # Errors
/// When it cannot be made.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    let listener = local::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o666))?;
    Ok(listener)
}

/// Serves until the daemon stops.
pub(crate) async fn run(daemon: Arc<Daemon>, listener: UnixListener) {
    local::serve(&daemon, listener, "metrics", CONNECTIONS_MAX, |stream| read(Arc::clone(&daemon), stream)).await;
}

async fn read(daemon: Arc<Daemon>, stream: UnixStream) {
    let mut reader = BufReader::with_capacity(512, stream);
    loop {
        let mut line = String::new();
        match tokio::time::timeout(IDLE, (&mut reader).take(LINE_MAX).read_line(&mut line)).await {
            Ok(Ok(len)) if len > 0 => {}
            _ => return,
        }
        match parse(&line) {
            Some((name, value)) => daemon.set_own_metric(name, value),
            None if line.trim().is_empty() => {}
            None => return debug!("metrics socket: {line:?} is not `name value [unit]`; the program is let go"),
        }
    }
}

/// `name value [unit]`; the unit is for people and is not kept.
fn parse(line: &str) -> Option<(&str, f64)> {
    let mut words = line.split_ascii_whitespace();
    let (name, value) = (words.next()?, words.next()?.parse::<f64>().ok()?);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'/' | b'-');
    let known = name.len() <= NAME_MAX && name.bytes().all(plain) && name.starts_with(|c: char| c.is_ascii_alphabetic());
    (known && value.is_finite() && words.count() <= 1).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(parse("battery 0.87\n"), Some(("battery", 0.87)));
        assert_eq!(parse("arm/joint-1.torque -3e2 Nm\n"), Some(("arm/joint-1.torque", -300.0)));
        for bad in ["", "x", "x y", "x nan", "x inf", "1x 2", "x\"y 1", "a 1 b c", &format!("{} 1", "x".repeat(49))] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
