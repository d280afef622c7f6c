//! The fence, from outside: with a valid certificate of A nothing reaches B's lane, another organization's, or the hub's own.

#![allow(clippy::unwrap_used, clippy::large_futures, reason = "a test ends where it fails")]

#[path = "mqtt_common/hub.rs"]
mod mqtt_common;

use std::time::Duration;

use mqtt_common::*;
use muster_hub::mqtt::SendOptions;
use muster_proto::api::PresenceState;
use muster_proto::topic::Down;
use tokio::io::AsyncWriteExt as _;

const KEPT: SendOptions = SendOptions { retain: true, expiry: Duration::from_secs(60) };

async fn both() -> (Hub, Papers, Papers) {
    let hub = Hub::start().await;
    let a = hub.device(A, "acme").await;
    let b = hub.device(B, "other").await;
    (hub, a, b)
}

/// Topics that are not A's to publish.
fn foreign() -> Vec<String> {
    let mut topics: Vec<String> = ["up/presence", "up/usage", "up/event", "up/heartbeat", "down/session", "down/config"]
        .map(|tail| format!("muster/v1/{B}/{tail}"))
        .into();
    topics.extend([
        format!("muster/v1/{A}/down/session"),
        format!("muster/v1/{A}/up/"),
        "$SYS/x".into(),
        "$CONTROL/dynamic-security/v1".into(),
    ]);
    topics
}

#[tokio::test]
async fn a_publish_reaches_no_other_lane() {
    let (hub, a, b) = both().await;
    let mut victim = hub.linked(B, &b, true).await;
    assert_eq!(victim.subscribe(&format!("muster/v1/{B}/down/#")).await, 1);
    for topic in foreign() {
        for retain in [0, 1] {
            let mut raw = hub.linked(A, &a, true).await;
            raw.send(&publish(0x02 | retain, &topic, Some(77), &birth(9))).await;
            assert_eq!(raw.packet().await.unwrap(), [0x40, 3, 0, 77, 0x87], "{topic}");
            raw.send(&publish(retain, &topic, None, &birth(9))).await;
            raw.nothing_but_pong().await;
        }
    }
    victim.nothing_but_pong().await;
    assert_eq!(hub.ingest.live().get(&uid(B)).presence, PresenceState::Never);
    for table in ["SELECT count(*) FROM presence", "SELECT count(*) FROM usage_samples", "SELECT count(*) FROM mqtt_retained"] {
        assert_eq!(hub.count(table).await, 0, "{table}");
    }
}

#[tokio::test]
async fn a_subscription_hears_no_other_lane() {
    let (hub, a, b) = both().await;
    hub.lanes.send(&uid(B), Down::Config, b"secret".to_vec(), KEPT).await.unwrap();
    for filter in [
        "#".to_owned(),
        "+/#".into(),
        "muster/#".into(),
        "muster/v1/+/down/#".into(),
        format!("muster/v1/{B}/down/config"),
        format!("muster/v1/{A}/up/#"),
        "$share/muster-hub/muster/v1/+/up/#".into(),
        format!("$share/x/muster/v1/{A}/down/#"),
        "$SYS/#".into(),
    ] {
        let mut raw = hub.linked(A, &a, true).await;
        assert_eq!(raw.subscribe(&filter).await, 0x87, "{filter}");
        hub.lanes.send(&uid(B), Down::Config, b"secret".to_vec(), KEPT).await.unwrap();
        let mut device = hub.linked(B, &b, false).await;
        assert_eq!(device.publish(&format!("muster/v1/{B}/up/presence"), &birth(1)).await, 0);
        raw.nothing_but_pong().await;
    }
}

