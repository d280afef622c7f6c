//! Accounts of people and of programs: what a token may do, names, passwords, the end of an account, service accounts.

use serde_json::{Value, json};

use crate::world::{OWNER, World};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_no_more_than_its_scope() {
    let world = World::new().await;
    world.admitted("robot-1").await;
    let token = async |scope: &str| {
        let made = world.owner.post("/v1/tokens", json!({ "name": scope, "scope": scope, "expires_days": 360 })).await.ok(201);
        assert_eq!(made["scope"], scope);
        world.with_token(made["token"].as_str().unwrap())
    };
    let (read, reach, full) = (token("read").await, token("reach").await, token("full").await);
    let device = "/v1/orgs/acme/devices/robot-1";
    for client in [&read, &reach, &full] {
        client.get(device).await.ok(200);
        client.get("/v1/me").await.ok(200);
    }
    assert!(read.post(&format!("{device}/watch"), json!({ "seconds": 5 })).await.problem("forbidden").detail.contains("its scope is read"));
    for client in [&reach, &full] {
        client.post(&format!("{device}/watch"), json!({ "seconds": 5 })).await.ok(204);
    }
    for (name, client) in [("read", &read), ("reach", &reach)] {
        for (method, path, body) in [
            ("PATCH", device, json!({ "name": "x" })),
            ("POST", "/v1/tokens", json!({ "name": "more" })),
            ("POST", "/v1/orgs", json!({ "id": "mine" })),
            ("PATCH", "/v1/me", json!({ "name": "x" })),
            ("PUT", "/v1/me/password", json!({ "old": "x", "new": "xxxxxxxxxx" })),
            ("DELETE", "/v1/me", json!({ "email": OWNER })),
            ("POST", "/v1/orgs/acme/invitations", json!({ "email": "a@b", "role": "viewer" })),
            ("POST", "/v1/orgs/acme/service-accounts", json!({ "name": "ci" })),
        ] {
            let detail = client.send(method, path, Some(body)).await.problem("forbidden").detail;
            assert!(
                detail.contains(&format!("scope {name}")) || detail.contains(&format!("its scope is {name}")),
                "{method} {path}: {detail}"
            );
        }
    }
    full.patch(device, json!({ "name": "x" })).await.ok(200);
    // It ends itself, and no other.
    let ids: Vec<Value> = world.owner.get("/v1/tokens").await.ok(200)["items"].as_array().unwrap().clone();
    let id = |name: &str| ids.iter().find(|token| token["name"] == name).unwrap()["id"].as_str().unwrap().to_owned();
    read.delete(&format!("/v1/tokens/{}", id("reach"))).await.problem("forbidden");
    read.delete(&format!("/v1/tokens/{}", id("read"))).await.ok(204);
    read.get("/v1/me").await.problem("unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_stays_in_its_organization_and_its_project() {
    let world = World::new().await;
    world.owner.post("/v1/orgs", json!({ "id": "second" })).await.ok(201);
    world.owner.post("/v1/orgs/acme/projects", json!({ "id": "other" })).await.ok(201);
    let make = async |body: Value| world.owner.post("/v1/tokens", body).await;
    make(json!({ "name": "x", "project": "lab" })).await.problem("invalid");
    make(json!({ "name": "x", "org": "nowhere" })).await.problem("not_found");
    make(json!({ "name": "x", "org": "acme", "project": "nowhere" })).await.problem("not_found");
    let of_org = make(json!({ "name": "org", "org": "acme" })).await.ok(201);
    let of_org = world.with_token(of_org["token"].as_str().unwrap());
    of_org.get("/v1/orgs/acme/audit").await.ok(200);
    // Whether there is such an organization or not, it reads the same.
    let second = of_org.get("/v1/orgs/second").await.problem("forbidden").detail;
    assert_eq!(second, of_org.get("/v1/orgs/never-was").await.problem("forbidden").detail);
    assert_eq!(of_org.get("/v1/orgs").await.ok(200)["items"].as_array().unwrap().len(), 1);
    assert_eq!(of_org.get("/v1/me").await.ok(200)["orgs"].as_array().unwrap().len(), 1);
    of_org.post("/v1/tokens", json!({ "name": "more" })).await.problem("forbidden");
    of_org.post("/v1/orgs", json!({ "id": "third" })).await.problem("forbidden");

    let of_lab = make(json!({ "name": "lab", "org": "acme", "project": "lab" })).await.ok(201);
    let of_lab = world.with_token(of_lab["token"].as_str().unwrap());
    assert!(of_lab.get("/v1/orgs/acme").await.ok(200).get("role").is_none());
    of_lab.get("/v1/orgs/acme/projects/lab").await.ok(200);
    of_lab.get("/v1/orgs/acme/projects/other").await.problem("not_found");
    of_lab.get("/v1/orgs/acme/members").await.problem("forbidden");
    of_lab.get("/v1/orgs/acme/audit").await.problem("forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn name_and_password() {
    let world = World::new().await;
    let bob = world.person("bob@x.example").await;
    assert_eq!(bob.patch("/v1/me", json!({ "name": "Bob B." })).await.ok(200)["name"], "Bob B.");
    bob.patch("/v1/me", json!({ "name": "a\nb" })).await.problem("invalid");
    let login = async |password: &str| world.stranger().post("/v1/login", json!({ "email": "bob@x.example", "password": password })).await;
    let other = world.with_token(login("correct horse").await.ok(201)["token"].as_str().unwrap());
    bob.put("/v1/me/password", json!({ "old": "wrong", "new": "another horse" })).await.problem("forbidden");
    bob.put("/v1/me/password", json!({ "old": "correct horse", "new": "short" })).await.problem("invalid");
    bob.put("/v1/me/password", json!({ "old": "correct horse", "new": "another horse" })).await.ok(204);
    other.get("/v1/me").await.ok(200);
    login("correct horse").await.problem("unauthenticated");
    bob.put("/v1/me/password", json!({ "old": "another horse", "new": "a third horse", "end_other_tokens": true })).await.ok(204);
    other.get("/v1/me").await.problem("unauthenticated");
    bob.get("/v1/me").await.ok(200);
    // Guessing the old password is bounded as a login is.
    let mut limited = false;
    for _ in 0..8 {
        limited |= bob.put("/v1/me/password", json!({ "old": "wrong", "new": "another horse" })).await.status == 429;
    }
    assert!(limited);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_account_leaves_everything_but_its_name() {
    let world = World::new().await;
    let bob = world.joins("bob@x.example", "acme", "member").await;
    bob.post("/v1/orgs/acme/projects", json!({ "id": "bobs" })).await.ok(201);
    bob.send("DELETE", "/v1/me", Some(json!({ "email": "eve@x.example" }))).await.problem("invalid");
    bob.send("DELETE", "/v1/me", Some(json!({ "email": "bob@x.example" }))).await.problem("invalid");
    let close = json!({ "email": "bob@x.example", "password": "correct horse" });
    // The last owner of an organization stays.
    bob.post("/v1/orgs", json!({ "id": "bobs-own" })).await.ok(201);
    bob.send("DELETE", "/v1/me", Some(close.clone())).await.problem("conflict");
    bob.get("/v1/orgs/acme").await.ok(200);
    world.accepts_for(&bob, "bobs-own").await;
    bob.send("DELETE", "/v1/me", Some(close)).await.ok(204);
    bob.get("/v1/me").await.problem("unauthenticated");
    world.stranger().post("/v1/login", json!({ "email": "bob@x.example", "password": "correct horse" })).await.problem("unauthenticated");
    let members = world.owner.get("/v1/orgs/acme/members").await.ok(200);
    assert!(!members.to_string().contains("bob@x.example"), "{members}");
    assert!(world.audit().await.iter().any(|event| event["actor"] == "bob@x.example" && event["action"] == "project.create"));
    // The owner of the hub stays while there is no other.
    world.owner.send("DELETE", "/v1/me", Some(json!({ "email": OWNER }))).await.problem("conflict");
    // Invited again, the person comes back under the same name in the records.
    let made = world.owner.post("/v1/orgs/acme/invitations", json!({ "email": "bob@x.example", "role": "viewer" })).await.ok(201);
    let token = crate::world::token_of(&made);
    world.stranger().post("/v1/invitations/accept", json!({ "token": token, "name": "Bob", "password": "a new horse" })).await.ok(200);
    world.stranger().post("/v1/login", json!({ "email": "bob@x.example", "password": "a new horse" })).await.ok(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn service_accounts_are_the_organizations_own() {
    let world = World::new().await;
    let accounts = "/v1/orgs/acme/service-accounts";
    world.owner.post(accounts, json!({ "name": "ci", "role": "owner" })).await.problem("invalid");
    world.owner.post(accounts, json!({ "name": "No Good" })).await.problem("invalid");
    world.owner.post(accounts, json!({ "name": "ci", "project": "lab" })).await.problem("invalid");
    let made = world.owner.post(accounts, json!({ "name": "ci", "role": "viewer", "description": "builds" })).await.ok(201);
    assert_eq!((&made["email"], &made["role"]), (&json!("ci@acme.service"), &json!("viewer")));
    world.owner.post(accounts, json!({ "name": "ci" })).await.problem("exists");
    let token = world.owner.post(&format!("{accounts}/ci/tokens"), json!({ "name": "runner", "expires_days": 30 })).await.ok(201);
    let ci = world.with_token(token["token"].as_str().unwrap());
    assert_eq!(ci.get("/v1/me").await.ok(200)["email"], "ci@acme.service");
    ci.get("/v1/orgs/acme/devices").await.ok(200);
    // It has no account to see to, is never an owner, and nobody logs in as it.
    ci.post("/v1/tokens", json!({ "name": "more" })).await.problem("forbidden");
    ci.post("/v1/orgs", json!({ "id": "its-own" })).await.problem("forbidden");
    world.owner.put("/v1/orgs/acme/members/ci@acme.service", json!({ "role": "owner" })).await.problem("forbidden");
    world.owner.put("/v1/orgs/acme/members/ci@acme.service", json!({ "role": "member" })).await.ok(200);
    world.owner.put("/v1/orgs/acme/projects/lab/participants/ci@acme.service", json!({ "role": "admin" })).await.ok(200);
    world.stranger().post("/v1/login", json!({ "email": "ci@acme.service", "password": "" })).await.problem("unauthenticated");
    ci.post("/v1/orgs/acme/projects", json!({ "id": "made-by-ci" })).await.ok(201);
    assert!(world.audit().await.iter().any(|event| event["actor"] == "ci@acme.service" && event["action"] == "project.create"));
    // Only owners see to it; another organization's never.
    let bob = world.joins("bob@x.example", "acme", "member").await;
    bob.get(accounts).await.problem("forbidden");
    bob.post("/v1/orgs", json!({ "id": "bobs" })).await.ok(201);
    bob.put("/v1/orgs/bobs/members/ci@acme.service", json!({ "role": "member" })).await.problem("not_found");
    bob.delete("/v1/orgs/bobs/service-accounts/ci").await.problem("not_found");

    let listed = world.owner.get(accounts).await.ok(200);
    assert_eq!((&listed["items"][0]["tokens"], &listed["items"][0]["description"]), (&json!(1), &json!("builds")));
    let id = token["id"].as_str().unwrap();
    world.owner.delete(&format!("{accounts}/ci/tokens/{id}")).await.ok(204);
    ci.get("/v1/me").await.problem("unauthenticated");
    let token = world.owner.post(&format!("{accounts}/ci/tokens"), json!({ "name": "again" })).await.ok(201);
    let ci = world.with_token(token["token"].as_str().unwrap());
    world.owner.delete(&format!("{accounts}/ci")).await.ok(204);
    ci.get("/v1/me").await.problem("unauthenticated");
    world.owner.delete(&format!("{accounts}/ci")).await.problem("not_found");
    // The name may be used again, and has nothing of the one before.
    let again = world.owner.post(accounts, json!({ "name": "ci" })).await.ok(201);
    assert!(again.get("role").is_none() && again["tokens"] == 0, "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_set_aside_does_nothing_until_it_is_let_in_again() {
    let world = World::new().await;
    let bob = world.joins("bob@x.example", "acme", "member").await;
    let set = async |sql: &'static str| world.hub.state.store.write(move |tx| Ok(tx.execute(sql, [])?)).await.unwrap();
    set("UPDATE accounts SET disabled_at = 1 WHERE email = 'bob@x.example'").await;
    assert!(bob.get("/v1/me").await.problem("unauthenticated").detail.contains("disabled"));
    world.stranger().post("/v1/login", json!({ "email": "bob@x.example", "password": "correct horse" })).await.problem("unauthenticated");
    set("UPDATE accounts SET disabled_at = NULL WHERE email = 'bob@x.example'").await;
    bob.get("/v1/orgs/acme").await.ok(200);
}
