//! What arrives: counted, checked against the stream's state, turned into events.
//!
//! A message for a stream that was forgotten is skipped, as both ends may have given it up at once;
//! a message for a stream that never was, or that breaks a credit, ends the session.

use std::time::Duration;

use bytes::{Buf, Bytes};

use super::flight::{CONTROL_BYTES_MAX, CONTROLS_MAX};
use super::message::{Control, OpenTarget, Target};
use super::pace::FLIGHT_MIN;
use super::stream::{Eof, State, Stream};
use super::{Event, Phase, ProtocolError, Session, Side, code};
use crate::id::StreamId;
use crate::limits::{DATA_MAX, STREAMS_MAX, WINDOW_MAX};

/// Bytes after which an acknowledgement goes: not above the sender's least bound on what is in flight,
/// or it would wait for `ACK_DELAY` again and again.
const ACK_BYTES: usize = FLIGHT_MIN;
/// Bytes after which it goes when they came within `ACK_FAST`: at such a speed the sender's bound is far higher.
const ACK_BYTES_FAST: usize = 64 * 1024;
/// See `ACK_BYTES_FAST`.
const ACK_FAST: Duration = Duration::from_millis(1);
/// Messages after which an acknowledgement goes at once: many small ones are kept by the sender too.
const ACK_MESSAGES: u32 = 32;
/// Longest time without an acknowledgement for what arrived.
const ACK_DELAY: Duration = Duration::from_millis(10);

/// The received direction of a session.
#[derive(Debug, Default)]
pub(super) struct Arrived {
    count: u64,
    untold_messages: u32,
    untold_bytes: usize,
    ack_at: Option<Duration>,
    /// When the first of the untold arrived.
    since: Duration,
}

impl Arrived {
    /// Counted messages so far.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn ack_deadline(&self) -> Option<Duration> {
        self.ack_at
    }

    fn note(&mut self, bytes: usize, now: Duration) {
        self.count += 1;
        self.untold_messages += 1;
        self.untold_bytes += bytes;
        if self.untold_messages == 1 {
            self.since = now;
        }
        let delay = match self.untold_bytes {
            _ if self.untold_messages >= ACK_MESSAGES => Duration::ZERO,
            ..ACK_BYTES => ACK_DELAY,
            ACK_BYTES..ACK_BYTES_FAST => ACK_FAST,
            ACK_BYTES_FAST.. => Duration::ZERO,
        };
        self.ack_at = Some(self.since + delay);
    }

    /// The peer is being told the count.
    pub(super) fn told(&mut self) -> u64 {
        *self = Self { count: self.count, ..Self::default() };
        self.count
    }

    /// The acknowledgement that is due, if one is.
    pub(super) fn take_ack(&mut self, now: Duration) -> Option<u64> {
        if self.ack_at.is_some_and(|at| at <= now) { Some(self.told()) } else { None }
    }
}

impl Session {
    /// A text message arrived on the leg.
    ///
    /// # Errors
    /// When the peer breaks a rule. The session is then over; what `poll_transmit` still gives tells the peer.
    pub fn receive_text(&mut self, text: &str, now: Duration) -> Result<(), ProtocolError> {
        self.now = now;
        if self.phase == Phase::Closed || !self.leg.is_up() {
            return Ok(());
        }
        self.leg.heard(now);
        let done = match Control::parse(text) {
            Ok(control) => self.receive_control(control, text.len()),
            Err(error) => Err(error.into()),
        };
        self.judge(done)
    }

    /// A binary message arrived on the leg: 4 bytes of stream id, then data.
    ///
    /// # Errors
    /// When the peer breaks a rule. The session is then over; what `poll_transmit` still gives tells the peer.
    pub fn receive_binary(&mut self, message: Bytes, now: Duration) -> Result<(), ProtocolError> {
        self.now = now;
        if self.phase == Phase::Closed || !self.leg.is_up() {
            return Ok(());
        }
        self.leg.heard(now);
        let done = self.receive_data(message);
        self.judge(done)
    }

    fn judge(&mut self, done: Result<(), ProtocolError>) -> Result<(), ProtocolError> {
        let done = done.and_then(|()| self.check_unacknowledged());
        if let Err(error) = &done {
            self.end(code::PROTOCOL, &error.to_string(), Phase::Closing);
        }
        done
    }

