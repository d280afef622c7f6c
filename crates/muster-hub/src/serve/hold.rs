//! One hub at a time on a data directory.
//!
//! Two would each believe their own picture of who is linked, and order the other's devices about.
//! The lock is on the directory itself: it leaves no file behind, and the kernel drops it with the process however that ends.
//! Programs that only read or add (`user add`) do not take it.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Holds the data directory for as long as the value lives.
///
/// # Errors
/// When another hub has it, or it cannot be opened.
pub(super) fn hold(dir: &Path) -> Result<File> {
    let held = File::open(dir).with_context(|| format!("cannot open the data directory {}", dir.display()))?;
    match flock(&held, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            bail!("another hub runs on the data directory {}: stop it first, or give this one a data_dir of its own", dir.display())
        }
        // A file system without locks: better a hub that does not notice a second one than none.
        Err(error) => tracing::warn!(%error, "the data directory cannot be locked against a second hub"),
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_hub_is_told_where_the_first_is_and_may_follow_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = hold(dir.path()).unwrap();
        let error = hold(dir.path()).unwrap_err().to_string();
        assert!(error.contains("another hub") && error.contains(&dir.path().display().to_string()), "{error}");
        drop(first);
        drop(hold(dir.path()).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left behind");
    }
}
