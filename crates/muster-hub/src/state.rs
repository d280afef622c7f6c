//! What every request and every task of the hub shares.
//!
//! Made once by `serve`, from parts that neither bind nor dial; handed down, never global.

use std::sync::Arc;

use muster_proto::api::MqttEndpoint;
use muster_proto::id::DeviceUid;
use tokio::sync::broadcast;

use crate::accounts::LoginLimit;
use crate::api::Tails;
use crate::ca::{Ca, OrderKey};
use crate::config::{Config, Origin};
use crate::ingest::Ingest;
use crate::lapse::Lapses;
use crate::mail::Mailer;
use crate::metrics::Metrics;
use crate::mqtt::{self, Lanes};
use crate::registry::Registry;
use crate::relay::Relay;
use crate::runs::Runs;
use crate::sso::Provider;
use crate::standings::Standings;
use crate::store::Store;

/// The shared state, as axum's handlers get it.
pub type AppState = Arc<App>;

/// The shared parts.
#[derive(Debug)]
pub struct App {
    /// The configuration.
    pub config: Config,
    /// The database.
    pub store: Store,
    /// What people have in organizations.
    pub standings: Standings,
    /// The device list, as filters and orders look at it.
    pub registry: Registry,
    /// The certificate authority.
    pub ca: Ca,
    /// Signs what is started on devices.
    pub orders: OrderKey,
    /// How the hub is reached.
    pub endpoints: Endpoints,
    /// Counters.
    pub metrics: Metrics,
    /// The bound on guessing passwords.
    pub logins: LoginLimit,
    /// What devices say, and what is known of them now.
    pub ingest: Ingest,
    /// The hub's way to speak to devices.
    pub lanes: Lanes,
    /// The embedded MQTT endpoint, for `/mqtt`; none with an external broker.
    pub mqtt: Option<mqtt::Endpoint>,
    /// Single sign-on, where there is some.
    pub sso: Option<Provider>,
    /// What mails invitations.
    pub mailer: Mailer,
    /// Remote sessions.
    pub relay: Relay,
    /// Runs.
    pub runs: Runs,
    /// Ends what somebody does by a right that is gone.
    pub lapses: Lapses,
    /// The bound on those who follow records.
    pub tails: Tails,
    /// Decisions on devices, for those who wait for one.
    pub admissions: Admissions,
}

/// How the hub is reached, with the ports that were bound.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// `https://host:port`.
    pub https: String,
    /// `wss://host:port`.
    pub wss: String,
    /// Where devices speak MQTT.
    pub mqtt: MqttEndpoint,
}

impl Endpoints {
    /// From the configured URLs and the ports that were bound.
    pub fn new(config: &Config, https_port: u16, mqtt_port: u16) -> Self {
        let https: Origin = config.public_url.bound(https_port);
        let wss = https.with_scheme("wss").to_string();
        let mqtt = config.mqtt.public_url.bound(mqtt_port).to_string();
        // An external broker has its own ports; the hub's /mqtt belongs to the embedded endpoint.
        let websocket = config.mqtt.broker.is_none().then(|| format!("{wss}/mqtt"));
        Self { https: https.to_string(), wss, mqtt: MqttEndpoint { url: mqtt, websocket } }
    }
}

/// Decisions on devices, told to whoever waits for one.
#[derive(Debug, Clone)]
pub struct Admissions(broadcast::Sender<DeviceUid>);

impl Default for Admissions {
    fn default() -> Self {
        // A waiter that falls behind by so many looks into the store instead: nothing is lost.
        Self(broadcast::channel(256).0)
    }
}

impl Admissions {
    /// Tells that something was decided on a device.
    pub fn decided(&self, uid: &DeviceUid) {
        // Nobody may be waiting.
        let _ = self.0.send(uid.clone());
    }

    /// Begins to listen. Listen first, then look into the store: then no decision is missed.
    pub fn listen(&self) -> Waiter {
        Waiter(self.0.subscribe())
    }
}

/// Waits for a decision.
#[derive(Debug)]
pub struct Waiter(broadcast::Receiver<DeviceUid>);

impl Waiter {
    /// Returns when something was decided on this device, or may have been.
    pub async fn decided(&mut self, uid: &DeviceUid) {
        loop {
            match self.0.recv().await {
                Ok(decided) if decided != *uid => {}
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                // The hub goes down; its requests end with it.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}
