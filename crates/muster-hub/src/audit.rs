//! Who did what, to what, from where, and how it ended: one append-only event for every change, refused ones too.
//!
//! A change that succeeds records its event in its own transaction: neither is there without the other.
//! A refusal is recorded by [`audited`] afterwards. Secrets never go into an event.

use std::net::IpAddr;

use muster_proto::id::{DeviceUid, OrgId};
use muster_proto::problem::Problem;
use rusqlite::Transaction;
use serde_json::Value;

use crate::store::{self, Store};

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

/// Does `work`, which records its own success, and records a refusal. The caller gets what `work` gave.
///
/// # Errors
/// Whatever `work` returns.
pub async fn audited<T, E>(store: &Store, entry: Entry, work: impl AsyncFnOnce(Entry) -> Result<T, E>) -> Result<T, E>
where
    E: AsProblem,
{
    let done = work(entry.clone()).await;
    if let Err(error) = &done {
        let code = error.as_problem().code.clone();
        if let Err(error) = store.write(move |tx| entry.record(tx, &code)).await {
            tracing::error!(%error, "a refusal could not be recorded in the audit log");
        }
    }
    done
}

/// An error that carries a problem.
pub trait AsProblem {
    /// The problem.
    fn as_problem(&self) -> &Problem;
}
