//! A hub of its own for each test, the `muster` program to talk to it, and `musterd enrol` where a device has to appear.
//!
//! Everything is made as a person would make it. Programs are built here, because cargo builds only this package's for its tests.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Time for anything that should take a moment, on a machine that is busy.
const SOON: Duration = Duration::from_secs(60);
/// The owner of the organization `acme`.
pub(crate) const OWNER: &str = "owner@acme.example";

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    /// Its exit code.
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("programs print UTF-8");
        Self { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// Standard output of a command that had to work.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    /// The JSON of a command that had to work.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// Standard error of a command that had to fail so.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        assert_eq!(self.out, "", "a failure prints nothing on standard output");
        assert!(!self.err.contains('\x1b'), "no escape sequences: {:?}", self.err);
        self.err
    }
}

/// A hub with the organization `acme`, its project `lab`, and its owner.
pub(crate) struct Town {
    folder: tempfile::TempDir,
    hub: Child,
    /// `https://127.0.0.1:PORT`
    pub(crate) url: String,
    /// The owner's personal access token.
    pub(crate) token: String,
}

impl Town {
    /// Makes and starts it.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("muster-cli-").tempdir().expect("a folder");
        let data = folder.path().join("hub");
        let init = Command::new(program("muster-hub"))
            .args(["init", "--listen", "127.0.0.1:0", "--mqtt-listen", "127.0.0.1:0", "--public-url", "https://127.0.0.1:0"])
            .args(["--owner", OWNER, "--org", "acme", "--project", "lab", "--data-dir"])
            .arg(&data)
            .stdin(Stdio::null())
            .output()
            .expect("muster-hub runs");
        let init = Said::of(&init);
        let told = init.err.clone();
        let said = init.ok();
        let token = said.split_whitespace().find(|word| word.starts_with("mp1.")).expect("init prints a token").to_owned();
        // What `muster login` asks to compare.
        let pin = token.rsplit('.').next().expect("it ends in the pin");
        assert!(told.contains(&format!("the hub's fingerprint: {pin}")), "{told}");
        let (hub, url) = serve(&data);
        Self { folder, hub, url, token }
    }

    /// The hub's data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    /// The home of the person who types.
    pub(crate) fn home(&self) -> PathBuf {
        self.folder.path().join("home")
    }

    /// A file in the folder of this test.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `muster` without a login, with a clean environment.
    pub(crate) fn stranger(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
        std::fs::create_dir_all(self.home()).expect("a home");
        command
            .env_clear()
            .env("HOME", self.home())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    /// `muster` of the owner, by the environment as scripts have it.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.stranger();
        command.env("MUSTER_HUB", &self.url).env("MUSTER_TOKEN", &self.token).env("MUSTER_ORG", "acme");
        command
    }

    /// Runs it as the owner, with words split at spaces.
    pub(crate) fn muster(&self, line: &str) -> Said {
        run(self.command().args(line.split_whitespace()))
    }

    /// Runs it without a login.
    pub(crate) fn as_stranger(&self, line: &str) -> Said {
        run(self.stranger().args(line.split_whitespace()))
    }

    /// Makes an enrolment token.
    pub(crate) fn enrolment_token(&self, flags: &str) -> String {
        let made = self.muster(&format!("token create --json {flags}")).json();
        made["token"].as_str().expect("a token").to_owned()
    }

    /// Enrols a device without waiting for its admission; each name is a machine of its own. Gives what `musterd` said.
    pub(crate) fn enrol(&self, machine: &str, serial: &str, token: &str) -> Said {
        let state = self.folder.path().join(machine);
        run(Command::new(program("musterd"))
            .args(["enrol", &self.url, token, "--no-wait"])
            .env("MUSTERD_STATE_DIR", state.join("state"))
            .env("MUSTERD_RUN_DIR", state.join("run"))
            .env("MUSTERD_POLICY", state.join("policy.toml"))
            .env("MUSTERD_ANCHOR", state.join("hub.json"))
            .env("MUSTERD_IDENTITY_SERIAL", serial)
            .stdin(Stdio::null()))
    }

    /// Enrols a device that is admitted at once.
    pub(crate) fn device(&self, serial: &str) {
        let token = self.enrolment_token("--admit auto --project lab");
        self.enrol(serial, serial, &token).ok();
    }

    /// `muster-hub`, with this hub's configuration.
    pub(crate) fn hub_command(&self) -> Command {
        let mut command = Command::new(program("muster-hub"));
        command.arg("--config").arg(self.data().join("hub.toml"));
        command
    }
}

impl Drop for Town {
    fn drop(&mut self) {
        drop(self.hub.kill());
        drop(self.hub.wait());
    }
}

/// Starts the hub of a data folder and waits until it says where it listens.
fn serve(data: &Path) -> (Child, String) {
    let mut hub = Command::new(program("muster-hub"))
        .arg("--config")
        .arg(data.join("hub.toml"))
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("muster-hub runs");
    let log = hub.stderr.take().expect("it is piped");
    let (told, listening) = std::sync::mpsc::sync_channel(1);
    let path = data.with_extension("log");
    // Ends with the hub; keeps its log for whoever looks into the folder of a failed test.
    std::thread::spawn(move || {
        let mut file = std::fs::File::create(path).expect("a log");
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            drop(writeln!(file, "{line}"));
            if let Some((_, rest)) = line.split_once("listening https=") {
                drop(told.try_send(rest.split_whitespace().next().unwrap_or_default().to_owned()));
            }
        }
    });
    match listening.recv_timeout(SOON) {
        Ok(address) => (hub, format!("https://{address}")),
        Err(_) => {
            drop(hub.kill());
            panic!("the hub did not say where it listens: {}", std::fs::read_to_string(data.with_extension("log")).unwrap_or_default());
        }
    }
}

/// Runs a command to its end; one that does not end fails the test.
pub(crate) fn run(command: &mut Command) -> Said {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let read = |mut from: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).map(|_| bytes)
        })
    };
    let (out, err) = (read(Box::new(out)), read(Box::new(err)));
    let until = Instant::now() + SOON;
    let status = loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            break status;
        }
        if Instant::now() > until {
            drop(child.kill());
            panic!("it does not end: {command:?}");
        }
        std::thread::park_timeout(Duration::from_millis(5));
    };
    let bytes = |reader: std::thread::JoinHandle<std::io::Result<Vec<u8>>>| reader.join().expect("it reads").expect("it reads");
    Said::of(&Output { status, stdout: bytes(out), stderr: bytes(err) })
}

/// Runs a command with a text on standard input.
pub(crate) fn run_with(command: &mut Command, input: &str) -> Said {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program runs");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    Said::of(&child.wait_with_output().expect("it ends"))
}

/// A program of this workspace, built and lying beside `muster`.
fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).join(name)
}

fn build() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_muster")).parent().expect("a program lies in a folder").to_owned();
    let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
    // The Makefile's command, so that nothing is built twice with other features; without what cargo tells a test about its package,
    // because a build script that reads that (ring's does) would run again, and all that stands on it.
    cargo.args(["build", "--bins"]).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
        cargo.env_remove(name);
    }
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let target = folder.parent().expect("target/PROFILE/program");
    let built = cargo.env("CARGO_TARGET_DIR", target).stdin(Stdio::null()).status().expect("cargo runs");
    assert!(built.success(), "muster-hub and musterd do not build");
    folder
}
