//! Descriptors: sent and received with a message over a Unix socket (unix(7), SCM_RIGHTS), and made non-blocking.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// Most descriptors with one message.
pub const MOST: usize = 3;

/// Sends bytes, the descriptors with the first of them; how many bytes the socket took. A peer that is gone is an error, no signal.
///
/// # Errors
/// As sendmsg(2); `InvalidInput` for more than [`MOST`] descriptors.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    // The space is rounded up, and would take one more.
    if fds.len() > MOST || !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one message"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL | flags)?)
}

/// Receives bytes and the descriptors that come with them, which no program started later has. No bytes are the end.
///
/// # Errors
/// As recvmsg(2).
pub fn receive(socket: impl AsFd, bytes: &mut [u8], flags: RecvFlags) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket.as_fd(), &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC | flags) {
            Err(Errno::INTR) => {}
            received => break received?.bytes,
        }
    };
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok((received, fds))
}

/// Reads and writes return at once from now on, for everybody who has this open.
///
/// # Errors
/// As fcntl(2).
pub fn set_non_blocking(fd: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd.as_fd(), fcntl_getfl(fd.as_fd())? | OFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    #[test]
    fn bytes_and_descriptors_arrive_together_and_not_too_many() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut reader, writer) = io::pipe().unwrap();
        assert_eq!(send(&one, b"hello", &[writer.as_fd()], SendFlags::empty()).unwrap(), 5);
        let mut bytes = [0; 16];
        let (len, fds) = receive(&other, &mut bytes, RecvFlags::empty()).unwrap();
        assert_eq!((&bytes[..len], fds.len()), (&b"hello"[..], 1));
        assert!(rustix::io::fcntl_getfd(&fds[0]).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        // The last two of the writing end: the reader sees its end only when both are gone.
        drop((writer, fds));
        assert_eq!(reader.read(&mut bytes).unwrap(), 0);
        let many = [reader.as_fd(); MOST + 1];
        assert_eq!(send(&one, b"x", &many, SendFlags::empty()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        set_non_blocking(&other).unwrap();
        assert_eq!(receive(&other, &mut bytes, RecvFlags::empty()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(one);
        // A process that another test is just starting has a copy until its program begins.
        let mut gone = [rustix::event::PollFd::new(&other, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut gone, None).unwrap();
        assert_eq!(receive(&other, &mut bytes, RecvFlags::empty()).unwrap().0, 0);
    }
}
