//! Runs on the daemon's side: takes orders, hands them over, finds living runs again, and never leaves a run without an end.
//!
//! Whether a command may run, the privileged part of `musterd-session` decides; what it writes comes by the run's folder (`folder`).
//! Whatever happened while no daemon was there is settled when one starts: a run lives, has ended, or is lost.

pub(crate) mod folder;
pub(crate) mod outgoing;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use muster_proto::Millis;
use muster_proto::id::RunId;
use muster_proto::order::{Order, OrderKind, SignedOrder};
use muster_proto::run::{RunCommand as Wanted, RunEnd, RunOrder, RunOutcome, RunReport, RunReportKind, RunStart};
use musterd::handoff::{Arrival, Do, ORDER_USED, Say};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;

use crate::daemon::{Daemon, RunCommand, RunStatus, steady_millis, wall_clock};
use crate::living::{self, Conversation, Refusal};
use crate::log::{debug, info, warn};
use folder::{Folder, Folders, Job};

/// Runs that have not told all yet; a further order is dropped and expires at the hub: somebody floods this device.
const UNTOLD_MAX: usize = 256;
/// Runs that are over and remembered, so that a late repetition of an order is known.
const REMEMBERED: usize = 1000;
/// After so many cancels of unknown runs the oldest memories go: whoever floods this device does not fill its disk with them.
const NOTED_MAX: usize = 100;
/// From an order's use to the lock of its collector, on a busy machine.
const BEGINS: Duration = Duration::from_secs(10);
/// What one run is told at once; it ends with the first.
const TOLD_MAX: usize = 4;
/// First and longest pause between two looks at a run that nobody hears.
const LOOKS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// Longest command in `musterd status`.
const COMMAND_SHOWN: usize = 80;

/// Runs until the daemon stops; the runs go on.
pub(crate) async fn run(daemon: Arc<Daemon>, mut commands: Receiver<RunCommand>) {
    let mut runs = Runs {
        folders: Folders::in_state(daemon.state.dir()),
        boot: machine_start(),
        live: BTreeMap::new(),
        ends: JoinSet::new(),
        noted: 0,
        daemon,
    };
    runs.find_again().await;
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
            Some(ended) = runs.ends.join_next() => if let Ok((run, end)) = ended { runs.ended(&run, end) },
            () = daemon.stopped() => break,
        }
    }
    if !runs.live.is_empty() {
        info!("{} runs go on without the daemon", runs.live.len());
    }
}

