//! `muster audit`: who did what, from where, with which result.

use clap::Args;
use muster_proto::Millis;
use muster_proto::api::AuditEvent;
use serde_json::Value;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::devices::fact;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{local, parse_since};

/// `muster audit`
#[derive(Debug, Args)]
#[command(after_help = "\
Newest first. Filters look for a part of the text.

Examples:
  muster audit
  muster audit --since 7d --action device.
  muster audit --actor ann@example.com --json")]
pub struct AuditArgs {
    /// From when on, such as 24h or 2026-01-31
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Millis>,
    /// Who: an e-mail, device:UID or hub
    #[arg(long)]
    actor: Option<String>,
    /// What, such as device.admit or session.
    #[arg(long)]
    action: Option<String>,
    /// On what
    #[arg(long)]
    target: Option<String>,
    /// Only what was refused or failed
    #[arg(long)]
    refused: bool,
    /// Most rows
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

impl AuditArgs {
    fn passes(&self, event: &AuditEvent) -> bool {
        let has = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| text.contains(wanted.as_str()));
        has(&self.actor, &event.actor)
            && has(&self.action, &event.action)
            && has(&self.target, &event.target)
            && (!self.refused || event.result != "ok")
            && self.since.is_none_or(|since| event.t >= since)
    }

    fn is_selective(&self) -> bool {
        self.since.is_some() || self.actor.is_some() || self.action.is_some() || self.target.is_some() || self.refused
    }
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: AuditArgs) -> Result<u8, Failure> {
    let path = context.org_path("/audit").await?;
    let most = args.limit as usize;
    let mut events: Vec<AuditEvent> = if args.is_selective() {
        context
            .hub()
            .list_while(&path, most, |event: &AuditEvent| (args.passes(event), args.since.is_none_or(|since| event.t >= since)))
            .await?
    } else {
        context.hub().list(&path, Some(most)).await?
    };
    events.truncate(most);
    context.out.list(&events, "nothing was done, as far as these filters go", table)?;
    Ok(0)
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
        let details = match &event.details {
            Value::Null => String::new(),
            Value::Object(fields) => fields
                .iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| format!("{name}={}", fact(value)))
                .collect::<Vec<_>>()
                .join(" "),
            other => fact(other),
        };
        table.row([
            cell(local(event.t)),
            styled(&event.actor, Style::Bold),
            cell(&event.action),
            cell(&event.target),
            styled(&event.result, if event.result == "ok" { Style::Green } else { Style::Red }),
            cell(event.from.as_deref().unwrap_or_default()),
            styled(details, Style::Dim),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_and_rows() {
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
        let none = AuditArgs { since: None, actor: None, action: None, target: None, refused: false, limit: 50 };
        assert!(none.passes(&event) && !none.is_selective());
        assert!(AuditArgs { actor: Some("ann".into()), action: Some("device.".into()), refused: true, ..none }.passes(&event));
        let none = AuditArgs { since: Some(1001), actor: None, action: None, target: None, refused: false, limit: 50 };
        assert!(!none.passes(&event));
        let text = table(&[event]).render(None, false);
        assert!(text.contains("name=robot\\n7 projects=lab, x"), "{text}");
    }
}
