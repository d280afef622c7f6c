//! Projects and who takes part in them.

use serde::{Deserialize, Serialize};

use super::ProjectRole;
use crate::Millis;
use crate::id::{ProjectId, TeamId};

/// A project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Project {
    /// Its id in the organization.
    pub id: ProjectId,
    /// Its display name.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who sees it.
    pub visibility: Visibility,
    /// The caller's role.
    pub role: ProjectRole,
    /// Devices in it.
    pub devices: u32,
    /// Of these online.
    pub online: u32,
    /// Sessions in its name that live now.
    pub sessions: u32,
    /// Runs in its name that have not ended.
    pub runs: u32,
    /// People who have a role in it: owners, participants, teams, and all members where it is internal.
    pub members: u32,
    /// When made.
    pub created_at: Millis,
    /// When it was archived: it is read-only since then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Millis>,
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
    /// What it is for; several lines are fine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Who sees it.
    #[serde(default)]
    pub visibility: Visibility,
}

/// `PATCH /v1/orgs/{org}/projects/{project}`: what is absent stays, null clears.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectEdit {
    /// A new display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for; several lines are fine.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::given")]
    pub description: Option<Option<String>>,
    /// Who sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
}

/// Somebody whom a project itself gives a role, in person or through teams.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Participant {
    /// E-mail.
    pub email: String,
    /// Display name.
    pub name: String,
    /// Role: the highest of those given to the person and to the teams.
    pub role: ProjectRole,
    /// The role that was given to the person; absent where all comes through teams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<ProjectRole>,
    /// Teams of the person that have a role in the project.
    #[serde(default)]
    pub teams: Vec<TeamId>,
}

/// A row of `GET /v1/orgs/{org}/projects/{project}/teams`: a team with a role in a project.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProjectTeam {
    /// The team.
    pub id: TeamId,
    /// Its display name.
    pub name: String,
    /// The role that each in it has.
    pub role: ProjectRole,
    /// How many are in it.
    pub members: u32,
    /// Since when it takes part.
    pub since: Millis,
}

/// `POST /v1/orgs/{org}/projects/{project}/devices`: all of it is done, or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectDevices {
    /// Devices to put in: uids, serial numbers or names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<String>,
    /// Devices to take out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<String>,
}

/// What the answer to [`ProjectDevices`] says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assigned {
    /// Devices that are in it now and were not before.
    pub added: u32,
    /// Devices that were in it and are no more.
    pub removed: u32,
}

/// `PUT /v1/orgs/{org}/projects/{project}/participants/{email}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParticipantPut {
    /// The role.
    pub role: ProjectRole,
}
