//! The hub's command line: parses, calls, prints.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow, bail};
use clap::{Parser, Subcommand};
use muster_link::{errln, out, outln};
use muster_proto::api::OrgRole;
use muster_proto::id::{OrgId, ProjectId};

use crate::audit::Entry;
use crate::broker::mosquitto::{self, Settings};
use crate::ca::Ca;
use crate::config::{self, Config, Invalid};
use crate::init::{self, First, Wanted};
use crate::store::{accounts as stored, orgs};
use crate::{accounts, clock, quickstart, random, serve};

/// The Muster hub: keeps an organization's device list, and relays remote sessions.
#[derive(Debug, Parser)]
#[command(name = "muster-hub", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 all is well, 1 failed, 2 wrong usage or configuration.\n\
                        Every key of the configuration can be set by environment: MUSTER_HUB_MQTT_LISTEN and so on.")]
pub struct Cli {
    /// Configuration file [default: /etc/muster-hub/hub.toml]
    #[arg(long, global = true, env = "MUSTER_HUB_CONFIG", value_name = "PATH", hide_env_values = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the hub
    Serve,
    /// Makes data directory, configuration, certificate authority, the first owner, and prints the owner's token
    Init(InitArgs),
    /// Runs a hub with everything embedded and enrols this machine, to try Muster out
    Quickstart(quickstart::Args),
    /// Prints a configuration with every key explained
    ExampleConfig,
    /// Checks the configuration, and names all mistakes
    CheckConfig,
    /// Prints what an external broker needs
    BrokerConfig {
        #[command(subcommand)]
        broker: Broker,
    },
    /// Accounts of people
    User {
        #[command(subcommand)]
        command: User,
    },
}

#[derive(Debug, clap::Args)]
struct InitArgs {
    /// Where database, authority and certificates go
    #[arg(long, value_name = "DIR", default_value = "/var/lib/muster-hub")]
    data_dir: PathBuf,
    /// How devices and people reach this hub, such as https://hub.example.com:8443
    #[arg(long, value_name = "URL")]
    public_url: String,
    /// Where HTTPS listens
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    listen: String,
    /// Where MQTT listens
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8883")]
    mqtt_listen: String,
    /// E-mail of the first owner
    #[arg(long, value_name = "EMAIL")]
    owner: String,
    /// An organization that this person owns
    #[arg(long, value_name = "ORG")]
    org: Option<OrgId>,
    /// A project in it
    #[arg(long, value_name = "PROJECT", requires = "org")]
    project: Option<ProjectId>,
}

#[derive(Debug, Subcommand)]
enum Broker {
    /// Mosquitto 2 or later: prints mosquitto.conf, or writes it with its certificate and access list
    Mosquitto(MosquittoArgs),
}

#[derive(Debug, clap::Args)]
struct MosquittoArgs {
    /// Write all files into this folder: mosquitto.conf, dynamic-security.json, ca.pem, server.pem, server.key
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Where the files will lie on Mosquitto's machine [default: the folder of --write, or /etc/mosquitto/muster]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Where Mosquitto keeps its state
    #[arg(long, value_name = "DIR", default_value = "/var/lib/mosquitto/")]
    state: String,
    /// The port for devices and the hub
    #[arg(long, default_value_t = 8883)]
    port: u16,
    /// The address to listen on [default: all]
    #[arg(long, value_name = "ADDRESS")]
    bind: Option<String>,
    /// The dynamic security plug-in [default: where Debian puts it]
    #[arg(long, value_name = "PATH")]
    plugin: Option<String>,
}

