//! The policy as a file: reading it, noticing that it changed, and the lock beside it. A shell.
//!
//! Where the policy is missing, broken, or could be changed by others than its owner, everything is refused, and the reason is said:
//! an owner who mistypes must not thereby open the device. Beside the policy, a file `locked` refuses everything as well.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use muster_proto::limits::POLICY_MAX;

use super::owners::{Stamp, Trouble, Way, follow};
use super::{Decision, Limits, Moment, Policy, Request, clock};
use crate::settings::{Mistake, Mistakes};

pub use super::first::{first, write_first};

/// Largest policy file, in bytes: written by hand, and told to the hub in one message.
const FILE_MAX: u64 = POLICY_MAX as u64;
/// Longest reason of a lock, in characters: it is a sentence for visitors.
pub const REASON_MAX: usize = 200;
/// Longest explanation of a broken policy, in characters: it travels in messages; `check-config` names all mistakes.
const WHY_MAX: usize = 1000;
/// A file that changed so few seconds ago may change again without looking different: file systems count time in steps.
const SETTLED_S: i64 = 2;

/// Why everything is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// `policy_missing`, `policy_broken` or `policy_locked`.
    pub code: &'static str,
    /// The sentence for visitors and owner: what is wrong, on which path, what to type.
    pub message: String,
}

impl Policy {
    /// Parses a policy, with the time zones of this machine.
    ///
    /// # Errors
    /// All mistakes, each with its key.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        Self::read(text, &clock::zone)
    }
}

/// Reads the policy.
///
/// # Errors
/// When everything is refused: there is no policy, it is broken, or the device is locked.
pub fn load(path: &Path) -> Result<Policy, Fault> {
    judge(path, &Seen::look(path)).1
}

/// All mistakes of a policy file, each with its key; one without a key where the file cannot be used at all. None if there is no file.
/// A lock does not matter here: the owner may look at the file all the same.
///
/// # Errors
/// The mistakes.
pub fn mistakes(path: &Path) -> Result<Option<Policy>, Mistakes> {
    let whole = |what| Mistakes(vec![Mistake { key: String::new(), what }]);
    match follow(path) {
        Err(Trouble::Missing) => Ok(None),
        Err(Trouble::Unsafe(why)) => Err(whole(why)),
        Ok(way) => Policy::parse(&read(&way).map_err(whole)?).map(Some),
    }
}

/// Reads a file that nobody but root (without root: or our own user) can have written, such as the anchor.
///
/// # Errors
/// One sentence: it is not there, or somebody else could change it, and what to type.
pub fn read_trusted(path: &Path) -> Result<String, String> {
    match follow(path) {
        Err(Trouble::Missing) => Err(format!("there is no {}", path.display())),
        Err(Trouble::Unsafe(why)) => Err(why),
        Ok(way) => read(&way),
    }
}

/// Where the lock of a policy is: a file, beside the policy, whose text is the reason.
pub fn lock_path(policy: &Path) -> PathBuf {
    policy.with_file_name("locked")
}

/// The reason of a lock as visitors read it: one line.
pub fn reason(lock: &Path) -> Option<String> {
    let bytes = first_bytes(lock, libc::O_NOFOLLOW, REASON_MAX as u64 * 4)?;
    let text = String::from_utf8_lossy(&bytes);
    let line: String = text.lines().next()?.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_MAX).collect();
    Some(line.trim().to_owned()).filter(|line| !line.is_empty())
}

/// The policy's text as it stands there, also one that cannot be used; none where there is no file, or one that is too large.
pub fn text(policy: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&first_bytes(policy, 0, FILE_MAX + 1)?).into_owned();
    (text.len() as u64 <= FILE_MAX).then_some(text)
}

/// A file's first bytes, if it is a file: whoever can put something else in its place must not stop a program with it.
fn first_bytes(path: &Path, flags: i32, most: u64) -> Option<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | flags).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// What there is to see without opening a file.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// The lock; a text if nobody can tell whether there is one.
    lock: Result<Option<Stamp>, String>,
    way: Result<Way, Trouble>,
}

impl Seen {
    fn look(policy: &Path) -> Self {
        let path = lock_path(policy);
        let lock = match std::fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(Some(Stamp::of(&metadata))),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(format!("{} cannot be looked at: {error}", path.display())),
        };
        Self { lock, way: follow(policy) }
    }

    /// Whether a further change would be seen.
    fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let old = |stamp: &Stamp| (i64::try_from(now).unwrap_or(i64::MAX) - stamp.changed_s).abs() > SETTLED_S;
        let file = self.way.as_ref().ok().and_then(|way| way.passed.last());
        let lock = self.lock.as_ref().ok().and_then(Option::as_ref);
        file.into_iter().chain(lock).all(old)
    }
}

