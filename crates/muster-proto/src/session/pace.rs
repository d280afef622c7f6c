//! How much may be in flight: one and a half times bandwidth x round trip, so that the line is full and no queue stands in it.
//!
//! Bandwidth is the most that acknowledgements have shown within some round trips, the round trip the least seen on this leg.
//! Half as much again, because acknowledgements come in steps and the line must not run dry meanwhile.
//! Time comes in as an argument; nothing here knows a message's content.

use std::time::Duration;

use crate::limits::{DATA_LONG, TURN};

/// Never less in flight before the line is known, nor on a fast one: four full messages, one in each stage of two hops.
pub(super) const FLIGHT_FIRST: usize = 256 * 1024;
/// Never less in flight on a slow line, where 256 KiB would be a queue that a keystroke feels.
pub(super) const FLIGHT_MIN: usize = 32 * 1024;
/// Never more in flight: the bound on what an end keeps for a resumption.
pub(super) const FLIGHT_MAX: usize = 4 * 1024 * 1024;
/// Three halves: enough to find a line's speed within some round trips, and half the queue that twice would make.
const GAIN: (u128, u128) = (3, 2);
/// What the line takes in about 16 ms: the floor of what is in flight, and the most that one message may occupy it.
const FLOOR_SHARE: u64 = 64;
/// The same share for one turn of a stream while others wait: a millisecond, so that eight of them are not felt.
const TURN_SHARE: u64 = 1000;
/// The least round trip is measured anew after this time, or a slower path would be mistaken for a queue for ever.
const RTT_STALE: u64 = 10_000_000_000;
/// Shortest time for which a bandwidth counts.
const BANDWIDTH_WINDOW: u64 = 500_000_000;

/// What is remembered of a message when it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Nanoseconds.
    sent: u64,
    /// What had been delivered by then.
    delivered: u64,
    /// The application had less to send than the line takes: the sample says little about the line.
    slack: bool,
}

/// Estimator of one direction on one leg.
#[derive(Debug)]
pub(super) struct Pace {
    delivered: u64,
    /// Nanoseconds.
    rtt_min: Option<u64>,
    rtt_min_at: u64,
    /// Bytes per second: the best of this window, and of the one before.
    bandwidth: [u64; 2],
    window_ends: u64,
    probe: Probe,
    limit: usize,
}

/// The measuring of the round trip without our own queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    No,
    /// Sending little, until the queue has drained.
    Draining,
    /// Messages sent since then show the line's own round trip.
    Since(u64),
}

impl Default for Pace {
    fn default() -> Self {
        Self { delivered: 0, rtt_min: None, rtt_min_at: 0, bandwidth: [0; 2], window_ends: 0, probe: Probe::No, limit: FLIGHT_FIRST }
    }
}

impl Pace {
    /// Bytes that may be in flight.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The most that one message may hold while nobody else waits: on a slow line a keystroke comes behind it.
    pub(super) fn message_max(&self) -> usize {
        let bandwidth = self.bandwidth();
        if bandwidth == 0 || bandwidth / FLOOR_SHARE >= DATA_LONG as u64 { DATA_LONG } else { TURN }
    }

    /// One turn of a stream while others wait. Long on a fast line: what goes to one socket at once costs its reader one waking.
    pub(super) fn turn(&self) -> usize {
        if self.bandwidth() / TURN_SHARE >= DATA_LONG as u64 { DATA_LONG } else { TURN }
    }

    /// The least round trip seen on this leg.
    pub(super) fn rtt(&self) -> Option<Duration> {
        self.rtt_min.map(Duration::from_nanos)
    }

    /// A message is sent; with `slack` no data waits behind it.
    pub(super) fn sent(&self, slack: bool, now: Duration) -> Stamp {
        Stamp { sent: nanos(now), delivered: self.delivered, slack }
    }

    /// `bytes` were acknowledged, the newest of them with this stamp; `flight` bytes are still under way.
    pub(super) fn acknowledged(&mut self, newest: Stamp, bytes: usize, flight: usize, now: Duration) {
        let now = nanos(now);
        self.delivered += bytes as u64;
        let rtt = now.saturating_sub(newest.sent).max(1);
        let rate = (u128::from(self.delivered.saturating_sub(newest.delivered)) * 1_000_000_000 / u128::from(rtt)) as u64;
        self.note_rtt(rtt, newest, flight, now);
        self.note_rate(rate, newest.slack, now);
        self.limit = self.compute();
    }

    fn note_rtt(&mut self, rtt: u64, newest: Stamp, flight: usize, now: u64) {
        if self.rtt_min.is_none_or(|least| rtt <= least) {
            self.rtt_min = Some(rtt);
            self.rtt_min_at = now;
            self.probe = Probe::No;
            return;
        }
        match self.probe {
            Probe::No if now.saturating_sub(self.rtt_min_at) > RTT_STALE => self.probe = Probe::Draining,
            Probe::Draining if flight <= FLIGHT_MIN => self.probe = Probe::Since(now),
            Probe::Since(since) if newest.sent >= since => {
                self.rtt_min = Some(rtt);
                self.rtt_min_at = now;
                self.probe = Probe::No;
            }
            _ => {}
        }
    }

    fn note_rate(&mut self, rate: u64, slack: bool, now: u64) {
        // A flow with little to say does not show what the line could carry: it can raise an estimate, no more.
        if slack && (rate <= self.bandwidth() || self.bandwidth() == 0) {
            return;
        }
        if now >= self.window_ends {
            self.bandwidth = [rate, self.bandwidth[0]];
            self.window_ends = now + (self.rtt_min.unwrap_or(0) * 8).max(BANDWIDTH_WINDOW);
        } else {
            self.bandwidth[0] = self.bandwidth[0].max(rate);
        }
    }

    fn bandwidth(&self) -> u64 {
        self.bandwidth[0].max(self.bandwidth[1])
    }

    fn compute(&self) -> usize {
        if self.probe != Probe::No {
            return FLIGHT_MIN;
        }
        let bandwidth = self.bandwidth();
        if bandwidth == 0 {
            return FLIGHT_FIRST;
        }
        let held = GAIN.0 * u128::from(bandwidth) * u128::from(self.rtt_min.unwrap_or(0)) / (GAIN.1 * 1_000_000_000);
        let floor = usize::try_from(bandwidth / FLOOR_SHARE).unwrap_or(usize::MAX).clamp(FLIGHT_MIN, FLIGHT_FIRST);
        usize::try_from(held).unwrap_or(usize::MAX).clamp(floor, FLIGHT_MAX)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
