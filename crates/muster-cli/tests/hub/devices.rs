//! Devices from their first contact to their end.

use std::path::Path;
use std::process::Command;

use crate::town::{Town, run};

#[test]
fn from_pending_to_deleted() {
    let town = Town::new();
    assert_eq!(town.muster("devices --json").json(), serde_json::json!([]));
    let token = town.enrolment_token("--project lab --uses 1");
    let said = town.enrol("seven", "SN-0007", &token);
    let list = town.muster("devices --pending --json").json();
    let device = &list[0];
    for field in ["id", "uid", "name", "admission", "presence", "last_seen", "projects", "facts", "usage", "why", "sessions"] {
        assert!(device.get(field).is_some(), "{field}: {device}");
    }
    assert_eq!(
        (device["id"].as_str(), device["admission"].as_str(), device["presence"].as_str()),
        (Some("SN-0007"), Some("pending"), Some("never"))
    );
    let code = device["pairing_code"].as_str().expect("a pairing code").to_owned();
    assert!(format!("{}{}", said.out, said.err).contains(&code), "the device shows the same code: {said:?}");

    let shown = town.muster("devices").ok();
    assert!(shown.contains("SN-0007") && shown.contains("pending") && shown.contains(&code), "{shown}");
    // By its code, in small letters.
    let said = town.muster(&format!("device admit {} --name robot-7", code.to_lowercase())).ok();
    assert_eq!(said, "Admitted robot-7 (serial SN-0007), in lab.\n");
    assert_eq!(town.muster("devices --json robot-*").json()[0]["admission"], "admitted");
    assert_eq!(town.muster("devices --json --project lab").json()[0]["name"], "robot-7");
    assert_eq!(town.muster("devices --json --online").json(), serde_json::json!([]));

    // By name, serial number and uid.
    let uid = town.muster("device show robot-7 --json").json()["uid"].as_str().unwrap().to_owned();
    for name in ["SN-0007", &uid] {
        assert_eq!(town.muster(&format!("device show {name} --json")).json()["name"], "robot-7");
    }
    let page = town.muster("device show robot-7").ok();
    assert!(page.contains("state") && page.contains("never seen") && page.contains("facts"), "{page}");
    let refused = town.muster("device show robto-7").fails(4);
    assert!(refused.contains("similar are:") && refused.contains("robot-7"), "{refused}");
    assert!(town.muster("device show nothing-like-it").fails(4).contains("`muster devices` lists all"));

    // It never came: its shell is not reached, and its past is empty.
    assert!(!town.muster("shell robot-7 -- true").fails(5).is_empty());
    assert_eq!(town.muster("device history robot-7 --json").json(), serde_json::json!([]));
    assert_eq!(town.muster("device usage robot-7 --json --since 1h").json(), serde_json::json!([]));
    let refused = town.muster("device policy robot-7").fails(4);
    assert!(refused.contains("robot-7 has not told its policy yet"), "{refused}");
    assert!(town.muster("device policy robto-7").fails(4).contains("similar are:"));
    assert!(town.muster("top --once").ok().contains("robot-7"));
    assert!(town.muster("top robot-7 --once").ok().contains("no sample yet"));

    // The usual project is only the usual one; a project on the command line is meant.
    town.muster("project create field").ok();
    let refused = run(town.command().env("MUSTER_PROJECT", "field").args(["shell", "robot-7", "--", "true"])).fails(5);
    assert!(refused.contains("is not connected"), "{refused}");
    assert!(town.muster("shell --project field robot-7 -- true").fails(4).contains("is not in project field"));

    // What cannot be undone needs a yes.
    assert!(town.muster("device revoke robot-7").fails(2).contains("give --yes"));
    assert_eq!(town.muster("device revoke robot-7 --yes --reason sold").ok(), "Revoked robot-7 (serial SN-0007).\n");
    assert_eq!(town.muster("device show robot-7 --json").json()["admission"], "revoked");
    assert!(town.muster("device delete robot-7").fails(2).contains("give --yes"));
    town.muster("device delete robot-7 --yes").ok();
    town.muster("device show robot-7").fails(4);

    let audit = town.muster("audit --json --action device.").json();
    let actions: Vec<&str> = audit.as_array().unwrap().iter().filter_map(|event| event["action"].as_str()).collect();
    for action in ["device.edit", "device.admit", "device.revoke", "device.delete"] {
        assert!(actions.contains(&action), "{action}: {actions:?}");
    }
    assert!(town.muster("audit").ok().contains("device.admit"));
}

#[test]
fn several_of_one_name_are_told_apart_and_many_are_decided_at_once() {
    let town = Town::new();
    let token = town.enrolment_token("--no-project");
    for serial in ["SN-1", "SN-2", "SN-3"] {
        town.enrol(serial, serial, &token);
    }
    for serial in ["SN-1", "SN-2"] {
        town.muster(&format!("device edit {serial} --name twin")).ok();
    }
    let refused = town.muster("device show twin").fails(1);
    let uids: Vec<String> = town
        .muster("devices --json twin")
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|device| device["uid"].as_str().unwrap().to_owned())
        .collect();
    assert!(uids.len() == 2 && uids.iter().all(|uid| refused.contains(uid.as_str())), "{refused}");
    assert!(refused.contains("several devices are called \"twin\"") && refused.contains("serial SN-2"), "{refused}");

    // One that is not there does not stop the others.
    let said = town.muster("device admit SN-1 SN-9 SN-2 --into lab");
    assert_eq!(said.code, 4, "{said:?}");
    assert_eq!(said.out.lines().count(), 2, "{said:?}");
    town.muster("device reject SN-3 --reason stranger").ok();
    let states = town.muster("devices --json --sort created").json();
    let mut states: Vec<(&str, &str)> =
        states.as_array().unwrap().iter().map(|device| (device["id"].as_str().unwrap(), device["admission"].as_str().unwrap())).collect();
    states.sort_unstable();
    assert_eq!(states, [("SN-1", "admitted"), ("SN-2", "admitted"), ("SN-3", "rejected")]);
    assert_eq!(town.muster("project show lab --json").json()["devices"], 2);
    town.muster("project remove-device lab SN-1").ok();
    town.muster("project add-device lab SN-3").ok();
    assert_eq!(town.muster("project show lab --json").json()["devices"], 2);
}