/// Reads what was seen. The flag says whether it may be kept until something looks different.
fn judge(path: &Path, seen: &Seen) -> (bool, Result<Policy, Fault>) {
    let settled = seen.is_settled();
    let shown = path.display();
    let broken = |why: &dyn std::fmt::Display| {
        let mut why = why.to_string();
        if let Some((end, _)) = why.char_indices().nth(WHY_MAX) {
            why.truncate(end);
            why.push_str("... (`musterd check-config` names all mistakes)");
        }
        Fault {
            code: "policy_broken",
            message: format!("This device refuses everything, because its policy {shown} cannot be used: {why}"),
        }
    };
    let policy = match (&seen.lock, &seen.way) {
        (Ok(Some(_)), _) => Err(locked(reason(&lock_path(path)).as_deref())),
        (Err(why), _) | (_, Err(Trouble::Unsafe(why))) => Err(broken(why)),
        (Ok(None), Err(Trouble::Missing)) => Err(Fault {
            code: "policy_missing",
            message: format!(
                "This device refuses everything, because it has no policy ({shown}). Its owner writes one: \
                 `musterd example-config policy` explains every key."
            ),
        }),
        (Ok(None), Ok(way)) => match read(way) {
            Ok(text) => Policy::parse(&text).map_err(|mistakes| broken(&mistakes)),
            Err(why) => return (false, Err(broken(&why))),
        },
    };
    (settled, policy)
}

fn locked(reason: Option<&str>) -> Fault {
    let message = match reason {
        Some(reason) => format!("This device is locked by its owner: {reason}"),
        None => "This device is locked by its owner.".into(),
    };
    Fault { code: "policy_locked", message }
}

/// The text at the end of a way. The file that is read is the one that was looked at.
fn read(way: &Way) -> Result<String, String> {
    let shown = way.file.display();
    let unreadable = |error| format!("{shown} cannot be read: {error}");
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&way.file).map_err(unreadable)?;
    if way.passed.last() != Some(&Stamp::of(&file.metadata().map_err(unreadable)?)) {
        return Err(format!("{shown} changed while it was read"));
    }
    let mut text = String::new();
    file.take(FILE_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > FILE_MAX {
        return Err(format!("{shown} is larger than {} KiB", FILE_MAX / 1024));
    }
    Ok(text)
}

/// A policy file that is read again when it, its lock, or anything on the way to it changed.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    seen: Seen,
    settled: bool,
    policy: Result<Policy, Fault>,
}

impl Watched {
    /// Reads the file.
    pub fn open(path: PathBuf) -> Self {
        let seen = Seen::look(&path);
        let (settled, policy) = judge(&path, &seen);
        Self { path, seen, settled, policy }
    }

    /// The policy as the file is now, or why everything is refused. Where nothing changed, one `stat` for each element of the path.
    ///
    /// # Errors
    /// As [`load`].
    pub fn current(&mut self) -> Result<&Policy, &Fault> {
        let seen = Seen::look(&self.path);
        if seen != self.seen || !self.settled {
            let (settled, policy) = judge(&self.path, &seen);
            if policy != self.policy {
                match &policy {
                    Ok(_) => crate::log::info!("policy {} read again", self.path.display()),
                    Err(fault) => crate::log::error!("{fault}"),
                }
            }
            (self.seen, self.settled, self.policy) = (seen, settled, policy);
        }
        self.policy.as_ref()
    }

    /// Decides by the policy as it is now.
    pub fn decide(&mut self, request: &Request<'_>, moment: Moment) -> Decision {
        match self.current() {
            Ok(policy) => policy.decide(request, moment),
            Err(fault) => Decision::Refuse { code: fault.code, message: fault.message.clone() },
        }
    }

