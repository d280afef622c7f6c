//! `muster-hub quickstart`: one command, and everything that it promises and prints is true.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Signal, kill_process_group};
use serde_json::Value;
use tempfile::TempDir;

use crate::lab::{free_port, ok, rows};
use crate::process::{self, MARK, Process};
use crate::programs;
use crate::wait::eventually;

struct Quickstart {
    folder: TempDir,
    listen: String,
}

impl Quickstart {
    fn new() -> Self {
        Self {
            folder: tempfile::Builder::new().prefix("muster-e2e-quickstart-").tempdir().unwrap(),
            listen: format!("127.0.0.1:{}", free_port()),
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn marked(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env(MARK, self.folder.path()).env("HOME", self.folder.path()).current_dir(self.folder.path());
        command
    }

    fn start(&self) -> Process {
        let mut command = self.marked(&programs::muster_hub());
        command.arg("quickstart").env("MUSTER_QUICKSTART_DATA", self.data()).env("MUSTER_QUICKSTART_LISTEN", &self.listen);
        let before = fs::read_to_string(self.folder.path().join("quickstart.log")).unwrap_or_default().matches("Ctrl-C").count();
        let mut quickstart = Process::start("quickstart", self.folder.path(), command);
        eventually("the quickstart says what to try", Duration::from_secs(60), || {
            quickstart.assert_alive();
            (quickstart.log().matches("Ctrl-C").count() > before).then_some(())
        });
        quickstart
    }

    /// A line for the shell, as a person types it into another window, with the programs on the PATH.
    fn shell(&self, line: &str) -> Command {
        let mut shell = self.marked(Path::new("/bin/bash"));
        let path = format!("{}:{}", programs::muster().parent().unwrap().display(), std::env::var("PATH").unwrap());
        shell.args(["-ec", line]).env("PATH", path).stdin(Stdio::null());
        shell
    }

    fn devices(&self) -> Vec<Value> {
        let line = format!(". {}/quickstart.env; muster devices --json", self.data().display());
        rows(serde_json::from_slice(&ok(&mut self.shell(&line)).stdout).unwrap())
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        process::end_marked(&self.folder.path().display().to_string());
    }
}

#[test]
fn one_command_makes_a_hub_an_organization_and_a_first_device() {
    let place = Quickstart::new();
    let mut quickstart = place.start();

    let env = place.data().join("quickstart.env");
    assert_eq!(fs::metadata(&env).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&env).unwrap();
    for name in ["MUSTER_HUB", "MUSTER_TOKEN", "MUSTER_ORG", "MUSTER_PROJECT"] {
        assert!(text.contains(&format!("export {name}=")), "{text}");
    }
    assert!(text.contains(&format!("https://{}", place.listen)), "{text}");

    // Sessions run as whoever started it: the policy and the output say so.
    let root = rustix::process::geteuid().is_root();
    let policy = fs::read_to_string(place.data().join("device/policy.toml")).unwrap();
    assert!(policy.contains(if root { "own_user = \"root\"" } else { "own_user = true" }), "{policy}");
    let said = quickstart.log();
    let line = said.lines().find(|line| line.trim_start().starts_with("policy ")).unwrap_or_else(|| panic!("{said}"));
    let who = if root { "is root on this machine" } else { "is you on this machine" };
    assert!(line.contains("device/policy.toml") && line.contains(who), "{line}");

    let first = place.devices();
    assert_eq!(first.len(), 1, "{first:#?}");
    let device = &first[0];
    assert_eq!((&device["admission"], &device["presence"]), (&"admitted".into(), &"online".into()), "{device:#}");
    assert_eq!(device["projects"], serde_json::json!(["lab"]));
    assert!(device["usage"]["values"]["mem_total"].as_f64().is_some_and(|bytes| bytes > 1e8), "real usage: {device:#}");

    // Everything that it printed works as it was printed.
    let printed = quickstart.log();
    let commands: Vec<&str> = printed
        .lines()
        .map(str::trim)
        .filter(|line| ["muster ", ". ", "source ", "ssh "].iter().any(|start| line.starts_with(start)))
        .map(|line| line.split("  #").next().unwrap().trim_end())
        .collect();
    assert!(commands.iter().filter(|line| line.starts_with("muster ")).count() >= 3, "commands to try: {printed}");
    let mut before = String::new();
    for line in commands {
        if line.starts_with(". ") || line.starts_with("source ") {
            before = format!("{line}; ");
            continue;
        }
        // What stays open until it is ended by hand runs for a moment: it must then be ended by us, not by a failure.
        let stays = ["muster top", "muster forward", "muster shell"].iter().any(|start| line.starts_with(start)) && !line.contains(" -- ");
        let mut shell = if stays {
            place.shell(&format!(
                "{before}timeout --foreground -s INT 3 script -qefc {line:?} /dev/null || [ $? -eq 124 ] || [ $? -eq 130 ]"
            ))
        } else {
            place.shell(&format!("{before}{line}"))
        };
        let output = shell.output().unwrap();
        assert!(
            output.status.success() || (stays && matches!(output.status.code(), Some(124 | 130))),
            "as printed: {line}\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    // Ctrl-C, which a terminal sends to the whole group: a clean end, and nothing of it stays behind.
    kill_process_group(quickstart.pid(), Signal::INT).unwrap();
    let status = quickstart.ended(Duration::from_secs(10));
    assert!(status.success() || status.code() == Some(130), "{status}");
    eventually("nothing is left", Duration::from_secs(5), || {
        process::marked(&place.folder.path().display().to_string()).is_empty().then_some(())
    });

    // Again: the same list, not a second device.
    let mut quickstart = place.start();
    let second = place.devices();
    assert_eq!(second.len(), 1, "{second:#?}");
    for field in ["id", "uid", "name", "admission", "presence", "projects", "created_at"] {
        assert_eq!(second[0][field], first[0][field], "{field}");
    }
    let status = quickstart.stop();
    assert!(status.success(), "{status}");
}

#[test]
fn nothing_is_left_of_a_quickstart_that_is_killed_and_a_daemon_that_ends_is_named() {
    let place = Quickstart::new();
    let left = || process::marked(&place.folder.path().display().to_string()).len();
    for signal in [Signal::KILL, Signal::HUP] {
        let mut quickstart = place.start();
        assert!(left() >= 2, "hub and daemon");
        quickstart.signal(signal);
        let status = quickstart.ended(Duration::from_secs(10));
        assert_eq!(status.success(), signal == Signal::HUP, "{status}");
        eventually("the daemon ends with it", Duration::from_secs(10), || (left() == 0).then_some(()));
    }
    let mut quickstart = place.start();
    let daemon = process::marked(&place.folder.path().display().to_string()).into_iter().find(|pid| *pid != quickstart.pid()).unwrap();
    rustix::process::kill_process(daemon, Signal::KILL).unwrap();
    assert!(!quickstart.ended(Duration::from_secs(10)).success());
    let log = quickstart.log();
    assert!(log.contains("musterd ended (signal: 9 (SIGKILL))"), "{log}");
}
