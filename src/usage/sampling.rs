//! The task that takes samples at the set pace and puts them into the spool.
//!
//! Samples fall on even times of the device's own phase, rounded to a tenth of a second: so a batch needs one time and a step,
//! and a fleet does not sample in lockstep. It never waits for the network.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_proto::Millis;
use muster_proto::mqtt::DeviceEventKind;
use serde_json::{Map, Value, json};

use super::Sampler;
use crate::daemon::{Daemon, LinkStatus, Pace, wall_clock};
use crate::log::{info, warn};
use crate::random;
use crate::spool::Sample;

/// Between samples while somebody watches.
const WATCH_STEP: Duration = Duration::from_secs(1);
/// Sample times are rounded to this.
const GRAIN: Millis = 100;
/// The first sample comes so soon after the start: rates need a moment, and a person who looks at the list should not wait.
const FIRST: Duration = Duration::from_secs(1);
/// A local program's metric that was not repeated for so long is not true any more.
const OWN_FRESH: Duration = Duration::from_secs(300);
/// A wall clock that went this far from the steady one was set.
const CLOCK_STEP: Millis = 5000;

/// Takes samples until the daemon stops.
pub(crate) async fn run(daemon: Arc<Daemon>) {
    let mut sampler = Sampler::new();
    let mut log = daemon.config.log_samples.then(|| Log::open(&daemon));
    let mut pace = daemon.pace.subscribe();
    let phase = i64::try_from(random::below(3_600_000)).unwrap_or(0) / GRAIN * GRAIN;
    let mut clock = SteadyClock::new();
    let (mut seq, mut last_t, mut published) = (0, Millis::MIN, None::<Instant>);
    let mut delay = FIRST;
    loop {
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = daemon.stopped() => break,
            // A new pace: count the time to the next sample anew.
            Ok(()) = pace.changed() => {
                delay = until_next(wall_clock(), step(*pace.borrow_and_update()), phase);
                continue;
            }
        }
        let now = wall_clock();
        if let Some(by_ms) = clock.stepped(now) {
            warn!("the system clock was set by {by_ms} ms");
            daemon.report(DeviceEventKind::ClockStep { by_ms });
        }
        let pace = *pace.borrow();
        let values = sampler.sample(&daemon.own_metrics(OWN_FRESH));
        let sample = Sample { seq, t: (now / GRAIN * GRAIN).max(0), values };
        if let Some(log) = &mut log {
            log.write(&daemon.boot, &sample);
        }
        last_t = last_t.max(sample.t);
        seq += 1;
        let due = is_watched(pace) || published.is_none_or(|at| at.elapsed() + step(pace) / 2 >= pace.publish_every);
        {
            let mut spool = daemon.spool();
            spool.push(sample);
            // While the hub is there it gets the batch now; while it is away, this is what a power cut may take.
            if due && !matches!(daemon.link_status(), LinkStatus::Online { .. }) {
                spool.sync();
            }
        }
        if due {
            published = Some(Instant::now());
        }
        daemon.sampled(last_t, due);
        delay = until_next(wall_clock(), step(pace), phase);
    }
    daemon.spool().sync();
}

fn is_watched(pace: Pace) -> bool {
    pace.watch_until.is_some_and(|until| Instant::now() < until)
}

fn step(pace: Pace) -> Duration {
    if is_watched(pace) { WATCH_STEP.min(pace.sample_every) } else { pace.sample_every }
}

/// To the next even time of the phase, at least half a step away.
fn until_next(now: Millis, step: Duration, phase: Millis) -> Duration {
    let step = i64::try_from(step.as_millis()).unwrap_or(Millis::MAX).max(1);
    let mut wait = step - (now - phase).rem_euclid(step);
    if wait < step / 2 {
        wait += step;
    }
    Duration::from_millis(wait.unsigned_abs())
}

/// Notices that the wall clock was set.
struct SteadyClock {
    at: Instant,
    wall: Millis,
}

impl SteadyClock {
    fn new() -> Self {
        Self { at: Instant::now(), wall: wall_clock() }
    }

    /// By how much, if it was set since the last call. A suspended machine looks the same: its steady clock stood still.
    fn stepped(&mut self, now: Millis) -> Option<i64> {
        let expected = self.wall + i64::try_from(self.at.elapsed().as_millis()).unwrap_or(0);
        *self = Self { at: Instant::now(), wall: now };
        let by = now - expected;
        (by.abs() >= CLOCK_STEP).then_some(by)
    }
}

/// `samples.log`: every sample as one JSON line of `api::Sample`'s form, for tests that compare.
struct Log(Option<File>);

impl Log {
    fn open(daemon: &Daemon) -> Self {
        let path = daemon.state.dir().join("samples.log");
        match OpenOptions::new().append(true).create(true).mode(0o600).open(&path) {
            Ok(file) => {
                info!("every sample is written to {}", path.display());
                Self(Some(file))
            }
            Err(error) => {
                warn!("cannot write {}: {error}", path.display());
                Self(None)
            }
        }
    }

    fn write(&mut self, boot: &str, sample: &Sample) {
        let Some(file) = &mut self.0 else { return };
        let values: Map<String, Value> =
            sample.values.iter().filter_map(|(name, value)| Some((name.to_string(), json!((*value)?)))).collect();
        let line = format!("{}\n", json!({"t": sample.t, "boot": boot, "seq": sample.seq, "values": values}));
        if let Err(error) = file.write_all(line.as_bytes()) {
            warn!("samples.log: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_fall_on_even_times() {
        let step = Duration::from_secs(10);
        assert_eq!(until_next(1_000_000, step, 0).as_millis(), 10_000);
        assert_eq!(until_next(1_002_000, step, 0).as_millis(), 8000);
        // Woken a moment early: not again at once.
        assert_eq!(until_next(1_009_999, step, 0).as_millis(), 10_001);
        // The device's own phase: 3300 ms away is less than half a step, so the one after.
        assert_eq!(until_next(1_000_000, step, 3_333_300).as_millis(), 13_300);
    }

    #[test]
    fn a_set_clock_is_noticed_once() {
        let mut clock = SteadyClock::new();
        let now = clock.wall;
        assert_eq!(clock.stepped(now + 10), None);
        assert!(clock.stepped(now + 3_600_000).is_some());
        assert_eq!(clock.stepped(now + 3_600_010), None);
    }
}
