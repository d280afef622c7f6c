//! One JSON call at a time over HTTP/1.1, on a connection that is kept for the next.
//!
//! Small on purpose: no redirects, no cookies, no compression, no pool. A hub is one place, and a caller knows which errors it may repeat;
//! nothing here repeats a request by itself, except one that may be done twice, on a kept connection that the hub closed without an answer.

mod stream;

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use muster_proto::problem::Problem;
use rustls::ClientConfig;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::dial::{DialError, Dialer, Endpoint, InvalidUrl, Proxy};

/// Largest answer that is read, in bytes: a page of devices with their facts and usage is under 4 MiB.
pub const ANSWER_MAX: usize = 16 * 1024 * 1024;
/// Largest head of an answer, in bytes.
const HEAD_MAX: usize = 32 * 1024;
/// Most header fields of an answer.
const FIELDS_MAX: usize = 64;
/// Bound of one call, unless the caller says otherwise.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The hub said no, and why.
    #[error(transparent)]
    Problem(Problem),
    /// The connection broke in the call; whether the hub acted is not known.
    #[error("the connection to {address} broke during {request} ({source}): try again")]
    Lost {
        /// Host and port.
        address: String,
        /// Method and path.
        request: String,
        /// What the system said.
        source: io::Error,
    },
    /// No answer in time.
    #[error("{address} did not answer {request} within {} s: the hub is overloaded or hangs; try again", .after.as_secs())]
    Timeout {
        /// Host and port.
        address: String,
        /// Method and path.
        request: String,
        /// How long.
        after: Duration,
    },
    /// An answer that is not a hub's.
    #[error("{address} answered {request} with {what}: is this a Muster hub, and does something between interfere?")]
    Answer {
        /// Host and port.
        address: String,
        /// Method and path.
        request: String,
        /// What is wrong with it.
        what: String,
    },
}

impl CallError {
    /// The problem that the hub told, if it told one.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Problem(problem) => Some(problem),
            _ => None,
        }
    }
}

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `POST`, ...
    pub method: &'a str,
    /// Path and query, such as `/v1/hub`; already percent-encoded.
    pub path: &'a str,
    /// The bearer token.
    pub bearer: Option<&'a str>,
    /// The body.
    pub body: Option<&'a [u8]>,
    /// What the body is; JSON, unless the caller says otherwise.
    pub media_type: &'a str,
    /// Bound of the call without the dial.
    pub timeout: Duration,
}

impl<'a> Request<'a> {
    /// A request without token and body.
    pub fn new(method: &'a str, path: &'a str) -> Self {
        Self { method, path, bearer: None, body: None, media_type: "application/json", timeout: CALL_TIMEOUT }
    }

    /// Doing it twice is as doing it once (RFC 9110, section 9.2.2).
    fn is_idempotent(&self) -> bool {
        matches!(self.method, "GET" | "PUT" | "DELETE")
    }

    fn name(&self) -> String {
        format!("{} {}", self.method, self.path.split('?').next().unwrap_or_default())
    }

    fn head(&self, authority: &str) -> String {
        let mut head = format!(
            "{} {} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: muster/{}\r\nAccept: application/json\r\n",
            self.method,
            self.path,
            env!("CARGO_PKG_VERSION")
        );
        if let Some(bearer) = self.bearer {
            head += &format!("Authorization: Bearer {bearer}\r\n");
        }
        match self.body {
            Some(body) => head += &format!("Content-Type: {}\r\nContent-Length: {}\r\n", self.media_type, body.len()),
            None if self.method != "GET" => head += "Content-Length: 0\r\n",
            None => {}
        }
        head + "\r\n"
    }
}

/// An answer with its whole body.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// A hub's HTTP API.
#[derive(Debug)]
pub struct Hub {
    /// Where it is.
    pub base: Endpoint,
    /// How it is dialled.
    pub dialer: Dialer,
    kept: Option<TlsStream<TcpStream>>,
}

impl Hub {
    /// The hub at a URL. A path in the URL is not used.
    pub fn new(base: &Endpoint, dialer: Dialer) -> Self {
        Self { base: base.at("/"), dialer, kept: None }
    }

