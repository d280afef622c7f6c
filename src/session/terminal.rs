//! A process on a pseudo-terminal of its own: a login shell, or one command.
//!
//! The process leads a session (in the sense of `setsid`) whose controlling terminal is the pseudo-terminal.
//! When the user goes, everything in that session is hung up and then killed: nothing is left behind.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use muster_link::driver::{Input, Io, Output};
use muster_proto::session::Terminal as Wanted;
use rustix::process::{Pid, Signal, ioctl_tiocsctty, kill_process_group, setsid};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcgetpgrp, tcsetwinsize};
use tokio::process::{Child, Command};

use super::{pipe, processes};
use crate::account::Account;
use crate::guard::Hidden;
use crate::signals::signal_of;

/// Where programs are looked for; a login shell's own files add to it.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Longest `TERM`, in bytes.
const TERM_MAX: usize = 64;

/// A running process and its terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    leader: Pid,
    /// The controlling side, for size and foreground group; none where the command has pipes.
    master: Option<OwnedFd>,
}

/// What is to be run.
pub(super) struct Plan<'a> {
    pub(super) wanted: &'a Wanted,
    pub(super) account: &'a Account,
    /// What it is kept away from.
    pub(super) hidden: &'a Hidden,
    /// Become this user first; the policy allows it.
    pub(super) run_as: Option<&'a str>,
    /// For the process's environment.
    pub(super) session: &'a str,
    pub(super) visitor: &'a str,
}

/// Starts the process. The I/O is for the stream, the child to wait for.
pub(super) fn start(plan: &Plan<'_>) -> io::Result<(Terminal, Io, Child)> {
    let mut command = command(plan)?;
    let (master, io, controlling) = if plan.wanted.cols == 0 && plan.wanted.rows == 0 {
        let (ends, io) = pipe::open()?;
        command.stdin(ends.stdin).stdout(ends.stdout).stderr(ends.stderr);
        (None, io, false)
    } else {
        let (master, slave) = open_pty()?;
        tcsetwinsize(&master, size(plan.wanted.cols, plan.wanted.rows))?;
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(Stdio::from(slave));
        let io = Io::pair(Input::from_fd(master.try_clone()?)?, Output::from_fd(master.try_clone()?)?);
        (Some(master), io, true)
    };
    lead_session(&mut command, controlling);
    plan.hidden.bind(command.as_std_mut())?;
    // A worker that is killed takes its processes with it as far as it can: the terminal hangs up.
    let child = command.spawn()?;
    let leader = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let leader = leader.ok_or_else(|| io::Error::other("the process ended before it began"))?;
    Ok((Terminal { leader, master }, io, child))
}

fn open_pty() -> io::Result<(OwnedFd, OwnedFd)> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    pipe::non_blocking(&master)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = match ioctl_tiocgptpeer(&master, flags) {
        Ok(slave) => slave,
        // Kernels before 4.13.
        Err(_) => rustix::fs::open(
            ptsname(&master, Vec::new())?,
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )?,
    };
    Ok((master, slave))
}

#[expect(unsafe_code, reason = "between fork and exec only async-signal-safe calls may be made: setsid and ioctl are")]
fn lead_session(command: &mut Command, controlling: bool) {
    let prepare = move || {
        setsid()?;
        if controlling {
            ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        Ok(())
    };
    // SAFETY: the closure makes two system calls, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(prepare);
    }
}

fn command(plan: &Plan<'_>) -> io::Result<Command> {
    let Plan { wanted, account, .. } = plan;
    let mut command = match plan.run_as {
        Some(_) if !account.is_root => {
            let why = format!("the device's session worker runs as {} and cannot become another user", account.name);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        // `su` knows the system's accounts, groups and limits; root is not asked for a password.
        Some(user) => {
            let mut command = Command::new("su");
            command.arg("-l");
            if let Some(line) = &wanted.command {
                command.args(["-c", line]);
            }
            command.args(["--", user]);
            command
        }
        None => {
            let mut command = Command::new(&account.shell);
            match &wanted.command {
                Some(line) => {
                    command.args(["-c", line]);
                }
                None => {
                    // A dash in front of its name makes it a login shell.
                    let name = account.shell.rsplit('/').next().unwrap_or("sh");
                    command.arg0(format!("-{name}"));
                }
            }
            command
        }
    };
    command.env_clear().envs(environment(plan));
    command.current_dir(if account.home.is_dir() { account.home.as_path() } else { "/".as_ref() });
    Ok(command)
}

fn environment(plan: &Plan<'_>) -> Vec<(&'static str, OsString)> {
    let Plan { wanted, account, .. } = plan;
    let known = |c: char| c.is_ascii_alphanumeric() || "-+._".contains(c);
    let term =
        if !wanted.term.is_empty() && wanted.term.len() <= TERM_MAX && wanted.term.chars().all(known) { &wanted.term } else { "dumb" };
    let mut environment: Vec<(&'static str, OsString)> = vec![
        ("HOME", account.home.clone().into()),
        ("USER", account.name.clone().into()),
        ("LOGNAME", account.name.clone().into()),
        ("SHELL", account.shell.clone().into()),
        ("PATH", PATH.into()),
        ("TERM", term.into()),
        ("MUSTER_SESSION", plan.session.into()),
        ("MUSTER_VISITOR", plan.visitor.into()),
    ];
    for name in ["LANG", "LC_ALL", "TZ"] {
        if let Some(value) = std::env::var_os(name) {
            environment.push((name, value));
        }
    }
    environment
}

fn size(cols: u16, rows: u16) -> Winsize {
    Winsize { ws_col: cols, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Terminal {
    /// The user's terminal has another size; the kernel tells the foreground programs.
    pub(super) fn resize(&self, cols: u16, rows: u16) {
        if let Some(master) = &self.master {
            // The last process may just have closed it.
            let _ = tcsetwinsize(master, size(cols, rows));
        }
    }

    /// Sends a signal to what runs in the foreground.
    pub(super) fn signal(&self, name: &str) {
        let Some(signal) = signal_of(name) else { return };
        let foreground = self.master.as_ref().and_then(|master| tcgetpgrp(master).ok());
        // Gone already is as good.
        let _ = kill_process_group(foreground.unwrap_or(self.leader), signal);
    }

    /// Tells all processes of the terminal to go; how many there were.
    pub(super) fn hang_up(&self) -> usize {
        let count = processes::signal_session(self.leader, Signal::HUP);
        // A stopped process gets no signal before it goes on.
        processes::signal_session(self.leader, Signal::CONT);
        count
    }

    /// Kills what did not go; how many there were.
    pub(super) fn kill(&self) -> usize {
        processes::signal_session(self.leader, Signal::KILL)
    }
}
