//! A WebSocket (RFC 6455) over TLS 1.3, made to move session bytes with as little work as possible.
//!
//! One task owns both directions of one TCP connection.
//! Ciphertext is read in large pieces and opened where it lies; a message that fits one TLS record comes out as a slice of the
//! read buffer, without a copy. What is sent is copied once, into the record that protects it.
//! Several small messages share a record; nothing is sent before [`WebSocket::poll_flush`].
//! Why the framing and the records are our own: `docs/decisions/0007-websocket-and-records.md`.
//!
//! It must not know what the messages mean, and must not buffer without bound: the caller stops queueing at [`QUEUE_TARGET`].

mod records;
mod upgrade;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use muster_proto::websocket::{
    CONTROL_FRAME_MAX, FrameError, HEADER_MAX, Header, MESSAGE_MAX, Opcode, Order, close_code, encode_close, parse_close, unmask,
};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

pub use muster_proto::websocket::Role;
pub use records::RecordError;
pub use upgrade::{Upgrade, UpgradeError, accept_key, connect};

use records::{Opener, PLAIN_MAX, Record, Sealer};

/// Above this many queued bytes the caller flushes before it queues more data: one large read, and so one large write.
pub const QUEUE_TARGET: usize = 64 * 1024;
/// Payload of a binary message with a 4-byte prefix that fills one TLS record exactly, from either role:
/// it comes out at the other end without a copy.
pub const RECORD_PAYLOAD: usize = PLAIN_MAX - 12;

/// One read from the socket. Four full records; larger reads were no faster, and this stays below the allocators' limit for mmap.
const READ: usize = 4 * records::RECORD_MAX;
/// Shorter payloads are copied: a slice keeps its whole read buffer alive, and a peer could make us keep many for a few bytes each.
const SLICE_MIN: usize = 8 * 1024;
/// Bytes that the kernel may hold unsent: more would be a standing queue in front of the next keystroke.
/// It also keeps what is moved inside the processor's cache: 32 KiB cost 1.2 CPU seconds per GB over two hops, 128 KiB 1.8.
const NOTSENT_LOWAT: u32 = 32 * 1024;
/// Past this many queued bytes answers to pings are left out: a peer that sends pings and reads nothing gets none.
const PONG_QUEUE_MAX: usize = 2 * QUEUE_TARGET;
/// A queue that grew beyond this gives its memory back once it is empty.
const QUEUE_KEEP: usize = 2 * QUEUE_TARGET;

/// What arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Bytes),
    /// The peer says good-bye; it was answered, and nothing follows.
    Close {
        /// Its code, 1005 if it gave none.
        code: u16,
        /// Its reason.
        reason: String,
    },
}

/// Why a WebSocket is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum WebSocketError {
    /// The network.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The connection ended without a WebSocket close.
    #[error("the connection ended without a close message")]
    Cut,
    /// TLS.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// WebSocket rules.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// One end of a WebSocket.
pub struct WebSocket {
    tcp: TcpStream,
    role: Role,
    // Receiving.
    opener: Opener,
    incoming: BytesMut,
    plain: BytesMut,
    order: Order,
    /// The frame whose payload is being collected because it spans records, or whose message has more fragments.
    partial: Option<Partial>,
    fragments: BytesMut,
    ended: bool,
    received: u64,
    // Sending.
    sealer: Sealer,
    outgoing: Vec<u8>,
    /// How much of `outgoing` the kernel has.
    sent: usize,
    /// Where the record begins that is still open for more plaintext.
    open: Option<usize>,
    closing: bool,
}

/// A frame of which some payload is still missing.
struct Partial {
    header: Header,
    /// The opcode of the message that it belongs to.
    opcode: Opcode,
    payload: BytesMut,
}

impl WebSocket {
    /// Takes over a connection on which both ends agreed to speak WebSocket.
    ///
    /// `leftover` is plaintext that was read behind the HTTP head. The TLS connection must have secret extraction enabled, its
    /// handshake be over, and nothing be left unread in it.
    ///
    /// # Errors
    /// When the connection does not speak TLS 1.3 or its secrets cannot be taken.
    pub fn new(tcp: TcpStream, tls: rustls::Connection, role: Role, leftover: &[u8]) -> Result<Self, RecordError> {
        let (sealer, opener) = records::split(tls)?;
        Ok(Self::from_parts(tcp, sealer, opener, BytesMut::new(), role, BytesMut::from(leftover)))
    }

    fn from_parts(tcp: TcpStream, sealer: Sealer, opener: Opener, incoming: BytesMut, role: Role, plain: BytesMut) -> Self {
        // Without these two the session is slower, not wrong.
        let _ = tcp.set_nodelay(true);
        let _ = socket2::SockRef::from(&tcp).set_tcp_notsent_lowat(NOTSENT_LOWAT);
        Self {
            tcp,
            role,
            opener,
            incoming,
            plain,
            order: Order::new(role, MESSAGE_MAX),
            partial: None,
            fragments: BytesMut::new(),
            ended: false,
            received: 0,
            sealer,
            outgoing: Vec::new(),
            sent: 0,
            open: None,
            closing: false,
        }
    }

