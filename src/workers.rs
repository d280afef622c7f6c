//! Starts, finds again and ends the worker processes, one per session.
//!
//! A worker outlives the daemon: it has its own process group, and a file in `run_dir/workers` by which the next daemon finds it.
//! The daemon decides who may come in as a session; what may be done inside it, the worker decides by the same policy.
//! Supervision waits for events (a child's end, a pidfd), it never polls.

use std::collections::{BTreeMap, VecDeque};
use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use muster_proto::id::SessionId;
use muster_proto::mqtt::{DeviceEventKind, SessionOpen, SessionOrder};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command as Process};
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use crate::daemon::{Command, Daemon, SessionStatus, wall_clock};
use crate::log::{info, warn};
use crate::policy::{Decision, Request, Target, Watched};
use crate::state::write_atomic;
use crate::worker::{Order, Report};

/// What a worker that was told to end may take before it is killed.
const END_GRACE: Duration = Duration::from_secs(2);
/// Orders that are remembered, because MQTT may deliver one twice.
const REMEMBERED: usize = 256;
/// Largest report, in bytes.
const REPORT_MAX: u64 = 16 * 1024;

/// `workers/{session}.json`: by which a later daemon finds the worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    #[serde(flatten)]
    status: SessionStatus,
    /// When the process started, in ticks since the boot: a process number alone may have gone to another program.
    started: u64,
}

/// Runs until the daemon stops; the workers go on.
pub(crate) async fn run(daemon: Arc<Daemon>, mut commands: Receiver<Command>) {
    let mut workers = Workers {
        policy: Watched::open(daemon.config.policy.clone()),
        dir: daemon.config.workers_dir(),
        live: BTreeMap::new(),
        seen: VecDeque::new(),
        ends: JoinSet::new(),
        kills: JoinSet::new(),
        daemon,
    };
    workers.find_again();
    let daemon = Arc::clone(&workers.daemon);
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Order(SessionOrder::Open(open))) => workers.open(open),
                Some(Command::Order(SessionOrder::End { session, reason })) => workers.end(&session, &reason),
                Some(Command::Order(SessionOrder::Unknown)) => {}
                Some(Command::EndAll(reason)) => workers.end_all(reason),
                None => break,
            },
            Some(ended) = workers.ends.join_next() => if let Ok(session) = ended { workers.ended(&session) },
            Some(_) = workers.kills.join_next() => {}
            () = daemon.stopped() => break,
        }
    }
    if !workers.live.is_empty() {
        info!("{} sessions go on without the daemon", workers.live.len());
    }
    // Whoever was told to end is not let off by the daemon's own end; it takes END_GRACE at most.
    while workers.kills.join_next().await.is_some() {}
}

struct Workers {
    daemon: Arc<Daemon>,
    policy: Watched,
    dir: PathBuf,
    live: BTreeMap<SessionId, Pid>,
    seen: VecDeque<SessionId>,
    ends: JoinSet<SessionId>,
    kills: JoinSet<()>,
}

