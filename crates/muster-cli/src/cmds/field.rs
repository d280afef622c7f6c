//! `muster field`: what an organization wants to know of its devices.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_link::http::CallError;
use muster_proto::api::{Field, FieldCreate, FieldEdit, FieldKind, Page};
use muster_proto::problem::Code;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::confirm;
use crate::cli::one_of;
use crate::client::encode;
use crate::complete;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table::{Style, Table, cell, column, styled};

const KINDS: &[(&str, FieldKind)] = &[
    ("text", FieldKind::Text),
    ("number", FieldKind::Number),
    ("choice", FieldKind::Choice),
    ("date", FieldKind::Date),
    ("person", FieldKind::Person),
];

/// `muster field`
#[derive(Debug, Args)]
pub struct FieldArgs {
    #[command(subcommand)]
    command: Option<FieldCommand>,
}

#[derive(Debug, Subcommand)]
enum FieldCommand {
    /// List the custom fields of devices
    #[command(after_help = "Examples:\n  muster field list")]
    List,
    /// Define a field
    #[command(after_help = "\
A person is a member of the organization, named by e-mail address.
A required field cannot be emptied, and devices without it are listed by --filter 'missing = KEY'; it keeps no device out.

Examples:
  muster field add site --title Site --required
  muster field add stage --kind choice --choices test,live,retired
  muster field add keeper --kind person --description 'Who looks after it'")]
    Add {
        /// Its key: 1 to 40 of a-z, 0-9 and _; it never changes
        key: String,
        /// What it holds
        #[arg(long, value_parser = one_of(KINDS), default_value = "text")]
        kind: FieldKind,
        /// As people call it; the key by default
        #[arg(long)]
        title: Option<String>,
        /// What may be chosen, separated by commas
        #[arg(long, value_name = "CHOICES", value_delimiter = ',')]
        choices: Vec<String>,
        /// Edits may not leave it empty
        #[arg(long)]
        required: bool,
        /// What it is for
        #[arg(long, default_value = "")]
        description: String,
    },
    /// Change a field, but for its key and kind
    #[command(
        after_help = "Examples:\n  muster field edit stage --choices test,live,retired,scrapped\n  muster field edit site --optional"
    )]
    Edit {
        /// Its key
        #[arg(add = ArgValueCompleter::new(complete::fields))]
        key: String,
        /// As people call it
        #[arg(long)]
        title: Option<String>,
        /// All that may be chosen from now on, separated by commas
        #[arg(long, value_name = "CHOICES", value_delimiter = ',')]
        choices: Option<Vec<String>>,
        /// Edits may not leave it empty
        #[arg(long, conflicts_with = "optional")]
        required: bool,
        /// Edits may leave it empty
        #[arg(long)]
        optional: bool,
        /// What it is for
        #[arg(long)]
        description: Option<String>,
        /// Do not ask, even where devices lose a value
        #[arg(long, short)]
        yes: bool,
    },
    /// Delete a field with all its values
    #[command(after_help = "Examples:\n  muster field delete rack")]
    Delete {
        /// Its key
        #[arg(add = ArgValueCompleter::new(complete::fields))]
        key: String,
        /// Do not ask, even where devices lose a value
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: FieldArgs) -> Result<u8, Failure> {
    let out = &context.out;
    match args.command.unwrap_or(FieldCommand::List) {
        FieldCommand::List => {
            let page: Page<Field> = context.hub().get(&context.org_path("/fields").await?).await?;
            out.list(&page.items, "no custom fields yet: `muster field add KEY` defines one", table)?;
        }
        FieldCommand::Add { key, kind, title, choices, required, description } => {
            let create = FieldCreate { key, title, kind, choices, required, description };
            let field: Field = context.hub().post(&context.org_path("/fields").await?, &create).await?;
            out.done(&field, format!("Defined {0}: muster device edit DEVICE --set {0}=VALUE", field.key))?;
        }
        FieldCommand::Edit { key, title, choices, required, optional, description, yes } => {
            let required = (required || optional).then_some(required);
            let edit = FieldEdit { title, choices, required, description };
            let field: Field = confirmed(context, "PATCH", &key, Some(&edit), yes).await?;
            out.done(&field, format!("Changed {}.", field.key))?;
        }
        FieldCommand::Delete { key, yes } => {
            confirmed::<serde::de::IgnoredAny>(context, "DELETE", &key, None::<&FieldEdit>, yes).await?;
            out.done(&serde_json::json!({ "key": key }), format!("Deleted {key}."))?;
        }
    }
    Ok(0)
}

/// Asks the person where the hub says that devices would lose something.
async fn confirmed<T: DeserializeOwned>(
    context: &Context,
    method: &str,
    key: &str,
    body: Option<&impl Serialize>,
    yes: bool,
) -> Result<T, Failure> {
    let path = context.org_path(&format!("/fields/{}", encode(key))).await?;
    match context.hub().try_call(method, &path, body).await {
        Err(CallError::Problem(problem)) if problem.is(Code::Conflict) => {
            let lost = problem.detail.split("; to do it").next().unwrap_or_default();
            confirm(yes, &format!("{lost}. Do it?"))?;
            Ok(context.hub().try_call(method, &format!("{path}?confirm={}", encode(key)), body).await?)
        }
        other => Ok(other?),
    }
}

fn table(fields: &[Field]) -> Table {
    let mut table = Table::new([
        column("KEY"),
        column("TITLE").shrinks(12),
        column("KIND"),
        column("REQUIRED"),
        column("CHOICES").shrinks(16),
        column("DESCRIPTION").shrinks(20).optional(1),
    ]);
    for field in fields {
        let kind = KINDS.iter().find(|(_, kind)| *kind == field.kind).map_or("", |(name, _)| name);
        table.row([
            styled(&field.key, Style::Bold),
            cell(&field.title),
            cell(kind),
            cell(if field.required { "yes" } else { "" }),
            cell(field.choices.join(", ")),
            cell(&field.description),
        ]);
    }
    table
}
