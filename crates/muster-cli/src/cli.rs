//! The command line's grammar: global flags and the tree of commands. Each command's own flags stand in its module.

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_proto::id::{OrgId, ProjectId};

use crate::cmds::{
    access_token, audit, billing, completion, device, devices, field, login, member, org, profiles, project, remote, run, runs, sessions,
    ssh_config, team, token, top, usage, view,
};
use crate::cmds::{account, invitation, service_account};
use crate::complete;
use crate::context::Context;
use crate::failure::{EXIT_CODES, Failure};
use crate::output::When;
use crate::session;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  muster login https://hub.example.com:8443
  muster token create --uses 1 --expires 7d      then, on the device, the line that it prints
  muster devices
  muster device admit ABCD-2345
  muster shell robot-7
  muster ssh pi@robot-7
  muster forward robot-7 8765
  muster run robot-7 -- df -h
  muster devices --json | jq '.[] | select(.presence == \"offline\") | .name'";

const ENVIRONMENT: &str = "\
Environment:
  MUSTER_HUB, MUSTER_TOKEN, MUSTER_ORG, MUSTER_PROJECT   instead of the flags, for scripts
  MUSTER_PROFILE     the saved login to use
  HTTPS_PROXY, NO_PROXY   the way to the hub
  NO_COLOR           no colours

Files:
  $XDG_CONFIG_HOME/muster/config.toml   saved logins, by default in ~/.config; only for your eyes";

/// Lists an organization's devices and reaches them, through any NAT or firewall.
///
/// A DEVICE is named by its name, its serial number, its uid, or, while it is pending, by the pairing code that it shows.
#[derive(Debug, Parser)]
#[command(name = "muster", version, styles = STYLES, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}\n\n`muster help COMMAND` says more about a command."))]
#[command(after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}\n\n{ENVIRONMENT}"))]
pub struct Cli {
    /// What goes for every command.
    #[command(flatten)]
    pub globals: Globals,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// The hub, such as https://hub.example.com:8443
    #[arg(long, global = true, env = "MUSTER_HUB", value_name = "URL", display_order = 900)]
    pub hub: Option<String>,
    /// A personal access token (mp1...); better in the environment, where other users do not see it
    #[arg(long, global = true, env = "MUSTER_TOKEN", hide_env_values = true, value_name = "TOKEN", display_order = 901)]
    pub token: Option<String>,
    /// The organization
    #[arg(long, global = true, env = "MUSTER_ORG", value_name = "ORG", display_order = 902, add = ArgValueCompleter::new(complete::orgs))]
    pub org: Option<String>,
    /// The project
    #[arg(long, global = true, env = "MUSTER_PROJECT", value_name = "PROJECT", display_order = 903, add = ArgValueCompleter::new(complete::projects))]
    pub project: Option<String>,
    /// The saved login to use
    #[arg(long, global = true, env = "MUSTER_PROFILE", value_name = "NAME", display_order = 904, add = ArgValueCompleter::new(complete::profiles))]
    pub profile: Option<String>,
    /// Print JSON instead of tables; its field names are stable
    #[arg(long, global = true, display_order = 905)]
    pub json: bool,
    /// Colours: NO_COLOR is respected
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", display_order = 906, hide_possible_values = true)]
    pub color: When,
    /// Whether the project was named on the command line, and so narrows lists; one from elsewhere is only where work is done.
    #[arg(skip)]
    pub project_on_line: bool,
    /// Whether the organization was named on the command line.
    #[arg(skip)]
    pub org_on_line: bool,
}

impl Globals {
    /// The organization that was named.
    ///
    /// # Errors
    /// When it is no organization's id.
    pub fn org(&self) -> Result<Option<OrgId>, Failure> {
        Ok(self.org.as_deref().filter(|text| !text.is_empty()).map(str::parse).transpose()?)
    }

    /// The project that was named.
    ///
    /// # Errors
    /// When it is no project's id.
    pub fn project(&self) -> Result<Option<ProjectId>, Failure> {
        Ok(self.project.as_deref().filter(|text| !text.is_empty()).map(str::parse).transpose()?)
    }
}

