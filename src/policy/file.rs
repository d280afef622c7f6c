//! The policy as a file: who may own it, and noticing that it changed.
//!
//! A policy that cannot be read or has a mistake refuses everything and says why: an owner who mistypes must not thereby open the device.

use std::fs::Metadata;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use muster_proto::Millis;

use super::{Decision, Limits, Policy, Request, refuse};
use crate::settings::{Mistake, Mistakes};

/// Largest policy file, in bytes: written by hand.
const FILE_MAX: u64 = 1024 * 1024;

/// Reads the policy. No file means the default policy.
///
/// # Errors
/// One text that says what is wrong with the file: all mistakes, or who may change it.
pub fn load(path: &Path) -> Result<Policy, String> {
    match read(path) {
        Ok(policy) => Ok(policy.unwrap_or_default()),
        Err(mistakes) => Err(format!("the policy {} cannot be used: {mistakes}", path.display())),
    }
}

/// `check-config`: what there is to say of the policy.
///
/// # Errors
/// All mistakes, each with its key.
pub fn check(path: &Path) -> Result<String, Mistakes> {
    Ok(match read(path)? {
        Some(_) => format!("The policy {} is valid.", path.display()),
        None => format!(
            "There is no policy {}: the default holds (terminals as the daemon's own user but not as root, loopback only).",
            path.display()
        ),
    })
}

/// `None` where there is no file.
fn read(path: &Path) -> Result<Option<Policy>, Mistakes> {
    let mistake = |what: String| Mistakes(vec![Mistake { key: String::new(), what }]);
    let unreadable = |error| mistake(format!("it cannot be read: {error}"));
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if rustix::process::getuid().is_root() {
        check_owner(&metadata).map_err(mistake)?;
    }
    let mut text = String::new();
    file.take(FILE_MAX).read_to_string(&mut text).map_err(unreadable)?;
    Policy::parse(&text).map(Some)
}

/// Only root may change the file, or whoever else can write it makes the policy.
fn check_owner(metadata: &Metadata) -> Result<(), String> {
    if metadata.uid() != 0 {
        return Err(format!("it belongs to user {}, not to root: chown root it", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(format!("it may be written by others (mode {:o}): chmod go-w it", metadata.mode() & 0o777));
    }
    Ok(())
}

/// What tells one version of the file from the next.
type Stamp = Option<(u64, u64, i64, i64, u64, u32, u32)>;

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    let (owner, mode) = (metadata.uid(), metadata.mode());
    Some((metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size(), owner, mode))
}

/// A policy file that is read again when it changed.
#[derive(Debug)]
pub struct Watched {
    path: PathBuf,
    stamp: Stamp,
    policy: Result<Policy, String>,
}

impl Watched {
    /// Reads the file.
    pub fn open(path: PathBuf) -> Self {
        let stamp = stamp(&path);
        let policy = load(&path);
        Self { path, stamp, policy }
    }

    /// The policy as the file is now, or why there is none. One `stat` where nothing changed.
    ///
    /// # Errors
    /// As [`load`].
    pub fn current(&mut self) -> Result<&Policy, &str> {
        let now = stamp(&self.path);
        if now != self.stamp {
            self.stamp = now;
            self.policy = load(&self.path);
            match &self.policy {
                Ok(_) => crate::log::info!("policy {} read again", self.path.display()),
                Err(why) => crate::log::error!("{why}; everything is refused until it is mended"),
            }
        }
        self.policy.as_ref().map_err(String::as_str)
    }

    /// Decides by the policy as it is now; refuses everything where it is broken.
    pub fn decide(&mut self, request: &Request<'_>, now: Millis) -> Decision {
        match self.current() {
            Ok(policy) => policy.decide(request, now),
            Err(why) => refuse("policy_broken", format!("this device refuses everything because {why}")),
        }
    }

    /// The limits as they are now; nothing where the policy is broken.
    pub fn limits(&mut self) -> Limits {
        self.current().map_or(Limits { sessions: 0, runs: 0, streams: 0, idle_s: None, total_s: None }, Policy::limits)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Target;
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn session() -> Request<'static> {
        Request { user: "ada", role: "admin", own_user: "x", target: Target::Session }
    }

    #[test]
    fn a_change_is_seen_and_a_mistake_refuses_everything() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        let mut watched = Watched::open(path.clone());
        assert!(matches!(watched.decide(&session(), 0), Decision::Allow(_)));

        std::fs::write(&path, "[limits]\nsessions = \"many\"\n").unwrap();
        let Decision::Refuse { code, message } = watched.decide(&session(), 0) else { panic!("a broken policy let someone in") };
        assert_eq!(code, "policy_broken");
        assert!(message.contains("limits.sessions"), "{message}");
        assert_eq!(watched.limits().sessions, 0);

        std::fs::write(&path, "[limits]\nsessions = 3\n").unwrap();
        assert_eq!(watched.limits().sessions, 3);
    }

    #[test]
    fn others_may_not_write_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy.toml");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
        let metadata = std::fs::metadata(&path).unwrap();
        let why = check_owner(&metadata).unwrap_err();
        assert!(why.contains("chown root") || why.contains("chmod go-w"), "{why}");
        if rustix::process::getuid().is_root() {
            assert!(load(&path).unwrap_err().contains("chmod go-w"));
        }
    }
}
