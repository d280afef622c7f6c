//! The hub's configuration: read once, into a type that cannot be wrong.
//!
//! File first (`/etc/muster-hub/hub.toml`), then environment variables `MUSTER_HUB_<KEY>`.
//! All mistakes are reported together, each with its key and what to do. Secrets print as stars.

mod billing;
mod people;
mod reader;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use billing::{Limits, Rates, Retention};
use muster_proto::limits::HEARTBEAT_EVERY;
pub(crate) use people::is_loopback;
pub use people::{AutoJoin, Login, Mail, NewAccounts, Oidc, Security};
pub use reader::Mistake;
use reader::Reader;

/// Where the configuration is when nobody says otherwise.
pub const DEFAULT_PATH: &str = "/etc/muster-hub/hub.toml";
/// The example, printed by `muster-hub example-config` and held to the parser by a test.
pub const EXAMPLE: &str = include_str!("../../../config/hub.example.toml");

/// All mistakes of a configuration.
#[derive(Debug, thiserror::Error)]
#[error("{}", self.report())]
pub struct Invalid {
    /// The file, or how it was meant.
    pub source_name: String,
    /// Each mistake.
    pub mistakes: Vec<Mistake>,
}

impl Invalid {
    fn report(&self) -> String {
        let count = self.mistakes.len();
        let mut text = format!("{} has {count} mistake{}:", self.source_name, if count == 1 { "" } else { "s" });
        for mistake in &self.mistakes {
            text.push_str(&format!("\n  {mistake}"));
        }
        text
    }
}

/// A secret: does not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Database, certificate authority, server certificate.
    pub data_dir: PathBuf,
    /// Where HTTPS listens.
    pub listen: SocketAddr,
    /// How everybody else reaches HTTPS. Port 0 stands for the port that `listen` got.
    pub public_url: Origin,
    /// More names and addresses for the server certificate.
    pub names: Vec<String>,
    /// MQTT.
    pub mqtt: Mqtt,
    /// Presence.
    pub presence: Presence,
    /// What use costs.
    pub billing: Rates,
    /// How much an organization may have.
    pub limits: Limits,
    /// How long records stay.
    pub retention: Retention,
    /// How people log in.
    pub login: Login,
    /// The mail server for invitations, where there is one.
    pub mail: Option<Mail>,
    /// Single sign-on, where there is one.
    pub oidc: Option<Oidc>,
    /// Log.
    pub log: Log,
}

/// `[mqtt]`.
#[derive(Debug, Clone)]
pub struct Mqtt {
    /// Where the embedded endpoint listens.
    pub listen: SocketAddr,
    /// How devices reach MQTT. Port 0 stands for the port that `listen` got.
    pub public_url: Origin,
    /// An external broker instead of the embedded endpoint.
    pub broker: Option<Broker>,
}

/// An external broker.
#[derive(Debug, Clone)]
pub struct Broker {
    /// Where the hub reaches it.
    pub url: Origin,
    /// User name, where the broker wants one.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// The CA of the broker's certificate; the hub's own if absent.
    pub ca_file: Option<PathBuf>,
    /// The hub's client certificate; issued by the hub's own CA if absent.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
}

/// `[presence]`.
#[derive(Debug, Clone)]
pub struct Presence {
    /// How often devices are expected to send a heartbeat: three missed ones mean offline.
    pub heartbeat_every: Duration,
}

/// `[log]`.
#[derive(Debug, Clone)]
pub struct Log {
    /// Least level that is written.
    pub level: tracing::Level,
}

/// `scheme://host:port`, nothing after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// "https" or "mqtts".
    pub scheme: &'static str,
    /// A DNS name or an address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Origin {
    /// Parses `scheme://host[:port][/]`.
    ///
    /// # Errors
    /// One sentence that says what to write instead.
    pub fn parse(text: &str, scheme: &'static str, default_port: u16) -> Result<Self, String> {
        let example = format!("write it as {scheme}://hub.example.com:{default_port}");
        let rest = match text.split_once("://") {
            Some((given, rest)) if given.eq_ignore_ascii_case(scheme) => rest,
            Some(_) => return Err(format!("{text:?} does not begin with {scheme}://; {example}")),
            None => text,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains(['/', '?', '#', '@']) {
            return Err(format!("{text:?} has more than a host and a port; {example}"));
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| format!("{text:?} lacks a closing bracket; {example}"))?;
                (host, port.strip_prefix(':'))
            }
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => default_port,
            Some(port) => port.parse().map_err(|_| format!("{port:?} in {text:?} is not a port; {example}"))?,
        };
        if !is_host(host) {
            return Err(format!("{host:?} in {text:?} is neither a DNS name nor an address; {example}"));
        }
        Ok(Self { scheme, host: host.to_ascii_lowercase(), port })
    }

    /// The same with the port that was bound, where this one says 0.
    pub fn bound(&self, port: u16) -> Self {
        Self { port: if self.port == 0 { port } else { self.port }, ..self.clone() }
    }

    /// The same under another scheme.
    pub fn with_scheme(&self, scheme: &'static str) -> Self {
        Self { scheme, ..self.clone() }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{}://{open}{}{close}:{}", self.scheme, self.host, self.port)
    }
}

