//! The hub on a real Mosquitto with the configuration that the hub makes: the way through, the fence under attack, the cut.
//!
//! Needs the Debian package `mosquitto`, which `make check` installs.

#![allow(clippy::unwrap_used, clippy::large_futures, reason = "a test ends where it fails")]

#[path = "mqtt_common/hub.rs"]
mod mqtt_common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mqtt_common::*;
use muster_hub::broker::mosquitto::{Settings, files};
use muster_hub::broker::{self, Broker};
use muster_hub::config;
use muster_hub::mqtt::{Lanes, SendOptions};
use muster_proto::api::PresenceState;
use muster_proto::topic::Down;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

const BOOT: &str = "0123456789abcdef";
const MINUTE: SendOptions = SendOptions { retain: false, expiry: Duration::from_secs(60) };

/// A Mosquitto of our own on a free port, ended with the test.
struct Mosquitto {
    child: Child,
    port: u16,
    dir: PathBuf,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> &'static str {
    let found =
        ["/usr/sbin/mosquitto", "/usr/bin/mosquitto", "/usr/local/sbin/mosquitto"].into_iter().find(|path| Path::new(path).exists());
    found.expect("mosquitto is installed: apt-get install mosquitto")
}

impl Mosquitto {
    async fn start(hub: &Hub) -> Self {
        let dir = hub.dir.path().join("mosquitto");
        std::fs::create_dir_all(&dir).unwrap();
        // A port that was free a moment ago; where somebody else was faster, another one.
        for _ in 0..10 {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let settings = Settings {
                port,
                bind: Some("127.0.0.1".into()),
                names: vec!["localhost".into(), "127.0.0.1".into()],
                directory: dir.display().to_string(),
                state: format!("{}/", dir.display()),
                ..Settings::default()
            };
            for file in files(&settings, &hub.ca).unwrap() {
                // What the plug-in has written since must survive a restart.
                if file.name != "dynamic-security.json" || !dir.join(file.name).exists() {
                    std::fs::write(dir.join(file.name), file.content).unwrap();
                }
            }
            let mut found = Self { child: Self::run(&dir), port, dir: dir.clone() };
            if found.is_up().await {
                return found;
            }
        }
        panic!("mosquitto does not start: {}", std::fs::read_to_string(dir.join("log")).unwrap_or_default());
    }

    fn run(dir: &Path) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(dir.join("log")).unwrap();
        let mut command = Command::new(program());
        // As root Mosquitto would become its own user, who may not read the test's files.
        let conf = std::fs::read_to_string(dir.join("mosquitto.conf")).unwrap();
        std::fs::write(dir.join("test.conf"), format!("user root\nlog_type all\n{conf}")).unwrap();
        command.arg("-c").arg(dir.join("test.conf")).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    }

    async fn is_up(&mut self) -> bool {
        let end = tokio::time::Instant::now() + WAIT;
        while tokio::time::Instant::now() < end && self.child.try_wait().unwrap().is_none() {
            if TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    /// What the plug-in keeps on disk: clients and roles.
    fn access_list(&self) -> String {
        std::fs::read_to_string(self.dir.join("dynamic-security.json")).unwrap_or_default()
    }

    async fn raw(&self, hub: &Hub, papers: &Papers) -> Raw<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let connector = TlsConnector::from(Arc::new(hub.client_tls(Some(papers))));
        Raw::new(connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await.unwrap())
    }

    async fn linked(&self, hub: &Hub, uid: &str, papers: &Papers) -> Raw<TlsStream<TcpStream>> {
        let mut raw = self.raw(hub, papers).await;
        raw.send(&connect(uid, 0, &[0x11, 0, 0, 0x0e, 0x10], &[])).await;
        let connack = raw.packet().await.expect("CONNACK");
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:?}");
        raw
    }
}

/// A hub on Mosquitto.
struct System {
    hub: Hub,
    mosquitto: Mosquitto,
    broker: Broker,
    lanes: Lanes,
    shutdown: CancellationToken,
    bridge: tokio::task::JoinHandle<()>,
}

