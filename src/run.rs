//! `musterd run`: starts the tasks, waits for the end, ends them in order.
//!
//! One thread. A task that ends by itself ends the process, and systemd starts it afresh.
//! Order of the end: the link says farewell, the samples are synced, the sockets go; sessions live on.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use muster_link::signals::{Asked, Signals};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::daemon::Daemon;
use crate::log::{error, info, warn};
use crate::notify::Notifier;
use crate::state::StateError;
use crate::{control, local, metrics, mqtt, renew, runs, sessions, usage};

/// Longest stop. systemd is told to wait longer.
const STOP_TIMEOUT: Duration = Duration::from_secs(4);

/// Runs the daemon until SIGTERM or SIGINT. `path` is the configuration's file, if one was named: SIGHUP reads it again.
pub(crate) async fn run(config: Config, path: Option<PathBuf>) -> ExitCode {
    let notifier = Notifier::from_environment();
    let control_socket = config.control_socket();
    let listener = match local::bind(&control_socket) {
        Ok(listener) => listener,
        Err(error) => {
            error!("cannot open the control socket {}: {error}", control_socket.display());
            return ExitCode::FAILURE;
        }
    };
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            error!("cannot wait for signals: {error}");
            return ExitCode::FAILURE;
        }
    };
    let metrics_socket = config.metrics_socket();
    let (daemon, commands, run_commands) = Daemon::new(config);
    let daemon = Arc::new(daemon);
    if let Err(error) = daemon.state.prepare() {
        warn!("{error}; the daemon goes on, and what it cannot keep is lost at its end");
    }
    let _held = match daemon.state.hold() {
        Ok(held) => Some(held),
        Err(error @ StateError::Taken(_)) => {
            error!("{error}");
            let _ = std::fs::remove_file(control_socket);
            return ExitCode::FAILURE;
        }
        // No directory, or a file system without locks: said, and no reason to leave the device alone.
        Err(error) => {
            warn!("{error}; the daemon goes on, and would not notice a second one");
            None
        }
    };
    if let Err(why) = crate::policy::load(&daemon.config.policy) {
        error!("{why}");
    }
    if rustix::process::geteuid().is_root() {
        warn!("musterd runs as root; it needs no such power: run it as a user of its own, as its unit does");
    }
    info!("musterd {} starts, boot {}", env!("CARGO_PKG_VERSION"), daemon.boot);

    let mut tasks = JoinSet::new();
    tasks.spawn(named("link", mqtt::run(Arc::clone(&daemon))));
    tasks.spawn(named("usage", usage::sampling::run(Arc::clone(&daemon))));
    tasks.spawn(named("sessions", sessions::run(Arc::clone(&daemon), commands)));
    tasks.spawn(named("runs", runs::run(Arc::clone(&daemon), run_commands)));
    tasks.spawn(named("control", control::run(Arc::clone(&daemon), listener)));
    tasks.spawn(named("renewal", renew::run(Arc::clone(&daemon))));
    match metrics::bind(&metrics_socket) {
        Ok(listener) => drop(tasks.spawn(named("metrics", metrics::run(Arc::clone(&daemon), listener)))),
        Err(error) => warn!("cannot open the metrics socket {}: {error}; the daemon goes on without", metrics_socket.display()),
    }
    notifier.send("READY=1");

    let code = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::Stop(signal) => {
                    info!("{signal}: stopping");
                    break ExitCode::SUCCESS;
                }
                Asked::Reload => reload(&daemon, path.as_deref()),
            },
            Some(ended) = tasks.join_next() => {
                match ended {
                    Ok(name) => error!("the {name} task ended by itself"),
                    Err(error) => error!("a task failed: {error}"),
                }
                break ExitCode::FAILURE;
            }
            // This loop and the tasks share the thread: while it turns, they do.
            () = alive(notifier.watchdog) => notifier.send("WATCHDOG=1"),
        }
    };
    notifier.send("STOPPING=1");
    daemon.stop();
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
        warn!("not everything ended in {} s", STOP_TIMEOUT.as_secs());
    }
    let _ = std::fs::remove_file(control_socket);
    let _ = std::fs::remove_file(metrics_socket);
    code
}

/// SIGHUP: takes what can change while the daemon runs, and says what cannot. A configuration with mistakes changes nothing.
fn reload(daemon: &Daemon, path: Option<&Path>) {
    match Config::load(path) {
        Err(mistakes) => error!("SIGHUP: the configuration has mistakes and is not taken: {}", mistakes),
        Ok(config) => {
            crate::log::set_level(config.log_level);
            let waiting = daemon.config.needs_restart(&config);
            let level = config.log_level.name();
            match waiting[..] {
                [] => info!("SIGHUP: reloaded; log level {level}"),
                _ => warn!("SIGHUP: reloaded; log level {level}; restart musterd for the new {}", waiting.join(", ")),
            }
        }
    }
    // It is read at each use; the hub and the journal are told at once.
    match crate::policy::load(&daemon.config.policy) {
        Ok(_) => info!("SIGHUP: the policy is valid"),
        Err(why) => error!("SIGHUP: {why}"),
    }
    daemon.look_at_policy();
}

async fn named(name: &'static str, task: impl Future<Output = ()>) -> &'static str {
    task.await;
    name
}

async fn alive(watchdog: Option<Duration>) {
    match watchdog {
        Some(half) => tokio::time::sleep(half).await,
        None => std::future::pending().await,
    }
}
