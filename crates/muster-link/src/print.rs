//! Standard output and standard error of the programs, without a panic: the macros of the standard library end the process where a
//! pipe is closed or a disk is full, in the middle of whatever it was doing.
//!
//! What could not be written is remembered, and [`failure`] gives it at the end: an action goes through, and its exit code tells.

use std::fmt;
use std::io::{self, Write as _};
use std::sync::Mutex;

/// The first error of standard output.
static FAILED: Mutex<Option<io::Error>> = Mutex::new(None);

/// Writes to standard output. Use [`crate::out`] and [`crate::outln`].
pub fn output(text: fmt::Arguments<'_>) {
    if let Err(error) = at_once(text) {
        FAILED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
    }
}

/// Writes to standard output and says whether it is there: for what is shown only once.
///
/// # Errors
/// As writing.
pub fn at_once(text: fmt::Arguments<'_>) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_fmt(text)?;
    out.flush()
}

/// Writes to standard error; what cannot be written there is lost. Use [`crate::errln`].
pub fn error(text: fmt::Arguments<'_>) {
    let _ = io::stderr().lock().write_fmt(text);
}

/// Why not all of standard output was written; nothing where it was, or where its reader has seen enough.
pub fn failure() -> Option<String> {
    let failed = FAILED.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()?;
    (failed.kind() != io::ErrorKind::BrokenPipe).then(|| format!("can't write to standard output: {}", reason(&failed)))
}

/// What the system says of an error, without the number that Rust adds.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split_once(" (os error").map_or_else(|| text.clone(), |(text, _)| text.to_owned())
}

/// `print!`, without its panic.
#[macro_export]
macro_rules! out { ($($arg:tt)*) => { $crate::print::output(format_args!($($arg)*)) } }
/// `println!`, without its panic.
#[macro_export]
macro_rules! outln { ($($arg:tt)*) => { $crate::print::output(format_args!("{}\n", format_args!($($arg)*))) } }
/// `eprintln!`, without its panic.
#[macro_export]
macro_rules! errln { ($($arg:tt)*) => { $crate::print::error(format_args!("{}\n", format_args!($($arg)*))) } }

#[cfg(test)]
mod tests {
    #[test]
    fn the_systems_own_words() {
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(super::reason(&full), "No space left on device");
        assert_eq!(super::reason(&std::io::Error::other("x")), "x");
    }
}
