//! The daemon's configuration: `/etc/musterd/config.toml`, any key by `MUSTERD_SECTION_KEY`.
//!
//! Parsed once into a type that cannot be wrong; all mistakes together.
//! The hub and the identity are not here: `enrol` writes them to the state directory.
//! Reads the file and the environment only in [`Config::load`]; the rest is pure.

use std::path::{Path, PathBuf};
use std::time::Duration;

use muster_link::dial::Proxy;
use muster_proto::id::Serial;
use muster_proto::limits::{HEARTBEAT_EVERY, SAMPLE_EVERY, USAGE_EVERY};
use musterd::handoff::{ANCHOR, RUN_DIR};

use crate::log::Level;
use crate::settings::{Mistake, Mistakes, Settings};

/// Where the configuration is unless said otherwise.
pub(crate) const DEFAULT_PATH: &str = "/etc/musterd/config.toml";
/// The example that `musterd example-config` prints.
pub(crate) const EXAMPLE: &str = include_str!("../config/agent.example.toml");
/// Default bound of the spool: about three weeks of samples of a usual machine.
pub(crate) const SPOOL_MAX: u64 = 32 * 1024 * 1024;

/// Checked configuration.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Config {
    /// Key, identity, spool. Survives everything.
    pub state_dir: PathBuf,
    /// Sockets, and the sessions of a trial (`own_user`). Gone after a reboot.
    pub run_dir: PathBuf,
    /// The device's policy.
    pub policy: PathBuf,
    /// Which hub is obeyed; written at enrolment, read by the privileged part of sessions.
    pub anchor: PathBuf,
    /// Where the service for sessions listens.
    pub session_dir: PathBuf,
    /// Where the serial number comes from.
    pub identity: IdentitySource,
    /// How MQTT is reached.
    pub transport: Transport,
    /// Hosts of MQTT besides the enrolled hub's own.
    pub mqtt_hosts: Vec<String>,
    /// HTTP proxy (CONNECT), `http://[user:password@]host:port`.
    pub proxy: Option<String>,
    /// Time between two heartbeats. The hub counts three missed ones as offline, by its own configuration.
    pub heartbeat_every: Duration,
    /// Time between two samples. The hub may ask for less often, or for once a second while somebody watches.
    pub sample_every: Duration,
    /// Time between two batches.
    pub publish_every: Duration,
    /// Bound of the spool on disk, in bytes.
    pub spool_max: u64,
    /// How much is logged.
    pub log_level: Level,
    /// Whether every sample is also written to `samples.log` in the state directory.
    pub log_samples: bool,
}

/// Where the serial number comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum IdentitySource {
    /// It stands in the configuration.
    Fixed(Serial),
    /// A file, or a field of a JSON or YAML file.
    File {
        /// The file.
        path: PathBuf,
        /// The field, `a.b.c`; the whole text if absent.
        field: Option<String>,
    },
    /// `/etc/machine-id`.
    MachineId,
}

/// How MQTT is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TCP first, WebSocket where TCP does not get through; what worked is remembered.
    Auto,
    /// MQTT over TLS on the hub's MQTT port.
    Tcp,
    /// WebSocket on the HTTPS port.
    Websocket,
}

/// Every key, as (section, key): the environment is looked up by them, and a test holds the example against them.
pub(crate) const KEYS: &[(&str, &str)] = &[
    ("", "state_dir"),
    ("", "run_dir"),
    ("", "policy"),
    ("", "anchor"),
    ("", "session_dir"),
    ("identity", "serial"),
    ("identity", "serial_file"),
    ("identity", "serial_field"),
    ("mqtt", "transport"),
    ("mqtt", "hosts"),
    ("proxy", "url"),
    ("heartbeat", "every_s"),
    ("usage", "sample_every_s"),
    ("usage", "publish_every_s"),
    ("spool", "max_bytes"),
    ("log", "level"),
    ("log", "samples"),
];

/// The variable that overrides a key.
pub(crate) fn variable(section: &str, key: &str) -> String {
    let name = if section.is_empty() { key.to_owned() } else { format!("{section}_{key}") };
    format!("MUSTERD_{}", name.to_ascii_uppercase())
}

