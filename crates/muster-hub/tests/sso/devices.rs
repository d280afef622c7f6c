//! Login by device code.

use serde_json::{Value, json};

use crate::browser::Page;
use crate::hub::Hub;
use crate::provider::Provider;

const ANN: &str = "s-ann|ann@new.example|yes";

async fn begin(hub: &Hub, name: &str) -> Value {
    let (status, login) = hub.ask("POST", "/v1/login/device", json!({ "token_name": name })).await;
    assert_eq!(status, 201, "{login}");
    login
}

async fn poll(hub: &Hub, login: &Value) -> (u16, Value) {
    hub.ask("POST", "/v1/login/device/token", json!({ "device_code": login["device_code"] })).await
}

/// A person who opens the address that the program showed, and logs in.
async fn confirm_page(hub: &Hub, browser: &mut crate::browser::Browser, address: &str, login: &str) -> Page {
    let page = browser.open(address).await;
    page.says("Go on to Acme SSO");
    let link = page.body.split("href=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let page = browser.open(&format!("{}{link}", hub.url())).await;
    browser.log_in(page, login).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_sees_which_machine_asks_and_says_yes() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "").await;
    let login = begin(&hub, "muster login on <b>robot</b>").await;
    let code = login["user_code"].as_str().unwrap();
    assert_eq!((&login["expires_in"], &login["interval"]), (&json!(600), &json!(5)));
    assert_eq!(login["verification_uri"], format!("{}/login/device", hub.url()));
    let (status, told) = poll(&hub, &login).await;
    assert_eq!((status, &told["code"], &told["retry_in"]), (400, &json!("authorization_pending"), &json!(5)));
    let (status, told) = poll(&hub, &login).await;
    assert_eq!((status, &told["code"], &told["retry_in"]), (400, &json!("slow_down"), &json!(10)), "twice at once");

    // Typed by hand, in small letters.
    let mut browser = hub.browser();
    browser.open(login["verification_uri"].as_str().unwrap()).await.says("Type the code");
    let typed = format!("{}/login/device?code={}", hub.url(), code.to_lowercase().replace('-', "+"));
    let page = confirm_page(&hub, &mut browser, &typed, ANN).await;
    page.says(code);
    page.says("It calls itself <b>muster login on &lt;b&gt;robot&lt;/b&gt;</b>, and asks from the address <b>127.0.0.1</b>");
    page.says("If someone sent you a code or this address, they would get in as you.");
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("form-action 'self';") && policy.contains("frame-ancestors 'none'"), "{policy}");
    // Seeing the page decides nothing.
    let told = poll(&hub, &login).await.1;
    assert!(["slow_down", "authorization_pending"].contains(&told["code"].as_str().unwrap()), "{told}");
    browser.press(&page, "yes").await.says("the machine that showed the code is logged in");
    let (status, made) = poll(&hub, &login).await;
    assert_eq!((status, &made["name"]), (201, &json!("muster login on <b>robot</b>")), "{made}");
    let (_, me) = hub.ask_as(made["token"].as_str().unwrap(), "GET", "/v1/me", Value::Null).await;
    assert_eq!(me["email"], "ann@new.example");
    // Once.
    assert_eq!(poll(&hub, &login).await.1["code"], "expired");
    browser.press(&page, "yes").await.says("was used already");
    let events =
        "SELECT group_concat(action || ' ' || result) FROM (SELECT action, result FROM audit WHERE actor = 'ann@new.example' ORDER BY id)";
    assert_eq!(hub.look(events).await.as_deref(), Some("account.create ok,login.confirm ok,account.login ok"));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_an_end_and_a_code_that_is_none() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "").await;
    let login = begin(&hub, "x").await;
    let mut browser = hub.browser();
    let page = confirm_page(&hub, &mut browser, login["verification_uri_complete"].as_str().unwrap(), ANN).await;
    browser.press(&page, "no").await.says("The login was refused");
    let (status, told) = poll(&hub, &login).await;
    assert_eq!((status, &told["code"]), (403, &json!("forbidden")), "{told}");

    // Ended before the yes, and before the page.
    let login = begin(&hub, "x").await;
    let address = login["verification_uri_complete"].as_str().unwrap();
    let page = confirm_page(&hub, &mut browser, address, ANN).await;
    hub.execute("UPDATE device_logins SET expires_at = 1").await;
    browser.press(&page, "yes").await.says("any more");
    let (status, told) = poll(&hub, &login).await;
    assert_eq!((status, &told["code"]), (401, &json!("expired")), "{told}");
    confirm_page(&hub, &mut browser, address, ANN).await.says("it is mistyped, or ended");

    // A person set aside between the yes and the poll.
    let login = begin(&hub, "x").await;
    let page = confirm_page(&hub, &mut browser, login["verification_uri_complete"].as_str().unwrap(), ANN).await;
    browser.press(&page, "yes").await.says("is logged in");
    hub.execute("UPDATE accounts SET disabled_at = 1 WHERE email = 'ann@new.example'").await;
    assert_eq!(poll(&hub, &login).await.0, 403);
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_are_not_guessed() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "").await;
    let login = begin(&hub, "x").await;
    let mut browser = hub.browser();
    let mut wrong = 0;
    loop {
        let page = confirm_page(&hub, &mut browser, &format!("{}/login/device?code=ZZZZ-22{wrong:02}", hub.url()), ANN).await;
        if page.body.contains("oo many codes that are none") {
            break;
        }
        page.says("it is mistyped, or ended");
        wrong += 1;
        assert!(wrong < 20, "nobody is stopped");
    }
    assert!(wrong >= 5, "{wrong}");
    // Then the right one waits as well.
    let page = confirm_page(&hub, &mut browser, login["verification_uri_complete"].as_str().unwrap(), ANN).await;
    page.says("oo many codes that are none");
    // Device codes are long, and beginnings of one address are bounded.
    let (status, told) = hub.ask("POST", "/v1/login/device/token", json!({ "device_code": "x" })).await;
    assert_eq!((status, &told["code"]), (401, &json!("expired")));
    let mut last = 0;
    for _ in 0..40 {
        (last, _) = hub.ask("POST", "/v1/login/device", json!({})).await;
    }
    assert_eq!(last, 429);
    hub.stop().await;
}
