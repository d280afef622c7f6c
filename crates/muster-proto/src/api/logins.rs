//! Logins: what a hub offers, through the browser, by device code.

use serde::{Deserialize, Serialize};

/// `GET /v1/login/methods`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginMethods {
    /// E-mail and password.
    pub password: bool,
    /// Single sign-on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oidc: Option<OidcMethod>,
}

/// Single sign-on with OpenID Connect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OidcMethod {
    /// What people call the provider.
    pub name: String,
    /// The provider.
    pub issuer: String,
}

/// `POST /v1/login/code`: the one-time code that a browser login handed over on the loopback port, for a token.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoginCode {
    /// The code.
    pub code: String,
    /// What the challenge at the start was made of (PKCE, RFC 7636).
    pub verifier: String,
    /// The redirect URI of the start, to the letter.
    pub redirect_uri: String,
    /// What the new token is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_name: Option<String>,
}

/// `POST /v1/login/device`: begins a login by device code (RFC 8628).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceLoginStart {
    /// What the new token is called; the person is shown it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_name: Option<String>,
}

/// A login by device code that waits for a person.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLogin {
    /// What the program polls with; a secret.
    pub device_code: String,
    /// What the person types or compares.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// The same with the code in it.
    pub verification_uri_complete: String,
    /// Seconds until it ends.
    pub expires_in: u32,
    /// Seconds between polls at least.
    pub interval: u32,
}

/// `POST /v1/login/device/token`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceLoginPoll {
    /// The device code.
    pub device_code: String,
}
