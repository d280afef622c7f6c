//! Sessions over the API of a whole hub: who may open one, whose leg gets in, what the list says, how it ends.

#[path = "sessions/certificates.rs"]
mod certificates;
#[path = "sessions/lapse.rs"]
mod lapse;
#[path = "mqtt_common/hub.rs"]
mod mqtt_common;

use std::net::SocketAddr;
use std::sync::Arc;

use mqtt_common::*;
use muster_hub::ca::PeerName;
use muster_hub::config::Config;
use muster_hub::init::{self, First};
use muster_hub::serve::{Ports, Running, start};
use muster_link::dial::Dialer;
use muster_link::http::{Hub as Http, Request};
use muster_link::websocket::{Message, Upgrade, UpgradeError, WebSocket, connect};
use muster_proto::api::{AuditEvent, Page, Session, SessionState, SessionTicket};
use muster_proto::mqtt::{SessionOpen, SessionOrder};
use muster_proto::order::{COMMON_NAME, OrderKind, SIGNED, SignedOrder};
use muster_proto::problem::Problem;
use muster_proto::session::SUBPROTOCOL;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

struct Whole {
    running: Running,
    https: SocketAddr,
    token: String,
    _dir: TempDir,
}

impl Whole {
    async fn start() -> Self {
        let mut hub = Self::again(tempfile::tempdir().unwrap(), String::new()).await;
        hub.token = hub.person("ada@example.com", Some("acme")).await;
        hub
    }

    /// A hub on a data directory that may have had one.
    async fn again(dir: TempDir, token: String) -> Self {
        let text = format!(
            "data_dir = {:?}\nlisten = \"127.0.0.1:0\"\npublic_url = \"https://localhost:0\"\n\
             [mqtt]\nlisten = \"127.0.0.1:0\"\npublic_url = \"mqtts://localhost:0\"\n",
            dir.path()
        );
        let config = Config::parse(&text, "the test's configuration", []).unwrap();
        let ports = Ports::bind(&config).await.unwrap();
        let running = start(config, ports).await.unwrap();
        Self { https: running.https, running, token, _dir: dir }
    }

    /// An account with a token; the owner of an organization with a project `lab`, if it names one.
    async fn person(&self, email: &str, org: Option<&str>) -> String {
        let (store, ca) = (self.running.state.store.clone(), self.running.state.ca.clone());
        let first = First {
            owner: email.to_owned(),
            org: org.map(|org| org.parse().unwrap()),
            project: org.map(|_| "lab".parse().unwrap()),
            token_name: "test".to_owned(),
        };
        tokio::task::spawn_blocking(move || init::first(&store, &ca, first).unwrap()).await.unwrap()
    }

    async fn device(&self, uid: &str) -> Papers {
        let papers = device(&self.running.state.store, &self.running.state.ca, uid, "acme").await;
        let uid = uid.to_owned();
        self.running
            .state
            .store
            .write(move |tx| Ok(tx.execute("INSERT INTO device_projects (uid, org, project) VALUES (?1, 'acme', 'lab')", [uid])?))
            .await
            .unwrap();
        papers
    }

