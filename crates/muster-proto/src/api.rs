//! Bodies of the hub's HTTP API under `/v1`, for the hub, the daemon and the command line.
//!
//! Field names are stable: scripts read them. A new field may appear at any time; readers ignore what they do not know.
//! Lists are `{"items": [...], "next": "cursor"}`; `next` is absent on the last page.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Millis;
use crate::id::{DeviceUid, OrgId, ProjectId, Serial, SessionId};
use crate::mqtt::Facts;

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

// ---- Enrolment -------------------------------------------------------------------------------------------------

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

// ---- People ----------------------------------------------------------------------------------------------------

/// `POST /v1/login`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The account's e-mail.
    pub email: String,
    /// Its password.
    pub password: String,
    /// What the new token is called, such as the laptop's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_name: Option<String>,
}

/// A personal access token in a list, and when made (`POST /v1/login`, `POST /v1/tokens`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccessToken {
    /// The public name.
    pub id: String,
    /// The whole token; only in the answer to its making.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// What it is called.
    pub name: String,
    /// When made.
    pub created_at: Millis,
    /// When it ends.
    pub expires_at: Millis,
    /// When it was last used, to the minute.
    pub used_at: Option<Millis>,
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessTokenCreate {
    /// What it is called.
    pub name: String,
    /// Days until it expires, 1 to 360.
    #[serde(default = "default_token_days")]
    pub expires_days: u32,
}

fn default_token_days() -> u32 {
    90
}

/// `GET /v1/me`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Me {
    /// E-mail.
    pub email: String,
    /// Display name.
    pub name: String,
    /// Organizations, with the role there.
    pub orgs: Vec<Org>,
}

/// A role in an organization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrgRole {
    /// Sees the device list.
    Viewer,
    /// Enrols, edits, assigns.
    Member,
    /// Everything.
    Owner,
}

/// A role in a project; each has all that the ones before have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProjectRole {
    /// Device details, usage, history, sessions.
    View,
    /// Terminal, ssh, forward, copy from the device.
    Connect,
    /// Run commands, copy to the device.
    Operate,
    /// Participants and devices.
    Maintain,
    /// Settings and archive.
    Admin,
}

impl OrgRole {
    /// The role on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Owner => "owner",
        }
    }
}

impl ProjectRole {
    /// The role on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::View => "view",
            Self::Connect => "connect",
            Self::Operate => "operate",
            Self::Maintain => "maintain",
            Self::Admin => "admin",
        }
    }
}

/// An organization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Org {
    /// Its id.
    pub id: OrgId,
    /// Its display name.
    pub name: String,
    /// The caller's role; absent for a collaborator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<OrgRole>,
    /// When made.
    pub created_at: Millis,
}

/// `POST /v1/orgs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgCreate {
    /// Its id.
    pub id: OrgId,
    /// Its display name; the id if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A person in an organization.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// E-mail.
    pub email: String,
    /// Display name.
    pub name: String,
    /// Role.
    pub role: OrgRole,
    /// Since when.
    pub since: Millis,
}

/// `PUT /v1/orgs/{org}/members/{email}`: adds an account or changes its role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberPut {
    /// The role.
    pub role: OrgRole,
}

/// A project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Project {
    /// Its id in the organization.
    pub id: ProjectId,
    /// Its display name.
    pub name: String,
    /// Who sees it.
    pub visibility: Visibility,
    /// The caller's role.
    pub role: ProjectRole,
    /// Devices in it.
    pub devices: u32,
    /// Of these online.
    pub online: u32,
    /// When made.
    pub created_at: Millis,
}

/// Who sees a project.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Participants and owners.
    Private,
    /// Everyone in the organization: owner as admin, member as operate, viewer as view.
    #[default]
    Internal,
}

/// `POST /v1/orgs/{org}/projects`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectCreate {
    /// Its id.
    pub id: ProjectId,
    /// Its display name; the id if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who sees it.
    #[serde(default)]
    pub visibility: Visibility,
}

/// A participant of a project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Participant {
    /// E-mail.
    pub email: String,
    /// Role.
    pub role: ProjectRole,
}

/// `PUT /v1/orgs/{org}/projects/{project}/participants/{email}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParticipantPut {
    /// The role.
    pub role: ProjectRole,
}

// ---- Devices ---------------------------------------------------------------------------------------------------

/// Whether a device belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// A person has to decide.
    Pending,
    /// It belongs.
    Admitted,
    /// An owner said no.
    Rejected,
    /// It belonged once.
    Revoked,
}

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PresenceState {
    /// Its MQTT link is up and its heartbeats come.
    Online,
    /// It is not.
    Offline,
    /// It never was.
    Never,
}

