//! The device of these tests: the machine, the laboratory that it enrols at, and what people do with both.

use std::time::Duration;

use crate::lab::{Lab, SOON, rows};
use crate::machine::{Machine, Parts};
use crate::process::Process;
use crate::programs;
use crate::shell::Shell;
use crate::steps::Seen;
use crate::window::Window;

/// Its serial number, the `id` in the list.
pub const ROBOT: &str = "robot-1";
/// Where the policy lies.
pub const POLICY: &str = "/etc/musterd/policy.toml";

/// The device.
pub struct Robot<'a> {
    /// Where its hub is, and where people work.
    pub lab: &'a Lab,
    parts: Parts,
    machine: Option<Machine>,
    state: String,
}

/// What a visitor got to see.
#[derive(Debug)]
pub struct Visit {
    /// The exit code of `muster`.
    pub code: i32,
    /// Standard output, without the terminal's carriage returns, trimmed.
    pub text: String,
    /// Standard error: what `muster` itself said, or the command of a run.
    pub error: String,
}

impl<'a> Robot<'a> {
    /// Switches a new one on. A boot that fails is tried once more: an emulated machine on a busy host sometimes stumbles.
    pub fn boot(lab: &'a Lab) -> Self {
        let parts = Parts::new(lab);
        let machine = Machine::boot(lab, &parts).or_else(|why| {
            eprintln!("the machine did not boot, once more: {why}");
            Machine::boot(lab, &parts)
        });
        let mut robot = Self { lab, parts, machine: Some(machine.unwrap_or_else(|why| panic!("{why}"))), state: String::new() };
        robot.state = robot.runs();
        robot
    }

    /// Root's shell inside.
    pub fn shell(&mut self) -> &mut Shell {
        &mut self.machine.as_mut().expect("the machine is on").shell
    }

    /// Waits until systemd has started everything, and expects that all of it went well.
    #[track_caller]
    pub fn runs(&mut self) -> String {
        let answer = self.shell().run_within("systemctl is-system-running --wait", Duration::from_secs(120));
        let failed = self.shell().run("systemctl --failed --no-legend").text;
        assert_eq!(answer.text, "running", "{failed}");
        answer.text
    }

    /// The power goes, and comes back.
    pub fn power_cut(&mut self) {
        self.machine.take().expect("the machine is on").cut_power();
        self.machine = Some(Machine::boot(self.lab, &self.parts).unwrap_or_else(|why| panic!("{why}")));
    }

    /// Writes the policy, as root does.
    pub fn policy(&mut self, text: &str) {
        self.shell().ok(&format!("cat > {POLICY}.new <<'END'\n{text}\nEND\nchmod 644 {POLICY}.new && mv {POLICY}.new {POLICY}"));
    }

    /// `muster shell ROBOT -- LINE` to its end, as the policy's own choice of user.
    #[track_caller]
    pub fn visit(&self, line: &str) -> Visit {
        self.muster(&["shell", ROBOT, "--", line])
    }

    /// The same as this user.
    #[track_caller]
    pub fn visit_as(&self, user: &str, line: &str) -> Visit {
        self.muster(&["shell", ROBOT, "--user", user, "--", line])
    }

    /// A visit that must go well; gives what it printed.
    #[track_caller]
    pub fn visited(&self, line: &str) -> String {
        let visit = self.visit(line);
        assert_eq!(visit.code, 0, "{line}: {visit:?}");
        visit.text
    }

    /// A session that stays open: runs `line`, which must print `READY`.
    #[track_caller]
    pub fn stay(&self, name: &str, user: &str, line: &str) -> Process {
        let mut process = Process::start(name, self.lab.folder(), self.lab.muster(&["shell", ROBOT, "--user", user, "--", line]));
        process.says("READY", SOON);
        process
    }

    /// Ends every session, as a person would, and waits until the device has nothing left of them.
    #[track_caller]
    pub fn end_sessions(&mut self) -> usize {
        let sessions = rows(self.lab.json(&["sessions", "--device", ROBOT]));
        for session in &sessions {
            // One that ends by itself meanwhile is no mistake.
            let _ = self.muster(&["session", "end", session["id"].as_str().expect("a session's id")]);
        }
        let none = "units=$(systemctl list-units --all --no-legend 'musterd-session@*'); echo \"$units\"; [ -z \"$units\" ]";
        self.shell().becomes("no unit of a session is left", Duration::from_secs(30), none);
        sessions.len()
    }

    /// A person's window, in which they type this line once the shell is there.
    pub fn window(&self, user: &str, line: &str) -> Window {
        let mut muster = self.lab.marked(&programs::muster());
        muster.args(["shell", ROBOT, "--user", user]).envs(self.lab.variables());
        let mut window = Window::open(muster);
        window.says("$ ", SOON);
        window.types(line);
        window
    }

    /// `muster ARGUMENTS...`, to its end.
    #[track_caller]
    pub fn muster(&self, arguments: &[&str]) -> Visit {
        let output = self.lab.muster(arguments).output().expect("muster runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).replace('\r', "").trim().to_owned();
        Visit { code: output.status.code().unwrap_or(-1), text: text(output.stdout), error: text(output.stderr) }
    }

    /// The newest run, as the hub knows it.
    pub fn newest_run(&self) -> serde_json::Value {
        rows(self.lab.json(&["runs"])).into_iter().next().expect("a run")
    }
}

impl Seen for Robot<'_> {
    fn seen(&self) -> String {
        self.state.clone()
    }
}
