//! Runs with real processes: what is told, what is kept, what is killed, and what outlives what.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use muster_proto::run::{RunEnd, RunOutcome, RunOutput, RunReport, RunReportKind, RunStream};
use serde_json::{Value, json};

use crate::device::{Device, lives, signal, wait_for};
use crate::hub::{StubHub, now};

const RUN: &str = "raaaaaaaaaaaaaaa";

fn device(hub: &StubHub) -> Device {
    Device::online(hub, "")
}

fn order(command: &Value) -> Value {
    json!({
        "command": command, "timeout_s": 60, "output_max": 1_048_576, "user": "ada@example.com", "project": "lab",
        "role": "operate", "t": now(), "expires": now() + 600_000,
    })
}

fn with(mut order: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        order[name] = value.clone();
    }
    order
}

fn shell(text: &str) -> Value {
    order(&json!({ "shell": text }))
}

fn start(hub: &StubHub, run: &str, order: &Value) {
    hub.start_run(run, order);
}

fn cancel(hub: &StubHub, run: &str) {
    hub.send(&format!("run/{run}"), &json!({ "do": "cancel", "reason": "enough", "t": now() }));
}

/// What the hub would have stored: each report once, by its number.
fn reports(hub: &StubHub, run: &str) -> Vec<RunReport> {
    let mut found = BTreeMap::new();
    for message in hub.published(&format!("run/{run}")) {
        let report = RunReport::decode(&message.payload).unwrap();
        if let Some(known) = found.insert(report.n, report.clone()) {
            assert_eq!(known, report, "the same number is the same report");
        }
    }
    found.into_values().collect()
}

fn end(hub: &StubHub, run: &str) -> RunEnd {
    wait_for("the run's end", || {
        reports(hub, run).into_iter().find_map(|report| match report.kind {
            RunReportKind::End(end) => Some(end),
            _ => None,
        })
    })
}

fn output(hub: &StubHub, run: &str) -> Vec<RunOutput> {
    let pieces = reports(hub, run).into_iter().filter_map(|report| match report.kind {
        RunReportKind::Output(output) => Some(output),
        _ => None,
    });
    pieces.collect()
}

fn text(hub: &StubHub, run: &str, stream: RunStream) -> String {
    let bytes = output(hub, run).into_iter().filter(|piece| piece.stream == stream).flat_map(|piece| piece.bytes).collect();
    String::from_utf8(bytes).unwrap()
}

fn waits_for_output(hub: &StubHub, run: &str, wanted: &str) -> String {
    wait_for(wanted, || Some(text(hub, run, RunStream::Stdout)).filter(|text| text.contains(wanted)))
}

