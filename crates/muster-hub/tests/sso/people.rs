//! Whose account somebody is, and where they belong.

use serde_json::{Value, json};

use crate::hub::{Hub, Waiting};
use crate::provider::Provider;

const ANN: &str = "s-ann|ann@new.example|yes";

#[tokio::test(flavor = "multi_thread")]
async fn the_first_login_makes_an_account_and_the_subject_is_whose_it_is() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "").await;
    let (_, methods) = hub.ask("GET", "/v1/login/methods", Value::Null).await;
    assert_eq!((&methods["password"], &methods["oidc"]["name"]), (&json!(true), &json!("Acme SSO")));
    let token = hub.log_in(ANN).await;
    let (status, me) = hub.ask_as(&token, "GET", "/v1/me", Value::Null).await;
    assert_eq!((status, &me["email"], &me["name"]), (200, &json!("ann@new.example"), &json!("Somebody s-ann")), "{me}");
    assert_eq!((&me["has_password"], &me["hub_owner"], me["orgs"].as_array().unwrap().len()), (&json!(false), &json!(false), 0));
    let (_, tokens) = hub.ask_as(&token, "GET", "/v1/tokens", Value::Null).await;
    assert_eq!((&tokens["items"][0]["name"], &tokens["items"][0]["scope"]), (&json!("muster login on lap"), &json!("full")));

    // By another name of the hub, whose cookie would not come back from the provider: the browser is led home first.
    let (mut browser, waiting) = (hub.browser(), Waiting::new());
    let moved = browser.send("GET", &waiting.address(&hub.url().replace("127.0.0.1", "localhost")), None).await;
    assert_eq!(moved.location(), Some(format!("{}&moved=1", waiting.address(&hub.url()))));
    let page = browser.follow(moved).await;
    browser.log_in(page, ANN).await.says("as <b>ann@new.example</b>");

    // Another e-mail, verified or not: still the same person, and nobody else's account.
    for login in ["s-ann|ada@acme.example|yes", "s-ann|ann.married@new.example|no", "s-ann||no"] {
        let token = hub.log_in(login).await;
        let (_, me) = hub.ask_as(&token, "GET", "/v1/me", Value::Null).await;
        assert_eq!(me["email"], "ann@new.example", "{login}");
    }
    assert_eq!(hub.look("SELECT count(*) FROM identities").await.as_deref(), Some("1"));
    // What happened stands in the records, and no secret does.
    let events = "SELECT group_concat(action || ' ' || result) FROM (SELECT action, result FROM audit WHERE actor = 'ann@new.example' ORDER BY id LIMIT 3)";
    assert_eq!(hub.look(events).await.as_deref(), Some("account.create ok,login.confirm ok,account.login ok"));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_signatures_and_client_proofs_work_too() {
    for options in [&["alg=ES256", "auth=client_secret_post"][..], &["claims=always"][..]] {
        let mut provider = Provider::start(options).await;
        let hub = Hub::with(&mut provider, "").await;
        hub.log_in(ANN).await;
        hub.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_links_once_and_only_where_both_sides_proved_it() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "").await;
    let told = hub.refused("s-x|ada@acme.example|no").await;
    assert!(told.contains("Acme SSO has not verified that ada@acme.example is yours"), "{told}");
    let told = hub.refused("s-x||no").await;
    assert!(told.contains("did not return an e-mail address"), "{told}");
    let told = hub.refused("s-x|ci@acme.service|yes").await;
    assert!(told.contains("cannot use"), "{told}");
    assert_eq!(hub.look("SELECT count(*) FROM accounts").await.as_deref(), Some("1"), "nothing was made");

    let told = hub.refused("s-x|ada@ac\u{212a}me.example|yes").await;
    assert!(told.contains("letters that the hub cannot tell apart"), "{told}");

    // Ada's account is proved by the operator's word: it is hers at the provider from now on, with all it had.
    let token = hub.log_in("s-ada|ADA@acme.example|yes").await;
    let (_, me) = hub.ask_as(&token, "GET", "/v1/me", Value::Null).await;
    assert_eq!((&me["email"], &me["hub_owner"]), (&json!("ada@acme.example"), &json!(true)));
    hub.ada("GET", "/v1/me", Value::Null).await;
    // Her address was given to somebody else later: that is not Ada.
    let told = hub.refused("s-heir|ada@acme.example|yes").await;
    assert!(told.contains("belongs to another person at Acme SSO") && told.contains("muster-hub user unlink ada@acme.example"), "{told}");

    // An account that nobody proved: its maker's password and tokens end with the login of the address's owner.
    hub.execute("INSERT INTO accounts (email, name, password, created_at) VALUES ('bob@new.example', 'Mallory', 'x', 1)").await;
    hub.execute(
        "INSERT INTO access_tokens (id, account, digest, name, created_at, expires_at)
         SELECT 'mallory', id, x'00', 'm', 0, 9000000000000 FROM accounts WHERE email = 'bob@new.example'",
    )
    .await;
    let told = hub.refused("s-bob|bob@new.example|no").await;
    assert!(told.contains("has not verified"), "{told}");
    let token = hub.log_in("s-bob|bob@new.example|yes").await;
    let (_, me) = hub.ask_as(&token, "GET", "/v1/me", Value::Null).await;
    assert_eq!((&me["name"], &me["has_password"]), (&json!("Somebody s-bob"), &json!(false)));
    assert_eq!(hub.look("SELECT count(*) FROM access_tokens WHERE id = 'mallory'").await.as_deref(), Some("0"));
    let taken = "SELECT count(*) FROM audit WHERE action = 'account.take_over' AND actor = 'bob@new.example'";
    assert_eq!(hub.look(taken).await.as_deref(), Some("1"));

    // Set aside, closed.
    hub.execute("UPDATE accounts SET disabled_at = 1 WHERE email = 'bob@new.example'").await;
    let told = hub.refused("s-bob|bob@new.example|yes").await;
    assert!(told.contains("is disabled"), "{told}");
    hub.execute("UPDATE accounts SET disabled_at = NULL, closed_at = 1 WHERE email = 'bob@new.example'").await;
    hub.execute("DELETE FROM identities WHERE subject = 's-bob'").await;
    let told = hub.refused("s-bob|bob@new.example|yes").await;
    assert!(told.contains("was closed by its person"), "{told}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_joins_once_as_viewer_and_within_the_limits() {
    let mut provider = Provider::start(&[]).await;
    let settings = "auto_join = [{ domain = \"new.example\", org = \"acme\" }, { domain = \"new.example\", org = \"nowhere\" }]";
    let hub = Hub::with(&mut provider, settings).await;
    let token = hub.log_in(ANN).await;
    let (_, me) = hub.ask_as(&token, "GET", "/v1/me", Value::Null).await;
    assert_eq!((&me["orgs"][0]["id"], &me["orgs"][0]["role"]), (&json!("acme"), &json!("viewer")), "{me}");
    let joined = hub.ada("GET", "/v1/orgs/acme/audit?action=member.join", Value::Null).await;
    assert_eq!(joined["items"][0]["details"]["domain"], "new.example", "{joined}");

    // Another domain, a part of one, and an address that is not the account's own today.
    for login in ["s-1|eve@evil.example|yes", "s-2|eve@sub.new.example|yes", "s-3|eve@evilnew.example|yes", "s-1|eve@new.example|yes"] {
        let token = hub.log_in(login).await;
        let (_, me) = hub.ask_as(&token, "GET", "/v1/me", Value::Null).await;
        assert_eq!(me["orgs"].as_array().unwrap().len(), 0, "{login}");
    }
    // Who was taken out stays out; what an owner gave stays given.
    hub.ada("DELETE", "/v1/orgs/acme/members/ann@new.example", json!({})).await;
    let token = hub.log_in(ANN).await;
    let (_, me) = hub.ask_as(&token, "GET", "/v1/me", Value::Null).await;
    assert_eq!(me["orgs"].as_array().unwrap().len(), 0, "{me}");

    // No room: the login works, and says why the organization did not take them in; with room, the next login joins.
    hub.ada("PATCH", "/v1/orgs/acme/limits", json!({ "scope": "own", "limits": [{ "name": "users", "most": 1 }] })).await;
    let (mut browser, waiting) = (hub.browser(), Waiting::new());
    let page = hub.arrive(&mut browser, &waiting, "s-cid|cid@new.example|yes").await;
    page.says("You are not in acme yet: limit reached: acme may have 1 users");
    browser.press(&page, "yes").await;
    let refused = hub.ada("GET", "/v1/orgs/acme/audit?action=member.join&result=limit_reached", Value::Null).await;
    assert_eq!(refused["items"].as_array().unwrap().len(), 1, "{refused}");
    hub.ada("PATCH", "/v1/orgs/acme/limits", json!({ "scope": "own", "limits": [{ "name": "users", "most": 5 }] })).await;
    let token = hub.log_in("s-cid|cid@new.example|yes").await;
    let (_, me) = hub.ask_as(&token, "GET", "/v1/me", Value::Null).await;
    assert_eq!(me["orgs"][0]["role"], "viewer", "{me}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_may_take_only_whom_it_expects() {
    let mut provider = Provider::start(&[]).await;
    let settings = "new_accounts = \"expected\"\nauto_join = [{ domain = \"new.example\", org = \"acme\" }]";
    let hub = Hub::with(&mut provider, settings).await;
    let told = hub.refused("s-1|eve@evil.example|yes").await;
    assert!(told.contains("eve@evil.example has no account at this hub, and nobody invited it"), "{told}");
    hub.log_in(ANN).await;
    hub.ada("POST", "/v1/orgs/acme/invitations", json!({ "email": "eve@evil.example", "role": "member" })).await;
    hub.log_in("s-1|eve@evil.example|yes").await;
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_passwords_people_come_by_single_sign_on_alone() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "[login]\npassword = false").await;
    let (status, told) = hub.ask("POST", "/v1/login", json!({ "email": "ada@acme.example", "password": "any" })).await;
    assert_eq!((status, &told["code"]), (403, &json!("forbidden")));
    assert!(told["detail"].as_str().unwrap().contains("use single sign-on, with `muster login`"), "{told}");
    let (_, methods) = hub.ask("GET", "/v1/login/methods", Value::Null).await;
    assert_eq!(methods["password"], false);
    let change = json!({ "old": "any", "new": "correct horse battery" });
    let (status, told) = hub.ask_as(&hub.token.to_string(), "PUT", "/v1/me/password", change).await;
    assert_eq!(status, 403, "{told}");

    // Who was invited logs in first, and accepts then.
    let made = hub.ada("POST", "/v1/orgs/acme/invitations", json!({ "email": "ann@new.example", "role": "member" })).await;
    let link = made["link"].as_str().unwrap().split_once('#').unwrap().1.to_owned();
    let (status, told) =
        hub.ask("POST", "/v1/invitations/accept", json!({ "token": link, "name": "A", "password": "correct horse" })).await;
    assert_eq!(status, 401, "{told}");
    assert!(told["detail"].as_str().unwrap().contains("single sign-on"), "{told}");
    let token = hub.log_in(ANN).await;
    let (status, accepted) = hub.ask_as(&token, "POST", "/v1/invitations/accept", json!({ "token": link })).await;
    assert_eq!((status, &accepted["role"]), (200, &json!("member")), "{accepted}");
    // A closed account needs no password where none opens anything.
    hub.execute("UPDATE accounts SET password = 'x' WHERE email = 'ann@new.example'").await;
    let (status, told) = hub.ask_as(&token, "DELETE", "/v1/me", json!({ "email": "ann@new.example" })).await;
    assert_eq!(status, 204, "{told}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_down_stops_nothing_but_logins() {
    // Nobody listens there.
    let hub = Hub::start("http://127.0.0.1:1", "").await;
    hub.ada("GET", "/v1/me", Value::Null).await;
    let told = hub.refused(ANN).await;
    assert!(told.contains("the provider Acme SSO at http://127.0.0.1:1 does not answer: 127.0.0.1:1 cannot be reached"), "{told}");
    hub.stop().await;
}
