//! `muster audit`: who did what, from where, with which result.

use std::time::Duration;

use clap::Args;
use muster_proto::Millis;
use muster_proto::api::{AuditEvent, Page};
use serde_json::Value;

use crate::client::query;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::devices::fact;
use crate::output::note;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::text::escape_json;
use crate::output::time::{local, parse_time};

/// Rows of a table when nobody says how many.
const USUAL: u32 = 50;
/// The hub says at least every 15 s that it is there.
const SILENCE: Duration = Duration::from_secs(60);
/// Seconds before a stream that broke is asked for again, by how often it broke without a word.
const AGAIN_S: [u64; 5] = [1, 2, 4, 8, 15];

/// `muster audit`
#[derive(Debug, Args)]
#[command(after_help = "\
Newest first. WHO and ON look for a part of the text, WHAT for its beginning.
With --follow events come as they happen, oldest first; a connection that breaks is made again, and nothing is missed.

Examples:
  muster audit
  muster audit --since 7d --action device.
  muster audit --since yesterday --until today
  muster audit --actor ann@example.com --json
  muster audit --since 30d --csv > audit.csv
  muster audit --follow --result refused")]
pub struct AuditArgs {
    /// From when on: yesterday, now-1h, 7d, 10:00, 2026-01-31 or 2026-01-31T12:00
    #[arg(long, visible_alias = "from", value_name = "TIME", allow_hyphen_values = true, value_parser = parse_time)]
    since: Option<Millis>,
    /// Before when, written in the same way
    #[arg(long, visible_alias = "to", value_name = "TIME", allow_hyphen_values = true, value_parser = parse_time, conflicts_with = "follow")]
    until: Option<Millis>,
    /// Who: an e-mail, device:UID or hub
    #[arg(long, value_name = "WHO")]
    actor: Option<String>,
    /// What, such as device.admit or session.
    #[arg(long, value_name = "WHAT")]
    action: Option<String>,
    /// On what
    #[arg(long, value_name = "ON")]
    target: Option<String>,
    /// How it ended: ok, refused, or a problem's code such as forbidden
    #[arg(long, value_name = "RESULT", conflicts_with = "refused")]
    result: Option<String>,
    /// Only what was refused or failed
    #[arg(long)]
    refused: bool,
    /// Most rows; 50 in a table, all in a file
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "follow")]
    limit: Option<u32>,
    /// Show events as they happen, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Print CSV, all that fits the filters
    #[arg(long, conflicts_with_all = ["json", "follow"])]
    csv: bool,
}

impl AuditArgs {
    fn query(&self, more: impl IntoIterator<Item = (&'static str, Option<String>)>) -> String {
        let result = if self.refused { Some("refused".to_owned()) } else { self.result.clone() };
        let own = [
            ("actor", self.actor.clone()),
            ("action", self.action.clone()),
            ("target", self.target.clone()),
            ("result", result),
            ("since", self.since.map(|t| t.max(0).to_string())),
            ("until", self.until.map(|t| t.max(0).to_string())),
        ];
        query(own.into_iter().chain(more))
    }
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: AuditArgs) -> Result<u8, Failure> {
    if args.follow {
        return follow(context, &args).await;
    }
    let path = context.org_path("/audit").await?;
    if args.csv {
        let path = format!("{path}{}", args.query([("format", Some("csv".to_owned())), ("limit", args.limit.map(|n| n.to_string()))]));
        context.hub().stream(&path, SILENCE, |bytes| context.out.bytes(bytes)).await?;
        return Ok(0);
    }
    let most = args.limit.unwrap_or(USUAL) as usize;
    let events: Vec<AuditEvent> = context.hub().list(&format!("{path}{}", args.query([])), Some(most)).await?;
    context.out.list(&events, "No events match these filters.", table)?;
    Ok(0)
}

/// What comes on a stream of events.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Line {
    Event(Box<AuditEvent>),
    Note { note: String },
}

