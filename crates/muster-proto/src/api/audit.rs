//! The audit log.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Millis;

/// A row of `GET /v1/orgs/{org}/audit`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Its number, growing.
    pub id: i64,
    /// When, by the hub's clock.
    pub t: Millis,
    /// Who: an account's e-mail, `device:{uid}`, or `hub`.
    pub actor: String,
    /// What: `device.admit`, `session.open`, ...
    pub action: String,
    /// On what.
    pub target: String,
    /// From which address.
    pub from: Option<String>,
    /// "ok" or a problem's code.
    pub result: String,
    /// More, by action.
    pub details: Value,
}
