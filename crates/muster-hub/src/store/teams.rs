//! Teams, who is in them, and the people who have no role in the organization but in its projects.

use std::collections::BTreeMap;

use muster_proto::Millis;
use muster_proto::api::{Collaborator, RoleIn, Team, TeamMember};
use muster_proto::id::{OrgId, ProjectId, TeamId};
use muster_proto::problem::Code;
use rusqlite::{Connection, Transaction, params};

use super::orgs::{parse_org_role, parse_project_role};
use super::{Result, problem};

/// Teams of an organization, or one of them, with all their roles in projects and without their people.
pub(crate) fn list(connection: &Connection, org: &OrgId, only: Option<&TeamId>) -> Result<Vec<Team>> {
    let only = only.map(TeamId::as_str);
    let mut statement = connection.prepare_cached(
        "SELECT t.id, t.name, t.description, t.created_at,
             (SELECT count(*) FROM team_members m WHERE m.org = t.org AND m.team = t.id),
             (SELECT a.digest FROM team_avatars a WHERE a.org = t.org AND a.team = t.id)
         FROM teams t WHERE t.org = ?1 AND (?2 IS NULL OR t.id = ?2) ORDER BY t.id",
    )?;
    let mut rows = statement.query(params![org.as_str(), only])?;
    let mut teams = Vec::new();
    while let Some(row) = rows.next()? {
        let (id, avatar): (String, Option<String>) = (row.get(0)?, row.get(5)?);
        teams.push(Team {
            avatar: avatar.map(|digest| format!("/v1/orgs/{org}/teams/{id}/avatar?v={}", digest.get(..16).unwrap_or_default())),
            id: id.parse()?,
            name: row.get(1)?,
            description: row.get(2)?,
            members: row.get(4)?,
            people: None,
            projects: Vec::new(),
            created_at: row.get(3)?,
        });
    }
    let mut statement = connection
        .prepare_cached("SELECT team, project, role FROM project_teams WHERE org = ?1 AND (?2 IS NULL OR team = ?2) ORDER BY project")?;
    let mut rows = statement.query(params![org.as_str(), only])?;
    while let Some(row) = rows.next()? {
        let team: String = row.get(0)?;
        if let Ok(at) = teams.binary_search_by(|known| known.id.as_str().cmp(&team)) {
            let (project, role): (String, String) = (row.get(1)?, row.get(2)?);
            teams[at].projects.push(RoleIn { project: project.parse()?, role: parse_project_role(&role)? });
        }
    }
    Ok(teams)
}

/// A team, if it is there.
pub(crate) fn by_id(connection: &Connection, org: &OrgId, team: &TeamId) -> Result<Option<Team>> {
    Ok(list(connection, org, Some(team))?.pop())
}

/// Who is in a team, by e-mail.
pub(crate) fn people(connection: &Connection, org: &OrgId, team: &TeamId) -> Result<Vec<TeamMember>> {
    let mut statement = connection.prepare_cached(
        "SELECT a.email, a.name, m.role, t.since FROM team_members t JOIN accounts a ON a.id = t.account
         LEFT JOIN members m ON m.org = t.org AND m.account = t.account WHERE t.org = ?1 AND t.team = ?2 ORDER BY a.email",
    )?;
    let mut rows = statement.query([org.as_str(), team.as_str()])?;
    let mut people = Vec::new();
    while let Some(row) = rows.next()? {
        let role: Option<String> = row.get(2)?;
        people.push(TeamMember {
            email: row.get(0)?,
            name: row.get(1)?,
            role: role.as_deref().map(parse_org_role).transpose()?,
            since: row.get(3)?,
        });
    }
    Ok(people)
}

