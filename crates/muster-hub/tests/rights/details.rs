//! Rights that decide not whether there is an answer, but what is in it: what devices state, how they are used, shared views and
//! custom fields. Every person of the grid looks; what he may not see is as if it were not there, in filters and orders too.

use muster_hub::clock;
use muster_hub::rights::Action::{self, SeeMembers, ViewDevice};
use muster_proto::topic::Up;
use serde_json::{Value, json};

use crate::caller::Caller;
use crate::grid::{GRID, Proof, Row, STANDINGS, Standing, may};
use crate::stage::Stage;

const FILTERS: [&str; 11] = [
    "cpu > 0",
    "mem > 0",
    "disk > 0",
    "temp > 0",
    "load > 0",
    "usage.load1 > 0",
    "sessions >= 0",
    "spooled >= 0",
    "hostname = hidden-host",
    "fact.hostname ~ hidden",
    "not (cpu is empty)",
];

fn row(action: Action) -> &'static Row {
    GRID.iter().find(|row| row.0 == action).unwrap()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The page of devices by a filter.
async fn page(caller: &Caller, filter: &str, more: &str) -> Value {
    caller.get(&format!("/v1/orgs/acme/devices?filter={}{more}", encoded(filter))).await
}

fn ids(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|device| device["id"].as_str().unwrap()).collect()
}

/// Those who have anything in the organization and a token that is good.
fn looking() -> impl Iterator<Item = &'static Standing> {
    STANDINGS.iter().filter(|standing| {
        matches!(standing.proof, Proof::Token(..)) && !format!("{} {}", standing.hats, standing.elsewhere).trim().is_empty()
    })
}

