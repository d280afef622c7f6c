//! One stream's state, and the table of streams.
//!
//! Only numbers and queues: what they mean on the wire stands in `send.rs` and `receive.rs`.
//! An idle stream costs its box and an entry in the table, under 400 bytes.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use bytes::Bytes;

use super::message::Target;
use crate::id::StreamId;
use crate::limits::{WINDOW_FIRST, WINDOW_MAX};

/// Room in a stream's send queue: two full messages, so that one is always ready while the next is read.
pub(super) const QUEUE_MAX: usize = 128 * 1024;
/// Room while the session's queues are under [`QUEUES_LOW`], as with one stream: two full messages are read at once.
pub(super) const QUEUE_ALONE: usize = 2 * QUEUE_MAX;
/// Bytes queued over all streams above which each has only [`QUEUE_MAX`]: what is queued should stay in the processor's cache.
pub(super) const QUEUES_LOW: usize = QUEUE_ALONE;
/// Room while the session's queues are over [`QUEUES_MAX`]: every stream keeps a little, so that none is shut out.
pub(super) const QUEUE_MIN: usize = 32 * 1024;
/// Bytes queued over all streams above which each has only [`QUEUE_MIN`].
pub(super) const QUEUES_MAX: usize = 8 * 1024 * 1024;
/// A queue longer than this after a `send` makes a `Writable` event when it has become shorter.
/// It must be under [`QUEUE_MIN`]: then a stream whose `writable` is zero always has an event to come.
pub(super) const QUEUE_LOW: usize = QUEUE_MIN / 2;
/// Growth of windows over all streams, in bytes: what a peer can make this end hold beyond the first windows.
pub(super) const GROWTH_MAX: usize = 32 * 1024 * 1024;
/// A window that is used up within this many round trips is too small.
const GROW_WITHIN: u32 = 4;
/// Round trips count as at least this for the growth of windows: on a fast path a larger window saves credit messages.
const GROW_RTT: Duration = Duration::from_millis(10);

/// Who has said what about a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// We asked; the peer has not answered. We may send.
    Opening,
    /// The peer asked; we have not answered. It may send, we not yet.
    Asked,
    /// Both agree.
    Open,
}

/// How a stream's data may be cut and when it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Bytes, ahead of the others.
    Terminal,
    /// Bytes.
    Bytes,
    /// One message is one datagram.
    Datagrams,
}

/// The scheduler's list in which a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In none: nothing to send.
    Idle,
    Terminals,
    Fresh,
    Bulk,
}

/// Our end of the direction that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eof {
    No,
    /// To be sent after the queue.
    Due,
    Sent,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) state: State,
    pub(super) class: Class,

    // Sending.
    pub(super) queue: VecDeque<Bytes>,
    pub(super) queued: usize,
    /// What the peer still takes.
    pub(super) credit: u32,
    /// The end of the process, to be sent after the queue and before eof.
    pub(super) exit: Option<Box<(Option<i32>, Option<String>)>>,
    pub(super) eof: Eof,
    pub(super) place: Place,
    /// Cost of what was sent in the present turn.
    pub(super) spent: usize,
    /// The bulk's turns when the right to be ahead of it was last given.
    pub(super) round: u32,
    /// Whether a `Writable` event is owed.
    pub(super) hungry: bool,

    // Receiving. `window` is always `granted + due + what the application holds`.
    pub(super) window: u32,
    /// What the peer may still send.
    pub(super) granted: u32,
    /// Consumed and not yet credited again.
    pub(super) due: u32,
    pub(super) peer_eof: bool,
    pub(super) credit_listed: bool,
    epoch_began: Duration,
    epoch_consumed: u32,
}

