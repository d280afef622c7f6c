//! The hub's clock: the one place that reads the system's time.
//!
//! Decisions take the time as an argument; only their callers come here.

use std::time::{SystemTime, UNIX_EPOCH};

use muster_proto::Millis;

/// Milliseconds since the epoch, now.
pub fn now() -> Millis {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(elapsed.as_millis()).unwrap_or(Millis::MAX)
}

/// One second, in milliseconds.
pub const SECOND: Millis = 1000;
/// One day, in milliseconds.
pub const DAY: Millis = 24 * 3600 * SECOND;