impl Config {
    /// Reads the file at `path`; where none was named and the default one is missing, all is default.
    ///
    /// # Errors
    /// When the file cannot be read, or with all its mistakes.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, Mistakes> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if path.is_none() && error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => {
                let what = format!("cannot read {}: {error}", file.display());
                return Err(Mistakes(vec![Mistake { key: String::new(), what }]));
            }
        };
        Self::parse(&text, |name| std::env::var(name).ok())
    }

    /// Parses the text; `environment` is asked for each key's variable.
    ///
    /// # Errors
    /// All mistakes.
    pub(crate) fn parse(text: &str, environment: impl Fn(&str) -> Option<String>) -> Result<Self, Mistakes> {
        let mut settings = Settings::parse(text)?;
        for (section, key) in KEYS {
            if let Some(value) = environment(&variable(section, key)) {
                settings.override_key(section, key, &value);
            }
        }
        let config = read(&mut settings);
        settings.finish()?;
        Ok(config)
    }

    /// The keys that differ in `new` and count only after a restart.
    pub(crate) fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let pairs = [
            ("state_dir", self.state_dir != new.state_dir),
            ("run_dir", self.run_dir != new.run_dir),
            ("policy", self.policy != new.policy),
            ("anchor", self.anchor != new.anchor),
            ("session_dir", self.session_dir != new.session_dir),
            ("identity", self.identity != new.identity),
            ("mqtt.transport", self.transport != new.transport),
            ("mqtt.hosts", self.mqtt_hosts != new.mqtt_hosts),
            ("proxy.url", self.proxy != new.proxy),
            ("heartbeat.every_s", self.heartbeat_every != new.heartbeat_every),
            ("usage.sample_every_s", self.sample_every != new.sample_every),
            ("usage.publish_every_s", self.publish_every != new.publish_every),
            ("spool.max_bytes", self.spool_max != new.spool_max),
            ("log.samples", self.log_samples != new.log_samples),
        ];
        pairs.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }

    /// The socket on which `musterd status` and `musterd enrol` speak to the daemon.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.run_dir.join("control.sock")
    }

    /// The socket on which local programs add their own metrics.
    pub(crate) fn metrics_socket(&self) -> PathBuf {
        self.run_dir.join("metrics.sock")
    }
}

fn read(settings: &mut Settings) -> Config {
    let (state_dir, run_dir, policy, anchor, session_dir) = {
        let mut top = settings.top();
        let mut directory = |key: &'static str, default: &str| match top.text(key) {
            Some(text) if text.starts_with('/') => PathBuf::from(text),
            Some(text) => {
                top.mistake(key, format!("must be an absolute path, not {text:?}"));
                PathBuf::from(default)
            }
            None => PathBuf::from(default),
        };
        (
            directory("state_dir", "/var/lib/musterd"),
            directory("run_dir", "/run/musterd"),
            directory("policy", "/etc/musterd/policy.toml"),
            directory("anchor", ANCHOR),
            directory("session_dir", RUN_DIR),
        )
    };
    let identity = read_identity(settings);
    let (transport, mqtt_hosts) = {
        let mut section = settings.section("mqtt");
        let transport = match section.one_of("transport", &["auto", "tcp", "websocket"]).as_deref() {
            Some("tcp") => Transport::Tcp,
            Some("websocket") => Transport::Websocket,
            _ => Transport::Auto,
        };
        (transport, musterd::policy::hosts(&mut section))
    };
    let proxy = {
        let mut section = settings.section("proxy");
        let url = section.text("url").filter(|url| !url.is_empty());
        if let Some(Err(error)) = url.as_deref().map(str::parse::<Proxy>) {
            section.mistake("url", error.to_string());
        }
        url
    };
    let heartbeat_every = settings.section("heartbeat").number("every_s", 1..=300).map_or(HEARTBEAT_EVERY, seconds);
    let (sample_every, publish_every) = {
        let mut section = settings.section("usage");
        let sample = section.number("sample_every_s", 1..=3600).map_or(SAMPLE_EVERY, seconds);
        let publish = section.number("publish_every_s", 1..=3600).map_or(USAGE_EVERY, seconds);
        if publish < sample {
            section.mistake("publish_every_s", "must not be shorter than usage.sample_every_s");
        }
        (sample, publish)
    };
    let spool_max =
        settings.section("spool").number("max_bytes", 64 * 1024..=1 << 40).and_then(|n| u64::try_from(n).ok()).unwrap_or(SPOOL_MAX);
    let (log_level, log_samples) = {
        let mut section = settings.section("log");
        let level = section.one_of("level", &Level::NAMES).and_then(|name| Level::from_name(&name)).unwrap_or(Level::Info);
        (level, section.flag("samples").unwrap_or(false))
    };
    Config {
        state_dir,
        run_dir,
        policy,
        anchor,
        session_dir,
        identity,
        transport,
        mqtt_hosts,
        proxy,
        heartbeat_every,
        sample_every,
        publish_every,
        spool_max,
        log_level,
        log_samples,
    }
}