struct Runs {
    daemon: Arc<Daemon>,
    folders: Folders,
    /// Which start of the machine this is.
    boot: String,
    live: BTreeMap<RunId, Sender<Do>>,
    ends: JoinSet<(RunId, Option<RunEnd>)>,
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
                    RunOrder::Start(order) => {
                        let start = match order.read() {
                            Ok(Order { kind: OrderKind::Run { run: named, start }, .. }) if named == run => start,
                            Ok(_) => {
                                warn!("an order on the lane of run {run} is for something else; ignored");
                                continue;
                            }
                            Err(error) => {
                                warn!("an order for run {run} is ignored: {error}");
                                continue;
                            }
                        };
                        let job = self.job(run.clone(), start, order, arrived, left);
                        match cancelled.get(&run) {
                            Some(reason) if !self.folders.of(&run).is_known() => {
                                self.refuse(&job, RunEnd::without_process(RunOutcome::Cancelled, "cancelled", reason.clone()));
                            }
                            _ => self.start(&job),
                        }
                    }
                    RunOrder::Cancel { reason, t } => self.cancel(&run, reason, t),
                    RunOrder::Unknown => {}
                },
                RunCommand::EndAll(reason) => {
                    for run in self.live.keys().cloned().collect::<Vec<_>>() {
                        self.cancel(&run, reason.to_owned(), wall_clock());
                    }
                }
            }
        }
    }

    fn start(&mut self, job: &Job) {
        let run = job.run.clone();
        if self.folders.of(&run).is_known() {
            return debug!("run {run} is known already");
        }
        if self.daemon.outgoing().len() >= UNTOLD_MAX {
            return warn!("{UNTOLD_MAX} runs have not told the hub all yet; run {run} is dropped");
        }
        if job.arrival.is_void(steady_millis(), &self.boot) {
            let message = "the order came to the device when it was void already";
            return self.refuse(job, RunEnd::without_process(RunOutcome::Expired, "expired", message));
        }
        match self.folders.make(job, None) {
            Ok(folder) => {
                info!("run {run} of {} in {}: {}", job.start.user, job.start.project, shown(&job.start));
                self.daemon.outgoing().add(run.clone(), folder.clone());
                self.begin(run, &folder, job);
            }
            // Without its folder a run could be lost without a word, or begin twice.
            Err(error) => {
                warn!("run {run} is refused: {error}");
                let end = RunEnd::without_process(RunOutcome::Refused, "disk", format!("the device cannot keep the run's state: {error}"));
                self.lone(run, self.now(job), end);
            }
        }
    }

    /// The hub's clock, as far as this order told it; ours after another start of the machine. The hub holds it to what can be.
    fn now(&self, job: &Job) -> Millis {
        job.arrival.hub_at(steady_millis(), &self.boot).unwrap_or_else(wall_clock)
    }

    /// The order with what is known of its age: the broker says how long it is still good for, and so how long it had waited.
    /// What the broker says is not signed; an order that was used before is known by its name.
    fn job(&self, run: RunId, start: RunStart, order: SignedOrder, arrived: Duration, left: Option<Duration>) -> Job {
        let whole = start.expires.saturating_sub(start.t).max(0);
        let left = left.map_or(whole, |left| millis(left).min(whole));
        let hub = start.t.saturating_add(whole - left);
        Job { run, start, order, arrival: Arrival { hub, steady: millis(arrived), left, boot: self.boot.clone() } }
    }

    /// Tells that a run does not begin. It is written down, so that it is told also by a daemon that comes after this one.
    fn refuse(&self, job: &Job, end: RunEnd) {
        let (run, t) = (job.run.clone(), self.now(job));
        info!("run {run} does not begin ({}): {}", end.code.as_deref().unwrap_or_default(), end.message.as_deref().unwrap_or_default());
        match self.folders.make(job, Some(&RunReport { n: 0, t, kind: RunReportKind::End(end.clone()) })) {
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

    /// Hands a run over.
    fn begin(&mut self, run: RunId, folder: &Folder, job: &Job) {
        let files = folder
            .open_for_collector()
            .map_err(|error| Refusal { code: "disk", message: format!("The run's files cannot be opened: {error}.") });
        let handed =
            files.and_then(|files| living::hand_over(&self.daemon, run.as_str(), job.order.clone(), Some((job.arrival.clone(), files))));
        match handed {
            Ok(conversation) => self.follow(run, job, conversation),
            Err(Refusal { code, message }) => {
                warn!("run {run}: {message}");
                // What the policy refuses is refused; the rest is the device's fault.
                let outcome = if code.starts_with("policy_") { RunOutcome::Refused } else { RunOutcome::Failed };
                self.close(&run, folder, RunEnd::without_process(outcome, code, message));
            }
        }
    }

    fn follow(&mut self, run: RunId, job: &Job, conversation: Conversation) {
        let told = self.add(&run, job);
        self.ends.spawn(follow(Arc::clone(&self.daemon), run, conversation, told));
    }

    /// Somebody is at it whom nobody hears: a run that an earlier daemon has just handed over, or a collector that is about to go.
    fn look_out(&mut self, run: &RunId, folder: &Folder, job: &Job, patience: Duration) {
        debug!("run {run}: it is starting, and does not answer yet");
        let told = self.add(run, job);
        self.ends.spawn(look_out(Arc::clone(&self.daemon), run.clone(), folder.clone(), told, Instant::now() + patience));
    }

    fn add(&mut self, run: &RunId, job: &Job) -> Receiver<Do> {
        let start = &job.start;
        let (user, project, command) = (start.user.clone(), start.project.to_string(), shown(start));
        self.daemon.add_run(RunStatus { run: run.clone(), user, project, command, since: wall_clock() });
        let (sender, told) = mpsc::channel(TOLD_MAX);
        self.live.insert(run.clone(), sender);
        told
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
        match self.live.get(run) {
            // A full queue holds the same word already.
            Some(sender) => drop(sender.try_send(Do::End { reason })),
            None => {
                self.settle(run, &folder, None);
                // Whom nobody hears yet is told once it answers.
                if let Some(sender) = self.live.get(run) {
                    let _ = sender.try_send(Do::End { reason });
                }
            }
        }
    }

    /// A conversation is over: the run was refused, has ended, or what watched over it is gone.
    fn ended(&mut self, run: &RunId, end: Option<RunEnd>) {
        self.live.remove(run);
        self.daemon.remove_run(run);
        let folder = self.folders.of(run);
        if let Some(job) = folder.job().filter(|_| !folder.reports().0) {
            match end {
                // Handed over by a daemon before this one, and not there yet: nothing is called lost that is about to begin.
                Some(end) if end.code.as_deref() == Some(ORDER_USED) => return self.look_out(run, &folder, &job, BEGINS),
                Some(end) => self.close(run, &folder, end),
                None => self.settle(run, &folder, None),
            }
        }
        self.daemon.outgoing().more(run);
        self.daemon.to_send.notify_one();
    }

    /// Looks what became of a run whose end is not written. One that never began may begin, but only for a daemon that has just
    /// started and was not told to end it; `living` is its conversation, if it answers.
    fn settle(&mut self, run: &RunId, folder: &Folder, living: Option<Conversation>) {
        let Some(job) = folder.job() else { return folder.remove() };
        if let Some(conversation) = living {
            return self.follow(run.clone(), &job, conversation);
        }
        match folder.lock() {
            Ok(None) => self.look_out(run, folder, &job, Duration::ZERO),
            Ok(Some(_held)) => self.lost(run, folder),
            Err(error) => {
                warn!("run {run}: its lock cannot be tried: {error}");
                self.lost(run, folder);
            }
        }
    }

    fn lost(&self, run: &RunId, folder: &Folder) {
        let message = "the device was interrupted while it ran, such as by a power cut; what was left of it was ended";
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
    async fn find_again(&mut self) {
        self.forget_oldest();
        // Their reports are on the disk; the last words say no more.
        let sockets: BTreeMap<String, PathBuf> = living::sockets(&self.daemon.config).into_iter().collect();
        for run in self.folders.all().0 {
            let folder = self.folders.of(&run);
            let Some(job) = folder.job().filter(|_| !folder.is_over()) else {
                folder.remove();
                continue;
            };
            self.daemon.outgoing().add(run.clone(), folder.clone());
            if folder.reports().0 {
                continue;
            }
            let living = match sockets.get(run.as_str()) {
                Some(path) => living::attach(path).await.ok().map(|(conversation, _)| conversation),
                None => None,
            };
            // Nobody has begun: neither a report nor anybody who could write one. After another start of the machine an empty file
            // says nothing: reports go to the disk when the kernel finds time, and a power cut takes them.
            let fresh = living.is_none()
                && job.arrival.boot == self.boot
                && !folder.was_told()
                && folder.reports().1 == 0
                && folder.lock().is_ok_and(|held| held.is_some());
            match fresh {
                false => self.settle(&run, &folder, living),
                true if !job.arrival.is_void(steady_millis(), &self.boot) => self.begin(run.clone(), &folder, &job),
                true => {
                    let message = "the device was about to begin when it was interrupted, and the order was void when it came back";
                    self.close(&run, &folder, RunEnd::without_process(RunOutcome::Expired, "expired", message));
                }
            }
        }
    }
}

/// Hears a run until it is over; how it ended, where it never began.
async fn follow(daemon: Arc<Daemon>, run: RunId, mut conversation: Conversation, mut told: Receiver<Do>) -> (RunId, Option<RunEnd>) {
    loop {
        tokio::select! {
            said = conversation.next() => match said {
                Some(Say::Refused { code, message }) => {
                    info!("run {run} does not begin ({code}): {message}");
                    return (run, Some(RunEnd::without_process(RunOutcome::Refused, &code, message)));
                }
                Some(Say::More) => {
                    daemon.outgoing().more(&run);
                    daemon.to_send.notify_one();
                }
                Some(Say::Closed(_)) | None => return (run, None),
                Some(Say::Opened(_) | Say::Event { .. } | Say::Unknown) => {}
            },
            Some(what) = told.recv() => conversation.tell(&what).await,
        }
    }
}

/// Waits until a run answers, and hears it; or until nobody is at it any more, and nobody will be.
async fn look_out(daemon: Arc<Daemon>, run: RunId, folder: Folder, told: Receiver<Do>, until: Instant) -> (RunId, Option<RunEnd>) {
    let mut pause = LOOKS.0;
    loop {
        if let Some((conversation, _)) = living::find(&daemon.config, run.as_str()).await {
            return follow(daemon, run, conversation, told).await;
        }
        if !matches!(folder.lock(), Ok(None)) && (Instant::now() >= until || folder.reports().1 > 0) {
            return (run, None);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LOOKS.1);
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
