//! What Muster's programs say to each other.
//!
//! Ids, MQTT topics, payloads, HTTP bodies, enrolment tokens, the session protocol, and every limit on them.
//! The daemon, the hub and the command line meet here and nowhere else.
//! This crate does no I/O, reads no clock, draws no random number and knows no runtime:
//! bytes and times come in as arguments, bytes and decisions go out.
//! Everything that arrives is hostile until one of these types has parsed it.

mod base64;

pub mod api;
pub mod backoff;
pub mod id;
pub mod limits;
pub mod mqtt;
pub mod network;
pub mod order;
pub mod problem;
pub mod run;
pub mod session;
pub mod text_file;
pub mod token;
pub mod topic;
pub mod websocket;
pub mod wildcard;

/// Milliseconds since 1970-01-01T00:00:00 UTC, the only form of time on the wire.
pub type Millis = i64;
