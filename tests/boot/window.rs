//! A person's window: `muster` with a terminal, in which a line is typed, and what is to be read there.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::wait::eventually;

/// The window. It is closed when this value goes.
pub struct Window {
    child: Child,
    keys: File,
    text: Arc<Mutex<String>>,
}

impl Window {
    /// Opens a window of 24 lines and 80 columns for a command.
    pub fn open(mut command: Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keys = openpt(flags).expect("a terminal");
        grantpt(&keys).and_then(|()| unlockpt(&keys)).expect("a terminal that can be used");
        let screen = ioctl_tiocgptpeer(&keys, flags).expect("the other end of the terminal");
        tcsetwinsize(&keys, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).expect("a size");
        let other = || screen.try_clone().expect("a descriptor");
        command.stdin(other()).stdout(other()).stderr(other());
        let child = command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
        drop((command, screen));
        let (keys, text) = (File::from(keys), Arc::new(Mutex::new(String::new())));
        let (mut reader, shared) = (keys.try_clone().expect("a descriptor"), Arc::clone(&text));
        // It ends when the last process in the window has gone.
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut piece) {
                let new = String::from_utf8_lossy(&piece[..length]).replace('\r', "");
                shared.lock().unwrap_or_else(PoisonError::into_inner).push_str(&new);
            }
        });
        Self { child, keys, text }
    }

    /// Types a line.
    pub fn types(&mut self, line: &str) {
        self.keys.write_all(format!("{line}\n").as_bytes()).expect("the terminal takes keys");
    }

    /// What was to be read so far.
    pub fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until this is to be read.
    #[track_caller]
    pub fn says(&self, part: &str, limit: Duration) {
        eventually(&format!("the window says {part:?}"), limit, || self.text().contains(part).then_some(()));
    }

    /// Waits until the command has ended.
    #[track_caller]
    pub fn ended(&mut self, limit: Duration) -> ExitStatus {
        eventually("the command in the window ends", limit, || self.child.try_wait().expect("a child can be asked"))
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- a window ----\n{}", self.text());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
