//! `muster runs`: which commands ran on which devices, what came of them, what they wrote; and their end.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_proto::Millis;
use muster_proto::api::{Run, RunState};
use muster_proto::id::RunId;
use muster_proto::run::RunCommand;

use super::run::{Show, follow, told};
use crate::client::query;
use crate::complete;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Block;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{ago, local_ago, now, span};
use crate::output::units::byte_count;

/// `muster runs`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
STATE is waiting, running, done, failed, cancelled, timed_out, expired, refused or lost;
or alive for those that are not over, or over.

Examples:
  muster runs
  muster runs --device robot-7 --state failed
  muster runs --state alive --json | jq -r '.[].id' | xargs -r muster runs cancel
  muster runs output rabcdefghijklmno")]
pub struct RunsArgs {
    #[command(subcommand)]
    command: Option<RunsCommand>,
    /// Only runs on this device
    #[arg(long, value_name = "DEVICE", add = ArgValueCompleter::new(complete::devices))]
    device: Option<String>,
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_parser = STATES, hide_possible_values = true)]
    state: Option<String>,
    /// Only those of this person
    #[arg(long, value_name = "EMAIL")]
    user: Option<String>,
    /// Most rows, the newest ones
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

const STATES: [&str; 11] =
    ["waiting", "running", "done", "failed", "cancelled", "timed_out", "expired", "refused", "lost", "alive", "over"];

#[derive(Debug, Subcommand)]
enum RunsCommand {
    /// Show a run
    #[command(after_help = "Examples:\n  muster runs show rabcdefghijklmno")]
    Show {
        /// Its id
        #[arg(value_name = "RUN", add = ArgValueCompleter::new(complete::runs))]
        id: RunId,
    },
    /// Print what a run wrote, and exit as it did
    #[command(after_help = "Examples:\n  muster runs output rabcdefghijklmno\n  muster runs output rabcdefghijklmno --follow")]
    Output {
        /// Its id
        #[arg(value_name = "RUN", add = ArgValueCompleter::new(complete::runs))]
        id: RunId,
        /// Go on until it is over; Ctrl-C leaves the run alone
        #[arg(long, short)]
        follow: bool,
    },
    /// End runs, with all that they started
    #[command(after_help = "Examples:\n  muster runs cancel rabcdefghijklmno")]
    Cancel {
        /// Their ids, as `muster runs` shows them
        #[arg(value_name = "RUN", required = true, add = ArgValueCompleter::new(complete::runs))]
        ids: Vec<RunId>,
    },
}

/// Lists, shows, prints or ends them.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: RunsArgs) -> Result<u8, Failure> {
    match args.command {
        None => list(context, args).await,
        Some(RunsCommand::Show { id }) => {
            let run: Run = context.hub().get(&context.org_path(&format!("/runs/{id}")).await?).await?;
            context.out.show(&run, |run| block(run, now()))?;
            Ok(0)
        }
        Some(RunsCommand::Output { id, follow }) => output(context, &id, follow).await,
        Some(RunsCommand::Cancel { ids }) => {
            super::decide::each(&ids, async |id| {
                let run: Run = context.hub().post(&context.org_path(&format!("/runs/{id}/cancel")).await?, &()).await?;
                context.out.line(if run.state.is_over() { format!("Ended {id}.") } else { format!("{id} is {}.", run.why) })
            })
            .await
        }
    }
}

async fn list(context: &Context, args: RunsArgs) -> Result<u8, Failure> {
    let device = match &args.device {
        Some(name) => Some(context.device(name).await?.uid),
        None => None,
    };
    let nothing = if args.device.is_none() && args.state.is_none() && args.user.is_none() { "no runs" } else { "no such runs" };
    let filter = query([("device", device.map(String::from)), ("state", args.state), ("user", args.user)]);
    let runs: Vec<Run> = context.hub().list(&format!("{}{filter}", context.org_path("/runs").await?), Some(args.limit as usize)).await?;
    context.out.list(&runs, nothing, |runs| table(runs, now()))?;
    Ok(0)
}

async fn output(context: &Context, id: &RunId, wait: bool) -> Result<u8, Failure> {
    let run: Run = context.hub().get(&context.org_path(&format!("/runs/{id}")).await?).await?;
    let show = if context.out.json { Show::Lines } else { Show::Output };
    if !wait && !run.state.is_over() {
        // What is there so far; its end is not waited for.
        super::run::so_far(context, id, show).await?;
        return Ok(told(&run));
    }
    Ok(follow(context, id, 0, show, false).await?.map_or(0, |run| told(&run)))
}

fn state(run: &Run) -> (&'static str, Style) {
    let style = match run.state {
        RunState::Waiting => Style::Yellow,
        RunState::Running => Style::Green,
        RunState::Done | RunState::Cancelled => Style::Dim,
        RunState::Failed | RunState::TimedOut | RunState::Expired | RunState::Refused | RunState::Lost => Style::Red,
    };
    (run.state.as_str(), style)
}

