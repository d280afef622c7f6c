//! Presence, samples and events of devices.
//!
//! A sample is known by (device, life of the daemon, number): delivered twice, it is stored once.

use muster_proto::Millis;
use muster_proto::api::{PresenceChange, PresenceState, Sample};
use muster_proto::id::DeviceUid;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::Result;
use crate::presence::Presence;

/// Lines of presence history kept per device: a device that flaps must not fill the disk.
pub const HISTORY_MAX: i64 = 1000;
/// Events kept per device.
pub const EVENTS_MAX: i64 = 1000;
/// Column sets kept per device. Samples beyond carry their names themselves.
pub const COLUMN_SETS_MAX: i64 = 256;

/// What is stored of a device's presence, for the list in memory.
#[derive(Debug, Clone)]
pub struct PresenceRow {
    /// The device.
    pub uid: DeviceUid,
    /// Its presence.
    pub presence: Presence,
    /// When it was last heard of, to a minute.
    pub last_seen: Millis,
    /// Sessions, as its last heartbeat said.
    pub sessions: u32,
    /// Samples on the device, as its last heartbeat said.
    pub spooled: u64,
}

const PRESENCE: &str = "uid, online, since, reason, link, boot, last_seen, sessions, spooled";

fn presence_row(row: &Row<'_>) -> rusqlite::Result<(String, Presence, Millis, u32, u64)> {
    let presence = Presence {
        online: row.get(1)?,
        since: row.get(2)?,
        reason: row.get(3)?,
        link: row.get::<_, i64>(4)?.cast_unsigned(),
        boot: row.get(5)?,
    };
    Ok((row.get(0)?, presence, row.get(6)?, row.get(7)?, row.get::<_, i64>(8)?.cast_unsigned()))
}

fn checked((uid, presence, last_seen, sessions, spooled): (String, Presence, Millis, u32, u64)) -> Result<PresenceRow> {
    Ok(PresenceRow { uid: uid.parse()?, presence, last_seen, sessions, spooled })
}

/// Whether the device belongs: only then anything of it is stored.
///
/// # Errors
/// When the database fails.
pub fn is_admitted(db: &Connection, uid: &DeviceUid) -> Result<bool> {
    let mut statement = db.prepare_cached("SELECT 1 FROM devices WHERE uid = ?1 AND admission = 'admitted'")?;
    Ok(statement.exists([uid.as_str()])?)
}

/// All presence.
///
/// # Errors
/// When the database fails.
pub fn all_presence(db: &Connection) -> Result<Vec<PresenceRow>> {
    let mut statement = db.prepare(&format!("SELECT {PRESENCE} FROM presence"))?;
    let rows = statement.query_map([], presence_row)?;
    rows.map(|row| checked(row?)).collect()
}

/// The presence of one device.
///
/// # Errors
/// When the database fails.
pub fn presence(db: &Connection, uid: &DeviceUid) -> Result<Option<PresenceRow>> {
    let mut statement = db.prepare_cached(&format!("SELECT {PRESENCE} FROM presence WHERE uid = ?1"))?;
    statement.query_row([uid.as_str()], presence_row).optional()?.map(checked).transpose()
}

/// Writes a device's presence, with a line in its history where it `changed`; and when it was last heard, if that was now.
///
/// # Errors
/// When the database fails.
pub fn put_presence(
    tx: &Transaction<'_>,
    uid: &DeviceUid,
    presence: &Presence,
    changed: bool,
    heard: Option<Millis>,
    now: Millis,
) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO presence (uid, online, since, reason, link, boot, last_seen) VALUES (?1, ?2, ?3, ?4, ?5, ?6, coalesce(?7, 0))
         ON CONFLICT (uid) DO UPDATE SET online = ?2, since = ?3, reason = ?4, link = ?5, boot = ?6, last_seen = coalesce(?7, last_seen)",
    )?
    .execute(params![
        uid.as_str(),
        presence.online,
        presence.since,
        presence.reason,
        presence.link.cast_signed(),
        presence.boot,
        heard
    ])?;
    if changed {
        tx.prepare_cached("INSERT INTO presence_history (uid, t, online, reason) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            uid.as_str(),
            now,
            presence.online,
            presence.reason
        ])?;
        trim(tx, "presence_history", uid, HISTORY_MAX)?;
    }
    Ok(())
}

