//! A TOML file read key by key, so that all mistakes are reported together, each with its key.
//!
//! serde stops at the first mistake; a person who fixes a file over a serial console wants them all.
//! This module knows TOML and mistakes, and nothing of what the keys mean.

use std::fmt;
use std::ops::RangeInclusive;

use toml::{Table, Value};

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The key, as `section.key`; empty for the file as a whole.
    pub key: String,
    /// What is wrong and what would be right.
    pub what: String,
}

/// All mistakes of one file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, mistake) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            if mistake.key.is_empty() {
                f.write_str(&mistake.what)?;
            } else {
                write!(f, "{}: {}", mistake.key, mistake.what)?;
            }
        }
        Ok(())
    }
}

/// A file that is being read.
#[derive(Debug)]
pub struct Settings {
    root: Table,
    mistakes: Vec<Mistake>,
}

impl Settings {
    /// Parses the text.
    ///
    /// # Errors
    /// When it is not TOML; then nothing else can be said.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        match text.parse::<Table>() {
            Ok(root) => Ok(Self { root, mistakes: Vec::new() }),
            Err(error) => {
                let what = error.to_string();
                let what = what.trim_end().lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
                Err(Mistakes(vec![Mistake { key: String::new(), what }]))
            }
        }
    }

    /// Puts a value in place of a file's, such as from the environment.
    /// A text becomes a number or a truth value where it reads as one; the reader of the key says whether that is right.
    pub fn override_key(&mut self, section: &str, key: &str, text: &str) {
        let value = match text {
            "true" => Value::Boolean(true),
            "false" => Value::Boolean(false),
            _ => text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer),
        };
        if section.is_empty() {
            self.root.insert(key.to_owned(), value);
        } else if let Value::Table(table) = self.root.entry(section).or_insert_with(|| Value::Table(Table::new())) {
            table.insert(key.to_owned(), value);
        }
    }

    /// The keys outside of any section.
    pub fn top(&mut self) -> Section<'_> {
        let table: Table = std::mem::take(&mut self.root);
        let (sections, keys) = table.into_iter().partition::<Vec<_>, _>(|(_, value)| value.is_table());
        self.root = sections.into_iter().collect();
        Section { name: "", table: keys.into_iter().collect(), known: Vec::new(), mistakes: &mut self.mistakes }
    }

    /// The keys of a section; none if it is absent.
    pub fn section(&mut self, name: &'static str) -> Section<'_> {
        let table = match self.root.remove(name) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.mistakes.push(Mistake { key: name.to_owned(), what: format!("must be a section: [{name}]") });
                Table::new()
            }
        };
        Section { name, table, known: Vec::new(), mistakes: &mut self.mistakes }
    }

    /// Ends the reading: whatever nobody asked for is a mistake.
    ///
    /// # Errors
    /// All mistakes, in the order of the keys.
    pub fn finish(mut self) -> Result<(), Mistakes> {
        for (key, _) in std::mem::take(&mut self.root) {
            self.mistakes.push(Mistake { key, what: "no such section or key; see `musterd example-config`".into() });
        }
        if self.mistakes.is_empty() { Ok(()) } else { Err(Mistakes(self.mistakes)) }
    }
}

/// One section that is being read. Dropping it reports the keys that nobody asked for.
#[derive(Debug)]
pub struct Section<'a> {
    name: &'static str,
    table: Table,
    known: Vec<&'static str>,
    mistakes: &'a mut Vec<Mistake>,
}

impl Section<'_> {
    /// Reports a mistake of a key of this section.
    pub fn mistake(&mut self, key: &str, what: impl Into<String>) {
        let key = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        self.mistakes.push(Mistake { key, what: what.into() });
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.table.remove(key)
    }

    /// A text.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            // From the environment: a serial number of digits only.
            Value::Integer(number) => Some(number.to_string()),
            other => {
                self.mistake(key, format!("must be a text in quotes, not {}", other.type_str()));
                None
            }
        }
    }

    /// A whole number in a range.
    pub fn number(&mut self, key: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let (low, high) = (*range.start(), *range.end());
        match self.take(key)? {
            Value::Integer(number) if range.contains(&number) => Some(number),
            Value::Integer(number) => {
                self.mistake(key, format!("must be {low} to {high}, not {number}"));
                None
            }
            other => {
                self.mistake(key, format!("must be a whole number from {low} to {high}, not {}", other.type_str()));
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        match self.take(key)? {
            Value::Boolean(flag) => Some(flag),
            other => {
                self.mistake(key, format!("must be true or false, not {}", other.type_str()));
                None
            }
        }
    }

    /// A list of texts.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        match self.take(key)? {
            list @ Value::Array(_) => self.as_texts(key, list),
            _ => {
                self.mistake(key, "must be a list of texts: [\"...\"]");
                None
            }
        }
    }

    /// A text, or a list of texts.
    pub fn text_or_texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let value = self.take(key)?;
        self.as_texts(key, value)
    }

    /// A section below this one, whose keys the owner chooses: each with a text or a list of texts.
    pub fn named_texts(&mut self, key: &'static str) -> Vec<(String, Vec<String>)> {
        let table = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Table(table)) => table,
            Some(_) => {
                self.mistake(key, format!("must be a section: [{}.{key}]", self.name));
                return Vec::new();
            }
        };
        let texts = |(name, value): (String, Value)| {
            let texts = self.as_texts(&format!("{key}.{name}"), value)?;
            Some((name, texts))
        };
        table.into_iter().filter_map(texts).collect()
    }

    fn as_texts(&mut self, key: &str, value: Value) -> Option<Vec<String>> {
        let values = match value {
            Value::String(text) => return Some(vec![text]),
            Value::Array(values) => values,
            other => {
                self.mistake(key, format!("must be a text in quotes or a list of texts, not {}", other.type_str()));
                return None;
            }
        };
        let mut texts = Vec::with_capacity(values.len());
        for value in values {
            match value {
                Value::String(text) => texts.push(text),
                other => self.mistake(key, format!("every entry must be a text in quotes, not {}", other.type_str())),
            }
        }
        Some(texts)
    }

    /// `true`, `false`, or one word in quotes: what was written, as a text.
    pub fn flag_or(&mut self, key: &'static str, word: &str) -> Option<String> {
        match self.take(key)? {
            Value::Boolean(flag) => Some(flag.to_string()),
            Value::String(text) if text == word => Some(text),
            other => {
                self.mistake(key, format!("must be true, false or {word:?}, not {other}"));
                None
            }
        }
    }

    /// One of several names.
    pub fn one_of(&mut self, key: &'static str, names: &[&str]) -> Option<String> {
        let text = self.text(key)?;
        if names.contains(&text.as_str()) {
            return Some(text);
        }
        self.mistake(key, format!("must be one of {}, not {text:?}", names.join(", ")));
        None
    }
}