/// The numbers that the command printed as `name=NUMBER`.
fn pid(text: &str, name: &str) -> u64 {
    let (_, rest) = text.split_once(&format!("{name}=")).unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

fn is_put_away(device: &Device, run: &str) {
    wait_for("only the memory stays", || {
        (device.path(&format!("state/runs/{run}.over")).exists() && !device.path(&format!("state/runs/{run}")).exists()).then_some(())
    });
}

#[test]
fn output_exit_code_and_use_are_told_in_order_and_then_forgotten() {
    let hub = StubHub::start();
    let device = device(&hub);
    let command = "echo out; echo err >&2; echo \"$A in $PWD\"; i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; exit 3";
    start(&hub, RUN, &with(shell(command), &json!({ "env": { "A": "b c" }, "cwd": "/usr" })));
    let end = end(&hub, RUN);
    assert_eq!((end.outcome, end.exit_code, end.signal.clone(), end.dropped), (RunOutcome::Done, Some(3), None, 0));
    assert_eq!((end.stdout, end.stderr), (4 + 12, 4));
    assert!(end.used.cpu_us > 1000 && end.used.mem_byte_ms > 0 && end.used.mem_peak > 100_000 && end.used.wall_ms > 0, "{end:?}");
    assert_eq!(text(&hub, RUN, RunStream::Stdout), "out\nb c in /usr\n");
    assert_eq!(text(&hub, RUN, RunStream::Stderr), "err\n");
    let told = reports(&hub, RUN);
    assert_eq!((&told[0].kind, &told[1].kind), (&RunReportKind::Accepted, &RunReportKind::Started));
    assert!(told.iter().enumerate().all(|(n, report)| report.n == n as u64), "numbered without a gap");
    assert!(told.iter().all(|report| (report.t - now()).abs() < 60_000));
    is_put_away(&device, RUN);
    assert_eq!(device.status()["runs"], json!([]));

    // Arguments are passed as they are.
    start(&hub, "rbbbbbbbbbbbbbbb", &order(&json!({ "argv": ["printf", "%s|", "a b", "$HOME", "*"] })));
    assert_eq!(self::end(&hub, "rbbbbbbbbbbbbbbb").exit_code, Some(0));
    assert_eq!(text(&hub, "rbbbbbbbbbbbbbbb", RunStream::Stdout), "a b|$HOME|*|");
    start(&hub, "rccccccccccccccc", &shell("kill -SEGV $$"));
    let end = self::end(&hub, "rccccccccccccccc");
    assert_eq!((end.outcome, end.exit_code, end.signal.as_deref()), (RunOutcome::Done, None, Some("SEGV")));
}

#[test]
fn the_same_order_is_one_run_however_often_it_comes() {
    let hub = StubHub::start();
    let mut device = device(&hub);
    let file = device.path("count");
    let order = shell(&format!("echo once >> {}; sleep 1", file.display()));
    for _ in 0..3 {
        start(&hub, RUN, &order);
    }
    wait_for("its start", || reports(&hub, RUN).get(1).cloned());
    start(&hub, RUN, &order);
    end(&hub, RUN);
    is_put_away(&device, RUN);
    start(&hub, RUN, &order);
    device.kill();
    let births = hub.births().len();
    device.start();
    wait_for("the next birth", || (hub.births().len() > births).then_some(()));
    start(&hub, RUN, &order);
    start(&hub, "rbbbbbbbbbbbbbbb", &shell("true"));
    end(&hub, "rbbbbbbbbbbbbbbb");
    assert_eq!(fs::read_to_string(file).unwrap(), "once\n");
}

#[test]
fn the_policy_the_clock_and_the_bounds_refuse_with_a_code_and_a_sentence() {
    let hub = StubHub::start();
    let device = device(&hub);
    let mut number = 0;
    let mut refused = |order: &Value| {
        number += 1;
        let run = format!("r{}", char::from(b'a' + number).to_string().repeat(15));
        start(&hub, &run, order);
        let end = end(&hub, &run);
        assert!(end.message.as_ref().is_some_and(|message| message.len() > 20), "{end:?}");
        assert_eq!(reports(&hub, &run).len(), 1, "nothing else is told");
        is_put_away(&device, &run);
        (end.outcome, end.code.unwrap())
    };
    let by_policy = |code: &str| (RunOutcome::Refused, code.to_owned());
    assert_eq!(refused(&with(shell("true"), &json!({ "role": "connect" }))), by_policy("policy_role"));
    assert_eq!(refused(&with(shell("true"), &json!({ "run_as": "nobody-here" }))), by_policy("policy_run_as"));
    device.policy("[run]\nallow = false\n");
    assert_eq!(refused(&shell("true")), by_policy("policy_run"));
    device.policy("[run]\ncommands = [\"/bin/true\"]\n");
    assert_eq!(refused(&shell("true")), by_policy("policy_command"));
    device.policy("[run]\nat_once = \"many\"\n");
    assert_eq!(refused(&shell("true")), by_policy("policy_broken"));
    fs::remove_file(device.path("policy.toml")).unwrap();
    assert_eq!(refused(&shell("true")), by_policy("policy_missing"));
    device.policy("");
    fs::write(device.path("locked"), "").unwrap();
    assert_eq!(refused(&shell("true")), by_policy("policy_locked"));
    fs::remove_file(device.path("locked")).unwrap();
    device.policy("[run]\nat_once = 1\n");
    let (late, future) = (now() - 700_000, now() + 86_400_000);
    assert_eq!(refused(&with(shell("true"), &json!({ "t": late, "expires": late }))), (RunOutcome::Expired, "expired".into()));
    start(&hub, RUN, &shell("exec sleep 30"));
    wait_for("its start", || reports(&hub, RUN).get(1).cloned());
    assert_eq!(refused(&shell("true")), by_policy("policy_runs"));
    cancel(&hub, RUN);
    assert_eq!(end(&hub, RUN).outcome, RunOutcome::Cancelled);
    // A hub whose clock is a day ahead of the device's, or behind: how old an order is, the broker tells, and no clock.
    start(&hub, "ryyyyyyyyyyyyyyy", &with(shell("true"), &json!({ "t": late, "expires": late + 600_000 })));
    assert_eq!(end(&hub, "ryyyyyyyyyyyyyyy").outcome, RunOutcome::Done);
    start(&hub, "rzzzzzzzzzzzzzzz", &with(shell("true"), &json!({ "t": future, "expires": future + 600_000 })));
    assert_eq!(end(&hub, "rzzzzzzzzzzzzzzz").outcome, RunOutcome::Done);
    assert!(reports(&hub, "rzzzzzzzzzzzzzzz").iter().all(|report| report.t >= future), "times are the hub's");
}

#[test]
fn an_order_that_comes_after_its_cancel_is_not_begun_by_this_daemon_nor_the_next() {
    let hub = StubHub::start();
    let mut device = device(&hub);
    let file = device.path("begun");
    cancel(&hub, RUN);
    let end = end(&hub, RUN);
    assert_eq!((end.outcome, end.code.as_deref()), (RunOutcome::Lost, Some("unknown_run")));
    start(&hub, RUN, &shell(&format!("echo now >> {}", file.display())));
    device.kill();
    let births = hub.births().len();
    device.start();
    wait_for("the next birth", || (hub.births().len() > births).then_some(()));
    start(&hub, RUN, &shell(&format!("echo later >> {}", file.display())));
    // Orders are taken one after the other.
    start(&hub, "rbbbbbbbbbbbbbbb", &shell("true"));
    self::end(&hub, "rbbbbbbbbbbbbbbb");
    assert!(!file.exists(), "{}", fs::read_to_string(file).unwrap());
    assert_eq!(reports(&hub, RUN).len(), 1);
}

#[test]
fn with_own_user_a_run_is_the_daemons_user_and_has_no_power() {
    let hub = StubHub::start();
    let mut device = Device::new("");
    device.policy("");
    assert!(device.musterd(&["enrol", &hub.url(), &hub.token()]).status.success());
    device.without_privileges();
    device.start();
    wait_for("its birth", || hub.births().pop());
    start(&hub, RUN, &shell("id -u; grep -E 'Cap(Eff|Prm)' /proc/self/status"));
    let end = end(&hub, RUN);
    assert_eq!((end.outcome, end.exit_code), (RunOutcome::Done, Some(0)), "{end:?}");
    let out = text(&hub, RUN, RunStream::Stdout);
    assert_ne!(out.lines().next(), Some("0"), "it ran as root");
    assert_eq!(out.matches("0000000000000000").count(), 2, "{out}");
}

#[test]
fn own_user_true_does_not_mean_root() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let hub = StubHub::start();
    let device = device(&hub);
    fs::write(device.path("policy.toml"), "own_user = true\n").unwrap();
    start(&hub, RUN, &shell("true"));
    let end = end(&hub, RUN);
    assert_eq!((end.outcome, end.code.as_deref()), (RunOutcome::Refused, Some("policy_root")));
    assert!(end.message.unwrap().contains("own_user = \"root\""));
}

