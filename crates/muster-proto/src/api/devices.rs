//! The device list: rows, samples, edits, decisions, presence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Millis;
use crate::id::{DeviceUid, ProjectId, Serial};
use crate::mqtt::Facts;

/// Whether a device belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// A person has to decide.
    Pending,
    /// It belongs.
    Admitted,
    /// An owner said no.
    Rejected,
    /// It belonged once.
    Revoked,
}

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PresenceState {
    /// Its MQTT link is up and its heartbeats come.
    Online,
    /// It is not.
    Offline,
    /// It never was.
    Never,
}

/// A device: a row of `GET /v1/orgs/{org}/devices`, and `GET /v1/orgs/{org}/devices/{device}`.
///
/// `{device}` is a uid, an id (serial number) or a name; a name that several bear is a conflict that lists them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// The serial number, unique in the organization.
    pub id: Serial,
    /// The uid, unique in the hub.
    pub uid: DeviceUid,
    /// What the organization calls it; the serial number at first.
    pub name: String,
    /// Whether it belongs.
    pub admission: Admission,
    /// Whether it is there.
    pub presence: PresenceState,
    /// One sentence: why it is pending, refused or offline, and what to do. "online" where all is well.
    pub why: String,
    /// Since when the presence is what it is.
    pub presence_since: Option<Millis>,
    /// When the hub last heard from it.
    pub last_seen: Option<Millis>,
    /// Projects that share it and that the caller sees.
    pub projects: Vec<ProjectId>,
    /// What it says of itself; empty for whoever may see the device and not view it.
    pub facts: Facts,
    /// Its newest sample, for whoever may view the device.
    pub usage: Option<Sample>,
    /// While pending: the code that the device shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairing_code: Option<String>,
    /// Another key asks to take this row over: its pairing code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<String>,
    /// The daemon's version.
    pub agent: Option<String>,
    /// Open sessions, for whoever may view the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
    /// Samples that wait on the device, as its last heartbeat said; for whoever may view it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spooled: Option<u64>,
    /// End of its certificate.
    pub certificate_expires_at: Option<Millis>,
    /// When filed.
    pub created_at: Millis,
    /// Entered by hand, without a daemon so far.
    #[serde(default)]
    pub manual: bool,
    /// Labels, sorted.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Values of custom fields, by key: texts and numbers.
    #[serde(default)]
    pub fields: BTreeMap<String, Value>,
    /// Keys of required fields that are empty.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// One sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When taken, by the device's clock.
    pub t: Millis,
    /// One life of the daemon.
    pub boot: String,
    /// Its number there.
    pub seq: u64,
    /// Values by column name, see `UsageBatch`.
    pub values: BTreeMap<String, f64>,
}

/// `PATCH /v1/orgs/{org}/devices/{device}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceEdit {
    /// A new name, 1 to 100 printable characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Projects to join.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_projects: Vec<ProjectId>,
    /// Projects to leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_projects: Vec<ProjectId>,
    /// Values of custom fields, by key; null empties one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Value>,
    /// Labels to bear: 1 to 50 characters without commas, at most 32 on a device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_labels: Vec<String>,
    /// Labels to lose.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_labels: Vec<String>,
}

/// `POST /v1/orgs/{org}/devices/{device}/{reject|revoke}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceDecision {
    /// Why, for the records and for the device's journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A row of `GET .../devices/{device}/presence`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PresenceChange {
    /// By the hub's clock.
    pub t: Millis,
    /// From then on.
    pub presence: PresenceState,
    /// "birth", "will", "farewell", "heartbeats missed", "revoked", "taken over".
    pub reason: String,
}

/// `POST .../devices/{device}/watch`: one sample per second for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchRequest {
    /// Seconds, 1 to 600.
    pub seconds: u32,
}

/// `GET /v1/orgs/{org}/devices/{device}/policy`: what the device told last of its owner's policy.
///
/// For people to read. The device decides by its own file, and the hub can never change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePolicy {
    /// The text of the policy file; absent where there is none or it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why everything is refused, if it is: the code, such as `policy_missing`, `policy_broken`, `policy_locked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Sessions run as the daemon's own user: nothing stands between a visitor and the device's key.
    pub own_user: bool,
    /// When the device told it, by its clock.
    pub t: Millis,
    /// The same by the hub's clock.
    pub told_at: Millis,
}
