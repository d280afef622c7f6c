//! Orders to open sessions: what is refused, what is started, and what outlives the daemon.

use std::time::{Duration, Instant};

use musterd::handoff::LAST_WORDS;
use serde_json::{Value, json};

use crate::device::{Device, lives, signal, wait_for};
use crate::hub::{StubHub, now};

const SESSION: &str = "saaaaaaaaaaaaaaa";

/// What a session is ordered with. The relay takes the connection and says nothing, so the session waits.
pub(crate) fn order(hub: &StubHub, session: &str, t: i64) -> Value {
    json!({
        "session": session, "relay": format!("wss://{}/v1/sessions/{session}/device", hub.https), "ticket": "secret",
        "user": "ada@example.com", "project": "lab", "role": "connect", "t": t,
    })
}

/// The event on a session that was refused.
pub(crate) fn refusal(hub: &StubHub, session: &str) -> Value {
    wait_for("a refusal", || hub.events("session_failed").into_iter().find(|event| event["session"] == session))
}

fn opened(hub: &StubHub, session: &str) -> Value {
    wait_for("the session", || hub.events("session_opened").into_iter().find(|event| event["session"] == session))
}

fn closed(hub: &StubHub, session: &str) -> Value {
    wait_for("the session's end", || hub.events("session_closed").into_iter().find(|event| event["session"] == session))
}

/// A session that goes on after its daemon was killed, with the process of its privileged part.
fn left_alone() -> (StubHub, Device, u64) {
    let hub = StubHub::start();
    let mut device = Device::online(&hub, "");
    hub.open(&order(&hub, SESSION, now()));
    opened(&hub, SESSION);
    let process = process(&device);
    device.kill();
    (hub, device, process)
}

/// The privileged part as the daemon has it.
fn process(device: &Device) -> u64 {
    device.status()["sessions"][0]["pid"].as_u64().unwrap()
}

#[test]
fn the_policy_refuses_with_a_code_and_its_changes_count_at_once() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    device.policy("[limits]\nsessions = 0\n");
    hub.open(&order(&hub, SESSION, now()));
    let event = refusal(&hub, SESSION);
    assert_eq!(
        (&event["code"], &event["message"]),
        (&json!("policy_sessions"), &json!("This device allows no sessions right now ([limits] sessions = 0)."))
    );

    device.policy("[limits]\nsessions = \"many\"\n");
    hub.open(&order(&hub, "sbbbbbbbbbbbbbbb", now()));
    let event = refusal(&hub, "sbbbbbbbbbbbbbbb");
    assert_eq!(event["code"], "policy_broken");
    assert!(event["message"].as_str().unwrap().contains("limits.sessions"), "{event}");

    device.policy("[who]\nroles = [\"admin\"]\n");
    hub.open(&order(&hub, "sccccccccccccccc", now()));
    assert_eq!(refusal(&hub, "sccccccccccccccc")["code"], "policy_role");

    std::fs::remove_file(device.path("policy.toml")).unwrap();
    hub.open(&order(&hub, "sddddddddddddddd", now()));
    let event = refusal(&hub, "sddddddddddddddd");
    assert_eq!(event["code"], "policy_missing");
    assert!(event["message"].as_str().unwrap().contains("policy.toml"), "{event}");

    // Somebody else could have written it.
    device.policy("");
    assert!(std::process::Command::new("chmod").arg("0666").arg(device.path("policy.toml")).status().unwrap().success());
    hub.open(&order(&hub, "seeeeeeeeeeeeeee", now()));
    assert_eq!(refusal(&hub, "seeeeeeeeeeeeeee")["code"], "policy_broken");
    assert!(hub.events("session_opened").is_empty());
}

#[test]
fn where_nothing_can_become_a_user_the_refusal_says_what_to_start() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    std::fs::write(device.path("policy.toml"), "[users]\ndefault = \"root\"\n").unwrap();
    hub.open(&order(&hub, SESSION, now()));
    let event = refusal(&hub, SESSION);
    assert_eq!(event["code"], "no_service");
    assert!(event["message"].as_str().unwrap().contains("systemctl start musterd-session.socket"), "{event}");
}

#[test]
fn sessions_are_counted_and_the_policy_bounds_them() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    device.policy("[limits]\nsessions = 2\n");
    for session in [SESSION, "sbbbbbbbbbbbbbbb"] {
        hub.open(&order(&hub, session, now()));
        opened(&hub, session);
    }
    hub.open(&order(&hub, "sccccccccccccccc", now()));
    let event = refusal(&hub, "sccccccccccccccc");
    assert_eq!(event["code"], "policy_sessions");
    assert!(event["message"].as_str().unwrap().contains("allows 2 sessions at once, and 2 are open"), "{event}");
    // One that was killed counts no more.
    signal("KILL", device.privileged(SESSION));
    closed(&hub, SESSION);
    hub.open(&order(&hub, "sddddddddddddddd", now()));
    opened(&hub, "sddddddddddddddd");
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
        hub.open(&order(&hub, session, t));
        opened(&hub, session);
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
    old["relay"] = format!("wss://{}/v1/sessions/over/device", hub.https).into();
    hub.open(&old);
    let closed = closed(&hub, SESSION);
    assert_eq!((&closed["received"], &closed["sent"]), (&json!(0), &json!(0)));
    wait_for("the end in the status", || (device.status()["sessions"] == json!([])).then_some(()));
}

