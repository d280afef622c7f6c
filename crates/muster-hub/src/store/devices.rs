//! Devices, their keys, and the projects that share them.

use std::collections::BTreeSet;

use muster_proto::Millis;
use muster_proto::api::{Admission, FieldKind};
use muster_proto::id::{DeviceUid, OrgId, ProjectId, Serial};
use muster_proto::mqtt::Facts;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{Error, Result};
use crate::random;

/// A device as it is stored.
#[derive(Debug, Clone)]
pub struct DeviceRow {
    /// Unique in the hub.
    pub uid: DeviceUid,
    /// Whose it is.
    pub org: OrgId,
    /// Unique in the organization.
    pub serial: Serial,
    /// What the organization calls it.
    pub name: String,
    /// Whether it belongs.
    pub admission: Admission,
    /// Of a rejection or revocation, in its author's words.
    pub reason: Option<String>,
    /// What it says of itself.
    pub facts: Facts,
    /// The daemon's version.
    pub agent: Option<String>,
    /// When filed.
    pub created_at: Millis,
    /// When admission was last decided.
    pub decided_at: Option<Millis>,
    /// By whom.
    pub decided_by: Option<String>,
    /// First admission.
    pub admitted_at: Option<Millis>,
    /// End of its newest certificate.
    pub certificate_expires_at: Option<Millis>,
    /// Projects that share it.
    pub projects: BTreeSet<ProjectId>,
    /// While pending: the code that the device shows.
    pub pairing_code: Option<String>,
    /// The newest key that asks to take the row over: its pairing code.
    pub replacement: Option<String>,
    /// Entered by hand, and no key has spoken for it yet.
    pub by_hand: bool,
    /// Labels, sorted.
    pub labels: Vec<String>,
    /// Values of custom fields, in the order of the fields.
    pub values: Vec<FieldValue>,
}

/// A device's value in a custom field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldValue {
    /// The field's number.
    pub field: i64,
    /// The field's key.
    pub key: String,
    /// What it holds.
    pub kind: FieldKind,
    /// The value in its canonical text.
    pub value: String,
}

/// The columns of [`device`], for queries on `devices d`.
const COLUMNS: &str = "d.uid, d.org, d.serial, d.name, d.admission, d.reason, d.facts, d.agent, d.created_at, d.decided_at, d.decided_by,
     d.admitted_at, d.certificate_expires_at,
     (SELECT group_concat(p.project) FROM device_projects p WHERE p.uid = d.uid),
     (SELECT e.pairing_code FROM enrolments e WHERE e.uid = d.uid AND e.state = 'pending' ORDER BY e.created_at DESC LIMIT 1),
     (SELECT e.pairing_code FROM enrolments e WHERE e.uid = d.uid AND e.state = 'replacement' ORDER BY e.created_at DESC LIMIT 1),
     d.by_hand,
     (SELECT json_group_array(l.label ORDER BY l.label) FROM device_labels l WHERE l.uid = d.uid),
     (SELECT json_group_array(json_array(f.id, f.key, f.kind, v.value) ORDER BY f.id)
      FROM device_values v JOIN fields f ON f.id = v.field WHERE v.uid = d.uid)";

fn device(row: &Row<'_>) -> rusqlite::Result<Result<DeviceRow>> {
    let (uid, org, serial): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (admission, facts, projects): (String, String, Option<String>) = (row.get(4)?, row.get(6)?, row.get(13)?);
    let (name, reason, agent) = (row.get(3)?, row.get(5)?, row.get(7)?);
    let (created_at, decided_at, decided_by) = (row.get(8)?, row.get(9)?, row.get(10)?);
    let (admitted_at, certificate_expires_at) = (row.get(11)?, row.get(12)?);
    let (pairing_code, replacement) = (row.get(14)?, row.get(15)?);
    let (by_hand, labels, values): (bool, String, String) = (row.get(16)?, row.get(17)?, row.get(18)?);
    Ok((|| {
        Ok(DeviceRow {
            uid: uid.parse()?,
            org: org.parse()?,
            serial: serial.parse()?,
            name,
            admission: parse_admission(&admission)?,
            reason,
            facts: serde_json::from_str(&facts)?,
            agent,
            created_at,
            decided_at,
            decided_by,
            admitted_at,
            certificate_expires_at,
            projects: projects.iter().flat_map(|list| list.split(',')).map(str::parse).collect::<std::result::Result<_, _>>()?,
            pairing_code,
            replacement,
            by_hand,
            // Most devices have none.
            labels: if labels == "[]" { Vec::new() } else { serde_json::from_str(&labels)? },
            values: if values == "[]" { Vec::new() } else { parse_values(&values)? },
        })
    })())
}

