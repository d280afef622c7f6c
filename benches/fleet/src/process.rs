//! What a server process has used, read from `/proc`.

use anyhow::{Context, Result};

/// A process at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reading {
    /// Microseconds of processor time, user and system, of all threads that ever were.
    pub(crate) cpu_us: u64,
    /// Resident bytes.
    pub(crate) resident: u64,
    /// Of them private.
    pub(crate) private: u64,
    /// The most that was resident.
    pub(crate) peak: u64,
}

impl Reading {
    /// Reads a process.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).context("the server ended while it was measured");
        let (stat, rollup, status) = (read("stat")?, read("smaps_rollup")?, read("status")?);
        // The name of the program, in brackets, may hold spaces.
        let fields = stat.rsplit_once(')').context("no /proc/stat")?.1;
        let ticks: u64 = fields.split_ascii_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        let kib = |text: &str, name: &str| -> u64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
        };
        Ok(Self {
            cpu_us: ticks * 1_000_000 / rustix::param::clock_ticks_per_second(),
            resident: kib(&rollup, "Rss:"),
            private: kib(&rollup, "Private_Clean:") + kib(&rollup, "Private_Dirty:"),
            peak: kib(&status, "VmHWM:"),
        })
    }
}
