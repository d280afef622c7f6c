//! What an edit may do to a device's name, fields, labels and projects: checked whole, and applied in one transaction.
//!
//! One device's edit, many devices' edit, a row entered by hand and a line of a file all go through here.

use std::collections::{BTreeMap, BTreeSet};

use muster_proto::api::Field;
use muster_proto::id::{DeviceUid, OrgId, ProjectId};
use muster_proto::problem::Code;
use rusqlite::Transaction;
use serde_json::{Value, json};

use super::{ApiError, ApiResult, OrgAccess};
use crate::fields::{self as rules, LABELS_MAX};
use crate::rights::Action;
use crate::store::{self, devices, devices::DeviceRow, fields, orgs, problem};

/// Projects that one edit may name.
pub(super) const PROJECTS_MAX: usize = 100;

/// What is wished for.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    pub(super) name: Option<String>,
    pub(super) values: BTreeMap<String, Value>,
    pub(super) add_labels: BTreeSet<String>,
    pub(super) remove_labels: BTreeSet<String>,
    pub(super) join: BTreeSet<ProjectId>,
    pub(super) leave: BTreeSet<ProjectId>,
}

/// Wishes whose values were checked against the fields, inside the transaction that applies them.
#[derive(Debug, Default)]
pub(super) struct Checked {
    values: Vec<(i64, Option<String>)>,
}

impl Checked {
    /// Takes a value that [`value`] gave.
    pub(super) fn push(&mut self, field: i64, value: Option<String>) {
        self.values.push((field, value));
    }
}

impl Wishes {
    /// Takes projects that the person may assign devices to.
    pub(super) fn projects(access: &OrgAccess, parameter: &str, given: &[ProjectId]) -> ApiResult<BTreeSet<ProjectId>> {
        if given.len() > PROJECTS_MAX {
            return Err(ApiError::new(Code::Invalid, format!("{parameter}: at most {PROJECTS_MAX} projects at once")));
        }
        given.iter().map(|project| access.require_in(Action::AssignDevice, project.as_str())).collect()
    }

    /// Checks what can be checked without the database.
    pub(super) fn check(&self) -> ApiResult<()> {
        if let Some(both) = self.join.intersection(&self.leave).next() {
            return Err(ApiError::new(Code::Invalid, format!("add_projects: {both} is in remove_projects as well")));
        }
        if self.add_labels.len() > LABELS_MAX || self.remove_labels.len() > 1000 {
            return Err(ApiError::new(Code::Invalid, format!("add_labels: a device has at most {LABELS_MAX} labels")));
        }
        for label in &self.add_labels {
            rules::check_label(label).map_err(|why| ApiError::new(Code::Invalid, format!("add_{why}")))?;
        }
        if let Some(both) = self.add_labels.intersection(&self.remove_labels).next() {
            return Err(ApiError::new(Code::Invalid, format!("add_labels: {both:?} is in remove_labels as well")));
        }
        Ok(())
    }

    /// Whether it asks for what needs the right to edit.
    pub(super) fn edits(&self) -> bool {
        self.name.is_some() || !self.values.is_empty() || !self.add_labels.is_empty() || !self.remove_labels.is_empty()
    }

    /// Lets only those go on who may do it to a device as it is inside the transaction.
    pub(super) fn may(&self, access: &OrgAccess, device: &DeviceRow) -> ApiResult<()> {
        // Who does not see it any more is told no more than of one that is not there.
        if !access.sees(device) {
            return Err(ApiError::not_found("device", device.uid.as_str()));
        }
        if self.edits() {
            access.require_on(Action::EditDevice, device)?;
        }
        // Otherwise who maintains one project could take in any device that he only sees, and would have it in his hands.
        if !self.join.is_empty() {
            access.require_on(Action::AssignDevice, device)?;
        }
        Ok(())
    }

    /// Checks values against the fields that there are, and projects; all mistakes together.
    pub(super) fn checked(&self, tx: &Transaction<'_>, org: &OrgId) -> store::Result<Checked> {
        for project in self.join.iter().chain(&self.leave) {
            if !orgs::project_is_open(tx, org, project)? {
                return Err(problem(Code::Archived, format!("project {project} was archived or deleted meanwhile")));
            }
        }
        let mut checked = Checked::default();
        if self.values.is_empty() {
            return Ok(checked);
        }
        let defined = fields::list(tx, org)?;
        let mut mistakes = Vec::new();
        for (key, given) in &self.values {
            let Some((id, field)) = defined.iter().find(|(_, field)| field.key == *key) else {
                let known: Vec<&str> = defined.iter().map(|(_, field)| field.key.as_str()).collect();
                mistakes.push(format!("fields.{}: there is no such field; there are: {}", short(key), known.join(", ")));
                continue;
            };
            match value(tx, org, field, given)? {
                Ok(value) => checked.push(*id, value),
                Err(why) => mistakes.push(format!("fields.{key}: {why}")),
            }
        }
        if mistakes.is_empty() { Ok(checked) } else { Err(problem(Code::Invalid, mistakes.join("; "))) }
    }

