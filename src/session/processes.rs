//! Ending what a terminal has started: all processes of its session (in the sense of `setsid`), whatever group they are in.
//!
//! A program that made a session of its own (`setsid`, `tmux`, a service) has left on purpose and is let go.

use rustix::process::{Pid, Signal, kill_process};

/// Sends a signal to every process of the session that `leader` began; how many there were.
pub(super) fn signal_session(leader: Pid, signal: Signal) -> usize {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        // Without /proc the leader's own group is what can be named.
        return usize::from(rustix::process::kill_process_group(leader, signal).is_ok());
    };
    let mut count = 0;
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if session_of(&stat) == Some(leader.as_raw_nonzero().get()) {
            // It may have ended meanwhile.
            count += usize::from(kill_process(pid, signal).is_ok());
        }
    }
    count
}

/// The session in a line of `/proc/PID/stat`, unless the process is a zombie, which nothing can end.
fn session_of(stat: &str) -> Option<i32> {
    // The name may contain spaces and brackets; the fields begin after the last one: state, parent, group, session.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_read_whatever_the_name() {
        assert_eq!(session_of("12 (a) b) (c) S 1 10 77 34816 10 4194560"), Some(77));
        assert_eq!(session_of("12 (sh) Z 1 10 77 34816"), None);
        assert_eq!(session_of("garbage"), None);
    }
}
