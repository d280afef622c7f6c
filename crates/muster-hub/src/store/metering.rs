//! What was used, by day: amounts that are added once each, highest numbers, sessions as they go.
//!
//! An amount goes into exactly one row of (organization, day, kind, project, device), so that no sum counts it twice.
//! What has a price goes into `charges` as well, at the rate that is in force in this very transaction: a rate that changes later
//! changes nothing here. `ledger` posts those rows. Lengths of time come from a clock that nobody can set, see [`Moment`].

use muster_proto::Millis;
use muster_proto::api::{Credits, Day};
use muster_proto::id::{DeviceUid, OrgId, ProjectId, SessionId};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{Error, Result};
use crate::clock::{DAY, Moment, SECOND};

/// How long the key of an amount is remembered. Whoever adds an amount again does so within hours.
pub const KEYS_KEPT: Millis = 90 * DAY;
/// The longest time that one step of a session may count: longer than the hub's counting and the grace of the two ends together.
/// While the hub was away for longer, nobody was connected.
const SESSION_STEP_MAX: Millis = 300 * SECOND;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $how:ident;)*) => {
        /// What is metered, each in its base unit.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Kind { $($(#[$doc])* $name,)* }

        impl Kind {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];
            /// Its name in the database.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
            /// Whether it is a day's highest number and not a sum.
            pub fn is_peak(self) -> bool {
                match self { $(Self::$name => kinds!(@$how),)* }
            }
        }
    };
    (@sum) => { false };
    (@peak) => { true };
}

kinds! {
    /// Devices that were online or sent something: 1 for each.
    ActiveDevices = "active_devices", sum;
    /// Milliseconds that sessions were open.
    SessionMs = "session_ms", sum;
    /// Bytes relayed to devices.
    ToDevice = "to_device", sum;
    /// Bytes relayed to clients.
    ToClient = "to_client", sum;
    /// Runs that ended.
    Runs = "runs", sum;
    /// Runs at the same time.
    RunsPeak = "runs_peak", peak;
    /// Processor time of runs, in microseconds.
    CpuUs = "cpu_us", sum;
    /// Memory of runs times their time, in KiB-milliseconds: bytes would overflow with the first big machine.
    MemoryKibMs = "memory_kib_ms", sum;
    /// Storage times its time, in byte-minutes.
    Storage = "storage", sum;
    /// Members.
    Members = "members", peak;
    /// Collaborators.
    Collaborators = "collaborators", peak;
    /// Service accounts.
    ServiceAccounts = "service_accounts", peak;
}

impl Kind {
    /// What it is priced in: the unit's name on the wire, and how many base units make one. `None`: it has no price.
    pub fn price(self) -> Option<(&'static str, i64)> {
        match self {
            Self::CpuUs => Some(("cpu_hour", 3_600_000_000)),
            Self::MemoryKibMs => Some(("gib_hour", 1024 * 1024 * 3_600_000)),
            // A GB is 10^9 bytes, a month 30 days.
            Self::Storage => Some(("gb_month", 1_000_000_000 * 30 * 24 * 60)),
            _ => None,
        }
    }

    /// Those that have a price.
    pub fn priced() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|kind| kind.price().is_some())
    }

    /// By its name in the database.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().copied().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| Error::Corrupt { what: "kind of usage", why: text.to_owned() })
    }
}

/// Memory of a run in the base unit of [`Kind::MemoryKibMs`], rounded up.
pub fn kib_ms(byte_ms: u128) -> i64 {
    i64::try_from(byte_ms.div_ceil(1024)).unwrap_or(i64::MAX)
}

/// The most that a run may be counted with: its device says what it used, and a device must not be able to invent a bill.
/// (processor microseconds, KiB-milliseconds) of a machine with 1024 cores and 64 TiB, for as long as the run may last and a minute.
pub fn most_of_run(timeout_s: u32) -> (i64, i64) {
    let seconds = i64::from(timeout_s) + 60;
    (seconds.saturating_mul(1_000_000 * 1024), seconds.saturating_mul(1000 * (1 << 36)))
}

/// An amount of something that was used.
#[derive(Debug, Clone)]
pub struct Metered<'a> {
    /// By which organization.
    pub org: &'a OrgId,
    /// In which project; `None` for what belongs to no one project.
    pub project: Option<&'a ProjectId>,
    /// On which device.
    pub uid: Option<&'a DeviceUid>,
    /// What.
    pub kind: Kind,
    /// How much, in the kind's base unit, not negative.
    pub amount: i64,
    /// When, by the hub's clock: it counts for that day.
    pub at: Millis,
    /// The name of this amount, such as `run:{id}:cpu`: the same one is added once.
    pub key: String,
}

