//! OpenSSH through the hub: `ssh`, `scp`, `rsync`, `ssh -L` against a real sshd that listens on the device's loopback only.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};

use crate::device::Device;
use crate::lab::{Lab, SOON, fails, free_port, ok, rows};
use crate::process::Process;
use crate::programs;
use crate::sshd::Sshd;
use crate::traffic::{echo_server, random, random_file, sha256_file};
use crate::wait::eventually;

/// Bytes of the file that is copied both ways.
const FILE: usize = 200 * 1024 * 1024;

/// An OpenSSH program of the system in the owner's environment, with `muster` on the PATH as a person has it.
fn plain(lab: &Lab, program: &str) -> Command {
    let path = format!("{}:{}", programs::muster().parent().unwrap().display(), std::env::var("PATH").unwrap());
    let mut command = lab.marked(&programs::system(program));
    command.envs(lab.variables()).env("PATH", path).stdin(Stdio::null());
    command
}

/// The name under which the block lists the device.
fn host_of(block: &str) -> String {
    let line = block.lines().find(|line| line.starts_with("Host ")).unwrap_or_else(|| panic!("no Host line in {block}"));
    line.split_whitespace().nth(1).expect("a name").to_owned()
}

/// A device with OpenSSH's server: what keeps both alive, the server's port, and the options with which `ssh` logs in there.
fn with_sshd(lab: &Lab) -> ((Device<'_>, Sshd), String, Vec<String>) {
    let device = Device::with_sessiond(lab, "robot-1");
    let sshd = Sshd::start(lab);
    let (port, options) = (sshd.port.to_string(), sshd.options());
    ((device, sshd), port, options)
}

#[test]
fn muster_ssh_runs_a_command_and_passes_its_exit_code() {
    let lab = Lab::new();
    let (_device, port, options) = with_sshd(&lab);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let ssh = |command: &[&str]| lab.muster(&[&["ssh", "--port", &port, "robot-1"], &options[..], command].concat());

    let output = ok(&mut ssh(&["echo", "hello from", "$((6*7))"]));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello from 42\n");
    fails(&mut ssh(&["exit", "23"]), 23);
    // Standard input goes through, to its end.
    let bytes = random(300_000);
    let mut cat = ssh(&["cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = cat.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent));
    let mut back = Vec::new();
    cat.stdout.take().unwrap().read_to_end(&mut back).unwrap();
    writer.join().unwrap().unwrap();
    assert!(cat.wait().unwrap().success());
    assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
}

#[test]
fn scp_and_rsync_carry_200_mb_both_ways_unchanged() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let sshd = Sshd::start(&lab);
    let block = lab.run(&["ssh-config", "robot-1"]);
    let (host, config, port) = (host_of(&block), sshd.client_config(&block), sshd.port.to_string());
    let (here, there, again) = (lab.folder().join("here"), lab.folder().join("there"), lab.folder().join("again"));
    let hash = random_file(&here, FILE);

    // scp: to the device, and back from it.
    ok(plain(&lab, "scp").arg("-F").arg(&config).args(["-q", "-P", &port]).arg(&here).arg(format!("{host}:{}", there.display())));
    assert_eq!(sha256_file(&there), hash, "scp to the device");
    ok(plain(&lab, "scp").arg("-F").arg(&config).args(["-q", "-P", &port]).arg(format!("{host}:{}", there.display())).arg(&again));
    assert_eq!(sha256_file(&again), hash, "scp from the device");

    // rsync over the same ssh: a changed file arrives changed, and only what changed travels.
    let mut text = fs::read(&here).unwrap();
    text[FILE / 2..FILE / 2 + 1000].copy_from_slice(&random(1000));
    fs::write(&here, &text).unwrap();
    let changed = sha256_file(&here);
    let shell = format!("ssh -F {} -p {port}", config.display());
    let mut rsync = plain(&lab, "rsync");
    rsync.args(["--stats", "--no-whole-file", "--inplace", "-e", &shell]);
    let output = ok(rsync.arg(&here).arg(format!("{host}:{}", there.display())));
    assert_eq!(sha256_file(&there), changed, "rsync to the device");
    let stats = String::from_utf8_lossy(&output.stdout).into_owned();
    let literal = stats.lines().find_map(|line| line.strip_prefix("Literal data: ")).unwrap_or_else(|| panic!("{stats}"));
    let literal: usize = literal.split(' ').next().unwrap().replace(',', "").parse().unwrap();
    assert!(literal < FILE / 10, "rsync sent {literal} bytes for a change of 1000");
}

#[test]
fn other_programs_call_muster_ssh_in_the_place_of_ssh() {
    let lab = Lab::new();
    let (_device, port, options) = with_sshd(&lab);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let user = String::from_utf8(ok(std::process::Command::new("id").arg("-un")).stdout).unwrap().trim().to_owned();

    // The port that was asked for is the one that is reached, whichever way it was said, before the device or behind it.
    for words in [
        vec!["-l", &user, "-p", &port, "robot-1", "echo hello"],
        vec![&*format!("-p{port}"), "robot-1", "echo hello"],
        vec!["-o", &*format!("Port={port}"), "-T", "robot-1", "echo hello"],
        vec!["robot-1", "-p", &port, "echo hello"],
        vec![&*format!("ssh://{user}@robot-1:{port}"), "echo hello"],
        vec!["-p", &port, "--", "robot-1", "echo", "hello"],
    ] {
        let output = ok(&mut lab.muster(&[&["ssh"], &options[..], &words].concat()));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n", "{words:?}");
    }
    // None but that one.
    let other = free_port().to_string();
    let said = fails(&mut lab.muster(&[&["ssh"], &options[..], &["-p", &other, "robot-1", "true"]].concat()), 255);
    assert!(!said.contains("hello"), "{said}");
    let said = fails(&mut lab.muster(&["ssh", "-J", "bastion", "robot-1"]), 2);
    assert!(said.contains("-J has no place here"), "{said}");
    let version = ok(&mut lab.muster(&["ssh", "-V"]));
    assert!(String::from_utf8_lossy(&version.stderr).contains("OpenSSH"), "{version:?}");

    let (here, there) = (lab.folder().join("here"), lab.folder().join("there"));
    let hash = random_file(&here, 3_000_000);
    let call = format!("muster ssh -p {port} {}", options.join(" "));
    ok(plain(&lab, "rsync").args(["-a", "-e", &call]).arg(&here).arg(format!("{user}@robot-1:{}", there.display())));
    assert_eq!(sha256_file(&there), hash);
    // A plain shell in its place: standard error must not get between rsync's bytes.
    let again = lab.folder().join("again");
    let script = lab.folder().join("rsh");
    fs::write(&script, "#!/bin/sh\n[ \"$1\" = -l ] && shift 2\nhost=$1; shift\nexec muster shell $host -- \"echo noise >&2; $*\"\n")
        .unwrap();
    ok(std::process::Command::new("chmod").arg("755").arg(&script));
    ok(plain(&lab, "rsync").args(["-a", "-e", script.to_str().unwrap()]).arg(format!("robot-1:{}", here.display())).arg(&again));
    assert_eq!(sha256_file(&again), hash);
}

#[test]
fn blocks_for_openssh_know_the_port_and_are_written_once() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let config = lab.folder().join("config");
    fs::write(&config, "Compression no\n").unwrap();
    let write = || lab.muster(&["ssh-config", "--port", "2222", "--write", config.to_str().unwrap()]);
    let said = ok(&mut write());
    assert!(String::from_utf8_lossy(&said.stderr).contains("MUSTER_TOKEN"), "{said:?}");
    let once = fs::read_to_string(&config).unwrap();
    assert!(once.contains("\n    Port 2222\n") && once.ends_with("Compression no\n"), "{once}");
    ok(&mut write());
    assert_eq!(fs::read_to_string(&config).unwrap(), once);
    let append = || fs::File::options().append(true).open(&config).unwrap();
    let said = fails(lab.muster(&["ssh-config"]).stdout(append()), 1);
    assert!(said.contains("already holds a section"), "{said}");
    assert_eq!(fs::read_to_string(&config).unwrap(), once);
    // What OpenSSH itself makes of it.
    let read = String::from_utf8(ok(plain(&lab, "ssh").args(["-G", "-F"]).arg(&config).arg("robot-1")).stdout).unwrap();
    assert!(read.contains("\nport 2222\n") && read.contains("\nproxycommand ") && read.contains("\ncompression no\n"), "{read}");
}

#[test]
fn ssh_forwards_a_port() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let sshd = Sshd::start(&lab);
    let block = lab.run(&["ssh-config", "robot-1"]);
    let host = host_of(&block);
    let (far, near) = (echo_server(), free_port());
    let mut ssh = plain(&lab, "ssh");
    ssh.arg("-F").arg(sshd.client_config(&block)).args([
        "-p",
        &sshd.port.to_string(),
        "-N",
        "-L",
        &format!("127.0.0.1:{near}:{far}"),
        "-o",
        "ExitOnForwardFailure=yes",
        &host,
    ]);
    let mut ssh = Process::start("ssh-L", lab.folder(), ssh);
    let mut connection = eventually("ssh -L listens", SOON, || {
        ssh.assert_alive();
        TcpStream::connect(("127.0.0.1", near)).ok()
    });
    let bytes = random(2_000_000);
    let mut writer = connection.try_clone().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut back = Vec::new();
    connection.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == bytes, "{} of {} bytes came back", back.len(), bytes.len());
}

