//! What the daemon and a session's worker say to each other: the order on the worker's standard input, the report that it leaves behind.
//!
//! The two are one binary but two processes, and a worker may be older or newer than the daemon that finds it: unknown fields are ignored.

use std::path::PathBuf;

use muster_proto::Millis;
use muster_proto::mqtt::SessionOpen;
use serde::{Deserialize, Serialize};

/// One JSON object on the standard input of `musterd session`, up to its end.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The session.
    pub open: SessionOpen,
    /// Key and identity.
    pub state_dir: PathBuf,
    /// The device's policy.
    pub policy: PathBuf,
    /// The daemon's control socket: events go there, if the daemon is there.
    pub control: PathBuf,
    /// Where the worker leaves its report, as its last act.
    pub report: PathBuf,
    /// HTTP proxy, as in the configuration.
    #[serde(default)]
    pub proxy: Option<String>,
    /// The last time that the hub told, for the dates of certificates.
    #[serde(default)]
    pub floor: Millis,
    /// The daemon's log level.
    #[serde(default)]
    pub log_level: String,
}

/// What a worker leaves behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Why the session ended.
    pub reason: String,
    /// Bytes to the device.
    pub received: u64,
    /// Bytes from the device.
    pub sent: u64,
}
