//! Denial: locks, limits, priorities, signals, and processes without end.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ground::{EVE, Ground, PI, ROBOT, processes_of};
use crate::lab::{SOON, rows};
use crate::people::Person;
use crate::process::Process;
use crate::table::Table;
use crate::wait::eventually;

pub fn play(ground: &mut Ground<'_>, table: &mut Table) {
    let lab = ground.lab;
    let (owner, eve) = (ground.owner.clone(), ground.eve.clone());
    signals_and_limits(ground, table, &owner, &eve);
    runs(ground, table, &owner);

    // A bomb of processes that are made faster than they are counted; and they go with the session.
    let bomb = "echo here; i=0; while [ $i -lt 150 ]; do (trap '' HUP TERM; while :; do sleep 1; done) & i=$((i+1)); done; exec sleep 600";
    let shell = eve.shell(lab, "bomb", bomb);
    eventually("the bomb went off", SOON, || (processes_of(EVE).len() > 100).then_some(()));
    let count = processes_of(EVE).len();
    Person::leaves(lab, shell);
    let gone = ground.is_empty(Duration::from_secs(15));
    table.row(2, "hundreds of processes outlast the session", EVE, format!("{count} processes, then {}", processes_of(EVE).len()), gone);
    let (code, said) = owner.does(lab, "echo still served");
    table.row(2, "the device serves nobody afterwards", EVE, said, code == 0);
}

fn signals_and_limits(ground: &mut Ground<'_>, table: &mut Table, owner: &Person, eve: &Person) {
    let lab = ground.lab;
    let _other = owner.shell(lab, "target", "echo here; exec sleep 600");
    let parts = ground.parts();
    let daemon = ground.daemon().pid().as_raw_nonzero().get();
    let shell = processes_of(PI)[0].as_raw_nonzero().get();
    let service = ground.service().pid().as_raw_nonzero().get();
    let score = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim().parse::<i32>().unwrap();
    let scores = [daemon, parts.privileged].map(score);
    let state = ground.at("state");
    let (dir, run, private) = (state.display(), ground.at("run"), ground.at("priv"));
    let mut attacks = vec![
        ("flock on the state directory", format!("flock -n {dir} true")),
        ("flock on the key", format!("flock -n {dir}/key.pem true")),
        ("chmod 000 of the key", format!("chmod 000 {dir}/key.pem")),
        ("fill the daemon's runtime directory", format!("echo x > {}/x", run.display())),
        ("fill the privileged part's directory", format!("echo x > {}/x", private.display())),
        ("fill the directory of living sessions", format!("echo x > {}/live/x.sock", private.display())),
        ("remove the daemon's sockets", format!("rm -f {0}/control.sock {0}/metrics.sock", run.display())),
        ("lower one's own OOM score", format!("echo {} > /proc/self/oom_score_adj", if may_pin_scores() { 499 } else { -1 })),
        ("raise one's own priority", "renice -n -5 -p $$".to_owned()),
        ("real-time priority", "chrt -f 50 true".to_owned()),
        (
            "kill the session's own privileged part",
            "p=$$; while [ $(stat -c %u /proc/$p) != 0 ]; do p=$(awk '/^PPid/ {print $2}' /proc/$p/status); done; kill -KILL $p".to_owned(),
        ),
    ];
    let named: [(&str, i32); 5] = [
        ("the daemon", daemon),
        ("the privileged part", parts.privileged),
        ("the network side", parts.side),
        ("the service", service),
        ("another visitor's shell", shell),
    ];
    let mut owned = Vec::new();
    for (part, pid) in named {
        for (what, line) in [
            ("kill", format!("kill -KILL {pid}")),
            ("stop", format!("kill -STOP {pid}")),
            ("prlimit", format!("prlimit --pid {pid} --nofile=3:3")),
            ("raise its OOM score", format!("echo 1000 > /proc/{pid}/oom_score_adj")),
            ("renice", format!("renice -n 19 -p {pid}")),
        ] {
            owned.push((format!("{part}: {what}"), line));
        }
    }
    attacks.extend(owned.iter().map(|(what, line)| (what.as_str(), line.clone())));
    eve.tries(ground, table, 2, &attacks);
    let own = eve.does(lab, "cat /proc/self/oom_score_adj");
    let held = [daemon, parts.privileged].map(score) == scores && own.1.trim() == "500";
    table.row(2, "OOM scores afterwards", EVE, format!("daemon {}, visitor {}", scores[0], own.1.trim()), held);
    assert_eq!(ground.parts().privileged, parts.privileged, "the other session still lives");

    ground.daemon().stop();
    ground.start_daemon();
    let back = eventually("the device is back", SOON, || lab.device_row(ROBOT).filter(|row| row["presence"] == "online"));
    table.row(2, "the daemon cannot start again", EVE, back["presence"].to_string(), true);
    ground.clear();
}

/// What a run may not defeat: its time, its cancel, and the number of runs.
fn runs(ground: &mut Ground<'_>, table: &mut Table, owner: &Person) {
    let lab = ground.lab;
    let stop = "kill -STOP $PPID; p=$PPID; while [ $p -gt 1 ]; do p=$(awk '/PPid/{print $2}' /proc/$p/status); kill -STOP $p; done; \
                trap '' TERM HUP; echo stopped; while :; do sleep 1; done";
    let began = Instant::now();
    let output = owner.muster(lab, &["run", ROBOT, "--timeout", "1s", "--", stop]).output().unwrap();
    let (code, took) = (output.status.code(), began.elapsed());
    let held = code == Some(124) && took < Duration::from_secs(60) && ground.is_empty(Duration::from_secs(10));
    table.row(2, "kill -STOP $PPID against a run's time", PI, format!("exit code {code:?} after {} s", took.as_secs()), held);

    let mut run = Process::start("stopping", lab.folder(), owner.muster(lab, &["run", ROBOT, "--", stop]));
    run.says("stopped", SOON);
    let id = newest(ground)["id"].as_str().unwrap().to_owned();
    lab.run(&["runs", "cancel", &id]);
    let ended = run.ended(SOON).code();
    let held = newest(ground)["state"] == "cancelled" && ground.is_empty(Duration::from_secs(10));
    table.row(2, "kill -STOP $PPID against a cancel", PI, format!("exit code {ended:?}, {}", newest(ground)["state"]), held);
}

/// Whether root may set a floor here below which nobody else lowers a score (CAP_SYS_RESOURCE, 24); containers often take it away.
fn may_pin_scores() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & 1 << 24 != 0
}

fn newest(ground: &Ground<'_>) -> Value {
    rows(ground.lab.json(&["runs"])).into_iter().next().unwrap()
}
