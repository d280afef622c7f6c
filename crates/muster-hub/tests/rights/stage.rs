//! A hub with an organization of four projects, somebody in every standing, and a linked device in each project.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use muster_hub::config::Config;
use muster_hub::init::{self, First, Wanted};
use muster_hub::serve::{self, Ports, Running};
use muster_link::tls::{self, Clock, Identity, Trust};
use muster_proto::token::{Pin, Token, TokenKind};
use rcgen::{CertificateParams, KeyPair};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use rumqttc::{TlsConfiguration, Transport};
use serde_json::json;
use tokio::task::JoinHandle;

use crate::caller::{Caller, Line};
use crate::grid::{PLACES, Proof, Scope, Standing};

/// Members that wait to be acted on.
const MEMBERS: usize = 400;
/// For anything that should take a moment, on a machine that is busy.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The hub and what is in it.
pub(crate) struct Stage {
    /// The hub in this process; none where it is a process of its own.
    pub(crate) running: Option<Running>,
    pub(crate) line: Arc<Line>,
    /// The owner who prepares everything.
    pub(crate) owner: Caller,
    pub(crate) nobody: Caller,
    pub(crate) database: PathBuf,
    /// Per project, an enrolment token that admits and one that leaves pending.
    pub(crate) tokens: BTreeMap<&'static str, (String, String)>,
    /// Per project, the device that has an MQTT link.
    pub(crate) linked: BTreeMap<&'static str, LinkedDevice>,
    pub(crate) members: Mutex<Vec<String>>,
    pub(crate) count: AtomicUsize,
    links: Vec<JoinHandle<()>>,
    pub(crate) pin: Pin,
    pub(crate) dir: tempfile::TempDir,
}

/// A device that takes every order and does nothing.
pub(crate) struct LinkedDevice {
    pub(crate) uid: String,
    identity: Identity,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.links.iter().for_each(JoinHandle::abort);
    }
}

impl Stage {
    pub(crate) async fn new() -> Arc<Self> {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted::on_loopback(
            dir.path(),
            First { owner: "ada@acme.example".into(), org: Some("acme".parse().unwrap()), project: None, token_name: "test".into() },
        );
        let made = tokio::task::spawn_blocking(move || init::init(wanted, []).unwrap()).await.unwrap();
        let token = made.token.expect("the first owner's token");
        let config = Config::load(&made.config, []).unwrap();
        let ports = Ports::bind(&config).await.unwrap();
        let running = serve::start(config, ports).await.unwrap();
        let pin = Token::parse(&token, TokenKind::Personal).unwrap().pin;
        let line = Line::new(running.https, pin);
        let mut stage = Self {
            owner: Caller::new(&line, Some(&token)),
            nobody: Caller::new(&line, None),
            database: dir.path().join("data/hub.db"),
            running: Some(running),
            line,
            tokens: BTreeMap::new(),
            linked: BTreeMap::new(),
            members: Mutex::default(),
            count: AtomicUsize::new(0),
            links: Vec::new(),
            pin,
            dir,
        };
        let mqtt = stage.state_of(|running| running.mqtt.unwrap());
        for (place, visibility) in PLACES {
            stage.owner.post("/v1/orgs/acme/projects", json!({ "id": place, "visibility": visibility })).await;
            let [auto, manual] = ["auto", "manual"].map(|admit| json!({ "admit": admit, "project": place, "expires_s": 3600 }));
            let token = async |wanted| {
                let made = stage.owner.post("/v1/orgs/acme/enrolment-tokens", wanted).await;
                made["token"].as_str().unwrap().to_owned()
            };
            let made = (token(auto).await, token(manual).await);
            stage.tokens.insert(place, made);
            let device = stage.device_to_link(place).await;
            let link = device.link(mqtt, pin).await;
            stage.linked.insert(place, device);
            stage.links.push(link);
        }
        stage.make_members().await;
        Arc::new(stage)
    }

