//! MQTT sessions of devices, the messages that wait for them, and the retained wishes.

use muster_proto::Millis;
use muster_proto::id::DeviceUid;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::Result;
use crate::mqtt::{Down, Subscription};

/// What a device finds when it connects.
#[derive(Debug, Default)]
pub struct Resumed {
    /// Whether there was a session.
    pub present: bool,
    /// Its subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// Messages that it has not acknowledged, oldest first.
    pub waiting: Vec<Down>,
}

/// Begins or resumes a device's session (MQTT 5, 3.1.2.4 and 3.1.2.11.2).
///
/// # Errors
/// When the database fails.
pub fn resume(tx: &Transaction<'_>, uid: &DeviceUid, clean_start: bool, expiry_s: u32, now: Millis) -> Result<Resumed> {
    let held: Option<(Option<Millis>, String)> = tx
        .prepare_cached("SELECT expires_at, filters FROM mqtt_sessions WHERE uid = ?1")?
        .query_row([uid.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let held = held.filter(|(end, _)| !clean_start && end.is_none_or(|end| end > now));
    if clean_start {
        forget(tx, uid)?;
    }
    let subscriptions = match &held {
        Some((_, filters)) => serde_json::from_str(filters)?,
        None => Vec::new(),
    };
    tx.prepare_cached(
        "INSERT INTO mqtt_sessions (uid, expiry_s, expires_at, filters) VALUES (?1, ?2, NULL, ?3)
         ON CONFLICT (uid) DO UPDATE SET expiry_s = ?2, expires_at = NULL, filters = ?3",
    )?
    .execute(params![uid.as_str(), expiry_s, serde_json::to_string(&subscriptions)?])?;
    tx.prepare_cached("DELETE FROM mqtt_queue WHERE uid = ?1 AND expires_at <= ?2")?.execute(params![uid.as_str(), now])?;
    let mut waiting = tx.prepare_cached("SELECT id, topic, payload, expires_at, sent FROM mqtt_queue WHERE uid = ?1 ORDER BY id")?;
    let waiting = waiting.query_map([uid.as_str()], down)?.collect::<rusqlite::Result<_>>()?;
    Ok(Resumed { present: held.is_some(), subscriptions, waiting })
}

fn down(row: &Row<'_>) -> rusqlite::Result<Down> {
    Ok(Down { id: row.get(0)?, topic: row.get(1)?, payload: row.get(2)?, expires_at: Some(row.get(3)?), retain: false, sent: row.get(4)? })
}

/// Keeps a device's subscriptions.
///
/// # Errors
/// When the database fails.
pub fn put_filters(tx: &Transaction<'_>, uid: &DeviceUid, subscriptions: &[Subscription]) -> Result<()> {
    tx.prepare_cached("UPDATE mqtt_sessions SET filters = ?2 WHERE uid = ?1")?
        .execute(params![uid.as_str(), serde_json::to_string(subscriptions)?])?;
    Ok(())
}

/// The link is gone: the session lives on for as long as the device asked, and what was sent may have arrived.
///
/// # Errors
/// When the database fails.
pub fn suspend(tx: &Transaction<'_>, uid: &DeviceUid, expiry_s: u32, unacknowledged: &[i64], now: Millis) -> Result<()> {
    if expiry_s == 0 {
        tx.prepare_cached("DELETE FROM mqtt_sessions WHERE uid = ?1")?.execute([uid.as_str()])?;
    } else {
        tx.prepare_cached("UPDATE mqtt_sessions SET expiry_s = ?2, expires_at = ?3 WHERE uid = ?1")?.execute(params![
            uid.as_str(),
            expiry_s,
            now + Millis::from(expiry_s) * 1000
        ])?;
    }
    let mut sent = tx.prepare_cached("UPDATE mqtt_queue SET sent = 1 WHERE id = ?1")?;
    for id in unacknowledged {
        sent.execute([id])?;
    }
    Ok(())
}

/// Discards a device's session and what waits for it. Its retained wishes stay.
///
/// # Errors
/// When the database fails.
pub fn forget(tx: &Transaction<'_>, uid: &DeviceUid) -> Result<()> {
    tx.prepare_cached("DELETE FROM mqtt_queue WHERE uid = ?1")?.execute([uid.as_str()])?;
    tx.prepare_cached("DELETE FROM mqtt_sessions WHERE uid = ?1")?.execute([uid.as_str()])?;
    Ok(())
}

/// Queues a message; a retained one takes the place of an older one on its topic, waiting or retained.
/// `false` when `most` wait already.
///
/// # Errors
/// When the database fails.
pub fn enqueue(tx: &Transaction<'_>, uid: &DeviceUid, message: &Down, retain: bool, most: usize, now: Millis) -> Result<bool> {
    if retain {
        tx.prepare_cached("DELETE FROM mqtt_queue WHERE uid = ?1 AND topic = ?2 AND retained = 1")?
            .execute([uid.as_str(), &message.topic])?;
        tx.prepare_cached(
            "INSERT INTO mqtt_retained (uid, topic, payload) VALUES (?1, ?2, ?3) ON CONFLICT (uid, topic) DO UPDATE SET payload = ?3",
        )?
        .execute(params![uid.as_str(), message.topic, message.payload])?;
    }
    let mut count = tx.prepare_cached("SELECT count(*) FROM mqtt_queue WHERE uid = ?1 AND expires_at > ?2")?;
    let waiting: i64 = count.query_row(params![uid.as_str(), now], |row| row.get(0))?;
    if usize::try_from(waiting).unwrap_or(0) >= most {
        return Ok(false);
    }
    tx.prepare_cached("INSERT INTO mqtt_queue (id, uid, topic, payload, retained, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![message.id, uid.as_str(), message.topic, message.payload, retain, message.expires_at.unwrap_or(Millis::MAX)])?;
    Ok(true)
}

/// Takes back what waits for a device on one topic. What is on its way to a linked device cannot be taken back.
///
/// # Errors
/// When the database fails.
pub fn retract(tx: &Transaction<'_>, uid: &DeviceUid, topic: &str) -> Result<()> {
    tx.prepare_cached("DELETE FROM mqtt_queue WHERE uid = ?1 AND topic = ?2")?.execute([uid.as_str(), topic])?;
    Ok(())
}

/// Removes messages that are done: acknowledged or expired.
///
/// # Errors
/// When the database fails.
pub fn done(tx: &Transaction<'_>, ids: &[i64]) -> Result<()> {
    let mut delete = tx.prepare_cached("DELETE FROM mqtt_queue WHERE id = ?1")?;
    for id in ids {
        delete.execute([id])?;
    }
    Ok(())
}

/// The retained wishes of a device: topic and payload.
///
/// # Errors
/// When the database fails.
pub fn retained(db: &Connection, uid: &DeviceUid) -> Result<Vec<(String, Vec<u8>)>> {
    let mut statement = db.prepare_cached("SELECT topic, payload FROM mqtt_retained WHERE uid = ?1")?;
    let rows = statement.query_map([uid.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// At the hub's start: links that a killed hub left behind are suspended. Returns the highest message id in use.
///
/// # Errors
/// When the database fails.
pub fn recover(tx: &Transaction<'_>, now: Millis) -> Result<i64> {
    tx.execute("UPDATE mqtt_queue SET sent = 1 WHERE uid IN (SELECT uid FROM mqtt_sessions WHERE expires_at IS NULL)", [])?;
    tx.execute("DELETE FROM mqtt_sessions WHERE expires_at IS NULL AND expiry_s = 0", [])?;
    tx.execute("UPDATE mqtt_sessions SET expires_at = ?1 + expiry_s * 1000 WHERE expires_at IS NULL", [now])?;
    Ok(tx.query_row("SELECT coalesce(max(id), 0) FROM mqtt_queue", [], |row| row.get(0))?)
}

/// Removes sessions and messages past their time, in a slice.
///
/// # Errors
/// When the database fails.
pub fn prune(tx: &Transaction<'_>, now: Millis, slice: i64) -> Result<()> {
    tx.prepare_cached("DELETE FROM mqtt_queue WHERE id IN (SELECT id FROM mqtt_queue WHERE expires_at <= ?1 LIMIT ?2)")?
        .execute([now, slice])?;
    tx.prepare_cached("DELETE FROM mqtt_sessions WHERE uid IN (SELECT uid FROM mqtt_sessions WHERE expires_at <= ?1 LIMIT ?2)")?
        .execute([now, slice])?;
    Ok(())
}

/// All devices that belong, for an external broker's list.
///
/// # Errors
/// When the database fails.
pub fn admitted(db: &Connection) -> Result<Vec<DeviceUid>> {
    let mut statement = db.prepare("SELECT uid FROM devices WHERE admission = 'admitted' ORDER BY uid")?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    rows.map(|uid| Ok(uid?.parse()?)).collect()
}