    /// The limits as they are now; nothing at all where everything is refused.
    pub fn limits(&mut self) -> Limits {
        self.current().map_or_else(|_| Limits::nothing(), Policy::limits)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Target;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const OPEN: &str = "[users]\ndefault = \"pi\"\n";
    const NOW: Moment = Moment { now: 0, synchronised: true };

    struct Place {
        _dir: tempfile::TempDir,
        path: PathBuf,
        watched: Watched,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("policy.toml");
            mode(dir.path(), 0o755);
            let watched = Watched::open(path.clone());
            Self { _dir: dir, path, watched }
        }

        fn write(&self, text: &str) {
            std::fs::write(&self.path, text).unwrap();
            mode(&self.path, 0o644);
        }

        /// The watched file and one that is read afresh say the same.
        #[track_caller]
        fn check(&mut self, want: &str, part: &str) {
            let request = Request { user: "ada", role: "admin", target: Target::Session };
            let (code, message) = match self.watched.decide(&request, NOW) {
                Decision::Allow(_) => ("allow", String::new()),
                Decision::Refuse { code, message } => (code, message),
            };
            assert_eq!(code, want, "{message}");
            assert!(message.contains(part), "{message}: no {part:?}");
            assert_eq!(load(&self.path).err().map_or("allow", |fault| fault.code), want);
            assert_eq!(self.watched.limits().sessions == 0, want != "allow");
        }
    }

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    #[test]
    fn every_change_is_seen_and_only_a_sound_file_opens_the_device() {
        let mut place = Place::new();
        place.check("policy_missing", "example-config policy");
        place.write(OPEN);
        place.check("allow", "");

        place.write("[limits]\nsessions = \"many\"\n");
        place.check("policy_broken", "limits.sessions");
        place.write(OPEN);
        place.check("allow", "");

        mode(&place.path, 0o666);
        place.check("policy_broken", "chmod go-w");
        mode(&place.path, 0o644);
        place.check("allow", "");

        let dir = place.path.parent().unwrap().to_owned();
        mode(&dir, 0o777);
        place.check("policy_broken", "others may write into the directory");
        mode(&dir, 0o755);
        place.check("allow", "");

        let other = dir.join("other.toml");
        std::fs::write(&other, "[users]\n").unwrap();
        mode(&other, 0o644);
        std::fs::rename(&other, &place.path).unwrap();
        assert_eq!(place.watched.current().unwrap().all_users(), [""; 0]);

        std::fs::remove_file(&place.path).unwrap();
        place.check("policy_missing", "no policy");
    }

    #[test]
    fn a_text_of_the_same_length_written_in_the_same_instant_is_seen() {
        let mut place = Place::new();
        for n in 0..50 {
            // In place: the same inode, the same size, and often the same tick of the file system's clock.
            place.write(&format!("{OPEN}[limits]\nsessions = {}\n", 1 + n % 9));
            assert_eq!(place.watched.limits().sessions, 1 + n % 9, "change {n}");
        }
    }

    #[test]
    fn a_lock_refuses_everything_and_says_why() {
        let mut place = Place::new();
        place.write(OPEN);
        place.check("allow", "");
        let lock = lock_path(&place.path);
        assert_eq!(lock.file_name().unwrap(), "locked");
        std::fs::write(&lock, "Being repaired\tby \u{1b}[31mAda\nnot shown\n").unwrap();
        place.check("policy_locked", "locked by its owner: Being repaired by  [31mAda");
        std::fs::write(&lock, "").unwrap();
        place.check("policy_locked", "This device is locked by its owner.");
        std::fs::write(&lock, "x".repeat(5000)).unwrap();
        assert_eq!(load(&place.path).unwrap_err().message.len(), "This device is locked by its owner: ".len() + REASON_MAX);
        std::fs::remove_file(&lock).unwrap();
        place.check("allow", "");

        // Whatever it is that has this name: the owner wants the device shut.
        std::fs::create_dir(&lock).unwrap();
        place.check("policy_locked", "");
        std::fs::remove_dir(&lock).unwrap();
        std::os::unix::fs::symlink("nowhere", &lock).unwrap();
        place.check("policy_locked", "");
        // The owner may still check the policy itself.
        assert!(mistakes(&place.path).unwrap().is_some());
        std::fs::remove_file(&place.path).unwrap();
        place.check("policy_locked", "");
    }

    #[test]
    fn a_text_that_is_too_long_or_no_text_is_broken() {
        let mut place = Place::new();
        place.write(&format!("{OPEN}{}", "#\n".repeat(20_000)));
        place.check("policy_broken", "larger than 32 KiB");
        place.write(&format!("[users]\ndefault = \"{}\"\n", "\u{e9}".repeat(9_000)));
        place.check("policy_broken", "check-config` names all mistakes");
        assert!(load(&place.path).unwrap_err().message.chars().count() < 2 * WHY_MAX);
        std::fs::write(&place.path, b"# \xff\n").unwrap();
        place.check("policy_broken", "cannot be read");
    }
}
