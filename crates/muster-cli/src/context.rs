//! What a command works with: the hub and the token in use, the organization and project meant, how to print.
//!
//! The command line wins over the environment, that over the saved login. A saved token goes only to the hub it was saved for.

use muster_link::http::CallError;
use muster_proto::api::{Device, Me, Org, SessionCreate, SessionTicket};
use muster_proto::id::{OrgId, ProjectId};
use muster_proto::problem::Code;
use muster_proto::token::{Pin, Token, TokenKind};
use tokio::sync::OnceCell;

use crate::cli::Globals;
use crate::client::{Hub, encode};
use crate::failure::{Exit, Failure};
use crate::output::{Output, devices, note, text};
use crate::profile::{Book, hub_url, loose_mode};

/// Candidates that an error lists.
const CANDIDATES_MAX: usize = 10;

/// Where the token came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A flag or the environment.
    Given,
    /// The saved login of this name.
    Saved(String),
}

/// Everything that a command needs.
pub struct Context {
    hub: Hub,
    url: String,
    token: Token,
    /// Where the token came from.
    pub source: Source,
    org: Option<OrgId>,
    found_org: OnceCell<OrgId>,
    project: Option<ProjectId>,
    /// Whether the project stood on the command line: then it is that one or none, else it is only the usual one.
    insists: bool,
    /// How to print.
    pub out: Output,
}

impl Context {
    /// Puts flags, environment and saved logins together. Opens no connection.
    ///
    /// # Errors
    /// When nobody is logged in, or something given is not what it should be.
    pub fn new(globals: &Globals) -> Result<Self, Failure> {
        Self::with_timeout(globals, None)
    }