#[test]
fn what_cannot_be_started_says_why() {
    let hub = StubHub::start();
    let _device = device(&hub);
    start(&hub, RUN, &order(&json!({ "argv": ["no-such-program", "x"] })));
    let first = end(&hub, RUN);
    assert_eq!((first.outcome, first.code.as_deref()), (RunOutcome::Failed, Some("not_found")));
    assert!(first.message.unwrap().contains("\"no-such-program\""));
    start(&hub, "rbbbbbbbbbbbbbbb", &with(shell("true"), &json!({ "cwd": "/no/such/folder" })));
    let second = end(&hub, "rbbbbbbbbbbbbbbb");
    assert_eq!((second.outcome, second.code.as_deref()), (RunOutcome::Failed, Some("no_directory")));
    assert!(second.message.unwrap().contains("/no/such/folder"));
    start(&hub, "rccccccccccccccc", &order(&json!({ "argv": ["/etc/passwd"] })));
    assert_eq!(end(&hub, "rccccccccccccccc").code.as_deref(), Some("denied"));
}

/// A command whose processes leave it in every way, and take no SIGTERM.
const RUNAWAYS: &str = "trap '' TERM\n\
    setsid sh -c 'trap \"\" TERM; echo session=$$; (sh -c \"trap \\\"\\\" TERM; echo orphan=\\$\\$; sleep 1000; sleep 1000\" &) ; sleep 1000; sleep 1000' &\n\
    (setsid sh -c 'trap \"\" TERM; echo double=$$; sleep 1000; sleep 1000' &)\n\
    echo main=$$\n\
    sleep 1000; sleep 1000\n";