impl System {
    async fn start() -> Self {
        let hub = Hub::start().await;
        let mosquitto = Mosquitto::start(&hub).await;
        let (broker, bridge, shutdown) = Self::bridge(&hub, &mosquitto);
        let lanes = Lanes::external(hub.store.clone(), hub.ingest.clone(), broker.clone());
        let system = Self { hub, mosquitto, broker, lanes, shutdown, bridge };
        system.up().await;
        system
    }

    fn bridge(hub: &Hub, mosquitto: &Mosquitto) -> (Broker, tokio::task::JoinHandle<()>, CancellationToken) {
        let settings = config::Broker {
            url: config::Origin { scheme: "mqtts", host: "localhost".into(), port: mosquitto.port },
            username: None,
            password: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        };
        let (broker, bridge) = broker::connect(&settings, &hub.ca, hub.store.clone(), hub.ingest.clone()).unwrap();
        let shutdown = CancellationToken::new();
        let running = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { bridge.run(shutdown).await }
        });
        (broker, running, shutdown)
    }

    async fn up(&self) {
        until("the hub is connected to Mosquitto", || async { self.broker.is_up() }).await;
    }

    async fn admitted(&self, uid_text: &str, org: &str) -> Papers {
        let papers = self.hub.device(uid_text, org).await;
        self.lanes.admit(&uid(uid_text)).await.unwrap();
        papers
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.bridge.await.unwrap();
        drop(self.mosquitto);
        drop(self.hub.stop().await);
    }
}

