//! A whole hub in this process, a client for it, and devices that are nothing but a key.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use muster_hub::config::Config;
use muster_hub::init::{self, First, Wanted};
use muster_hub::serve::{self, Ports, Running};
use muster_link::tls::{self, Clock, Identity, Trust};
use muster_proto::problem::{MEDIA_TYPE, Problem};
use muster_proto::token::{Pin, Token, TokenKind};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

pub(crate) const OWNER: &str = "ada@acme.example";

/// A hub with the organization `acme`, its project `lab`, and the owner Ada.
pub(crate) struct World {
    pub(crate) hub: Running,
    pub(crate) owner: Client,
    pub(crate) pin: Pin,
    _dir: tempfile::TempDir,
}

/// Somebody who asks: a person by token, a device by certificate, or a stranger.
#[derive(Clone)]
pub(crate) struct Client {
    address: std::net::SocketAddr,
    tls: Arc<rustls::ClientConfig>,
    token: Option<String>,
}

/// What the hub answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Bytes,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted::on_loopback(
            dir.path(),
            First {
                owner: OWNER.into(),
                org: Some("acme".parse().unwrap()),
                project: Some("lab".parse().unwrap()),
                token_name: "test".into(),
            },
        );
        let made = tokio::task::spawn_blocking(move || init::init(wanted, []).unwrap()).await.unwrap();
        let token = made.token.expect("the first owner's token");
        let config = Config::load(&made.config, []).unwrap();
        let ports = Ports::bind(&config).await.unwrap();
        let hub = serve::start(config, ports).await.unwrap();
        let pin = Token::parse(&token, TokenKind::Personal).unwrap().pin;
        let owner = Client { address: hub.https, tls: client_tls(pin, None), token: Some(token) };
        Self { hub, owner, pin, _dir: dir }
    }

    pub(crate) fn stranger(&self) -> Client {
        Client { token: None, ..self.owner.clone() }
    }

    pub(crate) fn with_token(&self, token: &str) -> Client {
        Client { token: Some(token.to_owned()), ..self.owner.clone() }
    }

    /// Makes an account with the password "correct horse" and gives a client that speaks for it.
    pub(crate) async fn person(&self, email: &str) -> Client {
        let (store, ca, owner) = (self.hub.state.store.clone(), self.hub.state.ca.clone(), email.to_owned());
        let token = tokio::task::spawn_blocking(move || {
            let first = First { owner: owner.clone(), org: None, project: None, token_name: "test".into() };
            let token = init::first(&store, &ca, first).unwrap();
            let hashed = muster_hub::accounts::hash("correct horse");
            store.write_blocking(move |tx| muster_hub::store::accounts::set_password(tx, &owner, &hashed)).unwrap();
            token
        });
        self.with_token(&token.await.unwrap())
    }

    /// Somebody with an account who was invited to an organization of Ada's and accepted.
    pub(crate) async fn joins(&self, email: &str, org: &str, role: &str) -> Client {
        let person = self.person(email).await;
        self.accepts(&person, org, json!({ "email": email, "role": role })).await;
        person
    }

    /// Somebody with an account who was invited to one project and accepted.
    pub(crate) async fn collaborates(&self, email: &str, org: &str, project: &str, role: &str) -> Client {
        let person = self.person(email).await;
        self.accepts(&person, org, json!({ "email": email, "project": project, "project_role": role })).await;
        person
    }

    /// Ada invites, the person accepts.
    pub(crate) async fn accepts(&self, person: &Client, org: &str, invitation: Value) {
        let made = self.owner.post(&format!("/v1/orgs/{org}/invitations"), invitation).await.ok(201);
        person.post("/v1/invitations/accept", json!({ "token": token_of(&made) })).await.ok(200);
    }

    /// Whoever owns an organization makes Ada an owner of it as well.
    pub(crate) async fn accepts_for(&self, owner: &Client, org: &str) {
        let made = owner.post(&format!("/v1/orgs/{org}/invitations"), json!({ "email": OWNER, "role": "owner" })).await.ok(201);
        self.owner.post("/v1/invitations/accept", json!({ "token": token_of(&made) })).await.ok(200);
    }

    pub(crate) async fn enrolment_token(&self, wanted: Value) -> String {
        let made = self.owner.post("/v1/orgs/acme/enrolment-tokens", wanted).await.ok(201);
        made["token"].as_str().unwrap().to_owned()
    }

    /// Enrols a new device with a token that admits by itself.
    pub(crate) async fn admitted(&self, serial: &str) -> Device {
        let token = self.enrolment_token(json!({ "admit": "auto", "uses": 1, "project": "lab" })).await;
        let mut device = Device::new(serial);
        let state = device.enrol(self, &token).await.ok(200);
        assert_eq!(state["state"], "admitted", "{state}");
        device.take(&state["identity"]);
        device
    }

    /// Audit events of acme, newest first.
    pub(crate) async fn audit(&self) -> Vec<Value> {
        let page = self.owner.get("/v1/orgs/acme/audit?limit=1000").await.ok(200);
        page["items"].as_array().unwrap().clone()
    }
}

/// The token of an invitation's link.
pub(crate) fn token_of(invitation: &Value) -> &str {
    invitation["link"].as_str().unwrap().split_once('#').unwrap().1
}

