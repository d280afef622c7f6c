//! Payloads of the MQTT topics, all JSON.
//!
//! Decoders accept unknown fields, refuse oversized input, and never panic.
//! Times are milliseconds since the epoch (UTC), sizes bytes, ratios 0 to 1.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::Millis;
use crate::id::{DeviceUid, OrgId, ProjectId, SessionId};
use crate::limits::{COLUMN_NAME_MAX, FACTS_MAX, PAYLOAD_MAX, POLICY_MAX, USAGE_COLUMNS_MAX, USAGE_SAMPLES_MAX};
use crate::order::SignedOrder;

/// Why a payload was refused.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// Larger than the bound of its topic.
    #[error("payload of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Bytes received.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// Not the JSON that the topic carries.
    #[error("payload is not valid: {0}")]
    Json(#[from] serde_json::Error),
    /// Valid JSON that breaks a rule.
    #[error("payload is not valid: {0}")]
    Rule(&'static str),
}

/// Decodes a payload of at most `limit` bytes.
///
/// # Errors
/// When it is larger, or not the JSON of `T`.
pub fn decode<T: DeserializeOwned>(payload: &[u8], limit: usize) -> Result<T, PayloadError> {
    if payload.len() > limit {
        return Err(PayloadError::TooLarge { size: payload.len(), limit });
    }
    Ok(serde_json::from_slice(payload)?)
}

/// Encodes a payload.
pub fn encode<T: Serialize>(payload: &T) -> Vec<u8> {
    // Every payload type here has text keys and no fallible serializer.
    serde_json::to_vec(payload).expect("payload types always serialize")
}

/// What a device states about itself: `hostname`, `os`, `arch`, `kernel`, `agent`, `addresses` and whatever its owner adds.
/// At most 64 facts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Facts(pub BTreeMap<String, Value>);

impl Facts {
    /// Cuts the map to the bound; the surplus is dropped in key order.
    pub fn bounded(mut self) -> Self {
        while self.0.len() > FACTS_MAX {
            self.0.pop_last();
        }
        self
    }
}

/// `up/presence`: birth (online), death and last will (offline). Retained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Presence {
    /// Whether the device is there.
    pub online: bool,
    /// Counts the device's connections, over restarts too: a late will of an old connection is ignored.
    pub link: u64,
    /// One life of the daemon: 16 hexadecimal digits drawn at its start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The device's clock at the birth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub t: Option<Millis>,
    /// The daemon's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Facts, at birth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<Facts>,
    /// Why the device goes, in a farewell: "stopped", "updating". Absent in a will.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `up/heartbeat`, every 30 s, jittered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Counts heartbeats in this life of the daemon.
    pub seq: u64,
    /// The device's clock.
    pub t: Millis,
    /// Seconds since the machine started.
    pub uptime_s: u64,
    /// Open sessions.
    pub sessions: u32,
    /// Samples that wait in the spool.
    pub spooled: u64,
}

/// One column of a batch: a value per sample, or one value that holds for all of them.
/// `null` where a value could not be read.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Column {
    /// The same value in every sample.
    Constant(f64),
    /// One value per sample.
    Each(Vec<Option<f64>>),
}

/// By hand: the derived one keeps every column as a tree of values before it looks at it, and a hub reads little else.
impl<'de> Deserialize<'de> for Column {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Column;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or an array of numbers and nulls")
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Column, E> {
                Ok(Column::Constant(value))
            }

            #[expect(clippy::cast_precision_loss, reason = "as with any number where a float is due")]
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Column, E> {
                Ok(Column::Constant(value as f64))
            }

