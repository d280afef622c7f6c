//! The start of a session or run: what its unprivileged side has to know, and terminals of its own.

use std::os::fd::{AsFd, OwnedFd};

use muster_proto::order::{Order, OrderKind};
use musterd::handoff::Handoff;
use musterd::policy::Watched;
use rustix::process::Pid;

use super::{Refusal, aside, visitor};
use crate::channel::{Begin, Channel, RunBegin, SessionBegin};

/// Longest `TERM`, in bytes.
const TERM_MAX: usize = 64;

/// Starts the unprivileged side and tells it what it has to know.
pub(super) fn begin(order: &Order, policy: &mut Watched, handoff: Handoff, fds: &[OwnedFd]) -> Result<(Pid, Channel), Refusal> {
    let failed = |why: std::io::Error| Refusal::new("failed", format!("The device cannot start the unprivileged side: {why}."));
    let own_user = policy.current().is_ok_and(musterd::policy::Policy::own_user);
    let account = if own_user { None } else { Some(aside::account()?) };
    let limits = policy.limits();
    let (role, begin) = match &order.kind {
        OrderKind::Session { open } => {
            let open = open.clone();
            let Handoff { ca, certificate, key, proxy, floor, log_level, .. } = handoff;
            let (session, user, relay, ticket) = (open.session, open.user, open.relay, open.ticket);
            let (streams, idle_s, total_s) = (limits.streams, limits.idle_s, limits.total_s);
            let begin =
                SessionBegin { session, user, relay, ticket, ca, certificate, key, proxy, floor, streams, idle_s, total_s, log_level };
            ("net", Begin::Session(begin))
        }
        OrderKind::Run { run, start } => {
            let arrival = handoff.arrival.ok_or_else(|| Refusal::new("failed", "The daemon did not say when the order came."))?;
            ("collect", Begin::Run(RunBegin { run: run.clone(), start: start.clone(), arrival, log_level: handoff.log_level }))
        }
    };
    let (side, channel) = aside::start(role, account.as_ref()).map_err(failed)?;
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    channel.send(&begin, &fds).map_err(failed)?;
    Ok((side, channel))
}

/// A `/dev/pts` of this session's own, so that nobody outside finds its terminals there. All other mounts stay shared.
#[expect(unsafe_code, reason = "it changes what this process sees of the file system, and no descriptor")]
pub(super) fn own_terminals() -> std::io::Result<()> {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    // SAFETY: no descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS)? };
    mount_change(c"/dev/pts", MountPropagationFlags::PRIVATE)?;
    // Older C libraries hand a terminal out only if it belongs to that group.
    let group = visitor::tty_group().map(|gid| format!(",gid={gid}")).unwrap_or_default();
    let options = std::ffi::CString::new(format!("newinstance,ptmxmode=0666,mode=0620{group}"))?;
    mount(c"devpts", c"/dev/pts", c"devpts", MountFlags::NOSUID | MountFlags::NOEXEC, options.as_c_str())?;
    Ok(())
}

/// What a terminal may call itself.
pub(super) fn term(wanted: &str) -> String {
    let known = |c: char| c.is_ascii_alphanumeric() || "-+._".contains(c);
    if !wanted.is_empty() && wanted.len() <= TERM_MAX && wanted.chars().all(known) { wanted.to_owned() } else { "dumb".to_owned() }
}
