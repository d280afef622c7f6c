//! The session protocol `muster.session.v1`, as a state machine without I/O.
//!
//! One [`Session`] is one end. It knows streams, credits, turns, acknowledgements and resumption;
//! it knows no socket, no clock and no task. Whoever drives it passes in what arrived and the time,
//! sends what [`Session::poll_transmit`] gives whenever the leg takes more, and hands out what
//! [`Session::poll_event`] gives. `docs/protocol.md` describes the wire,
//! `docs/decisions/0002-session-resume.md` why resumption is as it is.
//!
//! What it relies on: a leg delivers messages in order, and when legs change, nothing of an older leg
//! comes after the first message of a newer one. Messages may be lost with the leg at any point.
//!
//! Ask for messages as late as possible, one by one, when the leg can take them:
//! what has left `poll_transmit` cannot be overtaken by a keystroke any more.

mod event;
mod flight;
mod leg;
mod message;
mod pace;
mod receive;
mod send;
mod stream;

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;

pub use event::{Event, OpenError, Outgoing, ProtocolError, code};
pub use message::{Control, Hello, InvalidControl, OpenTarget, SUBPROTOCOL, Target, Terminal, VERSION};

use crate::id::{SessionId, StreamId};
use crate::limits::{CONTROL_MAX, DATA_MAX, STREAMS_MAX};
use flight::{CONTROLS_MAX, Flight};
use leg::Leg;
use receive::Arrived;
use send::Turns;
use stream::{Class, Eof, QUEUE_ALONE, QUEUE_LOW, QUEUE_MAX, QUEUE_MIN, QUEUES_LOW, QUEUES_MAX, State, Stream, Streams};

/// Which end of a session this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The engineer's: opens odd streams.
    Client,
    /// The device's: opens even streams.
    Device,
}

/// Longest `message` of a refusal, a reset or a close, in bytes; the rest is cut.
const MESSAGE_MAX: usize = 1024;
/// Longest `code` and signal name, in bytes; the rest is cut.
const CODE_MAX: usize = 64;

/// One end of a session.
#[derive(Debug)]
pub struct Session {
    side: Side,
    id: SessionId,
    /// The latest time that was passed in.
    now: Duration,
    phase: Phase,
    leg: Leg,
    arrived: Arrived,
    flight: Flight,
    turns: Turns,
    /// Control messages to be sent, encoded.
    controls: VecDeque<String>,
    streams: Streams,
    /// The number of the next stream opened here.
    next_own: u32,
    /// The highest number that the peer has opened; 0 before the first.
    last_peer: u32,
    /// Bytes in all send queues.
    queued: usize,
    /// What all windows have grown.
    growth: usize,
    events: VecDeque<Event>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Live,
    /// Ended here; the peer is still to be told.
    Closing,
    /// Ended; nothing is to be said any more but a last acknowledgement.
    Closed,
}

impl Session {
    /// A new end, without a leg. The grace time runs from now.
    pub fn new(side: Side, id: SessionId, now: Duration) -> Self {
        Self {
            side,
            id,
            now,
            phase: Phase::Live,
            leg: Leg::new(now),
            arrived: Arrived::default(),
            flight: Flight::default(),
            turns: Turns::default(),
            controls: VecDeque::new(),
            streams: Streams::default(),
            next_own: match side {
                Side::Client => 1,
                Side::Device => 2,
            },
            last_peer: 0,
            queued: 0,
            growth: 0,
            events: VecDeque::new(),
        }
    }

    /// Which end this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The session's id.
    pub fn id(&self) -> &SessionId {
        &self.id
    }

    /// Whether the session is over. What `poll_transmit` still gives should be sent.
    pub fn is_closed(&self) -> bool {
        self.phase != Phase::Live
    }

    /// Whether the session is over and all was said: the leg can be closed.
    pub fn is_finished(&self) -> bool {
        match self.phase {
            Phase::Live => false,
            Phase::Closing => self.controls.is_empty() && self.flight.is_sent(),
            Phase::Closed => true,
        }
    }

