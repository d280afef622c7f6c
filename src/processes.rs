//! Processes of this machine, as `/proc` shows them: who descends from whom, when one began, what it uses.
//!
//! It looks and signals; it decides nothing. Text from the kernel is parsed as if a stranger had written it: a program chooses its name.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, getpid, kill_process};

/// Rounds of stopping before killing: each finds those that the round before had just begun.
const ROUNDS: usize = 16;
/// How long those are hunted who make a new process and end; and quick looks between two thorough ones.
const CHASE: Duration = Duration::from_secs(1);
const LOOKS: usize = 500;

/// A line of `/proc/{pid}/stat`, as far as we need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: i32,
    /// The process group.
    group: i32,
    /// The session in the sense of `setsid`.
    session: i32,
    /// The group in the foreground of its terminal; not positive where there is none.
    foreground: i32,
    /// Gone, and only waits to be collected.
    dead: bool,
    /// Ticks of processor time, its own.
    ticks: u64,
    /// When it began, in ticks since the machine's start.
    started: u64,
    /// Resident pages.
    pages: u64,
}

/// Processes and what they hold at this moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The living ones.
    pub pids: Vec<Pid>,
    /// Resident bytes of all of them.
    pub memory: u64,
    /// Microseconds of processor time that they used so far.
    pub cpu_us: u64,
}

/// When a process began, in ticks since the machine's start: a number alone may have gone to another program.
/// `None` for one that is gone or only waits to be collected.
pub fn start_time(pid: Pid) -> Option<u64> {
    stat_of(pid).filter(|stat| !stat.dead).map(|stat| stat.started)
}

/// All living descendants of a process, without those below the ones that are `left_out`.
pub fn descendants(of: Pid, left_out: &[Pid]) -> Seen {
    let all = all();
    count(&all, below(&all, of.as_raw_nonzero().get(), left_out))
}

/// A process's parents, up to the first of all.
pub fn ancestors(of: Pid) -> Vec<Pid> {
    let mut found = Vec::new();
    let mut next = Some(of);
    while let Some(pid) = next.filter(|pid| !found.contains(pid)) {
        next = stat_of(pid).and_then(|stat| Pid::from_raw(stat.parent.max(0)));
        found.extend(next);
    }
    found
}

/// What these processes hold.
pub fn seen(pids: &[Pid]) -> Seen {
    let all: BTreeMap<i32, Stat> = pids.iter().filter_map(|pid| Some((pid.as_raw_nonzero().get(), stat_of(*pid)?))).collect();
    count(&all, all.keys().copied().collect())
}

/// Those of `pids` whose session (in the sense of `setsid`) `leader` began.
pub fn of_session(leader: Pid, pids: &[Pid]) -> Vec<Pid> {
    those(pids, |stat| stat.session == leader.as_raw_nonzero().get())
}

/// Those of `pids` that are in this process group.
pub fn of_group(group: Pid, pids: &[Pid]) -> Vec<Pid> {
    those(pids, |stat| stat.group == group.as_raw_nonzero().get())
}

fn those(pids: &[Pid], fit: impl Fn(&Stat) -> bool) -> Vec<Pid> {
    pids.iter().filter(|pid| stat_of(**pid).is_some_and(|stat| !stat.dead && fit(&stat))).copied().collect()
}

/// The process group in the foreground of the terminal that `leader` leads.
pub fn foreground(leader: Pid) -> Option<Pid> {
    Pid::from_raw(stat_of(leader)?.foreground.max(0))
}

