//! The private channel between the privileged part of a session and its unprivileged side: whole messages in JSON, with descriptors.
//!
//! A pair of `SOCK_SEQPACKET` sockets: a message is one datagram, and the end of either side is seen by the other.
//! What comes from the unprivileged side is hostile: it parses what comes from the network.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use muster_proto::Millis;
use muster_proto::id::{RunId, SessionId};
use muster_proto::run::RunStart;
use muster_proto::session::Target;
use musterd::descriptors;
use musterd::handoff::{Arrival, Report};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Largest message, in bytes: a run's order with its command and environment.
const MESSAGE_MAX: usize = 192 * 1024;
/// How long a send may wait for the other side to read.
const PATIENCE: Duration = Duration::from_secs(2);
/// Messages that wait in the unprivileged side; a stream that is opened beyond that is refused.
const WAITING_MAX: usize = 16_384;

/// One end.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

/// What the unprivileged side of a session or a run is told first.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Begin {
    /// Be the network side of a session.
    Session(SessionBegin),
    /// Collect what a command writes. With the descriptors of its reports, of what it used, and of its lock.
    Run(RunBegin),
}

/// What the network side has to know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SessionBegin {
    pub(crate) session: SessionId,
    /// Who, for the log.
    pub(crate) user: String,
    /// `wss://...`, checked.
    pub(crate) relay: String,
    pub(crate) ticket: String,
    /// The hub's authority in PEM, checked.
    pub(crate) ca: String,
    /// The session's certificate and the device's, in PEM.
    pub(crate) certificate: String,
    /// The session's key in PEM.
    pub(crate) key: String,
    pub(crate) proxy: Option<String>,
    pub(crate) floor: Millis,
    pub(crate) streams: u32,
    pub(crate) idle_s: Option<u32>,
    pub(crate) total_s: Option<u32>,
    pub(crate) log_level: String,
}

/// What the collector of a run has to know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RunBegin {
    pub(crate) run: RunId,
    pub(crate) start: RunStart,
    pub(crate) arrival: Arrival,
    pub(crate) log_level: String,
}

/// What the unprivileged side asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Open a target; the number is the stream's.
    Open { id: u32, target: Target },
    /// Start the run's command.
    Start,
    /// Send a signal to what runs in the stream's foreground.
    Signal { id: u32, signal: String },
    /// The stream is over: hang up what its terminal still has, and end it soon.
    HangUp { id: u32 },
    /// Tell all processes of the run to go, or kill them.
    EndAll { kill: bool },
    /// How many processes are there, and what do they hold?
    Look,
    /// The run's reports have grown.
    More,
    /// It is over; this is the last message.
    Done {
        report: Report,
        /// The visitor ended it, or was cut off: what they left behind may linger, if the owner lets it.
        by_visitor: bool,
    },
}

/// What the privileged part tells.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Told {
    /// Opened. With one descriptor for both directions, or with two or three: input, output, errors of a process.
    Opened { id: u32, user: String, shell: String },
    /// It waits; a sentence for the visitor meanwhile.
    Waits { id: u32, message: String },
    /// Not opened.
    Refused { id: u32, code: String, message: String },
    /// A process has ended.
    Exited { id: u32, code: Option<i32>, signal: Option<String>, used: Used },
    /// The answer to [`Ask::Look`].
    Seen { left: usize, used: Used },
    /// End now.
    Close { code: String, message: String },
}

/// What processes used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Used {
    /// Microseconds of processor time, of the living and the dead.
    pub(crate) cpu_us: u64,
    /// Resident bytes at this moment.
    pub(crate) memory: u64,
    /// Most resident bytes of a single process that has ended.
    pub(crate) largest: u64,
}

impl Channel {
    /// Both ends.
    pub(crate) fn pair() -> io::Result<(Self, Self)> {
        let (a, b) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for end in [&a, &b] {
            set_socket_send_buffer_size(end, 2 * MESSAGE_MAX)?;
            set_socket_timeout(end, Timeout::Send, Some(PATIENCE))?;
        }
        Ok((Self(a), Self(b)))
    }

    /// The end that this process was started with.
    pub(crate) fn inherited(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The descriptor, to hand it to a child.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a message. Waits for a peer that is busy, but not for long: one that does not read is as good as dead.
    pub(crate) fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_bytes(&encode(message)?, fds, SendFlags::empty())
    }

    fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<()> {
        // A datagram goes as a whole.
        descriptors::send(self, bytes, fds, flags).map(drop)
    }

    /// Takes a message that is there already.
    pub(crate) fn try_receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.receive_with(RecvFlags::DONTWAIT)
    }

    /// Takes the next message; `None` at the other side's end. Waits, unless the channel was made non-blocking.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        self.receive_with(RecvFlags::empty())
    }

    fn receive_with<T: DeserializeOwned>(&self, flags: RecvFlags) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_MAX];
        match descriptors::receive(self, &mut bytes, flags) {
            Ok((0, _)) => Ok(None),
            Ok((len, fds)) => Ok(Some((serde_json::from_slice(&bytes[..len])?, fds))),
            // It ended with messages of ours unread.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::CONNRESET) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn encode(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is too large for the session's channel"));
    }
    Ok(bytes)
}