impl Stream {
    pub(super) fn new(state: State, target: &Target, now: Duration) -> Self {
        let class = match target {
            Target::Terminal(_) => Class::Terminal,
            Target::Udp { .. } => Class::Datagrams,
            _ => Class::Bytes,
        };
        Self {
            state,
            class,
            queue: VecDeque::new(),
            queued: 0,
            credit: WINDOW_FIRST,
            exit: None,
            eof: Eof::No,
            place: Place::Idle,
            spent: 0,
            round: 0,
            hungry: false,
            window: WINDOW_FIRST,
            granted: WINDOW_FIRST,
            due: 0,
            peer_eof: false,
            credit_listed: false,
            epoch_began: now,
            epoch_consumed: 0,
        }
    }

    /// Whether the scheduler has anything to take from this stream.
    pub(super) fn is_sendable(&self) -> bool {
        if self.state == State::Asked {
            return false;
        }
        match self.queue.front() {
            Some(next) if self.class == Class::Datagrams => next.len() <= self.credit as usize,
            Some(_) => self.credit > 0,
            None => self.exit.is_some() || self.eof == Eof::Due,
        }
    }

    /// Bytes that may be queued, with `room` for the whole queue.
    pub(super) fn writable(&self, room: usize) -> usize {
        if self.eof != Eof::No {
            return 0;
        }
        (self.credit as usize).min(room).saturating_sub(self.queued)
    }

    /// Bytes that arrived and have not been consumed.
    pub(super) fn held(&self) -> u32 {
        self.window - self.granted - self.due
    }

    /// Notes what was consumed; whether the peer should now be told.
    pub(super) fn consume(&mut self, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.held());
        self.due += bytes;
        // A quarter: rarely enough to be cheap, often enough that the peer never runs dry.
        !self.peer_eof && self.due >= self.window / 4
    }

    /// Takes the credit to be given now, with a larger window if the peer used the last one up within a few round trips.
    /// `growth` is what all windows of the session have grown, and is kept up to date.
    pub(super) fn take_credit(&mut self, now: Duration, rtt: Duration, growth: &mut usize) -> u32 {
        let mut bytes = self.due;
        self.due = 0;
        self.epoch_consumed = self.epoch_consumed.saturating_add(bytes);
        if self.epoch_consumed >= self.window {
            let took = now.saturating_sub(self.epoch_began);
            let more = self.window.min(WINDOW_MAX - self.window);
            if took < rtt.max(GROW_RTT) * GROW_WITHIN && *growth + more as usize <= GROWTH_MAX {
                self.window += more;
                *growth += more as usize;
                bytes += more;
            }
            self.epoch_consumed = 0;
            self.epoch_began = now;
        }
        self.granted += bytes;
        bytes
    }

    /// Bytes by which the window has grown.
    pub(super) fn growth(&self) -> usize {
        (self.window - WINDOW_FIRST) as usize
    }
}

/// Streams by id. Boxed, so that a growing table moves pointers only.
pub(super) type Streams = HashMap<StreamId, Box<Stream>, BuildHasherDefault<IdHasher>>;

/// One multiplication: ids are small numbers, at most `2 * STREAMS_MAX` are there, and a peer that makes them collide slows itself.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }
    fn write_u32(&mut self, id: u32) {
        let mixed = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_stream_is_small() {
        // Beside it: a table entry of 16 bytes, and 128 for the queue once it was used.
        assert!(size_of::<Stream>() <= 200, "{}", size_of::<Stream>());
    }

    #[test]
    fn small_ids_do_not_collide() {
        let mut table = Streams::default();
        let target = Target::List { path: "/".into() };
        for id in (1..20_000).step_by(2) {
            table.insert(StreamId(id), Box::new(Stream::new(State::Open, &target, Duration::ZERO)));
        }
        let hash = |id: u32| {
            let mut hasher = IdHasher::default();
            hasher.write_u32(id);
            hasher.finish()
        };
        // As the table uses them: low bits for the place, high bits for the tag.
        let places: std::collections::HashSet<(u64, u64)> = (1..20_000).step_by(2).map(|id| (hash(id) % 16_384, hash(id) >> 57)).collect();
        assert!(places.len() > 9_900, "{} of 10,000", places.len());
        assert_eq!(table.len(), 10_000);
    }
}
