//! `[login]`, `[mail]` and `[oidc]`: how people come in, and how invitations go out.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use lettre::message::Mailbox;
use muster_proto::id::OrgId;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::reader::Reader;
use super::{Secret, is_host};

/// `[login]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Login {
    /// Whether people may log in with e-mail and password.
    pub password: bool,
}

/// `[mail]`: the server that sends invitations.
#[derive(Debug, Clone)]
pub struct Mail {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub security: Security,
    /// The user name, where it wants one.
    pub username: Option<String>,
    /// The password.
    pub password: Option<Secret>,
    /// Whom mails are from.
    pub from: Mailbox,
    /// Authorities for its certificate, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// How a connection to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// TLS from the first byte (port 465).
    Tls,
    /// STARTTLS, and nothing is said before it (port 587).
    StartTls,
    /// Not at all: only to this machine.
    None,
}

/// `[oidc]`: single sign-on.
#[derive(Debug, Clone)]
pub struct Oidc {
    /// The provider, to the letter as it names itself.
    pub issuer: String,
    /// What the hub is called there.
    pub client_id: String,
    /// The hub's secret there; none for a public client.
    pub client_secret: Option<Secret>,
    /// What people call the provider.
    pub name: String,
    /// Authorities for its certificate, instead of the system's.
    pub authorities: Option<Vec<CertificateDer<'static>>>,
    /// Who gets an account at the first login.
    pub new_accounts: NewAccounts,
    /// Who becomes a viewer where, by the domain of a verified e-mail.
    pub auto_join: Vec<AutoJoin>,
}

/// Who gets an account at the first login by single sign-on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewAccounts {
    /// Everybody whom the provider lets in with a verified e-mail: for a provider of one's own people.
    Everyone,
    /// Whose mail domain stands in `auto_join`, or whose e-mail was invited: for a provider where anybody can sign up.
    Expected,
}

/// People of a mail domain become viewers of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoJoin {
    /// The part of the e-mail behind the `@`, in lower case.
    pub domain: String,
    /// The organization.
    pub org: OrgId,
}

pub(super) fn login(reader: &mut Reader) -> Login {
    Login { password: reader.flag("login.password").unwrap_or(true) }
}

pub(super) fn mail(reader: &mut Reader) -> Option<Mail> {
    let server = reader.parsed("mail.server", |text| if text.is_empty() { Ok(None) } else { server(text).map(Some) });
    let security = reader.parsed("mail.security", |text| match text {
        "tls" => Ok(Security::Tls),
        "starttls" => Ok(Security::StartTls),
        "none" => Ok(Security::None),
        other => Err(format!("{other:?} is not known; write tls, starttls or none")),
    });
    let (username, password) = (reader.text("mail.username"), reader.secret("mail.password"));
    let from = reader.parsed("mail.from", |text| {
        text.parse::<Mailbox>().map_err(|error| format!("{text:?} is not an address ({error}); write it as Muster <muster@example.com>"))
    });
    let ca_file = reader.path("mail.ca_file");
    let (host, port) = server.flatten()?;
    if username.is_some() != password.is_some() {
        let key = if username.is_some() { "mail.password" } else { "mail.username" };
        reader.mistake(key, "is needed as well: a user name and a password go together");
    }
    let security = security.unwrap_or(if port == 465 { Security::Tls } else { Security::StartTls });
    let loopback = is_loopback(&host);
    if security == Security::None && !loopback {
        reader.mistake("mail.security", "none is only for a mail server on this machine: invitations would pass in the clear");
    }
    if from.is_none() && !reader.has_mistake("mail.from") {
        reader.mistake("mail.from", "is needed: whom invitations are from, such as Muster <muster@example.com>");
    }
    Some(Mail { host, port, security, username, password, from: from?, ca_file })
}

