//! `muster login`, `logout`, `whoami`.
//!
//! Nothing secret is sent to a hub before its authority is trusted: by a token's pin, by `--fingerprint`,
//! by a saved login, or by a person who compared the fingerprint.

mod browser;
mod device;

use std::path::Path;

use clap::Args;
use muster_link::http::CallError;
use muster_proto::api::{AccessToken, LoginMethods, LoginRequest, Me, Page};
use muster_proto::id::{OrgId, ProjectId};
use muster_proto::problem::Code;
use muster_proto::token::{Pin, Token, TokenKind};

use super::project;
use crate::cli::Globals;
use crate::client::{self, Hub};
use crate::context::{Context, Source};
use crate::failure::{Exit, Failure};
use crate::output::time::{local_ago, now};
use crate::output::{Block, Output, note};
use crate::profile::{Book, Profile, hub_url};
use crate::tty;

/// `muster login`
#[derive(Debug, Args)]
#[command(after_help = "\
With --token (or MUSTER_TOKEN) that token is saved; else the hub is asked for a new one: by single sign-on in a browser where the hub
has that, else by e-mail and password. Where no browser can be opened, a code is shown that is confirmed in a browser elsewhere.
The first contact with a hub that has its own certificate authority shows the authority's fingerprint and asks;
`muster-hub init` prints it. A token names the authority itself, and nothing is asked.

Examples:
  muster login https://hub.example.com:8443
  muster login https://hub.example.com:8443 --token mp1....
  muster login hub.example.com --device-code      on a machine without a browser
  pass show hub | muster login hub.example.com --email ann@example.com --password-stdin
  muster login https://lab.example.com --name lab      a second hub, chosen with --profile")]
pub struct LoginArgs {
    /// The hub's address, such as https://hub.example.com:8443
    #[arg(value_name = "HUB")]
    url: Option<String>,
    /// The account's e-mail, to log in with its password
    #[arg(long)]
    email: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "email")]
    password_stdin: bool,
    /// Read a personal access token from standard input
    #[arg(long, conflicts_with_all = ["email", "password_stdin"])]
    token_stdin: bool,
    /// Log in by single sign-on, in a browser on this computer
    #[arg(long, conflicts_with_all = ["email", "password_stdin", "token_stdin"])]
    sso: bool,
    /// Log in by single sign-on, with a code that is confirmed in a browser on any machine
    #[arg(long, conflicts_with_all = ["email", "password_stdin", "token_stdin", "sso"])]
    device_code: bool,
    /// Print the address instead of opening a browser
    #[arg(long, conflicts_with_all = ["email", "password_stdin", "token_stdin", "device_code"])]
    no_browser: bool,
    /// The fingerprint of the hub's certificate authority, to trust it without a question
    #[arg(long, value_name = "FINGERPRINT", allow_hyphen_values = true)]
    fingerprint: Option<String>,
    /// What to call the saved login; the hub's host by default
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// `muster logout`
#[derive(Debug, Args)]
#[command(after_help = "\
A token that `muster login` made is revoked at the hub; one that was given with --token is only forgotten.

Examples:
  muster logout
  muster logout --profile lab
  muster logout --all")]
pub struct LogoutArgs {
    /// End every saved login
    #[arg(long)]
    all: bool,
}

