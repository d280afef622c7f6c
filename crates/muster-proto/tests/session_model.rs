//! A model of two ends of a session over a transport that loses and replaces legs at any message boundary.
//!
//! Random opens, sends, eofs, resets and consumption; either leg or both may drop at any time, with messages in flight
//! lost, delivered late, or delivered to the next leg. Whatever happens: no byte is lost, doubled or reordered, every
//! stream comes to its end, what is held is bounded by the credits, and no end calls the other a breaker of rules.
//!
//! What the transport promises, and the model keeps: order, and nothing of an older leg after the first message of a newer one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use muster_proto::id::{SessionId, StreamId};
use muster_proto::limits::{DATA_MAX, WINDOW_MAX};
use muster_proto::session::{Event, Outgoing, Session, Side, Target, Terminal, code};

/// How many random histories are played.
const HISTORIES: u64 = 200;
/// Steps of each before everything is brought to its end.
const STEPS: usize = 600;
/// Send queues at their bound, and the most in flight, with a message of slack each.
const RETAINED_MAX: usize = (8 + 4 + 1) * 1024 * 1024;

/// xorshift64*: the histories must be the same on every machine.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from((u128::from(self.next()) * bound as u128) >> 64).unwrap()
    }
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// The byte that stands at an offset of a stream's direction: a lost, doubled or moved byte shows.
fn byte_at(stream: StreamId, from: usize, offset: usize) -> u8 {
    let mixed = (u64::from(stream.0) << 40 ^ (from as u64) << 56 ^ offset as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}

/// What one end's application knows of a stream.
#[derive(Default)]
struct Use {
    datagrams: bool,
    /// Accepted, or accepted by the peer.
    open: bool,
    sent: usize,
    finished: bool,
    received: usize,
    held: usize,
    eof: bool,
    /// Given up by either end: what was under way may be lost.
    gone: bool,
    /// Sizes of datagrams sent, in order; the other end checks them.
    sizes: Vec<usize>,
    /// The other end waits for `Writable`.
    starved: bool,
}

struct End {
    session: Session,
    leg: bool,
    uses: BTreeMap<StreamId, Use>,
    /// Messages on their way to this end.
    inbox: VecDeque<Outgoing>,
    reconnections: usize,
}

struct World {
    seed: u64,
    random: Random,
    now: Duration,
    ends: [End; 2],
    delivered: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let id: SessionId = "saaaaaaaaaaaaaaa".parse().unwrap();
        let end = |side| End {
            session: Session::new(side, id.clone(), Duration::ZERO),
            leg: false,
            uses: BTreeMap::new(),
            inbox: VecDeque::new(),
            reconnections: 0,
        };
        Self { seed, random: Random::new(seed), now: Duration::ZERO, ends: [end(Side::Client), end(Side::Device)], delivered: 0 }
    }

    fn connect(&mut self, who: usize) {
        if !self.ends[who].leg {
            self.ends[who].leg = true;
            self.ends[who].session.leg_up(self.now);
            self.ends[who].reconnections += 1;
        }
    }

    /// A leg drops. Of what was on its way to that end any part may reach its next leg; of what came from it, the first part
    /// may still arrive, the rest is lost.
    fn disconnect(&mut self, who: usize) {
        if !self.ends[who].leg {
            return;
        }
        self.ends[who].leg = false;
        self.ends[who].session.leg_down(self.now);
        let keep = self.random.chance(50);
        let random = &mut self.random;
        self.ends[who].inbox.retain(|_| keep && random.chance(70));
        let arrives = self.random.below(self.ends[1 - who].inbox.len() + 1);
        self.ends[1 - who].inbox.truncate(arrives);
    }

    fn transmit(&mut self, who: usize, most: usize) -> usize {
        for sent in 0..most {
            let Some(message) = self.ends[who].session.poll_transmit(self.now) else { return sent };
            assert!(self.ends[who].leg, "a message without a leg");
            if let Outgoing::Data { payload, .. } = &message {
                assert!((1..=DATA_MAX).contains(&payload.len()));
            }
            self.ends[1 - who].inbox.push_back(message);
            self.events(who);
        }
        most
    }

    fn deliver(&mut self, who: usize, most: usize) -> usize {
        for delivered in 0..most {
            if !self.ends[who].leg {
                return delivered;
            }
            let Some(message) = self.ends[who].inbox.pop_front() else { return delivered };
            let done = match message {
                Outgoing::Control(text) => self.ends[who].session.receive_text(&text, self.now),
                Outgoing::Data { stream, payload } => {
                    let mut whole = stream.0.to_be_bytes().to_vec();
                    whole.extend_from_slice(&payload);
                    self.ends[who].session.receive_binary(Bytes::from(whole), self.now)
                }
            };
            done.unwrap_or_else(|error| panic!("seed {}: end {who}: {error}", self.seed));
            self.delivered += 1;
            self.events(who);
        }
        most
    }

    fn events(&mut self, who: usize) {
        while let Some(event) = self.ends[who].session.poll_event() {
            self.event(who, event);
        }
    }

    fn event(&mut self, who: usize, event: Event) {
        let seed = self.seed;
        let decision = self.random.below(10);
        let [first, second] = &mut self.ends;
        let (end, other) = if who == 0 { (first, second) } else { (second, first) };
        match event {
            Event::Established => {}
            Event::Open { stream, target } => {
                let new = Use { datagrams: matches!(target, Target::Udp { .. }), ..Use::default() };
                assert!(end.uses.insert(stream, new).is_none(), "seed {seed}: stream {stream} opened twice");
                match decision {
                    0 => {
                        end.session.refuse(stream, code::POLICY, "no");
                        end.uses.get_mut(&stream).unwrap().gone = true;
                    }
                    // Some streams are answered at once, others later.
                    1..=6 => {
                        end.session.accept(stream, serde_json::Value::Null);
                        end.uses.get_mut(&stream).unwrap().open = true;
                    }
                    _ => {}
                }
            }
            Event::Opened { stream, .. } => {
                let used = end.uses.get_mut(&stream).unwrap();
                assert!(!used.open && !used.gone, "seed {seed}: stream {stream} opened again");
                used.open = true;
            }
            Event::Refused { stream, .. } => {
                let used = end.uses.get_mut(&stream).unwrap();
                assert!(!used.open, "seed {seed}: stream {stream} refused after opened");
                used.gone = true;
            }
            Event::Reset { stream, .. } => end.uses.get_mut(&stream).unwrap().gone = true,
            Event::Data { stream, payload } => {
                let used = end.uses.get_mut(&stream).unwrap();
                assert!(!used.eof && !used.gone, "seed {seed}: data on {stream} after its end");
                for (at, byte) in payload.iter().enumerate() {
                    let want = byte_at(stream, 1 - who, used.received + at);
                    assert_eq!(*byte, want, "seed {seed}: stream {stream} differs at {}", used.received + at);
                }
                if used.datagrams {
                    let sizes = &mut other.uses.get_mut(&stream).unwrap().sizes;
                    assert_eq!(sizes.remove(0), payload.len(), "seed {seed}: a datagram was cut or joined");
                }
                used.received += payload.len();
                used.held += payload.len();
                assert!(used.held <= WINDOW_MAX as usize, "seed {seed}: {} bytes held on {stream}", used.held);
            }
            Event::Eof { stream } => {
                let used = end.uses.get_mut(&stream).unwrap();
                assert!(!used.eof, "seed {seed}: eof twice on {stream}");
                used.eof = true;
                let sent = other.uses[&stream].sent;
                assert_eq!(used.received, sent, "seed {seed}: stream {stream} ended early");
            }
            Event::Writable { stream } => {
                let used = end.uses.get_mut(&stream).unwrap();
                used.starved = false;
                assert!(end.session.writable(stream) > 0, "seed {seed}: told that {stream} is writable");
            }
            other => panic!("seed {seed}: unexpected {other:?}"),
        }
    }

    fn pick(&mut self, who: usize) -> Option<StreamId> {
        let live: Vec<StreamId> = self.ends[who].uses.iter().filter(|(_, used)| !used.gone).map(|(id, _)| *id).collect();
        // One stream more often than the others, so that windows and queues do fill up.
        let choices = if self.random.chance(60) { 1 } else { live.len() };
        live.get(self.random.below(choices)).copied()
    }

    fn open(&mut self, who: usize) {
        let target = match self.random.below(4) {
            0 => Target::Udp { host: "127.0.0.1".into(), port: 53 },
            1 => Target::Terminal(Terminal {
                cols: 80,
                rows: 24,
                term: "xterm".into(),
                user: None,
                command: None,
                attach: None,
                errors: false,
            }),
            _ => Target::Tcp { host: "127.0.0.1".into(), port: 22 },
        };
        let datagrams = matches!(target, Target::Udp { .. });
        if let Ok(stream) = self.ends[who].session.open(target) {
            self.ends[who].uses.insert(stream, Use { datagrams, ..Use::default() });
        }
    }

    fn send(&mut self, who: usize, stream: StreamId) {
        let size = match self.random.below(4) {
            0 => 1 + self.random.below(64),
            1 => 1 + self.random.below(16 * 1024),
            _ => 1 + self.random.below(100 * 1024),
        };
        let room = self.ends[who].session.writable(stream);
        let used = self.ends[who].uses.get_mut(&stream).unwrap();
        if used.finished || used.starved {
            return;
        }
        if room == 0 {
            // From now on the event is waited for, however much room there is.
            used.starved = true;
            return;
        }
        let size = if used.datagrams { size.min(DATA_MAX) } else { size.min(room) };
        if size > room {
            return;
        }
        let payload: Vec<u8> = (used.sent..used.sent + size).map(|offset| byte_at(stream, who, offset)).collect();
        used.sent += size;
        if used.datagrams {
            used.sizes.push(size);
        }
        self.ends[who].session.send(stream, Bytes::from(payload));
    }

    fn step(&mut self) {
        let who = self.random.below(2);
        match self.random.below(100) {
            0..=1 => self.disconnect(who),
            2..=7 => self.connect(who),
            8..=11 => self.open(who),
            12..=39 => {
                let many = 1 + self.random.below(12);
                self.transmit(who, many);
            }
            40..=64 => {
                let many = 1 + self.random.below(12);
                self.deliver(who, many);
            }
            65..=79 => {
                if let Some(stream) = self.pick(who) {
                    self.send(who, stream);
                }
            }
            80..=86 => {
                if let Some(stream) = self.pick(who) {
                    let used = self.ends[who].uses.get_mut(&stream).unwrap();
                    let bytes = self.random.below(used.held + 1);
                    used.held -= bytes;
                    self.ends[who].session.consumed(stream, bytes);
                }
            }
            87..=89 => self.answer_late(who),
            90 => {
                if let Some(stream) = self.pick(who) {
                    self.ends[who].uses.get_mut(&stream).unwrap().finished = true;
                    self.ends[who].session.finish(stream);
                }
            }
            91 => {
                if let Some(stream) = self.pick(who)
                    && self.random.chance(30)
                {
                    self.ends[who].uses.get_mut(&stream).unwrap().gone = true;
                    self.ends[who].session.reset(stream, code::CANCELLED, "enough");
                }
            }
            _ => {
                self.now += Duration::from_millis(self.random.below(60) as u64);
                self.tick();
            }
        }
        for end in &self.ends {
            let retained = end.session.retained_bytes();
            assert!(retained <= RETAINED_MAX, "seed {}: {retained} bytes retained", self.seed);
        }
    }

    fn tick(&mut self) {
        for who in 0..2 {
            self.ends[who].session.tick(self.now);
            self.events(who);
        }
    }

    fn answer_late(&mut self, who: usize) {
        let own = if who == 0 { 1 } else { 0 };
        let end = &mut self.ends[who];
        for (stream, used) in &mut end.uses {
            if stream.0 % 2 != own && !used.open && !used.gone {
                used.open = true;
                end.session.accept(*stream, serde_json::Value::Null);
            }
        }
    }

    /// Everything is answered and consumed, and finished if so wished, and the legs stay up: all must arrive.
    fn settle(&mut self, finish: bool) {
        let mut idle = 0;
        while idle < 5 {
            let before = self.delivered;
            for who in 0..2 {
                self.connect(who);
                self.answer_late(who);
                let end = &mut self.ends[who];
                for (stream, used) in &mut end.uses {
                    end.session.consumed(*stream, std::mem::take(&mut used.held));
                    if finish && !used.finished && !used.gone {
                        used.finished = true;
                        end.session.finish(*stream);
                    }
                }
                self.transmit(who, 1000);
                self.deliver(1 - who, 1000);
            }
            self.now += Duration::from_millis(50);
            self.tick();
            // A ping now and then is no progress.
            idle = if self.delivered <= before + 2 { idle + 1 } else { 0 };
            assert!(self.now < Duration::from_secs(3600), "seed {}: the ends never settle", self.seed);
        }
    }

    /// Whoever was told to wait was told to go on.
    fn check_writable(&self) {
        for end in &self.ends {
            for (stream, used) in &end.uses {
                assert!(!used.starved || used.gone || used.finished, "seed {}: {stream} waits for Writable for ever", self.seed);
            }
        }
    }

    fn check(&self) {
        let seed = self.seed;
        for who in 0..2 {
            for (stream, used) in &self.ends[who].uses {
                let Some(theirs) = self.ends[1 - who].uses.get(stream) else {
                    assert!(used.gone, "seed {seed}: stream {stream} never reached the other end");
                    continue;
                };
                if used.gone || theirs.gone {
                    continue;
                }
                assert!(used.open && used.eof, "seed {seed}: stream {stream} did not come to its end");
                assert_eq!(used.sent, theirs.received, "seed {seed}: bytes of stream {stream}");
            }
            assert_eq!(self.ends[who].session.stream_count(), 0, "seed {seed}: streams are left over");
            assert_eq!(self.ends[who].session.retained_bytes(), 0, "seed {seed}: bytes are left over");
        }
    }
}

