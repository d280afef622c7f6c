//! Enrolment tokens. Only digests of their secrets are stored.

use muster_proto::Millis;
use muster_proto::api::{AdmitRule, EnrolmentToken};
use muster_proto::id::{OrgId, Serial};
use muster_proto::problem::{Code, Problem};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::accounts::{self, Account};
use super::{Result, orgs};
use crate::rights::{self, Action};
use crate::standings::Standings;

/// An enrolment token with what proves it.
pub(crate) struct Held {
    pub org: OrgId,
    pub digest: Vec<u8>,
    pub limited: bool,
    pub token: EnrolmentToken,
}

const COLUMNS: &str = "id, project, uses, used, admit, note, created_by, created_at, expires_at, revoked_at, org, digest, limited";

fn token(row: &Row<'_>) -> rusqlite::Result<(EnrolmentTokenRow, String, Vec<u8>, bool)> {
    let row_of = EnrolmentTokenRow {
        id: row.get(0)?,
        project: row.get(1)?,
        uses: row.get(2)?,
        used: row.get(3)?,
        admit: row.get(4)?,
        note: row.get(5)?,
        created_by: row.get(6)?,
        created_at: row.get(7)?,
        expires_at: row.get(8)?,
        revoked_at: row.get(9)?,
    };
    Ok((row_of, row.get(10)?, row.get(11)?, row.get(12)?))
}

struct EnrolmentTokenRow {
    id: String,
    project: Option<String>,
    uses: Option<u32>,
    used: u32,
    admit: String,
    note: Option<String>,
    created_by: String,
    created_at: Millis,
    expires_at: Millis,
    revoked_at: Option<Millis>,
}

impl EnrolmentTokenRow {
    fn checked(self, serials: Option<Vec<Serial>>) -> Result<EnrolmentToken> {
        Ok(EnrolmentToken {
            id: self.id,
            token: None,
            project: self.project.map(|project| project.parse()).transpose()?,
            uses: self.uses,
            used: self.used,
            admit: if self.admit == "auto" { AdmitRule::Auto } else { AdmitRule::Manual },
            serials,
            note: self.note,
            created_by: self.created_by,
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        })
    }
}

/// Files a token.
pub(crate) fn insert(tx: &Transaction<'_>, org: &OrgId, digest: [u8; 32], token: &EnrolmentToken) -> Result<()> {
    let admit = match token.admit {
        AdmitRule::Auto => "auto",
        AdmitRule::Manual => "manual",
    };
    tx.prepare_cached(
        "INSERT INTO enrolment_tokens (id, org, digest, project, uses, admit, limited, note, created_by, created_at, expires_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        token.id,
        org.as_str(),
        digest,
        token.project.as_ref().map(AsRef::<str>::as_ref),
        token.uses,
        admit,
        token.serials.is_some(),
        token.note,
        token.created_by,
        token.created_at,
        token.expires_at
    ])?;
    let mut statement = tx.prepare_cached("INSERT OR IGNORE INTO enrolment_token_serials (token, serial) VALUES (?1, ?2)")?;
    for serial in token.serials.iter().flatten() {
        statement.execute([token.id.as_str(), serial.as_str()])?;
    }
    Ok(())
}

/// The token of a public name.
pub(crate) fn held(connection: &Connection, id: &str) -> Result<Option<Held>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM enrolment_tokens WHERE id = ?1"))?;
    let Some((row, org, digest, limited)) = statement.query_row([id], token).optional()? else { return Ok(None) };
    Ok(Some(Held { org: org.parse()?, digest, limited, token: row.checked(None)? }))
}

/// Tokens of an organization, newest first, those that ended included.
pub(crate) fn list(connection: &Connection, org: &OrgId) -> Result<Vec<EnrolmentToken>> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM enrolment_tokens WHERE org = ?1 ORDER BY created_at DESC, id LIMIT 1000"))?;
    let mut tokens = Vec::new();
    let mut rows = statement.query([org.as_str()])?;
    while let Some(row) = rows.next()? {
        let (row, _, _, limited) = token(row)?;
        let serials = if limited { Some(serials(connection, &row.id)?) } else { None };
        tokens.push(row.checked(serials)?);
    }
    Ok(tokens)
}