    /// A peer that provokes messages and never acknowledges must not grow this end.
    fn check_unacknowledged(&self) -> Result<(), ProtocolError> {
        let (kept, bytes) = self.flight.controls();
        let controls = kept + self.controls.len();
        if controls > CONTROLS_MAX || bytes > CONTROL_BYTES_MAX {
            return Err(ProtocolError::Unacknowledged(controls));
        }
        Ok(())
    }

    fn receive_data(&mut self, mut message: Bytes) -> Result<(), ProtocolError> {
        let size = message.len();
        if size <= 4 || size > 4 + DATA_MAX {
            return Err(ProtocolError::Size(size));
        }
        if !self.leg.is_established() {
            return Ok(());
        }
        let id = StreamId(message.get_u32());
        let size = message.len();
        self.arrived.note(size, self.now);
        if self.phase != Phase::Live {
            return Ok(());
        }
        let Some(stream) = self.streams.get_mut(&id) else { return self.forgotten(id, "data") };
        if let Some(when) = closed_for_data(stream) {
            return Err(ProtocolError::OutOfPlace { what: "data", stream: id, when });
        }
        if size > stream.granted as usize {
            return Err(ProtocolError::Credit { stream: id, size, credit: stream.granted });
        }
        // At most `DATA_MAX`.
        stream.granted -= size as u32;
        self.events.push_back(Event::Data { stream: id, payload: message });
        Ok(())
    }

    fn receive_control(&mut self, control: Control, size: usize) -> Result<(), ProtocolError> {
        if let Control::Hello(hello) = &control {
            return self.receive_hello(hello);
        }
        // Left over from an older leg.
        if !self.leg.is_established() {
            return Ok(());
        }
        if control.is_counted() {
            self.arrived.note(size, self.now);
        }
        if self.phase != Phase::Live {
            return match control {
                Control::Ack { received } => self.acknowledged(received),
                Control::Close { code, message } => {
                    self.end(&code, &message, Phase::Closed);
                    Ok(())
                }
                _ => Ok(()),
            };
        }
        match control {
            Control::Ack { received } => self.acknowledged(received),
            Control::Ping => {
                self.leg.pong_due = true;
                Ok(())
            }
            Control::Open { stream, target } => self.receive_open(stream, target),
            Control::Opened { stream, info } => {
                self.receive_answer(stream, "opened", |session, state| {
                    state.state = State::Open;
                    session.push_back(Event::Opened { stream, info });
                })?;
                self.make_ready(stream);
                Ok(())
            }
            Control::Refused { stream, code, message } => {
                let known = self.receive_answer(stream, "refused", |_, _| ())?;
                if known {
                    self.forget(stream);
                    self.events.push_back(Event::Refused { stream, code, message });
                }
                Ok(())
            }
            Control::Credit { stream, bytes } => self.receive_credit(stream, bytes),
            Control::Eof { stream } => self.receive_eof(stream),
            Control::Reset { stream, code, message } => {
                self.expect(stream, "reset", Event::Reset { stream, code, message })?;
                self.forget(stream);
                Ok(())
            }
            Control::Resize { stream, cols, rows } => self.expect(stream, "resize", Event::Resize { stream, cols, rows }),
            Control::Signal { stream, signal } => self.expect(stream, "signal", Event::Signal { stream, signal }),
            Control::Notice { stream, message } => self.expect(stream, "notice", Event::Notice { stream, message }),
            Control::Exit { stream, code, signal } => self.expect(stream, "exit", Event::Exit { stream, code, signal }),
            Control::Close { code, message } => {
                self.end(&code, &message, Phase::Closed);
                Ok(())
            }
            Control::Hello(_) | Control::Pong | Control::Unknown => Ok(()),
        }
    }

    pub(super) fn acknowledged(&mut self, received: u64) -> Result<(), ProtocolError> {
        let (acknowledged, sent) = (self.flight.acknowledged(), self.flight.total());
        if self.flight.acknowledge(received, self.now) { Ok(()) } else { Err(ProtocolError::Received { received, acknowledged, sent }) }
    }

