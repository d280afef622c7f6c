//! The servers that are measured, each a process of its own: the hub, and Mosquitto.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::net::TcpStream;

use crate::process::Reading;

/// Longest start or orderly stop.
const START_STOP: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A process that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A hub with one organization and one project.
pub(crate) struct Hub {
    program: PathBuf,
    data: PathBuf,
    log: PathBuf,
    token: String,
    running: Option<Running>,
    addresses: Option<(SocketAddr, SocketAddr)>,
}

impl Hub {
    /// Makes its data folder and its owner's token.
    pub(crate) fn make(program: &Path, folder: &Path) -> Result<Self> {
        let data = folder.join("hub");
        let mut init = Command::new(program);
        init.arg("init").arg("--data-dir").arg(&data).args(["--public-url", "https://127.0.0.1:0", "--listen", "127.0.0.1:0"]);
        init.args(["--mqtt-listen", "127.0.0.1:0", "--owner", "owner@fleet.example", "--org", "acme", "--project", "lab"]);
        let made = init.output().with_context(|| format!("cannot start {}", program.display()))?;
        if !made.status.success() {
            bail!("muster-hub init failed: {}", String::from_utf8_lossy(&made.stderr));
        }
        let token = String::from_utf8_lossy(&made.stdout).lines().last().unwrap_or_default().to_owned();
        Ok(Self { program: program.to_owned(), data, log: folder.join("hub.log"), token, running: None, addresses: None })
    }

    /// The owner's token.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Its database.
    pub(crate) fn database(&self) -> PathBuf {
        self.data.join("hub.db")
    }

    /// Where its HTTPS listens.
    pub(crate) fn https(&self) -> Result<SocketAddr> {
        Ok(self.addresses.context("the hub was never started")?.0)
    }

    /// Where its MQTT listens.
    pub(crate) fn mqtt(&self) -> Result<SocketAddr> {
        Ok(self.addresses.context("the hub was never started")?.1)
    }

    /// What its process used.
    pub(crate) fn reading(&self) -> Result<Reading> {
        Reading::of(self.running.as_ref().context("the hub does not run")?.0.id())
    }

    /// Starts it, on the ports that it had before. Returns when it listens.
    pub(crate) async fn start(&mut self) -> Result<()> {
        let mut serve = Command::new(&self.program);
        serve.arg("--config").arg(self.data.join("hub.toml")).arg("serve").stdin(Stdio::null()).stderr(File::create(&self.log)?);
        if let Some((https, mqtt)) = self.addresses {
            serve.env("MUSTER_HUB_LISTEN", https.to_string()).env("MUSTER_HUB_MQTT_LISTEN", mqtt.to_string());
        }
        let mut running = Running(serve.spawn().context("cannot start the hub")?);
        let deadline = Instant::now() + START_STOP;
        let addresses = loop {
            let log = std::fs::read_to_string(&self.log)?;
            if let Some(addresses) = listening(&log) {
                break addresses;
            }
            if running.0.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("the hub does not start: {log}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        (self.addresses, self.running) = (Some(addresses), Some(running));
        Ok(())
    }

    /// Asks it to stop, and waits for that.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        let mut running = self.running.take().context("the hub does not run")?;
        let pid = rustix::process::Pid::from_child(&running.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let deadline = Instant::now() + START_STOP;
        while running.0.try_wait()?.is_none() {
            if Instant::now() > deadline {
                bail!("the hub does not stop within {} s", START_STOP.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Kills it at once (SIGKILL).
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.running.take().map(drop).context("the hub does not run")
    }
}

/// The addresses of the line `listening https=A mqtt=B`.
fn listening(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    // Only whole lines: the last one may still be being written.
    let whole = &log[..=log.rfind('\n')?];
    let line = whole.lines().find(|line| line.contains("listening https="))?;
    let address = |name: &str| line.split_once(name)?.1.split_ascii_whitespace().next()?.parse().ok();
    Some((address("https=")?, address("mqtt=")?))
}

/// Mosquitto with the hub's certificates, one listener with TLS, the fence as an ACL.
pub(crate) struct Mosquitto {
    running: Running,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its version.
    pub(crate) version: String,
}

impl Mosquitto {
    /// Starts it with the certificates of the hub in this folder.
    pub(crate) async fn start(program: &Path, folder: &Path, devices: usize) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (config, hub) = (folder.join("mosquitto.conf"), folder.join("hub"));
        let acl = folder.join("mosquitto.acl");
        std::fs::write(&acl, "pattern write muster/v1/%u/up/#\npattern read muster/v1/%u/down/#\n")?;
        let text = format!(
            "user root\npersistence false\nlog_type error\nmax_inflight_messages 32\nlistener {port} 127.0.0.1\nmax_connections -1\n\
             cafile {hub}/ca.pem\ncertfile {hub}/server.pem\nkeyfile {hub}/server.key\nrequire_certificate true\n\
             use_identity_as_username true\nallow_anonymous false\nacl_file {acl}\n",
            hub = hub.display(),
            acl = acl.display()
        );
        std::fs::write(&config, text)?;
        // It says its version and its options, and ends with a code of its own.
        let help = Command::new(program).arg("-h").output().context("cannot start mosquitto")?;
        let help = String::from_utf8_lossy(&help.stdout).into_owned();
        let version = help.split_ascii_whitespace().nth(2).unwrap_or("of unknown version").to_owned();
        let log = folder.join("mosquitto.log");
        let mut command = Command::new(program);
        command.arg("-c").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut running = Running(command.spawn().context("cannot start mosquitto")?);
        let (address, deadline) = (SocketAddr::from(([127, 0, 0, 1], port)), Instant::now() + START_STOP);
        while TcpStream::connect(address).await.is_err() {
            if running.0.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("mosquitto does not listen for {devices} devices: {}", std::fs::read_to_string(log)?);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(Self { running, address, version })
    }

    /// What its process used.
    pub(crate) fn reading(&self) -> Result<Reading> {
        Reading::of(self.running.0.id())
    }
}

#[cfg(test)]
mod tests {
    use super::listening;

    #[test]
    fn the_addresses_are_read_from_a_whole_line_only() {
        let line = "2026-01-01T00:00:00Z INFO listening https=127.0.0.1:1 mqtt=127.0.0.1:2";
        assert_eq!(listening(line), None);
        let (https, mqtt) = listening(&format!("first\n{line}\n")).unwrap();
        assert_eq!((https.port(), mqtt.port()), (1, 2));
    }
}
