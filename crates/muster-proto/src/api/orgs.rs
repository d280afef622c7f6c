//! Organizations, their members and the roles.

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::id::OrgId;

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