fn runaways(hub: &StubHub, run: &str) -> Vec<u64> {
    ["session", "orphan", "double", "main"]
        .into_iter()
        .map(|name| pid(&waits_for_output(hub, run, &format!("{name}=")), name))
        .inspect(|pid| assert!(lives(*pid)))
        .collect()
}

#[test]
fn a_cancel_leaves_no_process_behind() {
    let hub = StubHub::start();
    let device = device(&hub);
    start(&hub, RUN, &shell(RUNAWAYS));
    let pids = runaways(&hub, RUN);
    assert_eq!(device.status()["runs"][0]["run"], RUN);
    let asked = Instant::now();
    cancel(&hub, RUN);
    cancel(&hub, RUN);
    let end = end(&hub, RUN);
    assert_eq!((end.outcome, end.message.as_deref(), end.signal.as_deref()), (RunOutcome::Cancelled, Some("enough"), Some("KILL")));
    assert!(asked.elapsed() >= Duration::from_secs(4), "SIGTERM comes first: {:?}", asked.elapsed());
    assert!(pids.iter().all(|pid| !lives(*pid)), "{pids:?}");
    is_put_away(&device, RUN);
}

#[test]
fn the_time_limit_leaves_no_process_behind() {
    let hub = StubHub::start();
    let _device = device(&hub);
    start(&hub, RUN, &with(shell(RUNAWAYS), &json!({ "timeout_s": 2 })));
    let pids = runaways(&hub, RUN);
    let end = end(&hub, RUN);
    assert_eq!(end.outcome, RunOutcome::TimedOut);
    assert!(end.message.unwrap().contains("2 s"));
    assert!(end.used.wall_ms >= 2000 && pids.iter().all(|pid| !lives(*pid)), "{pids:?}");
}

#[test]
fn what_a_command_leaves_behind_is_ended_and_told() {
    let hub = StubHub::start();
    let _device = device(&hub);
    start(&hub, RUN, &shell("setsid sleep 1000 & echo left=$!; exit 0"));
    let end = end(&hub, RUN);
    assert_eq!((end.outcome, end.exit_code), (RunOutcome::Done, Some(0)));
    assert_eq!(end.message.as_deref(), Some("a process that it left behind was ended"));
    let left = pid(&text(&hub, RUN, RunStream::Stdout), "left");
    assert!(!lives(left));
}

/// The child of a process whose arguments hold a word.
fn child(process: u32, word: &str) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
    children
        .split_whitespace()
        .find(|child| {
            let arguments = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            arguments.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
        })?
        .parse()
        .ok()
}

#[test]
fn a_gigabyte_of_output_fills_nothing() {
    let hub = StubHub::start();
    let device = device(&hub);
    start(&hub, RUN, &shell("echo first; head -c 1000000000 /dev/zero | tr '\\0' x; echo; echo last"));
    let privileged = device.privileged(RUN);
    let collector = wait_for("the collector", || child(privileged, "collect"));
    let mut most = 0;
    let end = wait_for("the run's end", || {
        for process in [privileged, collector, device.pid()] {
            let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
            let high = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
            most = most.max(high.split_whitespace().next().unwrap().parse::<u64>().unwrap());
        }
        reports(&hub, RUN).into_iter().find_map(|report| match report.kind {
            RunReportKind::End(end) => Some(end),
            _ => None,
        })
    });
    assert!(most > 1000 && most < 40_000, "{most} kB at most in one process");
    let pieces = output(&hub, RUN);
    let kept: u64 = pieces.iter().map(|piece| piece.bytes.len() as u64).sum();
    assert_eq!((end.stdout, end.dropped), (1_000_000_012, 1_000_000_012 - kept));
    assert!(kept <= 1_048_576 && kept > 1_000_000, "{kept}");
    assert!(pieces.first().unwrap().bytes.starts_with(b"first\n") && pieces.last().unwrap().bytes.ends_with(b"last\n"));
    let gaps = pieces.windows(2).filter(|pair| pair[0].at + pair[0].bytes.len() as u64 != pair[1].at).count();
    assert_eq!(gaps, 1, "one cut, in the middle");
    let live = reports(&hub, RUN).iter().filter(|report| matches!(report.kind, RunReportKind::Output(_))).count();
    assert!(live < 60, "{live} pieces");
    is_put_away(&device, RUN);
}

