//! Enrolment: tokens, requests, identities.

use serde::{Deserialize, Serialize};

use super::{Admission, MqttEndpoint, PresenceState};
use crate::Millis;
use crate::id::{DeviceUid, OrgId, ProjectId, Serial};
use crate::mqtt::Facts;

/// `POST /v1/enrol`.
#[derive(Clone, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// The enrolment token, whole.
    pub token: String,
    /// What the device calls itself; the serial number.
    pub serial: Serial,
    /// PKCS #10 in PEM, signed by the device's new ECDSA P-256 key: proof that it has the key.
    pub csr: String,
    /// What it says of itself.
    pub facts: Facts,
}

/// State of an enrolment, from `POST /v1/enrol` and the long poll `GET /v1/enrol/{request}?wait=25`.
///
/// Asking again with the same key and serial gives the same request; the token is counted once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnrolState {
    /// The name of the request: 32 hexadecimal digits that cannot be guessed.
    pub request: String,
    /// `ABCD-2345`, for a person who looks for the row.
    pub pairing_code: String,
    /// The organization that the token belongs to.
    pub org: OrgId,
    /// What was decided so far.
    pub state: EnrolOutcome,
    /// One sentence: why it is so and what to do.
    pub why: String,
    /// The hub's clock.
    pub now: Millis,
    /// Given once admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
}

/// What was decided of an enrolment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnrolOutcome {
    /// A person has to decide.
    Pending,
    /// The same serial is listed with another key: an owner has to say `muster device replace`.
    Replacement,
    /// The certificate is there.
    Admitted,
    /// An owner said no.
    Rejected,
}

/// A device's identity, signed by the hub. From enrolment and from `POST /v1/device/renew`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Identity {
    /// The device's uid, the certificate's CN.
    pub uid: DeviceUid,
    /// The organization, the certificate's O.
    pub org: OrgId,
    /// What the organization calls the device.
    pub name: String,
    /// Client certificate in PEM.
    pub certificate: String,
    /// The hub's CA in PEM.
    pub ca: String,
    /// Where to speak MQTT.
    pub mqtt: MqttEndpoint,
}

/// `POST /v1/device/renew`, over mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// PKCS #10 in PEM, signed by the key of the present certificate or by a new one.
    pub csr: String,
}

/// `GET /v1/device/self`, over mutual TLS: what the hub thinks of the device that asks. For `musterd doctor`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceSelf {
    /// Its uid.
    pub uid: DeviceUid,
    /// Its organization.
    pub org: OrgId,
    /// Its name.
    pub name: String,
    /// Its admission.
    pub admission: Admission,
    /// Whether the hub sees its MQTT link.
    pub presence: PresenceState,
    /// One sentence: why it is so and what to do.
    pub why: String,
    /// The hub's clock.
    pub now: Millis,
}

/// `POST /v1/orgs/{org}/enrolment-tokens`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentTokenCreate {
    /// Devices enrolled with it join this project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// How many devices may use it; without a limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
    /// Seconds until it expires, 60 to 31,536,000. Default 7 days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u64>,
    /// Whether devices are admitted at once.
    #[serde(default)]
    pub admit: AdmitRule,
    /// Only these serial numbers, if given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serials: Option<Vec<Serial>>,
    /// A note for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What happens to a device that enrols.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdmitRule {
    /// Admitted at once.
    Auto,
    /// Pending until a person decides.
    #[default]
    Manual,
}

/// An enrolment token in a list, and when made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EnrolmentToken {
    /// The public name.
    pub id: String,
    /// The whole token; only in the answer to its making.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The project that devices join.
    pub project: Option<ProjectId>,
    /// How many devices may use it.
    pub uses: Option<u32>,
    /// How many have.
    pub used: u32,
    /// Whether devices are admitted at once.
    pub admit: AdmitRule,
    /// Serial numbers that it is limited to.
    pub serials: Option<Vec<Serial>>,
    /// A note for people.
    pub note: Option<String>,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Millis,
    /// When it ends.
    pub expires_at: Millis,
    /// When it was withdrawn.
    pub revoked_at: Option<Millis>,
}
