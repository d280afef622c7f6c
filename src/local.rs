//! Unix sockets for programs of this machine: how they are made, and who is let in at once.
//!
//! What is said on one is its owner's business: `control` and `metrics`.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::daemon::Daemon;
use crate::log::warn;

/// Makes a socket that only our user can open. A dead one in its place is removed; a live one is another daemon.
///
/// # Errors
/// When it cannot be made, or something answers on it already.
pub(crate) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another musterd runs already"));
    }
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the daemon stops, `most` programs at once; further ones wait.
pub(crate) async fn serve<F>(daemon: &Arc<Daemon>, listener: UnixListener, what: &str, most: usize, each: impl Fn(UnixStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < most => match accepted {
                Ok((stream, _)) => drop(connections.spawn(each(stream))),
                Err(error) => {
                    warn!("{what} socket: {error}");
                    if !daemon.pause(Duration::from_secs(1)).await {
                        return;
                    }
                }
            },
            Some(_) = connections.join_next() => {}
            () = daemon.stopped() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/control.sock");
        let first = bind(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        bind(&path).unwrap();
    }
}
