//! `muster devices export` and `muster devices import`: the list as a CSV file.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use muster_proto::api::ImportResult;

use super::confirm;
use super::devices::Filter;
use crate::cli::Globals;
use crate::client::query;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::note;

#[derive(Debug, Subcommand)]
pub(super) enum SheetCommand {
    /// Write the list as a CSV file
    #[command(after_help = "\
What a spreadsheet would take for a formula gets an apostrophe before it; import takes it away again.

Examples:
  muster devices export > devices.csv
  muster devices export --filter 'site = berlin' --columns id,name,site,labels -o berlin.csv")]
    Export(ExportArgs),
    /// Enter and edit devices from a CSV file, all or nothing
    #[command(after_help = "\
The first line names the columns: id (the serial number; needed), name, labels, projects, and fields by their keys.
A line whose id is listed changes that device; another one enters a device that has no daemon so far.
An empty cell empties a field. Labels become those of the file; projects are joined, never left.
Several labels or projects are separated by semicolons. Columns that the hub itself says, such as admission, are passed over.
UTF-8 and UTF-16 files are read, with commas, semicolons or tabs between the columns.
Nothing is written while there is one mistake in the file.

Examples:
  muster devices import devices.csv --dry-run
  muster devices import devices.csv --yes")]
    Import(ImportArgs),
}

#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    #[command(flatten)]
    filter: Filter,
    /// Columns, separated by commas; by default the usual ones and all custom fields
    #[arg(long, value_name = "COLUMNS")]
    columns: Option<String>,
    /// Write it there instead of to standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The file; - for standard input
    file: PathBuf,
    /// Only tell what would happen, with every mistake
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn run(context: &Context, globals: &Globals, command: &SheetCommand) -> Result<u8, Failure> {
    match command {
        SheetCommand::Export(args) => export(context, globals, args).await,
        SheetCommand::Import(args) => import(context, args).await,
    }
}

async fn export(context: &Context, globals: &Globals, args: &ExportArgs) -> Result<u8, Failure> {
    if args.filter.has_patterns() {
        return Err(Failure::usage("an export takes no patterns").hint("say it as a filter, such as --filter 'name ~ robot'"));
    }
    let mut pairs = args.filter.pairs(globals)?;
    pairs.push(("columns", args.columns.clone()));
    let path = format!("{}{}", context.org_path("/devices/export").await?, query(pairs));
    let file = context.hub().get_bytes(&path).await?;
    match &args.output {
        Some(to) => std::fs::write(to, file).map_err(|error| unusable("write", to, &error))?,
        None => context.out.bytes(&file)?,
    }
    Ok(0)
}

async fn import(context: &Context, args: &ImportArgs) -> Result<u8, Failure> {
    let file = read(&args.file).map_err(|error| unusable("read", &args.file, &error))?;
    let path = context.org_path("/devices/import").await?;
    // Looked at first, so that the question names what will be changed and every mistake is told.
    let looked: ImportResult = context.hub().post_bytes(&format!("{path}?dry_run=true"), "text/csv", &file).await?;
    if !looked.mistakes.is_empty() {
        if context.out.json {
            context.out.json(&looked)?;
        }
        for mistake in &looked.mistakes {
            let column = mistake.column.as_ref().map(|column| format!(", column {column}")).unwrap_or_default();
            note(format!("line {}{column}: {}", mistake.line, mistake.message));
        }
        let why = format!("{} in {}; nothing was imported", count(looked.mistakes.len() as u64, "mistake"), args.file.display());
        return Err(Failure::new(Exit::Failed, why));
    }
    if args.dry_run {
        context.out.done(&looked, format!("{} would be {}.", count(looked.lines, "row"), told(&looked)))?;
        return Ok(0);
    }
    confirm(args.yes, &format!("Import {}: {}?", count(looked.lines, "row"), told(&looked)))?;
    let done: ImportResult = context.hub().post_bytes(&path, "text/csv", &file).await?;
    context.out.done(&done, format!("Imported {}: {}.", count(done.lines, "row"), told(&done)))?;
    Ok(0)
}

fn told(result: &ImportResult) -> String {
    format!("{} new, {} changed, {} unchanged", result.created, result.updated, result.unchanged)
}

/// `1 device`, `2 devices`.
pub(super) fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

pub(super) fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut all = Vec::new();
        std::io::stdin().lock().read_to_end(&mut all)?;
        return Ok(all);
    }
    std::fs::read(file)
}

pub(super) fn unusable(what: &str, file: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("cannot {what} {}: {error}", file.display()))
}
