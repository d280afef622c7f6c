//! The daemon alone, as a real process, against a hub of ours that can misbehave: freeze, refuse, forget to acknowledge, order nonsense.
//!
//! The end-to-end tests beside this one run it against the real hub; what a real hub never does is tested here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

mod authority;
mod commands;
mod device;
mod enrol;
mod hub;
mod link;
mod orders;
mod owner;
mod runs;
mod sessions;
mod visits;
