//! Logins that somebody else began, stole, or bent.

use serde_json::json;

use crate::browser::parameter;
use crate::hub::{Hub, Waiting};
use crate::provider::Provider;

const ANN: &str = "s-ann|ann@new.example|yes";
const NOT_BEGUN: &str = "This login was not begun in this browser, was used already, or is more than ten minutes old.";

#[tokio::test(flavor = "multi_thread")]
async fn a_state_serves_one_browser_once() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "").await;
    let waiting = Waiting::new();

    // Mallory begins, logs in at the provider, and sends a victim the address that would end the login: it is not the victim's.
    let (mut mallory, mut victim) = (hub.browser(), hub.browser());
    let to_provider = mallory.send("GET", &waiting.address(&hub.url()), None).await.location().unwrap();
    assert_eq!(parameter(&to_provider, "code_challenge_method").as_deref(), Some("S256"));
    assert!(to_provider.starts_with(&provider.issuer) && parameter(&to_provider, "nonce").is_some_and(|nonce| nonce.len() == 43));
    let page = mallory.send("GET", &to_provider, None).await;
    let mut next = mallory.follow(page).await;
    // As far as the address that the provider sends the browser back to.
    for (prompt, fields) in [("login", 3), ("consent", 1)] {
        let action = next.body.split("action=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let form = [("prompt", prompt), ("login", ANN), ("password", "x")];
        next = mallory.send("POST", &action, Some(&form[..fields])).await;
        while let Some(location) = next.location().filter(|location| !location.starts_with(&hub.url())) {
            next = mallory.send("GET", &location, None).await;
        }
    }
    let callback = next.location().unwrap();
    assert!(callback.contains("/v1/login/oidc/callback?code="), "{callback}");
    let page = victim.send("GET", &callback, None).await;
    assert_eq!(page.status, 400);
    page.says(NOT_BEGUN);
    // It was shown, so it is over, for Mallory too.
    mallory.send("GET", &callback, None).await.says(NOT_BEGUN);
    assert_eq!(hub.look("SELECT count(*) FROM accounts").await.as_deref(), Some("1"), "nobody was let in");

    // With a cookie of the victim's own it is as little theirs.
    victim.open(&Waiting::new().address(&hub.url())).await;
    let other = Waiting::new();
    let to_provider = hub.browser().send("GET", &other.address(&hub.url()), None).await.location().unwrap();
    let state = parameter(&to_provider, "state").unwrap();
    victim.send("GET", &format!("{}/v1/login/oidc/callback?code=x&state={state}", hub.url()), None).await.says(NOT_BEGUN);

    // A made-up state, none, and one that is too old.
    for query in ["", "?code=x", "?code=x&state=y", "?error=access_denied"] {
        victim.send("GET", &format!("{}/v1/login/oidc/callback{query}", hub.url()), None).await.says(NOT_BEGUN);
    }
    let mut slow = hub.browser();
    let to_provider = slow.send("GET", &waiting.address(&hub.url()), None).await.location().unwrap();
    hub.execute("UPDATE oidc_logins SET expires_at = 1").await;
    let state = parameter(&to_provider, "state").unwrap();
    slow.send("GET", &format!("{}/v1/login/oidc/callback?code=x&state={state}", hub.url()), None).await.says(NOT_BEGUN);

    // Another provider's answer, and a no of the right one: `muster` is told.
    for (query, why) in
        [("iss=https://evil.example&code=x", "from another provider"), ("error=access_denied", "did not let you in (access_denied)")]
    {
        let mut browser = hub.browser();
        let to_provider = browser.send("GET", &waiting.address(&hub.url()), None).await.location().unwrap();
        let state = parameter(&to_provider, "state").unwrap();
        let back =
            browser.send("GET", &format!("{}/v1/login/oidc/callback?state={state}&{query}", hub.url()), None).await.location().unwrap();
        assert!(back.starts_with(&waiting.redirect) && parameter(&back, "error_description").unwrap().contains(why), "{back}");
    }
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_yes_needs_the_page_and_the_browser_it_was_shown_to() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "").await;
    let waiting = Waiting::new();
    let confirm = format!("{}/v1/login/oidc/confirm", hub.url());
    let mut browser = hub.browser();

    // No secret, a wrong one, or somebody else's browser.
    let page = hub.arrive(&mut browser, &waiting, ANN).await;
    page.says("Go on only if you have just run <code>muster login</code> yourself.");
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("form-action 'self' http://127.0.0.1:9;") && policy.contains("frame-ancestors 'none'"), "{policy}");
    assert_eq!(page.headers["x-frame-options"], "DENY");
    browser.send("POST", &confirm, Some(&[("decision", "yes")])).await.says(NOT_BEGUN);
    browser.send("POST", &confirm, Some(&[("secret", "x"), ("decision", "yes")])).await.says(NOT_BEGUN);
    let secret = page.hidden("secret");
    let form = [("secret", secret.as_str()), ("decision", "yes")];
    // The page's secret is no state of a callback.
    browser.send("GET", &format!("{}/v1/login/oidc/callback?code=x&state={secret}", hub.url()), None).await.says(NOT_BEGUN);

    let page = hub.arrive(&mut browser, &waiting, ANN).await;
    let secret = page.hidden("secret");
    let stolen = [("secret", secret.as_str()), ("decision", "yes")];
    hub.browser().send("POST", &confirm, Some(&stolen)).await.says(NOT_BEGUN);
    browser.send("POST", &confirm, Some(&stolen)).await.says(NOT_BEGUN);

    // A form of another site, as browsers tell; and a login's secret in a body of another kind.
    let page = hub.arrive(&mut browser, &waiting, ANN).await;
    let secret = page.hidden("secret");
    let form_again = [("secret", secret.as_str()), ("decision", "yes")];
    browser.send_with("POST", &confirm, Some(&form_again), &[("sec-fetch-site", "cross-site")]).await.says(NOT_BEGUN);
    let (status, _) = hub.ask_form("/v1/login/oidc/confirm").await;
    assert_eq!(status, 400);
    // Refused there, it was not used: the person's own press still counts, once.
    let back = browser.send_with("POST", &confirm, Some(&form_again), &[("sec-fetch-site", "same-origin")]).await;
    assert!(back.location().unwrap().starts_with("http://127.0.0.1:9/?code="));
    browser.send("POST", &confirm, Some(&form_again)).await.says(NOT_BEGUN);
    browser.send("POST", &confirm, Some(&form)).await.says(NOT_BEGUN);

    // A no.
    let page = hub.arrive(&mut browser, &waiting, ANN).await;
    let back = browser.press(&page, "no").await;
    assert_eq!(back.parameter("error_description").as_deref(), Some("the login was refused in the browser"));
    browser.forget();
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_worth_nothing_without_its_muster() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "").await;
    let mut browser = hub.browser();
    let mut fresh = async |waiting: &Waiting| {
        let page = hub.arrive(&mut browser, waiting, ANN).await;
        browser.press(&page, "yes").await.parameter("code").unwrap()
    };
    let waiting = Waiting::new();
    let refused = async |body| {
        let (status, told) = hub.ask("POST", "/v1/login/code", body).await;
        assert_eq!((status, &told["code"]), (401, &json!("unauthenticated")), "{told}");
    };
    // Whoever heard it at the loopback lacks the verifier, and ends it by trying.
    let code = fresh(&waiting).await;
    let other = Waiting::new();
    refused(json!({ "code": code, "verifier": other.verifier, "redirect_uri": waiting.redirect })).await;
    refused(waiting.trade(&code)).await;
    // Another redirect, a code that is over, one that never was; a used one.
    let code = fresh(&waiting).await;
    refused(json!({ "code": code, "verifier": waiting.verifier, "redirect_uri": "http://127.0.0.1:10/" })).await;
    let code = fresh(&waiting).await;
    hub.execute("UPDATE login_codes SET expires_at = 1").await;
    refused(waiting.trade(&code)).await;
    refused(waiting.trade("x")).await;
    let code = fresh(&waiting).await;
    let (status, _) = hub.ask("POST", "/v1/login/code", waiting.trade(&code)).await;
    assert_eq!(status, 201);
    refused(waiting.trade(&code)).await;
    // Set aside between the yes and the trade.
    let code = fresh(&waiting).await;
    hub.execute("UPDATE accounts SET disabled_at = 1 WHERE email = 'ann@new.example'").await;
    let (status, told) = hub.ask("POST", "/v1/login/code", waiting.trade(&code)).await;
    assert_eq!(status, 403, "{told}");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_elsewhere() {
    let mut provider = Provider::start(&[]).await;
    let hub = Hub::with(&mut provider, "").await;
    let good = Waiting::new();
    for redirect in [
        "https://evil.example/",
        "http://evil.example:80/",
        "http://127.0.0.1:9@evil.example/",
        "http://127.0.0.1.evil.example:9/",
        "http://localhost:9/",
        "http://127.0.0.1:9/x",
        "http://127.0.0.1:9/%0d%0aX:1",
        "//evil.example/",
        "javascript:alert(1)//",
    ] {
        let bent = Waiting { redirect: redirect.to_owned(), verifier: good.verifier.clone(), state: good.state.clone() };
        let page = hub.browser().send("GET", &bent.address(&hub.url()), None).await;
        assert_eq!((page.status, page.location()), (400, None), "{redirect}");
        page.says("Begin again with muster login");
    }
    // A state or a challenge that could carry something else.
    for state in ["short", "<script>alert(1)</script>", "a b c d e f g h i j k l", &"a".repeat(200)] {
        let state: String = openidconnect::url::form_urlencoded::byte_serialize(state.as_bytes()).collect();
        let bent = Waiting { redirect: good.redirect.clone(), verifier: good.verifier.clone(), state };
        assert_eq!(hub.browser().send("GET", &bent.address(&hub.url()), None).await.status, 400);
    }
    hub.browser().send("GET", &format!("{}/v1/login/oidc/start?user_code=<b>", hub.url()), None).await.says("ABCD-2345");
    hub.browser().send("GET", &format!("{}/login/device?code=%3Cscript%3E", hub.url()), None).await.says("ABCD-2345");
    // A flood of beginnings is bounded, and told to the `muster` that waits.
    let mut begun = 0;
    loop {
        let location = hub.browser().send("GET", &good.address(&hub.url()), None).await.location().unwrap();
        if location.contains("error=rate_limited") {
            break;
        }
        begun += 1;
        assert!(begun < 1000, "nobody is stopped");
    }
    assert!(begun >= 50, "{begun}");
    hub.stop().await;
}