fn parse_values(json: &str) -> Result<Vec<FieldValue>> {
    let values: Vec<(i64, String, String, String)> = serde_json::from_str(json)?;
    let value = |(field, key, kind, value): (i64, String, String, String)| {
        Ok(FieldValue { field, key, kind: super::fields::parse_kind(&kind)?, value })
    };
    values.into_iter().map(value).collect()
}

/// An admission as it is stored.
pub fn admission_text(admission: Admission) -> &'static str {
    match admission {
        Admission::Pending => "pending",
        Admission::Admitted => "admitted",
        Admission::Rejected => "rejected",
        Admission::Revoked => "revoked",
    }
}

fn parse_admission(text: &str) -> Result<Admission> {
    Ok(match text {
        "pending" => Admission::Pending,
        "admitted" => Admission::Admitted,
        "rejected" => Admission::Rejected,
        "revoked" => Admission::Revoked,
        other => return Err(Error::Corrupt { what: "admission", why: other.to_owned() }),
    })
}

/// A device by its uid.
///
/// # Errors
/// When the database fails.
pub fn by_uid(connection: &Connection, uid: &DeviceUid) -> Result<Option<DeviceRow>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM devices d WHERE d.uid = ?1"))?;
    statement.query_row([uid.as_str()], device).optional()?.transpose()
}

/// A device of an organization by its serial number.
///
/// # Errors
/// When the database fails.
pub fn by_serial(connection: &Connection, org: &OrgId, serial: &str) -> Result<Option<DeviceRow>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM devices d WHERE d.org = ?1 AND d.serial = ?2"))?;
    statement.query_row([org.as_str(), serial], device).optional()?.transpose()
}

/// Why a serial number is refused that would be taken for something which the hub gives: whoever reads a pairing code off a device
/// must not let in another one that chose it as its serial number.
pub(crate) fn mistaken(serial: &Serial) -> Option<String> {
    let kind = if random::pairing_code_of(serial.as_str()).is_some_and(|code| code.eq_ignore_ascii_case(serial.as_str())) {
        "a pairing code"
    } else if serial.as_str().parse::<DeviceUid>().is_ok() {
        "the uid of a device"
    } else {
        return None;
    };
    Some(format!("the serial number {:?} has the form of {kind}, and would be taken for one", serial.as_str()))
}

/// The uids of the devices of an organization (`?1`) that bear a text (`?2`) as serial number or as name.
pub(super) const BEARERS: &str =
    "SELECT uid FROM devices WHERE org = ?1 AND serial = ?2 UNION SELECT uid FROM devices WHERE org = ?1 AND name = ?2";

/// Of those that bear one serial number or name, the ones that are meant: a device chooses its serial number itself, and one that
/// was not let in takes nothing from one that was.
pub(super) fn meant<T>(bearers: &mut Vec<T>, is_admitted: impl Fn(&T) -> bool) {
    if bearers.iter().any(&is_admitted) {
        bearers.retain(is_admitted);
    }
}

