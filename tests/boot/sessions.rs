//! Sessions and runs between real users: a real login, a control group for each, and what becomes of it all at the end.

use std::time::Duration;

use crate::lab::SOON;
use crate::process::Process;
use crate::robot::{POLICY, ROBOT, Robot, Visit};
use crate::steps::Steps;
use crate::wait::eventually;

/// A shell that counts until it is told to stop, so that a gap would be seen.
const COUNT: &str = "echo READY; i=1; while [ $i -le 120 ]; do echo tick $i; i=$((i+1)); sleep 0.1; done";

/// What a person expects of a shell and of a run.
pub fn steps(steps: &mut Steps, robot: &mut Robot<'_>) {
    steps.step("`muster shell` is pi, with pi's groups and home", || {
        let text = robot.visited("id; echo home=$HOME shell=$SHELL user=$USER; pwd; touch ~/written && stat -c %U ~/written; umask");
        for part in ["(pi)", "(sudo)", "(dialout)", "home=/home/pi", "shell=/bin/bash", "user=pi", "\n/home/pi\npi\n0022"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        text
    });
    steps.step("`sudo -n id` in it is root", || {
        let text = robot.visited("sudo -n id");
        assert!(text.starts_with("uid=0(root)"), "{text}");
        text
    });
    steps.step("`muster shell` without a command is a login shell", || {
        robot.shell().ok("echo 'export FROM_PROFILE=yes' >> /home/pi/.profile");
        let mut window = robot.window("pi", "echo profile=$FROM_PROFILE; tty; stty size; sudo -n true && echo sudo-$((40+2)); exit 7");
        let status = window.ended(SOON);
        let text = window.text();
        for part in ["profile=yes", "\n/dev/pts/", "\n24 80", "sudo-42"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(status.code(), Some(7), "{text}");
        "profile read, a terminal, sudo works, its exit code comes back".to_owned()
    });
    steps.step("`muster run` is pi, and its exit code comes back", || {
        let Visit { code, text, error } = robot.muster(&["run", ROBOT, "--", "id -un; pwd; echo to-error >&2; exit 3"]);
        assert_eq!((code, text.as_str(), error.contains("to-error")), (3, "pi\n/home/pi", true), "{error}");
        text
    });
    steps.step("each session and each run has a control group of its own", || {
        let one = robot.stay("group-1", "pi", "cat /proc/self/cgroup; echo READY; sleep 60");
        let two = robot.stay("group-2", "pi", "cat /proc/self/cgroup; echo READY; sleep 60");
        let of_run = robot.muster(&["run", ROBOT, "--", "cat /proc/self/cgroup"]).text;
        let group = |text: &str| text.lines().find(|line| line.contains("::/")).map(|line| line.trim().to_owned()).unwrap_or_default();
        let groups = [
            group(&one.log()),
            group(&two.log()),
            group(&of_run),
            robot.shell().ok("cat /proc/$(systemctl show -P MainPID musterd)/cgroup"),
        ];
        for (index, group) in groups.iter().enumerate() {
            assert!(index == 3 || (group.contains("musterd-session@") && group.ends_with("/visitor")), "{groups:?}");
            assert!(groups.iter().filter(|other| *other == group).count() == 1, "{groups:?}");
        }
        robot.end_sessions();
        groups.join("\n")
    });
    steps.step("the end of a session ends what `setsid` and `nohup` started", || {
        let text = robot.visited("setsid sleep 4001 & nohup sleep 4002 >/dev/null 2>&1 & (setsid sh -c 'trap \"\" TERM HUP; sleep 4003; sleep 4003' &); sleep 0.3; pgrep -c -f 'sleep 400[123]'");
        assert!(text.ends_with(|last: char| last.is_ascii_digit() && last != '0'), "{text}");
        let left = "! pgrep -a -f 'sleep 400[123]'";
        robot.shell().becomes("nothing is left of the session", Duration::from_secs(20), left);
        robot.end_sessions();
        "gone, and no unit left".to_owned()
    });
    steps.step("a stopped supervisor does not defeat a run's timeout", || {
        let visit = robot.muster(&[
            "run",
            ROBOT,
            "--timeout",
            "2s",
            "--",
            "kill -STOP $PPID; for p in $(pgrep -f musterd-session); do kill -STOP $p; done; sleep 4004",
        ]);
        assert_eq!(visit.code, 124, "{visit:?}");
        robot.shell().becomes("nothing is left of the run", Duration::from_secs(20), "! pgrep -a -f 'sleep 4004'");
        visit.error
    });
    for (step, how) in [
        ("a shell goes on over `systemctl restart musterd`", "systemctl restart musterd"),
        ("a shell goes on over SIGKILL of the daemon", "kill -KILL $(systemctl show -P MainPID musterd)"),
    ] {
        steps.step(step, || {
            let mut shell = Process::start("counting", robot.lab.folder(), robot.lab.muster(&["shell", ROBOT, "--", COUNT]));
            let before = ticks(&shell).len();
            eventually("the shell counts", SOON, || (ticks(&shell).len() > before + 3).then_some(()));
            robot.shell().ok(how);
            robot.shell().becomes("the daemon is back", Duration::from_secs(30), "systemctl is-active musterd");
            let status = shell.ended(Duration::from_secs(120));
            let ticks = ticks(&shell).split_off(before);
            assert_eq!(ticks, (1..=120).collect::<Vec<u32>>(), "each tick once, in order");
            assert!(status.success(), "{status}");
            robot.lab.online(ROBOT);
            format!("{} ticks, each once", ticks.len())
        });
    }
    steps.step("`muster session end` ends a shell and all of it at once", || {
        let mut shell = robot.stay("ended", "pi", "setsid sleep 4005 & echo READY; sleep 4005");
        let sessions = robot.end_sessions();
        let status = shell.ended(SOON);
        assert!(!status.success(), "{status}");
        robot.shell().becomes("nothing is left", Duration::from_secs(20), "! pgrep -a -f 'sleep 4005'");
        format!("{sessions} ended, the command line says {status}")
    });
    refusals(steps, robot);
}

fn ticks(shell: &Process) -> Vec<u32> {
    shell.log().lines().filter_map(|line| line.trim_end().strip_prefix("tick ")?.parse().ok()).collect()
}

/// A policy that is not root's alone, not there, or locked refuses everything, and says so.
fn refusals(steps: &mut Steps, robot: &mut Robot<'_>) {
    let cases = [
        ("a policy that others may write refuses everything", format!("chmod 666 {POLICY}"), format!("chmod 644 {POLICY}"), "writ"),
        ("a policy of another user refuses everything", format!("chown eve {POLICY}"), format!("chown root {POLICY}"), "root"),
        ("a policy that vanished refuses everything", format!("mv {POLICY} {POLICY}.away"), format!("mv {POLICY}.away {POLICY}"), "policy"),
        ("a locked device refuses everything", "touch /etc/musterd/locked".to_owned(), "rm /etc/musterd/locked".to_owned(), "lock"),
    ];
    for (step, spoil, mend, word) in cases {
        steps.step(step, || {
            robot.shell().ok(&spoil);
            let (shell, run) = (robot.visit("echo came in"), robot.muster(&["run", ROBOT, "--", "echo came in"]));
            robot.shell().ok(&mend);
            for visit in [&shell, &run] {
                assert!(visit.code != 0 && !visit.text.contains("came in") && visit.error.contains(word), "{visit:?}");
            }
            assert_eq!(robot.visited("echo came in"), "came in", "and lets people in again");
            shell.error
        });
    }
}
