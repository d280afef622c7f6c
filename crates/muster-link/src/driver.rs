//! Runs one end of a session over legs that come and go.
//!
//! The session's state machine ([`muster_proto::session`]) decides; this moves bytes: it dials the relay, writes what the machine
//! wants sent, hands out what arrived, and dials again when the leg breaks. Streams do not notice a change of legs.
//! Everything runs on one thread: the driver is the only one that touches the leg, each stream has a small task (`pump`) that sleeps
//! until its end point has something, and no message passes through a channel.
//!
//! It decides nothing about rights: the application answers each `Open`.

mod handle;
mod io;
mod leg;
mod pump;
mod reads;

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use muster_proto::backoff::Backoff;
use muster_proto::id::{SessionId, StreamId};
use muster_proto::session::{Control, Event, Outgoing, Session, Side, code};
use ring::rand::SecureRandom;
use tokio::time::Sleep;

pub use handle::{Answer, Handle, Refusal, Traffic};
pub use io::{Input, Io, Output};
pub use leg::{LegError, Relay};

use crate::websocket::{Message, QUEUE_TARGET, WebSocket, WebSocketError};
use handle::{Slot, State};

/// The relay closes a leg with this code when the session is over for good; the reason is a sentence for the user.
pub const CLOSE_ENDED: u16 = 4410;
/// The relay closes a leg with this code when a newer leg of the same end took its place.
pub const CLOSE_REPLACED: u16 = 4409;