    /// The hub at the text of a URL.
    ///
    /// # Errors
    /// When the text is not a usable URL.
    pub fn from_url(url: &str, tls: Arc<ClientConfig>, proxy: Option<Proxy>) -> Result<Self, InvalidUrl> {
        Ok(Self::new(&url.parse()?, Dialer::new(tls).via(proxy)))
    }

    /// Calls and decodes the answer; an empty answer is JSON's `null`.
    ///
    /// # Errors
    /// See [`CallError`]; a status of 400 and more is an error.
    pub async fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        path: &str,
        bearer: Option<&str>,
        body: Option<&impl Serialize>,
    ) -> Result<T, CallError> {
        let body = body.map(|body| serde_json::to_vec(body).expect("bodies have text keys and no fallible serializer"));
        self.json(&Request { bearer, body: body.as_deref(), ..Request::new(method, path) }).await
    }

    /// Sends a request and decodes the answer; an empty answer is JSON's `null`.
    ///
    /// # Errors
    /// See [`CallError`]; a status of 400 and more is an error.
    pub async fn json<T: DeserializeOwned>(&mut self, request: &Request<'_>) -> Result<T, CallError> {
        let body = self.bytes(request).await?;
        let body = if body.is_empty() { b"null" } else { &body[..] };
        serde_json::from_slice(body).map_err(|error| self.bad(request, format!("something else than expected ({error})")))
    }

    /// Sends a request and gives the answer's body as it is, such as an image.
    ///
    /// # Errors
    /// See [`CallError`]; a status of 400 and more is an error.
    pub async fn bytes(&mut self, request: &Request<'_>) -> Result<Vec<u8>, CallError> {
        let answer = self.send(request).await?;
        if (200..300).contains(&answer.status) {
            return Ok(answer.body);
        }
        Err(match serde_json::from_slice::<Problem>(&answer.body) {
            Ok(problem) => CallError::Problem(problem),
            Err(_) => self.bad(request, format!("status {}", answer.status)),
        })
    }

    fn bad(&self, request: &Request<'_>, what: String) -> CallError {
        CallError::Answer { address: self.base.authority(), request: request.name(), what }
    }

    /// Sends a request and reads the whole answer, whatever its status.
    ///
    /// # Errors
    /// See [`CallError`]; never `Problem`.
    pub async fn send(&mut self, request: &Request<'_>) -> Result<Answer, CallError> {
        if let Some(stream) = self.kept.take()
            && is_quiet(&stream).await
        {
            match self.exchange(stream, request).await {
                Err(Broken { before_answer: true, .. }) if request.is_idempotent() => {}
                other => return other.map_err(|broken| broken.error),
            }
        }
        let stream = self.dialer.dial(&self.base).await?;
        self.exchange(stream, request).await.map_err(|broken| broken.error)
    }

    async fn exchange(&mut self, mut stream: TlsStream<TcpStream>, request: &Request<'_>) -> Result<Answer, Broken> {
        let authority = self.base.authority();
        let mut reading = Reading { buffer: Vec::new() };
        let exchange = async {
            let head = request.head(&authority);
            stream.write_all(head.as_bytes()).await?;
            if let Some(body) = request.body {
                stream.write_all(body).await?;
            }
            stream.flush().await?;
            reading.answer(&mut stream, request.method == "HEAD").await
        };
        match tokio::time::timeout(request.timeout, exchange).await {
            Ok(Ok((answer, keep))) => {
                if keep {
                    self.kept = Some(stream);
                }
                Ok(answer)
            }
            Ok(Err(source)) if source.kind() == io::ErrorKind::InvalidData => Err(Broken {
                before_answer: false,
                error: CallError::Answer { address: authority, request: request.name(), what: source.to_string() },
            }),
            Ok(Err(source)) => Err(Broken { before_answer: reading.buffer.is_empty(), error: self.lost(source, request) }),
            Err(_) => Err(Broken {
                before_answer: false,
                error: CallError::Timeout { address: authority, request: request.name(), after: request.timeout },
            }),
        }
    }

    /// TLS 1.3 tells of a refused client certificate only at the first read: then it is a TLS failure, not a lost call.
    fn lost(&self, source: io::Error, request: &Request<'_>) -> CallError {
        let address = self.base.authority();
        if source.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            CallError::Dial(DialError::Tls { address, source })
        } else {
            CallError::Lost { address, request: request.name(), source }
        }
    }
}

