//! MQTT topics: `muster/v1/{uid}/up/...` from the device, `muster/v1/{uid}/down/...` to it.
//!
//! No organization stands in a topic: the hub knows whose the uid is, and a device cannot lie about it.

use std::fmt;
use std::str::FromStr;

use crate::id::{DeviceUid, RunId};

/// First levels of every topic.
pub const ROOT: &str = "muster/v1";
/// The filter with which a hub subscribes to all devices of an external broker.
pub const HUB_FILTER: &str = "muster/v1/+/up/#";
/// The name of the hubs' shared subscription group on an external broker (MQTT 5, 4.8.2).
pub const HUB_SHARE: &str = "muster-hub";

/// What a device publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Up {
    /// `up/presence`: birth, death and will; retained, QoS 1.
    Presence,
    /// `up/heartbeat`: QoS 0.
    Heartbeat,
    /// `up/usage`: a batch of samples; QoS 1.
    Usage,
    /// `up/event`: QoS 1.
    Event,
    /// `up/run/{run}`: QoS 1.
    Run(RunId),
    /// `up/policy`: QoS 1.
    Policy,
}

/// What a device receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Down {
    /// `down/session`: open or end a session; QoS 1.
    Session,
    /// `down/run/{run}`: QoS 1.
    Run(RunId),
    /// `down/config`: the organization's wishes; retained, QoS 1.
    Config,
    /// `down/admission`: renew, revoked, renamed; QoS 1.
    Admission,
}

/// A parsed topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// From a device.
    Up(DeviceUid, Up),
    /// To a device.
    Down(DeviceUid, Down),
}

/// Why a text is not one of Muster's topics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("topic {0:?} is not one of muster/v1/{{uid}}/up/... or muster/v1/{{uid}}/down/...")]
pub struct UnknownTopic(pub String);

/// The filter with which a device subscribes to all that is meant for it.
pub fn down_filter(uid: &DeviceUid) -> String {
    format!("{ROOT}/{uid}/down/#")
}

/// Whether a device may publish to this topic (also as a will, also retained): only below its own `up/`.
pub fn may_publish(uid: &DeviceUid, topic: &str) -> bool {
    matches!(topic.parse(), Ok(Topic::Up(whose, _)) if whose == *uid)
}

/// Whether a device may subscribe with this filter: only below its own `down/`.
/// A shared subscription (`$share/...`) is never allowed.
pub fn may_subscribe(uid: &DeviceUid, filter: &str) -> bool {
    filter
        .strip_prefix(ROOT)
        .and_then(|rest| rest.strip_prefix('/'))
        .and_then(|rest| rest.strip_prefix(uid.as_str()))
        .is_some_and(|rest| rest.starts_with("/down/"))
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up(uid, up) => {
                write!(f, "{ROOT}/{uid}/up/")?;
                match up {
                    Up::Presence => f.write_str("presence"),
                    Up::Heartbeat => f.write_str("heartbeat"),
                    Up::Usage => f.write_str("usage"),
                    Up::Event => f.write_str("event"),
                    Up::Run(run) => write!(f, "run/{run}"),
                    Up::Policy => f.write_str("policy"),
                }
            }
            Self::Down(uid, down) => {
                write!(f, "{ROOT}/{uid}/down/")?;
                match down {
                    Down::Session => f.write_str("session"),
                    Down::Run(run) => write!(f, "run/{run}"),
                    Down::Config => f.write_str("config"),
                    Down::Admission => f.write_str("admission"),
                }
            }
        }
    }
}

impl FromStr for Topic {
    type Err = UnknownTopic;

