//! Projects in full: what they say of themselves, their numbers, their teams, their devices, the archive.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::Millis;
use muster_proto::api::{LimitName, ProjectRole, ProjectTeam, Visibility};
use muster_proto::id::{DeviceUid, OrgId, ProjectId, TeamId};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::orgs::{parse_project_role, visibility_text};
use super::{Result, devices, limits};

/// What a project says of itself, and how much is in it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Numbers {
    pub description: Option<String>,
    pub archived_at: Option<Millis>,
    /// Living sessions in its name.
    pub sessions: u32,
    /// Runs in its name that have not ended.
    pub runs: u32,
    /// People with a role in it.
    pub members: u32,
}

/// The numbers of an organization's projects, or of one of them. Devices are counted in memory, by the registry.
pub(crate) fn numbers(connection: &Connection, org: &OrgId, only: Option<&ProjectId>) -> Result<BTreeMap<ProjectId, Numbers>> {
    let only = only.map(ProjectId::as_str);
    // Owners and, where it is internal, members are counted once; the others come from participation and teams.
    let mut statement = connection.prepare_cached(
        "SELECT p.id, p.description, p.archived_at,
             (SELECT count(*) FROM sessions s WHERE s.org = p.org AND s.project = p.id AND s.ended_at IS NULL),
             (SELECT count(*) FROM runs r WHERE r.state IN ('waiting', 'running') AND r.org = p.org AND r.project = p.id),
             (SELECT count(*) FROM members m WHERE m.org = ?1 AND (m.role = 'owner' OR p.visibility = 'internal'))
             + (SELECT count(*) FROM (
                   SELECT a.account FROM participants a WHERE a.org = p.org AND a.project = p.id
                   UNION
                   SELECT m.account FROM project_teams t JOIN team_members m ON m.org = t.org AND m.team = t.team
                   WHERE t.org = p.org AND t.project = p.id
                ) g WHERE NOT EXISTS (SELECT 1 FROM members m WHERE m.org = ?1 AND m.account = g.account
                                      AND (m.role = 'owner' OR p.visibility = 'internal')))
         FROM projects p WHERE p.org = ?1 AND (?2 IS NULL OR p.id = ?2)",
    )?;
    let mut rows = statement.query(params![org.as_str(), only])?;
    let mut numbers = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let id: ProjectId = row.get::<_, String>(0)?.parse()?;
        let (description, archived_at) = (row.get(1)?, row.get(2)?);
        let (sessions, runs, members) = (row.get(3)?, row.get(4)?, row.get(5)?);
        numbers.insert(id, Numbers { description, archived_at, sessions, runs, members });
    }
    Ok(numbers)
}

/// What changes in a project. `None` stays as it is; a description of `Some(None)` is cleared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edit {
    pub name: Option<String>,
    pub description: Option<Option<String>>,
    pub visibility: Option<Visibility>,
}

/// Changes a project's settings.
pub(crate) fn edit(tx: &Transaction<'_>, org: &OrgId, project: &ProjectId, edit: &Edit) -> Result<()> {
    let at = [org.as_str(), project.as_str()];
    if let Some(name) = &edit.name {
        tx.prepare_cached("UPDATE projects SET name = ?3 WHERE org = ?1 AND id = ?2")?.execute(params![at[0], at[1], name])?;
    }
    if let Some(text) = &edit.description {
        tx.prepare_cached("UPDATE projects SET description = ?3 WHERE org = ?1 AND id = ?2")?.execute(params![at[0], at[1], text])?;
    }
    if let Some(visibility) = edit.visibility {
        tx.prepare_cached("UPDATE projects SET visibility = ?3 WHERE org = ?1 AND id = ?2")?.execute(params![
            at[0],
            at[1],
            visibility_text(visibility)
        ])?;
    }
    Ok(())
}

/// Archives a project; false if it was archived before.
pub(crate) fn archive(tx: &Transaction<'_>, org: &OrgId, project: &ProjectId, by: &str, now: Millis) -> Result<bool> {
    let changed = tx
        .prepare_cached("UPDATE projects SET archived_at = ?3, archived_by = ?4 WHERE org = ?1 AND id = ?2 AND archived_at IS NULL")?
        .execute(params![org.as_str(), project.as_str(), now, by])?;
    Ok(changed == 1)
}

/// Brings a project back from the archive; false if it was not there.
pub(crate) fn restore(tx: &Transaction<'_>, org: &OrgId, project: &ProjectId) -> Result<bool> {
    let archived = "SELECT 1 FROM projects WHERE org = ?1 AND id = ?2 AND archived_at IS NOT NULL";
    if tx.prepare_cached(archived)?.exists([org.as_str(), project.as_str()])? {
        limits::check(tx, org, LimitName::Projects, 1)?;
    }
    let changed = tx
        .prepare_cached(
            "UPDATE projects SET archived_at = NULL, archived_by = NULL WHERE org = ?1 AND id = ?2 AND archived_at IS NOT NULL",
        )?
        .execute([org.as_str(), project.as_str()])?;
    Ok(changed == 1)
}