    /// Applies them to a device, and says whether that changed anything. Right and visibility were checked.
    pub(super) fn apply(&self, tx: &Transaction<'_>, device: &DeviceRow, checked: &Checked) -> store::Result<bool> {
        let mut changed = false;
        if let Some(name) = self.name.as_ref().filter(|name| **name != device.name) {
            devices::rename(tx, &device.uid, name)?;
            changed = true;
        }
        for (id, value) in &checked.values {
            let has = device.values.iter().find(|held| held.field == *id).map(|held| held.value.as_str());
            if has != value.as_deref() {
                fields::set_value(tx, &device.uid, *id, value.as_deref())?;
                changed = true;
            }
        }
        changed |= self.label(tx, device)?;
        for project in self.join.iter().filter(|project| !device.projects.contains(*project)) {
            devices::join(tx, &device.uid, &device.org, project)?;
            changed = true;
        }
        for project in self.leave.iter().filter(|project| device.projects.contains(*project)) {
            devices::leave(tx, &device.uid, project)?;
            changed = true;
        }
        Ok(changed)
    }

    fn label(&self, tx: &Transaction<'_>, device: &DeviceRow) -> store::Result<bool> {
        let mut labels: BTreeSet<&String> = device.labels.iter().collect();
        let mut changed = false;
        for label in self.remove_labels.iter().filter(|label| device.labels.contains(label)) {
            fields::set_label(tx, &device.uid, label, false)?;
            labels.remove(label);
            changed = true;
        }
        for label in &self.add_labels {
            if labels.insert(label) {
                fields::set_label(tx, &device.uid, label, true)?;
                changed = true;
            }
        }
        if changed && labels.len() > LABELS_MAX {
            let why = format!("add_labels: {} would have {} labels, and a device has at most {LABELS_MAX}", device.name, labels.len());
            return Err(problem(Code::Invalid, why));
        }
        Ok(changed)
    }

    /// For the records: what was asked for, without what was not.
    pub(super) fn told(&self) -> Value {
        let mut told = json!({
            "name": self.name, "fields": self.values, "add_labels": self.add_labels, "remove_labels": self.remove_labels,
            "add_projects": self.join, "remove_projects": self.leave,
        });
        if let Value::Object(told) = &mut told {
            told.retain(|_, value| match value {
                Value::Null => false,
                Value::Array(list) => !list.is_empty(),
                Value::Object(map) => !map.is_empty(),
                _ => true,
            });
        }
        told
    }
}

/// Required fields that a new row leaves empty.
pub(super) fn missing(tx: &Transaction<'_>, org: &OrgId, uid: &DeviceUid) -> store::Result<Vec<String>> {
    let device = devices::by_uid(tx, uid)?;
    let has = device.map(|device| device.values).unwrap_or_default();
    let missing = fields::list(tx, org)?.into_iter().filter(|(id, field)| field.required && !has.iter().any(|value| value.field == *id));
    Ok(missing.map(|(_, field)| field.key).collect())
}

/// A value for a field in its canonical text. A person has to be one of the organization; what is required cannot be emptied.
pub(super) fn value(tx: &Transaction<'_>, org: &OrgId, field: &Field, given: &Value) -> store::Result<Result<Option<String>, String>> {
    let value = match rules::from_json(field, given) {
        Ok(None) if field.required => return Ok(Err("it is required and cannot be emptied".into())),
        Ok(value) => value,
        Err(why) => return Ok(Err(why)),
    };
    if let (muster_proto::api::FieldKind::Person, Some(email)) = (field.kind, &value)
        && !fields::is_person(tx, org, email)?
    {
        return Ok(Err(format!("{} does not belong to {org}; invite them first", short(email))));
    }
    Ok(Ok(value))
}

pub(super) fn short(text: &str) -> String {
    text.chars().take(60).collect()
}
