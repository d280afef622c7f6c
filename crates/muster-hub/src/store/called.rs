//! What a device is called until a person names it.
//!
//! A serial number that was chosen is its name. A machine id (`/etc/machine-id`) names nothing to a person: then it is the host name,
//! which the device chooses freely, and so it is cut to what names machines and never takes what names another device.

use std::collections::HashSet;

use muster_proto::id::{OrgId, Serial};
use muster_proto::mqtt::Facts;
use rusqlite::{Connection, params};

use super::{Result, devices};

/// Longest host name that is taken over, in bytes: as in DNS.
const HOST_MAX: usize = 63;
/// Devices with the same host name that get a number; further ones are called by their machine id.
const SAME_HOSTS_MAX: usize = 1000;

/// A name for a device of which only the serial number and the facts are known; free among names and serial numbers.
pub(super) fn name(connection: &Connection, org: &OrgId, serial: &Serial, facts: &Facts) -> Result<String> {
    let Some(host) = is_machine_id(serial.as_str()).then(|| host(facts)).flatten() else { return Ok(serial.to_string()) };
    let mut statement = connection.prepare_cached(
        "SELECT name FROM devices WHERE org = ?1 AND (name = ?2 OR (name >= ?2 || '-' AND name < ?2 || '.'))
         UNION SELECT serial FROM devices WHERE org = ?1 AND (serial = ?2 OR (serial >= ?2 || '-' AND serial < ?2 || '.'))",
    )?;
    let taken: HashSet<String> = statement.query_map(params![org.as_str(), host], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let numbered = (2..=SAME_HOSTS_MAX).map(|number| format!("{host}-{number}"));
    let mut names = std::iter::once(host.clone()).chain(numbered);
    Ok(names.find(|name| !taken.contains(name)).unwrap_or_else(|| serial.to_string()))
}

/// 32 hexadecimal digits (machine-id(5)).
fn is_machine_id(serial: &str) -> bool {
    serial.len() == 32 && serial.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The host name of these facts, where it names a machine.
fn host(facts: &Facts) -> Option<String> {
    let given = facts.0.get("hostname")?.as_str()?.trim();
    // "(none)" and "localhost" are what a machine without a name is called; what begins otherwise was never a host name.
    if !given.starts_with(|c: char| c.is_ascii_alphanumeric()) || given.to_ascii_lowercase().starts_with("localhost") {
        return None;
    }
    let mut name = String::new();
    for c in given.chars() {
        match c {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '_' => name.push(c),
            // What does not belong in a host name is one hyphen, however much of it there is.
            _ if !name.ends_with('-') => name.push('-'),
            _ => {}
        }
        if name.len() == HOST_MAX {
            break;
        }
    }
    let name = name.trim_matches(['-', '.', '_']).to_owned();
    let serial: Serial = name.parse().ok()?;
    // Nor what people take for a pairing code, a uid or a machine id.
    (devices::mistaken(&serial).is_none() && !is_machine_id(&name)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str) -> Option<String> {
        host(&serde_json::from_value(serde_json::json!({ "hostname": name })).unwrap())
    }

    #[test]
    fn host_names_are_cut_to_what_names_machines() {
        for (given, want) in [
            ("robot", Some("robot")),
            ("Robot_7.lan", Some("Robot_7.lan")),
            ("my robot", Some("my-robot")),
            ("--force", None),
            ("../../etc", None),
            ("localhost.localdomain", None),
            ("rob\u{202e}ot\u{1b}[31m", Some("rob-ot-31m")),
            ("робот", None),
            ("", None),
            ("(none)", None),
            ("Localhost", None),
            ("ABCD-2345", None),
            ("83f3bf5f8e2241c0a1b2c3d4e5f60718", None),
        ] {
            assert_eq!(of(given).as_deref(), want, "{given:?}");
        }
        assert_eq!(of(&"x".repeat(500)).map(|name| name.len()), Some(HOST_MAX));
        assert!(host(&Facts::default()).is_none());
        let number: Facts = serde_json::from_value(serde_json::json!({ "hostname": 7 })).unwrap();
        assert!(host(&number).is_none());
    }

    #[test]
    fn a_machine_id_is_no_name() {
        assert!(is_machine_id("83f3bf5f8e2241c0a1b2c3d4e5f60718") && is_machine_id("83F3BF5F8E2241C0A1B2C3D4E5F60718"));
        for chosen in ["SN-0017", "83f3bf5f8e2241c0a1b2c3d4e5f6071", "robot"] {
            assert!(!is_machine_id(chosen), "{chosen}");
        }
    }
}
