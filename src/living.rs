//! Living sessions and runs: handing an order over to the privileged part, finding it again, and hearing what it says.
//!
//! The daemon starts nothing for visitors. It connects to the socket of `musterd-session`, hands the order over with what proves the
//! device, and listens. Only where the owner's policy says `own_user` it starts that program itself, as its own user.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use muster_proto::order::SignedOrder;
use musterd::descriptors;
use musterd::handoff::{Arrival, Do, Handoff, LAST_WORDS, LINE_MAX, LIVE, Live, START_SOCKET, Say, line};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, socket_with, socketpair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::config::Config;
use crate::csr::DeviceKey;
use crate::daemon::Daemon;
use crate::log::{debug, warn};

/// The program of the privileged part, beside our own.
const PROGRAM: &str = "musterd-session";
/// Longest wait for a socket on this machine to take what we write.
const WRITE: Duration = Duration::from_secs(2);

/// A conversation with a session or a run.
#[derive(Debug)]
pub(crate) struct Conversation {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    /// What came and is not a whole line yet.
    heard: Vec<u8>,
}

impl Conversation {
    /// What it says next; `None` when it is gone. May be dropped at any time without losing a word.
    pub(crate) async fn next(&mut self) -> Option<Say> {
        loop {
            if let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
                let text: Vec<u8> = self.heard.drain(..=end).collect();
                match serde_json::from_slice(&text) {
                    Ok(say) => return Some(say),
                    // Of a later version, perhaps; the next line may be one that we know.
                    Err(error) => warn!("a session sent a line that is not valid: {error}"),
                }
                continue;
            }
            if self.heard.len() >= LINE_MAX || !matches!(self.read.read_buf(&mut self.heard).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// Tells it something.
    pub(crate) async fn tell(&mut self, what: &Do) {
        let bytes = line(what);
        if !matches!(tokio::time::timeout(WRITE, self.write.write_all(&bytes)).await, Ok(Ok(()))) {
            debug!("a session does not listen");
        }
    }
}

impl From<UnixStream> for Conversation {
    fn from(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self { read, write, heard: Vec::new() }
    }
}

/// Why nothing was handed over, for the user.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// `no_service`, or the policy's code where that refuses everything.
    pub code: &'static str,
    /// The sentence.
    pub message: String,
}

/// What is asked for a service that is not there.
const NO_SERVICE: &str = "no_service";

/// Hands an order over. For a run with when it came and the files that its collector writes.
///
/// # Errors
/// Nothing on this device can serve it.
pub(crate) fn hand_over(
    daemon: &Daemon,
    name: &str,
    order: SignedOrder,
    run: Option<(Arrival, [OwnedFd; 3])>,
) -> Result<Conversation, Refusal> {
    let no_service = |message: String| Refusal { code: NO_SERVICE, message };
    let failed = |what: &str, error: &dyn std::fmt::Display| no_service(format!("The device cannot begin this: {what}: {error}."));
    let enrolled = daemon.state.enrolled().map_err(|error| failed("its identity", &error))?;
    let enrolled = enrolled.ok_or_else(|| no_service("This device is not enrolled.".to_owned()))?;
    let key = daemon.state.key().map_err(|error| failed("its key", &error))?;
    let key = key.ok_or_else(|| no_service("This device has no key.".to_owned()))?;
    let session = DeviceKey::generate();
    let certificate = format!("{}{}", key.certify(&session, name), enrolled.identity.certificate);
    let config = &daemon.config;
    let (arrival, fds) = run.map_or((None, None), |(arrival, fds)| (Some(arrival), Some(fds)));
    let handoff = Handoff {
        order,
        ca: enrolled.identity.ca,
        certificate,
        key: session.to_pem(),
        proxy: config.proxy.clone(),
        floor: daemon.clock.now(),
        log_level: config.log_level.name().to_owned(),
        arrival,
    };
    let policy = musterd::policy::load(&config.policy);
    let stream = match &policy {
        Ok(policy) if policy.own_user() => start(config),
        _ => connect(&config.session_dir.join(START_SOCKET)),
    };
    let stream = stream.map_err(|error| match policy {
        // Whoever decides is not there to say so.
        Err(fault) => Refusal { code: fault.code, message: fault.message },
        Ok(_) => no_service(format!(
            "This device's service for sessions is not there ({error}); on the device: systemctl start musterd-session.socket, or `musterd sessiond`."
        )),
    })?;
    let fds: Vec<BorrowedFd<'_>> = fds.iter().flatten().map(|fd| fd.as_fd()).collect();
    send(&stream, &line(&handoff), &fds).map_err(|error| failed("its service for sessions", &error))?;
    stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .map(Conversation::from)
        .map_err(|error| failed("a socket", &error))
}

/// Connects to the service for sessions, or to one of them. One that does not take connections any more is not waited for long: the link has no time.
fn connect(path: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(WRITE))?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Writes all, the descriptors with the first bytes. The socket's buffer takes an order at once; one that does not is not waited for long.
fn send(stream: &std::os::unix::net::UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE))?;
    let sent = descriptors::send(stream, bytes, fds, SendFlags::empty())?;
    io::Write::write_all(&mut &*stream, &bytes[sent..])
}

/// Where sessions of our own user keep their sockets.
fn own_dir(config: &Config) -> PathBuf {
    config.run_dir.join("sessions")
}

