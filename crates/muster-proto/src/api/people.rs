//! People and service accounts: password logins, access tokens, who am I.

use serde::{Deserialize, Serialize};

use super::{Org, OrgRole, ProjectRole};
use crate::Millis;
use crate::id::{OrgId, ProjectId};

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

/// What a token may do of what its account may.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenScope {
    /// Look.
    Read,
    /// Look and reach devices; nothing in the organization changes.
    Reach,
    /// Everything.
    #[default]
    Full,
}

impl TokenScope {
    /// The scope on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Reach => "reach",
            Self::Full => "full",
        }
    }
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
    /// What it may do.
    #[serde(default)]
    pub scope: TokenScope,
    /// The one organization that it is limited to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<OrgId>,
    /// The one project there that it is limited to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// When made.
    pub created_at: Millis,
    /// When it ends.
    pub expires_at: Millis,
    /// When it was last used, to the minute.
    pub used_at: Option<Millis>,
}

/// `POST /v1/tokens`, `POST /v1/orgs/{org}/service-accounts/{name}/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessTokenCreate {
    /// What it is called.
    pub name: String,
    /// Days until it expires, 1 to 360.
    #[serde(default = "default_token_days")]
    pub expires_days: u32,
    /// What it may do.
    #[serde(default)]
    pub scope: TokenScope,
    /// Limits it to one organization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<OrgId>,
    /// Limits it to one project of that organization: it has what its account has in the project, and no role in the organization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
}

fn default_token_days() -> u32 {
    90
}

/// `GET /v1/me`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Me {
    /// E-mail; of a service account `NAME@ORG.service`.
    pub email: String,
    /// Display name.
    pub name: String,
    /// Whether this is an owner of the hub.
    #[serde(default)]
    pub hub_owner: bool,
    /// Whether it can log in with a password.
    #[serde(default)]
    pub has_password: bool,
    /// Organizations, with the role there.
    pub orgs: Vec<Org>,
}

/// `PATCH /v1/me`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeEdit {
    /// A new display name, 1 to 100 printable characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// `PUT /v1/me/password`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordPut {
    /// The present password.
    pub old: String,
    /// The new one, at least 10 characters.
    pub new: String,
    /// End all other tokens of this account.
    #[serde(default)]
    pub end_other_tokens: bool,
}

/// `DELETE /v1/me`: closes the account.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountClose {
    /// The e-mail of the account once more, so that nobody closes one by mistake.
    pub email: String,
    /// The password, where the account has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
}

/// A service account: what programs of an organization log in as.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceAccount {
    /// Its name, unique in the organization.
    pub name: String,
    /// What it is called in records and among participants: `NAME@ORG.service`.
    pub email: String,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its role in the organization: member, viewer, or none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<OrgRole>,
    /// Its tokens that are good now.
    pub tokens: u32,
    /// When one was last used.
    pub used_at: Option<Millis>,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Millis,
}

/// `POST /v1/orgs/{org}/service-accounts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountCreate {
    /// Its name: 2 to 40 of a-z, 0-9 and hyphen.
    pub name: String,
    /// Its role in the organization: member or viewer. Without one it has only what projects give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<OrgRole>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A role in one project at once; more with `PUT .../participants/{email}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// That role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_role: Option<ProjectRole>,
}
