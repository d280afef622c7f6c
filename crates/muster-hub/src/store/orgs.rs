//! Organizations, members, projects, participants, and what one person has of all these.

use muster_proto::Millis;
use muster_proto::api::{LimitName, Member, Org, OrgRole, Participant, ProjectRole, Visibility};
use muster_proto::id::{OrgId, ProjectId};
use muster_proto::problem::Code;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{Error, Result, limits, problem};

pub(crate) fn parse_org_role(text: &str) -> Result<OrgRole> {
    [OrgRole::Owner, OrgRole::Member, OrgRole::Viewer]
        .into_iter()
        .find(|role| role.as_str() == text)
        .ok_or_else(|| Error::Corrupt { what: "role", why: text.to_owned() })
}

pub(crate) fn parse_project_role(text: &str) -> Result<ProjectRole> {
    [ProjectRole::Admin, ProjectRole::Maintain, ProjectRole::Operate, ProjectRole::Connect, ProjectRole::View]
        .into_iter()
        .find(|role| role.as_str() == text)
        .ok_or_else(|| Error::Corrupt { what: "role", why: text.to_owned() })
}

pub(super) fn visibility_text(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Private => "private",
        Visibility::Internal => "internal",
    }
}

/// An account's own role in an organization; the outer `None` if there is no such organization.
#[allow(clippy::option_option, reason = "outside: whether there is the organization; inside: whether there is a role")]
pub(crate) fn role_in(connection: &Connection, org: &OrgId, account: i64) -> Result<Option<Option<OrgRole>>> {
    let mut statement =
        connection.prepare_cached("SELECT m.role FROM orgs o LEFT JOIN members m ON m.org = o.id AND m.account = ?2 WHERE o.id = ?1")?;
    let found = statement.query_row(params![org.as_str(), account], |row| row.get::<_, Option<String>>(0)).optional()?;
    found.map(|role| role.as_deref().map(parse_org_role).transpose()).transpose()
}

/// Refuses to add something to an organization that was deleted while it was asked for.
///
/// # Errors
/// `not_found`, as for any id that nobody has.
pub(crate) fn must_exist(tx: &Transaction<'_>, org: &OrgId) -> Result<()> {
    if tx.prepare_cached("SELECT 1 FROM orgs WHERE id = ?1")?.exists([org.as_str()])? {
        return Ok(());
    }
    Err(problem(Code::NotFound, format!("there is no organization {:?} here any more", org.as_str())))
}

/// Whether there is a project, archived or not.
pub(crate) fn has_project(connection: &Connection, org: &OrgId, project: &ProjectId) -> Result<bool> {
    Ok(connection.prepare_cached("SELECT 1 FROM projects WHERE org = ?1 AND id = ?2")?.exists([org.as_str(), project.as_str()])?)
}

/// An organization as somebody with this role there sees it.
const ORG: &str = "o.id, o.name, o.full_name, o.description, o.location, o.website, o.created_at,
     (SELECT l.digest FROM org_logos l WHERE l.org = o.id)";

fn org(row: &Row<'_>, role: Option<OrgRole>) -> Result<Org> {
    let id: OrgId = row.get::<_, String>(0)?.parse()?;
    let logo: Option<String> = row.get(7)?;
    Ok(Org {
        logo: logo.map(|digest| format!("/v1/orgs/{id}/logo?v={}", digest.get(..16).unwrap_or_default())),
        id,
        name: row.get(1)?,
        full_name: row.get(2)?,
        description: row.get(3)?,
        location: row.get(4)?,
        website: row.get(5)?,
        role,
        created_at: row.get(6)?,
    })
}

/// One organization, for somebody with this role there.
pub(crate) fn show(connection: &Connection, id: &OrgId, role: Option<OrgRole>) -> Result<Option<Org>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {ORG} FROM orgs o WHERE o.id = ?1"))?;
    let mut rows = statement.query([id.as_str()])?;
    rows.next()?.map(|row| org(row, role)).transpose()
}

