//! `muster billing`, `muster credit`, `muster limit`: what use costs, what is booked, how much there may be.

use clap::{Args, Subcommand};
use muster_proto::api::{
    Billing, CreditAdd, Credits, LedgerEntry, LedgerLine, Limit, LimitEdit, LimitName, LimitScope, Limits, LimitsEdit,
};

use super::usage::SILENCE;
use crate::cli::one_of;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Block;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{local, local_ago, now};
use crate::output::units;

/// What can be limited.
const LIMITS: &[(&str, LimitName)] = &[
    ("devices", LimitName::Devices),
    ("users", LimitName::Users),
    ("projects", LimitName::Projects),
    ("sessions", LimitName::Sessions),
    ("runs", LimitName::Runs),
    ("storage", LimitName::Storage),
];

/// `muster billing`
#[derive(Debug, Args)]
#[command(after_help = "\
One credit is one US dollar. A day is charged when it is over (UTC), at the rates of the time at which things were used.

Examples:
  muster billing
  muster billing --ledger
  muster billing --ledger --csv > ledger.csv")]
pub struct BillingArgs {
    /// List charges, top-ups and corrections, newest first
    #[arg(long)]
    ledger: bool,
    /// Most lines of the ledger
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..), requires = "ledger")]
    limit: u32,
    /// Print the ledger as CSV, all of it
    #[arg(long, requires = "ledger", conflicts_with_all = ["json", "limit"])]
    csv: bool,
}

/// `muster credit`
#[derive(Debug, Args)]
pub struct CreditArgs {
    #[command(subcommand)]
    command: Option<CreditCommand>,
}

#[derive(Debug, Subcommand)]
enum CreditCommand {
    /// Book credits for an organization, as an owner of the hub
    #[command(after_help = "\
Examples:
  muster credit add 100 --org acme --note 'invoice 2026-17' --key 2026-17
  muster credit add --correction --org acme -- -12.50")]
    Add {
        /// How much, such as 100 or 12.50
        #[arg(value_name = "CREDITS", allow_negative_numbers = true)]
        credits: Credits,
        /// Make a mistake good: only then may it be less than nothing
        #[arg(long)]
        correction: bool,
        /// Why, such as the number of the invoice
        #[arg(long)]
        note: Option<String>,
        /// A name for this booking: the same one is booked once, however often it is asked for
        #[arg(long)]
        key: Option<String>,
    },
}

/// `muster limit`
#[derive(Debug, Args)]
pub struct LimitArgs {
    #[command(subcommand)]
    command: Option<LimitCommand>,
}

#[derive(Debug, Subcommand)]
enum LimitCommand {
    /// Show how much the organization may have, and has
    #[command(
        after_help = "Examples:\n  muster limit show\n  muster limit show --json | jq '.items[] | select(.name == \"devices\") | .used'"
    )]
    Show,
    /// Set a limit, or lift it with `none`
    #[command(after_help = "\
The least of what the hub allows and what the organization set for itself counts.
Storage is a size with its unit: 512MiB, 10GB, 1.5TB (GB counts in thousands, GiB and G in 1024s). The others are whole numbers.

Examples:
  muster limit set devices 500
  muster limit set storage 10GB
  muster limit set users none
  muster limit set devices 20000 --hub-owner --org acme")]
    Set {
        /// Of what
        #[arg(value_parser = one_of(LIMITS))]
        name: LimitName,
        /// The most that may be: a whole number, for storage a size such as 10GB; or `none`
        #[arg(allow_negative_numbers = true)]
        most: String,
        /// Set what the hub allows this organization, as an owner of the hub
        #[arg(long)]
        hub_owner: bool,
    },
}

/// A limit as it was typed: storage in bytes, all else counted.
fn parse_most(name: LimitName, text: &str) -> Result<Option<u64>, Failure> {
    match (text, name) {
        ("none", _) => Ok(None),
        (text, LimitName::Storage) => units::parse_bytes(text).map(Some).map_err(Failure::usage),
        (text, name) => text.parse().map(Some).map_err(|_| {
            let text = crate::output::text::clean(text);
            Failure::usage(format!("{text:?} is not a whole number, nor `none`: {} are counted", name.as_str()))
        }),
    }
}

/// Runs `muster billing`.
///
/// # Errors
/// As every call.
pub async fn billing(context: &Context, args: BillingArgs) -> Result<u8, Failure> {
    if args.csv {
        let path = context.org_path("/ledger?format=csv").await?;
        context.hub().stream(&path, SILENCE, |bytes| context.out.bytes(bytes)).await?;
    } else if args.ledger {
        let lines: Vec<LedgerLine> = context.hub().list(&context.org_path("/ledger").await?, Some(args.limit as usize)).await?;
        context.out.list(&lines, "nothing was booked yet", ledger)?;
    } else {
        let billing: Billing = context.hub().get(&context.org_path("/billing").await?).await?;
        context.out.show(&billing, block)?;
    }
    Ok(0)
}

fn block(billing: &Billing) -> Block {
    let style = if billing.balance.0 < 0 { Style::Red } else { Style::Bold };
    let mut block = Block::default()
        .styled("balance", format!("{} credits", billing.balance), style)
        .with("spent", format!("{} credits", billing.spent))
        .with("not charged yet", format!("{} credits", billing.uncharged))
        .heading("credits for one");
    for rate in &billing.rates {
        block = block.with(&rate.unit.replace('_', " "), format!("{}, since {}", rate.credits, local_ago(now(), rate.since)));
    }
    if !billing.projects.is_empty() {
        block = block.heading("spent by project");
    }
    for spent in &billing.projects {
        let name = spent.project.as_ref().map_or_else(|| "in no one project".to_owned(), ToString::to_string);
        let more = if spent.uncharged.0 == 0 { String::new() } else { format!(", {} not charged yet", spent.uncharged) };
        block = block.with(&name, format!("{}{more}", spent.credits));
    }
    block
}

