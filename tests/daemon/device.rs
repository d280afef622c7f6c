//! One device: a folder with its configuration, and the daemon's processes on it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::hub::StubHub;

/// The longest that any condition may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for a condition, looking often.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} did not come to pass within {DEADLINE:?}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A device.
pub(crate) struct Device {
    folder: tempfile::TempDir,
    running: Option<Child>,
    user: Option<u32>,
}

impl Device {
    /// A device with short intervals. `more` is added to its configuration.
    pub(crate) fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().display();
        let text = format!(
            "state_dir = \"{dir}/state\"\nrun_dir = \"{dir}/run\"\npolicy = \"{dir}/policy.toml\"\n[identity]\nserial = \"robot 1\"\n\
             [heartbeat]\nevery_s = 1\n[usage]\nsample_every_s = 1\npublish_every_s = 1\n[log]\nlevel = \"debug\"\nsamples = true\n{more}"
        );
        std::fs::write(folder.path().join("config.toml"), text).unwrap();
        Self { folder, running: None, user: None }
    }

    /// A device that a hub admitted, and that runs.
    pub(crate) fn online(hub: &StubHub, more: &str) -> Self {
        let mut device = Self::new(more);
        let output = device.musterd(&["enrol", &hub.url(), &hub.token()]);
        assert!(output.status.success(), "{}", text(&output));
        device.start();
        wait_for("the device's birth", || hub.births().pop());
        device
    }

    /// A path in the device's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_musterd"));
        command.arg("--config").arg(self.path("config.toml")).env_remove("MUSTERD_CONFIG");
        command
    }

    /// Runs one of the daemon's commands to its end.
    pub(crate) fn musterd(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Starts one of the daemon's commands, its standard output to be read.
    pub(crate) fn begin(&self, arguments: &[&str]) -> Child {
        self.command().args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap()
    }

    /// Starts the daemon. Its log goes to `daemon.log`.
    pub(crate) fn start(&mut self) {
        let log = std::fs::OpenOptions::new().append(true).create(true).open(self.path("daemon.log")).unwrap();
        let mut command = self.command();
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        self.running = Some(command.arg("run").stdin(Stdio::null()).stderr(log).spawn().unwrap());
    }

    /// Where these tests are root's, the device is given to a user without privileges, as under its unit.
    pub(crate) fn without_privileges(&mut self) {
        const NOBODY: u32 = 65_534;
        if rustix::process::geteuid().is_root() {
            let given = Command::new("chown").arg("-R").arg(format!("{NOBODY}:{NOBODY}")).arg(self.folder.path()).status().unwrap();
            assert!(given.success());
            self.user = Some(NOBODY);
        }
    }

    /// The daemon's process number.
    pub(crate) fn pid(&self) -> u32 {
        self.running.as_ref().unwrap().id()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.running.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; how long the end took, and whether it was a good one.
    pub(crate) fn stop(&mut self) -> (Duration, bool) {
        let start = Instant::now();
        signal("TERM", self.pid());
        let mut child = self.running.take().unwrap();
        let status = wait_for("the daemon's end", || child.try_wait().unwrap());
        (start.elapsed(), status.success())
    }

    /// `musterd status --json`, once the daemon answers.
    pub(crate) fn status(&self) -> Value {
        wait_for("a status", || {
            serde_json::from_slice(&self.musterd(&["status", "--json"]).stdout).ok().filter(|status: &Value| status["link"].is_object())
        })
    }

    /// What the daemon logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// The samples that the daemon took, as (boot, seq, t).
    pub(crate) fn samples(&self) -> Vec<(String, u64, i64)> {
        let text = std::fs::read_to_string(self.path("state/samples.log")).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.map(|line| (line["boot"].as_str().unwrap().to_owned(), line["seq"].as_u64().unwrap(), line["t"].as_i64().unwrap())).collect()
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the daemon's log ----\n{}", self.log());
        }
        // Workers outlive the daemon on purpose; here they end by the numbers in their records.
        for entry in std::fs::read_dir(self.path("run/workers")).into_iter().flatten().flatten() {
            if let Ok(record) = serde_json::from_slice::<Value>(&std::fs::read(entry.path()).unwrap_or_default())
                && let Some(pid) = record["pid"].as_u64()
            {
                signal("KILL", u32::try_from(pid).unwrap());
            }
        }
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Supervisors too; told to end, they end what they started.
        for entry in std::fs::read_dir(self.path("state/runs")).into_iter().flatten().flatten() {
            if let Ok(begun) = serde_json::from_slice::<Value>(&std::fs::read(entry.path().join("begun.json")).unwrap_or_default())
                && let Some(pid) = begun["pid"].as_u64()
            {
                signal("TERM", u32::try_from(pid).unwrap());
            }
        }
    }
}

/// Sends a signal to a process that we started.
pub(crate) fn signal(name: &str, pid: u32) {
    let _ = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).stderr(Stdio::null()).status();
}

/// Both outputs of a command.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether a process is there and not only waits to be collected.
pub(crate) fn lives(pid: u64) -> bool {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}
