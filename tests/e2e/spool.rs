//! Samples: none lost and none twice while the hub is away, each with the time at which it was taken.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::device::Device;
use crate::lab::{Lab, SOON};
use crate::wait::eventually;

type Key = (String, u64);

fn key(sample: &Value) -> Key {
    (sample["boot"].as_str().expect("boot").to_owned(), sample["seq"].as_u64().expect("seq"))
}

/// Compares what the hub stored with what the daemon wrote down itself, up to the sample `last`.
#[track_caller]
pub fn compare(lab: &Lab, device: &Device<'_>) {
    let own: Vec<Value> = device.own_samples();
    let last = key(own.last().expect("samples were taken"));
    let stored = eventually(&format!("sample {last:?} is stored"), SOON, || {
        let stored = lab.samples(&device.id);
        stored.iter().any(|sample| key(sample) == last).then_some(stored)
    });
    let mut at_hub: BTreeMap<Key, &Value> = BTreeMap::new();
    for sample in &stored {
        assert!(at_hub.insert(key(sample), sample).is_none(), "stored twice: {:?}", key(sample));
    }
    assert!(own.len() > 5, "only {} samples compared", own.len());
    for sample in &own {
        let there = at_hub.get(&key(sample)).unwrap_or_else(|| panic!("{:?} was taken and is not stored", key(sample)));
        assert_eq!(there["t"], sample["t"], "the time at which {:?} was taken", key(sample));
        for name in ["mem", "mem_total"] {
            assert_eq!(there["values"][name].as_f64(), sample["values"][name].as_f64(), "{name} of {:?}", key(sample));
        }
    }
}

#[test]
fn samples_taken_while_the_hub_is_away_arrive_once_with_their_own_times() {
    let lab = Lab::new();
    let mut device = Device::online(&lab, "robot-1");
    device.has_taken(3, SOON);

    // Stopped in good order, for some ten samples.
    lab.stop_hub();
    device.has_taken(device.own_samples().len() + 10, SOON);
    lab.start_hub();
    lab.online("robot-1");
    compare(&lab, &device);

    // Killed, and the daemon killed too while the hub is away: what is on its disk is enough.
    lab.hub().kill();
    device.has_taken(device.own_samples().len() + 5, SOON);
    device.daemon().kill();
    device.start();
    device.has_taken(device.own_samples().len() + 3, SOON);
    lab.start_hub();
    lab.online("robot-1");
    compare(&lab, &device);
}

#[test]
fn a_network_that_fails_again_and_again_loses_and_doubles_nothing() {
    let lab = Lab::with_wires();
    let device = Device::online(&lab, "robot-1");
    let (_, mqtt) = lab.wires.as_ref().expect("wires");
    for round in 0..3 {
        // Cut in the middle of whatever is under way: an acknowledgement that is lost makes the daemon send again.
        mqtt.cut();
        device.has_taken(device.own_samples().len() + 2, SOON);
        mqtt.mend();
        lab.online("robot-1");
        // And without a word.
        mqtt.hold();
        device.has_taken(device.own_samples().len() + 2, SOON);
        mqtt.mend();
        device.has_taken(device.own_samples().len() + 1 + round, Duration::from_secs(30));
    }
    lab.online("robot-1");
    compare(&lab, &device);
}
