//! The collector of one run, a process of its own that lives on when the daemon dies, restarts or is updated.
//!
//! It takes the lock of the run's folder, has the command started by the privileged part, writes each report once, and ends when none
//! of the command's processes is left. It needs nothing from the daemon: what is to be sent lies in the folder, and a daemon that comes
//! later sends it. It has no power over the command, and no file but those that the daemon opened for it: it asks the privileged part,
//! which knows the processes.

mod output;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use muster_proto::Millis;
use muster_proto::limits::RUN_REPORTS_MAX;
use muster_proto::mqtt::encode;
use muster_proto::run::{RunCommand, RunEnd, RunOutcome, RunOutput, RunReport, RunReportKind, RunStream, RunUsed};
use muster_proto::session::code;
use musterd::handoff::Report;
use musterd::log::{self, debug, error, info, warn};
use rustix::fs::{FlockOperation, flock};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::{Instant, sleep_until};

use crate::channel::{Ask, Begin, RunBegin, Told, Used, Watched};
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
/// One read of output.
const READ: usize = 64 * 1024;

/// Runs the collector; descriptor 0 is its channel.
pub(crate) fn run() -> ExitCode {
    match begin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("a run: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn begin() -> anyhow::Result<()> {
    let channel = crate::network::channel()?;
    let Some((Begin::Run(begin), fds)) = channel.receive()? else { bail!("`musterd-session serve` starts this command, not a person") };
    let Ok([reports, used, lock]) = <[OwnedFd; 3]>::try_from(fds) else { bail!("the files of run {} were not handed over", begin.run) };
    log::set_level_named(&begin.log_level);
    // By the lock a daemon that comes later knows that somebody is at it.
    flock(&lock, FlockOperation::NonBlockingLockExclusive).with_context(|| format!("run {}: another one is at it", begin.run))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot start")?;
    let id = begin.run.clone();
    runtime
        .block_on(async {
            let channel = Watched::new(channel)?;
            let mut collector = Collector { reports: reports.into(), used: used.into(), n: 0, unwritten: 0, run: begin, channel };
            let why = collector.run().await;
            collector.ask(&Ask::Done { report: Report { reason: why, ..Report::default() }, by_visitor: true });
            collector.channel.finish().await?;
            anyhow::Ok(())
        })
        .with_context(|| format!("run {id}"))
}

struct Collector {
    run: RunBegin,
    channel: Watched,
    reports: File,
    /// What was used, for a daemon that finds this process killed: one line, written over and over.
    used: File,
    n: u64,
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
    began: Instant,
    exited: Option<(Option<i32>, Option<String>)>,
    output: Output,
    used: RunUsed,
    /// The largest of a single process, where no look came in time.
    most: u64,
    looked_at: Instant,
    last_memory: Option<u64>,
    /// Processes at the last look.
    left: usize,
    ending: Option<Ending>,
}

impl Collector {
    fn ask(&self, ask: &Ask) {
        if let Err(why) = self.channel.send(ask) {
            warn!("run {}: the privileged part does not listen: {why}", self.run.run);
        }
    }

    /// What the privileged part tells next; `None` when it is gone.
    async fn told(&self) -> Option<(Told, Vec<OwnedFd>)> {
        self.channel.receive().await.unwrap_or_else(|why| {
            error!("run {}: the privileged part says what makes no sense: {why}", self.run.run);
            None
        })
    }

    /// The run, from its first report to its last; in a word how it ended.
    async fn run(&mut self) -> String {
        self.report(RunReportKind::Accepted);
        self.ask(&Ask::Start);
        let (out, err) = loop {
            match self.told().await {
                Some((Told::Opened { .. }, fds)) => {
                    let Ok(pipes) = <[OwnedFd; 2]>::try_from(fds) else { return "its output was not handed over".to_owned() };
                    let [out, err] = pipes.map(pipe::Receiver::from_owned_fd);
                    match (out, err) {
                        (Ok(out), Ok(err)) => break (out, err),
                        (Err(error), _) | (_, Err(error)) => {
                            self.ask(&Ask::EndAll { kill: true });
                            let message = format!("The command's output cannot be read: {error}.");
                            return self.end(RunEnd::without_process(RunOutcome::Failed, "failed", message)).await;
                        }
                    }
                }
                Some((Told::Refused { code, message, .. }, _)) => return self.end(self.not_started(&code, message)).await,
                // Before the command: nothing is to be ended.
                Some((Told::Close { message, .. }, _)) => {
                    return self.end(RunEnd::without_process(RunOutcome::Cancelled, "cancelled", message)).await;
                }
                Some(_) => {}
                None => return "its privileged part was lost".to_owned(),
            }
        };
        self.report(RunReportKind::Started);
        let now = Instant::now();
        let mut live = Live {
            began: now,
            exited: None,
            output: Output::new(self.run.start.output_max),
            used: RunUsed::default(),
            most: 0,
            looked_at: now,
            last_memory: None,
            left: 1,
            ending: None,
        };
        self.watch(&mut live, (out, err)).await;
        self.finish(live).await
    }

    /// Why it was not started, for the user.
    fn not_started(&self, code: &str, message: String) -> RunEnd {
        let start = &self.run.start;
        let program = match &start.command {
            RunCommand::Argv(argv) => argv.first().map_or("", String::as_str),
            RunCommand::Shell(_) => "the shell",
        };
        let failed = [code::NOT_FOUND, code::NO_DIRECTORY, code::DENIED, code::FAILED].contains(&code);
        let outcome = if failed { RunOutcome::Failed } else { RunOutcome::Refused };
        let message = match (code, &start.cwd) {
            (code::NO_DIRECTORY, Some(cwd)) => format!("The directory {cwd:?} does not exist on the device, or its user may not enter it."),
            (code::NOT_FOUND, _) => format!("There is no program {program:?} on the device."),
            (code::DENIED, _) => format!("{program:?} may not be run on the device: {message}"),
            _ => message,
        };
        RunEnd::without_process(outcome, code, message)
    }

    /// Until no process of the command is left and all that they wrote was read.
    async fn watch(&mut self, live: &mut Live, (mut out, mut err): (pipe::Receiver, pipe::Receiver)) {
        let deadline = live.began + Duration::from_secs(self.run.start.timeout_s.into());
        let (mut out_open, mut err_open) = (true, true);
        let (mut flush_at, mut sample_in) = (live.began, SAMPLES.0);
        let (mut note_at, mut step_at) = (live.began + NOTE, live.began);
        let (mut out_buffer, mut err_buffer) = (vec![0; READ], vec![0; READ]);
        loop {
            let running = live.ending.is_none();
            let gone = live.ending.as_ref().and_then(|ending| ending.gone);
            if gone.is_some_and(|gone| (!out_open && !err_open) || gone + DRAIN <= Instant::now()) {
                return;
            }
            let asked_again = live.looked_at + sample_in;
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
                told = self.told() => match told {
                    Some((Told::Exited { code, signal, used, .. }, _)) => {
                        live.exited = Some((code, signal));
                        live.look(used);
                        self.ask(&Ask::Look);
                    }
                    Some((Told::Seen { left, used }, _)) => {
                        live.left = left;
                        live.look(used);
                        self.seen(live);
                    }
                    Some((Told::Close { message, .. }, _)) => if running {
                        self.end_all(live, RunOutcome::Cancelled, Some(message));
                    },
                    Some(_) => {}
                    // Whoever could end the command is gone, and the command with it.
                    None => {
                        live.ending.get_or_insert_with(|| Ending::now(RunOutcome::Lost, Some("what watched over the run was killed".to_owned()))).gone = Some(Instant::now());
                    }
                },
                () = sleep_until(asked_again), if running => {
                    self.ask(&Ask::Look);
                    live.count_memory();
                    sample_in = (sample_in * 2).min(SAMPLES.1);
                }
                () = sleep_until(note_at) => {
                    self.note(live);
                    note_at = Instant::now() + NOTE;
                }
                () = sleep_until(deadline), if running => {
                    let message = format!("its {} s were over", self.run.start.timeout_s);
                    self.end_all(live, RunOutcome::TimedOut, Some(message));
                }
                () = sleep_until(step_at), if !running && gone.is_none() => {
                    self.ask(&Ask::Look);
                    step_at = Instant::now() + LOOK;
                }
                // Only to look at what is gone for long enough.
                () = tokio::time::sleep(LOOK), if gone.is_some() => {}
            }
            if self.n + REPORTS_KEPT >= RUN_REPORTS_MAX {
                live.output.close_head();
            }
        }
    }

    /// Looks at what is left of the command.
    fn seen(&self, live: &mut Live) {
        match &mut live.ending {
            // When the command itself has ended, what it left behind is ended too.
            None if live.exited.is_some() => {
                let message = match live.left {
                    0 => None,
                    1 => Some("a process that it left behind was ended".to_owned()),
                    n => Some(format!("{n} processes that it left behind were ended")),
                };
                self.end_all(live, RunOutcome::Done, message);
                if live.left == 0
                    && let Some(ending) = &mut live.ending
                {
                    ending.gone = Some(Instant::now());
                }
            }
            None => {}
            Some(ending) if ending.gone.is_none() => {
                let now = Instant::now();
                if live.left == 0 || now >= ending.give_up_at {
                    ending.gone = Some(now);
                    ending.stuck = live.left;
                } else if now >= ending.kill_at {
                    self.ask(&Ask::EndAll { kill: true });
                }
            }
            Some(_) => {}
        }
    }

    /// Tells all processes to go.
    fn end_all(&self, live: &mut Live, outcome: RunOutcome, message: Option<String>) {
        live.ending = Some(Ending::now(outcome, message));
        self.ask(&Ask::EndAll { kill: false });
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
                warn!("run {}: a report cannot be written: {error}", self.run.run);
                false
            }
        }
    }

    fn append(&mut self, kind: RunReportKind) -> io::Result<()> {
        let report = RunReport { n: self.n, t: self.hub_now(), kind };
        let mut line = encode(&report);
        line.push(b'\n');
        // Whole or not at all.
        let before = self.reports.metadata()?.len();
        self.reports.write_all(&line).inspect_err(|_| drop(self.reports.set_len(before)))?;
        self.n += 1;
        self.ask(&Ask::More);
        Ok(())
    }

    /// The hub's clock, by what the daemon knew of it, and the clock that nobody sets.
    fn hub_now(&self) -> Millis {
        let arrival = &self.run.arrival;
        let steady = Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Boottime)).unwrap_or_default();
        arrival.hub_at(Millis::try_from(steady.as_millis()).unwrap_or(Millis::MAX), &arrival.boot).unwrap_or(arrival.hub)
    }

    fn note(&mut self, live: &Live) {
        let used = RunUsed { wall_ms: millis(live.began.elapsed()), ..live.used };
        let written = serde_json::to_vec(&used).map_err(io::Error::from).and_then(|text| {
            std::os::unix::fs::FileExt::write_all_at(&self.used, &text, 0)?;
            self.used.set_len(text.len() as u64)
        });
        if let Err(error) = written {
            debug!("run {}: what it used cannot be noted: {error}", self.run.run);
        }
    }

    async fn finish(&mut self, mut live: Live) -> String {
        self.flush(&mut live, false);
        live.count_memory();
        let Live { began, exited, output, mut used, most, ending, .. } = live;
        let (stdout, stderr, dropped) = (output.written(RunStream::Stdout), output.written(RunStream::Stderr), output.dropped());
        for piece in output.finish() {
            self.piece(piece);
        }
        used.wall_ms = millis(began.elapsed());
        if used.mem_peak == 0 && most > 0 {
            // Over before the first look.
            (used.mem_peak, used.mem_byte_ms) = (most, most.saturating_mul(used.wall_ms.max(1)));
        }
        let (exit_code, signal) = exited.unwrap_or_default();
        let (outcome, mut message, stuck) =
            ending.map_or((RunOutcome::Done, None, 0), |ending| (ending.outcome, ending.message, ending.stuck));
        if stuck > 0 {
            let more = format!("{stuck} of its processes hang in the kernel and could not be ended");
            message = Some(message.map_or(more.clone(), |message| format!("{message}; {more}")));
        }
        if self.unwritten > 0 {
            let more = format!("the device's disk did not take {} bytes of its output", self.unwritten);
            message = Some(message.map_or(more.clone(), |message| format!("{message}; {more}")));
        }
        let dropped = dropped + self.unwritten;
        self.end(RunEnd { outcome, exit_code, signal, code: None, message, stdout, stderr, dropped, used }).await
    }

    /// Writes the end to the disk itself. Where that takes nothing for long, the daemon tells that the run was lost.
    async fn end(&mut self, end: RunEnd) -> String {
        info!(
            "run {}: {:?}, exit code {:?}, {} ms, {} us of processor time",
            self.run.run, end.outcome, end.exit_code, end.used.wall_ms, end.used.cpu_us
        );
        let word = format!("{:?}", end.outcome).to_lowercase();
        for _ in 0..END_TRIES.1 {
            match self.append(RunReportKind::End(end.clone())) {
                Ok(()) => {
                    if let Err(error) = self.reports.sync_data() {
                        warn!("run {}: the end is not on the disk yet: {error}", self.run.run);
                    }
                    return word;
                }
                Err(error) => warn!("run {}: the end cannot be written: {error}", self.run.run),
            }
            tokio::time::sleep(END_TRIES.0).await;
        }
        word
    }
}

impl Ending {
    fn now(outcome: RunOutcome, message: Option<String>) -> Self {
        let now = Instant::now();
        Self { outcome, message, kill_at: now + GRACE, give_up_at: now + GRACE + GIVE_UP, gone: None, stuck: 0 }
    }
}

impl Live {
    /// What was read; whether the pipe goes on.
    fn take(&mut self, stream: RunStream, buffer: &[u8], read: &io::Result<usize>) -> bool {
        let len = *read.as_ref().unwrap_or(&0);
        self.output.push(stream, &buffer[..len]);
        len > 0
    }

    /// Counts the memory that was seen last until now, and takes what is seen now.
    fn look(&mut self, used: Used) {
        self.used.cpu_us = self.used.cpu_us.max(used.cpu_us);
        self.most = self.most.max(used.largest);
        // Until the first look, what it shows.
        self.last_memory.get_or_insert(used.memory);
        self.count_memory();
        self.used.mem_peak = self.used.mem_peak.max(used.memory);
        self.last_memory = Some(used.memory);
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
