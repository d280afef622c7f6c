//! A session that receives whatever the fuzzer makes up, while its own application goes on.
//!
//! The input is a list of steps: one byte says what, two bytes how long the rest of the step is.
//! Checked: no panic, and no memory beyond the bounds whatever the peer does.

#![no_main]

use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use muster_proto::id::StreamId;
use muster_proto::session::{Event, Session, Side, Target};

/// Send queues and what is in flight at their bounds, and control messages.
const RETAINED_MAX: usize = 32 << 20;

fuzz_target!(|input: &[u8]| {
    let side = if input.first().is_some_and(|byte| byte & 1 == 1) { Side::Client } else { Side::Device };
    let mut session = Session::new(side, "saaaaaaaaaaaaaaa".parse().expect("a valid id"), Duration::ZERO);
    let mut now = Duration::ZERO;
    session.leg_up(now);
    let hello = r#"{"type":"hello","version":1,"session":"saaaaaaaaaaaaaaa","resume":false,"received":0,"leg":1,"peer_leg":1}"#;
    let _ = session.receive_text(hello, now);
    let mut rest = input;
    while let [what, high, low, tail @ ..] = rest {
        let len = (usize::from(*high & 3) << 8 | usize::from(*low)).min(tail.len());
        let (step, next) = tail.split_at(len);
        rest = next;
        let stream = StreamId(u32::from(*high >> 2));
        match what % 12 {
            0..=2 => drop(session.receive_text(&String::from_utf8_lossy(step), now)),
            3 | 4 => drop(session.receive_binary(Bytes::copy_from_slice(step), now)),
            5 => drop(session.open(Target::Tcp { host: "x".to_owned(), port: 1 })),
            6 => {
                let room = session.writable(stream);
                session.send(stream, Bytes::from(vec![0; room.min(len * 64)]));
            }
            7 => session.accept(stream, serde_json::Value::Null),
            8 => session.finish(stream),
            9 => session.reset(stream, "cancelled", "x"),
            10 => {
                session.leg_down(now);
                session.leg_up(now);
            }
            _ => {
                now += Duration::from_millis(len as u64);
                session.tick(now);
            }
        }
        while let Some(event) = session.poll_event() {
            if let Event::Data { stream, payload } = event {
                assert!(!payload.is_empty());
                session.consumed(stream, payload.len());
            }
        }
        for _ in 0..8 {
            if session.poll_transmit(now).is_none() {
                break;
            }
        }
        assert!(session.retained_bytes() < RETAINED_MAX);
        let _ = session.next_deadline();
    }
});