/// Makes a team.
pub(crate) fn create(tx: &Transaction<'_>, org: &OrgId, team: &TeamId, name: &str, description: Option<&str>, now: Millis) -> Result<()> {
    let made = tx
        .prepare_cached("INSERT OR IGNORE INTO teams (org, id, name, description, created_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![org.as_str(), team.as_str(), name, description, now])?;
    if made == 0 {
        return Err(problem(Code::Exists, format!("a team {team} exists already in {org}; choose another id")));
    }
    Ok(())
}

/// Changes a team. `None` stays as it is; a description of `Some(None)` is cleared.
pub(crate) fn edit(tx: &Transaction<'_>, org: &OrgId, team: &TeamId, name: Option<&str>, description: Option<Option<&str>>) -> Result<()> {
    if let Some(name) = name {
        tx.prepare_cached("UPDATE teams SET name = ?3 WHERE org = ?1 AND id = ?2")?.execute([org.as_str(), team.as_str(), name])?;
    }
    if let Some(description) = description {
        tx.prepare_cached("UPDATE teams SET description = ?3 WHERE org = ?1 AND id = ?2")?.execute(params![
            org.as_str(),
            team.as_str(),
            description
        ])?;
    }
    Ok(())
}

/// Removes a team with its roles, and says whether it was there.
pub(crate) fn delete(tx: &Transaction<'_>, org: &OrgId, team: &TeamId) -> Result<bool> {
    Ok(tx.prepare_cached("DELETE FROM teams WHERE org = ?1 AND id = ?2")?.execute([org.as_str(), team.as_str()])? == 1)
}

/// Whether an account is a member of the organization, takes part in one of its projects, or is in one of its teams.
pub(crate) fn belongs(connection: &Connection, org: &OrgId, account: i64) -> Result<bool> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM members WHERE org = ?1 AND account = ?2)
             OR EXISTS (SELECT 1 FROM participants WHERE org = ?1 AND account = ?2)
             OR EXISTS (SELECT 1 FROM team_members WHERE org = ?1 AND account = ?2)
             OR EXISTS (SELECT 1 FROM accounts WHERE org = ?1 AND id = ?2 AND closed_at IS NULL)",
    )?;
    Ok(statement.query_row(params![org.as_str(), account], |row| row.get(0))?)
}

/// Puts an account into a team, and says whether it was not in it.
pub(crate) fn add(tx: &Transaction<'_>, org: &OrgId, team: &TeamId, account: i64, now: Millis) -> Result<bool> {
    let added = tx
        .prepare_cached("INSERT OR IGNORE INTO team_members (org, team, account, since) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![org.as_str(), team.as_str(), account, now])?;
    Ok(added == 1)
}

/// Takes an account out of a team, and says whether it was in it.
pub(crate) fn remove(tx: &Transaction<'_>, org: &OrgId, team: &TeamId, account: i64) -> Result<bool> {
    let gone = tx.prepare_cached("DELETE FROM team_members WHERE org = ?1 AND team = ?2 AND account = ?3")?.execute(params![
        org.as_str(),
        team.as_str(),
        account
    ])?;
    Ok(gone == 1)
}

/// People without a role in the organization who take part in its projects or are in its teams, by e-mail.
pub(crate) fn collaborators(connection: &Connection, org: &OrgId) -> Result<Vec<Collaborator>> {
    let mut statement = connection.prepare_cached(
        "SELECT a.email, a.name, g.project, g.role, g.team FROM accounts a JOIN (
             SELECT account, project, role, NULL AS team FROM participants WHERE org = ?1
             UNION ALL
             SELECT m.account, p.project, p.role, m.team FROM team_members m
             LEFT JOIN project_teams p ON p.org = m.org AND p.team = m.team WHERE m.org = ?1
         ) g ON g.account = a.id
         WHERE NOT EXISTS (SELECT 1 FROM members m WHERE m.org = ?1 AND m.account = a.id) ORDER BY a.email",
    )?;
    let mut rows = statement.query([org.as_str()])?;
    let mut found: BTreeMap<String, Collaborator> = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let (email, name): (String, String) = (row.get(0)?, row.get(1)?);
        let (project, role, team): (Option<String>, Option<String>, Option<String>) = (row.get(2)?, row.get(3)?, row.get(4)?);
        let person = found.entry(email.clone()).or_insert_with(|| Collaborator { email, name, projects: Vec::new(), teams: Vec::new() });
        if let Some(team) = team {
            let team: TeamId = team.parse()?;
            if !person.teams.contains(&team) {
                person.teams.push(team);
            }
        }
        let (Some(project), Some(role)) = (project, role) else { continue };
        let (project, role): (ProjectId, _) = (project.parse()?, parse_project_role(&role)?);
        match person.projects.iter_mut().find(|known| known.project == project) {
            Some(known) => known.role = known.role.max(role),
            None => person.projects.push(RoleIn { project, role }),
        }
    }
    Ok(found.into_values().map(sorted).collect())
}

fn sorted(mut person: Collaborator) -> Collaborator {
    person.projects.sort_by(|a, b| a.project.cmp(&b.project));
    person.teams.sort();
    person
}
