//! Single sign-on: who is who at a provider, and logins under way. All secrets stand here as digests, but for what the hub itself must
//! say again to the provider. What was used is gone: each row of a login serves once.

use muster_proto::Millis;
use muster_proto::id::OrgId;
use muster_proto::problem::Code;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{Result, problem};

/// Logins under way at the same time, of each kind: strangers can begin them.
const UNDER_WAY_MAX: i64 = 20_000;

/// The account of a person at a provider.
pub(crate) fn account_of(connection: &Connection, issuer: &str, subject: &str) -> Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT account FROM identities WHERE issuer = ?1 AND subject = ?2")?;
    Ok(statement.query_row([issuer, subject], |row| row.get(0)).optional()?)
}

/// Whether an account is somebody's at a provider already.
pub(crate) fn is_linked(connection: &Connection, issuer: &str, account: i64) -> Result<bool> {
    let mut statement = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM identities WHERE issuer = ?1 AND account = ?2)")?;
    Ok(statement.query_row(params![issuer, account], |row| row.get(0))?)
}

/// Notes whose account it is.
pub(crate) fn link(tx: &Transaction<'_>, issuer: &str, subject: &str, account: i64, now: Millis) -> Result<()> {
    tx.prepare_cached("INSERT INTO identities (issuer, subject, account, linked_at, used_at) VALUES (?1, ?2, ?3, ?4, ?4)")?
        .execute(params![issuer, subject, account, now])?;
    Ok(())
}

/// Notes that somebody came by it.
pub(crate) fn touch(tx: &Transaction<'_>, issuer: &str, subject: &str, now: Millis) -> Result<()> {
    tx.prepare_cached("UPDATE identities SET used_at = ?3 WHERE issuer = ?1 AND subject = ?2")?.execute(params![issuer, subject, now])?;
    Ok(())
}

/// Forgets who an account is at all providers, and says whether it was anybody.
///
/// # Errors
/// When the database fails.
pub fn unlink(tx: &Transaction<'_>, account: i64) -> Result<bool> {
    Ok(tx.prepare_cached("DELETE FROM identities WHERE account = ?1")?.execute([account])? > 0)
}

/// Whether an organization took an account in by its domain before.
pub(crate) fn has_joined(connection: &Connection, org: &OrgId, account: i64) -> Result<bool> {
    let mut statement = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM auto_joins WHERE org = ?1 AND account = ?2)")?;
    Ok(statement.query_row(params![org.as_str(), account], |row| row.get(0))?)
}

/// Notes that it did.
pub(crate) fn note_joined(tx: &Transaction<'_>, org: &OrgId, account: i64, now: Millis) -> Result<()> {
    tx.prepare_cached("INSERT INTO auto_joins (org, account, joined_at) VALUES (?1, ?2, ?3)")?.execute(params![
        org.as_str(),
        account,
        now
    ])?;
    Ok(())
}

/// Whether an invitation waits for an e-mail, anywhere.
pub(crate) fn is_invited(connection: &Connection, email: &str, now: Millis) -> Result<bool> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM invitations WHERE email = ?1 AND accepted_at IS NULL AND revoked_at IS NULL AND expires_at > ?2)",
    )?;
    Ok(statement.query_row(params![email, now], |row| row.get(0))?)
}

/// A browser that is on its way.
pub(crate) struct LoginRow {
    /// Digest of what the browser has to bring: the state, or the secret of the page that asks it to confirm.
    pub state: [u8; 32],
    /// Digest of its cookie.
    pub browser: [u8; 32],
    pub nonce: String,
    /// PKCE towards the provider.
    pub verifier: String,
    /// What it is for, as JSON.
    pub goal: String,
    pub expires_at: Millis,
}

/// Files a login, and clears away those that ended.
pub(crate) fn begin(tx: &Transaction<'_>, row: &LoginRow, now: Millis) -> Result<()> {
    tx.prepare_cached("DELETE FROM oidc_logins WHERE expires_at <= ?1")?.execute([now])?;
    room(tx, "oidc_logins")?;
    tx.prepare_cached(
        "INSERT INTO oidc_logins (state, browser, nonce, verifier, goal, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![row.state, row.browser, row.nonce, row.verifier, row.goal, now, row.expires_at])?;
    Ok(())
}

/// Takes a login out: whatever comes of it, it is over.
pub(crate) fn take(tx: &Transaction<'_>, state: [u8; 32], now: Millis) -> Result<Option<LoginRow>> {
    let mut statement =
        tx.prepare_cached("DELETE FROM oidc_logins WHERE state = ?1 RETURNING browser, nonce, verifier, goal, expires_at")?;
    let row = |row: &Row<'_>| {
        Ok(LoginRow { state, browser: row.get(0)?, nonce: row.get(1)?, verifier: row.get(2)?, goal: row.get(3)?, expires_at: row.get(4)? })
    };
    Ok(statement.query_row([state], row).optional()?.filter(|row| row.expires_at > now))
}

fn room(tx: &Transaction<'_>, table: &'static str) -> Result<()> {
    let waiting: i64 = tx.prepare_cached(&format!("SELECT count(*) FROM {table}"))?.query_row([], |row| row.get(0))?;
    if waiting >= UNDER_WAY_MAX {
        return Err(problem(Code::RateLimited, "too many logins are under way at this hub; try again in some minutes"));
    }
    Ok(())
}

