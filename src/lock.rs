//! `musterd lock` and `musterd unlock`: the owner shuts the device, and opens it again.
//!
//! The lock is a file beside the policy, which whoever may change the policy may make; its text is the reason that visitors read.
//! It needs no daemon: every part that decides looks for it.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;

use crate::config::Config;
use crate::policy::file::{REASON_MAX, lock_path, reason};
use crate::state::write_atomic;
use muster_link::{errln, outln};

/// Wrong usage.
const USAGE: u8 = 2;

/// Locks the device. Twice is once; a new reason takes the place of the old one.
pub(crate) fn lock(config: &Config, why: Option<&str>) -> ExitCode {
    if let Some(why) = why
        && let Err(broken) = check_reason(why)
    {
        errln!("musterd: --reason: {broken}");
        return ExitCode::from(USAGE);
    }
    finish("lock", &config.policy, || {
        let sentence = make(&config.policy, why)?;
        let why = reason(&lock_path(&config.policy)).unwrap_or_default();
        after_lock(config, &why)?;
        Ok(sentence)
    })
}

/// Unlocks the device. Where it is not locked, nothing changes.
pub(crate) fn unlock(config: &Config) -> ExitCode {
    finish("unlock", &config.policy, || {
        let sentence = take_away(&config.policy)?;
        let _ = crate::control::ask(&config.control_socket(), &crate::control::Ask::Reload);
        Ok(sentence)
    })
}

/// Ends what lives. Whatever is asked for anew is refused by the lock itself.
fn after_lock(config: &Config, reason: &str) -> io::Result<()> {
    let why = if reason.is_empty() {
        "the device was locked by its owner".to_owned()
    } else {
        format!("the device was locked by its owner: {reason}")
    };
    // The list says so at once; without a daemon, when it is back.
    let _ = crate::control::ask(&config.control_socket(), &crate::control::Ask::Reload);
    let mut result = Ok(());
    for (_, path) in crate::living::sockets(config) {
        result = result.and(crate::living::end(&path, &why).map(drop));
    }
    result
}

fn finish(action: &str, policy: &Path, act: impl FnOnce() -> io::Result<String>) -> ExitCode {
    if !is_owner(policy) {
        errln!("musterd: only the owner of this device's policy may {action} it: sudo musterd {action}");
        return ExitCode::FAILURE;
    }
    match act() {
        Ok(sentence) => {
            outln!("{sentence}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            errln!("musterd: cannot {action} this device by {}: {error}", lock_path(policy).display());
            ExitCode::FAILURE
        }
    }
}

/// Root, and whoever else the policy belongs to: where no root is needed to run musterd, none is needed to lock it.
fn is_owner(policy: &Path) -> bool {
    let own = rustix::process::geteuid();
    let owner = std::fs::metadata(policy).or_else(|_| std::fs::metadata(policy.parent().unwrap_or(policy)));
    own.is_root() || owner.is_ok_and(|owner| owner.uid() == own.as_raw())
}

fn check_reason(why: &str) -> Result<(), String> {
    if why.trim().is_empty() {
        return Err("it is empty; leave it out, or say why".into());
    }
    if why.chars().any(char::is_control) {
        return Err("it is one line of text".into());
    }
    if why.chars().count() > REASON_MAX {
        return Err(format!("it has at most {REASON_MAX} characters"));
    }
    Ok(())
}

fn make(policy: &Path, why: Option<&str>) -> io::Result<String> {
    let lock = lock_path(policy);
    let before = lock.symlink_metadata().is_ok();
    if before && why.is_none() {
        return Ok(told("This device was locked already", &lock));
    }
    if let Some(dir) = lock.parent().filter(|dir| !dir.exists()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
    }
    let text = why.map(|why| format!("{}\n", why.trim())).unwrap_or_default();
    write_atomic(&lock, text.as_bytes(), 0o644).map_err(io::Error::other)?;
    // Whatever the umask: visitors read the reason, through a daemon that is not root.
    std::fs::set_permissions(&lock, PermissionsExt::from_mode(0o644))?;
    Ok(told(if before { "This device was locked already, and has a new reason" } else { "This device is locked" }, &lock))
}

fn told(what: &str, lock: &Path) -> String {
    let why = reason(lock).map(|why| format!(" Visitors read: {why}")).unwrap_or_default();
    format!("{what}: it refuses everything until `musterd unlock`.{why}")
}

fn take_away(policy: &Path) -> io::Result<String> {
    let lock = lock_path(policy);
    match std::fs::remove_file(&lock) {
        Ok(()) => {
            if let Some(dir) = lock.parent() {
                File::open(dir)?.sync_all()?;
            }
            Ok("This device is unlocked: its policy decides again.".into())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok("This device was not locked.".into()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locking_and_unlocking_say_what_they_did_and_do_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("etc/policy.toml");
        let lock = lock_path(&policy);
        assert_eq!(take_away(&policy).unwrap(), "This device was not locked.");
        assert_eq!(make(&policy, None).unwrap(), "This device is locked: it refuses everything until `musterd unlock`.");
        assert_eq!(crate::policy::load(&policy).unwrap_err().code, "policy_locked");
        assert!(make(&policy, None).unwrap().starts_with("This device was locked already: "));
        assert!(make(&policy, Some(" Being repaired ")).unwrap().ends_with("Visitors read: Being repaired"));
        assert_eq!(std::fs::read_to_string(&lock).unwrap(), "Being repaired\n");
        assert_eq!(lock.metadata().unwrap().mode() & 0o777, 0o644);
        assert!(make(&policy, None).unwrap().ends_with("Visitors read: Being repaired"), "without a new reason the old one stays");
        assert_eq!(std::fs::read_dir(lock.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        assert_eq!(take_away(&policy).unwrap(), "This device is unlocked: its policy decides again.");
        assert_eq!(take_away(&policy).unwrap(), "This device was not locked.");
        assert_eq!(crate::policy::load(&policy).unwrap_err().code, "policy_missing");
    }

    #[test]
    fn a_reason_is_one_short_line() {
        check_reason("Being repaired until Monday").unwrap();
        check_reason(&"\u{e9}".repeat(REASON_MAX)).unwrap();
        for bad in ["", "  ", "two\nlines", "\u{1b}[31m", &"x".repeat(REASON_MAX + 1)] {
            check_reason(bad).unwrap_err();
        }
    }
}
