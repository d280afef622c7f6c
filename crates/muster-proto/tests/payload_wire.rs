//! The bytes of the MQTT payloads, frozen: literal JSON of every payload, both ways.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use muster_proto::limits::{HEARTBEAT_MAX, PAYLOAD_MAX, POLICY_MAX, PRESENCE_MAX};
use muster_proto::mqtt::{
    AdmissionNotice, Column, ConfigWish, DeviceEvent, DeviceEventKind, Facts, Heartbeat, PolicyReport, Presence, SessionOpen, SessionOrder,
    UsageBatch, decode, encode,
};
use muster_proto::order::SignedOrder;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

fn both_ways<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(text: &str, value: &T) {
    assert_eq!(String::from_utf8(encode(value)).unwrap(), text);
    assert_eq!(&decode::<T>(text.as_bytes(), PAYLOAD_MAX).unwrap(), value, "{text}");
}

#[test]
fn presence() {
    let mut facts = Facts::default();
    facts.0.insert("os".into(), json!("Debian 13"));
    let birth = Presence {
        online: true,
        link: 7,
        boot: Some("00112233aabbccdd".into()),
        t: Some(1_700_000_000_000),
        agent: Some("0.1.0".into()),
        facts: Some(facts),
        reason: None,
    };
    both_ways(r#"{"online":true,"link":7,"boot":"00112233aabbccdd","t":1700000000000,"agent":"0.1.0","facts":{"os":"Debian 13"}}"#, &birth);
    let will = Presence { online: false, link: 7, boot: None, t: None, agent: None, facts: None, reason: None };
    both_ways(r#"{"online":false,"link":7}"#, &will);
    both_ways(r#"{"online":false,"link":7,"reason":"stopped"}"#, &Presence { reason: Some("stopped".into()), ..will });
    assert!(decode::<Presence>(&vec![b' '; PRESENCE_MAX + 1], PRESENCE_MAX).unwrap_err().to_string().contains("over the limit"));
}

#[test]
fn heartbeat() {
    let beat = Heartbeat { seq: 1, t: 1_700_000_000_000, uptime_s: 60, sessions: 0, spooled: 3 };
    both_ways(r#"{"seq":1,"t":1700000000000,"uptime_s":60,"sessions":0,"spooled":3}"#, &beat);
    let largest = Heartbeat { seq: 1 << 40, t: 99_999_999_999_999, uptime_s: 1 << 34, sessions: 9999, spooled: 1 << 30 };
    assert!(encode(&largest).len() <= HEARTBEAT_MAX, "{}", encode(&largest).len());
}

#[test]
fn usage() {
    let mut batch = UsageBatch {
        boot: "00112233aabbccdd".into(),
        first_seq: 60,
        n: 3,
        t0: 1_700_000_000_000,
        step_s: 10.0,
        dt: None,
        dropped: 0,
        c: [("cpu".to_owned(), Column::Each(vec![Some(0.25), None, Some(1.0)])), ("mem_total".to_owned(), Column::Constant(4e9))].into(),
    };
    let text = r#"{"boot":"00112233aabbccdd","first_seq":60,"n":3,"t0":1700000000000,"step_s":10.0,"c":{"cpu":[0.25,null,1.0],"mem_total":4000000000.0}}"#;
    both_ways(text, &batch);
    assert_eq!(UsageBatch::decode(text.as_bytes()).unwrap(), batch);
    assert_eq!([0, 1, 2].map(|i| batch.time_of(i) - batch.t0), [0, 10_000, 20_000]);
    assert_eq!([0, 1, 2, 3].map(|i| batch.c["cpu"].at(i)), [Some(0.25), None, Some(1.0), None]);
    batch.dt = Some(vec![0, 10_001, 25_000]);
    batch.dropped = 9;
    let text = r#"{"boot":"00112233aabbccdd","first_seq":60,"n":3,"t0":1700000000000,"step_s":10.0,"dt":[0,10001,25000],"dropped":9,"c":{"cpu":[0.25,null,1.0],"mem_total":4000000000.0}}"#;
    both_ways(text, &batch);
    assert_eq!([0, 1, 2].map(|i| batch.time_of(i) - batch.t0), [0, 10_001, 25_000]);
}

#[test]
fn a_column_is_read_as_the_derived_reader_would() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(untagged)]
    enum Derived {
        Constant(f64),
        Each(Vec<Option<f64>>),
    }
    let cases = [
        "1",
        "-3",
        "0.1",
        "1e300",
        "18446744073709551615",
        "-9223372036854775808",
        "[]",
        "[1,-2,2.5,null]",
        "[null]",
        " [ 1 ] ",
        "null",
        "true",
        "\"1\"",
        "{}",
        "{\"a\":1}",
        "[\"x\"]",
        "[[1]]",
        "[true]",
        "[1",
        "1e999",
        "[1e999]",
        "",
    ];
    let mut read = 0;
    for text in cases {
        let derived = match serde_json::from_str::<Derived>(text) {
            Ok(Derived::Constant(value)) => Some(Column::Constant(value)),
            Ok(Derived::Each(values)) => Some(Column::Each(values)),
            Err(_) => None,
        };
        read += usize::from(derived.is_some());
        assert_eq!(serde_json::from_str::<Column>(text).ok(), derived, "{text}");
    }
    assert_eq!(read, 10);
}

#[test]
fn usage_that_does_not_fit_together_is_refused() {
    let good = r#"{"boot":"00112233aabbccdd","first_seq":1,"n":2,"t0":1,"step_s":1,"c":{"cpu":[1,2]}}"#;
    UsageBatch::decode(good.as_bytes()).unwrap();
    for (part, bad) in [
        ("\"n\":2", "\"n\":0"),
        ("\"n\":2", "\"n\":601"),
        ("\"n\":2", "\"n\":3"),
        ("\"n\":2", "\"n\":-1"),
        ("\"first_seq\":1", "\"first_seq\":18446744073709551615"),
        ("00112233aabbccdd", "00112233aabbccdx"),
        ("00112233aabbccdd", "0011"),
        ("\"step_s\":1", "\"step_s\":-1"),
        ("\"step_s\":1", "\"step_s\":1e99"),
        ("\"t0\":1", "\"t0\":-1"),
        ("\"t0\":1", "\"t0\":9223372036854775807"),
        ("\"t0\":1", "\"t0\":1,\"dt\":[1]"),
        ("\"t0\":1", "\"t0\":1,\"dt\":[1,9223372036854775807]"),
        ("\"cpu\"", "\"\""),
        ("\"cpu\"", "\"a\\nb\""),
        ("[1,2]", "[1,\"2\"]"),
        ("[1,2]", "\"x\""),
    ] {
        assert!(good.contains(part));
        let text = good.replace(part, bad);
        assert!(UsageBatch::decode(text.as_bytes()).is_err(), "{text}");
    }
    let many: String = (0..257).map(|i| format!(",\"c{i}\":1")).collect();
    assert!(UsageBatch::decode(good.replace("\"cpu\":[1,2]", &format!("\"cpu\":1{many}")).as_bytes()).is_err());
}

#[test]
fn events() {
    let session = || "saaaaaaaaaaaaaaa".parse().unwrap();
    let event = |kind| DeviceEvent { t: 5, kind };
    both_ways(
        r#"{"t":5,"kind":"policy_refused","session":"saaaaaaaaaaaaaaa","target":"tcp 10.0.0.1:22","code":"policy","message":"no"}"#,
        &event(DeviceEventKind::PolicyRefused {
            session: session(),
            target: "tcp 10.0.0.1:22".into(),
            code: "policy".into(),
            message: "no".into(),
        }),
    );
    both_ways(
        r#"{"t":5,"kind":"session_failed","session":"saaaaaaaaaaaaaaa","code":"locked","message":"no"}"#,
        &event(DeviceEventKind::SessionFailed { session: session(), code: "locked".into(), message: "no".into() }),
    );
    both_ways(
        r#"{"t":5,"kind":"session_opened","session":"saaaaaaaaaaaaaaa"}"#,
        &event(DeviceEventKind::SessionOpened { session: session() }),
    );
    both_ways(
        r#"{"t":5,"kind":"session_closed","session":"saaaaaaaaaaaaaaa","reason":"done","received":1,"sent":2}"#,
        &event(DeviceEventKind::SessionClosed { session: session(), reason: "done".into(), received: 1, sent: 2 }),
    );
    both_ways(r#"{"t":5,"kind":"clock_step","by_ms":-1000}"#, &event(DeviceEventKind::ClockStep { by_ms: -1000 }));
    let later = decode::<DeviceEvent>(br#"{"t":5,"kind":"battery_low","level":0.1}"#, PAYLOAD_MAX).unwrap();
    assert_eq!(later, event(DeviceEventKind::Unknown));
}

#[test]
fn orders_wishes_and_notices() {
    let open = SessionOpen {
        session: "saaaaaaaaaaaaaaa".parse().unwrap(),
        relay: "wss://hub:8443/v1/sessions/saaaaaaaaaaaaaaa/device".into(),
        ticket: "t".into(),
        user: "a@b".into(),
        project: "lab".parse().unwrap(),
        role: "connect".into(),
        reason: None,
        t: 5,
    };
    both_ways(
        r#"{"session":"saaaaaaaaaaaaaaa","relay":"wss://hub:8443/v1/sessions/saaaaaaaaaaaaaaa/device","ticket":"t","user":"a@b","project":"lab","role":"connect","t":5}"#,
        &open,
    );
    let signed = SignedOrder { order: "e30=".into(), signature: "c2ln".into(), certificate: "Y2VydA==".into() };
    both_ways(r#"{"do":"open","order":"e30=","signature":"c2ln","certificate":"Y2VydA=="}"#, &SessionOrder::Open(signed));
    let report = PolicyReport { text: Some("a = 1".into()), code: None, fault: None, own_user: true, t: 5 };
    both_ways(r#"{"text":"a = 1","own_user":true,"t":5}"#, &report);
    let report = PolicyReport { text: None, code: Some("policy_missing".into()), fault: Some("none".into()), own_user: false, t: 5 };
    both_ways(r#"{"code":"policy_missing","fault":"none","own_user":false,"t":5}"#, &report);
    let large = PolicyReport { text: Some("x".repeat(POLICY_MAX + 1)), ..report };
    assert!(PolicyReport::decode(&encode(&large)).is_err());
    let end = SessionOrder::End { session: "saaaaaaaaaaaaaaa".parse().unwrap(), reason: "revoked".into() };
    both_ways(r#"{"do":"end","session":"saaaaaaaaaaaaaaa","reason":"revoked"}"#, &end);
    assert_eq!(decode::<SessionOrder>(br#"{"do":"pause","x":1}"#, PAYLOAD_MAX).unwrap(), SessionOrder::Unknown);

    both_ways(r#"{"now":5}"#, &ConfigWish { now: 5, ..ConfigWish::default() });
    let wish = ConfigWish { sample_every_s: Some(1), usage_every_s: Some(2), watch_until: Some(9), now: 5 };
    both_ways(r#"{"sample_every_s":1,"usage_every_s":2,"watch_until":9,"now":5}"#, &wish);

    both_ways(r#"{"do":"renew"}"#, &AdmissionNotice::Renew);
    both_ways(r#"{"do":"room"}"#, &AdmissionNotice::Room);
    both_ways(r#"{"do":"revoked","reason":"sold"}"#, &AdmissionNotice::Revoked { reason: "sold".into() });
    let named =
        AdmissionNotice::Named { uid: "daaaaaaaaaaaaaaa".parse().unwrap(), org: "acme".parse().unwrap(), name: "Robot 7".into(), now: 5 };
    both_ways(r#"{"do":"named","uid":"daaaaaaaaaaaaaaa","org":"acme","name":"Robot 7","now":5}"#, &named);
    assert_eq!(decode::<AdmissionNotice>(br#"{"do":"dance"}"#, PAYLOAD_MAX).unwrap(), AdmissionNotice::Unknown);
}

#[test]
fn unknown_fields_are_accepted() {
    decode::<Presence>(br#"{"online":true,"link":1,"mood":"good"}"#, PRESENCE_MAX).unwrap();
    decode::<Heartbeat>(br#"{"seq":1,"t":1,"uptime_s":1,"sessions":0,"spooled":0,"x":[]}"#, HEARTBEAT_MAX).unwrap();
}