    fn from_str(text: &str) -> Result<Self, UnknownTopic> {
        let unknown = || UnknownTopic(text.chars().take(120).collect());
        let mut levels = text.strip_prefix(ROOT).and_then(|rest| rest.strip_prefix('/')).ok_or_else(unknown)?.split('/');
        let uid: DeviceUid = levels.next().and_then(|uid| uid.parse().ok()).ok_or_else(unknown)?;
        let (lane, kind, run, end) = (levels.next(), levels.next(), levels.next(), levels.next());
        if end.is_some() {
            return Err(unknown());
        }
        let run = match run {
            Some(run) => Some(run.parse::<RunId>().map_err(|_| unknown())?),
            None => None,
        };
        Ok(match (lane, kind, run) {
            (Some("up"), Some("presence"), None) => Self::Up(uid, Up::Presence),
            (Some("up"), Some("heartbeat"), None) => Self::Up(uid, Up::Heartbeat),
            (Some("up"), Some("usage"), None) => Self::Up(uid, Up::Usage),
            (Some("up"), Some("event"), None) => Self::Up(uid, Up::Event),
            (Some("up"), Some("run"), Some(run)) => Self::Up(uid, Up::Run(run)),
            (Some("up"), Some("policy"), None) => Self::Up(uid, Up::Policy),
            (Some("down"), Some("session"), None) => Self::Down(uid, Down::Session),
            (Some("down"), Some("run"), Some(run)) => Self::Down(uid, Down::Run(run)),
            (Some("down"), Some("config"), None) => Self::Down(uid, Down::Config),
            (Some("down"), Some("admission"), None) => Self::Down(uid, Down::Admission),
            _ => return Err(unknown()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "daaaaaaaaaaaaaaa";
    const B: &str = "dbbbbbbbbbbbbbbb";

    #[test]
    fn round_trip() {
        let uid: DeviceUid = A.parse().unwrap();
        let run: RunId = "raaaaaaaaaaaaaaa".parse().unwrap();
        let all = [
            (Topic::Up(uid.clone(), Up::Presence), "up/presence"),
            (Topic::Up(uid.clone(), Up::Heartbeat), "up/heartbeat"),
            (Topic::Up(uid.clone(), Up::Usage), "up/usage"),
            (Topic::Up(uid.clone(), Up::Event), "up/event"),
            (Topic::Up(uid.clone(), Up::Run(run.clone())), "up/run/raaaaaaaaaaaaaaa"),
            (Topic::Up(uid.clone(), Up::Policy), "up/policy"),
            (Topic::Down(uid.clone(), Down::Session), "down/session"),
            (Topic::Down(uid.clone(), Down::Run(run)), "down/run/raaaaaaaaaaaaaaa"),
            (Topic::Down(uid.clone(), Down::Config), "down/config"),
            (Topic::Down(uid, Down::Admission), "down/admission"),
        ];
        for (topic, tail) in all {
            assert_eq!(topic.to_string(), format!("muster/v1/{A}/{tail}"));
            assert_eq!(topic.to_string().parse(), Ok(topic));
        }
    }

    #[test]
    fn fence() {
        let a: DeviceUid = A.parse().unwrap();
        assert!(may_publish(&a, &format!("muster/v1/{A}/up/usage")));
        for bad in [
            format!("muster/v1/{B}/up/usage"),
            format!("muster/v1/{A}/down/session"),
            format!("muster/v1/{A}/up/usage/x"),
            format!("muster/v1/{A}/up/"),
            "$SYS/x".into(),
            format!("/muster/v1/{A}/up/usage"),
            format!("muster/v1/{A}/up/+"),
        ] {
            assert!(!may_publish(&a, &bad), "{bad}");
        }
        assert!(may_subscribe(&a, &down_filter(&a)));
        assert!(may_subscribe(&a, &format!("muster/v1/{A}/down/+")));
        for bad in [
            "#",
            "+/+/+/down/#",
            &format!("muster/v1/{B}/down/#"),
            "muster/v1/+/down/#",
            &format!("muster/v1/{A}/up/#"),
            &format!("muster/v1/{A}/#"),
            &format!("$share/x/muster/v1/{A}/down/#"),
            &format!("muster/v1/{A}x/down/#"),
            HUB_FILTER,
        ] {
            assert!(!may_subscribe(&a, bad), "{bad}");
        }
    }
}
