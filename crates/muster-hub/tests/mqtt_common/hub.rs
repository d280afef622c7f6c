//! A hub's MQTT side in-process with real certificates, and a raw MQTT 5 client made of literal bytes:
//! nothing of ours on the client's side, so that it can break every rule.

#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]
#![allow(missing_docs, unreachable_pub, reason = "a test's parts")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use muster_hub::ca::Ca;
use muster_hub::clock;
use muster_hub::ingest::{Ingest, Options};
use muster_hub::metrics::Metrics;
use muster_hub::mqtt::{Endpoint, Lanes};
use muster_hub::store::{Store, devices};
use muster_hub::tls::ServerCertificate;
use muster_proto::id::DeviceUid;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Longest wait for anything that must happen.
pub const WAIT: Duration = Duration::from_secs(10);
/// How long nothing is awaited where nothing may come.
pub const QUIET: Duration = Duration::from_millis(300);

pub const A: &str = "daaaaaaaaaaaaaaa";
pub const B: &str = "dbbbbbbbbbbbbbbb";

pub fn uid(text: &str) -> DeviceUid {
    text.parse().unwrap()
}

/// A device's key and certificate.
#[derive(Clone)]
pub struct Papers {
    pub certificate: CertificateDer<'static>,
    pub certificate_pem: String,
    pub key_pem: String,
    /// What is sent after the certificate.
    pub chain: Vec<CertificateDer<'static>>,
}

impl Papers {
    /// A new key, and a certificate of that name signed with this one's key; this one's certificate and its chain are sent after it.
    pub fn signs(&self, name: &str) -> Self {
        self.signs_params(&named(name))
    }

    /// The same, with whatever else is in the certificate.
    pub fn signs_params(&self, params: &CertificateParams) -> Self {
        let issuer = rcgen::Issuer::from_ca_cert_der(&self.certificate, KeyPair::from_pem(&self.key_pem).unwrap()).unwrap();
        let pair = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&pair, &issuer).unwrap();
        let chain = [std::slice::from_ref(&self.certificate), &self.chain].concat();
        Self { certificate: certificate.der().clone(), certificate_pem: certificate.pem(), key_pem: pair.serialize_pem(), chain }
    }

    /// The same certificate, with another chain after it.
    pub fn after(&self, chain: &[&CertificateDer<'static>]) -> Self {
        Self { chain: chain.iter().map(|certificate| (*certificate).clone()).collect(), ..self.clone() }
    }
}

/// A certificate's wish that has a common name and nothing else.
pub fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params
}

pub struct Hub {
    pub dir: TempDir,
    pub ca: Ca,
    pub store: Store,
    pub ingest: Ingest,
    pub endpoint: Endpoint,
    pub lanes: Lanes,
    pub addr: SocketAddr,
    pub metrics: Metrics,
    shutdown: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
    upkeep: tokio::task::JoinHandle<()>,
}

pub fn options() -> Options {
    Options { heartbeat_every: Duration::from_secs(3600), ..Options::default() }
}

