//! Runs from the command line to the device and back: output, exit codes, what is left of a command, and what a run survives.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::device::Device;
use crate::external_broker::lab_on_mosquitto;
use crate::lab::{Lab, SOON, fails, rows};
use crate::process::Process;
use crate::wait::{eventually, throughout};

/// Prints numbers until it is told to stop counting.
const COUNT: &str = "i=1; while [ $i -le 120 ]; do echo tick $i; i=$((i+1)); sleep 0.1; done; exit 7";

fn outputs(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn newest(lab: &Lab) -> Value {
    rows(lab.json(&["runs"])).into_iter().next().expect("a run")
}

fn ticks(log: &str) -> Vec<u32> {
    log.lines().filter_map(|line| line.trim_end().strip_prefix("tick ")?.parse().ok()).collect()
}

/// Processes of this machine that carry the run's mark.
fn processes_of(run: &str) -> usize {
    let mark = format!("MUSTER_RUN={run}");
    let of = |entry: &fs::DirEntry| fs::read(entry.path().join("environ")).unwrap_or_default();
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| of(entry).split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())).count()
}

#[test]
fn a_command_runs_on_the_device_and_its_exit_code_comes_back() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let (code, out, err) = outputs(&mut lab.muster(&["run", "robot-1", "--", "printf", "%s|", "a b", "$HOME"]));
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "a b|$HOME|", ""));
    let line = "echo out; echo err >&2; echo $A in $PWD; exit 3";
    let (code, out, err) = outputs(&mut lab.muster(&["run", "robot-1", "--env", "A=b", "--cwd", "/usr", "--", line]));
    assert_eq!((code, out.as_str(), err.as_str()), (Some(3), "out\nb in /usr\n", "err\n"));
    let run = newest(&lab);
    assert_eq!((run["state"].as_str(), run["exit_code"].as_i64(), run["env"][0].as_str()), (Some("failed"), Some(3), Some("A")));
    assert!(run["mem_peak"].as_u64() > Some(100_000), "{run}");

    let no_such = outputs(&mut lab.muster(&["run", "robot-1", "--", "no-such-program", "x"]));
    assert_eq!(no_such.0, Some(127));
    assert!(no_such.2.contains("There is no program \"no-such-program\""), "{no_such:?}");
    assert_eq!(outputs(&mut lab.muster(&["run", "robot-1", "--", "kill -SEGV $$"])).0, Some(139));
    let late = outputs(&mut lab.muster(&["run", "robot-1", "--timeout", "1s", "--", "echo begun; sleep 60"]));
    assert_eq!((late.0, late.1.as_str()), (Some(124), "begun\n"));
    assert!(late.2.contains("its 1 s were over"), "{late:?}");
    let large = outputs(&mut lab.muster(&["run", "robot-1", "--output", "4K", "--", "echo first; seq 1 5000; echo last"]));
    assert_eq!(large.0, Some(0));
    assert!(large.1.starts_with("first\n1\n") && large.1.ends_with("5000\nlast\n") && large.1.len() <= 4096, "{}", large.1.len());
    assert!(large.2.contains("bytes of output are cut out here"), "{}", large.2);

    // Read again later, by somebody who was not there.
    let id = newest(&lab)["id"].as_str().unwrap().to_owned();
    assert_eq!(outputs(&mut lab.muster(&["runs", "output", &id])).1, large.1);
    let page = lab.run(&["runs", "show", &id]);
    assert!(page.contains("seq 1 5000") && page.contains("cut out"), "{page}");
    let lines = lab.run(&["runs", "output", &id, "--json"]);
    assert!(lines.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()) && lines.lines().last().unwrap().contains("\"run\""));
    // Seen from afar the processor time is there for the accounts.
    lab.run(&["run", "robot-1", "--", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"]);
    assert!(newest(&lab)["cpu_us"].as_u64() > Some(10_000), "{}", newest(&lab));
}

#[test]
fn the_devices_policy_has_the_last_word() {
    let lab = Lab::new();
    let device = Device::with_sessiond(&lab, "robot-1");
    device.set_policy("[run]\nallow = false\n");
    let why = fails(&mut lab.muster(&["run", "robot-1", "--", "true"]), 120);
    assert!(why.contains("does not allow runs"), "{why}");
    assert_eq!(newest(&lab)["code"], "policy_run");
    device.set_policy("[run]\ncommands = [\"/bin/echo *\"]\n");
    assert_eq!(lab.run(&["run", "robot-1", "--", "/bin/echo", "allowed", "this"]), "allowed this\n");
    fails(&mut lab.muster(&["run", "robot-1", "--", "/bin/echo allowed; id"]), 120);
}

#[test]
fn ctrl_c_leaves_no_process_behind() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let line = "(setsid sh -c 'trap \"\" TERM; sleep 305; sleep 305' &); setsid sleep 305 & echo running; sleep 305";
    let mut run = Process::start("run", lab.folder(), lab.muster(&["run", "robot-1", "--", line]));
    run.says("running", SOON);
    let id = newest(&lab)["id"].as_str().unwrap().to_owned();
    assert!(processes_of(&id) >= 4, "{}", processes_of(&id));
    run.signal(Signal::INT);
    let status = run.ended(Duration::from_secs(30));
    assert_eq!(status.code(), Some(130), "{}", run.log());
    assert_eq!(processes_of(&id), 0, "all of it has ended when the run has");
    assert_eq!(newest(&lab)["state"], "cancelled");
}

