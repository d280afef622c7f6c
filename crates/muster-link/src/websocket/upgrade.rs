//! The HTTP request that turns a TLS connection into a WebSocket (RFC 6455, 4), client side, and the answer's key.
//!
//! The request already travels in records of ours, so that no byte of the first messages can be left in rustls's buffers.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Buf, BytesMut};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::records::{self, HEADER, Opener, Record, RecordError, Sealer};
use super::{Role, WebSocket};

/// Longest head of an answer.
const HEAD_MAX: usize = 16 * 1024;
/// Longest body of a refusal.
const BODY_MAX: usize = 64 * 1024;
/// Most header lines of an answer.
const HEADERS_MAX: usize = 64;
/// RFC 6455, 1.3.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What to ask for.
#[derive(Clone, Copy)]
pub struct Upgrade<'a> {
    /// The hub, `host` or `host:port`, for the `Host` header.
    pub host: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// The sub-protocol; a hub that does not choose it is refused.
    pub protocol: &'a str,
    /// For `Authorization: Bearer`.
    pub bearer: Option<&'a str>,
}

/// Why there is no WebSocket.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The hub said no; the body is a problem (RFC 9457) where it is the hub that answers.
    #[error("the hub refused the connection with HTTP status {status}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// The body, at most 64 KiB.
        body: Vec<u8>,
    },
    /// An answer that makes no sense.
    #[error("the hub's answer is not a WebSocket upgrade: {0}")]
    Answer(&'static str),
    /// The network.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// TLS.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`.
pub fn accept_key(key: &str) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(GUID.as_bytes());
    BASE64.encode(hash.finish())
}

/// Asks for a WebSocket on a fresh TLS connection: handshake over, secret extraction enabled, nothing sent and nothing read since.
///
/// # Errors
/// When the hub refuses, answers nonsense, or the connection breaks. The caller bounds the time.
pub async fn connect(tcp: TcpStream, tls: rustls::Connection, request: &Upgrade<'_>) -> Result<WebSocket, UpgradeError> {
    let (sealer, opener) = records::split(tls)?;
    let mut dial = Dial { tcp, sealer, opener, incoming: BytesMut::new(), plain: BytesMut::new() };
    let mut nonce = [0; 16];
    SystemRandom::new().fill(&mut nonce).map_err(|_| io::Error::other("the system gives no random numbers"))?;
    let key = BASE64.encode(nonce);
    dial.send(&head(request, &key)?).await?;
    dial.answer(&accept_key(&key), request.protocol).await?;
    Ok(WebSocket::from_parts(dial.tcp, dial.sealer, dial.opener, dial.incoming, Role::Client, dial.plain))
}

fn head(request: &Upgrade<'_>, key: &str) -> Result<String, UpgradeError> {
    let mut head = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: {}\r\n",
        request.path, request.host, request.protocol
    );
    if let Some(bearer) = request.bearer {
        head.push_str(&format!("Authorization: Bearer {bearer}\r\n"));
    }
    head.push_str("\r\n");
    let parts = [request.path, request.host, request.protocol, request.bearer.unwrap_or("")];
    if parts.iter().any(|part| part.bytes().any(|byte| byte <= b' ' || byte == 0x7f)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the relay's address or ticket contains white space").into());
    }
    Ok(head)
}

struct Dial {
    tcp: TcpStream,
    sealer: Sealer,
    opener: Opener,
    incoming: BytesMut,
    plain: BytesMut,
}

impl Dial {
    async fn send(&mut self, text: &str) -> Result<(), UpgradeError> {
        let mut record = vec![0; HEADER];
        if text.len() > HEAD_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the relay's address is too long").into());
        }
        record.extend_from_slice(text.as_bytes());
        self.sealer.seal(&mut record, 0)?;
        Ok(self.tcp.write_all(&record).await?)
    }

    /// Reads until there is more plaintext; false at the end of the stream.
    async fn more(&mut self) -> Result<bool, UpgradeError> {
        loop {
            match self.opener.open(&mut self.incoming)? {
                Some(Record::Data(plain)) => {
                    self.plain.extend_from_slice(&plain);
                    return Ok(true);
                }
                Some(Record::Skip) => {}
                Some(Record::Closed) => return Ok(false),
                None => {
                    self.incoming.reserve(records::RECORD_MAX);
                    if self.tcp.read_buf(&mut self.incoming).await? == 0 {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Reads the answer's head, and the body of a refusal.
    async fn answer(&mut self, accept: &str, protocol: &str) -> Result<(), UpgradeError> {
        loop {
            match parse(&self.plain)? {
                Some(answer) => {
                    self.plain.advance(answer.len);
                    if answer.status == 101 {
                        return answer.check(accept, protocol);
                    }
                    let body = self.body(answer.body).await?;
                    return Err(UpgradeError::Refused { status: answer.status, body });
                }
                None if self.plain.len() >= HEAD_MAX => return Err(UpgradeError::Answer("its head is too long")),
                None => {
                    if !self.more().await? {
                        return Err(UpgradeError::Answer("the connection ended in it"));
                    }
                }
            }
        }
    }

    async fn body(&mut self, len: Option<usize>) -> Result<Vec<u8>, UpgradeError> {
        let want = len.unwrap_or(BODY_MAX).min(BODY_MAX);
        while self.plain.len() < want && self.more().await? {}
        self.plain.truncate(want);
        Ok(self.plain.to_vec())
    }
}

struct Answer {
    len: usize,
    status: u16,
    accept: Option<String>,
    protocol: Option<String>,
    upgrade: bool,
    body: Option<usize>,
}

impl Answer {
    fn check(&self, accept: &str, protocol: &str) -> Result<(), UpgradeError> {
        if !self.upgrade || self.accept.as_deref() != Some(accept) {
            return Err(UpgradeError::Answer("it does not answer this request; a proxy in between may not know WebSocket"));
        }
        if self.protocol.as_deref() != Some(protocol) {
            return Err(UpgradeError::Answer("it does not choose the sub-protocol that was asked for; the hub may be of another version"));
        }
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<Option<Answer>, UpgradeError> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let status = response.parse(bytes).map_err(|_| UpgradeError::Answer("it is not HTTP"))?;
    let httparse::Status::Complete(len) = status else { return Ok(None) };
    let mut answer = Answer { len, status: response.code.unwrap_or(0), accept: None, protocol: None, upgrade: false, body: None };
    for header in response.headers.iter() {
        let value = || std::str::from_utf8(header.value).unwrap_or("").trim().to_owned();
        if header.name.eq_ignore_ascii_case("sec-websocket-accept") {
            answer.accept = Some(value());
        } else if header.name.eq_ignore_ascii_case("sec-websocket-protocol") {
            answer.protocol = Some(value());
        } else if header.name.eq_ignore_ascii_case("upgrade") {
            answer.upgrade = value().eq_ignore_ascii_case("websocket");
        } else if header.name.eq_ignore_ascii_case("content-length") {
            answer.body = value().parse().ok();
        }
    }
    Ok(Some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6455, 1.3.
    #[test]
    fn accept_key_literal() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_head_cannot_be_split() {
        let request = Upgrade { host: "hub", path: "/a\r\nX: y", protocol: "p", bearer: None };
        assert!(head(&request, "k").is_err());
    }
}
