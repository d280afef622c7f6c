//! Custom fields, what devices have in them, and labels.

use muster_proto::api::{Field, FieldKind};
use muster_proto::id::{DeviceUid, OrgId};
use muster_proto::problem::Code;
use rusqlite::{Connection, Transaction, params};

use super::{Error, Result, problem};
use crate::fields::FIELDS_MAX;

/// A kind as it is stored.
pub fn kind_text(kind: FieldKind) -> &'static str {
    match kind {
        FieldKind::Text => "text",
        FieldKind::Number => "number",
        FieldKind::Choice => "choice",
        FieldKind::Date => "date",
        FieldKind::Person => "person",
    }
}

pub(super) fn parse_kind(text: &str) -> Result<FieldKind> {
    [FieldKind::Text, FieldKind::Number, FieldKind::Choice, FieldKind::Date, FieldKind::Person]
        .into_iter()
        .find(|kind| kind_text(*kind) == text)
        .ok_or_else(|| Error::Corrupt { what: "field kind", why: text.to_owned() })
}

/// The custom fields of an organization with their numbers, in the order of their making.
///
/// # Errors
/// When the database fails.
pub fn list(connection: &Connection, org: &OrgId) -> Result<Vec<(i64, Field)>> {
    let mut statement = connection
        .prepare_cached("SELECT id, key, title, kind, choices, required, description, created_at FROM fields WHERE org = ?1 ORDER BY id")?;
    let mut rows = statement.query([org.as_str()])?;
    let mut fields = Vec::new();
    while let Some(row) = rows.next()? {
        let (kind, choices): (String, String) = (row.get(3)?, row.get(4)?);
        let field = Field {
            key: row.get(1)?,
            title: row.get(2)?,
            kind: parse_kind(&kind)?,
            choices: serde_json::from_str(&choices)?,
            required: row.get(5)?,
            description: row.get(6)?,
            created_at: row.get(7)?,
        };
        fields.push((row.get(0)?, field));
    }
    Ok(fields)
}

/// Defines a field.
///
/// # Errors
/// `exists`, `conflict` when there are as many as there may be, or when the database fails.
pub fn insert(tx: &Transaction<'_>, org: &OrgId, field: &Field) -> Result<()> {
    let count: i64 = tx.prepare_cached("SELECT count(*) FROM fields WHERE org = ?1")?.query_row([org.as_str()], |row| row.get(0))?;
    if usize::try_from(count).unwrap_or(usize::MAX) >= FIELDS_MAX {
        return Err(problem(
            Code::Conflict,
            format!("{org} has {FIELDS_MAX} custom fields, which is as many as there may be; delete one first"),
        ));
    }
    let made = tx
        .prepare_cached(
            "INSERT INTO fields (org, key, title, kind, choices, required, description, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (org, key) DO NOTHING",
        )?
        .execute(params![
            org.as_str(),
            field.key,
            field.title,
            kind_text(field.kind),
            serde_json::to_string(&field.choices)?,
            field.required,
            field.description,
            field.created_at
        ])?;
    if made == 0 {
        return Err(problem(Code::Exists, format!("key: {org} has a field {} already; choose another key", field.key)));
    }
    Ok(())
}

/// Changes a field's definition, but for its key and kind.
///
/// # Errors
/// When the database fails.
pub fn update(tx: &Transaction<'_>, id: i64, field: &Field) -> Result<()> {
    tx.prepare_cached("UPDATE fields SET title = ?2, choices = ?3, required = ?4, description = ?5 WHERE id = ?1")?.execute(params![
        id,
        field.title,
        serde_json::to_string(&field.choices)?,
        field.required,
        field.description
    ])?;
    Ok(())
}

/// Deletes a field with every device's value in it.
///
/// # Errors
/// When the database fails.
pub fn delete(tx: &Transaction<'_>, id: i64) -> Result<()> {
    tx.prepare_cached("DELETE FROM fields WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// How many devices have a value in a field, or one of some values.
///
/// # Errors
/// When the database fails.
pub fn used(connection: &Connection, id: i64, values: Option<&[String]>) -> Result<u64> {
    let values = values.map(serde_json::to_string).transpose()?;
    let mut statement = connection.prepare_cached(
        "SELECT count(*) FROM device_values WHERE field = ?1 AND (?2 IS NULL OR value IN (SELECT value FROM json_each(?2)))",
    )?;
    Ok(statement.query_row(params![id, values], |row| row.get::<_, i64>(0))?.unsigned_abs())
}

/// Empties a field where it has one of some values.
///
/// # Errors
/// When the database fails.
pub fn clear(tx: &Transaction<'_>, id: i64, values: &[String]) -> Result<()> {
    tx.prepare_cached("DELETE FROM device_values WHERE field = ?1 AND value IN (SELECT value FROM json_each(?2))")?
        .execute(params![id, serde_json::to_string(values)?])?;
    Ok(())
}

/// Sets or empties a device's value.
///
/// # Errors
/// When the database fails.
pub fn set_value(tx: &Transaction<'_>, uid: &DeviceUid, field: i64, value: Option<&str>) -> Result<()> {
    match value {
        Some(value) => tx
            .prepare_cached(
                "INSERT INTO device_values (uid, field, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT (uid, field) DO UPDATE SET value = ?3 WHERE value != ?3",
            )?
            .execute(params![uid.as_str(), field, value])?,
        None => tx.prepare_cached("DELETE FROM device_values WHERE uid = ?1 AND field = ?2")?.execute(params![uid.as_str(), field])?,
    };
    Ok(())
}

/// Gives a device a label, or takes it away.
///
/// # Errors
/// When the database fails.
pub fn set_label(tx: &Transaction<'_>, uid: &DeviceUid, label: &str, on: bool) -> Result<()> {
    let sql = if on {
        "INSERT INTO device_labels (uid, label) VALUES (?1, ?2) ON CONFLICT DO NOTHING"
    } else {
        "DELETE FROM device_labels WHERE uid = ?1 AND label = ?2"
    };
    tx.prepare_cached(sql)?.execute([uid.as_str(), label])?;
    Ok(())
}

/// Whether an e-mail address is that of somebody in the organization.
///
/// # Errors
/// When the database fails.
pub fn is_person(connection: &Connection, org: &OrgId, email: &str) -> Result<bool> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM accounts a WHERE a.email = ?2 AND (
             EXISTS (SELECT 1 FROM members m WHERE m.org = ?1 AND m.account = a.id)
             OR EXISTS (SELECT 1 FROM participants p WHERE p.org = ?1 AND p.account = a.id)))",
    )?;
    Ok(statement.query_row([org.as_str(), email], |row| row.get(0))?)
}
