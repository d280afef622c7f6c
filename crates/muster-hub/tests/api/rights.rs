//! Roles on the wire: some rows of the table, through the real handlers; and that nothing leaks between organizations.

use serde_json::{Value, json};

use crate::world::{Client, World};

/// acme with one device in `lab` and one in no project; and a person for each role.
async fn cast(world: &World) -> Vec<(&'static str, Client)> {
    world.admitted("robot-1").await;
    let token = world.enrolment_token(json!({ "admit": "auto" })).await;
    crate::world::Device::new("robot-2").enrol(world, &token).await.ok(200);
    let mut people = vec![("owner", world.owner.clone())];
    for role in ["member", "viewer"] {
        let email = format!("{role}@acme.example");
        people.push((role, world.joins(&email, "acme", role).await));
    }
    for role in ["maintain", "operate", "connect", "view"] {
        let email = format!("{role}@guest.example");
        people.push((role, world.collaborates(&email, "acme", "lab", role).await));
    }
    people.push(("nobody", world.person("nobody@elsewhere.example").await));
    people
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_table_over_http() {
    let world = World::new().await;
    let people = cast(&world).await;
    let none = Value::Null;
    // method, path, body, and who may: everybody else gets 403, and `nobody` 404.
    let rows: Vec<(&str, &str, Value, &[&str])> = vec![
        ("GET", "/v1/orgs/acme/devices/robot-1", none.clone(), &["owner", "member", "viewer", "maintain", "operate", "connect", "view"]),
        (
            "GET",
            "/v1/orgs/acme/devices/robot-1/usage",
            none.clone(),
            &["owner", "member", "viewer", "maintain", "operate", "connect", "view"],
        ),
        (
            "GET",
            "/v1/orgs/acme/devices/robot-1/presence",
            none.clone(),
            &["owner", "member", "viewer", "maintain", "operate", "connect", "view"],
        ),
        ("GET", "/v1/orgs/acme/members", none.clone(), &["owner", "member", "viewer"]),
        ("GET", "/v1/orgs/acme/audit", none.clone(), &["owner"]),
        ("GET", "/v1/orgs/acme/enrolment-tokens", none.clone(), &["owner", "member"]),
        ("POST", "/v1/orgs/acme/enrolment-tokens", json!({ "admit": "auto" }), &["owner"]),
        ("POST", "/v1/orgs/acme/enrolment-tokens", json!({ "admit": "manual" }), &["owner", "member"]),
        ("PATCH", "/v1/orgs/acme/devices/robot-1", json!({ "name": "Robot" }), &["owner", "member"]),
        ("PATCH", "/v1/orgs/acme/devices/robot-1", json!({ "add_projects": ["lab"] }), &["owner", "member", "maintain"]),
        ("PUT", "/v1/orgs/acme/projects/lab/participants/view@guest.example", json!({ "role": "view" }), &["owner", "maintain"]),
        ("POST", "/v1/orgs/acme/devices/robot-1/admit", none.clone(), &["owner"]),
        ("POST", "/v1/orgs/acme/devices/robot-1/reject", none.clone(), &[]),
        ("POST", "/v1/orgs/acme/devices/robot-1/replace", none.clone(), &[]),
        ("POST", "/v1/orgs/acme/devices/robot-1/revoke", none.clone(), &["owner"]),
        ("DELETE", "/v1/orgs/acme/devices/robot-1", none.clone(), &["owner"]),
    ];
    let mut cells = 0;
    for (method, path, body, may) in rows {
        // Those who may not come first: what they try must change nothing.
        for (role, client) in people.iter().filter(|(role, _)| !may.contains(role)) {
            let answer = client.send(method, path, (!body.is_null()).then(|| body.clone())).await;
            match *role {
                "nobody" => drop(answer.problem("not_found")),
                // What an owner may do, but what the present state does not allow.
                "owner" => drop(answer.problem("conflict")),
                _ => drop(answer.problem("forbidden")),
            }
            cells += 1;
        }
        for (role, client) in people.iter().filter(|(role, _)| may.contains(role)) {
            let answer = client.send(method, path, (!body.is_null()).then(|| body.clone())).await;
            assert!((200..300).contains(&answer.status), "{role} {method} {path}: {}", String::from_utf8_lossy(&answer.body));
            cells += 1;
        }
    }
    assert_eq!(cells, 16 * 8);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collaborator_sees_the_devices_of_the_own_projects_only() {
    let world = World::new().await;
    let people = cast(&world).await;
    for (role, client) in &people {
        if *role == "nobody" {
            client.get("/v1/orgs/acme/devices").await.problem("not_found");
            continue;
        }
        let page = client.get("/v1/orgs/acme/devices").await.ok(200);
        let mut seen: Vec<&str> = page["items"].as_array().unwrap().iter().map(|device| device["id"].as_str().unwrap()).collect();
        seen.sort_unstable();
        match *role {
            "owner" | "member" | "viewer" => assert_eq!(seen, ["robot-1", "robot-2"], "{role}"),
            _ => {
                assert_eq!(seen, ["robot-1"], "{role}");
                client.get("/v1/orgs/acme/devices/robot-2").await.problem("not_found");
                client.patch("/v1/orgs/acme/devices/robot-2", json!({ "add_projects": ["lab"] })).await.problem("not_found");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_organizations_ids_answer_as_if_they_were_not_there() {
    let world = World::new().await;
    let device = world.admitted("robot-1").await;
    let token = world.owner.post("/v1/orgs/acme/enrolment-tokens", json!({})).await.ok(201);
    let eve = world.person("eve@evil.example").await;
    eve.post("/v1/orgs", json!({ "id": "evil" })).await.ok(201);
    eve.post("/v1/orgs/evil/projects", json!({ "id": "pit" })).await.ok(201);
    let uid = &device.uid;
    // With the own organization in the path and the other's ids behind it, and the other way round.
    for (method, path, body) in [
        ("GET", "/v1/orgs/acme".to_owned(), None),
        ("GET", "/v1/orgs/acme/devices".to_owned(), None),
        ("GET", format!("/v1/orgs/acme/devices/{uid}"), None),
        ("GET", format!("/v1/orgs/evil/devices/{uid}"), None),
        ("GET", "/v1/orgs/evil/devices/robot-1".to_owned(), None),
        ("GET", format!("/v1/orgs/evil/devices/{uid}/usage"), None),
        ("PATCH", format!("/v1/orgs/evil/devices/{uid}"), Some(json!({ "add_projects": ["pit"] }))),
        ("POST", format!("/v1/orgs/evil/devices/{uid}/revoke"), None),
        ("POST", format!("/v1/orgs/evil/devices/{uid}/sessions"), Some(json!({}))),
        ("DELETE", format!("/v1/orgs/evil/devices/{uid}"), None),
        ("DELETE", format!("/v1/orgs/evil/enrolment-tokens/{}", token["id"].as_str().unwrap()), None),
        ("GET", "/v1/orgs/evil/projects/lab".to_owned(), None),
        ("GET", "/v1/orgs/acme/audit".to_owned(), None),
        ("PUT", "/v1/orgs/acme/members/eve@evil.example".to_owned(), Some(json!({ "role": "owner" }))),
        ("POST", "/v1/orgs/evil/enrolment-tokens".to_owned(), Some(json!({ "project": "lab" }))),
        ("GET", "/v1/orgs/never-was/devices".to_owned(), None),
        ("GET", "/v1/orgs/NOT A SLUG/devices".replace(' ', "%20"), None),
    ] {
        let problem = eve.send(method, &path, body).await.problem("not_found");
        assert!(!problem.detail.contains(uid.as_str()) || path.contains(uid.as_str()), "{path}: {}", problem.detail);
    }
    // The device is what it was, and acme's records do not know the visitor.
    assert_eq!(world.owner.get("/v1/orgs/acme/devices/robot-1").await.ok(200)["admission"], "admitted");
    assert!(world.audit().await.iter().all(|event| event["actor"] != "eve@evil.example"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_project_is_read_only() {
    let world = World::new().await;
    let people = cast(&world).await;
    let archived = world.hub.state.store.write(|tx| Ok(tx.execute("UPDATE projects SET archived_at = 1 WHERE id = 'lab'", [])?));
    assert_eq!(archived.await.unwrap(), 1);
    let maintain = &people.iter().find(|(role, _)| *role == "maintain").unwrap().1;
    maintain.get("/v1/orgs/acme/devices/robot-1/usage").await.ok(200);
    maintain.get("/v1/orgs/acme/projects/lab").await.ok(200);
    maintain.patch("/v1/orgs/acme/devices/robot-1", json!({ "remove_projects": ["lab"] })).await.problem("archived");
    let path = "/v1/orgs/acme/projects/lab/participants/view@guest.example";
    world.owner.put(path, json!({ "role": "connect" })).await.problem("archived");
}

/// Who asks is looked at before the body is sent, and its sender chooses when to send it.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_held_back_does_not_keep_a_right_that_is_gone() {
    let world = World::new().await;
    let bob = world.joins("bob@acme.example", "acme", "owner").await;
    let project = bob.begin("POST", "/v1/orgs/acme/projects", &json!({ "id": "late" })).await;
    let invitation = bob.begin("POST", "/v1/orgs/acme/invitations", &json!({ "email": "bob2@evil.example", "role": "owner" })).await;
    let org = bob.begin("POST", "/v1/orgs", &json!({ "id": "bobs" })).await;
    world.owner.delete("/v1/orgs/acme/members/bob@acme.example").await.ok(204);
    for begun in [project, invitation] {
        let (status, answer) = begun.finish().await;
        assert!(status == 404 || status == 403, "{answer}");
    }
    world.owner.get("/v1/orgs/acme/projects/late").await.problem("not_found");
    assert!(world.owner.get("/v1/orgs/acme/invitations").await.ok(200)["items"].as_array().unwrap().is_empty());
    // What his account may do by itself is not touched by that; a token that is withdrawn is.
    assert_eq!(org.finish().await.0, 201);
    let token = bob.get("/v1/tokens").await.ok(200)["items"][0]["id"].as_str().unwrap().to_owned();
    let org = bob.begin("POST", "/v1/orgs", &json!({ "id": "bobs-second" })).await;
    bob.delete(&format!("/v1/tokens/{token}")).await.ok(204);
    assert_eq!(org.finish().await.0, 401);
}
