//! Which devices, and which organizations' rights and fields, a group of writes touched, for those who hold copies in memory.
//!
//! Triggers note it, so that no code path has to remember to invalidate anything. They are temporary and on the writer's
//! connection alone: what a write that failed had touched is rolled back with it. After the commit and before the answers the
//! writer hands the notes to its observers, so that whoever got an answer finds the new state in every copy.
//! Presence, heartbeats and samples are not watched: their tables fire nothing.
//! What another process wrote (`muster-hub user add` beside `serve`) touches everything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use muster_proto::id::{DeviceUid, OrgId};
use rusqlite::{Connection, Transaction};

use super::Result;

/// What is noted of a row: a device, an account's rights in an organization, everybody's there, or the custom fields.
const DEVICE: &str = "device";
const ACCOUNT: &str = "account";
const RIGHTS: &str = "rights";
const FIELDS: &str = "fields";

/// The end of an access token.
const TOKEN: &str = "token";

/// What ends an access token, or moves its end. Its last use, which is written all day, is not watched.
const TOKEN_ENDS: &[&str] = &["DELETE", "UPDATE OF expires_at"];

/// Watched tables: what is noted, the expression of the organization, that of the uid or account. `$` is NEW or OLD.
const WATCHED: &[(&str, &str, &str, &str)] = &[
    ("devices", DEVICE, "$.org", "$.uid"),
    ("device_projects", DEVICE, "$.org", "$.uid"),
    ("enrolments", DEVICE, "$.org", "$.uid"),
    // Where the device itself goes, its own row has noted it.
    ("device_values", DEVICE, "(SELECT d.org FROM devices d WHERE d.uid = $.uid)", "$.uid"),
    ("device_labels", DEVICE, "(SELECT d.org FROM devices d WHERE d.uid = $.uid)", "$.uid"),
    ("fields", FIELDS, "$.org", "''"),
    ("orgs", RIGHTS, "$.id", "''"),
    ("members", ACCOUNT, "$.org", "$.account"),
    ("projects", RIGHTS, "$.org", "''"),
    ("participants", ACCOUNT, "$.org", "$.account"),
    ("teams", RIGHTS, "$.org", "''"),
    ("team_members", ACCOUNT, "$.org", "$.account"),
    ("project_teams", RIGHTS, "$.org", "''"),
];

/// What a commit touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Nobody knows what: read everything again.
    pub everything: bool,
    /// Access tokens that were withdrawn, by their public names, or whose end was moved.
    pub tokens: BTreeSet<String>,
    /// By organization.
    pub orgs: BTreeMap<OrgId, InOrg>,
}

/// What a commit touched in an organization.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InOrg {
    /// Members, projects, participants, teams, or the organization itself.
    pub rights: bool,
    /// It may be anybody's rights: a project's visibility, a team's role, the organization itself.
    pub everyone: bool,
    /// Otherwise the rights of these accounts alone.
    pub accounts: BTreeSet<i64>,
    /// Definitions of custom fields.
    pub fields: bool,
    /// Devices, with their projects, fields, labels and requests; also those that are gone.
    pub devices: BTreeSet<DeviceUid>,
}

impl Touched {
    fn is_empty(&self) -> bool {
        !self.everything && self.tokens.is_empty() && self.orgs.is_empty()
    }

    fn merge(&mut self, other: Self) {
        self.everything |= other.everything;
        self.tokens.extend(other.tokens);
        for (org, more) in other.orgs {
            let held = self.orgs.entry(org).or_default();
            held.rights |= more.rights;
            held.everyone |= more.everyone;
            held.accounts.extend(more.accounts);
            held.fields |= more.fields;
            held.devices.extend(more.devices);
        }
    }
}

/// Holds a copy of something in the database, and is told what changed.
pub trait Observer: Send + Sync {
    /// Called on the writer's thread after the commit, with the writer's connection to read from. Must be quick: all writes wait.
    ///
    /// # Errors
    /// When the database cannot be read; the same is handed over again with the next commit.
    fn committed(&self, db: &Connection, touched: &Touched) -> Result<()>;
}

