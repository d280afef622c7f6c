//! Several owners change the same things at the same time: edits, decisions, deletions, archives, teams, members.
//!
//! At the end nothing belongs to something that is gone, each change has its event and each event its change,
//! and the hub's memory is what a hub that starts on the same database reads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use crate::caller::{Answer, Caller};
use crate::grid::{STANDINGS, Standing};
use crate::process::Process;
use crate::records;
use crate::stage::{Stage, email, so_many, together};
use crate::targets::{Fresh, ask_to_enrol, fresh};

/// Owners who work at the same time, and what each of them does.
const OWNERS: usize = 6;
const STEPS: usize = 70;
/// Things that they have in common: few, so that they meet.
const DEVICES: usize = 24;
const PEOPLE: usize = 10;
const PROJECTS: [&str; 3] = ["p-one", "p-two", "p-three"];
const TEAMS: [&str; 3] = ["t-one", "t-two", "t-three"];

/// One step: the call, the records' name for it, and whether each success is recorded, even one that changed nothing.
struct Step {
    method: &'static str,
    path: String,
    body: Value,
    action: &'static str,
    always: bool,
}

/// Numbers that follow from a seed: a storm that goes wrong goes wrong again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn of<'a>(&mut self, names: &'a [String]) -> &'a str {
        &names[self.below(names.len())]
    }
}

struct Names {
    devices: Vec<String>,
    people: Vec<String>,
}

fn step(dice: &mut Dice, names: &Names) -> Step {
    let device = format!("/v1/orgs/acme/devices/{}", dice.of(&names.devices));
    let (project, team) = (PROJECTS[dice.below(3)], TEAMS[dice.below(3)]);
    let (in_project, in_team) = (format!("/v1/orgs/acme/projects/{project}"), format!("/v1/orgs/acme/teams/{team}"));
    let person = dice.of(&names.people).to_owned();
    let several: Vec<&str> = (0..4).map(|_| dice.of(&names.devices)).collect::<BTreeSet<_>>().into_iter().collect();
    let step = |method, path, body, action, always| Step { method, path, body, action, always };
    match dice.below(20) {
        0 | 1 => step("PATCH", device, json!({ "name": format!("name {}", dice.below(1000)) }), "device.edit", true),
        2 => step("PATCH", device, json!({ "add_projects": [project] }), "device.edit", true),
        3 => step("PATCH", device, json!({ "remove_projects": [project] }), "device.edit", true),
        4 | 5 => step("POST", device + "/admit", Value::Null, "device.admit", false),
        6 => step("POST", device + "/reject", Value::Null, "device.reject", false),
        7 => step("POST", device + "/revoke", Value::Null, "device.revoke", false),
        8 => step("DELETE", device, Value::Null, "device.delete", true),
        9 | 10 => step("POST", in_project + "/devices", json!({ "add": several }), "project.devices", true),
        11 => step("POST", in_project + "/devices", json!({ "remove": several }), "project.devices", true),
        12 => step("POST", in_project + "/archive", Value::Null, "project.archive", false),
        13 => step("POST", in_project + "/restore", Value::Null, "project.restore", false),
        14 => step("POST", "/v1/orgs/acme/teams".into(), json!({ "id": team }), "team.create", true),
        15 => step("DELETE", in_team, Value::Null, "team.delete", true),
        16 => step("PUT", format!("{in_team}/members/{person}"), json!({}), "team.member_put", false),
        17 => step("PUT", format!("{in_project}/teams/{team}"), json!({ "role": "operate" }), "project.team_put", true),
        18 => step("PUT", format!("{in_project}/participants/{person}"), json!({ "role": "view" }), "participant.put", true),
        _ => step("DELETE", format!("/v1/orgs/acme/members/{person}"), Value::Null, "member.delete", true),
    }
}

/// What an owner did: by action and result, how often, and how often at least it is recorded.
type Tally = BTreeMap<(String, String), (usize, usize)>;

async fn work(caller: Caller, names: Arc<Names>, seed: u64) -> Tally {
    let mut dice = Dice(seed);
    let mut tally = Tally::new();
    for _ in 0..STEPS {
        let step = step(&mut dice, &names);
        let body = if step.body.is_null() { String::new() } else { step.body.to_string() };
        let answer: Answer = caller.send(step.method, &step.path, &body).await;
        assert!(
            answer.is_ok() || [404, 409].contains(&answer.status),
            "{} {} {body}: {} {}",
            step.method,
            step.path,
            answer.status,
            answer.text()
        );
        let result = if answer.is_ok() { "ok".to_owned() } else { answer.code() };
        let (most, least) = tally.entry((step.action.to_owned(), result)).or_default();
        *most += 1;
        *least += usize::from(!answer.is_ok() || step.always);
    }
    tally
}

