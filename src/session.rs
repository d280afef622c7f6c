//! `musterd session`: the worker process of one remote session.
//!
//! It reads its order from standard input, dials the hub's relay with the device's certificate, and serves what the policy allows:
//! terminals, TCP connections and Unix sockets from this device. It needs nothing from the daemon after that, so it lives on
//! when the daemon dies, restarts or is updated, and ends when its session ends.
//!
//! It never decides by itself what is allowed: each stream goes through the device's policy, read anew when the file changes.
//! It knows nothing of MQTT; what the hub should know goes to the daemon's control socket, if there is a daemon.

mod pipe;
mod processes;
mod serve;
mod target;
mod terminal;

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use muster_link::dial::Dialer;
use muster_link::driver::{Driver, Ended, Handle, Relay, Traffic};
use muster_link::tls::Clock;
use muster_proto::mqtt::DeviceEventKind;
use muster_proto::session::{Side, code};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use crate::account::Account;
use crate::guard::Hidden;
use crate::log::{self, debug, error, info, warn};
use crate::policy::{Decision, Limits, Request, Target, Watched};
use crate::state::{State, write_atomic};
use crate::worker::{Order, Report};

use serve::{Server, Visitor};

/// Largest order, in bytes: twice what a `down/session` message can hold.
const ORDER_MAX: u64 = 128 * 1024;
/// How often a session with an idle limit is looked at, as a share of the limit.
const IDLE_LOOKS: u32 = 8;
/// Longest wait for processes that were told to go.
const LAST_PROCESSES: Duration = Duration::from_millis(800);

/// Runs the worker; the exit code is for the daemon's log only.
pub(crate) fn run() -> ExitCode {
    // Not in the daemon's process group any more, whoever started us: its end must not be ours.
    // Fails where the daemon has seen to it already.
    let _ = rustix::process::setsid();
    muster_link::raise_open_files();
    let order = match read_order() {
        Ok(order) => order,
        Err(why) => {
            error!("session worker: {why:#}");
            return ExitCode::FAILURE;
        }
    };
    if let Some(level) = log::Level::from_name(&order.log_level) {
        log::set_level(level);
    }
    let id = order.open.session.clone();
    let report_to = order.report.clone();
    let (report, code) = match serve(order) {
        Ok(ended) => {
            info!("session {id}: ended: {} ({} bytes in, {} bytes out)", ended.message, ended.traffic.received, ended.traffic.sent);
            (Report { reason: ended.message, received: ended.traffic.received, sent: ended.traffic.sent }, ExitCode::SUCCESS)
        }
        Err(why) => {
            error!("session {id}: {why:#}");
            (Report { reason: format!("{why:#}"), received: 0, sent: 0 }, ExitCode::FAILURE)
        }
    };
    let report = serde_json::to_vec(&report).expect("a report has text keys and no fallible serializer");
    if let Err(why) = write_atomic(&report_to, &report, 0o600) {
        warn!("session {id}: {why}");
    }
    code
}

fn read_order() -> anyhow::Result<Order> {
    let mut text = Vec::new();
    std::io::stdin().lock().take(ORDER_MAX).read_to_end(&mut text).context("the order cannot be read from standard input")?;
    serde_json::from_slice(&text).context("the order on standard input is not valid; the daemon starts this command, not a person")
}

fn serve(order: Order) -> anyhow::Result<Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot start")?;
    LocalSet::new().block_on(&runtime, session(order))
}

async fn session(order: Order) -> anyhow::Result<Ended> {
    let Order { open, state_dir, policy, control, proxy, floor, .. } = order;
    let state = State::at(state_dir);
    let clock = Clock::with_floor(floor);
    let enrolled = state.enrolled()?.ok_or_else(|| anyhow!("this device is not enrolled"))?;
    let tls = state.client_tls(&enrolled, &clock)?;
    let proxy = proxy.map(|url| url.parse()).transpose()?;
    let relay = Relay { endpoint: open.relay.parse()?, ticket: open.ticket, dialer: Dialer::new(tls).via(proxy) };

    let account = Account::own();
    let hidden = Hidden::of(&account, state.dir(), &control);
    let account = hidden.at_home(account);
    let mut policy = Watched::open(policy);
    let visitor = Visitor { session: open.session.clone(), user: open.user, role: open.role, project: open.project.to_string() };
    let whole = Request { user: &visitor.user, role: &visitor.role, target: Target::Session };
    let refused = match policy.decide(&whole, crate::policy::moment()) {
        Decision::Allow(_) => None,
        Decision::Refuse { code, message } => Some((code, message)),
    };
    let limits = policy.limits();
    info!(
        "session {}: {} ({} in {}){}",
        visitor.session,
        visitor.user,
        visitor.role,
        visitor.project,
        open.reason.map(|reason| format!(", reason: {reason}")).unwrap_or_default()
    );
    let session = visitor.session.clone();
    let server = Server::new(visitor, account, hidden, policy, clock, control);
    let driver = Driver::new(Side::Device, session, relay, server.clone());
    let handle = driver.handle();
    if let Some((code, message)) = refused {
        server.tell(DeviceEventKind::PolicyRefused {
            session: handle.session(),
            target: "session".into(),
            code: code.into(),
            message: message.clone(),
        });
        handle.close(code, &message);
    }
    let guards = [tokio::task::spawn_local(end_on_signal(handle.clone())), tokio::task::spawn_local(keep_limits(handle, limits))];
    let (ended, _) = driver.run().await;
    guards.iter().for_each(tokio::task::JoinHandle::abort);
    server.hang_up_all();
    if tokio::time::timeout(LAST_PROCESSES, server.all_gone()).await.is_err() {
        debug!("processes of the session's terminals are killed");
    }
    server.kill_all();
    Ok(ended)
}

async fn end_on_signal(handle: Handle) {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()))
    else {
        return warn!("signals cannot be watched; SIGTERM will end this session without a word");
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            // The daemon's terminal closed: not our concern.
            _ = hangup.recv() => {}
        }
    }
    handle.close(code::CANCELLED, "the device ended the session");
}

/// Ends a session that is idle or old beyond what the policy allows.
async fn keep_limits(handle: Handle, limits: Limits) {
    let total = async {
        match limits.total_s {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
            None => std::future::pending().await,
        }
        format!("the device's policy ends sessions after {} s", limits.total_s.unwrap_or_default())
    };
    let idle = async {
        let Some(seconds) = limits.idle_s else { return std::future::pending().await };
        let (mut quiet, mut before) = (0, Traffic::default());
        while quiet < IDLE_LOOKS {
            tokio::time::sleep(Duration::from_secs(seconds.into()) / IDLE_LOOKS).await;
            let now = handle.traffic();
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
        format!("the device's policy ends sessions that are idle for {seconds} s")
    };
    let why = tokio::select! { why = total => why, why = idle => why };
    handle.close(code::POLICY, &why);
}

#[cfg(test)]
mod tests;
