//! The MQTT link against a hub that freezes, refuses, goes away and comes back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::device::{Device, lives, wait_for};
use crate::hub::{StubHub, now};
use serde_json::{Value, json};

#[test]
fn birth_heartbeat_usage_and_farewell() {
    let hub = StubHub::start();
    let mut device = Device::online(&hub, "");
    let birth = hub.births().pop().unwrap();
    assert!(birth["facts"]["hostname"].is_string() && birth["boot"].as_str().unwrap().len() == 16, "{birth}");
    let will: Value = serde_json::from_slice(hub.connects()[0].1.as_ref().unwrap()).unwrap();
    assert_eq!(will, json!({"online": false, "link": birth["link"]}));
    let heartbeat = wait_for("a heartbeat", || hub.published("heartbeat").pop());
    assert!(heartbeat.payload.len() <= 120, "{} bytes", heartbeat.payload.len());
    wait_for("samples", || (hub.samples().len() >= 3).then_some(()));
    assert_eq!(device.status()["link"]["state"], "online");

    let (took, well) = device.stop();
    assert!(well && took < Duration::from_secs(5), "{took:?}");
    let last = hub.published("presence").pop().unwrap();
    assert!(last.retain);
    assert_eq!(last.json(), json!({"online": false, "link": birth["link"], "reason": "stopped"}));
    assert!(!device.path("run/control.sock").exists());

    // The next life counts on.
    device.start();
    let next = wait_for("the next birth", || hub.births().into_iter().nth(1));
    assert!(next["link"].as_u64() > birth["link"].as_u64());
    assert_ne!(next["boot"], birth["boot"]);
}

#[test]
fn every_sample_arrives_over_an_outage_and_sigkill_with_its_own_time() {
    let hub = StubHub::start();
    let mut device = Device::online(&hub, "");
    wait_for("first samples", || (hub.samples().len() >= 2).then_some(()));
    hub.behave(|manner| manner.down = true);
    let before = device.samples().len();
    wait_for("samples of the outage", || (device.samples().len() >= before + 3).then_some(()));
    device.kill();
    device.start();
    wait_for("samples of the next life", || {
        let samples = device.samples();
        (samples.last()?.0 != samples[0].0).then_some(())
    });
    hub.behave(|manner| manner.down = false);
    let taken: BTreeSet<_> = device.samples().into_iter().collect();
    wait_for("all samples", || taken.is_subset(&hub.samples().into_iter().collect()).then_some(()));
    let (first, later) = (taken.first().unwrap().0.clone(), taken.last().unwrap().0.clone());
    assert_ne!(first, later, "two lives of the daemon took samples");
}

#[test]
fn unacknowledged_batches_stay_and_are_sent_again() {
    let hub = StubHub::start();
    let mut device = Device::online(&hub, "");
    wait_for("a sample", || hub.samples().pop());
    hub.behave(|manner| manner.acknowledges = false);
    let sent = hub.samples().len();
    wait_for("a batch that is not acknowledged", || (hub.samples().len() > sent).then_some(()));
    device.kill();
    hub.behave(|manner| manner.acknowledges = true);
    device.start();
    let taken: BTreeSet<_> = device.samples().into_iter().collect();
    wait_for("all samples", || taken.is_subset(&hub.samples().into_iter().collect()).then_some(()));
    wait_for("an empty spool", || (device.status()["spooled"].as_u64()? <= 1).then_some(()));
}

#[test]
fn without_a_disk_for_its_samples_it_is_online_and_says_so() {
    let hub = StubHub::start();
    let mut device = Device::new("");
    assert!(device.musterd(&["enrol", &hub.url(), &hub.token()]).status.success());
    // A file where the spool's directory should be: every write fails, for root too.
    std::fs::write(device.path("state/spool"), "").unwrap();
    device.start();
    wait_for("samples all the same", || (hub.samples().len() >= 3).then_some(()));
    let fault = wait_for("the word", || device.status()["spool_fault"].as_str().map(str::to_owned));
    assert!(fault.contains("cannot write the spool"), "{fault}");
    hub.behave(|manner| manner.down = true);
    let before = device.samples().len();
    wait_for("samples of an outage", || (device.samples().len() >= before + 3).then_some(()));
    hub.behave(|manner| manner.down = false);
    let taken: BTreeSet<_> = device.samples().into_iter().collect();
    wait_for("all samples", || taken.is_subset(&hub.samples().into_iter().collect()).then_some(()));
}

#[test]
fn a_hub_that_was_in_2099_for_a_moment_does_not_lock_the_device_out() {
    const IN_2099: i64 = 4_070_908_800_000;
    let hub = StubHub::start();
    let mut device = Device::online(&hub, "");
    hub.send("admission", &json!({"do": "named", "uid": crate::hub::UID, "org": "acme", "name": "from 2099", "now": IN_2099}));
    wait_for("the word", || (device.status()["name"] == "from 2099").then_some(()));
    device.kill();
    device.start();
    wait_for("the next birth", || hub.births().into_iter().nth(1));
    let link: Value = serde_json::from_slice(&std::fs::read(device.path("state/link.json")).unwrap()).unwrap();
    let kept = link["hub_time"].as_i64().unwrap();
    assert!(kept > now() && kept < now() + 61 * 86_400_000, "believed until a new certificate is due, and no longer: {link}");

    // A number from 2099 on the disk, as a daemon before this one may have kept it.
    device.kill();
    let mut link = link;
    link["hub_time"] = IN_2099.into();
    std::fs::write(device.path("state/link.json"), link.to_string()).unwrap();
    device.start();
    wait_for("one more birth", || hub.births().into_iter().nth(2));
}

