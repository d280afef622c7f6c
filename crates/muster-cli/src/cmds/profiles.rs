//! `muster profile`: saved logins. No hub is asked.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use serde::Serialize;

use crate::cli::Globals;
use crate::complete;
use crate::failure::Failure;
use crate::output::Output;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::profile::Book;

/// `muster profile`
#[derive(Debug, Args)]
pub struct ProfileArgs {
    #[command(subcommand)]
    command: Option<ProfileCommand>,
}

#[derive(Debug, Subcommand)]
enum ProfileCommand {
    /// List saved logins
    #[command(after_help = "Examples:\n  muster profile list")]
    List,
    /// Choose the saved login that commands use
    #[command(after_help = "Examples:\n  muster profile use lab")]
    Use {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::profiles))]
        name: String,
    },
}

/// A saved login as JSON: without its token.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    current: bool,
    hub: &'a str,
    email: Option<&'a str>,
    org: Option<&'a str>,
    project: Option<&'a str>,
}

/// Runs it.
///
/// # Errors
/// When there is no such login, or the file cannot be read or written.
pub fn run(globals: &Globals, args: ProfileArgs) -> Result<u8, Failure> {
    let path = Book::path()?;
    let out = Output::new(globals.json, globals.color);
    match args.command.unwrap_or(ProfileCommand::List) {
        ProfileCommand::List => {
            let book = Book::load(&path)?;
            let rows: Vec<Row<'_>> = book
                .profiles
                .iter()
                .map(|(name, profile)| Row {
                    name,
                    current: book.current.as_ref() == Some(name),
                    hub: &profile.hub,
                    email: profile.email.as_deref(),
                    org: profile.org.as_ref().map(AsRef::as_ref),
                    project: profile.project.as_ref().map(AsRef::as_ref),
                })
                .collect();
            out.list(&rows, "no saved logins: run `muster login https://hub.example.com`", |rows| {
                let mut table =
                    Table::new([column(""), column("NAME"), column("HUB"), column("E-MAIL").optional(1), column("ORG"), column("PROJECT")]);
                for row in rows {
                    let mark = if row.current { "*" } else { "" };
                    let text = |value: Option<&str>| cell(value.unwrap_or_default());
                    table.row([
                        cell(mark),
                        styled(row.name, Style::Bold),
                        cell(row.hub),
                        text(row.email),
                        text(row.org),
                        text(row.project),
                    ]);
                }
                table
            })?;
        }
        ProfileCommand::Use { name } => {
            let hub = Book::update(&path, |book| {
                let Some(profile) = book.profiles.get(&name) else {
                    return Err(Failure::new(crate::failure::Exit::NotFound, format!("there is no saved login {name:?}"))
                        .hint("`muster profile list` shows those that are"));
                };
                book.current = Some(name.clone());
                Ok(profile.hub.clone())
            })?;
            out.line(format!("Commands now mean {hub}."))?;
        }
    }
    Ok(0)
}
