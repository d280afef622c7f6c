//! A device: a real daemon with its own state, configuration and policy, enrolled as a person would do it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::lab::{HEARTBEAT_S, Lab, SOON, ok, rows};
use crate::netns::Host;
use crate::process::Process;
use crate::programs;
use crate::wait::eventually;

/// One daemon and its folders.
pub struct Device<'a> {
    lab: &'a Lab,
    host: Host,
    /// Its serial number, the `id` in the list.
    pub id: String,
    /// Its folder: `config.toml`, `policy.toml`, `hub.json`, `state/`, `run/`, `sessions/`, `daemon.log`, `sessiond.log`.
    pub folder: PathBuf,
    /// The policy's lines about whom visitors become.
    users: String,
    daemon: Option<Process>,
    sessiond: Option<Process>,
}

/// Whom visitors become where the tests run as root; `scripts/install-test-tools` makes this user.
pub const VISITOR: &str = "muster-visitor";

impl<'a> Device<'a> {
    /// A device that has not enrolled yet. `config` is added to its configuration. Visitors become the user who runs the tests.
    pub fn new(lab: &'a Lab, host: Host, id: &str, config: &str) -> Self {
        let folder = lab.folder().join(format!("device-{id}"));
        for sub in ["state", "run"] {
            fs::create_dir_all(folder.join(sub)).expect("folders of the device");
        }
        let at = folder.display();
        let text = format!(
            "state_dir = \"{at}/state\"\nrun_dir = \"{at}/run\"\npolicy = \"{at}/policy.toml\"\n\
             anchor = \"{at}/hub.json\"\nsession_dir = \"{at}/sessions\"\n\
             [identity]\nserial = \"{id}\"\n[heartbeat]\nevery_s = {HEARTBEAT_S}\n\
             [usage]\nsample_every_s = 1\npublish_every_s = 2\n[log]\nlevel = \"debug\"\nsamples = true\n{config}"
        );
        fs::write(folder.join("config.toml"), text).expect("its configuration");
        let users = format!("own_user = {}\n", if rustix::process::geteuid().is_root() { "\"root\"" } else { "true" });
        let device = Self { lab, host, id: id.to_owned(), folder, users, daemon: None, sessiond: None };
        device.set_policy("");
        device
    }

    /// A device as in the field, enrolled, admitted and online: its sessions begin at the service of `musterd-session`, and visitors
    /// become [`VISITOR`]. That takes root; without it this is [`Device::online`].
    pub fn with_sessiond(lab: &'a Lab, id: &str) -> Self {
        if !rustix::process::geteuid().is_root() {
            return Self::online(lab, id);
        }
        for user in [VISITOR, "musterd-net"] {
            let known = Command::new("id").args(["-u", user]).output().expect("id runs");
            assert!(known.status.success(), "there is no user {user}: `scripts/install-test-tools` makes it");
        }
        // Visitors may pass through the laboratory to what is meant for them.
        fs::set_permissions(lab.folder(), PermissionsExt::from_mode(0o711)).expect("the laboratory's folder");
        let mut device = Self::new(lab, Host::default(), id, "");
        device.users = format!("[users]\ndefault = \"{VISITOR}\"\n");
        device.set_policy("");
        device.enrol();
        device.start_sessiond();
        device.start();
        lab.online(id);
        device
    }

    /// Writes its policy anew: whom visitors become, then these sections.
    pub fn set_policy(&self, sections: &str) {
        fs::write(self.folder.join("policy.toml"), format!("{}{sections}", self.users)).expect("its policy");
    }