#[test]
fn a_run_waits_for_its_device_and_is_taken_back_at_once() {
    let lab = Lab::new();
    let mut device = Device::with_sessiond(&lab, "robot-1");
    device.stop();
    lab.row_becomes("robot-1", "offline", SOON, |row| row["presence"] == "offline");
    let mut waiting = Process::start("waiting", lab.folder(), lab.muster(&["run", "robot-1", "--", "echo came"]));
    waiting.says("robot-1 is offline. Run", SOON);
    let file = device.visitors_folder().join("taken-back");
    let touch = format!("touch {}", file.display());
    let taken_back = lab.run(&["run", "robot-1", "--detach", "--", &touch]).trim().to_owned();
    lab.run(&["runs", "cancel", &taken_back]);
    let state = |id: &str| lab.json(&["runs", "show", id])["state"].clone();
    assert_eq!(state(&taken_back), "cancelled");
    device.start();
    assert!(waiting.ended(SOON).success());
    assert!(waiting.log().contains("came\n"), "{}", waiting.log());
    throughout("what was taken back does not run", Duration::from_secs(2), || !file.exists());
    assert_eq!(state(&taken_back), "cancelled");
}

#[test]
fn what_cannot_begin_says_which_part_of_it_and_an_offline_device_is_not_waited_for_longer_than_asked() {
    let lab = Lab::new();
    let mut device = Device::with_sessiond(&lab, "robot-1");
    let run = |arguments: &[&str]| outputs(&mut lab.muster(&[&["run", "robot-1"], arguments].concat()));
    let (code, _, err) = run(&["--cwd", "/no/such/directory", "--", "pwd"]);
    assert!(code == Some(123) && err.contains("The directory \"/no/such/directory\" does not exist on the device"), "{code:?} {err}");
    let (code, _, err) = run(&["--", "/no/such/program", "x"]);
    assert!(code == Some(127) && err.contains("There is no program \"/no/such/program\" on the device"), "{code:?} {err}");
    let (code, _, err) = run(&["--", "/no/such/program"]);
    assert!(code == Some(127) && err.contains("There is no program \"/no/such/program\" on the device"), "{code:?} {err}");
    let (code, _, err) = run(&["--", "/etc/passwd"]);
    assert!(code == Some(126) && err.contains("\"/etc/passwd\" may not be run on the device"), "{code:?} {err}");

    device.stop();
    lab.row_becomes("robot-1", "offline", SOON, |row| row["presence"] == "offline");
    let (code, out, err) = run(&["--wait", "0s", "--", "uptime"]);
    assert!(code == Some(121) && out.is_empty() && err.starts_with("muster: robot-1 is offline"), "{code:?} {err}");
    let before = newest(&lab)["id"].clone();
    let (code, _, err) = run(&["--wait", "1s", "--", "uptime"]);
    assert!(code == Some(121) && err.contains("did not take it within 1 s"), "{code:?} {err}");
    assert_ne!(newest(&lab)["id"], before);
    assert_eq!(newest(&lab)["state"], "expired");
}

#[test]
fn a_run_survives_the_hub_and_the_daemon_and_nothing_is_lost() {
    let lab = Lab::new();
    let mut device = Device::with_sessiond(&lab, "robot-1");
    let mut run = Process::start("run", lab.folder(), lab.muster(&["run", "robot-1", "--", COUNT]));
    run.says("tick 5", SOON);
    lab.hub().kill();
    lab.start_hub();
    run.says("tick 40", Duration::from_secs(60));
    device.daemon().kill();
    device.start();
    let status = run.ended(Duration::from_secs(120));
    assert_eq!(status.code(), Some(7), "{}", run.log());
    assert_eq!(ticks(&run.log()), (1..=120).collect::<Vec<u32>>(), "each tick once, in order");
    let id = newest(&lab)["id"].as_str().unwrap().to_owned();
    assert_eq!(ticks(&outputs(&mut lab.muster(&["runs", "output", &id])).1), (1..=120).collect::<Vec<u32>>());
}

#[test]
fn a_run_whose_supervisor_is_killed_is_lost_and_told_so() {
    let lab = Lab::new();
    let mut device = Device::with_sessiond(&lab, "robot-1");
    let mut run = Process::start("run", lab.folder(), lab.muster(&["run", "robot-1", "--", "echo running; exec sleep 306"]));
    run.says("running", SOON);
    let id = newest(&lab)["id"].as_str().unwrap().to_owned();
    let pid = device.living().iter().find(|live| live["name"] == id.as_str()).unwrap()["pid"].as_i64().unwrap();
    device.daemon().kill();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    device.start();
    assert_eq!(run.ended(Duration::from_secs(60)).code(), Some(122), "{}", run.log());
    assert_eq!(newest(&lab)["state"], "lost");
    // The service for sessions ends what it left behind; a daemon that runs them as its own user has none.
    if rustix::process::geteuid().is_root() {
        eventually("none of its processes is left", SOON, || (processes_of(&id) == 0).then_some(()));
    }
}

#[test]
fn on_mosquitto_a_run_is_the_same() {
    let (lab, _mosquitto) = lab_on_mosquitto();
    let mut device = Device::with_sessiond(&lab, "robot-1");
    let (code, out, err) = outputs(&mut lab.muster(&["run", "robot-1", "--", "echo out; echo err >&2; exit 3"]));
    assert_eq!((code, out.as_str(), err.as_str()), (Some(3), "out\n", "err\n"));
    let mut run = Process::start("run", lab.folder(), lab.muster(&["run", "robot-1", "--", COUNT]));
    run.says("tick 5", SOON);
    lab.hub().kill();
    lab.start_hub();
    device.daemon().kill();
    device.start();
    assert_eq!(run.ended(Duration::from_secs(120)).code(), Some(7), "{}", run.log());
    assert_eq!(ticks(&run.log()), (1..=120).collect::<Vec<u32>>(), "each tick once, in order");
}