/// The organizations that an account belongs to or collaborates in.
pub(crate) fn of_account(connection: &Connection, account: i64) -> Result<Vec<Org>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {ORG}, m.role FROM orgs o LEFT JOIN members m ON m.org = o.id AND m.account = ?1
         WHERE m.role IS NOT NULL OR EXISTS (SELECT 1 FROM participants p WHERE p.account = ?1 AND p.org = o.id)
             OR EXISTS (SELECT 1 FROM team_members t JOIN project_teams p ON p.org = t.org AND p.team = t.team
                        WHERE t.account = ?1 AND t.org = o.id) ORDER BY o.id"
    ))?;
    let mut rows = statement.query([account])?;
    let mut orgs = Vec::new();
    while let Some(row) = rows.next()? {
        let role: Option<String> = row.get(8)?;
        orgs.push(org(row, role.as_deref().map(parse_org_role).transpose()?)?);
    }
    Ok(orgs)
}

/// An account's role in an organization.
pub(crate) fn role(connection: &Connection, org: &OrgId, account: i64) -> Result<Option<OrgRole>> {
    let mut statement = connection.prepare_cached("SELECT role FROM members WHERE org = ?1 AND account = ?2")?;
    let role: Option<String> = statement.query_row(params![org.as_str(), account], |row| row.get(0)).optional()?;
    role.as_deref().map(parse_org_role).transpose()
}

/// What a project itself gives to an account.
pub(crate) fn participant(connection: &Connection, org: &OrgId, project: &ProjectId, account: i64) -> Result<Option<ProjectRole>> {
    let mut statement = connection.prepare_cached("SELECT role FROM participants WHERE org = ?1 AND project = ?2 AND account = ?3")?;
    let role: Option<String> = statement.query_row(params![org.as_str(), project.as_str(), account], |row| row.get(0)).optional()?;
    role.as_deref().map(parse_project_role).transpose()
}

