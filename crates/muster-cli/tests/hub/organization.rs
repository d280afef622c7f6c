//! The organization on the command line: what it says of itself, its teams, its projects, and how somebody goes.

use crate::town::{OWNER, Town, run, run_with};

#[test]
fn an_organization_is_edited_and_deleted_when_nothing_stands_in_the_way() {
    let town = Town::new();
    let made = "org create zeta --name Zeta --location Łódź --website https://zeta.example --json";
    assert_eq!(town.muster(made).json()["location"], "Łódź");
    assert_eq!(town.muster("org edit zeta --description Robots --location Bonn --website=").ok(), "Changed organization zeta.\n");
    let shown = town.muster("org show zeta --json").json();
    assert_eq!((shown["description"].as_str(), shown["location"].as_str(), shown.get("website")), (Some("Robots"), Some("Bonn"), None));
    assert!(town.muster("org show zeta").ok().contains("Bonn"));
    assert!(town.muster("org edit zeta").fails(2).contains("nothing to change"));
    assert!(town.muster("org edit zeta --website javascript:alert(1)").fails(1).contains("web address"));

    assert!(town.muster("org leave zeta").fails(2).contains("give --yes"));
    assert!(town.muster("org leave zeta --yes").fails(1).contains("last owner"));
    assert!(town.muster(&format!("member set {OWNER} --role viewer")).fails(1).contains("last owner"));
    town.muster("--org zeta project create pit").ok();
    let refused = town.muster("org delete zeta --yes").fails(1);
    assert!(refused.contains("1 project that is not archived (archive them: muster project archive)"), "{refused}");
    assert!(town.muster("--org zeta project archive pit").fails(2).contains("give --yes"));
    town.muster("--org zeta project archive pit --yes").ok();
    assert!(town.muster("org delete zeta").fails(2).contains("Nothing of it comes back"));
    assert_eq!(town.muster("org delete zeta --yes").ok(), "Deleted organization zeta.\n");
    town.muster("org show zeta").fails(4);
    assert!(town.muster("org create zeta").fails(1).contains("was deleted"));
}

#[test]
fn logos_go_to_the_hub_and_come_back_as_they_were() {
    let town = Town::new();
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x40\0\0\0\x20\x08\x06\0\0\0\0\0\0\0".to_vec();
    png.extend([7; 1000]);
    let (logo, back) = (town.file("logo.png"), town.file("back.png"));
    std::fs::write(&logo, &png).unwrap();
    run(town.command().args(["org", "logo", "set"]).arg(&logo)).ok();
    assert!(town.muster("org show").ok().contains("muster org logo save"));
    run(town.command().args(["org", "logo", "save"]).arg(&back)).ok();
    assert_eq!(std::fs::read(&back).unwrap(), png);
    // What is there is not written over.
    assert!(run(town.command().args(["org", "logo", "save"]).arg(&back)).fails(1).contains("cannot write"));
    std::fs::write(&logo, "<svg/>                      ").unwrap();
    assert!(run(town.command().args(["org", "logo", "set"]).arg(&logo)).fails(1).contains("PNG, JPEG or WebP"));
    std::fs::write(&logo, vec![0; 300 * 1024]).unwrap();
    assert!(run(town.command().args(["org", "logo", "set"]).arg(&logo)).fails(2).contains("at most 256"));
    assert!(run(town.command().args(["org", "logo", "set"]).arg(town.file("none"))).fails(1).contains("cannot read"));
    town.muster("org logo remove --yes").ok();
    run(town.command().args(["org", "logo", "save"]).arg(town.file("again.png"))).fails(4);
}

#[test]
fn teams_from_their_making_to_their_end() {
    let town = Town::new();
    assert!(town.muster("team list").ok().is_empty());
    town.muster("team create crew --name Crew --description Night").ok();
    assert_eq!(town.muster(&format!("team add crew {OWNER}")).ok(), format!("{OWNER} is now in team crew.\n"));
    assert!(town.muster("team add crew nobody@acme.example").fails(4).contains("nobody@acme.example"));
    assert_eq!(town.muster("project team add lab crew --role connect").ok(), "Team crew now has the role connect in lab.\n");
    let team = town.muster("team show crew --json").json();
    assert_eq!((team["people"][0]["email"].as_str(), team["projects"][0]["role"].as_str()), (Some(OWNER), Some("connect")));
    let shown = town.muster("team show crew").ok();
    assert!(shown.contains("lab (connect)") && shown.contains(OWNER), "{shown}");
    assert!(town.muster("team list").ok().contains("lab (connect)"));
    assert_eq!(town.muster("project teams lab --json").json()[0]["id"], "crew");
    assert!(town.muster("project participants lab").ok().contains("crew"));
    town.muster("team edit crew --description=").ok();
    assert!(town.muster("team show crew --json").json().get("description").is_none());
    town.muster("project team remove lab crew --yes").ok();
    town.muster(&format!("team remove crew {OWNER}")).ok();
    town.muster(&format!("team remove crew {OWNER}")).fails(4);
    assert!(town.muster("team delete crew").fails(2).contains("give --yes"));
    town.muster("team delete crew --yes").ok();
    town.muster("team show crew").fails(4);
}

#[test]
fn projects_are_edited_archived_and_filled_in_bulk() {
    let town = Town::new();
    for serial in ["SN-1", "SN-2", "SN-3"] {
        town.device(serial);
    }
    town.muster("project create yard --description Outside --visibility private").ok();
    town.muster("project edit yard --name 'Yard' --visibility internal").ok();
    let said = town.muster("project add-devices yard SN-1 SN-2");
    assert_eq!(said.ok(), "2 devices are now in yard.\n");
    assert_eq!(
        town.muster("project add-devices yard SN-2 SN-3").ok(),
        "1 device is now in yard; 1 had been in it before, or were named twice.\n"
    );
    let refused = town.muster("project remove-devices yard SN-1 SN-9").fails(4);
    assert!(refused.contains("nothing was changed") && refused.contains("SN-9"), "{refused}");
    let list = town.file("devices.txt");
    std::fs::write(&list, "# two\nSN-1\n\nSN-2\n").unwrap();
    run(town.command().args(["project", "remove-devices", "yard", "--file"]).arg(&list)).ok();
    assert_eq!(run_with(town.command().args(["project", "add-devices", "yard", "--file", "-", "--json"]), "SN-1\n").json()["added"], 1);
    assert!(
        run_with(town.command().args(["project", "add-devices", "yard", "--file", "-"]), "# none\n").fails(2).contains("names no device")
    );
    let shown = town.muster("project show yard").ok();
    assert!(shown.contains("Outside") && shown.contains("2, 0 online"), "{shown}");

    town.muster("project archive yard --yes").ok();
    assert!(town.muster("project show yard").ok().contains("read-only"));
    assert!(town.muster("project list").ok().contains("archived"));
    assert!(town.muster("project edit yard --name x").fails(1).contains("archived"));
    assert!(town.muster("--project yard shell SN-1").fails(1).contains("archived"));
    town.muster("project restore yard").ok();
    town.muster("project edit yard --description=").ok();
    assert!(town.muster("project show yard --json").json().get("description").is_none());
    assert!(town.muster("project edit yard").fails(2).contains("nothing to change"));
    assert_eq!(town.muster("member list --json").json()[0]["email"], OWNER);
    assert!(town.muster("member collaborators --json").json().as_array().unwrap().is_empty());
}
