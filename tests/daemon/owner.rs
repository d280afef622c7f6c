//! What the owner does at the device: looks who is there, ends them, locks it, reads and changes the policy.

use std::fs;

use serde_json::{Value, json};

use crate::device::{Device, OWN_USER, lives, text, wait_for};
use crate::hub::{StubHub, now};
use crate::sessions::{order, refusal};

const SESSION: &str = "saaaaaaaaaaaaaaa";
const RUN: &str = "raaaaaaaaaaaaaaa";

fn visitors(hub: &StubHub, device: &Device) {
    hub.open(&order(hub, SESSION, now()));
    let start = json!({
        "command": {"shell": "sleep 1000"}, "timeout_s": 6000, "output_max": 1000, "user": "bob@example.com", "project": "lab",
        "role": "operate", "t": now(), "expires": now() + 600_000,
    });
    hub.start_run(RUN, &start);
    wait_for("both", || (device.visits().len() == 2).then_some(()));
    // As whom a run is here is known once it has begun.
    wait_for("its start", || hub.published(&format!("run/{RUN}")).into_iter().nth(1));
}

#[test]
fn whoever_is_here_is_listed_and_can_be_ended() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    assert_eq!(text(&device.musterd(&["sessions"])), "No remote sessions or runs on this device.\n");
    visitors(&hub, &device);
    let list = device.visits();
    let said: Vec<_> = list.iter().map(|visit| (visit["name"].as_str().unwrap(), visit["user"].as_str().unwrap())).collect();
    assert!(said.contains(&(SESSION, "ada@example.com")) && said.contains(&(RUN, "bob@example.com")), "{list:?}");
    let run = list.iter().find(|visit| visit["name"] == RUN).unwrap();
    assert!(run["become_user"].is_string() && run["role"] == "operate" && run["project"] == "lab", "{run}");
    let table = text(&device.musterd(&["sessions"]));
    assert!(table.lines().any(|line| line.starts_with(SESSION) && line.contains("ada@example.com")), "{table}");

    let unknown = device.musterd(&["end", "sbbbbbbbbbbbbbbb"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown).contains("no session or run sbbbbbbbbbbbbbbb"), "{}", text(&unknown));
    assert_eq!(device.musterd(&["end"]).status.code(), Some(2), "which?");
    assert!(device.musterd(&["end", SESSION, "--reason", "dinner is ready"]).status.success());
    let closed = wait_for("the session's end", || hub.events("session_closed").pop());
    assert_eq!((&closed["session"], &closed["reason"]), (&json!(SESSION), &json!("dinner is ready")));
    assert_eq!(device.visits().len(), 1);
    assert!(device.musterd(&["end", "--all"]).status.success());
    wait_for("nobody", || device.visits().is_empty().then_some(()));
    let end = hub.published(&format!("run/{RUN}")).last().unwrap().json();
    assert_eq!((&end["kind"], &end["outcome"], &end["message"]), (&json!("end"), &json!("cancelled"), &json!("ended at the device")));
}

#[test]
fn a_locked_device_ends_who_is_there_and_refuses_the_next_until_it_is_unlocked() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    visitors(&hub, &device);
    let processes: Vec<u64> = device.visits().iter().map(|visit| visit["pid"].as_u64().unwrap()).collect();
    let locked = device.musterd(&["lock", "--reason", "children are in the room"]);
    assert!(locked.status.success(), "{}", text(&locked));
    assert!(text(&locked).contains("Visitors read: children are in the room"), "{}", text(&locked));
    wait_for("their end", || processes.iter().all(|process| !lives(*process)).then_some(()));
    let closed = wait_for("the session's end", || hub.events("session_closed").pop());
    assert_eq!(closed["reason"], "the device was locked by its owner: children are in the room");
    hub.open(&order(&hub, "sbbbbbbbbbbbbbbb", now()));
    let event = refusal(&hub, "sbbbbbbbbbbbbbbb");
    assert_eq!(event["code"], "policy_locked");
    assert!(event["message"].as_str().unwrap().contains("children are in the room"), "{event}");
    assert!(text(&device.musterd(&["check-config"])).contains("This device is locked (children are in the room)"));

    assert!(device.musterd(&["unlock"]).status.success());
    hub.open(&order(&hub, "sccccccccccccccc", now()));
    wait_for("the session", || hub.events("session_opened").into_iter().find(|event| event["session"] == "sccccccccccccccc"));
}