/// `host:port`.
fn server(text: &str) -> Result<(String, u16), String> {
    let example = "write it as smtp.example.com:587";
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("{text:?} lacks a port; {example}"))?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if !is_host(host) {
        return Err(format!("{host:?} in {text:?} is neither a DNS name nor an address; {example}"));
    }
    let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("{port:?} in {text:?} is not a port; {example}"))?;
    Ok((host.to_ascii_lowercase(), port))
}

pub(super) fn oidc(reader: &mut Reader) -> Option<Oidc> {
    let issuer = reader.parsed("oidc.issuer", |text| if text.is_empty() { Ok(None) } else { issuer(text).map(Some) });
    let client_id = reader.text("oidc.client_id");
    let client_secret = reader.parsed("oidc.client_secret_file", |path| secret_in(Path::new(path)));
    let name = reader.text("oidc.name");
    let authorities = reader.parsed("oidc.ca_file", |path| certificates_in(Path::new(path)));
    let new_accounts = reader.parsed("oidc.new_accounts", |text| match text {
        "everyone" => Ok(NewAccounts::Everyone),
        "expected" => Ok(NewAccounts::Expected),
        other => Err(format!("{other:?} is not known; write everyone or expected")),
    });
    let auto_join = reader.tables("oidc.auto_join", &["domain", "org"], |fields| {
        let [domain, org] = fields else { return Err("needs domain and org".to_owned()) };
        let domain = domain.trim_start_matches('@').to_lowercase();
        if !is_host(&domain) || !domain.contains('.') {
            return Err(format!("domain {domain:?} is not a mail domain; write it as example.com"));
        }
        let org = org.parse::<OrgId>().map_err(|error| format!("org: {error}"))?;
        Ok(AutoJoin { domain, org })
    });
    let Some(issuer) = issuer.flatten() else {
        if client_id.is_some() && !reader.has_mistake("oidc.issuer") {
            reader.mistake("oidc.issuer", "is needed as well: the provider, to the letter as it names itself");
        }
        return None;
    };
    if client_id.is_none() {
        reader.mistake("oidc.client_id", "is needed: what the hub is called at the provider");
    }
    let name = name.unwrap_or_else(|| issuer.split("://").nth(1).unwrap_or(&issuer).trim_end_matches('/').to_owned());
    let new_accounts = new_accounts.unwrap_or(NewAccounts::Everyone);
    Some(Oidc { issuer, client_id: client_id?, client_secret, name, authorities, new_accounts, auto_join })
}

/// The first line of a file that nobody else can read.
fn secret_in(path: &Path) -> Result<Secret, String> {
    let cannot = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    let mode = std::fs::metadata(path).map_err(cannot)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("others can read {} (mode {mode:o}): chmod 600, and let the hub's user own it", path.display()));
    }
    let text = std::fs::read_to_string(path).map_err(cannot)?;
    match text.lines().next().map(str::trim) {
        Some(secret) if !secret.is_empty() => Ok(Secret(secret.to_owned())),
        _ => Err(format!("{} is empty: it holds the secret that the provider gave, on one line", path.display())),
    }
}

fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = std::fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(format!("{} holds no certificate", path.display())),
        Err(error) => Err(format!("{} is not valid PEM: {error}", path.display())),
    }
}

fn issuer(text: &str) -> Result<String, String> {
    let url: http::Uri = text.parse().map_err(|error| format!("{text:?} is not a URL ({error})"))?;
    let host = url.host().unwrap_or_default();
    match url.scheme_str() {
        Some("https") => {}
        Some("http") if is_loopback(host) => {}
        _ => return Err(format!("{text:?} must begin with https://; http is only for a provider on this machine")),
    }
    let named = url.authority().is_some_and(|authority| authority.as_str().contains('@'));
    if host.is_empty() || named || url.query().is_some() || text.contains(['#', '?']) {
        return Err(format!("{text:?} is not an issuer: it has a host, perhaps a path, and nothing else"));
    }
    Ok(text.to_owned())
}

/// Whether a host of a URL is this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}
