//! Runs on the daemon's side: takes orders, asks the policy, starts supervisors, finds them again, and never leaves a run without an end.
//!
//! What a command does and writes is its supervisor's business (`job`); the two meet in the run's folder (`folder`).
//! Whatever happened while no daemon was there is settled when one starts: a run lives, has ended, or is lost.

pub(crate) mod folder;
pub(crate) mod outgoing;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use muster_proto::Millis;
use muster_proto::id::RunId;
use muster_proto::run::{RunCommand as Wanted, RunEnd, RunOrder, RunOutcome, RunReport, RunReportKind, RunStart};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::Command as Process;
use tokio::sync::mpsc::Receiver;
use tokio::task::JoinSet;

use crate::daemon::{Daemon, RunCommand, RunStatus, steady_millis, wall_clock};
use crate::job::processes::kill_marked;
use crate::log::{debug, info, warn};
use crate::policy::{Decision, Request, Target, Watched};
use crate::workers::{end_of_stranger, start_time};
use folder::{Arrival, Cancel, Folder, Folders, Job};

/// Runs that have not told all yet; a further order is dropped and expires at the hub: somebody floods this device.
const UNTOLD_MAX: usize = 256;
/// Runs that are over and remembered, so that a late repetition of an order is known.
const REMEMBERED: usize = 1000;
/// After so many cancels of unknown runs the oldest memories go: whoever floods this device does not fill its disk with them.
const NOTED_MAX: usize = 100;
/// How soon it is looked again for a supervisor that has not begun yet.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Longest command in `musterd status`.
const COMMAND_SHOWN: usize = 80;

/// Runs until the daemon stops; the supervisors go on.
pub(crate) async fn run(daemon: Arc<Daemon>, mut commands: Receiver<RunCommand>) {
    let mut runs = Runs {
        policy: Watched::open(daemon.config.policy.clone()),
        folders: Folders::in_state(daemon.state.dir()),
        boot: machine_start(),
        live: BTreeSet::new(),
        ends: JoinSet::new(),
        noted: 0,
        daemon,
    };
    runs.find_again();
    let daemon = Arc::clone(&runs.daemon);
    loop {
        tokio::select! {
            command = commands.recv() => {
                let Some(first) = command else { break };
                // An order and its cancel that come together never begin.
                let mut all = vec![first];
                while let Ok(command) = commands.try_recv() {
                    all.push(command);
                }
                runs.take(all);
            }
            Some(ended) = runs.ends.join_next() => if let Ok(run) = ended { runs.ended(&run) },
            () = daemon.stopped() => break,
        }
    }
    if !runs.live.is_empty() {
        info!("{} runs go on without the daemon", runs.live.len());
    }
}

struct Runs {
    daemon: Arc<Daemon>,
    policy: Watched,
    folders: Folders,
    /// Which start of the machine this is.
    boot: String,
    live: BTreeSet<RunId>,
    ends: JoinSet<RunId>,
    /// Cancels of unknown runs since the oldest were last forgotten.
    noted: usize,
}

impl Runs {
    fn take(&mut self, commands: Vec<RunCommand>) {
        let mut cancelled = BTreeMap::new();
        for command in &commands {
            if let RunCommand::Order { run, order, .. } = command
                && let RunOrder::Cancel { reason, .. } = &**order
            {
                cancelled.insert(run.clone(), reason.clone());
            }
        }
        for command in commands {
            match command {
                RunCommand::Order { run, order, arrived, left } => match *order {
                    RunOrder::Start(start) => {
                        let job = self.job(run.clone(), start, arrived, left);
                        match cancelled.get(&run) {
                            Some(reason) if !self.folders.of(&run).is_known() => {
                                self.refuse(&job, RunEnd::without_process(RunOutcome::Cancelled, "cancelled", reason.clone()));
                            }
                            _ => self.start(job),
                        }
                    }
                    RunOrder::Cancel { reason, t } => self.cancel(&run, reason, t),
                    RunOrder::Unknown => {}
                },
                RunCommand::EndAll(reason) => {
                    for run in self.live.clone() {
                        self.cancel(&run, reason.to_owned(), wall_clock());
                    }
                }
            }
        }
    }