#[test]
fn explain_says_what_happens_by_which_lines_and_which_rest_on_the_hubs_word() {
    let device = Device::new("");
    device.policy("[who]\nroles = [\"operate\", \"admin\"]\n[unix]\nallow = [\"/run/x.sock\"]\n");
    let explain = |role: &str, target: &str, more: &[&str]| {
        let question = ["policy", "explain", "--user", "ada@example.com", "--role", role, "--target", target];
        device.musterd(&[&question[..], more].concat())
    };
    for (role, target, code) in [
        ("operate", "terminal", 0),
        ("connect", "terminal", 1),
        ("operate", "localhost:22", 0),
        ("operate", "10.0.0.1:22", 1),
        ("operate", "unix:/run/x.sock", 0),
        ("operate", "unix:/run/y.sock", 1),
        ("operate", "run:uptime", 0),
        ("operate", "terminal:pi", 1),
        ("guest", "terminal", 2),
        ("operate", "somewhere", 2),
    ] {
        let output = explain(role, target, &[]);
        assert_eq!(output.status.code(), Some(code), "{role} {target}: {}", text(&output));
    }
    let json: Value = serde_json::from_slice(&explain("connect", "terminal", &["--json"]).stdout).unwrap();
    assert_eq!((&json["allowed"], &json["code"]), (&json!(false), &json!("policy_role")));
    assert_eq!((&json["lines"][0]["key"], &json["lines"][0]["hubs_word"]), (&json!("who.roles"), &json!(true)), "{json}");
    fs::remove_file(device.path("policy.toml")).unwrap();
    let output = explain("operate", "terminal", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("policy_missing"), "{}", text(&output));
}

#[test]
fn check_config_says_as_whom_each_role_gets_in_and_warns_of_own_user() {
    let device = Device::new("");
    let said = text(&device.musterd(&["check-config"]));
    assert!(said.contains("No wall stands between visitors and this device's key"), "{said}");

    fs::write(device.path("policy.toml"), "[users]\ndefault = \"nobody-here\"\n[users.roles]\nadmin = \"root\"\n").unwrap();
    let output = device.musterd(&["check-config"]);
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output);
    assert!(said.contains("Role connect: becomes nobody-here.") && said.contains("Role admin: becomes root."), "{said}");
    assert!(said.contains("this machine has no user \"nobody-here\""), "{said}");

    device.policy("");
    assert!(std::process::Command::new("chmod").arg("0666").arg(device.path("policy.toml")).status().unwrap().success());
    let output = device.musterd(&["check-config"]);
    assert_eq!(output.status.code(), Some(2), "others could write it: {}", text(&output));

    fs::remove_file(device.path("policy.toml")).unwrap();
    let output = device.musterd(&["check-config"]);
    assert!(output.status.success() && text(&output).contains("There is no policy"), "{}", text(&output));
}

#[test]
fn the_hub_is_told_the_policy_at_birth_and_when_it_changes_and_not_otherwise() {
    let hub = StubHub::start();
    let mut device = Device::online(&hub, "");
    let told = || hub.published("policy").iter().map(crate::hub::Published::json).collect::<Vec<_>>();
    let first = wait_for("the policy", || told().pop());
    assert_eq!((&first["own_user"], &first["text"]), (&json!(true), &json!(format!("own_user = {OWN_USER}\n"))));
    assert!(first["code"].is_null() && first["fault"].is_null(), "{first}");
    let beats = |more: usize| {
        let before = hub.published("heartbeat").len();
        wait_for("heartbeats", || (hub.published("heartbeat").len() >= before + more).then_some(()));
    };
    beats(3);
    assert_eq!(told().len(), 1, "nothing changed");

    device.policy("[terminal]\nallow = false\n");
    let second = wait_for("the change", || told().into_iter().nth(1));
    assert!(second["text"].as_str().unwrap().contains("allow = false"), "{second}");
    device.musterd(&["lock"]);
    let third = wait_for("the lock", || told().into_iter().nth(2));
    assert_eq!(third["code"], "policy_locked");
    device.musterd(&["unlock"]);
    fs::remove_file(device.path("policy.toml")).unwrap();
    let last = wait_for("that it is gone", || told().into_iter().find(|told| told["code"] == "policy_missing"));
    assert!(last["text"].is_null() && last["fault"].as_str().is_some_and(|fault| fault.len() > 20), "{last}");
    beats(3);
    let count = told().len();
    beats(2);
    assert_eq!(told().len(), count, "nothing changed");

    device.kill();
    device.start();
    wait_for("a birth with its policy", || (hub.births().len() == 2 && told().len() == count + 1).then_some(()));
}

#[test]
fn where_the_policy_asks_a_person_at_the_device_says_yes_first() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    device.policy("[ask]\nask = true\n");
    let file = device.path("begun");
    let start = json!({
        "command": {"shell": format!("touch {}", file.display())}, "timeout_s": 60, "output_max": 1000, "user": "bob@example.com",
        "project": "lab", "role": "operate", "t": now(), "expires": now() + 600_000,
    });
    hub.start_run(RUN, &start);
    let code = wait_for("the code", || device.visits().first()?["waits"].as_str().map(str::to_owned));
    let table = text(&device.musterd(&["sessions"]));
    assert!(table.contains(&format!("{RUN} waits for you: musterd approve {code}")), "{table}");
    let wrong = device.musterd(&["approve", "AAAA-2222"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong).contains("nobody waits with the code AAAA-2222"), "{}", text(&wrong));
    assert!(!file.exists(), "nobody has said yes");
    // As people type.
    let approved = device.musterd(&["approve", &code.replace('-', " ").to_lowercase()]);
    assert!(approved.status.success() && text(&approved) == "Approved.\n", "{}", text(&approved));
    wait_for("the command", || file.exists().then_some(()));
    wait_for("its end", || device.visits().is_empty().then_some(()));
}
