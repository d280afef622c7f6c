//! Limits that the kernel enforces: tasks, memory, weights, the order in which it kills, and the processor time that is metered.

use std::time::Duration;

use crate::lab::rows;
use crate::robot::{ROBOT, Robot};
use crate::steps::Steps;

/// The policy of the following steps; the users who attack may be asked for.
pub const POLICY: &str = "[users]\ndefault = [\"pi\", \"eve\", \"guest\"]\n[run]\nat_once = 2\n\
    [limits]\ntasks = 64\nmemory = \"128M\"\ncpu_weight = 50\nio_weight = 50\noom_score = 600";

/// What the policy's bounds come to.
pub fn steps(steps: &mut Steps, robot: &mut Robot<'_>) {
    steps.first("a policy with limits is written, and is right", || {
        robot.policy(POLICY);
        robot.shell().ok("musterd check-config")
    });
    steps.step("the policy's bounds stand in the control group", || {
        let text = robot.visited(
            "group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup); cd $group; \
             for file in pids.max memory.max cpu.weight io.weight; do [ ! -e $file ] || echo $file $(cat $file); done; echo score $(cat /proc/self/oom_score_adj)",
        );
        for part in ["pids.max 64", "memory.max 134217728", "cpu.weight 50", "score 600"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        text
    });
    steps.step("the kernel takes a visitor's process first, the daemon last", || {
        let _open = robot.stay("scores", "pi", "echo READY; exec sleep 4010");
        let text = robot.shell().ok(
            "score() { cat /proc/$1/oom_score_adj; }; visitor=$(score $(pgrep -n -f 'sleep 4010')); daemon=$(score $(systemctl show -P MainPID musterd)); \
             part=$(score $(pgrep -o -f 'musterd-session serve')); echo visitor $visitor, privileged part $part, daemon $daemon; \
             [ $visitor -gt 0 ] && [ $part -lt 0 ] && [ $daemon -lt $part ]",
        );
        assert!(text.contains("visitor 600"), "{text}");
        robot.end_sessions();
        text
    });
    steps.step("a fork bomb stops at the policy's tasks", || {
        let forks = "perl -e 'my $n = 0; for (1..500) { my $pid = fork; last unless defined $pid; if (!$pid) { sleep 30; exit } $n++ } print \"forks=$n\\n\"'";
        let text = robot.visited(forks);
        let count: u32 = text.rsplit("forks=").next().and_then(|count| count.trim().parse().ok()).unwrap_or(0);
        assert!((30..64).contains(&count), "{text}");
        // And a real one: the rest of the machine does not feel it.
        let bomb = robot.stay("bomb", "pi", "echo READY; b() { b | b & }; b; sleep 20");
        let seen = robot.shell().ok("sleep 2; group=$(ls -d /sys/fs/cgroup/*.slice/*musterd*/musterd-session@*/visitor | head -n 1); echo $(cat $group/pids.current) of $(cat $group/pids.max) tasks; systemctl is-active musterd");
        robot.lab.online(ROBOT);
        drop(bomb);
        robot.end_sessions();
        format!("{count} forks; the bomb: {seen}")
    });
    steps.step("a memory hog is killed, its session and the daemon live", || {
        let before = robot.shell().ok("systemctl show -P MainPID musterd");
        let text = robot.visited("perl -e 'my $x = \"a\" x (400*1024*1024); print \"all\", 40+2'; echo code=$?; echo the session lives");
        assert!(text.contains("code=137") && text.contains("the session lives") && !text.contains("all42"), "{text}");
        let run = robot.muster(&["run", ROBOT, "--", "perl -e 'my $x = \"a\" x (400*1024*1024)'; echo code=$?"]);
        assert!(run.text.contains("code=137") || run.code == 137, "{run:?}");
        assert_eq!(robot.shell().ok("systemctl show -P MainPID musterd"), before, "the daemon was not started afresh");
        text
    });
    steps.step("a run's processor time is its control group's, also of what nobody waited for", || {
        robot.lab.run(&[
            "run",
            ROBOT,
            "--",
            "(setsid perl -e '1 while (times)[0] < 1.5' &); while pgrep -u pi perl >/dev/null; do sleep 0.2; done",
        ]);
        let run = robot.newest_run();
        let used = run["cpu_us"].as_u64().unwrap_or_default();
        assert!((1_400_000..20_000_000).contains(&used), "{run:#}");
        format!("{used} microseconds, of which 1.5 s in a process of its own session")
    });
    steps.step("six commands at `at_once = 2` are two", || {
        let line = "kill -STOP $PPID 2>/dev/null; sleep 8";
        let started: Vec<_> = (0..6).map(|_| robot.muster(&["run", ROBOT, "--detach", "--", line])).collect();
        assert!(started.iter().all(|visit| visit.code == 0), "{started:?}");
        let over = |state: &serde_json::Value| !["waiting", "running"].contains(&state.as_str().unwrap_or_default());
        let states = crate::wait::eventually("all runs are over", Duration::from_secs(90), || {
            let states: Vec<_> = rows(robot.lab.json(&["runs"])).into_iter().take(6).map(|run| run["state"].clone()).collect();
            states.iter().all(over).then_some(states)
        });
        let refused = states.iter().filter(|state| *state == "refused").count();
        assert_eq!(refused, 4, "{states:?}");
        format!("{refused} refused")
    });
}