    /// A folder on it that visitors may write.
    pub fn visitors_folder(&self) -> PathBuf {
        let folder = self.folder.join("visitors");
        fs::create_dir_all(&folder).expect("a folder for visitors");
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o1777)).expect("a folder for visitors");
        folder
    }

    /// A device that is enrolled, admitted and online, on this machine.
    pub fn online(lab: &'a Lab, id: &str) -> Self {
        Self::online_on(lab, Host::default(), id)
    }

    /// The same on another host.
    pub fn online_on(lab: &'a Lab, host: Host, id: &str) -> Self {
        let mut device = Self::new(lab, host, id, "");
        device.enrol();
        device.start();
        lab.online(id);
        device
    }

    /// `musterd --config ... ARGUMENTS...`, not run yet.
    pub fn musterd(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.marked_on(&self.host, &programs::musterd());
        command.arg("--config").arg(self.folder.join("config.toml")).args(arguments);
        command
    }

    /// Enrols with a token that admits at once and puts it into the project.
    #[track_caller]
    pub fn enrol(&self) {
        self.enrol_with(&self.lab.enrolment_token(&["--project", "lab", "--admit", "auto", "--uses", "1"]));
    }

    /// Enrols with this token.
    #[track_caller]
    pub fn enrol_with(&self, token: &str) {
        ok(&mut self.musterd(&["enrol", &self.lab.url, token]));
    }

    /// Starts the daemon, again with the same state.
    pub fn start(&mut self) {
        self.daemon = Some(Process::start("daemon", &self.folder, self.musterd(&["run"])));
    }

    /// Starts the service for sessions, again with the same state, and waits until it listens.
    pub fn start_sessiond(&mut self) {
        let mut listen = self.lab.marked_on(&self.host, &programs::musterd_session());
        listen.arg("listen").args(["--group", "0"]);
        for (option, name) in
            [("--policy", "policy.toml"), ("--anchor", "hub.json"), ("--run-dir", "sessions"), ("--state-dir", "state/sessions")]
        {
            listen.arg(option).arg(self.folder.join(name));
        }
        let socket = self.folder.join("sessions/start.sock");
        let mut sessiond = Process::start("sessiond", &self.folder, listen);
        eventually("the service for sessions listens", SOON, || {
            sessiond.assert_alive();
            UnixStream::connect(&socket).ok()
        });
        self.sessiond = Some(sessiond);
    }

    /// Stops the service for sessions as a supervisor would, and expects a clean end; `false` where there is none.
    #[track_caller]
    pub fn stop_sessiond(&mut self) -> bool {
        let Some(mut sessiond) = self.sessiond.take() else { return false };
        let status = sessiond.stop();
        assert!(status.success(), "the service for sessions ended with {status} on SIGTERM");
        true
    }

    /// The sessions and runs that live on it, as `musterd sessions` lists them.
    #[track_caller]
    pub fn living(&self) -> Vec<Value> {
        let output = ok(&mut self.musterd(&["sessions", "--json"]));
        rows(serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// The daemon's process.
    pub fn daemon(&mut self) -> &mut Process {
        self.daemon.as_mut().expect("the daemon was started")
    }

    /// Stops the daemon as systemd would, and expects a clean end.
    #[track_caller]
    pub fn stop(&mut self) {
        let status = self.daemon().stop();
        assert!(status.success(), "the daemon ended with {status} on SIGTERM");
    }

    /// The daemon's own log of samples.
    pub fn own_samples(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.join("state/samples.log")).unwrap_or_default();
        // The last line may be half written.
        text.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .map(|line| serde_json::from_str(line).expect("a sample as JSON"))
            .collect()
    }

    /// Waits until the daemon has written at least `count` samples to its own log.
    #[track_caller]
    pub fn has_taken(&self, count: usize, limit: Duration) {
        eventually(&format!("{count} samples taken"), limit, || (self.own_samples().len() >= count).then_some(()));
    }

    /// Its certificate and its key in PEM, as they lie on its disk.
    pub fn credentials(&self) -> (String, String) {
        let identity = fs::read_to_string(self.folder.join("state/identity.json")).expect("identity.json");
        let identity: Value = serde_json::from_str(&identity).expect("JSON");
        let certificate = find(&identity, "certificate").expect("a certificate in identity.json");
        (certificate, fs::read_to_string(self.folder.join("state/key.pem")).expect("key.pem"))
    }
}

/// The first text under this name, however deep.
fn find(value: &Value, name: &str) -> Option<String> {
    match value {
        Value::Object(map) => match map.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            _ => map.values().find_map(|value| find(value, name)),
        },
        Value::Array(values) => values.iter().find_map(|value| find(value, name)),
        _ => None,
    }
}
