//! Personal access tokens. Only digests of their secrets are stored.

use muster_proto::Millis;
use muster_proto::api::{AccessToken, TokenScope};
use muster_proto::id::{OrgId, ProjectId};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{Error, Result};

/// What proves a person's token, and whose it is.
pub(crate) struct Held {
    pub digest: Vec<u8>,
    pub account: i64,
    pub email: String,
    pub name: String,
    pub hub_owner: bool,
    pub service: bool,
    /// Set aside by an owner of the hub, or closed.
    pub disabled: bool,
    pub scope: TokenScope,
    pub org: Option<OrgId>,
    pub project: Option<ProjectId>,
    pub expires_at: Millis,
    pub used_at: Option<Millis>,
}

fn parse_scope(text: &str) -> Result<TokenScope> {
    [TokenScope::Read, TokenScope::Reach, TokenScope::Full]
        .into_iter()
        .find(|scope| scope.as_str() == text)
        .ok_or_else(|| Error::Corrupt { what: "scope", why: text.to_owned() })
}

fn limits(org: Option<String>, project: Option<String>) -> Result<(Option<OrgId>, Option<ProjectId>)> {
    Ok((org.map(|org| org.parse()).transpose()?, project.map(|project| project.parse()).transpose()?))
}

/// Files a token.
pub(crate) fn insert(tx: &Transaction<'_>, account: i64, digest: [u8; 32], token: &AccessToken) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO access_tokens (id, account, digest, name, created_at, expires_at, scope, org, project)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        token.id,
        account,
        digest,
        token.name,
        token.created_at,
        token.expires_at,
        token.scope.as_str(),
        token.org.as_ref().map(OrgId::as_str),
        token.project.as_ref().map(ProjectId::as_str)
    ])?;
    Ok(())
}

/// The token of a public name, with its account.
pub(crate) fn held(connection: &Connection, id: &str) -> Result<Option<Held>> {
    let mut statement = connection.prepare_cached(
        "SELECT t.digest, a.id, a.email, a.name, t.expires_at, t.used_at, t.scope, t.org, t.project, a.hub_owner, a.kind = 'service',
             a.disabled_at IS NOT NULL OR a.closed_at IS NOT NULL
         FROM access_tokens t JOIN accounts a ON a.id = t.account WHERE t.id = ?1",
    )?;
    let mut rows = statement.query([id])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (org, project) = limits(row.get(7)?, row.get(8)?)?;
    Ok(Some(Held {
        digest: row.get(0)?,
        account: row.get(1)?,
        email: row.get(2)?,
        name: row.get(3)?,
        expires_at: row.get(4)?,
        used_at: row.get(5)?,
        scope: parse_scope(&row.get::<_, String>(6)?)?,
        org,
        project,
        hub_owner: row.get(9)?,
        service: row.get(10)?,
        disabled: row.get(11)?,
    }))
}

/// Notes that a token was used.
pub(crate) fn touch(tx: &Transaction<'_>, id: &str, now: Millis) -> Result<()> {
    tx.prepare_cached("UPDATE access_tokens SET used_at = ?2 WHERE id = ?1")?.execute(params![id, now])?;
    Ok(())
}

/// An account's tokens, newest first, those that ended included.
pub(crate) fn list(connection: &Connection, account: i64) -> Result<Vec<AccessToken>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, name, created_at, expires_at, used_at, scope, org, project
         FROM access_tokens WHERE account = ?1 ORDER BY created_at DESC, id",
    )?;
    let mut rows = statement.query([account])?;
    let mut list = Vec::new();
    while let Some(row) = rows.next()? {
        list.push(token(row)?);
    }
    Ok(list)
}

fn token(row: &Row<'_>) -> Result<AccessToken> {
    let (org, project) = limits(row.get(6)?, row.get(7)?)?;
    Ok(AccessToken {
        id: row.get(0)?,
        token: None,
        name: row.get(1)?,
        scope: parse_scope(&row.get::<_, String>(5)?)?,
        org,
        project,
        created_at: row.get(2)?,
        expires_at: row.get(3)?,
        used_at: row.get(4)?,
    })
}

/// How many tokens of an account are good now.
pub(crate) fn count_valid(connection: &Connection, account: i64, now: Millis) -> Result<u32> {
    let mut statement = connection.prepare_cached("SELECT count(*) FROM access_tokens WHERE account = ?1 AND expires_at > ?2")?;
    Ok(statement.query_row(params![account, now], |row| row.get(0))?)
}

/// Deletes a token of an account, and says whether it was there.
pub(crate) fn delete(tx: &Transaction<'_>, account: i64, id: &str) -> Result<bool> {
    Ok(tx.prepare_cached("DELETE FROM access_tokens WHERE account = ?1 AND id = ?2")?.execute(params![account, id])? == 1)
}

/// Deletes all tokens of an account but one, and says how many. Logins that are under way give none any more either.
pub(crate) fn delete_others(tx: &Transaction<'_>, account: i64, keep: Option<&str>) -> Result<usize> {
    tx.prepare_cached("DELETE FROM login_codes WHERE account = ?1")?.execute([account])?;
    tx.prepare_cached("DELETE FROM device_logins WHERE account = ?1")?.execute([account])?;
    Ok(tx.prepare_cached("DELETE FROM access_tokens WHERE account = ?1 AND id IS NOT ?2")?.execute(params![account, keep])?)
}

/// What has become of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is good.
    Good,
    /// Its time is over.
    RunOut,
    /// It is not there.
    Withdrawn,
}

/// What has become of the token of a public name.
pub(crate) fn state(connection: &Connection, id: &str, now: Millis) -> Result<State> {
    let mut statement = connection.prepare_cached("SELECT expires_at FROM access_tokens WHERE id = ?1")?;
    let expires_at: Option<Millis> = statement.query_row([id], |row| row.get(0)).optional()?;
    Ok(match expires_at {
        None => State::Withdrawn,
        Some(end) if end <= now => State::RunOut,
        Some(_) => State::Good,
    })
}

/// The tokens whose time is over.
pub(crate) fn run_out(connection: &Connection, now: Millis) -> Result<Vec<String>> {
    let mut statement = connection.prepare_cached("SELECT id FROM access_tokens WHERE expires_at <= ?1")?;
    Ok(statement.query_map([now], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?)
}

/// Clears away tokens that ended before `ended_before`.
pub(crate) fn purge(tx: &Transaction<'_>, ended_before: Millis) -> Result<usize> {
    Ok(tx.prepare_cached("DELETE FROM access_tokens WHERE expires_at < ?1")?.execute([ended_before])?)
}
