//! The SMTP server as a child, and a hub that mails through it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use muster_hub::config::Config;
use muster_hub::init::{self, First, Wanted};
use muster_hub::serve::{self, Ports, Running};
use muster_link::http::{Hub as Http, Request};
use muster_link::tls::{self, Clock, Trust};
use muster_proto::token::{Token, TokenKind};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::time::{Instant, interval};

/// The longest wait for anything: a mail takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// An SMTP server of our own, ended with the test.
pub(crate) struct Post {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Drop for Post {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tools() -> PathBuf {
    let place = std::env::var_os("MUSTER_TEST_TOOLS").map(PathBuf::from);
    place.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-tools"))
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// The token of an invitation's link.
pub(crate) fn token_of(link: &str) -> &str {
    link.split_once('#').unwrap().1
}

impl Post {
    /// With these options of `server.py`; `tls` makes an authority and a certificate for 127.0.0.1.
    pub(crate) async fn start(port: u16, options: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let python = tools().join("mail/bin/python");
        assert!(python.exists(), "there is no aiosmtpd: run scripts/install-test-tools");
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mail/server.py")).arg(port.to_string()).arg(dir.path());
        for option in options {
            if *option == "tls" {
                command.arg(certificate(dir.path()));
            } else {
                command.arg(option);
            }
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let out = child.stdout.take().unwrap();
        let line = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(out).read_line(&mut line).unwrap();
            line
        });
        let port = line.await.unwrap().trim().parse().expect("the server tells its port");
        Self { child, port, dir }
    }

    /// `[mail]` for this server.
    pub(crate) fn settings(&self, more: &str) -> String {
        Self::settings_for(self.port, more)
    }

    /// `[mail]` for a server on a port.
    pub(crate) fn settings_for(port: u16, more: &str) -> String {
        format!("[mail]\nserver = \"127.0.0.1:{port}\"\nfrom = \"Muster <muster@hub.example>\"\n{more}\n")
    }

    pub(crate) fn authority(&self) -> String {
        self.dir.path().join("ca.pem").display().to_string()
    }

    pub(crate) fn count(&self) -> usize {
        std::fs::read_dir(self.dir.path())
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "json"))
            .count()
    }

    /// The mail of a number, once it is there.
    pub(crate) async fn mail(&self, number: usize) -> Value {
        let path = self.dir.path().join(format!("{number:03}.json"));
        until(async || std::fs::read(&path).ok().map(|text| serde_json::from_slice(&text).unwrap())).await
    }
}

/// An authority and a certificate for 127.0.0.1, as the server's option names them.
fn certificate(dir: &Path) -> String {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    for (name, text) in [("ca.pem", ca_certificate.pem()), ("server.pem", leaf.pem()), ("server.key", key.serialize_pem())] {
        std::fs::write(dir.join(name), text).unwrap();
    }
    format!("tls={},{}", dir.join("server.pem").display(), dir.join("server.key").display())
}

async fn until<T>(look: impl AsyncFn() -> Option<T>) -> T {
    let (started, mut ticks) = (Instant::now(), interval(Duration::from_millis(20)));
    loop {
        ticks.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "it did not come");
    }
}

/// A hub in this process whose organization is Ada's.
pub(crate) struct Hub {
    running: Running,
    config: PathBuf,
    token: Token,
    dir: tempfile::TempDir,
}

impl Hub {
    pub(crate) async fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted::on_loopback(
            dir.path(),
            First { owner: "ada@acme.example".into(), org: Some("acme".parse().unwrap()), project: None, token_name: "test".into() },
        );
        let made = tokio::task::spawn_blocking(move || init::init(wanted, []).unwrap()).await.unwrap();
        let text = std::fs::read_to_string(&made.config).unwrap();
        std::fs::write(&made.config, format!("{text}\n{settings}")).unwrap();
        let token = Token::parse(made.token.as_deref().unwrap(), TokenKind::Personal).unwrap();
        Self { running: run(&made.config).await, config: made.config, token, dir }
    }

    pub(crate) async fn restart(self) -> Self {
        self.running.stop().await;
        Self { running: run(&self.config).await, ..self }
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }

    async fn send(&self, method: &str, path: &str, body: Value, bearer: Option<&str>) -> (u16, Value) {
        let tls = tls::client_config(&Trust::Pin(self.token.pin), None, &Clock::default()).unwrap();
        let mut http = Http::from_url(&format!("https://{}", self.running.https), tls, None).unwrap();
        let body = serde_json::to_vec(&body).unwrap();
        let body = (method != "GET").then_some(&body[..]);
        let answer = http.send(&Request { bearer, body, ..Request::new(method, path) }).await.unwrap();
        (answer.status, if answer.body.is_empty() { Value::Null } else { serde_json::from_slice(&answer.body).unwrap() })
    }

    /// What Ada is answered.
    pub(crate) async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, value) = self.send(method, path, body, Some(&self.token.to_string())).await;
        assert!(status < 300, "{method} {path}: {status} {value}");
        value
    }

    /// What somebody else with a token is answered, whatever it is.
    pub(crate) async fn by(&self, token: Option<&str>, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.send(method, path, body, token).await
    }

    /// What a stranger is answered.
    pub(crate) async fn anonymous(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, value) = self.send(method, path, body, None).await;
        assert!(status < 300, "{method} {path}: {status} {value}");
        value
    }

    /// The problem that Ada is answered.
    pub(crate) async fn refused(&self, method: &str, path: &str) -> Value {
        let (status, value) = self.send(method, path, json!({}), Some(&self.token.to_string())).await;
        assert!(status >= 400, "{method} {path}: {status} {value}");
        value
    }

    /// An invitation that waits, once one is like this.
    pub(crate) async fn pending_once(&self, like: impl Fn(&Value) -> bool) -> Value {
        until(async || {
            let page = self.call("GET", "/v1/orgs/acme/invitations", Value::Null).await;
            page["items"].as_array().unwrap().iter().find(|one| like(one)).cloned()
        })
        .await
    }

    pub(crate) async fn execute(&self, sql: &'static str) {
        self.running.state.store.write(move |tx| Ok(tx.execute(sql, [])?)).await.unwrap();
    }

    /// Whether any file of the hub holds a text.
    pub(crate) fn database_holds(&self, text: &str) -> bool {
        let mut looked = 0;
        let found = std::fs::read_dir(self.dir.path().join("data")).unwrap().any(|entry| {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap_or_default();
            looked += bytes.len();
            bytes.windows(text.len()).any(|window| window == text.as_bytes())
        });
        assert!(looked > 10_000, "{looked}");
        found
    }

    /// The link in a mail's text, which may be wrapped as quoted-printable.
    pub(crate) fn link_in(text: &str) -> String {
        let text = text.replace("=\r\n", "").replace("=\n", "").replace("=3D", "=");
        let from = text.find("https://").expect("the mail has a link");
        text[from..].split_whitespace().next().unwrap().to_owned()
    }
}

async fn run(config: &Path) -> Running {
    let config = Config::load(config, []).unwrap();
    let ports = Ports::bind(&config).await.unwrap();
    serve::start(config, ports).await.unwrap()
}
