//! Takes a TOML table apart key by key and collects every mistake: wrong types, refused values, unknown keys.
//!
//! A deserializer would stop at the first one, and the user would meet them one restart at a time.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use toml::{Table, Value};

use super::Secret;

/// Environment variables that override keys begin with this.
const PREFIX: &str = "MUSTER_HUB_";
/// Variables with the prefix that are no keys.
const NOT_KEYS: &[&str] = &["MUSTER_HUB_CONFIG"];

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key (`mqtt.listen`) or the environment variable; empty for the file as a whole.
    pub key: String,
    /// What is wrong with it and what to do.
    pub what: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.what) } else { write!(f, "{}: {}", self.key, self.what) }
    }
}

pub(super) struct Reader {
    /// Top-level keys, and those of tables as `table.key`.
    values: BTreeMap<String, Value>,
    environment: BTreeMap<String, String>,
    asked: Vec<&'static str>,
    mistakes: Vec<Mistake>,
    /// The file did not parse: that is the one mistake to report of it.
    broken: bool,
}

impl Reader {
    pub(super) fn new(text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let environment = environment.into_iter().filter(|(key, _)| key.starts_with(PREFIX) && !NOT_KEYS.contains(&key.as_str())).collect();
        let (values, mistakes) = match text.parse::<Table>() {
            Ok(table) => (flatten(table), Vec::new()),
            Err(error) => (BTreeMap::new(), vec![Mistake { key: String::new(), what: error.to_string().trim().to_owned() }]),
        };
        let broken = !mistakes.is_empty();
        Self { values, environment, asked: Vec::new(), mistakes, broken }
    }

    /// All mistakes, with the unknown keys that nobody asked for.
    pub(super) fn finish(mut self) -> Vec<Mistake> {
        for key in self.values.keys() {
            let what = "is not a key of the hub's configuration; see `muster-hub example-config`";
            self.mistakes.push(Mistake { key: key.clone(), what: what.into() });
        }
        for key in self.environment.keys() {
            let what = "does not name a key of the hub's configuration; unset it";
            self.mistakes.push(Mistake { key: key.clone(), what: what.into() });
        }
        if self.broken {
            // Whatever is missing may stand in the part that did not parse.
            self.mistakes.truncate(1);
        }
        self.mistakes
    }

    #[cfg(test)]
    pub(super) fn asked(&self) -> &[&'static str] {
        &self.asked
    }

    pub(super) fn mistake(&mut self, key: &str, what: impl Into<String>) {
        self.mistakes.push(Mistake { key: key.to_owned(), what: what.into() });
    }

    pub(super) fn has_mistake(&self, key: &str) -> bool {
        let variable = variable(key);
        self.mistakes.iter().any(|mistake| mistake.key == key || mistake.key == variable)
    }

    /// The value of a key with the name under which its mistakes are reported.
    fn take(&mut self, key: &'static str) -> Option<(String, Value)> {
        self.asked.push(key);
        let in_file = self.values.remove(key);
        let variable = variable(key);
        if let Some(text) = self.environment.remove(&variable) {
            return Some((variable, Value::String(text)));
        }
        in_file.map(|value| (key.to_owned(), value))
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.parsed(key, |text| Ok(text.to_owned())).filter(|text| !text.is_empty())
    }