    /// Streams that are open or being opened.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Payload bytes that this end holds to send, or to send again: bounded by the queues and the pace.
    pub fn retained_bytes(&self) -> usize {
        self.queued + self.flight.cost() + self.controls.iter().map(String::len).sum::<usize>()
    }

    /// The least round trip seen on the present leg.
    pub fn round_trip(&self) -> Option<Duration> {
        self.flight.pace().rtt()
    }

    /// The next thing that the application should know.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Opens a stream. Data may follow at once, within the first window.
    ///
    /// # Errors
    /// When the session is over, has too many streams, or the target does not fit in a message.
    pub fn open(&mut self, target: Target) -> Result<StreamId, OpenError> {
        if self.is_closed() {
            return Err(OpenError::Closed);
        }
        // With the peer away an application that opens and closes must not pile up messages.
        if self.streams.len() >= STREAMS_MAX || self.controls.len() >= CONTROLS_MAX / 2 {
            return Err(OpenError::TooMany);
        }
        let stream = StreamId(self.next_own);
        let next = self.next_own.checked_add(2).ok_or(OpenError::Exhausted)?;
        let state = Box::new(Stream::new(State::Opening, &target, self.now));
        let text = Control::Open { stream, target: OpenTarget::Known(target) }.encode();
        if text.len() > CONTROL_MAX {
            return Err(OpenError::TooLarge);
        }
        self.next_own = next;
        self.streams.insert(stream, state);
        self.controls.push_back(text);
        Ok(stream)
    }

