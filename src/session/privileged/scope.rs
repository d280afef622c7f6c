//! `pam = "login"`: logind moves what `su` starts into a scope, a control group of its own. It is found, recorded, bounded, metered and
//! ended like the session's own group.
//!
//! The record is for the case that this process is killed: systemd ends the unit then and starts [`end_recorded`]. Without systemd
//! there is no logind either.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use musterd::log::{info, warn};
use musterd::policy::Limits;
use musterd::processes;
use rustix::process::{Pid, getpid};

use super::group::{group_of, listed, total_memory, write};
use crate::Places;

/// How long a login may take to reach logind, and how often it is looked at meanwhile.
const LOGIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

/// The scopes of one session or run.
#[derive(Debug)]
pub(super) struct Scopes {
    /// Logins that logind has not moved yet, and how long they are looked at.
    awaited: Vec<(Pid, Instant)>,
    /// With the inode: a name may come back, for somebody else.
    found: Vec<(PathBuf, u64)>,
    record: Option<PathBuf>,
}

/// Where the scopes of this unit are recorded; the unit's invocation has an id of its own.
fn record(run: &Path) -> Option<PathBuf> {
    let unit = std::env::var("INVOCATION_ID").ok().filter(|id| id.bytes().all(|byte| byte.is_ascii_alphanumeric()))?;
    Some(run.join("scopes").join(unit))
}

impl Scopes {
    pub(super) fn new(run: &Path) -> Self {
        Self { awaited: Vec::new(), found: Vec::new(), record: record(run) }
    }

    /// A login has begun.
    pub(super) fn expect(&mut self, leader: Pid) {
        self.awaited.push((leader, Instant::now() + LOGIN));
    }

    /// When to look next, while a login has not been moved.
    pub(super) fn next_look(&self) -> Option<Instant> {
        (!self.awaited.is_empty()).then(|| Instant::now() + LOOK)
    }

    /// Looks at the logins, and bounds each scope that is new; the processes that set the bounds.
    pub(super) fn look(&mut self, name: &str, limits: &Limits) -> Vec<Pid> {
        let now = Instant::now();
        self.awaited.retain(|(leader, until)| now < *until && processes::start_time(*leader).is_some());
        let (mut still, mut bounding) = (Vec::new(), Vec::new());
        for (leader, until) in std::mem::take(&mut self.awaited) {
            match scope_of(leader) {
                Some(dir) => bounding.extend(self.take(name, &dir, limits)),
                None => still.push((leader, until)),
            }
        }
        self.awaited = still;
        bounding
    }

    fn take(&mut self, name: &str, dir: &Path, limits: &Limits) -> Option<Pid> {
        let ours = processes::descendants(getpid(), &[]).pids;
        if !listed(dir).iter().all(|pid| ours.contains(pid)) {
            warn!("{name}: {} holds others, too: it is not ended with the session", dir.display());
            return None;
        }
        info!("{name}: logind moved it to {}", dir.display());
        let inode = fs::metadata(dir).ok()?.ino();
        self.found.push((dir.to_owned(), inode));
        if let Some(record) = &self.record {
            let lines: String = self.found.iter().map(|(dir, inode)| format!("{inode} {}\n", dir.display())).collect();
            let written = fs::create_dir_all(record.parent()?).and_then(|()| fs::write(record, lines));
            written.unwrap_or_else(|error| warn!("{name}: {} cannot be written: {error}", record.display()));
        }
        // The group is systemd's, so systemd is asked; it also lends the controllers that the scope's parents do not have yet.
        let mut command = Command::new("systemctl");
        command.args(["set-property", "--runtime", "--"]).arg(dir.file_name()?).args([
            format!("TasksMax={}", limits.tasks),
            format!("MemoryMax={}", limits.memory.of(total_memory())),
            "MemorySwapMax=0".to_owned(),
            format!("CPUWeight={}", limits.cpu_weight),
            format!("IOWeight={}", limits.io_weight),
        ]);
        match command.stdin(Stdio::null()).stdout(Stdio::null()).spawn() {
            Ok(child) => Pid::from_raw(i32::try_from(child.id()).ok()?),
            Err(error) => {
                warn!("{name}: systemctl cannot be started, so the policy's bounds do not hold for this login: {error}");
                None
            }
        }
    }

    /// The directories of those that are there.
    pub(super) fn dirs(&self) -> impl Iterator<Item = &Path> {
        self.found.iter().filter(|(dir, inode)| is_same(dir, *inode)).map(|(dir, _)| dir.as_path())
    }
}

impl Drop for Scopes {
    fn drop(&mut self) {
        if let Some(record) = self.record.as_ref().filter(|_| !self.found.is_empty()) {
            let _ = fs::remove_file(record);
        }
    }
}

/// The scope in which logind put a process.
fn scope_of(pid: Pid) -> Option<PathBuf> {
    let dir = group_of(&pid.as_raw_nonzero().to_string())?;
    let name = dir.file_name()?.to_str()?;
    (name.starts_with("session-") && name.ends_with(".scope")).then_some(dir)
}

fn is_same(dir: &Path, inode: u64) -> bool {
    fs::metadata(dir).is_ok_and(|metadata| metadata.ino() == inode)
}

/// Ends what is left in the scopes that the unit's killed process has recorded.
pub(crate) fn end_recorded(places: &Places) {
    let Some(record) = record(&places.run) else { return };
    let text = fs::read_to_string(&record).unwrap_or_default();
    for (inode, dir) in text.lines().filter_map(|line| line.split_once(' ')) {
        let dir = Path::new(dir);
        if inode.parse().is_ok_and(|inode| is_same(dir, inode)) {
            warn!("ending what is left in {}", dir.display());
            let _ = write(&dir.join("cgroup.kill"), "1");
            processes::kill(|| listed(dir), &[]);
        }
    }
    let _ = fs::remove_file(&record);
}