    async fn make_members(&mut self) {
        let names: Vec<String> = (0..MEMBERS).map(|n| format!("p{n}@fresh.example")).collect();
        let made = names.clone();
        let work = move |tx: &rusqlite::Transaction<'_>| {
            for email in &made {
                tx.execute("INSERT INTO accounts (email, name, created_at) VALUES (?1, ?1, 1)", [email])?;
                let account = tx.last_insert_rowid();
                tx.execute("INSERT INTO members (org, account, role, since) VALUES ('acme', ?1, 'viewer', 1)", [account])?;
            }
            Ok(())
        };
        self.write(work).await;
        *self.members.lock().unwrap() = names;
    }

    async fn device_to_link(&self, place: &str) -> LinkedDevice {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
        let body = json!({ "token": self.tokens[place].0, "serial": format!("linked-{place}"), "csr": csr, "facts": {} });
        let identity = self.nobody.post("/v1/enrol", body).await["identity"].clone();
        let (uid, certificate) = (identity["uid"].as_str().unwrap().to_owned(), identity["certificate"].as_str().unwrap());
        LinkedDevice { uid, identity: Identity::from_pem(certificate.as_bytes(), key.serialize_pem().as_bytes()).unwrap() }
    }

    fn state_of<T>(&self, part: impl FnOnce(&Running) -> T) -> T {
        part(self.running.as_ref().expect("the hub runs in this process"))
    }

    /// Changes the database behind the API, through the hub's own writer: what would take many calls.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> T {
        let store = self.state_of(|running| running.state.store.clone());
        store.write(move |tx| Ok(work(tx)?)).await.unwrap()
    }

    /// Makes an account, and a caller who speaks for it.
    pub(crate) async fn person(&self, email: &str) -> Caller {
        let (store, ca) = self.state_of(|running| (running.state.store.clone(), running.state.ca.clone()));
        let owner = email.to_owned();
        let first = First { owner, org: None, project: None, token_name: "test".into() };
        let token = tokio::task::spawn_blocking(move || init::first(&store, &ca, first).unwrap()).await.unwrap();
        Caller::new(&self.line, Some(&token))
    }

    /// Puts somebody where the standing says.
    pub(crate) async fn cast(&self, standing: &Standing) -> Caller {
        if standing.proof == Proof::Nothing {
            return self.nobody.clone();
        }
        if standing.service {
            return self.service(standing).await;
        }
        let caller = self.person(&email(standing)).await;
        let standing = *standing;
        self.write(move |tx| place(tx, &standing)).await;
        if standing.org == "left" {
            let path = format!("/v1/orgs/acme/members/{}", email(&standing));
            self.owner.send("DELETE", &path, "").await.ok();
        }
        match standing.proof {
            Proof::Token(Scope::Full, "", "") | Proof::Nothing => caller,
            Proof::Token(scope, org, project) => {
                let scope = format!("{scope:?}").to_lowercase();
                let mut wanted = json!({ "name": "limited", "scope": scope });
                for (key, value) in [("org", org), ("project", project)].into_iter().filter(|(_, value)| !value.is_empty()) {
                    wanted[key] = json!(value);
                }
                let made = caller.post("/v1/tokens", wanted).await;
                Caller::new(&self.line, made["token"].as_str())
            }
            Proof::Dead(how, _) => {
                let find = "SELECT id FROM accounts WHERE email = ?1";
                let work = move |tx: &rusqlite::Transaction<'_>| {
                    let account: i64 = tx.query_row(find, [email(&standing)], |row| row.get(0))?;
                    tx.execute(how, [account])
                };
                assert_eq!(self.write(work).await, 1);
                caller
            }
        }
    }

    /// A service account with a token.
    async fn service(&self, standing: &Standing) -> Caller {
        let mut wanted = json!({ "name": standing.name });
        if !standing.org.is_empty() {
            wanted["role"] = json!(standing.org);
        }
        if !standing.part.is_empty() {
            (wanted["project"], wanted["project_role"]) = (json!(standing.place), json!(standing.part));
        }
        self.owner.post("/v1/orgs/acme/service-accounts", wanted).await;
        let made = self.owner.post(&format!("/v1/orgs/acme/service-accounts/{}/tokens", standing.name), json!({ "name": "test" })).await;
        Caller::new(&self.line, made["token"].as_str())
    }

    /// A member who waits to be acted on.
    pub(crate) fn member(&self) -> String {
        self.members.lock().unwrap().pop().expect("enough members were made")
    }

    pub(crate) async fn set_archived(&self, place: &str, archived: bool) {
        let (sql, place) = ("UPDATE projects SET archived_at = ?1 WHERE org = 'acme' AND id = ?2", place.to_owned());
        let work = move |tx: &rusqlite::Transaction<'_>| tx.execute(sql, (archived.then_some(1), place));
        assert_eq!(self.write(work).await, 1);
    }

    /// Archives the project that is meant to be, or opens it for preparations; all others are open.
    /// What lives by an archived project has ended when this returns.
    pub(crate) async fn archive(&self, archived: bool) {
        for (place, _) in PLACES {
            self.set_archived(place, archived && place == "attic").await;
        }
        let living = "SELECT (SELECT count(*) FROM sessions WHERE project = 'attic' AND ended_at IS NULL)
                    + (SELECT count(*) FROM runs WHERE project = 'attic' AND state IN ('waiting', 'running'))";
        let end = tokio::time::Instant::now() + SOON;
        while archived && self.write(|tx| tx.query_row(living, [], |row| row.get::<_, i64>(0))).await > 0 {
            assert!(tokio::time::Instant::now() < end, "sessions or runs of an archived project live on");
            tokio::task::yield_now().await;
        }
    }
}

