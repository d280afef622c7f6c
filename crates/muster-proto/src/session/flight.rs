//! Counted messages that were sent and not acknowledged: kept in order, sent again after a resumption.
//!
//! A data message is kept by a cheap clone of its `Bytes`. What may be kept is bounded by the pace (data)
//! and by [`CONTROLS_MAX`] and [`CONTROL_BYTES_MAX`] (control messages, which a peer can provoke).

use std::collections::VecDeque;
use std::time::Duration;

use super::event::Outgoing;
use super::pace::{Pace, Stamp};

/// What a message costs beside its bytes: its place in the queue, so that many small messages are bounded as well.
const OVERHEAD: usize = 64;
/// Control messages, queued or kept, with which a peer that does not acknowledge is given up:
/// eight for each of the most streams, which an honest peer never reaches, as it acknowledges every 32.
pub(super) const CONTROLS_MAX: usize = 32 * 1024;
/// The same in bytes.
pub(super) const CONTROL_BYTES_MAX: usize = 8 * 1024 * 1024;

#[derive(Debug)]
struct Kept {
    message: Outgoing,
    stamp: Stamp,
}

/// The sent direction of a session.
#[derive(Debug, Default)]
pub(super) struct Flight {
    kept: VecDeque<Kept>,
    /// Counted messages that the peer has acknowledged.
    acknowledged: u64,
    /// How many of `kept` were sent on this leg.
    sent: usize,
    /// Cost of all that is kept.
    cost: usize,
    controls: usize,
    control_bytes: usize,
    pace: Pace,
}

impl Flight {
    /// Counted messages sent so far.
    pub(super) fn total(&self) -> u64 {
        self.acknowledged + self.kept.len() as u64
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Bytes under way, with their overhead.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Kept control messages: how many, and their bytes.
    pub(super) fn controls(&self) -> (usize, usize) {
        (self.controls, self.control_bytes)
    }

    /// Whether `extra` bytes beyond the pace may be under way before the next message.
    pub(super) fn has_room(&self, extra: usize) -> bool {
        self.cost < self.pace.limit() + extra
    }

    pub(super) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// Whether all that is kept was sent on this leg.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.kept.len()
    }

    /// Counts a new message, keeps it, and gives what to send. With `slack` no data waits behind it.
    pub(super) fn keep(&mut self, message: Outgoing, slack: bool, now: Duration) -> Outgoing {
        debug_assert!(self.is_sent(), "a new message would overtake one that is sent again");
        let size = size(&message);
        if matches!(message, Outgoing::Control(_)) {
            self.controls += 1;
            self.control_bytes += size;
        }
        let stamp = self.pace.sent(slack, now);
        self.cost += size + OVERHEAD;
        self.kept.push_back(Kept { message: message.clone(), stamp });
        self.sent += 1;
        message
    }

    /// The next message to be sent again.
    pub(super) fn resend(&mut self, now: Duration) -> Option<Outgoing> {
        let kept = self.kept.get_mut(self.sent)?;
        kept.stamp = self.pace.sent(false, now);
        self.sent += 1;
        Some(kept.message.clone())
    }

    /// Both ends met on new legs: what is not acknowledged goes again, and the line is measured anew.
    pub(super) fn rewind(&mut self) {
        self.sent = 0;
        self.pace = Pace::default();
    }

    /// The peer has `received` counted messages. False if that cannot be.
    pub(super) fn acknowledge(&mut self, received: u64, now: Duration) -> bool {
        if received < self.acknowledged || received > self.total() {
            return false;
        }
        let (mut bytes, mut newest) = (0, None);
        while self.acknowledged < received {
            let Some(kept) = self.kept.pop_front() else { break };
            self.acknowledged += 1;
            let size = size(&kept.message);
            if matches!(kept.message, Outgoing::Control(_)) {
                self.controls -= 1;
                self.control_bytes -= size;
            }
            self.cost -= size + OVERHEAD;
            bytes += size + OVERHEAD;
            // What arrived on an earlier leg says nothing of this one.
            newest = (self.sent > 0).then_some(kept.stamp);
            self.sent = self.sent.saturating_sub(1);
        }
        if let Some(newest) = newest {
            self.pace.acknowledged(newest, bytes, self.cost, now);
        }
        if self.kept.is_empty() && self.kept.capacity() > 1024 {
            self.kept.shrink_to(64);
        }
        true
    }

    /// Forgets all: nobody will ask for it again.
    pub(super) fn clear(&mut self) {
        self.acknowledged = self.total();
        self.kept = VecDeque::new();
        (self.sent, self.cost, self.controls, self.control_bytes) = (0, 0, 0, 0);
    }
}

fn size(message: &Outgoing) -> usize {
    match message {
        Outgoing::Control(text) => text.len(),
        Outgoing::Data { payload, .. } => payload.len(),
    }
}