/// The whole device list, without what only a hub that has been running knows.
async fn listed(owner: &Caller) -> Vec<Value> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = owner.get(&format!("/v1/orgs/acme/devices?limit=7{cursor}")).await;
        rows.extend(page["items"].as_array().unwrap().iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    for row in &mut rows {
        // The linked devices went with the hub.
        for field in ["presence", "presence_since", "last_seen", "why", "sessions"] {
            row.as_object_mut().unwrap().remove(field);
        }
    }
    rows.sort_by_key(|row| row["uid"].to_string());
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_changes_leaves_nothing_half_done() {
    let started = Instant::now();
    let mut stage = Stage::new().await;
    for project in PROJECTS {
        stage.owner.post("/v1/orgs/acme/projects", json!({ "id": project })).await;
    }
    let targets = (0..DEVICES).map(|n| {
        let stage = Arc::clone(&stage);
        async move { fresh(&stage, if n % 2 == 0 { Fresh::Device } else { Fresh::Pending }, "vault").await["new"].clone() }
    });
    let devices = together(targets.collect()).await;
    let people: Vec<String> = (0..PEOPLE).map(|_| stage.member()).collect();
    let names = Arc::new(Names { devices: devices.clone(), people: people.clone() });
    let mut owners = Vec::new();
    for n in 0..OWNERS {
        let standing = Standing { name: format!("storm-{n}").leak(), ..STANDINGS[0] };
        owners.push((email(&standing), stage.cast(&standing).await));
    }
    let db = records::open(&stage.database);
    let mark = records::newest(&db);

    // Devices that were deleted enrol again while all this goes on.
    let again = {
        let (stage, devices) = (Arc::clone(&stage), devices.clone());
        tokio::spawn(async move {
            for serial in devices.iter().chain(&devices) {
                let answer = ask_to_enrol(&stage, &stage.tokens["vault"].0, serial).await;
                assert!(answer.status < 500, "{serial}: {}", answer.text());
            }
        })
    };
    let storm = owners.iter().zip(1..).map(|((_, caller), seed)| work(caller.clone(), Arc::clone(&names), seed));
    let tallies = so_many(OWNERS, storm.collect()).await;
    again.await.unwrap();

    records::hangs_together(&db);
    let events = records::events(&db, mark);
    let mut done = 0;
    for ((email, _), tally) in owners.iter().zip(&tallies) {
        for ((action, result), (most, least)) in tally {
            let found = events.iter().filter(|event| (&event.actor, &event.action, &event.result) == (email, action, result)).count();
            assert!((*least..=*most).contains(&found), "{email}: {action} {result}: {least} to {most} calls, {found} events");
            done += if result == "ok" { most } else { &0 };
        }
        let known: usize = tally.values().map(|(most, _)| most).sum();
        assert_eq!(known, STEPS);
        let recorded = events.iter().filter(|event| event.actor == *email).count();
        assert!(recorded <= STEPS, "{email}: {recorded} events of {STEPS} calls");
    }
    for person in gone(&events_of(&db, mark), &people) {
        let left = records::traces_of_member(&db, person);
        assert_eq!(left, 0, "{person} was taken out of the organization and is still in {left} of its places");
    }

    // What the hub remembers is what the database says.
    let before = listed(&stage.owner).await;
    let inner = Arc::get_mut(&mut stage).expect("nobody else holds the stage any more");
    inner.running.take().unwrap().stop().await;
    let hub = Process::start(&stage.dir.path().join("data")).await;
    stage.line.moved(hub.https);
    let after = listed(&stage.owner).await;
    assert_eq!(before, after, "the list of the running hub and of one that has just started");
    hub.kill().await;
    println!(
        "{} calls by {OWNERS} owners at once, {done} of them done, {} devices left; {:?}",
        OWNERS * STEPS,
        after.len(),
        started.elapsed()
    );
    assert!(done > OWNERS * STEPS / 4, "most of it was refused: {done}");
}

/// Successful changes of members, in their order: what was done, and to whom.
fn events_of(db: &rusqlite::Connection, mark: i64) -> Vec<(String, String)> {
    let sql =
        "SELECT action, target FROM audit WHERE id > ?1 AND result = 'ok' AND action IN ('member.delete', 'participant.put') ORDER BY id";
    let mut statement = db.prepare(sql).unwrap();
    let rows = statement.query_map([mark], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.map(Result::unwrap).collect()
}

/// Those of the people whose last change was that they were taken out.
fn gone<'a>(events: &[(String, String)], people: &'a [String]) -> Vec<&'a str> {
    let last = |person: &str| events.iter().rev().find(|(_, target)| target.rsplit('/').next() == Some(person));
    let out = people.iter().filter(|person| last(person).is_some_and(|(action, _)| action == "member.delete"));
    out.map(String::as_str).collect()
}
