//! The daemon's control socket: `musterd status` asks, `musterd enrol` says that there is an identity.
//!
//! One JSON line in, one out, per connection. Only the daemon's own user can open the socket (mode 0600), so nothing here is checked twice.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use muster_proto::Millis;
use muster_proto::id::{DeviceUid, OrgId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::certificate::Validity;
use crate::daemon::{Daemon, LinkStatus, RunStatus, SessionStatus};
use crate::local;

/// Longest line.
const LINE_MAX: u64 = 64 * 1024;
/// Longest exchange.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections at once; further ones wait in the socket's queue.
const CONNECTIONS_MAX: usize = 16;

/// What is asked of the daemon.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Ask {
    /// How it is.
    Status,
    /// There is a new identity, or another policy.
    Reload,
}

/// `musterd status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    /// Version of the daemon.
    pub version: String,
    /// One life of the daemon.
    pub boot: String,
    /// Its process.
    pub pid: u32,
    /// The hub.
    pub hub: Option<String>,
    /// The organization.
    pub org: Option<OrgId>,
    /// The device's uid.
    pub uid: Option<DeviceUid>,
    /// What the organization calls it.
    pub name: Option<String>,
    /// The link.
    pub link: LinkStatus,
    /// End of the certificate.
    pub certificate_expires_at: Option<Millis>,
    /// When the last sample was taken.
    pub last_sample: Option<Millis>,
    /// Samples that wait for the hub.
    pub spooled: u64,
    /// Why samples do not wait on the disk, if they do not.
    pub spool_fault: Option<String>,
    /// The hub has no room for them: the organization's storage is full.
    #[serde(default)]
    pub samples_held: bool,
    /// Why everything is refused, if the policy is broken.
    pub policy_fault: Option<String>,
    /// Open sessions.
    pub sessions: Vec<SessionStatus>,
    /// Commands that run.
    #[serde(default)]
    pub runs: Vec<RunStatus>,
}

/// Serves until the daemon stops.
pub(crate) async fn run(daemon: Arc<Daemon>, listener: UnixListener) {
    let each = |stream| {
        let daemon = Arc::clone(&daemon);
        // Whoever asks and does not listen loses only its own answer.
        async move { drop(tokio::time::timeout(EXCHANGE_TIMEOUT, answer(&daemon, stream)).await) }
    };
    local::serve(&daemon, listener, "control", CONNECTIONS_MAX, each).await;
}

async fn answer(daemon: &Daemon, mut stream: UnixStream) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read.take(LINE_MAX)).read_line(&mut line).await?;
    let mut reply = match serde_json::from_str(&line) {
        Ok(Ask::Status) => serde_json::to_vec(&status(daemon))?,
        Ok(Ask::Reload) => {
            daemon.reload.notify_one();
            daemon.look_at_policy();
            b"{}".to_vec()
        }
        Err(error) => serde_json::to_vec(&serde_json::json!({"error": error.to_string()}))?,
    };
    reply.push(b'\n');
    write.write_all(&reply).await
}

fn status(daemon: &Daemon) -> Status {
    let enrolled = daemon.state.enrolled().ok().flatten();
    let identity = enrolled.as_ref().map(|enrolled| &enrolled.identity);
    let (spooled, spool_fault) = {
        let spool = daemon.spool();
        (spool.waiting(), spool.fault().map(str::to_owned))
    };
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot: daemon.boot.clone(),
        pid: std::process::id(),
        hub: enrolled.as_ref().map(|enrolled| enrolled.hub.clone()),
        org: identity.map(|identity| identity.org.clone()),
        uid: identity.map(|identity| identity.uid.clone()),
        name: identity.map(|identity| identity.name.clone()),
        link: daemon.link_status(),
        certificate_expires_at: identity.and_then(|identity| Validity::of_pem(&identity.certificate)).map(|validity| validity.to),
        last_sample: daemon.last_sample(),
        spooled,
        spool_fault,
        samples_held: daemon.samples_held(),
        policy_fault: crate::policy::load(&daemon.config.policy).err().map(|fault| fault.message),
        sessions: daemon.sessions(),
        runs: daemon.runs(),
    }
}

/// Asks the daemon, blocking.
///
/// # Errors
/// When it does not run or does not answer.
pub(crate) fn ask(socket: &Path, ask: &Ask) -> io::Result<String> {
    use std::io::{BufRead, Write};
    let stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(EXCHANGE_TIMEOUT))?;
    stream.set_write_timeout(Some(EXCHANGE_TIMEOUT))?;
    let mut line = serde_json::to_vec(ask)?;
    line.push(b'\n');
    (&stream).write_all(&line)?;
    let mut reply = String::new();
    io::BufReader::new(&stream).read_line(&mut reply)?;
    Ok(reply)
}
