//! Everything that gives roles in an organization, as the tables have it.

use std::collections::HashMap;

use muster_proto::Millis;
use muster_proto::api::{OrgRole, ProjectRole, Visibility};
use muster_proto::id::{OrgId, ProjectId};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::Result;
use super::orgs::{parse_org_role, parse_project_role};

/// An organization: its projects by id, and who was given what.
#[derive(Debug)]
pub(crate) struct OfOrg {
    pub name: String,
    pub created_at: Millis,
    pub projects: Vec<Project>,
    pub accounts: HashMap<i64, OfAccount>,
    /// By team.
    pub teams: HashMap<String, Vec<(ProjectId, ProjectRole)>>,
}

/// A project.
#[derive(Debug)]
pub(crate) struct Project {
    pub id: ProjectId,
    pub name: String,
    pub visibility: Visibility,
    pub created_at: Millis,
    pub archived: bool,
}

/// What one account was given.
#[derive(Debug, Default)]
pub(crate) struct OfAccount {
    pub role: Option<OrgRole>,
    pub projects: Vec<(ProjectId, ProjectRole)>,
    pub teams: Vec<String>,
}

/// The ids of all organizations.
pub(crate) fn orgs(db: &Connection) -> Result<Vec<OrgId>> {
    let mut statement = db.prepare_cached("SELECT id FROM orgs")?;
    let mut rows = statement.query([])?;
    let mut orgs = Vec::new();
    while let Some(row) = rows.next()? {
        orgs.push(row.get::<_, String>(0)?.parse()?);
    }
    Ok(orgs)
}

/// The ids of an organization's projects.
pub(crate) fn projects(db: &Connection, org: &OrgId) -> Result<Vec<String>> {
    let mut statement = db.prepare_cached("SELECT id FROM projects WHERE org = ?1")?;
    let rows = statement.query_map([org.as_str()], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// An organization, with what all were given or one account alone; `None` if there is none of this id.
pub(crate) fn of_org(db: &Connection, org: &OrgId, only: Option<i64>) -> Result<Option<OfOrg>> {
    let mut statement = db.prepare_cached("SELECT name, created_at FROM orgs WHERE id = ?1")?;
    let found = statement.query_row([org.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((name, created_at)) = found else { return Ok(None) };
    let mut projects = Vec::new();
    let mut statement =
        db.prepare_cached("SELECT id, name, visibility, created_at, archived_at IS NOT NULL FROM projects WHERE org = ?1 ORDER BY id")?;
    let mut rows = statement.query([org.as_str()])?;
    while let Some(row) = rows.next()? {
        let (id, visibility): (String, String) = (row.get(0)?, row.get(2)?);
        let visibility = if visibility == "private" { Visibility::Private } else { Visibility::Internal };
        projects.push(Project { id: id.parse()?, name: row.get(1)?, visibility, created_at: row.get(3)?, archived: row.get(4)? });
    }
    let mut teams: HashMap<String, Vec<_>> = HashMap::new();
    let mut statement = db.prepare_cached("SELECT team, project, role FROM project_teams WHERE org = ?1")?;
    let mut rows = statement.query([org.as_str()])?;
    while let Some(row) = rows.next()? {
        teams.entry(row.get(0)?).or_default().push(in_project(row.get(1)?, row.get(2)?)?);
    }
    let (from, to) = only.map_or((i64::MIN, i64::MAX), |account| (account, account));
    Ok(Some(OfOrg { name, created_at, projects, accounts: given(db, org, from, to)?, teams }))
}

/// What one account was given in an organization.
pub(crate) fn of_account(db: &Connection, org: &OrgId, account: i64) -> Result<OfAccount> {
    Ok(given(db, org, account, account)?.remove(&account).unwrap_or_default())
}

fn given(db: &Connection, org: &OrgId, from: i64, to: i64) -> Result<HashMap<i64, OfAccount>> {
    let mut accounts: HashMap<i64, OfAccount> = HashMap::new();
    let these = params![org.as_str(), from, to];
    let mut statement = db.prepare_cached("SELECT account, role FROM members WHERE org = ?1 AND account BETWEEN ?2 AND ?3")?;
    let mut rows = statement.query(these)?;
    while let Some(row) = rows.next()? {
        accounts.entry(row.get(0)?).or_default().role = Some(parse_org_role(&row.get::<_, String>(1)?)?);
    }
    let mut statement =
        db.prepare_cached("SELECT account, project, role FROM participants WHERE org = ?1 AND account BETWEEN ?2 AND ?3")?;
    let mut rows = statement.query(these)?;
    while let Some(row) = rows.next()? {
        accounts.entry(row.get(0)?).or_default().projects.push(in_project(row.get(1)?, row.get(2)?)?);
    }
    let mut statement = db.prepare_cached("SELECT account, team FROM team_members WHERE org = ?1 AND account BETWEEN ?2 AND ?3")?;
    let mut rows = statement.query(these)?;
    while let Some(row) = rows.next()? {
        accounts.entry(row.get(0)?).or_default().teams.push(row.get(1)?);
    }
    Ok(accounts)
}

#[allow(clippy::needless_pass_by_value, reason = "as a row gives them")]
fn in_project(project: String, role: String) -> Result<(ProjectId, ProjectRole)> {
    Ok((project.parse()?, parse_project_role(&role)?))
}
