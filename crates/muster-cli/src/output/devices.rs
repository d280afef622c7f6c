//! Devices for people: the list's columns and the page of one.

use muster_proto::Millis;
use muster_proto::api::{Admission, Device, PresenceState, Sample};
use serde_json::Value;

use super::Block;
use super::table::{Style, Table, cell, column, styled};
use super::time::{ago, local_ago};
use super::units;

/// The hub's sentence where there is nothing to say.
pub const ALL_WELL: &str = "online";

/// What a device is doing, in a word or two, and how that looks.
pub fn state(device: &Device) -> (String, Style) {
    let (word, style) = match (device.admission, device.presence) {
        (Admission::Pending, _) => ("pending", Style::Yellow),
        (Admission::Rejected, _) => ("rejected", Style::Red),
        (Admission::Revoked, _) => ("revoked", Style::Red),
        (Admission::Admitted, PresenceState::Online) => ("online", Style::Green),
        (Admission::Admitted, PresenceState::Offline) => ("offline", Style::Dim),
        (Admission::Admitted, PresenceState::Never) => ("never seen", Style::Dim),
    };
    (word.to_owned(), style)
}

/// The list.
pub fn table(devices: &[Device], now: Millis) -> Table {
    let mut table = Table::new([
        column("NAME").shrinks(12),
        column("STATE"),
        column("LAST SEEN").optional(2),
        column("CPU").right().optional(4),
        column("MEM").right().optional(5),
        column("DISK").right().optional(6),
        column("SESSIONS").right().optional(7),
        column("CODE").optional(1),
        column("PROJECTS").shrinks(8).optional(3),
        column("SERIAL").shrinks(10).optional(8),
        column("WHY").shrinks(24).optional(9),
    ]);
    for device in devices {
        let (word, style) = state(device);
        let there = device.presence == PresenceState::Online;
        // Values of a device that is gone are old.
        let tone = if there { Style::Plain } else { Style::Dim };
        let value = |text: Option<String>| styled(text.unwrap_or_default(), tone);
        let projects = device.projects.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let sample = device.usage.as_ref();
        table.row([
            styled(&device.name, Style::Bold),
            styled(word, style),
            cell(device.last_seen.map(|seen| ago(now, seen)).unwrap_or_default()),
            value(sample.and_then(|sample| Some(units::percent(*sample.values.get("cpu")?)))),
            value(sample.and_then(|sample| Some(units::percent(share(sample, "mem", "mem_total")?)))),
            value(sample.and_then(fullest_disk).map(|(_, share)| units::percent(share))),
            cell(device.sessions.filter(|count| *count > 0).map(|count| count.to_string()).unwrap_or_default()),
            styled(device.pairing_code.as_ref().or(device.replacement.as_ref()).cloned().unwrap_or_default(), Style::Yellow),
            cell(projects),
            styled(if device.id.as_str() == device.name { "" } else { device.id.as_str() }, Style::Dim),
            styled(if device.why == ALL_WELL { "" } else { device.why.as_str() }, Style::Dim),
        ]);
    }
    table
}

/// A column's value as a share of another's.
pub fn share(sample: &Sample, part: &str, whole: &str) -> Option<f64> {
    let (part, whole) = (sample.values.get(part)?, sample.values.get(whole)?);
    (*whole > 0.0).then(|| part / whole)
}

/// The mount with the least room, and how full it is.
pub fn fullest_disk(sample: &Sample) -> Option<(&str, f64)> {
    let mounts = sample.values.keys().filter_map(|name| name.strip_prefix("disk:"));
    let full = mounts.filter_map(|mount| Some((mount, share(sample, &format!("disk:{mount}"), &format!("disk_total:{mount}"))?)));
    full.max_by(|a, b| a.1.total_cmp(&b.1))
}