/// What a text names in an organization. A uid, which the hub made, names one device; a serial number, a name or a pairing code
/// may be borne by several: then all of them are given, as none of them may take another's place.
///
/// # Errors
/// When the database fails.
pub fn named(connection: &Connection, org: &OrgId, text: &str) -> Result<Vec<DeviceRow>> {
    if let Ok(uid) = text.parse::<DeviceUid>()
        && let Some(found) = by_uid(connection, &uid)?.filter(|device| device.org == *org)
    {
        return Ok(vec![found]);
    }
    let rows = |uids: &str, text: &str| -> Result<Vec<DeviceRow>> {
        let mut statement =
            connection.prepare_cached(&format!("SELECT {COLUMNS} FROM devices d WHERE d.uid IN ({uids}) ORDER BY d.uid LIMIT 20"))?;
        let rows = statement.query_map([org.as_str(), text], device)?;
        rows.map(|row| row?).collect()
    };
    let mut found = rows(BEARERS, text)?;
    meant(&mut found, |device| device.admission == Admission::Admitted);
    let waiting = "SELECT uid FROM enrolments WHERE org = ?1 AND pairing_code = ?2 AND state IN ('pending', 'replacement')";
    for device in random::pairing_code_of(text).map_or_else(|| Ok(Vec::new()), |code| rows(waiting, &code))? {
        if !found.iter().any(|other| other.uid == device.uid) {
            found.push(device);
        }
    }
    Ok(found)
}

/// Devices of an organization in the order of their uids, after `after`.
///
/// # Errors
/// When the database fails.
pub fn page(connection: &Connection, org: &OrgId, after: &str, limit: usize) -> Result<Vec<DeviceRow>> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM devices d WHERE d.org = ?1 AND d.uid > ?2 ORDER BY d.uid LIMIT ?3"))?;
    let rows = statement.query_map(params![org.as_str(), after, i64::try_from(limit).unwrap_or(i64::MAX)], device)?;
    rows.map(|row| row?).collect()
}

/// All devices of an organization, one after the other, in the order of their uids.
///
/// # Errors
/// When the database fails, or `take` does.
pub fn each(connection: &Connection, org: &OrgId, mut take: impl FnMut(DeviceRow) -> Result<()>) -> Result<()> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM devices d WHERE d.org = ?1 ORDER BY d.uid"))?;
    for row in statement.query_map([org.as_str()], device)? {
        take(row??)?;
    }
    Ok(())
}

/// Devices by admission, over all organizations, for the metrics.
///
/// # Errors
/// When the database fails.
pub fn counts(connection: &Connection) -> Result<Vec<(String, i64)>> {
    let mut statement = connection.prepare_cached("SELECT admission, count(*) FROM devices GROUP BY admission")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The state of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// It speaks for the device.
    Current,
    /// A renewal gave it a certificate; its first use makes it the current one.
    Next,
    /// It spoke for the device once. Whoever uses it now has a copy of it.
    Retired,
}

/// A key that the hub knows.
#[derive(Debug, Clone)]
pub struct Key {
    /// Whose it is, or was.
    pub uid: DeviceUid,
    /// Of which organization.
    pub org: OrgId,
    /// What it may do.
    pub state: KeyState,
    /// Why it was retired.
    pub reason: Option<String>,
    /// When its use last raised an alarm.
    pub alarm_at: Option<Millis>,
}

/// What the hub knows of a key.
///
/// # Errors
/// When the database fails.
pub fn key(connection: &Connection, digest: &[u8; 32]) -> Result<Option<Key>> {
    let mut statement = connection.prepare_cached("SELECT uid, org, state, reason, alarm_at FROM device_keys WHERE key = ?1")?;
    let found = statement
        .query_row([digest], |row| {
            let (uid, org, state): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((uid, org, state, row.get(3)?, row.get(4)?))
        })
        .optional()?;
    let Some((uid, org, state, reason, alarm_at)) = found else { return Ok(None) };
    let state = match state.as_str() {
        "current" => KeyState::Current,
        "next" => KeyState::Next,
        _ => KeyState::Retired,
    };
    Ok(Some(Key { uid: uid.parse()?, org: org.parse()?, state, reason, alarm_at }))
}

