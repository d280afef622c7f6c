//! Remote sessions.

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::id::{DeviceUid, ProjectId, SessionId};

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
    /// The path of `relay`. The host and the port by which the hub was reached serve it, too, where its public name leads elsewhere.
    pub path: String,
    /// The client's ticket. Void if not used in 30 s; afterwards good for this session's resumptions only.
    pub ticket: String,
    /// The device.
    pub device: DeviceUid,
    /// Its name.
    pub device_name: String,
    /// In the name of which project.
    pub project: ProjectId,
    /// The hub chose it among several that give the right, as none was named.
    pub project_chosen: bool,
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
