//! Errors of the API: always `application/problem+json`, one sentence for people and a stable code for programs.
//!
//! What went wrong inside is for the log; the caller learns only that it was the hub's fault.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use muster_proto::problem::{Code, MEDIA_TYPE, Problem};

use crate::mqtt::SendError;
use crate::{ca, store};

/// What a handler returns.
pub type ApiResult<T> = Result<T, ApiError>;

/// A problem on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError(pub Problem);

impl ApiError {
    /// A problem with its code's status.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Problem::new(code, detail))
    }

    /// There is nothing of this kind, or nothing that the caller may know of: both read the same.
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no {what} {id:?} here, or you have no access to it"))
    }

    /// What became of a message whose wish is recorded already. A device that was deleted right after that is told nothing.
    pub fn told(device: &str, sent: Result<(), SendError>) -> ApiResult<()> {
        Err(match sent {
            Ok(()) | Err(SendError::Gone) => return Ok(()),
            Err(error @ SendError::Full) => Self::new(Code::Conflict, format!("device {device} cannot be told now: {error}")),
            Err(error @ SendError::Broker(_)) => Self::new(Code::Unavailable, format!("device {device} could not be told: {error}")),
            Err(SendError::Store(error)) => error.into(),
            Err(error @ SendError::TooLarge(_)) => Self::internal(&error),
        })
    }

    /// The hub's own fault: logged here, told without details.
    pub fn internal(error: &dyn std::error::Error) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(Code::Internal, "the hub failed to do this; its log says why")
    }
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for ApiError {}

impl From<Problem> for ApiError {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Problem(problem) => Self(problem),
            store::Error::Closed => Self::new(Code::Unavailable, "the hub is stopping; try again in a moment"),
            error => Self::internal(&error),
        }
    }
}

/// For what is decided inside a transaction.
impl From<ApiError> for store::Error {
    fn from(error: ApiError) -> Self {
        Self::Problem(error.0)
    }
}

impl From<ca::CaError> for ApiError {
    fn from(error: ca::CaError) -> Self {
        Self::internal(&error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).expect("a problem always serializes");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.0.retry_in {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"muster\""));
        }
        // The layer that logs requests adds the request's id to the body.
        response.extensions_mut().insert(self);
        response
    }
}