fn ledger(lines: &[LedgerLine]) -> Table {
    let mut table = Table::new([
        column("BOOKED"),
        column("WHAT"),
        column("CREDITS").right(),
        column("DAY"),
        column("PROJECT"),
        column("FOR"),
        column("RATE").right().optional(2),
        column("BY").shrinks(10).optional(1),
        column("NOTE").shrinks(10),
    ]);
    for line in lines {
        let what = match line.entry {
            LedgerEntry::Charge => "charge",
            LedgerEntry::TopUp => "top-up",
            LedgerEntry::Correction => "correction",
        };
        let text = |value: Option<String>| cell(value.unwrap_or_default());
        table.row([
            cell(local(line.t)),
            cell(what),
            styled(line.credits.to_string(), if line.credits.0 < 0 { Style::Plain } else { Style::Green }),
            text(line.day.map(|day| day.to_string())),
            text(line.project.as_ref().map(ToString::to_string)),
            text(line.unit.as_ref().map(|unit| unit.replace('_', " "))),
            text(line.rate.map(|rate| rate.to_string())),
            cell(&line.actor),
            cell(line.note.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

/// Runs `muster credit`.
///
/// # Errors
/// As every call.
pub async fn credit(context: &Context, args: CreditArgs) -> Result<u8, Failure> {
    let Some(CreditCommand::Add { credits, correction, note, key }) = args.command else {
        return billing(context, BillingArgs { ledger: false, limit: 0, csv: false }).await;
    };
    let path = context.org_path("/credits").await?;
    let line: LedgerLine = context.hub().post(&path, &CreditAdd { credits, correction, note, key }).await?;
    let org = context.org().await?;
    context.out.done(&line, format!("Booked {} credits for {org}, as line {} of its ledger.", line.credits, line.id))?;
    Ok(0)
}

/// Runs `muster limit`.
///
/// # Errors
/// As every call.
pub async fn limit(context: &Context, args: LimitArgs) -> Result<u8, Failure> {
    let limits: Limits = match args.command {
        None | Some(LimitCommand::Show) => context.hub().get(&context.org_path("/limits").await?).await?,
        Some(LimitCommand::Set { name, most, hub_owner }) => {
            let most = parse_most(name, &most)?;
            let path = context.org_path("/limits").await?;
            let scope = if hub_owner { LimitScope::Hub } else { LimitScope::Own };
            context.hub().patch(&path, &LimitsEdit { scope, limits: vec![LimitEdit { name, most }] }).await?
        }
    };
    if context.out.json {
        context.out.json(&limits)?;
    } else {
        context.out.table(&limits_table(&limits.items), false, "")?;
    }
    Ok(0)
}

fn limits_table(limits: &[Limit]) -> Table {
    let mut table = Table::new([
        column("LIMIT"),
        column("USED").right(),
        column("MOST").right(),
        column("THE HUB ALLOWS").right(),
        column("OWN").right(),
    ]);
    for limit in limits {
        let number = |n: Option<u64>| match (n, limit.name) {
            (None, _) => "-".to_owned(),
            (Some(n), LimitName::Storage) => units::byte_count(n),
            (Some(n), _) => n.to_string(),
        };
        let full = limit.most.is_some_and(|most| limit.used >= most);
        let hub = format!("{}{}", number(limit.hub), if limit.hub_override { " (set)" } else { "" });
        table.row([
            styled(limit.name.as_str(), Style::Bold),
            styled(number(Some(limit.used)), if full { Style::Red } else { Style::Plain }),
            cell(number(limit.most)),
            cell(hub),
            cell(number(limit.own)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown() {
        let limit = |name, most, used| Limit { name, most, used, hub: most, hub_override: true, own: None };
        let text = limits_table(&[limit(LimitName::Devices, Some(5), 5), limit(LimitName::Storage, None, 2048)]).render(None, false);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["devices", "5", "5", "5", "(set)", "-"]);
        assert_eq!(lines[2][..4], ["storage", "2.0", "KiB", "-"]);
        let most = |name, text| parse_most(name, text).map_err(|failure| failure.message);
        assert_eq!((most(LimitName::Users, "none"), most(LimitName::Users, "7")), (Ok(None), Ok(Some(7))));
        assert_eq!((most(LimitName::Storage, "none"), most(LimitName::Storage, "1GiB")), (Ok(None), Ok(Some(1 << 30))));
        assert!(most(LimitName::Storage, "10").unwrap_err().contains("10GB"));
        assert!(most(LimitName::Devices, "10GB").unwrap_err().contains("devices are counted"));
        assert!(most(LimitName::Runs, "-1").is_err() && most(LimitName::Runs, "many").is_err());
        assert_eq!(LIMITS.len(), LimitName::ALL.len());
        assert!(LIMITS.iter().all(|(name, limit)| *name == limit.as_str()));
        let charge = LedgerLine {
            id: 1,
            t: 0,
            entry: LedgerEntry::Charge,
            credits: Credits(-200_000_000),
            day: Some("2026-11-21".parse().unwrap()),
            project: None,
            unit: Some("cpu_hour".into()),
            amount: Some(7_200_000_000),
            rate: Some(Credits(100_000_000)),
            actor: "hub".into(),
            note: None,
        };
        let text = ledger(&[charge]).render(None, false);
        assert!(text.contains("charge") && text.contains("-0.2") && text.contains("2026-11-21") && text.contains("cpu hour"), "{text}");
    }
}
