//! A session outlives what happens around it: the hub's restart, a cut network, the daemon's end. No byte lost or doubled.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use ring::digest::{Context, SHA256};

use crate::device::{Device, VISITOR};
use crate::forward::forward;
use crate::lab::{Lab, SOON};
use crate::process::Process;
use crate::traffic::{hashing_server, random};
use crate::wait::{eventually, pause};

/// How long a fault lasts: "a network cut of some seconds".
const FAULT: Duration = Duration::from_secs(3);

/// A shell on the device that counts, and what came of it so far.
struct Counting {
    process: Process,
}

impl Counting {
    fn start(lab: &Lab) -> Self {
        let count = "i=1; while [ $i -le 400 ]; do echo tick $i; i=$((i+1)); sleep 0.05; done";
        let mut counting = Self { process: Process::start("counting", lab.folder(), lab.muster(&["shell", "robot-1", "--", count])) };
        counting.process.says("tick 5", SOON);
        counting
    }

    fn ticks(&self) -> Vec<u32> {
        let log = self.process.log();
        log.lines().filter_map(|line| line.trim_end().strip_prefix("tick ")?.parse().ok()).collect()
    }

    /// Waits until it counts on beyond where it is now.
    #[track_caller]
    fn goes_on(&mut self) {
        let before = *self.ticks().last().expect("ticks");
        eventually("the shell goes on", Duration::from_secs(60), || {
            self.ticks().last().is_some_and(|tick| *tick > before || *tick == 400).then_some(())
        });
    }

    #[track_caller]
    fn counts_to_the_end(mut self) {
        let status = self.process.ended(Duration::from_secs(90));
        assert!(status.success(), "{status}");
        assert_eq!(self.ticks(), (1..=400).collect::<Vec<u32>>(), "each tick once, in order");
    }
}

#[test]
fn a_shell_survives_a_hub_restart_a_cut_and_a_silent_network() {
    let lab = Lab::with_wires();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let (https, mqtt) = lab.wires.as_ref().expect("wires");
    let mut shell = Counting::start(&lab);

    lab.stop_hub();
    pause(FAULT);
    lab.start_hub();
    shell.goes_on();

    https.cut();
    mqtt.cut();
    pause(FAULT);
    https.mend();
    mqtt.mend();
    shell.goes_on();

    https.hold();
    pause(FAULT);
    https.mend();
    shell.goes_on();

    lab.hub().kill();
    lab.start_hub();
    shell.goes_on();
    shell.counts_to_the_end();
}

#[test]
fn a_shell_survives_the_daemons_death_and_a_new_service_for_sessions() {
    let lab = Lab::new();
    let mut device = Device::with_sessiond(&lab, "robot-1");
    let mut shell = Counting::start(&lab);
    device.daemon().kill();
    shell.goes_on();
    if device.stop_sessiond() {
        shell.goes_on();
        device.start_sessiond();
    }
    device.start();
    lab.online("robot-1");
    shell.goes_on();
    // The new daemon has found it, and the new service begins others beside it.
    assert_eq!(device.living().len(), 1);
    assert_eq!(lab.run(&["shell", "robot-1", "--", "echo", "another"]).trim(), "another");
    shell.counts_to_the_end();
    eventually("no session lives", SOON, || device.living().is_empty().then_some(()));
}

#[test]
fn a_shell_survives_the_daemon_where_it_runs_as_the_daemons_own_user() {
    let lab = Lab::new();
    let mut device = Device::online(&lab, "robot-1");
    let mut shell = Counting::start(&lab);
    device.daemon().kill();
    shell.goes_on();
    device.start();
    lab.online("robot-1");
    shell.counts_to_the_end();
    eventually("no session lives", SOON, || device.living().is_empty().then_some(()));
}

#[test]
fn a_person_at_the_device_ends_a_session() {
    let lab = Lab::new();
    let device = Device::with_sessiond(&lab, "robot-1");
    let mut shell = Process::start("shell", lab.folder(), lab.muster(&["shell", "robot-1", "--", "id -un; exec sleep 303"]));
    let visitor = lab.processes_with("sleep 303");
    let live = device.living();
    assert_eq!(live.len(), 1, "{live:#?}");
    assert_eq!(live[0]["user"], crate::lab::OWNER);
    // As the person's own log says, and the device's.
    let user = shell.log().lines().next().expect("a user").to_owned();
    assert_eq!(live[0]["become_user"], user);
    if rustix::process::geteuid().is_root() {
        assert_eq!(user, VISITOR);
    }
    crate::lab::ok(&mut device.musterd(&["end", live[0]["name"].as_str().unwrap()]));
    assert!(!shell.ended(SOON).success());
    visitor.all_end(SOON);
    eventually("no session lives", SOON, || device.living().is_empty().then_some(()));
}

#[test]
fn a_bulk_copy_survives_cuts_and_restarts_without_a_lost_byte() {
    let lab = Lab::with_wires();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let (https, _) = lab.wires.as_ref().expect("wires");
    let (mut forwarding, near) = forward(&lab, hashing_server());
    let connection = TcpStream::connect(near).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    let mut writer = connection.try_clone().unwrap();

    // Sends until told to stop, so that each fault falls into the middle of it.
    let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(1);
    let sending = thread::spawn(move || {
        let (mut hash, mut sent) = (Context::new(&SHA256), 0_u64);
        while stopped.try_recv().is_err() {
            let piece = random(64 * 1024);
            hash.update(&piece);
            writer.write_all(&piece).expect("the forward takes bytes");
            sent += piece.len() as u64;
        }
        writer.shutdown(Shutdown::Write).unwrap();
        (hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>(), sent)
    });
    let mut moves_on = || {
        let before = https.carried();
        eventually("the copy goes on", Duration::from_secs(60), || {
            forwarding.assert_alive();
            (https.carried() > before + (8 << 20)).then_some(())
        });
    };

    moves_on();
    https.cut();
    pause(FAULT);
    https.mend();
    moves_on();
    https.hold();
    pause(FAULT);
    https.mend();
    moves_on();
    lab.stop_hub();
    pause(FAULT);
    lab.start_hub();
    moves_on();
    lab.hub().kill();
    lab.start_hub();
    moves_on();

    stop.send(()).unwrap();
    let (hash, sent) = sending.join().unwrap();
    let mut answer = String::new();
    (&connection).read_to_string(&mut answer).unwrap();
    assert_eq!(answer, hash, "{sent} bytes sent");
}

#[test]
fn a_terminal_is_a_terminal() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    // `script` gives the command line a terminal, as a person's window does.
    let muster = crate::programs::muster();
    let mut script = lab.marked(&crate::programs::system("script"));
    script.envs(lab.variables()).args(["-qefc", &format!("stty rows 33 cols 121; {} shell robot-1", muster.display()), "/dev/null"]);
    let mut window = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut keys = window.stdin.take().unwrap();
    let output = window.stdout.take().unwrap();
    let reading = thread::spawn(move || {
        let mut text = String::new();
        let mut output = output;
        output.read_to_string(&mut text).map(|_| text)
    });
    keys.write_all(b"stty size; tty; echo sum=$((40+2)); exit 7\n").unwrap();
    keys.flush().unwrap();
    let status = eventually("the shell ends", SOON, || window.try_wait().unwrap());
    drop(keys);
    let text = reading.join().unwrap().unwrap();
    assert!(text.contains("33 121"), "the window's size reaches the device: {text}");
    assert!(text.contains("/dev/pts/"), "{text}");
    assert!(text.contains("sum=42"), "{text}");
    assert_eq!(status.code(), Some(7), "the shell's own exit code: {text}");
}
