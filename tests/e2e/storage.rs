//! An organization whose storage is full: its devices stay on the line with all but their samples, which come once there is room.

use serde_json::Value;

use crate::device::Device;
use crate::lab::{Lab, SOON, fails};
use crate::spool;
use crate::wait::eventually;

/// What `musterd status --json` says.
fn status(device: &Device<'_>) -> Value {
    let output = device.musterd(&["status", "--json"]).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Whether the list says why its samples do not come.
fn is_held(row: &Value) -> bool {
    row["why"].as_str().is_some_and(|why| why.contains("held on the device because the storage of acme is full"))
}

#[test]
fn a_full_storage_holds_samples_on_the_device_and_nothing_else() {
    let lab = Lab::new();
    let mut device = Device::online(&lab, "robot-1");
    lab.row_becomes("robot-1", "there with a sample", SOON, |row| row["usage"].is_object());
    let link = status(&device)["link"].clone();
    assert_eq!(link["state"], "online", "{link}");

    for round in 1..=2 {
        lab.run(&["limit", "set", "storage", "1B"]);
        eventually("samples are held", SOON, || (status(&device)["samples_held"] == true).then_some(()));
        lab.row_becomes("robot-1", "said to be held", SOON, is_held);
        let said = device.musterd(&["status"]).output().unwrap();
        assert!(String::from_utf8_lossy(&said.stdout).contains("because the storage of acme is full"), "{said:?}");
        // Meanwhile all else goes on, on the same link, and samples gather.
        let taken = device.own_samples().len();
        assert_eq!(lab.run(&["shell", "robot-1", "--", "echo", "still here"]).trim(), "still here");
        // A new run is refused, and says why: its output needs room.
        let told = fails(&mut lab.muster(&["run", "robot-1", "--", "true"]), 1);
        assert!(told.contains("muster limit set storage SIZE"), "{told}");
        device.has_taken(taken + 8, SOON);
        assert!(status(&device)["spooled"].as_u64() >= Some(8), "{}", status(&device));
        assert_eq!(device.daemon().log().matches("storage is full").count(), round, "one refusal each time: {}", device.daemon().log());
        assert_eq!(status(&device)["link"], link, "{}", device.daemon().log());

        // Room: the device is told, and need not wait for its next try minutes later.
        lab.run(&["limit", "set", "storage", "none"]);
        spool::compare(&lab, &device);
        assert_eq!(status(&device)["samples_held"], false);
        assert_eq!(status(&device)["link"], link, "{}", device.daemon().log());
        lab.row_becomes("robot-1", "online and not held", SOON, |row| row["presence"] == "online" && !is_held(row));
    }
}
