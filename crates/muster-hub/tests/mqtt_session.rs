//! Sessions: take-over, messages that wait, wishes, restarts; and what is stored of what devices say.

#![allow(clippy::unwrap_used, clippy::large_futures, reason = "a test ends where it fails")]

#[path = "mqtt_common/hub.rs"]
mod mqtt_common;

use std::time::Duration;

use mqtt_common::*;
use muster_hub::ingest::Options;
use muster_hub::mqtt::{SendError, SendOptions};
use muster_hub::store::telemetry;
use muster_proto::api::PresenceState;
use muster_proto::topic::Down;

const MINUTE: SendOptions = SendOptions { retain: false, expiry: Duration::from_secs(60) };
const BOOT: &str = "0123456789abcdef";

fn down(uid: &str) -> String {
    format!("muster/v1/{uid}/down/#")
}

/// The payload of a PUBLISH at QoS 1 to one of A's topics, its flags and its packet id.
fn payload(packet: &[u8]) -> (u8, u16, String) {
    assert_eq!(packet[0] >> 4, 3, "{packet:?}");
    let topic = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let id = u16::from_be_bytes([packet[4 + topic], packet[5 + topic]]);
    let properties = usize::from(packet[6 + topic]);
    (packet[0] & 0x0f, id, String::from_utf8_lossy(&packet[7 + topic + properties..]).into_owned())
}

fn puback(id: u16) -> Vec<u8> {
    [&[0x40, 2], &id.to_be_bytes()[..]].concat()
}

#[tokio::test]
async fn delivers_at_once_and_forgets_what_was_acknowledged() {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    let mut raw = hub.linked(A, &a, true).await;
    assert!(hub.lanes.is_linked(&uid(A)));
    assert_eq!(raw.subscribe(&down(A)).await, 1);
    hub.lanes.send(&uid(A), Down::Session, b"one".to_vec(), MINUTE).await.unwrap();
    let (flags, id, text) = payload(&raw.packet().await.unwrap());
    assert_eq!((flags, text.as_str()), (0x02, "one"));
    assert_eq!(hub.count("SELECT count(*) FROM mqtt_queue").await, 1);
    raw.send(&puback(id)).await;
    until("the store forgets", || async { hub.count("SELECT count(*) FROM mqtt_queue").await == 0 }).await;
}

#[tokio::test]
async fn what_waits_survives_the_link_and_the_hub() {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    let mut raw = hub.linked(A, &a, false).await;
    assert!(!raw.session_present);
    raw.subscribe(&down(A)).await;
    hub.lanes.send(&uid(A), Down::Session, b"unacknowledged".to_vec(), MINUTE).await.unwrap();
    let (_, id, _) = payload(&raw.packet().await.unwrap());
    drop(raw);
    until("the link is gone", || async { !hub.lanes.is_linked(&uid(A)) }).await;
    hub.lanes.send(&uid(A), Down::Session, b"while away".to_vec(), MINUTE).await.unwrap();
    hub.lanes.send(&uid(A), Down::Session, b"expired".to_vec(), SendOptions { retain: false, expiry: Duration::ZERO }).await.unwrap();

    let hub = Hub::start_in(hub.stop().await, options()).await;
    let mut raw = hub.linked(A, &a, false).await;
    assert!(raw.session_present);
    // Without a new subscription: the session knows it. Again with DUP and the same packet id, then the new one, in order.
    let (flags, again, text) = payload(&raw.packet().await.unwrap());
    assert_eq!((flags, again, text.as_str()), (0x0a, id, "unacknowledged"));
    let (flags, second, text) = payload(&raw.packet().await.unwrap());
    assert_eq!((flags, text.as_str()), (0x02, "while away"));
    assert_ne!(again, second);
    raw.nothing_but_pong().await;
    raw.send(&[puback(again), puback(second)].concat()).await;
    until("all is acknowledged", || async { hub.count("SELECT count(*) FROM mqtt_queue").await == 0 }).await;
}

#[tokio::test]
async fn clean_start_discards_and_expiry_ends_a_session() {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    hub.linked(A, &a, false).await.send(&[0xe0, 0]).await;
    until("gone", || async { !hub.lanes.is_linked(&uid(A)) }).await;
    hub.lanes.send(&uid(A), Down::Session, b"lost".to_vec(), MINUTE).await.unwrap();
    let mut raw = hub.linked(A, &a, true).await;
    assert!(!raw.session_present);
    raw.subscribe(&down(A)).await;
    raw.nothing_but_pong().await;
    // A good-bye with a session expiry of 0 ends the session.
    raw.send(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 0]).await;
    until("gone", || async { !hub.lanes.is_linked(&uid(A)) }).await;
    assert!(!hub.linked(A, &a, false).await.session_present);
}

