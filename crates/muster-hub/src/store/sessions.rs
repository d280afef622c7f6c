//! Remote sessions: their record, and what a hub that starts needs to take them up again.

use muster_proto::Millis;
use muster_proto::id::{DeviceUid, OrgId, ProjectId, SessionId};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{Result, metering, orgs};
use crate::clock::Moment;
use crate::relay::Ticket;

/// A session as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    /// Grows from session to session: the place in a list.
    pub n: i64,
    /// Its id.
    pub id: SessionId,
    /// Whose it is.
    pub org: OrgId,
    /// To which device.
    pub uid: DeviceUid,
    /// The device's name then.
    pub device_name: String,
    /// In the name of which project.
    pub project: ProjectId,
    /// With which role there.
    pub role: String,
    /// Who.
    pub email: String,
    /// The access token that was used; `None` from before this was kept.
    pub token: Option<String>,
    /// From which address.
    pub address: Option<String>,
    /// What it is for.
    pub want: Option<String>,
    /// Why, in the user's words.
    pub reason: Option<String>,
    /// The client's ticket.
    pub client_ticket: Ticket,
    /// The device's ticket.
    pub device_ticket: Ticket,
    /// When asked for.
    pub created_at: Millis,
    /// When both ends had met.
    pub opened_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Why, for programs.
    pub end_code: Option<String>,
    /// Why, for people.
    pub end_reason: Option<String>,
    /// Bytes relayed to the device.
    pub to_device: u64,
    /// Bytes relayed to the client.
    pub to_client: u64,
}

const COLUMNS: &str = "n, id, org, uid, device_name, project, role, email, address, want, reason, client_ticket, device_ticket, \
     client_used, device_used, created_at, opened_at, ended_at, end_code, end_reason, to_device, to_client, token";

fn session(row: &Row<'_>) -> rusqlite::Result<Result<SessionRow>> {
    let (id, org, uid, project): (String, String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(5)?);
    let made: Millis = row.get(15)?;
    let ticket = |digest, used| Ok::<_, rusqlite::Error>(Ticket { digest: row.get(digest)?, used: row.get(used)?, made });
    let (client_ticket, device_ticket) = (ticket(11, 13)?, ticket(12, 14)?);
    let (n, device_name, role, email) = (row.get(0)?, row.get(4)?, row.get(6)?, row.get(7)?);
    let (address, want, reason) = (row.get(8)?, row.get(9)?, row.get(10)?);
    let (opened_at, ended_at, end_code, end_reason) = (row.get(16)?, row.get(17)?, row.get(18)?, row.get(19)?);
    let (to_device, to_client): (i64, i64) = (row.get(20)?, row.get(21)?);
    let token = row.get(22)?;
    Ok((|| {
        Ok(SessionRow {
            n,
            id: id.parse()?,
            org: org.parse()?,
            uid: uid.parse()?,
            device_name,
            project: project.parse()?,
            role,
            email,
            token,
            address,
            want,
            reason,
            client_ticket,
            device_ticket,
            created_at: made,
            opened_at,
            ended_at,
            end_code,
            end_reason,
            to_device: to_device.unsigned_abs(),
            to_client: to_client.unsigned_abs(),
        })
    })())
}

/// Files a new session.
///
/// # Errors
/// `not_found` when the organization was deleted meanwhile.
pub(crate) fn insert(tx: &Transaction<'_>, session: &SessionRow) -> Result<()> {
    orgs::must_exist(tx, &session.org)?;
    tx.prepare_cached(
        "INSERT INTO sessions (id, org, uid, device_name, project, role, email, address, want, reason, client_ticket, device_ticket, \
         created_at, token) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
    )?
    .execute(params![
        session.id.as_str(),
        session.org.as_str(),
        session.uid.as_str(),
        session.device_name,
        session.project.as_str(),
        session.role,
        session.email,
        session.address,
        session.want,
        session.reason,
        session.client_ticket.digest,
        session.device_ticket.digest,
        session.created_at,
        session.token,
    ])?;
    Ok(())
}

/// One session.
///
/// # Errors
/// When the database fails.
pub(crate) fn by_id(connection: &Connection, id: &SessionId) -> Result<Option<SessionRow>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM sessions WHERE id = ?1"))?;
    statement.query_row([id.as_str()], session).optional()?.transpose()
}

/// All that have not ended, oldest first.
///
/// # Errors
/// When the database fails.
pub(crate) fn alive(connection: &Connection) -> Result<Vec<SessionRow>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM sessions WHERE ended_at IS NULL ORDER BY n"))?;
    statement.query_map([], session)?.map(|row| row?).collect()
}

/// Which sessions to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// Of this device only.
    pub(crate) uid: Option<DeviceUid>,
    /// Only ended (true) or only living (false) ones.
    pub(crate) ended: Option<bool>,
    /// Only in the name of these projects; all if absent.
    pub(crate) projects: Option<Vec<ProjectId>>,
}

