//! Invitations, accounts, service accounts and limited tokens, as people type them.

use crate::town::{OWNER, Town, run, run_with};

const PASSWORD: &str = "correct horse battery staple\n";

#[test]
fn a_new_person_comes_in_by_a_link_and_is_logged_in() {
    let town = Town::new();
    let said = town.muster("invite ann@new.example --role member");
    assert!(said.err.contains("pass this link on") && said.err.contains("in 7 days"), "{said:?}");
    let link = said.ok().trim().to_owned();
    assert!(link.starts_with(&format!("{}/invite#mi1.", town.url)), "{link}");
    assert!(town.muster("invite ann@new.example").fails(1).contains("muster invitation resend"));
    town.muster("invite ann@new.example --role connect").fails(2);
    let pending = town.muster("invitation list --json").json();
    assert_eq!((pending[0]["email"].as_str(), pending[0]["role"].as_str()), (Some("ann@new.example"), Some("member")));
    assert!(town.muster("invitation list").ok().contains("ann@new.example"));

    // Nobody can be asked: it says what to give. Then the link is all that is needed: no fingerprint, no question.
    assert!(run(town.stranger().args(["invitation", "accept", &link])).fails(2).contains("--password-stdin"));
    let accept = ["invitation", "accept", link.as_str(), "--name", "Ann A.", "--password-stdin"];
    let said = run_with(town.stranger().args(accept), PASSWORD);
    assert!(said.err.contains("Logged in to"), "{said:?}");
    assert_eq!(said.ok(), "ann@new.example now has the member role in acme.\n");
    let me = town.as_stranger("account show --json").json();
    assert_eq!((me["name"].as_str(), me["orgs"][0]["role"].as_str()), (Some("Ann A."), Some("member")));
    run_with(town.stranger().args(accept), PASSWORD).fails(1);
    assert_eq!(town.muster("invitation list --json").json(), serde_json::json!([]));

    // Her account: name, password, its end.
    assert_eq!(town.as_stranger("account edit --name Anna").ok(), "ann@new.example is now called Anna.\n");
    run_with(town.stranger().args(["account", "password", "--stdin"]), "wrong\nanother horse\n").fails(3);
    let change = ["account", "password", "--stdin", "--end-other-tokens"];
    run_with(town.stranger().args(change), "correct horse battery staple\nanother horse\n").ok();
    run_with(town.stranger().args(["account", "close", "--yes", "--password-stdin"]), "another horse\n").ok();
    town.as_stranger("whoami").fails(3);
    assert!(!town.muster("member list --json").json().to_string().contains("ann@new.example"));
}

#[test]
fn an_account_accepts_logged_in_and_only_what_is_its_own() {
    let town = Town::new();
    run_with(town.hub_command().args(["user", "add", "kim@else.example", "--password-stdin"]), PASSWORD).ok();
    let link = town.muster("invite kim@else.example --project lab --role connect").ok().trim().to_owned();
    let accept = ["invitation", "accept", link.as_str()];
    let refused = run(town.stranger().args(accept)).fails(3);
    assert!(refused.contains(&format!("muster login {}", town.url)), "{refused}");
    // Another account's login opens nothing.
    assert!(run(town.command().args(accept)).fails(3).contains(OWNER));
    let pin = town.token.rsplit('.').next().unwrap();
    let login = ["login", town.url.as_str(), "--email", "kim@else.example", "--password-stdin", "--fingerprint", pin];
    run_with(town.stranger().args(login), PASSWORD).ok();
    assert_eq!(run(town.stranger().args(accept)).ok(), "kim@else.example now has the connect role in project lab of acme.\n");
    assert!(town.as_stranger("org show --org acme --json").json().get("role").is_none());
    assert!(town.muster("member collaborators --json").json().to_string().contains("kim@else.example"));

    // Sent again the old link is dead; revoked the new one is, too.
    let first = town.muster("invite lou@else.example --role viewer").ok().trim().to_owned();
    let id = town.muster("invitation list --json").json()[0]["id"].as_str().unwrap().to_owned();
    let second = town.muster(&format!("invitation resend {id}")).ok().trim().to_owned();
    assert!(run(town.stranger().args(["invitation", "accept", &first])).fails(4).contains("newer"));
    assert_eq!(town.muster(&format!("invitation revoke {id} --yes")).ok(), format!("Revoked {id}.\n"));
    assert!(run(town.stranger().args(["invitation", "accept", &second])).fails(4).contains("withdrawn"));
    run(town.stranger().args(["invitation", "accept", "https://hub.example/invite"])).fails(2);
}