/// A device: a row of `GET /v1/orgs/{org}/devices`, and `GET /v1/orgs/{org}/devices/{device}`.
///
/// `{device}` is a uid, an id (serial number) or a name; a name that several bear is a conflict that lists them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// The serial number, unique in the organization.
    pub id: Serial,
    /// The uid, unique in the hub.
    pub uid: DeviceUid,
    /// What the organization calls it; the serial number at first.
    pub name: String,
    /// Whether it belongs.
    pub admission: Admission,
    /// Whether it is there.
    pub presence: PresenceState,
    /// One sentence: why it is pending, refused or offline, and what to do. "online" where all is well.
    pub why: String,
    /// Since when the presence is what it is.
    pub presence_since: Option<Millis>,
    /// When the hub last heard from it.
    pub last_seen: Option<Millis>,
    /// Projects that share it and that the caller sees.
    pub projects: Vec<ProjectId>,
    /// What it says of itself.
    pub facts: Facts,
    /// Its newest sample.
    pub usage: Option<Sample>,
    /// While pending: the code that the device shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairing_code: Option<String>,
    /// Another key asks to take this row over: its pairing code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replacement: Option<String>,
    /// The daemon's version.
    pub agent: Option<String>,
    /// Open sessions.
    pub sessions: u32,
    /// Samples that wait on the device, as its last heartbeat said.
    pub spooled: u64,
    /// End of its certificate.
    pub certificate_expires_at: Option<Millis>,
    /// When filed.
    pub created_at: Millis,
}

/// One sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When taken, by the device's clock.
    pub t: Millis,
    /// One life of the daemon.
    pub boot: String,
    /// Its number there.
    pub seq: u64,
    /// Values by column name, see `UsageBatch`.
    pub values: BTreeMap<String, f64>,
}

/// `PATCH /v1/orgs/{org}/devices/{device}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceEdit {
    /// A new name, 1 to 100 printable characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Projects to join.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add_projects: Vec<ProjectId>,
    /// Projects to leave.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove_projects: Vec<ProjectId>,
}

/// `POST /v1/orgs/{org}/devices/{device}/{reject|revoke}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceDecision {
    /// Why, for the records and for the device's journal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A row of `GET .../devices/{device}/presence`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PresenceChange {
    /// By the hub's clock.
    pub t: Millis,
    /// From then on.
    pub presence: PresenceState,
    /// "birth", "will", "farewell", "heartbeats missed", "revoked", "taken over".
    pub reason: String,
}

/// `POST .../devices/{device}/watch`: one sample per second for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WatchRequest {
    /// Seconds, 1 to 600.
    pub seconds: u32,
}

// ---- Sessions --------------------------------------------------------------------------------------------------

/// `POST /v1/orgs/{org}/devices/{device}/sessions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionCreate {
    /// In the name of which project; may be absent where only one gives the right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// What it is for: "shell", "ssh", "forward".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub want: Option<String>,
    /// Why, in the user's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The answer: where the client dials.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionTicket {
    /// The session.
    pub session: SessionId,
    /// `wss://.../v1/sessions/{id}/client`; sub-protocol `muster.session.v1`, `Authorization: Bearer {ticket}`.
    pub relay: String,
    /// The client's ticket. Void if not used in 30 s; afterwards good for this session's resumptions only.
    pub ticket: String,
    /// The device.
    pub device: DeviceUid,
    /// Its name.
    pub device_name: String,
}

/// A row of `GET /v1/orgs/{org}/sessions`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The device.
    pub device: DeviceUid,
    /// Its name.
    pub device_name: String,
    /// Who.
    pub user: String,
    /// In the name of which project.
    pub project: ProjectId,
    /// What it is for.
    pub want: Option<String>,
    /// Why, in the user's words.
    pub reason: Option<String>,
    /// What it is doing.
    pub state: SessionState,
    /// When asked for.
    pub created_at: Millis,
    /// When both ends had met.
    pub opened_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Why it ended.
    pub end_reason: Option<String>,
    /// Bytes relayed to the device.
    pub to_device: u64,
    /// Bytes relayed to the client.
    pub to_client: u64,
}

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// The device has not dialled yet.
    Opening,
    /// Both ends are there.
    Open,
    /// An end is gone; it has two minutes to come back.
    Interrupted,
    /// Over.
    Ended,
}

/// A row of `GET /v1/orgs/{org}/audit`, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Its number, growing.
    pub id: i64,
    /// When, by the hub's clock.
    pub t: Millis,
    /// Who: an account's e-mail, `device:{uid}`, or `hub`.
    pub actor: String,
    /// What: `device.admit`, `session.open`, ...
    pub action: String,
    /// On what.
    pub target: String,
    /// From which address.
    pub from: Option<String>,
    /// "ok" or a problem's code.
    pub result: String,
    /// More, by action.
    pub details: Value,
}
