//! One device's usage as lines: bars for what has a bound, numbers for the rest, and the last minutes as small curves.

use std::collections::{BTreeMap, VecDeque};

use muster_proto::Millis;
use muster_proto::api::{Admission, Device, PresenceState, Sample};

use crate::output::devices::{ALL_WELL, state};
use crate::output::table::Style;
use crate::output::text::{clean, fit, width};
use crate::output::time::ago;
use crate::output::units;

/// Points of a curve that are kept: a wide terminal shows no more.
const POINTS_MAX: usize = 120;
/// Columns of a bar.
const BAR: usize = 20;
/// Fuller than this is marked.
const FULL: f64 = 0.9;

/// The newest values, by column.
#[derive(Debug, Default)]
pub(super) struct History {
    newest: Option<Millis>,
    values: BTreeMap<String, VecDeque<f64>>,
}

impl History {
    /// Adds a sample, unless it was added already.
    pub(super) fn add(&mut self, sample: &Sample) {
        if self.newest.is_some_and(|newest| sample.t <= newest) {
            return;
        }
        self.newest = Some(sample.t);
        // Columns that the device no longer sends leave with their last value.
        self.values.retain(|name, _| sample.values.contains_key(name));
        for (name, value) in &sample.values {
            let values = self.values.entry(name.clone()).or_default();
            values.push_back(*value);
            if values.len() > POINTS_MAX {
                values.pop_front();
            }
        }
    }

    /// A column's curve in `columns`, from 0 to `most`, or to its own highest value.
    fn curve(&self, name: &str, columns: usize, most: Option<f64>) -> String {
        const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let Some(values) = self.values.get(name).filter(|values| values.len() > 1) else { return String::new() };
        let shown = values.iter().skip(values.len().saturating_sub(columns));
        let most = most.unwrap_or_else(|| shown.clone().copied().fold(0.0, f64::max));
        shown
            .map(|value| {
                let share = if most > 0.0 { (value / most).clamp(0.0, 1.0) } else { 0.0 };
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 7; not a number becomes 0")]
                LEVELS[(share * 7.0).round() as usize]
            })
            .collect()
    }
}

/// "12 devices, 10 online, 1 pending".
pub(super) fn summary(devices: &[Device]) -> String {
    let count = |test: &dyn Fn(&Device) -> bool| devices.iter().filter(|device| test(device)).count();
    let online = count(&|device| device.admission == Admission::Admitted && device.presence == PresenceState::Online);
    let pending = count(&|device| device.admission == Admission::Pending);
    let mut text = format!("{} device{}, {online} online", devices.len(), if devices.len() == 1 { "" } else { "s" });
    if pending > 0 {
        text.push_str(&format!(", {pending} pending"));
    }
    text
}

/// The page.
pub(super) fn device(device: &Device, history: &History, now: Millis, columns: usize, color: bool) -> Vec<String> {
    let (word, style) = state(device);
    let name = clean(&device.name);
    let serial = if device.id.as_str() == device.name { String::new() } else { format!(" ({})", clean(device.id.as_str())) };
    let age = device.usage.as_ref().map_or("no sample yet".to_owned(), |sample| format!("sample {}", ago(now, sample.t)));
    let seen = device.last_seen.map(|seen| format!("seen {}", ago(now, seen))).unwrap_or_default();
    let mut head = format!("{}{serial}  {}  {seen}  {age}", Style::Bold.paint(&name, color), style.paint(&word, color));
    if let Some(count) = device.sessions.filter(|count| *count > 0) {
        head.push_str(&format!("  {count} sessions"));
    }
    let mut lines = vec![head];
    if device.why != ALL_WELL {
        lines.push(Style::Dim.paint(&fit(&clean(&device.why), columns), color));
    }
    lines.push(String::new());
    let Some(sample) = &device.usage else { return lines };
    let rows = rows(sample);
    let names = rows.iter().map(|row| width(&clean(&row.name))).max().unwrap_or(0).min(24);
    let texts = rows.iter().map(|row| width(&row.text)).max().unwrap_or(0);
    let room = columns.saturating_sub(names + 2 + BAR + 2 + texts + 2);
    for row in rows {
        let name = clean(&row.name);
        let name = fit(&name, names);
        let bar = row.share.map_or_else(|| " ".repeat(BAR), |share| bar(share, color));
        let curve =
            if room >= 8 && row.name != "uptime" { history.curve(&row.name, room.min(POINTS_MAX), row.most) } else { String::new() };
        let line = format!("{name}{}  {bar}  {}{}", " ".repeat(names - width(&name)), " ".repeat(texts - width(&row.text)), row.text);
        lines.push(if curve.is_empty() { line } else { format!("{line}  {}", Style::Dim.paint(&curve, color)) });
    }
    lines
}

