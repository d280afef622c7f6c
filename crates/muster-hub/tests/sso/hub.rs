//! A hub in this process with single sign-on, and what people ask it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use muster_hub::config::Config;
use muster_hub::init::{self, First, Wanted};
use muster_hub::random;
use muster_hub::serve::{self, Ports, Running};
use muster_link::http::{Hub as Http, Request};
use muster_link::tls::{self, Clock, Trust};
use muster_proto::token::{Token, TokenKind};
use serde_json::{Value, json};

use crate::browser::{Browser, Page, parameter};
use crate::provider::{Provider, SECRET};

/// A hub whose organization `acme` is Ada's.
pub(crate) struct Hub {
    running: Running,
    pub(crate) token: Token,
    pub(crate) dir: tempfile::TempDir,
}

/// What a `muster` that waits at the loopback remembers.
pub(crate) struct Waiting {
    pub(crate) verifier: String,
    pub(crate) state: String,
    pub(crate) redirect: String,
}

impl Waiting {
    pub(crate) fn new() -> Self {
        let text = || BASE64_URL_SAFE_NO_PAD.encode(random::bytes::<32>());
        // Nobody listens there: the browser of these tests stops before.
        Self { verifier: text(), state: text(), redirect: "http://127.0.0.1:9/".to_owned() }
    }

    /// The address that it opens.
    pub(crate) fn address(&self, hub: &str) -> String {
        let challenge = BASE64_URL_SAFE_NO_PAD.encode(random::sha256(self.verifier.as_bytes()));
        format!("{hub}/v1/login/oidc/start?redirect_uri={}&challenge={challenge}&state={}", self.redirect, self.state)
    }

    /// What it trades a code for.
    pub(crate) fn trade(&self, code: &str) -> Value {
        json!({ "code": code, "verifier": self.verifier, "redirect_uri": self.redirect, "token_name": "muster login on lap" })
    }
}

impl Hub {
    /// With a provider that is registered with it.
    pub(crate) async fn with(provider: &mut Provider, settings: &str) -> Self {
        let hub = Self::start(&provider.issuer, settings).await;
        provider.serve(&hub.url()).await;
        hub
    }

    /// With an issuer, whoever that is.
    pub(crate) async fn start(issuer: &str, settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted::on_loopback(
            dir.path(),
            First { owner: "ada@acme.example".into(), org: Some("acme".parse().unwrap()), project: None, token_name: "test".into() },
        );
        let made = tokio::task::spawn_blocking(move || init::init(wanted, []).unwrap()).await.unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
        std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
        let oidc = format!(
            "[oidc]\nissuer = \"{issuer}\"\nclient_id = \"muster\"\nclient_secret_file = \"{}\"\nname = \"Acme SSO\"\n{settings}\n",
            secret.display()
        );
        let text = std::fs::read_to_string(&made.config).unwrap();
        std::fs::write(&made.config, format!("{text}\n{oidc}")).unwrap();
        let token = Token::parse(made.token.as_deref().unwrap(), TokenKind::Personal).unwrap();
        Self { running: run(&made.config).await, token, dir }
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.running.https)
    }

    pub(crate) fn browser(&self) -> Browser {
        Browser::new(self.token.pin)
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }

    async fn send(&self, method: &str, path: &str, body: Option<Value>, bearer: Option<&str>) -> (u16, Value) {
        let tls = tls::client_config(&Trust::Pin(self.token.pin), None, &Clock::default()).unwrap();
        let mut http = Http::from_url(&self.url(), tls, None).unwrap();
        let body = body.map(|body| serde_json::to_vec(&body).unwrap());
        let answer = http.send(&Request { bearer, body: body.as_deref(), ..Request::new(method, path) }).await.unwrap();
        (answer.status, if answer.body.is_empty() { Value::Null } else { serde_json::from_slice(&answer.body).unwrap() })
    }

    /// What a stranger is answered.
    pub(crate) async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.send(method, path, (method != "GET").then_some(body), None).await
    }

    /// What a body of another kind than a form's is answered: a page, not JSON.
    pub(crate) async fn ask_form(&self, path: &str) -> (u16, Vec<u8>) {
        let tls = tls::client_config(&Trust::Pin(self.token.pin), None, &Clock::default()).unwrap();
        let mut http = Http::from_url(&self.url(), tls, None).unwrap();
        let answer = http.send(&Request { body: Some(b"{}"), ..Request::new("POST", path) }).await.unwrap();
        (answer.status, answer.body)
    }

    /// What somebody with a token is answered.
    pub(crate) async fn ask_as(&self, token: &str, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.send(method, path, (method != "GET").then_some(body), Some(token)).await
    }

    /// What Ada is answered.
    pub(crate) async fn ada(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, value) = self.ask_as(&self.token.to_string(), method, path, body).await;
        assert!(status < 300, "{method} {path}: {status} {value}");
        value
    }

    pub(crate) async fn execute(&self, sql: &'static str) {
        self.running.state.store.write(move |tx| Ok(tx.execute(sql, [])?)).await.unwrap();
    }

    /// The first column of the first row, as text.
    pub(crate) async fn look(&self, sql: &'static str) -> Option<String> {
        let work = move |db: &rusqlite::Connection| {
            let mut statement = db.prepare(sql)?;
            let mut rows = statement.query([])?;
            Ok(match rows.next()? {
                Some(row) => Some(row.get::<_, rusqlite::types::Value>(0)?),
                None => None,
            })
        };
        self.running.state.store.read(work).await.unwrap().map(|value| match value {
            rusqlite::types::Value::Text(text) => text,
            rusqlite::types::Value::Integer(number) => number.to_string(),
            other => format!("{other:?}"),
        })
    }

    /// The page that a person sees who logs in for a `muster` that waits.
    pub(crate) async fn arrive(&self, browser: &mut Browser, waiting: &Waiting, login: &str) -> Page {
        let page = browser.open(&waiting.address(&self.url())).await;
        browser.log_in(page, login).await
    }

    /// The whole way: the token that the `muster` that waits gets.
    pub(crate) async fn log_in(&self, login: &str) -> String {
        let (mut browser, waiting) = (self.browser(), Waiting::new());
        let page = self.arrive(&mut browser, &waiting, login).await;
        page.says("as <b>");
        let back = browser.press(&page, "yes").await;
        assert_eq!(back.parameter("state"), Some(waiting.state.clone()), "{}", back.url);
        let code = back.parameter("code").unwrap_or_else(|| panic!("{}", back.url));
        let (status, made) = self.ask("POST", "/v1/login/code", waiting.trade(&code)).await;
        assert_eq!(status, 201, "{made}");
        made["token"].as_str().unwrap().to_owned()
    }

    /// The whole way of somebody who is not let in: what their `muster` is told.
    pub(crate) async fn refused(&self, login: &str) -> String {
        let (mut browser, waiting) = (self.browser(), Waiting::new());
        let page = self.arrive(&mut browser, &waiting, login).await;
        assert_eq!(parameter(&page.url, "state"), Some(waiting.state.clone()), "{} {}", page.url, page.body);
        assert_eq!(parameter(&page.url, "code"), None);
        parameter(&page.url, "error_description").unwrap()
    }
}

async fn run(config: &Path) -> Running {
    let config = Config::load(config, []).unwrap();
    let ports = Ports::bind(&config).await.unwrap();
    serve::start(config, ports).await.unwrap()
}
