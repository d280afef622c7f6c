//! `musterd run-job`: the supervisor of one run, a process of its own that lives on when the daemon dies, restarts or is updated.
//!
//! It takes the lock of the run's folder, starts the command, writes each report once, and ends when none of the command's processes
//! is left. It needs nothing from the daemon: what is to be sent lies in the folder, and a daemon that comes later sends it.
//! It decides nothing: the device's policy was asked before the folder was made.

mod command;
mod output;
pub(crate) mod processes;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use muster_proto::Millis;
use muster_proto::limits::RUN_REPORTS_MAX;
use muster_proto::run::{RunEnd, RunOutcome, RunOutput, RunReport, RunReportKind, RunStream, RunUsed};
use rustix::process::{Pid, Signal, getpid, set_child_subreaper, setsid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::account::Account;
use crate::control::Ask;
use crate::daemon::steady_millis;
use crate::guard::Hidden;
use crate::log::{self, debug, error, info, warn};
use crate::runs::folder::{self, Begun, Folder, Job};
use crate::signals;
use output::Output;

/// From SIGTERM to SIGKILL.
const GRACE: Duration = Duration::from_secs(5);
/// Between two looks whether all processes are gone.
const LOOK: Duration = Duration::from_millis(50);
/// Killed processes that are still there after this hang in the kernel; the run ends without them, and says so.
const GIVE_UP: Duration = Duration::from_secs(30);
/// Output may be on its way out of the kernel for a moment after the last process has ended.
const DRAIN: Duration = Duration::from_millis(500);
/// Shortest and longest time between two pieces of output: the longer a run, the fewer reports a second.
const PIECES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// The time between pieces is one part in so many of the time that the run took so far.
const PIECES_SHARE: u32 = 600;
/// First and longest time between two looks at the memory.
const SAMPLES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often what was used is noted, for the case that this process is killed.
const NOTE: Duration = Duration::from_secs(30);
/// How often, and how long, the end is tried to be written where the disk takes nothing.
const END_TRIES: (Duration, u32) = (Duration::from_secs(1), 60);
/// Reports that are kept free for the end of the output.
const REPORTS_KEPT: u64 = 8192;
/// Longest attempt to tell the daemon something.
const TELL: Duration = Duration::from_secs(2);
/// One read of output.
const READ: usize = 64 * 1024;

/// Runs the supervisor on a run's folder.
pub(crate) fn run(path: PathBuf) -> ExitCode {
    // Not in the daemon's process group any more: its end must not be ours. Fails where the daemon has seen to it already.
    let _ = setsid();
    let folder = Folder::at(path);
    let held = match folder.lock() {
        Ok(Some(held)) => held,
        // Another one is at it.
        Ok(None) => return ExitCode::SUCCESS,
        Err(error) => {
            error!("run {}: cannot take the lock: {error}", folder.path().display());
            return ExitCode::FAILURE;
        }
    };
    if folder.begun().is_some() {
        return ExitCode::SUCCESS;
    }
    let Some(job) = folder.job() else {
        error!("run {}: there is no order in this folder; the daemon starts this command, not a person", folder.path().display());
        return ExitCode::FAILURE;
    };
    if let Some(level) = log::Level::from_name(&job.log_level) {
        log::set_level(level);
    }
    let id = job.run.clone();
    let code = match begin(folder, job) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("run {id}: {why:#}");
            ExitCode::FAILURE
        }
    };
    drop(held);
    code
}

fn begin(folder: Folder, job: Job) -> anyhow::Result<()> {
    set_child_subreaper(Some(getpid()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anybody can know of us: a cancel that comes early must not kill us.
        let signals = (signal(SignalKind::child())?, signal(SignalKind::terminate())?);
        let started = crate::workers::start_time(getpid()).unwrap_or(0);
        // Before the command: whoever comes later must not begin again.
        folder.set_begun(&Begun { pid: getpid().as_raw_nonzero().get().unsigned_abs(), started })?;
        let reports = folder.open_reports()?;
        let (_, n) = folder.reports();
        let tell = Arc::new(Notify::new());
        let telling = tokio::spawn(tell_daemon(job.control.clone(), job.run.clone(), Arc::clone(&tell)));
        let mut supervisor = Supervisor { reports, n, tell, unwritten: 0, folder, job };
        supervisor.run(signals).await;
        telling.abort();
        Ok(())
    })
}

