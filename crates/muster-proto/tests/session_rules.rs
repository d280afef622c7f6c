//! Single rules of the session: windows, turns, bounds, legs, and what a peer that breaks a rule gets.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/pair.rs"]
mod pair;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use muster_proto::id::StreamId;
use muster_proto::limits::{DATA_LONG, DATA_MAX, SESSION_GRACE, STREAMS_MAX, TURN, WINDOW_FIRST, WINDOW_MAX};
use muster_proto::session::{Event, OpenError, Outgoing, ProtocolError, Session, Side, Target, code};
use pair::{Pair, bytes, events, frame, receive, tcp, terminal};
use serde_json::Value;

/// What `session` says now, without answers from the other end.
fn said(session: &mut Session, now: Duration) -> Vec<Outgoing> {
    std::iter::from_fn(|| session.poll_transmit(now)).collect()
}

fn texts(messages: &[Outgoing]) -> Vec<&str> {
    messages.iter().filter_map(|message| if let Outgoing::Control(text) = message { Some(text.as_str()) } else { None }).collect()
}

fn data(message: &Outgoing) -> Option<(StreamId, usize)> {
    if let Outgoing::Data { stream, payload } = message { Some((*stream, payload.len())) } else { None }
}

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
fn a_window_is_a_window() {
    let mut pair = Pair::met();
    let stream = pair.client.open(tcp()).unwrap();
    pair.run();
    let message = frame(stream, &vec![0; DATA_MAX]);
    for _ in 0..WINDOW_FIRST as usize / DATA_MAX {
        pair.device.receive_binary(message.clone(), pair.now).unwrap();
    }
    let error = pair.device.receive_binary(frame(stream, b"x"), pair.now).unwrap_err();
    assert!(matches!(error, ProtocolError::Credit { size: 1, credit: 0, .. }), "{error}");
}

#[test]
fn a_stalled_stream_stops_at_its_window_and_no_other_stream() {
    let mut pair = Pair::met();
    let (stalled, free) = (pair.open(tcp()), pair.open(tcp()));
    let (mut held, mut through) = (0, 0);
    for _ in 0..400 {
        for stream in [stalled, free] {
            let room = pair.client.writable(stream);
            pair.client.send(stream, bytes(room.min(50_000)));
        }
        pair.run();
        for event in events(&mut pair.device) {
            if let Event::Data { stream, payload } = event {
                if stream == free {
                    through += payload.len();
                    pair.device.consumed(stream, payload.len());
                } else {
                    held += payload.len();
                }
            }
        }
        pair.pass(Duration::from_millis(1));
    }
    assert_eq!(held, WINDOW_FIRST as usize);
    assert!(through > 10_000_000, "{through}");
    assert!(pair.client.retained_bytes() < 1_000_000, "{}", pair.client.retained_bytes());
    events(&mut pair.client);
    pair.device.consumed(stalled, held);
    pair.run();
    assert!(events(&mut pair.client).contains(&Event::Writable { stream: stalled }));
}

#[test]
fn a_window_grows_while_the_receiver_keeps_up_and_only_then() {
    for (pause, grows) in [(Duration::from_millis(1), true), (Duration::from_millis(500), false)] {
        let mut pair = Pair::met();
        let stream = pair.open(tcp());
        let mut most = 0;
        for _ in 0..2000 {
            let room = pair.client.writable(stream).min(DATA_MAX);
            pair.client.send(stream, bytes(room));
            pair.run();
            let arrived: usize =
                events(&mut pair.device).iter().map(|event| if let Event::Data { payload, .. } = event { payload.len() } else { 0 }).sum();
            pair.device.consumed(stream, arrived);
            pair.pass(pause);
            events(&mut pair.client);
        }
        // How much goes now without any consumption is the window.
        for _ in 0..400 {
            let room = pair.client.writable(stream).min(DATA_MAX);
            pair.client.send(stream, bytes(room));
            pair.pass(Duration::from_millis(50));
            most += room;
        }
        // Less a quarter that was consumed and not yet credited.
        assert_eq!(most > WINDOW_MAX as usize / 4 * 3, grows, "{most}");
        assert_eq!(most <= WINDOW_FIRST as usize, !grows, "{most}");
    }
}

