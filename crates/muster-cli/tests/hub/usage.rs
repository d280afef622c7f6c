//! Usage, credits, limits and the audit log, as they are typed.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::town::Town;

#[test]
fn credits_limits_and_usage() {
    let town = Town::new();
    let booked = town.muster("credit add 100.50 --note paid --key 17 --json").json();
    assert_eq!((booked["credits"].as_str(), booked["entry"].as_str()), (Some("100.5"), Some("top_up")));
    assert!(town.muster("credit add 100.50 --key 17").ok().starts_with("Booked 100.5 credits for acme, as line 1"));
    assert!(town.muster("credit add 1 --key 17").fails(1).contains("used already"));
    assert!(town.muster("credit add 1e3").fails(2).contains("12.50"));
    town.muster("credit add -0.5 --correction").ok();
    let billing = town.muster("billing").ok();
    assert!(billing.contains("100 credits") && billing.contains("cpu hour") && billing.contains("0.025"), "{billing}");
    assert!(town.muster("billing --ledger").ok().contains("top-up"));
    assert_eq!(town.muster("billing --ledger --csv").ok().lines().count(), 3);

    let limits = town.muster("limit set projects 1").ok();
    assert!(limits.contains("projects"), "{limits}");
    let refused = town.muster("project create second").fails(1);
    assert!(refused.contains("1 projects") && refused.contains("muster limit set projects NUMBER"), "{refused}");
    town.muster("limit set projects none").ok();
    town.muster("project create second").ok();
    assert_eq!(town.muster("limit show --json").json()["items"].as_array().unwrap().len(), 6);
    town.muster("limit set devices 7 --hub-owner --org nothing").fails(4);

    town.device("SN-1");
    let usage = town.muster("usage --json").json();
    assert!(usage["total"]["members"].as_u64().is_some_and(|members| members <= 1), "{usage}");
    assert!(town.muster("usage --csv --by device --from 7d").ok().starts_with("day,project,device,"));
    town.muster("usage --project lab").ok();
    town.muster("usage --device nothing").fails(4);
    town.muster("usage --since yesterday --until today").ok();
    assert!(town.muster("usage --from 2026-11-22 --to 2026-11-21").fails(2).contains("2026-11-22 is after --to 2026-11-21"));
    assert!(town.muster("usage --from 2020-01-01 --to 2026-01-01").fails(1).contains("are 2193 days; at most 800"));
    // Here the end is the hub's to say: today.
    assert!(town.muster("usage --from 2999-01-01").fails(1).contains("is after to, which is 2"));
    assert!(town.muster("limit set storage 10").fails(2).contains("Write the unit, such as 10GB"));
    assert!(town.muster("limit set storage 10GiB").ok().contains("10 GiB"));
    for noun in ["team", "field", "view", "limit", "credit", "invitation", "projects", "orgs", "session", "account"] {
        town.muster(noun).ok();
    }
}

#[test]
fn the_audit_log_as_a_file_and_as_it_happens() {
    let town = Town::new();
    let file = town.muster("audit --csv --action project.").ok();
    assert!(file.starts_with("id,t,actor,action,") && file.contains("project.create"), "{file}");
    let mut follow = town.command().args(["audit", "--follow", "--json", "--since", "1h"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    town.muster("project create live").ok();
    let found = lines.by_ref().map_while(Result::ok).any(|line| line.contains("\"project.create\"") && line.contains("\"live\""));
    follow.kill().unwrap();
    follow.wait().unwrap();
    assert!(found);
}
