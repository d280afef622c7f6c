//! An external MQTT broker instead of the embedded endpoint: the same lanes, over Mosquitto.
//!
//! The broker holds the fence (see `mosquitto`), the hub takes `up/` from a shared subscription and acknowledges after the commit.
//! Devices are made known to the broker when they are admitted and removed when they are cut off; at every connection the hub
//! brings the broker's list in line with its own, so that nothing that was missed stays missed.

mod bridge;
mod control;
pub mod mosquitto;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use muster_proto::id::DeviceUid;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use rumqttc::v5::{AsyncClient, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;

pub use bridge::Bridge;

use crate::ca::Ca;
use crate::clock;
use crate::config;
use crate::ingest::Ingest;
use crate::mqtt::{PACKET_MAX, SendError, SendOptions};
use crate::store::Store;
use control::Control;

/// The hub's name at the broker, where the configuration gives none. Each hub of several needs its own.
pub const HUB_NAME: &str = "muster-hub";
/// Requests that wait for the line to the broker. When full, the caller is told.
const REQUESTS: usize = 1024;
/// QoS 1 messages that the broker may have in flight to this hub: enough for commits in groups.
pub(crate) const INFLIGHT: u16 = 256;
/// How long the broker keeps what devices say while this hub is away.
const SESSION_EXPIRY_S: u32 = 24 * 3600;
/// Keep alive of the hub's own link.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Why the line to the broker cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// A file of the configuration.
    #[error("cannot use {what} {path}: {why}")]
    File {
        /// What it is.
        what: &'static str,
        /// Which.
        path: String,
        /// Why not.
        why: String,
    },
    /// TLS.
    #[error("cannot set up TLS to the broker: {0}")]
    Tls(#[from] rustls::Error),
    /// The hub's own authority could not sign.
    #[error(transparent)]
    Ca(#[from] crate::ca::CaError),
}

/// The hub's means at the broker. Clones share them.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    client: AsyncClient,
    up: AtomicBool,
    control: Control,
}

impl std::fmt::Debug for Broker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Broker")
    }
}

/// Prepares the line to the broker; [`Bridge::run`] dials it and keeps it.
///
/// # Errors
/// When certificates cannot be read or made.
pub fn connect(settings: &config::Broker, ca: &Ca, store: Store, ingest: Ingest) -> Result<(Broker, Bridge), BrokerError> {
    let name = settings.username.as_deref().unwrap_or(HUB_NAME);
    let mut options = MqttOptions::new(name, settings.url.host.as_str(), settings.url.port);
    options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(tls(settings, ca, name)?))));
    options.set_keep_alive(KEEP_ALIVE).set_clean_start(false).set_manual_acks(true);
    options.set_session_expiry_interval(Some(SESSION_EXPIRY_S));
    options.set_receive_maximum(Some(INFLIGHT));
    options.set_max_packet_size(Some(PACKET_MAX));
    if let Some(password) = &settings.password {
        options.set_credentials(name, password.expose());
    }
    let (client, events) = AsyncClient::new(options, REQUESTS);
    let inner = Inner { control: Control::new(client.clone()), client, up: AtomicBool::new(false) };
    let broker = Broker(Arc::new(inner));
    let bridge = Bridge::new(broker.clone(), events, store, ingest, settings.url.to_string());
    Ok((broker, bridge))
}

impl Broker {
    /// Publishes to a device. Accepted means on its way: the broker keeps it for a device that has a session there.
    pub(crate) async fn publish(&self, topic: String, payload: Vec<u8>, options: SendOptions) -> Result<(), SendError> {
        self.need_up()?;
        // A wish stays until another takes its place; anything else is void after a while.
        let expiry = (!options.retain).then(|| u32::try_from(options.expiry.as_secs()).unwrap_or(u32::MAX));
        let properties = PublishProperties { message_expiry_interval: expiry, ..PublishProperties::default() };
        self.0
            .client
            .publish_with_properties(topic, QoS::AtLeastOnce, options.retain, payload, properties)
            .await
            .map_err(|error| SendError::Broker(error.to_string()))
    }

    /// Whether the hub's line to the broker is up.
    pub fn is_up(&self) -> bool {
        self.0.up.load(Ordering::Acquire)
    }

    /// Opens a device's lane.
    pub(crate) async fn admit(&self, uid: &DeviceUid) -> Result<(), SendError> {
        self.need_up()?;
        self.0.control.run(admit_commands(uid)).await
    }

    /// Ends a device's link and closes its lane.
    pub(crate) async fn cut(&self, uid: &DeviceUid) -> Result<(), SendError> {
        self.need_up()?;
        self.0.control.run(cut_commands(uid)).await
    }

    /// What cannot be done now is made up for at the next connection, see `bridge::align`.
    fn need_up(&self) -> Result<(), SendError> {
        if self.is_up() { Ok(()) } else { Err(SendError::Broker("the hub is not connected to it now".into())) }
    }
}

/// A role of its own for each device: Mosquitto 2.0's plug-in puts no name into a pattern.
fn admit_commands(uid: &DeviceUid) -> Vec<serde_json::Value> {
    let acls = mosquitto::device_acls(uid);
    vec![
        json!({ "command": "createRole", "rolename": uid, "acls": acls }),
        json!({ "command": "createClient", "username": uid, "roles": [{ "rolename": uid }] }),
    ]
}

/// Deleted, not disabled: Mosquitto 2.0.11 lets a disabled client with a certificate come back and publish.
fn cut_commands(uid: &DeviceUid) -> Vec<serde_json::Value> {
    vec![json!({ "command": "deleteClient", "username": uid }), json!({ "command": "deleteRole", "rolename": uid })]
}

fn tls(settings: &config::Broker, ca: &Ca, name: &str) -> Result<ClientConfig, BrokerError> {
    let mut roots = RootCertStore::empty();
    match &settings.ca_file {
        None => roots.add(ca.der().clone())?,
        Some(path) => {
            let failed = |why: String| BrokerError::File { what: "broker_ca_file", path: path.display().to_string(), why };
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))?;
            for certificate in certificates {
                roots.add(certificate.map_err(|error| failed(error.to_string()))?)?;
            }
            if roots.is_empty() {
                return Err(failed("there is no certificate in it".into()));
            }
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let (chain, key) = match (&settings.cert_file, &settings.key_file) {
        (Some(cert), Some(key)) => {
            let failed = |path: &std::path::Path, error: rustls_pki_types::pem::Error| BrokerError::File {
                what: "the client certificate for the broker",
                path: path.display().to_string(),
                why: error.to_string(),
            };
            let chain = CertificateDer::pem_file_iter(cert).and_then(Iterator::collect).map_err(|error| failed(cert, error))?;
            (chain, PrivateKeyDer::from_pem_file(key).map_err(|error| failed(key, error))?)
        }
        _ => {
            let identity = ca.issue_client(name, clock::now())?;
            (vec![identity.certificate], identity.key)
        }
    };
    Ok(builder.with_client_auth_cert(chain, key)?)
}
