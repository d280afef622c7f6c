//! Invitations by mail, through a real SMTP server: what arrives, STARTTLS and login, refusals, a server that is down.
//!
//! Needs aiosmtpd from PyPI, which `scripts/install-test-tools` installs.

#![allow(clippy::unwrap_used, reason = "a test stops where it cannot go on")]

mod post;

use std::time::Duration;

use serde_json::{Value, json};

use post::{Hub, Post, free_port, token_of};

const BOB: &str = "bob@new.example";

fn invitation(email: &str) -> Value {
    json!({ "email": email, "role": "member" })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mail_has_a_link_that_works_beside_the_one_of_the_inviter() {
    let post = Post::start(0, &[]).await;
    let hub = Hub::start(&post.settings("security = \"none\"")).await;
    let made = hub.call("POST", "/v1/orgs/acme/invitations", invitation(BOB)).await;
    assert_eq!(made["mail"], "queued");
    let mail = post.mail(1).await;
    assert_eq!((&mail["from"], &mail["to"]), (&json!("muster@hub.example"), &json!([BOB])));
    let text = mail["text"].as_str().unwrap();
    let (head, body) = text.replace("\r\n", "\n").split_once("\n\n").map(|(head, body)| (head.to_owned(), body.to_owned())).unwrap();
    assert!(head.contains("Subject: Invitation to acme on Muster") && head.contains("From: Muster <muster@hub.example>"), "{head}");
    assert!(body.contains("ada@acme.example invites you"), "{body}");
    let mailed = Hub::link_in(text);
    assert_ne!(mailed, made["link"].as_str().unwrap(), "the hub keeps no secret to mail: each mail has a link of its own");
    for link in [made["link"].as_str().unwrap(), &mailed] {
        let looked = hub.call("POST", "/v1/invitations/look", json!({ "token": token_of(link) })).await;
        assert_eq!(looked["email"], BOB);
    }
    assert_eq!(hub.pending_once(|one| one["mail"] == "sent").await["email"], BOB);
    let accept = json!({ "token": token_of(&mailed), "name": "Bob", "password": "correct horse" });
    hub.anonymous("POST", "/v1/invitations/accept", accept).await;
    assert!(!hub.database_holds(token_of(&mailed).split('.').nth(2).unwrap()), "the mailed secret is in the database");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn starttls_and_a_login_protect_the_way() {
    let post = Post::start(0, &["tls", "login=muster:swordfish"]).await;
    let login = format!("username = \"muster\"\npassword = \"swordfish\"\nca_file = \"{}\"", post.authority());
    let hub = Hub::start(&post.settings(&login)).await;
    hub.call("POST", "/v1/orgs/acme/invitations", invitation(BOB)).await;
    let mail = post.mail(1).await;
    assert_eq!((&mail["tls"], &mail["login"]), (&json!(true), &json!("muster")));
    hub.stop().await;

    // A wrong password, and a certificate of another authority: told, and nothing went out.
    let wrong = Hub::start(&post.settings(&login.replace("swordfish", "wrong"))).await;
    wrong.call("POST", "/v1/orgs/acme/invitations", invitation(BOB)).await;
    let told = wrong.pending_once(|one| one.get("mail_error").is_some()).await;
    assert!(told["mail_error"].as_str().unwrap().contains("uthentication"), "{told}");
    wrong.stop().await;
    let distrusting = Hub::start(&post.settings("username = \"muster\"\npassword = \"swordfish\"")).await;
    distrusting.call("POST", "/v1/orgs/acme/invitations", invitation(BOB)).await;
    let told = distrusting.pending_once(|one| one.get("mail_error").is_some()).await;
    assert!(told["mail_error"].as_str().unwrap().contains("certificate"), "{told}");
    distrusting.stop().await;
    assert_eq!(post.count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_starttls_nothing_is_said() {
    let post = Post::start(0, &[]).await;
    let hub = Hub::start(&post.settings("security = \"starttls\"")).await;
    hub.call("POST", "/v1/orgs/acme/invitations", invitation(BOB)).await;
    let told = hub.pending_once(|one| one.get("mail_error").is_some()).await;
    assert!(told["mail_error"].as_str().unwrap().to_lowercase().contains("starttls"), "{told}");
    assert_eq!(post.count(), 0);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_that_is_refused_is_not_tried_again_until_somebody_asks() {
    let post = Post::start(0, &[&format!("reject={BOB}")]).await;
    let hub = Hub::start(&post.settings("security = \"none\"")).await;
    let made = hub.call("POST", "/v1/orgs/acme/invitations", invitation(BOB)).await;
    let told = hub.pending_once(|one| one["mail"] == "failed").await;
    assert!(told["mail_error"].as_str().unwrap().contains("nobody of this name"), "{told}");
    // The link itself works, and another person's mail goes out.
    hub.call("POST", "/v1/invitations/look", json!({ "token": token_of(made["link"].as_str().unwrap()) })).await;
    hub.call("POST", "/v1/orgs/acme/invitations", invitation("eve@new.example")).await;
    assert_eq!(post.mail(1).await["to"], json!(["eve@new.example"]));
    // Nobody's mailbox is filled: sending again is bounded.
    let again = format!("/v1/orgs/acme/invitations/{}/resend", made["id"].as_str().unwrap());
    assert_eq!(hub.refused("POST", &again).await["code"], "rate_limited");
    hub.execute("UPDATE invitations SET renewed_at = 0").await;
    assert_eq!(hub.call("POST", &again, json!({})).await["mail"], "queued");
    hub.pending_once(|one| one["mail"] == "failed" && one["email"] == BOB).await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_outlives_a_dead_server_and_a_restart_of_the_hub() {
    let port = free_port();
    let mut hub = Hub::start(&Post::settings_for(port, "security = \"none\"")).await;
    for email in [BOB, "eve@new.example"] {
        hub.call("POST", "/v1/orgs/acme/invitations", invitation(email)).await;
    }
    let told = hub.pending_once(|one| one.get("mail_error").is_some()).await;
    assert_eq!(told["mail"], "queued", "{told}");
    hub = hub.restart().await;
    let post = Post::start(port, &[]).await;
    // The start tried at once, perhaps before the server stood; the next start does again.
    if tokio::time::timeout(Duration::from_secs(2), post.mail(2)).await.is_err() {
        hub = hub.restart().await;
    }
    post.mail(2).await;
    let mut to = [post.mail(1).await["to"].clone(), post.mail(2).await["to"].clone()];
    to.sort_by_key(Value::to_string);
    assert_eq!(to, [json!([BOB]), json!(["eve@new.example"])]);
    hub.pending_once(|one| one["mail"] == "sent").await;
    assert_eq!(post.count(), 2);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_mailed_link_makes_an_account_and_takes_one_over_that_was_never_proved() {
    let post = Post::start(0, &[]).await;
    let hub = Hub::start(&post.settings("security = \"none\"")).await;
    let accept = async |link: &str, name: &str| {
        let body = json!({ "token": token_of(link), "name": name, "password": format!("password of {name}"), "token_name": name });
        hub.by(None, "POST", "/v1/invitations/accept", body).await
    };
    let mailed = async |number: usize| Hub::link_in(post.mail(number).await["text"].as_str().unwrap());
    hub.call("POST", "/v1/orgs/acme/invitations", invitation("mallory@new.example")).await;
    let (status, made) = accept(&mailed(1).await, "mallory").await;
    assert_eq!(status, 200, "{made}");
    let mallory = made["token"].as_str().unwrap();
    assert_eq!(hub.by(Some(mallory), "POST", "/v1/orgs", json!({ "id": "mine" })).await.0, 201);
    // Mallory is shown a link for somebody else's address: it makes nothing. The mailed one does.
    let (_, shown) = hub.by(Some(mallory), "POST", "/v1/orgs/mine/invitations", invitation("ceo@new.example")).await;
    let (status, refused) = accept(shown["link"].as_str().unwrap(), "mallory").await;
    assert_eq!(status, 403, "{refused}");
    assert!(refused["detail"].as_str().unwrap().contains("mailed to ceo@new.example"), "{refused}");
    let (status, made) = accept(&mailed(2).await, "somebody").await;
    assert_eq!(status, 200, "{made}");
    let before = made["token"].as_str().unwrap();

    // As if it had been made before the hub could mail: the person who reads the address takes it over, and the others have nothing.
    hub.execute("UPDATE accounts SET verified_at = NULL WHERE email = 'ceo@new.example'").await;
    let made = hub.call("POST", "/v1/orgs/acme/invitations", invitation("ceo@new.example")).await;
    assert_eq!(accept(made["link"].as_str().unwrap(), "mallory").await.0, 401);
    let link = mailed(3).await;
    let looked = hub.anonymous("POST", "/v1/invitations/look", json!({ "token": token_of(&link) })).await;
    assert_eq!(looked["has_account"], false);
    assert_eq!(accept(&link, "ceo").await.0, 200);
    assert_eq!(hub.by(Some(before), "GET", "/v1/me", Value::Null).await.0, 401);
    let login = |password: &str| json!({ "email": "ceo@new.example", "password": password });
    assert_eq!(hub.by(None, "POST", "/v1/login", login("password of somebody")).await.0, 401);
    assert_eq!(hub.by(None, "POST", "/v1/login", login("password of ceo")).await.0, 201);
    hub.stop().await;
}
