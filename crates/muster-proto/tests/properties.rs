//! Properties of every decoder: what is encoded decodes to the same, and nothing that arrives makes one panic,
//! be it cut at any byte, with any bit flipped, or made up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bytes::Bytes;
use muster_proto::api;
use muster_proto::backoff::Backoff;
use muster_proto::id::{DeviceUid, OrgId, ProjectId, RunId, Serial, SessionId, StreamId};
use muster_proto::limits::PAYLOAD_MAX;
use muster_proto::mqtt::{self, AdmissionNotice, Column, ConfigWish, DeviceEvent, Heartbeat, Presence, SessionOrder, UsageBatch};
use muster_proto::problem::Problem;
use muster_proto::run::{RunOrder, RunReport};
use muster_proto::session::{Control, Hello, OpenTarget, Session, Side, Target, Terminal};
use muster_proto::token::{Pin, Token, TokenKind};
use muster_proto::topic::{self, Topic};
use muster_proto::websocket;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Decodes as `T`; what decodes must encode, and decode to the same text again.
fn stable<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
    let Ok(value) = mqtt::decode::<T>(bytes, PAYLOAD_MAX) else { return false };
    let again = mqtt::encode(&value);
    if let Ok(value) = mqtt::decode::<T>(&again, usize::MAX) {
        assert_eq!(mqtt::encode(&value), again);
    }
    true
}

/// Passes bytes through every decoder of the crate; how many took them.
fn through_all(bytes: &[u8]) -> usize {
    let json = [
        stable::<Presence>(bytes),
        stable::<Heartbeat>(bytes),
        stable::<UsageBatch>(bytes),
        stable::<DeviceEvent>(bytes),
        stable::<SessionOrder>(bytes),
        stable::<ConfigWish>(bytes),
        stable::<AdmissionNotice>(bytes),
        stable::<Problem>(bytes),
        stable::<api::HubInfo>(bytes),
        stable::<api::EnrolRequest>(bytes),
        stable::<api::EnrolState>(bytes),
        stable::<api::Identity>(bytes),
        stable::<api::RenewRequest>(bytes),
        stable::<api::DeviceSelf>(bytes),
        stable::<api::EnrolmentTokenCreate>(bytes),
        stable::<api::EnrolmentToken>(bytes),
        stable::<api::LoginRequest>(bytes),
        stable::<api::AccessToken>(bytes),
        stable::<api::AccessTokenCreate>(bytes),
        stable::<api::Me>(bytes),
        stable::<api::OrgCreate>(bytes),
        stable::<api::MemberPut>(bytes),
        stable::<api::Project>(bytes),
        stable::<api::ProjectCreate>(bytes),
        stable::<api::ParticipantPut>(bytes),
        stable::<api::Page<api::Device>>(bytes),
        stable::<api::Device>(bytes),
        stable::<api::DeviceEdit>(bytes),
        stable::<api::DeviceDecision>(bytes),
        stable::<api::PresenceChange>(bytes),
        stable::<api::WatchRequest>(bytes),
        stable::<api::SessionCreate>(bytes),
        stable::<api::SessionTicket>(bytes),
        stable::<api::Session>(bytes),
        stable::<api::AuditEvent>(bytes),
        stable::<api::RunCreate>(bytes),
        stable::<api::Run>(bytes),
        stable::<api::RunLine>(bytes),
        stable::<RunOrder>(bytes),
        stable::<RunReport>(bytes),
    ];
    let mut taken = json.iter().filter(|taken| **taken).count();
    if let Ok(batch) = UsageBatch::decode(bytes) {
        taken += 1;
        for index in 0..=batch.n as usize {
            batch.time_of(index);
            for column in batch.c.values() {
                column.at(index);
            }
        }
    }
    taken += usize::from(RunOrder::decode(bytes).is_ok() || RunReport::decode(bytes).is_ok());
    if let Ok(text) = std::str::from_utf8(bytes) {
        let uid: DeviceUid = "daaaaaaaaaaaaaaa".parse().unwrap();
        taken += usize::from(Control::parse(text).is_ok());
        taken += usize::from(text.parse::<Topic>().is_ok());
        taken += usize::from(Token::parse(text, TokenKind::Enrolment).is_ok() || Token::parse(text, TokenKind::Personal).is_ok());
        taken += usize::from(text.parse::<Pin>().is_ok());
        taken += usize::from(text.parse::<OrgId>().is_ok() || text.parse::<ProjectId>().is_ok() || text.parse::<Serial>().is_ok());
        taken += usize::from(text.parse::<DeviceUid>().is_ok() || text.parse::<SessionId>().is_ok() || text.parse::<RunId>().is_ok());
        topic::may_publish(&uid, text);
        topic::may_subscribe(&uid, text);
    }
    taken += usize::from(matches!(websocket::Header::parse(bytes), Ok(Some(_))));
    taken += usize::from(websocket::parse_close(bytes).is_ok());
    to_session(bytes);
    taken
}

