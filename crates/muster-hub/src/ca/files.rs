//! Small files that are old or new, never half: written beside, synced, renamed, and the directory synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::CaError;

/// Reads a text file; `None` if it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<String>, CaError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CaError::File { verb: "read", path: path.to_owned(), source }),
    }
}

/// Writes a file that only its owner may read.
///
/// # Errors
/// When the disk refuses.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), CaError> {
    write(path, content, 0o600).map_err(|source| CaError::File { verb: "write", path: path.to_owned(), source })
}

/// Writes a file that everybody may read.
///
/// # Errors
/// When the disk refuses.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), CaError> {
    write(path, content, 0o644).map_err(|source| CaError::File { verb: "write", path: path.to_owned(), source })
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    // A leftover of a cut write may have another mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    };
    // A full disk, above all.
    written().inspect_err(|_| drop(fs::remove_file(&beside)))?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => Ok(()),
    }
}

/// Whether somebody else than its owner may read a file, and its mode. `None` where there is no file.
pub(crate) fn open_to_others(path: &Path) -> io::Result<Option<u32>> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(Some(metadata.mode() & 0o777).filter(|mode| mode & 0o077 != 0)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        // A folder in the file's place fails the last step, as a full disk fails one before.
        let target = dir.path().join("hub.toml");
        fs::create_dir(&target).unwrap();
        assert!(write_private(&target, b"text").is_err());
        let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["hub.toml"]);
    }
}