/// Whether a kept connection is open and has nothing to say: the hub closes those that were idle for long.
async fn is_quiet(stream: &TlsStream<TcpStream>) -> bool {
    let mut byte = [0];
    poll_fn(|cx| Poll::Ready(stream.get_ref().0.poll_peek(cx, &mut ReadBuf::new(&mut byte)).is_pending())).await
}

/// A call that failed; `before_answer` where not one byte of an answer came.
struct Broken {
    before_answer: bool,
    error: CallError,
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// How the end of a body is known.
enum Body {
    Length(usize),
    Chunked,
    UntilEnd,
}

struct Reading {
    buffer: Vec<u8>,
}

impl Reading {
    async fn more(&mut self, stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
        if stream.read_buf(&mut self.buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    async fn answer(&mut self, stream: &mut TlsStream<TcpStream>, no_body: bool) -> io::Result<(Answer, bool)> {
        let (status, mut keep, body, start) = loop {
            self.more(stream).await?;
            if let Some(head) = parse_head(&self.buffer)? {
                if head.0 >= 200 {
                    break head;
                }
                self.buffer.drain(..head.3);
            }
        };
        self.buffer.drain(..start);
        let body = match body {
            _ if no_body || status == 204 || status == 304 => Vec::new(),
            Body::Length(length) => {
                while self.buffer.len() < length {
                    self.more(stream).await?;
                }
                keep &= self.buffer.len() == length;
                self.buffer.truncate(length);
                std::mem::take(&mut self.buffer)
            }
            Body::Chunked => self.chunks(stream).await?,
            Body::UntilEnd => {
                keep = false;
                loop {
                    match self.more(stream).await {
                        Ok(()) if self.buffer.len() > ANSWER_MAX => return Err(bad("a body over the limit")),
                        Ok(()) => {}
                        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break std::mem::take(&mut self.buffer),
                        Err(error) => return Err(error),
                    }
                }
            }
        };
        Ok((Answer { status, body }, keep))
    }

    async fn chunks(&mut self, stream: &mut TlsStream<TcpStream>) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let (start, size) = loop {
                match httparse::parse_chunk_size(&self.buffer) {
                    Ok(httparse::Status::Complete(found)) => break found,
                    Ok(httparse::Status::Partial) if self.buffer.len() < HEAD_MAX => self.more(stream).await?,
                    _ => return Err(bad("a damaged body")),
                }
            };
            let size =
                usize::try_from(size).ok().filter(|size| body.len() + size <= ANSWER_MAX).ok_or_else(|| bad("a body over the limit"))?;
            // The last chunk is followed by trailers, of which we expect none, and an empty line.
            while self.buffer.len() < start + size + 2 {
                self.more(stream).await?;
            }
            body.extend_from_slice(&self.buffer[start..start + size]);
            if &self.buffer[start + size..start + size + 2] != b"\r\n" {
                return Err(bad("a damaged body"));
            }
            self.buffer.drain(..start + size + 2);
            if size == 0 {
                return Ok(body);
            }
        }
    }
}

/// Status, whether the connection stays, how the body ends, where it starts.
fn parse_head(buffer: &[u8]) -> io::Result<Option<(u16, bool, Body, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut fields);
    let start = match head.parse(buffer) {
        Ok(httparse::Status::Complete(start)) => start,
        Ok(httparse::Status::Partial) if buffer.len() < HEAD_MAX => return Ok(None),
        _ => return Err(bad("something that is not HTTP")),
    };
    let (mut keep, mut body) = (head.version == Some(1), Body::UntilEnd);
    for field in head.headers.iter() {
        let value = std::str::from_utf8(field.value).unwrap_or_default().trim();
        if field.name.eq_ignore_ascii_case("content-length") && !matches!(body, Body::Chunked) {
            let length = value.parse().ok().filter(|length| *length <= ANSWER_MAX);
            body = Body::Length(length.ok_or_else(|| bad("a body over the limit"))?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            body = Body::Chunked;
        } else if field.name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
            keep = false;
        }
    }
    Ok(Some((head.code.unwrap_or(0), keep, body, start)))
}

#[cfg(test)]
mod tests;
