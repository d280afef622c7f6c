//! Escape: what a visitor starts in order to outlive the session, and all the ways in which a session ends.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::ground::{EVE, GUEST, Ground, PI, ROBOT, command_line, processes_of};
use crate::lab::{SOON, ok};
use crate::people::Person;
use crate::process::Process;
use crate::table::Table;
use crate::wait::{eventually, throughout};

/// Ways to outlive a session. Each shows itself by the number in its command line.
const WAYS: [(&str, &str); 14] = [
    ("setsid", "setsid sleep 88001 &"),
    ("nohup", "nohup sleep 88002 > /dev/null 2>&1 &"),
    ("a double fork", "(setsid sh -c '(sleep 88003 &) &' &)"),
    ("ignoring HUP, TERM and INT", "perl -e '$0 = \"88004\"; $SIG{$_} = \"IGNORE\" for qw(HUP TERM INT QUIT PIPE); sleep 1 while 1' &"),
    ("stopped", "sh -c 'exec perl -e \"\\$0 = q(88005); kill STOP, \\$\\$; sleep 999\"' &"),
    (
        "a daemon with closed descriptors",
        "setsid perl -e '$0 = \"88006\"; close $_ for *STDIN, *STDOUT, *STDERR; chdir \"/\"; fork and exit; sleep 999' &",
    ),
    ("a reaper of its own (PR_SET_CHILD_SUBREAPER)", "perl -e '$0 = \"88007\"; syscall(SYS, 36, 1, 0, 0, 0); fork; fork; sleep 999' &"),
    (
        "a user and process namespace of its own",
        "unshare --user --map-root-user --pid --fork --mount-proc sh -c 'setsid sleep 88008' 2> /dev/null &",
    ),
    (
        "always a new process (fork and exit)",
        "setsid perl -e '$0 = \"88009\"; $SIG{HUP} = $SIG{TERM} = \"IGNORE\"; while (1) { fork and exit; select undef, undef, undef, 0.002 }' &",
    ),
    (
        "two that watch over each other",
        "setsid perl -e '$0 = \"88010\"; $SIG{HUP} = $SIG{TERM} = \"IGNORE\"; while (1) { my $p = fork; if ($p) { waitpid $p, 0 } \
         else { my $q = getppid; select undef, undef, undef, 0.01 while getppid == $q } }' &",
    ),
    ("a terminal of its own (script)", "setsid script -qfc 'sleep 88011' /dev/null < /dev/null > /dev/null 2>&1 &"),
    (
        "another control group",
        "setsid sh -c 'for f in $(find /sys/fs/cgroup -maxdepth 3 -name cgroup.procs); do echo $$ > $f; done 2> /dev/null; sleep 88012' &",
    ),
    ("a low OOM score and a name of the kernel's", "setsid perl -e '$0 = \"[kworker/88013]\"; sleep 999' &"),
    ("the name of our own program", "setsid perl -e '$0 = \"musterd-session net 88014\"; sleep 999' &"),
];

fn all_ways() -> String {
    let prctl = if cfg!(target_arch = "x86_64") { "157" } else { "167" };
    let mut line: String = WAYS.iter().map(|(_, way)| format!("{}\n", way.replace("syscall(SYS", &format!("syscall({prctl}")))).collect();
    line.push_str("echo here; exec sleep 88000");
    line
}

pub fn play(ground: &mut Ground<'_>, table: &mut Table) {
    ways(ground, table, "");
    ends(ground, table);
    killed_parts(ground, table);
    runs(ground, table);
    // The same where no control groups are to be had.
    ground.stop_service();
    ground.start_service_without_groups();
    ways(ground, table, " without control groups");
    ground.stop_service();
    ground.start_service();
    revoked(ground, table);
}

