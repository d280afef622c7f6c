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

/// Rows that belong to nothing, each with the query that finds it. All must find none.
const ORPHANS: &[(&str, &str)] = &[
    (
        "a device in a project of another organization",
        "SELECT p.uid FROM device_projects p JOIN devices d ON d.uid = p.uid WHERE d.org <> p.org",
    ),
    (
        "a device in a project that is not there",
        "SELECT uid FROM device_projects p WHERE NOT EXISTS (SELECT 1 FROM projects x WHERE x.org = p.org AND x.id = p.project)",
    ),
    ("two current keys of one device", "SELECT uid FROM device_keys WHERE state = 'current' GROUP BY uid HAVING count(*) > 1"),
    (
        "a living key of no device",
        "SELECT uid FROM device_keys k WHERE state <> 'retired' AND NOT EXISTS (SELECT 1 FROM devices d WHERE d.uid = k.uid)",
    ),
    (
        "an admitted device without a key",
        "SELECT uid FROM devices d WHERE admission = 'admitted' AND admitted_at IS NOT NULL \
      AND EXISTS (SELECT 1 FROM enrolments e WHERE e.uid = d.uid) \
      AND NOT EXISTS (SELECT 1 FROM device_keys k WHERE k.uid = d.uid AND k.state = 'current')",
    ),
    (
        "an organization without an owner",
        "SELECT id FROM orgs o WHERE NOT EXISTS (SELECT 1 FROM members m WHERE m.org = o.id AND m.role = 'owner')",
    ),
    ("a token used more often than it may", "SELECT id FROM enrolment_tokens WHERE uses IS NOT NULL AND used > uses"),
    (
        "a living session of no device",
        "SELECT id FROM sessions s WHERE ended_at IS NULL AND NOT EXISTS (SELECT 1 FROM devices d WHERE d.uid = s.uid)",
    ),
    (
        "a living run of no device",
        "SELECT id FROM runs r WHERE state IN ('waiting', 'running') AND NOT EXISTS (SELECT 1 FROM devices d WHERE d.uid = r.uid)",
    ),
];

/// Whether the database is whole, and nothing in it belongs to something that is not there.
#[track_caller]
pub(crate) fn hangs_together(db: &Connection) {
    let whole: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    let broken = found(db, "PRAGMA foreign_key_check");
    assert!(broken.is_empty(), "rows that refer to nothing: {broken:?}");
    for (what, query) in ORPHANS {
        let found = found(db, query);
        assert!(found.is_empty(), "{what}: {found:?}");
    }
}

fn found(db: &Connection, query: &str) -> Vec<String> {
    let mut statement = db.prepare(query).unwrap_or_else(|error| panic!("{query}: {error}"));
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

/// In how many places of the organization somebody still is: members, projects, teams.
pub(crate) fn traces_of_member(db: &Connection, email: &str) -> i64 {
    let sql =
        "SELECT (SELECT count(*) FROM members m WHERE m.account = a.id) + (SELECT count(*) FROM participants p WHERE p.account = a.id)
             + (SELECT count(*) FROM team_members t WHERE t.account = a.id) FROM accounts a WHERE a.email = ?1";
    db.query_row(sql, [email], |row| row.get(0)).unwrap()
}
