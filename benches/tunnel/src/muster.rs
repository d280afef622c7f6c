//! Our own tunnel: a hub, a device and `muster forward`, made as a person makes them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::procs::{Process, free_port, output, until};
use crate::tunnel::Tunnel;

/// The running system.
pub(crate) struct Muster {
    folder: PathBuf,
    programs: Programs,
    url: String,
    token: String,
    _hub: Process,
    daemon: Process,
}

/// Where our programs are; `musterd-session` is beside `musterd`.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    /// `muster-hub`
    pub(crate) hub: PathBuf,
    /// `musterd`
    pub(crate) daemon: PathBuf,
    /// `muster`
    pub(crate) cli: PathBuf,
}

impl Muster {
    /// Starts hub and device and waits until the device is online.
    pub(crate) fn start(folder: &Path, programs: &Programs) -> Result<Self> {
        let data = folder.join("hub");
        let (https, mqtt) = (free_port()?, free_port()?);
        let url = format!("https://127.0.0.1:{https}");
        let printed = output(
            Command::new(&programs.hub)
                .args(["init", "--owner", "bench@example.org", "--org", "acme", "--project", "lab", "--public-url", &url])
                .arg("--data-dir")
                .arg(&data)
                .args(["--listen", &format!("127.0.0.1:{https}"), "--mqtt-listen", &format!("127.0.0.1:{mqtt}")]),
        )?;
        let token = printed.split_whitespace().find(|word| word.starts_with("mp1.")).context("init printed no token")?.to_owned();
        let hub = Process::start("hub", folder, Command::new(&programs.hub).arg("--config").arg(data.join("hub.toml")).arg("serve"))?;
        until("the hub listens", || fs::read_to_string(folder.join("hub.log")).ok().filter(|log| log.contains("listening https=")))?;

        let device = folder.join("device");
        fs::create_dir_all(device.join("run"))?;
        let at = device.display();
        let config = device.join("config.toml");
        fs::write(
            &config,
            format!(
                "state_dir = \"{at}/state\"\nrun_dir = \"{at}/run\"\npolicy = \"{at}/policy.toml\"\nanchor = \"{at}/hub.json\"\n\
                 session_dir = \"{at}/sessions\"\n[identity]\nserial = \"bench\"\n"
            ),
        )?;
        // Sessions run as whoever runs this: then their processes are the daemon's children, and count.
        let own_user = if rustix::process::geteuid().is_root() { "\"root\"" } else { "true" };
        fs::write(device.join("policy.toml"), format!("own_user = {own_user}\n"))?;
        let muster = |arguments: &[&str]| output(muster(&programs.cli, folder, &url, &token).args(arguments));
        let made: Value = serde_json::from_str(&muster(&["token", "create", "--project", "lab", "--admit", "auto", "--json"])?)?;
        let enrol = made["token"].as_str().context("no enrolment token")?;
        output(Command::new(&programs.daemon).arg("--config").arg(&config).args(["enrol", &url, enrol]))?;
        let daemon = Process::start("daemon", folder, Command::new(&programs.daemon).arg("--config").arg(&config).arg("run"))?;
        until("the device is online", || muster(&["devices", "--json"]).ok().filter(|list| list.contains("\"online\"")))?;
        Ok(Self { folder: folder.to_owned(), programs: programs.clone(), url, token, _hub: hub, daemon })
    }

    /// `muster ...` as the owner.
    pub(crate) fn command(&self) -> Command {
        muster(&self.programs.cli, &self.folder, &self.url, &self.token)
    }

    /// Forwards a port here to `target` on the device's side.
    pub(crate) fn forward(self, target: SocketAddr) -> Result<(Self, Tunnel)> {
        let port = free_port()?;
        let mut command = self.command();
        command.args(["forward", "bench", &format!("{port}:{}", target.port())]);
        let forward = Process::start("forward", &self.folder, &mut command)?;
        until("muster forward listens", || {
            fs::read_to_string(self.folder.join("forward.log")).ok().filter(|log| log.contains(&format!("127.0.0.1:{port}")))
        })
        .with_context(|| fs::read_to_string(self.folder.join("forward.log")).unwrap_or_default())?;
        let roots = vec![self._hub.pid(), self.daemon.pid(), forward.pid()];
        let entry = SocketAddr::from(([127, 0, 0, 1], port));
        let tunnel = Tunnel { name: "muster, two hops".into(), entry, roots, _processes: vec![forward] };
        Ok((self, tunnel))
    }
}

fn muster(cli: &Path, folder: &Path, url: &str, token: &str) -> Command {
    let mut command = Command::new(cli);
    command.env("XDG_CONFIG_HOME", folder.join("xdg")).env("HOME", folder);
    command.envs([("MUSTER_HUB", url), ("MUSTER_TOKEN", token), ("MUSTER_ORG", "acme"), ("MUSTER_PROJECT", "lab")]);
    command
}