impl Workers {
    /// Whether the order comes in time is not asked here: clocks may be set on either side, and the hub decides it by the ticket.
    fn open(&mut self, open: SessionOpen) {
        if self.seen.contains(&open.session) || self.live.contains_key(&open.session) {
            return;
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back(open.session.clone());
        let session = open.session.clone();
        let request = Request { user: &open.user, role: &open.role, target: Target::Session };
        if let Decision::Refuse { code, message } = self.policy.decide(&request, crate::policy::moment()) {
            return self.refuse(session, code, message);
        }
        let most = self.policy.limits().sessions;
        if self.live.len() >= most as usize {
            return self.refuse(
                session,
                "policy_sessions",
                format!("this device's policy allows {most} sessions at once, and so many are open"),
            );
        }
        if let Err(error) = self.start(open) {
            warn!("session {session}: cannot start a worker: {error}");
            self.refuse(session, "worker", format!("the device cannot start a session: {error}"));
        }
    }

    fn refuse(&self, session: SessionId, code: &str, message: String) {
        info!("session {session} refused ({code}): {message}");
        self.daemon.report(DeviceEventKind::SessionFailed { session, code: code.to_owned(), message });
    }

    fn start(&mut self, open: SessionOpen) -> io::Result<()> {
        let config = &self.daemon.config;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
        let (session, user, project) = (open.session.clone(), open.user.clone(), open.project.to_string());
        let order = Order {
            open,
            state_dir: config.state_dir.clone(),
            policy: config.policy.clone(),
            control: config.control_socket(),
            report: self.report_path(&session),
            proxy: config.proxy.clone(),
            floor: self.daemon.clock.now(),
            log_level: config.log_level.name().to_owned(),
        };
        let mut command = std::process::Command::new("/proc/self/exe");
        // Our own executable, also while it is being replaced by an update.
        command.arg0("musterd").arg("session").process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::inherit());
        // The sockets of systemd's protocol are the daemon's alone.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        if let Some(path) = &self.daemon.config_path {
            command.env("MUSTERD_CONFIG", path);
        }
        let mut child = Process::from(command).spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)).ok_or(io::ErrorKind::NotFound)?;
        // The order is under 8 KiB and fits the pipe's buffer, so writing it does not wait for the worker.
        let written = match child.stdin.take().map(tokio::process::ChildStdin::into_owned_fd) {
            Some(pipe) => pipe.and_then(|pipe| std::fs::File::from(pipe).write_all(&serde_json::to_vec(&order)?)),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        if let Err(error) = written {
            let _ = kill_process_group(pid, Signal::KILL);
            return Err(error);
        }
        let status =
            SessionStatus { session: session.clone(), user, project, since: wall_clock(), pid: pid.as_raw_nonzero().get().unsigned_abs() };
        self.remember(&status, pid);
        info!("session {session} for {} in {}: worker {}", status.user, status.project, status.pid);
        self.daemon.report(DeviceEventKind::SessionOpened { session: session.clone() });
        self.daemon.add_session(status);
        self.live.insert(session.clone(), pid);
        self.ends.spawn(end_of_child(child, session));
        Ok(())
    }

    /// Writes the worker's record. Without one the session works, but a later daemon will not know of it.
    fn remember(&self, status: &SessionStatus, pid: Pid) {
        let record = Record { status: status.clone(), started: start_time(pid).unwrap_or(0) };
        let bytes = serde_json::to_vec(&record).unwrap_or_default();
        if let Err(error) = write_atomic(&self.record_path(&status.session), &bytes, 0o600) {
            warn!("{error}; a restarted daemon will not know of session {}", status.session);
        }
    }

    /// Tells a worker to end, and kills it if it does not.
    fn end(&mut self, session: &SessionId, reason: &str) {
        let Some(pid) = self.live.get(session).copied() else { return };
        info!("session {session} is ended: {reason}");
        let _ = kill_process(pid, Signal::TERM);
        let (started, session) = (start_time(pid), session.clone());
        self.kills.spawn(async move {
            tokio::time::sleep(END_GRACE).await;
            // Still the same process?
            if start_time(pid).is_some() && start_time(pid) == started {
                warn!("the worker of session {session} does not end; killed");
                let _ = kill_process_group(pid, Signal::KILL);
            }
        });
    }

    fn end_all(&mut self, reason: &str) {
        for session in self.live.keys().cloned().collect::<Vec<_>>() {
            self.end(&session, reason);
        }
    }

    /// A worker is gone: report it and clear up.
    fn ended(&mut self, session: &SessionId) {
        self.live.remove(session);
        self.daemon.remove_session(session);
        self.close(session);
    }

    fn close(&self, session: &SessionId) {
        let path = self.report_path(session);
        let report =
            read_json::<Report>(&path).unwrap_or_else(|| Report { reason: "the session's worker was lost".into(), received: 0, sent: 0 });
        let _ = std::fs::remove_file(&path);
        let _ = std::fs::remove_file(self.record_path(session));
        info!("session {session} closed: {} ({} bytes in, {} out)", report.reason, report.received, report.sent);
        let Report { reason, received, sent } = report;
        self.daemon.report(DeviceEventKind::SessionClosed { session: session.clone(), reason, received, sent });
    }

    /// Finds the workers that an earlier daemon started.
    fn find_again(&mut self) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some(session) = name.strip_suffix(".json").and_then(|name| name.parse::<SessionId>().ok()) else { continue };
            let record = read_json::<Record>(&path).filter(|record| record.status.session == session);
            let found = record.and_then(|record| {
                let pid = Pid::from_raw(i32::try_from(record.status.pid).ok()?)?;
                let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
                // Compared after the pidfd holds the process: it cannot be another one by now.
                (start_time(pid) == Some(record.started)).then_some((record.status, pid, pidfd))
            });
            match found {
                Some((status, pid, pidfd)) => {
                    info!("session {session} of {} goes on in worker {}", status.user, status.pid);
                    self.daemon.add_session(status);
                    self.live.insert(session.clone(), pid);
                    self.ends.spawn(end_of_stranger(pidfd, session));
                }
                None => self.close(&session),
            }
        }
    }

    fn record_path(&self, session: &SessionId) -> PathBuf {
        self.dir.join(format!("{session}.json"))
    }

    fn report_path(&self, session: &SessionId) -> PathBuf {
        self.dir.join(format!("{session}.report"))
    }
}

async fn end_of_child(mut child: Child, session: SessionId) -> SessionId {
    let _ = child.wait().await;
    session
}

/// A pidfd becomes readable when its process ends (pidfd_open(2)).
#[expect(unsafe_code, reason = "tokio has no other way to wait for a descriptor of ours that is not deprecated")]
pub(crate) async fn end_of_stranger<T>(pidfd: OwnedFd, session: T) -> T {
    // SAFETY: an OwnedFd names one open descriptor as long as it lives, and the AsyncFd owns it.
    if let Ok(pidfd) = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) } {
        let _ = pidfd.readable().await;
    }
    session
}

/// Field 22 of `/proc/{pid}/stat`; `None` for a process that is gone or only waits to be collected.
pub(crate) fn start_time(pid: Pid) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The program's name stands in parentheses and may hold anything.
    let mut fields = text.rsplit_once(") ")?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(std::fs::File::open(path).ok()?, REPORT_MAX), &mut text).ok()?;
    serde_json::from_str(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_has_a_start_time() {
        let pid = rustix::process::getpid();
        assert!(start_time(pid).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_time(pid), start_time(pid));
    }
}
