//! The files of this project, to be read.

use std::fs;
use std::path::{Path, PathBuf};

/// The project's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file, or every file below a folder, as (path from the root, text), in order. Build folders and files that are not text are left
/// out, and with an `extension` all that do not end with it.
pub(crate) fn files(place: &str, extension: &str) -> Vec<(String, String)> {
    let mut open = vec![root().join(place)];
    let mut paths: Vec<PathBuf> = Vec::new();
    while let Some(path) = open.pop() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            // Build folders, wherever they are, and .git.
            if !["target", ".git", "corpus", "quickstart-data"].contains(&name.as_str()) {
                open.extend(fs::read_dir(&path).expect("a readable folder").map(|entry| entry.expect("a readable entry").path()));
            }
        } else if name.ends_with(extension) {
            paths.push(path);
        }
    }
    paths.sort();
    let named = |path: &Path| path.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
    paths.into_iter().filter_map(|path| Some((named(&path), fs::read_to_string(&path).ok()?))).collect()
}

/// Whether a file is only built for tests.
pub(crate) fn is_test_path(path: &str) -> bool {
    path.contains("tests/") || path.ends_with("tests.rs")
}
