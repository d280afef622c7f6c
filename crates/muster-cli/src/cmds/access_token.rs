//! `muster access-token`: personal access tokens, for scripts and other computers.

use clap::{Args, Subcommand};
use muster_proto::api::{AccessToken, AccessTokenCreate, TokenScope};
use muster_proto::id::OrgId;

use super::confirm;
use crate::cli::{Globals, one_of};
use crate::client::encode;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{ago, now};
use crate::output::{Output, note};

/// `muster access-token`
#[derive(Debug, Args)]
pub struct AccessTokenArgs {
    #[command(subcommand)]
    command: Option<AccessTokenCommand>,
}

#[derive(Debug, Subcommand)]
enum AccessTokenCommand {
    /// Make a token and print it; it may do all that you may, or less
    #[command(after_help = "\
Scopes: read looks; reach looks and reaches devices (terminal, forward, run); full does all that you may.
--org limits it to that organization, --project to that project, where it has your role and none in the organization.

Examples:
  export MUSTER_TOKEN=$(muster access-token create ci --scope read --expires 30d)
  muster access-token create lab-bot --scope reach --project lab")]
    Create(Wish),
    /// List your tokens
    #[command(after_help = "Examples:\n  muster access-token list")]
    List,
    /// Revoke tokens
    #[command(after_help = "Examples:\n  muster access-token revoke abcdefghij")]
    Revoke {
        /// Their ids, as `muster access-token list` shows them
        #[arg(value_name = "TOKEN_ID", required = true)]
        ids: Vec<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// What a new token is to be.
#[derive(Debug, Args)]
pub struct Wish {
    /// What it is for
    name: String,
    /// What it may do
    #[arg(long, value_parser = one_of(SCOPES), default_value = "full")]
    scope: TokenScope,
    /// When it ends: 1d to 360d
    #[arg(long, visible_alias = "days", value_name = "DAYS", default_value = "90d", value_parser = parse_days)]
    expires: u32,
}

/// Scopes of tokens.
const SCOPES: &[(&str, TokenScope)] = &[("read", TokenScope::Read), ("reach", TokenScope::Reach), ("full", TokenScope::Full)];

/// `30d`, or `30`.
fn parse_days(text: &str) -> Result<u32, String> {
    let days = text.strip_suffix('d').unwrap_or(text).parse().ok().filter(|days| (1..=360).contains(days));
    days.ok_or_else(|| "write days, from 1d to 360d".to_owned())
}

impl Wish {
    /// The request; limits are what stands on the command line, not what is usual.
    ///
    /// # Errors
    /// When the organization of a project is not known.
    pub async fn body(self, context: &Context, globals: &Globals) -> Result<AccessTokenCreate, Failure> {
        let project = if globals.project_on_line { Some(context.need_project()?.clone()) } else { None };
        let org: Option<OrgId> = if globals.org_on_line || project.is_some() { Some(context.org().await?.clone()) } else { None };
        Ok(AccessTokenCreate { name: self.name, expires_days: self.expires, scope: self.scope, org, project })
    }
}

/// Prints a new token.
///
/// # Errors
/// When the hub did not tell it.
pub fn tell(out: &Output, made: &AccessToken) -> Result<(), Failure> {
    if out.json {
        return out.json(made);
    }
    let secret = made.token.as_deref().ok_or_else(|| Failure::new(Exit::Failed, "the hub created the token but did not return it"))?;
    note(format!(
        "Token {} ({}), {}, ends {}. It is as good as a password and is not shown again:",
        made.id,
        made.name,
        may(made),
        ago(now(), made.expires_at)
    ));
    out.line(secret)
}

/// What a token may do, in short.
fn may(token: &AccessToken) -> String {
    match (&token.org, &token.project) {
        (Some(org), Some(project)) => format!("{} in {org}/{project}", token.scope.as_str()),
        (Some(org), None) => format!("{} in {org}", token.scope.as_str()),
        _ => token.scope.as_str().to_owned(),
    }
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, globals: &Globals, args: AccessTokenArgs) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    match args.command.unwrap_or(AccessTokenCommand::List) {
        AccessTokenCommand::Create(wish) => {
            let made: AccessToken = hub.post("/v1/tokens", &wish.body(context, globals).await?).await?;
            tell(out, &made)?;
        }
        AccessTokenCommand::List => {
            let tokens: Vec<AccessToken> = hub.list("/v1/tokens", None).await?;
            out.list(&tokens, "no tokens", |tokens| table(context, tokens))?;
        }
        AccessTokenCommand::Revoke { ids, yes } => {
            let ids: Vec<&str> =
                ids.iter().map(|id| id.strip_prefix("mp1.").and_then(|rest| rest.split('.').next()).unwrap_or(id)).collect();
            let own = if ids.contains(&context.token_id()) { " One of them is the token in use here." } else { "" };
            confirm(yes, &format!("Revoke {}?{own}", ids.join(", ")))?;
            return super::decide::each(&ids, async |id| {
                hub.delete(&format!("/v1/tokens/{}", encode(id))).await?;
                out.line(format!("Revoked {id}."))
            })
            .await;
        }
    }
    Ok(0)
}

/// Tokens, those that ended in red.
pub fn table(context: &Context, tokens: &[AccessToken]) -> Table {
    let mut table = Table::new([
        column("ID"),
        column("NAME").shrinks(12),
        column("MAY").shrinks(8),
        column("MADE").optional(1),
        column("USED"),
        column("ENDS"),
        column(""),
    ]);
    let now = now();
    for token in tokens {
        let ended = token.expires_at <= now;
        table.row([
            styled(&token.id, Style::Bold),
            cell(&token.name),
            cell(may(token)),
            cell(ago(now, token.created_at)),
            cell(token.used_at.map_or_else(|| "never".to_owned(), |used| ago(now, used))),
            styled(ago(now, token.expires_at), if ended { Style::Red } else { Style::Plain }),
            cell(if token.id == context.token_id() { "in use here" } else { "" }),
        ]);
    }
    table
}