impl Hub {
    pub async fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), options()).await
    }

    pub async fn start_in(dir: TempDir, options: Options) -> Self {
        let ca = Ca::open_or_create(dir.path(), clock::now()).unwrap();
        let store = Store::open(&dir.path().join("hub.db")).unwrap();
        let metrics = Metrics::default();
        let ingest = Ingest::open(store.clone(), options, &metrics).await.unwrap();
        let (endpoint, lanes) = Endpoint::open(store.clone(), ingest.clone(), &metrics).await.unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let tls = ServerCertificate::open(dir.path(), names, &ca, clock::now()).unwrap().mqtt().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = {
            let (endpoint, shutdown) = (endpoint.clone(), shutdown.clone());
            tokio::spawn(async move { endpoint.serve_tcp(listener, tls, shutdown).await })
        };
        let upkeep = {
            let (ingest, shutdown) = (ingest.clone(), shutdown.clone());
            tokio::spawn(async move { ingest.run(shutdown).await })
        };
        Self { dir, ca, store, ingest, endpoint, lanes, addr, metrics, shutdown, serving, upkeep }
    }

    /// Stops it as a restart would, and gives its directory for the next.
    pub async fn stop(self) -> TempDir {
        self.shutdown.cancel();
        self.serving.await.unwrap();
        self.upkeep.await.unwrap();
        self.store.close().await;
        self.dir
    }

    /// An admitted device of an organization, with papers signed by the hub.
    pub async fn device(&self, uid: &str, org: &str) -> Papers {
        device(&self.store, &self.ca, uid, org).await
    }

    pub async fn set_admission(&self, uid: &str, admission: &str) {
        let (uid, admission) = (uid.to_owned(), admission.to_owned());
        let sql = "UPDATE devices SET admission = ?2, reason = 'stolen' WHERE uid = ?1";
        self.store.write(move |tx| Ok(tx.execute(sql, (uid, admission))?)).await.unwrap();
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        self.store.read(move |db| Ok(db.query_row(sql, [], |row| row.get(0))?)).await.unwrap()
    }

    pub fn client_tls(&self, papers: Option<&Papers>) -> ClientConfig {
        client_tls(self.ca.der(), papers)
    }

    pub async fn tls(&self, papers: Option<&Papers>) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.addr).await?;
        let connector = TlsConnector::from(Arc::new(self.client_tls(papers)));
        connector.connect(ServerName::try_from("localhost").unwrap(), tcp).await
    }

    pub async fn raw(&self, papers: &Papers) -> Raw<TlsStream<TcpStream>> {
        Raw::new(self.tls(Some(papers)).await.unwrap())
    }

    /// A linked device that asked for a session of an hour.
    pub async fn linked(&self, uid: &str, papers: &Papers, clean_start: bool) -> Raw<TlsStream<TcpStream>> {
        let mut raw = self.raw(papers).await;
        raw.send(&connect(uid, u8::from(clean_start) << 1, &[0x11, 0, 0, 0x0e, 0x10], &[])).await;
        let connack = raw.packet().await.expect("CONNACK");
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{connack:?}");
        raw.session_present = connack[2] == 1;
        raw
    }
}

/// An admitted device of an organization, with papers signed by the hub.
pub async fn device(store: &Store, ca: &Ca, uid: &str, org: &str) -> Papers {
    let pair = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&pair).unwrap().pem().unwrap();
    let key = muster_hub::ca::DeviceKey::from_csr(&csr).unwrap();
    let (uid, org): (DeviceUid, muster_proto::id::OrgId) = (uid.parse().unwrap(), org.parse().unwrap());
    let issued = ca.sign_device(&key, &uid, &org, clock::now()).unwrap();
    let digest = key.digest();
    store
        .write(move |tx| {
            let now = clock::now();
            tx.execute("INSERT OR IGNORE INTO orgs (id, name, created_at) VALUES (?1, ?1, ?2)", (org.as_str(), now))?;
            tx.execute(
                "INSERT INTO devices (uid, org, serial, name, admission, facts, created_at) VALUES (?1, ?2, ?1, ?1, 'admitted', '{}', ?3)",
                (uid.as_str(), org.as_str(), now),
            )?;
            devices::make_current(tx, &uid, &org, &digest, "renewed", now)
        })
        .await
        .unwrap();
    Papers {
        certificate: CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap(),
        certificate_pem: issued.pem,
        key_pem: pair.serialize_pem(),
        chain: Vec::new(),
    }
}

pub fn client_tls(ca: &CertificateDer<'static>, papers: Option<&Papers>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    match papers {
        None => builder.with_no_client_auth(),
        Some(papers) => {
            let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from_pem_slice(papers.key_pem.as_bytes()).unwrap());
            let chain = std::iter::once(&papers.certificate).chain(&papers.chain).cloned().collect();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    }
}

/// A raw client.
pub struct Raw<S> {
    pub stream: S,
    pub session_present: bool,
    buffer: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, session_present: false, buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// The next packet; `None` when the hub closed the connection.
    pub async fn packet(&mut self) -> Option<Vec<u8>> {
        timeout(WAIT, self.next()).await.expect("a packet or the end in time")
    }

