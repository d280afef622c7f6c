//! A laboratory: one hub with an organization `acme` and a project `lab`, its owner's command line, and devices.
//!
//! All of it is made as a person would make it: `muster-hub init`, `muster-hub serve`, then the `muster` program.

use std::cell::{RefCell, RefMut};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::https::{self, Answer};
use crate::netns::Host;
use crate::process::{self, MARK, Process, Seen};
use crate::programs;
use crate::wait::eventually;
use crate::wire::Wire;

/// Seconds between heartbeats in a laboratory; 30 in the field.
pub const HEARTBEAT_S: u64 = 2;
/// The owner of the laboratory's organization.
pub const OWNER: &str = "owner@example.org";
/// Time for anything that should take a moment, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(30);

/// One hub and what belongs to it.
pub struct Lab {
    hub: RefCell<Option<Process>>,
    /// The hub's data folder.
    pub data: PathBuf,
    /// The owner's personal access token.
    pub token: String,
    /// The hub's HTTPS address.
    pub https: SocketAddr,
    /// The hub's MQTT address.
    pub mqtt: SocketAddr,
    /// The hub as people and devices know it.
    pub url: String,
    /// More of the hub's environment, such as an external broker.
    pub hub_environment: Vec<(String, String)>,
    /// Where the hub runs, and people work.
    pub host: Host,
    /// The networks that HTTPS and MQTT go through, if they can fail.
    pub wires: Option<(Wire, Wire)>,
    folder: TempDir,
}

/// How a laboratory differs from the usual one.
#[derive(Default)]
pub struct Plan {
    /// HTTPS and MQTT go through wires that can be held and cut.
    pub wires: bool,
    /// The hub runs on a host of its own, with this address there.
    pub host: Option<(Host, &'static str)>,
    /// More of the hub's environment.
    pub hub_environment: Vec<(String, String)>,
}

impl Lab {
    /// The usual laboratory, with the hub running.
    pub fn new() -> Self {
        Self::planned(Plan::default())
    }

    /// A laboratory whose networks can fail.
    pub fn with_wires() -> Self {
        Self::planned(Plan { wires: true, ..Plan::default() })
    }

    /// A laboratory as planned, with the hub running.
    pub fn planned(plan: Plan) -> Self {
        let lab = Self::prepared(plan);
        lab.start_hub();
        lab
    }

    /// A laboratory whose hub has not been started yet.
    pub fn prepared(plan: Plan) -> Self {
        let folder = tempfile::Builder::new().prefix("muster-e2e-").tempdir().expect("a folder for the laboratory");
        let data = folder.path().join("hub");
        let (host, address) = plan.host.unwrap_or((Host::default(), "127.0.0.1"));
        let [https, mqtt] = [free_port(), free_port()].map(|port| SocketAddr::new(address.parse().expect("an IP address"), port));
        let wires = plan.wires.then(|| (Wire::to(https), Wire::to(mqtt)));
        let [known_https, known_mqtt] = match &wires {
            Some((a, b)) => [a.address(), b.address()],
            None => [https, mqtt],
        };
        let mut lab = Self {
            hub: RefCell::new(None),
            data,
            token: String::new(),
            https,
            mqtt,
            url: format!("https://{known_https}"),
            hub_environment: vec![
                ("MUSTER_HUB_PRESENCE_HEARTBEAT_EVERY_S".into(), HEARTBEAT_S.to_string()),
                ("MUSTER_HUB_MQTT_PUBLIC_URL".into(), format!("mqtts://{known_mqtt}")),
            ],
            host,
            wires,
            folder,
        };
        lab.hub_environment.extend(plan.hub_environment);
        lab.initialize();
        lab
    }

    fn initialize(&mut self) {
        let mut init = self.marked(&programs::muster_hub());
        init.arg("init").arg("--data-dir").arg(&self.data).args(["--public-url", &self.url]);
        init.args(["--listen", &self.https.to_string(), "--mqtt-listen", &self.mqtt.to_string()]);
        init.args(["--owner", OWNER, "--org", "acme", "--project", "lab"]);
        let output = ok(&mut init);
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let token = printed.split_whitespace().find(|word| word.starts_with("mp1."));
        self.token = token.unwrap_or_else(|| panic!("no personal access token in what init printed: {printed}")).to_owned();
    }

    /// Starts the hub, again with the same data, and waits until it says that it listens.
    pub fn start_hub(&self) {
        let mut serve = self.marked(&programs::muster_hub());
        serve.arg("--config").arg(self.data.join("hub.toml")).arg("serve");
        serve.envs(self.hub_environment.iter().map(|(key, value)| (key, value)));
        let before = fs::read_to_string(self.folder().join("hub.log")).unwrap_or_default().matches("listening https=").count();
        let mut hub = Process::start("hub", self.folder(), serve);
        eventually("the hub listens", SOON, || {
            hub.assert_alive();
            (hub.log().matches("listening https=").count() > before).then_some(())
        });
        *self.hub.borrow_mut() = Some(hub);
    }

    /// The hub's process.
    pub fn hub(&self) -> RefMut<'_, Process> {
        RefMut::map(self.hub.borrow_mut(), |hub| hub.as_mut().expect("the hub was started"))
    }

    /// Stops the hub as systemd would, and expects a clean end.
    pub fn stop_hub(&self) {
        let mut hub = self.hub();
        let status = hub.stop();
        assert!(status.success(), "the hub ended with {status} on SIGTERM:\n{}", hub.log());
    }

