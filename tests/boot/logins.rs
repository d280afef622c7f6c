//! What the owner may choose of a login: through the system's PAM stack, processes that linger, a person who must approve.

use std::time::Duration;

use crate::lab::SOON;
use crate::limits::POLICY;
use crate::process::Process;
use crate::robot::{ROBOT, Robot};
use crate::steps::Steps;

/// All three, one after the other.
pub fn steps(steps: &mut Steps, robot: &mut Robot<'_>) {
    steps.step("`pam = \"login\"` is a session of logind, and ends with ours", || {
        robot.policy(&format!("pam = \"login\"\n{POLICY}"));
        let text = robot.visited("sed -n 's/^0:://p' /proc/self/cgroup; echo id=$XDG_SESSION_ID; id -un; pwd; sudo -n id -un; setsid sleep 4030 & sleep 0.3; echo over");
        assert!(text.contains("\nid=") && !text.contains("id=\n") && text.contains("\npi\n/home/pi\nroot\nover"), "{text}");
        robot.shell().becomes("what it left is gone", Duration::from_secs(20), "! pgrep -a -f 'sleep 4030'");
        robot.end_sessions();
        robot.shell().becomes("logind has no session left", Duration::from_secs(30), "sessions=$(loginctl --no-legend list-sessions); echo \"$sessions\"; [ -z \"$sessions\" ]");
        text
    });
    steps.step("the policy's bounds hold for what logind has moved to a scope", || {
        let text = robot.visited(
            "cd /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup); n=0; \
             until [ \"$(cat pids.max)\" = 64 ] || [ $n = 100 ]; do n=$((n+1)); sleep 0.1; done; pwd; \
             for file in pids.max memory.max memory.swap.max cpu.weight io.weight; do [ ! -e $file ] || echo $file $(cat $file); done",
        );
        assert!(text.contains(".scope"), "{text}");
        for part in ["pids.max 64", "memory.max 134217728", "cpu.weight 50"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        text
    });
    steps.step("a login whose privileged part is killed ends, too", || {
        let mut shell = robot.stay("killed-login", "pi", "trap '' HUP TERM; setsid sleep 4033 & sed -n 's/^0:://p' /proc/self/cgroup; echo READY; sleep 4033");
        assert!(shell.log().contains(".scope"), "{}", shell.log());
        let recorded = robot.shell().becomes("the scope is recorded", SOON, "cat /run/musterd-session/scopes/*");
        robot.shell().ok("unit=$(systemctl list-units --plain --no-legend 'musterd-session@*' | cut -d' ' -f1); kill -KILL $(systemctl show -P MainPID $unit)");
        robot.shell().becomes("nothing is left of it", Duration::from_secs(20), "! pgrep -a -f 'sleep 4033'");
        robot.shell().becomes("nor its record", SOON, "[ -z \"$(ls /run/musterd-session/scopes)\" ]");
        shell.kill();
        robot.end_sessions();
        recorded
    });
    steps.step("a run under `pam = \"login\"` is metered, and ended at its time", || {
        let run = robot.muster(&[
            "run",
            ROBOT,
            "--timeout",
            "6s",
            "--",
            "(setsid perl -e '1 while (times)[0] < 1.5' &); setsid sleep 4031 & sleep 4031",
        ]);
        assert_eq!(run.code, 124, "{run:?}");
        robot.shell().becomes("nothing is left of the run", Duration::from_secs(20), "! pgrep -a -f 'sleep 4031'");
        let used = robot.newest_run()["cpu_us"].as_u64().unwrap_or_default();
        assert!(used > 1_000_000, "{used} microseconds");
        format!("{used} microseconds")
    });
    steps.step("with `linger = true` a job stays after the session, until it is ended", || {
        robot.policy(&format!("linger = true\n{POLICY}"));
        robot.visited("nohup sleep 4032 >/dev/null 2>&1 & echo left");
        let sessions = robot.shell().becomes(
            "it is the only one left",
            Duration::from_secs(20),
            "pgrep -a -f 'sleep 4032' && [ \"$(pgrep -c -u musterd-net)\" = 0 ] && musterd sessions",
        );
        let ended = robot.shell().ok("musterd end --all");
        robot.shell().becomes("it is gone", Duration::from_secs(20), "! pgrep -a -f 'sleep 4032'");
        robot.end_sessions();
        format!("{sessions}\n{ended}")
    });
    steps.step("with `ask = true` a visitor waits, cannot approve it themselves, and somebody outside can", || {
        let waits = "while [ ! -s /tmp/code ]; do sleep 0.2; done; musterd approve $(cat /tmp/code); echo answer-$?";
        robot.shell().ok("rm -f /tmp/code");
        robot.policy(POLICY);
        let inside = robot.window("eve", waits);
        robot.policy(&format!("{POLICY}\n[ask]\nask = true\napprovers = [\"eve\", \"guest\"]"));
        let mut asking = Process::start("asking", robot.lab.folder(), robot.lab.muster(&["shell", ROBOT, "--", "echo let in"]));
        let code = robot.shell().becomes(
            "somebody waits",
            Duration::from_secs(30),
            "code=$(musterd sessions | sed -n 's/.*musterd approve //p'); [ -n \"$code\" ] && echo $code | tee /tmp/code",
        );
        inside.says("answer-1", SOON);
        asking.assert_alive();
        assert!(!asking.log().contains("let in"), "{}", asking.log());
        let approved = robot.shell().ok(&format!("cd /; runuser -u guest -- musterd approve {code}; rm -f /tmp/code"));
        let status = asking.ended(SOON);
        assert!(status.success() && asking.log().contains("let in"), "{status}: {}", asking.log());
        robot.policy(POLICY);
        robot.end_sessions();
        let refused = inside.text().lines().find(|line| line.contains("not approved")).unwrap_or_default().to_owned();
        format!("inside: {refused}; outside: {approved}")
    });
}