/// Makes a key the one that speaks for a device. Those before it are retired for `reason`.
///
/// # Errors
/// When the database fails.
pub fn make_current(tx: &Transaction<'_>, uid: &DeviceUid, org: &OrgId, digest: &[u8; 32], reason: &str, now: Millis) -> Result<()> {
    retire_keys(tx, uid, Some(digest), reason, now)?;
    tx.prepare_cached(
        "INSERT INTO device_keys (key, uid, org, state, since) VALUES (?1, ?2, ?3, 'current', ?4)
         ON CONFLICT (key) DO UPDATE SET uid = ?2, org = ?3, state = 'current', since = ?4, reason = NULL",
    )?
    .execute(params![digest, uid.as_str(), org.as_str(), now])?;
    Ok(())
}

/// Files the key of a renewal beside the current one: whichever the device uses next is right, so that a lost answer locks nobody out.
///
/// # Errors
/// When the database fails.
pub fn make_next(tx: &Transaction<'_>, uid: &DeviceUid, org: &OrgId, digest: &[u8; 32], now: Millis) -> Result<()> {
    tx.prepare_cached("UPDATE device_keys SET state = 'retired', reason = 'renewed', since = ?2 WHERE uid = ?1 AND state = 'next'")?
        .execute(params![uid.as_str(), now])?;
    tx.prepare_cached(
        "INSERT INTO device_keys (key, uid, org, state, since) VALUES (?1, ?2, ?3, 'next', ?4)
         ON CONFLICT (key) DO UPDATE SET state = 'next', since = ?4, reason = NULL WHERE uid = ?2",
    )?
    .execute(params![digest, uid.as_str(), org.as_str(), now])?;
    Ok(())
}

/// Retires a device's keys, but for one.
///
/// # Errors
/// When the database fails.
pub fn retire_keys(tx: &Transaction<'_>, uid: &DeviceUid, keep: Option<&[u8; 32]>, reason: &str, now: Millis) -> Result<()> {
    tx.prepare_cached(
        "UPDATE device_keys SET state = 'retired', reason = ?3, since = ?4 WHERE uid = ?1 AND state != 'retired' AND key IS NOT ?2",
    )?
    .execute(params![uid.as_str(), keep, reason, now])?;
    Ok(())
}

/// Notes that a retired key raised its alarm.
///
/// # Errors
/// When the database fails.
pub fn note_alarm(tx: &Transaction<'_>, digest: &[u8; 32], now: Millis) -> Result<()> {
    tx.prepare_cached("UPDATE device_keys SET alarm_at = ?2 WHERE key = ?1")?.execute(params![digest, now])?;
    Ok(())
}

/// Decides a device's admission.
///
/// # Errors
/// When the database fails.
pub fn decide(tx: &Transaction<'_>, uid: &DeviceUid, admission: Admission, reason: Option<&str>, by: &str, now: Millis) -> Result<()> {
    tx.prepare_cached(
        "UPDATE devices SET admission = ?2, reason = ?3, decided_by = ?4, decided_at = ?5,
             admitted_at = CASE WHEN ?2 = 'admitted' THEN coalesce(admitted_at, ?5) ELSE admitted_at END WHERE uid = ?1",
    )?
    .execute(params![uid.as_str(), admission_text(admission), reason, by, now])?;
    Ok(())
}

/// Files a device that has no daemon: it belongs, and no key speaks for it. False if the serial number is listed already.
///
/// # Errors
/// When the database fails.
pub fn insert_by_hand(
    tx: &Transaction<'_>,
    uid: &DeviceUid,
    org: &OrgId,
    serial: &Serial,
    name: &str,
    by: &str,
    now: Millis,
) -> Result<bool> {
    let made = tx
        .prepare_cached(
            "INSERT INTO devices (uid, org, serial, name, admission, facts, created_at, decided_at, decided_by, by_hand)
             VALUES (?1, ?2, ?3, ?4, 'admitted', '{}', ?5, ?5, ?6, 1) ON CONFLICT (org, serial) DO NOTHING",
        )?
        .execute(params![uid.as_str(), org.as_str(), serial.as_str(), name, now, by])?;
    Ok(made == 1)
}

