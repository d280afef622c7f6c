//! The control group of what visitors start: its bounds, what it uses, and its end.
//!
//! Below the unit's own group (systemd delegates it), or below the group of whoever started us. Two leaves: `muster` for our own
//! processes, `visitor` for theirs. Where there is no such file system or it cannot be written, all descendants of this process
//! stand for the group: it is their reaper, so none gets away from it.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use musterd::log::{debug, warn};
use musterd::policy::Limits;
use musterd::processes::{self, Seen};
use rustix::process::{Pid, Signal, getpid};

use super::scope::Scopes;

/// Tasks of our own part: two processes, and the threads by which one of them looks up names.
const OURS_MAX: &str = "64";
/// How the directory of a session begins that is not a unit's.
const PREFIX: &str = "musterd-session-";

/// What visitors of one session or run have started.
#[derive(Debug)]
pub(super) struct Group {
    /// The leaf for visitors; none where there are no control groups.
    dir: Option<PathBuf>,
    /// Directories that were made and go again, innermost first.
    made: Vec<PathBuf>,
    /// Our own processes below this one.
    pub(super) ours: Vec<Pid>,
    /// Where logind has moved visitors' processes.
    pub(super) scopes: Scopes,
}

impl Group {
    /// Makes the group, with the policy's bounds. What the system does not offer is left out, and said in the journal.
    /// `side` is our unprivileged side, which lives already.
    pub(super) fn make(name: &str, limits: &Limits, side: Pid, run: &Path) -> Self {
        let mut group = Self { dir: None, made: Vec::new(), ours: vec![side], scopes: Scopes::new(run) };
        let Some(base) = group_of("self") else {
            warn!("{name}: no control groups here (cgroup v2): processes are held together by their descent, and without bounds");
            return group;
        };
        // A unit of systemd is ours as a whole. Elsewhere a directory of our own is made beside whatever else is there.
        let base = if std::env::var_os("INVOCATION_ID").is_some() && base.extension().is_some_and(|kind| kind == "service") {
            base
        } else {
            let own = base.join(format!("{PREFIX}{name}"));
            if fs::create_dir(&own).is_err() {
                debug!("{name}: {} cannot be made: processes are held together by their descent", own.display());
                return group;
            }
            group.made.push(own.clone());
            own
        };
        let (ours, visitor) = (base.join("muster"), base.join("visitor"));
        for dir in [&ours, &visitor] {
            if let Err(error) = fs::create_dir(dir) {
                warn!("{name}: {} cannot be made: {error}", dir.display());
                return group;
            }
            group.made.insert(0, dir.clone());
        }
        // A group that holds processes gives its children no controllers: all of us move first.
        for pid in [getpid(), side] {
            if let Err(error) = write(&ours.join("cgroup.procs"), &pid.as_raw_nonzero().to_string()) {
                warn!("{name}: process {} cannot move into {}: {error}", pid.as_raw_nonzero(), ours.display());
                return group;
            }
        }
        for controller in ["cpu", "memory", "pids", "io"] {
            if let Err(error) = write(&base.join("cgroup.subtree_control"), &format!("+{controller}")) {
                debug!("{name}: the controller {controller} is not to be had in {}: {error}", base.display());
            }
        }
        let memory = limits.memory.of(total_memory());
        let mut missing = Vec::new();
        for (file, value) in [
            ("pids.max", limits.tasks.to_string()),
            ("memory.max", memory.to_string()),
            ("cpu.weight", limits.cpu_weight.to_string()),
            ("io.weight", format!("default {}", limits.io_weight)),
        ] {
            if write(&visitor.join(file), &value).is_err() {
                missing.push(file);
            }
        }
        // Our own processes start none; a network side that was taken over is not to either.
        let _ = write(&ours.join("pids.max"), OURS_MAX);
        // Swapping would only make the bound slow.
        let _ = write(&visitor.join("memory.swap.max"), "0");
        if !missing.is_empty() {
            warn!("{name}: this kernel does not bound {} for a control group", missing.join(", "));
        }
        group.dir = Some(visitor);
        group
    }

    /// The file by which a process joins with a `0`; opened here because the one that joins may not.
    pub(super) fn door(&self) -> Option<OwnedFd> {
        let file = fs::File::options().write(true).open(self.dir.as_ref()?.join("cgroup.procs"));
        file.ok().map(OwnedFd::from)
    }

