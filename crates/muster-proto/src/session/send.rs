//! What goes next: control messages first, then terminals, then streams that were idle, then the others in turns.
//!
//! Streams wait in three lists. One that had nothing to send begins in `fresh`, ahead of the bulk, so that a keystroke
//! in a forwarded connection does not wait behind a file. It may send one turn there for each round of the bulk, in pieces
//! as small as it likes; beyond that it goes to the end of `bulk` like the others, or one that stops and starts would
//! always be ahead. After four turns ahead of the others, one of the others goes, so that none starves.
//! All steps take constant time, however many streams there are.

use std::collections::VecDeque;
use std::time::Duration;

use super::flight::Flight;
use super::message::Control;
use super::stream::{Class, Eof, Place, QUEUE_LOW, State, Stream};
use super::{Event, Outgoing, Phase, Session};
use crate::id::StreamId;
use crate::limits::{DATA_LONG, DATA_MAX, TURN};

/// A rest as short as this goes with the piece before it instead of alone.
const CRUMB: usize = DATA_MAX - DATA_LONG - 12;
/// What a message counts at least in its turn, so that many small ones do not make a turn endless.
const TURN_COST_MIN: usize = TURN / 16;
/// What terminals and fresh streams may send before one of the others has a turn.
const EXPRESS_MAX: usize = 4 * TURN;
/// What may be in flight beyond the pace for fresh streams: they do not wait for a file's acknowledgements.
const FRESH_ROOM: usize = 2 * TURN;
/// The same for terminals, which do not wait for a crowd of fresh streams either.
const TERMINAL_ROOM: usize = 2 * FRESH_ROOM;

/// The scheduler's lists. They may name streams that are gone; whoever comes to one skips it.
#[derive(Debug, Default)]
pub(super) struct Turns {
    terminals: VecDeque<StreamId>,
    fresh: VecDeque<StreamId>,
    bulk: VecDeque<StreamId>,
    /// Streams that stand in a list and are not gone.
    waiting: usize,
    /// Cost of what went ahead of the others since the last of them had a turn.
    express: usize,
    /// Who is next when terminals let the others through.
    bulk_was_last: bool,
    /// Turns of `bulk` so far.
    bulk_turns: u32,
    /// Streams whose peer is to be given credit.
    credits: VecDeque<StreamId>,
}

impl Turns {
    /// The stream's peer is to be given credit.
    pub(super) fn credit(&mut self, stream: StreamId) {
        self.credits.push_back(stream);
    }

    /// A stream in this place is gone.
    pub(super) fn left(&mut self, place: Place) {
        if place != Place::Idle {
            self.waiting -= 1;
        }
    }

    fn list(&mut self, place: Place) -> &mut VecDeque<StreamId> {
        match place {
            Place::Terminals => &mut self.terminals,
            Place::Fresh => &mut self.fresh,
            Place::Bulk | Place::Idle => &mut self.bulk,
        }
    }

    /// The list whose turn it is, of those for which the line has room.
    fn choose(&self, flight: &Flight) -> Option<Place> {
        let bulk = !self.bulk.is_empty() && flight.has_room(0);
        let fresh = !self.fresh.is_empty() && flight.has_room(FRESH_ROOM);
        if self.express >= EXPRESS_MAX && (bulk || fresh) {
            let fresh_now = fresh && (self.bulk_was_last || !bulk);
            return Some(if fresh_now { Place::Fresh } else { Place::Bulk });
        }
        if !self.terminals.is_empty() && flight.has_room(TERMINAL_ROOM) {
            Some(Place::Terminals)
        } else if fresh {
            Some(Place::Fresh)
        } else {
            bulk.then_some(Place::Bulk)
        }
    }

    /// A stream of this place sent something.
    fn served(&mut self, place: Place, cost: usize) {
        if place == Place::Bulk {
            self.bulk_turns = self.bulk_turns.wrapping_add(1);
        }
        if place == Place::Bulk || self.express >= EXPRESS_MAX {
            self.express = 0;
            self.bulk_was_last = place == Place::Bulk;
        } else {
            self.express += cost;
        }
    }
}