/// Sends a signal to each; a stopped process takes none but SIGKILL before it goes on.
pub fn signal(pids: &[Pid], signal: Signal) {
    for pid in pids {
        // It may have ended meanwhile.
        let _ = kill_process(*pid, signal);
        if signal != Signal::KILL {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

/// The children of this process's first thread, as the kernel lists them at once: what a look at all of `/proc` is too slow for.
/// None where the kernel has no such file.
fn children() -> Vec<Pid> {
    let text = fs::read_to_string(format!("/proc/self/task/{}/children", getpid().as_raw_nonzero())).unwrap_or_default();
    text.split_ascii_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Whether nobody of those whom `find` finds lives, nor a child of ours that is not among the `spared`. A look at `/proc` alone
/// misses who makes a new process and ends. But who ends gives its children to us, where we are their reaper, before it counts as
/// dead, and we collect none meanwhile: all dead, and none new since, is nobody.
pub fn is_nobody(find: impl Fn() -> Vec<Pid>, spared: &[Pid]) -> bool {
    let mut before = children();
    for _ in 0..ROUNDS {
        let dead = |pid: &Pid| spared.contains(pid) || start_time(*pid).is_none();
        if !before.iter().all(dead) || !find().is_empty() {
            return false;
        }
        let now = children();
        if now == before {
            return true;
        }
        // One of the spared may have ended, and left us its dead.
        before = now;
    }
    false
}

/// Kills all that `find` finds, and all children of ours that are not among the `spared`; also those that try to get away by making
/// new ones. They are stopped first; who makes a new one and ends, over and over, is gone before a look at `/proc` has found it, but
/// each comes to us as its reaper.
pub fn kill(find: impl Fn() -> Vec<Pid>, spared: &[Pid]) {
    stop_and_kill(&find);
    let until = Instant::now() + CHASE;
    while !is_nobody(&find, spared) && Instant::now() < until {
        for _ in 0..LOOKS {
            // The newest is the last in the kernel's list: it has the longest to live.
            let children = children().into_iter().rev().filter(|pid| !spared.contains(pid));
            signal(&children.collect::<Vec<_>>(), Signal::KILL);
        }
    }
}

fn stop_and_kill(find: impl Fn() -> Vec<Pid>) {
    let mut stopped: Vec<Pid> = Vec::new();
    for _ in 0..ROUNDS {
        let new: Vec<Pid> = find().into_iter().filter(|pid| !stopped.contains(pid)).collect();
        if new.is_empty() {
            break;
        }
        for pid in new {
            let _ = kill_process(pid, Signal::STOP);
            stopped.push(pid);
        }
    }
    signal(&find(), Signal::KILL);
}

/// A process that was collected, and what it and those that it had collected itself used.
#[derive(Debug, Clone, Copy)]
pub struct Collected {
    /// Its number.
    pub pid: i32,
    /// As `wait(2)` gives it.
    pub status: i32,
    /// Microseconds of processor time.
    pub cpu_us: u64,
    /// Most resident bytes of any of them.
    pub largest: u64,
}

/// Collects a child that has ended, if there is one.
///
/// # Errors
/// When there is no child at all.
#[expect(unsafe_code, reason = "nothing else gives what a child has used together with its end")]
pub fn collect() -> io::Result<Option<Collected>> {
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
            largest: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
        })),
        _ => Err(io::Error::last_os_error()),
    }
}

#[allow(clippy::useless_conversion, reason = "the width of these fields differs between targets")]
fn micros(time: libc::timeval) -> u64 {
    let (seconds, micros) = (i64::from(time.tv_sec), i64::from(time.tv_usec));
    u64::try_from(seconds.saturating_mul(1_000_000).saturating_add(micros)).unwrap_or(0)
}

fn all() -> BTreeMap<i32, Stat> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if let Some(stat) = fs::read_to_string(entry.path().join("stat")).ok().as_deref().and_then(stat) {
            all.insert(pid, stat);
        }
    }
    all
}