/// First and last ceiling of the delay between two dials: a session is worth nothing after two minutes, and somebody waits for it.
const REDIAL: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// Bytes read from the leg in one go before what they caused is written: two reads of the WebSocket, so that end points get large writes.
const BATCH: usize = 128 * 1024;
/// How the relay begins its word on a session's end, sent right before [`CLOSE_ENDED`].
const CLOSE_PREFIX: &str = "{\"type\":\"close\"";
/// Bytes of stream id before the data of a binary message.
const STREAM_ID: usize = 4;
/// Longest farewell: flushing the last messages and closing the WebSocket in good order.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the owner of a session does with it.
pub trait Application {
    /// Something happened that is not just data: `Open`, `Opened`, `Refused`, `Reset`, `Resize`, `Signal`, `Exit`, `Established`.
    /// `Eof`, `Writable` and `Data` are dealt with by the driver, `Closed` ends [`Driver::run`].
    fn event(&mut self, handle: &Handle, event: Event);
    /// The leg changed.
    fn leg(&mut self, change: LegChange<'_>);
}

/// What happens to the leg, for a message to the user or a line in the log.
#[derive(Debug, Clone, Copy)]
pub enum LegChange<'a> {
    /// The WebSocket to the relay is open; `Established` follows when the other end is there too.
    Up,
    /// It broke; it is dialled again at once.
    Lost(&'a str),
    /// A dial failed; another follows after the delay.
    Failed(&'a LegError, Duration),
}

/// How a session ended.
#[derive(Debug)]
pub struct Ended {
    /// Machine-readable reason, see `muster_proto::session::code`.
    pub code: String,
    /// The sentence for the user.
    pub message: String,
    /// The last dial's error, if the session ended because the relay could not be reached or refused.
    pub leg: Option<LegError>,
    /// Bytes moved.
    pub traffic: Traffic,
}

/// One end of a session, ready to run.
pub struct Driver<A> {
    handle: Handle,
    relay: Relay,
    application: A,
    leg: Leg,
    backoff: Backoff,
    timer: Pin<Box<Sleep>>,
    /// When `timer` fires, by the session's clock.
    armed: Option<Duration>,
    /// A failed first dial is not tried again: a person waits, and the sentence says what to do.
    impatient: bool,
    closed: Option<(String, String)>,
    /// When `closed` was set.
    closed_at: Duration,
    last_error: Option<LegError>,
    /// What the relay said of the session's end while the other end was not there: the machine listens to its peer only.
    word: Option<Control>,
    met: bool,
    /// Reused between polls.
    fresh: Vec<StreamId>,
}

enum Leg {
    Up(Box<WebSocket>),
    Dialling(Pin<Box<dyn Future<Output = Result<WebSocket, LegError>>>>),
    Waiting(Pin<Box<Sleep>>),
    Gone,
}

impl<A: Application> Driver<A> {
    /// A session's end that will dial `relay`. Nothing happens before [`Self::run`].
    pub fn new(side: Side, session: SessionId, relay: Relay, application: A) -> Self {
        let origin = Instant::now();
        Self {
            handle: Handle::new(Session::new(side, session, Duration::ZERO), origin),
            leg: Leg::Gone,
            relay,
            application,
            backoff: Backoff::new(REDIAL.0, REDIAL.1),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: None,
            impatient: false,
            closed: None,
            closed_at: Duration::ZERO,
            last_error: None,
            word: None,
            met: false,
            fresh: Vec::new(),
        }
    }

    /// Ends when the first dial fails, instead of trying for the whole grace time.
    #[must_use]
    pub fn impatient(self) -> Self {
        Self { impatient: true, ..self }
    }

    /// Access to the session, for streams and for ending it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Runs the session to its end. Must run inside a `LocalSet`, for the streams' tasks.
    pub async fn run(mut self) -> (Ended, A) {
        self.leg = self.dial();
        let (code, message) = std::future::poll_fn(|cx| self.poll(cx)).await;
        // Dropping a stream's slot ends its task and closes its end point.
        let slots = self.handle.look(|state| {
            state.driver = None;
            state.over = true;
            std::mem::take(&mut state.slots)
        });
        for slot in slots.into_values() {
            cut_off(slot);
        }
        if let Leg::Up(mut leg) = std::mem::replace(&mut self.leg, Leg::Gone) {
            leg.queue_close(1000, "");
            // The peer may be gone; then there is nobody to be polite to.
            let _ = tokio::time::timeout(FAREWELL, leg.shutdown()).await;
        }
        let traffic = self.handle.traffic();
        (Ended { code, message, leg: self.last_error, traffic }, self.application)
    }

    fn dial(&self) -> Leg {
        let relay = self.relay.clone();
        Leg::Dialling(Box::pin(async move { relay.dial().await }))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(String, String)> {
        self.handle.look(|state| {
            if !state.driver.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.driver = Some(cx.waker().clone());
            }
        });
        loop {
            let now = self.handle.now();
            self.check_time(now);
            let more = self.receive(now, cx);
            self.hand_out();
            let flushed = self.transmit(now, cx);
            // What was sent made room on streams.
            self.hand_out();
            if let Some(end) = self.ended(flushed, now) {
                return Poll::Ready(end);
            }
            // After all that may have lost the leg: this is what waits for the next one.
            if self.arm(cx) || self.connect(now, cx) {
                continue;
            }
            if more {
                yield_to_others(cx);
            }
            return Poll::Pending;
        }
    }

    /// The end, once it was said, or there is no leg to say it on, or nobody to hear it.
    fn ended(&mut self, flushed: bool, now: Duration) -> Option<(String, String)> {
        self.closed.as_ref()?;
        let said = match self.leg {
            Leg::Up(_) => {
                let finished = |state: &mut State| state.session.is_finished() || !state.session.is_established();
                flushed && self.handle.look(finished) || now >= self.closed_at + FAREWELL
            }
            Leg::Dialling(_) | Leg::Waiting(_) | Leg::Gone => true,
        };
        if said { self.closed.take() } else { None }
    }

    fn check_time(&mut self, now: Duration) {
        let dead = self.handle.look(|state| {
            if state.session.next_deadline().is_some_and(|deadline| deadline <= now) {
                state.session.tick(now);
            }
            state.session.leg_is_dead(now)
        });
        if dead {
            self.lost("nothing came from the other end for too long");
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let farewell = self.closed.is_some().then(|| self.closed_at + FAREWELL);
        let session = self.handle.look(|state| state.session.next_deadline());
        [farewell, session].into_iter().flatten().min()
    }

    /// Sets the timer to the next deadline; true if that has already come.
    fn arm(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.next_deadline() else { return false };
        // A timer that fires early costs one look; moving it with each message would cost more.
        if self.armed.is_none_or(|armed| deadline < armed) {
            self.set_timer(deadline);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            self.armed = None;
            let now = self.handle.now();
            if deadline <= now {
                return true;
            }
            self.set_timer(deadline);
        }
        false
    }

    fn set_timer(&mut self, deadline: Duration) {
        let now = self.handle.now();
        // The wheel has a grain of a millisecond: never fire before the deadline.
        self.timer.as_mut().reset(tokio::time::Instant::now() + deadline.saturating_sub(now) + Duration::from_millis(1));
        self.armed = Some(deadline);
    }

    /// Reads what the leg has, up to a batch; true if there may be more.
    fn receive(&mut self, now: Duration, cx: &mut Context<'_>) -> bool {
        let mut bytes = 0;
        while bytes < BATCH {
            let Leg::Up(leg) = &mut self.leg else { return false };
            let message = match leg.poll_read(cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(Some(Message::Close { code, reason }))) => {
                    self.relay_closed(code, &reason, now);
                    return false;
                }
                Poll::Ready(Ok(Some(message))) => message,
                Poll::Ready(Ok(None)) => {
                    self.lost(&WebSocketError::Cut.to_string());
                    return false;
                }
                Poll::Ready(Err(error)) => {
                    self.lost(&error.to_string());
                    return false;
                }
            };
            let result = self.handle.look(|state| match message {
                Message::Binary(data) => {
                    bytes += data.len();
                    state.traffic.received += data.len().saturating_sub(STREAM_ID) as u64;
                    state.session.receive_binary(data, now)
                }
                Message::Text(text) => {
                    bytes += text.len();
                    if !state.session.is_established() && text.starts_with(CLOSE_PREFIX) {
                        self.word = Control::parse(&text).ok();
                    }
                    state.session.receive_text(&text, now)
                }
                Message::Close { .. } => Ok(()),
            });
            self.hand_out_events();
            if result.is_err() {
                // The machine has ended the session and knows what to tell the peer.
                return false;
            }
        }
        true
    }

    fn relay_closed(&mut self, code: u16, reason: &str, now: Duration) {
        match code {
            CLOSE_ENDED => match self.word.take() {
                Some(Control::Close { code, message }) => self.end(&code, &message, now),
                _ => self.end(code::DONE, if reason.is_empty() { "the hub ended the session" } else { reason }, now),
            },
            CLOSE_REPLACED => self.end(code::CANCELLED, "another connection took this end of the session over", now),
            _ => self.lost(if reason.is_empty() { "the hub closed the connection" } else { reason }),
        }
    }

    /// The session is over, and there is nobody to tell.
    fn end(&mut self, code: &str, message: &str, now: Duration) {
        self.leg = Leg::Gone;
        self.handle.look(|state| state.session.leg_down(now));
        self.note_closed(code.to_owned(), message.to_owned());
    }

    fn note_closed(&mut self, code: String, message: String) {
        if self.closed.is_none() {
            self.closed = Some((code, message));
            self.closed_at = self.handle.now();
        }
    }

    /// The leg is gone: dial again.
    fn lost(&mut self, why: &str) {
        let now = self.handle.now();
        self.handle.look(|state| state.session.leg_down(now));
        if self.closed.is_some() {
            self.leg = Leg::Gone;
            return;
        }
        self.application.leg(LegChange::Lost(why));
        // Spread: all sessions of a hub lose their legs in the same moment when it restarts.
        self.leg = Leg::Waiting(Box::pin(tokio::time::sleep(self.backoff.next(random(), None))));
    }

    /// Goes on with a dial; true if something changed.
    fn connect(&mut self, now: Duration, cx: &mut Context<'_>) -> bool {
        if self.closed.is_some() {
            self.leg = Leg::Gone;
            return false;
        }
        match &mut self.leg {
            Leg::Waiting(sleep) => {
                if sleep.as_mut().poll(cx).is_pending() {
                    return false;
                }
                self.leg = self.dial();
            }
            Leg::Dialling(dial) => match dial.as_mut().poll(cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(leg)) => {
                    self.leg = Leg::Up(Box::new(leg));
                    self.last_error = None;
                    self.handle.look(|state| state.session.leg_up(now));
                    self.application.leg(LegChange::Up);
                }
                Poll::Ready(Err(error)) => self.failed(error, now),
            },
            Leg::Up(_) | Leg::Gone => return false,
        }
        true
    }

    fn failed(&mut self, error: LegError, now: Duration) {
        let fatal = matches!(error, LegError::Refused(_)) || self.impatient && !self.met;
        if fatal {
            let code = match &error {
                LegError::Refused(problem) => problem.code.clone(),
                _ => code::UNREACHABLE.to_owned(),
            };
            self.end(&code, &error.to_string(), now);
        } else {
            let delay = self.backoff.next(random(), error.retry_in());
            self.application.leg(LegChange::Failed(&error, delay));
            self.leg = Leg::Waiting(Box::pin(tokio::time::sleep(delay)));
        }
        self.last_error = Some(error);
    }

    /// Hands out events and writes arrived data to its end points.
    fn hand_out(&mut self) {
        self.hand_out_events();
        self.handle.look(|state| std::mem::swap(&mut state.fresh, &mut self.fresh));
        while let Some(stream) = self.fresh.pop() {
            self.handle.look(|state| state.write_out(stream));
        }
    }

    fn hand_out_events(&mut self) {
        while let Some(event) = self.handle.look(|state| state.session.poll_event()) {
            self.hand_out_one(event);
        }
    }

    fn hand_out_one(&mut self, event: Event) {
        match event {
            Event::Data { stream, payload } => return self.handle.look(|state| state.arrived(stream, payload)),
            Event::Eof { stream } => return self.handle.look(|state| state.peer_finished(stream)),
            Event::Writable { stream } => {
                return self.handle.look(|state| {
                    if let Some(slot) = state.slots.get(&stream) {
                        slot.wake();
                    }
                });
            }
            Event::Closed { code, message } => return self.note_closed(code, message),
            Event::Established => {
                self.met = true;
                self.backoff.reset();
            }
            Event::Open { stream, .. } => self.handle.look(|state| {
                state.slots.insert(stream, Slot::default());
            }),
            Event::Opened { stream, ref info } => self.answer(stream, Ok(info.clone())),
            Event::Refused { stream, ref code, ref message } => {
                self.answer(stream, Err(Refusal { code: code.clone(), message: message.clone() }));
                self.drop_slot(stream);
            }
            Event::Reset { stream, ref code, ref message } => {
                self.answer(stream, Err(Refusal { code: code.clone(), message: message.clone() }));
                self.drop_slot(stream);
            }
            Event::Resize { .. } | Event::Signal { .. } | Event::Notice { .. } | Event::Exit { .. } => {}
        }
        self.application.event(&self.handle, event);
    }

    fn answer(&self, stream: StreamId, answer: Answer) {
        let waiting = self.handle.look(|state| state.slots.get_mut(&stream).and_then(|slot| slot.answer.take()));
        if let Some(waiting) = waiting {
            // Whoever asked may have lost interest.
            let _ = waiting.send(answer);
        }
    }

    fn drop_slot(&self, stream: StreamId) {
        if let Some(mut slot) = self.handle.look(|state| state.slots.remove(&stream))
            && let Some(io) = slot.io.take()
        {
            io.break_off();
        }
    }

    /// Sends what the session has to say, as long as the leg takes it; true if nothing waits.
    fn transmit(&mut self, now: Duration, cx: &mut Context<'_>) -> bool {
        let Leg::Up(leg) = &mut self.leg else { return true };
        loop {
            let mut drained = false;
            self.handle.look(|state| {
                while leg.queued_bytes() < QUEUE_TARGET {
                    match state.session.poll_transmit(now) {
                        Some(Outgoing::Control(text)) => leg.queue_text(&text),
                        Some(Outgoing::Data { stream, payload }) => leg.queue_binary(stream.0.to_be_bytes(), &payload),
                        None => {
                            drained = true;
                            break;
                        }
                    }
                }
            });
            match leg.poll_flush(cx) {
                Poll::Pending => return false,
                Poll::Ready(Ok(())) if drained => return true,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => {
                    self.lost(&error.to_string());
                    return false;
                }
            }
        }
    }
}

/// Comes back after the runtime has asked the kernel what else is ready.
///
/// A plain wake would come back first many times over: a busy stream would keep a keystroke waiting in its socket.
fn yield_to_others(cx: &mut Context<'_>) {
    // Its first poll hands our waker to the runtime for after its next look at the sockets.
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness the delay is the longest: late is better than all at once.
    if ring::rand::SystemRandom::new().fill(&mut bytes).is_ok() { u64::from_ne_bytes(bytes) } else { u64::MAX }
}

/// The session is over for a stream that was still open: its program must not take this for a regular end.
/// Who waits for the stream's answer gets none: [`Driver::run`] says how the session ended.
fn cut_off(mut slot: Slot) {
    if let Some(io) = slot.io.take() {
        io.break_off();
    }
}

#[cfg(test)]
mod tests;
