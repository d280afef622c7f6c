//! The same endpoint through `/mqtt` on the HTTPS port of a whole hub: the same fence, by WebSocket frames written by hand.

#![allow(clippy::unwrap_used, clippy::large_futures, reason = "a test ends where it fails")]

#[path = "mqtt_common/hub.rs"]
mod mqtt_common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mqtt_common::*;
use muster_hub::config::Config;
use muster_hub::mqtt::SendOptions;
use muster_hub::serve::{Ports, Running, start};
use muster_proto::api::PresenceState;
use muster_proto::topic::Down;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

struct Whole {
    running: Running,
    https: SocketAddr,
    _dir: TempDir,
}

impl Whole {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = format!(
            "data_dir = {:?}\nlisten = \"127.0.0.1:0\"\npublic_url = \"https://localhost:0\"\n[mqtt]\nlisten = \"127.0.0.1:0\"\npublic_url = \"mqtts://localhost:0\"\n",
            dir.path()
        );
        let config = Config::parse(&text, "the test's configuration", []).unwrap();
        let ports = Ports::bind(&config).await.unwrap();
        let running = start(config, ports).await.unwrap();
        Self { https: running.https, running, _dir: dir }
    }

    async fn device(&self, uid: &str, org: &str) -> Papers {
        device(&self.running.state.store, &self.running.state.ca, uid, org).await
    }

    /// A handshake by hand. The status line where it is refused.
    async fn websocket(&self, papers: Option<&Papers>, protocol: &str) -> Result<Raw<DuplexStream>, String> {
        let tls = client_tls(self.running.state.ca.der(), papers);
        let tcp = TcpStream::connect(self.https).await.unwrap();
        let mut stream = TlsConnector::from(Arc::new(tls)).connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap();
        let request = format!(
            "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        if !head.starts_with("HTTP/1.1 101") {
            return Err(head.lines().next().unwrap().to_owned());
        }
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        let (near, far) = tokio::io::duplex(256 * 1024);
        let (read, write) = tokio::io::split(stream);
        let (from, to) = tokio::io::split(far);
        tokio::spawn(frames_out(from, write));
        tokio::spawn(frames_in(read, to));
        Ok(Raw::new(near))
    }

    async fn linked(&self, uid: &str, papers: &Papers) -> Raw<DuplexStream> {
        let mut raw = self.websocket(Some(papers), MQTT).await.unwrap();
        raw.send(&connect(uid, 2, &[0x11, 0, 0, 0x0e, 0x10], &[])).await;
        let connack = raw.packet().await.expect("CONNACK");
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:?}");
        raw
    }
}

const MQTT: &str = "Sec-WebSocket-Protocol: mqtt\r\n";

/// Masked binary frames of at most seven bytes: the borders of messages mean nothing to MQTT.
async fn frames_out(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<TlsStream<TcpStream>>) {
    let mut bytes = [0; 7];
    while let Ok(size) = from.read(&mut bytes).await {
        if size == 0 {
            break;
        }
        let mask = [1, 2, 3, 4];
        let mut frame = vec![0x82, 0x80 | u8::try_from(size).unwrap()];
        frame.extend(mask);
        frame.extend(bytes[..size].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        if to.write_all(&frame).await.is_err() {
            break;
        }
        let _ = to.flush().await;
    }
}

async fn frames_in(mut from: ReadHalf<TlsStream<TcpStream>>, mut to: WriteHalf<DuplexStream>) {
    while let Ok(first) = from.read_u8().await {
        let size = match from.read_u8().await.unwrap_or(0) {
            126 => u64::from(from.read_u16().await.unwrap()),
            127 => from.read_u64().await.unwrap(),
            size => u64::from(size),
        };
        let mut payload = vec![0; usize::try_from(size).unwrap()];
        if from.read_exact(&mut payload).await.is_err() || first != 0x82 || to.write_all(&payload).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_handshake_wants_a_certificate_and_the_sub_protocol() {
    let hub = Whole::start().await;
    let a = hub.device(A, "acme").await;
    assert_eq!(hub.websocket(None, MQTT).await.err().as_deref(), Some("HTTP/1.1 401 Unauthorized"));
    assert_eq!(hub.websocket(Some(&a), "").await.err().as_deref(), Some("HTTP/1.1 400 Bad Request"));
    assert_eq!(hub.websocket(Some(&a), "Sec-WebSocket-Protocol: chat\r\n").await.err().as_deref(), Some("HTTP/1.1 400 Bad Request"));
    hub.linked(A, &a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fence_is_the_same() {
    let hub = Whole::start().await;
    let (a, b) = (hub.device(A, "acme").await, hub.device(B, "other").await);
    let state = &hub.running.state;
    let mut victim = hub.linked(B, &b).await;
    assert_eq!(victim.subscribe(&format!("muster/v1/{B}/down/#")).await, 1);
    assert_eq!(victim.publish(&format!("muster/v1/{B}/up/presence"), &birth(1)).await, 0);

    let mut raw = hub.linked(A, &a).await;
    for topic in
        [format!("muster/v1/{B}/up/presence"), format!("muster/v1/{B}/down/session"), format!("muster/v1/{A}/down/session"), "x".into()]
    {
        assert_eq!(raw.publish(&topic, br#"{"online":false,"link":99}"#).await, 0x87, "{topic}");
    }
    for filter in ["#".to_owned(), format!("muster/v1/{B}/down/#"), "$share/muster-hub/muster/v1/+/up/#".into()] {
        assert_eq!(raw.subscribe(&filter).await, 0x87, "{filter}");
    }
    for (client_id, flags, rest, code) in
        [(B, 2, Vec::new(), 0x85), (A, 0x2e, will(&format!("muster/v1/{B}/up/presence"), br#"{"online":false,"link":99}"#), 0x87)]
    {
        let mut raw = hub.websocket(Some(&a), MQTT).await.unwrap();
        raw.send(&connect(client_id, flags, &[], &rest)).await;
        let connack = raw.end().await.expect("CONNACK");
        assert_eq!((connack[0], connack[3]), (0x20, code), "{client_id}");
    }
    // The way itself works, both ways, and large packets too.
    let minute = SendOptions { retain: false, expiry: Duration::from_secs(60) };
    state.lanes.send(&uid(B), Down::Session, vec![b'x'; 60_000], minute).await.unwrap();
    assert!(victim.packet().await.unwrap().ends_with(&[b'x'; 1000]));
    assert_eq!(state.ingest.live().get(&uid(B)).presence, PresenceState::Online);
    assert_eq!(state.ingest.live().get(&uid(A)).presence, PresenceState::Never);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_inside_ends_only_itself() {
    let hub = Whole::start().await;
    let a = hub.device(A, "acme").await;
    for garbage in [&[0xff; 100][..], &[0; 3], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut raw = hub.websocket(Some(&a), MQTT).await.unwrap();
        raw.send(garbage).await;
        assert!(raw.end().await.is_none(), "{garbage:?}");
    }
    let mut raw = hub.linked(A, &a).await;
    assert_eq!(raw.publish(&format!("muster/v1/{A}/up/presence"), &birth(1)).await, 0);
    hub.running.state.lanes.cut(&uid(A), "revoked").await.unwrap();
    assert_eq!(raw.end().await.unwrap()[2], 0x98);
}
