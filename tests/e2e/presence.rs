//! Presence: who is gone is shown as gone, by the will or by the silence, and comes back by itself.

use std::time::{Duration, Instant};

use crate::device::Device;
use crate::lab::{HEARTBEAT_S, Lab, Plan, SOON, rows};
use crate::netns::{Cable, HUB_ADDRESS};
use crate::wait::eventually;

#[test]
fn a_killed_daemon_is_offline_by_its_will_and_comes_back() {
    let lab = Lab::new();
    let mut device = Device::online(&lab, "robot-1");
    let seen = lab.device_row("robot-1").unwrap()["presence_since"].as_i64().unwrap();

    // Stopped, it says nothing more; the broker's word on its end is not its own.
    device.daemon().signal(rustix::process::Signal::STOP);
    let last = || lab.device_row("robot-1").unwrap()["last_seen"].as_i64().unwrap();
    let mut before = 0;
    eventually("what was on its way has come", SOON, || {
        let now = last();
        (std::mem::replace(&mut before, now) == now).then_some(())
    });
    device.daemon().kill();
    let row = lab.row_becomes("robot-1", "offline", Duration::from_secs(5), |row| row["presence"] == "offline");
    assert!(row["presence_since"].as_i64().unwrap() > seen, "{row:#}");
    assert_eq!(row["last_seen"].as_i64().unwrap(), before, "it was last seen when it said something last: {row:#}");
    lab.hub().kill();
    lab.start_hub();
    assert!(last() <= before, "nor after a restart of the hub: {} > {before}", last());
    assert!(row["why"].as_str().is_some_and(|why| why.len() > 20), "a sentence says why: {row:#}");

    device.start();
    lab.online("robot-1");
    // The hub knows a moment before the device does, which says farewell only where it was there.
    eventually("the device knows that it is online", SOON, || {
        (device.daemon().log().matches("online as robot-1").count() == 2).then_some(())
    });
    // Stopped as systemd does it: it says farewell.
    device.stop();
    lab.row_becomes("robot-1", "offline", Duration::from_secs(5), |row| row["presence"] == "offline");

    let history = rows(lab.api("GET", "/v1/orgs/acme/devices/robot-1/presence?limit=50", None).json());
    let history: Vec<(&str, &str)> =
        history.iter().rev().map(|change| (change["presence"].as_str().unwrap(), change["reason"].as_str().unwrap())).collect();
    assert_eq!(history, [("online", "birth"), ("offline", "will"), ("online", "birth"), ("offline", "farewell: stopped")]);
}

#[test]
fn a_device_cut_off_without_a_word_is_offline_within_three_heartbeats_and_comes_back() {
    let cable = Cable::new();
    let lab = Lab::planned(Plan { host: Some((cable.hub(), HUB_ADDRESS)), ..Plan::default() });
    let mut device = Device::online_on(&lab, cable.device(), "robot-1");

    // The last heartbeat came up to one interval before the pull; three more are missed.
    cable.pull();
    let pulled = Instant::now();
    let limit = Duration::from_secs(3 * HEARTBEAT_S) + Duration::from_secs(3);
    let row = lab.row_becomes("robot-1", "offline", limit, |row| row["presence"] == "offline");
    assert!(pulled.elapsed() > Duration::from_secs(HEARTBEAT_S), "one silent moment is not an outage: {:?}", pulled.elapsed());
    assert!(row["why"].as_str().is_some_and(|why| why.contains("stopped responding")), "{row:#}");
    device.daemon().assert_alive();

    cable.plug();
    lab.online("robot-1");
    // And what it measured in the dark arrives.
    let own = device.own_samples();
    lab.row_becomes("robot-1", "up to date", SOON, |row| row["usage"]["seq"].as_u64() >= own.last().unwrap()["seq"].as_u64());
}