    /// A device's MQTT link that listens to its lane.
    async fn linked(&self, uid: &str, papers: &Papers) -> Raw<tokio_rustls::client::TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.running.mqtt.unwrap()).await.unwrap();
        let connector = TlsConnector::from(Arc::new(client_tls(self.running.state.ca.der(), Some(papers))));
        let mut raw = Raw::new(connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap());
        raw.send(&mqtt_common::connect(uid, 2, &[], &[])).await;
        assert_eq!(raw.packet().await.expect("CONNACK")[3], 0);
        assert_eq!(raw.subscribe(&format!("muster/v1/{uid}/down/#")).await, 1);
        raw
    }

    async fn call(&self, token: &str, method: &str, path: &str, body: &Value) -> Result<Value, Problem> {
        let url = format!("https://{}", self.https).replace("127.0.0.1", "localhost");
        let dialer = Dialer::new(Arc::new(client_tls(self.running.state.ca.der(), None)));
        let mut http = Http::new(&url.parse().unwrap(), dialer);
        let body = serde_json::to_vec(body).unwrap();
        let body = (method == "POST").then_some(&body[..]);
        let answer =
            http.send(&Request { bearer: (!token.is_empty()).then_some(token), body, ..Request::new(method, path) }).await.unwrap();
        let value = if answer.body.is_empty() { Value::Null } else { serde_json::from_slice(&answer.body).unwrap() };
        if answer.status < 400 { Ok(value) } else { Err(serde_json::from_value(value).unwrap()) }
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        serde_json::from_value(self.call(&self.token, "GET", path, &Value::Null).await.unwrap()).unwrap()
    }

    async fn open(&self, device: &str, wanted: &Value) -> Result<SessionTicket, Problem> {
        let path = format!("/v1/orgs/acme/devices/{device}/sessions");
        Ok(serde_json::from_value(self.call(&self.token, "POST", &path, wanted).await?).unwrap())
    }

    async fn leg(&self, url: &str, ticket: &str, papers: Option<&Papers>) -> Result<WebSocket, Problem> {
        let path = &url[url.find("/v1/").unwrap()..];
        let mut tls = client_tls(self.running.state.ca.der(), papers);
        tls.enable_secret_extraction = true;
        let tcp = TcpStream::connect(self.https).await.unwrap();
        let (tcp, tls) =
            TlsConnector::from(Arc::new(tls)).connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap().into_inner();
        match connect(tcp, tls.into(), &Upgrade { host: "localhost", path, protocol: SUBPROTOCOL, bearer: Some(ticket) }).await {
            Ok(leg) => Ok(leg),
            Err(UpgradeError::Refused { body, .. }) => Err(serde_json::from_slice(&body).unwrap()),
            Err(error) => panic!("{error}"),
        }
    }
}

/// What the hub told a device to do.
fn order(packet: &[u8]) -> SessionOrder {
    // A length may be a brace too.
    let at = packet.windows(6).position(|bytes| bytes == b"{\"do\":").expect("a payload");
    serde_json::from_slice(&packet[at..]).unwrap()
}

fn opened(order: SessionOrder) -> SessionOpen {
    match order {
        SessionOrder::Open(signed) => inside(&signed),
        other => panic!("{other:?}"),
    }
}

fn inside(signed: &SignedOrder) -> SessionOpen {
    match signed.read().unwrap().kind {
        OrderKind::Session { open } => open,
        other => panic!("{other:?}"),
    }
}

/// The key that the order names is certified for orders by this hub's authority, and has signed it.
fn is_signed(hub: &Whole, signed: &SignedOrder) {
    let (bytes, signature, certificate) = signed.parts().unwrap();
    let ((_, certificate), (_, authority)) =
        (X509Certificate::from_der(&certificate).unwrap(), X509Certificate::from_der(hub.running.state.ca.der()).unwrap());
    certificate.verify_signature(Some(authority.public_key())).unwrap();
    assert_eq!(certificate.subject().to_string(), format!("CN={COMMON_NAME}"));
    let key = ring::signature::UnparsedPublicKey::new(
        &ring::signature::ECDSA_P256_SHA256_ASN1,
        certificate.public_key().subject_public_key.data.to_vec(),
    );
    key.verify(&[SIGNED, &bytes].concat(), &signature).unwrap();
}