async fn follow(context: &Context, args: &AuditArgs) -> Result<u8, Failure> {
    let path = context.org_path("/audit").await?;
    let (mut after, mut failures) = (None::<i64>, 0);
    loop {
        // Begun with the newest that is there, so that a path that breaks before the first event leaves no hole either.
        if after.is_none() && args.since.is_none() {
            let newest: Page<AuditEvent> = context.hub().get(&format!("{path}?limit=1")).await?;
            after = Some(newest.items.first().map_or(0, |event| event.id));
        }
        let address = format!("{path}{}", args.query([("follow", Some("true".to_owned())), ("after", after.map(|id| id.to_string()))]));
        let (mut rest, mut ended) = (Vec::new(), None);
        let came = context.hub().stream(&address, SILENCE, |bytes| {
            failures = 0;
            rest.extend_from_slice(bytes);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                match serde_json::from_slice(&line) {
                    Ok(Line::Event(event)) => {
                        after = Some(event.id);
                        show(context, &event)?;
                    }
                    Ok(Line::Note { note }) => ended = Some(note),
                    // An empty line says that the hub is there.
                    Err(_) => {}
                }
            }
            Ok(())
        });
        match came.await {
            Ok(()) => match ended {
                // Whether it may go on is for the hub to say, at the next request.
                Some(why) => note(why),
                None => note("the hub ended the stream; it is asked for again"),
            },
            Err(failure) if failure.exit == Exit::Unreachable as u8 => note(format!("{failure}; it is tried again")),
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(Duration::from_secs(AGAIN_S[failures.min(AGAIN_S.len() - 1)])).await;
        failures += 1;
    }
}

fn show(context: &Context, event: &AuditEvent) -> Result<(), Failure> {
    if context.out.json {
        let line = serde_json::to_string(event).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        return context.out.raw(&format!("{}\n", escape_json(&line)));
    }
    let from = event.from.as_deref().map(|from| format!(" from {from}")).unwrap_or_default();
    let (time, details) = (local(event.t), details(event));
    context.out.line(format!("{time}  {}  {}  {}  {}{from}  {details}", event.actor, event.action, event.target, event.result).trim_end())
}

fn details(event: &AuditEvent) -> String {
    match &event.details {
        Value::Null => String::new(),
        Value::Object(fields) => {
            let told = fields.iter().filter(|(_, value)| !value.is_null());
            told.map(|(name, value)| format!("{name}={}", fact(value))).collect::<Vec<_>>().join(" ")
        }
        other => fact(other),
    }
}

fn table(events: &[AuditEvent]) -> Table {
    let mut table = Table::new([
        column("TIME"),
        column("WHO").shrinks(12),
        column("WHAT"),
        column("ON").shrinks(12),
        column("RESULT"),
        column("FROM").optional(1),
        column("DETAILS").shrinks(12).optional(2),
    ]);
    for event in events {
        table.row([
            cell(local(event.t)),
            styled(&event.actor, Style::Bold),
            cell(&event.action),
            cell(&event.target),
            styled(&event.result, if event.result == "ok" { Style::Green } else { Style::Red }),
            cell(event.from.as_deref().unwrap_or_default()),
            styled(details(event), Style::Dim),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_queries() {
        let event = AuditEvent {
            id: 7,
            t: 1000,
            actor: "ann@acme.example".into(),
            action: "device.admit".into(),
            target: "d2345abcdefghijk".into(),
            from: Some("10.0.0.7:1234".into()),
            result: "forbidden".into(),
            details: serde_json::json!({"name": "robot\n7", "none": null, "projects": ["lab", "x"]}),
        };
        let args = AuditArgs {
            since: Some(1000),
            until: None,
            actor: Some("ann@x".into()),
            action: None,
            target: None,
            result: None,
            refused: true,
            limit: None,
            follow: false,
            csv: false,
        };
        assert_eq!(args.query([("after", Some("7".to_owned()))]), "?actor=ann%40x&result=refused&since=1000&after=7");
        let note = serde_json::from_str("{\"note\":\"over\"}").unwrap();
        assert!(matches!(note, Line::Note { note } if note == "over"));
        let line = serde_json::to_string(&event).unwrap();
        assert!(matches!(serde_json::from_str(&line).unwrap(), Line::Event(event) if event.id == 7));
        let text = table(&[event]).render(None, false);
        assert!(text.contains("name=robot\\n7 projects=lab, x"), "{text}");
    }
}
