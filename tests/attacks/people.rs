//! People at their own computers: `muster`, and what they try on the device through it.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use rustix::process::Signal;
use serde_json::json;

use crate::ground::{Ground, ROBOT, told};
use crate::https;
use crate::lab::{Lab, SOON, rows};
use crate::process::Process;
use crate::table::Table;

/// Longest time from a person's leaving to the hub's knowing it.
const FAREWELL: Duration = Duration::from_secs(3);

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

    /// A collaborator who came by a link, and may connect to the devices of one project and no more.
    pub fn collaborator(lab: &Lab, email: &str, user: &'static str) -> Self {
        let wanted = json!({ "email": email, "project": "lab", "project_role": "connect" });
        let made = lab.api("POST", "/v1/orgs/acme/invitations", Some(&wanted)).json();
        let link = made["link"].as_str().unwrap_or_else(|| panic!("no link in {made}"));
        let (_, secret) = link.split_once('#').unwrap();
        let accept = json!({ "token": secret, "name": email, "password": "correct horse battery", "token_name": "first" }).to_string();
        let config = https::config(&lab.ca(), None);
        let answer = https::request(lab.https, config, "POST", "/v1/invitations/accept", None, Some(accept.as_bytes())).unwrap().json();
        Self { token: answer["token"].as_str().unwrap_or_else(|| panic!("no token in {answer}")).to_owned(), user }
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

    /// Ends such a shell as its person does: with Ctrl-C, which goes to what runs on the device. A farewell that was lost on a machine
    /// that is busy would leave the session its two minutes to come back: then the hub ends it.
    pub fn leaves(lab: &Lab, mut shell: Process) {
        shell.signal(Signal::INT);
        let status = shell.ended(SOON);
        let open = || -> Vec<serde_json::Value> {
            rows(lab.json(&["sessions"])).into_iter().filter(|session| session["state"] == "open").collect()
        };
        let until = Instant::now() + FAREWELL;
        while Instant::now() < until && !open().is_empty() {}
        for session in open() {
            let _ = writeln!(std::io::stderr(), "no farewell from {session}: {status}: {}", shell.log());
            lab.api("DELETE", &format!("/v1/orgs/acme/sessions/{}", session["id"].as_str().unwrap()), None);
        }
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
