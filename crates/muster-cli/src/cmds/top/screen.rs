//! The whole terminal as one page that is drawn again and again, and the keys that are pressed meanwhile.
//!
//! However the command ends, the terminal is given back as it was. Lines that are drawn were made harmless before.

use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Exit, Failure};
use crate::output::text::{clean, fit};
use crate::tty;

/// The other screen, without a cursor and without wrapping.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";

/// What a person wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// To leave.
    Quit,
    /// To see the newest now.
    Refresh,
    /// To scroll.
    Up,
    /// To scroll.
    Down,
    /// To scroll.
    PageUp,
    /// To scroll.
    PageDown,
    /// The terminal's size changed, or a key without a meaning.
    Redraw,
}

/// The terminal while the page is shown.
pub(super) struct Screen {
    keys: Option<AsyncFd<OwnedFd>>,
    /// Given back after the page has left.
    _settings: Option<tty::Settings>,
    resized: Signal,
    ended: [Signal; 3],
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn open() -> Result<Self, Failure> {
        let watch = |kind| signal(kind).map_err(|error| Failure::new(Exit::Failed, format!("cannot wait for signals: {error}")));
        let (resized, ended) = (
            watch(SignalKind::window_change())?,
            [watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?, watch(SignalKind::hangup())?],
        );
        // Without a terminal on standard input there are no keys; signals still end it.
        let settings = tty::Settings::keys().ok();
        let keys = match settings {
            Some(_) => {
                let input = std::io::stdin().as_fd().try_clone_to_owned()?;
                #[expect(deprecated, reason = "the other constructor is unsafe for descriptors that close early; an OwnedFd does not")]
                AsyncFd::try_with_interest(input, Interest::READABLE).ok()
            }
            None => None,
        };
        let mut out = std::io::stdout().lock();
        out.write_all(ENTER.as_bytes())?;
        out.flush()?;
        Ok(Self { keys, _settings: settings, resized, ended })
    }

    /// Columns.
    pub(super) fn width(&self) -> usize {
        tty::size().map_or(80, |(columns, _)| usize::from(columns))
    }

    /// Rows.
    pub(super) fn rows(&self) -> usize {
        tty::size().map_or(24, |(_, rows)| usize::from(rows))
    }

    /// Draws the lines from `top` on, the first one always, and the footer in the last row. Gives `top` back, kept in bounds.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(super) fn draw(&mut self, lines: &[String], top: usize, footer: &str) -> Result<usize, Failure> {
        let room = self.rows().saturating_sub(2).max(1);
        let (head, body) = lines.split_at(lines.len().min(1));
        let top = top.min(body.len().saturating_sub(room.saturating_sub(1)));
        let mut page = String::from("\x1b[H");
        for line in head.iter().chain(body.iter().skip(top).take(room.saturating_sub(1))) {
            page.push_str(line);
            page.push_str("\x1b[0m\x1b[K\r\n");
        }
        let footer = clean(footer);
        page.push_str(&format!("\x1b[J\x1b[{};1H\x1b[7m{}\x1b[0m\x1b[K", self.rows(), fit(&footer, self.width().max(1))));
        let mut out = std::io::stdout().lock();
        out.write_all(page.as_bytes())?;
        out.flush()?;
        Ok(top)
    }

    /// Waits for a key, a change of size, or a signal to end. Nothing is lost when the wait is given up.
    pub(super) async fn key(&mut self) -> Key {
        let [interrupt, terminate, hangup] = &mut self.ended;
        tokio::select! {
            _ = self.resized.recv() => Key::Redraw,
            _ = interrupt.recv() => Key::Quit,
            _ = terminate.recv() => Key::Quit,
            _ = hangup.recv() => Key::Quit,
            key = read(self.keys.as_ref()) => key,
        }
    }
}

async fn read(keys: Option<&AsyncFd<OwnedFd>>) -> Key {
    let Some(keys) = keys else { return std::future::pending().await };
    let Ok(mut ready) = keys.readable().await else { return std::future::pending().await };
    let mut bytes = [0; 32];
    // It is readable, so this does not block; one read takes a whole escape sequence.
    let read = rustix::io::read(keys.get_ref(), &mut bytes);
    ready.clear_ready();
    match read {
        Ok(0) => Key::Quit,
        Ok(length) => meaning(&bytes[..length]),
        Err(error) if error == rustix::io::Errno::INTR || error == rustix::io::Errno::AGAIN => Key::Redraw,
        Err(_) => Key::Quit,
    }
}

fn meaning(bytes: &[u8]) -> Key {
    match bytes {
        [b'q' | b'Q' | 3 | 4, ..] => Key::Quit,
        [b' ' | b'r' | b'\n' | b'\r', ..] => Key::Refresh,
        [b'k', ..] | [0x1b, b'[' | b'O', b'A', ..] => Key::Up,
        [b'j', ..] | [0x1b, b'[' | b'O', b'B', ..] => Key::Down,
        [0x1b, b'[', b'5', b'~', ..] => Key::PageUp,
        [0x1b, b'[', b'6', b'~', ..] => Key::PageDown,
        [0x1b] => Key::Quit,
        _ => Key::Redraw,
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let mut out = std::io::stdout().lock();
        // The terminal may be gone; then nothing is left to restore.
        drop(out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        for (bytes, key) in [
            (&b"q"[..], Key::Quit),
            (b"\x03", Key::Quit),
            (b"\x1b", Key::Quit),
            (b"\x1b[A", Key::Up),
            (b"\x1bOB", Key::Down),
            (b"\x1b[6~", Key::PageDown),
            (b"\x1b[5~", Key::PageUp),
            (b" ", Key::Refresh),
            (b"x", Key::Redraw),
            (b"\x1b[31~", Key::Redraw),
        ] {
            assert_eq!(meaning(bytes), key, "{bytes:?}");
        }
    }
}
