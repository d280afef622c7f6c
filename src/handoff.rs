//! What the daemon and the privileged part of a session say to each other over a Unix socket, one JSON object a line.
//!
//! The daemon hands over what the hub ordered and what the session needs to prove the device; the privileged part believes the hub's
//! signature and the owner's files, and of the rest nothing but that it may fail.
//! The two may be of different versions after an update: unknown fields are ignored.

use muster_proto::Millis;
use muster_proto::mqtt::DeviceEventKind;
use muster_proto::order::SignedOrder;
use serde::{Deserialize, Serialize};

/// Longest line, in bytes: a signed order, and certificates.
pub const LINE_MAX: usize = 256 * 1024;
/// Where the privileged part listens below its runtime directory.
pub const START_SOCKET: &str = "start.sock";
/// Where each living session and run has a socket of its own, below the runtime directory.
pub const LIVE: &str = "live";
/// Where one that ended leaves what no daemon was there to hear. The daemon takes it away, so it may write here, and only here:
/// whoever could remove a socket of [`LIVE`] would hide a session from its owner.
pub const LAST_WORDS: &str = "last";
/// Where those who wait for a person at the device listen: beside the runtime directory, because everybody may come there.
pub fn consent_dir(run: &std::path::Path) -> std::path::PathBuf {
    let mut name = run.as_os_str().to_owned();
    name.push("-ask");
    name.into()
}

/// The code of the refusal of an order that was handed over before: the session or run may live.
pub const ORDER_USED: &str = "order_used";
/// The runtime directory of the privileged part.
pub const RUN_DIR: &str = "/run/musterd-session";
/// Where it keeps what must survive a reboot.
pub const STATE_DIR: &str = "/var/lib/musterd-session";
/// The anchor: which hub is obeyed, and who this device is for it. Written by `musterd enrol`, owned by root.
pub const ANCHOR: &str = "/etc/musterd/hub.json";

/// The first line of the daemon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Handoff {
    /// What the hub ordered.
    pub order: SignedOrder,
    /// The hub's authority in PEM; believed only if it has the pin in the anchor.
    pub ca: String,
    /// The certificate made for this session and the device's own, in PEM.
    pub certificate: String,
    /// The key made for this session, in PEM.
    pub key: String,
    /// HTTP proxy, as in the configuration.
    #[serde(default)]
    pub proxy: Option<String>,
    /// The last time that the hub told, for the dates of the hub's certificates and for nothing else.
    #[serde(default)]
    pub floor: Millis,
    /// The daemon's log level.
    #[serde(default)]
    pub log_level: String,
    /// Of a run: when its order came.
    #[serde(default)]
    pub arrival: Option<Arrival>,
}

/// When an order came, by clocks that nobody sets: the hub's as the order tells it, and the time since the machine's start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// The hub's clock.
    pub hub: Millis,
    /// Milliseconds since the machine's start.
    pub steady: Millis,
    /// For how many milliseconds the order was good then.
    pub left: Millis,
    /// Which start of the machine.
    pub boot: String,
}

impl Arrival {
    /// The hub's clock at this moment of the steady one; `None` after another start of the machine.
    pub fn hub_at(&self, steady: Millis, boot: &str) -> Option<Millis> {
        (self.boot == boot && steady >= self.steady).then(|| self.hub.saturating_add(steady - self.steady))
    }

    /// Whether the order is void at this moment.
    pub fn is_void(&self, steady: Millis, boot: &str) -> bool {
        self.boot != boot || steady.saturating_sub(self.steady) >= self.left
    }
}

/// What the privileged part says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum Say {
    /// It does not begin.
    Refused {
        /// Machine-readable reason.
        code: String,
        /// The sentence for the user.
        message: String,
    },
    /// It has begun.
    Opened(Live),
    /// The hub should know this.
    Event {
        /// When, by the system's clock.
        t: Millis,
        /// What.
        event: DeviceEventKind,
    },
    /// A run has written reports.
    More,
    /// It is over.
    Closed(Report),
    /// Whatever a later version says.
    #[serde(other)]
    Unknown,
}

/// What the daemon, or root at the device, tells a living session or run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Do {
    /// From now on tell me; answered with [`Say::Opened`].
    Attach,
    /// Who are you? Answered with [`Say::Opened`].
    Status,
    /// End now.
    End {
        /// The sentence for the user and the journal.
        reason: String,
    },
    /// Whatever a later version tells.
    #[serde(other)]
    Unknown,
}

/// A living session or run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The session's or the run's id.
    pub name: String,
    /// The process of its privileged part.
    pub pid: u32,
    /// Who, as the hub says.
    pub user: String,
    /// With which role, as the hub says.
    pub role: String,
    /// In the name of which project.
    pub project: String,
    /// As whom they are here, where that is known already.
    #[serde(default)]
    pub become_user: Option<String>,
    /// Since when, by the system's clock.
    pub since: Millis,
    /// It is over; processes that the visitor left behind linger, as the policy says.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lingers: bool,
    /// It waits for `musterd approve` with this code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits: Option<String>,
}

/// How a session ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Why.
    pub reason: String,
    /// Bytes to the device.
    #[serde(default)]
    pub received: u64,
    /// Bytes from the device.
    #[serde(default)]
    pub sent: u64,
}

/// A line of the conversation, with its end.
///
/// # Panics
/// Never: these types have text keys and no fallible serializer.
pub fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).expect("these types have text keys and no fallible serializer");
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_frozen_and_later_ones_ignored() {
        let say = |value: &Say| String::from_utf8(line(value)).unwrap();
        assert_eq!(say(&Say::More), "{\"say\":\"more\"}\n");
        let report = Report { reason: "done".into(), received: 1, sent: 2 };
        assert_eq!(say(&Say::Closed(report)), "{\"say\":\"closed\",\"reason\":\"done\",\"received\":1,\"sent\":2}\n");
        assert_eq!(serde_json::from_str::<Say>("{\"say\":\"later\",\"x\":1}").unwrap(), Say::Unknown);
        assert_eq!(serde_json::from_str::<Do>("{\"do\":\"later\",\"x\":1}").unwrap(), Do::Unknown);
        assert_eq!(String::from_utf8(line(&Do::End { reason: "x".into() })).unwrap(), "{\"do\":\"end\",\"reason\":\"x\"}\n");
    }

    #[test]
    fn an_order_is_void_after_its_time_and_after_another_start() {
        let arrival = Arrival { hub: 1_000_000, steady: 500, left: 100, boot: "b".into() };
        assert_eq!((arrival.hub_at(700, "b"), arrival.hub_at(700, "c"), arrival.hub_at(499, "b")), (Some(1_000_200), None, None));
        assert_eq!([500, 599, 600].map(|steady| arrival.is_void(steady, "b")), [false, false, true]);
        assert!(arrival.is_void(500, "c"));
    }
}
