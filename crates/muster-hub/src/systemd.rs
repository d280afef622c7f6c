//! Words to systemd (sd_notify(3)): ready, stopping, alive. Does nothing where systemd did not start us.

use std::env;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::{interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::store::Store;

/// Says something to systemd. A word that does not arrive is no reason to fail.
pub fn notify(state: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else { return };
    let bytes = path.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "systemd could not be told {state:?}");
    }
}

/// Tells systemd that the hub lives, as long as its database takes writes. A hub that cannot write is better started afresh.
pub async fn watchdog(store: Store, stop: CancellationToken) {
    let Some(limit) = env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok()).map(Duration::from_micros) else { return };
    let mut ticks = interval((limit / 3).max(Duration::from_millis(100)));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match timeout(limit / 2, store.write(|_| Ok(()))).await {
            Ok(Ok(())) => notify("WATCHDOG=1"),
            Ok(Err(error)) => tracing::error!(%error, "the database takes no writes"),
            Err(_) => tracing::error!("the database did not take a write within {} s", limit.as_secs() / 2),
        }
    }
}