    /// The next message; `None` after a close. Pings are answered: flush after a `Pending` as well.
    ///
    /// # Errors
    /// When the connection is of no more use. A peer that broke a rule was told so if a flush follows.
    pub fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, WebSocketError>> {
        loop {
            if self.ended {
                return Poll::Ready(Ok(None));
            }
            match self.next_frame() {
                Ok(Some(message)) => {
                    self.ended = matches!(message, Message::Close { .. });
                    return Poll::Ready(Ok(Some(message)));
                }
                Ok(None) => {}
                Err(error) => {
                    self.ended = true;
                    self.queue_close(error.close_code(), &error.to_string());
                    return Poll::Ready(Err(error.into()));
                }
            }
            match self.opener.open(&mut self.incoming)? {
                Some(Record::Data(plain)) if self.plain.is_empty() => self.plain = plain,
                Some(Record::Data(plain)) => self.plain.extend_from_slice(&plain),
                Some(Record::Skip) => {}
                Some(Record::Closed) => return Poll::Ready(Err(WebSocketError::Cut)),
                None => ready!(self.fill(cx))?,
            }
        }
    }

    /// Reads ciphertext from the socket.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        // The plaintext of earlier reads may still be with the application; then a new buffer is taken rather than waited for.
        if self.plain.is_empty() {
            self.plain = BytesMut::new();
        }
        if self.incoming.capacity() - self.incoming.len() < records::RECORD_MAX && !self.incoming.try_reclaim(READ - self.incoming.len()) {
            let mut fresh = BytesMut::with_capacity(READ);
            fresh.extend_from_slice(&self.incoming);
            self.incoming = fresh;
        }
        let read = ready!(pin!(self.tcp.read_buf(&mut self.incoming)).poll(cx))?;
        self.received += read as u64;
        if read == 0 { Poll::Ready(Err(WebSocketError::Cut)) } else { Poll::Ready(Ok(())) }
    }

    /// Takes messages off `plain`; `None` when it holds no whole one.
    fn next_frame(&mut self) -> Result<Option<Message>, FrameError> {
        loop {
            let (header, opcode, payload) = if let Some(mut partial) = self.partial.take() {
                let missing = partial.header.len as usize - partial.payload.len();
                let here = missing.min(self.plain.len());
                partial.payload.extend_from_slice(&self.plain[..here]);
                self.plain.advance(here);
                if here < missing {
                    self.partial = Some(partial);
                    return Ok(None);
                }
                (partial.header, partial.opcode, partial.payload)
            } else {
                let Some((header, at)) = Header::parse(&self.plain)? else { return Ok(None) };
                let opcode = self.order.admit(&header)?;
                self.plain.advance(at);
                let len = header.len as usize;
                if len > self.plain.len() {
                    // The length is within the bound: `admit` looked.
                    let mut payload = BytesMut::with_capacity(len);
                    payload.extend_from_slice(&self.plain);
                    self.plain.clear();
                    self.partial = Some(Partial { header, opcode, payload });
                    return Ok(None);
                }
                (header, opcode, self.plain.split_to(len))
            };
            if let Some(message) = self.received(&header, opcode, payload)? {
                return Ok(Some(message));
            }
        }
    }

    fn received(&mut self, header: &Header, opcode: Opcode, mut payload: BytesMut) -> Result<Option<Message>, FrameError> {
        if let Some(mask) = header.mask {
            unmask(&mut payload, mask);
        }
        match header.opcode {
            Opcode::Ping => {
                if self.queued_bytes() < PONG_QUEUE_MAX && !self.closing {
                    self.queue(Opcode::Pong, &[&payload]);
                }
                return Ok(None);
            }
            Opcode::Pong => return Ok(None),
            Opcode::Close => {
                let (code, reason) = parse_close(&payload)?;
                let reason = reason.to_owned();
                self.queue_close(if code == close_code::NONE { close_code::NORMAL } else { code }, "");
                return Ok(Some(Message::Close { code, reason }));
            }
            Opcode::Text | Opcode::Binary | Opcode::Continuation => {}
        }
        if !header.fin {
            self.fragments.extend_from_slice(&payload);
            return Ok(None);
        }
        if !self.fragments.is_empty() {
            self.fragments.extend_from_slice(&payload);
            payload = std::mem::take(&mut self.fragments);
        }
        Ok(Some(match opcode {
            Opcode::Text => Message::Text(String::from_utf8(payload.into()).map_err(|_| FrameError::Utf8)?),
            _ if payload.len() < SLICE_MIN => Message::Binary(Bytes::copy_from_slice(&payload)),
            _ => Message::Binary(payload.freeze()),
        }))
    }

    /// Queues a text message.
    pub fn queue_text(&mut self, text: &str) {
        self.queue(Opcode::Text, &[text.as_bytes()]);
    }

    /// Queues a binary message: a prefix and a payload.
    pub fn queue_binary(&mut self, prefix: [u8; 4], payload: &[u8]) {
        self.queue(Opcode::Binary, &[&prefix, payload]);
    }

    /// Queues a binary message as it is.
    pub fn queue_message(&mut self, payload: &[u8]) {
        self.queue(Opcode::Binary, &[payload]);
    }

    /// Queues a ping.
    pub fn queue_ping(&mut self) {
        self.queue(Opcode::Ping, &[]);
    }

    /// Says good-bye. Nothing can be queued after it; what is queued is still sent.
    pub fn queue_close(&mut self, code: u16, reason: &str) {
        if !self.closing {
            self.queue(Opcode::Close, &[&encode_close(code, reason)]);
            self.closing = true;
        }
    }

    /// Bytes that wait for the network.
    pub fn queued_bytes(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// Bytes that arrived from the network, of whatever kind: while this grows, the other end is there.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    /// The address of the other end.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn peer_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.tcp.peer_addr()
    }

    fn queue(&mut self, opcode: Opcode, parts: &[&[u8]]) {
        if self.closing {
            return;
        }
        let len: usize = parts.iter().map(|part| part.len()).sum();
        debug_assert!(!opcode.is_control() || len <= CONTROL_FRAME_MAX, "control frames are short");
        let (header, header_len) = Header::whole(self.role, opcode, len).encode();
        let records = (len + HEADER_MAX) / PLAIN_MAX + 2;
        self.outgoing.reserve(len + HEADER_MAX + records * (records::HEADER + records::TRAILER));
        self.append(&header[..header_len]);
        for part in parts {
            self.append(part);
        }
    }

    /// Adds plaintext, sealing each record that is full.
    fn append(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let start = *self.open.get_or_insert_with(|| {
                let start = self.outgoing.len();
                self.outgoing.extend_from_slice(&[0; records::HEADER]);
                start
            });
            let room = PLAIN_MAX - (self.outgoing.len() - start - records::HEADER);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.outgoing.extend_from_slice(now);
            if now.len() == room {
                self.seal();
            }
            bytes = later;
        }
    }

    fn seal(&mut self) {
        if let Some(start) = self.open.take()
            && self.sealer.seal(&mut self.outgoing, start).is_err()
        {
            // A worn out key: plaintext must not leave. The next flush finds the sealer spent and fails.
            self.outgoing.truncate(start);
            self.closing = true;
        }
    }

    /// Hands what is queued to the kernel. Ready when it has everything.
    ///
    /// # Errors
    /// When the connection is of no more use.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WebSocketError>> {
        self.seal();
        while self.sent < self.outgoing.len() {
            let written = ready!(Pin::new(&mut self.tcp).poll_write(cx, &self.outgoing[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(WebSocketError::Cut));
            }
            self.sent += written;
            if self.sent >= QUEUE_TARGET && self.sent < self.outgoing.len() {
                self.outgoing.drain(..self.sent);
                self.sent = 0;
            }
        }
        self.sent = 0;
        self.outgoing.clear();
        if self.outgoing.capacity() > QUEUE_KEEP {
            self.outgoing = Vec::new();
        }
        if self.sealer.worn_out() {
            return Poll::Ready(Err(RecordError::WornOut.into()));
        }
        Poll::Ready(Ok(()))
    }

    /// [`Self::poll_read`] as a future. Dropping it loses nothing.
    ///
    /// # Errors
    /// As [`Self::poll_read`].
    pub async fn read(&mut self) -> Result<Option<Message>, WebSocketError> {
        poll_fn(|cx| {
            let message = self.poll_read(cx);
            // A pong or the answer to a close may wait; a broken connection shows at the next read.
            if self.queued_bytes() > 0 {
                let _ = self.poll_flush(cx);
            }
            message
        })
        .await
    }

    /// [`Self::poll_flush`] as a future. Dropping it loses nothing.
    ///
    /// # Errors
    /// As [`Self::poll_flush`].
    pub async fn flush(&mut self) -> Result<(), WebSocketError> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Flushes, ends TLS in good order and shuts the sending side. Put a timeout around it: the peer may not read.
    ///
    /// # Errors
    /// When the connection is of no more use.
    pub async fn shutdown(mut self) -> Result<(), WebSocketError> {
        self.seal();
        self.sealer.close_notify(&mut self.outgoing)?;
        self.flush().await?;
        poll_fn(|cx| Pin::new(&mut self.tcp).poll_shutdown(cx)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