#[derive(Debug, Subcommand)]
enum User {
    /// Create an account, with a generated password or one from standard input
    Add {
        /// The person's e-mail
        email: String,
        /// The name that others see; the part before the @ if absent
        #[arg(long)]
        name: Option<String>,
        /// Make this person a member of an organization
        #[arg(long)]
        org: Option<OrgId>,
        /// With this role there: owner, member or viewer
        #[arg(long, requires = "org", default_value = "member", value_parser = parse_role)]
        role: OrgRole,
        /// Make this person an owner of the hub: for top-ups of credits, not a role in any organization
        #[arg(long)]
        hub_owner: bool,
        /// Read the password from the first line of standard input
        #[arg(long)]
        password_stdin: bool,
    },
    /// Lists the accounts of people
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Sets an account aside: its tokens stop working and its sessions end, until it is enabled again
    Disable {
        /// The account's e-mail
        email: String,
    },
    /// Enable an account that was disabled, or that its owner closed
    Enable {
        /// The account's e-mail
        email: String,
    },
    /// Forgets who an account is at the provider of single sign-on: the next person who proves its e-mail there has it
    Unlink {
        /// The account's e-mail
        email: String,
    },
    /// Make a person an owner of the hub
    Owner {
        /// The account's e-mail
        email: String,
        /// No longer one
        #[arg(long)]
        remove: bool,
    },
    /// Gives an account another password
    #[command(visible_alias = "passwd")]
    Password {
        /// The account's e-mail
        email: String,
        /// Read the password from the first line of standard input
        #[arg(long)]
        password_stdin: bool,
    },
}

fn parse_role(text: &str) -> Result<OrgRole, String> {
    [OrgRole::Owner, OrgRole::Member, OrgRole::Viewer]
        .into_iter()
        .find(|role| role.as_str() == text)
        .ok_or_else(|| "write owner, member or viewer".to_owned())
}