/// The observers of a store, in the order in which they are told.
#[derive(Clone, Default)]
pub(super) struct Observers(Arc<RwLock<Vec<Arc<dyn Observer>>>>);

impl Observers {
    pub(super) fn add(&self, observer: Arc<dyn Observer>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(observer);
    }

    fn all(&self) -> Vec<Arc<dyn Observer>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes the table of notes and the triggers. Tables that this schema does not have yet are passed over.
pub(super) fn watch(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("CREATE TEMP TABLE touched (kind TEXT NOT NULL, org TEXT, uid TEXT NOT NULL)")?;
    for (table, kind, org, uid) in WATCHED {
        if !connection.table_exists(Some("main"), table)? {
            continue;
        }
        for (event, rows) in [("insert", &["NEW"][..]), ("update", &["OLD", "NEW"]), ("delete", &["OLD"])] {
            // A row hardly ever changes its owner; where it does, both are touched.
            let notes = rows.iter().enumerate().map(|(n, row)| {
                let (org_of, uid_of) = (org.replace('$', row), uid.replace('$', row));
                let moved = if n == 0 { String::new() } else { format!(" WHERE {org_of} IS NOT {}", org.replace('$', rows[0])) };
                format!("INSERT INTO touched SELECT '{kind}', {org_of}, {uid_of}{moved};")
            });
            let notes: String = notes.collect();
            connection
                .execute_batch(&format!("CREATE TEMP TRIGGER touched_{table}_{event} AFTER {event} ON main.{table} BEGIN {notes} END"))?;
        }
    }
    if connection.table_exists(Some("main"), "access_tokens")? {
        for (n, event) in TOKEN_ENDS.iter().enumerate() {
            connection.execute_batch(&format!(
                "CREATE TEMP TRIGGER touched_access_tokens_{n} AFTER {event} ON main.access_tokens \
                 BEGIN INSERT INTO touched VALUES ('{TOKEN}', '', OLD.id); END"
            ))?;
        }
    }
    Ok(())
}

/// Takes the notes of a transaction, just before its commit.
fn take(tx: &Transaction<'_>) -> Result<Touched> {
    let mut touched = Touched::default();
    if !tx.prepare_cached("SELECT EXISTS (SELECT 1 FROM touched)")?.query_row([], |row| row.get::<_, bool>(0))? {
        return Ok(touched);
    }
    let mut statement = tx.prepare_cached("SELECT DISTINCT kind, org, uid FROM touched WHERE org IS NOT NULL")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (kind, org, uid): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if kind == TOKEN {
            touched.tokens.insert(uid);
            continue;
        }
        let held = touched.orgs.entry(org.parse()?).or_default();
        match kind.as_str() {
            RIGHTS => (held.rights, held.everyone) = (true, true),
            ACCOUNT => {
                held.rights = true;
                match uid.parse() {
                    Ok(account) => drop(held.accounts.insert(account)),
                    Err(_) => held.everyone = true,
                }
            }
            FIELDS => held.fields = true,
            _ => drop(held.devices.insert(uid.parse()?)),
        }
    }
    tx.prepare_cached("DELETE FROM touched")?.execute([])?;
    Ok(touched)
}

/// The writer's side: gathers notes until they could be handed over.
pub(super) struct Publisher {
    observers: Observers,
    /// Handed over with the next commit: an observer failed.
    due: Touched,
    /// Changes when another connection wrote to the database.
    version: i64,
}

impl Publisher {
    pub(super) fn new(connection: &Connection, observers: Observers) -> rusqlite::Result<Self> {
        Ok(Self { observers, due: Touched::default(), version: data_version(connection)? })
    }

    /// What the transaction touched; in doubt, everything.
    pub(super) fn note(tx: &Transaction<'_>) -> Touched {
        take(tx).unwrap_or_else(|error| {
            tracing::error!(%error, "what a group of writes touched cannot be told; all that is held in memory is read again");
            Touched { everything: true, ..Touched::default() }
        })
    }

