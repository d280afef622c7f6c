//! A change that was made is answered as made, and recorded once, whatever others do right after it.
//!
//! In the moment between the commit and the answer somebody else takes everything: what the change was about is deleted, and who
//! made it is taken out of the organization. A handler that looks again then finds nothing, and would tell of a refusal.

use std::path::Path;
use std::sync::{Arc, Mutex};

use muster_hub::store::Result;
use muster_hub::store::touched::{Observer, Touched};
use rusqlite::Connection;

use crate::cases::{CASES, Case};
use crate::grid::{STANDINGS, Standing};
use crate::matrix::play;
use crate::records;
use crate::stage::{Stage, email};
use crate::targets::{Fresh, Target, fresh, place_of};

/// Where things that a case is about stand, by any of their names.
const THINGS: &[(&str, &str)] = &[
    ("devices", "uid"),
    ("devices", "serial"),
    ("sessions", "id"),
    ("runs", "id"),
    ("teams", "id"),
    ("fields", "key"),
    ("views", "name"),
    ("invitations", "id"),
    ("enrolment_tokens", "id"),
    ("access_tokens", "id"),
    ("accounts", "email"),
];
/// What goes on by itself is refused where the right or the device is gone before it has begun, and ended at once.
const BEGINS: [&str; 2] = ["/v1/orgs/{org}/devices/{device}/sessions", "/v1/orgs/{org}/devices/{device}/runs"];

/// Strikes once, after the commit of a change by somebody and before its answer.
struct Thief {
    db: Mutex<Connection>,
    armed: Mutex<Option<(String, i64, Vec<String>)>>,
}

impl Thief {
    fn new(path: &Path) -> Self {
        let db = Connection::open(path).unwrap();
        db.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
        db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        Self { db: Mutex::new(db), armed: Mutex::default() }
    }

    fn has_struck(&self) -> bool {
        self.armed.lock().unwrap().take().is_none()
    }
}

impl Observer for Thief {
    fn committed(&self, db: &Connection, _: &Touched) -> Result<()> {
        let mut armed = self.armed.lock().unwrap();
        let Some((actor, mark, _)) = &*armed else { return Ok(()) };
        let made = "SELECT EXISTS (SELECT 1 FROM audit WHERE actor = ?1 AND id > ?2)";
        if db.query_row(made, rusqlite::params![actor, mark], |row| row.get::<_, bool>(0))? {
            for sql in armed.take().map(|(_, _, sqls)| sqls).unwrap_or_default() {
                self.db.lock().unwrap().execute_batch(&sql)?;
            }
        }
        Ok(())
    }
}

/// Everything about a target, gone; and its actor out of the organization.
fn theft(case: &Case, target: &Target, actor: &str) -> Vec<String> {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let names: Vec<String> = target.iter().filter(|(name, _)| !["org", "project"].contains(name)).map(|(_, name)| quoted(name)).collect();
    let names = names.join(", ");
    let begins = BEGINS.contains(&case.route);
    let things = THINGS.iter().filter(|(table, _)| !(begins && *table == "devices"));
    let mut sqls: Vec<String> = things.map(|(table, name)| format!("DELETE FROM {table} WHERE {name} IN ({names})")).collect();
    sqls.push(format!("DELETE FROM projects WHERE org = 'acme' AND id IN ({names})"));
    if !begins {
        let account = format!("(SELECT id FROM accounts WHERE email = {})", quoted(actor));
        sqls.extend(["members", "participants", "team_members"].map(|table| format!("DELETE FROM {table} WHERE account = {account}")));
    }
    sqls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_is_answered_as_changed_whatever_happens_right_after() {
    let stage = Stage::new().await;
    let thief = Arc::new(Thief::new(&stage.database));
    let store = stage.running.as_ref().unwrap().state.store.clone();
    store.observe(Arc::<Thief>::clone(&thief));
    // Each record of a change is noted as something that observers are told of.
    let sql = "CREATE TEMP TRIGGER a_change AFTER INSERT ON main.audit BEGIN INSERT INTO touched VALUES ('rights', 'acme', ''); END";
    store.write(move |tx| Ok(tx.execute_batch(sql)?)).await.unwrap();
    let db = records::open(&stage.database);
    let (mut wrong, mut played) = (Vec::new(), 0);
    for (n, case) in CASES.iter().enumerate().filter(|(_, case)| case.changes() && case.but.is_none()) {
        stage.archive(false).await;
        // An owner of the organization and of the hub: may do all of it.
        let standing = Standing { name: format!("robbed-{n}").leak(), hub_owner: true, ..STANDINGS[0] };
        let caller = stage.cast(&standing).await;
        let target = fresh(&stage, case.fresh, place_of(case.fresh)).await;
        let (actor, mark) = (email(&standing), records::newest(&db));
        *thief.armed.lock().unwrap() = Some((actor.clone(), mark, theft(case, &target, &actor)));
        let answer = play(&caller, case, &target).await.unwrap();
        let name = format!("{} {} {}", case.method, case.route, case.body);
        let struck = thief.has_struck();
        let told: Vec<_> = records::events(&db, mark)
            .into_iter()
            .filter(|event| event.actor == actor && !case.also.contains(&event.action.as_str()))
            .map(|event| (event.action, event.result))
            .collect();
        // What changed nothing leaves no record, and nothing to strike at.
        if !answer.is_ok() || told.iter().any(|(_, result)| result != "ok") || told.len() != usize::from(struck) {
            wrong.push(format!("{name}: {} {}; recorded {told:?}", answer.status, answer.text()));
        }
        played += usize::from(struck);
        if case.fresh == Fresh::Archived {
            stage.archive(false).await;
        }
    }
    assert!(wrong.is_empty(), "{} of {played}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(played > 50, "{played}");
}
