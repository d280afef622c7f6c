//! Limits: who sets which, and that nothing is half done where one is reached.

use serde_json::{Value, json};

use crate::world::{Answer, Client, Device, World};

async fn set(client: &Client, scope: &str, name: &str, most: Option<u64>) -> Value {
    client.patch("/v1/orgs/acme/limits", json!({ "scope": scope, "limits": [{ "name": name, "most": most }] })).await.ok(200)
}

fn of<'a>(limits: &'a Value, name: &str) -> &'a Value {
    limits["items"].as_array().unwrap().iter().find(|limit| limit["name"] == name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_of_what_the_hub_and_the_owners_set() {
    let world = World::new().await;
    let limits = world.owner.get("/v1/orgs/acme/limits").await.ok(200);
    assert_eq!(limits["items"].as_array().unwrap().len(), 6);
    assert_eq!((&of(&limits, "projects")["used"], &of(&limits, "projects")["most"]), (&json!(1), &Value::Null));
    assert_eq!(of(&limits, "users")["used"], 1);
    let limits = set(&world.owner, "hub", "projects", Some(5)).await;
    assert_eq!((&of(&limits, "projects")["most"], &of(&limits, "projects")["hub_override"]), (&json!(5), &json!(true)));
    let limits = set(&world.owner, "own", "projects", Some(2)).await;
    assert_eq!(of(&limits, "projects")["most"], 2);
    world.owner.post("/v1/orgs/acme/projects", json!({ "id": "two" })).await.ok(201);
    let detail = world.owner.post("/v1/orgs/acme/projects", json!({ "id": "three" })).await.problem("limit_reached").detail;
    assert!(detail.contains("2 projects") && detail.contains("has 2") && detail.contains("owner of acme"), "{detail}");
    set(&world.owner, "own", "projects", Some(9)).await;
    let limits = set(&world.owner, "own", "projects", Some(900)).await;
    assert_eq!(of(&limits, "projects")["most"], 5, "nobody gives himself more than the hub allows");
    let limits = set(&world.owner, "own", "projects", None).await;
    assert_eq!(of(&limits, "projects")["own"], Value::Null);
    // Who may not, and what is no limit.
    let bob = world.person("bob@else.example").await;
    bob.post("/v1/orgs", json!({ "id": "bobs" })).await.ok(201);
    let own = json!({ "limits": [{ "name": "devices", "most": 3 }] });
    bob.patch("/v1/orgs/bobs/limits", own.clone()).await.ok(200);
    bob.patch("/v1/orgs/acme/limits", own.clone()).await.problem("not_found");
    bob.patch("/v1/orgs/bobs/limits", json!({ "scope": "hub", "limits": [{ "name": "devices" }] })).await.problem("forbidden");
    assert_eq!(of(&world.owner.get("/v1/orgs/bobs/limits").await.ok(200), "devices")["own"], 3, "an owner of the hub sees them");
    world.owner.patch("/v1/orgs/bobs/limits", own).await.problem("not_found");
    for bad in [
        json!({ "limits": [] }),
        json!({ "limits": [{ "name": "bananas", "most": 1 }] }),
        json!({ "limits": [{ "name": "devices", "most": -1 }] }),
        json!({ "limits": [{ "name": "devices", "most": 1_000_000_000_000_001_u64 }] }),
        json!({ "scope": "all", "limits": [{ "name": "devices" }] }),
    ] {
        world.owner.patch("/v1/orgs/acme/limits", bad).await.problem("invalid");
    }
    let told = world.audit().await.iter().filter(|event| event["action"] == "limits.edit" && event["result"] == "ok").count();
    assert_eq!(told, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_at_once_with_five_places_are_five() {
    let world = World::new().await;
    set(&world.owner, "own", "projects", Some(6)).await;
    let asked = (0..20).map(|n| {
        let owner = world.owner.clone();
        tokio::spawn(async move { owner.post("/v1/orgs/acme/projects", json!({ "id": format!("p{n:02}") })).await })
    });
    let answers = futures_util::future::join_all(asked).await;
    let mut made = 0;
    for answer in answers {
        let answer = answer.unwrap();
        if answer.status == 201 {
            made += 1;
        } else {
            answer.problem("limit_reached");
        }
    }
    assert_eq!(made, 5);
    assert_eq!(of(&world.owner.get("/v1/orgs/acme/limits").await.ok(200), "projects")["used"], 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_beyond_the_limit_is_told_so_and_costs_the_token_nothing() {
    let world = World::new().await;
    world.admitted("robot-1").await;
    set(&world.owner, "own", "devices", Some(2)).await;
    let token = world.enrolment_token(json!({ "admit": "auto", "uses": 3 })).await;
    Device::new("robot-2").enrol(&world, &token).await.ok(200);
    let third = Device::new("robot-3");
    for _ in 0..2 {
        let detail = third.enrol(&world, &token).await.problem("limit_reached").detail;
        assert!(detail.contains("2 devices"), "{detail}");
    }
    let tokens = world.owner.get("/v1/orgs/acme/enrolment-tokens").await.ok(200);
    assert_eq!(tokens["items"][0]["used"], 1);
    let refused = world.audit().await.iter().filter(|event| event["result"] == "limit_reached").count();
    assert_eq!(refused, 1, "one record, however often it tries");
    // A key that asks for the place of a listed device needs no place of its own.
    Device::new("robot-1").enrol(&world, &token).await.ok(200);
    set(&world.owner, "own", "devices", Some(3)).await;
    assert_eq!(third.enrol(&world, &token).await.ok(200)["state"], "admitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_storage_leaves_samples_on_the_device() {
    use muster_hub::ingest::Refused;
    use muster_proto::topic::Up;

    let world = World::new().await;
    let robot = world.admitted("robot-1").await;
    let (uid, ingest) = (robot.uid.parse().unwrap(), &world.hub.state.ingest);
    let batch = |seq: u64| {
        let batch =
            json!({ "boot": "0123456789abcdef", "first_seq": seq, "t0": 1, "step_s": 10, "n": 1, "dropped": 0, "c": { "cpu": [0.5] } });
        batch.to_string().into_bytes()
    };
    ingest.up(&uid, &Up::Usage, &batch(1)).await.unwrap();
    let used = of(&world.owner.get("/v1/orgs/acme/limits").await.ok(200), "storage")["used"].as_u64().unwrap();
    assert_eq!(used, 8 + 24);
    set(&world.owner, "own", "storage", Some(used)).await;
    let meter =
        muster_hub::meter::Meter::start(world.hub.state.store.clone(), &world.hub.state.config, &world.hub.state.metrics).await.unwrap();
    meter.find_full(ingest).await.unwrap();
    assert!(matches!(ingest.up(&uid, &Up::Usage, &batch(2)).await, Err(Refused::Full)));
    let why = world.owner.get("/v1/orgs/acme/devices/robot-1").await.ok(200)["why"].as_str().unwrap().to_owned();
    assert!(!why.contains("storage"), "it is not online: {why}");
    set(&world.owner, "own", "storage", None).await;
    meter.find_full(ingest).await.unwrap();
    ingest.up(&uid, &Up::Usage, &batch(2)).await.unwrap();
    let told: Vec<Value> =
        world.audit().await.into_iter().filter(|event| event["actor"] == "hub").map(|event| event["action"].clone()).collect();
    assert!(told.contains(&json!("storage.full")) && told.contains(&json!("storage.room")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_holds_a_place() {
    let world = World::new().await;
    set(&world.owner, "own", "users", Some(2)).await;
    let invite = async |email: &str, more: Value| {
        let mut body = json!({ "email": email, "role": "member" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        world.owner.post("/v1/orgs/acme/invitations", body).await
    };
    let first = invite("ben@acme.example", json!({})).await.ok(201);
    assert_eq!(of(&world.owner.get("/v1/orgs/acme/limits").await.ok(200), "users")["used"], 2);
    let detail = invite("cleo@acme.example", json!({})).await.problem("limit_reached").detail;
    assert!(detail.contains("2 users"), "{detail}");
    // The same person needs no second place, for a project or with a new link.
    invite("ben@acme.example", json!({ "role": null, "project": "lab", "project_role": "view" })).await.ok(201);
    let id = first["id"].as_str().unwrap();
    world.owner.post(&format!("/v1/orgs/acme/invitations/{id}/resend"), json!({})).await.ok(200);
    world.owner.delete(&format!("/v1/orgs/acme/invitations/{id}")).await.ok(204);
    invite("cleo@acme.example", json!({})).await.problem("limit_reached");
    let service = json!({ "name": "ci", "role": "member" });
    world.owner.post("/v1/orgs/acme/service-accounts", service.clone()).await.problem("limit_reached");
    set(&world.owner, "own", "users", Some(3)).await;
    world.owner.post("/v1/orgs/acme/service-accounts", service).await.ok(201);
    assert_eq!(of(&world.owner.get("/v1/orgs/acme/limits").await.ok(200), "users")["used"], 3);
}

/// The sentence of a refusal at a limit: how many there may be, how many there are, and what to do.
#[track_caller]
fn at_limit(answer: &Answer, what: &str, name: &str) {
    let detail = answer.problem("limit_reached").detail;
    assert!(detail.contains(what) && detail.contains(&format!("muster limit set {name} NUMBER")), "{detail}");
    assert!(detail.contains("an owner of acme set this limit"), "{detail}");
}

/// All rows that a request for devices or runs could leave.
async fn rows(world: &World) -> Vec<i64> {
    let read = |db: &rusqlite::Connection| {
        let count = |table: &str| db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0));
        let tables = ["devices", "device_labels", "device_projects", "runs", "run_output", "mqtt_queue"];
        Ok(tables.iter().map(|table| count(table)).collect::<rusqlite::Result<_>>()?)
    };
    world.hub.state.store.read(read).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_by_hand_and_from_a_file_are_all_refused_or_all_entered() {
    let world = World::new().await;
    let devices = "/v1/orgs/acme/devices";
    world.owner.post(devices, json!({ "id": "SN-1", "name": "first" })).await.ok(201);
    set(&world.owner, "own", "devices", Some(2)).await;
    world.owner.post(devices, json!({ "id": "SN-2" })).await.ok(201);
    let before = rows(&world).await;
    at_limit(&world.owner.post(devices, json!({ "id": "SN-3", "labels": ["blue"], "projects": ["lab"] })).await, "2 devices", "devices");
    assert_eq!(rows(&world).await, before);
    let import = async |query: &str, file: &str| {
        let headers = [("content-type", "text/csv")];
        world.owner.raw("POST", &format!("{devices}/import{query}"), &headers, file.as_bytes().to_vec()).await
    };
    // One line changes what is there, and two are new: a trial says it as well.
    let file = "id,name,labels\nSN-1,other,blue\nSN-3,,\nSN-4,,\n";
    for query in ["?dry_run=true", ""] {
        let answer = import(query, file).await;
        at_limit(&answer, "2 devices on its list and has 2, and 2 more were asked for", "devices");
        assert_eq!(rows(&world).await, before, "{query}");
        assert_eq!(world.owner.get(&format!("{devices}/SN-1")).await.ok(200)["name"], "first");
    }
    assert_eq!(import("", "id,name\nSN-1,other\n").await.ok(200)["updated"], 1, "what adds nothing is not refused");
    set(&world.owner, "own", "devices", Some(4)).await;
    assert_eq!(import("", file).await.ok(200)["created"], 2);
    let of = async |action: &str, result: &str| {
        world.audit().await.iter().filter(|event| event["action"] == action && event["result"] == result).count()
    };
    assert_eq!((of("device.add", "limit_reached").await, of("device.import", "limit_reached").await), (1, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_at_the_same_time_are_as_many_as_there_may_be() {
    let world = World::new().await;
    let device = world.admitted("R-1").await;
    set(&world.owner, "own", "runs", Some(3)).await;
    let path = format!("/v1/orgs/acme/devices/{}/runs", device.uid);
    let start = || {
        let (owner, path) = (world.owner.clone(), path.clone());
        tokio::spawn(async move { owner.post(&path, json!({ "command": { "argv": ["true"] } })).await })
    };
    let mut made = Vec::new();
    for answer in futures_util::future::join_all((0..10).map(|_| start())).await {
        let answer = answer.unwrap();
        if answer.status == 201 {
            made.push(answer.json()["id"].as_str().unwrap().to_owned());
        } else {
            at_limit(&answer, "3 runs at the same time", "runs");
        }
    }
    assert_eq!(made.len(), 3);
    let filed = rows(&world).await;
    assert_eq!((filed[3], filed[5]), (3, 3), "a run that was refused leaves no record and no order");
    assert_eq!(of(&world.owner.get("/v1/orgs/acme/limits").await.ok(200), "runs")["used"], 3);
    // The place of one that has ended is free.
    world.owner.post(&format!("/v1/orgs/acme/runs/{}/cancel", made[0]), json!({})).await.ok(200);
    assert_eq!(start().await.unwrap().status, 201);
    at_limit(&start().await.unwrap(), "3 runs", "runs");
}
