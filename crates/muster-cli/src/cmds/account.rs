//! `muster account`: one's own account.

use clap::{Args, Subcommand};
use muster_proto::api::{AccountClose, Me, MeEdit, PasswordPut};

use super::{confirm, login};
use crate::context::Context;
use crate::failure::Failure;
use crate::tty;

/// `muster account`
#[derive(Debug, Args)]
pub struct AccountArgs {
    #[command(subcommand)]
    command: Option<AccountCommand>,
}

#[derive(Debug, Subcommand)]
enum AccountCommand {
    /// Show the account that is logged in
    #[command(after_help = "Examples:\n  muster account show")]
    Show,
    /// Change the name that others see
    #[command(after_help = "Examples:\n  muster account edit --name 'Ann A.'")]
    Edit {
        /// The name that others see
        #[arg(long)]
        name: String,
    },
    /// Change the password
    #[command(after_help = "\
Asks for the present password and for the new one. With --stdin the first line of standard input is the present one, the second the new one.

Examples:
  muster account password
  muster account password --end-other-tokens     after a laptop was lost")]
    Password {
        /// End all other tokens of the account: every other login, every script
        #[arg(long)]
        end_other_tokens: bool,
        /// Read both passwords from standard input
        #[arg(long)]
        stdin: bool,
    },
    /// Close the account for good
    #[command(after_help = "\
It leaves all organizations and its tokens and sessions end at once. What it did stays in the records under its name.
The last owner of an organization must make another person an owner first.

Examples:
  muster account close")]
    Close {
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
        /// Read the password from standard input
        #[arg(long)]
        password_stdin: bool,
    },
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: AccountArgs) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    match args.command.unwrap_or(AccountCommand::Show) {
        AccountCommand::Show => return login::whoami(context).await,
        AccountCommand::Edit { name } => {
            let me: Me = hub.patch("/v1/me", &MeEdit { name: Some(name) }).await?;
            out.done(&me, format!("{} is now called {}.", me.email, me.name))?;
        }
        AccountCommand::Password { end_other_tokens, stdin } => {
            let (old, new) = if stdin {
                (tty::line()?, tty::line()?)
            } else {
                ask()?;
                let old = tty::ask_hidden("Present password:")?;
                let new = tty::ask_hidden("New password, at least 10 characters:")?;
                if tty::ask_hidden("Once more:")? != new {
                    return Err(Failure::usage("the two new passwords differ; nothing was changed"));
                }
                (old, new)
            };
            hub.put::<serde::de::IgnoredAny>("/v1/me/password", &PasswordPut { old, new, end_other_tokens }).await?;
            out.line(if end_other_tokens { "The password is changed; all other logins ended." } else { "The password is changed." })?;
        }
        AccountCommand::Close { yes, password_stdin } => {
            let me: Me = hub.get("/v1/me").await?;
            confirm(yes, &format!("Close the account {} for good? It leaves all organizations.", me.email))?;
            let password = match (me.has_password, password_stdin) {
                (false, _) => None,
                (true, true) => Some(tty::line()?),
                (true, false) => {
                    ask()?;
                    Some(tty::ask_hidden("Password:")?)
                }
            };
            let body = AccountClose { email: me.email.clone(), password };
            hub.try_call::<serde::de::IgnoredAny>("DELETE", "/v1/me", Some(&body)).await?;
            out.line(format!("The account {} is closed. `muster logout` forgets it here.", me.email))?;
        }
    }
    Ok(0)
}

fn ask() -> Result<(), Failure> {
    if tty::interactive() {
        return Ok(());
    }
    Err(Failure::usage("nobody can be asked for the password here").hint("give it on standard input; --help says how"))
}