#[test]
fn a_port_outside_the_devices_policy_is_refused_with_its_reason() {
    let lab = Lab::new();
    let device = Device::with_sessiond(&lab, "robot-1");
    let told = fails(&mut lab.muster(&["proxy", "robot-1", "22", "--host", "192.0.2.7"]), 3);
    assert!(told.contains("policy") && told.contains("192.0.2.7"), "{told}");
    // It is on record as what it was, in the visitor's name; and so is a run that was refused.
    device.set_policy("[run]\nallow = false\n");
    fails(&mut lab.muster(&["run", "robot-1", "--", "true"]), 120);
    let refused = || rows(lab.json(&["audit", "--refused"]));
    let events = eventually("both are on record", SOON, || {
        let events = refused();
        let has = |action: &str| events.iter().any(|event| event["action"] == action);
        (has("session.refused") && has("run.end")).then_some(events)
    });
    let of = |action: &str| events.iter().find(|event| event["action"] == action).unwrap();
    let session = of("session.refused");
    assert!(session["result"].as_str().unwrap().starts_with("policy"), "{session}");
    assert!(
        session["actor"].as_str().unwrap().contains('@') && session["details"]["target"].as_str().unwrap().contains("192.0.2.7"),
        "{session}"
    );
    assert_eq!((&of("run.end")["result"], &of("run.end")["details"]["state"]), (&"policy_run".into(), &"refused".into()));
}
