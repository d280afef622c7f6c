//! This process's own input and output, without blocking and without harm to whoever shares them.
//!
//! Whether reads block is a property of the open file, which the shell that started us shares. A terminal is therefore opened anew;
//! a pipe is switched and switched back at the end.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use muster_link::driver::{Input, Output};
use rustix::fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat};

/// Input and output, ready for the runtime.
pub(super) struct Stdio {
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) restore: Restore,
}

/// Puts back the flags of shared open files.
#[derive(Default)]
pub(super) struct Restore(Vec<(OwnedFd, OFlags)>);

impl Drop for Restore {
    fn drop(&mut self) {
        for (fd, flags) in &self.0 {
            // Nobody can be told any more.
            let _ = fcntl_setfl(fd, *flags);
        }
    }
}

impl Stdio {
    /// Standard input and standard output.
    ///
    /// # Errors
    /// When one of them is closed or the runtime cannot watch it.
    pub(super) fn open() -> io::Result<Self> {
        let mut restore = Restore::default();
        let input = Input::from_fd(ready(io::stdin().as_fd(), OFlags::RDONLY, &mut restore)?)?;
        let output = Output::from_fd(ready(io::stdout().as_fd(), OFlags::WRONLY, &mut restore)?)?;
        Ok(Self { input, output, restore })
    }

    /// Standard error, with the same care.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn errors(&mut self) -> io::Result<Output> {
        Output::from_fd(ready(io::stderr().as_fd(), OFlags::WRONLY, &mut self.restore)?)
    }
}

/// Whether a person sits at both ends of this process.
pub(super) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

fn ready(fd: BorrowedFd<'_>, access: OFlags, restore: &mut Restore) -> io::Result<OwnedFd> {
    if rustix::termios::isatty(fd)
        && let Some(own) = reopen(fd, access)
    {
        return Ok(own);
    }
    let own = fd.try_clone_to_owned()?;
    // A file is always ready and needs no switch; /dev/null and its like neither.
    let kind = FileType::from_raw_mode(fstat(fd)?.st_mode);
    if matches!(kind, FileType::Fifo | FileType::Socket | FileType::CharacterDevice) {
        let flags = fcntl_getfl(&own)?;
        if !flags.contains(OFlags::NONBLOCK) {
            fcntl_setfl(&own, flags | OFlags::NONBLOCK)?;
            restore.0.push((own.try_clone()?, flags));
        }
    }
    Ok(own)
}

/// The same terminal as an open file of our own.
fn reopen(fd: BorrowedFd<'_>, access: OFlags) -> Option<OwnedFd> {
    let flags = access | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty()).ok();
    let name = rustix::termios::ttyname(fd, Vec::new()).ok()?;
    open(Path::new(name.to_str().ok()?)).or_else(|| open(Path::new("/dev/tty")))
}
