//! Single rules of the session: streams, bounds, legs, and what a peer that breaks a rule gets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/pair.rs"]
mod pair;

use std::time::Duration;

use bytes::Bytes;
use muster_proto::id::StreamId;
use muster_proto::limits::{DATA_MAX, SESSION_GRACE};
use muster_proto::session::{Event, OpenError, Outgoing, ProtocolError, Session, Side, Target, code};
use pair::{Pair, bytes, data, events, frame, receive, said, tcp, terminal, texts};
use serde_json::Value;

#[test]
fn half_close_and_exit_in_order() {
    let mut pair = Pair::met();
    let stream = pair.open(terminal());
    pair.client.finish(stream);
    pair.run();
    assert_eq!(events(&mut pair.device), [Event::Eof { stream }]);
    pair.device.finish(stream);
    // Queued before eof is sent, so still in order.
    pair.device.exit(stream, Some(3), None);
    pair.run();
    assert_eq!(events(&mut pair.client), [Event::Exit { stream, code: Some(3), signal: None }, Event::Eof { stream }]);
    assert_eq!((pair.client.stream_count(), pair.device.stream_count()), (0, 0));
    // Calls on a forgotten stream do nothing.
    pair.client.send(stream, bytes(9));
    pair.client.consumed(stream, 9);
    pair.client.reset(stream, code::CANCELLED, "");
    assert_eq!(pair.client.poll_transmit(pair.now), None);
}

#[test]
fn data_goes_before_exit_and_eof() {
    let mut pair = Pair::met();
    let stream = pair.open(tcp());
    pair.device.send(stream, bytes(100_000));
    pair.device.exit(stream, None, Some("KILL"));
    pair.device.finish(stream);
    pair.device.send(stream, bytes(1));
    pair.run();
    let seen = events(&mut pair.client);
    let arrived: usize = seen.iter().map(|event| if let Event::Data { payload, .. } = event { payload.len() } else { 0 }).sum();
    assert_eq!(arrived, 100_000, "what comes after finish is dropped");
    let [.., exit, eof] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!(*exit, Event::Exit { stream, code: None, signal: Some("KILL".into()) });
    assert_eq!(*eof, Event::Eof { stream });
}

