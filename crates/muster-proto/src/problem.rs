//! Errors over HTTP: `application/problem+json` (RFC 9457) with a stable `code`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal;)*) => {
        /// Stable codes: programs branch on these, people read the detail.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// All codes, for documents and tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];
            /// The code on the wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
            /// The HTTP status that goes with it.
            pub fn status(self) -> u16 {
                match self { $(Self::$variant => $status,)* }
            }
        }
    };
}

codes! {
    /// The request does not parse or breaks a rule; the detail names the field.
    Invalid = "invalid", 400;
    /// No or no valid credentials.
    Unauthenticated = "unauthenticated", 401;
    /// The credentials expired.
    Expired = "expired", 401;
    /// A login by device code waits for its person (RFC 8628).
    AuthorizationPending = "authorization_pending", 400;
    /// The program polls a login by device code too often; it adds 5 s to its interval.
    SlowDown = "slow_down", 400;
    /// Known, but not allowed to do this.
    Forbidden = "forbidden", 403;
    /// Nothing there, or nothing that the caller may know of.
    NotFound = "not_found", 404;
    /// The method is not for this path.
    MethodNotAllowed = "method_not_allowed", 405;
    /// The present state does not allow it.
    Conflict = "conflict", 409;
    /// An id that is taken.
    Exists = "exists", 409;
    /// The body is over the limit.
    TooLarge = "too_large", 413;
    /// The body's media type is not for this path.
    MediaType = "media_type", 415;
    /// Too many attempts; wait.
    RateLimited = "rate_limited", 429;
    /// The hub failed; the log says why.
    Internal = "internal", 500;
    /// The hub cannot serve now, such as while it stops.
    Unavailable = "unavailable", 503;
    /// The enrolment token is unknown.
    TokenUnknown = "token_unknown", 403;
    /// The enrolment token is past its date.
    TokenExpired = "token_expired", 403;
    /// The enrolment token has enrolled as many devices as it may.
    TokenUsedUp = "token_used_up", 403;
    /// The enrolment token was withdrawn.
    TokenRevoked = "token_revoked", 403;
    /// The enrolment token does not name this serial number.
    TokenSerial = "token_serial", 403;
    /// The device was rejected by an owner.
    DeviceRejected = "device_rejected", 403;
    /// The device was revoked by an owner.
    DeviceRevoked = "device_revoked", 403;
    /// The device is not admitted yet.
    DevicePending = "device_pending", 409;
    /// The device has no MQTT link now.
    DeviceOffline = "device_offline", 409;
    /// The device did not answer in time.
    DeviceSilent = "device_silent", 504;
    /// The device's own policy, or its daemon, refused.
    DeviceRefused = "device_refused", 403;
    /// The session is over.
    SessionEnded = "session_ended", 410;
    /// The project is archived.
    Archived = "archived", 409;
    /// It would go over a limit of the organization.
    LimitReached = "limit_reached", 409;
}

/// The body of an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable code, one of [`Code`]; a text, so that newer codes pass through older programs.
    pub code: String,
    /// HTTP status.
    pub status: u16,
    /// One sentence: what failed, on what, and what to do.
    pub detail: String,
    /// For the hub's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// Seconds to wait before the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_in: Option<u32>,
}

impl Problem {
    /// A problem with its code's status.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code: code.as_str().to_owned(), status: code.status(), detail: detail.into(), request: None, retry_in: None }
    }

    /// Whether it carries this code.
    pub fn is(&self, code: Code) -> bool {
        self.code == code.as_str()
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}
