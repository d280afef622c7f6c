//! Waiting for a condition with a deadline, the only way in which these tests let time pass.

use std::time::{Duration, Instant};

/// Between two looks at a condition that cannot be waited for in any other way.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Looks until `condition` gives a value, and panics with `what` after `limit`.
#[track_caller]
pub fn eventually<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        pause(LOOK_EVERY);
    }
}

/// Looks for `length` that `condition` holds, and panics with `what` when it stops to.
#[track_caller]
pub fn throughout(what: &str, length: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while started.elapsed() < length {
        assert!(condition(), "after {:?} no longer: {what}", started.elapsed());
        pause(LOOK_EVERY);
    }
}

/// Between two looks, and where a fault has to last for a time.
pub fn pause(length: Duration) {
    let until = Instant::now() + length;
    while let Some(rest) = until.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
        std::thread::park_timeout(rest);
    }
}
