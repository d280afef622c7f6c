//! Which legs of a session are there, how long it may go on so, and what it becomes when time runs out. Pure.

use std::time::Duration;

use muster_proto::limits::{SESSION_ANSWER, SESSION_GRACE, SESSION_ORDER_EXPIRY};
use muster_proto::session::Side;

use super::End;

/// A leg that was quiet for this long is asked whether it is still there.
pub(super) const PING_AFTER: Duration = Duration::from_secs(20);
/// A leg that was quiet for this long is gone: two questions unanswered.
pub(super) const SILENT: Duration = Duration::from_secs(50);

/// One leg's state. Times are since the session's task began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It has not come yet, and must by then.
    Awaited(Duration),
    /// It is there.
    Up,
    /// It was there; the session ends then.
    Gone(Duration),
}

/// Both legs.
#[derive(Debug, Clone)]
pub(super) struct Legs {
    client: State,
    device: State,
    /// Whether both were there at once.
    met: bool,
}

impl Legs {
    /// Of a session that was asked for just now.
    pub(super) fn fresh() -> Self {
        Self { client: State::Awaited(SESSION_ORDER_EXPIRY), device: State::Awaited(SESSION_ANSWER), met: false }
    }

    /// Of a session that a hub before this one carried: both ends have the grace time to come back.
    pub(super) fn resumed(met: bool) -> Self {
        Self { client: State::Gone(SESSION_GRACE), device: State::Gone(SESSION_GRACE), met }
    }

    fn of(&mut self, side: Side) -> &mut State {
        match side {
            Side::Client => &mut self.client,
            Side::Device => &mut self.device,
        }
    }

    /// A leg came. True when this is the first time that both are there.
    pub(super) fn up(&mut self, side: Side) -> bool {
        *self.of(side) = State::Up;
        let first = !self.met && self.both_up();
        self.met |= first;
        first
    }

    /// A leg went.
    pub(super) fn down(&mut self, side: Side, now: Duration) {
        *self.of(side) = State::Gone(now + SESSION_GRACE);
    }

    /// Whether both legs are there.
    pub(super) fn both_up(&self) -> bool {
        self.client == State::Up && self.device == State::Up
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Option<Duration> {
        [self.client, self.device].into_iter().filter_map(until).min()
    }

    /// How the session ends now, if it does.
    pub(super) fn verdict(&self, now: Duration) -> Option<End> {
        let late = |state| until(state).is_some_and(|until| until <= now);
        if let State::Awaited(_) = self.device
            && late(self.device)
        {
            let message = format!(
                "the device is linked to the hub but did not answer within {} s; its journal (journalctl -u musterd) says why",
                SESSION_ANSWER.as_secs()
            );
            return Some(End::by_hub("device_silent", message));
        }
        if let State::Awaited(_) = self.client
            && late(self.client)
        {
            return Some(End::by_hub("client_absent", "the client did not connect to the relay in time"));
        }
        let grace = SESSION_GRACE.as_secs();
        match (late(self.client), late(self.device)) {
            (true, true) => Some(End::by_hub("grace", format!("neither end came back within {grace} s"))),
            (false, true) => Some(End::by_hub("grace", format!("the device's connection dropped and did not come back within {grace} s"))),
            (true, false) => Some(End::by_hub("grace", format!("the client's connection dropped and did not come back within {grace} s"))),
            (false, false) => None,
        }
    }
}

fn until(state: State) -> Option<Duration> {
    match state {
        State::Awaited(until) | State::Gone(until) => Some(until),
        State::Up => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_device_that_does_not_answer_ends_it() {
        let mut legs = Legs::fresh();
        assert!(!legs.up(Side::Client));
        assert_eq!(legs.deadline(), Some(s(10)));
        assert!(legs.verdict(s(9)).is_none());
        assert_eq!(legs.verdict(s(10)).unwrap().code, "device_silent");
    }

    #[test]
    fn a_client_that_does_not_come_ends_it() {
        let mut legs = Legs::fresh();
        assert!(!legs.up(Side::Device));
        assert!(legs.verdict(s(29)).is_none());
        assert_eq!(legs.verdict(s(30)).unwrap().code, "client_absent");
    }

    #[test]
    fn a_leg_has_two_minutes_to_come_back() {
        let mut legs = Legs::fresh();
        legs.up(Side::Client);
        assert!(legs.up(Side::Device));
        assert_eq!((legs.deadline(), legs.verdict(s(9999))), (None, None));
        legs.down(Side::Device, s(100));
        assert!(legs.verdict(s(219)).is_none());
        legs.up(Side::Device);
        assert_eq!(legs.verdict(s(9999)), None);
        legs.down(Side::Client, s(200));
        legs.down(Side::Device, s(300));
        assert_eq!(legs.deadline(), Some(s(320)));
        assert!(legs.verdict(s(320)).unwrap().message.contains("client"));
        assert!(legs.verdict(s(420)).unwrap().message.contains("neither"));
        assert!(!legs.up(Side::Device) && !legs.up(Side::Client), "they had met before");
    }

    #[test]
    fn after_a_restart_both_have_the_grace_time() {
        let mut legs = Legs::resumed(false);
        assert!(legs.verdict(s(119)).is_none());
        assert_eq!(legs.verdict(s(120)).unwrap().code, "grace");
        legs.up(Side::Client);
        assert!(legs.up(Side::Device));
    }
}
