//! People at their own computers: `muster`, and what they try on the device through it.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use rustix::process::Signal;
use serde_json::json;

use crate::ground::{Ground, ROBOT, told};
use crate::https;
use crate::lab::{Lab, SOON, ok};
use crate::process::Process;
use crate::programs;
use crate::table::Table;

/// Somebody with an account.
#[derive(Clone)]
pub struct Person {
    token: String,
    /// The user of the device whom they become.
    pub user: &'static str,
}

impl Person {
    /// The organization's owner.
    pub fn owner(lab: &Lab, user: &'static str) -> Self {
        Self { token: lab.token.clone(), user }
    }

    /// A member who may connect, and no more.
    pub fn member(lab: &Lab, email: &str, user: &'static str) -> Self {
        const PASSWORD: &str = "correct horse battery";
        let path = lab.folder().join("password");
        fs::write(&path, format!("{PASSWORD}\n")).unwrap();
        let mut add = lab.marked(&programs::muster_hub());
        add.arg("--config").arg(lab.data.join("hub.toml"));
        add.args(["user", "add", email, "--org", "acme", "--role", "member", "--password-stdin"]);
        ok(add.stdin(fs::File::open(&path).unwrap()));
        lab.run(&["project", "participant", "add", "lab", email, "--role", "connect"]);
        let login = json!({ "email": email, "password": PASSWORD }).to_string();
        let answer = https::request(lab.https, https::config(&lab.ca(), None), "POST", "/v1/login", None, Some(login.as_bytes()));
        Self { token: answer.unwrap().json()["token"].as_str().unwrap().to_owned(), user }
    }

    /// `muster ARGUMENTS...` of this person.
    pub fn muster(&self, lab: &Lab, arguments: &[&str]) -> Command {
        let mut command = lab.muster(arguments);
        command.env("MUSTER_TOKEN", &self.token);
        command
    }

    /// A shell of this person that does `line` and lives until it is dropped or killed.
    pub fn shell(&self, lab: &Lab, name: &str, line: &str) -> Process {
        let mut shell = Process::start(name, lab.folder(), self.muster(lab, &["shell", ROBOT, "--", line]));
        shell.says("here", SOON);
        shell
    }

    /// Ends such a shell as its person does: with Ctrl-C, which goes to what runs on the device.
    pub fn leaves(mut shell: Process) {
        shell.signal(Signal::INT);
        shell.ended(SOON);
    }

    /// What `muster shell` writes for this line of the device's shell, and its exit code.
    pub fn does(&self, lab: &Lab, line: &str) -> (i32, String) {
        told(&self.muster(lab, &["shell", ROBOT, "--", line]).output().unwrap())
    }

    /// Tries each line of the shell in one session on the device. An attack is held off if the line fails, or is only killed by its time.
    pub fn tries(&self, ground: &Ground<'_>, table: &mut Table, class: usize, attacks: &[(&str, String)]) {
        let mut script = String::new();
        for (number, (_, line)) in attacks.iter().enumerate() {
            // Each one in a shell of its own, so that none disturbs the next.
            let encoded = base64::engine::general_purpose::STANDARD.encode(line);
            script.push_str(&format!(
                "r=$(echo {encoded} | base64 -d | timeout 5 sh 2>&1); c=$?; \
                 printf '\\n=%s %s %s\\n' {number} $c \"$(printf %s \"$r\" | tr '\\n' ' ' | tail -c 100)\"\n"
            ));
        }
        let mut session = self.muster(ground.lab, &["shell", ROBOT, "--", "sh"]);
        let mut session = session.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        session.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let (_, text) = told(&session.wait_with_output().unwrap());
        for (number, (what, _)) in attacks.iter().enumerate() {
            let prefix = format!("={number} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
            let line = line.unwrap_or_else(|| panic!("no outcome of {what:?}: {text}"));
            let (code, said) = line.split_once(' ').unwrap_or((line, ""));
            table.row(class, *what, self.user, said, code != "0");
        }
    }
}
