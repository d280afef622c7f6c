//! The organization side of Muster: people, projects, devices; certificate authority; MQTT; relay; HTTP API.
//!
//! A library, so that the tests run a whole hub in-process on port 0; `main.rs` is only its command line.
//! It knows `muster-proto` and the transport parts of `muster-link`, and nothing of the daemon or the `muster` command line.

#![warn(clippy::print_stdout, clippy::print_stderr)] // they panic: see `muster_link::print`

pub mod accounts;
pub mod api;
pub mod audit;
pub mod auth;
pub mod broker;
pub mod ca;
pub mod cli;
pub mod clock;
pub mod config;
pub mod csv_text;
pub mod fields;
pub mod ingest;
pub mod init;
pub mod lapse;
pub mod listener;
pub mod mail;
pub mod meter;
pub mod metrics;
pub mod mqtt;
pub mod openapi;
pub mod peer;
pub mod presence;
pub mod query;
pub mod quickstart;
pub mod random;
pub mod registry;
pub mod relay;
pub mod rights;
pub mod runs;
pub mod serve;
pub mod sso;
pub mod standings;
pub mod state;
pub mod store;
pub mod systemd;
pub mod tls;
mod words;
