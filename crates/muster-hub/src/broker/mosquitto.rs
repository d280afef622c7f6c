//! The configuration of Mosquitto 2 with which the fence holds, found by experiment with 2.0.11: `docs/decisions/0006-mosquitto.md`.
//!
//! What it needs, each because an attack worked without it: the certificate's name as user name AND as client id
//! (else a device takes another's session over), the dynamic security plug-in with everything denied by default
//! (an ACL file does not check subscriptions, so a device could join the hub's shared group), a role for each device.

use muster_proto::id::DeviceUid;
use muster_proto::limits::PAYLOAD_MAX;
use muster_proto::topic::{HUB_FILTER, HUB_SHARE, ROOT};
use serde_json::{Value, json};

use super::INFLIGHT;
use super::control::{ANSWERS, COMMANDS};
use crate::ca::{Ca, CaError};
use crate::clock;
use crate::mqtt::PACKET_MAX;

/// What the configuration depends on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where Mosquitto listens for devices and the hub: a port, or a port and an address as in its `listener` line.
    pub port: u16,
    /// The address to bind; all if absent.
    pub bind: Option<String>,
    /// Names and addresses under which devices reach it, for its certificate.
    pub names: Vec<String>,
    /// Where the files below will lie on Mosquitto's machine.
    pub directory: String,
    /// Where Mosquitto keeps sessions and queued messages.
    pub state: String,
    /// The plug-in.
    pub plugin: String,
    /// The hub's name in its certificate.
    pub hub: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            port: 8883,
            bind: None,
            names: Vec::new(),
            directory: "/etc/mosquitto/muster".into(),
            state: "/var/lib/mosquitto/".into(),
            plugin: plugin().into(),
            hub: super::HUB_NAME.into(),
        }
    }
}

/// The plug-in's file: it keeps it up to date itself once it runs.
pub const ACCESS_LIST: &str = "dynamic-security.json";

/// A file of the configuration.
#[derive(Debug, Clone)]
pub struct File {
    /// Its name in the directory.
    pub name: &'static str,
    /// What is in it.
    pub content: String,
    /// Only Mosquitto may read it.
    pub secret: bool,
}

/// Where Debian puts the plug-in on this kind of machine.
fn plugin() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "/usr/lib/aarch64-linux-gnu/mosquitto_dynamic_security.so",
        "arm" => "/usr/lib/arm-linux-gnueabihf/mosquitto_dynamic_security.so",
        _ => "/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so",
    }
}

/// The whole configuration: everything that Mosquitto needs, certificate included.
///
/// # Errors
/// When the certificate cannot be made.
pub fn files(settings: &Settings, ca: &Ca) -> Result<Vec<File>, CaError> {
    let server = ca.issue_server(&settings.names, clock::now())?;
    let file = |name, content: String, secret| File { name, content, secret };
    Ok(vec![
        file("mosquitto.conf", conf(settings), false),
        file(ACCESS_LIST, format!("{:#}\n", dynamic_security(&settings.hub)), true),
        file("ca.pem", ca.pem().to_owned(), false),
        // The authority follows the leaf: a device that holds only the pin in its token checks it there.
        file("server.pem", format!("{}{}", server.certificate_pem, ca.pem()), false),
        file("server.key", server.key_pem, true),
    ])
}

/// `mosquitto.conf`.
pub fn conf(settings: &Settings) -> String {
    let Settings { port, bind, directory, state, plugin, .. } = settings;
    let bind = bind.as_deref().map(|bind| format!(" {bind}")).unwrap_or_default();
    format!(
        "\
# Mosquitto 2 for Muster, made by `muster-hub broker-config mosquitto`. Nothing else may listen in this Mosquitto.
# The files named below belong into {directory}; dynamic-security.json must be writable by Mosquitto, which keeps it up to date.
per_listener_settings false

listener {port}{bind}
protocol mqtt
cafile {directory}/ca.pem
certfile {directory}/server.pem
keyfile {directory}/server.key
tls_version tlsv1.3

# Who connects is who the certificate says: its name is the user name, and the client id too.
# Without the second line a device could connect under another's client id and take its session over.
require_certificate true
use_identity_as_username true
use_username_as_clientid true
allow_anonymous false

# What one may do: nothing, except what the hub's or the device's own role says. An ACL file would not do: Mosquitto does not ask
# it about subscriptions, so a device could join the hub's shared group and take messages out of it.
plugin {plugin}
plugin_opt_config_file {directory}/dynamic-security.json

# What was acknowledged and not yet taken by the hub survives a restart of Mosquitto; after a crash, up to 10 seconds of it do not.
persistence true
persistence_location {state}
autosave_interval 10
persistent_client_expiration 7d

# Bounds.
max_packet_size {PACKET_MAX}
message_size_limit {PAYLOAD_MAX}
max_inflight_messages {INFLIGHT}
max_queued_messages 100000
max_keepalive 300
"
    )
}

/// `dynamic-security.json` as it begins: the hub, and nobody else. The hub adds devices.
pub fn dynamic_security(hub: &str) -> Value {
    let allow = |kind: &str, topic: &str| json!({ "acltype": kind, "topic": topic, "priority": 0, "allow": true });
    json!({
        "defaultACLAccess": { "publishClientSend": false, "publishClientReceive": false, "subscribe": false, "unsubscribe": true },
        "clients": [{ "username": hub, "roles": [{ "rolename": "hub" }] }],
        "groups": [],
        "roles": [{ "rolename": "hub", "acls": [
            allow("publishClientSend", &format!("{ROOT}/+/down/#")),
            allow("publishClientSend", COMMANDS),
            allow("publishClientReceive", HUB_FILTER),
            allow("publishClientReceive", ANSWERS),
            allow("subscribeLiteral", &format!("$share/{HUB_SHARE}/{HUB_FILTER}")),
            allow("subscribeLiteral", ANSWERS),
        ]}],
    })
}

/// What a device may do.
pub(super) fn device_acls(uid: &DeviceUid) -> Value {
    let allow = |kind: &str, topic: String| json!({ "acltype": kind, "topic": topic, "priority": 0, "allow": true });
    json!([
        allow("publishClientSend", format!("{ROOT}/{uid}/up/#")),
        allow("publishClientReceive", format!("{ROOT}/{uid}/down/#")),
        allow("subscribePattern", format!("{ROOT}/{uid}/down/#")),
    ])
}
