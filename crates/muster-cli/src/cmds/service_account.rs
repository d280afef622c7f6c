//! `muster service-account`: what programs of the organization log in as.

use clap::{Args, Subcommand};
use muster_proto::api::{AccessToken, OrgRole, ProjectRole, ServiceAccount, ServiceAccountCreate};

use super::access_token::{self, Wish};
use super::{confirm, decide};
use crate::cli::{Globals, one_of};
use crate::client::encode;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{ago, local_ago, now};

/// Roles in the organization that one can have.
const ROLES: &[(&str, OrgRole)] = &[("viewer", OrgRole::Viewer), ("member", OrgRole::Member)];

/// `muster service-account`
#[derive(Debug, Args)]
pub struct ServiceAccountArgs {
    #[command(subcommand)]
    command: Option<ServiceAccountCommand>,
}

#[derive(Debug, Subcommand)]
enum ServiceAccountCommand {
    /// List service accounts
    #[command(after_help = "Examples:\n  muster service-account list")]
    List,
    /// Make a service account
    #[command(after_help = "\
In records and among participants it is called NAME@ORG.service. It is never an owner.
With --project it gets a role there; `muster project participant add` gives it more.

Examples:
  muster service-account create ci --role viewer
  muster service-account create deploy --project lab --project-role operate")]
    Create {
        /// Its name: 2 to 40 of a-z, 0-9 and hyphen
        name: String,
        /// Its role in the organization; none by default
        #[arg(long, value_parser = one_of(ROLES))]
        role: Option<OrgRole>,
        /// Its role in the project of --project
        #[arg(long, value_parser = one_of(super::project::people::ROLES))]
        project_role: Option<ProjectRole>,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Delete a service account; its tokens and sessions end at once
    #[command(after_help = "Examples:\n  muster service-account delete ci")]
    Delete {
        /// Its name
        name: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Make a token for a service account and print it
    #[command(after_help = "Examples:\n  export MUSTER_TOKEN=$(muster service-account token ci runner --scope read --expires 30d)")]
    Token {
        /// The service account
        account: String,
        #[command(flatten)]
        wish: Wish,
    },
    /// List the tokens of a service account
    #[command(after_help = "Examples:\n  muster service-account tokens ci")]
    Tokens {
        /// The service account
        account: String,
    },
    /// Revoke tokens of a service account
    #[command(after_help = "Examples:\n  muster service-account revoke ci abcdefghij")]
    Revoke {
        /// The service account
        account: String,
        /// Their ids, as `muster service-account tokens` shows them
        #[arg(value_name = "TOKEN_ID", required = true)]
        ids: Vec<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, globals: &Globals, args: ServiceAccountArgs) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    let path = context.org_path("/service-accounts").await?;
    match args.command.unwrap_or(ServiceAccountCommand::List) {
        ServiceAccountCommand::List => {
            let accounts: Vec<ServiceAccount> = hub.list(&path, None).await?;
            out.list(&accounts, "no service accounts", table)?;
        }
        ServiceAccountCommand::Create { name, role, project_role, description } => {
            let project = if globals.project_on_line { Some(context.need_project()?.clone()) } else { None };
            if project.is_some() != project_role.is_some() {
                return Err(Failure::usage("--project and --project-role go together"));
            }
            let made: ServiceAccount = hub.post(&path, &ServiceAccountCreate { name, role, description, project, project_role }).await?;
            out.done(&made, format!("Made {}. `muster service-account token {} NAME` makes a token for it.", made.email, made.name))?;
        }
        ServiceAccountCommand::Delete { name, yes } => {
            confirm(yes, &format!("Delete the service account {name}? Its tokens and sessions end at once."))?;
            hub.delete(&format!("{path}/{}", encode(&name))).await?;
            out.line(format!("Deleted {name}."))?;
        }
        ServiceAccountCommand::Token { account, wish } => {
            let body = wish.body(context, globals).await?;
            let made: AccessToken = hub.post(&format!("{path}/{}/tokens", encode(&account)), &body).await?;
            access_token::tell(out, &made)?;
        }
        ServiceAccountCommand::Tokens { account } => {
            let tokens: Vec<AccessToken> = hub.list(&format!("{path}/{}/tokens", encode(&account)), None).await?;
            out.list(&tokens, "no tokens", |tokens| access_token::table(context, tokens))?;
        }
        ServiceAccountCommand::Revoke { account, ids, yes } => {
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            confirm(yes, &format!("Revoke {} of {account}?", ids.join(", ")))?;
            return decide::each(&ids, async |id| {
                hub.delete(&format!("{path}/{}/tokens/{}", encode(&account), encode(id))).await?;
                out.line(format!("Revoked {id}."))
            })
            .await;
        }
    }
    Ok(0)
}

fn table(accounts: &[ServiceAccount]) -> Table {
    let columns = [
        column("NAME"),
        column("IN RECORDS").shrinks(12),
        column("ROLE"),
        column("TOKENS").right(),
        column("USED"),
        column("MADE").optional(1),
        column("DESCRIPTION").shrinks(10).optional(2),
    ];
    let mut table = Table::new(columns);
    let now = now();
    for account in accounts {
        table.row([
            styled(&account.name, Style::Bold),
            cell(&account.email),
            cell(account.role.map_or("-", OrgRole::as_str)),
            cell(account.tokens.to_string()),
            cell(account.used_at.map_or_else(|| "never".to_owned(), |used| ago(now, used))),
            cell(local_ago(now, account.created_at)),
            cell(account.description.as_deref().unwrap_or_default()),
        ]);
    }
    table
}