#[tokio::test]
async fn wishes_stay_and_the_last_one_counts() {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    let wish = SendOptions { retain: true, expiry: Duration::from_secs(3600) };
    for text in ["first", "second"] {
        hub.lanes.send(&uid(A), Down::Config, text.into(), wish).await.unwrap();
    }
    for round in 0..2 {
        let mut raw = hub.linked(A, &a, true).await;
        raw.subscribe(&down(A)).await;
        // Said because of the subscription: with the retain flag. A clean start threw the waiting copy away.
        let (flags, id, text) = payload(&raw.packet().await.unwrap());
        assert_eq!((flags, text.as_str()), (0x03, "second"), "{round}");
        raw.send(&puback(id)).await;
        hub.lanes.send(&uid(A), Down::Config, b"second".to_vec(), wish).await.unwrap();
        assert_eq!(payload(&raw.packet().await.unwrap()).0, 0x02, "a live one has no retain flag");
    }
}

#[tokio::test]
async fn the_newer_connection_wins_and_nothing_is_lost() {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    let mut first = hub.raw(&a).await;
    let lasts = will(&format!("muster/v1/{A}/up/presence"), br#"{"online":false,"link":1}"#);
    first.send(&connect(A, 0x2c, &[0x11, 0, 0, 0x0e, 0x10], &lasts)).await;
    assert_eq!(first.packet().await.unwrap()[3], 0);
    first.subscribe(&down(A)).await;
    assert_eq!(first.publish(&format!("muster/v1/{A}/up/presence"), &birth(1)).await, 0);
    hub.lanes.send(&uid(A), Down::Session, b"keep me".to_vec(), MINUTE).await.unwrap();
    assert_eq!(payload(&first.packet().await.unwrap()).2, "keep me");
    let mut second = hub.linked(A, &a, false).await;
    let goodbye = first.end().await.unwrap();
    assert_eq!((goodbye[0], goodbye[2]), (0xe0, 0x8e));
    assert!(second.session_present);
    let (flags, _, text) = payload(&second.packet().await.unwrap());
    assert_eq!((flags, text.as_str()), (0x0a, "keep me"));
    assert_eq!(second.publish(&format!("muster/v1/{A}/up/presence"), &birth(2)).await, 0);
    let live = hub.ingest.live().get(&uid(A));
    assert_eq!(live.presence, PresenceState::Online);
    assert_eq!(hub.count("SELECT count(*) FROM presence_history").await, 1, "the will of the old connection was void");
}

#[tokio::test]
async fn a_full_queue_says_so() {
    let hub = Hub::start().await;
    hub.device(A, "acme").await;
    for _ in 0..muster_hub::mqtt::QUEUE_MAX {
        hub.lanes.send(&uid(A), Down::Session, b"x".to_vec(), MINUTE).await.unwrap();
    }
    assert!(matches!(hub.lanes.send(&uid(A), Down::Session, b"x".to_vec(), MINUTE).await, Err(SendError::Full)));
    assert!(matches!(hub.lanes.send(&uid(A), Down::Session, vec![0; 70_000], MINUTE).await, Err(SendError::TooLarge(_))));
}

/// What the sender was told could not be sent does not reach the device either.
#[tokio::test]
async fn a_full_queue_of_a_linked_device_says_so_too() {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    let mut raw = hub.linked(A, &a, true).await;
    raw.subscribe(&down(A)).await;
    for n in 0..muster_hub::mqtt::QUEUE_MAX {
        hub.lanes.send(&uid(A), Down::Session, format!("{n}").into_bytes(), MINUTE).await.unwrap();
    }
    assert!(matches!(hub.lanes.send(&uid(A), Down::Session, b"refused".to_vec(), MINUTE).await, Err(SendError::Full)));
    // All that was accepted comes, in order, as the device acknowledges; what was refused does not.
    for n in 0..muster_hub::mqtt::QUEUE_MAX {
        let (_, id, text) = payload(&raw.packet().await.unwrap());
        assert_eq!(text, n.to_string());
        raw.send(&puback(id)).await;
    }
    raw.nothing_but_pong().await;
}

#[tokio::test]
async fn a_revoked_device_is_cut_off_at_once() {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    let mut raw = hub.linked(A, &a, false).await;
    raw.subscribe(&down(A)).await;
    assert_eq!(raw.publish(&format!("muster/v1/{A}/up/presence"), &birth(1)).await, 0);
    hub.set_admission(A, "revoked").await;
    let start = tokio::time::Instant::now();
    hub.lanes.cut(&uid(A), "revoked by owner@example.com").await.unwrap();
    // First the word, acknowledged or not, then the cut.
    let (flags, _, notice) = payload(&raw.packet().await.unwrap());
    assert_eq!((flags & 0b111, notice.as_str()), (0b010, r#"{"do":"revoked","reason":"revoked by owner@example.com"}"#));
    let goodbye = raw.end().await.unwrap();
    assert_eq!((goodbye[0], goodbye[2]), (0xe0, 0x98));
    assert!(String::from_utf8_lossy(&goodbye).contains("revoked by owner@example.com"));
    assert_eq!(hub.count("SELECT count(*) FROM mqtt_queue").await, 0, "the next one with this name may be of a device that belongs");
    assert!(start.elapsed() < Duration::from_secs(1));
    let live = hub.ingest.live().get(&uid(A));
    assert_eq!((live.presence, live.offline_reason.as_deref()), (PresenceState::Offline, Some("revoked")));
    assert_eq!(hub.count("SELECT count(*) FROM mqtt_sessions").await, 0);
}

#[tokio::test]
async fn samples_are_stored_once_however_often_they_come() {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    let topic = format!("muster/v1/{A}/up/usage");
    let mut raw = hub.linked(A, &a, false).await;
    // Again, overlapping, out of order; and another life with the same numbers.
    for (first, n) in [(1, 6), (1, 6), (4, 6), (20, 2), (10, 10), (1, 21)] {
        assert_eq!(raw.publish(&topic, &usage(BOOT, first, n)).await, 0);
        let stored = hub.count("SELECT count(*) FROM usage_samples").await;
        assert!(stored > 0, "acknowledged means committed");
    }
    assert_eq!(raw.publish(&topic, &usage("fedcba9876543210", 1, 3)).await, 0);
    assert_eq!(hub.count("SELECT count(*) FROM usage_samples").await, 24);
    let samples = hub.store.read(|db| telemetry::samples(db, &uid(A), 1_700_000_000_000 + 190_000, 10)).await.unwrap();
    let seqs: Vec<_> = samples.iter().map(|sample| sample.seq).collect();
    assert_eq!(seqs, [21, 20, 19]);
    assert_eq!((samples[0].values["cpu"], samples[0].values["mem"], samples[0].t), (0.021, 5e9, 1_700_000_210_000));
    assert_eq!(hub.ingest.live().get(&uid(A)).usage.unwrap().seq, 21, "the newest by the device's clock");

    let hub = Hub::start_in(hub.stop().await, options()).await;
    let mut raw = hub.linked(A, &a, false).await;
    assert_eq!(raw.publish(&topic, &usage(BOOT, 1, 21)).await, 0);
    assert_eq!(hub.count("SELECT count(*) FROM usage_samples").await, 24);
}

#[tokio::test]
async fn bad_payloads_are_refused_and_nothing_else_suffers() {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    let mut raw = hub.linked(A, &a, false).await;
    let long = [b"{\"x\":\"".to_vec(), vec![b'x'; 20_000], b"\"}".to_vec()].concat();
    for (topic, payload) in [
        ("usage", &b"not json"[..]),
        ("usage", b"{}"),
        ("usage", &[0xff; 100]),
        ("presence", &long),
        ("presence", br#"{"online":true,"link":-1}"#),
        ("presence", br#"{"online":true,"link":1,"boot":"x"}"#),
        ("event", b"[]"),
        ("run/raaaaaaaaaaaaaaa", b"{}"),
    ] {
        assert_eq!(raw.publish(&format!("muster/v1/{A}/up/{topic}"), payload).await, 0x99, "{topic}");
    }
    assert_eq!(raw.publish(&format!("muster/v1/{A}/up/usage"), &usage(BOOT, 1, 2)).await, 0);
    assert_eq!(hub.count("SELECT count(*) FROM usage_samples").await, 2);
}

#[tokio::test]
async fn events_are_stored_and_told_once() {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    let told = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let sink = std::sync::Arc::clone(&told);
    hub.ingest.on_event(std::sync::Arc::new(move |uid, event| sink.lock().unwrap().push((uid.clone(), event.t))));
    let mut raw = hub.linked(A, &a, false).await;
    let topic = format!("muster/v1/{A}/up/event");
    for _ in 0..3 {
        assert_eq!(raw.publish(&topic, br#"{"t":5,"kind":"clock_step","by_ms":-4000}"#).await, 0);
    }
    assert_eq!(raw.publish(&topic, br#"{"t":6,"kind":"from_the_future","x":1}"#).await, 0);
    assert_eq!(*told.lock().unwrap(), [(uid(A), 5), (uid(A), 6)]);
    assert_eq!(hub.count("SELECT count(*) FROM device_events").await, 2);
}

#[tokio::test]
async fn presence_follows_birth_will_and_farewell() {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    let topic = format!("muster/v1/{A}/up/presence");
    let with_will = |link: u64| connect(A, 0x2c, &[], &will(&topic, format!(r#"{{"online":false,"link":{link}}}"#).as_bytes()));
    let state = || hub.ingest.live().get(&uid(A)).presence;

    let mut raw = hub.raw(&a).await;
    raw.send(&with_will(1)).await;
    raw.packet().await.unwrap();
    assert_eq!(state(), PresenceState::Never, "a connection is not yet a device that works");
    assert_eq!(raw.publish(&topic, &birth(1)).await, 0);
    assert_eq!(state(), PresenceState::Online);
    let facts: String =
        hub.store.read(|db| Ok(db.query_row("SELECT facts || agent FROM devices WHERE uid = ?1", [A], |row| row.get(0))?)).await.unwrap();
    assert_eq!(facts, r#"{"hostname":"robot"}0.1.0"#);
    // Whatever it sends of itself is kept without marks that act on a terminal or turn the direction of what follows.
    let strange = String::from_utf8(birth(1)).unwrap();
    let strange = strange.replace("0.1.0", "\u{202e}0.1.0\\u001b[2J").replace("robot", "ro\u{2066}bot\\u0007");
    assert_eq!(raw.publish(&topic, strange.as_bytes()).await, 0);
    let facts: String =
        hub.store.read(|db| Ok(db.query_row("SELECT facts || agent FROM devices WHERE uid = ?1", [A], |row| row.get(0))?)).await.unwrap();
    assert_eq!(facts, r#"{"hostname":"robot"}0.1.0[2J"#);
    drop(raw);
    until("the will", || async { state() == PresenceState::Offline }).await;

    let mut raw = hub.raw(&a).await;
    raw.send(&with_will(2)).await;
    raw.packet().await.unwrap();
    assert_eq!(raw.publish(&topic, &birth(2)).await, 0);
    assert_eq!(raw.publish(&topic, br#"{"online":false,"link":2,"reason":"stopped"}"#).await, 0);
    raw.send(&[0xe0, 0]).await;
    assert!(raw.end().await.is_none());
    let history = hub.store.read(|db| telemetry::history(db, &uid(A), 0, 10)).await.unwrap();
    let history: Vec<_> = history.iter().map(|change| (change.presence, change.reason.as_str())).collect();
    assert_eq!(
        history,
        [
            (PresenceState::Offline, "farewell: stopped"),
            (PresenceState::Online, "birth"),
            (PresenceState::Offline, "will"),
            (PresenceState::Online, "birth")
        ]
    );
}

#[tokio::test]
async fn silence_is_noticed_and_a_restart_invents_nothing() {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    let topic = format!("muster/v1/{A}/up/presence");
    let mut raw = hub.linked(A, &a, false).await;
    assert_eq!(raw.publish(&topic, &birth(1)).await, 0);
    let dir = hub.stop().await;
    let goodbye = raw.end().await.unwrap();
    assert_eq!((goodbye[0], goodbye[2]), (0xe0, 0x8b));

    let quick = Options { heartbeat_every: Duration::from_millis(700), ..options() };
    let hub = Hub::start_in(dir, quick).await;
    let state = || hub.ingest.live().get(&uid(A)).presence;
    assert_eq!(state(), PresenceState::Online);
    let mut raw = hub.linked(A, &a, false).await;
    assert!(raw.session_present);
    assert_eq!(raw.publish(&topic, &birth(2)).await, 0);
    assert_eq!(hub.count("SELECT count(*) FROM presence_history").await, 1);
    // Linked and silent: after three heartbeats it counts as gone; a heartbeat brings it back.
    until("silence is noticed", || async { state() == PresenceState::Offline }).await;
    let heartbeat = br#"{"seq":1,"t":5,"uptime_s":9,"sessions":2,"spooled":3}"#;
    raw.send(&publish(0, &format!("muster/v1/{A}/up/heartbeat"), None, heartbeat)).await;
    until("it is back", || async { state() == PresenceState::Online }).await;
    let live = hub.ingest.live().get(&uid(A));
    assert_eq!((live.sessions, live.spooled), (2, 3));
}