/// Gives bytes to a session as text and as data, before and after it has met its peer.
fn to_session(bytes: &[u8]) {
    for met in [false, true] {
        for as_text in [false, true] {
            let mut session = device(met);
            let now = Duration::from_secs(1);
            let done = match std::str::from_utf8(bytes) {
                Ok(text) if as_text => session.receive_text(text, now),
                _ => session.receive_binary(Bytes::copy_from_slice(bytes), now),
            };
            assert_eq!(done.is_err(), session.is_closed() && !session.is_finished());
            while session.poll_event().is_some() {}
            while session.poll_transmit(now).is_some() {}
            session.tick(Duration::from_secs(1000));
        }
    }
}

/// A device's end with one stream, that has met its peer or not.
fn device(met: bool) -> Session {
    let mut session = Session::new(Side::Device, "saaaaaaaaaaaaaaa".parse().unwrap(), Duration::ZERO);
    session.leg_up(Duration::ZERO);
    if met {
        let hello = r#"{"type":"hello","version":1,"session":"saaaaaaaaaaaaaaa","resume":false,"received":0,"leg":1,"peer_leg":1}"#;
        session.receive_text(hello, Duration::ZERO).unwrap();
        session.receive_text(r#"{"type":"open","stream":1,"target":{"kind":"unix","path":"/x"}}"#, Duration::ZERO).unwrap();
        session.accept(StreamId(1), serde_json::Value::Null);
    }
    session
}

/// One good example of each kind of input.
const SAMPLES: [&str; 30] = [
    r#"{"online":true,"link":7,"boot":"00112233aabbccdd","t":1700000000000,"agent":"0.1.0","facts":{"os":"Debian 13","n":[1,{"a":null}]},"reason":"x"}"#,
    r#"{"seq":1,"t":1700000000000,"uptime_s":60,"sessions":0,"spooled":3}"#,
    r#"{"boot":"00112233aabbccdd","first_seq":60,"n":3,"t0":1700000000000,"step_s":10.0,"dt":[0,10001,25000],"dropped":9,"c":{"cpu":[0.25,null,1.0],"mem":4e9}}"#,
    r#"{"t":5,"kind":"policy_refused","session":"saaaaaaaaaaaaaaa","target":"tcp x:22","code":"policy","message":"no"}"#,
    r#"{"t":5,"kind":"session_closed","session":"saaaaaaaaaaaaaaa","reason":"done","received":1,"sent":2}"#,
    r#"{"do":"open","session":"saaaaaaaaaaaaaaa","relay":"wss://h/","ticket":"t","user":"a@b","project":"lab","role":"connect","reason":"r","t":5}"#,
    r#"{"do":"end","session":"saaaaaaaaaaaaaaa","reason":"revoked"}"#,
    r#"{"sample_every_s":1,"usage_every_s":2,"watch_until":9,"now":5}"#,
    r#"{"do":"named","uid":"daaaaaaaaaaaaaaa","org":"acme","name":"Robot 7","now":5}"#,
    r#"{"code":"not_found","status":404,"detail":"no","request":"r","retry_in":5}"#,
    r#"{"token":"mt1.a.b.c","serial":"R-7","csr":"-----BEGIN","facts":{"os":"x"}}"#,
    r#"{"request":"00","pairing_code":"ABCD-2345","org":"acme","state":"pending","why":"w","now":1}"#,
    r#"{"uid":"daaaaaaaaaaaaaaa","org":"acme","name":"n","certificate":"c","ca":"c","mqtt":{"url":"mqtts://h:1","websocket":"wss://h/mqtt"}}"#,
    r#"{"items":[{"id":"R-7","uid":"daaaaaaaaaaaaaaa","name":"n","admission":"admitted","presence":"online","why":"online","presence_since":1,"last_seen":2,"projects":["lab"],"facts":{},"usage":{"t":1,"boot":"b","seq":1,"values":{"cpu":0.5}},"agent":null,"sessions":0,"spooled":0,"certificate_expires_at":null,"created_at":1}],"next":"c"}"#,
    r#"{"do":"start","command":{"argv":["df","-h"]},"run_as":"op","cwd":"/","env":{"A":"1"},"timeout_s":60,"output_max":9,"user":"a@b","project":"lab","role":"operate","t":5,"expires":9}"#,
    r#"{"do":"cancel","reason":"enough","t":5}"#,
    r#"{"n":2,"t":5,"kind":"output","stream":"stdout","at":0,"data":"AP+A"}"#,
    r#"{"n":4,"t":5,"kind":"end","outcome":"done","exit_code":3,"signal":"KILL","code":"c","message":"m","stdout":6,"stderr":3,"dropped":0,"used":{"cpu_us":1,"mem_byte_ms":2,"mem_peak":3,"wall_ms":4}}"#,
    r#"{"project":"lab","want":"ssh","reason":"why"}"#,
    r#"{"type":"hello","version":1,"session":"saaaaaaaaaaaaaaa","resume":true,"received":0,"leg":2,"peer_leg":1}"#,
    r#"{"type":"open","stream":3,"target":{"kind":"terminal","cols":80,"rows":24,"term":"xterm","user":"r","command":"c","attach":"a"}}"#,
    r#"{"type":"opened","stream":1,"info":{"size":9}}"#,
    r#"{"type":"refused","stream":1,"code":"policy","message":"no"}"#,
    r#"{"type":"credit","stream":1,"bytes":65536}"#,
    r#"{"type":"ack","received":1}"#,
    r#"{"type":"exit","stream":1,"code":-1,"signal":"KILL"}"#,
    r#"{"type":"resize","stream":1,"cols":132,"rows":50}"#,
    "muster/v1/daaaaaaaaaaaaaaa/up/run/raaaaaaaaaaaaaaa",
    "mt1.abcdefghij.klmnopqrstuvwxyz234567abcdefghij.__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA",
    "\0\0\0\u{1}data of a stream",
];

#[test]
fn samples_are_taken_and_cut_or_flipped_ones_never_panic() {
    let mut tried = 0;
    for sample in SAMPLES {
        let bytes = sample.as_bytes();
        assert!(through_all(bytes) > 0 || sample.starts_with('\0'), "{sample} is not taken by any decoder");
        for end in 0..bytes.len() {
            through_all(&bytes[..end]);
            tried += 1;
        }
        for at in 0..bytes.len() {
            for flip in [0x01, 0x04, 0x20, 0x80, 0xff] {
                let mut bytes = bytes.to_vec();
                bytes[at] ^= flip;
                through_all(&bytes);
                tried += 1;
            }
        }
    }
    assert!(tried > 10_000, "{tried}");
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{0,20}", any::<String>()]
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        (text(), any::<u16>()).prop_map(|(host, port)| Target::Tcp { host, port }),
        (text(), any::<u16>()).prop_map(|(host, port)| Target::Udp { host, port }),
        text().prop_map(|path| Target::Unix { path }),
        (any::<u16>(), any::<u16>(), text(), any::<Option<String>>(), any::<Option<String>>(), any::<Option<String>>(), any::<bool>())
            .prop_map(|(cols, rows, term, user, command, attach, errors)| {
                Target::Terminal(Terminal { cols, rows, term, user, command, attach, errors })
            }),
        any::<u32>().prop_map(|of| Target::Errors { of: StreamId(of) }),
        (text(), any::<u64>()).prop_map(|(path, offset)| Target::Get { path, offset }),
        (text(), any::<u64>(), any::<Option<u32>>(), any::<u64>(), any::<Option<String>>())
            .prop_map(|(path, size, mode, offset, sha256)| Target::Put { path, size, mode, offset, sha256 }),
        text().prop_map(|path| Target::List { path }),
    ]
}