fn client_tls(pin: Pin, identity: Option<&Identity>) -> Arc<rustls::ClientConfig> {
    tls::client_config(&Trust::Pin(pin), identity, &Clock::with_floor(0)).unwrap()
}

/// A device: a serial number and a key.
pub(crate) struct Device {
    pub(crate) serial: String,
    pub(crate) key: KeyPair,
    pub(crate) certificate: String,
    pub(crate) uid: String,
}

impl Device {
    pub(crate) fn new(serial: &str) -> Self {
        Self { serial: serial.into(), key: KeyPair::generate().unwrap(), certificate: String::new(), uid: String::new() }
    }

    pub(crate) fn csr(&self) -> String {
        csr(&self.key)
    }

    pub(crate) async fn enrol(&self, world: &World, token: &str) -> Answer {
        self.enrol_as(world, token, json!({ "hostname": self.serial, "agent": "test" })).await
    }

    /// The same, stating these facts.
    pub(crate) async fn enrol_as(&self, world: &World, token: &str, facts: Value) -> Answer {
        let body = json!({ "token": token, "serial": self.serial, "csr": self.csr(), "facts": facts });
        world.stranger().post("/v1/enrol", body).await
    }

    pub(crate) fn take(&mut self, identity: &Value) {
        identity["certificate"].as_str().unwrap().clone_into(&mut self.certificate);
        identity["uid"].as_str().unwrap().clone_into(&mut self.uid);
    }

    /// A client with this device's certificate.
    pub(crate) fn client(&self, world: &World) -> Client {
        let identity = Identity::from_pem(self.certificate.as_bytes(), self.key.serialize_pem().as_bytes()).unwrap();
        Client { address: world.hub.https, tls: client_tls(world.pin, Some(&identity)), token: None }
    }
}

pub(crate) fn csr(key: &KeyPair) -> String {
    CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

impl Client {
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some(body)).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send("PATCH", path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None).await
    }

    pub(crate) async fn send(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let headers: &[(&str, &str)] = if body.is_some() { &[("content-type", "application/json")] } else { &[] };
        self.raw(method, path, headers, body.map(|body| body.to_string().into_bytes()).unwrap_or_default()).await
    }

    pub(crate) async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Answer {
        let mut request = http::Request::builder().method(method).uri(path).header("host", "127.0.0.1");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        connection.abort();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }
}

/// A request whose head was sent, and whose body is still to come.
pub(crate) struct Begun {
    stream: tokio_rustls::client::TlsStream<TcpStream>,
    body: Vec<u8>,
}

impl Begun {
    /// Sends the body and gives the status and all that came.
    pub(crate) async fn finish(mut self) -> (u16, String) {
        self.stream.write_all(&self.body).await.unwrap();
        let mut answer = Vec::new();
        self.stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }
}

impl Client {
    /// Sends the head of a request and holds its body back.
    pub(crate) async fn begin(&self, method: &str, path: &str, body: &Value) -> Begun {
        let body = body.to_string().into_bytes();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await.unwrap();
        let token = self.token.as_deref().unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
             content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        // The hub asks for the body: who asks was looked at.
        let mut go_on = [0; 25];
        stream.read_exact(&mut go_on).await.unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        Begun { stream, body }
    }
}

/// An answer that comes line by line.
pub(crate) struct Lines {
    body: hyper::body::Incoming,
    rest: Vec<u8>,
    _connection: tokio::task::JoinHandle<hyper::Result<()>>,
}

impl Lines {
    /// The next line that is not empty; `None` at the end. One that does not come fails the test.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(std::time::Duration::from_secs(30), self.line()).await.expect("a line comes")
    }

    async fn line(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                if line.len() > 1 {
                    return Some(serde_json::from_slice(&line).unwrap());
                }
                continue;
            }
            let frame = self.body.frame().await?.unwrap();
            self.rest.extend_from_slice(&frame.into_data().unwrap_or_default());
        }
    }
}

impl Client {
    /// Opens a stream of lines; its status must be 200.
    pub(crate) async fn lines(&self, path: &str) -> Lines {
        let token = self.token.as_deref().unwrap_or_default();
        let request = http::Request::get(path).header("host", "127.0.0.1").header("authorization", format!("Bearer {token}"));
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let answer = sender.send_request(request.body(Full::new(Bytes::new())).unwrap()).await.unwrap();
        assert_eq!(answer.status(), 200);
        Lines { body: answer.into_body(), rest: Vec::new(), _connection: connection }
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("not JSON: {:?}", self.body))
    }

    /// The body of an answer that must have this status.
    #[track_caller]
    pub(crate) fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The problem of an answer that must be one with this code: its form is checked each time.
    #[track_caller]
    pub(crate) fn problem(&self, code: &str) -> Problem {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.headers.get("content-type").map(|value| value.to_str().unwrap()), Some(MEDIA_TYPE), "{text}");
        let problem: Problem = serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(problem.code, code, "{text}");
        assert_eq!(problem.status, self.status, "{text}");
        assert!(problem.detail.len() > 10, "{text}");
        assert_eq!(problem.request.as_deref(), self.headers.get("x-request-id").map(|value| value.to_str().unwrap()), "{text}");
        problem
    }
}