fn read_identity(settings: &mut Settings) -> IdentitySource {
    let mut section = settings.section("identity");
    let (serial, file, field) = (section.text("serial"), section.text("serial_file"), section.text("serial_field"));
    if serial.is_some() && file.is_some() {
        section.mistake("serial_file", "give either identity.serial or identity.serial_file, not both");
    }
    if field.is_some() && file.is_none() {
        section.mistake("serial_field", "names a field of identity.serial_file, which is not given");
    }
    match (serial, file) {
        (Some(serial), _) => match serial.parse() {
            Ok(serial) => return IdentitySource::Fixed(serial),
            Err(error) => section.mistake("serial", error.to_string()),
        },
        (None, Some(path)) if path.starts_with('/') => return IdentitySource::File { path: path.into(), field },
        (None, Some(path)) => section.mistake("serial_file", format!("must be an absolute path, not {path:?}")),
        (None, None) => {}
    }
    IdentitySource::MachineId
}

fn seconds(n: i64) -> Duration {
    Duration::from_secs(n.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, Mistakes> {
        Config::parse(text, |_| None)
    }

    #[test]
    fn an_empty_file_is_the_default_and_so_is_the_example() {
        let default = parse("").unwrap();
        assert_eq!(default.sample_every, Duration::from_secs(10));
        assert_eq!(parse(EXAMPLE).unwrap(), default);
    }

    #[test]
    fn the_example_names_every_key() {
        for (section, key) in KEYS {
            assert!(EXAMPLE.contains(&format!("{key} =")), "{section}.{key} is not in config/agent.example.toml");
        }
        // With every comment mark before a key removed, the example still holds only known keys.
        let all: String = EXAMPLE
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase()) && key.contains(" = ") => key,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        let unknown: Vec<Mistake> = match parse(&all) {
            Ok(_) => Vec::new(),
            Err(Mistakes(mistakes)) => mistakes.into_iter().filter(|mistake| mistake.what.contains("no such")).collect(),
        };
        assert_eq!(unknown, []);
    }

    #[test]
    fn all_mistakes_at_once() {
        let Mistakes(mistakes) = parse(
            "state_dir = \"relative\"\ncolour = 1\n[identity]\nserial = \" x\"\nserial_field = \"a\"\n[mqtt]\ntransport = \"udp\"\nhosts = [\"broker:8883\"]\n\
             [usage]\nsample_every_s = 60\npublish_every_s = 10\n[log]\nlevel = 3\n[proxy]\nurl = \"https://x\"\n[nope]\n",
        )
        .unwrap_err();
        let keys: Vec<&str> = mistakes.iter().map(|mistake| mistake.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "state_dir",
                "colour",
                "identity.serial_field",
                "identity.serial",
                "mqtt.transport",
                "mqtt.hosts",
                "proxy.url",
                "usage.publish_every_s",
                "log.level",
                "nope"
            ]
        );
    }

    #[test]
    fn hosts_and_proxies_are_read_as_people_write_them() {
        let config = parse("[mqtt]\nhosts = [\"mqtts://Broker.example.com\", \"[fd00::1]\"]\n[proxy]\nurl = \"proxy:3128\"\n").unwrap();
        assert_eq!(config.mqtt_hosts, ["broker.example.com", "fd00::1"]);
        assert_eq!(config.proxy.as_deref(), Some("proxy:3128"));
        let Mistakes(mistakes) = parse("[proxy]\nurl = \"socks5://proxy:1080\"\n").unwrap_err();
        assert!(mistakes[0].what.contains("SOCKS proxies are not supported"), "{mistakes:?}");
    }

    #[test]
    fn the_environment_overrides_any_key() {
        let config = Config::parse("[usage]\nsample_every_s = 5\n", |name| match name {
            "MUSTERD_STATE_DIR" => Some("/tmp/x".into()),
            "MUSTERD_USAGE_SAMPLE_EVERY_S" => Some("2".into()),
            "MUSTERD_IDENTITY_SERIAL" => Some("12345".into()),
            "MUSTERD_LOG_SAMPLES" => Some("true".into()),
            _ => None,
        })
        .unwrap();
        assert_eq!(config.state_dir, PathBuf::from("/tmp/x"));
        assert_eq!(config.sample_every, Duration::from_secs(2));
        assert_eq!(config.identity, IdentitySource::Fixed("12345".parse().unwrap()));
        assert!(config.log_samples);
        let bad = Config::parse("", |name| (name == "MUSTERD_USAGE_SAMPLE_EVERY_S").then(|| "often".into())).unwrap_err();
        assert_eq!(bad.0[0].key, "usage.sample_every_s");
    }
}