            #[expect(clippy::cast_precision_loss, reason = "as with any number where a float is due")]
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Column, E> {
                Ok(Column::Constant(value as f64))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Column, A::Error> {
                let mut each = Vec::with_capacity(values.size_hint().unwrap_or(0).min(USAGE_SAMPLES_MAX));
                while let Some(value) = values.next_element()? {
                    each.push(value);
                }
                Ok(Column::Each(each))
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl Column {
    /// The value of sample `index`.
    pub fn at(&self, index: usize) -> Option<f64> {
        match self {
            Self::Constant(value) => Some(*value),
            Self::Each(values) => values.get(index).copied().flatten(),
        }
    }
}

/// `up/usage`: consecutive samples of one life of the daemon, by columns.
///
/// Sample `i` has the number `first_seq + i` and was taken at `t0 + i * step_s` seconds, or at `t0 + dt[i]` ms where `dt` stands.
/// Column names: `cpu` (ratio), `load1`, `mem`, `mem_total`, `swap` (bytes used), `uptime` (s), `disk:{mount}` (bytes used),
/// `disk_total:{mount}`, `disk_read`, `disk_write` (bytes/s), `net_rx:{if}`, `net_tx:{if}` (bytes/s), `net_err:{if}` (1/s),
/// `temp:{label}` (degrees Celsius), `agent_cpu` (ratio of one core), `agent_mem` (bytes), and a device's own metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsageBatch {
    /// One life of the daemon, as in [`Presence::boot`].
    pub boot: String,
    /// Number of the first sample.
    pub first_seq: u64,
    /// Number of samples.
    pub n: u32,
    /// Time of the first sample.
    pub t0: Millis,
    /// Seconds from sample to sample.
    pub step_s: f64,
    /// Milliseconds from `t0`, one per sample, where the step was not even.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dt: Option<Vec<i64>>,
    /// Samples dropped from the spool since the last batch, oldest first.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// The columns.
    pub c: BTreeMap<String, Column>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl UsageBatch {
    /// Decodes and checks a batch: bounds, lengths of columns, finite times.
    ///
    /// # Errors
    /// When it is over a limit or its parts do not fit together.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let batch: Self = decode(payload, PAYLOAD_MAX)?;
        let n = batch.n as usize;
        if n == 0 || n > USAGE_SAMPLES_MAX {
            return Err(PayloadError::Rule("a batch has 1 to 600 samples"));
        }
        if batch.first_seq.checked_add(u64::from(batch.n)).is_none() {
            return Err(PayloadError::Rule("sample numbers overflow"));
        }
        if !is_boot(&batch.boot) {
            return Err(PayloadError::Rule("boot is 16 hexadecimal digits"));
        }
        if batch.c.len() > USAGE_COLUMNS_MAX {
            return Err(PayloadError::Rule("a batch has at most 256 columns"));
        }
        if !(batch.step_s.is_finite() && (0.0..=86_400.0).contains(&batch.step_s)) {
            return Err(PayloadError::Rule("step_s is 0 to 86400"));
        }
        if !(0..=MILLIS_MAX).contains(&batch.t0) {
            return Err(PayloadError::Rule("t0 is not a time"));
        }
        if let Some(dt) = &batch.dt
            && (dt.len() != n || dt.iter().any(|dt| !(-MILLIS_MAX..=MILLIS_MAX).contains(dt)))
        {
            return Err(PayloadError::Rule("dt has one value per sample"));
        }
        for (name, column) in &batch.c {
            if name.is_empty() || name.len() > COLUMN_NAME_MAX || name.chars().any(char::is_control) {
                return Err(PayloadError::Rule("a column name has 1 to 64 printable bytes"));
            }
            if let Column::Each(values) = column
                && values.len() != n
            {
                return Err(PayloadError::Rule("a column has one value per sample"));
            }
        }
        Ok(batch)
    }

    /// When sample `index` was taken.
    pub fn time_of(&self, index: usize) -> Millis {
        match &self.dt {
            Some(dt) => self.t0.saturating_add(dt.get(index).copied().unwrap_or(0)),
            #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "bounded by decode")]
            None => self.t0.saturating_add((index as f64 * self.step_s * 1000.0).round() as i64),
        }
    }
}

/// The year 9999: later times are mistakes.
const MILLIS_MAX: Millis = 253_402_300_799_999;

/// Whether a text is 16 hexadecimal digits.
pub fn is_boot(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `up/event`: something that the hub's people should know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceEvent {
    /// The device's clock.
    pub t: Millis,
    /// What happened; an unknown kind is stored as it is.
    #[serde(flatten)]
    pub kind: DeviceEventKind,
}

/// What a device reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DeviceEventKind {
    /// The device's policy refused something.
    PolicyRefused {
        /// The session.
        session: SessionId,
        /// The target, as text.
        target: String,
        /// Machine-readable reason.
        code: String,
        /// The sentence that the user saw.
        message: String,
    },
    /// The device cannot serve the session at all; the hub ends it with this sentence.
    SessionFailed {
        /// The session.
        session: SessionId,
        /// Machine-readable reason.
        code: String,
        /// The sentence for the user.
        message: String,
    },
    /// A session is open on the device.
    SessionOpened {
        /// The session.
        session: SessionId,
    },
    /// A session is over on the device.
    SessionClosed {
        /// The session.
        session: SessionId,
        /// Why.
        reason: String,
        /// Bytes to the device.
        received: u64,
        /// Bytes from the device.
        sent: u64,
    },
    /// The system clock was set.
    ClockStep {
        /// Milliseconds, positive when set forward.
        by_ms: i64,
    },
    /// Whatever a later version reports.
    #[serde(other)]
    Unknown,
}

/// `down/session`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum SessionOrder {
    /// Open a session: a signed [`crate::order::Order`] that holds a [`SessionOpen`].
    Open(SignedOrder),
    /// End a session.
    End {
        /// Which.
        session: SessionId,
        /// The sentence for the journal.
        reason: String,
    },
    /// An order of a later version, to be ignored.
    #[serde(other)]
    Unknown,
}

