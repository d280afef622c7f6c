//! A tunnel under measurement, and what was measured of it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::load::{self, Way};
use crate::procs::{self, Process};

/// A running tunnel.
pub(crate) struct Tunnel {
    /// For the table.
    pub(crate) name: String,
    /// Where a client connects.
    pub(crate) entry: SocketAddr,
    /// Its processes; their children count too.
    pub(crate) roots: Vec<u32>,
    /// Ended with the tunnel.
    pub(crate) _processes: Vec<Process>,
}

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Rounds, over all tunnels in turn, so that a busy moment of the machine hits all alike.
    pub(crate) rounds: usize,
    /// Bytes of each bulk transfer.
    pub(crate) bytes: u64,
    /// Round trips of each kind in each round.
    pub(crate) trips: usize,
    /// New connections in each round.
    pub(crate) connections: usize,
    /// Connections held for the memory figure.
    pub(crate) held: usize,
}

/// What was measured; each list has one value per round.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// Gbit/s with 1 connection, down and up, then with 8.
    pub(crate) speed: [Vec<f64>; 4],
    /// CPU seconds per GB, likewise.
    pub(crate) cpu: [Vec<f64>; 4],
    /// All round trips.
    pub(crate) trips: Vec<Duration>,
    /// All round trips beside a bulk transfer.
    pub(crate) beside: Vec<Duration>,
    /// All times to a first byte.
    pub(crate) first: Vec<Duration>,
    /// KiB per held connection.
    pub(crate) held: Option<f64>,
    /// KiB at rest, all processes.
    pub(crate) rest: Option<u64>,
}

const KINDS: [(Way, u64); 4] = [(Way::Down, 1), (Way::Up, 1), (Way::Down, 8), (Way::Up, 8)];

impl Tunnel {
    /// One round.
    pub(crate) fn round(&self, effort: Effort, figures: &mut Figures) -> Result<()> {
        for (kind, (way, connections)) in KINDS.into_iter().enumerate() {
            let pids = procs::families(&self.roots);
            let before = procs::cpu(&pids);
            let took = load::bulk(self.entry, way, connections, effort.bytes)
                .with_context(|| format!("{}: {way:?} with {connections} connections", self.name))?;
            let used = procs::cpu(&procs::families(&self.roots)).saturating_sub(before);
            let gigabytes = effort.bytes as f64 / 1e9;
            figures.speed[kind].push(gigabytes * 8.0 / took.as_secs_f64());
            figures.cpu[kind].push(used.as_secs_f64() / gigabytes);
        }
        let trips = load::round_trips(self.entry, effort.trips, Duration::ZERO);
        figures.trips.extend(trips.with_context(|| format!("{}: round trips", self.name))?);
        let beside = load::round_trips_beside_bulk(self.entry, effort.trips);
        figures.beside.extend(beside.with_context(|| format!("{}: round trips beside a bulk transfer", self.name))?);
        let first = load::first_bytes(self.entry, effort.connections);
        figures.first.extend(first.with_context(|| format!("{}: new connections", self.name))?);
        Ok(())
    }

    /// Memory, once at the end: holding connections may leave buffers behind.
    pub(crate) fn memory(&self, effort: Effort, figures: &mut Figures) -> Result<()> {
        if self.roots.is_empty() {
            return Ok(());
        }
        let before = procs::memory(&procs::families(&self.roots));
        let held = load::hold(self.entry, effort.held).with_context(|| format!("{}: {} held connections", self.name, effort.held))?;
        let during = procs::memory(&procs::families(&self.roots));
        drop(held);
        figures.rest = Some(before);
        figures.held = Some((during as f64 - before as f64) / effort.held as f64);
        Ok(())
    }
}

/// The middle of some values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}

/// The time that a share of the values do not exceed.
pub(crate) fn percentile(values: &[Duration], share: f64) -> Option<Duration> {
    let mut sorted = values.to_vec();
    sorted.sort();
    let at = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied()
}
