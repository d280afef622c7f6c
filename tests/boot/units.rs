//! The units: they start, they are as tight as promised, and the device enrols.

use std::time::Duration;

use crate::lab::HEARTBEAT_S;
use crate::robot::{ROBOT, Robot};
use crate::steps::Steps;

/// From nothing to a device that is online.
pub fn steps(steps: &mut Steps, robot: &mut Robot<'_>) {
    steps.first("programs and units are put in, users made", || {
        let shell = robot.shell();
        assert_eq!((shell.run("exit 7").code, shell.run("false").code), (7, 1), "an exit code comes back");
        shell.ok("tar -C / -xf /dev/vdb");
        shell.ok("systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload");
        shell.ok("id musterd; id musterd-net; stat -c '%n %a %U:%G' /run/musterd-session /run/musterd-session/live /var/lib/musterd-session /etc/musterd")
    });
    steps.step("systemd has nothing to say against the units", || {
        let said = robot.shell().ok("systemd-analyze verify musterd.service musterd-session.socket musterd-session@.service");
        assert_eq!(said, "");
    });
    steps.first("the units start", || {
        let shell = robot.shell();
        shell.ok(&format!(
            "printf '[identity]\\nserial = \"{ROBOT}\"\\n[heartbeat]\\nevery_s = {HEARTBEAT_S}\\n' > /etc/musterd/config.toml"
        ));
        shell.ok("systemctl enable --now musterd-session.socket musterd.service");
        shell.becomes("the units are active", Duration::from_secs(30), "systemctl is-active musterd.service musterd-session.socket")
    });
    steps.step("the daemon's sandbox is really there", || {
        let shell = robot.shell();
        shell.ok("pid=$(systemctl show -P MainPID musterd)\n\
             grep -E '^(Uid|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/$pid/status | tr -s '\\t\\n' ' '\n\
             [ \"$(stat -c %U /proc/$pid)\" = musterd ]\n\
             for cap in CapPrm CapEff CapInh CapAmb CapBnd; do grep -q \"^$cap:.*0000000000000000\" /proc/$pid/status || exit 1; done\n\
             grep -q 'NoNewPrivs:.*1' /proc/$pid/status && grep -q 'Seccomp:.*2' /proc/$pid/status\n\
             [ \"$(cat /proc/$pid/oom_score_adj)\" = -500 ]\n\
             for file in /etc/x /home/x /usr/x /var/x; do if nsenter -t $pid -m -- touch $file 2>/dev/null; then exit 1; fi; done\n\
             [ \"$(readlink /proc/$pid/ns/user)\" != \"$(readlink /proc/self/ns/user)\" ]")
    });
    steps.first("enrols with `--user pi`", || {
        let token = robot.lab.enrolment_token(&["--project", "lab", "--admit", "auto", "--uses", "1"]);
        let url = robot.lab.url.clone();
        let shell = robot.shell();
        shell.ok(&format!("musterd enrol --user pi {url} {token}"))
    });
    steps.first("is online at the hub", || {
        let row = robot.lab.online(ROBOT);
        format!("{} {}, {}", row["id"].as_str().unwrap_or_default(), row["presence"].as_str().unwrap_or_default(), row["facts"]["os"])
    });
    steps.step("the system is still `running`", || robot.runs());
}
