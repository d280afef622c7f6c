//! What a stream leads to on this machine: a socket, a pseudo-terminal, or this process's own input and output.
//!
//! Everything here is non-blocking, and says by readiness when it can be tried again: an idle stream holds no buffer.

use std::fs::File;
use std::future::Future as _;
use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use socket2::SockRef;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UnixStream};

/// One read from what has no readiness (a file as standard input).
const PLAIN_READ: usize = 16 * 1024;

/// One end point.
#[derive(Debug)]
pub struct Io(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
    Pair { input: Input, output: Output },
}

/// Where a stream's data is read from.
#[derive(Debug, Default)]
pub struct Input(Source);

#[derive(Debug, Default)]
enum Source {
    /// Nothing is ever read; the application sends by itself.
    #[default]
    None,
    Ready(pipe::Receiver),
    /// Always ready, such as a file; and what has been read of it.
    Always(File),
}

/// Where a stream's data is written to.
#[derive(Debug, Default)]
pub struct Output(Sink);

#[derive(Debug, Default)]
enum Sink {
    /// What arrives is thrown away.
    #[default]
    None,
    Ready(pipe::Sender),
    Always(File),
}

impl Input {
    /// Reads from a descriptor that is non-blocking already: a pseudo-terminal, a pipe, a terminal; or from a file.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let spare = fd.try_clone()?;
        match pipe::Receiver::from_owned_fd_unchecked(fd) {
            Ok(receiver) => Ok(Self(Source::Ready(receiver))),
            // A regular file cannot be watched (EPERM): it is always ready.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Self(Source::Always(spare.into()))),
            Err(error) => Err(error),
        }
    }

    /// Whether reading is worth a try.
    ///
    /// # Errors
    /// When the runtime is going down.
    pub fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Source::None => Poll::Pending,
            Source::Ready(receiver) => receiver.poll_read_ready(cx),
            Source::Always(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads what is there, at most `limit` bytes, into the free room of `buffer`. Zero is the end.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing.
    pub fn try_read(&self, buffer: &mut BytesMut, limit: usize) -> io::Result<usize> {
        match &self.0 {
            Source::None => Err(io::ErrorKind::WouldBlock.into()),
            Source::Ready(receiver) => receiver.try_read_buf(&mut buffer.limit(limit)),
            Source::Always(file) => {
                let mut piece = [0; PLAIN_READ];
                let read = (&*file).read(&mut piece[..limit.min(PLAIN_READ)])?;
                buffer.put_slice(&piece[..read]);
                Ok(read)
            }
        }
    }
}

impl Output {
    /// Writes to a descriptor that is non-blocking already, or to a file.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let spare = fd.try_clone()?;
        match pipe::Sender::from_owned_fd_unchecked(fd) {
            Ok(sender) => Ok(Self(Sink::Ready(sender))),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Self(Sink::Always(spare.into()))),
            Err(error) => Err(error),
        }
    }
}

/// Takes the pacing off a connection to this same machine, where the system's default is to pace (BBR).
///
/// It spreads what is sent over time, for the sake of queues on the line; here is no line, and each piece would cost a timer.
fn unpace(stream: &TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if stream.peer_addr().is_ok_and(|peer| peer.ip().to_canonical().is_loopback()) {
        let socket = SockRef::from(stream);
        if socket.tcp_congestion().is_ok_and(|name| name.starts_with(b"bbr")) {
            // Every kernel has it. Without it the connection is slower, not wrong.
            let _ = socket.set_tcp_congestion(b"reno");
        }
    }
}

impl Io {
    /// A TCP connection.
    pub fn tcp(stream: TcpStream) -> Self {
        // A keystroke must not wait for the next; a system without it still works.
        let _ = stream.set_nodelay(true);
        unpace(&stream);
        Self(Kind::Tcp(stream))
    }

    /// A Unix socket's connection.
    pub fn unix(stream: UnixStream) -> Self {
        Self(Kind::Unix(stream))
    }

    /// Two descriptors, one for each direction.
    pub fn pair(input: Input, output: Output) -> Self {
        Self(Kind::Pair { input, output })
    }

    /// Reads what is there, at most `limit` bytes, into the free room of `buffer`. Zero is the end.
    ///
    /// On a socket a short read tells the runtime that there is no more for now, which saves the call that would find out.
    /// A pseudo-terminal gives less than it has: there only `WouldBlock` tells.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut BytesMut, limit: usize) -> Poll<io::Result<usize>> {
        let buffer = &mut buffer.limit(limit);
        match &mut self.0 {
            Kind::Tcp(stream) => pin!(stream.read_buf(buffer)).poll(cx),
            Kind::Unix(stream) => pin!(stream.read_buf(buffer)).poll(cx),
            Kind::Pair { input, .. } => {
                ready!(input.poll_ready(cx))?;
                Poll::Ready(input.try_read(buffer.get_mut(), limit))
            }
        }
    }

    /// The same without asking the runtime, which hears a moment later than the kernel what can be read.
    pub(super) fn read_rest(&self, buffer: &mut BytesMut, limit: usize) -> io::Result<usize> {
        let Kind::Pair { input: Input(Source::Ready(receiver)), .. } = &self.0 else { return Err(io::ErrorKind::WouldBlock.into()) };
        let mut piece = [0; PLAIN_READ];
        let read = rustix::io::read(receiver, &mut piece[..limit.min(PLAIN_READ)])?;
        buffer.put_slice(&piece[..read]);
        Ok(read)
    }

    pub(super) fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0 {
            Kind::Tcp(stream) => stream.poll_write_ready(cx),
            Kind::Unix(stream) => stream.poll_write_ready(cx),
            Kind::Pair { output: Output(Sink::Ready(sender)), .. } => sender.poll_write_ready(cx),
            Kind::Pair { .. } => Poll::Ready(Ok(())),
        }
    }

    pub(super) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Kind::Tcp(stream) => stream.try_write_vectored(slices),
            Kind::Unix(stream) => stream.try_write_vectored(slices),
            Kind::Pair { output: Output(Sink::Ready(sender)), .. } => sender.try_write_vectored(slices),
            Kind::Pair { output: Output(Sink::Always(file)), .. } => (&*file).write_vectored(slices),
            Kind::Pair { output: Output(Sink::None), .. } => Ok(slices.iter().map(|slice| slice.len()).sum()),
        }
    }

    /// No more data will be written.
    pub(super) fn shut(&mut self) {
        // The other end may be gone already: then there is nothing to tell it.
        match &mut self.0 {
            Kind::Tcp(stream) => drop(SockRef::from(&*stream).shutdown(Shutdown::Write)),
            Kind::Unix(stream) => drop(SockRef::from(&*stream).shutdown(Shutdown::Write)),
            Kind::Pair { output, .. } => *output = Output(Sink::None),
        }
    }

    /// Drops the connection so that the program at its other end sees that it broke, and does not take it for a regular end.
    pub(super) fn break_off(self) {
        if let Kind::Tcp(stream) = &self.0 {
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}