impl Drop for Section<'_> {
    fn drop(&mut self) {
        let known = if self.known.is_empty() { "none".to_owned() } else { self.known.join(", ") };
        for (key, _) in std::mem::take(&mut self.table) {
            self.mistake(&key, format!("no such key here; there are: {known}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_named_with_its_key() {
        let mut settings = Settings::parse("a = 1\nnope = 2\n[s]\nn = 100\nt = true\nl = [1, \"x\"]\nz = 0\n[unknown]\n").unwrap();
        {
            let mut top = settings.top();
            assert_eq!(top.number("a", 0..=5), Some(1));
        }
        {
            let mut section = settings.section("s");
            assert_eq!(section.number("n", 1..=10), None);
            assert_eq!(section.text("t"), None);
            assert_eq!(section.texts("l"), Some(vec!["x".to_owned()]));
            assert_eq!(section.flag("absent"), None);
        }
        let Mistakes(mistakes) = settings.finish().unwrap_err();
        let keys: Vec<&str> = mistakes.iter().map(|mistake| mistake.key.as_str()).collect();
        assert_eq!(keys, ["nope", "s.n", "s.t", "s.l", "s.z", "unknown"]);
        assert_eq!(mistakes[1].what, "must be 1 to 10, not 100");
        assert!(mistakes[4].what.ends_with("there are: n, t, l, absent"), "{}", mistakes[4].what);
    }

    #[test]
    fn one_text_is_a_list_of_one_and_a_section_may_have_free_keys() {
        let text = "[s]\none = \"a\"\nmore = [\"a\", \"b\"]\nnone = 1\nflag = true\nword = \"w\"\nother = \"x\"\n\
                    [s.free]\nx = \"1\"\n\"y@z\" = [\"2\", 3]\nbad = 4\n";
        let mut settings = Settings::parse(text).unwrap();
        {
            let mut section = settings.section("s");
            assert_eq!(section.text_or_texts("one"), Some(vec!["a".to_owned()]));
            assert_eq!(section.text_or_texts("more"), Some(vec!["a".to_owned(), "b".to_owned()]));
            assert_eq!(section.text_or_texts("none"), None);
            assert_eq!(section.flag_or("flag", "w").as_deref(), Some("true"));
            assert_eq!(section.flag_or("word", "w").as_deref(), Some("w"));
            assert_eq!(section.flag_or("other", "w"), None);
            assert_eq!(section.named_texts("free"), [("x".to_owned(), vec!["1".to_owned()]), ("y@z".to_owned(), vec!["2".to_owned()])]);
            assert_eq!(section.named_texts("absent"), []);
        }
        let keys: Vec<String> = settings.finish().unwrap_err().0.into_iter().map(|mistake| mistake.key).collect();
        assert_eq!(keys, ["s.none", "s.other", "s.free.bad", "s.free.y@z"]);
    }

    #[test]
    fn what_is_not_toml_is_one_mistake_with_the_place() {
        let Mistakes(mistakes) = Settings::parse("a = 1\nb = = 2\n").unwrap_err();
        assert_eq!(mistakes.len(), 1);
        assert!(mistakes[0].what.contains("line 2"), "{}", mistakes[0].what);
    }

    #[test]
    fn the_environment_wins() {
        let mut settings = Settings::parse("[s]\nn = 1\n").unwrap();
        settings.override_key("s", "n", "7");
        settings.override_key("new", "flag", "true");
        assert_eq!(settings.section("s").number("n", 0..=9), Some(7));
        assert_eq!(settings.section("new").flag("flag"), Some(true));
        assert!(settings.finish().is_ok());
    }
}
