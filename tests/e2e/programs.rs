//! Where the programs under test lie: beside each other, in the target folder of this very test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The device daemon.
pub fn musterd() -> PathBuf {
    beside("musterd")
}

/// The program that serves a device's sessions and runs.
pub fn musterd_session() -> PathBuf {
    beside("musterd-session")
}

/// The hub.
pub fn muster_hub() -> PathBuf {
    beside("muster-hub")
}

/// The command line.
pub fn muster() -> PathBuf {
    beside("muster")
}

fn beside(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).join(name)
}

/// Cargo builds only this package's programs for its tests, so the others are built here: no test runs an old one.
/// The command is the one of the Makefile, without what cargo tells a test about its package: a build script that reads that
/// (ring's does) would run again, and all that stands on it. Where all is fresh it takes a second.
fn build() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_musterd")).parent().expect("a program lies in a folder").to_owned();
    let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    cargo.args(["build", "--bins"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
        cargo.env_remove(name);
    }
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let target = folder.parent().expect("target/PROFILE/program");
    let built = cargo.env("CARGO_TARGET_DIR", target).status().expect("cargo runs");
    assert!(built.success(), "the programs do not build");
    folder
}

/// A program of the system; the failure says how to get it.
pub fn system(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':')
        .map(|folder| Path::new(folder).join(name))
        .find(|program| program.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: `scripts/install-test-tools` installs what the tests need"))
}
