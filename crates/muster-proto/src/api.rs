//! Bodies of the hub's HTTP API under `/v1`, for the hub, the daemon and the command line.
//!
//! Field names are stable: scripts read them. A new field may appear at any time; readers ignore what they do not know.
//! Lists are `{"items": [...], "next": "cursor"}`; `next` is absent on the last page.

mod audit;
mod billing;
mod devices;
mod enrolment;
mod invitations;
mod list;
mod logins;
mod orgs;
mod people;
mod projects;
mod runs;
mod sessions;
mod teams;

use serde::{Deserialize, Serialize};

use crate::Millis;

pub use audit::*;
pub use billing::*;
pub use devices::*;
pub use enrolment::*;
pub use invitations::*;
pub use list::*;
pub use logins::*;
pub use orgs::*;
pub use people::*;
pub use projects::*;
pub use runs::*;
pub use sessions::*;
pub use teams::*;

/// Reads a field of a change in which absent, null and a value are three things.
fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(reader: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(reader).map(Some)
}

/// One page of a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Give this as `?cursor=` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// `GET /v1/hub`: what anybody may know of a hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HubInfo {
    /// "muster-hub".
    pub service: String,
    /// Version of the hub.
    pub version: String,
    /// The hub's clock.
    pub now: Millis,
    /// SHA-256 of the CA's public key, as in tokens.
    pub pin: String,
    /// Where devices speak MQTT.
    pub mqtt: MqttEndpoint,
}

/// Where and how a device reaches MQTT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MqttEndpoint {
    /// `mqtts://host:port`, MQTT over TLS.
    pub url: String,
    /// `wss://host:port/mqtt`, MQTT as WebSocket (MQTT 5, 6), where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub websocket: Option<String>,
}