#[tokio::test]
async fn a_will_stays_in_its_lane() {
    let (hub, a, b) = both().await;
    let mut victim = hub.linked(B, &b, true).await;
    assert_eq!(victim.publish(&format!("muster/v1/{B}/up/presence"), &birth(1)).await, 0);
    for topic in foreign() {
        for flags in [0x0e, 0x2e] {
            let mut raw = hub.raw(&a).await;
            raw.send(&connect(A, flags, &[], &will(&topic, br#"{"online":false,"link":99}"#))).await;
            let connack = raw.end().await.expect("CONNACK");
            assert_eq!((connack[0], connack[3]), (0x20, 0x87), "{topic}");
        }
    }
    assert_eq!(hub.ingest.live().get(&uid(B)).presence, PresenceState::Online);
}

#[tokio::test]
async fn a_client_id_cannot_be_stolen() {
    let (hub, a, b) = both().await;
    let mut victim = hub.linked(B, &b, true).await;
    for client_id in [B, "", "muster-hub"] {
        let mut raw = hub.raw(&a).await;
        raw.send(&connect(client_id, 2, &[], &[])).await;
        let connack = raw.end().await.expect("CONNACK");
        assert_eq!((connack[0], connack[3]), (0x20, 0x85), "{client_id:?}");
    }
    victim.nothing_but_pong().await;
}

#[tokio::test]
async fn nobody_gets_in_without_a_certificate_of_this_hub() {
    let (hub, _, b) = both().await;
    let stranger = Hub::start().await;
    let forged = stranger.device(A, "acme").await;
    for papers in [None, Some(&forged)] {
        // TLS 1.3: the client learns of the refusal with its first read.
        let Ok(mut stream) = hub.tls(papers).await else { continue };
        let sent = stream.write_all(&connect(A, 2, &[], &[])).await;
        assert!(sent.is_err() || Raw::new(stream).packet().await.is_none());
    }
    // B's public facts and an own key, signed by nobody the hub trusts, or a server's certificate of the hub itself.
    let server = hub.ca.issue_server(&[B.to_owned()], muster_hub::clock::now()).unwrap();
    let server =
        Papers { certificate: server.certificate, certificate_pem: server.certificate_pem, key_pem: server.key_pem, chain: Vec::new() };
    // What B itself signed, for one of its sessions or for itself: that is for the relay.
    let (session, twin) = (b.signs("saaaaaaaaaaaaaaa"), b.signs(B));
    for papers in [server, session.after(&[]), session, twin.after(&[]), twin] {
        if let Ok(mut stream) = hub.tls(Some(&papers)).await {
            let sent = stream.write_all(&connect(B, 2, &[], &[])).await;
            assert!(sent.is_err() || Raw::new(stream).packet().await.is_none());
        }
    }
}

#[tokio::test]
async fn a_key_that_is_not_the_devices_current_one_is_refused() {
    let (hub, a, _) = both().await;
    let pair = rcgen::KeyPair::generate().unwrap();
    let csr = rcgen::CertificateParams::default().serialize_request(&pair).unwrap().pem().unwrap();
    let key = muster_hub::ca::DeviceKey::from_csr(&csr).unwrap();
    let digest = key.digest();
    hub.store
        .write(move |tx| {
            muster_hub::store::devices::make_current(tx, &uid(A), &"acme".parse().unwrap(), &digest, "replaced", muster_hub::clock::now())
        })
        .await
        .unwrap();
    let mut raw = hub.raw(&a).await;
    raw.send(&connect(A, 2, &[], &[])).await;
    let connack = raw.end().await.expect("CONNACK");
    assert_eq!((connack[0], connack[3]), (0x20, 0x8a), "{connack:?}");
    assert_eq!(hub.count("SELECT count(*) FROM audit WHERE action = 'device.clone_alarm'").await, 1);
}

#[tokio::test]
async fn who_is_not_admitted_is_told_why() {
    let (hub, a, _) = both().await;
    for (admission, code, word) in [("pending", 0x87, "admitted"), ("rejected", 0x8a, "rejected"), ("revoked", 0x8a, "stolen")] {
        hub.set_admission(A, admission).await;
        let mut raw = hub.raw(&a).await;
        raw.send(&connect(A, 2, &[], &[])).await;
        let connack = raw.end().await.expect("CONNACK");
        assert_eq!((connack[0], connack[3]), (0x20, code), "{admission}");
        assert!(String::from_utf8_lossy(&connack).contains(word), "{admission}: {}", String::from_utf8_lossy(&connack));
    }
}
