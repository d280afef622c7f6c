//! What devices told of their policies: the newest of each.

use muster_proto::api::DevicePolicy;
use muster_proto::id::DeviceUid;
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::Result;

/// Keeps what a device told, in place of what it told before.
///
/// # Errors
/// When the database fails.
pub fn put(tx: &Transaction<'_>, uid: &DeviceUid, policy: &DevicePolicy) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO device_policies (uid, text, code, fault, own_user, t, told_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (uid) DO UPDATE SET text = ?2, code = ?3, fault = ?4, own_user = ?5, t = ?6, told_at = ?7",
    )?
    .execute(params![uid.as_str(), policy.text, policy.code, policy.fault, policy.own_user, policy.t, policy.told_at])?;
    Ok(())
}

/// What a device told last.
///
/// # Errors
/// When the database fails.
pub fn of(connection: &Connection, uid: &DeviceUid) -> Result<Option<DevicePolicy>> {
    let mut statement = connection.prepare_cached("SELECT text, code, fault, own_user, t, told_at FROM device_policies WHERE uid = ?1")?;
    let policy = statement.query_row([uid.as_str()], |row| {
        Ok(DevicePolicy {
            text: row.get(0)?,
            code: row.get(1)?,
            fault: row.get(2)?,
            own_user: row.get(3)?,
            t: row.get(4)?,
            told_at: row.get(5)?,
        })
    });
    Ok(policy.optional()?)
}

/// Drops what a device told.
///
/// # Errors
/// When the database fails.
pub fn forget(tx: &Transaction<'_>, uid: &DeviceUid) -> Result<()> {
    tx.prepare_cached("DELETE FROM device_policies WHERE uid = ?1")?.execute([uid.as_str()])?;
    Ok(())
}

/// A device, whether its sessions run as the daemon's own user, and why it refuses everything, if it does.
pub type Remark = (DeviceUid, bool, Option<String>);

/// What the list says of devices whose policy is worth a word.
///
/// # Errors
/// When the database fails.
pub fn remarks(connection: &Connection) -> Result<Vec<Remark>> {
    let mut statement = connection.prepare(
        "SELECT uid, own_user, coalesce(fault, code) FROM device_policies WHERE own_user = 1 OR code IS NOT NULL OR fault IS NOT NULL",
    )?;
    let mut remarks = Vec::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        remarks.push((row.get::<_, String>(0)?.parse()?, row.get(1)?, row.get(2)?));
    }
    Ok(remarks)
}