/// Logs in and saves it.
///
/// # Errors
/// When the hub is not trusted or does not know the account.
pub async fn login(globals: &Globals, args: LoginArgs) -> Result<u8, Failure> {
    let path = Book::path()?;
    let book = Book::load(&path)?;
    let url = match args.url.as_deref().or(globals.hub.as_deref()).filter(|url| !url.is_empty()) {
        Some(url) => hub_url(url)?,
        None => Err(Failure::usage("no hub is named").hint("run: muster login https://hub.example.com"))?,
    };
    let wanted = args.fingerprint.as_deref().map(parse_pin).transpose()?;
    let given = if args.token_stdin {
        Some(tty::line()?)
    } else if args.email.is_none() && !args.sso && !args.device_code && !args.no_browser {
        globals.token.clone().filter(|token| !token.is_empty())
    } else {
        None
    };
    let (token, made_by_login) = match given {
        Some(text) => {
            let token = Token::parse(&text, TokenKind::Personal).map_err(|error| Failure::usage(error.to_string()))?;
            if wanted.is_some_and(|wanted| wanted != token.pin) {
                return Err(Failure::usage("the token names another hub than --fingerprint").hint("one of them is not for this hub"));
            }
            (token, false)
        }
        None => {
            let pin = trusted(&url, wanted, &book).await?;
            (fresh_token(&url, pin, &args).await?, true)
        }
    };
    let Saved { me, name, org, project } = save(globals, &path, &url, &token, made_by_login, args.name).await?;
    let out = Output::new(globals.json, globals.color);
    if out.json {
        out.json(&me)?;
        return Ok(0);
    }
    out.line(format!("Logged in to {url} as {}; saved as {name:?} in {}.", me.email, path.display()))?;
    match (&org, &project) {
        (Some(org), Some(project)) => out.line(format!("Default organization: {org}, project: {project}."))?,
        (Some(org), None) => out.line(format!("Default organization: {org}."))?,
        (None, _) if me.orgs.is_empty() => out.line("This account belongs to no organization yet.")?,
        (None, _) => out.line("Choose an organization with `muster org use`; `muster org list` shows them.")?,
    }
    Ok(0)
}

/// A login as it was saved.
pub(super) struct Saved {
    pub(super) me: Me,
    pub(super) name: String,
    pub(super) org: Option<OrgId>,
    pub(super) project: Option<ProjectId>,
}

/// Saves a login and makes it the one that commands mean.
pub(super) async fn save(
    globals: &Globals,
    path: &Path,
    url: &str,
    token: &Token,
    made_by_login: bool,
    name: Option<String>,
) -> Result<Saved, Failure> {
    let book = Book::load(path)?;
    let hub = Hub::new(url, token.pin, Some(token), None)?;
    let me: Me = hub.get("/v1/me").await?;
    let name = match name {
        Some(name) => name,
        None => book.for_hub(url).map(str::to_owned).unwrap_or_else(|| fresh_name(&book, url)),
    };
    let email = Some(me.email.clone());
    let fresh = Profile { hub: url.to_owned(), token: token.to_string(), email, made_by_login, org: None, project: None };
    let profile = settle(globals, &hub, &me, book.profiles.get(&name), fresh).await?;
    let (org, project) = (profile.org.clone(), profile.project.clone());
    Book::update(path, |book| {
        book.profiles.insert(name.clone(), profile);
        book.current = Some(name.clone());
        Ok(())
    })?;
    Ok(Saved { me, name, org, project })
}

/// What a token from this computer is called.
pub(super) fn token_name() -> String {
    format!("muster login on {}", host_name())
}

/// The organization and project that commands will mean: those named, those of the earlier login, or the only ones.
async fn settle(globals: &Globals, hub: &Hub, me: &Me, before: Option<&Profile>, mut profile: Profile) -> Result<Profile, Failure> {
    let before = before.filter(|before| before.hub == profile.hub);
    let known = |id: &&muster_proto::id::OrgId| me.orgs.iter().any(|org| org.id == **id);
    let named = globals.org()?;
    if let Some(named) = &named
        && !known(&named)
    {
        return Err(Failure::new(Exit::NotFound, format!("{} does not belong to an organization {named}", me.email)));
    }
    let only = if let [only] = &me.orgs[..] { Some(only.id.clone()) } else { None };
    profile.org = named.or_else(|| before.and_then(|before| before.org.as_ref()).filter(known).cloned()).or(only);
    let Some(org) = &profile.org else { return Ok(profile) };
    profile.project = globals.project()?;
    if profile.project.is_none() {
        let kept = before.filter(|before| before.org == profile.org).and_then(|before| before.project.clone());
        let open = project::open(hub, org).await?;
        let only = if let [only] = &open[..] { Some(only.clone()) } else { None };
        profile.project = kept.filter(|kept| open.contains(kept)).or(only);
    }
    Ok(profile)
}

