//! Invitations and the queue of their mails. Only digests of their secrets are stored.

use muster_proto::Millis;
use muster_proto::api::{Invitation, MailState, OrgRole, ProjectRole};
use muster_proto::id::{OrgId, ProjectId};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::orgs::{parse_org_role, parse_project_role};
use super::{Error, Result, limits};

/// What an invitation gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A role in the organization.
    Org(OrgRole),
    /// A role in one project, and nothing else.
    Project(ProjectId, ProjectRole),
}

impl Place {
    fn role(&self) -> &'static str {
        match self {
            Self::Org(role) => role.as_str(),
            Self::Project(_, role) => role.as_str(),
        }
    }

    /// The project, if it is one.
    pub(crate) fn project(&self) -> Option<&ProjectId> {
        match self {
            Self::Org(_) => None,
            Self::Project(project, _) => Some(project),
        }
    }
}

/// An invitation as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct InvitationRow {
    pub id: String,
    pub org: OrgId,
    pub place: Place,
    pub email: String,
    /// Of the link that the inviter was shown.
    pub digest: Vec<u8>,
    /// Of the link that was mailed last.
    pub mail_digest: Option<Vec<u8>>,
    pub invited_by: String,
    pub created_at: Millis,
    pub renewed_at: Millis,
    pub expires_at: Millis,
    pub accepted_at: Option<Millis>,
    pub revoked_at: Option<Millis>,
    pub mail: MailState,
    pub mail_attempts: u32,
    pub mail_error: Option<String>,
}

impl InvitationRow {
    /// As the API shows it, without the link.
    pub(crate) fn shown(&self) -> Invitation {
        let (role, project_role) = match &self.place {
            Place::Org(role) => (Some(*role), None),
            Place::Project(_, role) => (None, Some(*role)),
        };
        Invitation {
            id: self.id.clone(),
            link: None,
            email: self.email.clone(),
            role,
            project: self.place.project().cloned(),
            project_role,
            invited_by: self.invited_by.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            mail: self.mail,
            mail_error: self.mail_error.clone(),
        }
    }

    /// Whether it still waits for its person, its date aside.
    pub(crate) fn is_pending(&self) -> bool {
        self.accepted_at.is_none() && self.revoked_at.is_none()
    }
}

fn mail_text(state: MailState) -> &'static str {
    match state {
        MailState::None => "none",
        MailState::Queued => "queued",
        MailState::Sent => "sent",
        MailState::Failed => "failed",
    }
}

fn parse_mail(text: &str) -> Result<MailState> {
    [MailState::None, MailState::Queued, MailState::Sent, MailState::Failed]
        .into_iter()
        .find(|state| mail_text(*state) == text)
        .ok_or_else(|| Error::Corrupt { what: "mail", why: text.to_owned() })
}

const COLUMNS: &str = "id, org, project, email, role, digest, mail_digest, invited_by, created_at, renewed_at, expires_at, accepted_at, \
     revoked_at, mail, mail_attempts, mail_error";

fn invitation(row: &Row<'_>) -> Result<InvitationRow> {
    let (org, project, role): (String, Option<String>, String) = (row.get(1)?, row.get(2)?, row.get(4)?);
    let place = match project {
        None => Place::Org(parse_org_role(&role)?),
        Some(project) => Place::Project(project.parse()?, parse_project_role(&role)?),
    };
    Ok(InvitationRow {
        id: row.get(0)?,
        org: org.parse()?,
        place,
        email: row.get(3)?,
        digest: row.get(5)?,
        mail_digest: row.get(6)?,
        invited_by: row.get(7)?,
        created_at: row.get(8)?,
        renewed_at: row.get(9)?,
        expires_at: row.get(10)?,
        accepted_at: row.get(11)?,
        revoked_at: row.get(12)?,
        mail: parse_mail(&row.get::<_, String>(13)?)?,
        mail_attempts: row.get(14)?,
        mail_error: row.get(15)?,
    })
}

fn all(mut rows: rusqlite::Rows<'_>) -> Result<Vec<InvitationRow>> {
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(invitation(row)?);
    }
    Ok(found)
}

/// Files an invitation.
pub(crate) fn insert(tx: &Transaction<'_>, row: &InvitationRow) -> Result<()> {
    limits::check_newcomer(tx, &row.org, &row.email)?;
    tx.prepare_cached(
        "INSERT INTO invitations (id, org, project, email, role, digest, invited_by, created_at, renewed_at, expires_at, mail, mail_next_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?9)",
    )?
    .execute(params![
        row.id,
        row.org.as_str(),
        row.place.project().map(ProjectId::as_str),
        row.email,
        row.place.role(),
        row.digest,
        row.invited_by,
        row.created_at,
        row.renewed_at,
        row.expires_at,
        mail_text(row.mail)
    ])?;
    Ok(())
}

/// The invitation of a public name.
pub(crate) fn by_id(connection: &Connection, id: &str) -> Result<Option<InvitationRow>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM invitations WHERE id = ?1"))?;
    let mut rows = statement.query([id])?;
    rows.next()?.map(invitation).transpose()
}