struct Row {
    name: String,
    text: String,
    /// Of its bound, where it has one.
    share: Option<f64>,
    /// The curve's upper end, where it is known.
    most: Option<f64>,
}

/// Bounded values first, then the rest by name; totals stand beside what they bound.
fn rows(sample: &Sample) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (name, value) in &sample.values {
        let whole = match name.split_once(':') {
            Some(("disk", mount)) => format!("disk_total:{mount}"),
            _ => format!("{name}_total"),
        };
        if name.ends_with("_total") || name.starts_with("disk_total:") {
            continue;
        }
        let row = match sample.values.get(&whole) {
            Some(total) if *total > 0.0 => Row {
                name: name.clone(),
                text: format!("{} of {}", units::usage(name, *value), units::usage(&whole, *total)),
                share: Some(value / total),
                most: Some(*total),
            },
            _ if name == "cpu" => Row { name: name.clone(), text: units::percent(*value), share: Some(*value), most: Some(1.0) },
            _ => Row { name: name.clone(), text: units::usage(name, *value), share: None, most: None },
        };
        rows.push(row);
    }
    rows.sort_by_key(|row| row.share.is_none());
    rows
}

fn bar(share: f64, color: bool) -> String {
    let share = if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 to BAR")]
    let full = (share * BAR as f64).round() as usize;
    let style = if share >= FULL { Style::Red } else { Style::Green };
    format!("{}{}", style.paint(&"█".repeat(full), color), Style::Dim.paint(&"░".repeat(BAR - full), color))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::devices::tests::device as sample_device;

    #[test]
    fn the_page_fits_and_has_bars_and_curves() {
        let mut robot = sample_device("robot-7\u{1b}", Admission::Admitted, PresenceState::Online);
        let mut history = History::default();
        for step in 0..200 {
            if let Some(sample) = &mut robot.usage {
                sample.t += 1000;
                sample.values.insert("cpu".into(), f64::from(step) / 200.0);
                history.add(sample);
            }
        }
        let lines = device(&robot, &history, 1_200_000, 100, false);
        assert!(lines[0].starts_with("robot-7\\x1b (SN-0017)  online"), "{}", lines[0]);
        let cpu = lines.iter().find(|line| line.starts_with("cpu")).unwrap();
        assert!(cpu.contains("████████████████████") && cpu.contains("100 %") && cpu.ends_with("██"), "{cpu}");
        assert!(lines.iter().any(|line| line.starts_with("mem ") && line.contains("954 MiB of 3.7 GiB")), "{lines:#?}");
        assert!(lines.iter().all(|line| width(line) <= 100), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.starts_with("mem_total")));
        assert!(history.values.values().all(|values| values.len() <= POINTS_MAX));
    }

    #[test]
    fn one_sample_counts_once_and_nonsense_is_drawn() {
        let robot = sample_device("robot-7", Admission::Admitted, PresenceState::Offline);
        let mut sample = robot.usage.clone().unwrap();
        let mut history = History::default();
        history.add(&sample);
        history.add(&sample);
        assert_eq!(history.values["cpu"].len(), 1);
        sample.t += 1;
        sample.values.insert("cpu".into(), f64::NAN);
        history.add(&sample);
        assert_eq!(history.curve("cpu", 10, None).chars().count(), 2);
        assert_eq!(bar(f64::NAN, false), "░".repeat(BAR));
        assert_eq!(summary(&[robot]), "1 device, 0 online");
    }
}
