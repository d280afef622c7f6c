//! Attacks between real users: a visitor without rights, a captured network side, a captured daemon. None may succeed.
//!
//! Each attack is a few lines of shell that print `BROKEN` where they got what they wanted (`attacks/*.sh`, one file per attacker).
//! What an attack says of itself is not believed alone: afterwards root looks at what was to be protected.

use std::time::Duration;

use crate::lab::SOON;
use crate::robot::{ROBOT, Robot};
use crate::steps::Steps;

/// A visitor with a user of their own and no rights, while pi's session is open.
const VISITOR: &str = include_str!("attacks/visitor.sh");
/// Somebody who has taken over the network side of a session: its user, and no descriptor of it.
const NETWORK: &str = include_str!("attacks/network.sh");
/// Somebody who has taken over the daemon.
const DAEMON: &str = include_str!("attacks/daemon.sh");
/// Runs the attacks of one file and prints `@held NAME` or `@broken NAME: what it said` for each.
const RUNNER: &str = include_str!("attacks/runner.sh");

/// Everything that must be as before, in one text.
const PROTECTED: &str = "stat -c '%n %a %U:%G' /var/lib/musterd /var/lib/musterd/key.pem /etc/musterd /etc/musterd/* /run/musterd-session \
    /run/musterd-session/start.sock /var/lib/musterd-session /home/pi/.profile /home/pi/.bashrc\n\
    sha256sum /var/lib/musterd/key.pem /etc/musterd/* /home/pi/.profile /home/pi/.bashrc\n\
    pid=$(systemctl show -P MainPID musterd); echo daemon $pid $(cat /proc/$pid/oom_score_adj) nice $(ps -o ni= -p $pid)\n\
    cat /proc/$pid/limits | md5sum; systemctl is-active musterd musterd-session.socket";

/// All attackers, one after the other.
pub fn steps(steps: &mut Steps, robot: &mut Robot<'_>) {
    robot.policy(crate::limits::POLICY);
    let shell = robot.shell();
    shell.ok("mkdir -p /usr/local/lib/attacks");
    for (name, text) in [("runner.sh", RUNNER), ("visitor.sh", VISITOR), ("network.sh", NETWORK), ("daemon.sh", DAEMON)] {
        shell.ok(&format!("cat > /usr/local/lib/attacks/{name} <<'END-OF-FILE'\n{text}\nEND-OF-FILE"));
    }
    let pi = robot.window("pi", "echo at-work-$((40+2)); exec sleep 5001");
    pi.says("at-work-42", SOON);
    let before = robot.shell().ok(PROTECTED);
    played(
        steps,
        VISITOR,
        "visitor",
        |name| format!("visitor: {name}"),
        || robot.visit_as("eve", "bash /usr/local/lib/attacks/runner.sh visitor").text,
    );
    let user = |robot: &mut Robot<'_>, user: &str, groups: &str, file: &str| {
        let command = format!(
            "cd /; setpriv --reuid {user} --regid {user} {groups} --inh-caps=-all --bounding-set=-all --no-new-privs bash /usr/local/lib/attacks/runner.sh {file}"
        );
        robot.shell().run_within(&command, Duration::from_secs(180)).text
    };
    played(steps, NETWORK, "network", |name| format!("network side: {name}"), || user(robot, "musterd-net", "--clear-groups", "network"));
    played(steps, DAEMON, "daemon", |name| format!("daemon: {name}"), || user(robot, "musterd", "--clear-groups", "daemon"));
    steps.step("what was to be protected is as before", || {
        let after = robot.shell().ok(PROTECTED);
        assert_eq!(after, before);
        format!("{} things", after.lines().count())
    });
    steps.step("the daemon starts again, comes online, and lets pi in", || {
        robot.end_sessions();
        robot.shell().ok("systemctl restart musterd");
        robot.lab.online(ROBOT);
        robot.visited("id -un")
    });
    steps.step("eve left nothing behind", || {
        robot.end_sessions();
        robot.shell().becomes("no process of eve's is left", Duration::from_secs(20), "! pgrep -a -u eve");
        robot.shell().ok("left=$(find / -xdev -user eve -not -path '/home/eve*' -not -path '/tmp*' 2>/dev/null || true); echo \"$left\"; [ -z \"$left\" ]");
    });
}

/// Plays the attacks of a file and makes a row of each. As many must have been tried as stand in the file.
fn played(steps: &mut Steps, file: &str, attacker: &str, row: impl Fn(&str) -> String, play: impl FnOnce() -> String) {
    let expected = file.lines().filter(|line| line.starts_with("attack ")).count();
    let mut told = String::new();
    steps.step(&format!("{expected} attacks as {attacker} are played"), || {
        told = play();
        let tried = told.lines().filter(|line| line.starts_with("@held ") || line.starts_with("@broken ")).count();
        assert!(tried == expected && expected > 0 && !told.contains("@missing"), "{tried} of {expected} tried: {told}");
        let broken = told.lines().filter(|line| line.starts_with("@broken ")).count();
        format!("{tried} tried, {broken} succeeded")
    });
    for line in told.lines() {
        if let Some(name) = line.strip_prefix("@held ") {
            steps.row(&row(name), Ok("held".to_owned()));
        } else if let Some(name) = line.strip_prefix("@broken ") {
            steps.row(&row(name.split(": ").next().unwrap_or_default()), Err(name.to_owned()));
        }
    }
}
