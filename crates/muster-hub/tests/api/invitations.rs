//! Invitations: who may invite, what the link opens, who may accept; and the page behind the link.

use serde_json::{Value, json};

use crate::world::{OWNER, World, token_of};

const INVITATIONS: &str = "/v1/orgs/acme/invitations";

#[tokio::test(flavor = "multi_thread")]
async fn a_new_person_comes_in_by_the_link_with_name_and_password() {
    let world = World::new().await;
    let made = world.owner.post(INVITATIONS, json!({ "email": "Bob@New.Example", "role": "member" })).await.ok(201);
    let link = made["link"].as_str().unwrap();
    assert!(link.starts_with(&format!("{}/invite#mi1.", world.hub.state.endpoints.https)), "{link}");
    assert_eq!((&made["email"], &made["mail"]), (&json!("bob@new.example"), &json!("none")));
    let pending = world.owner.get(INVITATIONS).await.ok(200);
    assert_eq!(pending["items"].as_array().unwrap().len(), 1);
    assert!(pending["items"][0].get("link").is_none(), "{pending}");
    world.owner.post(INVITATIONS, json!({ "email": "bob@new.example", "role": "owner" })).await.problem("exists");

    let stranger = world.stranger();
    let looked = stranger.post("/v1/invitations/look", json!({ "token": token_of(&made) })).await.ok(200);
    for (field, value) in [("org", json!("acme")), ("role", json!("member")), ("invited_by", json!(OWNER)), ("has_account", json!(false))] {
        assert_eq!(looked[field], value, "{looked}");
    }
    let accept = async |more: Value| {
        let mut body = json!({ "token": token_of(&made) });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        stranger.post("/v1/invitations/accept", body).await
    };
    assert!(accept(json!({})).await.problem("invalid").detail.starts_with("name:"));
    assert!(accept(json!({ "name": "Bob", "password": "short" })).await.problem("invalid").detail.starts_with("password:"));
    let good = json!({ "name": "Bob B.", "password": "correct horse", "token_name": "laptop" });
    let accepted = accept(good.clone()).await.ok(200);
    let bob = world.with_token(accepted["token"].as_str().unwrap());
    assert_eq!(bob.get("/v1/me").await.ok(200)["orgs"][0]["role"], "member");
    assert_eq!(bob.get("/v1/me").await.ok(200)["name"], "Bob B.");
    accept(good).await.problem("conflict");
    stranger.post("/v1/login", json!({ "email": "bob@new.example", "password": "correct horse" })).await.ok(201);
    assert_eq!(world.owner.get(INVITATIONS).await.ok(200)["items"], json!([]));
    world.owner.post(INVITATIONS, json!({ "email": "bob@new.example", "role": "owner" })).await.problem("exists");
    let audit = world.audit().await;
    for action in ["invitation.create", "invitation.accept"] {
        assert_eq!(audit.iter().filter(|event| event["action"] == action && event["result"] == "ok").count(), 1, "{action}");
    }
    assert!(!audit.iter().any(|event| event.to_string().contains(token_of(&made))), "a secret is in the records");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_invited_account_accepts() {
    let world = World::new().await;
    let (bob, eve) = (world.person("bob@x.example").await, world.person("eve@x.example").await);
    let made = world.owner.post(INVITATIONS, json!({ "email": "BOB@x.example", "role": "viewer" })).await.ok(201);
    let body = json!({ "token": token_of(&made) });
    let refused = eve.post("/v1/invitations/accept", body.clone()).await.problem("forbidden").detail;
    assert!(refused.contains("bob@x.example") && refused.contains("eve@x.example"), "{refused}");
    // Without a login the link opens no account that is there.
    let takeover = json!({ "token": token_of(&made), "name": "x", "password": "a new password" });
    assert!(world.stranger().post("/v1/invitations/accept", takeover).await.problem("unauthenticated").detail.contains("log in first"));
    // Nor does a token that may not do all.
    let limited = bob.post("/v1/tokens", json!({ "name": "ro", "scope": "read" })).await.ok(201);
    world.with_token(limited["token"].as_str().unwrap()).post("/v1/invitations/accept", body.clone()).await.problem("forbidden");
    bob.get("/v1/orgs/acme").await.problem("not_found");
    assert_eq!(bob.post("/v1/invitations/accept", body).await.ok(200)["role"], "viewer");
    bob.get("/v1/orgs/acme").await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn sent_again_the_old_link_is_dead_and_revoked_all_are() {
    let world = World::new().await;
    let made = world.owner.post(INVITATIONS, json!({ "email": "bob@x.example", "role": "viewer" })).await.ok(201);
    let one = format!("{INVITATIONS}/{}", made["id"].as_str().unwrap());
    let again = world.owner.post(&format!("{one}/resend"), json!({})).await.ok(200);
    assert_ne!(made["link"], again["link"]);
    assert_eq!(made["id"], again["id"]);
    let look = async |invitation: &Value| world.stranger().post("/v1/invitations/look", json!({ "token": token_of(invitation) })).await;
    assert!(look(&made).await.problem("not_found").detail.contains("replaced by a newer one"));
    look(&again).await.ok(200);
    world.owner.delete(&one).await.ok(204);
    assert!(look(&again).await.problem("not_found").detail.contains("withdrawn"));
    world.owner.delete(&one).await.problem("conflict");
    world.owner.post(&format!("{one}/resend"), json!({})).await.problem("conflict");
    world.owner.delete(&format!("{INVITATIONS}/aaaaaaaaaa")).await.problem("not_found");

    // Past its date: dead, listed, and a new one takes its place.
    let made = world.owner.post(INVITATIONS, json!({ "email": "bob@x.example", "role": "viewer" })).await.ok(201);
    let aged = world.hub.state.store.write(|tx| Ok(tx.execute("UPDATE invitations SET expires_at = 1 WHERE revoked_at IS NULL", [])?));
    assert_eq!(aged.await.unwrap(), 1);
    assert!(look(&made).await.problem("not_found").detail.contains("expired"));
    assert_eq!(world.owner.get(INVITATIONS).await.ok(200)["items"].as_array().unwrap().len(), 1);
    world.owner.post(INVITATIONS, json!({ "email": "bob@x.example", "role": "member" })).await.ok(201);
    assert_eq!(world.owner.get(INVITATIONS).await.ok(200)["items"][0]["role"], "member");
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_foreign_links_are_refused_in_one_sentence() {
    let world = World::new().await;
    let made = world.owner.post(INVITATIONS, json!({ "email": "bob@x.example", "role": "viewer" })).await.ok(201);
    let good = token_of(&made).to_owned();
    let mut parts: Vec<&str> = good.split('.').collect();
    let (wrong, pin) = ("a".repeat(32), "A".repeat(43));
    parts[2] = &wrong;
    let guessed = parts.join(".");
    let foreign = format!("{}.{pin}", good.rsplit_once('.').unwrap().0);
    let cut = &good[..good.len() - 1];
    for (token, code) in [(guessed.as_str(), "not_found"), (&foreign, "invalid"), (cut, "invalid"), ("", "invalid"), ("mp1.x", "invalid")] {
        world.stranger().post("/v1/invitations/look", json!({ "token": token })).await.problem(code);
        let accept = json!({ "token": token, "name": "x", "password": "a new password" });
        world.stranger().post("/v1/invitations/accept", accept).await.problem(code);
    }
    for (body, field) in [
        (json!({ "email": "bob" , "role": "viewer" }), "email"),
        (json!({ "email": "b@x\r\nBcc: e@x", "role": "viewer" }), "email"),
        (json!({ "email": "ci@acme.service", "role": "viewer" }), "email"),
        (json!({ "email": "b@x" }), "role"),
        (json!({ "email": "b@x", "project": "lab" }), "project_role"),
        (json!({ "email": "b@x", "project_role": "view" }), "project"),
        (json!({ "email": "b@x", "role": "viewer", "project": "lab", "project_role": "view" }), "role"),
    ] {
        let detail = world.owner.post(INVITATIONS, body).await.problem("invalid").detail;
        assert!(detail.starts_with(field), "{field}: {detail}");
    }
    world.owner.post(INVITATIONS, json!({ "email": "b@x", "project": "nowhere", "project_role": "view" })).await.problem("not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collaborator_has_the_one_project_and_no_membership() {
    let world = World::new().await;
    world.owner.post("/v1/orgs/acme/projects", json!({ "id": "other" })).await.ok(201);
    let bob = world.collaborates("bob@guest.example", "acme", "lab", "connect").await;
    let org = bob.get("/v1/orgs/acme").await.ok(200);
    assert!(org.get("role").is_none(), "{org}");
    assert_eq!(bob.get("/v1/orgs/acme/projects").await.ok(200)["items"].as_array().unwrap().len(), 1);
    bob.get("/v1/orgs/acme/projects/other").await.problem("not_found");
    bob.get(INVITATIONS).await.problem("forbidden");
    // Whoever maintains a project sees and sees to those of the project, and no others.
    let mia = world.collaborates("mia@guest.example", "acme", "lab", "maintain").await;
    let of_org = world.owner.post(INVITATIONS, json!({ "email": "c@x.example", "role": "viewer" })).await.ok(201);
    let of_lab = mia.post(INVITATIONS, json!({ "email": "c@x.example", "project": "lab", "project_role": "view" })).await.ok(201);
    let seen = mia.get(INVITATIONS).await.ok(200);
    assert_eq!(seen["items"].as_array().unwrap().iter().map(|one| &one["id"]).collect::<Vec<_>>(), [&of_lab["id"]]);
    mia.delete(&format!("{INVITATIONS}/{}", of_org["id"].as_str().unwrap())).await.problem("forbidden");
    mia.delete(&format!("{INVITATIONS}/{}", of_lab["id"].as_str().unwrap())).await.ok(204);
    // A collaborator may be made a member by an owner: he has come in already.
    world.owner.put("/v1/orgs/acme/members/bob@guest.example", json!({ "role": "viewer" })).await.ok(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_no_foreign_parts_and_no_secret() {
    let world = World::new().await;
    let page = world.stranger().get("/invite").await;
    assert_eq!(page.status, 200);
    let html = String::from_utf8(page.body.to_vec()).unwrap();
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    let script = html.split("<script>").nth(1).unwrap().split("</script>").next().unwrap();
    let digest = ring::digest::digest(&ring::digest::SHA256, script.as_bytes());
    let digest = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, digest);
    assert!(policy.contains(&format!("script-src 'sha256-{digest}'")) && policy.contains("default-src 'none'"), "{policy}");
    assert!(!policy.contains("unsafe") && !html.contains("src=") && !html.contains("//"), "{html}");
    assert!(["innerHTML", "onclick", "onload", "onerror", "eval("].iter().all(|bad| !html.contains(bad)), "{html}");
    assert_eq!(page.headers["referrer-policy"], "no-referrer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_was_only_shown_opens_no_account_that_was_somebody_s() {
    let world = World::new().await;
    let mallory = world.person("mallory@x.example").await;
    mallory.post("/v1/orgs", json!({ "id": "mine" })).await.ok(201);
    let shown = async |email: &str| mallory.post("/v1/orgs/mine/invitations", json!({ "email": email, "role": "viewer" })).await.ok(201);
    let accept = async |made: &Value| {
        let body = json!({ "token": token_of(made), "name": "x", "password": "a new password" });
        world.stranger().post("/v1/invitations/accept", body).await
    };
    let verified = async |email: &'static str| {
        let sql = "SELECT verified_at IS NOT NULL FROM accounts WHERE email = ?1";
        world.hub.state.store.read(move |db| Ok(db.query_row(sql, [email], |row| row.get::<_, bool>(0))?)).await.unwrap()
    };
    // This hub sends no mail: the inviter's word makes an account, and it is known to be no more than that.
    accept(&shown("ceo@x.example").await).await.ok(200);
    assert!(!verified("ceo@x.example").await);
    // By the word of an owner of the hub it is more.
    let made = world.owner.post(INVITATIONS, json!({ "email": "bob@x.example", "role": "viewer" })).await.ok(201);
    accept(&made).await.ok(200);
    assert!(verified("bob@x.example").await);
    accept(&shown("bob@x.example").await).await.problem("unauthenticated");
    let login = json!({ "email": "bob@x.example", "password": "a new password" });
    let token = world.stranger().post("/v1/login", login).await.ok(201);
    let bob = world.with_token(token["token"].as_str().unwrap());
    bob.send("DELETE", "/v1/me", Some(json!({ "email": "bob@x.example", "password": "a new password" }))).await.ok(204);
    let again = mallory.get("/v1/orgs/mine/invitations").await.ok(200)["items"][0]["id"].as_str().unwrap().to_owned();
    let again = mallory.post(&format!("/v1/orgs/mine/invitations/{again}/resend"), json!({})).await.ok(200);
    assert!(accept(&again).await.problem("forbidden").detail.contains("closed by its person"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_left_or_has_less_leaves_no_doors_behind() {
    let world = World::new().await;
    let bob = world.joins("bob@x.example", "acme", "owner").await;
    let mia = world.collaborates("mia@x.example", "acme", "lab", "maintain").await;
    let by_bob = bob.post(INVITATIONS, json!({ "email": "eve@x.example", "role": "owner" })).await.ok(201);
    let by_mia = mia.post(INVITATIONS, json!({ "email": "eve@x.example", "project": "lab", "project_role": "operate" })).await.ok(201);
    let look = async |made: &Value| world.stranger().post("/v1/invitations/look", json!({ "token": token_of(made) })).await;
    look(&by_bob).await.ok(200);
    look(&by_mia).await.ok(200);
    world.owner.put("/v1/orgs/acme/members/bob@x.example", json!({ "role": "member" })).await.ok(200);
    world.owner.put("/v1/orgs/acme/projects/lab/participants/mia@x.example", json!({ "role": "connect" })).await.ok(200);
    for made in [&by_bob, &by_mia] {
        assert!(look(made).await.problem("not_found").detail.contains("may no longer invite"), "{made}");
        let accept = json!({ "token": token_of(made), "name": "Eve", "password": "a new password" });
        world.stranger().post("/v1/invitations/accept", accept).await.problem("not_found");
    }
    // The right is back: so is the door. Gone for good it is with the person.
    world.owner.put("/v1/orgs/acme/members/bob@x.example", json!({ "role": "owner" })).await.ok(200);
    look(&by_bob).await.ok(200);
    world.owner.delete("/v1/orgs/acme/members/bob@x.example").await.ok(204);
    look(&by_bob).await.problem("not_found");
}