fn count(all: &BTreeMap<i32, Stat>, pids: Vec<i32>) -> Seen {
    let (page, second) = (rustix::param::page_size() as u64, rustix::param::clock_ticks_per_second().max(1));
    let mut seen = Seen::default();
    for pid in pids {
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
fn below(all: &BTreeMap<i32, Stat>, root: i32, left_out: &[Pid]) -> Vec<i32> {
    let mut children = BTreeMap::<i32, Vec<i32>>::new();
    for (pid, stat) in all {
        children.entry(stat.parent).or_default().push(*pid);
    }
    let (mut found, mut next) = (Vec::new(), vec![root]);
    while let Some(parent) = next.pop() {
        // Each is taken out once, so a circle of a torn picture ends.
        for child in children.remove(&parent).unwrap_or_default() {
            if left_out.iter().any(|pid| pid.as_raw_nonzero().get() == child) {
                continue;
            }
            found.push(child);
            next.push(child);
        }
    }
    found
}

fn stat_of(pid: Pid) -> Option<Stat> {
    stat(&fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?)
}

fn stat(line: &str) -> Option<Stat> {
    // The name stands in brackets and may hold anything.
    let mut fields = line.rsplit_once(')')?.1.split_ascii_whitespace();
    let dead = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    let session = fields.next()?.parse().ok()?;
    let foreground = fields.nth(1)?.parse().ok()?;
    let mut number = |skip: usize| fields.nth(skip).and_then(|field| field.parse::<u64>().ok());
    // Fields 14 and 15: user and system time; 22: start; 24: resident pages.
    let (user, system) = (number(5)?, number(0)?);
    Some(Stat { parent, group, session, foreground, dead, ticks: user + system, started: number(6)?, pages: number(1)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_whatever_the_name() {
        let line = "12 (a) b) S 7 12 11 0 -1 4194560 100 0 0 0 30 12 0 0 20 0 1 0 555 1000000 250 18446744073709551615 1 1 0";
        assert_eq!(
            stat(line),
            Some(Stat { parent: 7, group: 12, session: 11, foreground: -1, dead: false, ticks: 42, started: 555, pages: 250 })
        );
        assert_eq!(stat(&line.replace(" S ", " Z ")).map(|stat| stat.dead), Some(true));
        assert_eq!(stat("garbage"), None);
        assert_eq!(stat("12 (sh) S 7"), None);
    }

    #[test]
    fn descendants_are_found_over_generations_and_circles_end() {
        let of = |parent| Stat { parent, group: 0, session: 0, foreground: 0, dead: false, ticks: 0, started: 0, pages: 0 };
        let all = [(2, of(1)), (3, of(2)), (4, of(3)), (5, of(1)), (6, of(7)), (7, of(6))].into();
        let mut found = below(&all, 2, &[]);
        found.sort_unstable();
        assert_eq!(found, [3, 4]);
        assert_eq!(below(&all, 6, &[]), [7, 6]);
        assert!(below(&all, 99, &[]).is_empty());
        assert!(below(&all, 2, &[Pid::from_raw(3).unwrap()]).is_empty());
    }

    #[test]
    fn whoever_always_makes_a_new_process_is_somebody_and_is_killed() {
        rustix::process::set_child_subreaper(Some(getpid())).unwrap();
        let runs = "$SIG{HUP} = $SIG{TERM} = 'IGNORE'; while (1) { fork and exit; select undef, undef, undef, 0.001 }";
        let mut child = std::process::Command::new("perl").args(["-e", runs]).spawn().unwrap();
        child.wait().unwrap();
        // Without a look at all of `/proc`, which would find it by luck. Other tests' children have other threads as their parents.
        for _ in 0..200 {
            assert!(!is_nobody(Vec::new, &[]), "it lives");
        }
        kill(Vec::new, &[]);
        assert!(is_nobody(Vec::new, &[]));
    }

    #[test]
    fn our_own_children_are_seen() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let found = descendants(rustix::process::getpid(), &[]);
        assert!(found.pids.contains(&pid) && found.memory > 0, "{found:?}");
        assert_eq!(seen(&[pid]).pids, [pid]);
        assert!(start_time(pid).is_some_and(|ticks| ticks > 0) && start_time(pid) == start_time(pid));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
