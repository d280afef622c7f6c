//! A plain HTTPS client of the hub's API that is not our code: rustls with the hub's CA file, HTTP/1.1 by hand.
//!
//! For what the command line does not show, and for requests that it would never send.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::Value;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers, lower case, as one text.
    pub headers: String,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {} {}", self.status, String::from_utf8_lossy(&self.body)))
    }

    /// The problem's stable code; panics where the answer is no problem document.
    #[track_caller]
    pub fn problem(&self) -> String {
        assert!(self.headers.contains("application/problem+json"), "no problem document: {self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "a sentence: {problem}");
        problem["code"].as_str().expect("a code").to_owned()
    }
}

/// What a client trusts and shows.
pub fn config(ca_pem: &str, client: Option<(&str, &str)>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).expect("the hub's CA in PEM")).expect("a CA certificate");
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots);
    Arc::new(match client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate in PEM")],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key in PEM"),
            )
            .expect("a usable client certificate"),
    })
}

/// Connects with TLS; the handshake runs with the first byte.
pub fn connect(to: SocketAddr, config: Arc<ClientConfig>) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let tcp = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
    tcp.set_read_timeout(Some(Duration::from_secs(20)))?;
    tcp.set_write_timeout(Some(Duration::from_secs(20)))?;
    let name = ServerName::from(to.ip());
    Ok(StreamOwned::new(ClientConnection::new(config, name).map_err(io::Error::other)?, tcp))
}

/// One request on a connection of its own.
pub fn request(
    to: SocketAddr,
    config: Arc<ClientConfig>,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: Option<&[u8]>,
) -> io::Result<Answer> {
    let mut stream = connect(to, config)?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n");
    if let Some(token) = token {
        head += &format!("Authorization: Bearer {token}\r\n");
    }
    if let Some(body) = body {
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    // A hub that refuses a large body may answer and close before it has read all of it.
    let _ = stream.write_all(body.unwrap_or_default()).and_then(|()| stream.flush());
    let mut all = Vec::new();
    if let Err(error) = stream.read_to_end(&mut all)
        && all.is_empty()
    {
        return Err(error);
    }
    parse(&all)
}

fn parse(all: &[u8]) -> io::Result<Answer> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("not HTTP: {}", String::from_utf8_lossy(all)));
    let end = all.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(bad)?;
    let headers = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
    let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(bad)?;
    let raw = &all[end + 4..];
    let body = if headers.contains("transfer-encoding: chunked") { unchunk(raw).ok_or_else(bad)? } else { raw.to_vec() };
    Ok(Answer { status, headers, body })
}

fn unchunk(mut raw: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = raw.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&raw[..line]).ok()?.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(raw.get(line + 2..line + 2 + size)?);
        raw = raw.get(line + 4 + size..)?;
    }
}
