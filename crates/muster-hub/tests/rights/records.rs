//! Looks into the hub's database from outside, as an examiner would: what is there, what was recorded, whether it hangs together.

use std::collections::BTreeMap;
use std::path::Path;

use ring::digest::{Context, SHA256};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

/// One event of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: i64,
    pub(crate) org: Option<String>,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) result: String,
}

/// Tables that change by themselves or by being asked: what devices report, and the records.
const RESTLESS: &[&str] = &["audit", "mqtt_sessions", "mqtt_queue", "mqtt_retained", "presence", "presence_history"];
/// Columns that note the use of a thing.
const RESTLESS_COLUMNS: &[&str] = &["used_at"];

pub(crate) fn open(path: &Path) -> Connection {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    connection.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    connection.pragma_update(None, "query_only", true).unwrap();
    connection
}

fn tables(db: &Connection) -> Vec<String> {
    let mut statement =
        db.prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name").unwrap();
    let names = statement.query_map([], |row| row.get(0)).unwrap();
    names.map(Result::unwrap).collect()
}

/// Every table's digest, but for those that change by themselves.
pub(crate) fn digest(db: &Connection) -> BTreeMap<String, String> {
    let tx = db.unchecked_transaction().unwrap();
    tables(&tx)
        .into_iter()
        .filter(|table| !RESTLESS.contains(&table.as_str()))
        .map(|table| (table.clone(), digest_of(&tx, &table)))
        .collect()
}

fn digest_of(db: &Connection, table: &str) -> String {
    let mut statement = db.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
    let columns: Vec<usize> = {
        let names: Vec<&str> = statement.column_names().collect();
        (0..names.len()).filter(|at| !RESTLESS_COLUMNS.contains(&names[*at])).collect()
    };
    let mut rows = statement.query([]).unwrap();
    let (mut hash, mut count) = (Context::new(&SHA256), 0);
    while let Some(row) = rows.next().unwrap() {
        for column in &columns {
            match row.get_ref(*column).unwrap() {
                ValueRef::Null => hash.update(b"n"),
                ValueRef::Integer(value) => hash.update(&value.to_le_bytes()),
                ValueRef::Real(value) => hash.update(&value.to_le_bytes()),
                ValueRef::Text(value) | ValueRef::Blob(value) => {
                    hash.update(&value.len().to_le_bytes());
                    hash.update(value);
                }
            }
        }
        count += 1;
    }
    let digest = hash.finish();
    format!("{count} rows, {}", digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// The number of the newest event.
pub(crate) fn newest(db: &Connection) -> i64 {
    db.query_row("SELECT coalesce(max(id), 0) FROM audit", [], |row| row.get(0)).unwrap()
}

/// Events after this number.
pub(crate) fn events(db: &Connection, after: i64) -> Vec<Event> {
    let mut statement = db.prepare("SELECT id, org, actor, action, result FROM audit WHERE id > ?1 ORDER BY id").unwrap();
    let events = statement.query_map([after], |row| {
        Ok(Event { id: row.get(0)?, org: row.get(1)?, actor: row.get(2)?, action: row.get(3)?, result: row.get(4)? })
    });
    events.unwrap().map(Result::unwrap).collect()
}
