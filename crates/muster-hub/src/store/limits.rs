//! How much of something an organization may have, checked in the transaction that adds.
//!
//! Three numbers: the hub's configuration for all, what an owner of the hub set for one organization in its place, and what an owner
//! of the organization set for their own. The least of the second (or else the first) and the third counts.
//! What is there already is never taken away by a limit that was lowered.

use muster_proto::api::{Limit, LimitName, LimitScope};
use muster_proto::id::{DeviceUid, OrgId};
use muster_proto::problem::{Code, Problem};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{Error, Result};

/// Refuses to add `more` where that would go over a limit.
///
/// # Errors
/// `limit_reached`, with which limit, how much is used, and who can raise it.
pub fn check(tx: &Transaction<'_>, org: &OrgId, name: LimitName, more: u64) -> Result<()> {
    match refusal(tx, org, name, more)? {
        Some(problem) => Err(Error::Problem(problem)),
        None => Ok(()),
    }
}

/// [`check`] for whoever has to record the refusal in the same transaction.
///
/// # Errors
/// When the database fails.
pub fn refusal(connection: &Connection, org: &OrgId, name: LimitName, more: u64) -> Result<Option<Problem>> {
    let limit = set(connection, org, name)?;
    let Some(most) = limit.most else { return Ok(None) };
    let used = used(connection, org, name)?;
    if more == 0 || used.saturating_add(more) <= most {
        return Ok(None);
    }
    Ok(Some(Problem::new(Code::LimitReached, sentence(org, &Limit { used, ..limit }, most, more))))
}

/// Every limit of an organization, with what is used.
///
/// # Errors
/// When the database fails.
pub fn all(connection: &Connection, org: &OrgId) -> Result<Vec<Limit>> {
    let limits = LimitName::ALL.into_iter().map(|name| Ok(Limit { used: used(connection, org, name)?, ..set(connection, org, name)? }));
    limits.collect()
}

/// The organizations that store as much as they may, and their devices.
///
/// # Errors
/// When the database fails.
pub(crate) fn full(connection: &Connection) -> Result<Vec<(OrgId, Vec<DeviceUid>)>> {
    if !connection.prepare_cached("SELECT 1 FROM limits WHERE name = 'storage'")?.exists([])? {
        return Ok(Vec::new());
    }
    let mut orgs = connection.prepare_cached("SELECT id FROM orgs ORDER BY id")?;
    let mut devices = connection.prepare_cached("SELECT uid FROM devices WHERE org = ?1")?;
    let mut full = Vec::new();
    for id in orgs.query_map([], |row| row.get::<_, String>(0))? {
        let org: OrgId = id?.parse()?;
        let Some(most) = set(connection, &org, LimitName::Storage)?.most else { continue };
        if used(connection, &org, LimitName::Storage)? >= most {
            let uids = devices.query_map([org.as_str()], |row| row.get::<_, String>(0))?;
            let uids = uids.map(|uid| Ok(uid?.parse()?)).collect::<Result<_>>()?;
            full.push((org, uids));
        }
    }
    Ok(full)
}

/// Sets or lifts a limit of an organization.
///
/// # Errors
/// When the database fails.
pub fn put(tx: &Transaction<'_>, org: &OrgId, scope: LimitScope, name: LimitName, most: Option<u64>) -> Result<()> {
    let scope = match scope {
        LimitScope::Own => "own",
        LimitScope::Hub => "hub",
    };
    write(tx, org.as_str(), scope, name, most)
}

/// Takes over what the configuration says for all organizations.
///
/// # Errors
/// When the database fails.
pub fn put_default(tx: &Transaction<'_>, name: LimitName, most: Option<u64>) -> Result<()> {
    write(tx, "", "default", name, most)
}

fn write(tx: &Transaction<'_>, org: &str, scope: &str, name: LimitName, most: Option<u64>) -> Result<()> {
    match most {
        Some(most) => tx
            .prepare_cached("INSERT INTO limits VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET most = ?4 WHERE most != ?4")?
            .execute(params![org, scope, name.as_str(), i64::try_from(most).unwrap_or(i64::MAX)])?,
        None => {
            tx.prepare_cached("DELETE FROM limits WHERE org = ?1 AND scope = ?2 AND name = ?3")?.execute([org, scope, name.as_str()])?
        }
    };
    Ok(())
}

/// The limit, with nothing said of what is used.
fn set(connection: &Connection, org: &OrgId, name: LimitName) -> Result<Limit> {
    let one = |org: &str, scope: &str| -> Result<Option<u64>> {
        let mut statement = connection.prepare_cached("SELECT most FROM limits WHERE org = ?1 AND scope = ?2 AND name = ?3")?;
        let most: Option<i64> = statement.query_row([org, scope, name.as_str()], |row| row.get(0)).optional()?;
        Ok(most.map(i64::unsigned_abs))
    };
    let (instead, own) = (one(org.as_str(), "hub")?, one(org.as_str(), "own")?);
    let hub = match instead {
        Some(most) => Some(most),
        None => one("", "default")?,
    };
    let most = [hub, own].into_iter().flatten().min();
    Ok(Limit { name, most, used: 0, hub, hub_override: instead.is_some(), own })
}

