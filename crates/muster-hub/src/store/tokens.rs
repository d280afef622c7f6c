//! Personal access tokens. Only digests of their secrets are stored.

use muster_proto::Millis;
use muster_proto::api::AccessToken;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::Result;

/// What proves a person's token, and whose it is.
pub(crate) struct Held {
    pub digest: Vec<u8>,
    pub account: i64,
    pub email: String,
    pub name: String,
    pub expires_at: Millis,
    pub used_at: Option<Millis>,
}

/// Files a token.
pub(crate) fn insert(tx: &Transaction<'_>, account: i64, digest: [u8; 32], token: &AccessToken) -> Result<()> {
    tx.prepare_cached("INSERT INTO access_tokens (id, account, digest, name, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![token.id, account, digest, token.name, token.created_at, token.expires_at])?;
    Ok(())
}

/// The token of a public name, with its account.
pub(crate) fn held(connection: &Connection, id: &str) -> Result<Option<Held>> {
    let mut statement = connection.prepare_cached(
        "SELECT t.digest, a.id, a.email, a.name, t.expires_at, t.used_at
         FROM access_tokens t JOIN accounts a ON a.id = t.account WHERE t.id = ?1",
    )?;
    let held = statement.query_row([id], |row| {
        Ok(Held {
            digest: row.get(0)?,
            account: row.get(1)?,
            email: row.get(2)?,
            name: row.get(3)?,
            expires_at: row.get(4)?,
            used_at: row.get(5)?,
        })
    });
    Ok(held.optional()?)
}

/// Notes that a token was used.
pub(crate) fn touch(tx: &Transaction<'_>, id: &str, now: Millis) -> Result<()> {
    tx.prepare_cached("UPDATE access_tokens SET used_at = ?2 WHERE id = ?1")?.execute(params![id, now])?;
    Ok(())
}

/// An account's tokens, newest first, those that ended included.
pub(crate) fn list(connection: &Connection, account: i64) -> Result<Vec<AccessToken>> {
    let mut statement = connection.prepare_cached(
        "SELECT id, name, created_at, expires_at, used_at FROM access_tokens WHERE account = ?1 ORDER BY created_at DESC, id",
    )?;
    let rows = statement.query_map([account], |row| {
        Ok(AccessToken {
            id: row.get(0)?,
            token: None,
            name: row.get(1)?,
            created_at: row.get(2)?,
            expires_at: row.get(3)?,
            used_at: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
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

/// Clears away tokens that ended before `ended_before`.
pub(crate) fn purge(tx: &Transaction<'_>, ended_before: Millis) -> Result<usize> {
    Ok(tx.prepare_cached("DELETE FROM access_tokens WHERE expires_at < ?1")?.execute([ended_before])?)
}