/// Adds an amount in the transaction of what caused it. False if its key was added before.
///
/// # Errors
/// When the database fails.
pub fn add(tx: &Transaction<'_>, metered: &Metered<'_>) -> Result<bool> {
    let fresh = tx.prepare_cached("INSERT OR IGNORE INTO usage_keys VALUES (?1, ?2)")?.execute(params![metered.key, metered.at])?;
    if fresh == 0 {
        return Ok(false);
    }
    let cell = Cell { org: metered.org, project: metered.project, uid: metered.uid, kind: metered.kind };
    count(tx, &cell, Day::of(metered.at), metered.amount)?;
    Ok(true)
}

/// Notes how many there are of something at this moment: the day keeps the highest number.
///
/// # Errors
/// When the database fails.
pub fn peak(tx: &Transaction<'_>, org: &OrgId, kind: Kind, at: Millis, present: u64) -> Result<()> {
    debug_assert!(kind.is_peak());
    if present == 0 {
        return Ok(());
    }
    tx.prepare_cached(
        "INSERT INTO usage_days (org, day, kind, project, uid, amount) VALUES (?1, ?2, ?3, '', '', ?4)
         ON CONFLICT DO UPDATE SET amount = excluded.amount WHERE amount < excluded.amount",
    )?
    .execute(params![org.as_str(), Day::of(at).number(), kind.as_str(), i64::try_from(present).unwrap_or(i64::MAX)])?;
    Ok(())
}

/// Where an amount belongs, but for the day.
pub(crate) struct Cell<'a> {
    pub org: &'a OrgId,
    pub project: Option<&'a ProjectId>,
    pub uid: Option<&'a DeviceUid>,
    pub kind: Kind,
}

/// Adds to a cell, and to what is to be charged. The caller sees to it that it happens once.
pub(crate) fn count(tx: &Transaction<'_>, cell: &Cell<'_>, day: Day, amount: i64) -> Result<()> {
    if amount <= 0 {
        return Ok(());
    }
    let (project, uid) = (cell.project.map_or("", ProjectId::as_str), cell.uid.map_or("", DeviceUid::as_str));
    // A sum that leaves 64 bits stays at their end: SQLite would make a float of it, which the table refuses, with all that is in the write.
    tx.prepare_cached(
        "INSERT INTO usage_days (org, day, kind, project, uid, amount) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
         ON CONFLICT DO UPDATE SET amount = CASE WHEN amount > 9223372036854775807 - ?6 THEN 9223372036854775807 ELSE amount + ?6 END",
    )?
    .execute(params![cell.org.as_str(), day.number(), cell.kind.as_str(), project, uid, amount])?;
    if cell.kind.price().is_some() {
        tx.prepare_cached(
            "INSERT INTO charges (org, day, project, kind, rate, amount) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET amount = CASE WHEN amount > 9223372036854775807 - ?6 THEN 9223372036854775807 ELSE amount + ?6 END",
        )?
        .execute(params![cell.org.as_str(), day.number(), project, cell.kind.as_str(), rate(tx, cell.kind)?, amount])?;
    }
    Ok(())
}

/// The rate in force, in nano-credits for one priced unit; nothing where the configuration never set one.
pub(crate) fn rate(connection: &Connection, kind: Kind) -> Result<i64> {
    let mut statement = connection.prepare_cached("SELECT nano FROM rates WHERE kind = ?1 ORDER BY id DESC LIMIT 1")?;
    Ok(statement.query_row([kind.as_str()], |row| row.get(0)).optional()?.unwrap_or(0))
}

/// Puts a rate in force for all that is metered from here on. Whether it is another one than before.
///
/// # Errors
/// When the database fails.
pub fn set_rate(tx: &Transaction<'_>, kind: Kind, credits: Credits, now: Millis) -> Result<bool> {
    let mut statement = tx.prepare_cached("SELECT nano FROM rates WHERE kind = ?1 ORDER BY id DESC LIMIT 1")?;
    let present: Option<i64> = statement.query_row([kind.as_str()], |row| row.get(0)).optional()?;
    if present == Some(credits.0) {
        return Ok(false);
    }
    tx.prepare_cached("INSERT INTO rates (kind, nano, since) VALUES (?1, ?2, ?3)")?.execute(params![kind.as_str(), credits.0, now])?;
    Ok(true)
}