    fn start(&mut self, mut job: Job) {
        let (run, start) = (job.run.clone(), &job.start);
        if self.folders.of(&run).is_known() {
            return debug!("run {run} is known already");
        }
        if self.daemon.outgoing().len() >= UNTOLD_MAX {
            return warn!("{UNTOLD_MAX} runs have not told the hub all yet; run {run} is dropped");
        }
        if job.arrival.is_void(steady_millis(), &self.boot) {
            let message = "the order came to the device when it was void already";
            return self.refuse(&job, RunEnd::without_process(RunOutcome::Expired, "expired", message));
        }
        let request = Request { user: &start.user, role: &start.role, target: Target::Run { start } };
        let run_as = match self.policy.decide(&request, crate::policy::moment()) {
            Decision::Allow(grant) => grant.become_user,
            Decision::Refuse { code, message } => {
                return self.refuse(&job, RunEnd::without_process(RunOutcome::Refused, code, message));
            }
        };
        let most = self.policy.limits().runs;
        if self.live.len() >= most as usize {
            let message = format!("this device's policy allows {most} runs at once, and so many run; wait for one, or cancel one");
            return self.refuse(&job, RunEnd::without_process(RunOutcome::Refused, "policy_runs", message));
        }
        job.run_as = run_as;
        match self.folders.make(&job, &RunReport { n: 0, t: self.now(&job), kind: RunReportKind::Accepted }) {
            Ok(folder) => {
                info!("run {run} of {} in {}: {}", job.start.user, job.start.project, shown(&job.start));
                self.daemon.outgoing().add(run.clone(), folder.clone());
                self.daemon.to_send.notify_one();
                self.begin(run, &folder, &job);
            }
            // Without its folder a run could be lost without a word, or begin twice.
            Err(error) => {
                warn!("run {run} is refused: {error}");
                let end = RunEnd::without_process(RunOutcome::Refused, "disk", format!("the device cannot keep the run's state: {error}"));
                self.lone(run, self.now(&job), end);
            }
        }
    }

    /// The hub's clock, as far as this order told it; ours after another start of the machine. The hub holds it to what can be.
    fn now(&self, job: &Job) -> Millis {
        job.arrival.hub_at(steady_millis(), &self.boot).unwrap_or_else(wall_clock)
    }

    /// The order with what is known of its age: the broker says how long it is still good for, and so how long it had waited.
    fn job(&self, run: RunId, start: RunStart, arrived: Duration, left: Option<Duration>) -> Job {
        let whole = start.expires.saturating_sub(start.t).max(0);
        let left = left.map_or(whole, |left| millis(left).min(whole));
        let hub = start.t.saturating_add(whole - left);
        let arrival = Arrival { hub, steady: millis(arrived), left, boot: self.boot.clone() };
        let (control, log_level) = (self.daemon.config.control_socket(), self.daemon.config.log_level.name().to_owned());
        Job { run, start, run_as: None, control, arrival, log_level }
    }

    /// Tells that a run does not begin. It is written down, so that it is told also by a daemon that comes after this one.
    fn refuse(&self, job: &Job, end: RunEnd) {
        let (run, t) = (job.run.clone(), self.now(job));
        info!("run {run} does not begin ({}): {}", end.code.as_deref().unwrap_or_default(), end.message.as_deref().unwrap_or_default());
        match self.folders.make(job, &RunReport { n: 0, t, kind: RunReportKind::End(end.clone()) }) {
            Ok(folder) => {
                self.daemon.outgoing().add(run, folder);
                self.daemon.to_send.notify_one();
            }
            Err(error) => {
                warn!("{error}; the daemon remembers it while it runs");
                self.lone(run, t, end);
            }
        }
    }

