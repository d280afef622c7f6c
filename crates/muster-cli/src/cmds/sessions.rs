//! `muster sessions` and `session`: who is, and was, connected to which device.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_proto::Millis;
use muster_proto::api::{Session, SessionState};
use muster_proto::id::SessionId;

use crate::client::query;
use crate::complete;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Block;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{ago, local_ago, now, span};
use crate::output::units::byte_count;

/// Rows of a list when nobody says how many.
const ROWS: u32 = 50;

/// `muster sessions`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  muster sessions
  muster sessions --all --device robot-7
  muster sessions --json | jq -r '.[].id' | xargs -r muster session end")]
pub struct SessionsArgs {
    /// Only sessions to this device
    #[arg(long, value_name = "DEVICE", add = ArgValueCompleter::new(complete::devices))]
    device: Option<String>,
    /// Also those that ended
    #[arg(long, short)]
    all: bool,
    /// Most rows, the newest ones
    #[arg(long, value_name = "N", default_value_t = ROWS, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// `muster session`
#[derive(Debug, Args)]
pub struct SessionArgs {
    #[command(subcommand)]
    command: Option<SessionCommand>,
}

#[derive(Debug, Subcommand)]
enum SessionCommand {
    /// Show a session
    #[command(after_help = "Examples:\n  muster session show sabcdefghijklmno")]
    Show {
        /// Its id
        #[arg(value_name = "SESSION")]
        id: SessionId,
    },
    /// End sessions at once
    #[command(after_help = "Examples:\n  muster session end sabcdefghijklmno")]
    End {
        /// Their ids, as `muster sessions` shows them
        #[arg(value_name = "SESSION", required = true)]
        ids: Vec<SessionId>,
    },
}

/// Lists them.
///
/// # Errors
/// As every call.
pub async fn list(context: &Context, args: SessionsArgs) -> Result<u8, Failure> {
    let device = match &args.device {
        Some(name) => Some(context.device(name).await?.uid),
        None => None,
    };
    let state = (!args.all).then(|| "alive".to_owned());
    let path = format!("{}{}", context.org_path("/sessions").await?, query([("device", device.map(String::from)), ("state", state)]));
    let sessions: Vec<Session> = context.hub().list(&path, Some(args.limit as usize)).await?;
    let nothing = if args.all { "no sessions" } else { "no open sessions; --all shows those that ended" };
    context.out.list(&sessions, nothing, |sessions| table(sessions, now()))?;
    Ok(0)
}

/// Shows or ends one.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: SessionArgs) -> Result<u8, Failure> {
    let Some(command) = args.command else {
        return list(context, SessionsArgs { device: None, all: false, limit: ROWS }).await;
    };
    match command {
        SessionCommand::Show { id } => {
            let session: Session = context.hub().get(&context.org_path(&format!("/sessions/{id}")).await?).await?;
            context.out.show(&session, |session| block(session, now()))?;
            Ok(0)
        }
        SessionCommand::End { ids } => {
            super::decide::each(&ids, async |id| {
                context.hub().delete(&context.org_path(&format!("/sessions/{id}")).await?).await?;
                context.out.line(format!("Ended {id}."))
            })
            .await
        }
    }
}

fn state(session: &Session) -> (&'static str, Style) {
    match session.state {
        SessionState::Opening => ("opening", Style::Yellow),
        SessionState::Open => ("open", Style::Green),
        SessionState::Interrupted => ("interrupted", Style::Yellow),
        SessionState::Ended => ("ended", Style::Dim),
    }
}

fn lasted(session: &Session, now: Millis) -> Option<i64> {
    Some(session.ended_at.unwrap_or(now).saturating_sub(session.opened_at?).max(0))
}

fn table(sessions: &[Session], now: Millis) -> Table {
    let mut table = Table::new([
        column("SESSION"),
        column("DEVICE").shrinks(10),
        column("USER").shrinks(10),
        column("FOR").optional(5),
        column("STATE"),
        column("ASKED"),
        column("LASTED").right().optional(4),
        column("TO DEVICE").right().optional(6),
        column("FROM DEVICE").right().optional(6),
        column("PROJECT").optional(7),
        column("REASON").shrinks(12).optional(8),
        column("WHY IT ENDED").shrinks(16).optional(3),
    ]);
    for session in sessions {
        let (word, style) = state(session);
        table.row([
            styled(session.id.as_str(), Style::Bold),
            cell(&session.device_name),
            cell(&session.user),
            cell(session.want.as_deref().unwrap_or_default()),
            styled(word, style),
            cell(ago(now, session.created_at)),
            cell(lasted(session, now).map(span).unwrap_or_default()),
            cell(byte_count(session.to_device)),
            cell(byte_count(session.to_client)),
            cell(session.project.as_str()),
            cell(session.reason.as_deref().unwrap_or_default()),
            cell(session.end_reason.as_deref().unwrap_or_default()),
        ]);
    }
    table
}

fn block(session: &Session, now: Millis) -> Block {
    let (word, style) = state(session);
    Block::default()
        .styled("session", session.id.as_str(), Style::Bold)
        .styled("state", word, style)
        .with("device", format!("{} ({})", session.device_name, session.device))
        .with("user", &session.user)
        .with("project", session.project.as_str())
        .maybe("for", session.want.as_deref())
        .maybe("reason", session.reason.as_deref())
        .with("asked", local_ago(now, session.created_at))
        .maybe("opened", session.opened_at.map(|t| local_ago(now, t)))
        .maybe("ended", session.ended_at.map(|t| local_ago(now, t)))
        .maybe("why it ended", session.end_reason.as_deref())
        .maybe("lasted", lasted(session, now).map(span))
        .with("to the device", byte_count(session.to_device))
        .with("from the device", byte_count(session.to_client))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_and_a_page() {
        let session = Session {
            id: "sabcdefghijklmno".parse().unwrap(),
            device: "d2345abcdefghijk".parse().unwrap(),
            device_name: "robot\u{1b}-7".into(),
            user: "ann@acme.example".into(),
            project: "lab".parse().unwrap(),
            want: Some("ssh".into()),
            reason: None,
            state: SessionState::Ended,
            created_at: 0,
            opened_at: Some(1_000),
            ended_at: Some(181_000),
            end_reason: Some("closed by the client".into()),
            to_device: 2048,
            to_client: 3 << 20,
        };
        let text = table(std::slice::from_ref(&session), 600_000).render(None, false);
        let row = text.lines().nth(1).unwrap();
        assert!(row.contains("robot\\x1b-7") && row.contains("3 min") && row.contains("2.0 KiB") && row.contains("3.0 MiB"), "{row}");
        assert!(block(&session, 600_000).render(false).contains("why it ended     closed by the client"));
    }
}
