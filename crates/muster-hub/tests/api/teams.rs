//! Teams: what they give, to whom, and what goes with them.

use serde_json::{Value, json};

use crate::org::{HOSTILE, NAMES, png};
use crate::world::World;

const TEAMS: &str = "/v1/orgs/acme/teams";

fn emails(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|person| person["email"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_is_made_named_shown_and_deleted() {
    let world = World::new().await;
    let owner = &world.owner;
    let made = owner.post(TEAMS, json!({ "id": "crew", "name": "The crew", "description": "Night\nshift" })).await.ok(201);
    assert_eq!(
        (&made["name"], &made["members"], &made["people"], &made["projects"]),
        (&json!("The crew"), &json!(0), &json!([]), &json!([]))
    );
    assert_eq!(owner.post(TEAMS, json!({ "id": "night" })).await.ok(201)["name"], "night");
    owner.post(TEAMS, json!({ "id": "crew" })).await.problem("exists");
    for id in ["C", "No Slug", "a", "../x", "-x", ""] {
        owner.post(TEAMS, json!({ "id": id })).await.problem("invalid");
    }
    let list = owner.get(TEAMS).await.ok(200);
    let ids: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|team| &team["id"]).collect();
    assert_eq!(ids, ["crew", "night"]);
    assert!(list["items"][0].get("people").is_none(), "{list}");
    let edited = owner.patch(&format!("{TEAMS}/crew"), json!({ "name": "Crew", "description": null })).await.ok(200);
    assert!(edited["name"] == "Crew" && edited.get("description").is_none(), "{edited}");
    for good in NAMES {
        assert_eq!(owner.patch(&format!("{TEAMS}/crew"), json!({ "name": good })).await.ok(200)["name"], *good);
    }
    for bad in HOSTILE {
        owner.patch(&format!("{TEAMS}/crew"), json!({ "name": bad })).await.problem("invalid");
        owner.post(TEAMS, json!({ "id": "bad-one", "name": bad })).await.problem("invalid");
    }
    for (method, path) in [("GET", "nobody"), ("PATCH", "nobody"), ("DELETE", "nobody"), ("GET", "NOT%20A%20SLUG"), ("GET", "%00")] {
        owner.send(method, &format!("{TEAMS}/{path}"), (method == "PATCH").then(|| json!({}))).await.problem("not_found");
    }
    owner.delete(&format!("{TEAMS}/crew")).await.ok(204);
    owner.delete(&format!("{TEAMS}/crew")).await.problem("not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_avatar_is_held_to_the_bounds_of_a_logo() {
    let world = World::new().await;
    world.owner.post(TEAMS, json!({ "id": "crew" })).await.ok(201);
    let path = format!("{TEAMS}/crew/avatar");
    world.owner.get(&path).await.problem("not_found");
    let team = world.owner.raw("PUT", &path, &[], png(32, 32, 0)).await.ok(200);
    let shown = world.owner.get(team["avatar"].as_str().unwrap()).await;
    assert_eq!(
        (shown.status, &shown.headers["content-type"], &shown.headers["x-content-type-options"]),
        (200, &"image/png".parse().unwrap(), &"nosniff".parse().unwrap())
    );
    world.owner.raw("PUT", &path, &[], b"<svg/>".to_vec()).await.problem("media_type");
    world.owner.raw("PUT", &path, &[], png(1, 9999, 0)).await.problem("invalid");
    world.owner.raw("PUT", &format!("{TEAMS}/nobody/avatar"), &[], png(1, 1, 0)).await.problem("not_found");
    world.owner.delete(&path).await.ok(204);
    world.owner.get(&path).await.problem("not_found");
    assert_eq!(world.owner.raw("PUT", &path, &[], png(32, 32, 0)).await.status, 200);
    world.owner.delete(&format!("{TEAMS}/crew")).await.ok(204);
    world.owner.post(TEAMS, json!({ "id": "crew" })).await.ok(201);
    world.owner.get(&path).await.problem("not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_gives_a_role_in_a_project_and_nothing_in_the_organization() {
    let world = World::new().await;
    let owner = &world.owner;
    world.admitted("robot-1").await;
    for id in ["secret", "other"] {
        owner.post("/v1/orgs/acme/projects", json!({ "id": id, "visibility": "private" })).await.ok(201);
    }
    owner.post("/v1/orgs/acme/projects/secret/devices", json!({ "add": ["robot-1"] })).await.ok(200);
    owner.post(TEAMS, json!({ "id": "crew" })).await.ok(201);
    let viewer = world.joins("vic@acme.example", "acme", "viewer").await;
    let guest = world.collaborates("gus@guest.example", "acme", "other", "view").await;
    let stranger = world.person("eve@evil.example").await;

    // Only those who belong can be in it.
    let told = owner.send("PUT", &format!("{TEAMS}/crew/members/eve@evil.example"), None).await.problem("not_found").detail;
    assert!(told.contains("invite"), "{told}");
    for email in ["vic@acme.example", "gus@guest.example", "gus@guest.example"] {
        owner.send("PUT", &format!("{TEAMS}/crew/members/{email}"), None).await.ok(200);
    }
    let team = owner.get(&format!("{TEAMS}/crew")).await.ok(200);
    assert_eq!(emails(&team["people"]), ["gus@guest.example", "vic@acme.example"]);
    assert_eq!((&team["people"][0].get("role"), &team["people"][1]["role"]), (&None, &json!("viewer")));
    for client in [&viewer, &guest] {
        client.get("/v1/orgs/acme/projects/secret").await.problem("not_found");
    }

    let path = "/v1/orgs/acme/projects/secret/teams/crew";
    assert_eq!(owner.put(path, json!({ "role": "connect" })).await.ok(200)["members"], 2);
    for client in [&viewer, &guest] {
        assert_eq!(client.get("/v1/orgs/acme/projects/secret").await.ok(200)["role"], "connect");
        client.get("/v1/orgs/acme/devices/robot-1/usage").await.ok(200);
    }
    // In the organization the guest is still nobody.
    guest.get("/v1/orgs/acme/members").await.problem("forbidden");
    guest.get(TEAMS).await.problem("forbidden");
    stranger.get("/v1/orgs/acme/projects/secret").await.problem("not_found");
    let who = owner.get("/v1/orgs/acme/collaborators").await.ok(200);
    assert_eq!(
        who["items"],
        json!([{ "email": "gus@guest.example", "name": "gus", "teams": ["crew"],
                 "projects": [{ "project": "other", "role": "view" }, { "project": "secret", "role": "connect" }] }])
    );

    // The highest of all that give one wins.
    let own = "/v1/orgs/acme/projects/secret/participants/vic@acme.example";
    assert_eq!(
        owner.put(own, json!({ "role": "view" })).await.ok(200),
        json!({
            "email": "vic@acme.example", "name": "vic", "role": "connect", "own": "view", "teams": ["crew"]
        })
    );
    owner.put(own, json!({ "role": "maintain" })).await.ok(200);
    assert_eq!(viewer.get("/v1/orgs/acme/projects/secret").await.ok(200)["role"], "maintain");
    owner.post(TEAMS, json!({ "id": "bosses" })).await.ok(201);
    owner.send("PUT", &format!("{TEAMS}/bosses/members/gus@guest.example"), None).await.ok(200);
    owner.put("/v1/orgs/acme/projects/secret/teams/bosses", json!({ "role": "operate" })).await.ok(200);
    assert_eq!(guest.get("/v1/orgs/acme/projects/secret").await.ok(200)["role"], "operate");
    let list = owner.get("/v1/orgs/acme/projects/secret/participants").await.ok(200);
    assert_eq!(emails(&list["items"]), [crate::world::OWNER, "gus@guest.example", "vic@acme.example"]);
    assert_eq!(list["items"][1]["teams"], json!(["bosses", "crew"]));
    assert_eq!(owner.get("/v1/orgs/acme/projects/secret").await.ok(200)["members"], 3);
    // What only a team gives is not taken from the person.
    let told = owner.delete("/v1/orgs/acme/projects/secret/participants/gus@guest.example").await.problem("not_found").detail;
    assert!(told.contains("team"), "{told}");

    // Whoever sees the team does not learn of projects that he has nothing in.
    let member = world.joins("mia@acme.example", "acme", "member").await;
    assert_eq!(member.get(&format!("{TEAMS}/crew")).await.ok(200)["projects"], json!([]));
    assert_eq!(member.get("/v1/orgs/acme/collaborators").await.ok(200)["items"][0]["projects"], json!([]));

    // Out of the team, out of what it gave; the team goes, what it gave goes.
    owner.delete(&format!("{TEAMS}/bosses/members/gus@guest.example")).await.ok(204);
    assert_eq!(guest.get("/v1/orgs/acme/projects/secret").await.ok(200)["role"], "connect");
    owner.delete(&format!("{TEAMS}/crew")).await.ok(204);
    guest.get("/v1/orgs/acme/projects/secret").await.problem("not_found");
    guest.get("/v1/orgs/acme/projects/other").await.ok(200);
    assert_eq!(viewer.get("/v1/orgs/acme/projects/secret").await.ok(200)["role"], "maintain");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_raises_himself_by_a_team() {
    let world = World::new().await;
    let owner = &world.owner;
    for id in ["crew", "bosses", "nobody"] {
        owner.post(TEAMS, json!({ "id": id })).await.ok(201);
    }
    owner.put("/v1/orgs/acme/projects/lab/teams/bosses", json!({ "role": "admin" })).await.ok(200);
    let maintainer = world.collaborates("mo@guest.example", "acme", "lab", "maintain").await;
    let member = world.joins("mia@acme.example", "acme", "member").await;
    owner.send("PUT", &format!("{TEAMS}/crew/members/mo@guest.example"), None).await.ok(200);
    // No more than the own role, and nothing of those above.
    let path = |team: &str| format!("/v1/orgs/acme/projects/lab/teams/{team}");
    for role in ["admin"] {
        maintainer.put(&path("crew"), json!({ "role": role })).await.problem("forbidden");
    }
    maintainer.put(&path("bosses"), json!({ "role": "view" })).await.problem("forbidden");
    maintainer.delete(&path("bosses")).await.problem("forbidden");
    maintainer.put(&path("nobody-there"), json!({ "role": "view" })).await.problem("not_found");
    maintainer.put(&path("crew"), json!({ "role": "maintain" })).await.ok(200);
    assert_eq!(maintainer.get("/v1/orgs/acme/projects/lab").await.ok(200)["role"], "maintain");
    maintainer.delete(&path("crew")).await.ok(204);
    // Teams themselves are the owners'.
    for client in [&maintainer, &member] {
        client.send("PUT", &format!("{TEAMS}/bosses/members/mo@guest.example"), None).await.problem("forbidden");
        client.send("PUT", &format!("{TEAMS}/bosses/members/mia@acme.example"), None).await.problem("forbidden");
        client.post(TEAMS, json!({ "id": "mine" })).await.problem("forbidden");
        client.delete(&format!("{TEAMS}/bosses")).await.problem("forbidden");
    }
    member.put(&path("crew"), json!({ "role": "view" })).await.problem("forbidden");
    // A role by a team counts like one's own: its people may give it on, and no more.
    owner.send("PUT", &format!("{TEAMS}/bosses/members/mo@guest.example"), None).await.ok(200);
    maintainer.put(&path("crew"), json!({ "role": "admin" })).await.ok(200);
    maintainer.patch("/v1/orgs/acme/projects/lab", json!({ "name": "Lab 2" })).await.ok(200);
}
