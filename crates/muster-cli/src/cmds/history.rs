//! `muster device history` and `usage`: what a device did over time.

use std::collections::BTreeSet;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use muster_proto::Millis;
use muster_proto::api::{PresenceChange, PresenceState, Sample};

use crate::client::{PAGE_MAX, query};
use crate::complete;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{local, local_ago, now, parse_time, span};
use crate::output::units;

/// Columns that a table of usage shows unless told otherwise.
const USUAL: [&str; 7] = ["cpu", "load1", "mem", "swap", "disk:/", "net_rx", "net_tx"];

/// `muster device history`
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Name, serial number, uid or pairing code
    #[arg(add = ArgValueCompleter::new(complete::devices))]
    device: String,
    /// From when on: today, now-2h, 7d, 10:00, 2026-01-31 or 2026-01-31T12:00
    #[arg(long, visible_alias = "from", value_name = "TIME", allow_hyphen_values = true, value_parser = parse_time)]
    since: Option<Millis>,
    /// Most rows, the newest ones; 1000 at most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(PAGE_MAX)))]
    limit: u32,
}

/// `muster device usage`
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// Name, serial number, uid or pairing code
    #[arg(add = ArgValueCompleter::new(complete::devices))]
    device: String,
    /// From when on: today, now-2h, 30m, 10:00, 2026-01-31 or 2026-01-31T12:00
    #[arg(long, visible_alias = "from", value_name = "TIME", allow_hyphen_values = true, value_parser = parse_time)]
    since: Option<Millis>,
    /// Most samples, the newest ones; 1000 at most
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=i64::from(PAGE_MAX)))]
    limit: u32,
    /// Columns of the table, or `all`
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    columns: Vec<String>,
}

fn since(since: Option<Millis>) -> String {
    query([("since", since.map(|since| since.max(0).to_string()))])
}

/// When it came and went.
///
/// # Errors
/// As every call.
pub async fn history(context: &Context, args: HistoryArgs) -> Result<u8, Failure> {
    let device = context.device(&args.device).await?;
    let path = format!("{}{}", context.device_path(device.uid.as_str(), "/presence").await?, since(args.since));
    let rows: Vec<PresenceChange> = context.hub().list(&path, Some(args.limit as usize)).await?;
    context.out.list(&rows, "The device was not online in that time.", |rows| history_table(rows, now()))?;
    Ok(0)
}

fn history_table(rows: &[PresenceChange], now: Millis) -> Table {
    let mut table = Table::new([column("TIME"), column("STATE"), column("FOR").right(), column("WHY")]);
    // Newest first: a state lasted until the row above.
    let mut until = now;
    for row in rows {
        let (word, style) = match row.presence {
            PresenceState::Online => ("online", Style::Green),
            PresenceState::Offline => ("offline", Style::Plain),
            PresenceState::Never => ("never seen", Style::Dim),
        };
        table.row([
            cell(local_ago(now, row.t)),
            styled(word, style),
            cell(span(until.saturating_sub(row.t).max(0))),
            cell(why(&row.reason)),
        ]);
        until = row.t;
    }
    table
}

/// The hub's word for a change, for people; one that is not known here, such as a later version's, stays as it is.
fn why(reason: &str) -> &str {
    match reason {
        "birth" => "connected",
        "will" => "connection lost",
        "heartbeats missed" => "no heartbeats",
        "farewell: stopped" => "musterd stopped",
        "farewell: updating" => "musterd is being updated",
        other => other,
    }
}

/// Its usage.
///
/// # Errors
/// As every call.
pub async fn usage(context: &Context, args: UsageArgs) -> Result<u8, Failure> {
    let device = context.device(&args.device).await?;
    let path = format!("{}{}", context.device_path(device.uid.as_str(), "/usage").await?, since(args.since));
    let mut rows: Vec<Sample> = context.hub().list(&path, Some(args.limit as usize)).await?;
    // Oldest first, as one reads a log; by the device's own clock.
    rows.sort_by_key(|sample| sample.t);
    context.out.list(&rows, "no samples for that time", |rows| usage_table(rows, &args.columns))?;
    Ok(0)
}

fn usage_table(rows: &[Sample], wanted: &[String]) -> Table {
    let present: BTreeSet<&str> = rows.iter().flat_map(|sample| sample.values.keys().map(String::as_str)).collect();
    let wants =
        |wanted: &str, name: &str| wanted == "all" || name == wanted || name.strip_prefix(wanted).is_some_and(|rest| rest.starts_with(':'));
    let wanted: Vec<&str> = if wanted.is_empty() { USUAL.to_vec() } else { wanted.iter().map(|name| name.trim()).collect() };
    let mut names: Vec<&str> = Vec::new();
    for wanted in wanted {
        names.extend(present.iter().filter(|name| wants(wanted, name) && **name != "net_rx:lo" && **name != "net_tx:lo"));
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(*name));
    let mut table = Table::with_titles(
        [("TIME".to_owned(), column("TIME"))].into_iter().chain(names.iter().map(|name| (name.to_uppercase(), column("").right()))),
    );
    for sample in rows {
        let values = names.iter().map(|name| cell(sample.values.get(*name).map(|value| units::usage(name, *value)).unwrap_or_default()));
        table.row(std::iter::once(cell(local(sample.t))).chain(values));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_lasts_until_the_next() {
        let row = |t, presence, reason: &str| PresenceChange { t, presence, reason: reason.into() };
        let rows = [
            row(600_000, PresenceState::Online, "birth"),
            row(480_000, PresenceState::Offline, "will"),
            row(0, PresenceState::Online, "birth"),
        ];
        let text = history_table(&rows, 660_000).render(None, false);
        let cells: Vec<Vec<&str>> =
            text.lines().skip(1).map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect()).collect();
        assert_eq!(cells[0][1..], ["online", "1 min", "connected"]);
        assert_eq!(cells[1][1..], ["offline", "2 min", "connection lost"]);
        assert_eq!(cells[2][1..], ["online", "8 min", "connected"]);
    }

    #[test]
    fn columns_of_usage() {
        let sample = Sample {
            t: 0,
            boot: String::new(),
            seq: 0,
            values: [("cpu", 0.5), ("mem", 1024.0), ("net_rx:eth0", 2048.0), ("net_rx:lo", 1.0), ("battery", 80.0)]
                .map(|(name, value)| (name.to_owned(), value))
                .into(),
        };
        let head = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
            let text = usage_table(std::slice::from_ref(&sample), &wanted).render(None, false);
            text.lines().next().unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(head(&[]), ["TIME", "CPU", "MEM", "NET_RX:ETH0"]);
        assert_eq!(head(&["battery", "net_rx"]), ["TIME", "BATTERY", "NET_RX:ETH0"]);
        assert_eq!(head(&["all"]).len(), 5);
    }
}
