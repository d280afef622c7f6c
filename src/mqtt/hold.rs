//! While the organization's storage is full: when the oldest samples are tried again. Pure.
//!
//! Only samples wait, and only in the spool, within its bound. The link, heartbeats, events, sessions and runs go on.
//! A hub that has room again says so; whoever misses that word, or hears it from nobody, tries by itself.

use std::time::Duration;

use tokio::time::Instant;

/// Between two tries at most. A refused batch costs the hub next to nothing, and a fleet of ten thousand brings forty a second.
const HOLD_MAX: Duration = Duration::from_secs(5 * 60);
/// At least. What lies between is drawn, so that a fleet that was refused together does not try together.
const HOLD_MIN: Duration = Duration::from_secs(3 * 60);
/// After the word that there is room, at most: a whole organization hears it in the same moment.
const SPREAD: Duration = Duration::from_secs(5);

/// Whether samples are held back, and until when.
#[derive(Debug, Default)]
pub(super) struct Hold {
    until: Option<Instant>,
}

impl Hold {
    /// The hub has no room. `drawn` is a random number.
    pub(super) fn begin(&mut self, now: Instant, drawn: u64) {
        self.until = Some(now + HOLD_MIN + within(HOLD_MAX - HOLD_MIN, drawn));
    }

    /// The hub says that it has room again.
    pub(super) fn room(&mut self, now: Instant, drawn: u64) {
        if let Some(until) = self.until {
            self.until = Some(until.min(now + within(SPREAD, drawn)));
        }
    }

    /// Whether samples are held back now; a hold that is over is forgotten.
    pub(super) fn holds(&mut self, now: Instant) -> bool {
        self.until = self.until.filter(|until| *until > now);
        self.until.is_some()
    }

    /// When it is to be tried again.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until
    }
}

/// Evenly within a time.
fn within(most: Duration, drawn: u64) -> Duration {
    let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(drawn % (millis + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_holds_for_minutes_and_the_hubs_word_ends_it_soon() {
        let start = Instant::now();
        let mut hold = Hold::default();
        assert!(!hold.holds(start));
        hold.room(start, 7);
        assert!(!hold.holds(start), "a word that nobody waits for changes nothing");
        for drawn in [0, 1, 59_999, 120_000, 120_001, u64::MAX] {
            hold.begin(start, drawn);
            assert!(hold.holds(start + Duration::from_secs(179)), "{drawn}");
            assert!(!hold.holds(start + Duration::from_secs(301)) && hold.until().is_none(), "{drawn}");
            hold.begin(start, drawn);
            hold.room(start, drawn);
            assert!(!hold.holds(start + Duration::from_millis(5001)), "{drawn}");
        }
        // The word does not make a hold longer that is nearly over.
        hold.begin(start, 0);
        hold.room(start + Duration::from_secs(179), 5000);
        assert!(!hold.holds(start + Duration::from_secs(181)));
    }
}
