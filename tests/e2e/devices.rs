//! The list: what a person and a script see of a device that reports.

use std::time::Duration;

use crate::device::Device;
use crate::lab::{Lab, SOON, fails, ok};

#[test]
fn the_list_tells_who_is_there_and_how_it_is_doing() {
    let lab = Lab::new();
    let _device = Device::online(&lab, "robot-1");
    let row = lab.row_becomes("robot-1", "online with a usage sample", SOON, |row| row["usage"].is_object());
    assert_eq!(row["id"], "robot-1");
    assert_eq!(row["name"], "robot-1");
    assert_eq!(row["admission"], "admitted");
    assert_eq!(row["presence"], "online");
    assert_eq!(row["projects"], serde_json::json!(["lab"]));
    let age = |field: &serde_json::Value| now_ms() - field.as_i64().unwrap_or_else(|| panic!("no time: {row:#}"));
    assert!(age(&row["last_seen"]) < 20_000, "{row:#}");
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(row["facts"]["hostname"], hostname.trim());
    for fact in ["os", "arch", "kernel"] {
        assert!(row["facts"][fact].as_str().is_some_and(|text| !text.is_empty()), "fact {fact}: {row:#}");
    }
    let usage = &row["usage"];
    assert!(age(&usage["t"]) < 30_000, "{usage:#}");
    let value = |name: &str| usage["values"][name].as_f64().unwrap_or_else(|| panic!("no {name}: {usage:#}"));
    let total: f64 = {
        let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
        let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap().trim().trim_end_matches(" kB");
        kib.parse::<f64>().unwrap() * 1024.0
    };
    assert!((value("mem_total") - total).abs() < 1.0, "this machine's real memory: {usage:#}");
    assert!((0.0..=1.0).contains(&value("cpu")), "{usage:#}");
    assert!(value("mem") > 0.0 && value("mem") < total, "{usage:#}");
    assert!(value("agent_mem") > 100_000.0, "{usage:#}");

    // The same for eyes: one line with the name and that it is there.
    let table = lab.run(&["devices"]);
    assert!(table.lines().any(|line| line.contains("robot-1") && line.contains("online")), "{table}");
}

#[test]
fn a_person_admits_renames_rejects() {
    let lab = Lab::new();
    let token = lab.enrolment_token(&["--project", "lab", "--admit", "manual"]);

    let mut device = Device::new(&lab, Default::default(), "robot-2", "");
    let enrolled = ok(&mut device.musterd(&["enrol", &lab.url, &token, "--no-wait"]));
    let told = String::from_utf8_lossy(&enrolled.stdout).into_owned() + &String::from_utf8_lossy(&enrolled.stderr);
    let row = lab.row_becomes("robot-2", "pending", SOON, |row| row["admission"] == "pending");
    let code = row["pairing_code"].as_str().expect("a pairing code while pending");
    assert!(told.contains(code), "the device shows the same pairing code {code}: {told}");
    assert!(row["why"].as_str().is_some_and(|why| why.len() > 20), "a sentence says why: {row:#}");

    // The daemon waits by itself and comes online within moments of the decision.
    device.start();
    lab.run(&["device", "admit", "robot-2"]);
    lab.online("robot-2");
    lab.run(&["device", "edit", "robot-2", "--name", "Kitchen robot"]);
    assert_eq!(lab.device_row("robot-2").unwrap()["name"], "Kitchen robot");
    assert_eq!(lab.json(&["device", "show", "Kitchen robot"])["id"], "robot-2");

    let other = Device::new(&lab, Default::default(), "robot-3", "");
    ok(&mut other.musterd(&["enrol", &lab.url, &token, "--no-wait"]));
    lab.run(&["device", "reject", "robot-3"]);
    assert_eq!(lab.device_row("robot-3").unwrap()["admission"], "rejected");
    let told = fails(&mut other.musterd(&["enrol", &lab.url, &token]), 1);
    assert!(told.contains("reject"), "{told}");
}

#[test]
fn another_key_cannot_take_a_listed_serial_until_an_owner_says_so() {
    let lab = Lab::new();
    let mut first = Device::online(&lab, "robot-4");
    let old_uid = lab.device_row("robot-4").unwrap()["uid"].clone();

    // A second board with the same serial number and a valid token.
    let token = lab.enrolment_token(&["--project", "lab", "--admit", "auto"]);
    let clone_folder = lab.folder().join("clone");
    std::fs::create_dir_all(clone_folder.join("state")).unwrap();
    let text = std::fs::read_to_string(first.folder.join("config.toml")).unwrap();
    let text = text.replace(&first.folder.display().to_string(), &clone_folder.display().to_string());
    std::fs::write(clone_folder.join("config.toml"), text).unwrap();
    let mut enrol = lab.marked(&crate::programs::musterd());
    enrol.arg("--config").arg(clone_folder.join("config.toml")).args(["enrol", &lab.url, &token, "--no-wait"]);
    ok(&mut enrol);
    let row = lab.row_becomes("robot-4", "asked for by another key", SOON, |row| row["replacement"].is_string());
    assert_eq!((&row["presence"], &row["uid"]), (&"online".into(), &old_uid), "nothing changed for the old key: {row:#}");

    lab.run(&["device", "replace", "robot-4", "--yes"]);
    let row = lab.device_row("robot-4").unwrap();
    assert_eq!(row["uid"], old_uid, "the row stays, with its name and projects");
    assert_eq!(row["projects"], serde_json::json!(["lab"]));
    // The old key is cut off, and stays off.
    lab.row_becomes("robot-4", "offline", SOON, |row| row["presence"] == "offline");
    first.daemon().assert_alive();
    crate::wait::throughout("the old key stays out", Duration::from_secs(4), || {
        lab.device_row("robot-4").unwrap()["presence"] == "offline"
    });
}

/// Milliseconds since the epoch.
pub fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}
