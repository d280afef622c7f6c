//! Signals by name, and how a process ended in words of the protocol.

use std::os::unix::process::ExitStatusExt;

use rustix::process::Signal;

/// How a process ended, for the protocol: its code, or the signal's name.
pub fn outcome(status: std::process::ExitStatus) -> (Option<i32>, Option<String>) {
    match status.signal() {
        Some(number) => {
            let name = SIGNALS.iter().find(|(_, signal)| signal.as_raw() == number);
            (None, Some(name.map_or_else(|| number.to_string(), |(name, _)| (*name).to_owned())))
        }
        None => (status.code(), None),
    }
}

/// Signals that a user may send or that may end a process, by name.
const SIGNALS: [(&str, Signal); 15] = [
    ("HUP", Signal::HUP),
    ("INT", Signal::INT),
    ("QUIT", Signal::QUIT),
    ("ILL", Signal::ILL),
    ("ABRT", Signal::ABORT),
    ("BUS", Signal::BUS),
    ("FPE", Signal::FPE),
    ("KILL", Signal::KILL),
    ("USR1", Signal::USR1),
    ("SEGV", Signal::SEGV),
    ("USR2", Signal::USR2),
    ("PIPE", Signal::PIPE),
    ("ALRM", Signal::ALARM),
    ("TERM", Signal::TERM),
    ("CONT", Signal::CONT),
];

/// The signal of this name, if a user may send it.
pub fn signal_of(name: &str) -> Option<Signal> {
    SIGNALS.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        assert_eq!(outcome(std::process::ExitStatus::from_raw(9)), (None, Some("KILL".into())));
        assert_eq!(outcome(std::process::ExitStatus::from_raw(3 << 8)), (Some(3), None));
        assert!(signal_of("WINCH").is_none() && signal_of("INT").is_some());
    }
}
