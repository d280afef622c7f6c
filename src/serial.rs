//! The device's serial number: from the configuration, a file, a field of a JSON or YAML file, or `/etc/machine-id`.
//!
//! Of YAML only what identity files have is read: nested mappings of scalars by indentation. Anything else is a mistake that is named,
//! never a guess: a wrong serial number would enrol a robot under another's name.

use std::path::Path;

use muster_proto::id::Serial;
use serde_json::Value;

use crate::config::IdentitySource;

const MACHINE_ID: &str = "/etc/machine-id";

/// Reads the serial number.
///
/// # Errors
/// One sentence: what is wrong, and with which file.
pub(crate) fn read(source: &IdentitySource) -> Result<Serial, String> {
    match source {
        IdentitySource::Fixed(serial) => Ok(serial.clone()),
        IdentitySource::MachineId => from_file(Path::new(MACHINE_ID), None)
            .map_err(|why| format!("{why}; set identity.serial or identity.serial_file in the configuration")),
        IdentitySource::File { path, field } => from_file(path, field.as_deref()),
    }
}

fn from_file(path: &Path, field: Option<&str>) -> Result<Serial, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read the serial number from {}: {error}", path.display()))?;
    extract(&text, field).map_err(|why| format!("cannot read the serial number from {}: {why}", path.display()))
}

/// The serial number in a file's text.
fn extract(text: &str, field: Option<&str>) -> Result<Serial, String> {
    let found = match field {
        None => text.trim().to_owned(),
        Some(field) if text.trim_start().starts_with('{') => json_field(text, field)?,
        Some(field) => yaml_field(text, field)?,
    };
    found.parse().map_err(|error: muster_proto::id::InvalidId| error.to_string())
}

fn json_field(text: &str, field: &str) -> Result<String, String> {
    let whole: Value = serde_json::from_str(text).map_err(|error| format!("it is not valid JSON: {error}"))?;
    let mut value = &whole;
    for key in field.split('.') {
        value = value.get(key).ok_or_else(|| format!("it has no field {field:?} (looked for {key:?})"))?;
    }
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        _ => Err(format!("the field {field:?} is neither text nor number")),
    }
}

/// Follows `a.b.c` through nested block mappings.
fn yaml_field(text: &str, field: &str) -> Result<String, String> {
    let mut wanted = field.split('.').peekable();
    // The mapping that we are in has this indentation; anything less ends it.
    let (mut indent, mut fresh) = (0, true);
    for line in text.lines() {
        let bare = line.trim_start_matches(' ');
        if bare.is_empty() || bare.starts_with('#') || bare.starts_with("---") {
            continue;
        }
        if bare.starts_with('\t') {
            return Err("it is indented with tabs, which YAML forbids".into());
        }
        let depth = line.len() - bare.len();
        if fresh && depth >= indent {
            (indent, fresh) = (depth, false);
        }
        if depth > indent {
            continue;
        }
        let key = wanted.peek().copied().unwrap_or_default();
        if depth < indent {
            return Err(format!("it has no field {field:?} (looked for {key:?})"));
        }
        let Some((name, rest)) = bare.split_once(':') else { continue };
        if name.trim().trim_matches(['"', '\'']) != key || !(rest.is_empty() || rest.starts_with([' ', '\t'])) {
            continue;
        }
        wanted.next();
        let value = rest.trim();
        if wanted.peek().is_none() {
            return yaml_scalar(value).ok_or_else(|| format!("the field {field:?} is not a plain or quoted text on its line"));
        }
        if !(value.is_empty() || value.starts_with('#')) {
            return Err(format!("{key:?} of {field:?} is not a block of indented fields"));
        }
        // Into the nested mapping: its first line says how deep, and it must be deeper than this one.
        (fresh, indent) = (true, depth + 1);
    }
    Err(format!("it has no field {field:?}"))
}

fn yaml_scalar(text: &str) -> Option<String> {
    for quote in ['"', '\''] {
        if let Some(rest) = text.strip_prefix(quote) {
            let (inner, after) = rest.split_once(quote)?;
            let after = after.trim_start();
            // An escape would need a real reader.
            return ((after.is_empty() || after.starts_with('#')) && !inner.contains('\\')).then(|| inner.to_owned());
        }
    }
    let plain = text.split(" #").next().unwrap_or_default().trim();
    let special = plain.starts_with(['[', '{', '|', '>', '&', '*', '!', '%', '@', '`', '#']);
    (!plain.is_empty() && !special).then(|| plain.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(text: &str, field: Option<&str>) -> String {
        extract(text, field).unwrap().to_string()
    }

    #[test]
    fn text_json_yaml() {
        assert_eq!(ok("robot-17\n", None), "robot-17");
        assert_eq!(ok("{\"robot\": {\"serial\": \"A 1\", \"n\": 17}}", Some("robot.serial")), "A 1");
        assert_eq!(ok("{\"robot\": {\"serial\": \"A 1\", \"n\": 17}}", Some("robot.n")), "17");
        let yaml = "# identity\n---\nmodel: X2\nother:\n  serial: wrong\n\nrobot: # ours\n    name: \"x\"\n    id:\n      deep: 5\n    serial: 'R:17' # glued on\n    plain: 0017 # keeps zeros\nserial: top\n";
        assert_eq!(ok(yaml, Some("robot.serial")), "R:17");
        assert_eq!(ok(yaml, Some("robot.plain")), "0017");
        assert_eq!(ok(yaml, Some("robot.id.deep")), "5");
        assert_eq!(ok(yaml, Some("serial")), "top");
        assert_eq!(ok(yaml, Some("model")), "X2");
    }

    #[test]
    fn never_a_guess() {
        for (text, field, why) in [
            ("", None, "1 to 64 characters"),
            ("a\nb", None, "printable"),
            ("{\"a\":1}", Some("b"), "no field"),
            ("{\"a\":[]}", Some("a"), "neither"),
            ("{\"a\":", Some("a"), "not valid JSON"),
            ("a: 1\n", Some("b"), "no field"),
            ("robot:\nserial: top\n", Some("robot.serial"), "no field"),
            ("robot:\n  name: x\nserial: top\n", Some("robot.serial"), "no field"),
            ("robot: 5\n", Some("robot.serial"), "not a block"),
            ("a: [1]\n", Some("a"), "not a plain"),
            ("a: \"x\\u0041\"\n", Some("a"), "not a plain"),
            ("a:\n", Some("a"), "not a plain"),
            ("a:\n\tb: 1\n", Some("a.b"), "tabs"),
        ] {
            let error = extract(text, field).unwrap_err();
            assert!(error.contains(why), "{text:?} {field:?}: {error}");
        }
    }
}