#[test]
fn a_run_goes_on_without_the_daemon_and_is_found_again() {
    let hub = StubHub::start();
    let mut device = device(&hub);
    let go = device.path("go");
    start(&hub, RUN, &shell(&format!("echo one; while [ ! -e {} ]; do sleep 0.05; done; echo two; exit 4", go.display())));
    waits_for_output(&hub, RUN, "one\n");
    let privileged = device.privileged(RUN);
    device.kill();
    assert!(lives(privileged.into()), "it goes on after SIGKILL of the daemon");
    device.start();
    wait_for("the daemon's memory of it", || (device.status()["runs"][0]["run"] == RUN).then_some(()));
    let (took, well) = device.stop();
    assert!(well && took < Duration::from_secs(5), "{took:?}");
    assert!(lives(privileged.into()), "it goes on after SIGTERM of the daemon");
    fs::write(go, "").unwrap();
    wait_for("the end of its process", || (!lives(privileged.into())).then_some(()));
    device.start();
    let end = end(&hub, RUN);
    assert_eq!((end.outcome, end.exit_code), (RunOutcome::Done, Some(4)));
    assert_eq!(text(&hub, RUN, RunStream::Stdout), "one\ntwo\n");
    is_put_away(&device, RUN);
}

#[test]
fn a_run_whose_privileged_part_is_killed_is_lost() {
    const CUT: &str = "rmmmmmmmmmmmmmmm";
    let hub = StubHub::start();
    let mut device = device(&hub);
    start(&hub, RUN, &shell("echo main=$$; exec sleep 1000"));
    let main = pid(&waits_for_output(&hub, RUN, "main="), "main");
    signal("KILL", device.privileged(RUN));
    let end = end(&hub, RUN);
    assert_eq!((end.outcome, end.code.as_deref()), (RunOutcome::Lost, Some("lost")));
    is_put_away(&device, RUN);
    // With the daemon's own user nobody is there to end what is left (`musterd sessiond` and systemd do).
    signal("KILL", u32::try_from(main).unwrap());

    // The same while no daemon is there, as in a power cut.
    start(&hub, CUT, &shell("echo main=$$; exec sleep 1000"));
    let main = pid(&waits_for_output(&hub, CUT, "main="), "main");
    let privileged = device.privileged(CUT);
    device.kill();
    signal("KILL", privileged);
    wait_for("its end", || (!lives(privileged.into())).then_some(()));
    signal("KILL", u32::try_from(main).unwrap());
    device.start();
    assert_eq!(self::end(&hub, CUT).outcome, RunOutcome::Lost);
    is_put_away(&device, CUT);
}

#[test]
fn what_a_killed_run_leaves_behind_is_ended_by_the_service_for_sessions() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let hub = StubHub::start();
    let device = Device::with_service(&hub, "[users]\ndefault = \"root\"\n");
    start(&hub, RUN, &shell(RUNAWAYS));
    let pids = runaways(&hub, RUN);
    signal("KILL", device.privileged(RUN));
    let end = end(&hub, RUN);
    assert_eq!((end.outcome, end.code.as_deref()), (RunOutcome::Lost, Some("lost")));
    wait_for("the end of all its processes", || pids.iter().all(|pid| !lives(*pid)).then_some(()));
    is_put_away(&device, RUN);
}

