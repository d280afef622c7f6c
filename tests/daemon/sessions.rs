//! Orders to open sessions: what the daemon refuses, what it starts, and what outlives it.

use std::time::Duration;

use serde_json::{Value, json};

use crate::device::{Device, lives, wait_for};
use crate::hub::{StubHub, now};

const SESSION: &str = "saaaaaaaaaaaaaaa";

/// An order whose relay is the hub's MQTT port: it takes the connection and says nothing, so the worker waits.
fn order(hub: &StubHub, session: &str, t: i64) -> Value {
    json!({
        "do": "open", "session": session, "relay": format!("wss://{}/v1/sessions/{session}/device", hub.mqtt), "ticket": "secret",
        "user": "ada@example.com", "project": "lab", "role": "connect", "t": t,
    })
}

fn refusal(hub: &StubHub) -> Value {
    wait_for("a refusal", || hub.events("session_failed").pop())
}

#[test]
fn the_policy_refuses_with_a_code_and_its_changes_count_at_once() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    std::fs::write(device.path("policy.toml"), "[limits]\nsessions = 0\n").unwrap();
    hub.send("session", &order(&hub, SESSION, now()));
    let event = refusal(&hub);
    assert_eq!((&event["code"], &event["session"]), (&json!("policy_sessions"), &json!(SESSION)));

    std::fs::write(device.path("policy.toml"), "[limits]\nsessions = \"many\"\n").unwrap();
    hub.send("session", &order(&hub, "sbbbbbbbbbbbbbbb", now()));
    let event = wait_for("the second refusal", || hub.events("session_failed").into_iter().nth(1));
    assert_eq!(event["code"], "policy_broken");
    assert!(event["message"].as_str().unwrap().contains("limits.sessions"), "{event}");

    std::fs::write(device.path("policy.toml"), "[who]\nroles = [\"admin\"]\n").unwrap();
    hub.send("session", &order(&hub, "sccccccccccccccc", now()));
    let event = wait_for("the third refusal", || hub.events("session_failed").into_iter().nth(2));
    assert_eq!(event["code"], "policy_role");
    assert!(hub.events("session_opened").is_empty());
}

#[test]
fn a_hub_whose_clock_is_set_is_obeyed_on_the_same_link() {
    const HOUR: i64 = 3_600_000;
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    // Right, an hour ahead, right again, an hour behind: each time the hub's word on the time first, as with a new name.
    for (session, t) in [("saaaaaaaaaaaaaaa", 0), ("sbbbbbbbbbbbbbbb", HOUR), ("sccccccccccccccc", 0), ("sddddddddddddddd", -HOUR)] {
        let t = now() + t;
        hub.send("admission", &json!({"do": "named", "uid": crate::hub::UID, "org": "acme", "name": "robot-1", "now": t}));
        hub.send("session", &order(&hub, session, t));
        wait_for("the session", || hub.events("session_opened").into_iter().find(|event| event["session"] == session));
    }
    assert_eq!(hub.events("session_failed"), [] as [Value; 0]);
    assert_eq!(device.status()["sessions"].as_array().unwrap().len(), 4);
    assert_eq!(hub.births().len(), 1, "on the same link");
}

#[test]
fn an_old_order_opens_nothing_because_the_relay_does_not_let_it_in() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    let mut old = order(&hub, SESSION, now() - 600_000);
    // This hub's HTTPS port knows no session, as the real one after its end.
    old["relay"] = format!("wss://{}/v1/sessions/{SESSION}/device", hub.https).into();
    hub.send("session", &old);
    let closed = wait_for("the worker's end", || hub.events("session_closed").pop());
    assert_eq!((&closed["session"], &closed["received"], &closed["sent"]), (&json!(SESSION), &json!(0), &json!(0)));
    assert_eq!(device.status()["sessions"], json!([]));
}

#[test]
fn a_worker_outlives_the_daemon_and_is_found_again() {
    let hub = StubHub::start();
    let mut device = Device::online(&hub, "");
    hub.send("session", &order(&hub, SESSION, now()));
    // MQTT may deliver it twice.
    hub.send("session", &order(&hub, SESSION, now()));
    wait_for("the session", || hub.events("session_opened").pop());
    let sessions = device.status()["sessions"].clone();
    assert_eq!(sessions.as_array().unwrap().len(), 1);
    let worker = sessions[0]["pid"].as_u64().unwrap();
    assert!(lives(worker));

    device.kill();
    assert!(lives(worker), "it goes on after SIGKILL of the daemon");
    device.start();
    wait_for("the daemon's memory of it", || (device.status()["sessions"] == sessions).then_some(()));
    let (took, well) = device.stop();
    assert!(well && took < Duration::from_secs(5), "{took:?}");
    assert!(lives(worker), "it goes on after SIGTERM of the daemon");
    // The second daemon may have been stopped before its birth.
    let births = hub.births().len();
    device.start();
    wait_for("the next birth", || (hub.births().len() > births).then_some(()));

    hub.send("session", &json!({"do": "end", "session": SESSION, "reason": "the user left"}));
    wait_for("the worker's end", || (!lives(worker)).then_some(()));
    let closed = wait_for("the report", || hub.events("session_closed").pop());
    assert_eq!(closed["session"], SESSION);
    assert_eq!(device.status()["sessions"], json!([]));
    assert_eq!(hub.events("session_opened").len(), 1);
}

#[test]
fn a_worker_that_ended_while_the_daemon_was_away_is_reported() {
    let hub = StubHub::start();
    let mut device = Device::online(&hub, "");
    hub.send("session", &order(&hub, SESSION, now()));
    wait_for("the session", || hub.events("session_opened").pop());
    let worker = device.status()["sessions"][0]["pid"].as_u64().unwrap();
    device.kill();
    crate::device::signal("KILL", u32::try_from(worker).unwrap());
    device.start();
    let closed = wait_for("the report", || hub.events("session_closed").pop());
    assert_eq!(closed["reason"], "the session's worker was lost");
}

#[test]
fn revoking_ends_the_sessions_and_the_link() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    hub.send("session", &order(&hub, SESSION, now()));
    wait_for("the session", || hub.events("session_opened").pop());
    let worker = device.status()["sessions"][0]["pid"].as_u64().unwrap();
    hub.send("admission", &json!({"do": "revoked", "reason": "it was sold"}));
    wait_for("the worker's end", || (!lives(worker)).then_some(()));
    let status = wait_for("the word", || Some(device.status()).filter(|status| status["link"]["state"] == "revoked"));
    assert_eq!(status["link"]["why"], "it was sold");
}
