//! `musterd-session listen`: what the socket unit of systemd does, for systems without it. One process per session and per run.
//!
//! It is the reaper of what a session leaves behind when its privileged part is killed.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use musterd::account::{Account, DAEMON};
use musterd::handoff::{LAST_WORDS, LIVE, START_SOCKET};
use musterd::log::{error, info, warn};
use musterd::processes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitOptions, getpid, set_child_subreaper, wait};

use super::signals::Signals;
use crate::Places;

/// Sessions and runs at once, above what any policy allows; further ones wait in the socket's queue.
const AT_ONCE: usize = 2048;

/// Listens until it is told to end; sessions go on then.
pub(crate) fn listen(places: &Places, group: Option<u32>) -> ExitCode {
    match run(places, group) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("cannot serve sessions: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(places: &Places, group: Option<u32>) -> io::Result<()> {
    set_child_subreaper(Some(getpid()))?;
    let signals = Signals::block()?;
    let group = match group {
        Some(group) => group,
        None => Account::named(DAEMON)?.map(|account| account.gid).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotFound,
                format!("there is no user {DAEMON}, whose daemon may connect: useradd --system {DAEMON}, or give --group"),
            )
        })?,
    };
    prepare(places, group)?;
    let path = places.run.join(START_SOCKET);
    if std::os::unix::net::UnixStream::connect(&path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, format!("another one listens on {}", path.display())));
    }
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(&path)?;
    std::os::unix::fs::chown(&path, None, Some(group))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o660))?;
    info!("sessions are served on {}", path.display());
    let mut serving: BTreeSet<i32> = BTreeSet::new();
    loop {
        let open = serving.len() < AT_ONCE;
        let mut fds = vec![PollFd::new(&signals, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(&listener, PollFlags::IN));
        }
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if signals.take() {
            let _ = fs::remove_file(&path);
            info!("stopping; {} sessions and runs go on", serving.len());
            return Ok(());
        }
        while let Ok(Some((pid, _))) = wait(WaitOptions::NOHANG) {
            serving.remove(&pid.as_raw_nonzero().get());
        }
        // Whoever is our child and was not started here lost its session, which was killed.
        let ours: Vec<Pid> = serving.iter().filter_map(|pid| Pid::from_raw(*pid)).collect();
        let lost = || processes::descendants(getpid(), &ours).pids;
        if !processes::is_nobody(lost, &ours) {
            warn!("ending what a killed session left behind");
            processes::kill(lost, &ours);
            match super::living(&places.run.join(LIVE)) {
                Ok(living) => super::group::sweep(&living),
                Err(why) => warn!("the groups of killed sessions stay: {why}"),
            }
        }
        if ready {
            match listener.accept().and_then(|(stream, _)| serve(places, stream.into())) {
                Ok(pid) => drop(serving.insert(pid.as_raw_nonzero().get())),
                Err(why) => warn!("a session cannot begin: {why}"),
            }
        }
    }
}

fn serve(places: &Places, connection: OwnedFd) -> io::Result<Pid> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("musterd-session").arg("serve").args(places.arguments()).env_remove("INVOCATION_ID");
    command.stdin(Stdio::from(connection)).stdout(Stdio::null()).stderr(Stdio::inherit()).process_group(0);
    let child = command.spawn()?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("a process without a number"))
}

/// The directories, as the package's `tmpfiles.d` makes them.
fn prepare(places: &Places, group: u32) -> io::Result<()> {
    let (live, last) = (places.run.join(LIVE), places.run.join(LAST_WORDS));
    for (dir, mode, group) in [(&places.run, 0o750, group), (&live, 0o2750, group), (&last, 0o770, group), (&places.state, 0o700, 0)] {
        make(dir, mode, group)?;
    }
    Ok(())
}

fn make(dir: &Path, mode: u32, group: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    std::os::unix::fs::chown(dir, None, Some(group))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}
