//! Many devices at once: all or nothing, rights for each, records for each; and many people at once.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::list::{fleet, path};
use crate::world::{Device, World};

const BULK: &str = "/v1/orgs/acme/devices/bulk";

async fn pending(world: &World, serials: &[&str]) {
    let token = world.enrolment_token(json!({ "admit": "manual" })).await;
    for serial in serials {
        assert_eq!(Device::new(serial).enrol(world, &token).await.ok(200)["state"], "pending");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_or_nothing() {
    let world = fleet().await;
    pending(&world, &["P-1", "P-2", "P-3"]).await;
    let admit = |more: Value| {
        let mut body = json!({ "action": "admit", "filter": "admission = pending" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    // Tried first: the numbers, and nothing done.
    let tried = world.owner.post(BULK, admit(json!({ "dry_run": true }))).await.ok(200);
    assert_eq!((&tried["matched"], &tried["changed"], &tried["dry_run"]), (&json!(3), &json!(3), &json!(true)));
    assert_eq!(world.owner.get(&path("admission = pending", "")).await.ok(200)["total"], 3);
    let problem = world.owner.post(BULK, admit(json!({ "expect": 2 }))).await.problem("conflict");
    assert!(problem.detail.contains("expected 2 devices and found 3"), "{}", problem.detail);
    let done = world.owner.post(BULK, admit(json!({ "expect": 3 }))).await.ok(200);
    assert_eq!(done["devices"].as_array().unwrap().len(), 3);
    assert_eq!(world.owner.get(&path("admission = pending", "")).await.ok(200)["total"], 0);
    let events = world.audit().await;
    let of = |action: &str| events.iter().filter(|event| event["action"] == action && event["result"] == "ok").count();
    assert_eq!((of("device.admit"), of("device.bulk")), (3, 1));
    // One device that cannot be rejected keeps all from it.
    pending(&world, &["P-4"]).await;
    let problem = world.owner.post(BULK, json!({ "action": "reject", "filter": "id ~ P-" })).await.problem("conflict");
    assert!(problem.detail.contains("was admitted") && problem.detail.contains("nothing was changed"), "{}", problem.detail);
    assert_eq!(world.owner.get(&path("admission = pending", "")).await.ok(200)["total"], 1);
    world.owner.post(BULK, json!({ "action": "reject", "devices": ["P-4"], "reason": "not ours" })).await.ok(200);
    let named = json!({ "action": "delete", "devices": ["SN-001", "SN-999", "P-1"] });
    let problem = world.owner.post(BULK, named).await.problem("not_found");
    assert!(problem.detail.contains("\"SN-999\""), "{}", problem.detail);
    assert_eq!(world.owner.get(&path("", "")).await.ok(200)["total"], 16);

    let assigned = world.owner.post(BULK, json!({ "action": "assign", "filter": "site = bonn", "projects": ["lab"] })).await.ok(200);
    assert_eq!((&assigned["matched"], &assigned["changed"]), (&json!(4), &json!(3)), "one was in it already");
    let edit = json!({ "action": "edit", "filter": "project = lab", "fields": { "stage": "retired", "rack": null }, "add_labels": ["old"], "remove_labels": ["even"] });
    assert_eq!(world.owner.post(BULK, edit).await.ok(200)["changed"], 6);
    assert_eq!(world.owner.get(&path("stage = retired and rack is empty and label = old and label != even", "")).await.ok(200)["total"], 6);
    world.owner.post(BULK, json!({ "action": "unassign", "filter": "project = lab", "projects": ["lab"] })).await.ok(200);
    assert_eq!(world.owner.get(&path("project = lab", "")).await.ok(200)["total"], 0);
    let revoked = world.owner.post(BULK, json!({ "action": "revoke", "filter": "id ~ P- and admission = admitted" })).await.ok(200);
    assert_eq!(revoked["changed"], 3);
    assert_eq!(world.owner.post(BULK, json!({ "action": "delete", "filter": "manual or id ~ P-" })).await.ok(200)["changed"], 16);
    assert_eq!(world.owner.get(&path("", "")).await.ok(200)["total"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_is_checked_for_each_device() {
    let world = fleet().await;
    let bob = world.joins("bob@acme.example", "acme", "member").await;
    let vic = world.joins("vic@acme.example", "acme", "viewer").await;
    let cy = world.collaborates("cy@guest.example", "acme", "lab", "maintain").await;
    pending(&world, &["P-1"]).await;
    for (client, body, code) in [
        (&bob, json!({ "action": "admit", "all": true }), "forbidden"),
        (&bob, json!({ "action": "revoke", "all": true }), "forbidden"),
        (&vic, json!({ "action": "edit", "all": true, "add_labels": ["x"] }), "forbidden"),
        (&vic, json!({ "action": "delete", "filter": "admission = pending" }), "forbidden"),
        (&cy, json!({ "action": "edit", "all": true, "add_labels": ["x"] }), "forbidden"),
        (&cy, json!({ "action": "delete", "devices": ["SN-012"] }), "not_found"),
        (&cy, json!({ "action": "assign", "all": true, "projects": ["den"] }), "not_found"),
        (&world.stranger(), json!({ "action": "delete", "all": true }), "unauthenticated"),
    ] {
        client.post(BULK, body).await.problem(code);
    }
    // One that was admitted once is an owner's to delete: nothing of it happens.
    world.admitted("robot-1").await;
    bob.post(BULK, json!({ "action": "delete", "all": true })).await.problem("forbidden");
    assert_eq!(world.owner.get(&path("", "")).await.ok(200)["total"], 14);
    // A collaborator's filter reaches his own project's devices only.
    assert_eq!(cy.post(BULK, json!({ "action": "unassign", "all": true, "projects": ["lab"] })).await.ok(200)["matched"], 4);
    assert_eq!(bob.post(BULK, json!({ "action": "delete", "filter": "admission = pending or manual" })).await.ok(200)["changed"], 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_an_order_is_refused() {
    let world = fleet().await;
    for (body, why) in [
        (json!({ "action": "admit" }), "filter:"),
        (json!({ "action": "admit", "all": true, "devices": [] }), "filter:"),
        // A variable of a script that was not set must not mean every device.
        (json!({ "action": "delete", "filter": "" }), "it is empty"),
        (json!({ "action": "revoke", "filter": "  " }), "it is empty"),
        (json!({ "action": "revoke", "filter": "name = x", "all": true }), "all: it takes no filter"),
        (json!({ "action": "assign", "all": true }), "projects:"),
        (json!({ "action": "admit", "all": true, "projects": ["lab"] }), "projects:"),
        (json!({ "action": "edit", "all": true }), "fields:"),
        (json!({ "action": "delete", "all": true, "add_labels": ["x"] }), "fields:"),
        (json!({ "action": "admit", "all": true, "reason": "x" }), "reason:"),
        (json!({ "action": "edit", "all": true, "fields": { "colour": 1 } }), "fields.colour"),
        (json!({ "action": "edit", "all": true, "add_labels": ["a,b"] }), "add_labels:"),
        (json!({ "action": "explode", "all": true }), "action"),
        (json!({ "action": "delete", "filter": "nmae = x" }), "did you mean `name`"),
        (json!({ "action": "delete", "devices": vec!["x"; 10_001] }), "at most 10000"),
    ] {
        let problem = world.owner.post(BULK, body).await.problem("invalid");
        assert!(problem.detail.contains(why), "{why}: {}", problem.detail);
    }
    let json_type = [("content-type", "application/json")];
    world.owner.raw("POST", BULK, &json_type, vec![b'['; 100_000]).await.problem("invalid");
    let nested = format!("{{\"action\":\"edit\",\"all\":true,\"fields\":{{\"site\":{}1{}}}}}", "[".repeat(5000), "]".repeat(5000));
    world.owner.raw("POST", BULK, &json_type, nested.into_bytes()).await.problem("invalid");
    world.owner.raw("POST", BULK, &json_type, vec![b' '; 10 * 1024 * 1024]).await.problem("too_large");
    assert_eq!(world.owner.get(&path("", "")).await.ok(200)["total"], 12);
}

/// People who edit, admit, assign and delete at once, each in bulk: every answer is whole, and what is left hangs together.
#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_leave_no_half_state() {
    let world = fleet().await;
    pending(&world, &["P-1", "P-2", "P-3", "P-4"]).await;
    let owner = &world.owner;
    let rounds = (0..6).map(|n| async move {
        let label = format!("round-{n}");
        let calls = [
            json!({ "action": "edit", "filter": "manual", "add_labels": [label], "fields": { "site": label } }),
            json!({ "action": "assign", "filter": "rack > 6", "projects": ["lab"] }),
            json!({ "action": "admit", "filter": "admission = pending" }),
            json!({ "action": "unassign", "filter": "rack > 9", "projects": ["lab"] }),
            json!({ "action": "delete", "filter": format!("id = SN-00{n} or id = P-{n}") }),
        ];
        let mut statuses = Vec::new();
        for body in calls {
            statuses.push(owner.post(BULK, body).await.status);
        }
        if n % 2 == 0 {
            statuses.push(owner.delete("/v1/orgs/acme/fields/stage?confirm=stage").await.status);
            statuses.push(owner.post("/v1/orgs/acme/fields", json!({ "key": "stage", "kind": "text" })).await.status);
        }
        statuses
    });
    let statuses: BTreeSet<u16> = futures_util::future::join_all(rounds).await.into_iter().flatten().collect();
    assert!(statuses.iter().all(|status| [200, 201, 204, 404, 409].contains(status)), "{statuses:?}");
    // Every edit was whole: whoever has a site of a round has its label, and all have the same newest one.
    let page = owner.get(&path("manual", "&limit=1000")).await.ok(200);
    let left = page["items"].as_array().unwrap();
    assert_eq!(left.len(), 7);
    let sites: BTreeSet<&str> = left.iter().map(|device| device["fields"]["site"].as_str().unwrap()).collect();
    assert_eq!(sites.len(), 1, "{sites:?}");
    for device in left {
        let labels: Vec<&str> =
            device["labels"].as_array().unwrap().iter().filter_map(Value::as_str).filter(|label| label.starts_with("round")).collect();
        assert_eq!(labels.len(), 6, "{labels:?}");
    }
    // Nothing hangs in the air, and the index says what the database says.
    let orphans = world.hub.state.store.read(|db| {
        let mut statement = db.prepare("PRAGMA foreign_key_check")?;
        let broken = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        let uids = db
            .prepare("SELECT uid FROM devices WHERE org = 'acme' ORDER BY uid")?
            .query_map([], |row| row.get::<_, String>(0))?
            .collect::<Result<Vec<_>, _>>()?;
        Ok((broken, uids))
    });
    let (broken, uids) = orphans.await.unwrap();
    assert!(broken.is_empty(), "{broken:?}");
    let held = world.hub.state.registry.list(&"acme".parse().unwrap());
    assert_eq!(held.rows.iter().map(|row| row.uid.to_string()).collect::<Vec<_>>(), uids);
    assert_eq!(world.owner.get(&path("admission = pending", "")).await.ok(200)["total"], 0);
}