/// Keeps the newest rows of a device.
fn trim(tx: &Transaction<'_>, table: &'static str, uid: &DeviceUid, keep: i64) -> Result<()> {
    tx.prepare_cached(&format!(
        "DELETE FROM {table} WHERE uid = ?1 AND id <= (SELECT id FROM {table} WHERE uid = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)"
    ))?
    .execute(params![uid.as_str(), keep])?;
    Ok(())
}

/// Notes when devices were last heard of: (uid, last seen, sessions, spooled).
///
/// # Errors
/// When the database fails.
pub fn touch(tx: &Transaction<'_>, seen: &[(DeviceUid, Millis, u32, u64)]) -> Result<()> {
    let mut statement = tx.prepare_cached("UPDATE presence SET last_seen = ?2, sessions = ?3, spooled = ?4 WHERE uid = ?1")?;
    for (uid, last_seen, sessions, spooled) in seen {
        statement.execute(params![uid.as_str(), last_seen, sessions, spooled.cast_signed()])?;
    }
    Ok(())
}

/// A device's presence history from `since` on, newest first.
///
/// # Errors
/// When the database fails.
pub fn history(db: &Connection, uid: &DeviceUid, since: Millis, limit: usize) -> Result<Vec<PresenceChange>> {
    let mut statement =
        db.prepare_cached("SELECT t, online, reason FROM presence_history WHERE uid = ?1 AND t >= ?2 ORDER BY id DESC LIMIT ?3")?;
    let rows = statement.query_map(params![uid.as_str(), since, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        let presence = if row.get(1)? { PresenceState::Online } else { PresenceState::Offline };
        Ok(PresenceChange { t: row.get(0)?, presence, reason: row.get(2)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Writes the facts and the version of a device, where they differ.
///
/// # Errors
/// When the database fails.
pub fn put_facts(tx: &Transaction<'_>, uid: &DeviceUid, facts: &str, agent: Option<&str>) -> Result<()> {
    tx.prepare_cached("UPDATE devices SET facts = ?2, agent = ?3 WHERE uid = ?1 AND (facts <> ?2 OR agent IS NOT ?3)")?
        .execute(params![uid.as_str(), facts, agent])?;
    Ok(())
}

/// A sample to be stored.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSample {
    /// Its number in the life of the daemon.
    pub seq: i64,
    /// When taken.
    pub t: Millis,
    /// Floats, little endian, in the order of the names; or a JSON object where there is no column set.
    pub values: Vec<u8>,
}

/// Numbers under which a device's names are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// Of the life of the daemon.
    pub boot: i64,
    /// Of the column set; 0 where the device has too many.
    pub columns: i64,
}

/// The numbers of a life and of a column set, made where they are new.
///
/// # Errors
/// When the database fails.
pub fn keys(tx: &Transaction<'_>, uid: &DeviceUid, boot: &str, names: &str, now: Millis) -> Result<Keys> {
    let find = "SELECT id FROM usage_boots WHERE uid = ?1 AND boot = ?2";
    let boot_id = match tx.prepare_cached(find)?.query_row([uid.as_str(), boot], |row| row.get(0)).optional()? {
        Some(id) => id,
        None => {
            tx.prepare_cached("INSERT INTO usage_boots (uid, boot, received) VALUES (?1, ?2, ?3)")?.execute(params![
                uid.as_str(),
                boot,
                now
            ])?;
            tx.last_insert_rowid()
        }
    };
    let find = "SELECT id FROM usage_columns WHERE uid = ?1 AND names = ?2";
    let columns = match tx.prepare_cached(find)?.query_row([uid.as_str(), names], |row| row.get(0)).optional()? {
        Some(id) => id,
        None => {
            let mut count = tx.prepare_cached("SELECT count(*) FROM usage_columns WHERE uid = ?1")?;
            if count.query_row([uid.as_str()], |row| row.get::<_, i64>(0))? >= COLUMN_SETS_MAX {
                0
            } else {
                tx.prepare_cached("INSERT INTO usage_columns (uid, names) VALUES (?1, ?2)")?.execute([uid.as_str(), names])?;
                tx.last_insert_rowid()
            }
        }
    };
    Ok(Keys { boot: boot_id, columns })
}

/// Whether keys that were given before still stand: a life's row goes with its last sample.
///
/// # Errors
/// When the database fails.
pub fn holds(tx: &Transaction<'_>, uid: &DeviceUid, keys: Keys) -> Result<bool> {
    Ok(tx.prepare_cached("SELECT 1 FROM usage_boots WHERE id = ?1 AND uid = ?2")?.exists(params![keys.boot, uid.as_str()])?)
}

/// What a sample takes, as it is metered: its values and the numbers beside them.
fn size(values: i64) -> i64 {
    values + 24
}

/// Stores samples that are not stored yet. How many were new.
///
/// # Errors
/// When the database fails.
pub fn insert_samples(tx: &Transaction<'_>, keys: Keys, samples: &[NewSample], dropped: u64, now: Millis) -> Result<usize> {
    let (mut new, mut bytes) = (0, 0);
    let mut insert = tx.prepare_cached("INSERT OR IGNORE INTO usage_samples VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for sample in samples {
        if insert.execute(params![keys.boot, sample.seq, sample.t, now, keys.columns, sample.values])? > 0 {
            new += 1;
            bytes += size(i64::try_from(sample.values.len()).unwrap_or(0));
        }
    }
    if new > 0 {
        tx.prepare_cached("UPDATE usage_boots SET dropped = dropped + ?2, bytes = bytes + ?3 WHERE id = ?1")?.execute(params![
            keys.boot,
            i64::try_from(dropped).unwrap_or(i64::MAX / 2),
            bytes
        ])?;
    }
    Ok(new)
}

/// A device's samples taken at `since` or later, newest first.
///
/// # Errors
/// When the database fails.
pub fn samples(db: &Connection, uid: &DeviceUid, since: Millis, limit: usize) -> Result<Vec<Sample>> {
    let mut boots = db.prepare_cached("SELECT id, boot FROM usage_boots WHERE uid = ?1 ORDER BY id DESC")?;
    let boots = boots.query_map([uid.as_str()], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let mut statement = db.prepare_cached(
        "SELECT s.t, s.seq, s.vals, c.names FROM usage_samples s LEFT JOIN usage_columns c ON c.id = s.columns
         WHERE s.boot = ?1 AND s.t >= ?2 ORDER BY s.seq DESC LIMIT ?3",
    )?;
    let mut found = Vec::new();
    for boot in boots {
        let (id, boot) = boot?;
        let rows = statement.query_map(params![id, since, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
            Ok((row.get::<_, Millis>(0)?, row.get::<_, i64>(1)?, row.get::<_, Vec<u8>>(2)?, row.get::<_, Option<String>>(3)?))
        })?;
        for row in rows {
            let (t, seq, values, names) = row?;
            let values = match names {
                Some(names) => {
                    let names: Vec<String> = serde_json::from_str(&names)?;
                    let floats = values.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap_or_default()));
                    names.into_iter().zip(floats).filter(|(_, value)| !value.is_nan()).collect()
                }
                None => serde_json::from_slice(&values)?,
            };
            found.push(Sample { t, boot: boot.clone(), seq: seq.cast_unsigned(), values });
        }
        // Lives follow each other: an older one cannot add to a full page.
        if found.len() >= limit {
            break;
        }
    }
    found.sort_by_key(|sample| std::cmp::Reverse(sample.t));
    found.truncate(limit);
    Ok(found)
}

/// Stores an event that is not stored yet. Whether it was new.
///
/// # Errors
/// When the database fails.
pub fn insert_event(tx: &Transaction<'_>, uid: &DeviceUid, digest: &[u8], t: Millis, body: &str, now: Millis) -> Result<bool> {
    let new = tx
        .prepare_cached("INSERT OR IGNORE INTO device_events (uid, digest, t, received, body) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![uid.as_str(), digest, t, now, body])?;
    if new > 0 {
        trim(tx, "device_events", uid, EVENTS_MAX)?;
    }
    Ok(new > 0)
}

/// Removes at most `slice` samples that came before `cutoff`, or whose device is gone, and old events.
/// Whether there may be more.
///
/// # Errors
/// When the database fails.
pub fn prune(tx: &Transaction<'_>, cutoff: Millis, slice: i64) -> Result<bool> {
    let orphan = "SELECT id FROM usage_boots b WHERE NOT EXISTS (SELECT 1 FROM devices d WHERE d.uid = b.uid) LIMIT 1";
    let gone: Option<i64> = tx.prepare_cached(orphan)?.query_row([], |row| row.get(0)).optional()?;
    let oldest = "SELECT id FROM usage_boots WHERE received < ?1 ORDER BY received LIMIT 1";
    let (boot, cutoff) = match gone {
        Some(boot) => (Some(boot), Millis::MAX),
        None => (tx.prepare_cached(oldest)?.query_row([cutoff], |row| row.get(0)).optional()?, cutoff),
    };
    let Some(boot): Option<i64> = boot else {
        tx.prepare_cached("DELETE FROM usage_columns WHERE NOT EXISTS (SELECT 1 FROM devices d WHERE d.uid = usage_columns.uid)")?
            .execute([])?;
        tx.prepare_cached("DELETE FROM device_events WHERE id IN (SELECT id FROM device_events ORDER BY id LIMIT ?2) AND received < ?1")?
            .execute(params![cutoff, slice])?;
        return Ok(false);
    };
    // Within a life the numbers follow the arrival closely: the oldest are at its beginning.
    delete_samples(tx, boot, cutoff, slice)?;
    settle(tx, boot)?;
    Ok(true)
}

/// How many samples a device has over `keep`. Counts on a reader: it may take a while.
///
/// # Errors
/// When the database fails.
pub fn surplus(db: &Connection, uid: &DeviceUid, keep: i64) -> Result<i64> {
    let count = "SELECT count(*) FROM usage_boots b JOIN usage_samples s ON s.boot = b.id WHERE b.uid = ?1";
    Ok(db.prepare_cached(count)?.query_row([uid.as_str()], |row| row.get::<_, i64>(0))? - keep)
}

/// Removes at most `slice` of a device's oldest samples. How many went.
///
/// # Errors
/// When the database fails.
pub fn drop_oldest(tx: &Transaction<'_>, uid: &DeviceUid, slice: i64) -> Result<usize> {
    let first = "SELECT b.id FROM usage_boots b WHERE b.uid = ?1 AND EXISTS (SELECT 1 FROM usage_samples s WHERE s.boot = b.id)
                 ORDER BY b.id LIMIT 1";
    let boot: Option<i64> = tx.prepare_cached(first)?.query_row([uid.as_str()], |row| row.get(0)).optional()?;
    let Some(boot) = boot else { return Ok(0) };
    let gone = delete_samples(tx, boot, Millis::MAX, slice)?;
    settle(tx, boot)?;
    Ok(gone)
}

/// Removes at most `slice` of a life's oldest samples that came before `cutoff`, and gives their room back. How many went.
fn delete_samples(tx: &Transaction<'_>, boot: i64, cutoff: Millis, slice: i64) -> Result<usize> {
    let mut statement = tx.prepare_cached(
        "DELETE FROM usage_samples WHERE boot = ?1 AND received < ?2
         AND seq IN (SELECT seq FROM usage_samples WHERE boot = ?1 ORDER BY seq LIMIT ?3) RETURNING length(vals)",
    )?;
    let mut rows = statement.query(params![boot, cutoff, slice])?;
    let (mut gone, mut bytes) = (0, 0);
    while let Some(row) = rows.next()? {
        gone += 1;
        bytes += size(row.get(0)?);
    }
    tx.prepare_cached("UPDATE usage_boots SET bytes = bytes - ?2 WHERE id = ?1")?.execute([boot, bytes])?;
    Ok(gone)
}

/// Brings a life's age up to its oldest sample; a life without samples that is not the device's newest goes.
fn settle(tx: &Transaction<'_>, boot: i64) -> Result<()> {
    let oldest: Option<Millis> = tx
        .prepare_cached("SELECT received FROM usage_samples WHERE boot = ?1 ORDER BY seq LIMIT 1")?
        .query_row([boot], |row| row.get(0))
        .optional()?;
    match oldest {
        Some(received) => {
            tx.prepare_cached("UPDATE usage_boots SET received = max(received, ?2) WHERE id = ?1")?.execute(params![boot, received])?;
        }
        None => {
            // A batch of this life that comes later makes it anew, with another number.
            tx.prepare_cached("DELETE FROM usage_boots WHERE id = ?1")?.execute([boot])?;
        }
    }
    Ok(())
}
