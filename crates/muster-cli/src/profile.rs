//! Saved logins: which hubs, with which token, organization and project.
//!
//! `$XDG_CONFIG_HOME/muster/config.toml`, mode 0600 in a folder of mode 0700. It is replaced whole, never half-written,
//! and two `muster` at once wait for each other. A token is only ever sent to the hub beside which it stands.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use muster_proto::id::{OrgId, ProjectId};
use muster_proto::token::{Token, TokenKind};
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};

/// One saved login.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The hub's base URL, normalized by [`hub_url`].
    pub hub: String,
    /// The personal access token, which names the hub's certificate authority.
    pub token: String,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Whether `muster login` made the token, so that `muster logout` ends it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made_by_login: bool,
    /// The organization that commands mean when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<OrgId>,
    /// The project that commands mean when none is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("hub", &self.hub).field("token", &"***").field("email", &self.email).finish_non_exhaustive()
    }
}

impl Profile {
    /// The token, checked.
    ///
    /// # Errors
    /// When the file was damaged by hand.
    pub fn token(&self) -> Result<Token, Failure> {
        Token::parse(&self.token, TokenKind::Personal).map_err(|error| {
            Failure::usage(format!("the saved token for {} cannot be used: {error}", self.hub)).hint("log in again with `muster login`")
        })
    }
}

/// All saved logins.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Book {
    /// The one that commands use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    /// By name.
    #[serde(default)]
    pub profiles: BTreeMap<String, Profile>,
}

impl Book {
    /// Where it lies: `$XDG_CONFIG_HOME/muster/config.toml`, else below `~/.config`.
    ///
    /// # Errors
    /// When the environment names neither.
    pub fn path() -> Result<PathBuf, Failure> {
        let dir = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let base = dir("XDG_CONFIG_HOME").or_else(|| dir("HOME").map(|home| home.join(".config")));
        base.map(|base| base.join("muster/config.toml")).ok_or_else(|| {
            Failure::usage("neither XDG_CONFIG_HOME nor HOME names a folder").hint("set HOME, or use MUSTER_HUB and MUSTER_TOKEN")
        })
    }

    /// Reads it; empty if there is none.
    ///
    /// # Errors
    /// When it cannot be read or is not what it should be.
    pub fn load(path: &Path) -> Result<Self, Failure> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Failure::new(Exit::Usage, format!("cannot read {}: {error}", path.display()))),
        };
        // Tokens stand in it: the message names the place, never the line itself.
        toml::from_str(&text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            Failure::usage(format!("{}, line {line}: {}", path.display(), error.message()))
                .hint("correct the file, or delete it and log in again")
        })
    }

    /// Reads, changes and saves it while no other `muster` does.
    ///
    /// # Errors
    /// When it cannot be read or written, or `change` fails; then it stays as it was.
    pub fn update<T>(path: &Path, change: impl FnOnce(&mut Self) -> Result<T, Failure>) -> Result<T, Failure> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let failed = |what: &str, error: std::io::Error| Failure::new(Exit::Failed, format!("cannot {what} {}: {error}", path.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| failed("make the folder of", error))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.with_extension("lock"))
            .map_err(|error| failed("lock", error))?;
        lock.lock().map_err(|error| failed("lock", error))?;
        let mut book = Self::load(path)?;
        let answer = change(&mut book)?;
        book.save(path).map_err(|error| failed("save", error))?;
        Ok(answer)
    }

    fn save(&self, path: &Path) -> std::io::Result<()> {
        let text = toml::to_string(self).map_err(std::io::Error::other)?;
        let draft = path.with_extension(format!("{}.new", std::process::id()));
        let written = (|| {
            let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
            file.write_all(b"# Saved logins of `muster`. The tokens are as good as passwords.\n")?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&draft, path)?;
            File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
        })();
        if written.is_err() {
            drop(fs::remove_file(&draft));
        }
        written
    }

    /// The name of the profile for a hub: the current one if it is for that hub, else the only or first one.
    pub fn for_hub(&self, hub: &str) -> Option<&str> {
        let current = self.current.as_deref().filter(|name| self.profiles.get(*name).is_some_and(|profile| profile.hub == hub));
        current.or_else(|| self.profiles.iter().find(|(_, profile)| profile.hub == hub).map(|(name, _)| name.as_str()))
    }
}

/// A warning where others may read the saved tokens.
pub fn loose_mode(path: &Path) -> Option<String> {
    let mode = fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0)
        .then(|| format!("warning: {} can be read by others (mode {mode:04o}); run: chmod 600 {}", path.display(), path.display()))
}