    /// The laboratory's folder, for files of a test.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command that carries the laboratory's mark, so that it and its children can be ended.
    pub fn marked(&self, program: &Path) -> Command {
        self.marked_on(&self.host, program)
    }

    /// The same on another host.
    pub fn marked_on(&self, host: &Host, program: &Path) -> Command {
        let mut command = host.command(program);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MUSTER")) {
            command.env_remove(name);
        }
        command.env(MARK, self.mark()).env("HOME", self.folder()).env("XDG_CONFIG_HOME", self.folder().join("xdg"));
        command
    }

    fn mark(&self) -> String {
        self.folder().display().to_string()
    }

    /// Processes of the laboratory with exactly this command line, as soon as there are some.
    #[track_caller]
    pub fn processes_with(&self, line: &str) -> Seen {
        eventually(&format!("a process {line:?}"), SOON, || {
            let found = process::marked(&self.mark()).into_iter().filter(|pid| {
                let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&text).replace('\0', " ").trim_end() == line
            });
            let seen = Seen::now(found);
            (seen.alive() > 0).then_some(seen)
        })
    }

    /// `muster ARGUMENTS...` as the organization's owner, not run yet.
    pub fn muster(&self, arguments: &[&str]) -> Command {
        let mut command = self.marked(&programs::muster());
        command.args(arguments).stdin(Stdio::null()).envs(self.variables());
        command
    }

    /// The four variables of a script.
    pub fn variables(&self) -> [(&'static str, String); 4] {
        [
            ("MUSTER_HUB", self.url.clone()),
            ("MUSTER_TOKEN", self.token.clone()),
            ("MUSTER_ORG", "acme".into()),
            ("MUSTER_PROJECT", "lab".into()),
        ]
    }

    /// Runs `muster ARGUMENTS...`, expects success, gives its standard output.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> String {
        String::from_utf8(ok(&mut self.muster(arguments)).stdout).expect("UTF-8")
    }

    /// Runs `muster ARGUMENTS... --json`, expects success, gives what it printed.
    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.run(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("muster {} --json: {error}: {text}", arguments.join(" ")))
    }

    /// An enrolment token, made with these options of `muster token create`.
    #[track_caller]
    pub fn enrolment_token(&self, options: &[&str]) -> String {
        let made = self.json(&[&["token", "create"], options].concat());
        made["token"].as_str().unwrap_or_else(|| panic!("no token in {made}")).to_owned()
    }

    /// The device's row, if it is listed.
    #[track_caller]
    pub fn device_row(&self, id: &str) -> Option<Value> {
        rows(self.json(&["devices"])).into_iter().find(|row| row["id"] == id)
    }

    /// Waits until the device's row fulfils the condition.
    #[track_caller]
    pub fn row_becomes(&self, id: &str, what: &str, limit: Duration, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let what = format!("{id} is {what}");
        let started = std::time::Instant::now();
        eventually(&what, limit + Duration::from_secs(1), || {
            last = self.device_row(id).unwrap_or_default();
            assert!(started.elapsed() < limit, "not within {limit:?}: {what}; the list says {last:#}");
            condition(&last).then(|| last.clone())
        })
    }

    /// Waits until the device is online.
    #[track_caller]
    pub fn online(&self, id: &str) -> Value {
        self.row_becomes(id, "online", Duration::from_secs(60), |row| row["presence"] == "online")
    }

    /// The hub's CA in PEM.
    pub fn ca(&self) -> String {
        let path = self.data.join("ca.pem");
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// One HTTPS request with the owner's token, not through our own code.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(Value::to_string);
        https::request(self.https, https::config(&self.ca(), None), method, path, Some(&self.token), body.as_deref().map(str::as_bytes))
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// All stored samples of a device, oldest first, over all pages.
    #[track_caller]
    pub fn samples(&self, id: &str) -> Vec<Value> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.api("GET", &format!("/v1/orgs/acme/devices/{id}/usage?since=0&limit=500{cursor}"), None);
            assert_eq!(page.status, 200, "{}", String::from_utf8_lossy(&page.body));
            let page = page.json();
            all.extend(page["items"].as_array().expect("items").iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        all.sort_by_key(|sample| sample["t"].as_i64());
        all
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        process::end_marked(&self.mark());
    }
}

/// The rows of a list, as the command line prints it.
#[track_caller]
pub fn rows(list: Value) -> Vec<Value> {
    match list {
        Value::Array(rows) => rows,
        Value::Object(mut page) => match page.remove("items") {
            Some(Value::Array(rows)) => rows,
            _ => panic!("a list without items"),
        },
        other => panic!("not a list: {other}"),
    }
}

/// Runs a command to its end and expects success.
#[track_caller]
pub fn ok(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs a command to its end, expects this exit code, gives what it wrote to standard error.
#[track_caller]
pub fn fails(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {}\n{}{text}", output.status, String::from_utf8_lossy(&output.stdout));
    assert!(!text.contains("panicked at"), "{text}");
    text
}

/// A port that nobody has, below the range that the system gives to outgoing connections: it stays free over a restart.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 15_000 + u16::try_from(std::process::id() % 100).expect("below 100") * 150;
    eventually("a free port", SOON, || {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 150;
        TcpListener::bind(("127.0.0.1", port)).ok().map(|_| port)
    })
}
