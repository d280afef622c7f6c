//! Service accounts: accounts that belong to an organization's programs.

use muster_proto::Millis;
use muster_proto::api::ServiceAccount;
use muster_proto::id::OrgId;
use muster_proto::problem::Code;
use rusqlite::{Connection, Transaction, params};

use super::orgs::parse_org_role;
use super::{Result, accounts, limits, problem};

/// Makes one, or takes up the row of one that was deleted: its name stands in the records already.
pub(crate) fn create(
    tx: &Transaction<'_>,
    org: &OrgId,
    name: &str,
    email: &str,
    description: Option<&str>,
    by: &str,
    now: Millis,
) -> Result<i64> {
    if let Some(present) = accounts::by_email(tx, email)? {
        if present.closed_at.is_none() {
            return Err(problem(Code::Exists, format!("{org} has a service account {name} already; choose another name")));
        }
        limits::check_newcomer(tx, org, email)?;
        // The new one begins with nothing, whatever was left to the one of before.
        for table in ["members", "participants", "team_members", "access_tokens"] {
            tx.prepare_cached(&format!("DELETE FROM {table} WHERE account = ?1"))?.execute([present.id])?;
        }
        tx.prepare_cached("UPDATE accounts SET closed_at = NULL, description = ?2, created_by = ?3, created_at = ?4 WHERE id = ?1")?
            .execute(params![present.id, description, by, now])?;
        return Ok(present.id);
    }
    limits::check_newcomer(tx, org, email)?;
    tx.prepare_cached(
        "INSERT INTO accounts (email, name, kind, org, description, created_by, created_at) VALUES (?1, ?2, 'service', ?3, ?4, ?5, ?6)",
    )?
    .execute(params![email, name, org.as_str(), description, by, now])?;
    Ok(tx.last_insert_rowid())
}

/// Those of an organization, by name.
pub(crate) fn list(connection: &Connection, org: &OrgId, now: Millis) -> Result<Vec<ServiceAccount>> {
    let mut statement = connection.prepare_cached(
        "SELECT a.name, a.email, a.description, m.role, count(t.id) FILTER (WHERE t.expires_at > ?2), max(t.used_at), a.created_by, a.created_at
         FROM accounts a LEFT JOIN members m ON m.account = a.id AND m.org = a.org LEFT JOIN access_tokens t ON t.account = a.id
         WHERE a.org = ?1 AND a.kind = 'service' AND a.closed_at IS NULL GROUP BY a.id ORDER BY a.name",
    )?;
    let mut rows = statement.query(params![org.as_str(), now])?;
    let mut list = Vec::new();
    while let Some(row) = rows.next()? {
        list.push(ServiceAccount {
            name: row.get(0)?,
            email: row.get(1)?,
            description: row.get(2)?,
            role: row.get::<_, Option<String>>(3)?.as_deref().map(parse_org_role).transpose()?,
            tokens: row.get(4)?,
            used_at: row.get(5)?,
            created_by: row.get::<_, Option<String>>(6)?.unwrap_or_default(),
            created_at: row.get(7)?,
        });
    }
    Ok(list)
}
