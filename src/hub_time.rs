//! The hub's time, as well as this device knows it. Pure.
//!
//! The system's clock may be set at any moment: a board without a battery starts in the past and jumps when it has a network.
//! So what the hub tells is held against the steady clock, which counts from the machine's start and is never set.
//! What the hub says comes late, never early, hence the largest difference is the truest;
//! but crystals drift, hence an old difference has to give way in the end.

use std::time::Duration;

use muster_proto::Millis;

/// How fast a known difference gives way: one part in so many, five times what a bad crystal drifts.
/// The hub's time is then taken for up to 43 s a day too early, which lets an order through that MQTT's expiry has to hold back.
const GIVE_WAY: i64 = 2000;

/// What the hub told last, and when.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct HubTime(Option<Told>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
    hub: Millis,
    steady: Millis,
}

impl HubTime {
    /// The hub told the time at this moment of the steady clock.
    pub(crate) fn told(&mut self, hub: Millis, steady: Duration) {
        let known = self.at(steady).unwrap_or(Millis::MIN);
        self.0 = Some(Told { hub: hub.max(known), steady: millis(steady) });
    }

    /// The hub's time at this moment; `None` before it ever told.
    pub(crate) fn at(&self, steady: Duration) -> Option<Millis> {
        self.0.map(|told| {
            let passed = millis(steady).saturating_sub(told.steady).max(0);
            told.hub.saturating_add(passed - passed / GIVE_WAY)
        })
    }
}

fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn goes_on_from_what_the_hub_told() {
        let mut time = HubTime::default();
        assert_eq!(time.at(s(5)), None);
        time.told(1_000_000, s(10));
        assert_eq!(time.at(s(10)), Some(1_000_000));
        assert_eq!(time.at(s(30)), Some(1_020_000 - 10));
        assert_eq!(time.at(s(9)), Some(1_000_000), "it never runs backwards");
    }

    #[test]
    fn a_message_that_came_late_changes_nothing_and_an_earlier_one_corrects() {
        let mut time = HubTime::default();
        time.told(1_000_000, s(10));
        time.told(1_000_000, s(30));
        assert_eq!(time.at(s(30)), Some(1_020_000 - 10), "20 s late");
        time.told(1_025_000, s(31));
        assert_eq!(time.at(s(31)), Some(1_025_000));
    }

    #[test]
    fn a_crystal_that_runs_fast_does_not_make_orders_look_late() {
        // 100 ppm fast: the device counts 8.64 s more than a day each day. An order is void after 30 s.
        let mut time = HubTime::default();
        for day in 0..100_i64 {
            let hub = day * 86_400_000;
            let steady = Duration::from_millis((hub + hub / 10_000).unsigned_abs());
            time.told(hub, steady);
            let ahead = time.at(steady).unwrap() - hub;
            assert!((0..1000).contains(&ahead), "day {day}: {ahead} ms ahead");
        }
    }

    #[test]
    fn nothing_that_a_hub_says_overflows() {
        for hub in [Millis::MIN, -1, 0, Millis::MAX] {
            let mut time = HubTime::default();
            time.told(hub, s(1));
            time.told(Millis::MIN, Duration::MAX);
            assert!(time.at(Duration::MAX).is_some() && time.at(Duration::ZERO).is_some());
        }
    }
}