    /// The same with a bound on the dial, for shell completion.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_timeout(globals: &Globals, timeout: Option<std::time::Duration>) -> Result<Self, Failure> {
        let choice = choose(globals, &|| {
            let path = Book::path()?;
            if let Some(warning) = loose_mode(&path) {
                note(warning);
            }
            Book::load(&path)
        })?;
        let pin = choice.token.pin;
        Ok(Self {
            hub: Hub::new(&choice.url, pin, Some(&choice.token), timeout)?,
            url: choice.url,
            token: choice.token,
            source: choice.source,
            org: choice.org,
            found_org: OnceCell::new(),
            project: choice.project,
            insists: globals.project_on_line,
            out: Output::new(globals.json, globals.color),
        })
    }

    /// The hub's API.
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The hub's base URL.
    pub fn hub_url(&self) -> &str {
        &self.url
    }

    /// The hub's authority.
    pub fn pin(&self) -> Pin {
        self.token.pin
    }

    /// The public name of the token in use.
    pub fn token_id(&self) -> &str {
        &self.token.id
    }

    /// The project that is meant, if one is.
    pub fn project(&self) -> Option<&ProjectId> {
        self.project.as_ref()
    }

    /// Whether it is that project or none: it stood on the command line.
    pub fn insists(&self) -> bool {
        self.insists
    }

    /// The project that is meant.
    ///
    /// # Errors
    /// When none is.
    pub fn need_project(&self) -> Result<&ProjectId, Failure> {
        self.project().ok_or_else(|| {
            Failure::usage("no project is named").hint("give --project, set MUSTER_PROJECT, or choose one with `muster project use`")
        })
    }

    /// The flags by which another `muster` means the same hub and organization, and the project that was insisted on.
    /// The token is not among them: it is in the saved login, or in the environment that the other inherits.
    pub fn proxy_flags(&self) -> Vec<String> {
        let (flag, value) = match &self.source {
            Source::Saved(name) => ("--profile", name.clone()),
            Source::Given => ("--hub", self.url.clone()),
        };
        let mut flags = vec![flag.to_owned(), value];
        if let Some(org) = self.org.as_ref().or_else(|| self.found_org.get()) {
            flags.extend(["--org".to_owned(), org.to_string()]);
        }
        if let Some(project) = self.project.as_ref().filter(|_| self.insists) {
            flags.extend(["--project".to_owned(), project.to_string()]);
        }
        flags
    }

    /// Whether the login is a saved one, which other programs of this person can use by its name.
    pub fn is_saved(&self) -> bool {
        matches!(self.source, Source::Saved(_))
    }

    /// The whole token, for the environment of a child.
    pub fn token(&self) -> String {
        self.token.to_string()
    }

    /// The organization that was named, without asking the hub.
    pub fn named_org(&self) -> Option<&OrgId> {
        self.org.as_ref()
    }

    /// The organization that is meant: the one named, else the only one that the account belongs to.
    ///
    /// # Errors
    /// When there are none or several.
    pub async fn org(&self) -> Result<&OrgId, Failure> {
        if let Some(org) = &self.org {
            return Ok(org);
        }
        self.found_org
            .get_or_try_init(|| async {
                let me: Me = self.hub.get("/v1/me").await?;
                only_org(me.orgs)
            })
            .await
    }

    /// A path below the organization, such as `/devices`.
    ///
    /// # Errors
    /// As [`Self::org`].
    pub async fn org_path(&self, below: &str) -> Result<String, Failure> {
        Ok(format!("/v1/orgs/{}{below}", self.org().await?))
    }

    /// The path of a device, by any of its names.
    ///
    /// # Errors
    /// As [`Self::org`].
    pub async fn device_path(&self, device: &str, below: &str) -> Result<String, Failure> {
        self.org_path(&format!("/devices/{}{below}", encode(device))).await
    }

    /// All devices.
    ///
    /// # Errors
    /// As every call.
    pub async fn devices(&self) -> Result<Vec<Device>, Failure> {
        self.hub.list(&self.org_path("/devices").await?, None).await
    }

    /// The device that a person means by a uid, a serial number, a name or a pairing code.
    ///
    /// # Errors
    /// When there is none, with names that are close; or several, with all of them.
    pub async fn device(&self, text: &str) -> Result<Device, Failure> {
        if text.is_empty() {
            return Err(Failure::usage("the device's name is empty"));
        }
        let error = match self.hub.try_call("GET", &self.device_path(text, "").await?, None::<&()>).await {
            Ok(device) => return Ok(device),
            Err(error) => error,
        };
        let several = match &error {
            CallError::Problem(problem) if problem.is(Code::NotFound) => false,
            CallError::Problem(problem) if problem.is(Code::Conflict) => true,
            _ => return Err(error.into()),
        };
        // The list of devices may be closed to somebody who may see one: then the first answer stands.
        let Ok(all) = self.devices().await else { return Err(error.into()) };
        if several {
            let same: Vec<&Device> = all.iter().filter(|device| device.name == text).collect();
            if same.len() < 2 {
                return Err(error.into());
            }
            return Err(Failure::new(Exit::Failed, format!("several devices are called {text:?}"))
                .hint(format!("say which by its uid:\n{}", candidates(&same))));
        }
        let code = text.to_ascii_uppercase();
        let by_code = |given: &Option<String>| given.as_ref().is_some_and(|given| *given == code);
        if let Some(device) = all.iter().find(|device| by_code(&device.pairing_code) || by_code(&device.replacement)) {
            return Ok(device.clone());
        }
        let close: Vec<&Device> = all.iter().filter(|device| is_close(text, &device.name) || is_close(text, device.id.as_str())).collect();
        let failure = Failure::new(
            Exit::NotFound,
            format!("there is no device with the name, serial number, uid or pairing code {text:?} in {}", self.org().await?),
        );
        Err(if close.is_empty() {
            failure.hint("`muster devices` lists all of them")
        } else {
            failure.hint(format!("similar are:\n{}", candidates(&close)))
        })
    }

    /// Asks the hub for a session to a device.
    ///
    /// # Errors
    /// When there is no such device, or it is offline, or the user may not.
    pub async fn open_session(&self, device: &str, want: &str, reason: Option<&str>) -> Result<SessionTicket, Failure> {
        let mut order = SessionCreate { project: self.project.clone(), want: Some(want.to_owned()), reason: reason.map(str::to_owned) };
        let problem = match self.hub.try_call("POST", &self.device_path(device, "/sessions").await?, Some(&order)).await {
            Ok(ticket) => return Ok(ticket),
            Err(CallError::Problem(problem)) if problem.is(Code::NotFound) || problem.is(Code::Conflict) => problem,
            Err(error) => return Err(error.into()),
        };
        // Only here is it worth a second look: a name that several bear, a typing mistake, or a device outside of the usual project.
        let found = self.device(device).await?;
        let elsewhere = !self.insists && order.project.as_ref().is_some_and(|project| !found.projects.contains(project));
        if !elsewhere {
            return Err(problem.into());
        }
        order.project = None;
        self.hub.post(&self.device_path(found.uid.as_str(), "/sessions").await?, &order).await
    }
}

/// What was chosen before anything is dialled.
#[derive(Debug)]
struct Choice {
    url: String,
    token: Token,
    source: Source,
    org: Option<OrgId>,
    project: Option<ProjectId>,
}

