//! The anchor: which hub this device obeys, and who it is for it. Written by `musterd enrol`, believed by the privileged part of sessions.
//!
//! It belongs to root, so that the daemon, which faces the network, cannot give the device to another hub.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use muster_proto::token::Pin;

use crate::csr::DeviceKey;
use crate::state::{StateError, write_atomic};

/// Proves that the anchor can be written, before anything is asked of the hub.
///
/// # Errors
/// When it cannot: the directory is missing and cannot be made, read-only, full, not ours.
pub(crate) fn prepare(path: &Path) -> Result<(), StateError> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(|source| StateError::Io {
            action: "make the directory",
            path: dir.to_owned(),
            source,
        })?;
    }
    let probe = path.with_extension("probe");
    let result = write_atomic(&probe, &[b' '; 4096], 0o644);
    let _ = std::fs::remove_file(probe);
    result
}

/// Writes it: from now on only this hub's orders count.
///
/// # Errors
/// When it cannot be written; the old one stands then.
pub(crate) fn write(path: &Path, hub: &str, pin: &Pin, key: &DeviceKey) -> Result<(), StateError> {
    let text = serde_json::json!({ "hub": hub, "pin": pin.to_string(), "key": key.digest() });
    write_atomic(path, format!("{text:#}\n").as_bytes(), 0o644)
}
