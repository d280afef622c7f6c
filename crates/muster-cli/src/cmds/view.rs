//! `muster view`: saved ways to look at the list of devices.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_proto::api::{Page, View, ViewCreate, ViewEdit};

use super::confirm;
use crate::client::encode;
use crate::complete;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table::{Style, Table, cell, column, styled};

/// `muster view`
#[derive(Debug, Args)]
pub struct ViewArgs {
    #[command(subcommand)]
    command: Option<ViewCommand>,
}

#[derive(Debug, Subcommand)]
enum ViewCommand {
    /// List your own views and the shared ones
    #[command(after_help = "Examples:\n  muster view list")]
    List,
    /// Save a view, or change one
    #[command(after_help = "\
What is not given stays as it was; an empty text empties it.

Examples:
  muster view save night-shift --filter 'project = lab and online = false' --sort -last_seen
  muster view save hot --filter 'temp > 70' --sort -temp --columns name,site,temp,cpu --shared")]
    Save {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::views))]
        name: String,
        /// Which devices
        #[arg(long, value_name = "FILTER")]
        filter: Option<String>,
        /// In which order
        #[arg(long, value_name = "ORDER", allow_hyphen_values = true)]
        sort: Option<String>,
        /// Which columns, separated by commas
        #[arg(long, value_name = "COLUMNS", value_delimiter = ',')]
        columns: Option<Vec<String>>,
        /// One that all of the organization see
        #[arg(long)]
        shared: bool,
    },
    /// Delete a view
    #[command(after_help = "Examples:\n  muster view delete night-shift\n  muster view delete hot --shared --yes")]
    Delete {
        /// Its name
        #[arg(add = ArgValueCompleter::new(complete::views))]
        name: String,
        /// The one that all of the organization see
        #[arg(long)]
        shared: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// All views that the account sees.
pub(super) async fn all(context: &Context) -> Result<Vec<View>, Failure> {
    let page: Page<View> = context.hub().get(&context.org_path("/views").await?).await?;
    Ok(page.items)
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: ViewArgs) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    match args.command.unwrap_or(ViewCommand::List) {
        ViewCommand::List => out.list(&all(context).await?, "no views yet: `muster view save NAME --filter FILTER` makes one", table)?,
        ViewCommand::Save { name, filter, sort, columns, shared } => {
            let there = all(context).await?.into_iter().any(|view| view.name == name && view.shared == shared);
            let columns = columns.map(|columns| columns.into_iter().filter(|column| !column.is_empty()).collect::<Vec<_>>());
            let saved: View = if there {
                let edit = ViewEdit { name: None, filter, sort, columns };
                hub.patch(&context.org_path(&format!("/views/{}?shared={shared}", encode(&name))).await?, &edit).await?
            } else {
                let (filter, sort) = (filter.unwrap_or_default(), sort.unwrap_or_default());
                let create = ViewCreate { name, shared, filter, sort, columns: columns.unwrap_or_default() };
                hub.post(&context.org_path("/views").await?, &create).await?
            };
            out.done(&saved, format!("Saved the view {0}: muster devices --view {0}", saved.name))?;
        }
        ViewCommand::Delete { name, shared, yes } => {
            let whose = if shared { "the shared view" } else { "your view" };
            confirm(yes, &format!("Delete {whose} {name}?"))?;
            hub.delete(&context.org_path(&format!("/views/{}?shared={shared}", encode(&name))).await?).await?;
            out.done(&serde_json::json!({ "name": name, "shared": shared }), format!("Deleted {whose} {name}."))?;
        }
    }
    Ok(0)
}

fn table(views: &[View]) -> Table {
    let mut table = Table::new([
        column("NAME").shrinks(12),
        column("SHARED"),
        column("FILTER").shrinks(20),
        column("SORT").shrinks(8).optional(1),
        column("COLUMNS").shrinks(12).optional(2),
        column("CHANGED BY").optional(3),
    ]);
    for view in views {
        table.row([
            styled(&view.name, Style::Bold),
            cell(if view.shared { "yes" } else { "" }),
            cell(&view.filter),
            cell(&view.sort),
            cell(view.columns.join(",")),
            cell(&view.changed_by),
        ]);
    }
    table
}