impl Session {
    /// The next message for the leg, if there is one and the line has room. Ask again after each; send in this order.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Outgoing> {
        self.now = now;
        if !self.leg.is_up() {
            return None;
        }
        if let Some(hello) = self.poll_hello() {
            self.arrived.told();
            return Some(Outgoing::Control(hello.encode()));
        }
        if !self.leg.is_established() {
            return None;
        }
        if let Some(received) = self.arrived.take_ack(now) {
            return Some(Outgoing::Control(Control::Ack { received }.encode()));
        }
        if self.phase == Phase::Closed {
            return None;
        }
        if let Some(control) = self.leg.poll() {
            return Some(Outgoing::Control(control.encode()));
        }
        if let Some(again) = self.flight.resend(now) {
            return Some(again);
        }
        if let Some(text) = self.controls.pop_front() {
            return Some(self.keep(Outgoing::Control(text)));
        }
        if let Some(credit) = self.next_credit() {
            return Some(self.keep(Outgoing::Control(credit.encode())));
        }
        self.next_data()
    }

    fn keep(&mut self, message: Outgoing) -> Outgoing {
        // As `writable` never allows more than the credit, what is queued could go if the line took it.
        self.flight.keep(message, self.queued == 0, self.now)
    }

    fn next_credit(&mut self) -> Option<Control> {
        while let Some(id) = self.turns.credits.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.credit_listed = false;
            if stream.peer_eof {
                continue;
            }
            let rtt = self.flight.pace().rtt().unwrap_or_default();
            let bytes = stream.take_credit(self.now, rtt, &mut self.growth);
            return Some(Control::Credit { stream: id, bytes });
        }
        None
    }

    fn next_data(&mut self) -> Option<Outgoing> {
        loop {
            let place = self.turns.choose(&self.flight)?;
            let id = *self.turns.list(place).front()?;
            let Some(stream) = self.streams.get_mut(&id) else {
                self.turns.list(place).pop_front();
                continue;
            };
            if !stream.is_sendable() {
                stream.place = Place::Idle;
                self.turns.list(place).pop_front();
                self.turns.waiting -= 1;
                continue;
            }
            let most = match place {
                _ if self.turns.waiting == 1 => self.flight.pace().message_max(),
                Place::Bulk => self.flight.pace().turn(),
                _ => TURN,
            };
            let message = take(stream, id, most);
            let cost = match &message {
                Outgoing::Data { payload, .. } => payload.len(),
                Outgoing::Control(_) => 0,
            };
            self.queued -= cost;
            self.advance(id, place, cost.max(TURN_COST_MIN));
            return Some(self.keep(message));
        }
    }

    /// Moves a stream on after it has sent something: it stays, goes to the end of a list, or leaves.
    fn advance(&mut self, id: StreamId, place: Place, cost: usize) {
        self.turns.served(place, cost);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.spent += cost;
        if !stream.is_sendable() {
            // What it has spent stays with it until the bulk has had a round.
            stream.place = Place::Idle;
            self.turns.list(place).pop_front();
            self.turns.waiting -= 1;
        } else if stream.spent >= TURN {
            stream.spent = 0;
            stream.place = if place == Place::Terminals { place } else { Place::Bulk };
            self.turns.list(place).pop_front();
            self.turns.list(stream.place).push_back(id);
        }
        if stream.eof == Eof::Sent && stream.peer_eof {
            self.forget(id);
        } else {
            self.tell_writable(id);
        }
    }

    /// Puts a stream into the scheduler's lists if it has something to send and is in none.
    pub(super) fn make_ready(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.place != Place::Idle || !stream.is_sendable() {
            return;
        }
        let round = u32::try_from(self.turns.bulk.len()).unwrap_or(u32::MAX);
        if self.turns.bulk_turns.wrapping_sub(stream.round) >= round {
            stream.round = self.turns.bulk_turns;
            stream.spent = 0;
        }
        stream.place = match stream.class {
            Class::Terminal => Place::Terminals,
            _ if stream.spent < TURN => Place::Fresh,
            _ => Place::Bulk,
        };
        if stream.place != Place::Fresh {
            stream.spent = 0;
        }
        self.turns.list(stream.place).push_back(id);
        self.turns.waiting += 1;
    }

    /// Tells the application that a stream has room again, if it waits for that.
    pub(super) fn tell_writable(&mut self, id: StreamId) {
        let room = self.room();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.hungry && stream.state != State::Asked && stream.queued <= (room / 2).max(QUEUE_LOW) && stream.writable(room) > 0 {
            stream.hungry = false;
            self.events.push_back(Event::Writable { stream: id });
        }
    }
}

/// Takes a stream's next message, at most `most` bytes of data.
fn take(stream: &mut Stream, id: StreamId, most: usize) -> Outgoing {
    let Some(next) = stream.queue.front_mut() else {
        return Outgoing::Control(match stream.exit.take() {
            Some(exit) => Control::Exit { stream: id, code: exit.0, signal: exit.1 }.encode(),
            None => {
                stream.eof = Eof::Sent;
                Control::Eof { stream: id }.encode()
            }
        });
    };
    let payload = match stream.class {
        Class::Datagrams => std::mem::take(next),
        _ => {
            let credit = stream.credit as usize;
            let whole = next.len() <= (most + CRUMB).min(credit);
            if whole { std::mem::take(next) } else { next.split_to(most.min(credit)) }
        }
    };
    if next.is_empty() {
        stream.queue.pop_front();
    }
    if stream.queue.is_empty() && stream.queue.capacity() > 64 {
        stream.queue = VecDeque::new();
    }
    stream.queued -= payload.len();
    // At most `DATA_MAX`, and at most the credit.
    stream.credit -= payload.len() as u32;
    Outgoing::Data { stream: id, payload }
}
