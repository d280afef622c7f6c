//! A command without a terminal: two pipes, so that bytes go through as they are and the end of input is an end.

use std::io;
use std::os::fd::OwnedFd;

use muster_link::driver::{Input, Io, Output};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// What the process gets: input, output, and the same output for errors.
pub(super) struct Ends {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Makes the pipes; the second part is our end.
pub(super) fn open() -> io::Result<(Ends, Io)> {
    let (stdin, to_process) = io::pipe()?;
    let (from_process, stdout) = io::pipe()?;
    let stderr = stdout.try_clone()?;
    let (input, output): (OwnedFd, OwnedFd) = (from_process.into(), to_process.into());
    non_blocking(&input)?;
    non_blocking(&output)?;
    let ends = Ends { stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into() };
    Ok((ends, Io::pair(Input::from_fd(input)?, Output::from_fd(output)?)))
}

/// Reads and writes return at once.
pub(super) fn non_blocking(fd: &OwnedFd) -> io::Result<()> {
    Ok(fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)?)
}
