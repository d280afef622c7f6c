//! People's accounts.

use muster_proto::Millis;
use muster_proto::problem::Code;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{Result, problem, tokens};

/// A person's account.
#[derive(Clone)]
pub struct Account {
    /// Its number in the database.
    pub id: i64,
    /// E-mail in lower case.
    pub email: String,
    /// Display name.
    pub name: String,
    /// argon2id in PHC form.
    pub password: Option<String>,
    /// Whether it is an owner of the hub.
    pub hub_owner: bool,
    /// Whether it belongs to an organization's programs, not to a person.
    pub service: bool,
    /// When an owner of the hub set it aside.
    pub disabled_at: Option<Millis>,
    /// When its person closed it.
    pub closed_at: Option<Millis>,
    /// When it was proved that the e-mail is its person's.
    pub verified_at: Option<Millis>,
}

impl Account {
    /// Whether anybody may log in to it.
    pub fn is_open(&self) -> bool {
        self.disabled_at.is_none() && self.closed_at.is_none()
    }
}

const COLUMNS: &str = "id, email, name, password, hub_owner, kind = 'service', disabled_at, closed_at, verified_at";

fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    Ok(Account {
        id: row.get(0)?,
        email: row.get(1)?,
        name: row.get(2)?,
        password: row.get(3)?,
        hub_owner: row.get(4)?,
        service: row.get(5)?,
        disabled_at: row.get(6)?,
        closed_at: row.get(7)?,
        verified_at: row.get(8)?,
    })
}

/// Makes an account whose e-mail is taken to be its person's: by the operator's word.
///
/// # Errors
/// `exists` when the e-mail is taken.
pub fn create(tx: &Transaction<'_>, email: &str, name: &str, password: Option<&str>, now: Millis) -> Result<i64> {
    if by_email(tx, email)?.is_some() {
        return Err(problem(Code::Exists, format!("an account for {email} exists already")));
    }
    tx.prepare_cached("INSERT INTO accounts (email, name, password, created_at, verified_at) VALUES (?1, ?2, ?3, ?4, ?4)")?
        .execute(params![email, name, password, now])?;
    Ok(tx.last_insert_rowid())
}

/// Notes whether it was proved that the e-mail is its person's.
///
/// # Errors
/// When the database fails.
pub fn set_verified(tx: &Transaction<'_>, account: i64, at: Option<Millis>) -> Result<()> {
    tx.prepare_cached("UPDATE accounts SET verified_at = ?2 WHERE id = ?1")?.execute(params![account, at])?;
    Ok(())
}

/// The account of an e-mail.
///
/// # Errors
/// When the database fails.
pub fn by_email(connection: &Connection, email: &str) -> Result<Option<Account>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM accounts WHERE email = ?1"))?;
    Ok(statement.query_row([email.to_lowercase()], account).optional()?)
}

/// The account of a number.
///
/// # Errors
/// When the database fails.
pub fn by_id(connection: &Connection, id: i64) -> Result<Option<Account>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM accounts WHERE id = ?1"))?;
    Ok(statement.query_row([id], account).optional()?)
}

/// Sets an account's password.
///
/// # Errors
/// `not_found` when there is no such account.
pub fn set_password(tx: &Transaction<'_>, email: &str, password: &str) -> Result<()> {
    let changed =
        tx.prepare_cached("UPDATE accounts SET password = ?2 WHERE email = ?1")?.execute(params![email.to_lowercase(), password])?;
    if changed == 0 {
        return Err(problem(Code::NotFound, format!("there is no account for {email}; make it with `muster-hub user add {email}`")));
    }
    Ok(())
}

/// Whether the hub has an owner yet.
///
/// # Errors
/// When the database fails.
pub fn has_hub_owner(connection: &Connection) -> Result<bool> {
    Ok(connection.query_row("SELECT EXISTS (SELECT 1 FROM accounts WHERE hub_owner)", [], |row| row.get(0))?)
}

/// Makes an account an owner of the hub, or no longer one.
///
/// # Errors
/// When the database fails.
pub fn set_hub_owner(tx: &Transaction<'_>, account: i64, owner: bool) -> Result<()> {
    tx.prepare_cached("UPDATE accounts SET hub_owner = ?2 WHERE id = ?1")?.execute(params![account, owner])?;
    Ok(())
}

/// Whether an account can log in with a password.
///
/// # Errors
/// When the database fails.
pub fn has_password(connection: &Connection, account: i64) -> Result<bool> {
    let mut statement = connection.prepare_cached("SELECT password IS NOT NULL FROM accounts WHERE id = ?1")?;
    Ok(statement.query_row([account], |row| row.get(0)).optional()?.unwrap_or(false))
}

/// Opens an account again that its person closed.
///
/// # Errors
/// When the database fails.
pub fn reopen(tx: &Transaction<'_>, account: i64, name: &str, password: Option<&str>) -> Result<()> {
    tx.prepare_cached("UPDATE accounts SET closed_at = NULL, name = ?2, password = ?3 WHERE id = ?1")?
        .execute(params![account, name, password])?;
    Ok(())
}

/// Gives an account to its person, open, with this name and password: whoever had it until now has nothing of it any more.
///
/// # Errors
/// When the database fails.
pub(crate) fn hand_over(tx: &Transaction<'_>, account: i64, name: &str, password: Option<&str>) -> Result<()> {
    tokens::delete_others(tx, account, None)?;
    reopen(tx, account, name, password)
}

/// Gives an account another display name.
///
/// # Errors
/// When the database fails.
pub fn set_name(tx: &Transaction<'_>, account: i64, name: &str) -> Result<()> {
    tx.prepare_cached("UPDATE accounts SET name = ?2 WHERE id = ?1")?.execute(params![account, name])?;
    Ok(())
}

/// Closes an account: nobody logs in to it any more, and no provider of single sign-on opens it.
///
/// # Errors
/// When the database fails.
pub fn close(tx: &Transaction<'_>, account: i64, now: Millis) -> Result<()> {
    tx.prepare_cached("DELETE FROM identities WHERE account = ?1")?.execute([account])?;
    tx.prepare_cached("UPDATE accounts SET closed_at = ?2, password = NULL, hub_owner = 0 WHERE id = ?1")?
        .execute(params![account, now])?;
    Ok(())
}

/// How many accounts own the hub.
///
/// # Errors
/// When the database fails.
pub fn hub_owners(connection: &Connection) -> Result<u32> {
    let sql = "SELECT count(*) FROM accounts WHERE hub_owner AND disabled_at IS NULL AND closed_at IS NULL";
    Ok(connection.query_row(sql, [], |row| row.get(0))?)
}

/// Sets an account aside, or back.
///
/// # Errors
/// When the database fails.
pub fn set_disabled(tx: &Transaction<'_>, account: i64, since: Option<Millis>) -> Result<()> {
    tx.prepare_cached("UPDATE accounts SET disabled_at = ?2 WHERE id = ?1")?.execute(params![account, since])?;
    Ok(())
}

/// Accounts of people, by e-mail.
///
/// # Errors
/// When the database fails.
pub fn people(connection: &Connection) -> Result<Vec<Account>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM accounts WHERE kind = 'person' ORDER BY email"))?;
    Ok(statement.query_map([], account)?.collect::<rusqlite::Result<_>>()?)
}
