//! The journal of the daemon and of its sessions: lines on stderr.
//!
//! Under systemd (`JOURNAL_STREAM` is set) a line starts with its syslog priority and journald adds the time; elsewhere it starts with both.
//! There is one level for the whole process and no filter language: the daemon is small, and its log is read by people.
//! It never fails and never blocks the caller with an error: a log that cannot be written is lost.

use std::fmt;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Something failed that a person should look at.
    Error,
    /// Something is not as it should be, and the daemon goes on.
    Warn,
    /// What happens once in a while: links, sessions, decisions.
    Info,
    /// What happens all the time.
    Debug,
}

impl Level {
    /// The names, for configuration and mistakes.
    pub const NAMES: [&'static str; 4] = ["error", "warn", "info", "debug"];

    /// The level of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Error, Self::Warn, Self::Info, Self::Debug].into_iter().find(|level| level.name() == name)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The syslog priority (RFC 5424, table 2).
    fn priority(self) -> u8 {
        [3, 4, 6, 7][self as usize]
    }
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);
static TO_JOURNAL: OnceLock<bool> = OnceLock::new();

/// Sets the level of the process.
pub fn set_level(level: Level) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// The same by the level's name; one that is unknown, such as a later version's, changes nothing.
pub fn set_level_named(name: &str) {
    if let Some(level) = Level::from_name(name) {
        set_level(level);
    }
}

/// Whether lines of this level are written.
pub fn enabled(level: Level) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Writes one line. Use the macros.
pub fn line(level: Level, text: fmt::Arguments<'_>) {
    if !enabled(level) {
        return;
    }
    let to_journal = *TO_JOURNAL.get_or_init(|| std::env::var_os("JOURNAL_STREAM").is_some());
    let text = text.to_string();
    // What a peer sent may stand in a message: a line break must not forge a second line.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = if to_journal {
        format!("<{}>{text}\n", level.priority())
    } else {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{} {:<5} {text}\n", timestamp(now.as_secs()), level.name())
    };
    // One write per line, so that lines of processes that share stderr do not mix.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// `2026-11-22T15:45:26Z`, from seconds since the epoch (Hinnant's days-to-civil).
pub fn timestamp(seconds: u64) -> String {
    let days = seconds / 86_400 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[doc(hidden)]
#[macro_export]
macro_rules! log_error { ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Error, format_args!($($arg)*)) } }
#[doc(hidden)]
#[macro_export]
macro_rules! log_warning { ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Warn, format_args!($($arg)*)) } }
#[doc(hidden)]
#[macro_export]
macro_rules! log_info { ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Info, format_args!($($arg)*)) } }
#[doc(hidden)]
#[macro_export]
macro_rules! log_debug { ($($arg:tt)*) => { $crate::log::line($crate::log::Level::Debug, format_args!($($arg)*)) } }
pub use {log_debug as debug, log_error as error, log_info as info, log_warning as warn};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        assert_eq!(timestamp(0), "1970-01-01T00:00:00Z");
        assert_eq!(timestamp(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(timestamp(1_795_362_326), "2026-11-22T15:45:26Z");
    }

    #[test]
    fn levels_have_names() {
        for name in Level::NAMES {
            assert_eq!(Level::from_name(name).map(Level::name), Some(name));
        }
        assert_eq!(Level::from_name("loud"), None);
    }
}
