//! Columns that a person chose for the list of devices, by the names that filters use.

use muster_proto::Millis;
use muster_proto::api::{Admission, Device, PresenceState};
use serde_json::Value;

use super::devices::{fact, fullest_disk, share, state};
use super::table::{Style, Table, cell, column, styled};
use super::time::ago;
use super::units;

/// The names of the columns that every list has.
pub const BUILT_IN: [&str; 37] = [
    "name",
    "state",
    "id",
    "serial",
    "uid",
    "admission",
    "presence",
    "online",
    "manual",
    "project",
    "projects",
    "label",
    "labels",
    "missing",
    "code",
    "replacement",
    "why",
    "agent",
    "created",
    "last_seen",
    "since",
    "certificate",
    "sessions",
    "spooled",
    "mem",
    "disk",
    "temp",
    "cpu",
    "load",
    "swap",
    "uptime",
    "address",
    "addresses",
    "hostname",
    "os",
    "arch",
    "kernel",
];

/// The list with these columns.
pub fn chosen_table(devices: &[Device], columns: &[String], now: Millis) -> Table {
    let mut table = Table::with_titles(columns.iter().map(|name| (name.trim().to_uppercase(), column("").shrinks(8))));
    for device in devices {
        table.row(columns.iter().map(|name| match name.trim() {
            "name" => styled(&device.name, Style::Bold),
            "state" => {
                let (word, style) = state(device);
                styled(word, style)
            }
            name => cell(value(device, name, now)),
        }));
    }
    table
}

fn value(device: &Device, name: &str, now: Millis) -> String {
    let time = |time: Option<Millis>| time.map(|time| ago(now, time)).unwrap_or_default();
    let sample = device.usage.as_ref();
    let used = |column: &str| sample.and_then(|sample| sample.values.get(column).copied());
    let stated = |name: &str| device.facts.0.get(name).map(fact).unwrap_or_default();
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    match name {
        "id" | "serial" => device.id.to_string(),
        "uid" => device.uid.to_string(),
        "admission" => match device.admission {
            Admission::Pending => "pending",
            Admission::Admitted => "admitted",
            Admission::Rejected => "rejected",
            Admission::Revoked => "revoked",
        }
        .to_owned(),
        "presence" => match device.presence {
            PresenceState::Online => "online",
            PresenceState::Offline => "offline",
            PresenceState::Never => "never",
        }
        .to_owned(),
        "online" => yes(device.presence == PresenceState::Online),
        "manual" => yes(device.manual),
        "project" | "projects" => device.projects.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        "label" | "labels" => device.labels.join(", "),
        "missing" => device.missing.join(", "),
        "code" => device.pairing_code.clone().unwrap_or_default(),
        "replacement" => yes(device.replacement.is_some()),
        "why" => device.why.clone(),
        "agent" => device.agent.clone().unwrap_or_default(),
        "created" => time(Some(device.created_at)),
        "last_seen" => time(device.last_seen),
        "since" => time(device.presence_since),
        "certificate" => device.certificate_expires_at.map(super::time::local).unwrap_or_default(),
        "sessions" => device.sessions.map(|count| count.to_string()).unwrap_or_default(),
        "spooled" => device.spooled.map(|count| count.to_string()).unwrap_or_default(),
        "mem" => sample.and_then(|sample| share(sample, "mem", "mem_total")).map(units::percent).unwrap_or_default(),
        "disk" => sample.and_then(fullest_disk).map(|(_, full)| units::percent(full)).unwrap_or_default(),
        "temp" => {
            let sensors = sample.into_iter().flat_map(|sample| &sample.values).filter(|(name, _)| name.starts_with("temp:"));
            sensors.map(|(_, value)| *value).max_by(f64::total_cmp).map(units::number).unwrap_or_default()
        }
        "cpu" => used("cpu").map(units::percent).unwrap_or_default(),
        "load" => used("load1").map(units::number).unwrap_or_default(),
        "swap" => used("swap").map(units::bytes).unwrap_or_default(),
        "uptime" => used("uptime").map(|value| units::usage("uptime", value)).unwrap_or_default(),
        "address" | "addresses" => stated("addresses"),
        "hostname" | "os" | "arch" | "kernel" => stated(name),
        name => match (name.strip_prefix("fact."), name.strip_prefix("usage.")) {
            (Some(name), _) => stated(name),
            (_, Some(name)) => used(name).map(|value| units::usage(name, value)).unwrap_or_default(),
            _ => device.fields.get(name.strip_prefix("field.").unwrap_or(name)).map(text).unwrap_or_default(),
        },
    }
}

/// A value of a custom field.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::devices::tests::device;

    #[test]
    fn every_column_has_its_value() {
        let mut robot = device("robot-7", Admission::Admitted, PresenceState::Online);
        robot.fields = [("site".to_owned(), Value::from("berlin")), ("rack".to_owned(), Value::from(12))].into();
        robot.labels = vec!["blue".into(), "spare".into()];
        for (name, shown) in [
            ("id", "SN-0017"),
            ("presence", "online"),
            ("online", "yes"),
            ("labels", "blue, spare"),
            ("project", "lab"),
            ("cpu", "25 %"),
            ("mem", "25 %"),
            ("disk", "90 %"),
            ("fact.cores", "4"),
            ("addresses", "10.0.0.7, fe80::1"),
            ("site", "berlin"),
            ("field.rack", "12"),
            ("nothing", ""),
        ] {
            assert_eq!(value(&robot, name, 1_180_000), shown, "{name}");
        }
        for name in BUILT_IN {
            // Each is a name that `value` knows; "name" and "state" are drawn by the table.
            robot.fields.insert(name.to_owned(), Value::from("a field"));
            assert_ne!(value(&robot, name, 0) == "a field", !["name", "state"].contains(&name), "{name}");
        }
        let table = chosen_table(&[robot], &["name".into(), "site".into()], 0).render(None, false);
        assert!(table.starts_with("NAME") && table.contains("SITE") && table.contains("berlin"), "{table}");
    }
}
