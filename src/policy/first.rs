//! A device's first policy, as `musterd enrol` and packages write it.
//!
//! It says little, so that an owner reads all of it; `musterd example-config policy` has every key.
//! A shell: it writes the file, and never over another.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const HEAD: &str = "# musterd: what this device allows, whatever the hub says. Owned by root; the hub cannot change it.
# `musterd example-config policy` explains every key. After a change, type `musterd check-config`.
# `musterd policy explain` says who may do what, and why. Without this file, the device refuses everything.
";

/// The text of a first policy: with a user, a terminal and loopback as that user; without one, metrics only.
pub fn first(user: Option<&str>) -> String {
    let Some(user) = user else {
        return format!(
            "{HEAD}
# This device reports how it is, and lets nobody in. To let people in, name the user of this device whom they become:
#[users]
#default = \"pi\"
"
        );
    };
    let user = toml::Value::String(user.to_owned());
    format!(
        "{HEAD}
[users]
# Whom visitors become on this device.
default = {user}

# More for some of them; the first of a list is what they become, the others they may ask for.
#[users.roles]
#admin = [{user}, \"root\"]

[terminal]
allow = true

[tcp]
# Where connections through this device may go: itself only.
allow = [\"localhost:*\"]
"
    )
}

/// Writes a first policy where there is none, and says whether it did. Old or new, never half, also through a power cut.
///
/// # Errors
/// When it cannot be written.
pub fn write_first(path: &Path, text: &str) -> io::Result<bool> {
    // Also a link that leads nowhere is something that the owner put there.
    if path.symlink_metadata().is_ok() {
        return Ok(false);
    }
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !dir.exists() {
        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
        std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?;
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = write(&beside, text).and_then(|()| match std::fs::hard_link(&beside, path) {
        Ok(()) => File::open(dir)?.sync_all().map(|()| true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    });
    let _ = std::fs::remove_file(&beside);
    written
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let _ = std::fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    // Whatever the umask: the daemon's own user reads it too.
    file.set_permissions(PermissionsExt::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::super::{Decision, Moment, Policy, Request, Target};
    use super::*;

    fn allowed(text: &str, target: Target<'_>) -> Option<Option<String>> {
        let request = Request { user: "ada@example.com", role: "connect", target };
        match Policy::parse(text).unwrap().decide(&request, Moment { now: 0, synchronised: false }) {
            Decision::Allow(grant) => Some(grant.become_user),
            Decision::Refuse { .. } => None,
        }
    }

    #[test]
    fn with_a_user_it_gives_a_terminal_and_loopback_as_that_user() {
        for user in ["pi", "root", "o$d"] {
            let text = first(Some(user));
            assert_eq!(allowed(&text, Target::Terminal { user: None }), Some(Some(user.to_owned())), "{text}");
            assert_eq!(allowed(&text, Target::Tcp { host: "localhost", port: 22 }), Some(Some(user.to_owned())));
            assert_eq!(allowed(&text, Target::Tcp { host: "10.0.0.1", port: 22 }), None);
            assert_eq!(allowed(&text, Target::Unix { path: "/run/docker.sock" }), None);
        }
        assert_eq!(allowed(&first(Some("pi")), Target::Terminal { user: Some("root") }), None);
        assert!(Policy::parse(&first(Some("a\"b\n[x]"))).is_err(), "what is not a user's name is one mistake, and no other policy");
    }

    #[test]
    fn without_one_it_lets_nobody_in() {
        let text = first(None);
        let targets =
            [Target::Session, Target::Terminal { user: None }, Target::Terminal { user: Some("pi") }, Target::Tcp { host: "::1", port: 1 }];
        for target in targets {
            assert_eq!(allowed(&text, target), None, "{target:?}");
        }
        let opened: String = text
            .lines()
            .map(|line| format!("{}\n", line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')).unwrap_or(line)))
            .collect();
        assert_eq!(allowed(&opened, Target::Terminal { user: None }), Some(Some("pi".into())), "the hint in it is right:\n{opened}");
    }

    #[test]
    fn it_is_written_once_and_never_over_another() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/musterd/policy.toml");
        assert!(write_first(&path, "# one\n").unwrap());
        assert!(!write_first(&path, "# two\n").unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "# one\n");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        super::super::load(&path).unwrap();
        let link = dir.path().join("link.toml");
        std::os::unix::fs::symlink("none", &link).unwrap();
        assert!(!write_first(&link, "# three\n").unwrap());
    }
}
