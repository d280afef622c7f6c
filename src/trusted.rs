//! Files that nobody but root may have written: the policy, the anchor.
//!
//! A file counts only if it and every directory on its way belong to root (without root: or to our own user) and nobody else may write
//! there. Otherwise whoever can write makes the policy.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Largest file, in bytes: written by hand, or by `musterd enrol`.
const FILE_MAX: u64 = 1024 * 1024;

/// Reads a file that only its owner can have written.
///
/// # Errors
/// One sentence: it cannot be read, or somebody else may write it, and what to type.
pub fn read(path: &Path) -> Result<String, String> {
    let real = path.canonicalize().map_err(|error| error.to_string())?;
    let mut file = File::open(&real).map_err(|error| error.to_string())?;
    check(&real, &file.metadata().map_err(|error| error.to_string())?)?;
    for dir in real.ancestors().skip(1) {
        check(dir, &dir.metadata().map_err(|error| format!("{}: {error}", dir.display()))?)?;
    }
    let mut text = String::new();
    (&mut file).take(FILE_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    Ok(text)
}

/// Whether nobody but root, or ourselves, can change what is there.
fn check(path: &Path, metadata: &Metadata) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != 0 && metadata.uid() != own {
        let whose = metadata.uid();
        return Err(format!("{} belongs to user {whose}, not to root; chown root it", path.display()));
    }
    // In a sticky directory (/tmp) nobody removes or renames what is another's.
    let sticky = metadata.is_dir() && metadata.mode() & 0o1000 != 0;
    if metadata.mode() & 0o022 != 0 && !sticky {
        return Err(format!("{} may be written by others (mode {:o}); chmod go-w it", path.display(), metadata.mode() & 0o7777));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_what_nobody_else_can_write_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("sub");
        std::fs::create_dir(&sub).unwrap();
        let path = sub.join("file");
        std::fs::write(&path, "text").unwrap();
        let mode = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        mode(&sub, 0o755);
        assert_eq!(read(&path).unwrap(), "text");
        for (which, bad, good) in [(&path, 0o666, 0o644), (&path, 0o664, 0o644), (&sub, 0o777, 0o755), (&sub, 0o775, 0o755)] {
            mode(which, bad);
            let why = read(&path).unwrap_err();
            assert!(why.contains("chmod go-w") && why.contains(which.to_str().unwrap()), "{why}");
            mode(which, good);
        }
        mode(&sub, 0o1777);
        assert_eq!(read(&path).unwrap(), "text", "a sticky directory");
        mode(&sub, 0o755);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read(&link).unwrap(), "text");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            for path in [&path, &link] {
                assert!(read(path).unwrap_err().contains("chown root"));
            }
        }
        assert!(read(&dir.path().join("missing")).is_err());
    }
}
