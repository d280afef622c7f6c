//! Signals as something to wait for: a child's end, and the wish that this ends.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// SIGCHLD, SIGTERM and SIGINT, held back and read from a descriptor (signalfd(2)). SIGHUP, SIGUSR1, SIGUSR2 and SIGALRM are held
/// back and mean nothing.
#[derive(Debug)]
pub(super) struct Signals(OwnedFd);

impl Signals {
    /// Holds them back from now on.
    #[expect(unsafe_code, reason = "no library of ours has signalfd")]
    pub(super) fn block() -> io::Result<Self> {
        // SAFETY: the set is initialized by sigemptyset before it is read, and lives during the calls.
        let fd = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGALRM] {
                libc::sigaddset(&raw mut set, signal);
            }
            if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Takes what has come; whether this is to end.
    #[expect(unsafe_code, reason = "the kernel writes a plain structure")]
    pub(super) fn take(&self) -> bool {
        let mut end = false;
        loop {
            // SAFETY: all-zero bytes are a valid value of these plain numbers, and read writes at most their size.
            let (len, info) = unsafe {
                let mut info: libc::signalfd_siginfo = std::mem::zeroed();
                let len = libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size_of::<libc::signalfd_siginfo>());
                (len, info)
            };
            if usize::try_from(len).ok() != Some(size_of::<libc::signalfd_siginfo>()) {
                return end;
            }
            end |= [libc::SIGTERM, libc::SIGINT].map(|signal| u32::try_from(signal).ok()).contains(&Some(info.ssi_signo));
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