/// Every organization in which an account is anything: a member, a participant, in a team.
pub(crate) fn anywhere(connection: &Connection, account: i64) -> Result<Vec<OrgId>> {
    let mut statement = connection.prepare_cached(
        "SELECT org FROM members WHERE account = ?1 UNION SELECT org FROM participants WHERE account = ?1
         UNION SELECT org FROM team_members WHERE account = ?1 ORDER BY org",
    )?;
    let found: Vec<String> = statement.query_map([account], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    found.into_iter().map(|org| Ok(org.parse()?)).collect()
}

/// The display names of an organization and of a project in it.
pub(crate) fn names(connection: &Connection, org: &OrgId, project: Option<&ProjectId>) -> Result<(String, Option<String>)> {
    let mut statement =
        connection.prepare_cached("SELECT name, (SELECT name FROM projects WHERE org = ?1 AND id = ?2) FROM orgs WHERE id = ?1")?;
    Ok(statement.query_row(params![org.as_str(), project.map(ProjectId::as_str)], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Makes an organization with its first owner. The id of one that was deleted is not given again: its records stand under it.
pub(crate) fn create(tx: &Transaction<'_>, org: &OrgId, name: &str, owner: i64, now: Millis) -> Result<()> {
    let mut statement = tx.prepare_cached("SELECT EXISTS (SELECT 1 FROM deleted_orgs WHERE id = ?1)")?;
    if statement.query_row([org.as_str()], |row| row.get(0))? {
        let why = format!("the id {org} belonged to an organization that was deleted, whose records keep it; choose another id");
        return Err(problem(Code::Exists, why));
    }
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

/// What an organization says of itself. `None` stays as it is; `Some(None)` is cleared.
#[derive(Debug, Clone, Default)]
pub(crate) struct Details {
    pub name: Option<String>,
    pub full_name: Option<Option<String>>,
    pub description: Option<Option<String>>,
    pub location: Option<Option<String>>,
    pub website: Option<Option<String>>,
}

/// Changes what an organization says of itself.
pub(crate) fn edit(tx: &Transaction<'_>, org: &OrgId, details: &Details) -> Result<()> {
    let fields = [&details.full_name, &details.description, &details.location, &details.website];
    let sqls = [
        "UPDATE orgs SET full_name = ?2 WHERE id = ?1",
        "UPDATE orgs SET description = ?2 WHERE id = ?1",
        "UPDATE orgs SET location = ?2 WHERE id = ?1",
        "UPDATE orgs SET website = ?2 WHERE id = ?1",
    ];
    if let Some(name) = &details.name {
        tx.prepare_cached("UPDATE orgs SET name = ?2 WHERE id = ?1")?.execute([org.as_str(), name])?;
    }
    for (field, sql) in fields.into_iter().zip(sqls) {
        if let Some(value) = field {
            tx.prepare_cached(sql)?.execute(params![org.as_str(), value])?;
        }
    }
    Ok(())
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

/// Takes an account out of an organization, its teams and all its projects, and says whether it was anything there.
pub(crate) fn remove_member(tx: &Transaction<'_>, org: &OrgId, account: i64) -> Result<bool> {
    keep_an_owner(tx, org, account)?;
    let mut gone = 0;
    for sql in [
        "DELETE FROM participants WHERE org = ?1 AND account = ?2",
        "DELETE FROM team_members WHERE org = ?1 AND account = ?2",
        "DELETE FROM members WHERE org = ?1 AND account = ?2",
    ] {
        gone += tx.prepare_cached(sql)?.execute(params![org.as_str(), account])?;
    }
    Ok(gone > 0)
}

/// An owner who cannot log in is none: whoever else is left is a person whose account is in use.
fn keep_an_owner(tx: &Transaction<'_>, org: &OrgId, without: i64) -> Result<()> {
    let mut statement = tx.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM members WHERE org = ?1 AND role = 'owner' AND account = ?2)
             AND NOT EXISTS (SELECT 1 FROM members m JOIN accounts a ON a.id = m.account
                 WHERE m.org = ?1 AND m.role = 'owner' AND m.account != ?2
                 AND a.kind = 'person' AND a.disabled_at IS NULL AND a.closed_at IS NULL)",
    )?;
    if statement.query_row(params![org.as_str(), without], |row| row.get(0))? {
        return Err(problem(
            Code::Conflict,
            format!("this is the last owner of {org} whose account is in use; make another person an owner first"),
        ));
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
    limits::check(tx, org, LimitName::Projects, 1)?;
    let made = tx
        .prepare_cached("INSERT OR IGNORE INTO projects (org, id, name, visibility, created_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![org.as_str(), project.as_str(), name, visibility_text(visibility), now])?;
    if made == 0 {
        return Err(problem(Code::Exists, format!("a project {project} exists already in {org}; choose another id")));
    }
    Ok(())
}

/// Whether a project is there and not archived.
pub(crate) fn project_is_open(connection: &Connection, org: &OrgId, project: &ProjectId) -> Result<bool> {
    let mut statement =
        connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM projects WHERE org = ?1 AND id = ?2 AND archived_at IS NULL)")?;
    Ok(statement.query_row([org.as_str(), project.as_str()], |row| row.get(0))?)
}

/// Whom a project gives a role, in person or through teams, by e-mail.
pub(crate) fn participants(connection: &Connection, org: &OrgId, project: &ProjectId) -> Result<Vec<Participant>> {
    let mut statement = connection.prepare_cached(
        "SELECT a.email, a.name, g.role, g.team FROM accounts a JOIN (
             SELECT account, role, NULL AS team FROM participants WHERE org = ?1 AND project = ?2
             UNION ALL
             SELECT m.account, t.role, t.team FROM project_teams t JOIN team_members m ON m.org = t.org AND m.team = t.team
             WHERE t.org = ?1 AND t.project = ?2
         ) g ON g.account = a.id ORDER BY a.email, g.team",
    )?;
    let mut rows = statement.query([org.as_str(), project.as_str()])?;
    let mut participants: Vec<Participant> = Vec::new();
    while let Some(row) = rows.next()? {
        let (email, team): (String, Option<String>) = (row.get(0)?, row.get(3)?);
        let role = parse_project_role(&row.get::<_, String>(2)?)?;
        if participants.last().is_none_or(|last| last.email != email) {
            participants.push(Participant { email, name: row.get(1)?, role, own: None, teams: Vec::new() });
        }
        let Some(last) = participants.last_mut() else { continue };
        last.role = last.role.max(role);
        match team {
            Some(team) => last.teams.push(team.parse()?),
            None => last.own = Some(role),
        }
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
