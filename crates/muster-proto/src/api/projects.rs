//! Projects and who takes part in them.

use serde::{Deserialize, Serialize};

use super::ProjectRole;
use crate::Millis;
use crate::id::ProjectId;

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
