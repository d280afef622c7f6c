//! The part of a session with the power to become a user: one process for each session and each run.
//!
//! It believes the hub's signature, the owner's files, and nothing else. It parses what those say, and short requests from its own
//! unprivileged side, which talks to the network in its place. `docs/security.md` says why each file of this folder is here,
//! and how many lines they have.

mod aside;
mod begin;
mod consent;
mod group;
mod instance;
mod listen;
mod open;
mod order;
mod scope;
mod signals;
mod talk;
mod visitor;

use std::fs::OpenOptions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

use muster_proto::order::{Order, OrderKind};
use musterd::handoff::{Handoff, LIVE, Say, line};
use musterd::log::{self, error, info, warn};
use musterd::policy::{self, Decision, Limits, Request, Target, Watched};
use rustix::fs::{FlockOperation, flock};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::Places;
use order::Anchor;
use talk::Talk;

pub(crate) use listen::listen;
pub(crate) use scope::end_recorded;

/// Why something does not begin, for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refusal {
    code: String,
    message: String,
}

impl Refusal {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}

impl From<policy::Refusal> for Refusal {
    fn from(policy::Refusal { code, message }: policy::Refusal) -> Self {
        Self::new(code, message)
    }
}

/// Serves one session or run; descriptor 0 is the daemon's connection.
pub(crate) fn serve(places: &Places) -> ExitCode {
    let daemon = match crate::take_stdin().map(UnixStream::from) {
        Ok(daemon) => daemon,
        Err(error) => {
            error!("there is no connection on descriptor 0: {error}; systemd or `musterd sessiond` starts this command, not a person");
            return ExitCode::FAILURE;
        }
    };
    let (handoff, fds, heard) = match talk::read_handoff(&daemon) {
        Ok(read) => read,
        Err(error) => {
            warn!("no order was handed over: {error}");
            return ExitCode::FAILURE;
        }
    };
    log::set_level_named(&handoff.log_level);
    match admit(places, &handoff) {
        Ok(admitted) => instance::run(admitted, (handoff, fds, heard), daemon, places),
        Err(Refusal { code, message }) => {
            info!("refused ({code}): {message}");
            let _ = std::io::Write::write_all(&mut &daemon, &line(&Say::Refused { code, message }));
            ExitCode::SUCCESS
        }
    }
}

/// What may begin.
struct Admitted {
    order: Order,
    policy: Watched,
    /// Held until the session's socket is there: by it sessions are counted.
    counting: OwnedFd,
}

fn admit(places: &Places, handoff: &Handoff) -> Result<Admitted, Refusal> {
    let moment = policy::moment();
    let anchor = Anchor::read(&places.anchor)?;
    let order = order::verify(handoff, &anchor, moment)?;
    let mut policy = Watched::open(places.policy.clone());
    let (user, role, target) = match &order.kind {
        OrderKind::Session { open } => (&open.user, &open.role, Target::Session),
        OrderKind::Run { start, .. } => (&start.user, &start.role, Target::Run { start }),
    };
    if let Decision::Refuse { code, message } = policy.decide(&Request { user, role, target }, moment) {
        return Err(Refusal::new(code, message));
    }
    let owner = policy.current().map_err(|fault| Refusal::new(fault.code, fault.message.clone()))?;
    owner.check_rights(rustix::process::geteuid().is_root())?;
    if let OrderKind::Session { open } = &order.kind {
        owner.check_relay(&open.relay, &anchor.hub)?;
    }
    let limits = policy.limits();
    let counting = count(places, &order, &limits)?;
    order::use_once(&places.state, &places.run, &order)?;
    Ok(Admitted { order, policy, counting })
}

/// Counts what lives, with the lock that makes the count right until our own socket is there.
fn count(places: &Places, order: &Order, limits: &Limits) -> Result<OwnedFd, Refusal> {
    let failed = |error: std::io::Error| Refusal::new("failed", format!("The device cannot count its sessions: {error}."));
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(places.run.join("lock")).map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| failed(error.into()))?;
    let kind = &order.name()[..1];
    let open = living(&places.run.join(LIVE)).map_err(failed)?.into_iter().filter(|name| name.starts_with(kind)).count();
    limits.check_one_more(matches!(order.kind, OrderKind::Run { .. }), open)?;
    Ok(lock.into())
}

/// The names of all that live: those whose socket answers. Dead sockets are removed.
fn living(dir: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)?.flatten() {
        let path = entry.path();
        let (Some(name), Some("sock")) = (path.file_stem().and_then(|name| name.to_str()), path.extension().and_then(|kind| kind.to_str()))
        else {
            continue;
        };
        match answers(&path) {
            Err(rustix::io::Errno::CONNREFUSED) => drop(std::fs::remove_file(&path)),
            _ => names.push(name.to_owned()),
        }
    }
    Ok(names)
}

/// Whether somebody is behind a socket. One that is too busy to take a connection lives as well; nobody is waited for.
fn answers(path: &Path) -> rustix::io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)
}
