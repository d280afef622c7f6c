//! `muster access-token`: personal access tokens, for scripts and other computers.

use clap::{Args, Subcommand};
use muster_proto::api::{AccessToken, AccessTokenCreate, TokenScope};

use super::confirm;
use crate::client::encode;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::note;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{ago, now};

/// `muster access-token`
#[derive(Debug, Args)]
pub struct AccessTokenArgs {
    #[command(subcommand)]
    command: AccessTokenCommand,
}

#[derive(Debug, Subcommand)]
enum AccessTokenCommand {
    /// Make a token and print it; it may do all that you may
    #[command(after_help = "Examples:\n  export MUSTER_TOKEN=$(muster access-token create ci --days 30)")]
    Create {
        /// What it is for
        name: String,
        /// Days until it ends
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=360))]
        days: u32,
    },
    /// List your tokens
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

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: AccessTokenArgs) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    match args.command {
        AccessTokenCommand::Create { name, days } => {
            let made: AccessToken = hub
                .post("/v1/tokens", &AccessTokenCreate { name, expires_days: days, scope: TokenScope::Full, org: None, project: None })
                .await?;
            if out.json {
                out.json(&made)?;
                return Ok(0);
            }
            let secret = made.token.as_deref().ok_or_else(|| Failure::new(Exit::Failed, "the hub made the token but did not tell it"))?;
            note(format!(
                "Token {} ({}) ends {}. It is as good as a password and is not shown again:",
                made.id,
                made.name,
                ago(now(), made.expires_at)
            ));
            out.line(secret)?;
        }
        AccessTokenCommand::List => {
            let tokens: Vec<AccessToken> = hub.list("/v1/tokens", None).await?;
            out.list(&tokens, "no tokens", |tokens| {
                let mut table = Table::new([
                    column("ID"),
                    column("NAME").shrinks(12),
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
                        cell(ago(now, token.created_at)),
                        cell(token.used_at.map_or_else(|| "never".to_owned(), |used| ago(now, used))),
                        styled(ago(now, token.expires_at), if ended { Style::Red } else { Style::Plain }),
                        cell(if token.id == context.token_id() { "in use here" } else { "" }),
                    ]);
                }
                table
            })?;
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
