//! The device list as a working tool: custom fields, views, rows entered by hand, many devices at once, CSV.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Millis;
use crate::api::Device;
use crate::id::{DeviceUid, ProjectId, Serial};

/// What a custom field holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    /// Any text of up to 500 characters.
    Text,
    /// A number.
    Number,
    /// One of its choices.
    Choice,
    /// A day, as 2026-11-22.
    Date,
    /// A member's e-mail address.
    Person,
}

/// `GET /v1/orgs/{org}/fields`: a custom field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// As filters, the CSV file and the API call it; never changes.
    pub key: String,
    /// As people call it.
    pub title: String,
    /// What it holds.
    pub kind: FieldKind,
    /// For a choice: what may be chosen, in order.
    #[serde(default)]
    pub choices: Vec<String>,
    /// Whether an edit may leave it empty. Devices that enrol without it are listed as missing it.
    #[serde(default)]
    pub required: bool,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// When defined.
    pub created_at: Millis,
}

/// `POST /v1/orgs/{org}/fields`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldCreate {
    /// 1 to 40 of `a-z`, `0-9`, `_`; starts with a letter; not the name of a built-in column.
    pub key: String,
    /// The key if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it holds.
    pub kind: FieldKind,
    /// For a choice: what may be chosen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<String>,
    /// Whether edits may not leave it empty.
    #[serde(default)]
    pub required: bool,
    /// What it is for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// `PATCH /v1/orgs/{org}/fields/{field}`. What is left out stays. Choices that go need `?confirm=KEY` if devices have them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldEdit {
    /// A new title.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// All choices from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<Vec<String>>,
    /// Whether edits may not leave it empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required: Option<bool>,
    /// A new description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// `GET /v1/orgs/{org}/views`: a saved way to look at the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Unique among the shared ones, and among one's own.
    pub name: String,
    /// Whether all of the organization see it, or its owner alone.
    pub shared: bool,
    /// Which devices; empty: all.
    pub filter: String,
    /// In which order; empty: by name.
    pub sort: String,
    /// Which columns; empty: the usual ones.
    pub columns: Vec<String>,
    /// Who changed it last.
    pub changed_by: String,
    /// When.
    pub changed_at: Millis,
}

/// `POST /v1/orgs/{org}/views`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewCreate {
    /// 1 to 100 printable characters.
    pub name: String,
    /// Whether all of the organization see it.
    #[serde(default)]
    pub shared: bool,
    /// Which devices.
    #[serde(default)]
    pub filter: String,
    /// In which order.
    #[serde(default)]
    pub sort: String,
    /// Which columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
}

/// `PATCH /v1/orgs/{org}/views/{view}`. What is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ViewEdit {
    /// A new name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Which devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// In which order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sort: Option<String>,
    /// Which columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
}

/// One page of `GET /v1/orgs/{org}/devices`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DevicePage {
    /// The rows.
    pub items: Vec<Device>,
    /// Give this as `?cursor=` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// How many devices the filter matches now, on all pages.
    pub total: u64,
}

/// `POST /v1/orgs/{org}/devices`: a device without a daemon. One that enrols later with this id takes the row over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceAdd {
    /// The serial number.
    pub id: Serial,
    /// The id if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Values of custom fields, by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Value>,
    /// Labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// Projects that share it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub projects: Vec<ProjectId>,
}

/// What is done to many devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BulkAction {
    /// Those that wait belong from now on.
    Admit,
    /// Those that wait do not belong.
    Reject,
    /// Those that belong do so no more.
    Revoke,
    /// They join `projects`.
    Assign,
    /// They leave `projects`.
    Unassign,
    /// `fields`, `add_labels` and `remove_labels` are applied.
    Edit,
    /// The rows go.
    Delete,
}

/// `POST /v1/orgs/{org}/devices/bulk`: all or nothing. One of `filter`, `devices` and `all`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// What is done.
    pub action: BulkAction,
    /// To all devices that match. An empty one is refused: it may come from a variable that was not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// To every device, in place of a filter.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// To these: uids or ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<String>>,
    /// Refuse if the filter matches another number now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<u64>,
    /// Only tell what would happen.
    #[serde(default)]
    pub dry_run: bool,
    /// Of a rejection or revocation, for the records and for the devices' journals.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// For `assign` and `unassign`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub projects: Vec<ProjectId>,
    /// For `edit`: values by key; null empties a field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, Value>,
    /// For `edit`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_labels: Vec<String>,
    /// For `edit`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_labels: Vec<String>,
}

/// The answer to a [`BulkRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BulkResult {
    /// Devices that were meant.
    pub matched: u64,
    /// Of these, changed; the others were as wished already.
    pub changed: u64,
    /// Nothing was done; the numbers tell what would have been.
    pub dry_run: bool,
    /// The changed ones.
    pub devices: Vec<DeviceUid>,
}

/// The answer to `POST /v1/orgs/{org}/devices/import`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportResult {
    /// Lines read, without the header.
    pub lines: u64,
    /// Devices that were not listed before.
    pub created: u64,
    /// Devices that were listed and changed.
    pub updated: u64,
    /// Devices that are as the file says.
    pub unchanged: u64,
    /// Nothing was done; the numbers tell what would have been.
    pub dry_run: bool,
    /// All mistakes of the file. Where there is one, nothing was done.
    pub mistakes: Vec<ImportMistake>,
}

/// A mistake in a CSV file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportMistake {
    /// The line, counted from 1, the header included.
    pub line: u64,
    /// The column's header, where it is one column's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
}