#[test]
fn resize_and_signal_pass_queued_data() {
    let mut pair = Pair::met();
    let stream = pair.open(terminal());
    pair.client.send(stream, bytes(100_000));
    pair.client.resize(stream, 132, 50);
    pair.client.signal(stream, "INT");
    let all = said(&mut pair.client, pair.now);
    assert_eq!(
        texts(&all[..2]),
        [r#"{"type":"resize","stream":1,"cols":132,"rows":50}"#, r#"{"type":"signal","stream":1,"signal":"INT"}"#]
    );
    assert!(data(&all[2]).is_some());
}

#[test]
fn targets_that_are_not_known_are_refused_by_code() {
    let mut pair = Pair::met();
    for (stream, target, code) in [
        (1, r#"{"kind":"teleport","to":"mars"}"#, "unsupported"),
        (3, r#"{"kind":"tcp","host":"x"}"#, "invalid"),
        (5, r#"{"kind":"tcp","host":"x","port":70000}"#, "invalid"),
        (7, "17", "invalid"),
        (9, "{}", "invalid"),
    ] {
        pair.device.receive_text(&format!(r#"{{"type":"open","stream":{stream},"target":{target}}}"#), pair.now).unwrap();
        let all = said(&mut pair.device, pair.now);
        let text = texts(&all)[0];
        assert!(text.starts_with(&format!(r#"{{"type":"refused","stream":{stream},"code":"{code}""#)), "{text}");
    }
    assert_eq!((events(&mut pair.device), pair.device.stream_count()), (vec![], 0));
}

#[test]
fn a_refused_stream_is_forgotten_with_what_was_sent_ahead() {
    let mut pair = Pair::met();
    let stream = pair.client.open(tcp()).unwrap();
    pair.client.send(stream, bytes(10_000));
    pair.run();
    pair.device.refuse(stream, code::POLICY, "not allowed");
    pair.client.send(stream, bytes(10_000));
    pair.run();
    pair.pass(Duration::from_millis(50));
    assert_eq!(events(&mut pair.client), [Event::Refused { stream, code: "policy".into(), message: "not allowed".into() }]);
    assert_eq!((pair.client.retained_bytes(), pair.client.stream_count()), (0, 0));
}

#[test]
fn both_ends_may_give_a_stream_up_at_once() {
    let mut pair = Pair::met();
    let stream = pair.open(tcp());
    pair.client.send(stream, bytes(1000));
    pair.device.send(stream, bytes(1000));
    pair.client.reset(stream, code::CANCELLED, "enough");
    pair.device.reset(stream, code::BROKEN, "gone");
    pair.run();
    assert_eq!((events(&mut pair.client), events(&mut pair.device)), (vec![], vec![]));
    // Late messages of every kind for a stream that both have forgotten.
    for late in ["opened", "eof", "resize\",\"cols\":1,\"rows\":1,\"x\":\"", "credit\",\"bytes\":1,\"x\":\"", "exit"] {
        let text = format!(r#"{{"type":"{late}","stream":{stream}}}"#);
        pair.client.receive_text(&text, pair.now).unwrap();
    }
    pair.client.receive_binary(frame(stream, b"x"), pair.now).unwrap();
    assert_eq!(events(&mut pair.client), []);
}

#[test]
fn a_peer_that_breaks_a_rule_ends_the_session_and_is_told() {
    let open = r#"{"type":"open","stream":1,"target":{"kind":"tcp","host":"x","port":1}}"#;
    let cases: [(&str, &[&str]); 14] = [
        ("never opened", &[r#"{"type":"eof","stream":9}"#]),
        ("never opened", &[r#"{"type":"eof","stream":2}"#]),
        ("never opened", &[r#"{"type":"credit","stream":0,"bytes":1}"#]),
        ("not the next of its numbers", &[r#"{"type":"open","stream":2,"target":{"kind":"tcp","host":"x","port":1}}"#]),
        ("not the next of its numbers", &[r#"{"type":"open","stream":0,"target":{"kind":"tcp","host":"x","port":1}}"#]),
        ("not the next of its numbers", &[open, open]),
        ("did not wait for an answer", &[open, r#"{"type":"opened","stream":1}"#]),
        ("after its eof", &[open, r#"{"type":"eof","stream":1}"#, r#"{"type":"eof","stream":1}"#]),
        ("over the largest window", &[open, r#"{"type":"credit","stream":1,"bytes":4194304}"#]),
        ("over the largest window", &[open, r#"{"type":"credit","stream":1,"bytes":4294967295}"#]),
        ("0 were sent", &[r#"{"type":"ack","received":1}"#]),
        ("not a control message", &["{"]),
        ("not a control message", &[r#"{"type":"eof"}"#]),
        (
            "lost the state",
            &[open, r#"{"type":"hello","version":1,"session":"saaaaaaaaaaaaaaa","resume":false,"received":0,"leg":1,"peer_leg":0}"#],
        ),
    ];
    for (why, messages) in cases {
        let mut pair = Pair::met();
        let (last, before) = messages.split_last().unwrap();
        for message in before {
            pair.device.receive_text(message, pair.now).unwrap();
        }
        let error = pair.device.receive_text(last, pair.now).unwrap_err().to_string();
        assert!(error.contains(why), "{messages:?}: {error}");
        assert!(pair.device.is_closed() && !pair.device.is_finished());
        pair.run();
        let told = events(&mut pair.client);
        assert!(matches!(&told[..], [Event::Closed { code, message }] if code == "protocol" && message.contains(why)), "{told:?}");
        assert!(pair.device.is_finished() && pair.client.is_finished());
    }
    for size in [0, 1, 4, 4 + DATA_MAX + 1] {
        let error = Pair::met().device.receive_binary(bytes(size), Duration::ZERO).unwrap_err();
        assert!(matches!(error, ProtocolError::Size(got) if got == size), "{error}");
    }
}

#[test]
fn a_peer_that_provokes_and_never_acknowledges_is_given_up() {
    let mut pair = Pair::met();
    let mut given_up = None;
    for number in 0..200_000u32 {
        let open = format!(r#"{{"type":"open","stream":{},"target":{{"kind":"x"}}}}"#, number * 2 + 1);
        if let Err(error) = pair.device.receive_text(&open, pair.now) {
            given_up = Some((number, error));
            break;
        }
        while pair.device.poll_transmit(pair.now).is_some() {}
    }
    let (number, error) = given_up.expect("given up");
    assert!(matches!(error, ProtocolError::Unacknowledged(_)), "{error}");
    assert!(number > 8 * 4000 && pair.device.retained_bytes() < 16 << 20, "{number}");
}

#[test]
fn pings_make_no_queue() {
    let mut pair = Pair::met();
    for _ in 0..10_000 {
        pair.device.receive_text(r#"{"type":"ping"}"#, pair.now).unwrap();
    }
    assert_eq!(said(&mut pair.device, pair.now), [Outgoing::Control(r#"{"type":"pong"}"#.into())]);
}

#[test]
fn a_quiet_leg_is_asked_and_a_dead_one_known() {
    let mut pair = Pair::met();
    let start = pair.now;
    assert_eq!(pair.client.next_deadline(), Some(start + Duration::from_secs(20)));
    pair.client.tick(start + Duration::from_secs(20));
    let ping = pair.client.poll_transmit(start + Duration::from_secs(20)).unwrap();
    assert_eq!(ping, Outgoing::Control(r#"{"type":"ping"}"#.into()));
    assert_eq!(pair.client.next_deadline(), Some(start + Duration::from_secs(35)));
    assert!(!pair.client.leg_is_dead(start + Duration::from_secs(34)));
    assert!(pair.client.leg_is_dead(start + Duration::from_secs(35)));
    // A dead leg asks for no further waking, until it is replaced.
    pair.client.tick(start + Duration::from_secs(35));
    assert_eq!(pair.client.next_deadline(), None);
    // Anything that arrives brings it back.
    pair.now = start + Duration::from_secs(36);
    receive(&mut pair.device, &ping, pair.now).unwrap();
    pair.run();
    assert!(!pair.client.leg_is_dead(pair.now));
}

#[test]
fn two_minutes_apart_end_the_session() {
    let mut pair = Pair::met();
    let stream = pair.open(tcp());
    pair.client.send(stream, bytes(1000));
    pair.client.leg_down(pair.now);
    let end = pair.now + SESSION_GRACE;
    assert_eq!(pair.client.next_deadline(), Some(end));
    pair.client.tick(end - Duration::from_millis(1));
    assert!(!pair.client.is_closed());
    pair.client.tick(end);
    let seen = events(&mut pair.client);
    assert!(matches!(&seen[..], [Event::Closed { code, message }] if code == "grace" && message.contains("120 seconds")), "{seen:?}");
    assert!(pair.client.is_finished());
    assert_eq!((pair.client.next_deadline(), pair.client.retained_bytes(), pair.client.stream_count()), (None, 0, 0));
    assert_eq!(pair.client.open(tcp()), Err(OpenError::Closed));
    // An end that never met its peer ends as well, though its own leg is up.
    let mut lonely = Session::new(Side::Client, pair::id(), Duration::ZERO);
    lonely.leg_up(Duration::ZERO);
    lonely.tick(SESSION_GRACE);
    let seen = events(&mut lonely);
    assert!(matches!(&seen[..], [Event::Closed { message, .. }] if message.starts_with("the other end")), "{seen:?}");
}

#[test]
fn only_one_leg_drops_and_nothing_is_lost() {
    let mut pair = Pair::met();
    let stream = pair.open(tcp());
    pair.client.send(stream, Bytes::from_static(b"lost on the way"));
    pair.device.send(stream, Bytes::from_static(b"so is this"));
    assert_eq!((said(&mut pair.client, pair.now).len(), said(&mut pair.device, pair.now).len()), (1, 1));
    pair.client.leg_down(pair.now);
    pair.now += Duration::from_secs(60);
    pair.client.leg_up(pair.now);
    pair.run();
    assert_eq!(events(&mut pair.client), [Event::Established, Event::Data { stream, payload: Bytes::from_static(b"so is this") }]);
    assert_eq!(events(&mut pair.device), [Event::Established, Event::Data { stream, payload: Bytes::from_static(b"lost on the way") }]);
    pair.pass(Duration::from_millis(50));
    assert_eq!((pair.client.retained_bytes(), pair.device.retained_bytes()), (0, 0));
}

#[test]
fn close_tells_the_peer_even_over_a_new_leg() {
    let mut pair = Pair::met();
    let stream = pair.open(tcp());
    pair.client.leg_down(pair.now);
    pair.client.send(stream, bytes(10));
    pair.client.close(code::DONE, "bye");
    assert_eq!(events(&mut pair.client), [Event::Closed { code: "done".into(), message: "bye".into() }]);
    assert!(!pair.client.is_finished());
    pair.client.leg_up(pair.now);
    pair.run();
    assert!(pair.client.is_finished() && pair.device.is_finished());
    assert_eq!(events(&mut pair.device), [Event::Established, Event::Closed { code: "done".into(), message: "bye".into() }]);
    // And a second close changes nothing.
    pair.client.close(code::FAILED, "again");
    assert_eq!(events(&mut pair.client), []);
}

#[test]
fn long_texts_are_cut_and_large_info_is_left_out() {
    let mut pair = Pair::met();
    for _ in 0..2 {
        pair.client.open(tcp()).unwrap();
    }
    pair.run();
    pair.device.accept(StreamId(1), Value::String("x".repeat(20_000)));
    pair.device.refuse(StreamId(3), &"c".repeat(100), &"ü".repeat(5000));
    pair.run();
    let seen = events(&mut pair.client);
    assert_eq!(seen[0], Event::Opened { stream: StreamId(1), info: Value::Null });
    assert!(matches!(&seen[1], Event::Refused { code, message, .. } if code.len() == 64 && message.len() == 1024), "{seen:?}");
    let target = Target::Unix { path: "/".repeat(20_000) };
    assert_eq!(pair.client.open(target), Err(OpenError::TooLarge));
}