    /// Acknowledges a PUBLISH at QoS 1: a device that takes orders without a word gets no more of them (MQTT 5, 4.9).
    pub async fn acknowledge(&mut self, publish: &[u8]) {
        let topic = 2 + publish[1..].iter().position(|byte| byte & 0x80 == 0).expect("a length");
        let id = topic + 2 + usize::from(u16::from_be_bytes([publish[topic], publish[topic + 1]]));
        self.send(&[0x40, 2, publish[id], publish[id + 1]]).await;
    }

    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(size) = packet_size(&self.buffer).filter(|size| *size <= self.buffer.len()) {
                return Some(self.buffer.drain(..size).collect());
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Nothing may come. Proved by an answer to a ping that overtakes nothing, not by waiting.
    pub async fn nothing_but_pong(&mut self) {
        self.send(&[0xc0, 0]).await;
        assert_eq!(self.packet().await.as_deref(), Some(&[0xd0, 0][..]));
    }

    /// Reads until the hub closes; gives what it said last.
    pub async fn end(&mut self) -> Option<Vec<u8>> {
        let mut last = None;
        while let Some(packet) = self.packet().await {
            last = Some(packet);
        }
        last
    }

    pub async fn subscribe(&mut self, filter: &str) -> u8 {
        self.send(&subscribe(filter, 1)).await;
        let suback = self.packet().await.expect("SUBACK");
        assert_eq!(suback[0], 0x90, "{suback:?}");
        *suback.last().unwrap()
    }

    /// Publishes at QoS 1 and gives the reason code of the PUBACK.
    pub async fn publish(&mut self, topic: &str, payload: &[u8]) -> u8 {
        self.send(&publish(0x02, topic, Some(77), payload)).await;
        let puback = self.packet().await.expect("PUBACK");
        assert_eq!((puback[0], &puback[2..4]), (0x40, &[0, 77][..]), "{puback:?}");
        puback.get(4).copied().unwrap_or(0)
    }
}

fn packet_size(bytes: &[u8]) -> Option<usize> {
    let (mut length, mut shift) = (0, 0);
    for (at, byte) in bytes.get(1..)?.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return Some(at + 2 + length);
        }
    }
    None
}

pub fn text(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()].concat()
}

pub fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut left = body.len();
    loop {
        let byte = u8::try_from(left % 128).unwrap();
        left /= 128;
        packet.push(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            return [packet, body.to_vec()].concat();
        }
    }
}

pub fn connect(client_id: &str, flags: u8, properties: &[u8], rest: &[u8]) -> Vec<u8> {
    let head = [b"\x00\x04MQTT\x05", &[flags, 0, 60][..], &[u8::try_from(properties.len()).unwrap()], properties].concat();
    frame(0x10, &[head, text(client_id), rest.to_vec()].concat())
}

pub fn will(topic: &str, payload: &[u8]) -> Vec<u8> {
    [&[0][..], &text(topic), &u16::try_from(payload.len()).unwrap().to_be_bytes(), payload].concat()
}

pub fn publish(flags: u8, topic: &str, packet_id: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let id = packet_id.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default();
    frame(0x30 | flags, &[text(topic), id, vec![0], payload.to_vec()].concat())
}

pub fn subscribe(filter: &str, options: u8) -> Vec<u8> {
    frame(0x82, &[vec![0, 9, 0], text(filter), vec![options]].concat())
}

/// A batch of `n` samples from number `first` on, ten seconds apart.
pub fn usage(boot: &str, first: u64, n: usize) -> Vec<u8> {
    let cpu: Vec<_> = (0..n).map(|i| format!("{}", (first as f64 + i as f64) / 1000.0)).collect();
    let t0 = 1_700_000_000_000_u64 + first * 10_000;
    format!(r#"{{"boot":"{boot}","first_seq":{first},"n":{n},"t0":{t0},"step_s":10,"c":{{"cpu":[{}],"mem":5000000000}}}}"#, cpu.join(","))
        .into_bytes()
}

pub fn birth(link: u64) -> Vec<u8> {
    format!(r#"{{"online":true,"link":{link},"boot":"0123456789abcdef","t":1,"agent":"0.1.0","facts":{{"hostname":"robot"}}}}"#)
        .into_bytes()
}

/// Waits until a condition holds.
pub async fn until<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let end = tokio::time::Instant::now() + WAIT;
    while !condition().await {
        assert!(tokio::time::Instant::now() < end, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
