//! Windows and turns of the session's streams: who may send how much, and who goes first.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/pair.rs"]
mod pair;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use muster_proto::id::StreamId;
use muster_proto::limits::{DATA_LONG, DATA_MAX, STREAMS_MAX, TURN, WINDOW_FIRST, WINDOW_MAX};
use muster_proto::session::{Event, OpenError, Outgoing, ProtocolError, Session, Target};
use pair::{Pair, bytes, data, events, frame, said, tcp, terminal, texts};

/// Acknowledges at once all that `session` has said, so that the pace never stops it.
fn acknowledge(session: &mut Session, counted: &mut u64, now: Duration) {
    *counted += 1;
    session.receive_text(&format!(r#"{{"type":"ack","received":{counted}}}"#), now).unwrap();
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

#[test]
fn on_a_fast_line_several_take_long_turns() {
    let mut pair = Pair::met();
    let (a, b) = (pair.open(tcp()), pair.open(tcp()));
    // Acknowledged at once, and so the line is known as fast.
    pair.client.send(a, bytes(2 * DATA_LONG));
    pair.run();
    for stream in [a, b] {
        pair.client.send(stream, bytes(TURN + DATA_LONG));
    }
    let turns: Vec<_> = said(&mut pair.client, pair.now).iter().filter_map(data).collect();
    assert_eq!(turns, [(a, TURN), (b, TURN), (a, DATA_LONG), (b, DATA_LONG)]);
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
fn an_application_that_sends_too_much_breaks_no_rule() {
    let mut pair = Pair::met();
    let stream = pair.open(tcp());
    assert_eq!(pair.client.writable(stream), 256 * 1024);
    for _ in 0..40 {
        pair.client.send(stream, bytes(50_000));
    }
    assert_eq!(pair.client.writable(stream), 0);
    pair.run();
    pair.pass(Duration::from_millis(50));
    let size = |event: &Event| if let Event::Data { payload, .. } = event { payload.len() } else { 0 };
    let mut arrived = 0;
    while arrived < 2_000_000 {
        let now: usize = events(&mut pair.device).iter().map(size).sum();
        let window = if arrived == 0 { WINDOW_FIRST } else { WINDOW_MAX };
        assert!(now > 0 && now <= window as usize, "{now}");
        arrived += now;
        pair.device.consumed(stream, now);
        pair.pass(Duration::from_millis(50));
    }
    assert!(events(&mut pair.client).contains(&Event::Writable { stream }));
}
