//! `muster usage`: what an organization, a project or a device used, by day.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use clap_complete::engine::ArgValueCompleter;
use jiff::tz::TimeZone;
use muster_proto::api::{Day, Usage, UsageDay, Used};

use crate::cli::Globals;
use crate::client::query;
use crate::complete;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{now, parse_time_at, span};
use crate::output::units;

/// The longest silence while a file comes.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// `muster usage`
#[derive(Debug, Args)]
#[command(after_help = "\
Days are days of UTC, by the hub's clock. Sums count nothing twice: what belongs to no one project stands under \"-\".

Examples:
  muster usage
  muster usage --from 2026-11-01 --to 2026-11-30 --by project
  muster usage --project lab --from 7d --by device
  muster usage --from 90d --csv > usage.csv")]
pub struct UsageArgs {
    /// First day: 2026-11-01, yesterday, or a time back from now such as 7d; 30 days by default
    #[arg(long, visible_alias = "since", value_name = "DAY", allow_hyphen_values = true, value_parser = parse_day)]
    from: Option<Day>,
    /// Last day, which counts too; today by default
    #[arg(long, visible_alias = "until", value_name = "DAY", allow_hyphen_values = true, value_parser = parse_day)]
    to: Option<Day>,
    /// What the rows are about
    #[arg(long, value_enum, default_value_t)]
    by: By,
    /// Only of this device: its name, serial number or uid
    #[arg(long, add = ArgValueCompleter::new(complete::devices))]
    device: Option<String>,
    /// Print CSV, a row for each day and project or device
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum By {
    /// Each day
    #[default]
    Day,
    /// Each project, over all days
    Project,
    /// Each device, over all days
    Device,
}

/// A day of UTC, or the one in which a time lies.
fn parse_day(text: &str) -> Result<Day, String> {
    match parse_time_at(text, now(), &TimeZone::UTC) {
        Ok(t) if t >= 0 => Ok(Day::of(t)),
        Ok(_) => Err(format!("{text:?} lies before 1970")),
        Err(_) => Err(format!("{text:?} is not a day: write 2026-01-31, today, yesterday, or a time back such as 7d")),
    }
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, globals: &Globals, args: UsageArgs) -> Result<u8, Failure> {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from > to
    {
        return Err(Failure::usage(format!("--from {from} is after --to {to}")));
    }
    // A project that was named on the line: its admins see its usage, and nothing else of the organization's.
    let below = match context.project().filter(|_| globals.project_on_line) {
        Some(project) => format!("/projects/{project}/usage"),
        None => "/usage".to_owned(),
    };
    let by = match args.by {
        By::Day => None,
        By::Project => Some("project".to_owned()),
        By::Device => Some("device".to_owned()),
    };
    let path = format!(
        "{}{}",
        context.org_path(&below).await?,
        query([
            ("from", args.from.map(|day| day.to_string())),
            ("to", args.to.map(|day| day.to_string())),
            ("by", by),
            ("device", args.device),
            // The table has no days then; the file has all of them.
            ("whole", (args.by != By::Day && !args.csv && !context.out.json).then(|| "true".to_owned())),
            ("format", args.csv.then(|| "csv".to_owned())),
        ])
    );
    if args.csv {
        context.hub().stream(&path, SILENCE, |bytes| context.out.bytes(bytes)).await?;
        return Ok(0);
    }
    let usage: Usage = context.hub().get(&path).await?;
    if context.out.json {
        context.out.json(&usage)?;
        return Ok(0);
    }
    let table = table(&usage, args.by);
    context.out.table(&table, usage.items.is_empty(), &format!("nothing was used from {} to {}", usage.from, usage.to))?;
    Ok(0)
}

fn table(usage: &Usage, by: By) -> Table {
    let first = match by {
        By::Day => column("DAY"),
        By::Project => column("PROJECT"),
        By::Device => column("DEVICE").shrinks(10),
    };
    let mut table = Table::new([
        first,
        column("ACTIVE").right(),
        column("SESSIONS").right(),
        column("TO DEVICES").right(),
        column("FROM DEVICES").right(),
        column("RUNS").right(),
        column("AT ONCE").right().optional(2),
        column("CPU HOURS").right(),
        column("GIB HOURS").right(),
        column("STORED").right(),
        column("USERS").right().optional(1),
    ]);
    let days = usage.to.number() - usage.from.number() + 1;
    for (name, used, of_days) in rows(usage, by, days) {
        let mut cells = vec![styled(name, Style::Bold)];
        cells.extend(numbers(&used, of_days).map(cell));
        table.row(cells);
    }
    let mut cells = vec![styled("total", Style::Dim)];
    cells.extend(numbers(&usage.total, days).map(cell));
    table.row(cells);
    table
}

/// Name, use, and over how many days.
fn rows(usage: &Usage, by: By, days: i64) -> Vec<(String, Used, i64)> {
    if by == By::Day {
        return usage.items.iter().map(|row| (row.day.to_string(), row.used.clone(), 1)).collect();
    }
    let name = |row: &UsageDay| match by {
        By::Device => row.device_name.clone().or_else(|| row.device.as_ref().map(ToString::to_string)),
        _ => row.project.as_ref().map(ToString::to_string),
    };
    let mut parts: BTreeMap<(String, String), Used> = BTreeMap::new();
    for row in &usage.items {
        let key = row.device.as_ref().map(ToString::to_string).unwrap_or_default();
        add(parts.entry((name(row).unwrap_or_else(|| "-".to_owned()), key)).or_default(), &row.used);
    }
    // What counts for the whole alone, such as the most runs at once, stands in the total.
    parts.retain(|(name, device), used| name != "-" || !device.is_empty() || !only_of_the_whole(used));
    parts.into_iter().map(|((name, _), used)| (name, used, days)).collect()
}

/// Whether nothing is told but what has no parts: the most at once, and how many people there were.
fn only_of_the_whole(used: &Used) -> bool {
    let Used { runs_peak, members, collaborators, service_accounts, .. } = *used;
    *used == Used { runs_peak, members, collaborators, service_accounts, ..Used::default() }
}

fn add(sum: &mut Used, used: &Used) {
    sum.active_devices = sum.active_devices.saturating_add(used.active_devices);
    sum.session_ms = sum.session_ms.saturating_add(used.session_ms);
    sum.to_device = sum.to_device.saturating_add(used.to_device);
    sum.to_client = sum.to_client.saturating_add(used.to_client);
    sum.runs = sum.runs.saturating_add(used.runs);
    sum.runs_peak = sum.runs_peak.max(used.runs_peak);
    sum.cpu_us = sum.cpu_us.saturating_add(used.cpu_us);
    sum.memory_kib_ms = sum.memory_kib_ms.saturating_add(used.memory_kib_ms);
    sum.storage_byte_minutes = sum.storage_byte_minutes.saturating_add(used.storage_byte_minutes);
    sum.members = sum.members.max(used.members);
    sum.collaborators = sum.collaborators.max(used.collaborators);
    sum.service_accounts = sum.service_accounts.max(used.service_accounts);
}

fn numbers(used: &Used, days: i64) -> [String; 10] {
    let count = |n: u64| if n == 0 { String::new() } else { n.to_string() };
    let size = |n: u64| if n == 0 { String::new() } else { units::byte_count(n) };
    // What was stored on average over the days.
    let stored = used.storage_byte_minutes / (u64::try_from(days).unwrap_or(1).max(1) * 24 * 60);
    [
        count(used.active_devices),
        if used.session_ms == 0 { String::new() } else { span(i64::try_from(used.session_ms).unwrap_or(i64::MAX)) },
        size(used.to_device),
        size(used.to_client),
        count(used.runs),
        count(used.runs_peak),
        hours(used.cpu_us, 3_600_000_000),
        hours(used.memory_kib_ms, 1024 * 1024 * 3_600_000),
        size(stored),
        count(used.members.saturating_add(used.collaborators).saturating_add(used.service_accounts)),
    ]
}

/// A quotient with two digits after the point, rounded; empty for nothing.
fn hours(amount: u64, per: u64) -> String {
    if amount == 0 {
        return String::new();
    }
    let hundredths = (u128::from(amount) * 100 + u128::from(per) / 2) / u128::from(per);
    if hundredths == 0 { "<0.01".to_owned() } else { format!("{}.{:02}", hundredths / 100, hundredths % 100) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_totals() {
        let day = |day: &str, project: Option<&str>, session_ms, cpu_us| UsageDay {
            day: day.parse().unwrap(),
            project: project.map(|id| id.parse().unwrap()),
            device: None,
            device_name: None,
            used: Used { session_ms, cpu_us, storage_byte_minutes: 2048 * 1440, ..Used::default() },
        };
        let items = vec![
            day("2026-11-21", Some("lab"), 60_000, 1_800_000_000),
            day("2026-11-22", Some("lab"), 60_000, 0),
            day("2026-11-22", None, 0, 1),
        ];
        let total = Used { session_ms: 120_000, cpu_us: 1_800_000_001, storage_byte_minutes: 3 * 2048 * 1440, ..Used::default() };
        let usage = Usage { from: "2026-11-21".parse().unwrap(), to: "2026-11-22".parse().unwrap(), items, total };
        let text = table(&usage, By::Project).render(None, false);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["-", "<0.01", "1.0", "KiB"]);
        assert_eq!(lines[2], ["lab", "2", "min", "0.50", "2.0", "KiB"]);
        assert_eq!(lines[3], ["total", "2", "min", "0.50", "3.0", "KiB"]);
        let peak = UsageDay { used: Used { runs_peak: 3, members: 2, ..Used::default() }, ..day("2026-11-22", None, 0, 0) };
        let mut whole = Usage { items: vec![day("2026-11-22", Some("lab"), 60_000, 0), peak], ..usage.clone() };
        whole.total.runs_peak = 3;
        let text = table(&whole, By::Project).render(None, false);
        assert_eq!(text.lines().count(), 3, "what counts for the whole alone has no row without a name: {text}");
        assert_eq!(table(&usage, By::Day).render(None, false).lines().count(), 5);
        assert_eq!((hours(0, 1), hours(5_400_000_000, 3_600_000_000)), (String::new(), "1.50".to_owned()));
        assert_eq!(parse_day("2026-11-22").unwrap().to_string(), "2026-11-22");
        assert_eq!(parse_day("2026-11-22T23:59:00Z").unwrap().to_string(), "2026-11-22");
        assert!(["7d", "today", "yesterday", "now-90d"].iter().all(|text| parse_day(text).is_ok()));
        for bad in ["monday", "-1", "2026-13-01", "2026-02-30", "1969-12-31"] {
            assert!(parse_day(bad).is_err(), "{bad}");
        }
    }
}
