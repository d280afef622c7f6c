//! Who did what, to what, from where, and how it ended: one append-only event for every change, refused ones too.
//!
//! A change that succeeds records its event in its own transaction: neither is there without the other.
//! Refusals are recorded by the layer around the API's routes. Secrets never go into an event.

use std::net::IpAddr;

use muster_proto::id::{DeviceUid, OrgId};
use rusqlite::Transaction;
use serde_json::Value;

use crate::store;

/// An event that is about to happen.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Whose records it goes to; `None` for the hub as a whole.
    pub org: Option<OrgId>,
    /// An account's e-mail, `device:{uid}` or `hub`.
    pub actor: String,
    /// `device.admit`, `session.open`, ...
    pub action: &'static str,
    /// On what.
    pub target: String,
    /// From which address.
    pub from: Option<IpAddr>,
    /// More, by action.
    pub details: Value,
}

impl Entry {
    /// An event of the hub itself.
    pub fn of_hub(org: Option<OrgId>, action: &'static str, target: impl Into<String>) -> Self {
        Self { org, actor: "hub".into(), action, target: target.into(), from: None, details: Value::Null }
    }

    /// An event that a device caused.
    pub fn of_device(uid: &DeviceUid, org: &OrgId, action: &'static str) -> Self {
        let (org, target) = (Some(org.clone()), uid.to_string());
        Self { org, actor: format!("device:{uid}"), action, target, from: None, details: Value::Null }
    }

    /// The same with details.
    pub fn with(mut self, details: Value) -> Self {
        self.details = details;
        self
    }

    /// Records that it succeeded, in the transaction that does it.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn ok(&self, tx: &Transaction<'_>) -> store::Result<()> {
        self.record(tx, "ok")
    }

    /// Records how it ended: "ok" or a problem's code.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn record(&self, tx: &Transaction<'_>, result: &str) -> store::Result<()> {
        store::audit::insert(tx, self, result)
    }
}
