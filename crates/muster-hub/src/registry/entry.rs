//! One device in memory: what filters and orders look at, as small as it gets. Texts that many devices share are held once.

use std::collections::HashSet;
use std::sync::Arc;

use muster_proto::Millis;
use muster_proto::api::{Admission, FieldKind};
use muster_proto::id::DeviceUid;
use serde_json::Value as Json;

use crate::query::{Value, columns};
use crate::store::devices::DeviceRow;

/// Longest part of a fact that is looked at, in characters: a device may state a novel.
const FACT_MAX: usize = 256;
/// Most members of a fact that is a list.
const MEMBERS_MAX: usize = 16;

/// A device.
#[derive(Debug)]
pub struct Entry {
    /// Its uid.
    pub uid: DeviceUid,
    pub(super) serial: Box<str>,
    pub(super) name: Box<str>,
    pub(super) admission: Admission,
    pub(super) by_hand: bool,
    pub(super) replacement: bool,
    pub(super) code: Option<Box<str>>,
    pub(super) agent: Option<Arc<str>>,
    pub(super) created_at: Millis,
    pub(super) admitted_at: Option<Millis>,
    pub(super) certificate_expires_at: Option<Millis>,
    /// Ids, held once: thousands of rows are asked for theirs, and strings of their own would each be a way to memory.
    pub(super) projects: Box<[Arc<str>]>,
    pub(super) labels: Box<[Arc<str>]>,
    pub(super) values: Box<[(i64, Cell)]>,
    pub(super) facts: Box<[(Arc<str>, Cell)]>,
}

/// A value that a device has.
#[derive(Debug)]
pub(super) enum Cell {
    Text(Arc<str>),
    Number(f64),
    Time(Millis),
    Bool(bool),
    List(Box<[Arc<str>]>),
}

impl Cell {
    pub(super) fn value(&self) -> Value<'_> {
        match self {
            Self::Text(text) => Value::Text(text),
            Self::Number(number) => Value::Number(*number),
            Self::Time(time) => Value::Time(*time),
            Self::Bool(value) => Value::Bool(*value),
            Self::List(list) => Value::List(list.iter().map(|text| &**text).collect()),
        }
    }
}

impl Entry {
    pub(super) fn of(row: DeviceRow, texts: &mut Texts) -> Self {
        let facts = row.facts.0.iter().filter_map(|(name, value)| Some((texts.share(name), stated(value, texts)?))).collect();
        let values = row.values.iter().map(|value| (value.field, kept(value.kind, &value.value, texts))).collect();
        Self {
            serial: row.serial.as_str().into(),
            name: row.name.into(),
            admission: row.admission,
            by_hand: row.by_hand,
            replacement: row.replacement.is_some(),
            code: row.pairing_code.map(Into::into),
            agent: row.agent.map(|agent| texts.share(&agent)),
            created_at: row.created_at,
            admitted_at: row.admitted_at,
            certificate_expires_at: row.certificate_expires_at,
            projects: row.projects.iter().map(|project| texts.share(project.as_str())).collect(),
            labels: row.labels.iter().map(|label| texts.share(label)).collect(),
            values,
            facts,
            uid: row.uid,
        }
    }
}

fn kept(kind: FieldKind, value: &str, texts: &mut Texts) -> Cell {
    let typed = match kind {
        FieldKind::Number => value.parse().ok().map(Cell::Number),
        FieldKind::Date => columns::day(value).map(Cell::Time),
        FieldKind::Text | FieldKind::Choice | FieldKind::Person => None,
    };
    typed.unwrap_or_else(|| Cell::Text(texts.share(value)))
}

fn stated(value: &Json, texts: &mut Texts) -> Option<Cell> {
    Some(match value {
        Json::Null | Json::Object(_) => return None,
        Json::Bool(value) => Cell::Bool(*value),
        Json::Number(number) => Cell::Number(number.as_f64()?),
        Json::String(text) => Cell::Text(texts.share(text)),
        Json::Array(members) => {
            let texts_of = members.iter().take(MEMBERS_MAX).filter_map(|member| match member {
                Json::String(text) => Some(texts.share(text)),
                Json::Number(number) => Some(texts.share(&number.to_string())),
                _ => None,
            });
            Cell::List(texts_of.collect())
        }
    })
}

/// Texts that are held once: operating systems, versions, sites, labels.
#[derive(Debug, Default)]
pub(super) struct Texts {
    held: HashSet<Arc<str>>,
    /// So many are looked through for those that nobody uses any more.
    tidy_at: usize,
}

impl Texts {
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        let text = match text.char_indices().nth(FACT_MAX) {
            Some((end, _)) => &text[..end],
            None => text,
        };
        if let Some(held) = self.held.get(text) {
            return Arc::clone(held);
        }
        let shared: Arc<str> = text.into();
        self.held.insert(Arc::clone(&shared));
        shared
    }

    pub(super) fn tidy(&mut self) {
        if self.held.len() > self.tidy_at.max(1024) {
            self.held.retain(|text| Arc::strong_count(text) > 1);
            self.tidy_at = self.held.len() * 2;
        }
    }
}