/// The authority's pin, once there is a reason to trust it.
async fn trusted(url: &str, wanted: Option<Pin>, book: &Book) -> Result<Pin, Failure> {
    if let Some(wanted) = wanted {
        return Ok(wanted);
    }
    let saved = book.for_hub(url).and_then(|name| book.profiles[name].token().ok());
    if let Some(saved) = saved {
        return Ok(saved.pin);
    }
    let pin = client::probe(url).await?;
    if !tty::interactive() {
        return Err(Failure::usage(format!("the hub at {url} is not known here yet, and nobody can be asked whether to trust it")).hint(
            format!("its fingerprint is {pin}\ncompare it with the one that `muster-hub init` printed, then give --fingerprint {pin}"),
        ));
    }
    note(format!(
        "This computer does not know the hub at {url} yet.\nThe fingerprint of its certificate authority is\n\n  {pin}\n\nCompare it with the one that `muster-hub init` printed, or ask the hub's owner."
    ));
    if tty::confirm("Trust this hub?")? {
        Ok(pin)
    } else {
        Err(Failure::new(Exit::Denied, "the hub is not trusted; nothing was sent to it"))
    }
}

/// How somebody logs in who brings no token.
#[derive(Debug, PartialEq, Eq)]
enum Way {
    Password,
    /// With this provider, in a browser here.
    Browser(String),
    DeviceCode,
}

/// The way that the hub offers and the person asked for.
fn way(url: &str, methods: &LoginMethods, args: &LoginArgs, interactive: bool) -> Result<Way, Failure> {
    let sso = args.sso || args.device_code || args.no_browser;
    match &methods.oidc {
        None if sso => {
            let why = format!("the hub at {url} has no single sign-on");
            Err(Failure::usage(why).hint("log in with e-mail and password: muster login HUB --email EMAIL"))
        }
        _ if args.email.is_some() && !methods.password => {
            let why = format!("the hub at {url} has no password login");
            Err(Failure::usage(why).hint("log in by single sign-on: muster login HUB --sso, or --device-code"))
        }
        Some(_) if args.device_code => Ok(Way::DeviceCode),
        Some(oidc) if args.email.is_none() && (sso || interactive) => Ok(Way::Browser(oidc.name.clone())),
        Some(_) if args.email.is_none() => Err(Failure::usage("nobody can be asked for a password here")
            .hint("give --sso or --device-code for single sign-on, --email and --password-stdin, or --token")),
        _ => Ok(Way::Password),
    }
}

async fn fresh_token(url: &str, pin: Pin, args: &LoginArgs) -> Result<Token, Failure> {
    let methods: LoginMethods = Hub::new(url, pin, None, None)?.get("/v1/login/methods").await?;
    match way(url, &methods, args, tty::interactive())? {
        Way::Password => by_password(url, pin, args.email.clone(), args.password_stdin).await,
        Way::DeviceCode => device::by_device_code(url, pin).await,
        Way::Browser(provider) if args.no_browser => browser::by_browser(url, pin, &provider, |_| false).await,
        Way::Browser(_) if !browser::can_open() => {
            note("No browser can be opened here.");
            device::by_device_code(url, pin).await
        }
        Way::Browser(provider) => browser::by_browser(url, pin, &provider, browser::open).await,
    }
}

/// How often a person is asked for their password; the hub bounds guessing on its own.
const PASSWORD_TRIES: u32 = 3;

/// A message as a sentence of its own.
fn sentence(text: &str) -> String {
    let mut letters = text.trim_end_matches('.').chars();
    letters.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), letters.as_str()))
}