/// The page of one device.
pub fn block(device: &Device, now: Millis) -> Block {
    let (word, style) = state(device);
    let mut block = Block::default()
        .styled("name", &device.name, Style::Bold)
        .with("serial", device.id.as_str())
        .with("uid", device.uid.as_str())
        .styled("state", word, style);
    if device.why != ALL_WELL {
        block = block.with("why", &device.why);
    }
    block = block
        .maybe("pairing code", device.pairing_code.as_deref())
        .maybe("replacement", device.replacement.as_deref().map(|code| format!("another key asks for this row, pairing code {code}")))
        .maybe("last seen", device.last_seen.map(|t| local_ago(now, t)))
        .maybe("since", device.presence_since.map(|t| local_ago(now, t)))
        .with("projects", none_or(device.projects.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")))
        .maybe("labels", (!device.labels.is_empty()).then(|| device.labels.join(", ")))
        .maybe("sessions", device.sessions.map(|count| count.to_string()))
        .maybe("agent", device.agent.as_deref())
        .maybe("waiting samples", device.spooled.filter(|count| *count > 0).map(|count| count.to_string()))
        .maybe("certificate ends", device.certificate_expires_at.map(|t| local_ago(now, t)))
        .with("filed", local_ago(now, device.created_at));
    if !device.fields.is_empty() || !device.missing.is_empty() {
        block = block.heading("fields");
        for (key, value) in &device.fields {
            block = block.with(key, super::columns::text(value));
        }
        for key in &device.missing {
            block = block.styled(key, "required, and empty", Style::Yellow);
        }
    }
    if !device.facts.0.is_empty() {
        block = block.heading("facts");
        for (name, value) in &device.facts.0 {
            block = block.with(name, fact(value));
        }
    }
    if let Some(sample) = &device.usage {
        block = block.heading(&format!("usage, {}", ago(now, sample.t)));
        block = usage(block, sample);
    }
    block
}

/// A sample's values, totals beside what they bound.
pub fn usage(mut block: Block, sample: &Sample) -> Block {
    for (name, value) in &sample.values {
        let whole = match name.split_once(':') {
            Some(("disk", mount)) => format!("disk_total:{mount}"),
            _ => format!("{name}_total"),
        };
        let is_total = name.ends_with("_total") || name.starts_with("disk_total:");
        if is_total && sample.values.contains_key(&name.replacen("_total", "", 1)) {
            continue;
        }
        let text = match sample.values.get(&whole) {
            Some(total) if *total > 0.0 => {
                format!("{} of {} ({})", units::usage(name, *value), units::usage(&whole, *total), units::percent(value / total))
            }
            _ => units::usage(name, *value),
        };
        block = block.with(name, text);
    }
    block
}

fn none_or(text: String) -> String {
    if text.is_empty() { "none".to_owned() } else { text }
}

/// A fact's value as text.
pub fn fact(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(fact).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A device as a hub lists it.
    pub(crate) fn device(name: &str, admission: Admission, presence: PresenceState) -> Device {
        Device {
            id: "SN-0017".parse().unwrap(),
            uid: "d2345abcdefghijk".parse().unwrap(),
            name: name.into(),
            admission,
            presence,
            why: match presence {
                PresenceState::Online => ALL_WELL.into(),
                _ => "offline since 3 min: no heartbeat; check its network".into(),
            },
            presence_since: Some(1_000_000),
            last_seen: Some(1_000_000),
            projects: vec!["lab".parse().unwrap()],
            facts: serde_json::from_value(serde_json::json!({"hostname": "h\u{1b}[31m", "addresses": ["10.0.0.7", "fe80::1"], "cores": 4}))
                .unwrap(),
            usage: Some(Sample {
                t: 1_000_000,
                boot: "0123456789abcdef".into(),
                seq: 7,
                values: [
                    ("cpu", 0.25),
                    ("mem", 1e9),
                    ("mem_total", 4e9),
                    ("disk:/", 9e9),
                    ("disk_total:/", 1e10),
                    ("disk:/data", 1.0),
                    ("disk_total:/data", 1e10),
                    ("temp:cpu", 51.0),
                ]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
            }),
            pairing_code: (admission == Admission::Pending).then(|| "ABCD-2345".into()),
            replacement: None,
            agent: Some("0.1.0".into()),
            sessions: Some(1),
            spooled: Some(0),
            certificate_expires_at: None,
            created_at: 0,
            manual: false,
            labels: Vec::new(),
            fields: Default::default(),
            missing: Vec::new(),
        }
    }

    #[test]
    fn the_list_fits_and_tells_why() {
        let list = [
            device("robot-7", Admission::Admitted, PresenceState::Online),
            device("robot\u{1b}[2J", Admission::Admitted, PresenceState::Offline),
            device("new", Admission::Pending, PresenceState::Never),
        ];
        let text = table(&list, 1_180_000).render(None, false);
        assert_eq!(
            text,
            "\
NAME          STATE    LAST SEEN   CPU   MEM  DISK  SESSIONS  CODE       PROJECTS  SERIAL   WHY
robot-7       online   3 min ago  25 %  25 %  90 %         1             lab       SN-0017
robot\\x1b[2J  offline  3 min ago  25 %  25 %  90 %         1             lab       SN-0017  offline since 3 min: no heartbeat; check its network
new           pending  3 min ago  25 %  25 %  90 %         1  ABCD-2345  lab       SN-0017  offline since 3 min: no heartbeat; check its network
"
        );
        for width in 40..160 {
            let text = table(&list, 1_180_000).render(Some(width), false);
            assert!(text.lines().all(|line| crate::output::text::width(line) <= width), "{width}\n{text}");
            assert!(text.contains("ABCD-2345") || width < 50, "{width}\n{text}");
        }
    }

    #[test]
    fn the_page_of_one() {
        let text = block(&device("robot-7", Admission::Admitted, PresenceState::Offline), 1_180_000).render(false);
        for line in [
            "state      offline",
            "why        offline since 3 min: no heartbeat; check its network",
            "addresses  10.0.0.7, fe80::1",
            "hostname   h\\x1b[31m",
            "usage, 3 min ago",
            "disk:/     8.4 GiB of 9.3 GiB (90 %)",
            "temp:cpu   51 °C",
        ] {
            assert!(text.lines().any(|found| found.split_whitespace().eq(line.split_whitespace())), "{line}\n{text}");
        }
        assert!(!text.contains("mem_total"), "{text}");
    }
}
