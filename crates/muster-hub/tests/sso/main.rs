//! Single sign-on with a real provider (oidc-provider from npm, which `scripts/install-test-tools` installs), and with a hostile one.

#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod attacks;
mod browser;
mod cli;
mod devices;
mod hostile;
mod hub;
mod people;
mod provider;

/// Time for anything that should take a moment, on a machine that is busy.
const SOON: std::time::Duration = std::time::Duration::from_secs(60);
