//! The smallest relay: two WebSockets over TLS, messages from one to the other, and a switch that cuts both.
//!
//! For tests only, behind a feature: it knows one session, checks no certificate and believes one ticket.
#![expect(clippy::unwrap_used, reason = "only tests compile this")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use muster_proto::session::SUBPROTOCOL;
use muster_proto::token::Pin;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::dial::{DIAL_TIMEOUT, Dialer};
use crate::driver::{CLOSE_ENDED, Relay};
use crate::test_hub::Authority;
use crate::tls::{self, Clock, Trust};
use crate::websocket::{Message, Role, WebSocket, accept_key};

/// A running relay; it ends when dropped.
pub struct TestRelay {
    address: SocketAddr,
    pin: Pin,
    task: JoinHandle<()>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Answer upgrades with this status instead.
    refuse: AtomicUsize,
    cut: AtomicBool,
    moved: AtomicUsize,
    dials: AtomicUsize,
    close_ended: AtomicBool,
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl TestRelay {
    /// Starts on a free port of loopback.
    pub async fn start() -> Self {
        let authority = Authority::new();
        Self::start_as(authority.server(&["127.0.0.1"]), authority.pin()).await
    }

    /// The same with the certificate of another authority, such as a hub's that one end believes.
    pub async fn start_as(config: Arc<ServerConfig>, pin: Pin) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(run(listener, config, Arc::clone(&shared)));
        Self { address, pin, task, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What one end, `client` or `device`, needs to dial it.
    pub fn relay(&self, side: &str) -> Relay {
        let tls = tls::client_config(&Trust::Pin(self.pin), None, &Clock::default()).unwrap();
        let endpoint = format!("wss://{}/v1/sessions/x/{side}", self.address).parse().unwrap();
        Relay { endpoint, ticket: "ticket".into(), dialer: Dialer { timeout: DIAL_TIMEOUT, ..Dialer::new(tls) } }
    }

    /// The authority of its certificate, for an end that is another process.
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// Cuts both legs, as a restart of the hub does.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::Relaxed);
    }

    /// Answers upgrades with this status from now on; 0 takes them again.
    pub fn refuse(&self, status: usize) {
        self.shared.refuse.store(status, Ordering::Relaxed);
    }

    /// Ends the session for good, as a hub does that revokes a device.
    pub fn close_ended(&self) {
        self.shared.close_ended.store(true, Ordering::Relaxed);
    }

    /// Bytes of binary messages so far.
    pub fn moved(&self) -> usize {
        self.shared.moved.load(Ordering::Relaxed)
    }

    /// Connections so far.
    pub fn dials(&self) -> usize {
        self.shared.dials.load(Ordering::Relaxed)
    }
}

async fn run(listener: TcpListener, config: Arc<ServerConfig>, shared: Arc<Shared>) {
    let mut legs: [Option<WebSocket>; 2] = [None, None];
    let mut look = tokio::time::interval(Duration::from_millis(5));
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (tcp, _) = accepted.unwrap();
                shared.dials.fetch_add(1, Ordering::Relaxed);
                if let Some((side, leg)) = upgrade(tcp, Arc::clone(&config), shared.refuse.load(Ordering::Relaxed)).await {
                    legs[side] = Some(leg);
                }
            }
            () = std::future::poll_fn(|cx| forward(&mut legs, &shared, cx)) => {}
            _ = look.tick() => {}
        }
        if shared.close_ended.load(Ordering::Relaxed) {
            for leg in legs.iter_mut().flatten() {
                leg.queue_text(r#"{"type":"close","code":"revoked","message":"revoked by an owner"}"#);
                leg.queue_close(CLOSE_ENDED, "revoked by an owner");
                leg.flush().await.unwrap();
            }
        }
        if shared.cut.swap(false, Ordering::Relaxed) {
            legs = [None, None];
        }
    }
}

/// Moves what can be moved; never ready.
fn forward(legs: &mut [Option<WebSocket>; 2], shared: &Shared, cx: &mut Context<'_>) -> Poll<()> {
    for from in 0..2 {
        for _ in 0..64 {
            let Some(mut source) = legs[from].take() else { break };
            let to = &mut legs[1 - from];
            let ready = match to {
                Some(to) => matches!(to.poll_flush(cx), Poll::Ready(Ok(()))),
                None => true,
            };
            if !ready {
                legs[from] = Some(source);
                break;
            }
            let message = source.poll_read(cx);
            let _ = source.poll_flush(cx);
            match message {
                Poll::Pending => {
                    legs[from] = Some(source);
                    break;
                }
                Poll::Ready(Ok(Some(Message::Text(text)))) => {
                    if let Some(to) = to {
                        to.queue_text(&text);
                    }
                }
                Poll::Ready(Ok(Some(Message::Binary(data)))) => {
                    shared.moved.fetch_add(data.len(), Ordering::Relaxed);
                    if let Some(to) = to {
                        to.queue_message(&data);
                    }
                }
                Poll::Ready(_) => break,
            }
            if let Some(to) = to {
                let _ = to.poll_flush(cx);
            }
            legs[from] = Some(source);
        }
    }
    Poll::Pending
}

async fn upgrade(tcp: TcpStream, config: Arc<ServerConfig>, refuse: usize) -> Option<(usize, WebSocket)> {
    let mut stream = TlsAcceptor::from(config).accept(tcp).await.ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("Authorization: Bearer ticket\r\n"), "{head}");
    if refuse > 0 {
        let body = r#"{"code":"session_ended","status":410,"detail":"the session is over"}"#;
        let answer =
            format!("HTTP/1.1 {refuse} No\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.ok()?;
        let _ = stream.shutdown().await;
        return None;
    }
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-protocol: {SUBPROTOCOL}\r\nsec-websocket-accept: {}\r\n\r\n",
        accept_key(key)
    );
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.flush().await.ok()?;
    let side = usize::from(head.starts_with("GET /v1/sessions/x/device "));
    let (tcp, tls) = stream.into_inner();
    Some((side, WebSocket::new(tcp, tls.into(), Role::Server, &[]).unwrap()))
}
