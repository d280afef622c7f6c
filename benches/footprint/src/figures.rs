//! The figures: read from `/proc`, compared over a span, printed as one table with the goals.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Counters and sizes at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    binary: u64,
    resident: u64,
    private_dirty: u64,
    threads: u64,
    cpu_ns: u64,
    switches: u64,
    wire: u64,
}

/// What a span comes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    binary: f64,
    resident: f64,
    private_dirty: f64,
    threads: f64,
    cpu_per_hour: f64,
    switches_per_second: f64,
    pub(crate) wire_per_hour: f64,
}

impl Figures {
    /// Reads a process's figures.
    pub(crate) fn read(pid: u32, wire: u64, program: &Path) -> Result<Self> {
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("a program ended while it was measured")?;
        let kib = |name: &str| -> u64 {
            let line = rollup.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        let (mut threads, mut cpu_ns, mut switches) = (0, 0, 0);
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?.path();
            threads += 1;
            let scheduled = std::fs::read_to_string(task.join("schedstat"))?;
            cpu_ns += scheduled.split_ascii_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
            let status = std::fs::read_to_string(task.join("status"))?;
            let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
            switches += counts.filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>();
        }
        let binary = std::fs::metadata(program)?.len();
        Ok(Self { binary, resident: kib("Rss:"), private_dirty: kib("Private_Dirty:"), threads, cpu_ns, switches, wire })
    }

    /// What was used since.
    pub(crate) fn since(&self, before: &Self, seconds: f64) -> Cost {
        let per_hour = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds * 3600.0;
        Cost {
            binary: self.binary as f64 / 1e6,
            resident: self.resident as f64 / 1e6,
            private_dirty: self.private_dirty as f64 / 1e6,
            threads: self.threads as f64,
            cpu_per_hour: per_hour(self.cpu_ns, before.cpu_ns) / 1e9,
            switches_per_second: per_hour(self.switches, before.switches) / 3600.0,
            wire_per_hour: per_hour(self.wire, before.wire) / 1e3,
        }
    }
}

/// What a session comes to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    /// Bytes of `musterd-session`.
    pub(crate) binary: u64,
    /// Bytes in memory with one open terminal.
    pub(crate) memory: u64,
    /// From an order to the prompt of a plain shell of another user: the median. Absent where nobody can become another user.
    pub(crate) prompt: Option<Duration>,
}

/// Name, floor, ours, goal.
type Row = (&'static str, Option<f64>, f64, Option<f64>);

impl Session {
    fn rows(&self) -> Vec<Row> {
        let mut rows = vec![
            ("musterd-session: stripped binary, MB", None, self.binary as f64 / 1e6, Some(4.0)),
            ("one open session, both its processes, PSS, MB", None, self.memory as f64 / 1e6, Some(5.0)),
        ];
        rows.extend(self.prompt.map(|time| ("from the order to the prompt, p50, ms", None, time.as_secs_f64() * 1e3, Some(60.0))));
        rows
    }
}

/// Prints the table; returns how many goals are missed.
pub(crate) fn print_table(floor: &Cost, musterd: &Cost, session: &Session, seconds: f64) -> usize {
    let rows: [Row; 7] = [
        ("stripped binary, MB", Some(floor.binary), musterd.binary, Some(4.0)),
        ("resident, MB", Some(floor.resident), musterd.resident, Some(4.0)),
        ("of it private dirty, MB", Some(floor.private_dirty), musterd.private_dirty, Some(1.0)),
        ("CPU seconds per hour", Some(floor.cpu_per_hour), musterd.cpu_per_hour, Some(1.0)),
        ("context switches per second", Some(floor.switches_per_second), musterd.switches_per_second, Some(1.0)),
        ("bytes on the wire per hour, KB", Some(floor.wire_per_hour), musterd.wire_per_hour, Some(60.0)),
        ("threads", Some(floor.threads), musterd.threads, Some(1.0)),
    ];
    println!("| idle for {seconds:.0} s, linked over mutual TLS | floor | musterd | goal | |");
    println!("|---|---|---|---|---|");
    print_rows(&rows) + print_rows(&session.rows())
}

/// Prints the figures of a session alone; returns how many goals are missed.
pub(crate) fn print_session(session: &Session) -> usize {
    println!("| a session at rest, with one open terminal | floor | musterd-session | goal | |");
    println!("|---|---|---|---|---|");
    print_rows(&session.rows())
}

fn print_rows(rows: &[Row]) -> usize {
    let mut missed = 0;
    for (name, floor, ours, goal) in rows {
        let verdict = match goal {
            Some(goal) if ours > goal => {
                missed += 1;
                "missed"
            }
            _ => "met",
        };
        let [floor, goal] = [floor.map(|floor| format!("{floor:.2}")), goal.map(|goal| goal.to_string())].map(Option::unwrap_or_default);
        println!("| {name} | {floor} | {ours:.2} | {goal} | {verdict} |");
    }
    missed
}