    pub(super) fn secret(&mut self, key: &'static str) -> Option<Secret> {
        self.text(key).map(Secret)
    }

    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        self.text(key).map(PathBuf::from)
    }

    pub(super) fn parsed<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (name, value) = self.take(key)?;
        let parsed = match &value {
            Value::String(text) => parse(text),
            other => Err(format!("is {}, but a text in quotes is needed", described(other))),
        };
        parsed.map_err(|what| self.mistake(&name, what)).ok()
    }

    /// A whole number in a range.
    pub(super) fn seconds(&mut self, key: &'static str, range: RangeInclusive<u64>) -> Option<u64> {
        let (name, value) = self.take(key)?;
        let number = match &value {
            Value::Integer(number) => u64::try_from(*number).ok(),
            Value::String(text) if name != key => text.parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.mistake(&name, format!("is {value}, but a whole number from {} to {} is needed", range.start(), range.end()));
        }
        number
    }

    /// A number as it was written, so that 0.1 is one tenth and not the float beside it; in quotes or without.
    pub(super) fn decimal<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let (name, value) = self.take(key)?;
        let parsed = match &value {
            Value::String(text) => parse(text),
            Value::Integer(number) => parse(&number.to_string()),
            // The shortest text that reads as this float again: what stood in the file, up to 15 digits.
            Value::Float(number) => parse(&number.to_string()),
            other => Err(format!("is {}, but a number is needed", described(other))),
        };
        parsed.map_err(|what| self.mistake(&name, what)).ok()
    }

    /// true or false.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let (name, value) = self.take(key)?;
        let flag = match &value {
            Value::Boolean(flag) => Some(*flag),
            Value::String(text) if name != key => text.parse().ok(),
            _ => None,
        };
        if flag.is_none() {
            self.mistake(&name, format!("is {value}, but true or false is needed"));
        }
        flag
    }

    /// A list of tables that have exactly these fields, all texts; in the environment as `a=b` pairs: `first=second`, separated by commas.
    pub(super) fn tables<T>(&mut self, key: &'static str, fields: &[&str], parse: impl Fn(&[&str]) -> Result<T, String>) -> Vec<T> {
        let Some((name, value)) = self.take(key) else { return Vec::new() };
        let items: Vec<Result<Vec<String>, String>> = match &value {
            Value::Array(items) => items.iter().map(|item| row(item, fields)).collect(),
            Value::String(text) if name != key => text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| Ok(item.split('=').map(|part| part.trim().to_owned()).collect()))
                .collect(),
            other => vec![Err(format!("is {}, but a list of tables is needed", described(other)))],
        };
        let mut parsed = Vec::with_capacity(items.len());
        for item in items {
            let outcome = item.and_then(|texts| {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                if texts.len() == fields.len() { parse(&texts) } else { Err(format!("needs {}", fields.join(" and "))) }
            });
            match outcome {
                Ok(item) => parsed.push(item),
                Err(what) => self.mistake(&name, what),
            }
        }
        parsed
    }

    /// A list of texts; in the environment separated by commas.
    pub(super) fn list<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        let Some((name, value)) = self.take(key) else { return Vec::new() };
        let items = match value {
            Value::Array(items) => items,
            Value::String(text) if name != key => text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(Value::from).collect(),
            other => {
                self.mistake(&name, format!("is {}, but a list is needed: [\"a.example\", \"10.0.0.1\"]", described(&other)));
                return Vec::new();
            }
        };
        let mut parsed = Vec::with_capacity(items.len());
        for item in items {
            match item.as_str().map_or_else(|| Err(format!("{item} is not a text in quotes")), &parse) {
                Ok(item) => parsed.push(item),
                Err(what) => self.mistake(&name, what),
            }
        }
        parsed
    }
}

/// The fields of a table, in order.
fn row(item: &Value, fields: &[&str]) -> Result<Vec<String>, String> {
    let table = item.as_table().ok_or_else(|| format!("{item} is not a table with {}", fields.join(" and ")))?;
    if let Some(unknown) = table.keys().find(|known| !fields.contains(&known.as_str())) {
        return Err(format!("{unknown} is not a field here; it has {}", fields.join(" and ")));
    }
    let text =
        |field: &&str| table.get(*field).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| format!("{field} is needed, as a text"));
    fields.iter().map(text).collect()
}

/// `mqtt.listen` as `MUSTER_HUB_MQTT_LISTEN`.
fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// The sections of the file. A table of another name is one unknown key.
const SECTIONS: &[&str] = &["mqtt", "presence", "login", "mail", "oidc", "billing", "limits", "retention", "log"];

pub(super) fn flatten(table: Table) -> BTreeMap<String, Value> {
    let mut flat = BTreeMap::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) if SECTIONS.contains(&key.as_str()) => {
                flat.extend(inner.into_iter().map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            value => {
                flat.insert(key, value);
            }
        }
    }
    flat
}

fn described(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a text",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