/// Sessions of an organization, newest first, with numbers below `before`.
///
/// # Errors
/// When the database fails.
pub(crate) fn list(connection: &Connection, org: &OrgId, filter: &Filter, before: Option<i64>, limit: usize) -> Result<Vec<SessionRow>> {
    let projects = filter.projects.as_ref().map(serde_json::to_string).transpose()?;
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM sessions WHERE org = ?1 AND n < ?2 \
         AND (?3 IS NULL OR uid = ?3) AND (?4 IS NULL OR (ended_at IS NOT NULL) = ?4) \
         AND (?5 IS NULL OR project IN (SELECT value FROM json_each(?5))) ORDER BY n DESC LIMIT ?6"
    ))?;
    let (uid, limit) = (filter.uid.as_ref().map(DeviceUid::as_str), i64::try_from(limit).unwrap_or(i64::MAX));
    let rows = statement.query_map(params![org.as_str(), before.unwrap_or(i64::MAX), uid, filter.ended, projects, limit], session)?;
    rows.map(|row| row?).collect()
}

/// Notes that a ticket was used in time.
///
/// # Errors
/// When the database fails.
pub(crate) fn ticket_used(tx: &Transaction<'_>, id: &SessionId, client: bool) -> Result<()> {
    let sql =
        if client { "UPDATE sessions SET client_used = 1 WHERE id = ?1" } else { "UPDATE sessions SET device_used = 1 WHERE id = ?1" };
    tx.prepare_cached(sql)?.execute([id.as_str()])?;
    Ok(())
}

/// Notes that both ends have met.
///
/// # Errors
/// When the database fails.
pub(crate) fn opened(tx: &Transaction<'_>, id: &SessionId, now: Millis) -> Result<()> {
    let sql = "UPDATE sessions SET opened_at = ?2 WHERE id = ?1 AND opened_at IS NULL AND ended_at IS NULL";
    if tx.prepare_cached(sql)?.execute(params![id.as_str(), now])? > 0 {
        metering::session_opened(tx, id, &Moment::now())?;
    }
    Ok(())
}

/// Notes how much has passed so far, and meters it.
///
/// # Errors
/// When the database fails.
pub(crate) fn counted(tx: &Transaction<'_>, id: &SessionId, to_device: u64, to_client: u64) -> Result<()> {
    tx.prepare_cached("UPDATE sessions SET to_device = ?2, to_client = ?3 WHERE id = ?1")?.execute(params![
        id.as_str(),
        to_device.cast_signed(),
        to_client.cast_signed()
    ])?;
    metering::session(tx, id, to_device, to_client, &Moment::now())
}

/// How a session ended.
#[derive(Debug, Clone)]
pub(crate) struct Ending<'a> {
    pub(crate) at: Millis,
    pub(crate) code: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) by: &'a str,
    pub(crate) to_device: u64,
    pub(crate) to_client: u64,
}

/// Ends a session's record, and meters it to its end. False if it had ended before.
///
/// # Errors
/// When the database fails.
pub(crate) fn end(tx: &Transaction<'_>, id: &SessionId, ending: &Ending<'_>) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE sessions SET ended_at = ?2, end_code = ?3, end_reason = ?4, ended_by = ?5, to_device = ?6, to_client = ?7 \
             WHERE id = ?1 AND ended_at IS NULL",
        )?
        .execute(params![
            id.as_str(),
            ending.at,
            ending.code,
            ending.reason,
            ending.by,
            ending.to_device.cast_signed(),
            ending.to_client.cast_signed()
        ])?;
    if changed > 0 {
        metering::session_ended(tx, id, ending.to_device, ending.to_client, &Moment::now())?;
    }
    Ok(changed > 0)
}

/// Removes at most `slice` sessions that ended before `cutoff`. How many went.
///
/// # Errors
/// When the database fails.
pub(crate) fn prune(tx: &Transaction<'_>, cutoff: Millis, slice: i64) -> Result<usize> {
    let gone = "DELETE FROM sessions WHERE n IN (SELECT n FROM sessions WHERE ended_at < ?1 ORDER BY ended_at LIMIT ?2)";
    Ok(tx.prepare_cached(gone)?.execute([cutoff, slice])?)
}

#[cfg(test)]
impl SessionRow {
    /// One that was asked for at this time and waits for its ends, for tests of whatever handles sessions.
    pub(crate) fn example(now: Millis, client_ticket: Ticket, device_ticket: Ticket) -> Self {
        Self {
            n: 0,
            id: SessionId::from_random(crate::random::bytes()),
            org: "acme".parse().unwrap(),
            uid: DeviceUid::from_random([7; 15]),
            device_name: "robot".to_owned(),
            project: "lab".parse().unwrap(),
            role: "connect".to_owned(),
            email: "ada@example.com".to_owned(),
            token: None,
            address: None,
            want: Some("shell".to_owned()),
            reason: None,
            client_ticket,
            device_ticket,
            created_at: now,
            opened_at: None,
            ended_at: None,
            end_code: None,
            end_reason: None,
            to_device: 0,
            to_client: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Error, Store};
    use muster_proto::problem::Code;

    #[test]
    fn a_session_in_an_organization_that_was_deleted_meanwhile_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("hub.db")).unwrap();
        let row = SessionRow::example(0, Ticket::make(0).1, Ticket::make(0).1);
        match store.write_blocking(move |tx| insert(tx, &row)) {
            Err(Error::Problem(problem)) => assert!(problem.is(Code::NotFound) && problem.detail.contains("acme"), "{problem:?}"),
            other => panic!("{other:?}"),
        }
    }
}
