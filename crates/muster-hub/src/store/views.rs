//! Saved views of the device list: shared ones, and everybody's own.

use muster_proto::api::View;
use muster_proto::id::OrgId;
use muster_proto::problem::Code;
use rusqlite::{Connection, Row, Transaction, params};

use super::{Result, problem};

/// Most views that an organization shares, and that one person keeps there.
const VIEWS_MAX: i64 = 200;

/// A view with its number.
pub(crate) struct ViewRow {
    pub(crate) id: i64,
    pub(crate) view: View,
}

fn view(row: &Row<'_>) -> rusqlite::Result<Result<ViewRow>> {
    let columns: String = row.get(5)?;
    let (id, shared, name) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (filter, sort, changed_by, changed_at) = (row.get(3)?, row.get(4)?, row.get(6)?, row.get(7)?);
    Ok((|| {
        let columns = serde_json::from_str(&columns)?;
        Ok(ViewRow { id, view: View { name, shared, filter, sort, columns, changed_by, changed_at } })
    })())
}

/// The views that an account sees: its own before the shared ones, each by name.
pub(crate) fn list(connection: &Connection, org: &OrgId, account: i64) -> Result<Vec<ViewRow>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, account IS NULL, name, filter, sort, columns, changed_by, changed_at FROM views
         WHERE org = ?1 AND (account IS NULL OR account = ?2) ORDER BY account IS NULL, name",
    )?;
    let rows = statement.query_map(params![org.as_str(), account], view)?;
    rows.map(|row| row?).collect()
}

/// Saves a new view.
pub(crate) fn insert(tx: &Transaction<'_>, org: &OrgId, account: i64, view: &View) -> Result<()> {
    let of = (!view.shared).then_some(account);
    let count: i64 = tx
        .prepare_cached("SELECT count(*) FROM views WHERE org = ?1 AND account IS ?2")?
        .query_row(params![org.as_str(), of], |row| row.get(0))?;
    if count >= VIEWS_MAX {
        return Err(problem(
            Code::Conflict,
            format!("there are {VIEWS_MAX} views already, which is as many as there may be; delete one first"),
        ));
    }
    is_free(tx, org, of, &view.name, 0)?;
    tx.prepare_cached(
        "INSERT INTO views (org, account, name, filter, sort, columns, changed_by, changed_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        org.as_str(),
        of,
        view.name,
        view.filter,
        view.sort,
        serde_json::to_string(&view.columns)?,
        view.changed_by,
        view.changed_at
    ])?;
    Ok(())
}

/// Changes a view.
pub(crate) fn update(tx: &Transaction<'_>, org: &OrgId, account: i64, id: i64, view: &View) -> Result<()> {
    is_free(tx, org, (!view.shared).then_some(account), &view.name, id)?;
    tx.prepare_cached("UPDATE views SET name = ?2, filter = ?3, sort = ?4, columns = ?5, changed_by = ?6, changed_at = ?7 WHERE id = ?1")?
        .execute(params![id, view.name, view.filter, view.sort, serde_json::to_string(&view.columns)?, view.changed_by, view.changed_at])?;
    Ok(())
}

fn is_free(tx: &Transaction<'_>, org: &OrgId, of: Option<i64>, name: &str, but: i64) -> Result<()> {
    let mut statement =
        tx.prepare_cached("SELECT EXISTS (SELECT 1 FROM views WHERE org = ?1 AND account IS ?2 AND name = ?3 AND id != ?4)")?;
    if statement.query_row(params![org.as_str(), of, name, but], |row| row.get(0))? {
        let whose = if of.is_some() { "you have" } else { "there is" };
        return Err(problem(Code::Exists, format!("name: {whose} a view {name:?} already; choose another name, or change that one")));
    }
    Ok(())
}

/// Deletes a view.
pub(crate) fn delete(tx: &Transaction<'_>, id: i64) -> Result<()> {
    tx.prepare_cached("DELETE FROM views WHERE id = ?1")?.execute([id])?;
    Ok(())
}
