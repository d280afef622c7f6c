//! Orders: `-cpu,name`. What is absent comes last either way; among equals the uid decides, so that every order is total.

use std::cmp::Ordering;

use muster_proto::Millis;
use serde::{Deserialize, Serialize};

use super::columns::{Column, Kind, Schema, resolve};
use super::plan::{Row, Value};
use super::syntax::Name;
use super::{QueryError, TEXT_MAX};

/// Most columns in an order.
const COLUMNS_MAX: usize = 8;

/// One column of an order.
#[derive(Debug, Clone)]
pub struct SortBy {
    column: Column,
    descending: bool,
    /// A choice is ordered as its choices are.
    choices: Vec<String>,
}

/// A value to order by.
#[derive(Debug, Clone, PartialEq)]
pub enum Key<'a> {
    /// There is none.
    Absent,
    /// False before true.
    Bool(bool),
    /// A number, or the place of a choice among the choices.
    Number(f64),
    /// A time.
    Time(Millis),
    /// A text.
    Text(&'a str),
    /// Several texts, or one that was kept.
    Owned(String),
}

/// A key as a cursor keeps it. Numbers by their bits: they come back as they were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Kept {
    /// There is none.
    #[serde(rename = "-")]
    Absent,
    /// False before true.
    #[serde(rename = "b")]
    Bool(bool),
    /// The bits of a number.
    #[serde(rename = "n")]
    Number(u64),
    /// A time.
    #[serde(rename = "t")]
    Time(Millis),
    /// A text.
    #[serde(rename = "s")]
    Text(String),
}

/// Parses an order. An empty one is by name.
///
/// # Errors
/// When a column is not there.
pub fn order(text: &str, schema: &Schema<'_>) -> Result<Vec<SortBy>, QueryError> {
    if text.len() > TEXT_MAX {
        return Err(QueryError::new(1, format!("an order has at most {TEXT_MAX} bytes")));
    }
    let text = if text.trim().is_empty() { "name" } else { text };
    let mut order = Vec::new();
    let mut at = 1;
    for part in text.split(',') {
        let word = part.trim();
        let here = at + part.chars().take_while(|c| c.is_whitespace()).count();
        at += part.chars().count() + 1;
        let (descending, word, here) = match word.strip_prefix('-') {
            Some(rest) => (true, rest, here + 1),
            None => (false, word.strip_prefix('+').unwrap_or(word), here),
        };
        if word.is_empty() {
            return Err(QueryError::new(here, "expected a column's name, such as `name` or `-cpu`"));
        }
        let (column, kind) = resolve(&Name::of_word(word, here), schema)?;
        let choices = if let Kind::Choice(choices) = kind { choices } else { Vec::new() };
        order.push(SortBy { column, descending, choices });
    }
    if order.len() > COLUMNS_MAX {
        return Err(QueryError::new(1, format!("an order has at most {COLUMNS_MAX} columns")));
    }
    Ok(order)
}

impl SortBy {
    /// What a row is ordered by.
    pub fn key<'a>(&self, row: &impl Row<'a>) -> Key<'a> {
        match row.value(&self.column) {
            Value::Absent => Key::Absent,
            Value::Bool(value) => Key::Bool(value),
            Value::Number(value) if value.is_nan() => Key::Absent,
            Value::Number(value) => Key::Number(value),
            Value::Time(value) => Key::Time(value),
            Value::Text(text) => match self.choices.iter().position(|choice| choice == text) {
                #[allow(clippy::cast_precision_loss, reason = "there are few choices")]
                Some(place) => Key::Number(place as f64),
                None => Key::Text(text),
            },
            Value::List(list) if list.is_empty() => Key::Absent,
            Value::List(list) if list.len() == 1 => Key::Text(list[0]),
            Value::List(list) => Key::Owned(list.join(", ")),
        }
    }

    /// How two keys of this column are ordered.
    pub fn compare(&self, a: &Key<'_>, b: &Key<'_>) -> Ordering {
        match (a, b) {
            (Key::Absent, Key::Absent) => Ordering::Equal,
            (Key::Absent, _) => Ordering::Greater,
            (_, Key::Absent) => Ordering::Less,
            _ if self.descending => b.present(a),
            _ => a.present(b),
        }
    }

    /// Whether its values change without an edit.
    pub fn is_live(&self) -> bool {
        self.column.is_live()
    }
}

impl Key<'_> {
    fn present(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => a.cmp(b),
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Time(a), Self::Time(b)) => a.cmp(b),
            _ => match (self.text(), other.text()) {
                (Some(a), Some(b)) => natural(a, b),
                // Devices may state a number here and a text there.
                _ => self.rank().cmp(&other.rank()),
            },
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Owned(text) => Some(text),
            _ => None,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::Bool(_) => 0,
            Self::Number(_) => 1,
            Self::Time(_) => 2,
            Self::Text(_) | Self::Owned(_) => 3,
            Self::Absent => 4,
        }
    }

    /// For a cursor.
    pub fn keep(&self) -> Kept {
        match self {
            Self::Absent => Kept::Absent,
            Self::Bool(value) => Kept::Bool(*value),
            Self::Number(value) => Kept::Number(value.to_bits()),
            Self::Time(value) => Kept::Time(*value),
            Self::Text(text) => Kept::Text((*text).to_owned()),
            Self::Owned(text) => Kept::Text(text.clone()),
        }
    }
}

impl Kept {
    /// From a cursor.
    pub fn key(&self) -> Key<'_> {
        match self {
            Self::Absent => Key::Absent,
            Self::Bool(value) => Key::Bool(*value),
            Self::Number(bits) => Key::Number(f64::from_bits(*bits)),
            Self::Time(value) => Key::Time(*value),
            Self::Text(text) => Key::Text(text),
        }
    }
}

/// The order of texts for people: `robot-2` before `robot-10`, capitals beside small letters. Equal only for equal texts.
pub fn natural(a: &str, b: &str) -> Ordering {
    let same = same(a, b);
    let (mut x, mut y) = (&a[same..], &b[same..]);
    loop {
        let (Some(c), Some(d)) = (x.chars().next(), y.chars().next()) else {
            // One is the other's beginning; or they differ only in what does not count, and then by their letters.
            return x.len().min(1).cmp(&y.len().min(1)).then_with(|| a.cmp(b));
        };
        let (digit, other) = (c.is_ascii_digit(), d.is_ascii_digit());
        let found = if digit && other {
            let (n, rest) = number(x);
            let (m, more) = number(y);
            (x, y) = (rest, more);
            n.len().cmp(&m.len()).then_with(|| n.cmp(m))
        } else {
            (x, y) = (&x[c.len_utf8()..], &y[d.len_utf8()..]);
            // Numbers before letters.
            other.cmp(&digit).then_with(|| small(c).cmp(&small(d)))
        };
        if found != Ordering::Equal {
            return found;
        }
    }
}

/// How many bytes are the same at the beginning of both, up to a whole character and no further than before a number.
fn same(a: &str, b: &str) -> usize {
    let mut same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    while !a.is_char_boundary(same) || !b.is_char_boundary(same) {
        same -= 1;
    }
    same - a[..same].bytes().rev().take_while(u8::is_ascii_digit).count()
}

/// The digits at the beginning, without leading zeros, and the rest.
fn number(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].trim_start_matches('0'), &text[end..])
}

fn small(c: char) -> char {
    if c.is_ascii() { c.to_ascii_lowercase() } else { c.to_lowercase().next().unwrap_or(c) }
}
