//! One running session: moves messages between its two legs, and ends it when its time is over.
//!
//! It looks at no message but whole: session protocol is between the two ends.
//! It reads one leg only while the other takes what was read before, so at most one read and one write buffer stand in each
//! direction, and a slow end slows the other end down, not the hub.
//! While one leg is away, what the other says is dropped: by the protocol both ends repeat what the other has not acknowledged.

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use muster_link::driver::{CLOSE_ENDED, CLOSE_REPLACED};
use muster_link::websocket::{Message, QUEUE_TARGET, WebSocket};
use muster_proto::session::{Control, Side};
use muster_proto::websocket::close_code;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::legs::{Legs, PING_AFTER, SILENT};
use super::{Command, End, Live};

/// Text messages held for a leg that is not there yet: a first hello, so that opening costs no round trip more.
const HELD_MAX: usize = 4;
/// How long an end may take to read its good-bye.
const FAREWELL: Duration = Duration::from_secs(2);

/// A running session's task.
pub(super) struct Pump {
    live: Arc<Live>,
    inbox: mpsc::Receiver<Command>,
    began: Instant,
    legs: Legs,
    client: Option<Leg>,
    device: Option<Leg>,
    timer: Pin<Box<Sleep>>,
}

struct Leg {
    socket: WebSocket,
    heard: Instant,
    received: u64,
    /// It was not read because the other leg takes nothing: its silence is ours.
    held_back: bool,
    /// Text for the other leg, which is not there yet.
    held: Vec<String>,
}

/// What one direction's turn came to.
enum Turn {
    Waiting,
    Down,
    Ended,
}

impl Pump {
    pub(super) fn new(live: Arc<Live>, inbox: mpsc::Receiver<Command>, legs: Legs) -> Self {
        let began = Instant::now();
        Self { live, inbox, began, legs, client: None, device: None, timer: Box::pin(sleep_until(began)) }
    }

    /// Runs until the session ends, and says good-bye to both ends. Also tells whether the device was there to hear it.
    pub(super) async fn run(mut self) -> (End, bool) {
        let end = std::future::poll_fn(|cx| self.poll(cx)).await;
        let told = self.device.is_some();
        let text = Control::Close { code: end.code.clone(), message: end.message.clone() }.encode();
        for leg in [self.client.take(), self.device.take()].into_iter().flatten() {
            let mut socket = leg.socket;
            socket.queue_text(&text);
            socket.queue_close(CLOSE_ENDED, &end.message);
            tokio::spawn(timeout(FAREWELL, socket.shutdown()));
        }
        self.live.legs.store(0, Ordering::Relaxed);
        (end, told)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            match self.inbox.poll_recv(cx) {
                Poll::Ready(Some(Command::Leg(side, socket))) => self.attach(side, *socket),
                Poll::Ready(Some(Command::End(end))) => return Poll::Ready(end),
                // The session itself holds a sender, so there is no end of the channel before the session's.
                Poll::Ready(None) | Poll::Pending => break,
            }
        }
        for side in [Side::Client, Side::Device] {
            match self.turn(side, cx) {
                Turn::Waiting | Turn::Down => {}
                Turn::Ended => {
                    let (who, by) = match side {
                        Side::Client => ("the user", self.live.email.clone()),
                        Side::Device => ("the device", format!("device:{}", self.live.uid)),
                    };
                    return Poll::Ready(End { code: "closed".into(), message: format!("ended by {who}"), by, from: None });
                }
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            self.probe(cx);
            let now = self.began.elapsed();
            if let Some(end) = self.legs.verdict(now) {
                return Poll::Ready(end);
            }
            let deadline = self.legs.deadline().map_or(PING_AFTER, |deadline| deadline.saturating_sub(now).min(PING_AFTER));
            self.timer.as_mut().reset(Instant::now() + deadline);
        }
        Poll::Pending
    }

    fn attach(&mut self, side: Side, socket: WebSocket) {
        let leg = Leg { socket, heard: Instant::now(), received: 0, held_back: false, held: Vec::new() };
        if let Some(mut old) = self.slot(side).replace(leg) {
            old.socket.queue_close(CLOSE_REPLACED, "a newer connection took its place");
            tokio::spawn(timeout(FAREWELL, old.socket.shutdown()));
        }
        if self.legs.up(side) {
            self.live.opened();
        }
        self.note();
        tracing::debug!(session = %self.live.id, ?side, "leg attached");
    }

    fn slot(&mut self, side: Side) -> &mut Option<Leg> {
        match side {
            Side::Client => &mut self.client,
            Side::Device => &mut self.device,
        }
    }

    fn down(&mut self, side: Side) {
        *self.slot(side) = None;
        self.legs.down(side, self.began.elapsed());
        // The grace time is nearer than what the timer waits for.
        self.timer.as_mut().reset(Instant::now());
        self.note();
        tracing::debug!(session = %self.live.id, ?side, "leg lost");
    }

