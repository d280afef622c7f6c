//! Leaving: whoever loses the right in the middle of a session loses the session within a second, and is told why.

use std::fs::{self, File};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::device::Device;
use crate::https;
use crate::lab::{Lab, OWNER, SOON, fails, ok};
use crate::process::{Process, Seen};
use crate::programs;

const BEN: &str = "ben@example.org";

/// An account that is a member of `acme`, and a token that `POST /v1/login` gave for its password.
fn ben(lab: &Lab) -> String {
    let password = lab.folder().join("password");
    fs::write(&password, "correct horse battery\n").expect("a file in the laboratory");
    let mut add = lab.marked(&programs::muster_hub());
    add.arg("--config").arg(lab.data.join("hub.toml"));
    add.args(["user", "add", BEN, "--org", "acme", "--role", "member", "--password-stdin"]);
    ok(add.stdin(File::open(&password).expect("the file")));
    let login = json!({ "email": BEN, "password": "correct horse battery" }).to_string();
    let answer = https::request(lab.https, https::config(&lab.ca(), None), "POST", "/v1/login", None, Some(login.as_bytes()));
    let made = answer.expect("an answer").json();
    made["token"].as_str().unwrap_or_else(|| panic!("no token in {made}")).to_owned()
}

fn muster(lab: &Lab, token: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = lab.muster(arguments);
    command.env("MUSTER_TOKEN", token);
    command
}

/// The shell ends within a second, with these words, and nothing of it is left on the device.
fn ends(shell: &mut Process, since: Instant, why: &str, visitor: &Seen) {
    let status = shell.ended(Duration::from_secs(1).saturating_sub(since.elapsed()).max(Duration::from_millis(300)));
    let told = shell.log();
    assert!(told.contains(why), "the person at the shell is told why: {told}");
    assert!(!status.success(), "{status}");
    visitor.all_end(SOON);
}

#[test]
fn whoever_leaves_in_the_middle_of_a_session_loses_it_within_a_second() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let token = ben(&lab);
    let mut own = Process::start("own", lab.folder(), lab.muster(&["shell", "robot-1", "--", "echo here; exec sleep 311"]));
    own.says("here", SOON);
    let mut shell = Process::start("shell", lab.folder(), muster(&lab, &token, &["shell", "robot-1", "--", "echo here; exec sleep 310"]));
    shell.says("here", SOON);
    let visitor = lab.processes_with("sleep 310");

    ok(&mut muster(&lab, &token, &["org", "leave", "acme", "--yes"]));
    ends(&mut shell, Instant::now(), "ben@example.org no longer belongs to acme", &visitor);
    let told = fails(&mut muster(&lab, &token, &["shell", "robot-1", "--", "true"]), 4);
    assert!(told.contains("acme"), "{told}");
    // What he did stays under his name, and nobody else was touched.
    let sessions = crate::lab::rows(lab.json(&["sessions", "--all"]));
    let his: Vec<&Value> = sessions.iter().filter(|session| session["user"] == BEN).collect();
    assert_eq!((his.len(), &his[0]["state"]), (1, &json!("ended")), "{sessions:#?}");
    assert!(his[0]["end_reason"].as_str().is_some_and(|reason| reason.contains("no longer belongs to acme")), "{his:#?}");
    assert!(crate::lab::rows(lab.json(&["audit", "--actor", BEN])).iter().any(|event| event["action"] == "member.leave"));
    own.assert_alive();
    assert_eq!(sessions.iter().filter(|session| session["user"] == OWNER && session["state"] == "open").count(), 1);
}

#[test]
fn a_project_that_is_archived_lets_go_of_its_sessions_and_takes_no_new_ones() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let mut shell = Process::start("shell", lab.folder(), lab.muster(&["shell", "robot-1", "--", "echo here; exec sleep 312"]));
    shell.says("here", SOON);
    let visitor = lab.processes_with("sleep 312");
    lab.run(&["project", "archive", "lab", "--yes"]);
    ends(&mut shell, Instant::now(), "project lab was archived", &visitor);
    let told = fails(&mut lab.muster(&["shell", "robot-1", "--", "true"]), 1);
    assert!(told.contains("project lab is archived"), "{told}");
    lab.run(&["project", "restore", "lab"]);
    ok(&mut lab.muster(&["shell", "robot-1", "--", "true"]));
}