    /// The living processes.
    pub(super) fn pids(&self) -> Vec<Pid> {
        let mut pids = processes::descendants(getpid(), &self.ours).pids;
        pids.extend(self.dirs().flat_map(listed).filter(|pid| processes::start_time(*pid).is_some()));
        pids.sort_unstable_by_key(|pid| pid.as_raw_nonzero());
        pids.dedup();
        pids
    }

    fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.dir.as_deref().into_iter().chain(self.scopes.dirs())
    }

    /// What they hold, and what they and those before them used, where the kernel counts that.
    pub(super) fn usage(&self) -> (Seen, Option<u64>) {
        let seen = processes::seen(&self.pids());
        let number = |file: &str, key: &str| {
            let in_dir = |dir: &Path| {
                let text = fs::read_to_string(dir.join(file)).ok()?;
                text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok())
            };
            self.dirs().map(in_dir).sum::<Option<u64>>().filter(|_| self.dir.is_some())
        };
        let memory = number("memory.current", "");
        (Seen { memory: memory.unwrap_or(seen.memory), ..seen }, number("cpu.stat", "usage_usec"))
    }

    /// Sends a signal to all.
    pub(super) fn signal(&self, signal: Signal) {
        processes::signal(&self.pids(), signal);
    }

    /// Kills all.
    pub(super) fn kill(&self) {
        for dir in self.dirs() {
            // Linux 5.14: all at once, also those that are just being made.
            let _ = write(&dir.join("cgroup.kill"), "1");
        }
        processes::kill(|| self.pids(), &self.ours);
    }

    /// Whether none lives.
    pub(super) fn is_empty(&self) -> bool {
        processes::is_nobody(|| self.pids(), &self.ours)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Out of our own leaf, so that it can go. Under systemd the unit's directories go with the unit.
        if let Some(base) = self.made.last().and_then(|dir| dir.parent()).filter(|_| self.made.len() == 3) {
            let _ = write(&base.join("cgroup.procs"), "0");
        }
        for dir in &self.made {
            let _ = fs::remove_dir(dir);
        }
    }
}

/// Removes the empty groups of sessions that were killed. Those of the `living` may be empty as well, while they begin.
pub(super) fn sweep(living: &[String]) {
    let entries = group_of("self").and_then(|base| fs::read_dir(base).ok()).into_iter().flatten().flatten();
    for dir in entries.map(|entry| entry.path()) {
        let name = dir.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX));
        if name.is_none_or(|name| living.iter().any(|alive| alive == name)) {
            continue;
        }
        // Where our own process lives, the session does.
        if fs::remove_dir(dir.join("muster")).is_ok() {
            let _ = fs::remove_dir(dir.join("visitor")).and_then(|()| fs::remove_dir(&dir));
        }
    }
}

pub(super) fn write(path: &Path, text: &str) -> std::io::Result<()> {
    fs::File::options().write(true).open(path)?.write_all(text.as_bytes())
}

/// The processes in a group.
pub(super) fn listed(dir: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)).collect()
}

/// The directory of a process's control group in version 2 of that file system.
pub(super) fn group_of(process: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?.to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        // proc(5): id, parent, device, root, mount point, options, optional fields, a hyphen, type, ...
        let (fields, kind) = line.split_once(" - ")?;
        let (root, at) = (fields.split(' ').nth(3)?, fields.split(' ').nth(4)?);
        (kind.starts_with("cgroup2 ") && root == "/").then(|| Path::new(at).join(&path))
    })
}

#[allow(clippy::useless_conversion, reason = "the width of these fields differs between targets")]
pub(super) fn total_memory() -> u64 {
    let machine = rustix::system::sysinfo();
    u64::from(machine.totalram).saturating_mul(machine.mem_unit.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_session_that_begins_is_not_swept_away() {
        let name = format!("test-{}", getpid().as_raw_nonzero());
        let Some(dir) = group_of("self").map(|base| base.join(format!("{PREFIX}{name}"))) else { return };
        if ["", "muster", "visitor"].iter().any(|leaf| fs::create_dir(dir.join(leaf)).is_err()) {
            return eprintln!("left out: control groups cannot be made here");
        }
        sweep(std::slice::from_ref(&name));
        assert!(dir.join("muster").is_dir() && dir.join("visitor").is_dir(), "it lives, and nobody has moved in yet");
        sweep(&[]);
        assert!(!dir.exists(), "nobody is left of it");
    }
}
