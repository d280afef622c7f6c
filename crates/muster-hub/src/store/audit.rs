//! The audit log's table. Triggers in the schema refuse every change and deletion.

use muster_proto::api::AuditEvent;
use rusqlite::{Connection, Row, Transaction, params};
use serde_json::Value;

use super::Result;
use crate::audit::Entry;
use crate::clock;

/// Appends an event.
pub(crate) fn insert(tx: &Transaction<'_>, entry: &Entry, result: &str) -> Result<()> {
    let details = if entry.details.is_null() { "{}".to_owned() } else { entry.details.to_string() };
    tx.prepare_cached(
        "INSERT INTO audit (t, org, actor, action, target, address, result, details) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        clock::now(),
        entry.org.as_ref().map(AsRef::<str>::as_ref),
        entry.actor,
        entry.action,
        entry.target,
        entry.from.map(|address| address.to_string()),
        result,
        details
    ])?;
    Ok(())
}

/// Events of an organization, newest first, older than `before`.
pub(crate) fn list(connection: &Connection, org: &str, before: Option<i64>, limit: usize) -> Result<Vec<AuditEvent>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, t, actor, action, target, address, result, details FROM audit
         WHERE org = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3",
    )?;
    let rows = statement.query_map(params![org, before.unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX)], event)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn event(row: &Row<'_>) -> rusqlite::Result<AuditEvent> {
    let details: String = row.get(7)?;
    Ok(AuditEvent {
        id: row.get(0)?,
        t: row.get(1)?,
        actor: row.get(2)?,
        action: row.get(3)?,
        target: row.get(4)?,
        from: row.get(5)?,
        result: row.get(6)?,
        details: serde_json::from_str(&details).unwrap_or(Value::String(details)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[tokio::test]
    async fn events_are_never_changed_nor_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("hub.db")).unwrap();
        let entry = Entry::of_hub(Some("acme".parse().unwrap()), "test.event", "x");
        store.write(move |tx| entry.ok(tx)).await.unwrap();
        for sql in ["UPDATE audit SET result = 'x'", "DELETE FROM audit", "INSERT OR REPLACE INTO audit SELECT * FROM audit"] {
            let error = store.write(move |tx| Ok(tx.execute(sql, [])?)).await;
            let events = store.read(|db| list(db, "acme", None, 10)).await.unwrap();
            assert_eq!(events.len(), 1);
            assert_eq!((events[0].action.as_str(), events[0].result.as_str()), ("test.event", "ok"));
            if !sql.starts_with("INSERT") {
                assert!(error.unwrap_err().to_string().contains("audit events are never"), "{sql}");
            }
        }
    }
}
