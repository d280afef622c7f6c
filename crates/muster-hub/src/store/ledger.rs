//! Credits: charges, top-ups, corrections. Append-only; the balance is the sum.
//!
//! A charge is computed once for each row of `charges` (day, project, kind, rate) from its whole amount, rounded to the nearest
//! nano-credit, half up. Where more is metered for a day that was closed, which only a clock that is set back can do, the next line
//! brings what stands in the ledger up to the rounded whole: the sum of the lines of a row never depends on how often it was posted.

use muster_proto::Millis;
use muster_proto::api::{Credits, Day, LedgerEntry, LedgerLine, Rate, Spent};
use muster_proto::id::{OrgId, ProjectId};
use muster_proto::problem::Code;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::metering::Kind;
use super::{Error, Result, problem, sums};

/// What an amount costs, in nano-credits: exact, then rounded to the nearest, half up.
pub(crate) fn price(amount: i64, rate: i64, kind: Kind) -> i64 {
    let Some((_, per)) = kind.price() else { return 0 };
    let (exact, per) = (i128::from(amount) * i128::from(rate), i128::from(per));
    i64::try_from((exact + per / 2) / per).unwrap_or(i64::MAX)
}

/// A day of an organization that is over and has something to charge.
///
/// # Errors
/// When the database fails.
pub(crate) fn next_to_close(connection: &Connection, today: Day) -> Result<Option<(OrgId, Day)>> {
    let mut statement =
        connection.prepare_cached("SELECT org, day FROM charges WHERE posted < amount AND day != ?1 ORDER BY org, day LIMIT 1")?;
    let found: Option<(String, i64)> = statement.query_row([today.number()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    found.map(|(org, day)| Ok((org.parse()?, Day::from_number(day)))).transpose()
}

/// Charges what is metered of a day and does not stand in the ledger: in one transaction, and again for nothing. How many lines.
///
/// # Errors
/// When the database fails.
pub(crate) fn close(tx: &Transaction<'_>, org: &OrgId, day: Day, now: Millis) -> Result<usize> {
    let rows: Vec<(String, String, i64, i64, i64, i64)> = tx
        .prepare_cached(
            "SELECT project, kind, rate, amount, posted, posted_nano FROM charges
             WHERE org = ?1 AND day = ?2 AND posted < amount ORDER BY project, kind, rate",
        )?
        .query_map(params![org.as_str(), day.number()], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    for (project, kind, rate, amount, posted, posted_nano) in &rows {
        let whole = price(*amount, *rate, Kind::parse(kind)?);
        tx.prepare_cached(
            "INSERT INTO ledger (t, org, entry, nano, day, project, kind, rate, amount, actor)
             VALUES (?1, ?2, 'charge', ?3, ?4, ?5, ?6, ?7, ?8, 'hub')",
        )?
        .execute(params![now, org.as_str(), posted_nano - whole, day.number(), project, kind, rate, amount - posted])?;
        tx.prepare_cached(
            "UPDATE charges SET posted = amount, posted_nano = ?6 WHERE org = ?1 AND day = ?2 AND project = ?3 AND kind = ?4 AND rate = ?5",
        )?
        .execute(params![org.as_str(), day.number(), project, kind, rate, whole])?;
    }
    Ok(rows.len())
}

/// What is booked by a person.
#[derive(Debug, Clone)]
pub(crate) struct Booking<'a> {
    pub entry: LedgerEntry,
    pub credits: Credits,
    pub actor: &'a str,
    pub note: Option<&'a str>,
    /// The same key is booked once.
    pub key: Option<&'a str>,
}

/// Books credits, or finds the line that this key booked before. Whether it is new.
///
/// # Errors
/// `conflict` when the key was used for something else; `invalid` when the balance would leave what can be counted.
pub(crate) fn book(tx: &Transaction<'_>, org: &OrgId, booking: &Booking<'_>, now: Millis) -> Result<(LedgerLine, bool)> {
    if let Some(key) = booking.key {
        let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM ledger WHERE org = ?1 AND key = ?2"))?;
        if let Some(known) = statement.query_row([org.as_str(), key], line).optional()?.transpose()? {
            if known.credits != booking.credits || known.entry != booking.entry {
                let why = format!("key: {key:?} was used already, for {} credits; take another one", known.credits);
                return Err(problem(Code::Conflict, why));
            }
            return Ok((known, false));
        }
    }
    let (before, added) = (sum(tx, org)?, i128::from(booking.credits.0));
    // What leads back from there is booked.
    if i64::try_from(before + added).is_err() && (before < 0) == (added < 0) {
        return Err(problem(Code::Invalid, "credits: the balance would be more than can be counted"));
    }
    let entry = match booking.entry {
        LedgerEntry::Charge => "charge",
        LedgerEntry::TopUp => "top_up",
        LedgerEntry::Correction => "correction",
    };
    tx.prepare_cached("INSERT INTO ledger (t, org, entry, nano, actor, note, key) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![now, org.as_str(), entry, booking.credits.0, booking.actor, booking.note, booking.key])?;
    let mut statement = tx.prepare_cached(&format!("SELECT {COLUMNS} FROM ledger WHERE id = ?1"))?;
    Ok((statement.query_row([tx.last_insert_rowid()], line)??, true))
}

const COLUMNS: &str = "id, t, entry, nano, day, project, kind, rate, amount, actor, note";

fn line(row: &Row<'_>) -> rusqlite::Result<Result<LedgerLine>> {
    let (id, t, entry, nano): (_, _, String, _) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    let (day, project, kind): (Option<i64>, Option<String>, Option<String>) = (row.get(4)?, row.get(5)?, row.get(6)?);
    let (rate, amount, actor, note): (Option<i64>, _, _, _) = (row.get(7)?, row.get(8)?, row.get(9)?, row.get(10)?);
    Ok((|| {
        Ok(LedgerLine {
            id,
            t,
            entry: match entry.as_str() {
                "charge" => LedgerEntry::Charge,
                "top_up" => LedgerEntry::TopUp,
                "correction" => LedgerEntry::Correction,
                other => return Err(Error::Corrupt { what: "ledger entry", why: other.to_owned() }),
            },
            credits: Credits(nano),
            day: day.map(Day::from_number),
            project: project.filter(|project| !project.is_empty()).map(|project| project.parse()).transpose()?,
            unit: kind.map(|kind| Kind::parse(&kind)).transpose()?.and_then(Kind::price).map(|(unit, _)| unit.to_owned()),
            amount,
            rate: rate.map(Credits),
            actor,
            note,
        })
    })())
}

/// Lines of an organization's ledger, newest first, with ids below `before`.
///
/// # Errors
/// When the database fails.
pub(crate) fn lines(connection: &Connection, org: &OrgId, before: Option<i64>, limit: usize) -> Result<Vec<LedgerLine>> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM ledger WHERE org = ?1 AND id < ?2 ORDER BY id DESC LIMIT ?3"))?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    statement.query_map(params![org.as_str(), before.unwrap_or(i64::MAX), limit], line)?.map(|row| row?).collect()
}

/// The sum of the ledger.
///
/// # Errors
/// When the database fails.
pub(crate) fn balance(connection: &Connection, org: &OrgId) -> Result<Credits> {
    Ok(Credits(sums::told(sum(connection, org)?)))
}

fn sum(connection: &Connection, org: &OrgId) -> Result<i128> {
    let mut statement = connection.prepare_cached(&format!("SELECT {} FROM ledger WHERE org = ?1", sums::columns("nano")))?;
    Ok(statement.query_row([org.as_str()], |row| sums::read(row, 0))?)
}

/// What every project spent, and what is metered and not charged yet; the most first.
///
/// # Errors
/// When the database fails.
pub(crate) fn spent(connection: &Connection, org: &OrgId) -> Result<Vec<Spent>> {
    let mut found = std::collections::BTreeMap::<String, (i64, i64)>::new();
    let sql = format!("SELECT project, {} FROM ledger WHERE org = ?1 AND entry = 'charge' GROUP BY project", sums::columns("nano"));
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([org.as_str()])?;
    while let Some(row) = rows.next()? {
        found.entry(row.get(0)?).or_default().0 = sums::told(-sums::read(row, 1)?);
    }
    let mut statement =
        connection.prepare_cached("SELECT project, kind, rate, amount, posted_nano FROM charges WHERE org = ?1 AND posted < amount")?;
    let mut rows = statement.query([org.as_str()])?;
    while let Some(row) = rows.next()? {
        let whole = price(row.get(3)?, row.get(2)?, Kind::parse(&row.get::<_, String>(1)?)?);
        let uncharged = &mut found.entry(row.get(0)?).or_default().1;
        *uncharged = uncharged.saturating_add(whole - row.get::<_, i64>(4)?);
    }
    let mut spent = Vec::new();
    for (project, (credits, uncharged)) in found {
        let project: Option<ProjectId> = if project.is_empty() { None } else { Some(project.parse()?) };
        spent.push(Spent { project, credits: Credits(credits), uncharged: Credits(uncharged) });
    }
    spent.sort_by_key(|spent| std::cmp::Reverse(spent.credits.0.saturating_add(spent.uncharged.0)));
    Ok(spent)
}

/// The rates in force.
///
/// # Errors
/// When the database fails.
pub(crate) fn rates(connection: &Connection) -> Result<Vec<Rate>> {
    let mut rates = Vec::new();
    let mut statement = connection.prepare_cached("SELECT nano, since FROM rates WHERE kind = ?1 ORDER BY id DESC LIMIT 1")?;
    for kind in Kind::priced() {
        let found: Option<(i64, Millis)> = statement.query_row([kind.as_str()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        if let (Some((nano, since)), Some((unit, _))) = (found, kind.price()) {
            rates.push(Rate { unit: unit.to_owned(), credits: Credits(nano), since });
        }
    }
    Ok(rates)
}

#[cfg(test)]
mod tests;