    /// What others may know.
    fn note(&self) {
        let bits = u8::from(self.client.is_some()) | u8::from(self.device.is_some()) << 1;
        self.live.legs.store(bits, Ordering::Relaxed);
    }

    /// Moves what the leg of `side` has for the other one.
    fn turn(&mut self, side: Side, cx: &mut Context<'_>) -> Turn {
        let (from, to, count) = match side {
            Side::Client => (&mut self.client, &mut self.device, &self.live.to_device),
            Side::Device => (&mut self.device, &mut self.client, &self.live.to_client),
        };
        let Some(from) = from else { return Turn::Waiting };
        let other = match side {
            Side::Client => Side::Device,
            Side::Device => Side::Client,
        };
        let mut moved = 0u64;
        let turn = match to {
            None => from.hold(cx),
            Some(to) => match from.forward(&mut to.socket, &mut moved, cx) {
                Ok(turn) => turn,
                Err(OtherBroke) => {
                    count.fetch_add(moved, Ordering::Relaxed);
                    self.down(other);
                    // Read on, so that the end of this leg is seen as well.
                    return self.turn(side, cx);
                }
            },
        };
        count.fetch_add(moved, Ordering::Relaxed);
        if matches!(turn, Turn::Down) {
            self.down(side);
        }
        turn
    }

    /// Asks quiet legs whether they are there, and drops those that have not answered.
    fn probe(&mut self, cx: &mut Context<'_>) {
        let now = Instant::now();
        for side in [Side::Client, Side::Device] {
            let Some(leg) = self.slot(side) else { continue };
            let received = leg.socket.received_bytes();
            if received != leg.received || std::mem::take(&mut leg.held_back) {
                leg.received = received;
                leg.heard = now;
            }
            let quiet = now - leg.heard;
            if quiet >= SILENT {
                tracing::info!(session = %self.live.id, ?side, "a session's leg is silent; dropped");
                self.down(side);
            } else if quiet >= PING_AFTER {
                leg.socket.queue_ping();
                let _ = leg.socket.poll_flush(cx);
            }
        }
    }
}

/// The leg that was written to broke.
struct OtherBroke;

impl Leg {
    fn forward(&mut self, to: &mut WebSocket, moved: &mut u64, cx: &mut Context<'_>) -> Result<Turn, OtherBroke> {
        for text in self.held.drain(..) {
            *moved += text.len() as u64;
            to.queue_text(&text);
        }
        let turn = loop {
            if to.queued_bytes() >= QUEUE_TARGET {
                match to.poll_flush(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return Err(OtherBroke),
                    // Not read before this is written: a slow reader slows its peer down.
                    Poll::Pending => {
                        self.held_back = true;
                        break Turn::Waiting;
                    }
                }
            }
            match self.socket.poll_read(cx) {
                Poll::Ready(Ok(Some(Message::Binary(payload)))) => {
                    *moved += payload.len() as u64;
                    to.queue_message(&payload);
                }
                Poll::Ready(Ok(Some(Message::Text(text)))) => {
                    *moved += text.len() as u64;
                    to.queue_text(&text);
                }
                Poll::Ready(Ok(Some(Message::Close { code, .. }))) => break ended(code),
                Poll::Ready(Ok(None) | Err(_)) => break Turn::Down,
                Poll::Pending => break Turn::Waiting,
            }
        };
        if to.queued_bytes() > 0 && matches!(to.poll_flush(cx), Poll::Ready(Err(_))) {
            return Err(OtherBroke);
        }
        // A pong, or the answer to a close.
        if self.socket.queued_bytes() > 0 {
            let _ = self.socket.poll_flush(cx);
        }
        Ok(turn)
    }

    /// Reads while the other leg is away.
    fn hold(&mut self, cx: &mut Context<'_>) -> Turn {
        let turn = loop {
            match self.socket.poll_read(cx) {
                Poll::Ready(Ok(Some(Message::Text(text)))) if self.held.len() < HELD_MAX => self.held.push(text),
                Poll::Ready(Ok(Some(Message::Text(_) | Message::Binary(_)))) => {}
                Poll::Ready(Ok(Some(Message::Close { code, .. }))) => break ended(code),
                Poll::Ready(Ok(None) | Err(_)) => break Turn::Down,
                Poll::Pending => break Turn::Waiting,
            }
        };
        if self.socket.queued_bytes() > 0 {
            let _ = self.socket.poll_flush(cx);
        }
        turn
    }
}

/// An end that says 1000 is done; any other code is an accident of its leg.
fn ended(code: u16) -> Turn {
    if code == close_code::NORMAL { Turn::Ended } else { Turn::Down }
}
