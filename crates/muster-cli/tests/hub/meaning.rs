//! A command does what it says: an empty filter, a mistyped column, a device in several projects or in none, two with one name.

use crate::town::{Town, run};

/// A town with these devices, entered by hand.
fn fleet(names: &[&str]) -> Town {
    let town = Town::new();
    for name in names {
        town.muster(&format!("device add {name} --into lab")).ok();
    }
    town
}

#[test]
fn an_empty_filter_changes_nothing() {
    let town = fleet(&["robot-1", "robot-2"]);
    let with = |words: &[&str]| run(town.command().args(words));
    for words in [
        &["device", "delete", "--filter", "", "--yes"][..],
        &["device", "revoke", "--filter", " ", "--yes"],
        &["device", "edit", "--filter", "", "--set", "site=berlin", "--yes"],
        &["device", "admit", "--filter=", "--yes"],
        &["device", "renew", "--filter="],
    ] {
        assert!(with(words).fails(2).contains("the filter is empty. To mean every device, use --all"), "{words:?}");
    }
    // The same variable inside of a filter.
    for filter in ["name = *", "name ~ \"\"", "label = x or name = **"] {
        let said = with(&["device", "delete", "--filter", filter, "--yes"]).fails(1);
        assert!(said.contains("this would match everything"), "{filter}: {said}");
    }
    // To look at, it means everything.
    assert_eq!(with(&["devices", "--filter", "", "--json"]).json().as_array().map(Vec::len), Some(2));
    with(&["device", "delete", "--all", "--filter", "name = x", "--yes"]).fails(2);
    with(&["device", "delete", "--all", "robot-1", "--yes"]).fails(2);
    assert!(with(&["device", "edit", "--all", "--label", "spare", "--yes"]).ok().contains("Changed 2 devices."));
    assert!(with(&["device", "delete", "--all", "--yes"]).ok().contains("Deleted 2 devices."));
    assert_eq!(with(&["devices", "--json"]).json(), serde_json::json!([]));
}

#[test]
fn a_list_shows_what_was_asked_for() {
    let town = fleet(&["robot-1", "robot-2", "camera-1"]);
    town.muster("field create site --kind text").ok();
    town.muster("device edit robot-1 --label demo --label spare").ok();
    let names = |line: &str| -> Vec<String> {
        let rows = town.muster(&format!("devices --json {line}")).json();
        rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names("--label demo"), ["robot-1"]);
    assert_eq!(names("--label demo --label other"), [""; 0]);
    let filtered = |filter: &str| run(town.command().args(["devices", "--json", "--filter", filter])).json().as_array().unwrap().len();
    assert_eq!([filtered("name = robot-*"), filtered("name = *-1"), filtered("not name = robot-*")], [2, 2, 1]);
    assert_eq!([filtered("name = \"robot-*\""), filtered("label = sp*")], [0, 1], "in quotes it is a name");

    for column in ["foo", "admitted", "name,foo"] {
        let said = town.muster(&format!("devices --columns {column}")).fails(2);
        assert!(said.contains("there is no column") && said.contains("admission") && said.contains("site"), "{said}");
    }
    for (typed, meant) in
        [("admision", "did you mean admission?"), ("lables", "did you mean label or labels?"), ("sit", "did you mean site?")]
    {
        let said = town.muster(&format!("devices --columns {typed}")).fails(2);
        assert!(said.contains(meant), "{said}");
    }
    assert!(town.muster("devices --columns name,site,fact.os,admission").ok().contains("SITE"));
    // Nothing found is not the same as nothing there.
    assert_eq!(town.muster("devices nothing-like-it").err, "No devices match.\n");
    town.muster("device delete --all --yes").ok();
    assert!(town.muster("devices").err.starts_with("No devices yet."));
}

#[test]
fn an_edit_says_what_it_changed_and_two_with_one_name_are_pointed_out() {
    let town = fleet(&["robot-1", "robot-2"]);
    town.muster("field create site --kind text").ok();
    let said = town.muster("device edit robot-1 --set site=berlin --label spare").ok();
    assert_eq!(said, "Changed robot-1 (serial robot-1): site = berlin, label spare added.\n");
    let said = town.muster("device edit robot-2 --name robot-1");
    assert!(said.err.contains("another device is called robot-1, too") && said.err.contains("robot-2"), "{said:?}");
    assert!(town.muster("device edit robot-2 --name robot-9").err.is_empty());
}

#[test]
fn the_project_is_chosen_by_rule_and_its_want_is_named() {
    let town = fleet(&[]);
    let token = town.enrolment_token("--project lab --admit auto");
    town.enrol("seven", "robot-7", &token);
    town.muster("project create yard").ok();
    town.muster("device edit robot-7 --add-project yard").ok();
    // In both projects and with none in use it is reached all the same; here it never came.
    let said = town.muster("shell robot-7 -- true").fails(5);
    assert!(said.contains("is not connected"), "{said}");

    town.muster("device edit robot-7 --remove-project yard --remove-project lab").ok();
    let want = "robot-7 is in no project, so nobody can connect to it yet. Add it to one: muster device edit robot-7 --add-project PROJECT";
    for line in ["shell robot-7 -- true", "run robot-7 -- true"] {
        let said = town.muster(line).fails(3);
        assert!(said.contains(want), "{said}");
    }
    // A token whose devices would be in no project is not made by accident.
    let said = town.muster("token create").fails(2);
    assert!(said.contains("name the project for these devices: one of lab, yard"), "{said}");
    let made = town.muster("token create --no-project");
    assert!(made.err.contains("in no project, so nobody can connect to them until you add them to one"), "{made:?}");
}

#[test]
fn a_refusal_is_a_sentence() {
    let town = fleet(&["robot-1"]);
    let made = town.muster("service-account create ci --role viewer").ok();
    assert!(!made.is_empty());
    let token = town.muster("service-account token ci runner --scope full").ok().trim().to_owned();
    let said = run(town.command().env("MUSTER_TOKEN", token).args(["invite", "kim@else.example", "--role", "member"])).fails(3);
    assert!(said.contains("You can't invite or change members: that takes the owner role in acme, and you are a"), "{said}");
}

#[test]
fn files_in_the_encodings_of_spreadsheets_are_read() {
    let town = fleet(&["robot-1", "robot-2"]);
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let utf16 = |text: &str| format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let rows = file("rows.csv", &utf16("id\tname\r\nrobot-1\tgripper\r\n"));
    assert!(town.muster(&format!("devices import {rows} --yes")).ok().contains("Imported 1 row"));
    assert_eq!(town.muster("devices gripper --json").json()[0]["id"], "robot-1");
    let serials = file("serials.txt", &utf16("SN-1\r\nSN-2\r\n"));
    town.muster(&format!("token create --project lab --serials {serials}")).ok();
    assert_eq!(town.muster("token list --json").json()[0]["serials"], serde_json::json!(["SN-1", "SN-2"]));
    town.muster("project create yard").ok();
    let names = file("names.txt", &utf16("robot-1\r\nrobot-2\r\n"));
    assert!(town.muster(&format!("project add-devices yard --file {names}")).ok().contains("2 devices are"));

    let latin = file("latin.txt", b"robot-1\nr\xf6bot\n");
    for line in [
        format!("devices import {latin} --yes"),
        format!("token create --project lab --serials {latin}"),
        format!("project add-devices yard --file {latin}"),
    ] {
        let said = town.muster(&line);
        assert!(said.err.contains("line 2 is not UTF-8 text (perhaps it is Latin-1"), "{line}: {said:?}");
    }
}