impl LinkedDevice {
    /// Links to the hub, and waits until it is.
    pub(crate) async fn link(&self, hub: SocketAddr, pin: Pin) -> JoinHandle<()> {
        let tls = tls::client_config(&Trust::Pin(pin), Some(&self.identity), &Clock::with_floor(0)).unwrap();
        let mut options = MqttOptions::new(&self.uid, hub.ip().to_string(), hub.port());
        options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls))).set_clean_start(true);
        let (client, mut events) = AsyncClient::new(options, 16);
        client.subscribe(format!("muster/v1/{}/down/#", self.uid), QoS::AtLeastOnce).await.unwrap();
        let (linked, ready) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let (_client, mut linked) = (client, Some(linked));
            while let Ok(event) = events.poll().await {
                if let Event::Incoming(Packet::SubAck(_)) = event {
                    let _ = linked.take().map(|linked| linked.send(()));
                }
            }
        });
        tokio::time::timeout(SOON, ready).await.expect("a device links in time").expect("a device links");
        task
    }
}

/// Gives somebody his roles.
fn place(tx: &rusqlite::Transaction<'_>, standing: &Standing) -> rusqlite::Result<()> {
    let account: i64 = tx.query_row("SELECT id FROM accounts WHERE email = ?1", [email(standing)], |row| row.get(0))?;
    let participates = |place: &str, role: &str| {
        let sql = "INSERT INTO participants (org, project, account, role, since) VALUES ('acme', ?1, ?2, ?3, 1)";
        tx.execute(sql, (place, account, role))
    };
    if !standing.part.is_empty() {
        participates(standing.place, standing.part)?;
    }
    let limited = matches!(standing.proof, Proof::Token(_, _, project) if !project.is_empty());
    if !standing.elsewhere.is_empty() && !limited {
        participates("shed", standing.elsewhere)?;
    }
    if !standing.team.is_empty() {
        let name = standing.name;
        tx.execute("INSERT INTO teams (org, id, name, created_at) VALUES ('acme', ?1, ?1, 1)", [name])?;
        tx.execute("INSERT INTO team_members (org, team, account, since) VALUES ('acme', ?1, ?2, 1)", (name, account))?;
        let sql = "INSERT INTO project_teams (org, project, team, role, since) VALUES ('acme', ?1, ?2, ?3, 1)";
        tx.execute(sql, (standing.place, name, standing.team))?;
    }
    if !standing.org.is_empty() {
        let role = if standing.org == "left" { "viewer" } else { standing.org };
        tx.execute("INSERT INTO members (org, account, role, since) VALUES ('acme', ?1, ?2, 1)", (account, role))?;
    }
    tx.execute("UPDATE accounts SET hub_owner = ?2 WHERE id = ?1", (account, standing.hub_owner))?;
    Ok(())
}

pub(crate) fn email(standing: &Standing) -> String {
    let host = if standing.service { "acme.service" } else { "cast.example" };
    format!("{}@{host}", standing.name)
}

/// Runs jobs at once, and gives their results in order.
pub(crate) async fn together<T: Send + 'static>(jobs: Vec<impl Future<Output = T> + Send + 'static>) -> Vec<T> {
    so_many(16, jobs).await
}

/// Runs jobs, so many at once, and gives their results in order.
pub(crate) async fn so_many<T: Send + 'static>(at_once: usize, jobs: Vec<impl Future<Output = T> + Send + 'static>) -> Vec<T> {
    let places = Arc::new(tokio::sync::Semaphore::new(at_once));
    let running: Vec<_> = jobs
        .into_iter()
        .map(|job| {
            let places = Arc::clone(&places);
            tokio::spawn(async move {
                let _place = places.acquire_owned().await.unwrap();
                job.await
            })
        })
        .collect();
    let mut results = Vec::with_capacity(running.len());
    for job in running {
        results.push(job.await.unwrap());
    }
    results
}
