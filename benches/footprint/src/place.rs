//! A folder with an authority, a broker's configuration, and two devices that are enrolled already.
//! The authority also stands for the hub where a session begins: it signs the order, and the relay's certificate.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use muster_link::tls::{pin_of, provider};
use muster_proto::mqtt::SessionOpen;
use muster_proto::order::{COMMON_NAME, ORDERS_EKU, Order, OrderKind, SIGNED, SignedOrder};
use muster_proto::token::Pin;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _,
    SigningKey as _,
};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

/// The daemon's uid here; also its certificate's name.
const UID: &str = "dfootprintaaaaaa";

/// The folder. Gone at the end.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    pub(crate) broker_port: u16,
    /// Where the broker lets the hub's stand-in listen, without TLS.
    inner_port: u16,
    pin: Pin,
    ca: String,
    issuer: Issuer<'static, KeyPair>,
    /// SHA-256 of the device's public key, by which orders name it.
    device_key: String,
}

impl Place {
    /// Makes keys, certificates and the broker's configuration.
    pub(crate) fn make() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let dir = folder.path();
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::<String>::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        ca.distinguished_name.push(DnType::CommonName, "footprint");
        let ca_certificate = ca.self_signed(&ca_key)?;
        let issuer = Issuer::new(ca, ca_key);
        let pin = pin_of(ca_certificate.der()).context("the CA certificate does not parse")?;
        let ca_pem = ca_certificate.pem();

        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text);
        let server = sign(&issuer, "127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth)?;
        write("ca.pem", &ca_pem)?;
        // The authority goes along, so that a pin is enough to check it.
        write("server.pem", &format!("{}{ca_pem}", server.0))?;
        write("server.key", &server.1.serialize_pem())?;
        let floor = sign(&issuer, "floor", ExtendedKeyUsagePurpose::ClientAuth)?;
        write("floor.pem", &floor.0)?;
        write("floor.key", &floor.1.serialize_pem())?;
        let device = sign(&issuer, UID, ExtendedKeyUsagePurpose::ClientAuth)?;
        write("device.pem", &device.0)?;
        std::fs::create_dir(dir.join("state"))?;
        write("state/key.pem", &device.1.serialize_pem())?;
        let device_key = hex(&device.1.subject_public_key_info());
        // The owner's files: sessions run as our own user.
        let own_user = if std::fs::metadata("/proc/self")?.uid() == 0 { "\"root\"" } else { "true" };
        write("policy.toml", &format!("own_user = {own_user}\n"))?;
        // Who has no login shell gets a plain one.
        write("visitors.toml", "[users]\ndefault = \"nobody\"\n")?;
        let (one, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let (broker_port, inner_port) = (one.local_addr()?.port(), other.local_addr()?.port());
        let text = format!(
            "per_listener_settings true\nlistener {inner_port} 127.0.0.1\nallow_anonymous true\nlistener {broker_port} 127.0.0.1\ncafile {d}/ca.pem\ncertfile {d}/server.pem\nkeyfile {d}/server.key\n\
             require_certificate true\nuse_identity_as_username true\nallow_anonymous false\npersistence false\nuser root\n",
            d = dir.display()
        );
        write("mosquitto.conf", &text)?;
        let place = Self { folder, broker_port, inner_port, pin, ca: ca_pem, issuer, device_key };
        place.enrol_at("127.0.0.1:1")?;
        Ok(place)
    }

    /// Where all of it is.
    pub(crate) fn dir(&self) -> &Path {
        self.folder.path()
    }

    /// The broker's configuration.
    pub(crate) fn broker_config(&self) -> PathBuf {
        self.dir().join("mosquitto.conf")
    }

    /// Waits until the broker listens.
    pub(crate) fn wait_for_broker(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", self.broker_port)).is_err() {
            if Instant::now() > deadline {
                bail!("mosquitto does not listen on port {}: run it with {} to see why", self.broker_port, self.broker_config().display());
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// Listens at the broker in the hub's place: where nobody does, a device is told so and sends its batches again.
    pub(crate) fn listen_as_hub(&self) -> Result<()> {
        let mut hub = TcpStream::connect(("127.0.0.1", self.inner_port))?;
        // MQTT 5: CONNECT as "hub", clean start, no keep alive; SUBSCRIBE to everything at QoS 0.
        hub.write_all(b"\x10\x10\0\x04MQTT\x05\x02\0\0\0\0\x03hub\x82\x07\0\x01\0\0\x01#\0")?;
        let mut suback = [0; 64];
        let mut heard = 0;
        while !suback[..heard].contains(&0x90) {
            match hub.read(&mut suback[heard..])? {
                0 => bail!("mosquitto does not let the hub's stand-in listen: {:?}", &suback[..heard]),
                len => heard += len,
            }
        }
        std::thread::spawn(move || io::copy(&mut hub, &mut io::sink()));
        Ok(())
    }

    /// How the floor is started.
    pub(crate) fn floor_arguments(&self, port: u16) -> Vec<String> {
        let file = |name: &str| self.dir().join(name).display().to_string();
        vec![format!("mqtts://127.0.0.1:{port}"), file("ca.pem"), file("floor.pem"), file("floor.key"), "floor/sample".to_owned()]
    }

    /// How the daemon is started: its state says that it is enrolled, with MQTT at this port.
    pub(crate) fn musterd_arguments(&self, port: u16) -> Result<Vec<String>> {
        let dir = self.dir().display();
        let identity = json!({
            "hub": "https://127.0.0.1:1",
            "pin": self.pin.to_string(),
            "serial": "footprint",
            "signed_at": 0,
            "identity": {
                "uid": UID,
                "org": "acme",
                "name": "footprint",
                "certificate": std::fs::read_to_string(self.dir().join("device.pem"))?,
                "ca": self.ca,
                "mqtt": { "url": format!("mqtts://127.0.0.1:{port}") },
            },
        });
        std::fs::write(self.dir().join("state/identity.json"), identity.to_string())?;
        let config = format!(
            "state_dir = \"{dir}/state\"\nrun_dir = \"{dir}/run\"\npolicy = \"{dir}/policy.toml\"\nanchor = \"{dir}/hub.json\"\n\
             session_dir = \"{dir}/sessions\"\n"
        );
        std::fs::write(self.dir().join("config.toml"), config)?;
        Ok(vec!["--config".to_owned(), format!("{dir}/config.toml"), "run".to_owned()])
    }

    /// How a session's privileged part is started, under this policy.
    pub(crate) fn session_arguments(&self, policy: &str) -> Result<Vec<String>> {
        for dir in ["sessions/live", "sessions-state"] {
            std::fs::create_dir_all(self.dir().join(dir))?;
        }
        let named = [("--policy", policy), ("--anchor", "hub.json"), ("--run-dir", "sessions"), ("--state-dir", "sessions-state")];
        Ok(named.iter().flat_map(|(option, file)| [(*option).to_owned(), self.dir().join(file).display().to_string()]).collect())
    }

    /// Writes which hub counts; a session dials no relay on another host or port.
    fn enrol_at(&self, authority: &str) -> Result<()> {
        let anchor = json!({ "hub": format!("https://{authority}"), "pin": self.pin.to_string(), "key": self.device_key });
        Ok(std::fs::write(self.dir().join("hub.json"), anchor.to_string())?)
    }

    /// What the daemon hands over for a session: the hub's signed order, and what proves the device.
    pub(crate) fn handoff(&self, open: SessionOpen) -> Result<Value> {
        self.enrol_at(open.relay.split('/').nth(2).context("the relay has no host")?)?;
        let (certificate, key) = sign(&self.issuer, COMMON_NAME, ExtendedKeyUsagePurpose::Other(ORDERS_EKU.to_vec()))?;
        let t = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let order = Order { device: UID.parse()?, device_key: self.device_key.clone(), t, kind: OrderKind::Session { open } }.to_bytes();
        let signed =
            SignedOrder::new(&order, &key.sign(&[SIGNED, &order[..]].concat())?, &CertificateDer::from_pem_slice(certificate.as_bytes())?);
        let read = |name: &str| std::fs::read_to_string(self.dir().join(name));
        Ok(json!({
            "order": signed, "ca": self.ca, "certificate": read("device.pem")?, "key": read("state/key.pem")?, "log_level": "warn",
        }))
    }

    /// The relay's side of TLS.
    pub(crate) fn relay(&self) -> Result<(Arc<ServerConfig>, Pin)> {
        let (certificate, key) = sign(&self.issuer, "127.0.0.1", ExtendedKeyUsagePurpose::ServerAuth)?;
        let chain = [&certificate, &self.ca].map(|pem| CertificateDer::from_pem_slice(pem.as_bytes()));
        let chain = chain.into_iter().collect::<Result<Vec<_>, _>>()?;
        let config = ServerConfig::builder_with_provider(Arc::new(provider())).with_protocol_versions(&[&rustls::version::TLS13])?;
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes())?;
        let mut config = config.with_no_client_auth().with_single_cert(chain, key)?;
        // The link makes its own TLS records (see `muster_link::websocket`).
        config.enable_secret_extraction = true;
        Ok((Arc::new(config), self.pin))
    }
}

/// A certificate in PEM, and its key. A server's name is its address.
fn sign(issuer: &Issuer<'_, KeyPair>, name: &str, purpose: ExtendedKeyUsagePurpose) -> Result<(String, KeyPair)> {
    let addresses: Vec<String> = if purpose == ExtendedKeyUsagePurpose::ServerAuth { vec![name.to_owned()] } else { Vec::new() };
    let mut params = CertificateParams::new(addresses)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate()?;
    Ok((params.signed_by(&key, issuer)?.pem(), key))
}

/// SHA-256 in hexadecimal.
fn hex(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