/// Tells the daemon, if there is one, that there is something to send; what it misses it finds by itself when it starts.
async fn tell_daemon(control: PathBuf, run: muster_proto::id::RunId, tell: Arc<Notify>) {
    let mut line = serde_json::to_vec(&Ask::Run { run }).unwrap_or_default();
    line.push(b'\n');
    loop {
        tell.notified().await;
        let told = async {
            let mut stream = UnixStream::connect(&control).await?;
            stream.write_all(&line).await?;
            let mut reply = [0; 64];
            stream.read(&mut reply).await
        };
        if let Ok(Err(error)) = tokio::time::timeout(TELL, told).await {
            debug!("the daemon is not there: {error}");
        }
    }
}

struct Supervisor {
    folder: Folder,
    job: Job,
    reports: File,
    n: u64,
    tell: Arc<Notify>,
    /// Bytes of output that the disk did not take.
    unwritten: u64,
}

/// Why and how it is being ended.
struct Ending {
    outcome: RunOutcome,
    message: Option<String>,
    kill_at: Instant,
    give_up_at: Instant,
    /// No process is left, or none that could be ended.
    gone: Option<Instant>,
    stuck: usize,
}

/// The command while it lives.
struct Live {
    main: Pid,
    began: Instant,
    status: Option<i32>,
    output: Output,
    used: RunUsed,
    /// The largest of a single process, where no look came in time.
    most: u64,
    looked_at: Instant,
    last_memory: Option<u64>,
    ending: Option<Ending>,
}

impl Supervisor {
    async fn run(&mut self, signals: (Signals, Signals)) {
        // Whoever cancels writes that first, and looks for us then.
        if let Some(cancel) = self.folder.cancel() {
            return self.end(RunEnd::without_process(RunOutcome::Cancelled, "cancelled", cancel.reason)).await;
        }
        let account = Account::own();
        let hidden = Hidden::of(&account, self.folder.state_dir(), &self.job.control);
        let started = match command::start(&self.job, &hidden.at_home(account), &hidden) {
            Ok(started) => started,
            Err(error) => {
                let end = command::failure(&self.job, &error);
                info!("run {}: {}", self.job.run, end.message.as_deref().unwrap_or_default());
                return self.end(end).await;
            }
        };
        info!("run {} of {}: process {}", self.job.run, self.job.start.user, started.pid.as_raw_nonzero());
        self.report(RunReportKind::Started);
        let pipes = pipe::Receiver::from_owned_fd(OwnedFd::from(started.stdout))
            .and_then(|out| Ok((out, pipe::Receiver::from_owned_fd(OwnedFd::from(started.stderr))?)));
        let now = Instant::now();
        let mut live = Live {
            main: started.pid,
            began: now,
            status: None,
            output: Output::new(self.job.start.output_max),
            used: RunUsed::default(),
            most: 0,
            looked_at: now,
            last_memory: None,
            ending: None,
        };
        match pipes {
            Ok((out, err)) => self.watch(&mut live, (out, err), signals).await,
            Err(error) => {
                processes::kill(getpid());
                let message = format!("the command's output cannot be read: {error}");
                return self.end(RunEnd::without_process(RunOutcome::Failed, "failed", message)).await;
            }
        }
        self.finish(live).await;
    }

