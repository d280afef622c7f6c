//! `[login]`, `[mail]` and `[oidc]`: how people come in, and how invitations go out.

use std::net::IpAddr;
use std::path::PathBuf;

use lettre::message::Mailbox;
use muster_proto::id::OrgId;

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
    pub ca_file: Option<PathBuf>,
    /// Who becomes a viewer where, by the domain of a verified e-mail.
    pub auto_join: Vec<AutoJoin>,
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
    let loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
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
    let (client_id, client_secret) = (reader.text("oidc.client_id"), reader.secret("oidc.client_secret"));
    let name = reader.text("oidc.name");
    let ca_file = reader.path("oidc.ca_file");
    let auto_join = reader.tables("oidc.auto_join", &["domain", "org"], |fields| {
        let [domain, org] = fields else { return Err("needs domain and org".to_owned()) };
        let domain = domain.trim_start_matches('@').to_lowercase();
        if !is_host(&domain) || !domain.contains('.') {
            return Err(format!("domain {domain:?} is not a mail domain; write it as example.com"));
        }
        let org = org.parse::<OrgId>().map_err(|error| format!("org: {error}"))?;
        Ok(AutoJoin { domain, org })
    });
    let issuer = issuer.flatten()?;
    if client_id.is_none() {
        reader.mistake("oidc.client_id", "is needed: what the hub is called at the provider");
    }
    let name = name.unwrap_or_else(|| issuer.split("://").nth(1).unwrap_or(&issuer).to_owned());
    Some(Oidc { issuer, client_id: client_id?, client_secret, name, ca_file, auto_join })
}

fn issuer(text: &str) -> Result<String, String> {
    let url: http::Uri = text.parse().map_err(|error| format!("{text:?} is not a URL ({error})"))?;
    let host = url.host().unwrap_or_default();
    let loopback = host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    match url.scheme_str() {
        Some("https") => {}
        Some("http") if loopback => {}
        _ => return Err(format!("{text:?} must begin with https://; http is only for a provider on this machine")),
    }
    if host.is_empty() || url.query().is_some() || text.contains('#') {
        return Err(format!("{text:?} is not an issuer: it has a host, perhaps a path, and nothing else"));
    }
    Ok(text.to_owned())
}
