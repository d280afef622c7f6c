//! Revoking: the device's link and its live sessions end within a second, and nothing of it works any more.

use std::time::{Duration, Instant};

use crate::device::Device;
use crate::lab::{Lab, OWNER, SOON, fails};
use crate::process::Process;
use crate::wait::{eventually, throughout};

#[test]
fn revoking_cuts_the_link_and_the_live_session_within_a_second() {
    let lab = Lab::new();
    let mut device = Device::with_sessiond(&lab, "robot-1");
    let _bystander = Device::online(&lab, "robot-2");
    let mut shell = Process::start("shell", lab.folder(), lab.muster(&["shell", "robot-1", "--", "echo here; exec sleep 300"]));
    shell.says("here", SOON);
    let visitor = lab.processes_with("sleep 300");

    lab.run(&["device", "revoke", "robot-1", "--yes", "--reason", "sold"]);
    let revoked = Instant::now();
    let status = shell.ended(Duration::from_secs(1));
    assert!(!status.success());
    let told = shell.log();
    assert!(told.contains("revoked"), "the person at the shell is told why: {told}");
    let left = Duration::from_secs(1).saturating_sub(revoked.elapsed()).max(Duration::from_millis(300));
    let row = lab.row_becomes("robot-1", "offline", left, |row| row["presence"] == "offline");
    assert_eq!(row["admission"], "revoked");

    // What ran in the session is gone as well, and so is the session.
    visitor.all_end(SOON);
    eventually("no session lives", SOON, || device.living().is_empty().then_some(()));
    // It stays out, the daemon says why, and others are not touched.
    throughout("it stays out", Duration::from_secs(4), || lab.device_row("robot-1").unwrap()["presence"] == "offline");
    assert!(device.daemon().log().contains("revoked"), "{}", device.daemon().log());
    assert_eq!(lab.device_row("robot-2").unwrap()["presence"], "online");
    // On the device: why, in its own words, also after a restart; and it comes back when it is admitted again.
    let says = |device: &Device<'_>| {
        let why = "revoked by an owner of acme: sold";
        eventually("musterd status says why", SOON, || {
            let output = device.musterd(&["status"]).output().unwrap();
            (!output.status.success() && String::from_utf8_lossy(&output.stdout).contains(why)).then_some(())
        });
        let doctor = device.musterd(&["doctor"]).output().unwrap();
        let said = String::from_utf8_lossy(&doctor.stdout);
        assert!(!doctor.status.success() && said.contains(&format!("revoked by {OWNER}: sold")), "{said}");
    };
    says(&device);
    device.stop();
    device.start();
    says(&device);
    let told = fails(&mut lab.muster(&["shell", "robot-1", "--", "true"]), 1);
    assert!(told.contains("revoked"), "{told}");
    lab.run(&["device", "admit", "robot-1"]);
    lab.online("robot-1");
}

#[test]
fn ending_a_session_ends_it_at_both_ends() {
    let lab = Lab::new();
    let device = Device::with_sessiond(&lab, "robot-1");
    let mut shell = Process::start("shell", lab.folder(), lab.muster(&["shell", "robot-1", "--", "echo here; exec sleep 301"]));
    shell.says("here", SOON);
    let visitor = lab.processes_with("sleep 301");
    let sessions = crate::lab::rows(lab.json(&["sessions"]));
    let open: Vec<_> = sessions.iter().filter(|session| session["state"] == "open").collect();
    assert_eq!(open.len(), 1, "{sessions:#?}");
    assert_eq!((&open[0]["device_name"], &open[0]["user"]), (&"robot-1".into(), &crate::lab::OWNER.into()));
    let answer = lab.api("DELETE", &format!("/v1/orgs/acme/sessions/{}", open[0]["id"].as_str().unwrap()), None);
    assert!(answer.status < 300, "{answer:?}");
    assert!(!shell.ended(Duration::from_secs(3)).success());
    visitor.all_end(SOON);
    eventually("no session lives", SOON, || device.living().is_empty().then_some(()));
}