async fn text(leg: &mut WebSocket) -> String {
    match tokio::time::timeout(WAIT, leg.read()).await.unwrap().unwrap() {
        Some(Message::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_the_order_to_the_record() {
    let hub = Whole::start().await;
    let (a, b) = (hub.device(A).await, hub.device(B).await);
    let refused = hub.open(A, &json!({})).await.err().unwrap();
    assert_eq!(refused.code, "device_offline", "{refused}");
    let mut link = hub.linked(A, &a).await;

    let ticket = hub.open(A, &json!({ "want": "shell", "reason": "ticket 4711" })).await.unwrap();
    let SessionOrder::Open(signed) = order(&link.packet().await.unwrap()) else { panic!("no order to open") };
    let (meant, key) = (signed.read().unwrap(), PeerName::read(&a.certificate).unwrap().key);
    assert_eq!((meant.device.as_str(), meant.device_key), (A, muster_hub::random::to_hex(&key)));
    is_signed(&hub, &signed);
    let open = inside(&signed);
    assert_eq!(open.t, meant.t);
    assert_eq!((&open.session, open.user.as_str(), open.role.as_str()), (&ticket.session, "ada@example.com", "admin"));
    assert_eq!((open.project.as_str(), open.reason.as_deref()), ("lab", Some("ticket 4711")));
    let session: Session = hub.get(&format!("/v1/orgs/acme/sessions/{}", ticket.session)).await;
    assert_eq!((session.state, session.want.as_deref()), (SessionState::Opening, Some("shell")));

    // The device's leg is for the device alone, with its ticket.
    let no_papers = hub.leg(&open.relay, &open.ticket, None).await.err().unwrap();
    assert_eq!(no_papers.code, "unauthenticated");
    let other = hub.leg(&open.relay, &open.ticket, Some(&b.signs(open.session.as_str()))).await.err().unwrap();
    assert_eq!(other.code, "forbidden");
    let a = a.signs(open.session.as_str());
    let wrong = hub.leg(&open.relay, &ticket.ticket, Some(&a)).await.err().unwrap();
    assert_eq!(wrong.code, "unauthenticated");

    let mut client = hub.leg(&ticket.relay, &ticket.ticket, None).await.unwrap();
    let mut device = hub.leg(&open.relay, &open.ticket, Some(&a)).await.unwrap();
    client.queue_text("hi");
    client.flush().await.unwrap();
    assert_eq!(text(&mut device).await, "hi");
    let list: Page<Session> = hub.get(&format!("/v1/orgs/acme/sessions?device={A}&state=open")).await;
    assert_eq!(list.items.iter().map(|session| (&session.id, session.to_device)).collect::<Vec<_>>(), [(&ticket.session, 2)]);

    let path = format!("/v1/orgs/acme/sessions/{}", ticket.session);
    hub.call(&hub.token, "DELETE", &path, &Value::Null).await.unwrap();
    assert!(text(&mut client).await.contains("ended by ada@example.com"));
    assert!(text(&mut device).await.contains("ended by ada@example.com"));
    let session: Session = hub.get(&path).await;
    assert_eq!((session.state, session.end_reason.as_deref()), (SessionState::Ended, Some("ended by ada@example.com")));
    let again = hub.call(&hub.token, "DELETE", &path, &Value::Null).await.err().unwrap();
    assert_eq!(again.code, "session_ended");
    let audit: Page<AuditEvent> = hub.get("/v1/orgs/acme/audit").await;
    let actions: Vec<_> = audit.items.iter().map(|event| (event.action.as_str(), event.result.as_str())).collect();
    for wanted in [("session.open", "ok"), ("session.open", "device_offline"), ("session.end", "ok"), ("session.end", "session_ended")] {
        assert!(actions.contains(&wanted), "{wanted:?} is not in {actions:?}");
    }
    hub.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_is_revoked_loses_its_sessions_at_once() {
    let hub = Whole::start().await;
    let a = hub.device(A).await;
    let mut link = hub.linked(A, &a).await;
    let ticket = hub.open(A, &json!({})).await.unwrap();
    let open = opened(order(&link.packet().await.unwrap()));
    let mut client = hub.leg(&ticket.relay, &ticket.ticket, None).await.unwrap();
    let a = a.signs(open.session.as_str());
    let mut device = hub.leg(&open.relay, &open.ticket, Some(&a)).await.unwrap();
    let started = std::time::Instant::now();
    hub.call(&hub.token, "POST", &format!("/v1/orgs/acme/devices/{A}/revoke"), &json!({ "reason": "stolen" })).await.unwrap();
    assert!(text(&mut client).await.contains("revoked"));
    assert!(text(&mut device).await.contains("revoked"));
    assert!(started.elapsed() < std::time::Duration::from_secs(1));
    let refused = hub.open(A, &json!({})).await.err().unwrap();
    assert_eq!(refused.code, "device_revoked");
    let leg = hub.leg(&open.relay, &open.ticket, Some(&a)).await.err().unwrap();
    assert_eq!(leg.code, "device_revoked");
    hub.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_those_with_the_right_open_and_see() {
    let hub = Whole::start().await;
    let a = hub.device(A).await;
    let mut link = hub.linked(A, &a).await;
    let ticket = hub.open(A, &json!({})).await.unwrap();
    let _ = link.packet().await;
    let stranger = hub.person("eve@example.com", Some("other")).await;
    let devices = format!("/v1/orgs/acme/devices/{A}/sessions");
    for (method, path) in
        [("POST", devices.clone()), ("GET", format!("/v1/orgs/acme/sessions/{}", ticket.session)), ("GET", "/v1/orgs/acme/sessions".into())]
    {
        assert_eq!(hub.call(&stranger, method, &path, &json!({})).await.err().unwrap().code, "not_found", "{path}");
    }
    let own = format!("/v1/orgs/other/sessions/{}", ticket.session);
    assert_eq!(hub.call(&stranger, "GET", &own, &json!({})).await.err().unwrap().code, "not_found");

    let viewer = hub.person("vic@example.com", None).await;
    hub.joins("vic@example.com", "viewer").await;
    let refused = hub.call(&viewer, "POST", &devices, &json!({})).await.err().unwrap();
    assert_eq!(refused.code, "forbidden", "{refused}");
    let path = format!("/v1/orgs/acme/sessions/{}", ticket.session);
    hub.call(&viewer, "GET", &path, &json!({})).await.unwrap();
    assert_eq!(hub.call(&viewer, "DELETE", &path, &json!({})).await.err().unwrap().code, "forbidden");

    for (wanted, code) in [
        (json!({ "project": "nowhere" }), "not_found"),
        (json!({ "want": "x".repeat(41) }), "invalid"),
        (json!({ "reason": "a\nb" }), "invalid"),
        (json!({ "unknown": 1 }), "invalid"),
    ] {
        assert_eq!(hub.open(A, &wanted).await.err().unwrap().code, code, "{wanted}");
    }
    hub.running.stop().await;
}

impl Whole {
    /// Makes somebody with an account a member, as an accepted invitation does.
    async fn joins(&self, email: &'static str, role: &'static str) {
        let sql = "INSERT INTO members (org, account, role, since) SELECT 'acme', id, ?2, 0 FROM accounts WHERE email = ?1";
        let made = self.running.state.store.write(move |tx| Ok(tx.execute(sql, [email, role])?)).await.unwrap();
        assert_eq!(made, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_at_the_same_time_are_as_many_as_there_may_be() {
    let hub = Whole::start().await;
    let papers = hub.device(A).await;
    let mut link = hub.linked(A, &papers).await;
    let sql = "INSERT INTO limits (org, scope, name, most) VALUES ('acme', 'own', 'sessions', 1)";
    hub.running.state.store.write(move |tx| Ok(tx.execute(sql, [])?)).await.unwrap();
    let first = hub.open(A, &json!({})).await.unwrap();
    for _ in 0..3 {
        let refused = hub.open(A, &json!({})).await.err().unwrap();
        assert_eq!(refused.code, "limit_reached", "{refused}");
        assert!(
            refused.detail.contains("1 sessions at the same time") && refused.detail.contains("muster limit set sessions"),
            "{refused}"
        );
    }
    let count = |db: &rusqlite::Connection| Ok(db.query_row("SELECT count(*) FROM sessions", [], |row| row.get::<_, i64>(0))?);
    assert_eq!(hub.running.state.store.read(count).await.unwrap(), 1, "one that was refused leaves no record");
    hub.call(&hub.token, "DELETE", &format!("/v1/orgs/acme/sessions/{}", first.session), &Value::Null).await.unwrap();
    // Its place is free once its end is in the record; the device hears of no other than these two.
    let deadline = tokio::time::Instant::now() + WAIT;
    let second = loop {
        match hub.open(A, &json!({})).await {
            Ok(second) => break second,
            Err(refused) => assert!(refused.code == "limit_reached" && tokio::time::Instant::now() < deadline, "{refused}"),
        }
    };
    let mut opened = Vec::new();
    while opened.last() != Some(&second.session) {
        if let SessionOrder::Open(open) = order(&link.packet().await.unwrap()) {
            opened.push(inside(&open).session);
        }
    }
    assert_eq!(opened, [first.session, second.session]);
    hub.running.stop().await;
}