    /// Until no process of the command is left and all that they wrote was read.
    async fn watch(
        &mut self,
        live: &mut Live,
        (mut out, mut err): (pipe::Receiver, pipe::Receiver),
        (mut child, mut term): (Signals, Signals),
    ) {
        let deadline = live.began + Duration::from_secs(self.job.start.timeout_s.into());
        let (mut out_open, mut err_open) = (true, true);
        let (mut flush_at, mut sample_in) = (live.began, SAMPLES.0);
        let (mut note_at, mut step_at) = (live.began + NOTE, live.began);
        let (mut out_buffer, mut err_buffer) = (vec![0; READ], vec![0; READ]);
        live.collect();
        loop {
            let running = live.ending.is_none();
            let gone = live.ending.as_ref().and_then(|ending| ending.gone);
            if gone.is_some_and(|gone| (!out_open && !err_open) || gone + DRAIN <= Instant::now()) {
                return;
            }
            tokio::select! {
                read = out.read(&mut out_buffer), if out_open => {
                    out_open = live.take(RunStream::Stdout, &out_buffer, &read);
                }
                read = err.read(&mut err_buffer), if err_open => {
                    err_open = live.take(RunStream::Stderr, &err_buffer, &read);
                }
                () = sleep_until(flush_at), if live.output.has_pending() => {
                    self.flush(live, false);
                    flush_at = Instant::now() + (live.began.elapsed() / PIECES_SHARE).clamp(PIECES.0, PIECES.1);
                }
                _ = child.recv() => live.collect(),
                () = sleep_until(live.looked_at + sample_in) => {
                    live.look();
                    sample_in = (sample_in * 2).min(SAMPLES.1);
                }
                () = sleep_until(note_at) => {
                    self.note(live);
                    note_at = Instant::now() + NOTE;
                }
                () = sleep_until(deadline), if running => {
                    let message = format!("its {} s were over", self.job.start.timeout_s);
                    live.end_all(RunOutcome::TimedOut, Some(message));
                }
                _ = term.recv(), if running => {
                    let why = self.folder.cancel().map_or_else(|| "the device's system ended it".to_owned(), |cancel| cancel.reason);
                    live.end_all(RunOutcome::Cancelled, Some(why));
                }
                () = sleep_until(step_at), if !running => {
                    live.step();
                    step_at = Instant::now() + LOOK;
                }
            }
            if self.n + REPORTS_KEPT >= RUN_REPORTS_MAX {
                live.output.close_head();
            }
        }
    }

    fn flush(&mut self, live: &mut Live, last: bool) {
        for piece in live.output.take(last) {
            self.piece(piece);
        }
    }

    fn piece(&mut self, piece: RunOutput) {
        let len = piece.bytes.len() as u64;
        if !self.report(RunReportKind::Output(piece)) {
            self.unwritten += len;
        }
    }

    /// Appends a report; whether the disk took it.
    fn report(&mut self, kind: RunReportKind) -> bool {
        match self.append(kind) {
            Ok(()) => true,
            Err(error) => {
                warn!("run {}: a report cannot be written: {error}", self.job.run);
                false
            }
        }
    }

    fn append(&mut self, kind: RunReportKind) -> io::Result<()> {
        let report = RunReport { n: self.n, t: self.hub_now(), kind };
        folder::append(&mut self.reports, &report)?;
        self.n += 1;
        self.tell.notify_one();
        Ok(())
    }

    /// The hub's clock, by what the daemon knew of it, and the clock that nobody sets.
    fn hub_now(&self) -> Millis {
        self.job.arrival.hub_at(steady_millis(), &self.job.arrival.boot).unwrap_or(self.job.arrival.hub)
    }

    fn note(&self, live: &Live) {
        let mut used = live.used;
        used.cpu_us += processes::descendants(getpid()).cpu_us;
        used.wall_ms = millis(live.began.elapsed());
        if let Err(error) = self.folder.set_used(&used) {
            debug!("run {}: {error}", self.job.run);
        }
    }

    async fn finish(&mut self, mut live: Live) {
        live.collect();
        self.flush(&mut live, false);
        live.count_memory();
        let Live { began, status, output, mut used, most, ending, .. } = live;
        let (stdout, stderr, dropped) = (output.written(RunStream::Stdout), output.written(RunStream::Stderr), output.dropped());
        for piece in output.finish() {
            self.piece(piece);
        }
        used.wall_ms = millis(began.elapsed());
        if used.mem_peak == 0 && most > 0 {
            // Over before the first look.
            (used.mem_peak, used.mem_byte_ms) = (most, most.saturating_mul(used.wall_ms.max(1)));
        }
        let (exit_code, signal) = status.map_or((None, None), |status| signals::outcome(ExitStatus::from_raw(status)));
        let (outcome, message, stuck) = ending.map_or((RunOutcome::Done, None, 0), |ending| (ending.outcome, ending.message, ending.stuck));
        let mut message = message;
        if stuck > 0 {
            let more = format!("{stuck} of its processes hang in the kernel and could not be ended");
            message = Some(message.map_or(more.clone(), |message| format!("{message}; {more}")));
        }
        if self.unwritten > 0 {
            let more = format!("the device's disk did not take {} bytes of its output", self.unwritten);
            message = Some(message.map_or(more.clone(), |message| format!("{message}; {more}")));
        }
        let dropped = dropped + self.unwritten;
        self.end(RunEnd { outcome, exit_code, signal, code: None, message, stdout, stderr, dropped, used }).await;
    }

