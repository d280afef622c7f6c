//! The bytes of the session protocol, frozen: literal text of every control message, both ways.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/pair.rs"]
mod pair;

use bytes::Bytes;
use muster_proto::id::StreamId;
use muster_proto::limits::CONTROL_MAX;
use muster_proto::session::{Control, Event, Hello, OpenTarget, Outgoing, Session, Side, Target, Terminal};
use serde_json::{Value, json};

fn literals() -> Vec<(&'static str, Control)> {
    let stream = StreamId(3);
    let open = |target| Control::Open { stream, target: OpenTarget::Known(target) };
    vec![
        (
            r#"{"type":"hello","version":1,"session":"saaaaaaaaaaaaaaa","resume":true,"received":7,"leg":2,"peer_leg":1}"#,
            Control::Hello(Hello { version: 1, session: pair::id(), resume: true, received: 7, leg: 2, peer_leg: 1 }),
        ),
        (
            r#"{"type":"open","stream":3,"target":{"kind":"tcp","host":"127.0.0.1","port":22}}"#,
            open(Target::Tcp { host: "127.0.0.1".into(), port: 22 }),
        ),
        (
            r#"{"type":"open","stream":3,"target":{"kind":"udp","host":"::1","port":53}}"#,
            open(Target::Udp { host: "::1".into(), port: 53 }),
        ),
        (r#"{"type":"open","stream":3,"target":{"kind":"unix","path":"/run/x.sock"}}"#, open(Target::Unix { path: "/run/x.sock".into() })),
        (r#"{"type":"open","stream":3,"target":{"kind":"terminal","cols":80,"rows":24,"term":"xterm"}}"#, open(pair::terminal())),
        (
            r#"{"type":"open","stream":3,"target":{"kind":"terminal","cols":80,"rows":24,"term":"xterm","user":"robot","command":"uptime","attach":"main","errors":true}}"#,
            open(Target::Terminal(Terminal {
                cols: 80,
                rows: 24,
                term: "xterm".into(),
                user: Some("robot".into()),
                command: Some("uptime".into()),
                attach: Some("main".into()),
                errors: true,
            })),
        ),
        (
            r#"{"type":"open","stream":5,"target":{"kind":"errors","of":3}}"#,
            Control::Open { stream: StreamId(5), target: OpenTarget::Known(Target::Errors { of: StreamId(3) }) },
        ),
        (
            r#"{"type":"open","stream":3,"target":{"kind":"get","path":"/var/log/a","offset":5}}"#,
            open(Target::Get { path: "/var/log/a".into(), offset: 5 }),
        ),
        (
            r#"{"type":"open","stream":3,"target":{"kind":"put","path":"/tmp/a","size":9,"mode":420,"offset":0,"sha256":"00"}}"#,
            open(Target::Put { path: "/tmp/a".into(), size: 9, mode: Some(420), offset: 0, sha256: Some("00".into()) }),
        ),
        (r#"{"type":"open","stream":3,"target":{"kind":"list","path":"/tmp"}}"#, open(Target::List { path: "/tmp".into() })),
        (
            r#"{"type":"open","stream":3,"target":{"kind":"teleport","to":"mars"}}"#,
            Control::Open { stream, target: OpenTarget::Unknown(json!({"kind": "teleport", "to": "mars"})) },
        ),
        (r#"{"type":"opened","stream":3}"#, Control::Opened { stream, info: Value::Null }),
        (r#"{"type":"opened","stream":3,"info":{"size":9}}"#, Control::Opened { stream, info: json!({"size": 9}) }),
        (
            r#"{"type":"refused","stream":3,"code":"policy","message":"no"}"#,
            Control::Refused { stream, code: "policy".into(), message: "no".into() },
        ),
        (r#"{"type":"credit","stream":3,"bytes":65536}"#, Control::Credit { stream, bytes: 65_536 }),
        (r#"{"type":"eof","stream":3}"#, Control::Eof { stream }),
        (
            r#"{"type":"reset","stream":3,"code":"broken","message":"gone"}"#,
            Control::Reset { stream, code: "broken".into(), message: "gone".into() },
        ),
        (r#"{"type":"ack","received":12}"#, Control::Ack { received: 12 }),
        (r#"{"type":"resize","stream":3,"cols":132,"rows":50}"#, Control::Resize { stream, cols: 132, rows: 50 }),
        (r#"{"type":"signal","stream":3,"signal":"INT"}"#, Control::Signal { stream, signal: "INT".into() }),
        (r#"{"type":"notice","stream":3,"message":"wait"}"#, Control::Notice { stream, message: "wait".into() }),
        (r#"{"type":"exit","stream":3,"code":0}"#, Control::Exit { stream, code: Some(0), signal: None }),
        (r#"{"type":"exit","stream":3,"signal":"KILL"}"#, Control::Exit { stream, code: None, signal: Some("KILL".into()) }),
        (r#"{"type":"ping"}"#, Control::Ping),
        (r#"{"type":"pong"}"#, Control::Pong),
        (r#"{"type":"close","code":"done","message":"bye"}"#, Control::Close { code: "done".into(), message: "bye".into() }),
    ]
}

#[test]
fn every_message_has_these_bytes() {
    let literals = literals();
    for (text, control) in &literals {
        assert_eq!(control.encode(), *text);
        assert_eq!(Control::parse(text).unwrap(), *control, "{text}");
    }
    // Every type stands above, or this fails when one is added.
    let mut types: Vec<String> =
        literals.iter().map(|(text, _)| serde_json::from_str::<Value>(text).unwrap()["type"].as_str().unwrap().to_owned()).collect();
    types.dedup();
    let all = [
        "hello", "open", "opened", "refused", "credit", "eof", "reset", "ack", "resize", "signal", "notice", "exit", "ping", "pong",
        "close",
    ];
    assert_eq!(types, all);
}

#[test]
fn unknown_fields_and_types_are_ignored_by_rule() {
    assert_eq!(Control::parse(r#"{"type":"eof","stream":3,"why":"new"}"#).unwrap(), Control::Eof { stream: StreamId(3) });
    assert_eq!(Control::parse(r#"{"stream":3,"type":"eof"}"#).unwrap(), Control::Eof { stream: StreamId(3) });
    let later = Control::parse(r#"{"type":"migrate","stream":3,"to":["a"]}"#).unwrap();
    assert_eq!(later, Control::Unknown);
    // It counts, or the ends' counts would part.
    assert!(later.is_counted());
    assert_eq!(Control::parse(r#"{ "type": "ack", "received": 12 }"#).unwrap(), Control::Ack { received: 12 });
}

#[test]
fn known_types_with_wrong_fields_are_errors() {
    for text in [
        "",
        "{}",
        "[]",
        "null",
        "eof",
        r#"{"type":"eof"}"#,
        r#"{"type":"eof","stream":-1}"#,
        r#"{"type":"eof","stream":4294967296}"#,
        r#"{"type":"eof","stream":"3"}"#,
        r#"{"type":"credit","stream":3,"bytes":4294967296}"#,
        r#"{"type":"ack","received":-1}"#,
        r#"{"type":"ack","received":01}"#,
        r#"{"type":"ack","received":}"#,
        r#"{"type":"ack","received":99999999999999999999}"#,
        r#"{"type":"hello","version":1,"session":"x","resume":false,"received":0,"leg":1,"peer_leg":0}"#,
        r#"{"type":"resize","stream":3,"cols":70000,"rows":1}"#,
        r#"{"type":"ping"}{"type":"ping"}"#,
    ] {
        assert!(Control::parse(text).is_err(), "{text}");
    }
    let long = format!(r#"{{"type":"ping","x":"{}"}}"#, "a".repeat(CONTROL_MAX));
    assert!(Control::parse(&long).is_err());
}

#[test]
fn a_conversation_word_by_word() {
    let mut pair = pair::Pair::met();
    let now = pair.now;
    let stream = pair.client.open(pair::tcp()).unwrap();
    pair.client.send(stream, Bytes::from_static(b"SSH"));
    let said = pair.client.poll_transmit(now).unwrap();
    assert_eq!(said, Outgoing::Control(r#"{"type":"open","stream":1,"target":{"kind":"tcp","host":"127.0.0.1","port":22}}"#.into()));
    pair::receive(&mut pair.device, &said, now).unwrap();
    let said = pair.client.poll_transmit(now).unwrap();
    assert_eq!(said, Outgoing::Data { stream: StreamId(1), payload: Bytes::from_static(b"SSH") });
    assert_eq!(pair::frame(StreamId(1), b"SSH")[..], *b"\0\0\0\x01SSH");
    pair::receive(&mut pair.device, &said, now).unwrap();
    assert_eq!(
        pair::events(&mut pair.device),
        [Event::Open { stream, target: pair::tcp() }, Event::Data { stream, payload: Bytes::from_static(b"SSH") }]
    );
    pair.device.accept(stream, Value::Null);
    assert_eq!(pair.device.poll_transmit(now), Some(Outgoing::Control(r#"{"type":"opened","stream":1}"#.into())));
    assert_eq!(pair.device.open(pair::tcp()), Ok(StreamId(2)), "the device opens even streams");
    assert_eq!(pair.client.open(pair::tcp()), Ok(StreamId(3)), "the client opens odd streams");
}

#[test]
fn the_first_hello_of_each_leg() {
    let mut session = Session::new(Side::Device, pair::id(), std::time::Duration::ZERO);
    assert_eq!(session.poll_transmit(std::time::Duration::ZERO), None);
    for leg in 1..4 {
        session.leg_up(std::time::Duration::ZERO);
        let hello =
            format!(r#"{{"type":"hello","version":1,"session":"saaaaaaaaaaaaaaa","resume":false,"received":0,"leg":{leg},"peer_leg":0}}"#);
        assert_eq!(session.poll_transmit(std::time::Duration::ZERO), Some(Outgoing::Control(hello)));
        assert_eq!(session.poll_transmit(std::time::Duration::ZERO), None);
        session.leg_down(std::time::Duration::ZERO);
    }
}
