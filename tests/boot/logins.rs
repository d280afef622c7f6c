//! What the owner may choose of a login: through the system's PAM stack, and processes that linger.

use std::time::Duration;

use crate::limits::POLICY;
use crate::robot::{ROBOT, Robot};
use crate::steps::Steps;

/// Both choices, one after the other.
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
}
