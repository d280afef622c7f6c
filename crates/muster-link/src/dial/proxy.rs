//! The way out through an HTTP proxy: `CONNECT` (RFC 9110, section 9.3.6), with basic authentication where the URL has a user.

use std::fmt;
use std::io;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{DialError, Endpoint, connect, resolve, split_port};

/// Largest answer of a proxy to `CONNECT`, in bytes.
const ANSWER_MAX: usize = 8 * 1024;
/// Most header fields in it.
const FIELDS_MAX: usize = 64;

/// An HTTP proxy. `Debug` hides its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: Box<str>,
    port: u16,
    /// `user:password` in base64.
    basic: Option<Box<str>>,
}

/// Why a text is not a proxy's URL. It does not repeat the text, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the proxy's URL is not usable: {0}; it must look like http://[user:password@]proxy.example.com:3128")]
pub struct InvalidProxy(&'static str);

impl FromStr for Proxy {
    type Err = InvalidProxy;

    fn from_str(url: &str) -> Result<Self, InvalidProxy> {
        let url = url.trim();
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.to_ascii_lowercase().starts_with("socks") => {
                return Err(InvalidProxy("SOCKS proxies are not supported, only HTTP ones"));
            }
            Some(_) => return Err(InvalidProxy("only HTTP proxies are supported")),
            None => url,
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(user), authority),
            None => (None, rest),
        };
        let (host, port) = split_port(authority).ok_or(InvalidProxy("the host or the port is not valid"))?;
        let basic = user.map(|user| STANDARD.encode(percent_decoded(user)).into());
        Ok(Self { host: host.into(), port: port.unwrap_or(3128), basic })
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl Proxy {
    /// Asks the proxy for a connection.
    pub(super) async fn connect(&self, endpoint: &Endpoint) -> Result<TcpStream, DialError> {
        let failed = |why: String| DialError::Proxy { proxy: self.to_string(), address: endpoint.authority(), why };
        let addresses = resolve(&self.host, self.port)
            .await
            .map_err(|_| failed("its own name cannot be resolved; check the proxy's URL".to_owned()))?;
        let mut tcp = connect(addresses).await.map_err(|error| failed(format!("it cannot be reached ({error}); check the proxy's URL")))?;
        self.ask(&mut tcp, endpoint).await.map_err(|error| failed(format!("the connection to it broke ({error})")))?.map_err(failed)?;
        Ok(tcp)
    }

    async fn ask(&self, tcp: &mut TcpStream, endpoint: &Endpoint) -> io::Result<Result<(), String>> {
        let authority = endpoint.authority();
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n");
        if let Some(basic) = &self.basic {
            request += &format!("Proxy-Authorization: Basic {basic}\r\n");
        }
        request += "\r\n";
        tcp.write_all(request.as_bytes()).await?;
        // Nothing follows the answer's head before we speak TLS, so reading on until it is whole takes nothing from TLS.
        let mut answer = Vec::with_capacity(512);
        loop {
            if tcp.read_buf(&mut answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
            let mut head = httparse::Response::new(&mut fields);
            match head.parse(&answer) {
                Ok(httparse::Status::Complete(_)) => return Ok(judge(head.code.unwrap_or(0), head.reason.unwrap_or(""))),
                Ok(httparse::Status::Partial) if answer.len() < ANSWER_MAX => {}
                _ => return Ok(Err("its answer is not HTTP; is it really an HTTP proxy?".to_owned())),
            }
        }
    }
}

fn judge(code: u16, reason: &str) -> Result<(), String> {
    match code {
        200..=299 => Ok(()),
        407 => Err("it wants a user name and a password (407); put them into the proxy's URL".to_owned()),
        403 => Err("it forbids this address (403); ask its owner to allow it".to_owned()),
        502..=504 => Err(format!("it cannot reach the hub ({code} {reason}); check the hub's address")),
        _ => Err(format!("it answered {code} {reason}")),
    }
}