    fn lone(&self, run: RunId, t: Millis, end: RunEnd) {
        self.daemon.outgoing().add_lone(run, RunReport { n: 0, t, kind: RunReportKind::End(end) });
        self.daemon.to_send.notify_one();
    }

    /// Starts a supervisor on a folder.
    fn begin(&mut self, run: RunId, folder: &Folder, job: &Job) {
        // Our own executable, also while it is being replaced by an update.
        let mut command = std::process::Command::new("/proc/self/exe");
        command.arg0("musterd").arg("run-job").arg(folder.path()).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        // The sockets of systemd's protocol are the daemon's alone.
        command.env_remove("NOTIFY_SOCKET").env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
        match Process::from(command).spawn() {
            Ok(mut child) => {
                self.lives(run.clone(), job);
                self.ends.spawn(async move {
                    let _ = child.wait().await;
                    run
                });
            }
            Err(error) => {
                warn!("run {run}: cannot start a supervisor: {error}");
                let end = RunEnd::without_process(RunOutcome::Failed, "supervisor", format!("the device cannot start a run: {error}"));
                self.close(&run, folder, end);
            }
        }
    }

    fn lives(&mut self, run: RunId, job: &Job) {
        let start = &job.start;
        let (user, project, command) = (start.user.clone(), start.project.to_string(), shown(start));
        self.daemon.add_run(RunStatus { run: run.clone(), user, project, command, since: wall_clock() });
        self.live.insert(run);
    }

    fn cancel(&mut self, run: &RunId, reason: String, t: Millis) {
        let folder = self.folders.of(run);
        if !folder.is_known() {
            if self.daemon.outgoing().has(run) {
                return;
            }
            // Its order may still be on its way: it would find this run over.
            self.remember(run);
            let end = RunEnd::without_process(RunOutcome::Lost, "unknown_run", "the device knows nothing of this run");
            return self.lone(run.clone(), t, end);
        }
        if folder.is_over() || folder.reports().0 {
            return debug!("run {run} is over already");
        }
        info!("run {run} is ended: {reason}");
        if let Err(error) = folder.set_cancel(&Cancel { reason }) {
            warn!("{error}; the run is ended without its reason");
        }
        // One that has not begun reads the reason before it does.
        if let Some(pidfd) = held_supervisor(&folder) {
            let _ = pidfd_send_signal(&pidfd, Signal::TERM);
        }
    }

    /// A supervisor is gone, or never was.
    fn ended(&mut self, run: &RunId) {
        self.live.remove(run);
        self.daemon.remove_run(run);
        let folder = self.folders.of(run);
        if folder.job().is_some() && !folder.reports().0 {
            self.settle(run, &folder, false);
        }
        self.daemon.outgoing().more(run);
        self.daemon.to_send.notify_one();
    }

    /// Looks what became of a run whose end is not written. One that never began may begin, but only for a daemon that has just started:
    /// a supervisor that ends at once would do so again.
    fn settle(&mut self, run: &RunId, folder: &Folder, may_begin: bool) {
        let Some(job) = folder.job() else { return folder.remove() };
        match folder.lock() {
            // Somebody is at it.
            Ok(None) => {
                self.lives(run.clone(), &job);
                self.ends.spawn(end_of_supervisor(folder.clone(), run.clone()));
            }
            Ok(Some(held)) if folder.begun().is_none() => {
                drop(held);
                if !may_begin {
                    let message = "the device cannot start a run: its supervisor ended at once";
                    self.close(run, folder, RunEnd::without_process(RunOutcome::Failed, "supervisor", message));
                } else if !job.arrival.is_void(steady_millis(), &self.boot) {
                    self.begin(run.clone(), folder, &job);
                } else {
                    let message = "the device was about to begin when it was interrupted, and the order was void when it came back";
                    self.close(run, folder, RunEnd::without_process(RunOutcome::Expired, "expired", message));
                }
            }
            Ok(Some(_held)) => self.lost(run, folder),
            Err(error) => {
                warn!("run {run}: its lock cannot be tried: {error}");
                self.lost(run, folder);
            }
        }
    }

