//! Full-jitter exponential back-off: a fleet that comes back together must not arrive together.
//!
//! The ceiling doubles from 1 s to 5 min; the delay is drawn evenly from zero to the ceiling, at the highest ceiling too.
//! It resets only when the link has proved itself, and a `retry_in` from the hub wins.

use std::time::Duration;

use crate::limits::{BACKOFF_FIRST, BACKOFF_MAX};

/// State of one link's back-off.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    attempts: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(BACKOFF_FIRST, BACKOFF_MAX)
    }
}

impl Backoff {
    /// A back-off whose ceiling goes from `first` to `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, attempts: 0 }
    }

    /// The delay before the next attempt. `random` is an evenly drawn number.
    /// A `retry_in` that the peer asked for is kept, spread by up to a quarter more.
    pub fn next(&mut self, random: u64, retry_in: Option<Duration>) -> Duration {
        let ceiling = self.first.saturating_mul(1u32.checked_shl(self.attempts).unwrap_or(u32::MAX)).min(self.max);
        self.attempts = (self.attempts + 1).min(31);
        match retry_in {
            Some(asked) => {
                let asked = asked.min(self.max.saturating_mul(12));
                asked + share(asked / 4, random)
            }
            None => share(ceiling, random),
        }
    }

    /// The link proved itself: the next failure starts from the first ceiling.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// An even share of `whole`.
fn share(whole: Duration, random: u64) -> Duration {
    let nanos = (u128::from(random) * whole.as_nanos()) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceiling_doubles_to_the_maximum_and_stays_jittered() {
        let mut backoff = Backoff::default();
        let highest: Vec<u64> = (0..12).map(|_| backoff.next(u64::MAX, None).as_millis() as u64 + 1).collect();
        assert_eq!(highest, [1000, 2000, 4000, 8000, 16_000, 32_000, 64_000, 128_000, 256_000, 300_000, 300_000, 300_000]);
        assert_eq!(backoff.next(u64::MAX / 2, None).as_secs(), 149);
        assert_eq!(backoff.next(0, None), Duration::ZERO);
        for _ in 0..100 {
            backoff.next(u64::MAX, None);
        }
        backoff.reset();
        assert!(backoff.next(u64::MAX, None) <= BACKOFF_FIRST);
    }

    #[test]
    fn what_the_hub_asks_for_wins() {
        let mut backoff = Backoff::default();
        let asked = Duration::from_secs(40);
        assert_eq!(backoff.next(0, Some(asked)), asked);
        let late = backoff.next(u64::MAX, Some(asked));
        assert!(late > Duration::from_secs(49) && late <= Duration::from_secs(50), "{late:?}");
    }
}