#[test]
fn a_frozen_hub_is_noticed() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    wait_for("a heartbeat", || hub.published("heartbeat").pop());
    hub.behave(|manner| manner.frozen = true);
    wait_for("the notice", || device.log().contains("the hub has fallen silent").then_some(()));
    hub.behave(|manner| manner.frozen = false);
    wait_for("the return", || (hub.births().len() >= 2).then_some(()));
}

#[test]
fn a_line_on_which_a_batch_takes_long_is_given_the_time() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    wait_for("a sample", || hub.samples().pop());
    hub.behave(|manner| manner.acknowledges = false);
    let sent = hub.samples().len();
    let batch = wait_for("a batch under way", || (hub.samples().len() > sent).then(Instant::now));
    // Nothing comes back any more, as if it all stood behind the batch in the line.
    hub.behave(|manner| manner.frozen = true);
    wait_for("the notice", || device.log().contains("the hub has fallen silent").then_some(()));
    assert!(batch.elapsed() >= Duration::from_secs(25), "a batch has 30 s, not {:?}", batch.elapsed());
}

#[test]
fn the_hub_says_when_to_come_back() {
    let hub = StubHub::start();
    hub.behave(|manner| manner.refuses = Some(("the hub is full", 3)));
    let mut device = Device::new("");
    assert!(device.musterd(&["enrol", &hub.url(), &hub.token()]).status.success());
    device.start();
    let connects = wait_for("a second try", || Some(hub.connects()).filter(|connects| connects.len() >= 2));
    let pause = connects[1].0 - connects[0].0;
    assert!(pause >= Duration::from_secs(3), "{pause:?}");
    assert!(device.log().contains("does not let this device in: the hub is full"), "{}", device.log());
    hub.behave(|manner| manner.refuses = None);
    wait_for("the birth", || hub.births().pop());
}

#[test]
fn a_watch_brings_samples_each_second_and_local_programs_add_theirs() {
    use std::io::Write;
    let hub = StubHub::start();
    // Slow by its own configuration; the watch is what makes it fast.
    let mut device = Device::new("");
    let path = device.path("config.toml");
    let slow = std::fs::read_to_string(&path).unwrap();
    let slow = slow.replace("sample_every_s = 1", "sample_every_s = 3600").replace("publish_every_s = 1", "publish_every_s = 3600");
    std::fs::write(&path, slow).unwrap();
    assert!(device.musterd(&["enrol", &hub.url(), &hub.token()]).status.success());
    device.start();
    wait_for("the first sample", || hub.samples().pop());
    let mut socket = std::os::unix::net::UnixStream::connect(device.path("run/metrics.sock")).unwrap();
    socket.write_all(b"mission 42 steps\n").unwrap();
    hub.send("config", &json!({"watch_until": now() + 30_000, "now": now()}));
    wait_for("watched samples", || (hub.samples().len() >= 4).then_some(()));
    let last = wait_for("the own metric", || {
        let batch = hub.published("usage").pop()?.json();
        batch["c"]["mission"].is_number().then_some(batch)
    });
    assert_eq!(last["c"]["mission"], 42);
}

#[test]
fn nonsense_from_the_hub_is_ignored_and_the_link_lives() {
    let hub = StubHub::start();
    let device = Device::online(&hub, "");
    for lane in ["session", "config", "admission", "nowhere", "run/raaaaaaaaaaaaaaa"] {
        for payload in
            [json!("text"), json!({}), json!({"do": "from-the-future"}), json!([1, 2]), json!({"do": "open", "session": "../../etc"})]
        {
            hub.send(lane, &payload);
        }
    }
    hub.send("config", &json!({"sample_every_s": 0, "usage_every_s": 4_294_967_295u32, "watch_until": -1, "now": now()}));
    let beats = hub.published("heartbeat").len();
    wait_for("more heartbeats", || (hub.published("heartbeat").len() > beats + 1).then_some(()));
    assert_eq!(hub.births().len(), 1, "the link never broke");
    assert!(lives(u64::from(device.pid())));
}

#[test]
fn mqtt_at_another_host_than_the_enrolled_hubs_is_dialled_only_where_the_owner_names_it() {
    let hub = StubHub::start();
    hub.behave(|manner| manner.mqtt_host = Some("localhost"));
    let mut device = Device::new("");
    assert!(device.musterd(&["enrol", &hub.url(), &hub.token()]).status.success());
    device.start();
    let sentence = "sends this device to MQTT at localhost, which its owner has not allowed";
    wait_for("the sentence", || device.log().contains(sentence).then_some(()));
    let why = device.status()["link"].to_string();
    assert!(why.contains(sentence), "{why}");
    assert!(hub.connects().is_empty());
    device.kill();
    let path = device.path("config.toml");
    let text = std::fs::read_to_string(&path).unwrap() + "[mqtt]\nhosts = [\"localhost\"]\n";
    std::fs::write(path, text).unwrap();
    device.start();
    wait_for("the birth", || hub.births().pop());
}
