//! The hub's clock: the one place that reads the system's time.
//!
//! Decisions take the time as an argument; only their callers come here.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use muster_proto::Millis;

/// Milliseconds of a clock that nobody sets: for what counts time and stays in memory.
pub fn steady() -> Millis {
    Moment::now().steady
}

/// Milliseconds since the epoch, now.
pub fn now() -> Millis {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(elapsed.as_millis()).unwrap_or(Millis::MAX)
}

/// One second, in milliseconds.
pub const SECOND: Millis = 1000;
/// One hour, in milliseconds.
pub const HOUR: Millis = 3600 * SECOND;
/// One day, in milliseconds.
pub const DAY: Millis = 24 * 3600 * SECOND;

/// A moment by the calendar and by a clock that nobody sets: it counts from the start of the machine, through suspension too.
///
/// Lengths of time are taken from the second where both moments are of one start of the machine.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Moment {
    /// Milliseconds since the epoch.
    pub wall: Millis,
    /// Which start of the machine.
    pub boot: String,
    /// Milliseconds since that.
    pub steady: Millis,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        static BOOT: OnceLock<String> = OnceLock::new();
        let boot = BOOT.get_or_init(|| {
            let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            id.trim().to_owned()
        });
        let since = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Self { wall: now(), boot: boot.clone(), steady: since.tv_sec * SECOND + since.tv_nsec / 1_000_000 }
    }

    /// Whether an earlier moment is of the same start of the machine, so that the steady clock tells what lies between.
    pub fn same_start(&self, earlier: &Self) -> bool {
        !self.boot.is_empty() && self.boot == earlier.boot && self.steady >= earlier.steady
    }

    /// Milliseconds from an earlier moment to this one, never negative: by the steady clock, or across a start of the machine by the calendar.
    pub fn since(&self, earlier: &Self) -> Millis {
        let passed = if self.same_start(earlier) { self.steady - earlier.steady } else { self.wall.saturating_sub(earlier.wall) };
        passed.max(0)
    }

    /// The same moment moved by milliseconds on both clocks.
    #[must_use]
    pub fn plus(&self, ms: Millis) -> Self {
        Self { wall: self.wall + ms, boot: self.boot.clone(), steady: self.steady + ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_stretches_nothing() {
        let moment = |wall, boot: &str, steady| Moment { wall, boot: boot.to_owned(), steady };
        let start = moment(1_000_000, "a", 500);
        assert_eq!(moment(5, "a", 800).since(&start), 300, "set back");
        assert_eq!(moment(9_000_000, "a", 800).since(&start), 300, "set forward");
        assert_eq!(moment(1_000_700, "b", 3).since(&start), 700, "the machine was started anew");
        assert_eq!(moment(5, "b", 3).since(&start), 0, "and its clock is behind");
        assert_eq!(start.plus(100).since(&start), 100);
        let (now, later) = (Moment::now(), Moment::now());
        assert!(later.since(&now) >= 0 && !now.boot.is_empty() && now.steady > 0);
    }
}