fn serials(connection: &Connection, id: &str) -> Result<Vec<Serial>> {
    let mut statement = connection.prepare_cached("SELECT serial FROM enrolment_token_serials WHERE token = ?1 ORDER BY serial")?;
    let mut serials = Vec::new();
    let mut rows = statement.query([id])?;
    while let Some(row) = rows.next()? {
        serials.push(row.get::<_, String>(0)?.parse()?);
    }
    Ok(serials)
}

/// Withdraws a token. Devices that it enrolled stay.
pub(crate) fn revoke(tx: &Transaction<'_>, id: &str, now: Millis) -> Result<()> {
    tx.prepare_cached("UPDATE enrolment_tokens SET revoked_at = coalesce(revoked_at, ?2) WHERE id = ?1")?.execute(params![id, now])?;
    Ok(())
}

/// Why a token may not enrol one more device with this serial; `None` if it may.
pub(crate) fn refusal(connection: &Connection, held: &Held, serial: &Serial, now: Millis) -> Result<Option<Problem>> {
    let token = &held.token;
    let id = &token.id;
    let say = |code, why: String| Ok(Some(Problem::new(code, why)));
    if token.revoked_at.is_some() {
        return say(Code::TokenRevoked, format!("the enrolment token {id} was withdrawn; ask for a new one (`muster token create`)"));
    }
    if token.expires_at <= now {
        return say(Code::TokenExpired, format!("the enrolment token {id} has expired; ask for a new one (`muster token create`)"));
    }
    if let Some(uses) = token.uses
        && token.used >= uses
    {
        let why = format!("the enrolment token {id} is used up: it was good for {uses} and as many have enrolled; ask for a new one");
        return say(Code::TokenUsedUp, why);
    }
    if !maker_may(connection, held)? {
        let why = format!(
            "the enrolment token {id} ended with the right of {}, who made it: they left or have a lower role; ask for a new one \
             (`muster token create`)",
            token.created_by
        );
        return say(Code::TokenRevoked, why);
    }
    if let Some(project) = &token.project
        && !orgs::project_is_open(connection, &held.org, project)?
    {
        let why =
            format!("the enrolment token {id} is for the project {project}, which is archived: restore it, or ask for a token of another");
        return say(Code::Archived, why);
    }
    if held.limited {
        let mut statement =
            connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM enrolment_token_serials WHERE token = ?1 AND serial = ?2)")?;
        if !statement.query_row([id.as_str(), serial.as_str()], |row| row.get::<_, bool>(0))? {
            let why = format!("the enrolment token {id} does not name the serial number {serial:?}; ask for one that does");
            return say(Code::TokenSerial, why);
        }
    }
    Ok(None)
}

/// The right that making a token with such a rule takes.
pub(crate) fn action(admit: AdmitRule) -> Action {
    match admit {
        AdmitRule::Auto => Action::MakeAutoToken,
        AdmitRule::Manual => Action::MakeManualToken,
    }
}

/// Whether who made the token could still make it: who left, or has less, leaves no doors behind.
fn maker_may(connection: &Connection, held: &Held) -> Result<bool> {
    let Some(maker) = accounts::by_email(connection, &held.token.created_by)?.filter(Account::is_open) else { return Ok(false) };
    let Some(standing) = Standings::inside(connection, &held.org, maker.id)? else { return Ok(false) };
    let project = held.token.project.as_ref();
    let role = project.and_then(|project| standing.projects.get(project)).map(|project| project.role);
    let into_project = project.is_none() || rights::allows(Action::AssignDevice, standing.role, role);
    Ok(into_project && rights::allows(action(held.token.admit), standing.role, None))
}

/// Counts one more device.
pub(crate) fn count(tx: &Transaction<'_>, id: &str) -> Result<()> {
    tx.prepare_cached("UPDATE enrolment_tokens SET used = used + 1 WHERE id = ?1")?.execute([id])?;
    Ok(())
}
