//! `muster token`: enrolment tokens, by which devices come onto the list.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use muster_proto::api::{AdmitRule, EnrolmentToken, EnrolmentTokenCreate};
use muster_proto::id::{ProjectId, Serial};
use muster_proto::text_file;
use serde::Serialize;

use super::{confirm, project};
use crate::cli::one_of;
use crate::client::encode;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::note;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{ago, now, parse_span};

const RULES: &[(&str, AdmitRule)] = &[("auto", AdmitRule::Auto), ("manual", AdmitRule::Manual)];
/// Largest file of serial numbers, in bytes: a hundred thousand of them, more than one token should admit.
const SERIALS_MAX: u64 = 8 * 1024 * 1024;

/// `muster token`
#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: Option<TokenCommand>,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make an enrolment token and print the line to run on the device
    Create(CreateArgs),
    /// List enrolment tokens
    #[command(after_help = "Examples:\n  muster token list\n  muster token list --all")]
    List {
        /// Also those that are used up, expired or revoked
        #[arg(long)]
        all: bool,
    },
    /// Revoke enrolment tokens; devices that used them stay
    #[command(after_help = "Examples:\n  muster token revoke abcdefghij")]
    Revoke {
        /// Their ids, as `muster token list` shows them
        #[arg(value_name = "TOKEN_ID", required = true)]
        ids: Vec<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
The token names the hub that it trusts, so nothing else has to be copied to the device.
Devices join the project of --project, or else the one in use; --no-project leaves them in none.

Examples:
  muster token create                                   devices wait for `device admit`
  muster token create --uses 1 --admit auto             one device, admitted at once
  muster token create --project lab --expires 30d --admit auto --serials serials.txt
  ssh pi@10.0.0.7 sudo $(muster token create --uses 1 --admit auto --quiet)")]
struct CreateArgs {
    /// How many devices may use it; without a limit by default
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    uses: Option<u32>,
    /// When it ends, such as 12h or 7d
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = expires)]
    expires: u64,
    /// Whether devices are admitted at once (auto) or wait for a person (manual)
    #[arg(long, value_parser = one_of(RULES), default_value = "manual")]
    admit: AdmitRule,
    /// Only the serial numbers in this file, one a line (`-`: standard input)
    #[arg(long, value_name = "FILE")]
    serials: Option<PathBuf>,
    /// A note for people
    #[arg(long)]
    note: Option<String>,
    /// Put the devices into no project
    #[arg(long)]
    no_project: bool,
    /// Print only the line for the device
    #[arg(long, short)]
    quiet: bool,
}

fn expires(text: &str) -> Result<u64, String> {
    match parse_span(text)? {
        seconds @ 60..=31_536_000 => Ok(seconds),
        _ => Err("an enrolment token lives 1 minute to 365 days".to_owned()),
    }
}

/// A new token with the line that uses it.
#[derive(Serialize)]
struct Made<'a> {
    #[serde(flatten)]
    token: &'a EnrolmentToken,
    command: String,
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: TokenArgs) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    match args.command.unwrap_or(TokenCommand::List { all: false }) {
        TokenCommand::Create(args) => create(context, args).await?,
        TokenCommand::List { all } => {
            let mut tokens: Vec<EnrolmentToken> = hub.list(&context.org_path("/enrolment-tokens").await?, None).await?;
            let now = now();
            if !all {
                tokens.retain(|token| fate(token, now).1 == Style::Green);
            }
            let nothing = if all { "no enrolment tokens" } else { "no enrolment tokens that can be used; --all shows the others" };
            out.list(&tokens, nothing, |tokens| table(tokens, now))?;
        }
        TokenCommand::Revoke { ids, yes } => {
            confirm(yes, &format!("Revoke {}?", ids.join(", ")))?;
            return super::decide::each(&ids, async |id| {
                // The whole token is a natural thing to paste: its second part is the id.
                let id = id.strip_prefix("mt1.").and_then(|rest| rest.split('.').next()).unwrap_or(id);
                hub.delete(&context.org_path(&format!("/enrolment-tokens/{}", encode(id))).await?).await?;
                out.line(format!("Revoked {id}."))
            })
            .await;
        }
    }
    Ok(0)
}

async fn create(context: &Context, args: CreateArgs) -> Result<(), Failure> {
    let project = if args.no_project { None } else { meant_project(context).await? };
    let order = EnrolmentTokenCreate {
        project,
        uses: args.uses,
        expires_s: Some(args.expires),
        admit: args.admit,
        serials: args.serials.as_deref().map(serials).transpose()?,
        note: args.note,
    };
    let made: EnrolmentToken = context.hub().post(&context.org_path("/enrolment-tokens").await?, &order).await?;
    let secret = made.token.as_deref().ok_or_else(|| Failure::new(Exit::Failed, "the hub created the token but did not return it"))?;
    let command = format!("musterd enrol {} {secret}", context.hub_url());
    if context.out.json {
        return context.out.json(&Made { token: &made, command });
    }
    if !args.quiet {
        let uses = match made.uses {
            Some(1) => "one device".to_owned(),
            Some(uses) => format!("{uses} devices"),
            None => "any number of devices".to_owned(),
        };
        let project = match &made.project {
            Some(project) => format!("in project {project}"),
            None => "in no project, so nobody can connect to them until you add them to one".to_owned(),
        };
        let admitted = match made.admit {
            AdmitRule::Auto => "admitted at once",
            AdmitRule::Manual => "pending until `muster device admit`",
        };
        note(format!("Token {} for {uses}, {project}, {admitted}; it ends {}.", made.id, ago(now(), made.expires_at)));
        note("Run this on the device, as root; it is not shown again:");
        note("");
    }
    context.out.line(command)
}

