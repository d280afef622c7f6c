//! Root's shell inside the machine, over its second serial port: a command goes in, its output and exit code come out.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::wait::eventually;

/// What the shell's unit says when it is there.
const READY: &str = "@@ready";
/// Time for a command that should take a moment. The machine is emulated, on a host that is busy.
const SOON: Duration = Duration::from_secs(60);

/// The shell.
pub struct Shell {
    port: UnixStream,
    buffer: Vec<u8>,
    commands: u32,
}

/// What a command gave.
#[derive(Debug)]
pub struct Answer {
    /// Its exit code.
    pub code: i32,
    /// Both outputs, trimmed.
    pub text: String,
}

impl Shell {
    /// Plugs into the port, on which qemu waits.
    pub fn plug(socket: &Path) -> Self {
        let port = eventually("the machine's serial port", SOON, || UnixStream::connect(socket).ok());
        port.set_read_timeout(Some(Duration::from_millis(200))).expect("a read with an end");
        Self { port, buffer: Vec::new(), commands: 0 }
    }

    /// Waits until the machine has come so far that it starts the shell.
    pub fn ready(&mut self, limit: Duration) -> Result<(), String> {
        self.until(&format!("{READY}\n"), limit).map(drop)
    }

    /// Runs one command, or several lines of them, in a shell of its own.
    pub fn run(&mut self, command: &str) -> Answer {
        self.run_within(command, SOON)
    }

    /// The same with more patience.
    pub fn run_within(&mut self, command: &str, limit: Duration) -> Answer {
        self.commands += 1;
        let mark = format!("@@{}:", self.commands);
        // The mark is put together by the shell, so that it is never read from what was sent.
        let line = format!("(\n{command}\n) </dev/null 2>&1; code=$?; echo; echo '@@'{}:$code\n", self.commands);
        self.port.write_all(line.as_bytes()).expect("the machine's serial port takes a line");
        let text = self.until(&mark, limit).unwrap_or_else(|why| panic!("{why}; in the machine: {command}"));
        let code = self.until("\n", limit).unwrap_or_else(|why| panic!("{why}; in the machine: {command}"));
        Answer { code: code.trim().parse().unwrap_or(-1), text: text.trim().to_owned() }
    }

    /// Runs a command that must succeed, each part of it, and gives its output.
    #[track_caller]
    pub fn ok(&mut self, command: &str) -> String {
        let answer = self.run(&format!("set -e -o pipefail\n{command}"));
        assert_eq!(answer.code, 0, "in the machine: {command}\n{}", answer.text);
        answer.text
    }

    /// Runs a command until it succeeds, and gives its output.
    #[track_caller]
    pub fn becomes(&mut self, what: &str, limit: Duration, command: &str) -> String {
        let started = Instant::now();
        loop {
            let answer = self.run(command);
            if answer.code == 0 {
                return answer.text;
            }
            assert!(started.elapsed() < limit, "not within {limit:?}: {what}; in the machine: {command}\n{}", answer.text);
        }
    }

    /// Reads until `end`, and gives what stood before it.
    fn until(&mut self, end: &str, limit: Duration) -> Result<String, String> {
        let started = Instant::now();
        loop {
            if let Some(at) = find(&self.buffer, end.as_bytes()) {
                let text = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + end.len());
                return Ok(text);
            }
            if started.elapsed() > limit {
                return Err(format!("not within {limit:?}: {end:?}; so far: {}", String::from_utf8_lossy(&self.buffer)));
            }
            let mut piece = [0; 4096];
            match self.port.read(&mut piece) {
                Ok(0) => return Err("the machine is off".to_owned()),
                Ok(length) => self.buffer.extend_from_slice(&piece[..length]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
                Err(error) => return Err(format!("the machine's serial port: {error}")),
            }
        }
    }
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    text.windows(part.len()).position(|window| window == part)
}
