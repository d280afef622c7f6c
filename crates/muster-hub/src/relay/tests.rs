//! Two ends against a relay behind the real listener, over TLS on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response as Answer};
use axum::routing::any;
use muster_link::tls::{self, Clock, Trust};
use muster_link::websocket::{Message, Upgrade, UpgradeError, connect};
use muster_proto::session::{Control, SUBPROTOCOL};
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::*;
use crate::api::ApiError;
use crate::ca::Ca;
use crate::listener;
use crate::tls::ServerCertificate;

const DEADLINE: Duration = Duration::from_secs(20);

struct Hub {
    dir: tempfile::TempDir,
    address: SocketAddr,
    client: Arc<rustls::ClientConfig>,
    store: Store,
    relay: Relay,
    orders: Arc<Mutex<Vec<SessionOrder>>>,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

async fn leg(State(relay): State<Relay>, Path((id, side)): Path<(String, String)>, request: Request<Body>) -> Answer {
    let side = if side == "client" { Side::Client } else { Side::Device };
    let ticket =
        request.headers().get("authorization").and_then(|value| value.to_str().ok()).and_then(|value| value.strip_prefix("Bearer "));
    let attached = match relay.admit(&id.parse().unwrap(), side, ticket).await {
        Ok(admitted) => admitted.attach(request),
        Err(problem) => Err(problem),
    };
    attached.map_or_else(|problem| ApiError::from(problem).into_response(), IntoResponse::into_response)
}

impl Hub {
    async fn start(dir: tempfile::TempDir) -> Self {
        let store = Store::open(&dir.path().join("hub.db")).unwrap();
        store
            .write(|tx| Ok(tx.execute("INSERT OR IGNORE INTO orgs (id, name, created_at) VALUES ('acme', 'Acme', 0)", [])?))
            .await
            .unwrap();
        let now = clock::now();
        let ca = Ca::open_or_create(dir.path(), now).unwrap();
        let server = ServerCertificate::open(dir.path(), vec!["127.0.0.1".to_owned()], &ca, now).unwrap().https().unwrap();
        let client = tls::client_config(&Trust::Pin(ca.pin()), None, &Clock::with_floor(0)).unwrap();
        let orders = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&orders);
        let order: Order = Arc::new(move |_, order| collected.lock().unwrap().push(order));
        let relay = Relay::start(store.clone(), &Metrics::default(), order).await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let router = Router::new().route("/v1/sessions/{id}/{side}", any(leg)).with_state(relay.clone());
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(listener::serve(tcp, server, router, shutdown.clone()));
        Self { dir, address, client, store, relay, orders, shutdown, serving }
    }

    /// Stops it as a hub stops.
    async fn stop(self) -> tempfile::TempDir {
        self.shutdown.cancel();
        self.serving.await.unwrap();
        self.relay.stop().await;
        self.store.close().await;
        self.dir
    }

    /// A session in the store and in the relay, with its tickets.
    async fn session(&self) -> Tickets {
        let now = clock::now();
        let ((client, client_ticket), (device, device_ticket)) = (Ticket::make(now), Ticket::make(now));
        let row = SessionRow::example(now, client_ticket, device_ticket);
        let filed = row.clone();
        self.store.write(move |tx| sessions::insert(tx, &filed)).await.unwrap();
        self.relay.open(&row);
        Tickets { id: row.id, uid: row.uid, client, device }
    }

    async fn dial(&self, id: &SessionId, side: Side, ticket: &str) -> Result<WebSocket, UpgradeError> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let (tcp, tls) = TlsConnector::from(Arc::clone(&self.client)).connect(name, tcp).await.unwrap().into_inner();
        let path = format!("/v1/sessions/{id}/{}", if side == Side::Client { "client" } else { "device" });
        let host = self.address.to_string();
        connect(tcp, tls.into(), &Upgrade { host: &host, path: &path, protocol: SUBPROTOCOL, bearer: Some(ticket) }).await
    }

    async fn both(&self, tickets: &Tickets) -> (WebSocket, WebSocket) {
        let client = self.dial(&tickets.id, Side::Client, &tickets.client).await.unwrap();
        let device = self.dial(&tickets.id, Side::Device, &tickets.device).await.unwrap();
        (client, device)
    }

    async fn row(&self, id: &SessionId) -> SessionRow {
        let id = id.clone();
        self.store.read(move |db| sessions::by_id(db, &id)).await.unwrap().unwrap()
    }
}

