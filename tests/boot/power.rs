//! A power cut in the middle of everything: the device comes back, and nothing goes on that does not.

use std::time::Duration;

use crate::lab::{SOON, rows};
use crate::robot::{ROBOT, Robot};
use crate::steps::Steps;
use crate::wait::eventually;

/// The plug is pulled while a shell is open and a command runs.
pub fn steps(steps: &mut Steps, robot: &mut Robot<'_>) {
    steps.first("the power is cut in a session and a run, and comes back", || {
        let id = robot.lab.run(&["run", ROBOT, "--detach", "--", "echo begun; exec sleep 4020"]).trim().to_owned();
        eventually("the command runs", SOON, || (robot.lab.json(&["runs", "show", &id])["state"] == "running").then_some(()));
        let _shell = robot.stay("at the cut", "pi", "echo READY; exec sleep 4021");
        robot.power_cut();
        robot.lab.online(ROBOT);
        robot.runs()
    });
    steps.step("no run is left executing", || {
        let alive = eventually("no run is alive", Duration::from_secs(90), || {
            let rows = rows(robot.lab.json(&["runs", "--state", "alive"]));
            rows.is_empty().then_some(rows.len())
        });
        let state = robot.newest_run()["state"].clone();
        assert_eq!(state, "lost");
        format!("{alive} alive, the one that ran is {state}")
    });
    steps.step("no process, unit or socket is left of a session", || {
        robot.shell().ok(
            "if pgrep -a -f 'sleep 402[01]'; then exit 1; fi\n[ -z \"$(systemctl list-units --all --no-legend 'musterd-session@*')\" ]\n[ -z \"$(ls /run/musterd-session/live)\" ]\n\
             [ \"$(stat -c '%a %U' /var/lib/musterd/key.pem)\" = '600 musterd' ]",
        )
    });
    steps.step("a shell opens as before, and an order is not used twice", || {
        let text = robot.visited("id -un");
        assert_eq!(text, "pi");
        format!("{text}; {} used orders kept", robot.shell().ok("grep -c . /var/lib/musterd-session/used"))
    });
}
