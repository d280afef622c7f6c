//! Whether a device is there: a pure rule from what it and its broker say, and from silence.
//!
//! A device counts its connections (`link`), so that the late will of an old connection changes nothing.
//! No clock, no store: [`Presence::apply`] gets the moment and tells what changed.

use std::time::Duration;

use muster_proto::Millis;

/// One moment on both of the hub's clocks: the calendar for records, the other for durations, which no clock step may stretch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Milliseconds since the epoch.
    pub wall: Millis,
    /// Since the hub started.
    pub uptime: Duration,
}

/// What was seen of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// It says that it is there.
    Birth {
        /// Its count of connections.
        link: u64,
        /// The life of its daemon.
        boot: Option<String>,
    },
    /// Its last will: the connection broke.
    Will {
        /// Of which connection.
        link: u64,
    },
    /// It went deliberately.
    Farewell {
        /// On which connection.
        link: u64,
        /// Why, in a word.
        reason: String,
    },
    /// A heartbeat, or anything else that only a living device sends.
    Heard,
    /// Nothing for too long.
    Silence,
    /// An owner cut it off.
    Revoked,
}

/// A device's presence as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Whether it is there.
    pub online: bool,
    /// Since when.
    pub since: Millis,
    /// Why.
    pub reason: String,
    /// The newest connection that it told of.
    pub link: u64,
    /// The life of its daemon.
    pub boot: Option<String>,
}

/// The reason of silence.
pub const MISSED: &str = "heartbeats missed";

impl Presence {
    /// Of a device that never was there.
    pub fn never() -> Self {
        Self { online: false, since: 0, reason: String::new(), link: 0, boot: None }
    }

    /// Takes a sign in. Whether `online` changed, which makes a line in the history.
    pub fn apply(&mut self, sign: Sign, now: Millis) -> bool {
        match sign {
            Sign::Birth { link, boot } => {
                // An older connection of the same life: a message that was overtaken. With another life the count may have been lost.
                if link < self.link && boot == self.boot {
                    return false;
                }
                (self.link, self.boot) = (link, boot);
                self.turn(true, "birth".into(), now)
            }
            Sign::Will { link } if link >= self.link => self.turn(false, "will".into(), now),
            Sign::Farewell { link, reason } if link >= self.link => {
                let reason = if reason.is_empty() { "farewell".into() } else { format!("farewell: {reason}") };
                self.turn(false, reason, now)
            }
            Sign::Will { .. } | Sign::Farewell { .. } => false,
            // After a will or a farewell only a birth counts: a heartbeat may have been overtaken by them.
            Sign::Heard if self.reason == MISSED => self.turn(true, "heartbeat".into(), now),
            Sign::Heard => false,
            Sign::Silence => self.turn(false, MISSED.into(), now),
            Sign::Revoked => self.turn(false, "revoked".into(), now),
        }
    }

    fn turn(&mut self, online: bool, reason: String, now: Millis) -> bool {
        if self.online == online {
            // Gone is gone; only being cut off is worth knowing afterwards.
            if !online && reason == "revoked" {
                self.reason = reason;
            }
            return false;
        }
        (self.online, self.since, self.reason) = (online, now, reason);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn birth(link: u64, boot: &str) -> Sign {
        Sign::Birth { link, boot: Some(boot.into()) }
    }

    fn walk(signs: impl IntoIterator<Item = Sign>) -> (Presence, Vec<(bool, String)>) {
        let (mut presence, mut history) = (Presence::never(), Vec::new());
        for (now, sign) in (1..).zip(signs) {
            if presence.apply(sign, now) {
                assert_eq!(presence.since, now);
                history.push((presence.online, presence.reason.clone()));
            }
        }
        (presence, history)
    }

    #[test]
    fn comes_and_goes() {
        let farewell = Sign::Farewell { link: 2, reason: "stopped".into() };
        let (presence, history) = walk([birth(1, "a"), Sign::Will { link: 1 }, birth(2, "a"), farewell, Sign::Heard]);
        assert!(!presence.online);
        let history: Vec<_> = history.iter().map(|(online, reason)| (*online, reason.as_str())).collect();
        assert_eq!(history, [(true, "birth"), (false, "will"), (true, "birth"), (false, "farewell: stopped")]);
    }

    #[test]
    fn a_late_will_of_an_old_connection_is_ignored() {
        let (presence, history) = walk([birth(1, "a"), birth(2, "a"), Sign::Will { link: 1 }]);
        assert!(presence.online);
        assert_eq!(history.len(), 1);
    }

    #[test]
    fn an_overtaken_birth_is_ignored_but_a_lost_count_is_not() {
        let (presence, _) = walk([birth(5, "a"), Sign::Will { link: 5 }, birth(4, "a")]);
        assert!(!presence.online);
        let (presence, _) = walk([birth(5, "a"), Sign::Will { link: 5 }, birth(1, "b")]);
        assert!(presence.online && presence.link == 1);
    }

    #[test]
    fn silence_ends_and_a_heartbeat_brings_back() {
        let (presence, history) = walk([birth(1, "a"), Sign::Silence, Sign::Silence, Sign::Heard, Sign::Heard]);
        assert!(presence.online);
        assert_eq!(history.len(), 3);
        let (presence, _) = walk([Sign::Heard]);
        assert!(!presence.online, "nobody is online who never said so");
    }

    #[test]
    fn a_hub_restart_invents_nothing() {
        // What is stored says online; the device comes back with its next connection.
        let (presence, history) = walk([birth(1, "a"), birth(2, "a")]);
        assert_eq!((history.len(), presence.since), (1, 1));
    }

    #[test]
    fn revoked_is_remembered_even_when_offline() {
        let (presence, history) = walk([birth(1, "a"), Sign::Will { link: 1 }, Sign::Revoked]);
        assert_eq!((presence.reason.as_str(), presence.since, history.len()), ("revoked", 2, 2));
    }
}