#[test]
fn killed_at_any_moment_each_run_ends_once_and_runs_once() {
    let hub = StubHub::start();
    let mut device = device(&hub);
    let mut rounds = 0;
    for (index, micros) in [0u64, 500, 1000, 2000, 3000, 5000, 8000, 12_000, 20_000, 40_000, 80_000].into_iter().enumerate() {
        let run = format!("rz{}", char::from(b'a' + u8::try_from(index).unwrap()).to_string().repeat(14));
        let file = device.path(&run);
        start(&hub, &run, &shell(&format!("echo once >> {}; echo done", file.display())));
        let until = Instant::now() + Duration::from_micros(micros);
        wait_for("the moment", || (Instant::now() >= until).then_some(()));
        device.kill();
        device.start_supervised(&hub);
        // An order that the daemon had not written down is lost with it: then MQTT brings it again, or it expires at the hub.
        start(&hub, &run, &shell(&format!("echo once >> {}; echo done", file.display())));
        let end = end(&hub, &run);
        assert_eq!((end.outcome, end.exit_code), (RunOutcome::Done, Some(0)), "killed after {micros} us");
        is_put_away(&device, &run);
        assert_eq!(fs::read_to_string(file).unwrap(), "once\n", "killed after {micros} us");
        rounds += 1;
    }
    assert_eq!(rounds, 11);
}

#[test]
fn reports_wait_for_their_acknowledgement_and_come_again() {
    let hub = StubHub::start();
    let mut device = device(&hub);
    hub.behave(|manner| manner.acknowledges = false);
    start(&hub, RUN, &shell("echo here"));
    wait_for("the first report", || hub.published(&format!("run/{RUN}")).pop());
    wait_for("the end in the folder", || {
        let text = fs::read_to_string(device.path(&format!("state/runs/{RUN}/reports"))).unwrap_or_default();
        text.contains("\"kind\":\"end\"").then_some(())
    });
    assert_eq!(reports(&hub, RUN).len(), 1, "one at a time");
    device.kill();
    hub.behave(|manner| manner.acknowledges = true);
    device.start();
    assert_eq!(end(&hub, RUN).exit_code, Some(0));
    assert_eq!(text(&hub, RUN, RunStream::Stdout), "here\n");
    assert!(hub.published(&format!("run/{RUN}")).len() > reports(&hub, RUN).len(), "the first one came again");
}

#[test]
fn an_order_that_lay_in_a_sleeping_device_is_not_obeyed() {
    let hub = StubHub::start();
    let device = device(&hub);
    let (file, births) = (device.path("late"), hub.births().len());
    signal("STOP", device.pid());
    start(&hub, RUN, &shell(&format!("touch {}", file.display())));
    let slept = Instant::now();
    wait_for("a long sleep", || (slept.elapsed() > Duration::from_secs(14)).then_some(()));
    signal("CONT", device.pid());
    wait_for("the next birth", || (hub.births().len() > births).then_some(()));
    assert!(device.log().contains("slept"), "{}", device.log());
    // Acknowledged was nothing, so a broker that still has the order brings it again, with the time that is left.
    start(&hub, "rbbbbbbbbbbbbbbb", &shell("true"));
    assert_eq!(end(&hub, "rbbbbbbbbbbbbbbb").exit_code, Some(0));
    assert!(reports(&hub, RUN).is_empty() && !file.exists());
}

#[test]
fn a_cancel_for_what_nobody_knows_is_answered() {
    let hub = StubHub::start();
    let _device = device(&hub);
    cancel(&hub, RUN);
    let end = end(&hub, RUN);
    assert_eq!((end.outcome, end.code.as_deref()), (RunOutcome::Lost, Some("unknown_run")));
}

#[test]
fn a_disk_that_takes_nothing_refuses_the_run() {
    let hub = StubHub::start();
    let device = device(&hub);
    // A file where the folder of runs should be.
    fs::write(device.path("state/runs"), "").unwrap();
    start(&hub, RUN, &shell("true"));
    let end = end(&hub, RUN);
    assert_eq!((end.outcome, end.code.as_deref()), (RunOutcome::Refused, Some("disk")));
}

#[test]
fn revoking_ends_the_runs() {
    let hub = StubHub::start();
    let device = device(&hub);
    start(&hub, RUN, &shell("echo main=$$; exec sleep 1000"));
    let main = pid(&waits_for_output(&hub, RUN, "main="), "main");
    hub.send("admission", &json!({"do": "revoked", "reason": "it was sold"}));
    wait_for("the command's end", || (!lives(main)).then_some(()));
    drop(device);
}