/// The linked devices have stated something, and sent a sample.
async fn report(stage: &Stage) {
    let facts = "UPDATE devices SET facts = '{\"hostname\":\"hidden-host\"}' WHERE serial LIKE 'linked-%'";
    assert_eq!(stage.write(|tx| tx.execute(facts, [])).await, 4);
    let ingest = &stage.running.as_ref().unwrap().state.ingest;
    for (n, device) in stage.linked.values().enumerate() {
        let values = json!({
            "cpu": [0.1 + n as f64 / 10.0], "load1": [1.0], "mem": [1e9], "mem_total": [8e9], "disk:/": [1e9], "disk_total:/": [8e9],
            "temp:cpu": [50.0],
        });
        let batch = json!({ "boot": "0123456789abcdef", "first_seq": 1, "n": 1, "t0": clock::now(), "step_s": 10.0, "c": values });
        ingest.up(&device.uid.parse().unwrap(), &Up::Usage, batch.to_string().as_bytes()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_not_view_a_device_finds_no_trace_of_its_details() {
    let stage = Stage::new().await;
    report(&stage).await;
    let (mut played, mut hidden) = (0, 0);
    for standing in looking() {
        let caller = stage.cast(standing).await;
        let uid = &stage.linked[standing.place].uid;
        let (name, sees, views) = (standing.name, !standing.hats.is_empty(), may(row(ViewDevice), standing.hats));
        let answer = caller.send("GET", &format!("/v1/orgs/acme/devices/{uid}"), "").await;
        assert_eq!(answer.status, if sees { 200 } else { 404 }, "{name}");
        if sees {
            let device = answer.ok();
            let shown = [
                device["facts"]["hostname"] == "hidden-host",
                device["usage"]["values"]["cpu"].is_number(),
                device["sessions"].is_number(),
                device["spooled"].is_number(),
            ];
            assert_eq!(shown, [views; 4], "{name}: {device}");
            assert_eq!(answer.text().contains("hidden-host"), views, "{name}: {device}");
        }
        assert_eq!(page(&caller, &format!("uid = {uid}"), "").await["total"], u64::from(sees), "{name}");
        for filter in FILTERS {
            let found = page(&caller, &format!("uid = {uid} and {filter}"), "&sort=-cpu,hostname").await;
            assert_eq!(found["total"], u64::from(views), "{name}: {filter}: {found}");
            played += 1;
        }
        let empty = page(&caller, &format!("uid = {uid} and cpu is empty and hostname is empty"), "").await;
        assert_eq!(empty["total"], u64::from(sees && !views), "{name}: {empty}");
        let path = format!("/v1/orgs/acme/devices/export?columns=id,sessions,hostname,load&filter={}", encoded(&format!("uid = {uid}")));
        let file = caller.send("GET", &path, "").await.text();
        let line = format!("linked-{},{}", standing.place, if views { "0,hidden-host,1\n" } else { ",,\n" });
        assert_eq!(file, format!("id,sessions,hostname,load\n{}", if sees { line } else { String::new() }), "{name}");
        hidden += usize::from(sees && !views);
    }
    assert!(played > 400 && hidden >= 3, "{played} looks, hidden from {hidden}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_by_what_is_hidden_is_no_order() {
    let stage = Stage::new().await;
    report(&stage).await;
    let by = |name: &str| STANDINGS.iter().find(|standing| standing.name == name).unwrap();
    // A viewer has `view` in the internal project alone.
    let viewer = stage.cast(by("viewer")).await;
    let [up, down] = [page(&viewer, "", "&sort=cpu").await, page(&viewer, "", "&sort=-cpu").await];
    assert_eq!((ids(&up).len(), ids(&up)[0]), (4, "linked-hall"));
    assert_eq!(ids(&up), ids(&down));
    let owner = stage.cast(by("owner")).await;
    let [up, down] = [page(&owner, "", "&sort=cpu").await, page(&owner, "", "&sort=-cpu").await];
    assert_eq!(ids(&up), ids(&down).into_iter().rev().collect::<Vec<_>>());
    // Nor is a bulk change aimed by it.
    let member = stage.cast(by("member")).await;
    let wanted = json!({ "action": "edit", "filter": "cpu > 0", "add_labels": ["busy"], "dry_run": true });
    assert_eq!(member.post("/v1/orgs/acme/devices/bulk", wanted).await["matched"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_and_fields_of_the_organization_are_for_those_who_belong() {
    let stage = Stage::new().await;
    for (key, choices) in [("site", json!(["vault-1", "elsewhere"])), ("secret", json!(["plan"]))] {
        stage.owner.post("/v1/orgs/acme/fields", json!({ "key": key, "kind": "choice", "choices": choices })).await;
    }
    for (place, device) in &stage.linked {
        let site = if *place == "shed" { "elsewhere" } else { "vault-1" };
        let path = format!("/v1/orgs/acme/devices/{}", device.uid);
        let edited = stage.owner.send("PATCH", &path, &json!({ "fields": { "site": site } }).to_string()).await;
        assert!(edited.is_ok(), "{}", edited.text());
    }
    for (name, filter) in [("plain", "online"), ("of the shed", "project = shed"), ("of the hall", "project = hall")] {
        stage.owner.post("/v1/orgs/acme/views", json!({ "name": name, "filter": filter, "shared": true })).await;
    }
    let mut outside = 0;
    for standing in looking() {
        let caller = stage.cast(standing).await;
        let (fields, views) = (caller.get("/v1/orgs/acme/fields").await, caller.get("/v1/orgs/acme/views").await);
        let named = |page: &Value, key: &str| {
            let names = page["items"].as_array().unwrap().iter().map(|item| item[key].as_str().unwrap().to_owned());
            names.collect::<std::collections::BTreeSet<_>>()
        };
        let everywhere = format!("{} {}", standing.hats, standing.elsewhere);
        let limited = matches!(standing.proof, Proof::Token(_, _, project) if !project.is_empty());
        let belongs = may(row(SeeMembers), &everywhere);
        assert_eq!(named(&fields, "key").contains("secret"), belongs, "{}: {fields}", standing.name);
        assert_eq!(named(&views, "name").contains("plain"), belongs, "{}: {views}", standing.name);
        let owns = everywhere.split(' ').any(|hat| hat == "owner");
        assert_eq!(named(&views, "name").contains("of the shed"), owns, "{}: {views}", standing.name);
        assert_eq!(named(&views, "name").contains("of the hall"), belongs, "{}: {views}", standing.name);
        if !belongs {
            let site = &fields["items"][0];
            let there = if standing.hats.is_empty() { "elsewhere" } else { "vault-1" };
            assert_eq!((fields["items"].as_array().unwrap().len(), &site["choices"]), (1, &json!([there])), "{}: {fields}", standing.name);
            for (filter, known) in
                [("site = vault-1", there == "vault-1"), ("site = elsewhere", there == "elsewhere"), ("secret = plan", false)]
            {
                let answer = caller.send("GET", &format!("/v1/orgs/acme/devices?filter={}", encoded(filter)), "").await;
                assert_eq!(answer.is_ok(), known, "{}: {filter}: {}", standing.name, answer.text());
            }
            outside += 1;
        }
        // A view that is not there for somebody is not there by its name either.
        let by_view = caller.send("GET", &format!("/v1/orgs/acme/devices?view={}", encoded("of the shed")), "").await;
        assert_eq!(by_view.status, if owns { 200 } else { 404 }, "{}: {}", standing.name, by_view.text());
        assert!(!limited || !belongs, "{}", standing.name);
    }
    assert!(outside > 20, "{outside}");
}
