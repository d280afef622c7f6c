//! The pipe against itself, and against frames and records that other hands made.

use std::sync::Arc;
use std::time::Duration;

use muster_proto::websocket::{Header, Opcode, unmask};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, TlsConnector, server};

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// Server and client settings that trust each other.
fn settings(extract: bool) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let der = CertificateDer::from(certificate.der().to_vec());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        .unwrap();
    server.enable_secret_extraction = extract;
    let mut roots = RootCertStore::empty();
    roots.add(der).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = extract;
    (Arc::new(server), Arc::new(client))
}

type Plain = server::TlsStream<TcpStream>;

/// Accepts one connection and reads the request's head.
async fn accept(listener: &TcpListener, config: Arc<ServerConfig>) -> (Plain, String) {
    let (tcp, _) = listener.accept().await.unwrap();
    let mut stream = TlsAcceptor::from(config).accept(tcp).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (stream, String::from_utf8(head).unwrap())
}

fn switching(head: &str) -> String {
    let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
         sec-websocket-protocol: p.v1\r\nsec-websocket-accept: {}\r\n\r\n",
        accept_key(key)
    )
}

async fn dial(listener: &TcpListener, config: Arc<ClientConfig>) -> Result<WebSocket, UpgradeError> {
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let (tcp, tls) = TlsConnector::from(config).connect(name, tcp).await.unwrap().into_inner();
    let request = Upgrade { host: "localhost", path: "/x", protocol: "p.v1", bearer: Some("secret") };
    connect(tcp, tls.into(), &request).await
}

/// Client of ours, server of ours.
async fn pair() -> (WebSocket, WebSocket) {
    let (server, client) = settings(true);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (server, client) = tokio::join!(
        async {
            let (mut stream, head) = accept(&listener, server).await;
            assert!(head.contains("Authorization: Bearer secret\r\n"));
            stream.write_all(switching(&head).as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            let (tcp, tls) = stream.into_inner();
            WebSocket::new(tcp, tls.into(), Role::Server, b"").unwrap()
        },
        dial(&listener, client),
    );
    (client.unwrap(), server)
}

/// Client of ours; on the server's side rustls's own stream, for frames made by hand.
async fn client_and_bare_server(after_head: Vec<u8>) -> (WebSocket, Plain) {
    let (server, client) = settings(true);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (stream, client) = tokio::join!(
        async {
            let (mut stream, head) = accept(&listener, server).await;
            let mut answer = switching(&head).into_bytes();
            answer.extend_from_slice(&after_head);
            stream.write_all(&answer).await.unwrap();
            stream.flush().await.unwrap();
            stream
        },
        dial(&listener, client),
    );
    (client.unwrap(), stream)
}

fn frame(fin: bool, opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    let (bytes, len) = Header { fin, opcode, mask: None, len: payload.len() as u64 }.encode();
    [&bytes[..len], payload].concat()
}

async fn read_frame(stream: &mut Plain) -> (Header, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        bytes.push(stream.read_u8().await.unwrap());
        if let Some((header, _)) = Header::parse(&bytes).unwrap() {
            let mut payload = vec![0; header.len as usize];
            stream.read_exact(&mut payload).await.unwrap();
            unmask(&mut payload, header.mask.unwrap_or_default());
            return (header, payload);
        }
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("it takes too long")
}

/// Bytes that differ everywhere.
fn noise(len: usize, mut seed: u32) -> Vec<u8> {
    std::iter::repeat_with(|| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    })
    .take(len)
    .collect()
}

