//! People's accounts.

use muster_proto::Millis;
use muster_proto::problem::Code;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{Result, problem};

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
}

fn account(row: &Row<'_>) -> rusqlite::Result<Account> {
    Ok(Account { id: row.get(0)?, email: row.get(1)?, name: row.get(2)?, password: row.get(3)? })
}

/// Makes an account.
///
/// # Errors
/// `exists` when the e-mail is taken.
pub fn create(tx: &Transaction<'_>, email: &str, name: &str, password: Option<&str>, now: Millis) -> Result<i64> {
    if by_email(tx, email)?.is_some() {
        return Err(problem(Code::Exists, format!("an account for {email} exists already")));
    }
    tx.prepare_cached("INSERT INTO accounts (email, name, password, created_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![email, name, password, now])?;
    Ok(tx.last_insert_rowid())
}

/// The account of an e-mail.
///
/// # Errors
/// When the database fails.
pub fn by_email(connection: &Connection, email: &str) -> Result<Option<Account>> {
    let mut statement = connection.prepare_cached("SELECT id, email, name, password FROM accounts WHERE email = ?1")?;
    Ok(statement.query_row([email.to_lowercase()], account).optional()?)
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
