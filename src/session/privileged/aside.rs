//! Starts the unprivileged side: this program again, as a user of its own, with nothing but its end of the channel.
//!
//! It speaks with the network, so it is treated as if it were taken over: no capability and no way to gain one, no file that it could
//! write, a process namespace in which it sees nobody. Two of them share a user and still cannot reach each other: they are not
//! dumpable, and have no number for each other.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use musterd::account::{Account, NETWORK};
use musterd::log::warn;
use rustix::process::Pid;

use super::Refusal;
use crate::channel::Channel;

/// As whom it runs, unless all runs as one user.
pub(super) fn account() -> Result<Account, Refusal> {
    match Account::named(NETWORK) {
        Ok(Some(account)) if !account.is_root() => Ok(account),
        Ok(_) => {
            let message =
                format!("This device has no system user {NETWORK}, as whom the network side of sessions runs: useradd --system {NETWORK}");
            Err(Refusal::new("no_net_user", message))
        }
        Err(error) => Err(Refusal::new("no_net_user", format!("This device cannot look up the system user {NETWORK}: {error}"))),
    }
}

/// Starts it; `role` is `net` or `collect`.
pub(super) fn start(role: &str, account: Option<&Account>) -> io::Result<(Pid, Channel)> {
    let (ours, theirs) = Channel::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command.arg0("musterd-session").arg(role).stdin(Stdio::from(theirs.into_fd())).stdout(Stdio::null()).stderr(Stdio::inherit());
    // Of our own environment it gets what its log needs.
    command.env_clear().envs(std::env::var_os("JOURNAL_STREAM").map(|stream| ("JOURNAL_STREAM", stream)));
    command.current_dir("/").process_group(0);
    let who = account.map(|account| (account.gid, account.uid));
    give_up_all(&mut command, who);
    let apart = who.is_some().then(Apart::begin).flatten();
    let child = command.spawn();
    drop(apart);
    let child = child?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("a process without a number"))?;
    Ok((pid, ours))
}

#[expect(unsafe_code, reason = "between fork and exec only async-signal-safe calls may be made: these system calls are")]
fn give_up_all(command: &mut Command, who: Option<(libc::gid_t, libc::uid_t)>) {
    let prepare = move || {
        let done = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: every call takes plain numbers or pointers to locals; nothing is allocated and no lock is taken.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            done(libc::sigemptyset(&raw mut none))?;
            done(libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()))?;
            // It starts nobody to whom that could be left.
            for signal in [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM] {
                libc::signal(signal, libc::SIG_IGN);
            }
            // It goes with us, however we go.
            done(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
            // It writes no file but those that it was handed open, and leaves no picture of its memory.
            let nothing = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            done(libc::setrlimit(libc::RLIMIT_CORE, &raw const nothing))?;
            if let Some((gid, uid)) = who {
                done(libc::setgroups(0, std::ptr::null()))?;
                done(libc::setresgid(gid, gid, gid))?;
                done(libc::setresuid(uid, uid, uid))?;
                // The change of user has cleared it.
                done(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0))?;
            }
            done(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        }
    };
    // SAFETY: see there.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// While it lives, new children are the first of a process namespace of their own; visitors' processes are not to be among them.
struct Apart(std::fs::File);

impl Apart {
    #[expect(unsafe_code, reason = "a system call that takes a number")]
    fn begin() -> Option<Self> {
        let home = std::fs::File::open("/proc/self/ns/pid").ok()?;
        // SAFETY: it changes where this process's later children live, and nothing of this process.
        if unsafe { libc::unshare(libc::CLONE_NEWPID) } == 0 {
            return Some(Self(home));
        }
        warn!("no process namespace of its own for a session's network side: {}", io::Error::last_os_error());
        None
    }
}

impl Drop for Apart {
    #[expect(unsafe_code, reason = "a system call that takes a descriptor")]
    fn drop(&mut self) {
        use std::os::fd::AsRawFd as _;
        // SAFETY: the descriptor is open as long as this value lives.
        if unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWPID) } != 0 {
            // What is started from now on would be cut off with that process: better nothing.
            warn!("cannot come back from another process namespace: {}", io::Error::last_os_error());
            std::process::abort();
        }
    }
}
