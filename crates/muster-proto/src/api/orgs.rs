//! Organizations, their members and the roles.

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::id::{OrgId, ProjectId, TeamId};

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
    /// Its name in full, as in a contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_name: Option<String>,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Its web address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub website: Option<String>,
    /// The path of its logo; another one for another image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logo: Option<String>,
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
    /// Its name in full, as in a contract.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_name: Option<String>,
    /// What it does; several lines are fine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Its web address, `https://` or `http://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub website: Option<String>,
}

/// `PATCH /v1/orgs/{org}`: what is absent stays, null clears.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrgEdit {
    /// A new display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its name in full, as in a contract.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::given")]
    pub full_name: Option<Option<String>>,
    /// What it does; several lines are fine.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::given")]
    pub description: Option<Option<String>>,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::given")]
    pub location: Option<Option<String>>,
    /// Its web address, `https://` or `http://`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::given")]
    pub website: Option<Option<String>>,
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

/// A row of `GET /v1/orgs/{org}/collaborators`: somebody without a role in the organization, who has only what projects and teams give.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Collaborator {
    /// E-mail.
    pub email: String,
    /// Display name.
    pub name: String,
    /// Projects, with the highest role that a participation or a team gives there.
    pub projects: Vec<RoleIn>,
    /// Teams that the person is in.
    pub teams: Vec<TeamId>,
}

/// A role in a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleIn {
    /// Which project.
    pub project: ProjectId,
    /// The role there.
    pub role: ProjectRole,
}