#[test]
fn another_key_takes_over_only_by_an_owners_word() {
    let town = Town::new();
    town.device("SN-1");
    let token = town.enrolment_token("--admit auto");
    town.enrol("another-machine", "SN-1", &token);
    let device = town.muster("device show SN-1 --json").json();
    let code = device["replacement"].as_str().expect("the new key's code").to_owned();
    assert!(town.muster("devices").ok().contains(&code));
    assert!(town.muster(&format!("device replace {code}")).fails(2).contains("give --yes"));
    assert_eq!(town.muster(&format!("device replace {code} --yes")).ok(), "SN-1 (serial SN-1) now has the new key.\n");
    assert!(town.muster("device show SN-1 --json").json().get("replacement").is_none());
}

#[test]
fn hostile_names_are_harmless_everywhere() {
    let town = Town::new();
    town.device("SN-1");
    // What turns the direction of a line is refused by the hub; what an older hub let in, `output::text` makes visible.
    run(town.command().args(["device", "edit", "SN-1", "--name", "evil\u{202e}gpj.exe"])).fails(1);
    let name = "evil; $(reboot)";
    run(town.command().args(["device", "edit", "SN-1", "--name", name])).ok();
    for line in ["devices", "device show SN-1", "top --once", "top SN-1 --once", "audit"] {
        let said = town.muster(line).ok();
        assert!(said.contains(name) && !said.contains('\u{202e}'), "{line}: {said}");
    }
    let said = town.muster("devices --json").ok();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&said).unwrap()[0]["name"], name);

    // Neither a shell nor OpenSSH ever gets it.
    let uid = town.muster("device show SN-1 --json").json()["uid"].as_str().unwrap().to_owned();
    let offered = completed(&town, &["device", "show", ""]);
    assert!(offered.contains(&uid) && !offered.contains("evil"), "{offered}");
    let blocks = town.muster("ssh-config").ok();
    assert!(blocks.contains(&format!("\nHost {uid}\n")), "{blocks}");
    assert!(blocks.lines().filter(|line| !line.starts_with('#')).all(|line| !line.contains("reboot")), "{blocks}");
}

#[test]
fn the_shell_completes_devices_and_commands() {
    let town = Town::new();
    town.device("robot-7");
    town.device("edge-1");
    assert!(completed(&town, &["dev"]).contains("devices"));
    let offered = completed(&town, &["device", "show", "ro"]);
    assert!(offered.contains("robot-7") && !offered.contains("edge-1"), "{offered}");
    assert!(completed(&town, &["ssh", "pi@ed"]).contains("pi@edge-1"));
    assert!(completed(&town, &["devices", "--project", ""]).contains("lab"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(town.as_stranger(&format!("completion {shell}")).ok().contains("MUSTER_COMPLETE"), "{shell}");
    }
    // Without a hub nothing is offered, and nothing is said.
    let mut command = town.stranger();
    let said = run(ask(&mut command, &["device", "show", ""]));
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
}

/// Asks as bash does.
fn ask<'a>(command: &'a mut Command, words: &[&str]) -> &'a mut Command {
    command
        .env("MUSTER_COMPLETE", "bash")
        .env("_CLAP_IFS", "\n")
        .env("_CLAP_COMPLETE_INDEX", words.len().to_string())
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "true")
        .args(["--", "muster"])
        .args(words)
}

fn completed(town: &Town, words: &[&str]) -> String {
    run(ask(&mut town.command(), words)).ok()
}

#[test]
fn openssh_reads_the_blocks() {
    let town = Town::new();
    town.device("robot-7");
    let path = town.file("muster.conf");
    let said = run(town.command().args(["ssh-config", "--user", "pi", "--prefix", "acme-", "--write"]).arg(&path));
    assert!(said.err.contains("Include "), "{said:?}");
    said.ok();
    let read = run(Command::new("ssh").args(["-G", "-F"]).arg(&path).arg("acme-robot-7")).ok();
    let uid = town.muster("device show robot-7 --json").json()["uid"].as_str().unwrap().to_owned();
    for line in ["user pi".to_owned(), format!("hostkeyalias muster-{uid}"), format!("hostname {uid}")] {
        assert!(read.lines().any(|read| read == line), "{line}\n{read}");
    }
    let proxy = read.lines().find(|line| line.starts_with("proxycommand ")).expect("a ProxyCommand");
    assert!(
        proxy.contains(&format!(" --hub {} --org acme", town.url)) && proxy.ends_with(&format!("proxy {uid} 22")) || proxy.ends_with("%p"),
        "{proxy}"
    );
    assert!(!proxy.contains("mp1."), "{proxy}");
    assert!(Path::new(proxy.split_whitespace().nth(1).unwrap()).is_file(), "{proxy}");
}