/// Waits until the ways that work here have got going.
fn under_way(user: &str) -> Vec<usize> {
    let of = || -> Vec<usize> {
        let lines: Vec<String> = processes_of(user).into_iter().map(command_line).collect();
        (1..=WAYS.len()).filter(|number| lines.iter().any(|line| line.contains(&format!("{}", 88_000 + number)))).collect()
    };
    // Where user namespaces are shut, that one does not work.
    eventually("the ways out are under way", SOON, || (of().len() >= WAYS.len() - 1).then(of))
}

fn ways(ground: &mut Ground<'_>, table: &mut Table, where_: &str) {
    let eve = ground.eve.clone();
    let shell = eve.shell(ground.lab, "ways", &all_ways());
    under_way(EVE);
    Person::leaves(ground.lab, shell);
    let gone = ground.is_empty(Duration::from_secs(15));
    let left: Vec<String> = processes_of(EVE).into_iter().map(command_line).collect();
    for (number, (what, _)) in WAYS.iter().enumerate() {
        let lives = left.iter().any(|line| line.contains(&format!("{}", 88_001 + number)));
        table.row(5, format!("{what}{where_}"), EVE, if lives { "lives on" } else { "ended with the session" }, !lives);
    }
    table.row(5, format!("anything else{where_}"), EVE, format!("{} processes left", left.len()), gone);
    throw_out(EVE);
}

/// So that what got away once is counted once.
fn throw_out(user: &str) {
    for pid in processes_of(user) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn ends(ground: &mut Ground<'_>, table: &mut Table) {
    let lab = ground.lab;
    let eve = ground.eve.clone();
    let hard = "(setsid sh -c 'trap \"\" HUP TERM; while :; do sleep 1; done' &) ; echo here; exec sleep 600";
    let mut round = |ground: &mut Ground<'_>, what: &str, end: &mut dyn FnMut(&mut Ground<'_>, Process) -> Option<Process>| {
        let shell = eve.shell(lab, "ends", hard);
        eventually("it has set itself apart", SOON, || (processes_of(EVE).len() >= 2).then_some(()));
        let began = Instant::now();
        let shell = end(ground, shell);
        let gone = ground.is_empty(Duration::from_secs(10));
        table.row(
            5,
            format!("past the end by {what}"),
            EVE,
            format!("{} processes after {} ms", processes_of(EVE).len(), began.elapsed().as_millis()),
            gone,
        );
        throw_out(EVE);
        drop(shell);
    };
    round(ground, "`musterd end`", &mut |ground, shell| {
        ok(&mut ground.musterd(&["end", "--all"]));
        Some(shell)
    });
    round(ground, "the hub (session ended there)", &mut |ground, shell| {
        let sessions = crate::lab::rows(ground.lab.json(&["sessions"]));
        let open = sessions.iter().find(|session| session["state"] == "open").unwrap();
        let answer = ground.lab.api("DELETE", &format!("/v1/orgs/acme/sessions/{}", open["id"].as_str().unwrap()), None);
        assert!(answer.status < 300, "{answer:?}");
        Some(shell)
    });
    round(ground, "`musterd lock`", &mut |ground, shell| {
        ok(&mut ground.musterd(&["lock"]));
        Some(shell)
    });
    ok(&mut ground.musterd(&["unlock"]));
    round(ground, "[limits] sessions = 0, then leaving", &mut |ground, shell| {
        ground.policy(&format!("{}[limits]\nsessions = 0\n", ground.usual_policy()));
        Person::leaves(lab, shell);
        None
    });
    ground.policy(&format!("{}[limits]\ntotal_s = 1\n", ground.usual_policy()));
    round(ground, "[limits] total_s", &mut |_, shell| Some(shell));
    ground.policy(&ground.usual_policy());
    round(ground, "leaving while the daemon is stopped", &mut |ground, shell| {
        ground.daemon().stop();
        Person::leaves(lab, shell);
        None
    });
    ground.start_daemon();
    lab.online(ROBOT);
    round(ground, "leaving while the service is stopped", &mut |ground, shell| {
        ground.stop_service();
        Person::leaves(lab, shell);
        None
    });
    ground.start_service();
    // The owner's word on it: what lingers does so until the owner ends it.
    ground.policy(&format!("linger = true\n{}", ground.usual_policy()));
    let shell = eve.shell(lab, "lingers", hard);
    eventually("it has set itself apart", SOON, || (processes_of(EVE).len() >= 2).then_some(()));
    Person::leaves(lab, shell);
    throughout("what may linger does", Duration::from_secs(2), || !processes_of(EVE).is_empty());
    ok(&mut ground.musterd(&["end", "--all"]));
    let gone = ground.is_empty(Duration::from_secs(10));
    table.row(5, "linger past `musterd end`", EVE, format!("{} processes", processes_of(EVE).len()), gone);
    ground.policy(&ground.usual_policy());
}