#[test]
fn service_accounts_and_limited_tokens() {
    let town = Town::new();
    let made = town.muster("service-account create ci --role viewer --description builds --json").json();
    assert_eq!(made["email"], "ci@acme.service");
    town.muster("service-account create deploy --project lab").fails(2);
    town.muster("service-account create deploy --project lab --project-role operate").ok();
    let said = town.muster("service-account token ci runner --scope read --expires 30d");
    assert!(said.err.contains("read in acme"), "{said:?}");
    let token = said.ok().trim().to_owned();
    let as_ci = |line: &str| run(town.command().env("MUSTER_TOKEN", &token).args(line.split_whitespace()));
    assert_eq!(as_ci("whoami --json").json()["email"], "ci@acme.service");
    as_ci("devices --json").json();
    assert!(as_ci("project create yard").fails(3).contains("its scope is read"));
    assert_eq!(town.muster("service-account tokens ci --json").json()[0]["scope"], "read");
    assert!(town.muster("service-account list").ok().contains("ci@acme.service"));
    town.muster("service-account delete ci --yes").ok();
    as_ci("whoami").fails(3);

    let limited = town.muster("access-token create lab-bot --scope reach --project lab --expires 1d --json").json();
    assert_eq!(
        (limited["org"].as_str(), limited["project"].as_str(), limited["scope"].as_str()),
        (Some("acme"), Some("lab"), Some("reach"))
    );
    // What is usual is no limit: only what stands on the line.
    assert!(town.muster("access-token create plain --json").json().get("org").is_none());
    town.muster("access-token create x --expires 361d").fails(2);
    assert!(town.muster("access-token list").ok().contains("reach in acme/lab"));
}

#[test]
fn the_operator_sets_an_account_aside_while_the_hub_runs() {
    let town = Town::new();
    let add = ["user", "add", "ann@acme.example", "--password-stdin", "--org", "acme", "--role", "member"];
    run_with(town.hub_command().args(add), PASSWORD).ok();
    let pin = town.token.rsplit('.').next().unwrap();
    let login = ["login", town.url.as_str(), "--email", "ann@acme.example", "--password-stdin", "--fingerprint", pin];
    run_with(town.stranger().args(login), PASSWORD).ok();
    run(town.hub_command().args(["user", "disable", "ann@acme.example"])).ok();
    assert!(town.as_stranger("whoami").fails(3).contains("disabled"));
    run_with(town.stranger().args(login), PASSWORD).fails(3);
    let list = run(town.hub_command().args(["user", "list", "--json"])).json();
    let state = |email: &str| list.as_array().unwrap().iter().find(|row| row["email"] == email).unwrap().clone();
    assert_eq!((state("ann@acme.example")["state"].as_str(), state(OWNER)["hub_owner"].as_bool()), (Some("disabled"), Some(true)));
    run(town.hub_command().args(["user", "enable", "ann@acme.example"])).ok();
    town.as_stranger("whoami").ok();
    assert!(run(town.hub_command().args(["user", "disable", OWNER])).fails(1).contains("last owner of the hub"));
    run(town.hub_command().args(["user", "owner", "ann@acme.example"])).ok();
    assert_eq!(town.as_stranger("whoami --json").json()["hub_owner"], true);
    run(town.hub_command().args(["user", "owner", "ann@acme.example", "--remove"])).ok();
}