/// The project that devices are to be in: the one in use, or the only one that there is. Where nobody knows, it is asked.
async fn meant_project(context: &Context) -> Result<Option<ProjectId>, Failure> {
    if let Some(project) = context.project() {
        return Ok(Some(project.clone()));
    }
    let mut open = project::open(context.hub(), context.org().await?).await?;
    match open.len() {
        0 | 1 => Ok(open.pop()),
        _ => {
            let list = open.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Err(Failure::usage(format!("name the project for these devices: one of {list}")).hint("use --project PROJECT, or --no-project"))
        }
    }
}

/// Serial numbers from a file, one a line; empty lines and lines that start with `#` are left out.
fn serials(path: &Path) -> Result<Vec<Serial>, Failure> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| Failure::usage(format!("cannot read the serial numbers in {}: {error}", path.display()));
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        std::io::stdin().lock().take(SERIALS_MAX + 1).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).map_err(failed)?.take(SERIALS_MAX + 1).read_to_end(&mut bytes)
    };
    if read.map_err(failed)? as u64 > SERIALS_MAX {
        return Err(Failure::usage(format!("{} is over 8 MiB", path.display())));
    }
    parse_serials(&bytes).map_err(|failure| failure.context(path.display()))
}

fn parse_serials(bytes: &[u8]) -> Result<Vec<Serial>, Failure> {
    let text = text_file::decode(bytes).map_err(|error| Failure::usage(error.to_string()))?;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with("# ") {
            continue;
        }
        found.push(line.parse().map_err(|error| Failure::usage(format!("line {}: {error}", number + 1)))?);
    }
    if found.is_empty() {
        return Err(Failure::usage("no serial numbers"));
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Whether a token can be used, and how that looks.
fn fate(token: &EnrolmentToken, now: i64) -> (&'static str, Style) {
    if token.revoked_at.is_some() {
        ("revoked", Style::Red)
    } else if token.expires_at <= now {
        ("expired", Style::Dim)
    } else if token.uses.is_some_and(|uses| token.used >= uses) {
        ("used up", Style::Dim)
    } else {
        ("usable", Style::Green)
    }
}

fn table(tokens: &[EnrolmentToken], now: i64) -> Table {
    let mut table = Table::new([
        column("ID"),
        column("STATE"),
        column("USED").right(),
        column("ADMIT").optional(2),
        column("PROJECT").optional(1),
        column("SERIALS").right().optional(3),
        column("ENDS"),
        column("MADE BY").shrinks(12).optional(5),
        column("MADE").optional(6),
        column("NOTE").shrinks(12).optional(4),
    ]);
    for token in tokens {
        let (word, style) = fate(token, now);
        let admit = RULES.iter().find(|(_, rule)| *rule == token.admit).map_or("", |(name, _)| name);
        table.row([
            styled(&token.id, Style::Bold),
            styled(word, style),
            cell(token.uses.map_or_else(|| token.used.to_string(), |uses| format!("{} of {uses}", token.used))),
            cell(admit),
            cell(token.project.as_ref().map_or("", |project| project.as_str())),
            cell(token.serials.as_ref().map(|serials| serials.len().to_string()).unwrap_or_default()),
            cell(ago(now, token.expires_at)),
            cell(&token.created_by),
            cell(ago(now, token.created_at)),
            cell(token.note.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_serials() {
        let found = parse_serials("\u{feff}SN-2\r\n\n# a note\n#7\n SN-1 \nSN-2\n".as_bytes()).unwrap();
        assert_eq!(found.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["#7", "SN-1", "SN-2"]);
        assert_eq!(parse_serials(b"\n# none\n").unwrap_err().message, "no serial numbers");
        let failure = parse_serials(format!("ok\n{}", "x".repeat(65)).as_bytes()).unwrap_err();
        assert!(failure.message.starts_with("line 2: serial number"), "{failure}");
    }

    #[test]
    fn lives() {
        assert_eq!(expires("7d"), Ok(604_800));
        assert_eq!(expires("60s"), Ok(60));
        assert!(expires("59s").is_err());
        assert!(expires("366d").is_err());
    }

    #[test]
    fn fates() {
        let token = EnrolmentToken {
            id: "abcdefghij".into(),
            token: None,
            project: None,
            uses: Some(2),
            used: 1,
            admit: AdmitRule::Auto,
            serials: None,
            note: None,
            created_by: "ann".into(),
            created_at: 0,
            expires_at: 100,
            revoked_at: None,
        };
        assert_eq!(fate(&token, 99).0, "usable");
        assert_eq!(fate(&token, 100).0, "expired");
        assert_eq!(fate(&EnrolmentToken { used: 2, ..token.clone() }, 99).0, "used up");
        assert_eq!(fate(&EnrolmentToken { revoked_at: Some(1), ..token.clone() }, 99).0, "revoked");
        assert!(table(&[token], 0).render(None, false).contains("1 of 2"));
    }
}