/// Runs the command line.
pub fn run() -> ExitCode {
    let done = execute(Cli::parse()).and_then(|()| match muster_link::print::failure() {
        None => Ok(()),
        Some(why) => Err(anyhow!(why)),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            errln!("muster-hub: {}", told(&error));
            // A configuration with mistakes is wrong usage.
            if error.downcast_ref::<Invalid>().is_some() { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// An error with its causes; one that repeats what was said adds nothing.
fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn execute(cli: Cli) -> Result<()> {
    let path = cli.config.clone().unwrap_or_else(|| config::DEFAULT_PATH.into());
    let load = || Config::load(&path, environment());
    match cli.command {
        Command::Serve => {
            let config = load()?;
            let level = log_to_stderr(config.log.level);
            raise_descriptors();
            let before = config::file_values(&path);
            runtime()?.block_on(serve::serve(config, || reload(&path, &before, &level)))
        }
        Command::Init(args) => init(args, cli.config),
        Command::Quickstart(args) => runtime()?.block_on(quickstart::run(args)),
        Command::ExampleConfig => {
            out!("{}", config::EXAMPLE);
            Ok(())
        }
        Command::CheckConfig => {
            let config = load()?;
            let exposed = Ca::exposed_keys(&config.data_dir)?;
            if !exposed.is_empty() {
                let list: Vec<String> = exposed.iter().map(|(path, mode)| format!("{} (mode {mode:o})", path.display())).collect();
                bail!("others can read {}: chmod 600; where other people use this machine, one of them may have a copy", list.join(", "));
            }
            outln!("{} is valid; the hub will be reached at {} and {}", path.display(), config.public_url, config.mqtt.public_url);
            if let Some(oidc) = &config.oidc {
                let redirect = crate::sso::redirect_uri(&config.public_url.to_string()).map_err(|why| anyhow!(why))?;
                outln!("register at {} ({}) the redirect URI {redirect}", oidc.issuer, oidc.name);
            }
            Ok(())
        }
        Command::BrokerConfig { broker: Broker::Mosquitto(args) } => mosquitto(args, &load()?),
        Command::User { command } => user(command, &load()?),
    }
}

/// A shell gives 1,024 open files, and every device needs one: takes as many as the system allows.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, current = limit.current, "the limit of open files could not be raised: so many devices can link at most");
    }
}

fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("hub").build().context("cannot start the runtime")
}

/// Sets the level of the log from then on.
type SetLevel = Box<dyn Fn(tracing::Level)>;

fn log_to_stderr(level: tracing::Level) -> SetLevel {
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::layer::SubscriberExt as _;
    use tracing_subscriber::util::SubscriberInitExt as _;
    // Under systemd the journal has its own times.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let (filter, handle) = tracing_subscriber::reload::Layer::new(LevelFilter::from_level(level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    let registry = tracing_subscriber::registry().with(filter);
    if journal {
        registry.with(lines.without_time()).init();
    } else {
        registry.with(lines).init();
    }
    Box::new(move |level| {
        if let Err(error) = handle.reload(LevelFilter::from_level(level)) {
            tracing::error!(%error, "the level of the log cannot be changed");
        }
    })
}

/// SIGHUP: takes what can change while the hub runs, and says what cannot. A configuration with mistakes changes nothing.
fn reload(path: &std::path::Path, before: &BTreeMap<String, String>, set_level: &SetLevel) {
    let config = match Config::load(path, environment()) {
        Ok(config) => config,
        Err(mistakes) => return tracing::error!("SIGHUP: the configuration is not taken: {}", mistakes.to_string().replace('\n', " ")),
    };
    set_level(config.log.level);
    let now = config::file_values(path);
    let keys: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let waiting: Vec<&str> =
        keys.into_iter().filter(|key| *key != "log.level" && before.get(*key) != now.get(*key)).map(String::as_str).collect();
    let level = config.log.level.to_string().to_lowercase();
    match waiting[..] {
        [] => tracing::info!("SIGHUP: reloaded; log level {level}"),
        _ => tracing::warn!("SIGHUP: reloaded; log level {level}; restart the hub for the new {}", waiting.join(", ")),
    }
}

fn init(args: InitArgs, config: Option<PathBuf>) -> Result<()> {
    let owner = accounts::parse_email(&args.owner).map_err(|why| anyhow!("--owner: {why}"))?;
    let wanted = Wanted {
        data_dir: args.data_dir,
        public_url: args.public_url,
        listen: args.listen,
        mqtt_listen: args.mqtt_listen,
        config,
        first: First { owner: owner.clone(), org: args.org, project: args.project, token_name: "init".into() },
    };
    let made = init::init(wanted, environment())?;
    let path = made.config.display();
    errln!("{} {path}", if made.kept { "kept" } else { "wrote" });
    let Some(token) = made.token else {
        errln!("this hub and the account {owner} are there already; no token is made a second time");
        errln!("start the hub:       muster-hub --config {path} serve");
        errln!("a token for {owner}: muster-hub --config {path} user password {owner}, then muster login with it");
        return Ok(());
    };
    errln!("start the hub:       muster-hub --config {path} serve");
    errln!("a password for {owner}: muster-hub --config {path} user password {owner}");
    // The last part of every token; a person who logs in with a password compares it.
    errln!("the hub's fingerprint: {}", token.rsplit('.').next().unwrap_or_default());
    errln!("Token of {owner}, good for 360 days (shown only once):");
    shown_once(&token, || {
        format!(
            "the hub is set up, but its first token is lost. Log in with a password instead: muster-hub --config {path} user password {owner}"
        )
    })
}

fn mosquitto(args: MosquittoArgs, config: &Config) -> Result<()> {
    let mut names = config.certificate_names();
    let broker = config.mqtt.broker.as_ref();
    names.extend(broker.map(|broker| broker.url.host.clone()).filter(|host| !names.contains(host)));
    let mut settings = Settings { port: args.port, bind: args.bind, names, state: args.state, ..Settings::default() };
    if let Some(directory) = args.directory.as_ref().or(args.write.as_ref()) {
        settings.directory = std::path::absolute(directory)?.display().to_string();
    }
    if let Some(plugin) = args.plugin {
        settings.plugin = plugin;
    }
    if let Some(name) = broker.and_then(|broker| broker.username.clone()) {
        settings.hub = name;
    }
    let Some(folder) = args.write else {
        out!("{}", mosquitto::conf(&settings));
        errln!("The certificate and the access list that it names are made with: muster-hub broker-config mosquitto --write DIR");
        return Ok(());
    };
    serve::make_private_dir(&config.data_dir)?;
    let ca = crate::ca::Ca::open_or_create(&config.data_dir, clock::now())?;
    serve::make_private_dir(&folder)?;
    for file in mosquitto::files(&settings, &ca)? {
        let path = folder.join(file.name);
        if file.name == mosquitto::ACCESS_LIST && path.exists() {
            // The plug-in keeps it from then on: it holds every device.
            outln!("kept  {}", path.display());
            continue;
        }
        let write = if file.secret { crate::ca::files::write_private } else { crate::ca::files::write_public };
        write(&path, file.content.as_bytes())?;
        outln!("wrote {}", path.display());
    }
    outln!("\nNext, on Mosquitto's machine:");
    outln!("  chown -R mosquitto: {}     # it reads its key, and writes the access list", settings.directory);
    outln!("  mosquitto -c {}/mosquitto.conf", settings.directory);
    outln!("and in the hub's configuration: [mqtt] broker = \"mqtts://HOST:{}\"", settings.port);
    Ok(())
}

fn user(command: User, config: &Config) -> Result<()> {
    let (_, store) = serve::open(config)?;
    match command {
        User::Add { email, name, org, role, hub_owner, password_stdin } => {
            let email = accounts::parse_email(&email).map_err(|why| anyhow!(why))?;
            let (password, made_up) = new_password(password_stdin)?;
            let hashed = accounts::hash(&password);
            let name = name.unwrap_or_else(|| email.split('@').next().unwrap_or(&email).to_owned());
            let address = email.clone();
            store.write_blocking(move |tx| {
                let account = stored::create(tx, &address, &name, Some(&hashed), clock::now())?;
                stored::set_hub_owner(tx, account, hub_owner)?;
                Entry::of_hub(None, "account.create", address.as_str()).with(serde_json::json!({ "hub_owner": hub_owner })).ok(tx)?;
                if let Some(org) = &org {
                    if orgs::role_in(tx, org, account)?.is_none() {
                        return Err(crate::store::problem(
                            muster_proto::problem::Code::NotFound,
                            format!("there is no organization {org}"),
                        ));
                    }
                    orgs::set_member(tx, org, account, role, clock::now())?;
                    Entry::of_hub(Some(org.clone()), "member.put", address.as_str()).with(serde_json::json!({ "role": role })).ok(tx)?;
                }
                Ok(())
            })?;
            errln!("made the account {email}");
            tell(made_up, &password, &email)?;
        }
        User::List { json } => list(&store.read_blocking(stored::people)?, json)?,
        User::Disable { email } => {
            let email = changed(&store, &email, "account.disable", |tx, account| {
                if account.hub_owner && account.disabled_at.is_none() && stored::hub_owners(tx)? < 2 {
                    return Err(last_owner(&account.email));
                }
                stored::set_disabled(tx, account.id, Some(clock::now()))
            })?;
            errln!("Disabled {email}. To enable it again: muster-hub user enable {email}");
        }
        User::Enable { email } => {
            let email = changed(&store, &email, "account.enable", |tx, account| {
                stored::set_disabled(tx, account.id, None)?;
                if account.closed_at.is_some() { stored::reopen(tx, account.id, &account.name, None) } else { Ok(()) }
            })?;
            errln!("{email} may log in again; `muster-hub user password {email}` gives it a password where it has none");
        }
        User::Unlink { email } => {
            let email = changed(&store, &email, "account.unlink", |tx, account| {
                if crate::store::sso::unlink(tx, account.id)? {
                    return Ok(());
                }
                let why = format!("{} is not linked to a single sign-on identity", account.email);
                Err(crate::store::problem(muster_proto::problem::Code::NotFound, why))
            })?;
            errln!("Unlinked {email} from single sign-on. To end its sessions and tokens here as well: muster-hub user disable {email}");
        }
        User::Owner { email, remove } => {
            let email = changed(&store, &email, "account.hub_owner", move |tx, account| {
                if remove && account.hub_owner && stored::hub_owners(tx)? < 2 {
                    return Err(last_owner(&account.email));
                }
                stored::set_hub_owner(tx, account.id, !remove)
            })?;
            errln!("{email} is {} an owner of the hub", if remove { "no longer" } else { "now" });
        }
        User::Password { email, password_stdin } => {
            let email = accounts::parse_email(&email).map_err(|why| anyhow!(why))?;
            let (password, made_up) = new_password(password_stdin)?;
            let hashed = accounts::hash(&password);
            let address = email.clone();
            store.write_blocking(move |tx| {
                stored::set_password(tx, &address, &hashed)?;
                Entry::of_hub(None, "account.password", address.as_str()).ok(tx)
            })?;
            errln!("{email} has a new password");
            tell(made_up, &password, &email)?;
        }
    }
    Ok(())
}

fn last_owner(email: &str) -> crate::store::Error {
    let why = format!("{email} is the last owner of the hub; `muster-hub user owner EMAIL` makes another first");
    crate::store::problem(muster_proto::problem::Code::Conflict, why)
}

/// Changes an account of a person, and notes it in the records.
fn changed(
    store: &crate::store::Store,
    email: &str,
    action: &'static str,
    change: impl FnOnce(&rusqlite::Transaction<'_>, &stored::Account) -> crate::store::Result<()> + Send + 'static,
) -> Result<String> {
    let email = accounts::parse_email(email).map_err(|why| anyhow!(why))?;
    let address = email.clone();
    store.write_blocking(move |tx| {
        let account = stored::by_email(tx, &address)?
            .ok_or_else(|| crate::store::problem(muster_proto::problem::Code::NotFound, format!("there is no account for {address}")))?;
        change(tx, &account)?;
        Entry::of_hub(None, action, address.as_str()).ok(tx)
    })?;
    Ok(email)
}

fn list(people: &[stored::Account], json: bool) -> Result<()> {
    let state = |account: &stored::Account| match (account.closed_at, account.disabled_at) {
        (Some(_), _) => "closed",
        (None, Some(_)) => "disabled",
        (None, None) => "open",
    };
    if json {
        let rows: Vec<_> = people
            .iter()
            .map(|account| {
                serde_json::json!({
                    "email": account.email, "name": account.name, "state": state(account), "hub_owner": account.hub_owner,
                    "has_password": account.password.is_some(),
                })
            })
            .collect();
        outln!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    let width = people.iter().map(|account| account.email.chars().count()).max().unwrap_or(0).max(6);
    outln!("{:<width$}  {:<8}  {:<9}  NAME", "E-MAIL", "STATE", "HUB OWNER");
    for account in people {
        let owner = if account.hub_owner { "yes" } else { "" };
        // A name must not write to the terminal's controls.
        let name: String = account.name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        outln!("{:<width$}  {:<8}  {owner:<9}  {name}", account.email, state(account));
    }
    Ok(())
}

fn tell(generated: bool, password: &str, email: &str) -> Result<()> {
    if !generated {
        return Ok(());
    }
    errln!("Generated password (shown only once):");
    shown_once(password, || {
        format!("the account {email} is there, but its password is lost. Generate another: muster-hub user password {email}")
    })
}

/// Prints a secret that nobody can look up later, or says what to do without it.
fn shown_once(secret: &str, otherwise: impl FnOnce() -> String) -> Result<()> {
    muster_link::print::at_once(format_args!("{secret}\n"))
        .map_err(|error| anyhow!("can't write to standard output: {}; {}", muster_link::print::reason(&error), otherwise()))
}

/// From standard input, or made up: an option would show it to every user of the machine.
fn new_password(from_stdin: bool) -> Result<(String, bool)> {
    if !from_stdin {
        return Ok((random::hex::<12>(), true));
    }
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("cannot read the password from standard input")?;
    let password = line.trim_end_matches(['\r', '\n']).to_owned();
    accounts::check_new_password(&password).map_err(|why| anyhow!(why))?;
    Ok((password, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
