//! What the device's programs share: the daemon (`musterd`) and the part of a session with the power to become a user (`musterd-session`).
//!
//! Two programs, so that the one that faces the network stays small and needs no power, and one library, so that both read the same
//! policy, accounts and messages. Nothing here may know the hub's link or a session's protocol: that is each program's own.

#![warn(clippy::print_stdout, clippy::print_stderr)] // they panic: see `muster_link::print`

pub mod account;
pub mod descriptors;
pub mod handoff;
pub mod log;
pub mod policy;
pub mod processes;
pub mod settings;
pub mod signals;
