//! What the session machine costs per message, both ends together, without any I/O.
//!
//! `cargo build --release -p muster-proto --example session_cost`, then
//! `session_cost bulk 65536 10000 1`, `session_cost echo 64 100000 4096`: kind, bytes, messages, open streams.
//! Under `valgrind --tool=callgrind` the instructions of `n` and `2n` messages, subtracted and divided, are the price of one.

use std::time::{Duration, Instant};

use bytes::Bytes;
use muster_proto::id::{SessionId, StreamId};
use muster_proto::session::{Event, Outgoing, Session, Side, Target};

struct Ends {
    client: Session,
    device: Session,
    now: Duration,
    controls: usize,
}

impl Ends {
    /// Passes one message from the client to the device or back; whether there was one.
    fn pass(&mut self, up: bool) -> bool {
        let (from, to) = if up { (&mut self.client, &mut self.device) } else { (&mut self.device, &mut self.client) };
        match from.poll_transmit(self.now) {
            None => return false,
            Some(Outgoing::Control(text)) => {
                self.controls += 1;
                to.receive_text(&text, self.now).expect("our own messages are valid");
            }
            // The frame is what a driver reads from its socket; here the id is put before the payload without a copy
            // only for messages prepared that way, so it is made once and cloned.
            Some(Outgoing::Data { stream, payload }) => {
                let frame = FRAME.with(|frame| frame.borrow_mut().frame(stream, &payload));
                to.receive_binary(frame, self.now).expect("our own messages are valid");
            }
        }
        true
    }

    fn settle(&mut self) {
        while self.pass(true) | self.pass(false) {}
    }
}

/// A prepared frame for each size and stream, so that the copy of a payload is not in the account.
#[derive(Default)]
struct Frames(Option<(StreamId, usize, Bytes)>);

impl Frames {
    fn frame(&mut self, stream: StreamId, payload: &Bytes) -> Bytes {
        match &self.0 {
            Some((known, size, frame)) if *known == stream && *size == payload.len() => frame.clone(),
            _ => {
                let mut frame = stream.0.to_be_bytes().to_vec();
                frame.extend_from_slice(payload);
                let frame = Bytes::from(frame);
                self.0 = Some((stream, payload.len(), frame.clone()));
                frame
            }
        }
    }
}

thread_local! {
    static FRAME: std::cell::RefCell<Frames> = std::cell::RefCell::default();
}

fn main() {
    let mut args = std::env::args().skip(1);
    let kind = args.next().unwrap_or_else(|| "bulk".to_owned());
    let mut number = |default| args.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (size, count, streams): (usize, usize, usize) = (number(65_536), number(10_000), number(1));
    let id: SessionId = "saaaaaaaaaaaaaaa".parse().expect("a valid id");
    let mut ends = Ends {
        client: Session::new(Side::Client, id.clone(), Duration::ZERO),
        device: Session::new(Side::Device, id, Duration::ZERO),
        now: Duration::ZERO,
        controls: 0,
    };
    ends.client.leg_up(ends.now);
    ends.device.leg_up(ends.now);
    ends.settle();
    let mut last = StreamId(0);
    for _ in 0..streams {
        last = ends.client.open(Target::Tcp { host: "127.0.0.1".to_owned(), port: 22 }).expect("room for a stream");
        ends.settle();
        ends.device.accept(last, serde_json::Value::Null);
        ends.settle();
    }
    while ends.client.poll_event().is_some() || ends.device.poll_event().is_some() {}

    let payload = Bytes::from(vec![7; size]);
    ends.controls = 0;
    let began = Instant::now();
    let mut done = 0;
    while done < count {
        ends.now += Duration::from_micros(50);
        match kind.as_str() {
            "bulk" => {
                while ends.client.writable(last) >= size {
                    ends.client.send(last, payload.clone());
                }
                ends.settle();
            }
            _ => {
                ends.client.send(last, payload.clone());
                ends.settle();
            }
        }
        while let Some(event) = ends.device.poll_event() {
            if let Event::Data { stream, payload } = event {
                done += 1;
                ends.device.consumed(stream, payload.len());
                if kind != "bulk" {
                    ends.device.send(stream, payload);
                }
            }
        }
        while let Some(event) = ends.client.poll_event() {
            if let Event::Data { stream, payload } = event {
                ends.client.consumed(stream, payload.len());
            }
        }
    }
    let each = began.elapsed().as_nanos() / done as u128;
    println!("{kind}, {size} bytes, {streams} streams: {done} messages, {each} ns each, {} control messages", ends.controls);
}