    /// Writes the end to the disk itself. Where that takes nothing for long, the daemon tells that the run was lost.
    async fn end(&mut self, end: RunEnd) {
        info!(
            "run {}: {:?}, exit code {:?}, {} ms, {} us of processor time",
            self.job.run, end.outcome, end.exit_code, end.used.wall_ms, end.used.cpu_us
        );
        for _ in 0..END_TRIES.1 {
            match self.append(RunReportKind::End(end.clone())) {
                Ok(()) => {
                    if let Err(error) = self.reports.sync_data() {
                        warn!("run {}: the end is not on the disk yet: {error}", self.job.run);
                    }
                    return;
                }
                Err(error) => warn!("run {}: the end cannot be written: {error}", self.job.run),
            }
            tokio::time::sleep(END_TRIES.0).await;
        }
    }
}

impl Live {
    /// What was read; whether the pipe goes on.
    fn take(&mut self, stream: RunStream, buffer: &[u8], read: &io::Result<usize>) -> bool {
        let len = *read.as_ref().unwrap_or(&0);
        self.output.push(stream, &buffer[..len]);
        len > 0
    }

    /// Collects who has ended. When the command itself has, the rest is ended too.
    fn collect(&mut self) {
        self.reap();
        if self.status.is_some() && self.ending.is_none() {
            let left = processes::descendants(getpid()).pids.len();
            let message = match left {
                0 => None,
                1 => Some("a process that it left behind was ended".to_owned()),
                n => Some(format!("{n} processes that it left behind were ended")),
            };
            self.end_all(RunOutcome::Done, message);
            self.step();
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(collected)) = processes::collect() {
            self.used.cpu_us += collected.cpu_us;
            self.most = self.most.max(collected.most);
            if collected.pid == self.main.as_raw_nonzero().get() {
                self.status = Some(collected.status);
            }
        }
    }

    /// Tells all processes to go.
    fn end_all(&mut self, outcome: RunOutcome, message: Option<String>) {
        let now = Instant::now();
        self.ending = Some(Ending { outcome, message, kill_at: now + GRACE, give_up_at: now + GRACE + GIVE_UP, gone: None, stuck: 0 });
        processes::signal(getpid(), Signal::TERM);
    }

    /// Looks whether they have gone, and kills them when their time is over.
    fn step(&mut self) {
        self.reap();
        let Some(ending) = self.ending.as_mut().filter(|ending| ending.gone.is_none()) else { return };
        let (left, now) = (processes::descendants(getpid()).pids.len(), Instant::now());
        if left == 0 || now >= ending.give_up_at {
            ending.gone = Some(now);
            ending.stuck = left;
        } else if now >= ending.kill_at {
            processes::kill(getpid());
        }
    }

    /// Counts the memory that was seen last until now, and looks again.
    fn look(&mut self) {
        let seen = processes::descendants(getpid());
        // Until the first look, what it shows.
        self.last_memory.get_or_insert(seen.memory);
        self.count_memory();
        self.used.mem_peak = self.used.mem_peak.max(seen.memory);
        self.last_memory = Some(seen.memory);
    }

    fn count_memory(&mut self) {
        let now = Instant::now();
        let held = self.last_memory.unwrap_or(0).saturating_mul(millis(now - self.looked_at));
        self.used.mem_byte_ms = self.used.mem_byte_ms.saturating_add(held);
        self.looked_at = now;
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
