//! People: login and its bound, tokens, organizations, members, projects.

use muster_proto::token::{Pin, Token, TokenKind};
use serde_json::{Value, json};

use crate::world::{OWNER, World, token_of};

#[tokio::test(flavor = "multi_thread")]
async fn a_login_gives_a_token_that_works_until_it_is_withdrawn() {
    let world = World::new().await;
    world.person("bob@acme.example").await;
    let body = json!({ "email": "Bob@Acme.Example", "password": "correct horse", "token_name": "laptop" });
    let made = world.stranger().post("/v1/login", body).await.ok(201);
    let bob = world.with_token(made["token"].as_str().unwrap());
    assert_eq!(
        bob.get("/v1/me").await.ok(200),
        json!({ "email": "bob@acme.example", "name": "bob", "hub_owner": false, "has_password": true, "orgs": [] })
    );
    let list = bob.get("/v1/tokens").await.ok(200);
    assert!(list["items"].as_array().unwrap().iter().all(|token| token.get("token").is_none()), "{list}");
    bob.delete(&format!("/v1/tokens/{}", made["id"].as_str().unwrap())).await.ok(204);
    bob.get("/v1/me").await.problem("unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_a_password_is_stopped_and_tells_nothing() {
    let world = World::new().await;
    world.person("bob@acme.example").await;
    let attempt =
        async |email: &str, password: &str| world.stranger().post("/v1/login", json!({ "email": email, "password": password })).await;
    let known = attempt("bob@acme.example", "wrong").await.problem("unauthenticated").detail;
    let unknown = attempt("nobody@acme.example", "wrong").await.problem("unauthenticated").detail;
    assert_eq!(known, unknown);
    for _ in 0..4 {
        attempt("bob@acme.example", "wrong").await.problem("unauthenticated");
    }
    let answer = attempt("bob@acme.example", "correct horse").await;
    let problem = answer.problem("rate_limited");
    assert!(problem.retry_in.is_some_and(|seconds| (1..=60).contains(&seconds)), "{problem:?}");
    assert!(answer.headers.contains_key("retry-after"));
    // Another account is not held up.
    world.person("eve@acme.example").await;
    attempt("eve@acme.example", "correct horse").await.ok(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_wrong_say_how() {
    let world = World::new().await;
    let made = world.owner.post("/v1/tokens", json!({ "name": "script", "expires_days": 1 })).await.ok(201);
    let good = Token::parse(made["token"].as_str().unwrap(), TokenKind::Personal).unwrap();
    let say = async |token: String, code: &str| world.with_token(&token).get("/v1/me").await.problem(code).detail;
    assert!(say(Token { pin: Pin([1; 32]), ..good.clone() }.to_string(), "unauthenticated").await.contains("another hub"));
    assert!(say(Token { secret: "a".repeat(32), ..good.clone() }.to_string(), "unauthenticated").await.contains("not known"));
    assert!(say("rubbish".into(), "unauthenticated").await.contains("mp1."));
    assert!(say(world.enrolment_token(json!({})).await, "unauthenticated").await.contains("enrolment token"));
    let id = good.id.clone();
    let aged = world.hub.state.store.write(move |tx| Ok(tx.execute("UPDATE access_tokens SET expires_at = 1 WHERE id = ?1", [id])?));
    assert_eq!(aged.await.unwrap(), 1);
    say(good.to_string(), "expired").await;
    for (body, field) in [
        (json!({ "name": "" }), "name"),
        (json!({ "name": "x", "expires_days": 0 }), "expires_days"),
        (json!({ "name": "x", "expires_days": 361 }), "expires_days"),
        (json!({ "name": "x", "expires": 1 }), "expires"),
    ] {
        let detail = world.owner.post("/v1/tokens", body).await.problem("invalid").detail;
        assert!(detail.contains(field), "{field}: {detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn organizations_members_and_the_last_owner() {
    let world = World::new().await;
    let bob = world.person("bob@acme.example").await;
    // Whoever is not there is not put there: with an account or without one, it reads the same.
    for stranger in ["nobody@acme.example", "bob@acme.example"] {
        let put = world.owner.put(&format!("/v1/orgs/acme/members/{stranger}"), json!({ "role": "member" })).await;
        assert_eq!(put.problem("not_found").detail, format!("{stranger} is not known here; invite them: muster invite {stranger}"));
    }
    world.accepts(&bob, "acme", json!({ "email": "bob@acme.example", "role": "viewer" })).await;
    world.owner.put("/v1/orgs/acme/members/bob@acme.example", json!({ "role": "king" })).await.problem("invalid");
    let member = world.owner.put("/v1/orgs/acme/members/bob@acme.example", json!({ "role": "member" })).await.ok(200);
    assert_eq!((&member["email"], &member["role"]), (&json!("bob@acme.example"), &json!("member")));
    assert_eq!(bob.get("/v1/orgs/acme/members").await.ok(200)["items"].as_array().unwrap().len(), 2);
    bob.put("/v1/orgs/acme/members/bob@acme.example", json!({ "role": "owner" })).await.problem("forbidden");

    let me = format!("/v1/orgs/acme/members/{OWNER}");
    world.owner.put(&me, json!({ "role": "viewer" })).await.problem("conflict");
    world.owner.delete(&me).await.problem("conflict");
    world.owner.put("/v1/orgs/acme/members/bob@acme.example", json!({ "role": "owner" })).await.ok(200);
    world.owner.delete(&me).await.ok(204);
    world.owner.get("/v1/orgs/acme").await.problem("not_found");

    let made = bob.post("/v1/orgs", json!({ "id": "bobs", "name": "Bob's" })).await.ok(201);
    assert_eq!((&made["id"], &made["role"]), (&json!("bobs"), &json!("owner")));
    bob.post("/v1/orgs", json!({ "id": "bobs" })).await.problem("exists");
    bob.post("/v1/orgs", json!({ "id": "acme" })).await.problem("exists");
    bob.post("/v1/orgs", json!({ "id": "No Slug" })).await.problem("invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn projects_and_participants() {
    let world = World::new().await;
    let bob = world.person("bob@elsewhere.example").await;
    let eve = world.person("eve@elsewhere.example").await;
    let secret = json!({ "id": "secret", "visibility": "private" });
    assert_eq!(world.owner.post("/v1/orgs/acme/projects", secret.clone()).await.ok(201)["role"], "admin");
    world.owner.post("/v1/orgs/acme/projects", secret).await.problem("exists");
    bob.get("/v1/orgs/acme/projects").await.problem("not_found");
    let participants = "/v1/orgs/acme/projects/secret/participants";
    world.owner.put(&format!("{participants}/bob@elsewhere.example"), json!({ "role": "maintain" })).await.problem("not_found");
    world.accepts(&bob, "acme", json!({ "email": "bob@elsewhere.example", "project": "secret", "project_role": "maintain" })).await;
    // A collaborator sees the one project, and no more.
    let seen = bob.get("/v1/orgs/acme/projects").await.ok(200);
    assert_eq!(seen["items"].as_array().unwrap().iter().map(|project| &project["id"]).collect::<Vec<_>>(), ["secret"]);
    bob.get("/v1/orgs/acme/projects/lab").await.problem("not_found");
    bob.get("/v1/orgs/acme/members").await.problem("forbidden");
    bob.get("/v1/orgs/acme/audit").await.problem("forbidden");
    // He gives others no more than he has, and takes nothing from those above.
    let invitations = "/v1/orgs/acme/invitations";
    let of_eve = |role: &str| json!({ "email": "eve@elsewhere.example", "project": "secret", "project_role": role });
    bob.post(invitations, of_eve("admin")).await.problem("forbidden");
    bob.post(invitations, json!({ "email": "eve@elsewhere.example", "role": "viewer" })).await.problem("forbidden");
    let made = bob.post(invitations, of_eve("view")).await.ok(201);
    eve.post("/v1/invitations/accept", json!({ "token": token_of(&made) })).await.ok(200);
    bob.put(&format!("{participants}/eve@elsewhere.example"), json!({ "role": "admin" })).await.problem("forbidden");
    bob.put(&format!("{participants}/eve@elsewhere.example"), json!({ "role": "connect" })).await.ok(200);
    bob.put(&format!("{participants}/{OWNER}"), json!({ "role": "view" })).await.problem("forbidden");
    bob.delete(&format!("{participants}/{OWNER}")).await.problem("forbidden");
    eve.put(&format!("{participants}/eve@elsewhere.example"), json!({ "role": "connect" })).await.problem("forbidden");
    assert_eq!(eve.get(participants).await.ok(200)["items"].as_array().unwrap().len(), 3);
    bob.delete(&format!("{participants}/eve@elsewhere.example")).await.ok(204);
    eve.get(participants).await.problem("not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_and_every_refusal_is_in_the_records() {
    let world = World::new().await;
    let bob = world.joins("bob@acme.example", "acme", "member").await;
    world.owner.put("/v1/orgs/acme/members/bob@acme.example", json!({ "role": "viewer" })).await.ok(200);
    bob.post("/v1/orgs/acme/projects", json!({ "id": "mine" })).await.problem("forbidden");
    bob.delete("/v1/orgs/acme/members/bob@acme.example").await.problem("forbidden");
    world.owner.post("/v1/orgs/acme/projects", json!({ "id": "mine" })).await.ok(201);
    let audit = world.audit().await;
    let told: Vec<(&str, &str, &str)> = audit
        .iter()
        .map(|event| (event["actor"].as_str().unwrap(), event["action"].as_str().unwrap(), event["result"].as_str().unwrap()))
        .collect();
    for expected in [
        (OWNER, "project.create", "ok"),
        ("bob@acme.example", "member.delete", "forbidden"),
        ("bob@acme.example", "project.create", "forbidden"),
        (OWNER, "member.put", "ok"),
    ] {
        assert_eq!(told.iter().filter(|event| **event == expected).count(), 1, "{expected:?} in {told:?}");
    }
    let ids: Vec<i64> = audit.iter().map(|event| event["id"].as_i64().unwrap()).collect();
    assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "{ids:?}");
    // In pages, without a gap.
    let (mut cursor, mut paged) = (String::new(), Vec::new());
    loop {
        let page = world.owner.get(&format!("/v1/orgs/acme/audit?limit=2{cursor}")).await.ok(200);
        paged.extend(page["items"].as_array().unwrap().iter().map(|event| event["id"].as_i64().unwrap()));
        match page.get("next").and_then(Value::as_str) {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(paged, ids);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_token_is_told_of_itself_and_of_its_own_place_only() {
    let world = World::new().await;
    world.owner.post("/v1/orgs", json!({ "id": "zeta" })).await.ok(201);
    let all = world.owner.get("/v1/tokens").await.ok(200)["items"].as_array().unwrap().len();
    for (wanted, orgs, role) in [
        (json!({ "name": "read", "scope": "read" }), &["acme", "zeta"][..], json!("owner")),
        (json!({ "name": "acme", "org": "acme" }), &["acme"], json!("owner")),
        (json!({ "name": "lab", "org": "acme", "project": "lab", "scope": "read" }), &["acme"], json!(null)),
    ] {
        let made = world.owner.post("/v1/tokens", wanted.clone()).await.ok(201);
        let limited = world.with_token(made["token"].as_str().unwrap());
        let told = limited.get("/v1/tokens").await.ok(200);
        let ids: Vec<_> = told["items"].as_array().unwrap().iter().map(|token| &token["id"]).collect();
        assert_eq!(ids, [&made["id"]], "{wanted}");
        for page in ["/v1/me", "/v1/orgs"] {
            let told = limited.get(page).await.ok(200);
            let items = told.get("orgs").or_else(|| told.get("items")).unwrap().as_array().unwrap();
            assert_eq!(items.iter().map(|org| org["id"].as_str().unwrap()).collect::<Vec<_>>(), orgs, "{page} {wanted}");
            assert!(items.iter().all(|org| org["role"] == role), "{page} {wanted}: {told}");
        }
    }
    assert_eq!(world.owner.get("/v1/tokens").await.ok(200)["items"].as_array().unwrap().len(), all + 3);
}