fn session_id() -> impl Strategy<Value = SessionId> {
    any::<[u8; 15]>().prop_map(SessionId::from_random)
}

fn control() -> impl Strategy<Value = Control> {
    let stream = || any::<u32>().prop_map(StreamId);
    prop_oneof![
        (any::<u32>(), session_id(), any::<bool>(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
            |(version, session, resume, received, leg, peer_leg)| Control::Hello(Hello {
                version,
                session,
                resume,
                received,
                leg,
                peer_leg
            })
        ),
        (stream(), target()).prop_map(|(stream, target)| Control::Open { stream, target: OpenTarget::Known(target) }),
        (stream(), text()).prop_map(|(stream, info)| Control::Opened { stream, info: info.into() }),
        (stream(), text(), text()).prop_map(|(stream, code, message)| Control::Refused { stream, code, message }),
        (stream(), any::<u32>()).prop_map(|(stream, bytes)| Control::Credit { stream, bytes }),
        stream().prop_map(|stream| Control::Eof { stream }),
        (stream(), text(), text()).prop_map(|(stream, code, message)| Control::Reset { stream, code, message }),
        any::<u64>().prop_map(|received| Control::Ack { received }),
        (stream(), any::<u16>(), any::<u16>()).prop_map(|(stream, cols, rows)| Control::Resize { stream, cols, rows }),
        (stream(), text()).prop_map(|(stream, signal)| Control::Signal { stream, signal }),
        (stream(), text()).prop_map(|(stream, message)| Control::Notice { stream, message }),
        (stream(), any::<Option<i32>>(), any::<Option<String>>()).prop_map(|(stream, code, signal)| Control::Exit { stream, code, signal }),
        Just(Control::Ping),
        Just(Control::Pong),
        (text(), text()).prop_map(|(code, message)| Control::Close { code, message }),
    ]
}

fn column(n: usize) -> impl Strategy<Value = Column> {
    // Fifteen digits are exact both ways; the last bits of longer ones may change in the decoder.
    let value = || prop_oneof![(-1_000_000_000_000_i64..1_000_000_000_000).prop_map(|thousandths| thousandths as f64 / 1000.0), Just(0.0)];
    prop_oneof![value().prop_map(Column::Constant), prop::collection::vec(prop::option::of(value()), n).prop_map(Column::Each),]
}

fn batch() -> impl Strategy<Value = UsageBatch> {
    (1usize..60).prop_flat_map(|n| {
        let columns = prop::collection::btree_map("[ -~]{1,64}", column(n), 0..20);
        let dt = prop::option::of(prop::collection::vec(-100_000i64..100_000, n));
        (
            any::<u64>(),
            0..u64::MAX / 2,
            0i64..9_999_999_999_999,
            (0u32..86_400_000).prop_map(|ms| f64::from(ms) / 1000.0),
            dt,
            any::<u64>(),
            columns,
        )
            .prop_map(move |(boot, first_seq, t0, step_s, dt, dropped, c)| UsageBatch {
                boot: format!("{boot:016x}"),
                first_seq,
                n: u32::try_from(n).unwrap(),
                t0,
                step_s,
                dt,
                dropped,
                c,
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn control_messages_round_trip(control in control()) {
        let text = control.encode();
        if let Ok(parsed) = Control::parse(&text) {
            prop_assert_eq!(parsed, control);
        } else {
            prop_assert!(text.len() > muster_proto::limits::CONTROL_MAX);
        }
    }

    #[test]
    fn usage_batches_round_trip(batch in batch()) {
        let bytes = mqtt::encode(&batch);
        prop_assume!(bytes.len() <= PAYLOAD_MAX);
        prop_assert_eq!(UsageBatch::decode(&bytes).unwrap(), batch);
    }

    #[test]
    fn tokens_round_trip(random in any::<[u8; 42]>(), more in any::<u64>(), pin in any::<[u8; 32]>()) {
        let kind = if more % 2 == 0 { TokenKind::Enrolment } else { TokenKind::Personal };
        let token = Token::from_random(kind, random, Pin(pin));
        prop_assert_eq!(Token::parse(&token.to_string(), kind), Ok(token.clone()));
        prop_assert_eq!(token.pin.to_string().parse(), Ok(Pin(pin)));
    }

    #[test]
    fn ids_and_topics_round_trip(random in any::<[u8; 15]>(), run in any::<[u8; 15]>()) {
        let (uid, run) = (DeviceUid::from_random(random), RunId::from_random(run));
        prop_assert_eq!(uid.as_str().parse(), Ok(uid.clone()));
        let own = Topic::Up(uid.clone(), topic::Up::Run(run));
        prop_assert_eq!(own.to_string().parse(), Ok(own.clone()));
        prop_assert!(topic::may_publish(&uid, &own.to_string()));
        prop_assert!(topic::may_subscribe(&uid, &topic::down_filter(&uid)));
    }

    #[test]
    fn no_made_up_topic_leaves_a_lane(mine in any::<[u8; 15]>(), theirs in any::<[u8; 15]>(), tail in "[a-z/+#$]{0,20}") {
        let (mine, theirs) = (DeviceUid::from_random(mine), DeviceUid::from_random(theirs));
        prop_assume!(mine != theirs);
        for text in [format!("muster/v1/{theirs}/{tail}"), tail.clone(), format!("$share/g/muster/v1/{mine}/down/{tail}"), format!("muster/v1/+/{tail}")] {
            prop_assert!(!topic::may_publish(&mine, &text), "{}", text);
            prop_assert!(!topic::may_subscribe(&mine, &text), "{}", text);
        }
    }

    #[test]
    fn made_up_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        through_all(&bytes);
    }

    #[test]
    fn made_up_text_never_panics(text in prop_oneof![any::<String>(), "[ -~]{0,100}", r#"\{"(type|do|kind)":"[a-z_]{1,10}"(,"[a-z]{1,8}":[0-9]{1,12}){0,4}\}"#]) {
        through_all(text.as_bytes());
    }

    #[test]
    fn a_session_survives_any_conversation(controls in prop::collection::vec(control(), 0..30), data in prop::collection::vec((0u32..6, 0usize..100), 0..30)) {
        let mut session = device(true);
        let mut now = Duration::from_secs(1);
        for (control, (stream, size)) in controls.iter().zip(&data) {
            let _ = session.receive_text(&control.encode(), now);
            let mut message = stream.to_be_bytes().to_vec();
            message.resize(4 + size, 0);
            let _ = session.receive_binary(message.into(), now);
            session.send(StreamId(*stream), Bytes::from(vec![0; *size]));
            session.consumed(StreamId(*stream), usize::MAX);
            session.finish(StreamId(*stream));
            now += Duration::from_millis(7);
            session.tick(now);
            while session.poll_event().is_some() {}
            while session.poll_transmit(now).is_some() {}
        }
        prop_assert!(session.retained_bytes() < 1 << 20);
    }

    #[test]
    fn a_back_off_never_waits_longer_than_asked(attempts in 0usize..100, random in any::<u64>(), asked in prop::option::of(0u64..10_000)) {
        let mut backoff = Backoff::default();
        for _ in 0..attempts {
            backoff.next(random, None);
        }
        let asked = asked.map(Duration::from_secs);
        let delay = backoff.next(random, asked);
        match asked {
            None => prop_assert!(delay <= Duration::from_secs(300)),
            Some(asked) => prop_assert!(delay >= asked.min(Duration::from_secs(3600)) && delay <= asked + asked / 4),
        }
    }
}