/// What `muster` does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Log in to a hub and save the login
    Login(login::LoginArgs),
    /// End the saved login
    Logout(login::LogoutArgs),
    /// Show who is logged in, and where
    #[command(after_help = "Examples:\n  muster whoami\n  muster whoami --json | jq -r .email")]
    Whoami,
    /// List and choose saved logins
    #[command(alias = "profiles")]
    Profile(profiles::ProfileArgs),
    /// Organizations
    #[command(aliases = ["orgs", "organization", "organizations"])]
    Org(org::OrgArgs),
    /// Members and collaborators of the organization
    #[command(alias = "members")]
    Member(member::MemberArgs),
    /// Invite a person to the organization or to a project
    Invite(invitation::InviteArgs),
    /// List, send again, revoke and accept invitations
    #[command(alias = "invitations")]
    Invitation(invitation::InvitationArgs),
    /// Service accounts: what programs of the organization log in as
    #[command(alias = "service-accounts")]
    ServiceAccount(service_account::ServiceAccountArgs),
    /// Show, change or close your account
    Account(account::AccountArgs),
    /// Teams, which are given roles in projects as one
    #[command(alias = "teams")]
    Team(team::TeamArgs),
    /// Projects, their devices and participants
    #[command(alias = "projects")]
    Project(project::ProjectArgs),
    /// Enrolment tokens: how devices come onto the list
    #[command(aliases = ["tokens", "enrolment-token", "enrolment-tokens"])]
    Token(token::TokenArgs),
    /// Personal access tokens, for scripts and other computers
    #[command(alias = "access-tokens")]
    AccessToken(access_token::AccessTokenArgs),
    /// List devices
    #[command(visible_alias = "ls")]
    Devices(devices::DevicesArgs),
    /// Show, admit, edit or remove a device
    Device(device::DeviceArgs),
    /// Custom fields of devices
    #[command(alias = "fields")]
    Field(field::FieldArgs),
    /// Saved views of the list of devices
    #[command(alias = "views")]
    View(view::ViewArgs),
    /// Watch devices, or one device's usage, live
    Top(top::TopArgs),
    /// Open a terminal on a device, or run a command; needs no sshd there
    Shell(remote::ShellArgs),
    /// Run OpenSSH to a device's sshd
    Ssh(remote::SshArgs),
    /// Connect standard input and output to a port of a device, for OpenSSH's ProxyCommand
    Proxy(remote::ProxyArgs),
    /// Forward local ports to a device
    Forward(remote::ForwardArgs),
    /// Print Host blocks for OpenSSH, so that ssh, scp, rsync and editors know the devices
    SshConfig(ssh_config::SshConfigArgs),
    /// Run a command on a device, with its output and its exit code
    Run(run::RunArgs),
    /// List, show and end runs; print what they wrote
    Runs(runs::RunsArgs),
    /// List sessions
    Sessions(sessions::SessionsArgs),
    /// Show or end a session
    Session(sessions::SessionArgs),
    /// Show what was used, by day, project or device
    Usage(usage::UsageArgs),
    /// Show credits: balance, rates, what projects spent
    Billing(billing::BillingArgs),
    /// Book credits, as an owner of the hub
    #[command(alias = "credits")]
    Credit(billing::CreditArgs),
    /// Show and set how much the organization may have
    #[command(alias = "limits")]
    Limit(billing::LimitArgs),
    /// List, export or follow who did what
    Audit(audit::AuditArgs),
    /// Print the shell's completion script
    Completion(completion::CompletionArgs),
}

/// The tree of commands, with the other words for them.
fn grammar() -> clap::Command {
    groups::grouped(verbs::with_other_words(Cli::command()))
}

/// The grammar, built.
pub fn command() -> clap::Command {
    let mut command = grammar();
    command.build();
    command
}

/// Parses the process's arguments.
///
/// # Errors
/// When they are wrong, or help was asked for: clap's own message.
pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Cli, clap::Error> {
    let args: Vec<std::ffi::OsString> = args.into_iter().collect();
    let matches = grammar().try_get_matches_from(&args).map_err(|error| mistake::explained(error, &args))?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    cli.globals.project_on_line = matches.value_source("project") == Some(clap::parser::ValueSource::CommandLine);
    cli.globals.org_on_line = matches.value_source("org") == Some(clap::parser::ValueSource::CommandLine);
    Ok(cli)
}

/// Runs a command and gives the process's exit code.
///
/// # Errors
/// Whatever the command says.
pub async fn run(cli: Cli) -> Result<u8, Failure> {
    let globals = &cli.globals;
    let context = || Context::new(globals);
    match cli.command {
        Command::Login(args) => login::login(globals, args).await,
        Command::Logout(args) => login::logout(globals, args).await,
        Command::Completion(args) => completion::run(globals, &args),
        Command::Profile(args) => profiles::run(globals, args),
        Command::Whoami => login::whoami(&context()?).await,
        Command::Org(args) => org::run(&context()?, args).await,
        Command::Member(args) => member::run(&context()?, args).await,
        Command::Invite(args) => invitation::invite(&context()?, globals, args).await,
        Command::Invitation(args) => invitation::run(globals, args).await,
        Command::ServiceAccount(args) => service_account::run(&context()?, globals, args).await,
        Command::Account(args) => account::run(&context()?, args).await,
        Command::Team(args) => team::run(&context()?, args).await,
        Command::Project(args) => project::run(&context()?, args).await,
        Command::Token(args) => token::run(&context()?, args).await,
        Command::AccessToken(args) => access_token::run(&context()?, globals, args).await,
        Command::Devices(args) => devices::run(&context()?, globals, &args).await,
        Command::Device(args) => device::run(&context()?, args).await,
        Command::Field(args) => field::run(&context()?, args).await,
        Command::View(args) => view::run(&context()?, args).await,
        Command::Top(args) => top::run(&context()?, globals, &args).await,
        Command::Shell(args) => session::shell(&context()?, args).await,
        Command::Ssh(args) => session::ssh(&context()?, args).await,
        Command::Proxy(args) => session::proxy(&context()?, args).await,
        Command::Forward(args) => session::forward(&context()?, args).await,
        Command::SshConfig(args) => ssh_config::run(&context()?, globals, &args).await,
        Command::Run(args) => run::run(&context()?, args).await,
        Command::Runs(args) => runs::run(&context()?, args).await,
        Command::Sessions(args) => sessions::list(&context()?, args).await,
        Command::Session(args) => sessions::run(&context()?, args).await,
        Command::Usage(args) => usage::run(&context()?, globals, args).await,
        Command::Billing(args) => billing::billing(&context()?, args).await,
        Command::Credit(args) => billing::credit(&context()?, args).await,
        Command::Limit(args) => billing::limit(&context()?, args).await,
        Command::Audit(args) => audit::run(&context()?, args).await,
    }
}

/// A flag's spelling of an enum of the protocol, such as `--role owner`.
pub fn one_of<T: Copy + Send + Sync + 'static>(values: &'static [(&'static str, T)]) -> impl clap::builder::TypedValueParser<Value = T> {
    use clap::builder::TypedValueParser as _;
    let parser = clap::builder::PossibleValuesParser::new(values.iter().map(|(name, _)| *name));
    parser.map(move |text| values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).expect("clap allows only these names"))
}

mod groups;
mod mistake;
#[cfg(test)]
mod tests;
mod verbs;
