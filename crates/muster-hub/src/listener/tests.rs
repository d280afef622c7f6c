//! What strangers send to the HTTPS port, and what they get.

use axum::routing::get;
use muster_link::tls::{self, Clock, Trust};
use rustls_pki_types::ServerName;
use tokio_rustls::{TlsConnector, client};

use super::*;
use crate::ca::Ca;
use crate::clock;
use crate::tls::ServerCertificate;

const DEADLINE: Duration = Duration::from_secs(20);

struct Port {
    _dir: tempfile::TempDir,
    address: SocketAddr,
    client: Arc<rustls::ClientConfig>,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

impl Port {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = clock::now();
        let ca = Ca::open_or_create(dir.path(), now).unwrap();
        let server = ServerCertificate::open(dir.path(), vec!["127.0.0.1".to_owned()], &ca, now).unwrap().https().unwrap();
        let client = tls::client_config(&Trust::Pin(ca.pin()), None, &Clock::with_floor(0)).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let router = Router::new()
            .route(
                "/who",
                get(async |request: axum::extract::Request| {
                    let from = request.extensions().get::<RemoteAddr>().unwrap().0.ip();
                    let known = !matches!(request.extensions().get::<PeerCertificate>().unwrap(), PeerCertificate::None);
                    format!("{from} {known}")
                }),
            )
            .route("/never", get(std::future::pending::<()>));
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(tcp, server, router, shutdown.clone()));
        Self { _dir: dir, address, client, shutdown, serving }
    }

    async fn tls(&self) -> client::TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        TlsConnector::from(Arc::clone(&self.client)).connect(ServerName::try_from("127.0.0.1").unwrap(), tcp).await.unwrap()
    }

    async fn get(&self, head: &str) -> String {
        let mut stream = self.tls().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = within(stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future).await.expect("it takes too long")
}

/// Sends bytes without TLS; gives what comes back until the end.
async fn raw(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(address).await.unwrap();
    tcp.write_all(bytes).await.unwrap();
    let _ = tcp.shutdown().await;
    let mut answer = Vec::new();
    let _ = within(tcp.read_to_end(&mut answer)).await;
    answer
}

const WHO: &str = "GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn requests_know_who_asks() {
    let port = Port::open().await;
    let answer = port.get(WHO).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("127.0.0.1 false"), "{answer}");
}

#[tokio::test]
async fn strangers_are_closed_and_nobody_else_suffers() {
    let port = Port::open().await;
    let plain = raw(port.address, b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let plain = String::from_utf8_lossy(&plain);
    assert!(plain.starts_with("HTTP/1.1 400 Bad Request") && plain.contains("https://"), "{plain}");
    let broken_hello = [&[22, 3, 1, 0, 200][..], &[0x5a; 200]].concat();
    for garbage in [&b""[..], b"\0", b"SSH-2.0-OpenSSH_9.2\r\n", &[0xff; 4096], &broken_hello, &[22, 3, 1]] {
        let answer = raw(port.address, garbage).await;
        // At most a TLS alert.
        assert!(answer.is_empty() || answer[0] == 21, "{garbage:?}: {answer:?}");
    }
    let silent = TcpStream::connect(port.address).await.unwrap();
    for bad in ["nonsense\r\n\r\n", "GET /who HTTP/9.9\r\n\r\n", "GET /who HTTP/1.1\r\nbad header\r\n\r\n"] {
        let answer = port.get(bad).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{bad}: {answer}");
    }
    let long = format!("GET /who HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * HEAD_MAX));
    let answer = port.get(&long).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(port.get(WHO).await.starts_with("HTTP/1.1 200"));
    drop(silent);
}

#[tokio::test]
async fn the_stop_waits_for_requests_but_not_for_ever() {
    let port = Port::open().await;
    let mut hanging = port.tls().await;
    hanging.write_all(b"GET /never HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut idle = port.tls().await;
    port.shutdown.cancel();
    within(port.serving).await.unwrap();
    assert!(TcpStream::connect(port.address).await.is_err());
    assert!(within(idle.read_u8()).await.is_err());
}
