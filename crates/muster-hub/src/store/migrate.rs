//! The schema's history: append-only files, each run once, in order, in a transaction of its own.
//!
//! A file that a released hub has run is never edited: its digest is kept with its name, and a database that was made by
//! other files is refused rather than guessed at.

use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior};

use super::{Error, Result};
use crate::{clock, random};

/// All migrations, oldest first.
const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_core", include_str!("../../migrations/0001_core.sql")),
    ("0002_mqtt_telemetry", include_str!("../../migrations/0002_mqtt_telemetry.sql")),
    ("0003_sessions", include_str!("../../migrations/0003_sessions.sql")),
    ("0004_organization", include_str!("../../migrations/0004_organization.sql")),
    ("0005_people", include_str!("../../migrations/0005_people.sql")),
    ("0006_device_list", include_str!("../../migrations/0006_device_list.sql")),
    ("0007_billing", include_str!("../../migrations/0007_billing.sql")),
    ("0008_runs", include_str!("../../migrations/0008_runs.sql")),
    ("0009_proved_accounts", include_str!("../../migrations/0009_proved_accounts.sql")),
    ("0010_auto_joins", include_str!("../../migrations/0010_auto_joins.sql")),
    ("0011_asked_with", include_str!("../../migrations/0011_asked_with.sql")),
    ("0012_device_policies", include_str!("../../migrations/0012_device_policies.sql")),
];

/// Brings the schema up to date.
pub(super) fn run(connection: &mut Connection) -> Result<()> {
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS migrations (name TEXT PRIMARY KEY, digest TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT",
    )?;
    let newest: Option<String> = connection.query_row("SELECT max(name) FROM migrations", [], |row| row.get(0))?;
    if let Some(newest) = newest
        && !MIGRATIONS.iter().any(|(name, _)| *name == newest)
    {
        return Err(corrupt(format!("it has migration {newest}, which this hub does not know: start the newer hub that made it")));
    }
    for (name, sql) in MIGRATIONS {
        let digest = random::to_hex(&random::sha256(sql.as_bytes()));
        // Immediate, so that two hubs that start on one database do not both run it.
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let applied: Option<String> = tx.query_row("SELECT digest FROM migrations WHERE name = ?1", [name], |row| row.get(0)).optional()?;
        match applied {
            Some(applied) if applied == digest => continue,
            Some(_) => return Err(corrupt(format!("its migration {name} is not the one of this hub"))),
            None => {
                tx.execute_batch(sql)?;
                tx.execute("INSERT INTO migrations VALUES (?1, ?2, ?3)", (name, digest, clock::now()))?;
                tx.commit()?;
            }
        }
    }
    Ok(())
}

fn corrupt(why: String) -> Error {
    Error::Corrupt { what: "schema", why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_once_and_refuses_what_it_does_not_know() {
        let mut connection = Connection::open_in_memory().unwrap();
        run(&mut connection).unwrap();
        run(&mut connection).unwrap();
        let count: i64 = connection.query_row("SELECT count(*) FROM migrations", [], |row| row.get(0)).unwrap();
        assert_eq!(usize::try_from(count), Ok(MIGRATIONS.len()));

        connection.execute("INSERT INTO migrations VALUES ('9999_later', 'x', 0)", []).unwrap();
        assert!(run(&mut connection).unwrap_err().to_string().contains("newer hub"));
        connection.execute("DELETE FROM migrations WHERE name = '9999_later'", []).unwrap();
        connection.execute("UPDATE migrations SET digest = 'x'", []).unwrap();
        assert!(run(&mut connection).unwrap_err().to_string().contains("not the one of this hub"));
    }

    #[test]
    fn names_are_in_order() {
        assert!(MIGRATIONS.windows(2).all(|pair| pair[0].0 < pair[1].0));
    }
}
