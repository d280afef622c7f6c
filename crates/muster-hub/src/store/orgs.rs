//! Organizations, members, projects, participants.

use muster_proto::Millis;
use muster_proto::api::{Member, Org, OrgRole, Participant, ProjectRole, Visibility};
use muster_proto::id::{OrgId, ProjectId};
use muster_proto::problem::Code;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{Error, Result, problem};

fn parse_org_role(text: &str) -> Result<OrgRole> {
    [OrgRole::Owner, OrgRole::Member, OrgRole::Viewer]
        .into_iter()
        .find(|role| role.as_str() == text)
        .ok_or_else(|| Error::Corrupt { what: "role", why: text.to_owned() })
}

fn parse_project_role(text: &str) -> Result<ProjectRole> {
    [ProjectRole::Admin, ProjectRole::Maintain, ProjectRole::Operate, ProjectRole::Connect, ProjectRole::View]
        .into_iter()
        .find(|role| role.as_str() == text)
        .ok_or_else(|| Error::Corrupt { what: "role", why: text.to_owned() })
}

fn visibility_text(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Private => "private",
        Visibility::Internal => "internal",
    }
}

/// What one account has in one organization.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub name: String,
    pub created_at: Millis,
    pub role: Option<OrgRole>,
    pub projects: Vec<ProjectStanding>,
}

/// A project, with what one account was given in it.
#[derive(Debug, Clone)]
pub(crate) struct ProjectStanding {
    pub id: ProjectId,
    pub name: String,
    pub visibility: Visibility,
    pub created_at: Millis,
    pub archived: bool,
    pub participant: Option<ProjectRole>,
}

/// Reads what an account has in an organization; `None` if there is no such organization.
pub(crate) fn standing(connection: &Connection, org: &OrgId, account: i64) -> Result<Option<Standing>> {
    let mut statement = connection.prepare_cached(
        "SELECT o.name, o.created_at, m.role FROM orgs o LEFT JOIN members m ON m.org = o.id AND m.account = ?2 WHERE o.id = ?1",
    )?;
    let found = statement
        .query_row(params![org.as_str(), account], |row| Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<String>>(2)?)))
        .optional()?;
    let Some((name, created_at, role)) = found else { return Ok(None) };
    let mut statement = connection.prepare_cached(
        "SELECT p.id, p.name, p.visibility, p.created_at, p.archived_at IS NOT NULL, a.role FROM projects p
         LEFT JOIN participants a ON a.org = p.org AND a.project = p.id AND a.account = ?2 WHERE p.org = ?1 ORDER BY p.id",
    )?;
    let mut rows = statement.query(params![org.as_str(), account])?;
    let mut projects = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, visibility, participant): (String, String, Option<String>) = (row.get(0)?, row.get(2)?, row.get(5)?);
        projects.push(ProjectStanding {
            id: id.parse()?,
            name: row.get(1)?,
            visibility: if visibility == "private" { Visibility::Private } else { Visibility::Internal },
            created_at: row.get(3)?,
            archived: row.get(4)?,
            participant: participant.as_deref().map(parse_project_role).transpose()?,
        });
    }
    Ok(Some(Standing { name, created_at, role: role.as_deref().map(parse_org_role).transpose()?, projects }))
}

/// The organizations that an account belongs to or collaborates in.
pub(crate) fn of_account(connection: &Connection, account: i64) -> Result<Vec<Org>> {
    let mut statement = connection.prepare_cached(
        "SELECT o.id, o.name, o.created_at, m.role FROM orgs o LEFT JOIN members m ON m.org = o.id AND m.account = ?1
         WHERE m.role IS NOT NULL OR EXISTS (SELECT 1 FROM participants p WHERE p.account = ?1 AND p.org = o.id) ORDER BY o.id",
    )?;
    let mut rows = statement.query([account])?;
    let mut orgs = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, role): (String, Option<String>) = (row.get(0)?, row.get(3)?);
        orgs.push(Org {
            id: id.parse()?,
            name: row.get(1)?,
            role: role.as_deref().map(parse_org_role).transpose()?,
            created_at: row.get(2)?,
        });
    }
    Ok(orgs)
}

/// Makes an organization with its first owner.
pub(crate) fn create(tx: &Transaction<'_>, org: &OrgId, name: &str, owner: i64, now: Millis) -> Result<()> {
    let made = tx.prepare_cached("INSERT OR IGNORE INTO orgs (id, name, created_at) VALUES (?1, ?2, ?3)")?.execute(params![
        org.as_str(),
        name,
        now
    ])?;
    if made == 0 {
        return Err(problem(Code::Exists, format!("an organization {org} exists already; choose another id")));
    }
    set_member(tx, org, owner, OrgRole::Owner, now)
}

