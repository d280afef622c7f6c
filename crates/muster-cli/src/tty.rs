//! The terminal in front of the person: its size, raw mode, questions and passwords.
//!
//! Questions go to standard error, so that standard output stays clean for a pipe.

use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use crate::failure::Failure;

/// Longest line that is read as an answer, a password or a token, in bytes: more is not what a person types.
const LINE_MAX: u64 = 4096;

/// The exit code of a program that Ctrl-C ended, as shells say it.
const INTERRUPTED: u8 = 130;

/// What Ctrl-C types where it is a key.
const CTRL_C: u8 = 0x03;

/// Columns and rows of the terminal on standard output, else on standard error.
pub fn size() -> Option<(u16, u16)> {
    let of = |fd: rustix::fd::BorrowedFd<'_>| termios::tcgetwinsize(fd).ok().filter(|size| size.ws_col > 0 && size.ws_row > 0);
    let size = of(io::stdout().as_fd()).or_else(|| of(io::stderr().as_fd()))?;
    Some((size.ws_col, size.ws_row))
}

/// Whether a person can be asked.
pub fn interactive() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Terminal settings that go back to what they were when this is dropped.
pub struct Settings {
    fd: OwnedFd,
    before: Termios,
}

impl Settings {
    /// Raw mode on standard input: keys come one by one, unechoed, and Ctrl-C is a key.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn raw() -> io::Result<Self> {
        // What was typed while the session opened is kept, as OpenSSH does.
        Self::change(OptionalActions::Drain, Termios::make_raw)
    }

    /// No echo on standard input, for a password. Ctrl-C is a key that ends the line: the signal would end the program with the
    /// terminal still silent.
    fn no_echo() -> io::Result<Self> {
        // What was typed before the question is no answer.
        Self::change(OptionalActions::Flush, |settings| {
            settings.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
            settings.local_modes.insert(LocalModes::ECHONL);
            settings.special_codes[SpecialCodeIndex::VEOL] = CTRL_C;
        })
    }

    /// Keys come one by one, unechoed, Ctrl-C among them, but output is as always: for a live table.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub fn keys() -> io::Result<Self> {
        Self::change(OptionalActions::Flush, |settings| {
            settings.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        })
    }

    fn change(when: OptionalActions, how: impl FnOnce(&mut Termios)) -> io::Result<Self> {
        let fd = io::stdin().as_fd().try_clone_to_owned()?;
        let before = termios::tcgetattr(&fd)?;
        let mut settings = before.clone();
        how(&mut settings);
        termios::tcsetattr(&fd, when, &settings)?;
        Ok(Self { fd, before })
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        // Nobody can be told any more, and the terminal may be gone.
        let _ = termios::tcsetattr(&self.fd, OptionalActions::Drain, &self.before);
    }
}

/// Asks yes or no; anything but yes is no.
///
/// # Errors
/// When the terminal is gone.
pub fn confirm(question: &str) -> Result<bool, Failure> {
    let answer = ask(&format!("{question} [y/N]"))?;
    Ok(matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Asks for a line.
///
/// # Errors
/// When the terminal is gone.
pub fn ask(question: &str) -> Result<String, Failure> {
    write!(io::stderr(), "{question} ")?;
    io::stderr().flush()?;
    line()
}

/// Asks for a line that is not shown.
///
/// # Errors
/// When standard input is no terminal.
pub fn ask_hidden(question: &str) -> Result<String, Failure> {
    let settings = Settings::no_echo()?;
    let answer = ask(question);
    drop(settings);
    let interrupted = answer.as_ref().is_ok_and(|answer| answer.as_bytes().last() == Some(&CTRL_C));
    if interrupted {
        // No line was ended on the terminal.
        writeln!(io::stderr())?;
        return Err(Failure::silent(INTERRUPTED));
    }
    answer
}

/// Reads one line from standard input, byte by byte so that nothing after it is taken.
///
/// # Errors
/// When it ends before a line, or the line is too long.
pub fn line() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    for byte in io::stdin().lock().take(LINE_MAX + 1).bytes() {
        match byte? {
            b'\n' => break,
            CTRL_C => {
                bytes.push(CTRL_C);
                break;
            }
            byte => bytes.push(byte),
        }
    }
    if bytes.len() as u64 > LINE_MAX {
        return Err(Failure::usage("the line on standard input is over 4096 bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| Failure::usage("the line on standard input is not UTF-8"))?;
    Ok(text.trim_end_matches('\r').to_owned())
}
