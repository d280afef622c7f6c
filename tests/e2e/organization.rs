//! As a new owner would try it: two organizations, people who come by a link, one of whom sees one project and nothing else,
//! a device that two projects share with different roles, and somebody who is taken out in the middle of a session.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::device::Device;
use crate::https;
use crate::lab::{Lab, SOON, fails, ok, rows};
use crate::process::Process;

/// Not allowed.
const REFUSED: i32 = 3;

/// A person with a token, in the place of the laboratory's owner.
struct Guest<'a> {
    lab: &'a Lab,
    token: String,
    project: &'static str,
}

impl Guest<'_> {
    fn muster(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.muster(arguments);
        command.env("MUSTER_TOKEN", &self.token).env("MUSTER_PROJECT", self.project);
        command
    }

    #[track_caller]
    fn rows(&self, arguments: &[&str]) -> Vec<Value> {
        let output = ok(&mut self.muster(&[arguments, &["--json"]].concat()));
        rows(serde_json::from_slice(&output.stdout).unwrap())
    }

    /// The ids of a list, in order.
    #[track_caller]
    fn ids(&self, arguments: &[&str]) -> Vec<String> {
        let mut ids: Vec<String> = self.rows(arguments).iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
        ids.sort_unstable();
        ids
    }

    #[track_caller]
    fn status(&self, path: &str) -> (u16, String) {
        let answer = https::request(self.lab.https, https::config(&self.lab.ca(), None), "GET", path, Some(&self.token), None).unwrap();
        (answer.status, answer.json()["detail"].as_str().unwrap_or_default().to_owned())
    }
}

/// The owner invites; the person opens the link, which is for somebody without an account, and has a token then.
fn comes_by_link<'a>(lab: &'a Lab, email: &str, project: &'static str, role: &str) -> Guest<'a> {
    let wanted = json!({ "email": email, "project": project, "project_role": role });
    let made = lab.api("POST", "/v1/orgs/acme/invitations", Some(&wanted)).json();
    let link = made["link"].as_str().unwrap_or_else(|| panic!("no link in {made}"));
    let (page, token) = link.split_once('#').expect("the secret stands behind the #, where no server sees it");
    assert_eq!(page, format!("{}/invite", lab.url));
    let post = |path: &str, body: Value| {
        let body = body.to_string();
        https::request(lab.https, https::config(&lab.ca(), None), "POST", path, None, Some(body.as_bytes())).unwrap()
    };
    let looked = post("/v1/invitations/look", json!({ "token": token })).json();
    assert_eq!((&looked["email"], &looked["project"], &looked["has_account"]), (&json!(email), &json!(project), &json!(false)), "{looked}");
    let accept = json!({ "token": token, "name": "A Guest", "password": "correct horse battery", "token_name": "first" });
    let accepted = post("/v1/invitations/accept", accept.clone()).json();
    let own = accepted["token"].as_str().unwrap_or_else(|| panic!("no token in {accepted}")).to_owned();
    assert_eq!(post("/v1/invitations/accept", accept).status, 409, "a link is good once");
    Guest { lab, token: own, project }
}

#[test]
fn as_a_new_owner_would_try_it() {
    let lab = Lab::new();
    let _shared = Device::online(&lab, "robot-1");
    let _other = Device::online(&lab, "robot-2");
    // A second organization of the same person, which shares nothing with the first.
    lab.run(&["org", "create", "globex"]);
    lab.run(&["project", "create", "yard", "--visibility", "private"]);
    lab.run(&["project", "add-devices", "yard", "robot-1"]);
    assert!(rows(serde_json::from_slice(&ok(lab.muster(&["devices", "--json"]).env("MUSTER_ORG", "globex")).stdout).unwrap()).is_empty());

    // One device, two projects, two roles.
    let dan = comes_by_link(&lab, "dan@elsewhere.example", "lab", "connect");
    let cora = comes_by_link(&lab, "cora@elsewhere.example", "yard", "view");
    assert_eq!(dan.ids(&["devices"]), ["robot-1", "robot-2"]);
    assert_eq!(cora.ids(&["devices"]), ["robot-1"]);
    assert_eq!(cora.ids(&["project", "list"]), ["yard"]);
    assert_eq!(cora.rows(&["devices"])[0]["projects"], json!(["yard"]), "the other project is not named to her");
    ok(&mut dan.muster(&["shell", "robot-1", "--", "true"]));
    let told = fails(&mut cora.muster(&["shell", "robot-1", "--", "true"]), REFUSED);
    assert!(told.contains("connect"), "what she would need is said: {told}");

    // Everything else of acme, and globex as a whole, is not there for her, in the same words as what never was.
    for (hidden, never) in [
        ("/v1/orgs/acme/devices/robot-2", "/v1/orgs/acme/devices/robot-9"),
        ("/v1/orgs/acme/projects/lab", "/v1/orgs/acme/projects/law"),
        ("/v1/orgs/globex", "/v1/orgs/globey"),
    ] {
        let name = |path: &str| path.rsplit('/').next().unwrap().to_owned();
        let (hidden_at, never_at) = (cora.status(hidden), cora.status(never));
        assert_eq!((hidden_at.0, hidden_at.1.replace(&name(hidden), "X")), (404, never_at.1.replace(&name(never), "X")), "{hidden}");
    }
    for shut in ["members", "audit", "usage", "billing", "teams", "invitations", "enrolment-tokens"] {
        assert_eq!(cora.status(&format!("/v1/orgs/acme/{shut}")).0, 403, "{shut}");
    }

    // She gets more, works, and is taken out in the middle of it: her session ends within a second, with a sentence; his goes on.
    lab.run(&["project", "participant", "add", "yard", "cora@elsewhere.example", "--role", "connect"]);
    let mut his = Process::start("dan", lab.folder(), dan.muster(&["shell", "robot-1", "--", "echo here; exec sleep 321"]));
    let mut hers = Process::start("cora", lab.folder(), cora.muster(&["shell", "robot-1", "--", "echo here; exec sleep 320"]));
    his.says("here", SOON);
    hers.says("here", SOON);
    let visitor = lab.processes_with("sleep 320");
    let removed = Instant::now();
    lab.run(&["project", "participant", "remove", "yard", "cora@elsewhere.example", "--yes"]);
    let status = hers.ended(Duration::from_secs(1).saturating_sub(removed.elapsed()).max(Duration::from_millis(500)));
    let told = hers.log();
    assert!(!status.success() && told.contains("cora@elsewhere.example"), "she is told why: {status}: {told}");
    visitor.all_end(SOON);
    his.assert_alive();
    assert_eq!(cora.status("/v1/orgs/acme").0, 404, "without the project there is nothing for her");

    // What she did stays in the records under her name.
    let sessions = rows(lab.json(&["sessions", "--all"]));
    let session = sessions.iter().find(|session| session["user"] == "cora@elsewhere.example").expect("her session");
    assert_eq!(session["state"], "ended");
    assert!(rows(lab.json(&["audit", "--actor", "cora@elsewhere.example"])).iter().any(|event| event["action"] == "session.open"));
}
