//! A session on lines of a given speed and delay: it fills them, and makes no standing queue in them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/pair.rs"]
mod pair;

use std::collections::VecDeque;
use std::time::Duration;

use muster_proto::id::StreamId;
use muster_proto::session::{Event, Outgoing, Session, Side};
use pair::{bytes, events, receive, tcp, terminal};

/// One direction: messages leave at `rate` bytes per second and arrive `delay` later.
struct Line {
    rate: f64,
    delay: Duration,
    free_at: Duration,
    under_way: VecDeque<(Duration, Outgoing)>,
}

impl Line {
    fn new(rate: f64, delay: Duration) -> Self {
        Self { rate, delay, free_at: Duration::ZERO, under_way: VecDeque::new() }
    }
    fn send(&mut self, message: Outgoing, now: Duration) {
        let size = match &message {
            Outgoing::Control(text) => text.len(),
            Outgoing::Data { payload, .. } => payload.len() + 4,
        };
        self.free_at = self.free_at.max(now) + Duration::from_secs_f64(size as f64 / self.rate);
        self.under_way.push_back((self.free_at + self.delay, message));
    }
}

struct Outcome {
    delivered: usize,
    /// Time from a keystroke's `send` to its arrival, worst and mean after the start.
    key_worst: Duration,
    key_mean: Duration,
}

/// The device sends a file without end and a keystroke's echo every 100 ms, for `time`.
///
/// With `deep`, everything that the session gives goes into the line at once, as into a modem with a large buffer:
/// then only the session's own bound keeps the queue short.
fn play(rate: f64, delay: Duration, time: Duration, deep: bool) -> Outcome {
    let start = Duration::from_secs(1);
    let mut ends = [Session::new(Side::Client, pair::id(), start), Session::new(Side::Device, pair::id(), start)];
    // From the device, and to it.
    let mut lines = [Line::new(rate, delay), Line::new(rate, delay)];
    let (mut file, mut shell) = (None, None);
    let (mut delivered, mut keys, mut typed, mut next_key) = (0, Vec::new(), VecDeque::new(), start);
    ends[0].leg_up(start);
    ends[1].leg_up(start);
    ends[0].open(tcp()).unwrap();
    ends[0].open(terminal()).unwrap();
    let mut now = start;
    while now < start + time {
        for (who, line) in [(0, 0), (1, 1)] {
            while lines[line].under_way.front().is_some_and(|(at, _)| *at <= now) {
                let (_, message) = lines[line].under_way.pop_front().unwrap();
                receive(&mut ends[who], &message, now).unwrap();
            }
            ends[who].tick(now);
        }
        for event in events(&mut ends[0]) {
            if let Event::Data { stream, payload } = event {
                ends[0].consumed(stream, payload.len());
                if Some(stream) == shell {
                    keys.push((now, now - typed.pop_front().unwrap()));
                } else {
                    delivered += payload.len();
                }
            }
        }
        for event in events(&mut ends[1]) {
            if let Event::Open { stream, .. } = event {
                ends[1].accept(stream, serde_json::Value::Null);
                *(if stream == StreamId(1) { &mut file } else { &mut shell }) = Some(stream);
            }
        }
        if let (Some(file), Some(shell)) = (file, shell) {
            let room = ends[1].writable(file).min(64 * 1024);
            if room > 0 {
                ends[1].send(file, bytes(room));
            }
            if now >= next_key {
                next_key = now + Duration::from_millis(100);
                typed.push_back(now);
                ends[1].send(shell, bytes(1));
            }
        }
        // As a driver with a short socket buffer: a message leaves when the line is about to be free.
        for (who, line) in [(1, 0), (0, 1)] {
            while (deep || lines[line].free_at <= now + Duration::from_millis(1))
                && let Some(message) = ends[who].poll_transmit(now)
            {
                lines[line].send(message, now);
            }
        }
        now += Duration::from_micros(500);
    }
    // The first two seconds are the start.
    let late: Vec<Duration> = keys.iter().filter(|(at, _)| *at > start + Duration::from_secs(2)).map(|(_, took)| *took).collect();
    assert!(late.len() >= 15, "{} keystrokes arrived", keys.len());
    Outcome {
        delivered,
        key_worst: late.iter().max().copied().unwrap(),
        key_mean: late.iter().sum::<Duration>() / u32::try_from(late.len()).unwrap(),
    }
}

/// What share of the line the file got.
fn share(outcome: &Outcome, rate: f64, time: Duration) -> f64 {
    outcome.delivered as f64 / (rate * time.as_secs_f64())
}

#[test]
fn mobile_line_with_200_ms_round_trip_is_filled() {
    let (rate, time) = (6_250_000.0, Duration::from_secs(30));
    for deep in [false, true] {
        let outcome = play(rate, Duration::from_millis(100), time, deep);
        let (share, key) = (share(&outcome, rate, time), outcome.key_mean);
        println!("50 Mbit/s, deep {deep}: {share:.3}, mean {key:?}, worst {:?}", outcome.key_worst);
        assert!(share > 0.85, "{share} of 50 Mbit/s");
        assert!(key < Duration::from_millis(if deep { 330 } else { 120 }), "{key:?}");
    }
}

#[test]
fn slow_uplink_is_filled_and_a_keystroke_passes() {
    let (rate, time) = (250_000.0, Duration::from_secs(30));
    for deep in [false, true] {
        let outcome = play(rate, Duration::from_millis(20), time, deep);
        let (share, key) = (share(&outcome, rate, time), outcome.key_mean);
        println!("2 Mbit/s, deep {deep}: {share:.3}, mean {key:?}, worst {:?}", outcome.key_worst);
        assert!(share > 0.9, "{share} of 2 Mbit/s");
        // One turn takes 66 ms here.
        assert!(key < Duration::from_millis(if deep { 300 } else { 100 }), "{key:?}");
    }
}

#[test]
fn fast_local_line_is_filled() {
    let (rate, time) = (125_000_000.0, Duration::from_secs(4));
    for deep in [false, true] {
        let outcome = play(rate, Duration::from_micros(500), time, deep);
        let (share, key) = (share(&outcome, rate, time), outcome.key_worst);
        println!("1 Gbit/s, deep {deep}: {share:.3}, mean {:?}, worst {key:?}", outcome.key_mean);
        assert!(share > 0.5, "{share} of 1 Gbit/s");
        assert!(key < Duration::from_millis(8), "{key:?}");
    }
}
