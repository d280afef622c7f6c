//! Who is trusted, who is logged in, and what is kept of it.

use std::os::unix::fs::PermissionsExt as _;

use crate::town::{OWNER, Town, run, run_with};

#[test]
fn a_token_logs_in_without_a_question_and_is_kept_for_its_owner_only() {
    let town = Town::new();
    assert!(town.as_stranger("devices").fails(3).contains("not logged in\nrun: muster login"));
    let said = run(town.stranger().args(["login", &town.url, "--token", &town.token])).ok();
    assert!(said.contains(OWNER) && said.contains("organization: acme, project: lab"), "{said}");
    let config = town.home().join(".config/muster/config.toml");
    assert_eq!(std::fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o600);

    let me = town.as_stranger("whoami --json").json();
    assert_eq!(
        (me["email"].as_str(), me["orgs"][0]["id"].as_str(), me["orgs"][0]["role"].as_str()),
        (Some(OWNER), Some("acme"), Some("owner"))
    );
    let said = town.as_stranger("whoami").ok();
    assert!(said.contains(&town.url) && said.contains("saved as \"127.0.0.1\""), "{said}");
    let profiles = town.as_stranger("profile list --json").json();
    assert_eq!((profiles[0]["hub"].as_str(), profiles[0]["current"].as_bool()), (Some(town.url.as_str()), Some(true)));
    assert!(!profiles.to_string().contains("mp1."), "no secret: {profiles}");

    // The token was given, so it stays valid at the hub.
    assert!(town.as_stranger("logout").ok().contains("Logged out"));
    town.as_stranger("devices").fails(3);
    town.muster("devices --json").json();
}

#[test]
fn an_archived_project_is_neither_the_default_nor_in_its_way() {
    let town = Town::new();
    town.muster("project create yard").ok();
    town.muster("project archive yard --yes").ok();
    let said = run(town.stranger().args(["login", &town.url, "--token", &town.token])).ok();
    assert!(said.contains("organization: acme, project: lab"), "{said}");
    // The default is archived later: the only one that is open takes its place at the next login.
    town.muster("project restore yard").ok();
    town.muster("project archive lab --yes").ok();
    let said = run(town.stranger().args(["login", &town.url, "--token", &town.token])).ok();
    assert!(said.contains("organization: acme, project: yard"), "{said}");
}

#[test]
fn a_password_logs_in_once_the_hub_is_trusted() {
    let town = Town::new();
    let add = ["user", "add", "ann@acme.example", "--password-stdin", "--org", "acme", "--role", "viewer"];
    run_with(town.hub_command().args(add), "correct horse battery staple\n").ok();
    assert_eq!(town.muster("member set ann@acme.example --role member").ok(), "ann@acme.example is now member of acme.\n");

    // Nobody can be asked, and the hub is unknown: nothing is sent, but the fingerprint is told.
    let login = ["login", town.url.as_str(), "--email", "ann@acme.example", "--password-stdin"];
    let refused = run_with(town.stranger().args(login), "correct horse battery staple\n").fails(2);
    let pin = town.token.rsplit('.').next().unwrap();
    assert!(refused.contains(&format!("--fingerprint {pin}")), "{refused}");

    // Another hub's fingerprint: no password leaves this machine.
    let other = "__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA";
    let refused = run_with(town.stranger().args(login).args(["--fingerprint", other]), "x\n").fails(6);
    assert!(refused.contains("is not from the hub's authority"), "{refused}");
    let refused = run_with(town.stranger().args(login).args(["--fingerprint", pin]), "wrong\n").fails(3);
    assert!(refused.contains("check the e-mail and the password"), "{refused}");
    run_with(town.stranger().args(login).args(["--fingerprint", pin]), "correct horse battery staple\n").ok();

    assert_eq!(town.as_stranger("whoami --json").json()["email"], "ann@acme.example");
    // A member may not do what owners may.
    town.as_stranger("member set ben@acme.example --role viewer").fails(3);
    // The second time the hub is known.
    run_with(town.stranger().args(login), "correct horse battery staple\n").ok();
    let tokens = town.as_stranger("access-token list --json").json();
    assert_eq!(tokens.as_array().unwrap().len(), 2);

    // Logging out ends the token at the hub.
    let config = std::fs::read_to_string(town.home().join(".config/muster/config.toml")).unwrap();
    let token = config.split('"').find(|word| word.starts_with("mp1.")).unwrap().to_owned();
    town.as_stranger("logout").ok();
    run(town.stranger().args(["--hub", &town.url, "--token", &token, "whoami"])).fails(3);
}

#[test]
fn a_person_at_a_terminal_is_asked_and_may_say_no() {
    let town = Town::new();
    let typed = |answer: &str| {
        // `script` gives the program a terminal; what is typed comes through a pipe.
        let line = format!("{} login {} --email nobody@acme.example", env!("CARGO_BIN_EXE_muster"), town.url);
        let command = town.stranger();
        let home = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect::<Vec<_>>();
        let mut script = std::process::Command::new("script");
        script.env_clear().envs(home).env("TERM", "xterm").args(["-qefc", &line, "/dev/null"]);
        run_with(&mut script, answer)
    };
    let said = typed("n\n");
    let pin = town.token.rsplit('.').next().unwrap();
    assert!(said.out.contains(pin) && said.out.contains("Trust this hub? [y/N]"), "{said:?}");
    assert_eq!(said.code, 3, "{said:?}");
    let said = typed("y\nsecret-password\n");
    assert!(said.out.contains("Password:") && said.out.contains("check the e-mail and the password"), "{said:?}");
    assert_eq!(said.code, 3, "{said:?}");
}