fn lasted(run: &Run, now: Millis) -> Option<i64> {
    Some(run.ended_at.unwrap_or(now).saturating_sub(run.started_at?).max(0))
}

/// The command as one could type it.
fn line(command: &RunCommand) -> String {
    match command {
        RunCommand::Shell(text) => text.clone(),
        RunCommand::Argv(argv) => argv.iter().map(|arg| quoted(arg)).collect::<Vec<_>>().join(" "),
    }
}

fn quoted(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) { arg.to_owned() } else { format!("'{}'", arg.replace('\'', "'\\''")) }
}

fn table(runs: &[Run], now: Millis) -> Table {
    let mut table = Table::new([
        column("RUN"),
        column("DEVICE").shrinks(10),
        column("USER").shrinks(10),
        column("STATE"),
        column("CODE").right().optional(6),
        column("ASKED"),
        column("LASTED").right().optional(5),
        column("CPU").right().optional(3),
        column("PROJECT").optional(4),
        column("COMMAND").shrinks(16),
    ]);
    for run in runs {
        let (word, style) = state(run);
        let code = run.exit_code.map(|code| code.to_string()).or_else(|| run.signal.clone()).unwrap_or_default();
        table.row([
            styled(run.id.as_str(), Style::Bold),
            cell(&run.device_name),
            cell(&run.user),
            styled(word, style),
            cell(code),
            cell(ago(now, run.created_at)),
            cell(lasted(run, now).map(span).unwrap_or_default()),
            cell(cpu(run)),
            cell(run.project.as_str()),
            cell(line(&run.command)),
        ]);
    }
    table
}

fn cpu(run: &Run) -> String {
    match run.cpu_us {
        0 => String::new(),
        us if us < 1_000_000 => format!("{} ms", us / 1000),
        us => span(i64::try_from(us / 1000).unwrap_or(i64::MAX)),
    }
}

fn block(run: &Run, now: Millis) -> Block {
    let (word, style) = state(run);
    let over = run.state.is_over();
    // Bytes times milliseconds, as a mean over the time that it ran.
    let mean = lasted(run, now).and_then(|ms| run.mem_byte_ms.checked_div(ms.unsigned_abs())).filter(|_| over);
    Block::default()
        .styled("run", run.id.as_str(), Style::Bold)
        .styled("state", word, style)
        .with("why", &run.why)
        .with("command", line(&run.command))
        .with("device", format!("{} ({})", run.device_name, run.device))
        .with("user", &run.user)
        .with("project", run.project.as_str())
        .maybe("as", run.run_as.as_deref())
        .maybe("in", run.cwd.as_deref())
        .maybe("environment", (!run.env.is_empty()).then(|| run.env.join(" ")))
        .with("asked", local_ago(now, run.created_at))
        .maybe("started", run.started_at.map(|t| local_ago(now, t)))
        .maybe("ended", run.ended_at.map(|t| local_ago(now, t)))
        .maybe("lasted", lasted(run, now).map(span))
        .with("time limit", span(i64::from(run.timeout_s) * 1000))
        .maybe("ended by", run.cancelled_by.as_deref())
        .maybe("exit code", run.exit_code.map(|code| code.to_string()))
        .maybe("signal", run.signal.as_deref())
        .maybe("output", over.then(|| byte_count(run.stdout)))
        .maybe("standard error", over.then(|| byte_count(run.stderr)))
        .maybe("cut out", (run.dropped > 0).then(|| byte_count(run.dropped)))
        .maybe("processor time", (run.cpu_us > 0).then(|| cpu(run)))
        .maybe("memory, mean", mean.filter(|mean| *mean > 0).map(byte_count))
        .maybe("memory, most", (run.mem_peak > 0).then(|| byte_count(run.mem_peak)))
}

#[cfg(test)]
mod tests {
    use super::super::run::tests::run;
    use super::*;

    #[test]
    fn a_row_and_a_page() {
        let mut failed = run(RunState::Failed);
        failed.exit_code = Some(3);
        failed.command = RunCommand::Argv(["echo", "a b", "it's", ""].map(str::to_owned).to_vec());
        let text = table(std::slice::from_ref(&failed), 600_000).render(None, false);
        let row = text.lines().nth(1).unwrap();
        assert!(row.contains("robot\\x1b-7") && row.contains("failed") && row.contains("1 min"), "{row}");
        assert!(row.ends_with("echo 'a b' 'it'\\''s' ''"), "{row}");
        let page = block(&failed, 600_000).render(false);
        for wanted in
            ["why             because", "exit code       3", "processor time  1 s", "memory, mean    1.0 MiB", "memory, most    2.0 MiB"]
        {
            assert!(page.contains(wanted), "{wanted}\n{page}");
        }
        assert!(!block(&run(RunState::Waiting), 0).render(false).contains("exit code"));
    }
}
