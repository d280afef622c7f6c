//! Legs: meeting the peer by hello, meeting it again, and noticing that it has gone.
//!
//! Each end counts its own dials. A hello names the end's leg and the newest leg of the peer that it has seen.
//! An end is established when a hello arrives that names its present leg: from then on every message was sent
//! after the peer knew of that leg, so none is from an older one.

use std::time::Duration;

use super::message::{Control, Hello, VERSION};
use super::{Event, Phase, ProtocolError, Session, code};
use crate::limits::{SESSION_GRACE, SESSION_PING_AFTER, SESSION_PONG_WITHIN};

/// What an end knows of its leg.
#[derive(Debug)]
pub(super) struct Leg {
    is_up: bool,
    established: bool,
    /// Own dials.
    own: u64,
    /// Newest leg of the peer seen; 0 before the first.
    peer: u64,
    /// The `peer_leg` of the last hello sent on this leg.
    echoed: u64,
    hello_due: bool,
    /// Whether the ends have ever met.
    met: bool,
    /// Since when the ends are apart, while they are.
    apart_since: Duration,
    /// When the leg came up or last brought something.
    heard_at: Duration,
    /// A ping was asked for since then.
    pinged: bool,
    ping_due: bool,
    pub(super) pong_due: bool,
}

impl Leg {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            is_up: false,
            established: false,
            own: 0,
            peer: 0,
            echoed: 0,
            hello_due: false,
            met: false,
            apart_since: now,
            heard_at: now,
            pinged: false,
            ping_due: false,
            pong_due: false,
        }
    }

    /// Something arrived.
    pub(super) fn heard(&mut self, now: Duration) {
        self.heard_at = now;
        self.pinged = false;
    }

    pub(super) fn is_up(&self) -> bool {
        self.is_up
    }

    pub(super) fn is_established(&self) -> bool {
        self.established
    }

    fn part(&mut self, now: Duration) {
        if self.established {
            self.established = false;
            self.apart_since = now;
        }
    }

    /// What of the leg's own messages goes next.
    pub(super) fn poll(&mut self) -> Option<Control> {
        if self.established && std::mem::take(&mut self.pong_due) {
            return Some(Control::Pong);
        }
        if self.established && std::mem::take(&mut self.ping_due) {
            return Some(Control::Ping);
        }
        None
    }

    fn quiet_deadline(&self) -> Duration {
        self.heard_at + SESSION_PING_AFTER
    }

    fn dead_deadline(&self) -> Duration {
        self.heard_at + SESSION_PING_AFTER + SESSION_PONG_WITHIN
    }
}

impl Session {
    /// A new leg is up: the hello goes first.
    pub fn leg_up(&mut self, now: Duration) {
        self.now = now;
        self.leg.part(now);
        self.leg.is_up = true;
        self.leg.own += 1;
        self.leg.echoed = self.leg.peer;
        self.leg.hello_due = true;
        self.leg.heard(now);
        (self.leg.ping_due, self.leg.pong_due) = (false, false);
    }

    /// The leg is gone. Everything is kept for the grace time.
    pub fn leg_down(&mut self, now: Duration) {
        self.now = now;
        self.leg.part(now);
        self.leg.is_up = false;
        self.leg.hello_due = false;
    }

    /// Whether both ends have met on the present legs.
    pub fn is_established(&self) -> bool {
        self.leg.established
    }

    /// Whether nothing came on the leg for so long, a ping included, that it should be dialled anew.
    pub fn leg_is_dead(&self, now: Duration) -> bool {
        self.leg.is_up && now >= self.leg.dead_deadline()
    }

    /// When to call `tick`, `poll_transmit` and `leg_is_dead` next, if nothing arrives before.
    pub fn next_deadline(&self) -> Option<Duration> {
        if self.phase == Phase::Closed {
            return None;
        }
        let grace = (!self.leg.established).then(|| self.leg.apart_since + SESSION_GRACE);
        let ping = (self.leg.established && !self.leg.pinged).then(|| self.leg.quiet_deadline());
        // A leg that is known to be dead needs no further waking.
        let dead = (self.leg.is_up && self.now < self.leg.dead_deadline()).then(|| self.leg.dead_deadline());
        let ack = if self.leg.established { self.arrived.ack_deadline() } else { None };
        [grace, ping, dead, ack].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Duration) {
        self.now = now;
        if !self.leg.established && now >= self.leg.apart_since + SESSION_GRACE {
            let who = if self.leg.is_up { "the other end" } else { "this end" };
            let grace = SESSION_GRACE.as_secs();
            self.end(code::GRACE, &format!("{who} was not connected to the hub for {grace} seconds"), Phase::Closed);
        }
        if self.leg.established && !self.leg.pinged && now >= self.leg.quiet_deadline() {
            self.leg.pinged = true;
            self.leg.ping_due = true;
        }
    }

    /// The hello to be sent now, if one is.
    pub(super) fn poll_hello(&mut self) -> Option<Control> {
        if !std::mem::take(&mut self.leg.hello_due) {
            return None;
        }
        self.leg.echoed = self.leg.peer;
        Some(Control::Hello(Hello {
            version: VERSION,
            session: self.id.clone(),
            resume: self.leg.met,
            received: self.arrived.count(),
            leg: self.leg.own,
            peer_leg: self.leg.peer,
        }))
    }

    /// A hello arrived.
    pub(super) fn receive_hello(&mut self, hello: &Hello) -> Result<(), ProtocolError> {
        if hello.version == 0 {
            return Err(ProtocolError::Version(hello.version));
        }
        if hello.session != self.id {
            return Err(ProtocolError::Session(hello.session.to_string()));
        }
        let heard_before = self.arrived.count() > 0 || self.flight.acknowledged() > 0;
        if !hello.resume && heard_before {
            return Err(ProtocolError::StateLost);
        }
        if hello.leg < self.leg.peer || (self.leg.established && hello.leg == self.leg.peer) {
            return Ok(());
        }
        if hello.leg > self.leg.peer {
            self.leg.peer = hello.leg;
            self.leg.part(self.now);
        }
        if self.leg.echoed != self.leg.peer {
            self.leg.hello_due = true;
        }
        if hello.peer_leg != self.leg.own {
            return Ok(());
        }
        self.acknowledged(hello.received)?;
        self.flight.rewind();
        self.leg.established = true;
        self.leg.met = true;
        if self.phase == Phase::Live {
            self.events.push_back(Event::Established);
        }
        Ok(())
    }
}