/// What a device says arrives, and what the hub says arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_through() {
    let system = System::start().await;
    let a = system.admitted(A, "acme").await;
    let topic = format!("muster/v1/{A}/up/presence");
    let mut raw = system.mosquitto.raw(&system.hub, &a).await;
    raw.send(&connect(A, 0x2c, &[0x11, 0, 0, 0x0e, 0x10], &will(&topic, br#"{"online":false,"link":1}"#))).await;
    assert_eq!(raw.packet().await.unwrap()[3], 0);
    assert_eq!(raw.subscribe(&format!("muster/v1/{A}/down/#")).await, 1);
    assert_eq!(raw.publish(&topic, &birth(1)).await, 0);
    assert_eq!(raw.publish(&format!("muster/v1/{A}/up/usage"), &usage(BOOT, 1, 6)).await, 0);
    assert_eq!(raw.publish(&format!("muster/v1/{A}/up/usage"), &usage(BOOT, 4, 6)).await, 0);
    until("nine samples are stored", || async { system.hub.count("SELECT count(*) FROM usage_samples").await == 9 }).await;
    until("it is online", || async { system.lanes.is_linked(&uid(A)) }).await;
    system.lanes.send(&uid(A), Down::Session, b"hello".to_vec(), MINUTE).await.unwrap();
    assert!(raw.packet().await.unwrap().ends_with(b"hello"));
    drop(raw);
    until("the will", || async { system.hub.ingest.live().get(&uid(A)).presence == PresenceState::Offline }).await;
    system.stop().await;
}

/// The attack on which a plain ACL file fails: a device that joins the hub's group takes messages out of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_in_the_hubs_group_costs_no_message() {
    let system = System::start().await;
    let (a, b) = (system.admitted(A, "acme").await, system.admitted(B, "other").await);
    let mut thieves = Vec::new();
    for filter in ["$share/muster-hub/muster/v1/+/up/#", "$share/muster-hub/#", "$share/other/muster/v1/+/up/#"] {
        let mut thief = system.mosquitto.linked(&system.hub, A, &a).await;
        assert_eq!(thief.subscribe(filter).await, 0x87, "{filter}");
        // The next one takes the place of this one: the client id is the certificate's name, whatever is asked for.
        thieves.push(thief);
    }
    let own = format!("$share/muster-hub/muster/v1/{A}/down/#");
    assert_eq!(thieves.last_mut().unwrap().subscribe(&own).await, 0x87);
    let mut raw = system.mosquitto.linked(&system.hub, B, &b).await;
    for first in (1..=100).map(|n| n * 6) {
        assert_eq!(raw.publish(&format!("muster/v1/{B}/up/usage"), &usage(BOOT, first, 6)).await, 0);
    }
    until("all samples are stored", || async { system.hub.count("SELECT count(*) FROM usage_samples").await == 600 }).await;
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fence_holds() {
    let system = System::start().await;
    let (a, b) = (system.admitted(A, "acme").await, system.admitted(B, "other").await);
    let mut victim = system.mosquitto.linked(&system.hub, B, &b).await;
    assert_eq!(victim.subscribe(&format!("muster/v1/{B}/down/#")).await, 1);
    assert_eq!(victim.publish(&format!("muster/v1/{B}/up/presence"), &birth(5)).await, 0);
    until("B is online", || async { system.lanes.is_linked(&uid(B)) }).await;

    let mut raw = system.mosquitto.linked(&system.hub, A, &a).await;
    for topic in [
        format!("muster/v1/{B}/up/presence"),
        format!("muster/v1/{B}/down/session"),
        format!("muster/v1/{A}/down/session"),
        "$CONTROL/dynamic-security/v1".into(),
        "x".into(),
    ] {
        assert_eq!(raw.publish(&topic, br#"{"online":false,"link":99}"#).await, 0x87, "{topic}");
        raw.send(&publish(0x03, &topic, Some(78), b"{}")).await;
        assert_eq!(raw.packet().await.unwrap()[4], 0x87, "retained: {topic}");
    }
    for filter in [
        "#".to_owned(),
        "muster/#".into(),
        format!("muster/v1/{B}/down/#"),
        "muster/v1/+/down/#".into(),
        format!("muster/v1/{A}/up/#"),
        "$SYS/#".into(),
        "$CONTROL/#".into(),
    ] {
        assert_eq!(raw.subscribe(&filter).await, 0x87, "{filter}");
    }
    // A will in B's lane is taken at the CONNECT and dropped at the end.
    drop(raw);
    let mut raw = system.mosquitto.raw(&system.hub, &a).await;
    let lasts = will(&format!("muster/v1/{B}/up/presence"), br#"{"online":false,"link":99}"#);
    raw.send(&connect(A, 0x2c, &[], &lasts)).await;
    raw.packet().await.unwrap();
    drop(raw);
    // B's client id is not to be had: who asks for it gets the own one, and B stays.
    let mut raw = system.mosquitto.raw(&system.hub, &a).await;
    raw.send(&connect(B, 0, &[0x11, 0, 0, 0x0e, 0x10], &[])).await;
    let connack = raw.packet().await.unwrap();
    assert_eq!(connack[2], 0, "not B's session");
    assert_eq!(raw.publish(&format!("muster/v1/{A}/up/presence"), &birth(1)).await, 0);
    until("A is online", || async { system.lanes.is_linked(&uid(A)) }).await;
    system.lanes.send(&uid(B), Down::Session, b"for B".to_vec(), MINUTE).await.unwrap();
    assert!(victim.packet().await.unwrap().ends_with(b"for B"));
    assert!(system.lanes.is_linked(&uid(B)), "no will of A's ended B");
    until("both births, and nothing else", || async { system.hub.count("SELECT count(*) FROM presence_history").await == 2 }).await;
    // Without a certificate nobody gets a word, and a device certifies nobody: neither a session of its own nor another device.
    let (session, twin) = (a.signs("saaaaaaaaaaaaaaa"), a.signs(B));
    for papers in [None, Some(&session), Some(&twin)] {
        let tcp = TcpStream::connect(("127.0.0.1", system.mosquitto.port)).await.unwrap();
        let connector = TlsConnector::from(Arc::new(system.hub.client_tls(papers)));
        if let Ok(stream) = connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await {
            let mut raw = Raw::new(stream);
            let sent = tokio::io::AsyncWriteExt::write_all(&mut raw.stream, &connect(A, 2, &[], &[])).await;
            assert!(sent.is_err() || raw.packet().await.is_none());
        }
    }
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_device_is_cut_off_at_once_and_for_good() {
    let system = System::start().await;
    let a = system.admitted(A, "acme").await;
    let mut raw = system.mosquitto.linked(&system.hub, A, &a).await;
    assert_eq!(raw.publish(&format!("muster/v1/{A}/up/presence"), &birth(1)).await, 0);
    until("A is online", || async { system.lanes.is_linked(&uid(A)) }).await;
    until("Mosquitto knows the device", || async { system.mosquitto.access_list().contains(A) }).await;
    system.hub.set_admission(A, "revoked").await;
    let start = tokio::time::Instant::now();
    system.lanes.cut(&uid(A), "revoked").await.unwrap();
    raw.end().await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    // Deleted, client and role alike: a disabled client with a certificate would come back and publish.
    until("Mosquitto has forgotten the device", || async { !system.mosquitto.access_list().contains(A) }).await;
    assert_eq!(system.hub.ingest.live().get(&uid(A)).offline_reason.as_deref(), Some("revoked"));
    // The certificate still opens a connection (Mosquitto knows no better), and nothing passes over it.
    let mut raw = system.mosquitto.linked(&system.hub, A, &a).await;
    assert_eq!(raw.publish(&format!("muster/v1/{A}/up/presence"), &birth(2)).await, 0x87);
    assert_eq!(raw.subscribe(&format!("muster/v1/{A}/down/#")).await, 0x87);
    // Admitted again, it has its lane again.
    system.hub.set_admission(A, "admitted").await;
    system.lanes.admit(&uid(A)).await.unwrap();
    assert_eq!(raw.publish(&format!("muster/v1/{A}/up/presence"), &birth(2)).await, 0);
    until("Mosquitto knows it again", || async { system.mosquitto.access_list().contains(A) }).await;
    until("A is back", || async { system.lanes.is_linked(&uid(A)) }).await;
    system.stop().await;
}

/// The hub is away while devices speak; devices are admitted and revoked while the broker is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_missed_stays_missed() {
    let mut system = System::start().await;
    let (a, b) = (system.admitted(A, "acme").await, system.admitted(B, "acme").await);
    let mut raw = system.mosquitto.linked(&system.hub, A, &a).await;
    assert_eq!(raw.publish(&format!("muster/v1/{A}/up/usage"), &usage(BOOT, 1, 6)).await, 0);
    system.shutdown.cancel();
    (&mut system.bridge).await.unwrap();
    for first in (1..=50).map(|n| n * 6) {
        assert_eq!(raw.publish(&format!("muster/v1/{A}/up/usage"), &usage(BOOT, first + 1, 6)).await, 0);
    }
    // Revoked and admitted behind the broker's back, as when it could not be reached.
    system.hub.set_admission(B, "revoked").await;
    let c = "dccccccccccccccc";
    let c_papers = system.hub.device(c, "acme").await;

    (system.broker, system.bridge, system.shutdown) = System::bridge(&system.hub, &system.mosquitto);
    system.lanes = Lanes::external(system.hub.store.clone(), system.hub.ingest.clone(), system.broker.clone());
    system.up().await;
    until("what was said meanwhile is stored", || async { system.hub.count("SELECT count(*) FROM usage_samples").await == 306 }).await;
    let listed = || system.mosquitto.access_list();
    until("the lists are alike", || async { listed().contains(c) && !listed().contains(B) }).await;
    let mut raw = system.mosquitto.linked(&system.hub, c, &c_papers).await;
    assert_eq!(raw.publish(&format!("muster/v1/{c}/up/presence"), &birth(1)).await, 0);
    let mut raw = system.mosquitto.linked(&system.hub, B, &b).await;
    assert_eq!(raw.publish(&format!("muster/v1/{B}/up/presence"), &birth(1)).await, 0x87);
    system.stop().await;
}

/// Revoking says so when the broker cannot be told, and the store knows it all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_an_error_not_a_hang() {
    let mut system = System::start().await;
    system.admitted(A, "acme").await;
    system.mosquitto.child.kill().unwrap();
    until("the hub notices", || async { !system.broker.is_up() }).await;
    assert!(system.lanes.send(&uid(A), Down::Session, b"x".to_vec(), MINUTE).await.is_err());
    system.hub.set_admission(A, "revoked").await;
    let start = tokio::time::Instant::now();
    assert!(system.lanes.cut(&uid(A), "revoked").await.is_err());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    system.shutdown.cancel();
    (&mut system.bridge).await.unwrap();
}
