//! Organizations, projects, tokens, sessions: each command once, for people and for scripts.

use crate::town::{OWNER, Town, run, run_with};

#[test]
fn organizations_and_members() {
    let town = Town::new();
    assert_eq!(town.muster("org list --json").json()[0]["id"], "acme");
    assert_eq!(town.muster("org show --json").json()["role"], "owner");
    assert_eq!(town.muster("org create second --name Second --json").json()["id"], "second");
    assert!(town.muster("org create second").fails(1).contains("second"));
    town.muster("org create Bad_Id").fails(2);
    assert_eq!(town.muster("member list --json").json()[0]["email"], OWNER);
    assert!(town.muster("member set nobody@acme.example --role member").fails(4).contains("muster invite nobody@acme.example"));
    assert!(town.muster(&format!("member remove {OWNER}")).fails(2).contains("give --yes"));

    // Two organizations, none named: the choice is explained, then made.
    run(town.stranger().args(["login", &town.url, "--token", &town.token])).ok();
    assert!(town.as_stranger("devices").fails(2).contains("acme, second"));
    assert_eq!(town.as_stranger("org use second").ok(), "Default organization: second.\n");
    assert_eq!(town.as_stranger("org show --json").json()["id"], "second");
    town.as_stranger("org use third").fails(4);
    // The environment wins, and nothing is saved for it.
    assert_eq!(run(town.stranger().env("MUSTER_ORG", "acme").args(["org", "show", "--json"])).json()["id"], "acme");
    assert!(town.muster("org use second").fails(2).contains("set MUSTER_ORG"));
}

#[test]
fn projects_and_participants() {
    let town = Town::new();
    let add = ["user", "add", "ann@acme.example", "--password-stdin", "--org", "acme", "--role", "viewer"];
    run_with(town.hub_command().args(add), "correct horse battery staple\n").ok();
    let made = town.muster("project create field --visibility private --json").json();
    assert_eq!((made["id"].as_str(), made["visibility"].as_str(), made["role"].as_str()), (Some("field"), Some("private"), Some("admin")));
    let list = town.muster("project list --json").json();
    let mut ids: Vec<&str> = list.as_array().unwrap().iter().filter_map(|project| project["id"].as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["field", "lab"]);
    assert!(town.muster("project list").ok().contains("private"));
    assert_eq!(
        town.muster("project participant add field ann@acme.example --role connect").ok(),
        "ann@acme.example now has the role connect in field.\n"
    );
    assert!(town.muster("project participants field --json").json().to_string().contains("ann@acme.example"));
    town.muster("project participant remove field ann@acme.example --yes").ok();
    assert!(!town.muster("project participants field --json").json().to_string().contains("ann@acme.example"));
    town.muster("project show nowhere").fails(4);

    run(town.stranger().args(["login", &town.url, "--token", &town.token])).ok();
    assert!(town.as_stranger("project show").fails(2).contains("muster project use"));
    town.as_stranger("project use field").ok();
    assert_eq!(town.as_stranger("project show --json").json()["id"], "field");
}

#[test]
fn enrolment_tokens() {
    let town = Town::new();
    let serials = town.file("serials.txt");
    std::fs::write(&serials, "# ours\nSN-1\nSN-2\n").unwrap();
    let made = run(town
        .command()
        .args(["token", "create", "--project", "lab", "--uses", "2", "--expires", "1d", "--admit", "auto", "--json", "--serials"])
        .arg(&serials))
    .json();
    assert_eq!((made["uses"].as_u64(), made["admit"].as_str(), made["project"].as_str()), (Some(2), Some("auto"), Some("lab")));
    assert_eq!(made["serials"], serde_json::json!(["SN-1", "SN-2"]));
    let secret = made["token"].as_str().unwrap();
    assert_eq!(made["command"], format!("musterd enrol {} {secret}", town.url));
    town.enrol("SN-1", "SN-1", secret).ok();
    assert!(!town.enrol("SN-3", "SN-3", secret).err.is_empty());

    // For people: the line alone on standard output.
    let said = town.muster("token create --uses 1");
    assert!(said.err.contains("pending until `muster device admit`"), "{said:?}");
    let line = said.ok();
    assert!(line.starts_with(&format!("musterd enrol {} mt1.", town.url)) && line.lines().count() == 1, "{line}");

    let list = town.muster("token list --json").json();
    assert_eq!(list.as_array().unwrap().len(), 2);
    assert!(list.as_array().unwrap().iter().all(|token| token.get("token").is_none()), "no secret in a list");
    let shown = town.muster("token list").ok();
    assert!(shown.contains("1 of 2") && shown.contains("in 24 h"), "{shown}");
    let id = made["id"].as_str().unwrap();
    assert!(town.muster(&format!("token revoke {id}")).fails(2).contains("give --yes"));
    // The whole token may be pasted.
    assert_eq!(town.muster(&format!("token revoke {secret} --yes")).ok(), format!("Revoked {id}.\n"));
    assert_eq!(town.muster("token list --json").json().as_array().unwrap().len(), 1);
    assert_eq!(town.muster("token list --all --json").json().as_array().unwrap().len(), 2);
    town.muster("token create --project nowhere").fails(4);
}

#[test]
fn personal_tokens() {
    let town = Town::new();
    let said = town.muster("access-token create ci --days 1");
    assert!(said.err.contains("as good as a password"), "{said:?}");
    let token = said.ok().trim().to_owned();
    assert_eq!(run(town.command().env("MUSTER_TOKEN", &token).args(["whoami", "--json"])).json()["email"], OWNER);
    assert!(town.muster("access-token list").ok().contains("in use here"));
    town.muster(&format!("access-token revoke {token} --yes")).ok();
    let refused = run(town.command().env("MUSTER_TOKEN", &token).arg("whoami")).fails(3);
    assert!(refused.contains("muster login"), "{refused}");
    town.muster("access-token revoke nosuchtoken --yes").fails(4);
}

#[test]
fn sessions_are_listed_shown_and_ended() {
    let town = Town::new();
    assert_eq!(town.muster("sessions --json").json(), serde_json::json!([]));
    assert_eq!(town.muster("sessions --all --json").json(), serde_json::json!([]));
    let said = town.muster("sessions");
    assert_eq!((said.code, said.out.as_str()), (0, ""));
    assert!(said.err.contains("no open sessions"));
    town.muster("session show saaaaaaaaaaaaaaa").fails(4);
    town.muster("session end saaaaaaaaaaaaaaa").fails(4);
    town.muster("session end not-an-id").fails(2);
    town.muster("sessions --device nobody").fails(4);
}

#[test]
fn a_reader_that_goes_ends_it_quietly() {
    let town = Town::new();
    let line = format!("{} audit --json | head -c 1; exit ${{PIPESTATUS[0]}}", env!("CARGO_BIN_EXE_muster"));
    let command = town.command();
    let environment: Vec<_> = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    let said = run(std::process::Command::new("bash").env_clear().envs(environment).args(["-c", &line]));
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
}