#[test]
fn nothing_is_lost_doubled_or_reordered() {
    let (mut bytes, mut reconnections, mut streams) = (0, 0, 0);
    for seed in 0..HISTORIES {
        let mut world = World::new(seed);
        for _ in 0..STEPS {
            world.step();
        }
        world.settle(false);
        world.check_writable();
        world.settle(true);
        world.check();
        for end in &world.ends {
            reconnections += end.reconnections;
            streams += end.uses.len();
            bytes += end.uses.values().map(|used| used.received).sum::<usize>();
        }
    }
    // The model must have had something to check.
    println!("{bytes} bytes, {reconnections} legs, {streams} streams");
    assert!(bytes > 50_000_000 && reconnections > 1000 && streams > 5000, "{bytes} bytes, {reconnections} legs, {streams} streams");
}

/// Plays one small conversation and drops legs right after the given numbers of delivered messages; how many were delivered.
fn play_with_drops(drops: &[(usize, [bool; 2])]) -> usize {
    let mut world = World::new(7);
    let mut drops = drops.iter().peekable();
    for turn in 0..120 {
        let who = turn % 2;
        if turn % 8 == 0 {
            world.connect(0);
            world.connect(1);
        }
        match turn {
            4 | 9 => world.open(who),
            12..60 => {
                let streams: Vec<StreamId> = world.ends[who].uses.keys().copied().collect();
                for stream in streams {
                    if !world.ends[who].uses[&stream].gone {
                        world.send(who, stream);
                    }
                }
            }
            _ => world.answer_late(who),
        }
        for who in 0..2 {
            world.transmit(who, 1);
            world.deliver(1 - who, 1);
            while let Some((_, legs)) = drops.next_if(|(at, _)| *at <= world.delivered) {
                for (end, _) in legs.iter().enumerate().filter(|(_, drop)| **drop) {
                    world.disconnect(end);
                }
            }
        }
    }
    world.settle(false);
    world.check_writable();
    world.settle(true);
    world.check();
    world.delivered
}

#[test]
fn a_leg_may_drop_after_every_single_message() {
    let whole = play_with_drops(&[]).min(60);
    assert!(whole > 30, "{whole} messages");
    let legs = [[true, false], [false, true], [true, true]];
    let mut played = 0;
    for first in 0..whole {
        for which in legs {
            play_with_drops(&[(first, which)]);
            for (second, other) in (first..whole).step_by(10).zip(legs.into_iter().cycle()) {
                play_with_drops(&[(first, which), (second, other)]);
                played += 1;
            }
        }
    }
    assert!(played > 150, "{played} conversations");
}