async fn by_password(url: &str, pin: Pin, email: Option<String>, from_stdin: bool) -> Result<Token, Failure> {
    if !from_stdin && !tty::interactive() {
        return Err(Failure::usage("nobody can be asked for the password here").hint("give --email and --password-stdin, or --token"));
    }
    let email = match email {
        Some(email) => email,
        None => tty::ask("E-mail:")?,
    };
    let hub = Hub::new(url, pin, None, None)?;
    let mut tries = if from_stdin { 1 } else { PASSWORD_TRIES };
    loop {
        let password = if from_stdin { tty::line()? } else { tty::ask_hidden("Password:")? };
        // Nothing more is typed.
        tries = if password.is_empty() { 0 } else { tries - 1 };
        let request = LoginRequest { email: email.trim().to_owned(), password, token_name: Some(token_name()) };
        match hub.try_call("POST", "/v1/login", Some(&request)).await {
            Ok(made) => return checked(made, pin),
            // What was checked and typed before still holds.
            Err(CallError::Problem(problem)) if problem.is(Code::Unauthenticated) && tries > 0 => {
                note(format!("{} Try again.", sentence(&problem.detail)));
            }
            // The general advice, to log in, would lead in a circle.
            Err(CallError::Problem(problem)) if problem.is(Code::Unauthenticated) => {
                return Err(Failure::new(Exit::Denied, problem.detail).hint("check the e-mail and the password"));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The token of a login, if it is this hub's.
fn checked(made: AccessToken, pin: Pin) -> Result<Token, Failure> {
    let token = Token::parse(&made.token.unwrap_or_default(), TokenKind::Personal)
        .map_err(|error| Failure::new(Exit::Failed, format!("the hub's answer to the login holds no usable token: {error}")))?;
    // The pin is the trust of every later contact: it must be the one that was just verified.
    if token.pin != pin {
        return Err(Failure::new(
            Exit::Unreachable,
            "the hub gave a token that names another certificate authority than its own; it was not saved",
        ));
    }
    Ok(token)
}

fn parse_pin(text: &str) -> Result<Pin, Failure> {
    text.trim().parse().map_err(|_| Failure::usage("--fingerprint is not one: it has 43 characters; copy it whole, as it was printed"))
}

/// The hub's host, or with its port where that is taken by another hub.
fn fresh_name(book: &Book, url: &str) -> String {
    let authority = url.trim_start_matches("https://");
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    if book.profiles.get(host).is_some_and(|other| other.hub != url) { authority.to_owned() } else { host.to_owned() }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "a computer".to_owned() } else { name.chars().take(60).collect() }
}

/// Ends saved logins.
///
/// # Errors
/// When there is none.
pub async fn logout(globals: &Globals, args: LogoutArgs) -> Result<u8, Failure> {
    let path = Book::path()?;
    let book = Book::load(&path)?;
    let names: Vec<String> = if args.all {
        book.profiles.keys().cloned().collect()
    } else {
        let named = match (&globals.profile, globals.hub.as_deref().filter(|url| !url.is_empty())) {
            (Some(name), _) => Some(name.clone()),
            (None, Some(url)) => book.for_hub(&hub_url(url)?).map(str::to_owned),
            (None, None) => book.current.clone(),
        };
        named.filter(|name| book.profiles.contains_key(name)).into_iter().collect()
    };
    if names.is_empty() {
        return Err(Failure::usage("there is no such saved login").hint("`muster profile list` shows those that are"));
    }
    let out = Output::new(false, globals.color);
    for name in &names {
        let profile = &book.profiles[name];
        if profile.made_by_login
            && let Err(failure) = revoke(profile).await
        {
            note(format!("warning: the token could not be revoked at {}: {failure}", profile.hub));
            note("it is forgotten here; revoke it elsewhere with `muster access-token revoke`");
        }
        Book::update(&path, |book| {
            book.profiles.remove(name);
            if book.current.as_deref() == Some(name) {
                book.current = book.profiles.keys().next().cloned();
            }
            Ok(())
        })?;
        out.line(format!("Logged out of {}.", profile.hub))?;
    }
    if let Some(current) = Book::load(&path)?.current {
        out.line(format!("Commands now mean the saved login {current:?}."))?;
    }
    Ok(0)
}

async fn revoke(profile: &Profile) -> Result<(), Failure> {
    let token = profile.token()?;
    let hub = Hub::new(&profile.hub, token.pin, Some(&token), None)?;
    match hub.try_call::<serde::de::IgnoredAny>("DELETE", &format!("/v1/tokens/{}", token.id), None::<&()>).await {
        Ok(_) => Ok(()),
        // It is gone already: that is what was wanted.
        Err(CallError::Problem(problem)) if [Code::Unauthenticated, Code::Expired, Code::NotFound].iter().any(|code| problem.is(*code)) => {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Shows who is logged in.
///
/// # Errors
/// As every call.
pub async fn whoami(context: &Context) -> Result<u8, Failure> {
    let me: Me = context.hub().get("/v1/me").await?;
    // Only for the date at which the token ends.
    let tokens = context.hub().get::<Page<AccessToken>>("/v1/tokens").await.map(|page| page.items).unwrap_or_default();
    context.out.show(&me, |me| {
        let source = match &context.source {
            Source::Given => "given by --token or MUSTER_TOKEN".to_owned(),
            Source::Saved(name) => format!("saved as {name:?}"),
        };
        let ends = tokens.iter().find(|token| token.id == context.token_id()).map(|token| local_ago(now(), token.expires_at));
        let mut block = Block::default()
            .with("e-mail", &me.email)
            .with("name", &me.name)
            .with("hub", context.hub_url())
            .with("fingerprint", context.pin().to_string())
            .with("token", format!("{}, {source}", context.token_id()))
            .maybe("token ends", ends)
            .with("organization", context.named_org().map_or("none chosen", |org| org.as_str()))
            .with("project", context.project().map_or("none chosen", |project| project.as_str()));
        if !me.orgs.is_empty() {
            block = block.heading("organizations");
            for org in &me.orgs {
                block = block.with(org.id.as_str(), org.role.map_or("collaborator", |role| role.as_str()));
            }
        }
        block
    })?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_in_is_what_the_hub_offers_and_the_person_asked_for() {
        use muster_proto::api::OidcMethod;
        let args = |flags: &[&str]| {
            let line = ["muster", "login", "hub"].iter().chain(flags);
            let crate::cli::Command::Login(args) = <crate::cli::Cli as clap::Parser>::try_parse_from(line).unwrap().command else {
                panic!()
            };
            args
        };
        let oidc = || Some(OidcMethod { name: "Acme".into(), issuer: "https://id".into() });
        let chosen = |password, oidc, flags: &[&str], interactive| {
            way("https://hub", &LoginMethods { password, oidc }, &args(flags), interactive).map_err(|failure| failure.to_string())
        };
        let browser = || Ok(Way::Browser("Acme".into()));
        assert_eq!(chosen(true, None, &[], true), Ok(Way::Password));
        assert_eq!(chosen(true, oidc(), &[], true), browser());
        assert_eq!(chosen(true, oidc(), &["--email", "a@b"], true), Ok(Way::Password));
        assert_eq!(chosen(false, oidc(), &["--sso"], false), browser());
        assert_eq!(chosen(false, oidc(), &["--no-browser"], false), browser());
        assert_eq!(chosen(false, oidc(), &["--device-code"], false), Ok(Way::DeviceCode));
        for (flags, why) in [(&["--sso"][..], "no single sign-on"), (&["--device-code"][..], "no single sign-on")] {
            assert!(chosen(true, None, flags, true).unwrap_err().contains(why));
        }
        assert!(chosen(false, oidc(), &["--email", "a@b"], true).unwrap_err().contains("no password login"));
        assert!(chosen(true, oidc(), &[], false).unwrap_err().contains("nobody can be asked"));
    }

    #[test]
    fn fingerprints() {
        assert_eq!(parse_pin("short").unwrap_err().exit, 2);
        assert!(parse_pin(" __79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA\n").is_ok());
    }

    #[test]
    fn names_of_logins() {
        let mut book = Book::default();
        assert_eq!(fresh_name(&book, "https://hub.example.com:8443"), "hub.example.com");
        let profile = Profile {
            hub: "https://hub.example.com".into(),
            token: String::new(),
            email: None,
            made_by_login: false,
            org: None,
            project: None,
        };
        book.profiles.insert("hub.example.com".into(), profile);
        assert_eq!(fresh_name(&book, "https://hub.example.com:8443"), "hub.example.com:8443");
        assert_eq!(fresh_name(&book, "https://hub.example.com"), "hub.example.com");
    }
}