    fn lost(&self, run: &RunId, folder: &Folder) {
        let left = kill_marked(run);
        let message = match left {
            0 => "the device was interrupted while it ran, such as by a power cut".to_owned(),
            n => format!("what watched over the run was killed; {n} of its processes were ended"),
        };
        let used = folder.used().unwrap_or_default();
        self.close(run, folder, RunEnd { used, ..RunEnd::without_process(RunOutcome::Lost, "lost", message) });
    }

    fn close(&self, run: &RunId, folder: &Folder, end: RunEnd) {
        info!("run {run}: {}", end.message.as_deref().unwrap_or_default());
        let t = folder.job().map_or_else(wall_clock, |job| self.now(&job));
        if let Err(error) = folder.close(|n| RunReport { n, t, kind: RunReportKind::End(end.clone()) }) {
            warn!("run {run}: its end cannot be written: {error}; the daemon remembers it while it runs");
            self.lone(run.clone(), t, end);
        }
        self.daemon.outgoing().more(run);
        self.daemon.to_send.notify_one();
    }

    /// A cancel came before its order, or the run was forgotten long ago: what comes late is refused as known.
    fn remember(&mut self, run: &RunId) {
        if let Err(error) = self.folders.remember(run) {
            return warn!("run {run} was ended before it began, and that cannot be noted: {error}");
        }
        self.noted += 1;
        if self.noted >= NOTED_MAX {
            self.noted = 0;
            self.forget_oldest();
        }
    }

    fn forget_oldest(&self) {
        let over = self.folders.all().1;
        for run in over.iter().take(over.len().saturating_sub(REMEMBERED)) {
            self.folders.forget(run);
        }
    }

    /// Finds what an earlier daemon left: living runs, ends that were not told, and runs that were cut off.
    fn find_again(&mut self) {
        self.forget_oldest();
        for run in self.folders.all().0 {
            let folder = self.folders.of(&run);
            if folder.is_over() || folder.job().is_none() {
                folder.remove();
                continue;
            }
            self.daemon.outgoing().add(run.clone(), folder.clone());
            if !folder.reports().0 {
                self.settle(&run, &folder, true);
            }
        }
    }
}

/// The process of a folder's supervisor, if it lives.
fn supervisor(folder: &Folder) -> Option<Pid> {
    let begun = folder.begun()?;
    let pid = Pid::from_raw(i32::try_from(begun.pid).ok()?)?;
    (start_time(pid) == Some(begun.started)).then_some(pid)
}

/// The same, held: what is done to it is done to no other process that was given its number since.
fn held_supervisor(folder: &Folder) -> Option<OwnedFd> {
    let pid = supervisor(folder)?;
    let pidfd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
    // Compared again now that the pidfd holds the process: it cannot be another one any more.
    (supervisor(folder) == Some(pid)).then_some(pidfd)
}

/// Waits for the end of a supervisor that is not our child.
async fn end_of_supervisor(folder: Folder, run: RunId) -> RunId {
    loop {
        if let Some(pidfd) = held_supervisor(&folder) {
            return end_of_stranger(pidfd, run).await;
        }
        // It has not begun yet, or it is on its way out.
        if !matches!(folder.lock(), Ok(None)) {
            return run;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// One start of the machine (random(4)); where there is no such file, none is like another.
fn machine_start() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| crate::random::boot(), |text| text.trim().to_owned())
}

fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

/// The command in one line.
fn shown(start: &RunStart) -> String {
    let text = match &start.command {
        Wanted::Argv(argv) => argv.join(" "),
        Wanted::Shell(text) => text.clone(),
    };
    text.chars().take(COMMAND_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
