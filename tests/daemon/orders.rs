//! Orders that are not the hub's, not for this device, or not for the first time; and relays that are not the hub's.

use muster_proto::order::SignedOrder;
use rcgen::ExtendedKeyUsagePurpose;
use serde_json::{Value, json};

use crate::authority::{Authority, on_the_wire, run_order, session_order};
use crate::device::{Device, wait_for};
use crate::hub::{StubHub, now};
use crate::sessions::{order, refusal};

/// A session's id, by its number.
fn session(number: u8) -> String {
    format!("s{}", char::from(b'a' + number).to_string().repeat(15))
}

fn send(hub: &StubHub, order: &SignedOrder) {
    hub.send("session", &on_the_wire("open", order));
}

#[test]
fn an_order_that_is_not_the_hubs_for_this_device_begins_nothing() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    let (hub_ca, own, stranger) = (&hub.authority, hub.device_key(), Authority::new());
    let bytes = |number: u8, key: &str| session_order(key, &order(&hub, &session(number), now()));
    let mut cases: Vec<(&str, &str, SignedOrder)> = Vec::new();
    let mut add = |what, code, make: &dyn Fn(u8) -> SignedOrder| {
        let number = u8::try_from(cases.len()).unwrap();
        cases.push((what, code, make(number)));
    };
    add("another authority's", "order_signature", &|n| stranger.sign(&bytes(n, &own)));
    add("another authority's signature with the hub's certificate", "order_signature", &|n| SignedOrder {
        certificate: hub_ca.sign(b"").certificate,
        ..stranger.sign(&bytes(n, &own))
    });
    add("another order's signature", "order_signature", &|n| SignedOrder {
        order: hub_ca.sign(&bytes(n, &own)).order,
        ..hub_ca.sign(&bytes(n + 1, &own))
    });
    add("changed after it was signed", "order_signature", &|n| {
        let changed = String::from_utf8(bytes(n, &own)).unwrap().replace("connect", "admin");
        SignedOrder { order: hub_ca.sign(changed.as_bytes()).order, ..hub_ca.sign(&bytes(n, &own)) }
    });
    add("unsigned", "order_signature", &|n| SignedOrder { signature: String::new(), ..hub_ca.sign(&bytes(n, &own)) });
    add("by a key that the hub certified for nothing", "order_signature", &|n| hub_ca.sign_with_a_key_for(None, &bytes(n, &own)));
    for usage in [ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::Any] {
        add("by a key that the hub certified for another use", "order_signature", &|n| {
            hub_ca.sign_with_a_key_for(Some(usage.clone()), &bytes(n, &own))
        });
    }
    add("for another device", "order_device", &|n| hub_ca.sign(&bytes(n, &"00".repeat(32))));
    for (number, (what, code, order)) in cases.iter().enumerate() {
        send(&hub, order);
        let event = refusal(&hub, &session(u8::try_from(number).unwrap()));
        assert_eq!(&event["code"], code, "{what}: {event}");
        assert!(event["message"].as_str().is_some_and(|message| message.len() > 20), "{event}");
    }
    assert_eq!(cases.len(), 10);
    // A run is no session, and the other way round.
    let start = json!({
        "command": {"shell": "true"}, "timeout_s": 60, "output_max": 1000, "user": "ada@example.com", "project": "lab", "role": "operate",
        "t": now(), "expires": now() + 600_000,
    });
    send(&hub, &hub_ca.sign(&run_order(&own, "raaaaaaaaaaaaaaa", &start)));
    hub.send("run/rbbbbbbbbbbbbbbb", &on_the_wire("start", &hub_ca.sign(&run_order(&own, "raaaaaaaaaaaaaaa", &start))));
    // Orders are taken one after the other.
    hub.open(&order(&hub, "szzzzzzzzzzzzzzz", now()));
    wait_for("the last session", || hub.events("session_opened").pop());
    assert_eq!(device.visits().len(), 1);
    assert!(hub.published("run/raaaaaaaaaaaaaaa").is_empty() && hub.published("run/rbbbbbbbbbbbbbbb").is_empty());
}

#[test]
fn an_order_is_used_once_whatever_was_restarted() {
    let hub = StubHub::start();
    let mut device = Device::online(&hub, "");
    let id = session(0);
    let order = hub.authority.sign(&session_order(&hub.device_key(), &order(&hub, &id, now())));
    send(&hub, &order);
    wait_for("the session", || hub.events("session_opened").pop());
    hub.send("session", &json!({"do": "end", "session": id, "reason": "enough"}));
    wait_for("its end", || hub.events("session_closed").pop());
    device.kill();
    let again = |device: &mut Device, times: usize| {
        let births = hub.births().len();
        device.start();
        wait_for("the next birth", || (hub.births().len() > births).then_some(()));
        send(&hub, &order);
        let event = wait_for("a refusal", || hub.events("session_failed").into_iter().nth(times));
        assert_eq!((&event["code"], &event["session"]), (&json!("order_used"), &json!(id)));
        device.kill();
    };
    again(&mut device, 0);
    // What was in memory is gone, as after a reboot; or the disk's memory.
    std::fs::remove_file(device.path("run/sessions/used")).unwrap();
    again(&mut device, 1);
    std::fs::remove_file(device.path("state/sessions/used")).unwrap();
    again(&mut device, 2);
    assert_eq!(hub.events("session_opened").len(), 1);
}

#[test]
fn a_relay_that_is_not_the_enrolled_hubs_is_not_dialled() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    let elsewhere = |number: u8, relay: &str| {
        let mut open: Value = order(&hub, &session(number), now());
        open["relay"] = format!("wss://{relay}/v1/sessions/x/device").into();
        hub.open(&open);
    };
    let port = hub.https.port();
    for (number, relay) in
        [format!("localhost:{port}"), format!("127.0.0.2:{port}"), format!("[::1]:{port}"), "10.0.0.1".to_owned()].iter().enumerate()
    {
        let number = u8::try_from(number).unwrap();
        elsewhere(number, relay);
        let event = refusal(&hub, &session(number));
        assert_eq!(event["code"], "policy_relay", "{event}");
        assert!(event["message"].as_str().unwrap().contains("enrolled at 127.0.0.1"), "{event}");
    }
    device.policy("[relay]\nhosts = [\"localhost\"]\n");
    elsewhere(9, &format!("localhost:{port}"));
    wait_for("the session", || hub.events("session_opened").pop());
}

#[test]
fn without_an_anchor_or_with_one_that_others_may_write_no_order_counts() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    let anchor = device.path("hub.json");
    let text = std::fs::read(&anchor).unwrap();
    std::fs::remove_file(&anchor).unwrap();
    hub.open(&order(&hub, &session(0), now()));
    let event = refusal(&hub, &session(0));
    assert_eq!(event["code"], "no_anchor");
    assert!(event["message"].as_str().unwrap().contains("Run `musterd enrol` as root"), "{event}");
    std::fs::write(&anchor, text).unwrap();
    assert!(std::process::Command::new("chmod").arg("0666").arg(&anchor).status().unwrap().success());
    hub.open(&order(&hub, &session(1), now()));
    assert_eq!(refusal(&hub, &session(1))["code"], "no_anchor");
    assert!(std::process::Command::new("chmod").arg("0644").arg(&anchor).status().unwrap().success());
    hub.open(&order(&hub, &session(2), now()));
    wait_for("the session", || hub.events("session_opened").pop());
}