    fn receive_open(&mut self, stream: StreamId, target: OpenTarget) -> Result<(), ProtocolError> {
        if !self.is_peers(stream) || stream.0 <= self.last_peer {
            return Err(ProtocolError::StreamNumber(stream));
        }
        self.last_peer = stream.0;
        match target {
            OpenTarget::Known(_) if self.streams.len() >= STREAMS_MAX => {
                let why = format!("this session has {STREAMS_MAX} streams open, which is the most; close some first");
                self.queue_refused(stream, code::LIMIT, &why);
            }
            OpenTarget::Known(target) => {
                self.streams.insert(stream, Box::new(Stream::new(State::Asked, &target, self.now)));
                self.events.push_back(Event::Open { stream, target });
            }
            OpenTarget::Unknown(target) => match target.get("kind").and_then(|kind| kind.as_str()) {
                Some(kind) if Target::KINDS.contains(&kind) => {
                    self.queue_refused(stream, code::INVALID, &format!("the fields of target {kind:?} are not valid"));
                }
                Some(kind) => {
                    let kind: String = kind.chars().take(40).collect();
                    self.queue_refused(stream, code::UNSUPPORTED, &format!("target {kind:?} is not supported by this version"));
                }
                None => self.queue_refused(stream, code::INVALID, "the target names no kind"),
            },
        }
        Ok(())
    }

    /// An answer to an open of ours. Whether the stream is still known.
    fn receive_answer(
        &mut self,
        id: StreamId,
        what: &'static str,
        act: impl FnOnce(&mut std::collections::VecDeque<Event>, &mut Stream),
    ) -> Result<bool, ProtocolError> {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.state == State::Opening => {
                act(&mut self.events, stream);
                Ok(true)
            }
            Some(_) => Err(ProtocolError::OutOfPlace { what, stream: id, when: "which did not wait for an answer" }),
            None => self.forgotten(id, what).map(|()| false),
        }
    }

    fn receive_credit(&mut self, id: StreamId, bytes: u32) -> Result<(), ProtocolError> {
        let Some(stream) = self.streams.get_mut(&id) else { return self.forgotten(id, "credit") };
        stream.credit = match stream.credit.checked_add(bytes) {
            Some(credit) if credit <= WINDOW_MAX => credit,
            _ => return Err(ProtocolError::CreditTooLarge { stream: id, bytes }),
        };
        self.tell_writable(id);
        self.make_ready(id);
        Ok(())
    }

    fn receive_eof(&mut self, id: StreamId) -> Result<(), ProtocolError> {
        let Some(stream) = self.streams.get_mut(&id) else { return self.forgotten(id, "eof") };
        if let Some(when) = closed_for_data(stream) {
            return Err(ProtocolError::OutOfPlace { what: "eof", stream: id, when });
        }
        stream.peer_eof = true;
        let done = stream.eof == Eof::Sent;
        self.events.push_back(Event::Eof { stream: id });
        if done {
            self.forget(id);
        }
        Ok(())
    }

    /// Passes a stream's event on if the stream is known.
    fn expect(&mut self, id: StreamId, what: &'static str, event: Event) -> Result<(), ProtocolError> {
        if !self.streams.contains_key(&id) {
            return self.forgotten(id, what);
        }
        self.events.push_back(event);
        Ok(())
    }

    /// A message for a stream that is not in the table: late, or for one that never was?
    fn forgotten(&self, stream: StreamId, what: &'static str) -> Result<(), ProtocolError> {
        let existed = if self.is_peers(stream) { stream.0 <= self.last_peer } else { stream.0 < self.next_own };
        if existed && stream.0 != 0 { Ok(()) } else { Err(ProtocolError::NeverOpened { what, stream }) }
    }

    fn is_peers(&self, stream: StreamId) -> bool {
        let odd = stream.0 % 2 == 1;
        odd == (self.side == Side::Device)
    }
}

fn closed_for_data(stream: &Stream) -> Option<&'static str> {
    if stream.peer_eof {
        Some("after its eof")
    } else if stream.state == State::Opening {
        Some("before opened")
    } else {
        None
    }
}