/// A channel that a runtime watches: the unprivileged side's, which never waits for the privileged part.
///
/// The kernel holds as few as ten messages (`net.unix.max_dgram_qlen`); what does not fit waits here.
#[derive(Debug)]
pub(crate) struct Watched {
    fd: AsyncFd<OwnedFd>,
    channel: Channel,
    waiting: RefCell<VecDeque<Vec<u8>>>,
    more: Notify,
}

impl Watched {
    /// Must be called inside a runtime.
    #[expect(unsafe_code, reason = "tokio has no other way to wait for a descriptor of ours that is not deprecated")]
    pub(crate) fn new(channel: Channel) -> io::Result<Self> {
        descriptors::set_non_blocking(&channel)?;
        // SAFETY: an OwnedFd names one open descriptor as long as it lives, and the AsyncFd owns it.
        let fd = unsafe { AsyncFd::register_with_interest(channel.0.try_clone()?, Interest::READABLE | Interest::WRITABLE) };
        Ok(Self { fd: fd.map_err(io::Error::from)?, channel, waiting: RefCell::default(), more: Notify::new() })
    }

    /// Sends a message, at once or as soon as there is room. Fails when too many wait already.
    pub(crate) fn send(&self, message: &impl Serialize) -> io::Result<()> {
        let bytes = encode(message)?;
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            match self.channel.send_bytes(&bytes, &[], SendFlags::DONTWAIT) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return sent,
            }
        }
        if waiting.len() >= WAITING_MAX {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "the device is too busy with this session"));
        }
        waiting.push_back(bytes);
        self.more.notify_one();
        Ok(())
    }

    /// Waits for the next message, and sends what waits; `None` at the other side's end.
    pub(crate) async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            let waits = !self.waiting.borrow().is_empty();
            tokio::select! {
                ready = self.fd.readable() => {
                    if let Ok(received) = ready?.try_io(|_| self.channel.receive()) {
                        return received;
                    }
                }
                ready = self.fd.writable(), if waits => {
                    // Not writable any more: it is waited for again.
                    let _ = ready?.try_io(|_| self.flush(SendFlags::DONTWAIT));
                }
                () = self.more.notified() => {}
            }
        }
    }

    /// Sends all that waits: before the end, when nobody waits for answers any more.
    pub(crate) async fn finish(&self) -> io::Result<()> {
        while !self.waiting.borrow().is_empty() {
            let _ = self.fd.writable().await?.try_io(|_| self.flush(SendFlags::DONTWAIT));
        }
        Ok(())
    }

    fn flush(&self, flags: SendFlags) -> io::Result<()> {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(bytes) = waiting.front() {
            self.channel.send_bytes(bytes, &[], flags)?;
            waiting.pop_front();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_whole_and_carry_descriptors() {
        let (a, b) = Channel::pair().unwrap();
        let (read, write) = std::io::pipe().unwrap();
        a.send(&Ask::Look, &[]).unwrap();
        a.send(&Ask::HangUp { id: 7 }, &[read.as_fd(), write.as_fd()]).unwrap();
        assert!(matches!(b.receive::<Ask>().unwrap(), Some((Ask::Look, fds)) if fds.is_empty()));
        assert!(matches!(b.receive::<Ask>().unwrap(), Some((Ask::HangUp { id: 7 }, fds)) if fds.len() == 2));
        a.send(&"nonsense", &[]).unwrap();
        assert!(b.receive::<Ask>().is_err());
        a.send(&"x".repeat(MESSAGE_MAX), &[]).unwrap_err();
        a.send(&"x".repeat(MESSAGE_MAX - 2), &[]).unwrap();
        b.receive::<String>().unwrap();
        drop(a);
        assert!(b.receive::<Ask>().unwrap().is_none());
    }

    #[tokio::test]
    async fn more_than_the_kernel_holds_waits_and_comes_in_order() {
        let (a, b) = Channel::pair().unwrap();
        let watched = Watched::new(a).unwrap();
        for id in 0..2000 {
            watched.send(&Ask::HangUp { id }).unwrap();
        }
        let reader = std::thread::spawn(move || {
            for want in 0..2000 {
                let got = b.receive::<Ask>().unwrap();
                assert!(matches!(got, Some((Ask::HangUp { id }, _)) if id == want), "{got:?}");
            }
            b.send(&Told::Close { code: String::new(), message: String::new() }, &[]).unwrap();
        });
        assert!(matches!(watched.receive::<Told>().await.unwrap(), Some((Told::Close { .. }, _))));
        watched.finish().await.unwrap();
        reader.join().unwrap();
    }
}