/// Gives a device another name.
///
/// # Errors
/// When the database fails.
pub fn rename(tx: &Transaction<'_>, uid: &DeviceUid, name: &str) -> Result<()> {
    tx.prepare_cached("UPDATE devices SET name = ?2 WHERE uid = ?1")?.execute(params![uid.as_str(), name])?;
    Ok(())
}

/// Stores what a device says of itself.
///
/// # Errors
/// When the database fails.
pub fn set_facts(tx: &Transaction<'_>, uid: &DeviceUid, facts: &Facts, agent: Option<&str>) -> Result<()> {
    tx.prepare_cached("UPDATE devices SET facts = ?2, agent = coalesce(?3, agent) WHERE uid = ?1")?.execute(params![
        uid.as_str(),
        serde_json::to_string(facts)?,
        agent
    ])?;
    Ok(())
}

/// Notes the end of a device's newest certificate.
///
/// # Errors
/// When the database fails.
pub fn set_certificate_end(tx: &Transaction<'_>, uid: &DeviceUid, expires_at: Millis) -> Result<()> {
    tx.prepare_cached("UPDATE devices SET certificate_expires_at = ?2 WHERE uid = ?1")?.execute(params![uid.as_str(), expires_at])?;
    Ok(())
}

/// Lets a project share a device.
///
/// # Errors
/// When the database fails.
pub fn join(tx: &Transaction<'_>, uid: &DeviceUid, org: &OrgId, project: &ProjectId) -> Result<()> {
    tx.prepare_cached("INSERT OR IGNORE INTO device_projects (uid, org, project) VALUES (?1, ?2, ?3)")?.execute(params![
        uid.as_str(),
        org.as_str(),
        project.as_str()
    ])?;
    Ok(())
}

/// Takes a device out of a project.
///
/// # Errors
/// When the database fails.
pub fn leave(tx: &Transaction<'_>, uid: &DeviceUid, project: &ProjectId) -> Result<()> {
    tx.prepare_cached("DELETE FROM device_projects WHERE uid = ?1 AND project = ?2")?.execute(params![uid.as_str(), project.as_str()])?;
    Ok(())
}

/// Takes a device off the list. Its keys stay, retired, so that a copy of them still raises an alarm.
///
/// # Errors
/// When the database fails.
pub fn delete(tx: &Transaction<'_>, uid: &DeviceUid, now: Millis) -> Result<()> {
    retire_keys(tx, uid, None, "deleted", now)?;
    tx.prepare_cached("DELETE FROM devices WHERE uid = ?1")?.execute([uid.as_str()])?;
    Ok(())
}

/// The digest of the key that speaks for a device.
///
/// # Errors
/// When the database fails.
pub fn current_key(connection: &Connection, uid: &DeviceUid) -> Result<Option<[u8; 32]>> {
    let mut statement = connection.prepare_cached("SELECT key FROM device_keys WHERE uid = ?1 AND state = 'current'")?;
    Ok(statement.query_row([uid.as_str()], |row| row.get(0)).optional()?)
}

/// Takes over what a unit said of itself when it asked for the place.
///
/// # Errors
/// When the database fails.
pub fn take_facts(tx: &Transaction<'_>, uid: &DeviceUid, request: &str) -> Result<()> {
    tx.prepare_cached("UPDATE devices SET facts = (SELECT e.facts FROM enrolments e WHERE e.request = ?2) WHERE uid = ?1")?
        .execute([uid.as_str(), request])?;
    Ok(())
}

/// The uids of all devices of the hub.
///
/// # Errors
/// When the database fails.
pub fn uids(connection: &Connection) -> Result<Vec<DeviceUid>> {
    let mut statement = connection.prepare_cached("SELECT uid FROM devices ORDER BY uid")?;
    let mut uids = Vec::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        uids.push(row.get::<_, String>(0)?.parse()?);
    }
    Ok(uids)
}