/// Accounts in the organization, each once, and e-mails that were invited and may still come.
const USERS: &str = "SELECT count(*) FROM (
     SELECT a.email FROM members m JOIN accounts a ON a.id = m.account WHERE m.org = ?1
     UNION SELECT a.email FROM participants p JOIN accounts a ON a.id = p.account WHERE p.org = ?1
     UNION SELECT a.email FROM team_members t JOIN accounts a ON a.id = t.account WHERE t.org = ?1
     UNION SELECT email FROM accounts WHERE org = ?1 AND kind = 'service' AND closed_at IS NULL
     UNION SELECT email FROM invitations
         WHERE org = ?1 AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > unixepoch('subsec') * 1000)";

/// [`check`] for somebody who comes into the organization, by the e-mail: whoever is counted already needs no place.
///
/// # Errors
/// `limit_reached`.
pub fn check_newcomer(tx: &Transaction<'_>, org: &OrgId, email: &str) -> Result<()> {
    let counted = format!("{USERS} WHERE email = ?2");
    let known: i64 = tx.prepare_cached(&counted)?.query_row([org.as_str(), email], |row| row.get(0))?;
    if known > 0 { Ok(()) } else { check(tx, org, LimitName::Users, 1) }
}

/// How much of it an organization has now.
fn used(connection: &Connection, org: &OrgId, name: LimitName) -> Result<u64> {
    let sql = match name {
        LimitName::Devices => "SELECT count(*) FROM devices WHERE org = ?1",
        LimitName::Users => USERS,
        LimitName::Projects => "SELECT count(*) FROM projects WHERE org = ?1 AND archived_at IS NULL",
        LimitName::Sessions => "SELECT count(*) FROM sessions WHERE ended_at IS NULL AND org = ?1",
        LimitName::Runs => "SELECT count(*) FROM runs WHERE state IN ('waiting', 'running') AND org = ?1",
        LimitName::Storage => {
            "SELECT CAST((SELECT total(b.bytes) FROM usage_boots b JOIN devices d ON d.uid = b.uid WHERE d.org = ?1)
                  + (SELECT total(e.bytes) FROM event_sizes e JOIN devices d ON d.uid = e.uid WHERE d.org = ?1)
                  + (SELECT total(kept) FROM runs WHERE kept > 0 AND org = ?1) AS INTEGER)"
        }
    };
    Ok(connection.prepare_cached(sql)?.query_row([org.as_str()], |row| row.get::<_, i64>(0))?.unsigned_abs())
}

fn sentence(org: &OrgId, limit: &Limit, most: u64, more: u64) -> String {
    let (used, name) = (limit.used, limit.name.as_str());
    let what = match limit.name {
        LimitName::Devices => "devices on its list",
        LimitName::Users => "users (members, collaborators, service accounts, waiting invitations)",
        LimitName::Projects => "projects that are not archived",
        LimitName::Sessions => "sessions at the same time",
        LimitName::Runs => "runs at the same time",
        LimitName::Storage => "bytes stored",
    };
    let wanted = if more == 1 { String::new() } else { format!(", and {more} more were asked for") };
    let number = if limit.name == LimitName::Storage { "SIZE" } else { "NUMBER" };
    let who = if limit.own == Some(most) && limit.hub.is_none_or(|hub| hub > most) {
        format!("an owner of {org} set this limit and can raise it: muster limit set {name} {number}")
    } else {
        format!("only an owner of the hub can raise it: muster limit set {name} {number} --hub-owner --org {org}")
    };
    format!("limit reached: {org} may have {most} {what} and has {used}{wanted}; {who}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    #[test]
    fn the_least_counts_and_the_sentence_says_who_raises_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("hub.db")).unwrap();
        let acme: OrgId = "acme".parse().unwrap();
        store.write_blocking(|tx| Ok(tx.execute("INSERT INTO orgs (id, name, created_at) VALUES ('acme', 'Acme', 0)", [])?)).unwrap();
        let sql = "INSERT INTO projects (org, id, name, visibility, created_at, archived_at) VALUES ('acme', ?1, ?1, 'internal', 0, ?2)";
        for (id, archived) in [("one", None), ("two", None), ("old", Some(1))] {
            store.write_blocking(move |tx| Ok(tx.execute(sql, params![id, archived])?)).unwrap();
        }
        let set = |scope: Option<LimitScope>, most: Option<u64>| {
            let org = acme.clone();
            let work = move |tx: &Transaction<'_>| match scope {
                Some(scope) => put(tx, &org, scope, LimitName::Projects, most),
                None => put_default(tx, LimitName::Projects, most),
            };
            store.write_blocking(work).unwrap();
        };
        let check = |more| {
            let org = acme.clone();
            store.write_blocking(move |tx| refusal(tx, &org, LimitName::Projects, more)).unwrap().map(|problem| problem.detail)
        };
        assert_eq!(check(1_000_000), None);
        set(None, Some(2));
        let told = check(1).unwrap();
        assert!(told.contains("may have 2 projects") && told.contains("has 2;") && told.contains("owner of the hub"), "{told}");
        assert_eq!(check(0), None, "who adds nothing is not refused");
        set(Some(LimitScope::Hub), Some(10));
        assert_eq!(check(8), None);
        assert!(check(9).unwrap().contains("9 more were asked for"));
        set(Some(LimitScope::Own), Some(1));
        let told = check(1).unwrap();
        assert!(told.contains("may have 1 projects") && told.contains("an owner of acme set this limit"), "{told}");
        set(Some(LimitScope::Own), Some(50));
        assert!(check(9).unwrap().contains("owner of the hub"), "nobody gives himself more than the hub allows");
        set(Some(LimitScope::Hub), None);
        set(Some(LimitScope::Own), None);
        assert!(check(1).is_some(), "the configuration's counts again");
        set(None, None);
        assert_eq!(check(1), None);
    }
}
