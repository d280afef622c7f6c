//! How long it takes from asking for a shell to its prompt: `muster shell` on a terminal of its own.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// A shell that shows nothing in this time has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts the command on a terminal and waits for a prompt: `$ `, `# ` or `% ` at the end of what was printed.
/// Then ends it with a line.
pub(crate) fn prompt(command: &mut Command) -> Result<Duration> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("no terminal to be had")?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave: OwnedFd = open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::from(slave.as_fd().try_clone_to_owned()?))
        .stdout(Stdio::from(slave.as_fd().try_clone_to_owned()?))
        .stderr(Stdio::from(slave))
        .spawn()?;
    let (found, prompted) = mpsc::sync_channel(1);
    let mut reading = File::from(master.as_fd().try_clone_to_owned()?);
    let reader = thread::spawn(move || {
        let (mut seen, mut chunk) = (Vec::new(), [0; 4096]);
        while let Ok(read) = reading.read(&mut chunk) {
            if read == 0 {
                break;
            }
            seen.extend_from_slice(&chunk[..read]);
            if is_prompt(&seen) {
                // Only the first one counts; a full channel has it.
                let _ = found.try_send(started.elapsed());
            }
        }
        String::from_utf8_lossy(&seen).into_owned()
    });
    let took = prompted.recv_timeout(PATIENCE);
    rustix::io::write(&master, b"exit\n")?;
    let ended = crate::procs::until("the shell ends", || child.try_wait().ok().flatten());
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    drop(master);
    match took {
        Ok(took) => Ok(took),
        Err(_) => bail!("no prompt; the terminal shows: {}", reader.join().unwrap_or_default()),
    }
}

/// Whether the end looks like a prompt, colours and title sequences aside.
fn is_prompt(seen: &[u8]) -> bool {
    let text = String::from_utf8_lossy(seen);
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\u{1b}' {
            plain.push(c);
            continue;
        }
        match rest.next() {
            Some(']') => while rest.next().is_some_and(|c| c != '\u{7}') {},
            Some('[') => while rest.next().is_some_and(|c| !c.is_ascii_alphabetic()) {},
            _ => {}
        }
    }
    ["$ ", "# ", "% "].iter().any(|end| plain.ends_with(end))
}