/// Splits a length of time that ends at `end` at the midnights of UTC: the parts of each day, the latest first.
pub(crate) fn by_day(end: Millis, length: Millis) -> impl Iterator<Item = (Day, Millis)> {
    let (mut end, mut left) = (end.max(0), length.max(0));
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        // A length that ends at midnight belongs to the day before.
        let day = Day::of((end - 1).max(0));
        let part = if day.number() == 0 { left } else { left.min(end - day.start()) };
        (end, left) = (end - part, left - part);
        Some((day, part))
    })
}

/// Begins to meter a session: both ends have met.
///
/// # Errors
/// When the database fails.
pub(crate) fn session_opened(tx: &Transaction<'_>, session: &SessionId, now: &Moment) -> Result<()> {
    tx.prepare_cached(
        "INSERT OR IGNORE INTO session_meters (session, wall, boot, steady, to_device, to_client) VALUES (?1, ?2, ?3, ?4, 0, 0)",
    )?
    .execute(params![session.as_str(), now.wall, now.boot, now.steady])?;
    Ok(())
}

/// Meters a living session up to now: its time, and the bytes that passed since the last time. The counts are those since it began.
///
/// # Errors
/// When the database fails.
pub(crate) fn session(tx: &Transaction<'_>, session: &SessionId, to_device: u64, to_client: u64, now: &Moment) -> Result<()> {
    let mut statement = tx.prepare_cached(
        "SELECT m.wall, m.boot, m.steady, m.to_device, m.to_client, s.org, s.project, s.uid
         FROM session_meters m JOIN sessions s ON s.id = m.session WHERE m.session = ?1",
    )?;
    let found = statement
        .query_row([session.as_str()], |row| {
            let last = Moment { wall: row.get(0)?, boot: row.get(1)?, steady: row.get(2)? };
            let (before, ids) = ((row.get::<_, i64>(3)?, row.get::<_, i64>(4)?), [row.get::<_, String>(5)?, row.get(6)?, row.get(7)?]);
            Ok((last, before, ids))
        })
        .optional()?;
    let Some((last, before, [org, project, uid])) = found else { return Ok(()) };
    let (org, project, uid): (OrgId, ProjectId, DeviceUid) = (org.parse()?, project.parse()?, uid.parse()?);
    let cell = |kind| Cell { org: &org, project: Some(&project), uid: Some(&uid), kind };
    for (day, length) in by_day(now.wall, now.since(&last).min(SESSION_STEP_MAX)) {
        count(tx, &cell(Kind::SessionMs), day, length)?;
    }
    let (to_device, to_client) = (i64::try_from(to_device).unwrap_or(i64::MAX), i64::try_from(to_client).unwrap_or(i64::MAX));
    count(tx, &cell(Kind::ToDevice), Day::of(now.wall), to_device - before.0)?;
    count(tx, &cell(Kind::ToClient), Day::of(now.wall), to_client - before.1)?;
    tx.prepare_cached(
        "UPDATE session_meters SET wall = ?2, boot = ?3, steady = ?4, to_device = max(to_device, ?5), to_client = max(to_client, ?6)
         WHERE session = ?1",
    )?
    .execute(params![session.as_str(), now.wall, now.boot, now.steady, to_device, to_client])?;
    Ok(())
}

/// Meters a session for the last time.
///
/// # Errors
/// When the database fails.
pub(crate) fn session_ended(tx: &Transaction<'_>, id: &SessionId, to_device: u64, to_client: u64, now: &Moment) -> Result<()> {
    session(tx, id, to_device, to_client, now)?;
    tx.prepare_cached("DELETE FROM session_meters WHERE session = ?1")?.execute([id.as_str()])?;
    Ok(())
}

/// Forgets keys of amounts that are too old to come again, at most `slice`.
///
/// # Errors
/// When the database fails.
pub(crate) fn prune_keys(tx: &Transaction<'_>, now: Millis, slice: i64) -> Result<usize> {
    let gone = "DELETE FROM usage_keys WHERE key IN (SELECT key FROM usage_keys WHERE at < ?1 ORDER BY at LIMIT ?2)";
    Ok(tx.prepare_cached(gone)?.execute([now - KEYS_KEPT, slice])?)
}

#[cfg(test)]
mod tests;
