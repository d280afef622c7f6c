//! What a custom field and a label may be, and what a field's values may be. Pure.
//!
//! A value has one canonical text, by which it is stored, compared and exported: `12.5`, `2026-11-22`, `ada@acme.example`.

use muster_proto::api::{Field, FieldKind};
use serde_json::Value;

use crate::api::text::{is_hidden, shows};
use crate::query;

/// Most custom fields of an organization.
pub const FIELDS_MAX: usize = 64;
/// Most choices of one field.
pub const CHOICES_MAX: usize = 100;
/// Longest value, in characters.
pub const VALUE_MAX: usize = 500;
/// Longest choice, and longest label, in characters.
pub const LABEL_MAX: usize = 50;
/// Most labels of a device.
pub const LABELS_MAX: usize = 32;
/// Longest key, in characters.
const KEY_MAX: usize = 40;
/// Longest title, and longest description, in characters.
const TITLE_MAX: usize = 100;
const DESCRIPTION_MAX: usize = 500;

/// What is wrong with a definition, if anything is.
///
/// # Errors
/// A sentence that names the part.
pub fn check(field: &Field) -> Result<(), String> {
    check_key(&field.key)?;
    check_about(field)
}

/// [`check`] of what may change.
///
/// # Errors
/// A sentence that names the part.
pub fn check_about(field: &Field) -> Result<(), String> {
    printable("title", &field.title, 1, TITLE_MAX)?;
    printable("description", &field.description, 0, DESCRIPTION_MAX)?;
    if (field.kind == FieldKind::Choice) == field.choices.is_empty() {
        return Err(match field.kind {
            FieldKind::Choice => "choices: a choice needs at least one".into(),
            _ => "choices: only a field of the kind choice has them".into(),
        });
    }
    if field.choices.len() > CHOICES_MAX {
        return Err(format!("choices: at most {CHOICES_MAX}"));
    }
    for (n, choice) in field.choices.iter().enumerate() {
        tidy("choices", choice)?;
        if field.choices[..n].contains(choice) {
            return Err(format!("choices: {choice:?} stands there twice"));
        }
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), String> {
    let slug = key.starts_with(|c: char| c.is_ascii_lowercase())
        && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && key.len() <= KEY_MAX;
    if !slug {
        return Err(format!("key: it has 1 to {KEY_MAX} of a-z, 0-9 and _ and starts with a letter"));
    }
    if !query::columns::is_free(key) {
        return Err(format!("key: {key} is a word of the list itself; choose another"));
    }
    Ok(())
}

fn printable(what: &str, text: &str, least: usize, most: usize) -> Result<(), String> {
    let length = text.chars().count();
    let hidden = text.chars().any(is_hidden) || (least > 0 && !shows(text));
    if length < least || length > most || hidden || text.trim() != text {
        return Err(format!("{what}: it has {least} to {most} printable characters, without white space at its ends"));
    }
    Ok(())
}

/// A choice or a label: short, and fit for a list with commas.
fn tidy(what: &str, text: &str) -> Result<(), String> {
    printable(what, text, 1, LABEL_MAX)?;
    if text.contains([',', ';']) {
        return Err(format!("{what}: {text:?} has a comma or a semicolon, which separate several in a file"));
    }
    Ok(())
}

/// What is wrong with a label, if anything is.
///
/// # Errors
/// A sentence.
pub fn check_label(label: &str) -> Result<(), String> {
    tidy("labels", label)
}

/// A value from JSON in its canonical text; `None` for an empty one. A person's address is looked up by whoever has the members.
///
/// # Errors
/// A sentence without the field's name.
pub fn from_json(field: &Field, given: &Value) -> Result<Option<String>, String> {
    match (field.kind, given) {
        (_, Value::Null) => Ok(None),
        (FieldKind::Number, Value::Number(number)) => from_text(field, &number.to_string()),
        (_, Value::String(text)) => from_text(field, text),
        (_, Value::Number(_) | Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
            Err(format!("expected {}, or null to empty it", expected(field)))
        }
    }
}

/// A value from a text, as a file or a command line has it.
///
/// # Errors
/// As [`from_json`].
pub fn from_text(field: &Field, given: &str) -> Result<Option<String>, String> {
    let text = given.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || format!("expected {}, found {:?}", expected(field), text.chars().take(40).collect::<String>());
    if text.chars().count() > VALUE_MAX || text.chars().any(|c| is_hidden(c) && !(field.kind == FieldKind::Text && c == '\n')) {
        return Err(format!("at most {VALUE_MAX} printable characters"));
    }
    Ok(Some(match field.kind {
        FieldKind::Text => text.to_owned(),
        FieldKind::Number => {
            let number = text.parse::<f64>().ok().filter(|number| number.is_finite()).ok_or_else(wrong)?;
            // -0 is 0.
            if number == 0.0 { "0".to_owned() } else { number.to_string() }
        }
        FieldKind::Choice => field.choices.iter().find(|choice| *choice == text).cloned().ok_or_else(wrong)?,
        FieldKind::Date => query::columns::day(text).map(|_| text.to_owned()).ok_or_else(wrong)?,
        FieldKind::Person => {
            let (name, domain) = text.split_once('@').ok_or_else(wrong)?;
            if name.is_empty() || domain.is_empty() || text.contains(char::is_whitespace) {
                return Err(wrong());
            }
            text.to_lowercase()
        }
    }))
}

/// A stored value as JSON gives it.
pub fn to_json(kind: FieldKind, value: &str) -> Value {
    match kind {
        FieldKind::Number => value.parse::<f64>().ok().and_then(whole).unwrap_or_else(|| Value::String(value.to_owned())),
        FieldKind::Text | FieldKind::Choice | FieldKind::Date | FieldKind::Person => Value::String(value.to_owned()),
    }
}

/// 12 rather than 12.0.
fn whole(number: f64) -> Option<Value> {
    #[allow(clippy::cast_possible_truncation, reason = "whole and small enough, as was just seen")]
    if number.fract() == 0.0 && number.abs() < 9e15 {
        return Some(Value::from(number as i64));
    }
    serde_json::Number::from_f64(number).map(Value::Number)
}

fn expected(field: &Field) -> String {
    match field.kind {
        FieldKind::Text => "a text".into(),
        FieldKind::Number => "a number, such as 12 or 0.5".into(),
        FieldKind::Choice => format!("one of {}", field.choices.join(", ")),
        FieldKind::Date => "a day, such as 2026-11-22".into(),
        FieldKind::Person => "a member's e-mail address".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn field(kind: FieldKind) -> Field {
        let choices = if kind == FieldKind::Choice { vec!["test".into(), "live".into()] } else { Vec::new() };
        Field { key: "x".into(), title: "X".into(), kind, choices, required: false, description: String::new(), created_at: 0 }
    }

    #[test]
    fn values_have_one_text() {
        use FieldKind::{Choice, Date, Number, Person, Text};
        for (kind, given, kept) in [
            (Text, json!(" Halle 3 "), Some("Halle 3")),
            (Text, json!(""), None),
            (Text, json!(null), None),
            (Number, json!(12), Some("12")),
            (Number, json!(12.0), Some("12")),
            (Number, json!("1e3"), Some("1000")),
            (Number, json!(-0.0), Some("0")),
            (Choice, json!("live"), Some("live")),
            (Date, json!("2026-11-22"), Some("2026-11-22")),
            (Person, json!("Ada@Acme.Example"), Some("ada@acme.example")),
        ] {
            let value = from_json(&field(kind), &given).unwrap();
            assert_eq!(value.as_deref(), kept, "{kind:?} {given}");
            if let Some(value) = value {
                // What is given out can be given in.
                assert_eq!(from_json(&field(kind), &to_json(kind, &value)).unwrap(), Some(value));
            }
        }
        for (kind, given, why) in [
            (Text, json!(7), "expected a text"),
            (Text, json!("a\u{0}b"), "printable"),
            (Text, json!("x".repeat(501)), "at most 500"),
            (Number, json!("nan"), "expected a number"),
            (Number, json!(true), "expected a number"),
            (Choice, json!("Live"), "expected one of test, live"),
            (Date, json!("22.11.2026"), "a day, such as"),
            (Date, json!("2026-02-29"), "a day, such as"),
            (Person, json!("ada"), "e-mail"),
        ] {
            let error = from_json(&field(kind), &given).unwrap_err();
            assert!(error.contains(why), "{kind:?} {given}: {error}");
        }
    }

    #[test]
    fn definitions() {
        let right = Field { key: "site".into(), ..field(FieldKind::Text) };
        assert_eq!(check(&right), Ok(()));
        for key in ["", "Site", "9x", "a-b", "name", "and", "cpu", "field", &*"x".repeat(41), "ä"] {
            assert!(check(&Field { key: key.into(), ..right.clone() }).unwrap_err().starts_with("key:"), "{key}");
        }
        assert!(check(&Field { title: " x".into(), ..right.clone() }).is_err());
        assert!(check(&Field { choices: vec!["a".into()], ..right.clone() }).is_err());
        let choice = |choices: &[&str]| {
            let choices = choices.iter().map(|choice| (*choice).to_owned()).collect();
            check(&Field { key: "stage".into(), choices, ..field(FieldKind::Choice) })
        };
        assert!(choice(&["a", "b"]).is_ok());
        for wrong in [&[][..], &["a", "a"], &["a,b"], &[""]] {
            assert!(choice(wrong).unwrap_err().starts_with("choices:"), "{wrong:?}");
        }
        assert!(check_label("blue").is_ok() && check_label("späť 机器人").is_ok());
        for label in ["", " blue", "a,b", "a\nb", &*"x".repeat(51)] {
            assert!(check_label(label).is_err(), "{label:?}");
        }
    }
}