fn is_host(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
        || (!host.is_empty()
            && host.len() <= 253
            && host.split('.').all(|label| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            }))
}

impl Config {
    /// Reads the file and the environment. A missing file at the default place means defaults; elsewhere it is a mistake.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn load(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, Invalid> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(DEFAULT_PATH) => String::new(),
            Err(error) => {
                let mistake = Mistake { key: String::new(), what: format!("cannot be read: {error}; name another with --config") };
                return Err(Invalid { source_name: path.display().to_string(), mistakes: vec![mistake] });
            }
        };
        Self::parse(&text, &path.display().to_string(), environment)
    }

    /// Parses a configuration from text and environment variables.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn parse(text: &str, source_name: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Self, Invalid> {
        let mut reader = Reader::new(text, environment);
        let config = read(&mut reader);
        let mistakes = reader.finish();
        match config {
            Some(config) if mistakes.is_empty() => Ok(config),
            _ => Err(Invalid { source_name: source_name.to_owned(), mistakes }),
        }
    }

    /// Every name and address for the server certificate: those of the URLs, the extra ones, and this machine for itself.
    pub fn certificate_names(&self) -> Vec<String> {
        let mut names = vec![self.public_url.host.clone()];
        let more = self.names.iter().cloned().chain([self.mqtt.public_url.host.clone()]);
        for name in more.chain(["localhost", "127.0.0.1", "::1"].map(str::to_owned)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// What stands in a configuration's file, by key, to see what has changed in it; nothing where it cannot be read.
pub fn file_values(path: &Path) -> std::collections::BTreeMap<String, String> {
    let table = std::fs::read_to_string(path).ok().and_then(|text| text.parse::<toml::Table>().ok()).unwrap_or_default();
    reader::flatten(table).into_iter().map(|(key, value)| (key, value.to_string())).collect()
}

fn read(reader: &mut Reader) -> Option<Config> {
    let data_dir = reader.path("data_dir").unwrap_or_else(|| "/var/lib/muster-hub".into());
    let listen = reader.parsed("listen", parse_listen).unwrap_or(SocketAddr::from(([0, 0, 0, 0], 8443)));
    let public_url = reader.parsed("public_url", |text| Origin::parse(text, "https", listen.port()));
    if public_url.is_none() && !reader.has_mistake("public_url") {
        reader.mistake(
            "public_url",
            "is needed: the URL under which devices and people reach this hub, such as https://hub.example.com:8443",
        );
    }
    let names = reader.list("names", |name| {
        if is_host(name) { Ok(name.to_ascii_lowercase()) } else { Err(format!("{name:?} is neither a DNS name nor an address")) }
    });
    let mqtt_listen = reader.parsed("mqtt.listen", parse_listen).unwrap_or(SocketAddr::from((listen.ip(), 8883)));
    let broker = reader.parsed("mqtt.broker", |text| match text {
        "" => Ok(None),
        url => Origin::parse(url, "mqtts", 8883).map(Some),
    });
    let mqtt_url = reader.parsed("mqtt.public_url", |text| Origin::parse(text, "mqtts", 8883));
    let (username, password) = (reader.text("mqtt.broker_username"), reader.secret("mqtt.broker_password"));
    let ca_file = reader.path("mqtt.broker_ca_file");
    let (cert_file, key_file) = (reader.path("mqtt.broker_cert_file"), reader.path("mqtt.broker_key_file"));
    if cert_file.is_some() != key_file.is_some() {
        let key = if cert_file.is_some() { "mqtt.broker_key_file" } else { "mqtt.broker_cert_file" };
        reader.mistake(key, "is needed as well: a client certificate and its key go together");
    }
    let heartbeat = reader.seconds("presence.heartbeat_every_s", 1..=300).map_or(HEARTBEAT_EVERY, Duration::from_secs);
    let (billing, limits, retention) = (billing::rates(reader), billing::limits(reader), billing::retention(reader));
    let (login, mail, oidc) = (people::login(reader), people::mail(reader), people::oidc(reader));
    if !login.password && oidc.is_none() && !reader.has_mistake("oidc.issuer") {
        reader.mistake("login.password", "false leaves no way to log in: configure [oidc] first, or leave password login on");
    }
    let level = reader.parsed("log.level", |text| match text {
        "error" => Ok(tracing::Level::ERROR),
        "warn" => Ok(tracing::Level::WARN),
        "info" => Ok(tracing::Level::INFO),
        "debug" => Ok(tracing::Level::DEBUG),
        "trace" => Ok(tracing::Level::TRACE),
        other => Err(format!("{other:?} is not a level; write error, warn, info, debug or trace")),
    });
    let public_url = public_url?;
    let broker = broker.flatten().map(|url| Broker { url, username, password, ca_file, cert_file, key_file });
    let mqtt_url = mqtt_url.unwrap_or_else(|| match &broker {
        Some(broker) => broker.url.clone(),
        None => Origin { scheme: "mqtts", host: public_url.host.clone(), port: mqtt_listen.port() },
    });
    Some(Config {
        data_dir,
        listen,
        names,
        mqtt: Mqtt { listen: mqtt_listen, public_url: mqtt_url, broker },
        presence: Presence { heartbeat_every: heartbeat },
        billing,
        limits,
        retention,
        login,
        mail,
        oidc,
        log: Log { level: level.unwrap_or(tracing::Level::INFO) },
        public_url,
    })
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address with a port; write it as 0.0.0.0:8443 or [::]:8443"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, environment: &[(&str, &str)]) -> Result<Config, Invalid> {
        Config::parse(text, "hub.toml", environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_example_is_valid_and_shows_every_key() {
        let config = parse(EXAMPLE, &[]).unwrap();
        assert_eq!(config.public_url.to_string(), "https://hub.example.com:8443");
        assert_eq!(config.mqtt.public_url.to_string(), "mqtts://hub.example.com:8883");
        // Every key that the reader asks for stands in the example, commented out or not.
        let mut reader = Reader::new("", []);
        read(&mut reader);
        let keys = reader.asked();
        assert!(keys.len() >= 13, "{keys:?}");
        for key in keys {
            let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
            let from = if section.is_empty() { 0 } else { EXAMPLE.find(&format!("\n[{section}]\n")).unwrap() };
            let section = &EXAMPLE[from..];
            assert!(
                section.lines().any(|line| line.trim_start_matches(['#', ' ']).starts_with(&format!("{name} ="))),
                "{key} is not in the example"
            );
        }
    }

    #[test]
    fn all_mistakes_are_named_at_once_with_their_keys() {
        let text = "listen = \"nowhere\"\npublic_url = \"http://x\"\nnames = [\"ok.example\", \"not ok\", 3]\ncolour = 1\n\
                    [mqtt]\nbroker = 7\nbroker_cert_file = \"/a\"\nbanana = true\n[presence]\nheartbeat_every_s = 0\n[log]\nlevel = \"loud\"\n[more]\nx = 1\n";
        let error = parse(text, &[("MUSTER_HUB_MQTT_LISTEN", "x"), ("MUSTER_HUB_PEAR", "1")]).unwrap_err();
        let keys: Vec<&str> = error.mistakes.iter().map(|mistake| mistake.key.as_str()).collect();
        for key in [
            "listen",
            "public_url",
            "names",
            "colour",
            "mqtt.broker",
            "mqtt.broker_key_file",
            "mqtt.banana",
            "log.level",
            "more",
            "MUSTER_HUB_MQTT_LISTEN",
            "MUSTER_HUB_PEAR",
        ] {
            assert!(keys.contains(&key), "{key} is not among {keys:?}");
        }
        let report = error.to_string();
        assert!(report.starts_with("hub.toml has 13 mistakes:"), "{report}");
        assert!(report.contains("http://x\" does not begin with https://"), "{report}");
    }

    #[test]
    fn a_syntax_error_says_where() {
        let report = parse("data_dir = \n", &[]).unwrap_err().to_string();
        assert!(report.contains("line 1"), "{report}");
    }

    #[test]
    fn the_environment_wins_and_secrets_do_not_print() {
        let text = "public_url = \"https://a.example\"\n[mqtt]\nbroker = \"mqtts://b.example\"\nbroker_password = \"swordfish\"\n";
        let config = parse(text, &[("MUSTER_HUB_PUBLIC_URL", "https://c.example:1"), ("MUSTER_HUB_NAMES", "x.example, 10.0.0.1")]).unwrap();
        assert_eq!(config.public_url.to_string(), "https://c.example:1");
        assert_eq!(config.names, ["x.example", "10.0.0.1"]);
        assert_eq!(config.mqtt.public_url.to_string(), "mqtts://b.example:8883");
        let shown = format!("{config:?}");
        assert!(shown.contains("***") && !shown.contains("swordfish"), "{shown}");
        assert_eq!(config.mqtt.broker.unwrap().password.unwrap().expose(), "swordfish");
    }

    #[test]
    fn how_people_come_in() {
        let base = "public_url = \"https://a.example\"\n";
        let config = parse(base, &[]).unwrap();
        assert!(config.login.password && config.mail.is_none() && config.oidc.is_none());
        let text = format!(
            "{base}[login]\npassword = false\n[oidc]\nissuer = \"https://id.a.example/realm\"\nclient_id = \"muster\"\n[mail]\nserver = \"smtp.a.example:587\"\nfrom = \"Muster <m@a.example>\"\n\
             username = \"m\"\npassword = \"swordfish\"\n"
        );
        let config = parse(&text, &[]).unwrap();
        assert!(!config.login.password && !format!("{config:?}").contains("swordfish"));
        assert_eq!(config.mail.unwrap().security, Security::StartTls);
        let oidc = config.oidc.unwrap();
        assert_eq!((oidc.name.as_str(), oidc.new_accounts), ("id.a.example/realm", NewAccounts::Everyone));
        for (bad, key) in [
            ("[login]\npassword = 1\n", "login.password"),
            ("[mail]\nserver = \"smtp.a.example\"\n", "mail.server"),
            ("[mail]\nserver = \"smtp.a.example:25\"\n", "mail.from"),
            ("[mail]\nserver = \"smtp.a.example:25\"\nfrom = \"m@a\"\nsecurity = \"none\"\n", "mail.security"),
            ("[mail]\nserver = \"smtp.a.example:25\"\nfrom = \"m@a\"\nusername = \"m\"\n", "mail.password"),
            ("[oidc]\nissuer = \"http://id.example\"\n", "oidc.issuer"),
            ("[login]\npassword = false\n", "login.password"),
            ("[oidc]\nclient_id = \"m\"\n", "oidc.issuer"),
            ("[oidc]\nissuer = \"https://id.example/?a=b\"\nclient_id = \"m\"\n", "oidc.issuer"),
            ("[oidc]\nissuer = \"https://u@id.example/\"\nclient_id = \"m\"\n", "oidc.issuer"),
            ("[oidc]\nissuer = \"http://10.0.0.1\"\nclient_id = \"m\"\n", "oidc.issuer"),
            (
                "[oidc]\nissuer = \"https://id.example\"\nclient_id = \"m\"\nclient_secret_file = \"/nowhere/secret\"\n",
                "oidc.client_secret_file",
            ),
            ("[oidc]\nissuer = \"https://id.example\"\nclient_id = \"m\"\nca_file = \"/nowhere/ca.pem\"\n", "oidc.ca_file"),
            ("[oidc]\nissuer = \"https://id.example\"\nclient_id = \"m\"\nnew_accounts = \"some\"\n", "oidc.new_accounts"),
            ("[oidc]\nissuer = \"https://id.example\"\n", "oidc.client_id"),
            (
                "[oidc]\nissuer = \"https://id.example\"\nclient_id = \"m\"\nauto_join = [{ domain = \"com\", org = \"acme\" }]\n",
                "oidc.auto_join",
            ),
            ("[oidc]\nissuer = \"https://id.example\"\nclient_id = \"m\"\nauto_join = [{ domain = \"a.b\" }]\n", "oidc.auto_join"),
        ] {
            let error = parse(&format!("{base}{bad}"), &[]).unwrap_err();
            assert!(error.mistakes.iter().any(|mistake| mistake.key == key), "{key}: {error}");
        }
    }

    #[test]
    fn origins() {
        let good = [
            ("https://a", "https://a:8443"),
            ("hub.b.example:9", "https://hub.b.example:9"),
            ("HTTPS://a", "https://a:8443"),
            ("https://A.b:1/", "https://a.b:1"),
            ("https://[::1]:0", "https://[::1]:0"),
        ];
        for (text, shown) in good {
            assert_eq!(Origin::parse(text, "https", 8443).unwrap().to_string(), shown);
        }
        for bad in [
            "http://a",
            "",
            "https://",
            "https://a/b",
            "https://a:x",
            "https://a b",
            "https://u@a",
            "https://[::1",
            "https://-a",
            "https://::1",
        ] {
            assert!(Origin::parse(bad, "https", 8443).is_err(), "{bad}");
        }
        assert_eq!(Origin::parse("https://a:0", "https", 1).unwrap().bound(77).port, 77);
    }

    #[test]
    fn certificate_names_have_no_doubles() {
        let config = parse("public_url = \"https://localhost:0\"\nnames = [\"localhost\", \"h.example\"]", &[]).unwrap();
        assert_eq!(config.certificate_names(), ["localhost", "h.example", "127.0.0.1", "::1"]);
    }
}