    /// Answers the peer's `Open`: the stream is there. `info` is told to the peer; null if there is nothing to tell.
    pub fn accept(&mut self, stream: StreamId, info: Value) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        if state.state != State::Asked {
            return;
        }
        state.state = State::Open;
        let text = Control::Opened { stream, info }.encode();
        // What does not fit is left out: the stream matters more than what is told of it.
        let fits = text.len() <= CONTROL_MAX;
        self.controls.push_back(if fits { text } else { Control::Opened { stream, info: Value::Null }.encode() });
        self.make_ready(stream);
    }

    /// Answers the peer's `Open`: the stream will not be.
    pub fn refuse(&mut self, stream: StreamId, code: &str, message: &str) {
        if self.streams.get(&stream).is_some_and(|state| state.state == State::Asked) {
            self.forget(stream);
            self.queue_refused(stream, code, message);
        }
    }

    /// Bytes that may be queued on a stream now. After zero, wait for `Event::Writable`.
    /// For datagrams: a datagram up to this size.
    pub fn writable(&self, stream: StreamId) -> usize {
        self.streams.get(&stream).map_or(0, |state| state.writable(self.room()))
    }

    /// Queues data, at most what `writable` says. A small payload should own its memory: it is kept until acknowledged.
    ///
    /// On a datagram stream each call is one datagram; an empty or oversized one is dropped.
    pub fn send(&mut self, stream: StreamId, payload: Bytes) {
        let Some(state) = self.streams.get_mut(&stream) else { return };
        let datagram_fits = state.class != Class::Datagrams || payload.len() <= DATA_MAX;
        if payload.is_empty() || state.eof != Eof::No || !datagram_fits {
            return;
        }
        state.queued += payload.len();
        self.queued += payload.len();
        state.queue.push_back(payload);
        state.hungry |= state.queued > QUEUE_LOW || state.queued >= state.credit as usize;
        self.make_ready(stream);
    }

    /// The application has passed on `bytes` of what arrived on a stream: the peer may send as many more.
    pub fn consumed(&mut self, stream: StreamId, bytes: usize) {
        if let Some(state) = self.streams.get_mut(&stream)
            && state.consume(bytes)
            && !state.credit_listed
        {
            state.credit_listed = true;
            self.turns.credit(stream);
        }
    }

    /// Sends no more data on a stream after what is queued. The other direction goes on.
    pub fn finish(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.get_mut(&stream)
            && state.eof == Eof::No
        {
            state.eof = Eof::Due;
            self.make_ready(stream);
        }
    }

    /// Gives a stream up at once, in both directions, with what is queued. It is forgotten.
    pub fn reset(&mut self, stream: StreamId, code: &str, message: &str) {
        if let Some(state) = self.streams.get(&stream) {
            let asked = state.state == State::Asked;
            self.forget(stream);
            if asked {
                self.queue_refused(stream, code, message);
            } else {
                self.controls.push_back(Control::Reset { stream, code: cut(code, CODE_MAX), message: cut(message, MESSAGE_MAX) }.encode());
            }
        }
    }

    /// Tells the peer the size of the user's terminal. Goes ahead of queued data.
    pub fn resize(&mut self, stream: StreamId, cols: u16, rows: u16) {
        self.advise(stream, |stream| Control::Resize { stream, cols, rows });
    }

    /// Asks the peer to signal the stream's process. Goes ahead of queued data.
    pub fn signal(&mut self, stream: StreamId, signal: &str) {
        self.advise(stream, |stream| Control::Signal { stream, signal: cut(signal, CODE_MAX) });
    }

    /// Tells the peer's user something while they wait for the stream. Goes ahead of queued data.
    pub fn notice(&mut self, stream: StreamId, message: &str) {
        self.advise(stream, |stream| Control::Notice { stream, message: cut(message, MESSAGE_MAX) });
    }

    /// Tells the peer how the stream's process ended. Goes after queued data and before eof.
    pub fn exit(&mut self, stream: StreamId, code: Option<i32>, signal: Option<&str>) {
        if let Some(state) = self.streams.get_mut(&stream)
            && state.eof != Eof::Sent
        {
            state.exit = Some(Box::new((code, signal.map(|signal| cut(signal, CODE_MAX)))));
            self.make_ready(stream);
        }
    }

    /// Ends the session and tells the peer. `Event::Closed` follows here too.
    pub fn close(&mut self, code: &str, message: &str) {
        self.end(code, message, Phase::Closing);
    }

    /// A message on a live stream that may be left out when the peer is away for long.
    fn advise(&mut self, stream: StreamId, message: impl FnOnce(StreamId) -> Control) {
        if self.streams.contains_key(&stream) && self.controls.len() < CONTROLS_MAX / 2 {
            self.controls.push_back(message(stream).encode());
        }
    }

    fn queue_refused(&mut self, stream: StreamId, code: &str, message: &str) {
        self.controls.push_back(Control::Refused { stream, code: cut(code, CODE_MAX), message: cut(message, MESSAGE_MAX) }.encode());
    }

    /// Room in each stream's send queue.
    fn room(&self) -> usize {
        match self.queued {
            ..QUEUES_LOW => QUEUE_ALONE,
            QUEUES_LOW..QUEUES_MAX => QUEUE_MAX,
            QUEUES_MAX.. => QUEUE_MIN,
        }
    }

    /// Drops a stream's state. Lists that still name it are put right when they come to it.
    fn forget(&mut self, stream: StreamId) {
        if let Some(state) = self.streams.remove(&stream) {
            self.queued -= state.queued;
            self.growth -= state.growth();
            self.turns.left(state.place);
        }
    }

    fn end(&mut self, code: &str, message: &str, phase: Phase) {
        if self.phase != Phase::Live {
            // A second reason changes nothing, but there may be nobody left to tell.
            if phase == Phase::Closed {
                self.phase = phase;
                self.hush();
            }
            return;
        }
        self.phase = phase;
        self.streams = Streams::default();
        self.turns = Turns::default();
        (self.queued, self.growth) = (0, 0);
        let (code, message) = (cut(code, CODE_MAX), cut(message, MESSAGE_MAX));
        if phase == Phase::Closed {
            self.hush();
        } else {
            self.controls.push_back(Control::Close { code: code.clone(), message: message.clone() }.encode());
        }
        self.events.push_back(Event::Closed { code, message });
    }

    /// Nothing more is said.
    fn hush(&mut self) {
        self.controls = VecDeque::new();
        self.flight.clear();
    }
}

/// A text of at most `max` bytes, cut at a character.
fn cut(text: &str, max: usize) -> String {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
