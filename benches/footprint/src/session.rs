//! One session with an open terminal, at rest: what its privileged part and its network side hold in memory. And how long it takes
//! from an order to a prompt.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use muster_link::driver::{Application, Driver, Handle, Input, Io, LegChange, Output};
use muster_link::test_relay::TestRelay;
use muster_proto::id::{SessionId, StreamId};
use muster_proto::mqtt::SessionOpen;
use muster_proto::session::{Event, Side, Target, Terminal};
use tokio::io::AsyncReadExt as _;
use tokio::task::LocalSet;

use crate::Running;
use crate::place::Place;

/// Longest way from the start to an open terminal.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// Until what opening needed is given back.
const SETTLE: Duration = Duration::from_secs(3);

struct Visitor;

impl Application for Visitor {
    fn event(&mut self, _handle: &Handle, _event: Event) {}
    fn leg(&mut self, _change: LegChange<'_>) {}
}

/// Bytes of our own two processes of a session with one open terminal, without the shell: their proportional set size, as both run
/// one program and share it.
pub(crate) fn memory(program: &Path, place: &Place) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, open(program, place))
}

/// A relay of ours, and what a session over it is ordered with.
async fn relay(place: &Place, number: u8) -> Result<(TestRelay, SessionOpen)> {
    let (config, pin) = place.relay()?;
    let relay = TestRelay::start_as(config, pin).await;
    let open = SessionOpen {
        session: SessionId::from_random(std::array::from_fn(|at| number >> at.min(7))),
        relay: relay.relay("device").endpoint.to_string(),
        ticket: "ticket".into(),
        user: "ada@example.com".into(),
        project: "lab".parse()?,
        role: "connect".into(),
        reason: None,
        t: 0,
    };
    Ok((relay, open))
}

/// Asks for a terminal, and waits for it.
async fn terminal(handle: &Handle, command: Option<String>) -> Result<StreamId> {
    let terminal = Terminal { cols: 80, rows: 24, term: "xterm".into(), user: None, command, attach: None, errors: false };
    let (stream, answer) = handle.open(Target::Terminal(terminal)).map_err(|error| anyhow!("the terminal is not opened: {error:?}"))?;
    let answer = tokio::time::timeout(OPEN_TIMEOUT, answer).await.context("the session does not answer; see its messages above")??;
    answer.map_err(|refusal| anyhow!("the session refuses the terminal: {refusal:?}"))?;
    Ok(stream)
}

/// A copy of the program: sessions that others run from the same file would take a share of it.
fn copy(program: &Path, place: &Place) -> Result<PathBuf> {
    let copy = place.dir().join("musterd-session");
    std::fs::copy(program, &copy)?;
    Ok(copy)
}

async fn open(program: &Path, place: &Place) -> Result<u64> {
    let (relay, open) = relay(place, u8::MAX).await?;
    let session = open.session.clone();
    let (ours, theirs) = UnixStream::pair()?;
    let mut command = Command::new(copy(program, place)?);
    command.arg("serve").args(place.session_arguments("policy.toml")?).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
    let mut served = Running(command.spawn().context("cannot start a session")?);
    (&ours).write_all(format!("{}\n", place.handoff(open)?).as_bytes())?;

    let client = Driver::new(Side::Client, session, relay.relay("client"), Visitor);
    let handle = client.handle();
    let running = tokio::task::spawn_local(client.run());
    terminal(&handle, Some("exec sleep 60".into())).await?;
    tokio::time::sleep(SETTLE).await;
    let pids = own_processes(served.0.id())?;
    if pids.len() != 2 {
        bail!("a session has {} processes of ours; two were expected: its privileged part and its network side", pids.len());
    }
    let kib = pids.iter().map(|pid| proportional(*pid)).sum::<Result<u64>>()?;
    // The terminal's command goes with the session, if it is ended and not killed.
    (&ours).write_all(b"{\"do\":\"end\",\"reason\":\"measured\"}\n")?;
    served.0.wait()?;
    running.abort();
    Ok(kib * 1024)
}

/// How long it takes from handing over the order until a plain shell of another user shows its prompt, `times` times over, each in a
/// session of its own, with `musterd-session listen` (what `musterd sessiond` runs). In the order of length.
///
/// # Errors
/// Unless root runs it on a system that has the users `musterd-net` and `nobody`.
pub(crate) fn prompts(program: &Path, place: &Place, times: u8) -> Result<Vec<Duration>> {
    let mut command = Command::new(copy(program, place)?);
    command.arg("listen").args(place.session_arguments("visitors.toml")?).args(["--group", "0"]).stdin(Stdio::null());
    let _listening = Running(command.spawn().context("cannot start `musterd-session listen`")?);
    let start = place.dir().join("sessions/start.sock");
    let until = Instant::now() + OPEN_TIMEOUT;
    while !start.exists() {
        if Instant::now() > until {
            bail!("`musterd-session listen` does not listen; see its messages above");
        }
        std::thread::yield_now();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut all = (0..times).map(|n| LocalSet::new().block_on(&runtime, prompt(&start, place, n))).collect::<Result<Vec<_>>>()?;
    all.sort_unstable();
    Ok(all)
}

async fn prompt(start: &Path, place: &Place, number: u8) -> Result<Duration> {
    let (relay, open) = relay(place, number).await?;
    let session = open.session.clone();
    let handoff = format!("{}\n", place.handoff(open)?);
    let begun = Instant::now();
    let daemon = UnixStream::connect(start)?;
    (&daemon).write_all(handoff.as_bytes())?;
    let client = Driver::new(Side::Client, session, relay.relay("client"), Visitor);
    let handle = client.handle();
    let running = tokio::task::spawn_local(client.run());
    let stream = terminal(&handle, None).await?;
    let (output, mut shown) = tokio::net::unix::pipe::pipe()?;
    handle.attach(stream, Io::pair(Input::default(), Output::from_fd(output.into_nonblocking_fd()?)?));
    let mut seen = Vec::new();
    while !seen.ends_with(b"$ ") {
        let read = tokio::time::timeout(OPEN_TIMEOUT, shown.read_buf(&mut seen)).await;
        let read = read.with_context(|| format!("no prompt; the terminal shows {:?}", String::from_utf8_lossy(&seen)))??;
        if read == 0 {
            bail!("the terminal ended; it showed {:?}", String::from_utf8_lossy(&seen));
        }
    }
    let took = begun.elapsed();
    (&daemon).write_all(b"{\"do\":\"end\",\"reason\":\"measured\"}\n")?;
    // The next one begins on a quiet machine.
    tokio::task::spawn_blocking(move || std::io::copy(&mut &daemon, &mut std::io::sink())).await??;
    running.abort();
    Ok(took)
}

/// The session's process and its children that run our program. A visitor's process carries another name.
fn own_processes(pid: u32) -> Result<Vec<u32>> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).context("the session ended")?;
    let mut all = vec![pid];
    for child in children.split_ascii_whitespace() {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        if line.starts_with(b"musterd-session\0") {
            all.push(child.parse()?);
        }
    }
    Ok(all)
}

/// KiB of a process, with its share of what it has in common with others.
fn proportional(pid: u32) -> Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("the memory of process {pid} cannot be read; run this as root"))?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:")).context("no proportional set size")?;
    Ok(line.split_ascii_whitespace().nth(1).context("no proportional set size")?.parse()?)
}