    /// Tells the observers what was committed.
    pub(super) fn publish(&mut self, connection: &Connection, touched: Touched) {
        self.due.merge(touched);
        self.look_around(connection);
        if self.due.is_empty() {
            return;
        }
        let touched = std::mem::take(&mut self.due);
        for observer in self.observers.all() {
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| observer.committed(connection, &touched)));
            if let Err(why) = told.map_err(|_| "it panicked".to_owned()).and_then(|told| told.map_err(|error| error.to_string())) {
                tracing::error!(%why, "what is held in memory could not be brought in line with the database; the next write tries again");
                self.due.merge(touched.clone());
            }
        }
    }

    /// Whether another process wrote meanwhile.
    fn look_around(&mut self, connection: &Connection) {
        match data_version(connection) {
            Ok(version) if version == self.version => {}
            Ok(version) => {
                self.version = version;
                self.due.everything = true;
            }
            Err(error) => tracing::debug!(%error, "the database's version cannot be read"),
        }
    }
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use muster_proto::problem::Code;

    use super::*;
    use crate::store::{Store, devices, orgs, problem};

    #[derive(Default)]
    struct Seen(Mutex<Vec<Touched>>);

    impl Observer for Seen {
        fn committed(&self, _: &Connection, touched: &Touched) -> Result<()> {
            self.0.lock().unwrap().push(touched.clone());
            Ok(())
        }
    }

    impl Seen {
        fn take(&self) -> Vec<Touched> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    const UID: &str = "daaaaaaaaaaaaaaa";

    fn acme_id() -> OrgId {
        "acme".parse().unwrap()
    }

    fn acme(tx: &Transaction<'_>) -> Result<()> {
        tx.execute_batch(&format!(
            "INSERT INTO accounts (id, email, name, created_at) VALUES (1, 'ada@acme.example', 'Ada', 0);
             INSERT INTO orgs (id, name, created_at) VALUES ('acme', 'Acme', 0), ('zeta', 'Zeta', 0);
             INSERT INTO projects (org, id, name, visibility, created_at) VALUES ('acme', 'lab', 'Lab', 'private', 0);
             INSERT INTO devices (uid, org, serial, name, admission, facts, created_at) VALUES ('{UID}', 'acme', '1', 'x', 'admitted', '{{}}', 0);
             INSERT INTO fields (id, org, key, title, kind, required, created_at) VALUES (1, 'acme', 'site', 'Site', 'text', 0, 0);"
        ))?;
        Ok(())
    }

    #[tokio::test]
    async fn observers_hear_what_was_touched_before_the_answer_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("hub.db")).unwrap();
        let seen = Arc::new(Seen::default());
        store.observe(seen.clone());
        store.write(acme).await.unwrap();
        let first = seen.take();
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].orgs.len(), 2);
        let (uid, org): (DeviceUid, OrgId) = (UID.parse().unwrap(), "acme".parse().unwrap());
        let device =
            |touched: &Touched| touched.orgs.get(&acme_id()).is_some_and(|what| what.devices.len() == 1 && !what.rights && !what.fields);
        let rights =
            |touched: &Touched| touched.orgs.get(&acme_id()).is_some_and(|what| what.devices.is_empty() && what.rights && what.everyone);
        let ones = |touched: &Touched| {
            touched.orgs.get(&acme_id()).is_some_and(|what| what.rights && !what.everyone && what.accounts.contains(&1))
        };
        for (sql, right) in [
            ("UPDATE devices SET name = 'y'", &device as &dyn Fn(&Touched) -> bool),
            ("INSERT INTO device_projects VALUES ('daaaaaaaaaaaaaaa', 'acme', 'lab')", &device),
            ("INSERT INTO device_values VALUES ('daaaaaaaaaaaaaaa', 1, 'berlin')", &device),
            ("INSERT INTO device_labels VALUES ('daaaaaaaaaaaaaaa', 'blue')", &device),
            ("UPDATE device_values SET value = 'bonn'", &device),
            ("INSERT OR IGNORE INTO members VALUES ('acme', 1, 'owner', 0)", &ones),
            ("UPDATE orgs SET name = 'A' WHERE id = 'acme'", &rights),
            ("INSERT INTO participants VALUES ('acme', 'lab', 1, 'admin', 0)", &ones),
            ("DELETE FROM participants", &ones),
            ("DELETE FROM device_projects", &device),
            ("UPDATE projects SET archived_at = 1", &rights),
        ] {
            assert_eq!(store.write(move |tx| Ok(tx.execute(sql, [])?)).await.unwrap(), 1, "{sql}");
            let touched = seen.take();
            assert!(touched.len() == 1 && right(&touched[0]), "{sql}: {touched:?}");
        }
        // A field that goes takes its values along, and touches their devices.
        store.write(|tx| Ok(tx.execute("DELETE FROM fields", [])?)).await.unwrap();
        let touched = seen.take().remove(0).orgs.remove(&acme_id()).unwrap();
        assert!(touched.fields && touched.devices.contains(&uid), "{touched:?}");
        // What a device says all day touches nothing.
        let of = uid.clone();
        let says = "INSERT INTO presence (uid, online, since, reason, link, last_seen) VALUES (?1, 1, 0, 'birth', 1, 0)";
        store.write(move |tx| Ok(tx.execute(says, [of.as_str()])?)).await.unwrap();
        store.write(|tx| Ok(tx.execute("UPDATE presence SET last_seen = 1", [])?)).await.unwrap();
        store
            .write_patiently(|tx| Ok(tx.execute("INSERT INTO usage_boots (uid, boot, received) VALUES ('x', 'y', 0)", [])?))
            .await
            .unwrap();
        assert!(seen.take().is_empty());
        // Nor does a write that failed, beside one that did not.
        let of = org.clone();
        let good = store.write(move |tx| orgs::set_member(tx, &of, 1, muster_proto::api::OrgRole::Owner, 5));
        let of = uid.clone();
        let bad = store.write(move |tx| {
            devices::rename(tx, &of, "z")?;
            Err::<(), _>(problem(Code::Conflict, "no"))
        });
        let (good, bad) = tokio::join!(good, bad);
        assert!(good.is_ok() && bad.is_err());
        let touched = seen.take();
        assert!(touched.iter().all(|touched| touched.orgs.values().all(|what| what.devices.is_empty())), "{touched:?}");
        // Gone with all that hangs on it.
        store.write(move |tx| devices::delete(tx, &uid, 0)).await.unwrap();
        assert!(device(&seen.take()[0]));
    }

    #[tokio::test]
    async fn what_an_observer_could_not_take_comes_again() {
        struct Fails(Mutex<u32>, Seen);
        impl Observer for Fails {
            fn committed(&self, db: &Connection, touched: &Touched) -> Result<()> {
                let mut failures = self.0.lock().unwrap();
                if *failures > 0 {
                    *failures -= 1;
                    return Err(problem(Code::Internal, "the disk is gone"));
                }
                self.1.committed(db, touched)
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("hub.db")).unwrap();
        let fails = Arc::new(Fails(Mutex::new(1), Seen::default()));
        store.observe(fails.clone());
        store.write(acme).await.unwrap();
        store.write(|tx| Ok(tx.execute("INSERT INTO meta VALUES ('a', 'b')", [])?)).await.unwrap();
        assert_eq!(fails.1.take().iter().map(|touched| touched.orgs.len()).sum::<usize>(), 2);
    }

    #[test]
    fn every_watched_table_of_this_schema_bears_its_triggers() {
        let mut connection = Connection::open_in_memory().unwrap();
        crate::store::migrate::run(&mut connection).unwrap();
        watch(&connection).unwrap();
        let triggers: i64 =
            connection.query_row("SELECT count(*) FROM temp.sqlite_master WHERE type = 'trigger'", [], |row| row.get(0)).unwrap();
        let there = WATCHED.iter().filter(|(table, ..)| connection.table_exists(Some("main"), table).unwrap()).count();
        assert!(there >= 10);
        assert_eq!(usize::try_from(triggers), Ok(there * 3 + TOKEN_ENDS.len()));
    }
}
