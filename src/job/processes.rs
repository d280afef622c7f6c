//! The processes of a run: all descendants of its supervisor, however they left their parents.
//!
//! The supervisor is a subreaper, so whoever loses its parent becomes its child; what is not its descendant never came from the command.
//! Whoever wants to get away by making new processes is stopped first, so that the last look finds all.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use muster_proto::id::RunId;
use rustix::process::{Pid, Signal, kill_process};

/// The mark in the environment of a run's processes.
pub(crate) const MARK: &str = "MUSTER_RUN";
/// Rounds of stopping before killing: each finds those that the round before had just begun.
const ROUNDS: usize = 16;

/// A line of `/proc/{pid}/stat`, as far as we need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: i32,
    /// Gone, and only waits to be collected.
    dead: bool,
    /// Ticks of processor time, its own.
    ticks: u64,
    /// Resident pages.
    pages: u64,
}

/// Processes and what they hold at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// The living ones.
    pub(super) pids: Vec<Pid>,
    /// Resident bytes of all of them.
    pub(super) memory: u64,
    /// Microseconds of processor time that they used so far.
    pub(super) cpu_us: u64,
}

/// All living descendants of a process.
pub(super) fn descendants(of: Pid) -> Seen {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if let Some(stat) = fs::read_to_string(entry.path().join("stat")).ok().as_deref().and_then(stat) {
            all.insert(pid, stat);
        }
    }
    let (page, second) = (rustix::param::page_size() as u64, rustix::param::clock_ticks_per_second().max(1));
    let mut seen = Seen::default();
    for pid in below(&all, of.as_raw_nonzero().get()) {
        let stat = all[&pid];
        seen.cpu_us += stat.ticks.saturating_mul(1_000_000) / second;
        if !stat.dead {
            seen.memory += stat.pages.saturating_mul(page);
            seen.pids.extend(Pid::from_raw(pid));
        }
    }
    seen
}

/// The numbers of all that descend from `root`.
fn below(all: &BTreeMap<i32, Stat>, root: i32) -> Vec<i32> {
    let mut children = BTreeMap::<i32, Vec<i32>>::new();
    for (pid, stat) in all {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let (mut found, mut next) = (Vec::new(), vec![root]);
    while let Some(parent) = next.pop() {
        // Each is taken out once, so a circle of a torn picture ends.
        for child in children.remove(&parent).unwrap_or_default() {
            found.push(child);
            next.push(child);
        }
    }
    found
}

fn stat(line: &str) -> Option<Stat> {
    // The name stands in brackets and may hold anything.
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let mut number = |skip: usize| fields.nth(skip).and_then(|field| field.parse::<u64>().ok());
    // Fields 14 and 15: user and system time; 24: resident pages.
    let (user, system) = (number(9)?, number(0)?);
    Some(Stat { parent, dead, ticks: user + system, pages: number(8)? })
}

/// Sends a signal to all descendants; how many there are.
pub(super) fn signal(of: Pid, signal: Signal) -> usize {
    let seen = descendants(of);
    for pid in &seen.pids {
        // It may have ended meanwhile.
        let _ = kill_process(*pid, signal);
        if signal == Signal::TERM {
            // A stopped process takes no signal before it goes on.
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
    seen.pids.len()
}

/// Kills all descendants that can be seen; how many there were.
pub(super) fn kill(of: Pid) -> usize {
    let mut stopped = Vec::new();
    for _ in 0..ROUNDS {
        let new: Vec<Pid> = descendants(of).pids.into_iter().filter(|pid| !stopped.contains(pid)).collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            let _ = kill_process(pid, Signal::STOP);
            stopped.push(pid);
        }
    }
    signal(of, Signal::KILL)
}

/// Kills what a run left behind whose supervisor is dead: all processes that carry its mark. How many there were.
pub(crate) fn kill_marked(run: &RunId) -> usize {
    let mark = format!("{MARK}={run}");
    let mut count = 0;
    for _ in 0..ROUNDS {
        let found: Vec<Pid> = marked(&mark);
        if found.is_empty() {
            break;
        }
        for pid in found {
            count += usize::from(kill_process(pid, Signal::KILL).is_ok());
        }
    }
    count
}

fn marked(mark: &str) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else { continue };
        // Others' processes cannot be read, and cannot be ours. A zombie's is empty.
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// A process that was collected, and what it and those that it had collected itself used.
#[derive(Debug, Clone, Copy)]
pub(super) struct Collected {
    pub(super) pid: i32,
    /// As `wait(2)` gives it.
    pub(super) status: i32,
    pub(super) cpu_us: u64,
    /// Most resident bytes of any of them.
    pub(super) most: u64,
}

/// Collects a child that has ended, if there is one; an error when there is no child at all.
#[expect(unsafe_code, reason = "nothing else gives what a child has used together with its end")]
pub(super) fn collect() -> io::Result<Option<Collected>> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers, for which all zeros are valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live variables of the right type, and the kernel keeps neither.
    let pid = unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, &raw mut usage) };
    match pid {
        0 => Ok(None),
        1.. => Ok(Some(Collected {
            pid,
            status,
            cpu_us: micros(usage.ru_utime) + micros(usage.ru_stime),
            most: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        })),
        _ => Err(io::Error::last_os_error()),
    }
}

#[allow(clippy::useless_conversion, reason = "the width of these fields differs between targets")]
fn micros(time: libc::timeval) -> u64 {
    let (seconds, micros) = (i64::from(time.tv_sec), i64::from(time.tv_usec));
    u64::try_from(seconds.saturating_mul(1_000_000).saturating_add(micros)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_whatever_the_name() {
        let line = "12 (a) b) S 7 12 12 0 -1 4194560 100 0 0 0 30 12 0 0 20 0 1 0 555 1000000 250 18446744073709551615 1 1 0";
        assert_eq!(stat(line), Some(Stat { parent: 7, dead: false, ticks: 42, pages: 250 }));
        assert_eq!(stat(&line.replace(" S ", " Z ")).map(|stat| stat.dead), Some(true));
        assert_eq!(stat("garbage"), None);
        assert_eq!(stat("12 (sh) S 7"), None);
    }

    #[test]
    fn descendants_are_found_over_generations_and_circles_end() {
        let of = |parent| Stat { parent, dead: false, ticks: 0, pages: 0 };
        let all = [(2, of(1)), (3, of(2)), (4, of(3)), (5, of(1)), (6, of(7)), (7, of(6))].into();
        let mut found = below(&all, 2);
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
        assert_eq!(below(&all, 6), [7, 6]);
        assert!(below(&all, 99).is_empty());
    }

    #[test]
    fn our_own_children_are_seen() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let seen = descendants(rustix::process::getpid());
        assert!(seen.pids.contains(&pid) && seen.memory > 0, "{seen:?}");
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
