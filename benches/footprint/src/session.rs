//! One session with an open terminal, at rest: what its privileged part and its network side hold in memory.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use muster_link::driver::{Application, Driver, Handle, LegChange};
use muster_link::test_relay::TestRelay;
use muster_proto::id::SessionId;
use muster_proto::mqtt::SessionOpen;
use muster_proto::session::{Event, Side, Target, Terminal};
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

async fn open(program: &Path, place: &Place) -> Result<u64> {
    let (config, pin) = place.relay()?;
    let relay = TestRelay::start_as(config, pin).await;
    let session = SessionId::from_random([3; 15]);
    let open = SessionOpen {
        session: session.clone(),
        relay: relay.relay("device").endpoint.to_string(),
        ticket: "ticket".into(),
        user: "ada@example.com".into(),
        project: "lab".parse()?,
        role: "connect".into(),
        reason: None,
        t: 0,
    };
    let (ours, theirs) = UnixStream::pair()?;
    // A copy: sessions that others run from the same file would take a share of it.
    let copy = place.dir().join("musterd-session");
    std::fs::copy(program, &copy)?;
    let mut command = Command::new(copy);
    command.args(place.session_arguments()?).stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::null());
    let mut served = Running(command.spawn().context("cannot start a session")?);
    (&ours).write_all(format!("{}\n", place.handoff(open)?).as_bytes())?;

    let client = Driver::new(Side::Client, session, relay.relay("client"), Visitor);
    let handle = client.handle();
    let running = tokio::task::spawn_local(client.run());
    let terminal = Terminal { cols: 80, rows: 24, term: "xterm".into(), user: None, command: Some("exec sleep 60".into()), attach: None };
    let (_, answer) = handle.open(Target::Terminal(terminal)).map_err(|error| anyhow!("the terminal is not opened: {error:?}"))?;
    let answer = tokio::time::timeout(OPEN_TIMEOUT, answer).await.context("the session does not answer; see its messages above")??;
    answer.map_err(|refusal| anyhow!("the session refuses the terminal: {refusal:?}"))?;
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