/// The teams that have a role in a project.
pub(crate) fn teams(connection: &Connection, org: &OrgId, project: &ProjectId) -> Result<Vec<ProjectTeam>> {
    let mut statement = connection.prepare_cached(
        "SELECT t.id, t.name, p.role, p.since, (SELECT count(*) FROM team_members m WHERE m.org = t.org AND m.team = t.id)
         FROM project_teams p JOIN teams t ON t.org = p.org AND t.id = p.team WHERE p.org = ?1 AND p.project = ?2 ORDER BY t.id",
    )?;
    let mut rows = statement.query([org.as_str(), project.as_str()])?;
    let mut teams = Vec::new();
    while let Some(row) = rows.next()? {
        teams.push(ProjectTeam {
            id: row.get::<_, String>(0)?.parse()?,
            name: row.get(1)?,
            role: parse_project_role(&row.get::<_, String>(2)?)?,
            since: row.get(3)?,
            members: row.get(4)?,
        });
    }
    Ok(teams)
}

/// The role that a project gives a team.
pub(crate) fn team_role(connection: &Connection, org: &OrgId, project: &ProjectId, team: &TeamId) -> Result<Option<ProjectRole>> {
    let mut statement = connection.prepare_cached("SELECT role FROM project_teams WHERE org = ?1 AND project = ?2 AND team = ?3")?;
    let role: Option<String> = statement.query_row([org.as_str(), project.as_str(), team.as_str()], |row| row.get(0)).optional()?;
    role.as_deref().map(parse_project_role).transpose()
}

/// Gives a team a role in a project, or changes it.
pub(crate) fn set_team(
    tx: &Transaction<'_>,
    org: &OrgId,
    project: &ProjectId,
    team: &TeamId,
    role: ProjectRole,
    now: Millis,
) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO project_teams (org, project, team, role, since) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (org, project, team) DO UPDATE SET role = ?4",
    )?
    .execute(params![org.as_str(), project.as_str(), team.as_str(), role.as_str(), now])?;
    Ok(())
}

/// Takes a team out of a project, and says whether it was in it.
pub(crate) fn remove_team(tx: &Transaction<'_>, org: &OrgId, project: &ProjectId, team: &TeamId) -> Result<bool> {
    let gone = tx.prepare_cached("DELETE FROM project_teams WHERE org = ?1 AND project = ?2 AND team = ?3")?.execute([
        org.as_str(),
        project.as_str(),
        team.as_str(),
    ])?;
    Ok(gone == 1)
}

/// A device as far as a project's side needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub uid: DeviceUid,
    pub serial: String,
    pub admitted: bool,
    pub projects: BTreeSet<ProjectId>,
}

/// What a text names in an organization: a uid, or a serial number or a name that several may bear.
pub(crate) fn candidates(connection: &Connection, org: &OrgId, text: &str) -> Result<Vec<Candidate>> {
    let ask = |which: &str| -> Result<Vec<Candidate>> {
        let mut statement = connection.prepare_cached(&format!(
            "SELECT d.uid, d.serial, d.admission = 'admitted', (SELECT group_concat(p.project) FROM device_projects p WHERE p.uid = d.uid)
             FROM devices d WHERE {which} ORDER BY d.uid LIMIT 20"
        ))?;
        let mut rows = statement.query([org.as_str(), text])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let projects: Option<String> = row.get(3)?;
            let projects = projects.iter().flat_map(|list| list.split(',')).map(str::parse).collect::<std::result::Result<_, _>>()?;
            found.push(Candidate { uid: row.get::<_, String>(0)?.parse()?, serial: row.get(1)?, admitted: row.get(2)?, projects });
        }
        Ok(found)
    };
    let mut found = ask("d.uid = ?2 AND d.org = ?1")?;
    if found.is_empty() {
        found = ask(&format!("d.uid IN ({})", devices::BEARERS))?;
        devices::meant(&mut found, |device| device.admitted);
    }
    Ok(found)
}

/// Whether a device is in a project; `None` if the organization has no such device.
pub(crate) fn has_device(connection: &Connection, org: &OrgId, project: &ProjectId, uid: &DeviceUid) -> Result<Option<bool>> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM device_projects p WHERE p.uid = d.uid AND p.org = d.org AND p.project = ?3)
         FROM devices d WHERE d.uid = ?2 AND d.org = ?1",
    )?;
    Ok(statement.query_row([org.as_str(), uid.as_str(), project.as_str()], |row| row.get(0)).optional()?)
}

/// Puts a device into a project. True if it was not in it, `None` if the organization has it no more.
pub(crate) fn add_device(tx: &Transaction<'_>, org: &OrgId, project: &ProjectId, uid: &DeviceUid) -> Result<Option<bool>> {
    let mut there = tx.prepare_cached("SELECT EXISTS (SELECT 1 FROM devices WHERE uid = ?1 AND org = ?2)")?;
    if !there.query_row([uid.as_str(), org.as_str()], |row| row.get(0))? {
        return Ok(None);
    }
    let added = tx.prepare_cached("INSERT OR IGNORE INTO device_projects (uid, org, project) VALUES (?1, ?2, ?3)")?.execute([
        uid.as_str(),
        org.as_str(),
        project.as_str(),
    ])?;
    Ok(Some(added == 1))
}

/// Takes a device out of a project, and says whether it was in it.
pub(crate) fn remove_device(tx: &Transaction<'_>, org: &OrgId, project: &ProjectId, uid: &DeviceUid) -> Result<bool> {
    let gone = tx.prepare_cached("DELETE FROM device_projects WHERE uid = ?1 AND org = ?2 AND project = ?3")?.execute([
        uid.as_str(),
        org.as_str(),
        project.as_str(),
    ])?;
    Ok(gone == 1)
}