/// A hub's base URL as it is saved and compared: `https://host` or `https://host:port`, no slash at the end.
///
/// # Errors
/// When it is none, or not https.
pub fn hub_url(text: &str) -> Result<String, Failure> {
    let bad = |why: &str| {
        Failure::usage(format!("{text:?} is not a hub's address: {why}"))
            .hint("write it as https://hub.example.com or https://hub.example.com:8443")
    };
    let text = text.trim();
    let rest = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => rest,
        Some((scheme, _)) if scheme.eq_ignore_ascii_case("http") => return Err(bad("a hub speaks only https")),
        Some(_) => return Err(bad("it must start with https://")),
        None => text,
    };
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() {
        return Err(bad("it names no host"));
    }
    if rest.contains('@') {
        return Err(bad("a user name does not belong there"));
    }
    if !rest.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':' | b'[' | b']')) {
        return Err(bad("only a host and a port belong there"));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && (!host.contains(':') || host.ends_with(']')) => (host, Some(port)),
        _ => (rest, None),
    };
    if host.is_empty() || (host.contains(':') && !(host.starts_with('[') && host.ends_with(']'))) {
        return Err(bad("the host is not valid; an IPv6 address stands in brackets"));
    }
    let host = host.to_ascii_lowercase();
    match port.map(str::parse::<u16>) {
        None | Some(Ok(443)) => Ok(format!("https://{host}")),
        Some(Ok(port)) if port > 0 => Ok(format!("https://{host}:{port}")),
        Some(_) => Err(bad("the port is not a number from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "mp1.abcdefghij.klmnopqrstuvwxyz234567abcdefghij.__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA";

    fn profile(hub: &str) -> Profile {
        Profile {
            hub: hub.into(),
            token: TOKEN.into(),
            email: Some("ann@acme.example".into()),
            made_by_login: true,
            org: "acme".parse().ok(),
            project: None,
        }
    }

    #[test]
    fn saved_for_its_owner_only_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/muster/config.toml");
        Book::update(&path, |book| {
            book.current = Some("acme".into());
            book.profiles.insert("acme".into(), profile("https://hub.acme.example"));
            Ok(())
        })
        .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(loose_mode(&path), None);
        let book = Book::load(&path).unwrap();
        assert_eq!(book.for_hub("https://hub.acme.example"), Some("acme"));
        assert_eq!(book.for_hub("https://other.example"), None);
        assert_eq!(book.profiles["acme"], profile("https://hub.acme.example"));
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }

    #[test]
    fn a_failed_change_leaves_it_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        Book::update(&path, |book| {
            book.current = Some("x".into());
            Ok(())
        })
        .unwrap();
        let failed: Result<(), Failure> = Book::update(&path, |book| {
            book.current = None;
            Err(Failure::usage("no"))
        });
        assert!(failed.is_err());
        assert_eq!(Book::load(&path).unwrap().current.as_deref(), Some("x"));
    }

    #[test]
    fn a_damaged_file_names_the_line_and_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        fs::write(&path, format!("[profiles.a]\nhub = \"https://h\"\ntoken = \"{TOKEN}\nx = 1\n")).unwrap();
        let failure = Book::load(&path).err().unwrap();
        assert_eq!(failure.exit, 2);
        assert!(failure.message.contains("line 3"), "{failure}");
        assert!(!failure.message.contains("klmnop"), "{failure}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(loose_mode(&path).unwrap().contains("mode 0644"));
    }

    #[test]
    fn addresses() {
        for (text, url) in [
            ("hub.example.com", "https://hub.example.com"),
            ("https://Hub.Example.com:443/", "https://hub.example.com"),
            ("https://hub.example.com:8443//", "https://hub.example.com:8443"),
            ("127.0.0.1:8443", "https://127.0.0.1:8443"),
            ("https://[::1]:8443", "https://[::1]:8443"),
            ("[::1]", "https://[::1]"),
        ] {
            assert_eq!(hub_url(text).unwrap(), url);
        }
        for bad in [
            "",
            "https://",
            "http://hub",
            "ftp://hub",
            "hub:0",
            "hub:99999",
            "hub:x",
            "a b",
            "https://u@h",
            "https://h/path",
            "::1",
            "h?x",
            ":80",
        ] {
            assert_eq!(hub_url(bad).unwrap_err().exit, 2, "{bad}");
        }
    }
}