#[test]
fn a_wrong_password_is_asked_for_again_and_nothing_before_it() {
    use std::io::{Read as _, Write as _};
    let town = Town::new();
    let line = format!("{} login {} --email nobody@acme.example", env!("CARGO_BIN_EXE_muster"), town.url);
    let command = town.stranger();
    let home = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect::<Vec<_>>();
    let mut script = std::process::Command::new("script");
    script.env_clear().envs(home).env("TERM", "xterm").args(["-qefc", &line, "/dev/null"]);
    let mut child = script.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut seen = String::new();
    // What is typed before a question is not its answer.
    for (question, times, answer) in
        [("[y/N]", 1, "y\n"), ("Password:", 1, "wrong-one\n"), ("Password:", 2, "wrong-two\n"), ("Password:", 3, "wrong-three\n")]
    {
        while seen.matches(question).count() < times {
            let mut some = [0; 4096];
            let n = screen.read(&mut some).unwrap();
            assert!(n > 0, "it ended before {question:?}: {seen}");
            seen += &String::from_utf8_lossy(&some[..n]);
        }
        keys.write_all(answer.as_bytes()).unwrap();
    }
    screen.read_to_string(&mut seen).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(3), "{seen}");
    let count = |what: &str| seen.matches(what).count();
    assert_eq!([count("Trust this hub?"), count("Password:"), count("Try again.")], [1, 3, 2], "{seen}");
    assert!(!seen.contains("wrong-") && seen.contains("check the e-mail and the password"), "{seen}");
}

#[test]
fn ctrl_c_at_a_password_leaves_the_terminal_as_it_was() {
    use std::io::{Read as _, Write as _};
    let town = Town::new();
    let muster = format!("{} login {} --email nobody@acme.example", env!("CARGO_BIN_EXE_muster"), town.url);
    let line = format!("{muster}; echo code $?; stty -a; read line; echo got $line");
    let command = town.stranger();
    let home = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect::<Vec<_>>();
    let mut script = std::process::Command::new("script");
    script.env_clear().envs(home).env("PATH", "/usr/bin:/bin").env("TERM", "xterm").args(["-qefc", &line, "/dev/null"]);
    let mut child = script.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut seen = String::new();
    let mut until = |what: &str| {
        while !seen.contains(what) {
            let mut some = [0; 4096];
            let n = screen.read(&mut some).unwrap();
            assert!(n > 0, "it ended before {what:?}: {seen}");
            seen += &String::from_utf8_lossy(&some[..n]);
        }
        seen.clone()
    };
    until("[y/N]");
    keys.write_all(b"y\n").unwrap();
    until("Password:");
    keys.write_all(b"half a secret\x03").unwrap();
    let said = until("speed ");
    assert!(said.contains("code 130"), "{said}");
    let said = until("echoctl");
    let words: Vec<&str> = said.split_whitespace().collect();
    assert!(["echo", "isig", "icanon"].iter().all(|mode| words.contains(mode)) && !said.contains("half"), "{said}");
    keys.write_all(b"seen\n").unwrap();
    until("got seen");
    assert!(child.wait().unwrap().success());
}

#[test]
fn whatever_is_between_has_its_own_sentence() {
    let town = Town::new();
    // A token of another hub.
    let (rest, _) = town.token.rsplit_once('.').unwrap();
    let other = format!("{rest}.__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA");
    let refused = run(town.command().env("MUSTER_TOKEN", &other).arg("devices")).fails(6);
    assert!(refused.contains("is not from the hub's authority"), "{refused}");
    // A token that is none, or of the other kind.
    run(town.command().env("MUSTER_TOKEN", "secret").arg("devices")).fails(2);
    let enrolment = town.enrolment_token("");
    let refused = run(town.command().env("MUSTER_TOKEN", &enrolment).arg("devices")).fails(2);
    assert!(refused.contains("this is an enrolment token"), "{refused}");
    // A token that the hub does not know.
    let mut parts: Vec<String> = town.token.split('.').map(str::to_owned).collect();
    parts[2] = "a".repeat(parts[2].len());
    let refused = run(town.command().env("MUSTER_TOKEN", parts.join(".")).arg("devices")).fails(3);
    assert!(refused.contains("muster login"), "{refused}");
    // Nobody listens.
    let refused = run(town.command().env("MUSTER_HUB", "https://127.0.0.1:1").arg("devices")).fails(6);
    assert!(refused.contains("refused the connection"), "{refused}");
    // Not a hub's name, an organization that is none of ours.
    run(town.command().env("MUSTER_HUB", "http://127.0.0.1").arg("devices")).fails(2);
    run(town.command().env("MUSTER_ORG", "other").arg("devices")).fails(4);
}
