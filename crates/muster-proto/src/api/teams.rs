//! Teams: members and collaborators who are given roles in projects as one.

use serde::{Deserialize, Serialize};

use super::{OrgRole, ProjectRole, RoleIn};
use crate::Millis;
use crate::id::TeamId;

/// A team.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Team {
    /// Its id in the organization.
    pub id: TeamId,
    /// Its display name.
    pub name: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The path of its avatar; another one for another image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar: Option<String>,
    /// How many are in it.
    pub members: u32,
    /// Who is in it; only in the answer for one team.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub people: Option<Vec<TeamMember>>,
    /// Its roles in projects that the caller sees.
    pub projects: Vec<RoleIn>,
    /// When made.
    pub created_at: Millis,
}

/// Somebody in a team.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TeamMember {
    /// E-mail.
    pub email: String,
    /// Display name.
    pub name: String,
    /// The role in the organization; absent for a collaborator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<OrgRole>,
    /// Since when.
    pub since: Millis,
}

/// `POST /v1/orgs/{org}/teams`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeamCreate {
    /// Its id.
    pub id: TeamId,
    /// Its display name; the id if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for; several lines are fine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// `PATCH /v1/orgs/{org}/teams/{team}`: what is absent stays, null clears.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TeamEdit {
    /// A new display name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it is for; several lines are fine.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "super::given")]
    pub description: Option<Option<String>>,
}

/// `PUT /v1/orgs/{org}/projects/{project}/teams/{team}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProjectTeamPut {
    /// The role that each in the team gets.
    pub role: ProjectRole,
}
