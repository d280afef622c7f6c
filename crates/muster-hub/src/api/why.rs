//! One sentence per device: why it is pending, refused or offline, and what to do. Pure.

use muster_proto::Millis;
use muster_proto::api::{Admission, PresenceState};

use crate::clock::{DAY, SECOND};
use crate::ingest::LiveDevice;
use crate::state::Endpoints;
use crate::store::devices::DeviceRow;

/// The sentence; "online" where all is well.
pub fn why(device: &DeviceRow, live: &LiveDevice, endpoints: &Endpoints, now: Millis) -> String {
    let name = quoted(&device.name);
    let by = device.decided_by.as_deref().unwrap_or("an owner");
    let because = device.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    match device.admission {
        Admission::Pending => {
            let code = device.pairing_code.as_deref().unwrap_or("none");
            format!("Waiting for approval. If the device shows {code}, run: muster device admit {code}")
        }
        Admission::Rejected => format!("rejected by {by}{because}; muster device admit {name} takes it back"),
        Admission::Revoked => format!("revoked by {by}{because}; muster device admit {name} takes it back"),
        Admission::Admitted => match &device.replacement {
            Some(code) => format!(
                "another key asks for its place with the pairing code {code}: muster device replace {code}, or muster device reject {name}; {}",
                presence(device, live, endpoints, now)
            ),
            None => presence(device, live, endpoints, now),
        },
    }
}

fn presence(device: &DeviceRow, live: &LiveDevice, endpoints: &Endpoints, now: Millis) -> String {
    if device.by_hand {
        return "entered by hand, without a daemon; to bring it online, enrol it with this id: musterd enrol URL TOKEN".to_owned();
    }
    match live.presence {
        PresenceState::Online => return online(device, live),
        PresenceState::Offline | PresenceState::Never => {}
    }
    if device.certificate_expires_at.is_some_and(|end| end <= now) {
        return "its certificate has ended; enrol it again with a new token: musterd enrol URL TOKEN".to_owned();
    }
    if live.presence == PresenceState::Never {
        let mqtt = &endpoints.mqtt.url;
        return format!("admitted, but never online: on the device see whether musterd runs and reaches {mqtt} (musterd doctor)");
    }
    let since = live.since.map(|since| format!("offline for {}", ago(now - since))).unwrap_or_else(|| "offline".to_owned());
    match live.offline_reason.as_deref() {
        Some("will") => format!("{since}: its connection broke; check its power and network"),
        Some("heartbeats missed") => format!("{since}: it stopped responding; check its network"),
        Some("farewell: updating") => format!("{since}: it is being updated and should be back soon"),
        Some(reason) if reason.starts_with("farewell") => {
            format!("{since}: musterd was stopped there; start it with systemctl start musterd")
        }
        Some("revoked") => format!("{since}: it was revoked and has not come back since it was admitted again"),
        Some(reason) => format!("{since}: {reason}"),
        None => since,
    }
}

fn online(device: &DeviceRow, live: &LiveDevice) -> String {
    let mut said = "online".to_owned();
    match &live.refuses {
        Some(why) => said.push_str(&format!(", but refuses every session: {}", why.trim_end_matches('.'))),
        None if live.own_user => {
            said.push_str("; sessions run as the daemon's own user there, so nothing stands between a visitor and the device's key");
        }
        None => {}
    }
    if live.held {
        said.push_str(&format!("; its samples are held on the device because the storage of {} is full: muster limit", device.org));
    }
    said
}

/// A name as a shell takes it.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.chars().all(plain) { name.to_owned() } else { format!("'{}'", name.replace('\'', "'\\''")) }
}

fn ago(elapsed: Millis) -> String {
    let seconds = (elapsed / SECOND).max(0);
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / (DAY / SECOND)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::api::MqttEndpoint;

    fn device() -> DeviceRow {
        DeviceRow {
            uid: "daaaaaaaaaaaaaaa".parse().unwrap(),
            org: "acme".parse().unwrap(),
            serial: "17".parse().unwrap(),
            name: "robot 17".into(),
            admission: Admission::Admitted,
            reason: None,
            facts: Default::default(),
            agent: None,
            created_at: 0,
            decided_at: None,
            decided_by: Some("ada@acme.example".into()),
            admitted_at: Some(0),
            certificate_expires_at: Some(90 * DAY),
            projects: Default::default(),
            pairing_code: None,
            replacement: None,
            by_hand: false,
            labels: Vec::new(),
            values: Vec::new(),
        }
    }

    fn say(device: &DeviceRow, live: &LiveDevice, now: Millis) -> String {
        let mqtt = MqttEndpoint { url: "mqtts://hub:8883".into(), websocket: None };
        why(device, live, &Endpoints { https: String::new(), wss: String::new(), mqtt }, now)
    }

    #[test]
    fn every_state_has_its_sentence_with_what_to_do() {
        let live = |presence, reason: Option<&str>| LiveDevice {
            presence,
            since: Some(0),
            offline_reason: reason.map(str::to_owned),
            ..LiveDevice::default()
        };
        let admitted = device();
        let pending = DeviceRow { admission: Admission::Pending, pairing_code: Some("ABCD-2345".into()), ..device() };
        let rejected = DeviceRow { admission: Admission::Rejected, reason: Some("not ours".into()), ..device() };
        let revoked = DeviceRow { admission: Admission::Revoked, ..device() };
        let replaced = DeviceRow { replacement: Some("WXYZ-2222".into()), ..device() };
        let never = LiveDevice::default();
        let cases = [
            (&admitted, live(PresenceState::Online, None), 0, "online"),
            (&admitted, LiveDevice { held: true, ..live(PresenceState::Online, None) }, 0, "because the storage of acme is full"),
            (
                &admitted,
                LiveDevice { refuses: Some("no policy file".into()), own_user: true, ..live(PresenceState::Online, None) },
                0,
                "online, but refuses every session: no policy file",
            ),
            (&admitted, LiveDevice { own_user: true, ..live(PresenceState::Online, None) }, 0, "as the daemon's own user there"),
            (&admitted, never.clone(), 0, "reaches mqtts://hub:8883"),
            (&admitted, live(PresenceState::Offline, Some("will")), 90_000, "offline for 90 s: its connection broke"),
            (&admitted, live(PresenceState::Offline, Some("heartbeats missed")), 600_000, "offline for 10 min: it stopped responding"),
            (&admitted, live(PresenceState::Offline, Some("farewell: stopped")), 3 * DAY, "offline for 3 days: musterd was stopped"),
            (&admitted, live(PresenceState::Offline, Some("will")), 91 * DAY, "certificate has ended"),
            (&pending, never.clone(), 0, "muster device admit ABCD-2345"),
            (&rejected, never.clone(), 0, "rejected by ada@acme.example: not ours; muster device admit 'robot 17'"),
            (&revoked, never.clone(), 0, "revoked by ada@acme.example; muster device admit"),
            (&replaced, live(PresenceState::Online, None), 0, "muster device replace WXYZ-2222"),
        ];
        for (device, live, now, part) in &cases {
            let sentence = say(device, live, *now);
            assert!(sentence.contains(part), "{part:?} is not in {sentence:?}");
        }
    }

    #[test]
    fn names_are_quoted_for_a_shell() {
        assert_eq!(quoted("robot-17"), "robot-17");
        assert_eq!(quoted("Ada's"), "'Ada'\\''s'");
    }
}
