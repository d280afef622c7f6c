//! Invitations: how people come into an organization or a project.

use serde::{Deserialize, Serialize};

use super::{OrgRole, ProjectRole};
use crate::Millis;
use crate::id::{OrgId, ProjectId};

/// `POST /v1/orgs/{org}/invitations`: to the organization with `role`, or to one project with `project` and `project_role`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvitationCreate {
    /// Whom.
    pub email: String,
    /// The role in the organization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<OrgRole>,
    /// The project; the person becomes a collaborator there, not a member of the organization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// The role in the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_role: Option<ProjectRole>,
}

/// An invitation in a list, and when made or sent again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Invitation {
    /// The public name.
    pub id: String,
    /// `https://HUB/invite#mi1...`; only in the answers to its making and to sending it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Whom.
    pub email: String,
    /// The role in the organization, if it is to the organization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<OrgRole>,
    /// The project, if it is to a project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// The role in the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_role: Option<ProjectRole>,
    /// Who invited.
    pub invited_by: String,
    /// When.
    pub created_at: Millis,
    /// When the link ends.
    pub expires_at: Millis,
    /// Whether it went out by mail.
    pub mail: MailState,
    /// Why the mail did not go out yet, in the mail server's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mail_error: Option<String>,
}

/// Whether an invitation went out by mail.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailState {
    /// The hub sends no mail: pass the link on.
    #[default]
    None,
    /// It waits, or is tried again.
    Queued,
    /// The mail server took it.
    Sent,
    /// The mail server refused it, or could not be reached for too long.
    Failed,
}

/// `POST /v1/invitations/look`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvitationLook {
    /// The token of the link, `mi1...`.
    pub token: String,
}

/// What the holder of an invitation's link is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InvitationLooked {
    /// The organization.
    pub org: OrgId,
    /// Its name.
    pub org_name: String,
    /// Whom it invites.
    pub email: String,
    /// The role in the organization, if it is to the organization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<OrgRole>,
    /// The project, if it is to a project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// The project's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_name: Option<String>,
    /// The role in the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_role: Option<ProjectRole>,
    /// Who invited.
    pub invited_by: String,
    /// When the link ends.
    pub expires_at: Millis,
    /// Whether the e-mail has an account here: then it is accepted logged in, else with a name and a password.
    pub has_account: bool,
    /// Whether a new account may be made here with a password.
    pub password_login: bool,
}

/// `POST /v1/invitations/accept`: logged in as the invited account, or with the name and password of a new one.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InvitationAccept {
    /// The token of the link, `mi1...`.
    pub token: String,
    /// Display name of the new account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// What the new account's first token is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_name: Option<String>,
}

/// What was accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InvitationAccepted {
    /// The organization.
    pub org: OrgId,
    /// The role there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<OrgRole>,
    /// The project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// The role there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_role: Option<ProjectRole>,
    /// Whose account.
    pub email: String,
    /// A personal access token of an account that was made just now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}
