//! One device: a folder with its configuration, and the daemon's processes on it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::hub::StubHub;

/// The longest that any condition may take on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Also where these tests are root's.
pub(crate) const OWN_USER: &str = "\"root\"";

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
    service: Option<Child>,
    user: Option<u32>,
}

impl Device {
    /// A device with short intervals. `more` is added to its configuration.
    pub(crate) fn new(more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().display();
        let text = format!(
            "state_dir = \"{dir}/state\"\nrun_dir = \"{dir}/run\"\npolicy = \"{dir}/policy.toml\"\nanchor = \"{dir}/hub.json\"\n\
             session_dir = \"{dir}/visits\"\n[identity]\nserial = \"robot 1\"\n\
             [heartbeat]\nevery_s = 1\n[usage]\nsample_every_s = 1\npublish_every_s = 1\n[log]\nlevel = \"debug\"\nsamples = true\n{more}"
        );
        std::fs::write(folder.path().join("config.toml"), text).unwrap();
        let device = Self { folder, running: None, service: None, user: None };
        device.policy("");
        device
    }

    /// Writes a policy under which sessions run as whoever runs these tests. `more` is added to it.
    pub(crate) fn policy(&self, more: &str) {
        std::fs::write(self.path("policy.toml"), format!("own_user = {OWN_USER}\n{more}")).unwrap();
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

    /// The same with the service for sessions, by which visitors become the users whom the policy names; for root only.
    pub(crate) fn with_service(hub: &StubHub, policy: &str) -> Self {
        let mut device = Self::online(hub, "");
        std::fs::write(device.path("policy.toml"), policy).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_musterd-session"));
        command.args(["listen", "--group", "0"]);
        for (name, file) in [("--policy", "policy.toml"), ("--anchor", "hub.json"), ("--run-dir", "visits"), ("--state-dir", "used")] {
            command.arg(name).arg(device.path(file));
        }
        device.service = Some(command.stdin(Stdio::null()).spawn().unwrap());
        wait_for("the service for sessions", || device.path("visits/start.sock").exists().then_some(()));
        device
    }

    /// A path in the device's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command(&self) -> Command {
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

    /// Starts the daemon and waits until it is online. As under a supervisor it is started again where it ends at once: a child that its
    /// predecessor was just making when it was killed has that one's sockets for a moment.
    pub(crate) fn start_supervised(&mut self, hub: &StubHub) {
        let births = hub.births().len();
        self.start();
        wait_for("the next birth", || {
            if self.running.as_mut().unwrap().try_wait().unwrap().is_some() {
                self.start();
            }
            (hub.births().len() > births).then_some(())
        });
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

    /// What `musterd sessions` lists.
    pub(crate) fn visits(&self) -> Vec<Value> {
        serde_json::from_slice(&self.musterd(&["sessions", "--json"]).stdout).unwrap()
    }

    /// The process of the privileged part of a session or a run, once it is there.
    pub(crate) fn privileged(&self, name: &str) -> u32 {
        wait_for("the session's or the run's process", || {
            let visit = self.visits().into_iter().find(|visit| visit["name"] == name)?;
            u32::try_from(visit["pid"].as_u64()?).ok()
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
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Sessions and runs outlive the daemon on purpose.
        self.musterd(&["end", "--all"]);
        if let Some(mut child) = self.service.take() {
            signal("TERM", child.id());
            let _ = child.wait();
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