/// Members of an organization, by e-mail.
pub(crate) fn members(connection: &Connection, org: &OrgId) -> Result<Vec<Member>> {
    let mut statement = connection.prepare_cached(
        "SELECT a.email, a.name, m.role, m.since FROM members m JOIN accounts a ON a.id = m.account WHERE m.org = ?1 ORDER BY a.email",
    )?;
    let mut rows = statement.query([org.as_str()])?;
    let mut members = Vec::new();
    while let Some(row) = rows.next()? {
        members.push(Member {
            email: row.get(0)?,
            name: row.get(1)?,
            role: parse_org_role(&row.get::<_, String>(2)?)?,
            since: row.get(3)?,
        });
    }
    Ok(members)
}

/// Makes an account a member, or changes its role. The last owner stays one.
pub(crate) fn set_member(tx: &Transaction<'_>, org: &OrgId, account: i64, role: OrgRole, now: Millis) -> Result<()> {
    if role != OrgRole::Owner {
        keep_an_owner(tx, org, account)?;
    }
    tx.prepare_cached(
        "INSERT INTO members (org, account, role, since) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (org, account) DO UPDATE SET role = ?3",
    )?
    .execute(params![org.as_str(), account, role.as_str(), now])?;
    Ok(())
}

/// Takes an account out of an organization and out of all its projects, and says whether it was a member.
pub(crate) fn remove_member(tx: &Transaction<'_>, org: &OrgId, account: i64) -> Result<bool> {
    keep_an_owner(tx, org, account)?;
    tx.prepare_cached("DELETE FROM participants WHERE org = ?1 AND account = ?2")?.execute(params![org.as_str(), account])?;
    Ok(tx.prepare_cached("DELETE FROM members WHERE org = ?1 AND account = ?2")?.execute(params![org.as_str(), account])? == 1)
}

fn keep_an_owner(tx: &Transaction<'_>, org: &OrgId, without: i64) -> Result<()> {
    let mut statement = tx.prepare_cached(
        "SELECT NOT EXISTS (SELECT 1 FROM members WHERE org = ?1 AND role = 'owner' AND account != ?2)
             AND EXISTS (SELECT 1 FROM members WHERE org = ?1 AND role = 'owner' AND account = ?2)",
    )?;
    if statement.query_row(params![org.as_str(), without], |row| row.get(0))? {
        return Err(problem(Code::Conflict, format!("this is the last owner of {org}; make somebody else an owner first")));
    }
    Ok(())
}

/// Makes a project.
pub(crate) fn create_project(
    tx: &Transaction<'_>,
    org: &OrgId,
    project: &ProjectId,
    name: &str,
    visibility: Visibility,
    now: Millis,
) -> Result<()> {
    let made = tx
        .prepare_cached("INSERT OR IGNORE INTO projects (org, id, name, visibility, created_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![org.as_str(), project.as_str(), name, visibility_text(visibility), now])?;
    if made == 0 {
        return Err(problem(Code::Exists, format!("a project {project} exists already in {org}; choose another id")));
    }
    Ok(())
}

/// The uids of a project's devices.
pub(crate) fn project_devices(connection: &Connection, org: &OrgId, project: &ProjectId) -> Result<Vec<String>> {
    let mut statement = connection.prepare_cached("SELECT uid FROM device_projects WHERE org = ?1 AND project = ?2")?;
    let rows = statement.query_map([org.as_str(), project.as_str()], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Whether a project is there and not archived.
pub(crate) fn project_is_open(connection: &Connection, org: &OrgId, project: &ProjectId) -> Result<bool> {
    let mut statement =
        connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM projects WHERE org = ?1 AND id = ?2 AND archived_at IS NULL)")?;
    Ok(statement.query_row([org.as_str(), project.as_str()], |row| row.get(0))?)
}

/// Participants of a project, by e-mail.
pub(crate) fn participants(connection: &Connection, org: &OrgId, project: &ProjectId) -> Result<Vec<Participant>> {
    let mut statement = connection.prepare_cached(
        "SELECT a.email, p.role FROM participants p JOIN accounts a ON a.id = p.account
         WHERE p.org = ?1 AND p.project = ?2 ORDER BY a.email",
    )?;
    let mut rows = statement.query([org.as_str(), project.as_str()])?;
    let mut participants = Vec::new();
    while let Some(row) = rows.next()? {
        participants.push(Participant { email: row.get(0)?, role: parse_project_role(&row.get::<_, String>(1)?)? });
    }
    Ok(participants)
}

/// Gives an account a role in a project, or changes it.
pub(crate) fn set_participant(
    tx: &Transaction<'_>,
    org: &OrgId,
    project: &ProjectId,
    account: i64,
    role: ProjectRole,
    now: Millis,
) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO participants (org, project, account, role, since) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (org, project, account) DO UPDATE SET role = ?4",
    )?
    .execute(params![org.as_str(), project.as_str(), account, role.as_str(), now])?;
    Ok(())
}

/// Takes an account out of a project, and says whether it was in it.
pub(crate) fn remove_participant(tx: &Transaction<'_>, org: &OrgId, project: &ProjectId, account: i64) -> Result<bool> {
    let gone = tx.prepare_cached("DELETE FROM participants WHERE org = ?1 AND project = ?2 AND account = ?3")?.execute(params![
        org.as_str(),
        project.as_str(),
        account
    ])?;
    Ok(gone == 1)
}
