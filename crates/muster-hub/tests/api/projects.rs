//! Projects: settings, numbers, the archive, and devices from the project's side.

use serde_json::{Value, json};

use crate::org::{HOSTILE, NAMES};
use crate::world::{Device, World};

const LAB: &str = "/v1/orgs/acme/projects/lab";

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_changed_and_cleared() {
    let world = World::new().await;
    let owner = &world.owner;
    let made =
        owner.post("/v1/orgs/acme/projects", json!({ "id": "yard", "description": "Out there", "visibility": "private" })).await.ok(201);
    assert_eq!((&made["description"], &made["members"], &made["sessions"]), (&json!("Out there"), &json!(1), &json!(0)));
    let yard = "/v1/orgs/acme/projects/yard";
    let edited = owner.patch(yard, json!({ "name": "The yard", "visibility": "internal" })).await.ok(200);
    assert_eq!(
        (&edited["name"], &edited["visibility"], &edited["description"]),
        (&json!("The yard"), &json!("internal"), &json!("Out there"))
    );
    assert!(owner.patch(yard, json!({ "description": null })).await.ok(200).get("description").is_none());
    for good in NAMES {
        assert_eq!(owner.patch(yard, json!({ "name": good })).await.ok(200)["name"], *good);
    }
    for bad in HOSTILE {
        owner.patch(yard, json!({ "name": bad })).await.problem("invalid");
        owner.post("/v1/orgs/acme/projects", json!({ "id": "bad-one", "name": bad })).await.problem("invalid");
    }
    for bad in [json!({ "visibility": "public" }), json!({ "id": "new" }), json!({ "description": "\u{1b}" }), json!([])] {
        owner.patch(yard, bad).await.problem("invalid");
    }
    // An admin of it who is nothing in the organization may change it; a maintainer may not.
    let admin = world.collaborates("al@guest.example", "acme", "yard", "admin").await;
    let maintainer = world.collaborates("mo@guest.example", "acme", "yard", "maintain").await;
    admin.patch(yard, json!({ "name": "Al's" })).await.ok(200);
    maintainer.patch(yard, json!({ "name": "Mo's" })).await.problem("forbidden");
    maintainer.post(&format!("{yard}/archive"), json!({})).await.problem("forbidden");
    admin.patch(LAB, json!({ "name": "Al's" })).await.problem("not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projects_homepage_counts_everybody_once() {
    let world = World::new().await;
    let owner = &world.owner;
    world.admitted("robot-1").await;
    world.admitted("robot-2").await;
    owner.post("/v1/orgs/acme/projects", json!({ "id": "yard", "visibility": "private" })).await.ok(201);
    world.joins("mia@acme.example", "acme", "member").await;
    world.joins("vic@acme.example", "acme", "viewer").await;
    world.collaborates("gus@guest.example", "acme", "yard", "view").await;
    owner.post("/v1/orgs/acme/teams", json!({ "id": "crew" })).await.ok(201);
    for email in ["mia@acme.example", "gus@guest.example"] {
        owner.send("PUT", &format!("/v1/orgs/acme/teams/crew/members/{email}"), None).await.ok(200);
    }
    let counts = async |id: &str| {
        let one = owner.get(&format!("/v1/orgs/acme/projects/{id}")).await.ok(200);
        let list = owner.get("/v1/orgs/acme/projects").await.ok(200);
        assert!(list["items"].as_array().unwrap().contains(&one), "{one} in {list}");
        ["devices", "online", "sessions", "runs", "members"].map(|field| one[field].as_u64().unwrap())
    };
    // Internal: owner, member, viewer. Private: owner and guest.
    assert_eq!(counts("lab").await, [2, 0, 0, 0, 3]);
    assert_eq!(counts("yard").await, [0, 0, 0, 0, 2]);
    // What lives counts, what has ended does not.
    let lives = "INSERT INTO sessions (id, org, uid, device_name, project, role, email, client_ticket, device_ticket, created_at, ended_at)
         VALUES ('s1', 'acme', 'd', 'd', 'lab', 'admin', 'x', x'00', x'00', 0, NULL), ('s2', 'acme', 'd', 'd', 'lab', 'admin', 'x', x'00', x'00', 0, 1)";
    let runs = "INSERT INTO runs (id, org, uid, device_name, project, role, account, email, command, env, timeout_s, output_max, state, created_at,
         expires_at) VALUES ('r1', 'acme', 'd', 'd', 'lab', 'admin', 1, 'x', '{}', '[]', 1, 1, 'waiting', 0, 0),
         ('r2', 'acme', 'd', 'd', 'lab', 'admin', 1, 'x', '{}', '[]', 1, 1, 'done', 0, 0)";
    world.hub.state.store.write(move |tx| Ok(tx.execute(lives, [])? + tx.execute(runs, [])?)).await.unwrap();
    for id in ["lab", "yard"] {
        owner.put(&format!("/v1/orgs/acme/projects/{id}/teams/crew"), json!({ "role": "view" })).await.ok(200);
    }
    assert_eq!(counts("lab").await, [2, 0, 1, 1, 4]);
    assert_eq!(counts("yard").await, [0, 0, 0, 0, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_project_is_read_only_until_it_is_restored() {
    let world = World::new().await;
    let owner = &world.owner;
    world.admitted("robot-1").await;
    owner.post("/v1/orgs/acme/teams", json!({ "id": "crew" })).await.ok(201);
    owner.put(&format!("{LAB}/teams/crew"), json!({ "role": "view" })).await.ok(200);
    world.collaborates("gus@guest.example", "acme", "lab", "view").await;
    let invite = json!({ "email": "eve@guest.example", "project": "lab", "project_role": "view" });
    let invited = owner.post("/v1/orgs/acme/invitations", invite).await.ok(201);
    let invited = format!("/v1/orgs/acme/invitations/{}", invited["id"].as_str().unwrap());
    let archived = owner.post(&format!("{LAB}/archive"), json!({})).await.ok(200);
    assert!(archived["archived_at"].as_i64().unwrap() > 0);
    assert_eq!(owner.post(&format!("{LAB}/archive"), json!({})).await.ok(200), archived, "twice is once");
    let changes: Vec<(&str, String, Value)> = vec![
        ("PATCH", LAB.into(), json!({ "name": "x" })),
        ("PUT", format!("{LAB}/participants/gus@guest.example"), json!({ "role": "connect" })),
        ("DELETE", format!("{LAB}/participants/gus@guest.example"), Value::Null),
        ("PUT", format!("{LAB}/teams/crew"), json!({ "role": "connect" })),
        ("DELETE", format!("{LAB}/teams/crew"), Value::Null),
        ("POST", format!("{LAB}/devices"), json!({ "remove": ["robot-1"] })),
        ("PATCH", "/v1/orgs/acme/devices/robot-1".into(), json!({ "remove_projects": ["lab"] })),
        ("POST", "/v1/orgs/acme/devices/robot-1/sessions".into(), json!({})),
        ("POST", "/v1/orgs/acme/devices/robot-1/sessions".into(), json!({ "project": "lab" })),
    ];
    for (method, path, body) in &changes {
        let told = owner.send(method, path, (!body.is_null()).then(|| body.clone())).await.problem("archived").detail;
        assert!(told.contains("lab"), "{path}: {told}");
    }
    for path in [LAB.to_owned(), format!("{LAB}/participants"), format!("{LAB}/teams"), "/v1/orgs/acme/devices/robot-1/usage".into()] {
        owner.get(&path).await.ok(200);
    }
    // A door into it is closed all the same: it would open again with the project.
    owner.post(&format!("{invited}/resend"), Value::Null).await.problem("archived");
    owner.delete(&invited).await.ok(204);
    let restored = owner.post(&format!("{LAB}/restore"), json!({})).await.ok(200);
    assert!(restored.get("archived_at").is_none());
    owner.post(&format!("{LAB}/restore"), json!({})).await.ok(200);
    for (method, path, body) in changes.iter().take(7) {
        let answer = owner.send(method, path, (!body.is_null()).then(|| body.clone())).await;
        assert!(answer.status < 300, "{path}: {answer:?}");
    }
    let told = world.audit().await;
    for action in ["project.archive", "project.restore"] {
        assert_eq!(told.iter().filter(|event| event["action"] == action && event["result"] == "ok").count(), 1, "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_come_in_bulk_all_or_none() {
    let world = World::new().await;
    let owner = &world.owner;
    let token = world.enrolment_token(json!({ "admit": "auto" })).await;
    for n in 0..6 {
        Device::new(&format!("robot-{n}")).enrol(&world, &token).await.ok(200);
    }
    let path = format!("{LAB}/devices");
    let count = async || owner.get(LAB).await.ok(200)["devices"].as_u64().unwrap();
    for n in [4, 5] {
        owner.patch(&format!("/v1/orgs/acme/devices/robot-{n}"), json!({ "name": "twin" })).await.ok(200);
    }
    // One that is not there, one name that two bear: each is named, and nothing is done.
    let told = owner.post(&path, json!({ "add": ["robot-0", "ghost", "robot-1", "phantom"] })).await.problem("not_found").detail;
    assert!(
        told.starts_with("nothing was changed") && told.contains("ghost") && told.contains("phantom") && !told.contains("robot-0"),
        "{told}"
    );
    let told = owner.post(&path, json!({ "add": ["twin"] })).await.problem("conflict").detail;
    assert!(told.contains("2 devices bear this name"), "{told}");
    assert_eq!(count().await, 0);
    let done = owner.post(&path, json!({ "add": ["robot-0", "robot-1", "robot-2", "robot-0"] })).await.ok(200);
    assert_eq!(done, json!({ "added": 3, "removed": 0 }));
    let done = owner.post(&path, json!({ "add": ["robot-0", "robot-3"], "remove": ["robot-1", "robot-4"] })).await.ok(200);
    assert_eq!(done, json!({ "added": 1, "removed": 1 }));
    assert_eq!(count().await, 3);
    let told = owner.post(&path, json!({ "add": ["robot-5"], "remove": ["robot-5"] })).await.problem("invalid").detail;
    assert!(told.contains("in remove as well"), "{told}");
    owner.post(&path, json!({ "add": vec!["robot-0"; 5001] })).await.problem("invalid");
    owner.post(&path, json!({ "add": [""] })).await.problem("not_found");
    owner.post(&path, json!({ "add": ["a\u{202e}b", "x\0y"] })).await.problem("not_found");
    owner.post(&path, json!({ "devices": ["robot-0"] })).await.problem("invalid");
    assert_eq!(count().await, 3);
    assert_eq!(owner.post(&path, json!({})).await.ok(200), json!({ "added": 0, "removed": 0 }));
    let told = world.audit().await;
    let event = told.iter().find(|event| event["action"] == "project.devices" && event["details"]["removed"] == 1).unwrap();
    assert_eq!((&event["target"], event["details"]["add"].as_array().unwrap().len()), (&json!("lab"), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_takes_a_device_that_he_only_sees_into_a_project_of_his_own() {
    let world = World::new().await;
    let owner = &world.owner;
    world.admitted("robot-1").await;
    owner.patch("/v1/orgs/acme/devices/robot-1", json!({ "remove_projects": ["lab"] })).await.ok(200);
    for id in ["mine", "theirs"] {
        owner.post("/v1/orgs/acme/projects", json!({ "id": id, "visibility": "private" })).await.ok(201);
    }
    owner.post("/v1/orgs/acme/projects/theirs/devices", json!({ "add": ["robot-1"] })).await.ok(200);
    // A viewer sees all devices; a collaborator those of the project in which he may look.
    let viewer = world.joins("vic@acme.example", "acme", "viewer").await;
    let guest = world.collaborates("gus@guest.example", "acme", "theirs", "view").await;
    let member = world.joins("mia@acme.example", "acme", "member").await;
    for email in ["vic@acme.example", "gus@guest.example"] {
        owner.put(&format!("/v1/orgs/acme/projects/mine/participants/{email}"), json!({ "role": "maintain" })).await.ok(200);
    }
    for client in [&viewer, &guest] {
        client.get("/v1/orgs/acme/devices/robot-1").await.ok(200);
        let told = client.post("/v1/orgs/acme/projects/mine/devices", json!({ "add": ["robot-1"] })).await.problem("forbidden").detail;
        assert!(told.contains("robot-1") && told.contains("maintain"), "{told}");
        client.patch("/v1/orgs/acme/devices/robot-1", json!({ "add_projects": ["mine"] })).await.problem("forbidden");
    }
    guest.post("/v1/orgs/acme/projects/theirs/devices", json!({ "remove": ["robot-1"] })).await.problem("forbidden");
    viewer.post("/v1/orgs/acme/projects/theirs/devices", json!({ "remove": ["robot-1"] })).await.problem("not_found");
    assert_eq!(owner.get("/v1/orgs/acme/projects/mine").await.ok(200)["devices"], 0);
    // With maintain on both sides, or as a member of the organization.
    owner.put("/v1/orgs/acme/projects/theirs/participants/gus@guest.example", json!({ "role": "maintain" })).await.ok(200);
    guest.post("/v1/orgs/acme/projects/mine/devices", json!({ "add": ["robot-1"] })).await.ok(200);
    guest.post("/v1/orgs/acme/projects/mine/devices", json!({ "remove": ["robot-1"] })).await.ok(200);
    owner.put("/v1/orgs/acme/projects/mine/participants/mia@acme.example", json!({ "role": "view" })).await.ok(200);
    member.post("/v1/orgs/acme/projects/mine/devices", json!({ "add": ["robot-1"] })).await.ok(200);
    // A device of another organization is not there.
    owner.post("/v1/orgs", json!({ "id": "zeta" })).await.ok(201);
    owner.post("/v1/orgs/zeta/projects", json!({ "id": "pit" })).await.ok(201);
    let uid = owner.get("/v1/orgs/acme/devices/robot-1").await.ok(200)["uid"].clone();
    owner.post("/v1/orgs/zeta/projects/pit/devices", json!({ "add": [uid] })).await.problem("not_found");
}
