//! Asks a hub over kept connections: thousands of small requests must not pay a TLS handshake each.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use muster_link::tls::{self, Clock, Trust};
use muster_proto::token::Pin;
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;

const DIAL: std::time::Duration = std::time::Duration::from_secs(15);

/// The way to one hub, with the connections that are idle now.
pub(crate) struct Line {
    address: Mutex<SocketAddr>,
    pin: Pin,
    /// The address to come from, if it is not the system's choice.
    from: Option<IpAddr>,
    tls: Arc<rustls::ClientConfig>,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

/// Somebody who asks.
#[derive(Clone)]
pub(crate) struct Caller {
    line: Arc<Line>,
    token: Option<String>,
}

/// What the hub answered.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl Line {
    pub(crate) fn new(address: SocketAddr, pin: Pin) -> Arc<Self> {
        let tls = tls::client_config(&Trust::Pin(pin), None, &Clock::with_floor(0)).unwrap();
        Arc::new(Self { address: Mutex::new(address), pin, from: None, tls, idle: Mutex::default() })
    }

    /// The same way from another address of this machine: all of 127.0.0.0/8 is.
    pub(crate) fn from(&self, from: IpAddr) -> Arc<Self> {
        let mut line = Self::new(*self.address.lock().unwrap(), self.pin);
        Arc::get_mut(&mut line).expect("nobody else has it yet").from = Some(from);
        line
    }

    /// The hub has started anew, at this address.
    pub(crate) fn moved(&self, address: SocketAddr) {
        *self.address.lock().unwrap() = address;
        self.idle.lock().unwrap().clear();
    }

    /// A new connection. Where a killed hub listened somebody else may listen now, who answers no handshake.
    async fn dial(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        tokio::time::timeout(DIAL, self.handshake()).await.map_err(|_| "no connection: no handshake in time".to_owned())?
    }

    async fn handshake(&self) -> Result<SendRequest<Full<Bytes>>, String> {
        let broken = |error: &dyn std::fmt::Display| format!("no connection: {error}");
        let address = *self.address.lock().unwrap();
        let socket = TcpSocket::new_v4().map_err(|error| broken(&error))?;
        if let Some(from) = self.from {
            socket.bind((from, 0).into()).map_err(|error| broken(&error))?;
        }
        let tcp = socket.connect(address).await.map_err(|error| broken(&error))?;
        let name = rustls_pki_types::ServerName::from(address.ip());
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await.map_err(|error| broken(&error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| broken(&error))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Asks on a kept connection, and on a new one if that has just ended: only what a new one does not carry is lost.
    async fn send(&self, request: http::Request<Full<Bytes>>) -> Result<Answer, String> {
        loop {
            let kept = self.idle.lock().unwrap().pop();
            let Some(mut kept) = kept else { break };
            if kept.ready().await.is_ok()
                && let Ok(answer) = self.send_on(kept, request.clone()).await
            {
                return Ok(answer);
            }
        }
        self.send_on(self.dial().await?, request).await
    }

    async fn send_on(&self, mut sender: SendRequest<Full<Bytes>>, request: http::Request<Full<Bytes>>) -> Result<Answer, String> {
        let answer = sender.send_request(request).await.map_err(|error| format!("dropped before the answer: {error:?}"))?;
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.map_err(|error| format!("dropped inside the answer: {error:?}"))?.to_bytes();
        self.idle.lock().unwrap().push(sender);
        Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body })
    }
}

impl Caller {
    pub(crate) fn new(line: &Arc<Line>, token: Option<&str>) -> Self {
        Self { line: Arc::clone(line), token: token.map(str::to_owned) }
    }

    /// Asks, and gives what came, or why nothing did.
    pub(crate) async fn ask(&self, method: &str, path: &str, kind: &str, body: Vec<u8>) -> Result<Answer, String> {
        let mut request = http::Request::builder().method(method).uri(path).header("host", "127.0.0.1");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if !body.is_empty() {
            request = request.header("content-type", kind);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|error| format!("{path}: {error}"))?;
        self.line.send(request).await
    }

    /// Asks with a body in JSON, empty for none; nothing may go wrong on the way.
    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> impl Future<Output = Answer> + Send + use<> {
        let (caller, method, path, body) = (self.clone(), method.to_owned(), path.to_owned(), body.as_bytes().to_vec());
        let place = std::panic::Location::caller();
        async move {
            let answer = caller.ask(&method, &path, "application/json", body).await;
            answer.unwrap_or_else(|error| panic!("{method} {path} at {place}: {error}"))
        }
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.send("GET", path, "").await.ok()
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        self.send("POST", path, &body.to_string()).await.ok()
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Value {
        self.send("PUT", path, &body.to_string()).await.ok()
    }
}

impl Answer {
    pub(crate) fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of an answer that must be a good one.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert!(self.is_ok(), "{}: {}", self.status, self.text());
        if self.body.is_empty() { Value::Null } else { serde_json::from_slice(&self.body).unwrap_or_default() }
    }

    /// The code of a problem; empty for a good answer.
    pub(crate) fn code(&self) -> String {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        if self.is_ok() { String::new() } else { body["code"].as_str().unwrap_or("no code").to_owned() }
    }
}