/// Those of an organization that wait for their people, newest first; those past their date among them, as they can be sent again.
pub(crate) fn pending(connection: &Connection, org: &OrgId) -> Result<Vec<InvitationRow>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM invitations WHERE org = ?1 AND accepted_at IS NULL AND revoked_at IS NULL ORDER BY created_at DESC, id"
    ))?;
    all(statement.query([org.as_str()])?)
}

/// How many of an organization wait.
pub(crate) fn count_pending(connection: &Connection, org: &OrgId) -> Result<u32> {
    let sql = "SELECT count(*) FROM invitations WHERE org = ?1 AND accepted_at IS NULL AND revoked_at IS NULL";
    Ok(connection.prepare_cached(sql)?.query_row([org.as_str()], |row| row.get(0))?)
}

/// The one that waits for an e-mail at a place.
pub(crate) fn pending_for(connection: &Connection, org: &OrgId, project: Option<&ProjectId>, email: &str) -> Result<Option<InvitationRow>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM invitations WHERE org = ?1 AND ifnull(project, '') = ?2 AND email = ?3
         AND accepted_at IS NULL AND revoked_at IS NULL"
    ))?;
    let mut rows = statement.query(params![org.as_str(), project.map_or("", ProjectId::as_str), email])?;
    rows.next()?.map(invitation).transpose()
}

/// A new secret and a new end; the old links are dead.
pub(crate) fn renew(tx: &Transaction<'_>, id: &str, digest: [u8; 32], now: Millis, expires_at: Millis, mail: MailState) -> Result<()> {
    // One that ran out gave its place back.
    if let Some(row) = by_id(tx, id)? {
        limits::check_newcomer(tx, &row.org, &row.email)?;
    }
    tx.prepare_cached(
        "UPDATE invitations SET digest = ?2, mail_digest = NULL, renewed_at = ?3, expires_at = ?4, mail = ?5, mail_attempts = 0,
             mail_next_at = ?3, mail_error = NULL WHERE id = ?1",
    )?
    .execute(params![id, digest, now, expires_at, mail_text(mail)])?;
    Ok(())
}

/// Withdraws it.
pub(crate) fn revoke(tx: &Transaction<'_>, id: &str, by: &str, now: Millis) -> Result<()> {
    tx.prepare_cached("UPDATE invitations SET revoked_at = ?2, revoked_by = ?3, mail_next_at = NULL WHERE id = ?1")?
        .execute(params![id, now, by])?;
    Ok(())
}

/// Its person came.
pub(crate) fn accept(tx: &Transaction<'_>, id: &str, now: Millis) -> Result<()> {
    tx.prepare_cached("UPDATE invitations SET accepted_at = ?2, mail_next_at = NULL WHERE id = ?1")?.execute(params![id, now])?;
    Ok(())
}

/// Those whose mail is due, at most `most`.
pub(crate) fn to_mail(connection: &Connection, now: Millis, most: u32) -> Result<Vec<InvitationRow>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM invitations WHERE mail = 'queued' AND mail_next_at <= ?1 AND accepted_at IS NULL AND revoked_at IS NULL
         ORDER BY mail_next_at LIMIT ?2"
    ))?;
    all(statement.query(params![now, most])?)
}

/// When the next mail is due.
pub(crate) fn next_mail(connection: &Connection) -> Result<Option<Millis>> {
    let mut statement = connection
        .prepare_cached("SELECT min(mail_next_at) FROM invitations WHERE mail = 'queued' AND accepted_at IS NULL AND revoked_at IS NULL")?;
    Ok(statement.query_row([], |row| row.get(0)).optional()?.flatten())
}

/// A mail is about to be sent with a link of its own. False if it is no longer wanted.
pub(crate) fn mail_begins(tx: &Transaction<'_>, id: &str, digest: [u8; 32], next_at: Millis) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE invitations SET mail_digest = ?2, mail_attempts = mail_attempts + 1, mail_next_at = ?3
             WHERE id = ?1 AND mail = 'queued' AND accepted_at IS NULL AND revoked_at IS NULL",
        )?
        .execute(params![id, digest, next_at])?;
    Ok(changed == 1)
}

/// How the sending of the mail with this link ended; nothing, if another was asked for meanwhile.
pub(crate) fn mail_ended(tx: &Transaction<'_>, id: &str, digest: [u8; 32], state: MailState, error: Option<&str>) -> Result<()> {
    tx.prepare_cached("UPDATE invitations SET mail = ?3, mail_error = ?4 WHERE id = ?1 AND mail_digest = ?2 AND mail = 'queued'")?
        .execute(params![id, digest, mail_text(state), error])?;
    Ok(())
}

/// What waits is tried at once: the hub was started anew, perhaps because the mail server was mended.
pub(crate) fn mail_anew(tx: &Transaction<'_>) -> Result<()> {
    tx.prepare_cached("UPDATE invitations SET mail_next_at = 0 WHERE mail = 'queued' AND accepted_at IS NULL AND revoked_at IS NULL")?
        .execute([])?;
    Ok(())
}