/// The parts die by SIGKILL, as by the kernel when memory runs out.
fn killed_parts(ground: &mut Ground<'_>, table: &mut Table) {
    let lab = ground.lab;
    let guest = ground.guest.clone();
    for (what, pick) in [
        ("the privileged part is killed", (|parts: crate::ground::Parts| parts.privileged) as fn(crate::ground::Parts) -> i32),
        ("the network side is killed", |parts| parts.side),
    ] {
        let mut shell = guest.shell(lab, "killed", &all_ways());
        under_way(GUEST);
        let parts = ground.parts();
        kill_process(Pid::from_raw(pick(parts)).unwrap(), Signal::KILL).unwrap();
        let gone = ground.is_empty_without(&[parts.privileged, parts.side], Duration::from_secs(15));
        let left = processes_of(GUEST).len();
        table.row(5, format!("{what}: what a visitor started lives on"), GUEST, format!("{left} processes"), gone);
        throw_out(GUEST);
        shell.kill();
    }
}

fn runs(ground: &mut Ground<'_>, table: &mut Table) {
    let lab = ground.lab;
    let owner: Person = ground.owner.clone();
    let mut run = Process::start("run-ways", lab.folder(), owner.muster(lab, &["run", ROBOT, "--timeout", "4s", "--", &all_ways()]));
    let code = run.ended(Duration::from_secs(40)).code();
    let gone = ground.is_empty(Duration::from_secs(10));
    table.row(
        5,
        "all ways at once from a run, past its time",
        PI,
        format!("exit code {code:?}, {} processes", processes_of(PI).len()),
        gone && code == Some(124),
    );
    throw_out(PI);

    for (what, pick) in [
        ("the collector", (|parts: crate::ground::Parts| parts.side) as fn(crate::ground::Parts) -> i32),
        ("the privileged part", |parts| parts.privileged),
    ] {
        let mut run = Process::start("run-killed", lab.folder(), owner.muster(lab, &["run", ROBOT, "--", &all_ways()]));
        under_way(PI);
        kill_process(Pid::from_raw(pick(ground.parts())).unwrap(), Signal::KILL).unwrap();
        let gone = ground.is_empty(Duration::from_secs(15));
        let code = run.ended(Duration::from_secs(40)).code();
        table.row(
            5,
            format!("{what} of a run is killed: its command lives on"),
            PI,
            format!("exit code {code:?}, {} processes", processes_of(PI).len()),
            gone,
        );
        throw_out(PI);
    }
}

/// The last scene: the device is the organization's no longer.
fn revoked(ground: &mut Ground<'_>, table: &mut Table) {
    let lab = ground.lab;
    let eve = ground.eve.clone();
    let mut shell = eve.shell(lab, "revoked", &all_ways());
    under_way(EVE);
    lab.run(&["device", "revoke", ROBOT, "--yes", "--reason", "sold"]);
    let gone = ground.is_empty(Duration::from_secs(15));
    table.row(5, "past the end by revocation at the hub", EVE, format!("{} processes", processes_of(EVE).len()), gone);
    shell.kill();
}
