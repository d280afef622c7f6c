//! A provider that is not what it should be: forged tokens, endless answers, other places.

use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::browser::parameter;
use crate::hub::{Hub, Waiting};
use crate::provider::SECRET;

/// What it answers by path: a status with headers, and a body.
type Answer = (String, Vec<u8>);

struct Hostile {
    issuer: String,
    key: EcdsaKeyPair,
    answers: Arc<Mutex<Vec<(&'static str, Answer)>>>,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn pair() -> EcdsaKeyPair {
    let random = SystemRandom::new();
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap()
}

fn ok(body: &Value) -> Answer {
    ("200 OK\r\nContent-Type: application/json".into(), serde_json::to_vec(body).unwrap())
}

/// A token as its parts say, whatever they are.
fn forged(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let signed = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
    let signature = sign(signed.as_bytes());
    format!("{signed}.{}", BASE64.encode(signature))
}

fn es256(key: &EcdsaKeyPair) -> impl Fn(&[u8]) -> Vec<u8> {
    |text| key.sign(&SystemRandom::new(), text).unwrap().as_ref().to_vec()
}

impl Hostile {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", listener.local_addr().unwrap());
        let key = pair();
        let point = key.public_key().as_ref().to_vec();
        let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": "k1", "use": "sig", "alg": "ES256",
            "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..65]) });
        let documents = json!({
            "issuer": issuer, "authorization_endpoint": format!("{issuer}/auth"), "token_endpoint": format!("{issuer}/token"),
            "userinfo_endpoint": format!("{issuer}/me"), "jwks_uri": format!("{issuer}/jwks"), "response_types_supported": ["code"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256", "none", "HS256"],
        });
        let answers =
            Arc::new(Mutex::new(vec![("/.well-known/openid-configuration", ok(&documents)), ("/jwks", ok(&json!({ "keys": [jwk] })))]));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (known, noted) = (Arc::clone(&answers), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&known), Arc::clone(&noted)));
            }
        });
        Self { issuer, key, answers, asked, task }
    }

    fn set(&self, path: &'static str, answer: Answer) {
        let mut answers = self.answers.lock().unwrap();
        answers.retain(|(known, _)| *known != path);
        answers.push((path, answer));
    }

    /// The documents, changed.
    fn bend(&self, field: &str, value: &str) {
        let path = "/.well-known/openid-configuration";
        let known = self.answers.lock().unwrap().iter().find(|(known, _)| *known == path).unwrap().1.1.clone();
        let mut documents: Value = serde_json::from_slice(&known).unwrap();
        documents[field] = value.into();
        self.set(path, ok(&documents));
    }

    fn count(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }

    /// The claims of a good token.
    fn claims(&self, nonce: &str) -> Value {
        let now = muster_hub::clock::now() / 1000;
        json!({ "iss": self.issuer, "sub": "s-1", "aud": "muster", "exp": now + 300, "iat": now, "nonce": nonce,
            "email": "eve@new.example", "email_verified": true })
    }
}

async fn serve(mut stream: TcpStream, answers: Arc<Mutex<Vec<(&'static str, Answer)>>>, asked: Arc<Mutex<Vec<String>>>) {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let Ok(read @ 1..) = stream.read(&mut piece).await else { return };
        bytes.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&bytes).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
        if body.len() >= length {
            break;
        }
    }
    let path = String::from_utf8_lossy(&bytes).split_whitespace().nth(1).unwrap_or_default().to_owned();
    asked.lock().unwrap().push(path.clone());
    let found = answers.lock().unwrap().iter().find(|(known, _)| *known == path).map(|(_, answer)| answer.clone());
    let (head, body) = found.unwrap_or_else(|| ("404 Not Found".into(), Vec::new()));
    // Whoever has heard enough closes.
    let _ = stream.write_all(format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes()).await;
    let _ = stream.write_all(&body).await;
}