struct Tickets {
    id: SessionId,
    uid: DeviceUid,
    client: String,
    device: String,
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("it takes too long")
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    within(async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    tracing::debug!(what, "reached");
}

async fn say(socket: &mut WebSocket, text: &str) {
    socket.queue_text(text);
    socket.flush().await.unwrap();
}

async fn text(socket: &mut WebSocket) -> String {
    match within(socket.read()).await.unwrap() {
        Some(Message::Text(text)) => text,
        other => panic!("no text but {other:?}"),
    }
}

/// The next text that is not one which a test sent again and again.
async fn text_but(socket: &mut WebSocket, not: &str) -> String {
    loop {
        let text = text(socket).await;
        if text != not {
            return text;
        }
    }
}

fn problem(dialled: Result<WebSocket, UpgradeError>) -> (u16, Problem) {
    let Err(UpgradeError::Refused { status, body }) = dialled else { panic!("not refused") };
    (status, serde_json::from_slice(&body).unwrap())
}

#[tokio::test]
async fn messages_pass_both_ways_and_are_counted() {
    let hub = Hub::start(tempfile::tempdir().unwrap()).await;
    let tickets = hub.session().await;
    assert_eq!(hub.relay.now(&tickets.id).unwrap().state, SessionState::Opening);
    let mut client = hub.dial(&tickets.id, Side::Client, &tickets.client).await.unwrap();
    // Said before the device is there, and held for it.
    say(&mut client, "hello").await;
    let mut device = hub.dial(&tickets.id, Side::Device, &tickets.device).await.unwrap();
    assert_eq!(text(&mut device).await, "hello");
    assert_eq!(hub.relay.now(&tickets.id).unwrap().state, SessionState::Open);

    let bulk: Vec<u8> = (0..65_536u32).map(|at| (at / 7) as u8).collect();
    let rounds = 64;
    let sending = async {
        for _ in 0..rounds {
            device.queue_binary([0, 0, 0, 1], &bulk);
            device.flush().await.unwrap();
        }
    };
    let receiving = async {
        for _ in 0..rounds {
            let Some(Message::Binary(message)) = client.read().await.unwrap() else { panic!("no binary message") };
            assert!(message[..4] == [0, 0, 0, 1] && message[4..] == bulk);
        }
    };
    within(async { tokio::join!(sending, receiving) }).await;
    // A message is counted when it has been handed on, a moment after the other end may have read it.
    until("all is counted", async || {
        let now = hub.relay.now(&tickets.id).unwrap();
        (now.to_device, now.to_client) == (5, rounds * 65_540)
    })
    .await;

    assert!(
        hub.relay
            .end(
                &tickets.id,
                End { code: "ended".into(), message: "by hand".into(), by: "ada@example.com".into(), from: Some([192, 0, 2, 7].into()) }
            )
            .await
    );
    let close = Control::Close { code: "ended".into(), message: "by hand".into() }.encode();
    for socket in [&mut client, &mut device] {
        assert_eq!(text(socket).await, close);
        assert_eq!(within(socket.read()).await.unwrap(), Some(Message::Close { code: 4410, reason: "by hand".into() }));
    }
    let row = hub.row(&tickets.id).await;
    assert_eq!((row.to_device, row.to_client), (5, rounds * 65_540));
    assert!(row.opened_at.is_some() && row.ended_at.is_some());
    assert_eq!(row.end_reason.as_deref(), Some("by hand"));
    // Also on its lane, though it heard it on its leg: what the visitor left behind may linger there.
    let ordered = hub.orders.lock().unwrap().clone();
    assert_eq!(ordered.len(), 1, "{ordered:?}");
    assert!(matches!(&ordered[0], SessionOrder::End { session, reason } if *session == tickets.id && reason == "by hand"), "{ordered:?}");
    let events = hub
        .store
        .read(|db| store::audit::list(db, "acme", &store::audit::Filter::default(), store::audit::From::Before(i64::MAX), 10))
        .await
        .unwrap();
    assert_eq!((events[0].action.as_str(), events[0].actor.as_str()), ("session.end", "ada@example.com"));
    assert_eq!(events[0].from.as_deref(), Some("192.0.2.7"), "where the person ended it from");
    assert_eq!(events[0].details["to_client"], rounds * 65_540);
    assert!(!hub.relay.end(&tickets.id, End::by_hub("again", "again")).await);

    let (status, refusal) = problem(hub.dial(&tickets.id, Side::Client, &tickets.client).await);
    assert_eq!((status, refusal.code.as_str(), refusal.detail.as_str()), (410, "session_ended", "by hand"));
    hub.stop().await;
}

#[tokio::test]
async fn tickets_let_in_their_own_side_only() {
    let hub = Hub::start(tempfile::tempdir().unwrap()).await;
    let tickets = hub.session().await;
    for (side, ticket) in [(Side::Client, tickets.device.as_str()), (Side::Device, &tickets.client), (Side::Client, "wrong")] {
        let (status, refusal) = problem(hub.dial(&tickets.id, side, ticket).await);
        assert_eq!((status, refusal.code.as_str()), (401, "unauthenticated"));
    }
    let (status, refusal) = problem(hub.dial(&SessionId::from_random([1; 15]), Side::Client, &tickets.client).await);
    assert_eq!((status, refusal.code.as_str()), (404, "not_found"));
    hub.relay.end(&tickets.id, End::by_hub("x", "x")).await;
    let (status, refusal) = problem(hub.dial(&tickets.id, Side::Client, "wrong").await);
    assert_eq!((status, refusal.code.as_str()), (404, "not_found"), "a stranger learns nothing of an ended session");
    assert_eq!(hub.orders.lock().unwrap().len(), 1, "a device without leg is told by MQTT");
    hub.stop().await;
}

#[tokio::test]
async fn a_leg_that_drops_comes_back_and_the_other_stays() {
    let hub = Hub::start(tempfile::tempdir().unwrap()).await;
    let tickets = hub.session().await;
    let (mut client, mut device) = hub.both(&tickets).await;
    say(&mut device, "one").await;
    assert_eq!(text(&mut client).await, "one");
    drop(device);
    until("interrupted", async || hub.relay.now(&tickets.id).unwrap().state == SessionState::Interrupted).await;
    say(&mut client, "into nothing").await;
    let mut device = hub.dial(&tickets.id, Side::Device, &tickets.device).await.unwrap();
    until("open", async || hub.relay.now(&tickets.id).unwrap().state == SessionState::Open).await;
    say(&mut client, "two").await;
    assert_eq!(text_but(&mut device, "into nothing").await, "two");

    // A second leg of the same side takes the place of the first.
    let mut newer = hub.dial(&tickets.id, Side::Device, &tickets.device).await.unwrap();
    assert!(matches!(within(device.read()).await.unwrap(), Some(Message::Close { code: 4409, .. })));
    say(&mut newer, "three").await;
    assert_eq!(text(&mut client).await, "three");
    hub.stop().await;
}

#[tokio::test]
async fn an_end_that_is_done_ends_the_session() {
    let hub = Hub::start(tempfile::tempdir().unwrap()).await;
    let tickets = hub.session().await;
    let (mut client, mut device) = hub.both(&tickets).await;
    until("open", async || hub.relay.now(&tickets.id).unwrap().state == SessionState::Open).await;
    say(&mut client, "bye").await;
    client.queue_close(1000, "");
    client.flush().await.unwrap();
    assert_eq!(text(&mut device).await, "bye");
    assert!(text(&mut device).await.contains("ended by the user"));
    until("ended", async || hub.row(&tickets.id).await.ended_at.is_some()).await;
    until("gone", async || hub.relay.now(&tickets.id).is_none()).await;
    hub.stop().await;
}

#[tokio::test]
async fn sessions_survive_a_restart_of_the_hub() {
    let hub = Hub::start(tempfile::tempdir().unwrap()).await;
    let (tickets, unused) = (hub.session().await, hub.session().await);
    let (mut client, mut device) = hub.both(&tickets).await;
    say(&mut client, "one").await;
    assert_eq!(text(&mut device).await, "one");
    let dir = hub.stop().await;
    assert!(!matches!(within(client.read()).await, Ok(Some(Message::Text(_)))));

    let hub = Hub::start(dir).await;
    assert_eq!(hub.relay.now(&tickets.id).unwrap().state, SessionState::Interrupted);
    let (mut client, mut device) = hub.both(&tickets).await;
    say(&mut client, "two").await;
    assert_eq!(text(&mut device).await, "two");
    until("what passed before the restart and after it is counted", async || hub.relay.now(&tickets.id).unwrap().to_device == 6).await;
    assert_eq!(hub.relay.end_device(&tickets.uid, &End::by_hub("device_revoked", "the device was revoked")).await, 2);
    assert!(text(&mut client).await.contains("device_revoked"));
    assert!(hub.row(&unused.id).await.ended_at.is_some());
    hub.stop().await;
}

#[tokio::test]
async fn a_leg_that_meets_a_hub_that_stops_is_told_to_come_back() {
    let hub = Hub::start(tempfile::tempdir().unwrap()).await;
    let tickets = hub.session().await;
    let legs = hub.both(&tickets).await;
    // The relay has let go, and a last request is still answered.
    hub.relay.stop().await;
    let (status, refusal) = problem(hub.dial(&tickets.id, Side::Client, &tickets.client).await);
    assert_eq!((status, refusal.code.as_str()), (503, "unavailable"), "the session is not over: {}", refusal.detail);
    drop(legs);
    hub.stop().await;
}

#[tokio::test]
async fn a_device_may_fail_its_own_sessions_only() {
    let hub = Hub::start(tempfile::tempdir().unwrap()).await;
    let tickets = hub.session().await;
    let mut client = hub.dial(&tickets.id, Side::Client, &tickets.client).await.unwrap();
    let failed = |message: &str| DeviceEvent {
        t: 0,
        kind: DeviceEventKind::SessionFailed { session: tickets.id.clone(), code: "device_refused".into(), message: message.into() },
    };
    hub.relay.device_event(&DeviceUid::from_random([8; 15]), &failed("not mine"));
    hub.relay.device_event(&tickets.uid, &failed("the policy is locked"));
    let close = Control::Close { code: "device_refused".into(), message: "the policy is locked".into() }.encode();
    assert_eq!(text(&mut client).await, close);
    hub.stop().await;
}

#[tokio::test]
async fn a_slow_reader_slows_its_peer_and_nobody_else() {
    let hub = Hub::start(tempfile::tempdir().unwrap()).await;
    let (slow, quick) = (hub.session().await, hub.session().await);
    let (client, mut device) = hub.both(&slow).await;
    let bulk = vec![7; 65_536];
    // Until nothing moves any more: sockets and buffers are full.
    let stuck = async {
        loop {
            device.queue_binary([0; 4], &bulk);
            if timeout(Duration::from_millis(300), device.flush()).await.is_err() {
                return;
            }
        }
    };
    within(stuck).await;
    let relayed = hub.relay.now(&slow.id).unwrap().to_client;
    assert!(relayed < 64 * 1024 * 1024, "{relayed} bytes were taken for a client that reads none");
    let (mut other, mut device) = hub.both(&quick).await;
    say(&mut device, "quick").await;
    assert_eq!(text(&mut other).await, "quick");
    assert!(hub.relay.end(&slow.id, End::by_hub("x", "x")).await, "a stuck session can be ended");
    drop(client);
    hub.stop().await;
}