#[test]
fn a_single_stream_is_not_cut_and_several_take_turns() {
    let mut pair = Pair::met();
    let (a, b) = (pair.open(tcp()), pair.open(tcp()));
    pair.client.send(a, bytes(65_524));
    pair.client.send(a, bytes(DATA_MAX));
    let cut: Vec<_> = said(&mut pair.client, pair.now).iter().filter_map(data).collect();
    assert_eq!(cut, [(a, 65_524), (a, DATA_LONG), (a, DATA_MAX - DATA_LONG)], "what fills four TLS records goes in one piece");
    let mut pair = Pair::met();
    assert_eq!((pair.open(tcp()), pair.open(tcp())), (a, b));
    pair.client.send(a, bytes(65_524));
    pair.client.send(b, bytes(DATA_LONG));
    let turns: Vec<_> = said(&mut pair.client, pair.now).iter().filter_map(data).collect();
    let last = TURN + 36;
    assert_eq!(turns, [(a, TURN), (b, TURN), (a, TURN), (b, TURN), (a, TURN), (b, TURN), (a, last), (b, TURN)]);
}

/// Acknowledges at once all that `session` has said, so that the pace never stops it.
fn acknowledge(session: &mut Session, counted: &mut u64, now: Duration) {
    *counted += 1;
    session.receive_text(&format!(r#"{{"type":"ack","received":{counted}}}"#), now).unwrap();
}

#[test]
fn a_terminal_goes_ahead_of_bulk() {
    let mut pair = Pair::met();
    let copies: Vec<StreamId> = (0..50).map(|_| pair.open(tcp())).collect();
    let shell = pair.open(terminal());
    pair.pass(Duration::from_millis(50));
    for copy in &copies {
        pair.client.send(*copy, bytes(100_000));
    }
    assert!(data(&pair.client.poll_transmit(pair.now).unwrap()).is_some());
    pair.client.send(shell, Bytes::from_static(b"x"));
    assert_eq!(data(&pair.client.poll_transmit(pair.now).unwrap()), Some((shell, 1)));
    // Even when the line is full of bulk.
    while pair.client.poll_transmit(pair.now).is_some() {}
    assert!(pair.client.retained_bytes() > 1_000_000);
    pair.client.send(shell, Bytes::from_static(b"y"));
    assert_eq!(data(&pair.client.poll_transmit(pair.now).unwrap()), Some((shell, 1)));
}

#[test]
fn a_connection_that_was_quiet_goes_ahead_of_bulk() {
    let mut pair = Pair::met();
    let copies = [pair.open(tcp()), pair.open(tcp())];
    pair.pass(Duration::from_millis(50));
    for copy in copies {
        let room = pair.client.writable(copy);
        pair.client.send(copy, bytes(room));
    }
    for _ in 0..4 {
        assert!(copies.contains(&data(&pair.client.poll_transmit(pair.now).unwrap()).unwrap().0));
    }
    // As `ssh` in a session beside two copies.
    let ssh = pair.client.open(tcp()).unwrap();
    pair.client.send(ssh, Bytes::from_static(b"z"));
    assert!(matches!(pair.client.poll_transmit(pair.now), Some(Outgoing::Control(_))));
    assert_eq!(data(&pair.client.poll_transmit(pair.now).unwrap()), Some((ssh, 1)));
}

#[test]
fn a_conversation_stays_ahead_of_bulk_and_one_that_stops_and_starts_does_not() {
    let mut pair = Pair::met();
    let copies: Vec<StreamId> = (0..8).map(|_| pair.open(tcp())).collect();
    let (talk, bursts) = (pair.open(tcp()), pair.open(tcp()));
    pair.pass(Duration::from_millis(50));
    let mut counted = 10;
    let mut sent = BTreeMap::<StreamId, usize>::new();
    let mut talked = 0;
    for round in 0..2000 {
        for copy in &copies {
            let room = pair.client.writable(*copy);
            pair.client.send(*copy, bytes(room));
        }
        // A burst of two turns as soon as the last one is gone: more than is due to it, but never a standing queue.
        if sent.get(&bursts).copied().unwrap_or(0) % (2 * TURN) == 0 && pair.client.writable(bursts) >= WINDOW_FIRST as usize / 2 {
            pair.client.send(bursts, bytes(2 * TURN));
        }
        if round % 5 == 0 {
            pair.client.send(talk, bytes(64));
        }
        let message = loop {
            let message = pair.client.poll_transmit(pair.now).unwrap();
            match data(&message) {
                Some((stream, size)) => break (stream, size),
                None => assert!(texts(&[message])[0].contains("ack")),
            }
        };
        if round % 5 == 0 && message.0 == talk {
            talked += 1;
        }
        *sent.entry(message.0).or_default() += message.1;
        let credit = format!(r#"{{"type":"credit","stream":{},"bytes":{}}}"#, message.0, message.1);
        pair.client.receive_text(&credit, pair.now).unwrap();
        acknowledge(&mut pair.client, &mut counted, pair.now);
        events(&mut pair.client);
    }
    assert!(talked >= 350, "a small message went at once {talked} times of 400");
    let copy = copies.iter().map(|copy| sent[copy]).min().unwrap();
    assert!(sent[&bursts] < 3 * copy, "{} in bursts, {copy} as a copy", sent[&bursts]);
}

#[test]
fn no_stream_starves_however_busy_the_others_are() {
    const BULK: usize = 20;
    let mut pair = Pair::met();
    let bulk: Vec<StreamId> = (0..BULK).map(|_| pair.open(tcp())).collect();
    let terminals = [pair.open(terminal()), pair.open(terminal())];
    pair.pass(Duration::from_millis(50));
    // The opens have been counted.
    let (mut counted, mut last, mut worst) = ((BULK + terminals.len()) as u64, BTreeMap::new(), 0);
    let mut sent = BTreeMap::<StreamId, usize>::new();
    for round in 0..4000usize {
        for stream in bulk.iter().chain(&terminals) {
            // Terminals flood without end, some bulk streams in tiny pieces.
            let piece = if stream.0 % 3 == 0 { 100 } else { 30_000 };
            while pair.client.writable(*stream) >= piece {
                pair.client.send(*stream, bytes(piece));
            }
        }
        // New streams come all the time, each with the right to a first turn.
        if round % 3 == 0 && pair.client.stream_count() < 1000 {
            let new = pair.client.open(tcp()).unwrap();
            pair.client.send(new, bytes(TURN));
        }
        let message = pair.client.poll_transmit(pair.now).unwrap();
        if let Some((stream, size)) = data(&message) {
            *sent.entry(stream).or_default() += size;
            worst = worst.max(round - last.insert(stream, round).unwrap_or(round));
            let credit = format!(r#"{{"type":"credit","stream":{stream},"bytes":{size}}}"#);
            pair.client.receive_text(&credit, pair.now).unwrap();
        }
        if !texts(std::slice::from_ref(&message)).iter().any(|text| text.contains("ack")) {
            acknowledge(&mut pair.client, &mut counted, pair.now);
        }
        events(&mut pair.client);
    }
    let least = bulk.iter().map(|stream| sent.get(stream).copied().unwrap_or(0)).min().unwrap();
    assert!(least > 0, "every stream had a turn: {sent:?}");
    // One bulk turn of at most 16 messages after four turns of others, and a fresh stream between.
    let bound = (BULK + 2) * (16 + 2 * 4 * 16 + 2);
    assert!(worst < bound, "a stream waited for {worst} messages");
}

#[test]
fn many_idle_streams_do_not_slow_the_busy_one() {
    let mut pair = Pair::met();
    let streams: Vec<StreamId> = (0..STREAMS_MAX).map(|_| pair.client.open(tcp()).unwrap()).collect();
    pair.run();
    assert_eq!(pair.client.open(tcp()), Err(OpenError::TooMany));
    assert_eq!(pair.device.open(tcp()), Err(OpenError::TooMany));
    assert_eq!(pair.device.stream_count(), STREAMS_MAX);
    events(&mut pair.device);
    pair.client.send(streams[4000], bytes(10));
    pair.run();
    assert!(matches!(&events(&mut pair.device)[..], [Event::Data { stream, .. }] if *stream == streams[4000]));
    // One more from a peer that does not keep to the bound is refused.
    pair.device.receive_text(r#"{"type":"open","stream":9001,"target":{"kind":"list","path":"/"}}"#, pair.now).unwrap();
    let all = said(&mut pair.device, pair.now);
    assert!(texts(&all).iter().any(|text| text.starts_with(r#"{"type":"refused","stream":9001,"code":"limit""#)), "{all:?}");
}

#[test]
fn what_is_queued_is_bounded_over_all_streams() {
    let mut pair = Pair::met();
    let streams: Vec<StreamId> = (0..2000).map(|_| pair.open(tcp())).collect();
    pair.client.leg_down(pair.now);
    for stream in &streams {
        while pair.client.writable(*stream) > 0 {
            let room = pair.client.writable(*stream);
            pair.client.send(*stream, bytes(room));
        }
    }
    let retained = pair.client.retained_bytes();
    assert!(retained > 8 << 20 && retained < (9 << 20) + 2000 * 32 * 1024, "{retained}");
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
fn datagrams_stay_whole() {
    let mut pair = Pair::met();
    let udp = pair.open(Target::Udp { host: "::1".into(), port: 53 });
    let copy = pair.open(tcp());
    pair.client.send(copy, bytes(100_000));
    pair.client.send(udp, bytes(40_000));
    pair.client.send(udp, bytes(1));
    pair.client.send(udp, bytes(0));
    pair.client.send(udp, bytes(DATA_MAX + 1));
    pair.client.send(udp, bytes(DATA_MAX));
    let sizes: Vec<usize> =
        said(&mut pair.client, pair.now).iter().filter_map(data).filter(|(stream, _)| *stream == udp).map(|(_, size)| size).collect();
    assert_eq!(sizes, [40_000, 1, DATA_MAX]);
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
