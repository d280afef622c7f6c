//! `[ask]`: a person at the device has to say yes, by `musterd approve CODE`, before anything is opened.
//!
//! The code only tells which session is meant. Who says yes is known by the kernel: root, or a user whom the policy names, and never
//! from inside a session, where a visitor would approve themselves.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use musterd::account::Account;
use musterd::handoff::consent_dir;
use musterd::processes;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::net::sockopt::socket_peercred;
use rustix::process::Pid;

use super::Refusal;
use crate::Places;

/// How long a visitor waits for a person at the device.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);
/// How long one who approves may take to say it.
const SAY: Duration = Duration::from_millis(100);
/// Letters and digits that nobody confuses.
const LETTERS: &[u8; 24] = b"ABCDEFGHJKLMNPQRSTUVWXYZ";
const DIGITS: &[u8; 8] = b"23456789";

/// A wait for a person.
#[derive(Debug)]
pub(super) struct Consent {
    pub(super) code: String,
    listener: UnixListener,
    path: PathBuf,
    pub(super) until: Instant,
}

impl Consent {
    /// Begins to wait.
    pub(super) fn ask(places: &Places) -> Result<Self, Refusal> {
        let failed = |error: std::io::Error| Refusal::new("failed", format!("The device cannot ask anybody to approve this: {error}."));
        let mut bytes = [0_u8; 8];
        SystemRandom::new().fill(&mut bytes).map_err(|_| failed(std::io::Error::other("no random numbers")))?;
        let letter = |at: usize| char::from(LETTERS[usize::from(bytes[at]) % LETTERS.len()]);
        let digit = |at: usize| char::from(DIGITS[usize::from(bytes[at]) % DIGITS.len()]);
        let code: String = (0..4).map(letter).chain(['-']).chain((4..8).map(digit)).collect();
        let dir = consent_dir(&places.run);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&dir).map_err(failed)?;
        let path = dir.join(&code);
        let listener = UnixListener::bind(&path).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        // Whoever connects is asked who they are.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(failed)?;
        Ok(Self { code, listener, path, until: Instant::now() + PATIENCE })
    }

    /// Hears whoever came; who approved, if somebody did who may.
    pub(super) fn heard(&self, approvers: &[String]) -> Option<String> {
        let (stream, _) = self.listener.accept().ok()?;
        let (who, answer) = match may_approve(&stream, approvers) {
            Ok(who) => (Some(who), "ok\n".to_owned()),
            Err(why) => (None, format!("{why}\n")),
        };
        // What lies unread when a socket is closed takes the answer with it.
        let _ = stream.set_nonblocking(true).and_then(|()| (&mut &stream).read(&mut [0; 64]));
        let _ = stream
            .set_nonblocking(false)
            .and_then(|()| stream.set_write_timeout(Some(SAY)))
            .and_then(|()| (&stream).write_all(answer.as_bytes()));
        who
    }
}

impl AsFd for Consent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Consent {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

fn may_approve(stream: &UnixStream, approvers: &[String]) -> Result<String, String> {
    let peer = socket_peercred(stream).map_err(|error| format!("the system does not say who you are: {error}"))?;
    let uid = peer.uid.as_raw();
    let named = approvers.iter().find(|name| Account::named(name).is_ok_and(|account| account.is_some_and(|account| account.uid == uid)));
    let who = match (uid, named) {
        (0, _) => "root".to_owned(),
        (_, Some(name)) => name.clone(),
        _ => return Err("only root, and the users under [ask] approvers in the policy, may approve".to_owned()),
    };
    // One that is gone cannot be looked at: it may have been inside, and left its connection to somebody else there.
    let began = processes::start_time(peer.pid);
    if began.is_none() || is_inside(peer.pid) {
        return Err("you are inside a remote session yourself; a person at the device has to approve".to_owned());
    }
    // It says a line, so that a connection alone is no consent.
    let mut word = [0; 8];
    let said =
        stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(SAY))).and_then(|()| (&mut &*stream).read(&mut word));
    let same = processes::start_time(peer.pid) == began;
    if same && said.is_ok_and(|len| &word[..len] == b"approve\n") { Ok(who) } else { Err("that was not understood".to_owned()) }
}

/// Whether a process was started by a session, also one that left its parents and its control group.
fn is_inside(pid: Pid) -> bool {
    let group = fs::read_to_string(format!("/proc/{}/cgroup", pid.as_raw_nonzero())).unwrap_or_default();
    // An older or newer one of ours, too: an update replaces the file.
    let is_ours = |pid: &Pid| {
        let program = fs::read_link(format!("/proc/{}/exe", pid.as_raw_nonzero())).unwrap_or_default();
        program.to_string_lossy().trim_end_matches(" (deleted)").ends_with("/musterd-session")
    };
    group.contains("/musterd-session") || processes::ancestors(pid).iter().any(is_ours)
}