/// Starts the privileged part as our own user.
fn start(config: &Config) -> io::Result<std::os::unix::net::UnixStream> {
    let (run, state) = (own_dir(config), config.state_dir.join("sessions"));
    for dir in [&run.join(LIVE), &run.join(LAST_WORDS), &state] {
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700).create(dir)?;
    }
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    let mut command = std::process::Command::new(program()?);
    command.arg("serve").arg("--policy").arg(&config.policy).arg("--anchor").arg(&config.anchor);
    command.arg("--run-dir").arg(run).arg("--state-dir").arg(state);
    command.stdin(Stdio::from(theirs)).stdout(Stdio::null()).stderr(Stdio::inherit()).process_group(0);
    // The sockets of systemd's protocol are the daemon's alone.
    command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID").env_remove("INVOCATION_ID");
    // Dropped: the runtime collects it.
    drop(tokio::process::Command::from(command).spawn()?);
    Ok(ours.into())
}

/// The program of the privileged part: beside ours, also while that is being replaced by an update.
///
/// # Errors
/// When it is not there.
pub(crate) fn program() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.parent().unwrap_or(Path::new("/usr/bin")).join(PROGRAM);
    if path.is_file() { Ok(path) } else { Err(io::Error::new(io::ErrorKind::NotFound, format!("{} is not there", path.display()))) }
}

/// The entries of this directory, where the service for sessions keeps it and where our own user does.
fn entries(config: &Config, dir: &str) -> impl Iterator<Item = std::fs::DirEntry> {
    let dirs = [config.session_dir.join(dir), own_dir(config).join(dir)];
    dirs.into_iter().filter_map(|dir| std::fs::read_dir(dir).ok()).flatten().flatten()
}

/// The sockets of all that may live, with the names of their sessions and runs.
pub(crate) fn sockets(config: &Config) -> Vec<(String, PathBuf)> {
    let named = entries(config, LIVE).filter_map(|entry| {
        let path = entry.path();
        let name = path.file_name()?.to_str()?.strip_suffix(".sock")?.to_owned();
        Some((name, path))
    });
    named.collect()
}

/// Those of this name: one, or a living and a dead one in the two places.
pub(crate) fn sockets_of<'a>(config: &Config, name: &'a str) -> impl Iterator<Item = PathBuf> + use<'a> {
    sockets(config).into_iter().filter(move |(found, _)| found == name).map(|(_, path)| path)
}

/// What ended while nobody was there to hear it, or one of it by its name: names and last words. They are taken.
pub(crate) fn last_words(config: &Config, only: Option<&str>) -> Vec<(String, Vec<Say>)> {
    let mut found = Vec::new();
    for entry in entries(config, LAST_WORDS) {
        let path = entry.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".report")).map(str::to_owned) else { continue };
        if only.is_some_and(|only| only != name) {
            continue;
        }
        let mut text = String::new();
        let read =
            std::fs::File::open(&path).and_then(|file| io::Read::read_to_string(&mut io::Read::take(file, LINE_MAX as u64), &mut text));
        if let Err(error) = read.and_then(|_| std::fs::remove_file(&path)) {
            warn!("{}: {error}", path.display());
            continue;
        }
        found.push((name, text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()));
    }
    found
}

/// Why nobody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Silence {
    /// It was killed and could not remove its socket.
    Killed,
    /// It has just ended, or is about to: it has said so, or leaves it in its last words.
    Ended,
}

/// Attaches to a living session or run. The socket of one that was killed is removed.
///
/// # Errors
/// When nobody answers.
pub(crate) async fn attach(path: &Path) -> Result<(Conversation, Live), Silence> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            if error.kind() != io::ErrorKind::ConnectionRefused {
                return Err(Silence::Ended);
            }
            let _ = std::fs::remove_file(path);
            return Err(Silence::Killed);
        }
    };
    let mut conversation = Conversation::from(stream);
    conversation.tell(&Do::Attach).await;
    match tokio::time::timeout(WRITE, conversation.next()).await {
        Ok(Some(Say::Opened(live))) => Ok((conversation, live)),
        _ => Err(Silence::Ended),
    }
}

/// Attaches to the session or run of this name, if it answers.
pub(crate) async fn find(config: &Config, name: &str) -> Option<(Conversation, Live)> {
    for path in sockets_of(config, name) {
        if let Ok(found) = attach(&path).await {
            return Some(found);
        }
    }
    None
}

/// Asks all living sessions and runs who they are, blocking; for commands of a person.
pub(crate) fn ask_all(config: &Config) -> Vec<(Live, PathBuf)> {
    let ask = |path: &Path| -> io::Result<Live> {
        let stream = connect(path)?;
        stream.set_read_timeout(Some(WRITE))?;
        io::Write::write_all(&mut &stream, &line(&Do::Status))?;
        let mut text = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(io::Read::take(&stream, LINE_MAX as u64)), &mut text)?;
        match serde_json::from_str(&text)? {
            Say::Opened(live) => Ok(live),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    };
    sockets(config).into_iter().filter_map(|(_, path)| Some((ask(&path).ok()?, path))).collect()
}

/// Tells one to end, blocking; whether it was there to be told.
///
/// # Errors
/// When it is there and cannot be told.
pub(crate) fn end(path: &Path, reason: &str) -> io::Result<bool> {
    match connect(path) {
        Ok(stream) => io::Write::write_all(&mut &stream, &line(&Do::End { reason: reason.to_owned() })).map(|()| true),
        // Over already.
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}
