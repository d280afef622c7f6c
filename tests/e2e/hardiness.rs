//! What an administrator's hand does to the programs: signals that mean something else elsewhere, closed pipes, full disks.

use std::fs::{self, File};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use crate::device::Device;
use crate::lab::{Lab, SOON, fails, ok};
use crate::process::Process;
use crate::programs;
use crate::wait::throughout;

/// Signals that are not for us.
const OTHERS: [Signal; 3] = [Signal::USR1, Signal::USR2, Signal::ALARM];

#[test]
fn hangup_reloads_what_can_be_and_other_signals_do_no_harm() {
    let lab = Lab::new();
    let mut device = Device::with_sessiond(&lab, "robot-1");
    let mut shell = Process::start("shell", lab.folder(), lab.muster(&["shell", "robot-1", "--", "echo READY; exec sleep 300"]));
    shell.says("READY", SOON);
    let privileged = device.living()[0]["pid"].as_i64().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)).unwrap();
    for signal in OTHERS.into_iter().chain([Signal::HUP]) {
        device.daemon().signal(signal);
        lab.hub().signal(signal);
        rustix::process::kill_process(privileged, signal).unwrap();
        for side in fs::read_to_string(format!("/proc/{privileged}/task/{privileged}/children")).unwrap().split_whitespace() {
            // The network side is of the same program; the visitor's own process is not ours to spare.
            if fs::read(format!("/proc/{side}/cmdline")).unwrap().starts_with(b"musterd-session") {
                rustix::process::kill_process(rustix::process::Pid::from_raw(side.parse().unwrap()).unwrap(), signal).unwrap();
            }
        }
    }
    device.daemon().says("SIGHUP: reloaded; log level debug", SOON);
    device.daemon().says("SIGHUP: the policy is valid", SOON);
    lab.hub().says("SIGHUP: reloaded; log level info", SOON);
    throughout("all go on", Duration::from_secs(1), || {
        device.daemon().assert_alive();
        lab.hub().assert_alive();
        shell.assert_alive();
        true
    });

    // What changed is taken, or named.
    let config = device.folder.join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("level = \"debug\"", "level = \"warn\"").replace("sample_every_s = 1", "sample_every_s = 2")).unwrap();
    device.daemon().signal(Signal::HUP);
    device.daemon().says("SIGHUP: reloaded; log level warn; restart musterd for the new usage.sample_every_s", SOON);
    fs::write(&config, "bananas = 1\n").unwrap();
    device.daemon().signal(Signal::HUP);
    device.daemon().says("SIGHUP: the configuration has mistakes and is not taken: bananas", SOON);
    let hub = lab.data.join("hub.toml");
    let text = fs::read_to_string(&hub).unwrap();
    fs::write(&hub, format!("{text}\n[log]\nlevel = \"debug\"\n[retention]\nsamples_days = 5\n")).unwrap();
    lab.hub().signal(Signal::HUP);
    lab.hub().says("SIGHUP: reloaded; log level debug; restart the hub for the new retention.samples_days", SOON);
    fs::write(&hub, "nonsense").unwrap();
    lab.hub().signal(Signal::HUP);
    lab.hub().says("SIGHUP: the configuration is not taken", SOON);

    // A policy that was broken is on the list at once, not with the next heartbeat.
    device.set_policy("\n[terminal]\nallow = \"perhaps\"\n");
    device.daemon().signal(Signal::HUP);
    lab.row_becomes("robot-1", "shown with its broken policy", SOON, |row| row["why"].as_str().is_some_and(|why| why.contains("policy")));
    shell.assert_alive();
}

#[test]
fn no_command_panics_where_it_cannot_print() {
    let lab = Lab::new();
    let device = Device::with_sessiond(&lab, "robot-1");
    let hub_config = lab.data.join("hub.toml");
    let hub = |arguments: &[&str]| {
        let mut command = lab.marked(&programs::muster_hub());
        command.arg("--config").arg(&hub_config).args(arguments).stdin(Stdio::null());
        command
    };
    let full = || File::options().write(true).open("/dev/full").unwrap();
    let musterd: [&[&str]; 11] = [
        &["status"],
        &["status", "--json"],
        &["doctor"],
        &["doctor", "--json"],
        &["sessions"],
        &["sessions", "--json"],
        &["check-config"],
        &["example-config"],
        &["example-config", "policy"],
        &["policy", "explain", "--user", "ada@example.com", "--role", "connect", "--target", "terminal"],
        &["end", "--all"],
    ];
    let of_hub: [&[&str]; 5] =
        [&["example-config"], &["check-config"], &["user", "list"], &["user", "list", "--json"], &["broker-config", "mosquitto"]];
    let commands = || {
        let all = musterd.iter().map(|arguments| device.musterd(arguments)).chain(of_hub.iter().map(|arguments| hub(arguments)));
        all.collect::<Vec<Command>>()
    };
    let mut tried = 0;
    for mut command in commands() {
        let output = command.stdout(full()).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{command:?}: {said}");
        assert!(said.contains("can't write to standard output: No space left on device"), "{command:?}: {said}");
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        tried += 1;
    }
    // Nobody reads, on either side.
    for mut command in commands() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = command.stdout(writer.try_clone().unwrap()).stderr(writer).status().unwrap();
        assert!(status.code().is_some_and(|code| code <= 1), "{command:?}: {status}");
        tried += 1;
    }
    assert_eq!(tried, 32);

    // What is shown only once says how to get another.
    let said = fails(hub(&["user", "add", "kim@example.org"]).stdout(full()), 1);
    assert!(said.contains("Generate another: muster-hub user password kim@example.org"), "{said}");
    let again = ok(&mut hub(&["user", "password", "kim@example.org"]));
    assert!(!again.stdout.is_empty());
    let fresh = lab.folder().join("fresh");
    let mut init = lab.marked(&programs::muster_hub());
    init.args(["init", "--owner", "ada@example.org", "--public-url", "https://127.0.0.1:9", "--data-dir"]).arg(&fresh);
    let said = fails(init.stdout(full()), 1);
    assert!(said.contains("its first token is lost") && said.contains("user password ada@example.org"), "{said}");
}
