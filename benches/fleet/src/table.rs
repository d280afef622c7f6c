//! The figures, as one table with the goals.

use std::time::Duration;

use crate::device::{BATCH_EVERY, SAMPLES};
use crate::options::Options;
use crate::process::Reading;

/// KB per idle device, and processor microseconds per stored message: what is promised.
const IDLE_GOAL: f64 = 16.0;
const MESSAGE_GOAL: f64 = 80.0;
/// The second is promised for a fleet of this size: a smaller one has fewer messages in each commit, and a commit costs what it costs.
const GOAL_FLEET: usize = 10_000;

/// What the fleet cost a server.
#[derive(Debug)]
pub(crate) struct Broker {
    /// Before any device came.
    pub(crate) empty: Reading,
    /// When all were linked.
    pub(crate) linked: Reading,
    /// After all rested.
    pub(crate) rested: Reading,
    /// After all reported.
    pub(crate) busy: Reading,
    /// Messages that were acknowledged meanwhile.
    pub(crate) stored: u64,
    /// Messages that were left out because the one before was not acknowledged.
    pub(crate) late: u64,
    /// Samples that were found in the database in the end, each once.
    pub(crate) samples: Option<u64>,
}

/// The way back after the hub was killed.
#[derive(Debug)]
pub(crate) struct Storm {
    /// From the kill until the hub listened again.
    pub(crate) answering: Duration,
    /// When each link was made, from the kill.
    pub(crate) back: Vec<Duration>,
    /// Dials, with those that failed.
    pub(crate) dials: u64,
    /// Messages that were under way at the kill.
    pub(crate) under_way: usize,
    /// The hub's process when all were back.
    pub(crate) reading: Reading,
}

struct Row {
    name: &'static str,
    ours: String,
    theirs: Option<String>,
    /// The goal, and whether it is met.
    goal: Option<(String, bool)>,
}

/// Prints the table; returns how many goals are missed.
pub(crate) fn print(options: &Options, enrolled: Duration, ours: &Broker, storm: &Storm, theirs: Option<&(String, Broker)>) -> usize {
    let devices = options.devices as f64;
    let other = theirs.map(|(_, load)| load);
    let idle = |load: &Broker| load.rested.resident.saturating_sub(load.empty.resident) as f64 / devices / 1000.0;
    let private = |load: &Broker| load.rested.private.saturating_sub(load.empty.private) as f64 / devices / 1000.0;
    let after = |load: &Broker| load.busy.resident.saturating_sub(load.empty.resident) as f64 / devices / 1000.0;
    let gross = |load: &Broker| (load.busy.cpu_us - load.rested.cpu_us) as f64 / load.stored as f64;
    let connect = |load: &Broker| (load.linked.cpu_us - load.empty.cpu_us) as f64 / devices;
    let rest = |load: &Broker| (load.rested.cpu_us - load.linked.cpu_us) as f64 / devices / crate::REST.as_secs_f64();
    // What the heartbeats cost is a row of its own; they are as frequent while the devices report as at rest.
    let message = |load: &Broker| gross(load) - rest(load) * devices * options.seconds as f64 / load.stored as f64;
    let both = |name, figure: &dyn Fn(&Broker) -> f64, digits: usize, goal: Option<f64>| Row {
        name,
        ours: format!("{:.digits$}", figure(ours)),
        theirs: other.map(|load| format!("{:.digits$}", figure(load))),
        goal: goal.map(|goal| (format!("at most {goal:.0}"), figure(ours) <= goal)),
    };
    let alone = |name, ours: String| Row { name, ours, theirs: None, goal: None };
    let last = storm.back.last().copied().unwrap_or_default().as_secs_f64();
    let half = storm.back.get(storm.back.len() / 2).copied().unwrap_or_default().as_secs_f64();
    let rows = [
        both("resident KB per idle device", &idle, 1, Some(IDLE_GOAL)),
        both("of it private, KB", &private, 1, None),
        both("resident KB per device after the reports", &after, 1, None),
        both("CPU us per message stored", &message, 1, (options.devices >= GOAL_FLEET).then_some(MESSAGE_GOAL)),
        both("the same with the heartbeats' cost", &gross, 1, None),
        both("CPU us per idle device and second (a heartbeat each 30 s)", &rest, 2, None),
        both("CPU us per first connect", &connect, 0, None),
        both("messages left out, the one before being unacknowledged", &|load: &Broker| load.late as f64, 0, None),
        both("server without devices, resident MB", &|load: &Broker| load.empty.resident as f64 / 1e6, 1, None),
        alone("storm: hub listens again after, s", format!("{:.2}", storm.answering.as_secs_f64())),
        alone("storm: half / all are back after, s", format!("{half:.1} / {last:.1}")),
        alone("storm: most connects in one second", peak(&storm.back).to_string()),
        alone("storm: dials per device", format!("{:.2}", storm.dials as f64 / devices)),
        alone("storm: CPU us per connect", format!("{:.0}", storm.reading.cpu_us as f64 / storm.back.len().max(1) as f64)),
        alone("storm: most resident, MB", format!("{:.0}", storm.reading.peak as f64 / 1e6)),
    ];
    println!("| {} devices, mutual TLS | muster-hub | {} | goal | |", options.devices, title(theirs));
    println!("|---|---|---|---|---|");
    let mut missed = 0;
    for row in rows {
        let (goal, verdict) = match row.goal {
            None => (String::new(), ""),
            Some((goal, true)) => (goal, "met"),
            Some((goal, false)) => {
                missed += 1;
                (goal, "missed")
            }
        };
        println!("| {} | {} | {} | {goal} | {verdict} |", row.name, row.ours, row.theirs.unwrap_or_default());
    }
    println!(
        "\n{} messages of {SAMPLES} samples were stored and acknowledged while measured, one per device each {} s, beside a heartbeat each 30 s. \
         {} messages were under way when the hub was killed. In the end {} samples lie in its database: all that \
         were acknowledged, each once. Idle is after {} s with heartbeats only. KB are 1000 bytes. Enrolling took {:.2} ms per device. \
         Mosquitto delivers to nobody and stores nothing.",
        ours.stored,
        BATCH_EVERY.as_secs(),
        storm.under_way,
        ours.samples.unwrap_or(0),
        crate::REST.as_secs(),
        enrolled.as_secs_f64() * 1e3 / devices,
    );
    missed
}

fn title(theirs: Option<&(String, Broker)>) -> String {
    theirs.map_or_else(|| "mosquitto: not measured".to_owned(), |(version, _)| format!("mosquitto {version}"))
}

/// The most links that were made within any second. The times are in order.
fn peak(back: &[Duration]) -> usize {
    let mut first = 0;
    let second = Duration::from_secs(1);
    let widths = back.iter().enumerate().map(|(last, at)| {
        while *at - back[first] >= second {
            first += 1;
        }
        last + 1 - first
    });
    widths.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_within_any_second() {
        let times = |all: &[u64]| peak(&all.iter().copied().map(Duration::from_millis).collect::<Vec<_>>());
        assert_eq!(times(&[]), 0);
        assert_eq!(times(&[5]), 1);
        assert_eq!(times(&[0, 999, 1000, 1001, 1500, 2500]), 4);
    }
}