/// What the device needs to know of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionOpen {
    /// The session.
    pub session: SessionId,
    /// `wss://.../v1/sessions/{id}/device`. The device dials it with a certificate made for this session, and nothing else.
    pub relay: String,
    /// The device's ticket for this session. Void if not used in 30 s; afterwards good for this session's resumptions only.
    pub ticket: String,
    /// Who asks: the account's name.
    pub user: String,
    /// In the name of which project.
    pub project: ProjectId,
    /// With which role there: "admin", "maintain", "operate", "connect".
    pub role: String,
    /// Why, in the user's words, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The hub's clock. The device does not measure the order by it: clocks are set. What makes a late order void is the ticket.
    pub t: Millis,
}

/// `up/policy`: the device's policy as it is in force, for people to read. The hub can never change it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// The text of the policy file, at most [`crate::limits::POLICY_MAX`] bytes; absent where there is none or it cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Why everything is refused, if it is: the code, such as `policy_missing`, `policy_broken`, `policy_locked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Sessions run as the daemon's own user (`own_user`): nothing stands between a visitor and the device's key.
    #[serde(default)]
    pub own_user: bool,
    /// The device's clock.
    pub t: Millis,
}

impl PolicyReport {
    /// Decodes and checks a report.
    ///
    /// # Errors
    /// When it is over a limit.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let report: Self = decode(payload, PAYLOAD_MAX)?;
        if report.text.as_ref().is_some_and(|text| text.len() > POLICY_MAX) {
            return Err(PayloadError::Rule("a policy has at most 32 KiB"));
        }
        if report.code.as_ref().is_some_and(|code| code.len() > 64) || report.fault.as_ref().is_some_and(|fault| fault.len() > 4096) {
            return Err(PayloadError::Rule("a policy's fault has at most 4096 bytes"));
        }
        Ok(report)
    }
}

/// `down/config`: the organization's wishes. The device bounds them by its own configuration and policy.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ConfigWish {
    /// Seconds between samples, 1 to 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample_every_s: Option<u32>,
    /// Seconds between batches, 1 to 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage_every_s: Option<u32>,
    /// One sample per second, at once, until this time by the hub's clock (see `now`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch_until: Option<Millis>,
    /// The hub's clock when it said this.
    pub now: Millis,
}

/// `down/admission`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum AdmissionNotice {
    /// Renew the certificate now.
    Renew,
    /// The organization's storage has room again: samples that were refused may come.
    Room,
    /// The device is no longer of the organization.
    Revoked {
        /// The sentence for the journal.
        reason: String,
    },
    /// What the organization calls the device.
    Named {
        /// The uid, for a check.
        uid: DeviceUid,
        /// The organization.
        org: OrgId,
        /// The name.
        name: String,
        /// The hub's clock.
        now: Millis,
    },
    /// A notice of a later version, to be ignored.
    #[serde(other)]
    Unknown,
}
