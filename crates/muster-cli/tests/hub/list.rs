//! The device list as a working tool: fields, filters, views, many at once, files.

use crate::town::{Town, run};

fn fleet() -> Town {
    let town = Town::new();
    town.muster("field add site --title Site").ok();
    town.muster("field add rack --kind number").ok();
    town.muster("field add stage --kind choice --choices test,live").ok();
    let said = town.muster("device add SN-1 --name robot-1 --set site=bonn --set rack=1 --set stage=test --label new --into lab").ok();
    assert_eq!(said, "Entered robot-1 (serial SN-1).\n");
    let (file, mut lines) = (town.home().join("fleet.csv"), String::from("id,name,site,rack,stage,labels,projects\n"));
    for n in 2..=12 {
        let (site, into) = (if n % 2 == 0 { "berlin" } else { "bonn" }, if n == 2 { "lab" } else { "" });
        lines += &format!("SN-{n},robot-{n},{site},{n},test,new,{into}\n");
    }
    std::fs::write(&file, lines).expect("a file in a folder of one's own");
    muster(&town, &["devices", "import", &file.to_string_lossy(), "--yes"]).ok();
    town
}

fn muster(town: &Town, args: &[&str]) -> crate::town::Said {
    run(town.command().args(args))
}

#[test]
fn filters_orders_columns_and_views() {
    let town = fleet();
    let list = muster(
        &town,
        &["devices", "--filter", "site = berlin and rack > 4", "--sort", "-rack", "--columns", "name,site,rack,online,labels"],
    )
    .ok();
    let lines: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "SITE", "RACK", "ONLINE", "LABELS"]);
    assert_eq!(lines[1..].iter().map(|line| line[0]).collect::<Vec<_>>(), ["robot-12", "robot-10", "robot-8", "robot-6"]);
    assert_eq!(lines[1], ["robot-12", "berlin", "12", "no", "new"]);
    let json = muster(&town, &["devices", "--json", "--filter", "rack <= 3", "--limit", "2", "--sort", "rack"]).json();
    assert_eq!((json.as_array().unwrap().len(), json[0]["fields"]["rack"].as_u64()), (2, Some(1)));
    assert_eq!(muster(&town, &["devices", "robot-1*", "--json", "--filter", "site = bonn"]).json().as_array().unwrap().len(), 2);
    let refused = muster(&town, &["devices", "--filter", "sitee = x"]).fails(1);
    assert!(refused.contains("filter: at character 1: unknown field `sitee`; did you mean `site`"), "{refused}");

    assert!(town.muster("view list").ok().is_empty());
    muster(&town, &["view", "save", "berlin", "--filter", "site = berlin", "--sort", "-rack", "--columns", "name,rack", "--shared"]).ok();
    muster(&town, &["view", "save", "berlin", "--sort", "rack", "--shared"]).ok();
    let list = town.muster("devices --view berlin --limit 2").ok();
    assert_eq!(list.split_whitespace().collect::<Vec<_>>(), ["NAME", "RACK", "robot-2", "2", "robot-4", "4"]);
    assert!(town.muster("view list").ok().contains("site = berlin"));
    town.muster("view delete berlin").fails(2);
    town.muster("view delete berlin --shared --yes").ok();
    town.muster("devices --view berlin").fails(4);
}

#[test]
fn many_at_once_are_counted_first() {
    let town = fleet();
    let asked = muster(&town, &["device", "edit", "--filter", "site = bonn", "--set", "stage=live", "--unlabel", "new"]).fails(2);
    assert!(asked.contains("Change 6 devices?") && asked.contains("--yes"), "{asked}");
    let done = muster(&town, &["device", "edit", "--filter", "site = bonn", "--set", "stage=live", "--unlabel", "new", "--yes"]).ok();
    assert_eq!(done, "Changed 6 devices.\n");
    assert_eq!(muster(&town, &["devices", "--json", "--filter", "stage = live and label is empty"]).json().as_array().unwrap().len(), 6);
    let none = muster(&town, &["device", "edit", "--filter", "site = bonn", "--set", "stage=live"]).ok();
    assert!(none.contains("none of them would change"), "{none}");
    muster(&town, &["device", "edit", "--filter", "rack > 8", "--add-project", "lab", "--yes"]).ok();
    assert_eq!(town.muster("devices --json --project lab").json().as_array().unwrap().len(), 6);
    muster(&town, &["device", "edit", "--filter", "", "--add-project", "lab", "--set", "rack=1"]).fails(2);
    muster(&town, &["device", "admit", "--filter", "rack = 1", "SN-2"]).fails(2);
    assert!(muster(&town, &["device", "delete", "--filter", "rack > 10"]).fails(2).contains("Delete 2 devices?"));
    muster(&town, &["device", "delete", "--filter", "rack > 10", "--yes"]).ok();
    assert_eq!(town.muster("devices --json").json().as_array().unwrap().len(), 10);

    // What is lost is said first.
    let asked = town.muster("field delete rack").fails(2);
    assert!(asked.contains("10 devices have a value in rack"), "{asked}");
    town.muster("field delete rack --yes").ok();
    assert!(!town.muster("field list").ok().contains("rack"));
    let asked = town.muster("field edit stage --choices test").fails(2);
    assert!(asked.contains("devices have the choice \"live\""), "{asked}");
}

#[test]
fn a_file_goes_out_and_comes_in() {
    let town = fleet();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("devices.csv");
    let name = file.to_str().unwrap();
    muster(&town, &["devices", "export", "--filter", "rack <= 2", "--columns", "id,name,site,labels", "-o", name]).ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "id,name,site,labels\nSN-1,robot-1,bonn,new\nSN-2,robot-2,berlin,new\n");
    std::fs::write(&file, "id,name,site,labels\nSN-1,robot-1,köln,new;big\nSN-2,robot-2,berlin,new\nCAM-1,gate,bonn,\n").unwrap();
    let tried = muster(&town, &["devices", "import", name, "--dry-run"]).ok();
    assert_eq!(tried, "3 rows would be 1 new, 1 changed, 1 unchanged.\n");
    assert!(muster(&town, &["devices", "import", name]).fails(2).contains("Import 3 rows: 1 new, 1 changed, 1 unchanged?"));
    muster(&town, &["devices", "import", name, "--yes"]).ok();
    let one = town.muster("device show SN-1 --json").json();
    assert_eq!((one["fields"]["site"].as_str(), one["labels"].as_array().unwrap().len()), (Some("köln"), 2));
    let page = town.muster("device show SN-1").ok();
    assert!(page.contains("labels") && page.contains("big, new") && page.contains("köln"), "{page}");
    std::fs::write(&file, "id,name\nSN-1,\"robot\nSN-2,gate\n").unwrap();
    let refused = muster(&town, &["devices", "import", name, "--yes"]).fails(1);
    assert!(refused.contains("line 2: a quote is opened here and never closed; nothing was imported"), "{refused}");
    std::fs::write(&file, "id,rack,colour\nSN-1,many,red\n").unwrap();
    let refused = muster(&town, &["devices", "import", name, "--yes"]).fails(1);
    assert!(refused.contains("line 2, column rack: expected a number") && refused.contains("line 1, column colour"), "{refused}");
    muster(&town, &["devices", "import", "/nowhere/devices.csv"]).fails(1);
}