fn choose(globals: &Globals, load: &dyn Fn() -> Result<Book, Failure>) -> Result<Choice, Failure> {
    let given_url = globals.hub.as_deref().filter(|text| !text.is_empty()).map(hub_url).transpose()?;
    let given_token = globals.token.as_deref().filter(|text| !text.is_empty());
    let given_token =
        given_token.map(|text| Token::parse(text, TokenKind::Personal).map_err(|error| Failure::usage(error.to_string()))).transpose()?;
    let given_org = globals.org()?;
    let given_project = globals.project()?;
    // All that is needed was given: a script in a container has no home.
    if let (Some(url), Some(token)) = (&given_url, &given_token)
        && globals.profile.is_none()
    {
        return Ok(Choice { url: url.clone(), token: token.clone(), source: Source::Given, org: given_org, project: given_project });
    }
    let book = load()?;
    let name = match (&globals.profile, &given_url) {
        (Some(name), _) => Some(name.as_str()),
        (None, Some(url)) => book.for_hub(url),
        (None, None) => book.current.as_deref(),
    };
    let saved = match name {
        Some(name) => Some(book.profiles.get(name).ok_or_else(|| {
            let known: Vec<&str> = book.profiles.keys().map(String::as_str).collect();
            Failure::usage(format!("there is no saved login {name:?}")).hint(if known.is_empty() {
                "log in with `muster login https://hub.example.com`".to_owned()
            } else {
                format!("saved are: {}", known.join(", "))
            })
        })?),
        None => None,
    };
    let Some(saved) = saved else {
        return Err(match given_url {
            Some(url) => Failure::new(Exit::Denied, format!("not logged in to {url}")).hint(format!("run: muster login {url}")),
            None if given_token.is_some() => Failure::usage("a token is given, but no hub").hint("give --hub or set MUSTER_HUB"),
            None => Failure::new(Exit::Denied, "not logged in")
                .hint("run: muster login https://hub.example.com\nor set MUSTER_HUB and MUSTER_TOKEN"),
        });
    };
    if let Some(url) = &given_url
        && *url != saved.hub
        && given_token.is_none()
    {
        return Err(Failure::usage(format!("the saved login {:?} is for {}, not for {url}", name.unwrap_or_default(), saved.hub))
            .hint("leave out --hub (and MUSTER_HUB) or --profile"));
    }
    let url = given_url.unwrap_or_else(|| saved.hub.clone());
    let org = given_org.or_else(|| saved.org.clone());
    // The saved project is one of the saved organization.
    let project = given_project.or_else(|| if org == saved.org { saved.project.clone() } else { None });
    match given_token {
        Some(token) => Ok(Choice { url, token, source: Source::Given, org, project }),
        None => Ok(Choice { url, token: saved.token()?, source: Source::Saved(name.unwrap_or_default().to_owned()), org, project }),
    }
}

fn only_org(orgs: Vec<Org>) -> Result<OrgId, Failure> {
    match <[Org; 1]>::try_from(orgs) {
        Ok([org]) => Ok(org.id),
        Err(orgs) if orgs.is_empty() => Err(Failure::new(Exit::NotFound, "this account belongs to no organization")
            .hint("make one with `muster org create`, or ask an owner to add you")),
        Err(orgs) => {
            let ids: Vec<&str> = orgs.iter().map(|org| org.id.as_str()).collect();
            Err(Failure::usage("this account belongs to several organizations and none is named")
                .hint(format!("give --org, set MUSTER_ORG, or choose one with `muster org use`: {}", ids.join(", "))))
        }
    }
}

fn candidates(devices: &[&Device]) -> String {
    let mut lines: Vec<String> = devices
        .iter()
        .take(CANDIDATES_MAX)
        .map(|device| {
            let state = devices::state(device).0;
            format!("  {}  {} (serial {}), {state}", device.uid, text::clean(&device.name), text::clean(device.id.as_str()))
        })
        .collect();
    if devices.len() > CANDIDATES_MAX {
        lines.push(format!("  and {} more", devices.len() - CANDIDATES_MAX));
    }
    lines.join("\n")
}

/// Whether one text may be a typing mistake for another: a part of it, or at most two letters off.
pub(crate) fn is_close(typed: &str, name: &str) -> bool {
    let (typed, name) = (typed.to_lowercase(), name.to_lowercase());
    if typed.chars().count() >= 3 && (name.contains(&typed) || (name.chars().count() >= 3 && typed.contains(&name))) {
        return true;
    }
    let (a, b): (Vec<char>, Vec<char>) = (typed.chars().collect(), name.chars().collect());
    if a.len().abs_diff(b.len()) > 2 || a.len() < 4 || a.len() > 100 {
        return false;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (diagonal + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()] <= 2
}

#[cfg(test)]
mod tests;
