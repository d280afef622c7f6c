//! The conversation with the daemon, and with root at the device: lines over Unix sockets.
//!
//! The daemon may go and come back; what it should know waits for it meanwhile, within a bound, and is left in a file at the end.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use musterd::descriptors;
use musterd::handoff::{Do, Handoff, LAST_WORDS, LINE_MAX, Say, line};
use musterd::log::warn;
use rustix::event::PollFlags;
use rustix::fs::Mode;
use rustix::net::RecvFlags;

/// Longest wait for the daemon's first line: it is on its way already.
const HANDOFF: Duration = Duration::from_secs(5);
/// Longest line from whom we serve already.
const DO_MAX: usize = 4096;
/// Lines that wait for the daemon; then the oldest go.
const WAITING_MAX: usize = 64;
/// Connections at once; then the oldest goes that is only a question, or the oldest.
const CONNECTIONS_MAX: usize = 8;

/// Reads the daemon's first line and the descriptors that come with it; and what it has said behind that already.
pub(super) fn read_handoff(stream: &UnixStream) -> io::Result<(Handoff, Vec<OwnedFd>, Vec<u8>)> {
    let (mut text, mut fds, until) = (Vec::new(), Vec::new(), Instant::now() + HANDOFF);
    let mut end = None;
    while end.is_none() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || text.len() > LINE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "no order came within its time and bound"));
        }
        stream.set_read_timeout(Some(left))?;
        let mut bytes = [0; 16 * 1024];
        let (received, more) = descriptors::receive(stream, &mut bytes, RecvFlags::empty())?;
        fds.extend(more);
        if received == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        end = bytes[..received].iter().position(|byte| *byte == b'\n').map(|at| text.len() + at + 1);
        text.extend_from_slice(&bytes[..received]);
    }
    let rest = text.split_off(end.unwrap_or(text.len()));
    Ok((serde_json::from_slice(&text)?, fds, rest))
}

/// One connection.
#[derive(Debug)]
struct Peer {
    stream: UnixStream,
    heard: Vec<u8>,
    /// It wants to be told all.
    attached: bool,
    /// The rest of a line that it has begun to take.
    unsent: Vec<u8>,
    /// That is the first of what waits.
    sending: bool,
}

/// All who talk with one session or run.
#[derive(Debug)]
pub(super) struct Talk {
    listener: UnixListener,
    socket: PathBuf,
    peers: Vec<Peer>,
    waiting: VecDeque<Say>,
}

impl Talk {
    /// Opens the socket of this session or run; whoever may start sessions may connect.
    pub(super) fn open(dir: &Path, name: &str, daemon: UnixStream, heard: Vec<u8>) -> io::Result<Self> {
        let socket = dir.join(format!("{name}.sock"));
        // Made with its mode; its group is the directory's, which has the set-group-id bit.
        let before = rustix::process::umask(Mode::from_raw_mode(0o117));
        let listener = UnixListener::bind(&socket);
        rustix::process::umask(before);
        let listener = listener?;
        let talk = Self {
            listener,
            socket,
            peers: vec![Peer { stream: daemon, heard, attached: true, unsent: Vec::new(), sending: false }],
            waiting: VecDeque::new(),
        };
        talk.listener.set_nonblocking(true)?;
        talk.peers[0].stream.set_nonblocking(true)?;
        Ok(talk)
    }

    /// Tells whoever is attached, now or later. Where nobody listens for long, events go first: how it ended is kept.
    pub(super) fn say(&mut self, say: Say) {
        if self.waiting.len() >= WAITING_MAX {
            // The first one may be on its way.
            let event = self.waiting.iter().skip(1).position(|say| matches!(say, Say::Event { .. } | Say::More));
            self.waiting.remove(event.map_or(1, |at| at + 1));
        }
        self.waiting.push_back(say);
        self.flush();
    }

    fn flush(&mut self) {
        // The newest one is the daemon of today.
        while let Some(at) = self.peers.iter().rposition(|peer| peer.attached) {
            let peer = &mut self.peers[at];
            if peer.unsent.is_empty() {
                if std::mem::take(&mut peer.sending) {
                    self.waiting.pop_front();
                }
                let Some(say) = self.waiting.front() else { return };
                (peer.unsent, peer.sending) = (line(say), true);
            }
            match peer.stream.write(&peer.unsent) {
                Ok(written) => drop(peer.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It reads when it has time.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What it had of a line is nothing; the line waits for the next one.
                Err(_) => drop(self.peers.remove(at)),
            }
        }
    }

    /// Hears all who have said something; `live` is what they are answered. What is asked for comes out.
    pub(super) fn hear(&mut self, live: &Say) -> Vec<Do> {
        while let Ok((stream, _)) = self.listener.accept() {
            // The newest is served: a daemon in the wrong hands must not keep root out.
            if self.peers.len() >= CONNECTIONS_MAX {
                self.peers.remove(self.peers.iter().position(|peer| !peer.attached).unwrap_or(0));
            }
            if stream.set_nonblocking(true).is_ok() {
                self.peers.push(Peer { stream, heard: Vec::new(), attached: false, unsent: Vec::new(), sending: false });
            }
        }
        let mut asked = Vec::new();
        let mut gone = Vec::new();
        for (at, peer) in self.peers.iter_mut().enumerate() {
            let mut bytes = [0; 1024];
            loop {
                match peer.stream.read(&mut bytes) {
                    Ok(0) => gone.push(at),
                    Ok(len) => {
                        peer.heard.extend_from_slice(&bytes[..len]);
                        if peer.heard.len() > DO_MAX {
                            gone.push(at);
                            break;
                        }
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => gone.push(at),
                }
                break;
            }
            while let Some(end) = peer.heard.iter().position(|byte| *byte == b'\n') {
                let text: Vec<u8> = peer.heard.drain(..=end).collect();
                match serde_json::from_slice(&text) {
                    Ok(Do::Attach) => {
                        peer.attached = true;
                        peer.unsent.extend(line(live));
                    }
                    Ok(Do::Status) => drop(peer.stream.write(&line(live))),
                    Ok(other) => asked.push(other),
                    Err(_) => gone.push(at),
                }
            }
        }
        gone.dedup();
        for at in gone.into_iter().rev() {
            self.peers.remove(at);
        }
        self.flush();
        asked
    }

    /// What to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let of_peer = |peer: &Peer| if peer.unsent.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let peers = self.peers.iter().map(move |peer| (peer.stream.as_fd(), of_peer(peer)));
        std::iter::once((self.listener.as_fd(), PollFlags::IN)).chain(peers)
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        // What nobody was there to hear: the next daemon reads it, and removes it.
        if !self.waiting.is_empty()
            && let (Some(run), Some(name)) = (self.socket.ancestors().nth(2), self.socket.file_stem())
        {
            let text: Vec<u8> = self.waiting.iter().flat_map(line).collect();
            let dir = run.join(LAST_WORDS);
            let file = fs::File::options().write(true).create_new(true).mode(0o640).open(dir.join(name).with_extension("report"));
            let group = fs::metadata(&dir).ok().map(|metadata| metadata.gid());
            let written = file.and_then(|mut file| file.write_all(&text).and_then(|()| std::os::unix::fs::fchown(&file, None, group)));
            if let Err(error) = written {
                warn!("{}: its last words cannot be left for the daemon in {}: {error}", name.display(), dir.display());
            }
        }
        let _ = fs::remove_file(&self.socket);
    }
}
