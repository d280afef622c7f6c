//! One dial of a session's relay: TLS, then the WebSocket, with the ticket of this end.

use std::time::Duration;

use muster_proto::problem::{Code, Problem};
use muster_proto::session::SUBPROTOCOL;

use crate::dial::{DialError, Dialer, Endpoint};
use crate::websocket::{self, Upgrade, UpgradeError, WebSocket};

/// Where and how an end of a session dials.
#[derive(Clone)]
pub struct Relay {
    /// `wss://.../v1/sessions/{id}/{client|device}`.
    pub endpoint: Endpoint,
    /// The end's ticket.
    pub ticket: String,
    /// Trust, identity, proxy.
    pub dialer: Dialer,
}

/// Why a dial failed.
#[derive(Debug, thiserror::Error)]
pub enum LegError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The hub refused it, and another try would be refused as well.
    #[error("{}", .0.detail)]
    Refused(Problem),
    /// The hub cannot take it now.
    #[error("{}", .0.detail)]
    Later(Problem),
    /// The connection broke, or the answer makes no sense.
    #[error("{address}: {source}; is this the hub's relay?")]
    Upgrade {
        /// Host and port.
        address: String,
        /// What went wrong.
        source: UpgradeError,
    },
}

impl LegError {
    /// The hub's wish for the time until the next try.
    pub(super) fn retry_in(&self) -> Option<Duration> {
        match self {
            Self::Later(problem) => problem.retry_in.map(|seconds| Duration::from_secs(seconds.into())),
            _ => None,
        }
    }
}

impl Relay {
    /// Dials once; one timeout spans the whole.
    ///
    /// # Errors
    /// See [`LegError`].
    pub async fn dial(&self) -> Result<WebSocket, LegError> {
        let after = self.dialer.timeout;
        let address = self.endpoint.authority();
        match tokio::time::timeout(after, self.stages()).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout { address, stage: "opening the session's WebSocket", after }.into()),
        }
    }

    async fn stages(&self) -> Result<WebSocket, LegError> {
        let (tcp, tls) = self.dialer.dial(&self.endpoint).await?.into_inner();
        let host = self.endpoint.authority();
        let request = Upgrade { host: &host, path: &self.endpoint.path, protocol: SUBPROTOCOL, bearer: Some(&self.ticket) };
        websocket::connect(tcp, tls.into(), &request).await.map_err(|source| match source {
            UpgradeError::Refused { status, body } => refused(status, &body),
            source => LegError::Upgrade { address: host.clone(), source },
        })
    }
}

fn refused(status: u16, body: &[u8]) -> LegError {
    let problem = serde_json::from_slice(body).unwrap_or_else(|_| {
        let code = if status >= 500 { Code::Unavailable } else { Code::Invalid };
        Problem { status, ..Problem::new(code, format!("the hub answered the session's WebSocket with status {status}")) }
    });
    // A timeout, too many requests, a hub that starts or stops: these pass.
    if status >= 500 || matches!(status, 408 | 425 | 429) { LegError::Later(problem) } else { LegError::Refused(problem) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let body = |code| serde_json::to_vec(&Problem::new(code, "why")).unwrap();
        for code in [Code::SessionEnded, Code::Forbidden, Code::Unauthenticated, Code::NotFound] {
            assert!(matches!(refused(code.status(), &body(code)), LegError::Refused(problem) if problem.is(code)));
        }
        for code in [Code::Unavailable, Code::RateLimited, Code::Internal] {
            assert!(matches!(refused(code.status(), &body(code)), LegError::Later(problem) if problem.is(code)));
        }
        assert!(matches!(refused(502, b"<html>"), LegError::Later(_)));
    }
}
