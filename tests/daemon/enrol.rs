//! Enrolment against a hub that takes its time, says no, or is another.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;

use muster_proto::token::{Pin, Token, TokenKind};

use crate::device::{Device, text, wait_for};
use crate::hub::StubHub;

#[test]
fn pending_shows_the_pairing_code_and_admission_takes_effect_at_once() {
    let hub = StubHub::start();
    hub.behave(|manner| manner.admits = false);
    let device = Device::new("");
    let mut child = device.begin(&["enrol", &hub.url(), &hub.token()]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("pairing code: ABCD-2345"));
    assert!(lines.next().unwrap().contains("an owner of acme has to admit it"));
    hub.behave(|manner| manner.admits = true);
    let admitted = lines.find(|line| line.starts_with("admitted")).unwrap();
    assert!(admitted.contains("robot-1 (daaaaaaaaaaaaaaa) of acme"), "{admitted}");
    assert!(child.wait().unwrap().success());
    let key = device.path("state/key.pem");
    assert_eq!(std::fs::metadata(&key).unwrap().mode() & 0o777, 0o600);

    // Again: the same key, the same device.
    let before = std::fs::read(&key).unwrap();
    assert!(device.musterd(&["enrol", &hub.url(), &hub.token()]).status.success());
    assert_eq!(std::fs::read(&key).unwrap(), before);
}

#[test]
fn the_daemon_goes_on_waiting_where_enrol_did_not() {
    let hub = StubHub::start();
    hub.behave(|manner| manner.admits = false);
    let mut device = Device::new("");
    device.start();
    wait_for("the word that it is not enrolled", || device.log().contains("not enrolled").then_some(()));
    let output = device.musterd(&["enrol", &hub.url(), &hub.token(), "--no-wait"]);
    assert!(output.status.success() && text(&output).contains("pairing code: ABCD-2345"), "{}", text(&output));
    wait_for("the daemon's own poll", || (device.status()["link"]["state"] == "pending").then_some(()));
    hub.behave(|manner| manner.admits = true);
    wait_for("the birth", || hub.births().pop());
}

#[test]
fn what_the_hub_says_reaches_the_person() {
    let hub = StubHub::start();
    let device = Device::new("");
    hub.behave(|manner| {
        manner.enrol_problem = Some((403, "token_used_up", "the token has enrolled as many devices as it may: make a new one"));
    });
    let output = device.musterd(&["enrol", &hub.url(), &hub.token()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("not enrolled: the token has enrolled as many devices"), "{}", text(&output));
    assert!(!device.path("state/identity.json").exists());
}

#[test]
fn another_hub_and_a_damaged_token_are_refused_before_anything_is_told() {
    let hub = StubHub::start();
    let device = Device::new("");
    let stranger = Token::from_random(TokenKind::Enrolment, [7; 42], Pin([1; 32])).to_string();
    let output = device.musterd(&["enrol", &hub.url(), &stranger]);
    assert!(text(&output).contains("not from the hub's authority"), "{}", text(&output));
    let output = device.musterd(&["enrol", &hub.url(), &hub.token()[..60]]);
    assert!(text(&output).contains("token"), "{}", text(&output));
    let output = device.musterd(&["enrol", "http://127.0.0.1:1", &hub.token()]);
    assert!(text(&output).contains("only encrypted connections"), "{}", text(&output));
    assert_eq!(hub.enrolments(), 0);
}

#[test]
fn a_disk_that_cannot_keep_the_key_uses_up_no_token() {
    let hub = StubHub::start();
    let device = Device::new("");
    // A file where the directory should be: nothing can be written there, not even by root.
    std::fs::write(device.path("state"), "").unwrap();
    let output = device.musterd(&["enrol", &hub.url(), &hub.token()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("cannot make the state directory"), "{}", text(&output));
    assert_eq!(hub.enrolments(), 0, "the hub was not asked");
    assert_eq!(std::fs::read(device.path("state")).unwrap(), b"");
}

#[test]
fn the_first_policy_is_written_once_with_the_user_who_is_named() {
    let hub = StubHub::start();
    let device = Device::new("");
    let policy = device.path("policy.toml");
    std::fs::remove_file(&policy).unwrap();
    let output = device.musterd(&["enrol", &hub.url(), &hub.token(), "--user", "nobody-here"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("this device has no user \"nobody-here\""), "{}", text(&output));
    assert!(!policy.exists() && hub.enrolments() == 0, "nothing is done by half");

    let output = device.musterd(&["enrol", &hub.url(), &hub.token()]);
    assert!(output.status.success() && text(&output).contains("nobody is let in yet"), "{}", text(&output));
    std::fs::remove_file(&policy).unwrap();
    let output = device.musterd(&["enrol", &hub.url(), &hub.token(), "--user", "root"]);
    assert!(output.status.success() && text(&output).contains("visitors become root"), "{}", text(&output));
    let first = std::fs::read_to_string(&policy).unwrap();
    assert!(first.contains("default = \"root\""), "{first}");
    assert_eq!(std::fs::metadata(&policy).unwrap().mode() & 0o777, 0o644);

    let output = device.musterd(&["enrol", &hub.url(), &hub.token(), "--user", "nobody"]);
    assert!(output.status.success() && text(&output).contains("--user changes nothing"), "{}", text(&output));
    assert_eq!(std::fs::read_to_string(&policy).unwrap(), first);
}

#[test]
fn the_anchor_names_the_hub_its_authority_and_this_devices_key() {
    let hub = StubHub::start();
    let device = Device::new("");
    assert!(device.musterd(&["enrol", &hub.url(), &hub.token()]).status.success());
    let path = device.path("hub.json");
    let anchor: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let want = serde_json::json!({ "hub": hub.url(), "pin": hub.authority.pin.to_string(), "key": hub.device_key() });
    assert_eq!(anchor, want);
    assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o777, 0o644);
}

#[test]
fn a_proxy_of_the_environment_is_named_where_the_hub_is_not_reached() {
    let hub = StubHub::start();
    let device = Device::new("");
    let enrol = |url: &str, variable: Option<&str>| {
        let mut command = device.command();
        for name in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command.args(["enrol", url, &hub.token()]).envs(variable.map(|name| (name, "http://127.0.0.1:9"))).output().unwrap()
    };
    for name in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        let output = enrol("127.0.0.1:1", Some(name));
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains(&format!("musterd does not read {name}: ")), "{}", text(&output));
    }
    assert!(!text(&enrol("127.0.0.1:1", None)).contains("does not read"));
    assert!(enrol(&hub.url(), Some("HTTPS_PROXY")).status.success(), "it needs none");
}
