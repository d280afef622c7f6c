//! An answer that is handed on while it comes: files of any length, and lines that go on for as long as both ends wish.

use std::io;

use muster_proto::problem::Problem;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::{Body, CallError, HEAD_MAX, Hub, Reading, Request, bad, parse_head};

impl Hub {
    /// Sends a request on a connection of its own and hands the body on as it comes; its memory does not grow with it.
    ///
    /// The request's timeout bounds every silence, not the whole. Where `take` fails, so does the call, as a lost one.
    ///
    /// # Errors
    /// See [`CallError`]; a status of 400 and more is an error. A body that is cut off is one as well.
    pub async fn stream(&mut self, request: &Request<'_>, take: impl FnMut(&[u8]) -> io::Result<()>) -> Result<(), CallError> {
        let mut stream = self.dialer.dial(&self.base).await?;
        let (address, name) = (self.base.authority(), request.name());
        match self.follow(&mut stream, request, take).await {
            Ok(None) => Ok(()),
            Ok(Some((status, body))) => Err(match serde_json::from_slice::<Problem>(&body) {
                Ok(problem) => CallError::Problem(problem),
                Err(_) => CallError::Answer { address, request: name, what: format!("status {status}") },
            }),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                Err(CallError::Timeout { address, request: name, after: request.timeout })
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(CallError::Answer { address, request: name, what: error.to_string() })
            }
            Err(source) => Err(self.lost(source, request)),
        }
    }

    /// `Some` with the body of an answer that is no success.
    async fn follow(
        &self,
        stream: &mut TlsStream<TcpStream>,
        request: &Request<'_>,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Option<(u16, Vec<u8>)>> {
        let mut reading = Patient { reading: Reading { buffer: Vec::new() }, request };
        let head = request.head(&self.base.authority());
        let asking = async {
            stream.write_all(head.as_bytes()).await?;
            stream.flush().await
        };
        timeout(request.timeout, asking).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let (status, _, body, start) = loop {
            reading.more(stream).await?;
            if let Some(head) = parse_head(&reading.reading.buffer)? {
                if head.0 >= 200 {
                    break head;
                }
                reading.reading.buffer.drain(..head.3);
            }
        };
        reading.reading.buffer.drain(..start);
        if !(200..300).contains(&status) {
            let mut whole = Vec::new();
            let mut keep = |bytes: &[u8]| {
                let room = HEAD_MAX.saturating_sub(whole.len());
                whole.extend_from_slice(&bytes[..bytes.len().min(room)]);
                Ok(())
            };
            reading.body(stream, body, &mut keep).await?;
            return Ok(Some((status, whole)));
        }
        reading.body(stream, body, &mut take).await?;
        Ok(None)
    }
}

/// Reads with a bound on every silence.
struct Patient<'a> {
    reading: Reading,
    request: &'a Request<'a>,
}

impl Patient<'_> {
    async fn more(&mut self, stream: &mut TlsStream<TcpStream>) -> io::Result<()> {
        timeout(self.request.timeout, self.reading.more(stream)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    async fn body(
        &mut self,
        stream: &mut TlsStream<TcpStream>,
        body: Body,
        take: &mut impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        match body {
            Body::Length(length) => self.part(stream, length, take).await,
            Body::Chunked => loop {
                let (start, size) = loop {
                    match httparse::parse_chunk_size(&self.reading.buffer) {
                        Ok(httparse::Status::Complete(found)) => break found,
                        Ok(httparse::Status::Partial) if self.reading.buffer.len() < HEAD_MAX => self.more(stream).await?,
                        _ => return Err(bad("a damaged body")),
                    }
                };
                self.reading.buffer.drain(..start);
                let size = usize::try_from(size).map_err(|_| bad("a damaged body"))?;
                self.part(stream, size, take).await?;
                while self.reading.buffer.len() < 2 {
                    self.more(stream).await?;
                }
                if !self.reading.buffer.starts_with(b"\r\n") {
                    return Err(bad("a damaged body"));
                }
                self.reading.buffer.drain(..2);
                if size == 0 {
                    return Ok(());
                }
            },
            Body::UntilEnd => loop {
                take(&self.reading.buffer)?;
                self.reading.buffer.clear();
                match self.more(stream).await {
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                    other => other?,
                }
            },
        }
    }

    /// Hands on exactly so many bytes, as they come.
    async fn part(
        &mut self,
        stream: &mut TlsStream<TcpStream>,
        mut left: usize,
        take: &mut impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        while left > 0 {
            if self.reading.buffer.is_empty() {
                self.more(stream).await?;
            }
            let some = self.reading.buffer.len().min(left);
            take(&self.reading.buffer[..some])?;
            self.reading.buffer.drain(..some);
            left -= some;
        }
        Ok(())
    }
}
