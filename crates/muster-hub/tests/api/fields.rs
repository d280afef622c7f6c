//! Custom fields and labels over HTTP: definitions, values, what is lost, and what nobody may do.

use serde_json::json;

use crate::list::{fleet, path};
use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn owners_define_and_members_fill_in() {
    let world = World::new().await;
    let bob = world.joins("bob@acme.example", "acme", "member").await;
    let vic = world.joins("vic@acme.example", "acme", "viewer").await;
    let site = json!({ "key": "site", "title": "Site", "kind": "text", "required": true, "description": "Where it stands" });
    bob.post("/v1/orgs/acme/fields", site.clone()).await.problem("forbidden");
    let field = world.owner.post("/v1/orgs/acme/fields", site.clone()).await.ok(201);
    assert_eq!((&field["key"], &field["required"], &field["choices"]), (&json!("site"), &json!(true), &json!([])));
    world.owner.post("/v1/orgs/acme/fields", site).await.problem("exists");
    for (wrong, why) in [
        (json!({ "key": "Site", "kind": "text" }), "key: it has"),
        (json!({ "key": "name", "kind": "text" }), "a word of the list"),
        (json!({ "key": "and", "kind": "text" }), "a word of the list"),
        (json!({ "key": "stage", "kind": "choice" }), "choices:"),
        (json!({ "key": "stage", "kind": "choice", "choices": ["a", "a"] }), "twice"),
        (json!({ "key": "x", "kind": "colour" }), "kind"),
        (json!({ "key": "x", "kind": "text", "title": "a\u{202e}b" }), "title:"),
    ] {
        let problem = world.owner.post("/v1/orgs/acme/fields", wrong).await.problem("invalid");
        assert!(problem.detail.contains(why), "{}", problem.detail);
    }
    // Required: it keeps no device out that enrols, and none may be entered without it.
    world.admitted("robot-1").await;
    let device = vic.get("/v1/orgs/acme/devices/robot-1").await.ok(200);
    assert_eq!((&device["missing"], &device["fields"]), (&json!(["site"]), &json!({})));
    assert_eq!(vic.get(&path("missing = site", "")).await.ok(200)["total"], 1);
    let problem = bob.post("/v1/orgs/acme/devices", json!({ "id": "cam-1" })).await.problem("invalid");
    assert!(problem.detail.contains("fields.site: required"), "{}", problem.detail);
    bob.post("/v1/orgs/acme/devices", json!({ "id": "cam-1", "fields": { "site": "bonn" } })).await.ok(201);

    let robot = "/v1/orgs/acme/devices/robot-1";
    vic.patch(robot, json!({ "fields": { "site": "x" } })).await.problem("forbidden");
    vic.patch(robot, json!({ "add_labels": ["x"] })).await.problem("forbidden");
    let edited = bob.patch(robot, json!({ "fields": { "site": " Halle 3 " }, "add_labels": ["späť", "机器人"] })).await.ok(200);
    assert_eq!(
        (&edited["fields"], &edited["labels"], &edited["missing"]),
        (&json!({ "site": "Halle 3" }), &json!(["späť", "机器人"]), &json!([]))
    );
    let problem = bob.patch(robot, json!({ "fields": { "site": null } })).await.problem("invalid");
    assert!(problem.detail.contains("fields.site: it is required"), "{}", problem.detail);
    for (kind, key) in [("number", "rack"), ("date", "bought"), ("person", "keeper")] {
        world.owner.post("/v1/orgs/acme/fields", json!({ "key": key, "kind": kind })).await.ok(201);
    }
    // All mistakes together, and nothing of it is done.
    let wrong = json!({ "name": "other", "fields": { "rack": "many", "bought": "22.11.2026", "keeper": "zoe@elsewhere.example", "colour": "red", "site": "x" } });
    let problem = bob.patch(robot, wrong).await.problem("invalid");
    for part in [
        "fields.rack: expected a number",
        "fields.bought: expected a day",
        "fields.keeper: zoe@elsewhere.example does not belong to acme",
        "fields.colour: there is no such field",
    ] {
        assert!(problem.detail.contains(part), "{}", problem.detail);
    }
    let held = vic.get(robot).await.ok(200);
    assert_eq!((&held["name"], &held["fields"]["site"]), (&json!("robot-1"), &json!("Halle 3")));
    let right = json!({ "fields": { "rack": 12.5, "bought": "2026-11-22", "keeper": "BOB@acme.example" } });
    let edited = bob.patch(robot, right).await.ok(200);
    assert_eq!(edited["fields"], json!({ "site": "Halle 3", "rack": 12.5, "bought": "2026-11-22", "keeper": "bob@acme.example" }));
    assert_eq!(bob.get(&path("keeper = me and rack = 12.5", "")).await.ok(200)["total"], 1);
    assert_eq!(vic.get(&path("keeper = me", "")).await.ok(200)["total"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_lost_is_said_first() {
    let world = fleet().await;
    let stage = "/v1/orgs/acme/fields/stage";
    let problem = world.owner.delete(stage).await.problem("conflict");
    assert!(problem.detail.contains("12 devices have a value in stage") && problem.detail.contains("?confirm=stage"), "{}", problem.detail);
    world.owner.delete(&format!("{stage}?confirm=site")).await.problem("conflict");
    let problem = world.owner.patch(stage, json!({ "choices": ["test", "retired"] })).await.problem("conflict");
    assert!(problem.detail.contains("3 devices have the choice \"live\""), "{}", problem.detail);
    // One that nobody has goes at once, and a new one comes.
    world.owner.patch(stage, json!({ "choices": ["test", "live", "scrapped"], "title": "Stage" })).await.ok(200);
    world.owner.patch(&format!("{stage}?confirm=stage"), json!({ "choices": ["test"] })).await.ok(200);
    assert_eq!(world.owner.get(&path("stage is empty", "")).await.ok(200)["total"], 3);
    world.owner.delete(&format!("{stage}?confirm=stage")).await.ok(204);
    world.owner.get(&path("stage is empty", "")).await.problem("invalid");
    assert_eq!(world.owner.get("/v1/orgs/acme/devices/SN-001").await.ok(200)["fields"]["stage"], json!(null));
    world.owner.delete(stage).await.problem("not_found");
    let lost: Vec<_> =
        world.audit().await.into_iter().filter(|event| event["action"] == "field.delete" && event["result"] == "ok").collect();
    assert_eq!(lost[0]["details"]["values_lost"], 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_have_bounds() {
    let world = fleet().await;
    let robot = "/v1/orgs/acme/devices/SN-001";
    for label in ["", " x", "a,b", "a;b", "a\nb", "\u{200b}", "a\u{202e}b", &*"x".repeat(51)] {
        let problem = world.owner.patch(robot, json!({ "add_labels": [label] })).await.problem("invalid");
        assert!(problem.detail.starts_with("add_labels:"), "{label:?}: {}", problem.detail);
    }
    let many: Vec<String> = (0..32).map(|n| format!("label-{n}")).collect();
    world.owner.patch(robot, json!({ "add_labels": many })).await.ok(200);
    let problem = world.owner.patch(robot, json!({ "add_labels": ["one more"] })).await.problem("invalid");
    assert!(problem.detail.contains("at most 32"), "{}", problem.detail);
    world.owner.patch(robot, json!({ "add_labels": ["one more"], "remove_labels": ["label-0"] })).await.ok(200);
    world.owner.patch(robot, json!({ "add_labels": ["x"], "remove_labels": ["x"] })).await.problem("invalid");
}
