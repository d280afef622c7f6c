//! From an HTTP request to a leg: checks the upgrade, answers it, and takes the connection out of hyper's and TLS's hands.

use std::io;
use std::time::Duration;

use axum::body::Body;
use base64::Engine as _;
use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use muster_link::websocket::{Role, WebSocket, accept_key};
use muster_proto::problem::{Code, Problem};
use muster_proto::session::SUBPROTOCOL;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::listener;

/// From the answer to the connection that hyper hands over: it has only to be flushed.
const HAND_OVER: Duration = Duration::from_secs(10);

/// A connection between two runtimes.
pub(super) struct Parts {
    tcp: std::net::TcpStream,
    tls: rustls::ServerConnection,
    leftover: Bytes,
}

/// Checks that a request asks for a session WebSocket; gives the key to answer with.
pub(super) fn check(method: &Method, headers: &HeaderMap) -> Result<String, Problem> {
    let invalid = |detail: String| Err(Problem::new(Code::Invalid, detail));
    let has = |name: HeaderName, want: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(want)))
    };
    if method != Method::GET || !has(CONNECTION, "upgrade") || !has(UPGRADE, "websocket") {
        return invalid("this address speaks WebSocket: send a GET with Connection: Upgrade and Upgrade: websocket".into());
    }
    if !has(SEC_WEBSOCKET_VERSION, "13") {
        return invalid("the WebSocket version must be 13".into());
    }
    if !has(SEC_WEBSOCKET_PROTOCOL, SUBPROTOCOL) {
        return invalid(format!("the WebSocket sub-protocol must be {SUBPROTOCOL}"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).and_then(|key| key.to_str().ok()).unwrap_or("");
    match base64::engine::general_purpose::STANDARD.decode(key) {
        Ok(nonce) if nonce.len() == 16 => Ok(accept_key(key)),
        _ => invalid("Sec-WebSocket-Key must be 16 bytes in base64".into()),
    }
}

/// The answer that switches protocols.
pub(super) fn answer(accept: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    if let Ok(accept) = HeaderValue::from_str(accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    response
}

/// Waits for hyper to let the connection go, and takes it apart.
pub(super) async fn take(request: Request<Body>) -> io::Result<Parts> {
    let upgraded = timeout(HAND_OVER, hyper::upgrade::on(request)).await.map_err(io::Error::other)?.map_err(io::Error::other)?;
    let parts = upgraded.downcast::<listener::Stream>().map_err(|_| io::Error::other("the connection is not of this listener"))?;
    let (tcp, tls) = parts.io.into_inner().into_inner();
    Ok(Parts { tcp: tcp.into_std()?, tls, leftover: parts.read_buf })
}

impl Parts {
    /// The leg, on the runtime that this is called on.
    pub(super) fn into_websocket(self) -> io::Result<WebSocket> {
        let tcp = TcpStream::from_std(self.tcp)?;
        WebSocket::new(tcp, self.tls.into(), Role::Server, &self.leftover).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn says_what_is_missing() {
        let good = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "other, muster.session.v1"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        assert_eq!(check(&Method::GET, &headers(&good)).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(check(&Method::POST, &headers(&good)).is_err());
        for (without, word) in [(0, "Upgrade"), (1, "Upgrade"), (2, "version"), (3, "sub-protocol"), (4, "Key")] {
            let mut some = good.to_vec();
            some.remove(without);
            let problem = check(&Method::GET, &headers(&some)).unwrap_err();
            assert!(problem.is(Code::Invalid) && problem.detail.contains(word), "{problem}");
        }
    }
}
