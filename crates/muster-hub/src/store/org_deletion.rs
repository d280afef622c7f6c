//! The end of an organization: what stands in its way, and what goes with it.
//!
//! What goes is read from the schema: each row of each table that names the organization, children before parents, so that a table
//! that comes later is not forgotten. What has no column for the organization hangs on something that has.

use std::collections::BTreeSet;

use muster_proto::Millis;
use muster_proto::id::OrgId;
use rusqlite::{Connection, Transaction, params};

use super::{Error, Result};

/// What stays, under an id that is never given again: the records of what was done and what it cost, and the keys of its former
/// devices, whose use still raises an alarm.
const KEPT: [&str; 6] = ["audit", "ledger", "usage_days", "charges", "device_keys", "deleted_orgs"];

/// What stands in the way, in words; empty when nothing does. `owner` is whoever asks.
pub(crate) fn obstacles(connection: &Connection, org: &OrgId, owner: i64) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for (sql, one, many, way) in [
        ("SELECT count(*) FROM devices WHERE org = ?1 AND ?2 IS NOT NULL", "device", "devices", "delete them: muster device delete"),
        (
            "SELECT count(*) FROM projects WHERE org = ?1 AND archived_at IS NULL AND ?2 IS NOT NULL",
            "project that is not archived",
            "projects that are not archived",
            "archive them: muster project archive",
        ),
        (
            "SELECT count(*) FROM sessions WHERE org = ?1 AND ended_at IS NULL AND ?2 IS NOT NULL",
            "live session",
            "live sessions",
            "end them: muster session end",
        ),
        (
            "SELECT count(*) FROM runs WHERE org = ?1 AND state IN ('waiting', 'running') AND ?2 IS NOT NULL",
            "run that has not ended",
            "runs that have not ended",
            "cancel them: muster run cancel",
        ),
        (
            "SELECT count(*) FROM members m JOIN accounts a ON a.id = m.account WHERE m.org = ?1 AND m.account != ?2 AND a.kind = 'person'",
            "other member",
            "other members",
            "remove them: muster member remove",
        ),
        (
            "SELECT count(DISTINCT p.account) FROM (SELECT account FROM participants WHERE org = ?1 UNION SELECT account FROM team_members
             WHERE org = ?1) p JOIN accounts a ON a.id = p.account
             WHERE a.kind = 'person' AND p.account != ?2 AND NOT EXISTS (SELECT 1 FROM members m WHERE m.org = ?1 AND m.account = p.account)",
            "collaborator",
            "collaborators",
            "remove them: muster member remove",
        ),
        (
            "SELECT count(*) FROM invitations WHERE org = ?1 AND accepted_at IS NULL AND revoked_at IS NULL
             AND expires_at > unixepoch('subsec') * 1000 AND ?2 IS NOT NULL",
            "waiting invitation",
            "waiting invitations",
            "revoke them: muster invitation revoke",
        ),
    ] {
        let count: i64 = connection.prepare_cached(sql)?.query_row(params![org.as_str(), owner], |row| row.get(0))?;
        if count > 0 {
            found.push(format!("{count} {} ({way})", if count == 1 { one } else { many }));
        }
    }
    Ok(found)
}

/// Deletes an organization with all that is its own. Its id is never given again.
pub(crate) fn delete(tx: &Transaction<'_>, org: &OrgId, by: &str, now: Millis) -> Result<()> {
    for table in tables_of_an_org(tx)? {
        tx.execute(&format!("DELETE FROM \"{table}\" WHERE org = ?1"), [org.as_str()])?;
    }
    tx.execute("DELETE FROM orgs WHERE id = ?1", [org.as_str()])?;
    tx.execute("INSERT INTO deleted_orgs (id, deleted_at, deleted_by) VALUES (?1, ?2, ?3)", params![org.as_str(), now, by])?;
    Ok(())
}

/// Tables with rows of organizations, each before those that it refers to.
fn tables_of_an_org(connection: &Connection) -> Result<Vec<String>> {
    let mut statement = connection.prepare(
        "SELECT m.name FROM sqlite_master m WHERE m.type = 'table' AND EXISTS (SELECT 1 FROM pragma_table_info(m.name) c WHERE c.name = 'org')
         ORDER BY m.name",
    )?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
    let mut waiting: Vec<(String, BTreeSet<String>)> = Vec::new();
    for name in names.into_iter().filter(|name| !KEPT.contains(&name.as_str())) {
        let mut statement = connection.prepare("SELECT \"table\" FROM pragma_foreign_key_list(?1)")?;
        let refers = statement.query_map([&name], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        waiting.push((name, refers));
    }
    let mut order = Vec::new();
    while !waiting.is_empty() {
        // Next is whatever none of the others refers to.
        let free = waiting.iter().position(|(name, _)| !waiting.iter().any(|(other, refers)| other != name && refers.contains(name)));
        let free = free.ok_or_else(|| Error::Corrupt { what: "schema", why: "tables refer to each other in a circle".to_owned() })?;
        order.push(waiting.remove(free).0);
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::migrate;

    fn database() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate::run(&mut connection).unwrap();
        connection
    }

    #[test]
    fn children_go_before_their_parents() {
        let db = database();
        let order = tables_of_an_org(&db).unwrap();
        let at = |name: &str| order.iter().position(|table| table == name).unwrap_or_else(|| panic!("{name} in {order:?}"));
        assert!(order.len() >= 15, "{order:?}");
        for (child, parent) in [
            ("participants", "projects"),
            ("project_teams", "teams"),
            ("team_members", "accounts"),
            ("members", "accounts"),
            ("device_projects", "devices"),
            ("invitations", "projects"),
        ] {
            assert!(at(child) < at(parent), "{child} {parent}: {order:?}");
        }
        assert!(KEPT.iter().all(|kept| !order.iter().any(|table| table == kept)));
    }

    /// A table that knows of an organization by another way than a column `org` or a row that has one would keep what it should not.
    #[test]
    fn every_table_is_the_hubs_own_or_goes_with_the_organization() {
        let db = database();
        let of_the_hub = [
            // Of the hub, of people, or without a word of whose it is.
            "access_tokens",
            "accounts",
            "meta",
            "migrations",
            "identities",
            "oidc_logins",
            "login_codes",
            "device_logins",
            "orgs",
            "rates",
            "usage_keys",
            "sqlite_sequence",
            "sqlite_stat1",
            "sqlite_stat4",
            // Removed in slices once their device is gone, as samples are many.
            "usage_boots",
            "usage_columns",
            "usage_samples",
            // Of living sessions only.
            "session_meters",
        ];
        let with_org: BTreeSet<String> = tables_of_an_org(&db).unwrap().into_iter().collect();
        let mut statement = db.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").unwrap();
        let names: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap();
        let mut looked = 0;
        for name in &names {
            looked += 1;
            let known = with_org.contains(name) || KEPT.contains(&name.as_str()) || of_the_hub.contains(&name.as_str());
            let cascades = || {
                let mut statement = db.prepare("SELECT \"table\", on_delete FROM pragma_foreign_key_list(?1)").unwrap();
                let parents = statement.query_map([name], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
                parents.map(|row| row.unwrap()).any(|(parent, action)| action == "CASCADE" && with_org.contains(&parent))
            };
            assert!(known || cascades(), "{name}: what happens to its rows when their organization is deleted?");
        }
        assert!(looked >= 30, "{names:?}");
    }
}
