//! A folder with an authority, a broker's configuration, and two devices that are enrolled already.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use muster_link::tls::pin_of;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::json;

/// The daemon's uid here; also its certificate's name.
const UID: &str = "dfootprintaaaaaa";

/// The folder. Gone at the end.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    pub(crate) broker_port: u16,
    /// Where the broker lets the hub's stand-in listen, without TLS.
    inner_port: u16,
    pin: String,
    ca: String,
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
        let pin = pin_of(ca_certificate.der()).context("the CA certificate does not parse")?.to_string();
        let ca_pem = ca_certificate.pem();

        let sign = |name: &str, address: Option<&str>, purpose| -> Result<(String, String)> {
            let mut params = CertificateParams::new(address.map(str::to_owned).into_iter().collect::<Vec<_>>())?;
            params.distinguished_name.push(DnType::CommonName, name);
            params.extended_key_usages = vec![purpose];
            let key = KeyPair::generate()?;
            Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
        };
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text);
        let (server, server_key) = sign("127.0.0.1", Some("127.0.0.1"), ExtendedKeyUsagePurpose::ServerAuth)?;
        write("ca.pem", &ca_pem)?;
        // The authority goes along, so that a pin is enough to check it.
        write("server.pem", &format!("{server}{ca_pem}"))?;
        write("server.key", &server_key)?;
        let (floor, floor_key) = sign("floor", None, ExtendedKeyUsagePurpose::ClientAuth)?;
        write("floor.pem", &floor)?;
        write("floor.key", &floor_key)?;
        let (device, device_key) = sign(UID, None, ExtendedKeyUsagePurpose::ClientAuth)?;
        write("device.pem", &device)?;
        std::fs::create_dir(dir.join("state"))?;
        write("state/key.pem", &device_key)?;

        let (one, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
        let (broker_port, inner_port) = (one.local_addr()?.port(), other.local_addr()?.port());
        let text = format!(
            "per_listener_settings true\nlistener {inner_port} 127.0.0.1\nallow_anonymous true\nlistener {broker_port} 127.0.0.1\ncafile {d}/ca.pem\ncertfile {d}/server.pem\nkeyfile {d}/server.key\n\
             require_certificate true\nuse_identity_as_username true\nallow_anonymous false\npersistence false\nuser root\n",
            d = dir.display()
        );
        write("mosquitto.conf", &text)?;
        Ok(Self { folder, broker_port, inner_port, pin, ca: ca_pem })
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
        self.write_identity("state", &self.pin, port)?;
        let config = format!("state_dir = \"{dir}/state\"\nrun_dir = \"{dir}/run\"\npolicy = \"{dir}/policy.toml\"\n");
        std::fs::write(self.dir().join("config.toml"), config)?;
        // Started as root, a worker gives a terminal only where the policy says so.
        std::fs::write(self.dir().join("policy.toml"), "[terminal]\nusers = [\"root\"]\n")?;
        Ok(vec!["--config".to_owned(), format!("{dir}/config.toml"), "run".to_owned()])
    }

    /// A second state directory, for a worker whose relay has another authority.
    pub(crate) fn worker_state(&self, pin: &str) -> Result<PathBuf> {
        let state = self.dir().join("worker");
        std::fs::create_dir(&state)?;
        std::fs::copy(self.dir().join("state/key.pem"), state.join("key.pem"))?;
        self.write_identity("worker", pin, 1)?;
        Ok(state)
    }

    fn write_identity(&self, state: &str, pin: &str, port: u16) -> Result<()> {
        let identity = json!({
            "hub": "https://127.0.0.1:1",
            "pin": pin,
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
        Ok(std::fs::write(self.dir().join(state).join("identity.json"), identity.to_string())?)
    }
}
