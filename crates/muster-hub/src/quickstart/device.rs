//! The device of the quickstart: `musterd` as a child, with all its files in the folder.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use muster_proto::id::Serial;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::files::Folder;
use crate::ca::files::write_public;
use crate::serve::make_private_dir;

/// The daemon promises to stop within 5 s.
const STOP: Duration = Duration::from_secs(7);
/// Enrolment with a token that admits by itself: one request.
const ENROL: Duration = Duration::from_secs(30);
/// Lines of the daemon's log that a failure shows.
const LAST_WORDS: usize = 8;
/// A Unix socket's path has at most 107 bytes (unix(7)); the daemon's names need some of them.
const RUN_DIR_MAX: usize = 70;

/// A trial in one folder, without a user of its own: visitors are whoever started it, and the policy has to say so in so many words.
fn first_policy(own_user: &str) -> String {
    format!(
        "# Written by `muster-hub quickstart` for a trial: sessions run as the user who started it, and nothing keeps visitors\n\
         # from this device's key. On a robot, visitors become users of their own: `musterd example-config policy` explains every key.\n\
         # It is yours now.\n\
         own_user = {own_user}\n"
    )
}

/// The daemon.
#[derive(Debug)]
pub(super) struct Daemon {
    program: PathBuf,
    config: PathBuf,
    /// The policy, and whether all of this runs as root.
    pub policy: PathBuf,
    pub runs_as_root: bool,
    log: PathBuf,
    /// What it calls itself on the list.
    pub serial: String,
    child: Option<Child>,
}

impl Daemon {
    pub(super) fn new(folder: &Folder, program: &Path) -> Result<Self> {
        let dir = folder.path.join("device");
        let serial = serial(&dir)?;
        let (state, run) = (dir.join("state"), run_dir(&dir));
        make_private_dir(&state)?;
        make_private_dir(&run)?;
        let quoted = |text: String| toml::Value::from(text).to_string();
        let text = format!(
            "# Written by `muster-hub quickstart` at every start.\n\
             state_dir = {}\nrun_dir = {}\npolicy = {}\nanchor = {}\n\n\
             [identity]\nserial = {}\n\n\
             # Faster than the defaults (10 s and 60 s), so that there is something to see at once.\n\
             [usage]\nsample_every_s = 2\npublish_every_s = 4\n",
            quoted(state.display().to_string()),
            quoted(run.display().to_string()),
            quoted(dir.join("policy.toml").display().to_string()),
            quoted(dir.join("hub.json").display().to_string()),
            quoted(serial.clone()),
        );
        let config = dir.join("config.toml");
        write_public(&config, text.as_bytes())?;
        let policy = dir.join("policy.toml");
        let runs_as_root = rustix::process::geteuid().is_root();
        // Once: from then on it is the person's, as any device's policy.
        if !policy.exists() {
            write_public(&policy, first_policy(if runs_as_root { "\"root\"" } else { "true" }).as_bytes())?;
        }
        Ok(Self { program: program.to_owned(), config, policy, runs_as_root, log: folder.path.join("musterd.log"), serial, child: None })
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // Variables of the user's own daemon would override this one's configuration.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("MUSTERD_")) {
            command.env_remove(key);
        }
        for key in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
            command.env_remove(key);
        }
        command.arg("--config").arg(&self.config).stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Enrols; waits until the daemon has its identity.
    pub(super) async fn enrol(&self, hub: &str, token: &str) -> Result<()> {
        let mut command = self.command();
        command.args(["enrol", hub, token]);
        let ended = timeout(ENROL, command.output()).await;
        let output = ended
            .map_err(|_| anyhow!("`musterd enrol` did not end within {} s", ENROL.as_secs()))?
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`musterd enrol` failed: {}", said.trim());
        }
        Ok(())
    }

    /// Starts it.
    pub(super) fn start(&mut self) -> Result<()> {
        let log =
            File::options().create(true).append(true).open(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = self.command();
        command.arg("run").stdout(log.try_clone()?).stderr(log);
        // Ctrl-C goes to the whole foreground group; the daemon is stopped in its turn.
        command.process_group(0);
        end_with_us(&mut command);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?);
        Ok(())
    }

    /// Returns when it ended by itself, with its last words.
    pub(super) async fn ended(&mut self) -> Error {
        match &mut self.child {
            Some(child) => {
                let status = child.wait().await;
                let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                anyhow!("musterd ended ({status}); {}", self.last_words())
            }
            None => std::future::pending().await,
        }
    }

    /// The end of its log.
    pub(super) fn last_words(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(LAST_WORDS).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        format!("its last words, in {}:\n  {}", self.log.display(), lines.join("\n  "))
    }

    /// Asks it to stop, and makes it if it does not.
    pub(super) async fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            // It may have ended this moment.
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(STOP, child.wait()).await.is_err() {
            tracing::warn!("musterd did not stop within {} s and was killed", STOP.as_secs());
            let _ = child.kill().await;
        }
    }
}

/// A daemon whose quickstart was killed would stay for good: the system ends it then.
#[expect(unsafe_code, reason = "between fork and exec only async-signal-safe calls may be made: this system call is one")]
fn end_with_us(command: &mut Command) {
    // SAFETY: one system call with a number; nothing is allocated and no lock is taken.
    unsafe {
        command.pre_exec(|| Ok(rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?));
    }
}

/// The host's name, chosen once: the list must not change when the host is renamed.
fn serial(dir: &Path) -> Result<String> {
    let file = dir.join("serial");
    if let Ok(text) = fs::read_to_string(&file)
        && let Ok(serial) = text.trim().parse::<Serial>()
    {
        return Ok(serial.to_string());
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let serial = host.parse::<Serial>().map_or_else(|_| "this-machine".to_owned(), |serial| serial.to_string());
    write_public(&file, format!("{serial}\n").as_bytes())?;
    Ok(serial)
}

/// Beside the rest, or below the temporary directory where the path would be too long for sockets.
fn run_dir(dir: &Path) -> PathBuf {
    let beside = dir.join("run");
    if beside.as_os_str().len() <= RUN_DIR_MAX {
        return beside;
    }
    let digest = crate::random::sha256(beside.as_os_str().as_encoded_bytes());
    std::env::temp_dir().join(format!("muster-quickstart-{}", crate::random::to_hex(&digest[..6])))
}