#[test]
fn a_session_outlives_the_daemon_and_is_found_again() {
    let hub = StubHub::start();
    let mut device = Device::online(&hub, "");
    hub.open(&order(&hub, SESSION, now()));
    // MQTT may deliver it twice.
    hub.open(&order(&hub, SESSION, now()));
    opened(&hub, SESSION);
    let sessions = device.status()["sessions"].clone();
    assert_eq!(sessions.as_array().unwrap().len(), 1);
    let process = process(&device);
    assert!(lives(process));

    device.kill();
    assert!(lives(process), "it goes on after SIGKILL of the daemon");
    device.start();
    wait_for("the daemon's memory of it", || (device.status()["sessions"] == sessions).then_some(()));
    let (took, well) = device.stop();
    assert!(well && took < Duration::from_secs(5), "{took:?}");
    assert!(lives(process), "it goes on after SIGTERM of the daemon");
    // The second daemon may have been stopped before its birth.
    let births = hub.births().len();
    device.start();
    wait_for("the next birth", || (hub.births().len() > births).then_some(()));

    hub.send("session", &json!({"do": "end", "session": SESSION, "reason": "the user left"}));
    wait_for("its end", || (!lives(process)).then_some(()));
    let closed = closed(&hub, SESSION);
    assert_eq!(closed["reason"], "the user left");
    assert_eq!(device.status()["sessions"], json!([]));
    assert_eq!(hub.events("session_opened").len(), 1);
}

#[test]
fn killed_at_any_moment_no_session_is_begun_twice_nor_lost_from_sight() {
    let hub = StubHub::start();
    let mut device = Device::online(&hub, "");
    let mut rounds = 0;
    for (index, micros) in [0u64, 1000, 3000, 6000, 10_000, 15_000, 20_000, 40_000, 80_000].into_iter().enumerate() {
        let session = format!("sz{}", char::from(b'a' + u8::try_from(index).unwrap()).to_string().repeat(14));
        let order = hub.sign_session(&order(&hub, &session, now()));
        hub.send("session", &order);
        let until = Instant::now() + Duration::from_micros(micros);
        wait_for("the moment", || (Instant::now() >= until).then_some(()));
        device.kill();
        device.start_supervised(&hub);
        // What was not acknowledged comes again; every second time it was.
        if index % 2 == 0 {
            hub.send("session", &order);
            wait_for("the session", || device.visits().iter().any(|visit| visit["name"] == session.as_str()).then_some(()));
        }
        wait_for("a list that is right", || {
            let (here, known) = (device.visits(), device.status()["sessions"].clone());
            let known = known.as_array().unwrap();
            (here.len() == known.len() && here.iter().all(|visit| known.iter().any(|known| known["session"] == visit["name"])))
                .then_some(())
        });
        rounds += 1;
    }
    assert_eq!(rounds, 9);
    assert_eq!(hub.events("session_failed"), [] as [Value; 0]);
    assert!(device.visits().len() >= 5, "{:?}", device.visits());
    // What the killed daemon had in its hands may be lost; nothing is told twice.
    let events = hub.events("session_opened");
    let mut told: Vec<_> = events.iter().map(|event| event["session"].as_str().unwrap()).collect();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), events.len(), "{events:?}");
}

#[test]
fn a_session_that_was_killed_while_the_daemon_was_away_is_reported() {
    let (hub, mut device, process) = left_alone();
    signal("KILL", u32::try_from(process).unwrap());
    wait_for("its end", || (!lives(process)).then_some(()));
    device.start();
    assert_eq!(closed(&hub, SESSION)["reason"], "the session's process on the device was lost");
}

#[test]
fn the_last_words_of_a_session_wait_for_the_next_daemon() {
    let (hub, mut device, process) = left_alone();
    let ended = device.musterd(&["end", SESSION, "--reason", "dinner is ready"]);
    assert!(ended.status.success());
    wait_for("its end", || (!lives(process)).then_some(()));
    let words = device.path("run/sessions").join(LAST_WORDS).join(format!("{SESSION}.report"));
    assert!(words.exists());
    device.start();
    assert_eq!(closed(&hub, SESSION)["reason"], "dinner is ready");
    assert!(!words.exists(), "told once");
    assert_eq!(hub.events("session_closed").len(), 1);
}

#[test]
fn revoking_ends_the_sessions_and_the_link() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    hub.open(&order(&hub, SESSION, now()));
    opened(&hub, SESSION);
    let process = process(&device);
    hub.send("admission", &json!({"do": "revoked", "reason": "it was sold"}));
    wait_for("its end", || (!lives(process)).then_some(()));
    let status = wait_for("the word", || Some(device.status()).filter(|status| status["link"]["state"] == "revoked"));
    assert_eq!(status["link"]["why"], "it was sold");
}
