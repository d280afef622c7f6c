//! The quickstart's folder: what is where, and what is remembered from one start to the next.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use muster_proto::id::{OrgId, ProjectId};

use crate::ca::files::{write_private, write_public};
use crate::serve::make_private_dir;

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    /// Absolute, so that it means the same to the daemon.
    pub path: PathBuf,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let path = std::path::absolute(path).with_context(|| format!("{} is not a usable folder", path.display()))?;
        make_private_dir(&path)?;
        make_private_dir(&path.join("hub"))?;
        make_private_dir(&path.join("device"))?;
        Ok(Self { path })
    }

    /// Where to listen: as asked; with port 0 the ports of the last start, if there was one.
    pub(super) fn ports(&self, asked: SocketAddr) -> Result<(SocketAddr, SocketAddr)> {
        if asked.port() != 0 {
            let mqtt =
                if asked.port() == 8443 { 8883 } else { asked.port().checked_add(1).context("--listen: no port is left for MQTT")? };
            return Ok((asked, SocketAddr::new(asked.ip(), mqtt)));
        }
        let last = fs::read_to_string(self.path.join("ports")).unwrap_or_default();
        let mut last = last.split_whitespace().map(str::parse::<u16>);
        match (last.next(), last.next()) {
            (Some(Ok(https)), Some(Ok(mqtt))) => Ok((SocketAddr::new(asked.ip(), https), SocketAddr::new(asked.ip(), mqtt))),
            _ => Ok((asked, asked)),
        }
    }

    pub(super) fn remember_ports(&self, https: SocketAddr, mqtt: Option<SocketAddr>) -> Result<()> {
        let text = format!("{} {}\n", https.port(), mqtt.map_or(0, |address| address.port()));
        Ok(write_public(&self.path.join("ports"), text.as_bytes())?)
    }

    /// Under which addresses the device was enrolled: it must be told when they change.
    pub(super) fn enrolled_at(&self) -> Option<String> {
        fs::read_to_string(self.path.join("device/enrolled")).ok().map(|text| text.trim().to_owned())
    }

    pub(super) fn remember_enrolled(&self, at: &str) -> Result<()> {
        Ok(write_public(&self.path.join("device/enrolled"), format!("{at}\n").as_bytes())?)
    }

    pub(super) fn env_file(&self) -> PathBuf {
        self.path.join("quickstart.env")
    }

    pub(super) fn env_token(&self) -> Option<String> {
        let text = fs::read_to_string(self.env_file()).ok()?;
        text.lines().find_map(|line| line.strip_prefix("export MUSTER_TOKEN=")).map(str::to_owned)
    }

    /// The four variables; and the way to `muster`, where the shell would not find it.
    pub(super) fn write_env(&self, hub: &str, token: &str, org: &OrgId, project: &ProjectId) -> Result<()> {
        let mut text =
            format!("export MUSTER_HUB={hub}\nexport MUSTER_TOKEN={token}\nexport MUSTER_ORG={org}\nexport MUSTER_PROJECT={project}\n");
        if let Some(dir) = program_beside("muster").as_deref().and_then(Path::parent)
            && on_path("muster").is_none_or(|found| found.parent() != Some(dir))
        {
            text.push_str(&format!("export PATH={}:\"$PATH\"\n", shell_quoted(&dir.display().to_string())));
        }
        Ok(write_private(&self.env_file(), text.as_bytes())?)
    }
}

/// A program of ours: beside this one, or on the PATH.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    program_beside(name).or_else(|| on_path(name))
}

fn program_beside(name: &str) -> Option<PathBuf> {
    let beside = std::env::current_exe().ok()?.parent()?.join(name);
    beside.is_file().then_some(beside)
}

fn on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A text as a shell takes it.
pub(super) fn shell_quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.,:=@+".contains(c);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// The hub's own log goes to a file: the terminal is for the person.
pub(super) fn log_to(path: &Path) -> Result<()> {
    let file = File::options().create(true).append(true).open(path).with_context(|| format!("cannot write {}", path.display()))?;
    // A second one in the same process, as in a test, keeps the first.
    let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_writer(file).with_ansi(false).try_init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_chosen_and_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let ports = |text: &str| folder.ports(text.parse().unwrap()).map(|(https, mqtt)| (https.port(), mqtt.port())).unwrap();
        assert_eq!(ports("127.0.0.1:8443"), (8443, 8883));
        assert_eq!(ports("127.0.0.1:9000"), (9000, 9001));
        assert_eq!(ports("127.0.0.1:0"), (0, 0));
        folder.remember_ports("127.0.0.1:4001".parse().unwrap(), Some("127.0.0.1:4002".parse().unwrap())).unwrap();
        assert_eq!(ports("127.0.0.1:0"), (4001, 4002));
        assert!(folder.ports("127.0.0.1:65535".parse().unwrap()).is_err());
    }

    #[test]
    fn the_environment_file_is_private_and_has_the_four_variables() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        folder.write_env("https://127.0.0.1:1", "mp1.a.b.c", &"acme".parse().unwrap(), &"lab".parse().unwrap()).unwrap();
        let text = fs::read_to_string(folder.env_file()).unwrap();
        for line in ["MUSTER_HUB=https://127.0.0.1:1", "MUSTER_TOKEN=mp1.a.b.c", "MUSTER_ORG=acme", "MUSTER_PROJECT=lab"] {
            assert!(text.lines().any(|have| have == format!("export {line}")), "{line}");
        }
        assert_eq!(fs::metadata(folder.env_file()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(folder.env_token().as_deref(), Some("mp1.a.b.c"));
    }

    #[test]
    fn texts_are_quoted_for_a_shell() {
        assert_eq!(shell_quoted("/a/b-c"), "/a/b-c");
        assert_eq!(shell_quoted("a b'c"), "'a b'\\''c'");
    }
}
