//! The audit log's table. Triggers in the schema refuse every change and deletion.

use muster_proto::Millis;
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

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// A part of who did it, in any case.
    pub actor: Option<String>,
    /// The beginning of what was done.
    pub action: Option<String>,
    /// A part of what it was done to.
    pub target: Option<String>,
    /// "ok", a problem's code, or "refused" for all but "ok".
    pub result: Option<String>,
    /// Not before.
    pub since: Option<Millis>,
    /// Before.
    pub until: Option<Millis>,
}

/// From where on, and which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// Newest first, with ids below.
    Before(i64),
    /// Oldest first, with ids above.
    After(i64),
}

/// Events of an organization.
pub(crate) fn list(connection: &Connection, org: &str, filter: &Filter, from: From, limit: usize) -> Result<Vec<AuditEvent>> {
    let (above, below, order) = match from {
        From::Before(id) => (i64::MIN, id, "DESC"),
        From::After(id) => (id, i64::MAX, "ASC"),
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT id, t, actor, action, target, address, result, details FROM audit
         WHERE org = ?1 AND id > ?2 AND id < ?3
             AND (?4 IS NULL OR instr(lower(actor), lower(?4)) > 0)
             AND (?5 IS NULL OR substr(action, 1, length(?5)) = ?5)
             AND (?6 IS NULL OR instr(target, ?6) > 0)
             AND (?7 IS NULL OR result = ?7 OR (?7 = 'refused' AND result != 'ok'))
             AND (?8 IS NULL OR t >= ?8) AND (?9 IS NULL OR t < ?9)
         ORDER BY id {order} LIMIT ?10"
    ))?;
    let Filter { actor, action, target, result, since, until } = filter;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![org, above, below, actor, action, target, result, since, until, limit], event)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The number of the newest event of all.
pub(crate) fn newest(connection: &Connection) -> Result<i64> {
    let mut statement = connection.prepare_cached("SELECT coalesce(max(id), 0) FROM audit")?;
    Ok(statement.query_row([], |row| row.get(0))?)
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
            let events = store.read(|db| list(db, "acme", &Filter::default(), From::Before(i64::MAX), 10)).await.unwrap();
            assert_eq!(events.len(), 1);
            assert_eq!((events[0].action.as_str(), events[0].result.as_str()), ("test.event", "ok"));
            if !sql.starts_with("INSERT") {
                assert!(error.unwrap_err().to_string().contains("audit events are never"), "{sql}");
            }
        }
    }
}