#[tokio::test]
async fn every_size_arrives_whole_both_ways() {
    let sizes = [0, 1, 3, 121, 122, 126, 4000, 16_371, RECORD_PAYLOAD, 16_373, 16_384, 32_756, 65_531, 65_535, 65_536];
    within(async {
        let (mut from, mut to) = pair().await;
        for turn in 0..2 {
            let sender = async {
                for (at, size) in sizes.iter().enumerate() {
                    let payload = noise(*size, at as u32);
                    from.queue_binary(7u32.to_be_bytes(), &payload);
                    from.queue_text(&format!("after {size}"));
                    // Sometimes several messages share records.
                    if at % 3 == 0 {
                        from.flush().await.unwrap();
                    }
                }
                from.flush().await.unwrap();
            };
            let receiver = async {
                for (at, size) in sizes.iter().enumerate() {
                    let Some(Message::Binary(message)) = to.read().await.unwrap() else { panic!("no binary message") };
                    assert_eq!(message[..4], [0, 0, 0, 7]);
                    assert!(message[4..] == noise(*size, at as u32), "{size}, turn {turn}");
                    assert_eq!(to.read().await.unwrap(), Some(Message::Text(format!("after {size}"))));
                }
            };
            tokio::join!(sender, receiver);
            std::mem::swap(&mut from, &mut to);
        }
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_waits_stops_the_writer() {
    within(async {
        let (mut client, mut server) = pair().await;
        let payload = noise(65_536, 1);
        let mut written = 0usize;
        let full = poll_fn(|cx| {
            loop {
                while client.queued_bytes() < QUEUE_TARGET {
                    client.queue_binary([0; 4], &payload);
                    written += 1;
                }
                if client.poll_flush(cx)?.is_pending() {
                    return Poll::Ready(Ok::<_, WebSocketError>(client.queued_bytes()));
                }
            }
        })
        .await
        .unwrap();
        assert!(full <= 3 * QUEUE_TARGET, "{full} bytes wait");
        assert!(written > 1);
        let reading = async {
            for _ in 0..written {
                let Some(Message::Binary(message)) = server.read().await.unwrap() else { panic!("no binary message") };
                assert!(message[4..] == payload);
            }
        };
        let (flushed, ()) = tokio::join!(client.flush(), reading);
        flushed.unwrap();
    })
    .await;
}

#[tokio::test]
async fn close_is_answered_and_ends_reading() {
    within(async {
        let (mut client, mut server) = pair().await;
        client.queue_close(4000, "enough");
        client.queue_text("never sent");
        client.flush().await.unwrap();
        assert_eq!(server.read().await.unwrap(), Some(Message::Close { code: 4000, reason: "enough".to_owned() }));
        assert_eq!(server.read().await.unwrap(), None);
        server.shutdown().await.unwrap();
        assert_eq!(client.read().await.unwrap(), Some(Message::Close { code: 4000, reason: String::new() }));
        assert_eq!(client.read().await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn frames_of_other_makers() {
    within(async {
        // The first frame arrives together with the answer's head.
        let (mut client, mut server) = client_and_bare_server(frame(true, Opcode::Text, "grüezi".as_bytes())).await;
        assert_eq!(client.read().await.unwrap(), Some(Message::Text("grüezi".to_owned())));

        let mut bytes = frame(false, Opcode::Binary, b"one ");
        bytes.extend(frame(true, Opcode::Ping, b"there?"));
        bytes.extend(frame(false, Opcode::Continuation, b""));
        bytes.extend(frame(true, Opcode::Continuation, b"two"));
        // One byte per record: every header and payload is split.
        for byte in bytes {
            server.write_all(&[byte]).await.unwrap();
            server.flush().await.unwrap();
        }
        assert_eq!(client.read().await.unwrap(), Some(Message::Binary(Bytes::from_static(b"one two"))));
        client.flush().await.unwrap();
        let (header, payload) = read_frame(&mut server).await;
        assert_eq!((header.opcode, header.mask, &payload[..]), (Opcode::Pong, Some([0; 4]), &b"there?"[..]));

        client.queue_text("hello");
        client.flush().await.unwrap();
        let (header, payload) = read_frame(&mut server).await;
        assert_eq!((header.opcode, header.fin, &payload[..]), (Opcode::Text, true, &b"hello"[..]));

        server.write_all(&[0x82, 0x7f, 0, 0, 0, 0, 0x7f, 0, 0, 0]).await.unwrap();
        server.flush().await.unwrap();
        let error = client.read().await.unwrap_err();
        assert_eq!(error.to_string(), format!("a WebSocket message is over the limit of {MESSAGE_MAX} bytes"));
        client.flush().await.unwrap();
        let (header, payload) = read_frame(&mut server).await;
        assert_eq!((header.opcode, &payload[..2]), (Opcode::Close, &1009u16.to_be_bytes()[..]));
    })
    .await;
}

#[tokio::test]
async fn text_must_be_utf8() {
    within(async {
        let (mut client, mut server) = client_and_bare_server(frame(true, Opcode::Text, &[0xff])).await;
        assert!(matches!(client.read().await, Err(WebSocketError::Frame(FrameError::Utf8))));
        client.flush().await.unwrap();
        assert_eq!(read_frame(&mut server).await.1[..2], 1007u16.to_be_bytes());
    })
    .await;
}

#[tokio::test]
async fn an_end_without_close_is_told_from_a_close() {
    within(async {
        let (mut client, mut server) = client_and_bare_server(Vec::new()).await;
        server.shutdown().await.unwrap();
        assert!(matches!(client.read().await, Err(WebSocketError::Cut)));
    })
    .await;
}

#[tokio::test]
async fn damaged_records_and_garbage_end_it() {
    within(async {
        for (bytes, want) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], RecordError::Malformed),
            (&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20], RecordError::Decrypt),
            (&[23, 3, 3, 0xff, 0xff], RecordError::Malformed),
            (&[23, 3, 3, 0, 1, 0], RecordError::Malformed),
        ] {
            let (mut client, server) = pair().await;
            let mut tcp = server.tcp;
            tcp.write_all(bytes).await.unwrap();
            let error = client.read().await.unwrap_err();
            assert!(matches!(error, WebSocketError::Record(got) if got == want), "{bytes:?}: {error}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_key_update_ends_it() {
    within(async {
        let (mut client, mut server) = client_and_bare_server(Vec::new()).await;
        server.get_mut().1.refresh_traffic_keys().unwrap();
        server.write_all(&frame(true, Opcode::Ping, b"")).await.unwrap();
        server.flush().await.unwrap();
        assert!(matches!(client.read().await, Err(WebSocketError::Record(RecordError::Rekey))));
    })
    .await;
}

#[tokio::test]
async fn a_worn_out_key_ends_it_and_leaks_nothing() {
    within(async {
        let (mut client, mut server) = pair().await;
        client.sealer.wear_to(1);
        client.queue_text("last words");
        assert!(matches!(client.flush().await, Err(WebSocketError::Record(RecordError::WornOut))));
        assert_eq!(server.read().await.unwrap(), Some(Message::Text("last words".to_owned())));
        client.queue_text("too late");
        assert!(client.flush().await.is_err());
        assert_eq!(client.queued_bytes(), 0);
    })
    .await;
}

#[tokio::test]
async fn a_refusal_carries_its_body() {
    within(async {
        let (server, client) = settings(true);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_, dialled) = tokio::join!(
            async {
                let (mut stream, _) = accept(&listener, server).await;
                let answer = "HTTP/1.1 410 Gone\r\ncontent-length: 24\r\n\r\n{\"code\":\"session_ended\"}trailing";
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                stream
            },
            dial(&listener, client),
        );
        let Err(UpgradeError::Refused { status: 410, body }) = dialled else { panic!("not refused") };
        assert_eq!(body, b"{\"code\":\"session_ended\"}");
    })
    .await;
}

#[tokio::test]
async fn an_answer_to_another_request_is_refused() {
    within(async {
        for (from, to) in [("websocket-accept: ", "websocket-accept: x"), ("p.v1", "p.v2"), ("HTTP/1.1 101", "SSH-2.0 hi")] {
            let (server, client) = settings(true);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (_, dialled) = tokio::join!(
                async {
                    let (mut stream, head) = accept(&listener, server).await;
                    stream.write_all(switching(&head).replace(from, to).as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                    stream
                },
                dial(&listener, client),
            );
            assert!(matches!(dialled, Err(UpgradeError::Answer(_))), "{to}");
        }
    })
    .await;
}

#[tokio::test]
async fn without_extraction_there_is_no_pipe() {
    within(async {
        let (server, client) = settings(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let accepting = async {
            let (tcp, _) = listener.accept().await.unwrap();
            TlsAcceptor::from(server).accept(tcp).await.unwrap()
        };
        let (_, dialled) = tokio::join!(accepting, dial(&listener, client));
        assert!(matches!(dialled, Err(UpgradeError::Record(RecordError::Secrets))));
    })
    .await;
}