/// A browser that comes back from the provider with a code; `token` makes the token endpoint's answer of the nonce.
/// Gives the page, or what `muster` is told.
async fn come_back(hub: &Hub, hostile: &Hostile, token: impl FnOnce(&str) -> Answer) -> Result<String, String> {
    let (mut browser, waiting) = (hub.browser(), Waiting::new());
    let sent = browser.send("GET", &waiting.address(&hub.url()), None).await.location().unwrap();
    if sent.starts_with(&waiting.redirect) {
        return Err(parameter(&sent, "error_description").unwrap());
    }
    let (state, nonce) = (parameter(&sent, "state").unwrap(), parameter(&sent, "nonce").unwrap());
    hostile.set("/token", token(&nonce));
    let page = browser.send("GET", &format!("{}/v1/login/oidc/callback?code=c&state={state}", hub.url()), None).await;
    match page.location() {
        Some(location) => Err(parameter(&location, "error_description").unwrap()),
        None => Ok(page.body),
    }
}

fn tokens(id_token: &str) -> Answer {
    ok(&json!({ "access_token": "a", "token_type": "Bearer", "expires_in": 60, "id_token": id_token }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_believed_only_whole() {
    let hostile = Hostile::start().await;
    let hub = Hub::start(&hostile.issuer, "").await;
    let header = json!({ "alg": "ES256", "kid": "k1", "typ": "JWT" });
    let sign = es256(&hostile.key);
    let good = come_back(&hub, &hostile, |nonce| tokens(&forged(&header, &hostile.claims(nonce), &sign))).await;
    assert!(good.unwrap().contains("as <b>eve@new.example</b>"), "the same without a fault is believed");

    let bent = async |field: &str, value: Value| {
        let answer = |nonce: &str| {
            let mut claims = hostile.claims(nonce);
            claims[field] = value;
            tokens(&forged(&header, &claims, &sign))
        };
        come_back(&hub, &hostile, answer).await.unwrap_err()
    };
    let past = muster_hub::clock::now() / 1000 - 5;
    for (field, value, why) in [
        ("nonce", json!("another"), "nonce mismatch"),
        ("nonce", Value::Null, "missing nonce"),
        ("aud", json!("somebody-else"), "must contain `muster`"),
        ("aud", json!(["muster", "somebody-else"]), "not a trusted audience"),
        ("iss", json!("https://other.example"), "Invalid issuer"),
        ("exp", json!(past), "xpired"),
        ("azp", json!("somebody-else"), "issued to another program"),
    ] {
        let told = bent(field, value).await;
        assert!(told.contains("the answer of the provider Acme SSO is refused") && told.contains(why), "{field}: {told}");
    }

    let other = pair();
    let hmac = |text: &[u8]| ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes()), text).as_ref().to_vec();
    type Sign<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let foreign = es256(&other);
    let cases: [(Value, Sign<'_>, &str); 6] = [
        (json!({ "alg": "none" }), &|_| Vec::new(), "No signature found"),
        (json!({ "alg": "HS256" }), &hmac, "Disallowed signature algorithm"),
        (json!({ "alg": "ES384", "kid": "k1" }), &sign, "Disallowed signature algorithm"),
        (header.clone(), &foreign, "Crypto error"),
        (header.clone(), &|_| Vec::new(), "rypto"),
        (json!({ "alg": "RS256", "kid": "k1" }), &sign, "No matching key"),
    ];
    for (header, sign, why) in cases {
        let told = come_back(&hub, &hostile, |nonce| tokens(&forged(&header, &hostile.claims(nonce), sign))).await.unwrap_err();
        assert!(told.contains(why), "{header}: {told}");
    }
    let told = come_back(&hub, &hostile, |_| ok(&json!({ "access_token": "a", "token_type": "Bearer" }))).await.unwrap_err();
    assert!(told.contains("there is no ID token"), "{told}");
    let told = come_back(&hub, &hostile, |_| {
        ("400 Bad Request\r\nContent-Type: application/json".into(), br#"{"error":"invalid_grant"}"#.to_vec())
    })
    .await;
    assert!(told.unwrap_err().contains("does not take the code (invalid_grant"));
    assert_eq!(hub.look("SELECT count(*) FROM accounts").await.as_deref(), Some("2"), "Ada, and the one of the good token");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_with_new_names_do_not_make_the_hub_hammer() {
    let hostile = Hostile::start().await;
    let hub = Hub::start(&hostile.issuer, "").await;
    let sign = es256(&hostile.key);
    for n in 0..8 {
        let header = json!({ "alg": "ES256", "kid": format!("made-up-{n}") });
        let told = come_back(&hub, &hostile, |nonce| tokens(&forged(&header, &hostile.claims(nonce), &sign))).await.unwrap_err();
        assert!(told.contains("No matching key"), "{told}");
    }
    assert_eq!(hostile.count("/jwks"), 2, "at the first login, and once for a name that was not known");
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_email_elsewhere_is_the_same_persons() {
    let hostile = Hostile::start().await;
    let hub = Hub::start(&hostile.issuer, "").await;
    let header = json!({ "alg": "ES256", "kid": "k1" });
    let sign = es256(&hostile.key);
    let without_email = |nonce: &str| {
        let mut claims = hostile.claims(nonce);
        claims.as_object_mut().unwrap().remove("email");
        forged(&header, &claims, &sign)
    };
    hostile.set("/me", ok(&json!({ "sub": "somebody-else", "email": "ada@acme.example", "email_verified": true })));
    let told = come_back(&hub, &hostile, |nonce| tokens(&without_email(nonce))).await.unwrap_err();
    assert!(told.contains("Invalid subject"), "{told}");
    // An access token that is no header's value.
    let odd = |nonce: &str| ok(&json!({ "access_token": "a\r\nX: y", "token_type": "Bearer", "id_token": without_email(nonce) }));
    let told = come_back(&hub, &hostile, odd).await.unwrap_err();
    assert!(told.contains("access token is not one"), "{told}");
    hostile.set("/me", ok(&json!({ "sub": "s-1", "email": "eve@new.example", "email_verified": "true" })));
    assert!(come_back(&hub, &hostile, |nonce| tokens(&without_email(nonce))).await.unwrap().contains("eve@new.example"));
    hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_answers_and_other_places_are_refused() {
    let header = json!({ "alg": "ES256", "kid": "k1" });
    let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let secret_place = format!("http://{}/latest/meta-data", inside.local_addr().unwrap());
    // The token endpoint: too much, a redirect inside.
    let hostile = Hostile::start().await;
    let hub = Hub::start(&hostile.issuer, "").await;
    let large = |_: &str| ("200 OK\r\nContent-Type: application/json".to_owned(), vec![b' '; 10_000_000]);
    let told = come_back(&hub, &hostile, large).await.unwrap_err();
    assert!(told.contains("does not answer") && told.contains("answered with more than 512 KiB"), "{told}");
    for status in ["301 Moved", "302 Found", "307 Temporary Redirect"] {
        let redirect = |_: &str| (format!("{status}\r\nLocation: {secret_place}"), Vec::new());
        let told = come_back(&hub, &hostile, redirect).await.unwrap_err();
        assert!(told.contains("redirect") && told.contains("does not follow"), "{told}");
    }
    let sign = es256(&hostile.key);
    assert!(
        come_back(&hub, &hostile, |nonce| tokens(&forged(&header, &hostile.claims(nonce), &sign))).await.is_ok(),
        "nothing else suffers"
    );
    hub.stop().await;

    // The documents: too much, a redirect, another issuer, places that are not https, and no JSON.
    type Bend = fn(&Hostile, &str);
    let cases: [(Bend, &str); 7] = [
        (|hostile, _| hostile.set("/.well-known/openid-configuration", ("200 OK".into(), vec![b'{'; 10_000_000])), "more than 512 KiB"),
        (|hostile, to| hostile.set("/.well-known/openid-configuration", (format!("302 Found\r\nLocation: {to}"), Vec::new())), "redirect"),
        (|hostile, _| hostile.set("/.well-known/openid-configuration", ("200 OK".into(), b"<html>".to_vec())), "documents cannot be used"),
        (|hostile, _| hostile.bend("issuer", "https://id.example"), "unexpected issuer"),
        (|hostile, _| hostile.bend("jwks_uri", "http://169.254.169.254/latest/meta-data"), "which is not https"),
        (|hostile, _| hostile.bend("authorization_endpoint", "http://evil.example/auth"), "page for logins is not https"),
        (|hostile, _| hostile.bend("authorization_endpoint", "javascript:alert(1)"), "page for logins is not https"),
    ];
    for (bend, why) in cases {
        let hostile = Hostile::start().await;
        bend(&hostile, &secret_place);
        let hub = Hub::start(&hostile.issuer, "").await;
        let told = come_back(&hub, &hostile, |_| tokens("x")).await.unwrap_err();
        assert!(told.contains(why), "{why}: {told}");
        hub.stop().await;
    }
    // Nobody knocked inside.
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), inside.accept()).await.is_err());
}
