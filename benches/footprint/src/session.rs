//! One session with an open terminal, at rest: what its worker process holds in memory.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use muster_link::driver::{Application, Driver, Handle, LegChange};
use muster_link::test_relay::TestRelay;
use muster_proto::id::SessionId;
use muster_proto::session::{Event, Side, Target, Terminal};
use serde_json::json;
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

/// Bytes that a worker with one open terminal keeps resident, without the shell.
pub(crate) fn resident(musterd: &Path, place: &Place) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, open(musterd, place))
}

async fn open(musterd: &Path, place: &Place) -> Result<u64> {
    let relay = TestRelay::start().await;
    let session = SessionId::from_random([3; 15]);
    let state = place.worker_state(&relay.pin().to_string())?;
    let order = json!({
        "open": {
            "session": session, "relay": relay.relay("device").endpoint.to_string(), "ticket": "ticket",
            "user": "ada@example.com", "project": "lab", "role": "connect", "t": 0,
        },
        "state_dir": state,
        "policy": place.dir().join("policy.toml"),
        "control": place.dir().join("nobody.sock"),
        "report": place.dir().join("report"),
    });
    let order_file = place.dir().join("order.json");
    std::fs::write(&order_file, order.to_string())?;
    let mut command = Command::new(std::fs::canonicalize(musterd)?);
    command.arg("session").stdin(std::fs::File::open(order_file)?).stdout(Stdio::null());
    let worker = Running(command.spawn().context("cannot start a session's worker")?);

    let client = Driver::new(Side::Client, session, relay.relay("client"), Visitor);
    let handle = client.handle();
    let running = tokio::task::spawn_local(client.run());
    let terminal = Terminal { cols: 80, rows: 24, term: "xterm".into(), user: None, command: Some("exec sleep 60".into()), attach: None };
    let (_, answer) = handle.open(Target::Terminal(terminal)).map_err(|error| anyhow!("the terminal is not opened: {error:?}"))?;
    let answer = tokio::time::timeout(OPEN_TIMEOUT, answer).await.context("the worker does not answer; see its messages above")??;
    answer.map_err(|refusal| anyhow!("the worker refuses the terminal: {refusal:?}"))?;
    tokio::time::sleep(SETTLE).await;
    let statm = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", worker.0.id()))?;
    let line = statm.lines().find(|line| line.starts_with("Rss:")).context("no resident size")?;
    let kib: u64 = line.split_ascii_whitespace().nth(1).context("no resident size")?.parse()?;
    running.abort();
    Ok(kib * 1024)
}
