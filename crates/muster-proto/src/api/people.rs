//! People: logins, personal access tokens, who am I.

use serde::{Deserialize, Serialize};

use super::Org;
use crate::Millis;

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