/// A one-time code that the command line trades for a token.
pub(crate) struct CodeRow {
    pub account: i64,
    /// PKCE (S256) of the command line.
    pub challenge: String,
    pub redirect: String,
}

/// Files a code, and clears away those that ended.
pub(crate) fn give_code(tx: &Transaction<'_>, digest: [u8; 32], row: &CodeRow, now: Millis, expires_at: Millis) -> Result<()> {
    tx.prepare_cached("DELETE FROM login_codes WHERE expires_at <= ?1")?.execute([now])?;
    tx.prepare_cached("INSERT INTO login_codes (digest, account, challenge, redirect, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![digest, row.account, row.challenge, row.redirect, expires_at])?;
    Ok(())
}

/// Takes a code out: whoever shows it, and however, it is over.
pub(crate) fn take_code(tx: &Transaction<'_>, digest: [u8; 32], now: Millis) -> Result<Option<CodeRow>> {
    let mut statement =
        tx.prepare_cached("DELETE FROM login_codes WHERE digest = ?1 RETURNING account, challenge, redirect, expires_at")?;
    let row =
        |row: &Row<'_>| Ok((CodeRow { account: row.get(0)?, challenge: row.get(1)?, redirect: row.get(2)? }, row.get::<_, Millis>(3)?));
    Ok(statement.query_row([digest], row).optional()?.filter(|(_, ends)| *ends > now).map(|(row, _)| row))
}

/// A login by device code.
#[derive(Debug, Clone)]
pub(crate) struct DeviceRow {
    /// Digest of the device code.
    pub digest: [u8; 32],
    pub user_code: String,
    pub token_name: String,
    /// Of the program that asks.
    pub address: Option<String>,
    pub created_at: Millis,
    pub expires_at: Millis,
    /// Seconds between polls at least.
    pub interval_s: u32,
    pub polled_at: Option<Millis>,
    /// Who said yes.
    pub account: Option<i64>,
    /// Whether a person decided, and how.
    pub approved: Option<bool>,
}

const DEVICE: &str =
    "digest, user_code, token_name, address, created_at, expires_at, interval_s, polled_at, account, decision = 'approved'";

fn device(row: &Row<'_>) -> rusqlite::Result<DeviceRow> {
    Ok(DeviceRow {
        digest: row.get(0)?,
        user_code: row.get(1)?,
        token_name: row.get(2)?,
        address: row.get(3)?,
        created_at: row.get(4)?,
        expires_at: row.get(5)?,
        interval_s: row.get(6)?,
        polled_at: row.get(7)?,
        account: row.get(8)?,
        approved: row.get(9)?,
    })
}

/// Files a login by device code, and clears away those that ended a while ago: until then they are told that they ended.
pub(crate) fn begin_device(tx: &Transaction<'_>, row: &DeviceRow, ended_before: Millis) -> Result<()> {
    tx.prepare_cached("DELETE FROM device_logins WHERE expires_at <= ?1")?.execute([ended_before])?;
    room(tx, "device_logins")?;
    tx.prepare_cached(
        "INSERT INTO device_logins (digest, user_code, token_name, address, created_at, expires_at, interval_s) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![row.digest, row.user_code, row.token_name, row.address, row.created_at, row.expires_at, row.interval_s])?;
    Ok(())
}

/// The login of a device code.
pub(crate) fn device_by_digest(connection: &Connection, digest: [u8; 32]) -> Result<Option<DeviceRow>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {DEVICE} FROM device_logins WHERE digest = ?1"))?;
    Ok(statement.query_row([digest], device).optional()?)
}

/// The login that waits for a person with this code.
pub(crate) fn waiting_device(connection: &Connection, user_code: &str, now: Millis) -> Result<Option<DeviceRow>> {
    let sql = format!("SELECT {DEVICE} FROM device_logins WHERE user_code = ?1 AND decision IS NULL AND expires_at > ?2");
    Ok(connection.prepare_cached(&sql)?.query_row(params![user_code, now], device).optional()?)
}

/// A person decided. Says whether it still waited.
pub(crate) fn decide_device(tx: &Transaction<'_>, user_code: &str, account: i64, approved: bool, now: Millis) -> Result<bool> {
    let decision = if approved { "approved" } else { "denied" };
    let sql = "UPDATE device_logins SET account = ?2, decision = ?3 WHERE user_code = ?1 AND decision IS NULL AND expires_at > ?4";
    Ok(tx.prepare_cached(sql)?.execute(params![user_code, account, decision, now])? == 1)
}

/// Notes that the program asked, and how long it has to wait from now on.
pub(crate) fn polled(tx: &Transaction<'_>, digest: [u8; 32], now: Millis, interval_s: u32) -> Result<()> {
    tx.prepare_cached("UPDATE device_logins SET polled_at = ?2, interval_s = ?3 WHERE digest = ?1")?
        .execute(params![digest, now, interval_s])?;
    Ok(())
}

/// It is over: its token was given, or its refusal told.
pub(crate) fn end_device(tx: &Transaction<'_>, digest: [u8; 32]) -> Result<()> {
    tx.prepare_cached("DELETE FROM device_logins WHERE digest = ?1")?.execute([digest])?;
    Ok(())
}
