//! `muster run`: one command on one device, its output as it comes, its exit code as ours.

mod follow;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use muster_link::http::CallError;
use muster_proto::api::{PresenceState, Run, RunCreate, RunState};
use muster_proto::limits::{RUN_ORDER_EXPIRY, RUN_OUTPUT_MAX, RUN_TIMEOUT_MAX_S};
use muster_proto::problem::Code;
use muster_proto::run::RunCommand;

use crate::complete;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::note;
pub(super) use follow::{Show, follow, so_far};

/// `muster run`
#[derive(Debug, Args)]
#[command(after_help = "\
One word after `--` is a line for the device's shell; several are a program and its arguments, as they are.
It goes on without this computer. Its end is the end of all that it started. Ctrl-C ends it; a second Ctrl-C leaves it to that.
A device that is away has ten minutes to come. Whether it runs, and as whom, the device's own policy decides.
Of more output than --output the beginning and the end are kept; where it was cut is told.

Exit codes, besides the command's own and those of `muster --help`:
  120     the device's policy refused it
  121     the device did not take it within ten minutes
  122     the device lost it, as in a power cut
  123     it could not be started for another reason
  124     its time was over
  126     it may not be run on the device
  127     there is no such program on the device
  128+N   it was ended by signal N; 130 where somebody ended the run

Examples:
  muster run robot-7 -- df -h
  muster run robot-7 -- 'dmesg | tail -3'
  muster run robot-7 --timeout 10m --user operator -- /opt/robot/selftest --quick
  muster run robot-7 --detach -- /opt/robot/calibrate      prints the run's id
  muster run robot-7 --env STAGE=2 --cwd /opt/robot -- ./step")]
pub struct RunArgs {
    /// Name, serial number or uid
    #[arg(add = ArgValueCompleter::new(complete::devices))]
    device: String,
    /// The time after which it is ended, up to 24h; an hour by default
    #[arg(long, value_name = "DURATION", value_parser = timeout)]
    timeout: Option<u32>,
    /// The user on the device; the policy's own choice by default
    #[arg(long, short = 'l', value_name = "NAME")]
    user: Option<String>,
    /// The directory on the device; the user's home by default
    #[arg(long, value_name = "PATH")]
    cwd: Option<String>,
    /// A variable for its environment; several times for several
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// How much output is kept, such as 256K; at most 16M, 1M by default
    #[arg(long, value_name = "SIZE", value_parser = size)]
    output: Option<u64>,
    /// Do not wait: print the run's id
    #[arg(long, short)]
    detach: bool,
    /// The command
    #[arg(last = true, value_name = "COMMAND", required = true)]
    command: Vec<String>,
}

fn timeout(text: &str) -> Result<u32, String> {
    let seconds = crate::output::time::parse_span(text)?;
    u32::try_from(seconds).ok().filter(|seconds| (1..=RUN_TIMEOUT_MAX_S).contains(seconds)).ok_or_else(|| "it is 1s to 24h".to_owned())
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or("it looks like NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "K" | "KB" | "KIB" => 1024,
        "M" | "MB" | "MIB" => 1024 * 1024,
        _ => return Err("it looks like 4096, 256K or 4M".to_owned()),
    };
    let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(factor)).ok_or("it looks like 4096, 256K or 4M")?;
    if bytes > RUN_OUTPUT_MAX { Err("it is at most 16M".to_owned()) } else { Ok(bytes) }
}

/// Runs it.
///
/// # Errors
/// As every call; what the command itself says is its exit code.
pub async fn run(context: &Context, args: RunArgs) -> Result<u8, Failure> {
    let command = match <[String; 1]>::try_from(args.command) {
        Ok([line]) => RunCommand::Shell(line),
        Err(argv) => RunCommand::Argv(argv),
    };
    let order = RunCreate {
        command,
        project: context.project().cloned(),
        run_as: args.user,
        cwd: args.cwd,
        env: args.env.into_iter().collect::<BTreeMap<_, _>>(),
        timeout_s: args.timeout,
        output_max: args.output,
    };
    let run = start(context, &args.device, order).await?;
    if args.detach {
        context.out.done(&run, run.id.as_str())?;
        return Ok(0);
    }
    if run.state == RunState::Waiting && is_away(context, &run).await {
        let minutes = RUN_ORDER_EXPIRY.as_secs() / 60;
        note(format!("{} is not connected; it has {minutes} minutes to come and take {}. Ctrl-C takes it back", run.device_name, run.id));
    }
    let show = if context.out.json { Show::Lines } else { Show::Output };
    match follow(context, &run.id, 0, show, true).await? {
        Some(ended) => Ok(told(&ended)),
        None => {
            note(format!("{} is being ended; `muster runs show {}` tells what became of it", run.id, run.id));
            Ok(INTERRUPTED)
        }
    }
}

/// What a shell says of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

async fn start(context: &Context, device: &str, mut order: RunCreate) -> Result<Run, Failure> {
    let problem = match context.hub().try_call("POST", &context.device_path(device, "/runs").await?, Some(&order)).await {
        Ok(run) => return Ok(run),
        Err(CallError::Problem(problem)) if problem.is(Code::NotFound) || problem.is(Code::Conflict) => problem,
        Err(error) => return Err(error.into()),
    };
    // Only here is it worth a second look: a name that several bear, a typing mistake, or a device outside of the usual project.
    let found = context.device(device).await?;
    if context.insists() || order.project.as_ref().is_none_or(|project| found.projects.contains(project)) {
        return Err(problem.into());
    }
    order.project = None;
    context.hub().post(&context.device_path(found.uid.as_str(), "/runs").await?, &order).await
}

async fn is_away(context: &Context, run: &Run) -> bool {
    context.device(run.device.as_str()).await.is_ok_and(|device| device.presence != PresenceState::Online)
}

/// Says what the command's own output does not, and gives our exit code.
pub(super) fn told(run: &Run) -> u8 {
    let (code, say) = exit_code(run);
    if let Some(sentence) = say {
        note(format!("muster: {sentence}"));
    }
    code
}

fn exit_code(run: &Run) -> (u8, Option<String>) {
    let say = |what: &str| Some(format!("run {} {what}: {}", run.id, run.why));
    // The command ended by itself; the sentence has more than the code where something was left to be said.
    let own = |plain: String| (run.why != plain).then(|| format!("run {}: {}", run.id, run.why));
    match run.state {
        RunState::Done => (0, own("ended with exit code 0".into())),
        RunState::Failed => match (&run.signal, run.exit_code, run.code.as_deref()) {
            (Some(signal), ..) => (number(signal).map_or(1, |n| 128 + n), say("was ended by a signal")),
            (None, Some(code), _) => (u8::try_from(code & 0xff).unwrap_or(1), own(format!("ended with exit code {code}"))),
            (None, None, Some("not_found")) => (127, say("was not started")),
            (None, None, Some("denied")) => (126, say("was not started")),
            (None, None, _) => (123, say("was not started")),
        },
        RunState::Cancelled => (INTERRUPTED, say("was ended")),
        RunState::TimedOut => (124, say("was ended")),
        RunState::Refused => (120, say("was refused")),
        RunState::Expired => (121, say("was not taken")),
        RunState::Lost => (122, say("was lost")),
        RunState::Waiting | RunState::Running => (Exit::Failed as u8, say("is not over")),
    }
}

/// A signal's number by its name; devices say a number where they know no name.
fn number(signal: &str) -> Option<u8> {
    const NAMES: [(&str, u8); 14] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("ABRT", 6),
        ("BUS", 7),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("CONT", 18),
    ];
    let named = NAMES.iter().find(|(name, _)| *name == signal).map(|(_, number)| *number);
    named.or_else(|| signal.parse().ok()).filter(|number| *number < 128)
}

/// How long a hub may be away while somebody follows a run.
const PATIENCE: Duration = Duration::from_secs(120);

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::cmds) fn run(state: RunState) -> Run {
        Run {
            id: "rabcdefghijklmno".parse().unwrap(),
            device: "d2345abcdefghijk".parse().unwrap(),
            device_name: "robot\u{1b}-7".into(),
            user: "ann@acme.example".into(),
            project: "lab".parse().unwrap(),
            command: RunCommand::Argv(vec!["df".into(), "-h".into()]),
            run_as: None,
            cwd: None,
            env: Vec::new(),
            timeout_s: 3600,
            output_max: 1 << 20,
            state,
            why: "because".into(),
            created_at: 0,
            expires_at: 600_000,
            started_at: Some(1_000),
            ended_at: Some(62_000),
            cancelled_by: None,
            exit_code: None,
            signal: None,
            code: None,
            stdout: 2048,
            stderr: 0,
            dropped: 0,
            cpu_us: 1_500_000,
            mem_byte_ms: 61_000 << 20,
            mem_peak: 2 << 20,
        }
    }

    #[test]
    fn each_end_has_its_exit_code() {
        let failed = |change: &dyn Fn(&mut Run)| {
            let mut run = run(RunState::Failed);
            change(&mut run);
            exit_code(&run).0
        };
        for (state, code) in [
            (RunState::Done, 0),
            (RunState::Cancelled, 130),
            (RunState::TimedOut, 124),
            (RunState::Refused, 120),
            (RunState::Expired, 121),
            (RunState::Lost, 122),
        ] {
            assert_eq!(exit_code(&run(state)).0, code, "{state:?}");
        }
        assert_eq!(failed(&|run| run.exit_code = Some(3)), 3);
        assert_eq!(failed(&|run| run.exit_code = Some(255)), 255);
        assert_eq!(failed(&|run| run.signal = Some("SEGV".into())), 139);
        assert_eq!(failed(&|run| run.signal = Some("31".into())), 159);
        assert_eq!(failed(&|run| run.code = Some("not_found".into())), 127);
        assert_eq!(failed(&|run| run.code = Some("denied".into())), 126);
        assert_eq!(failed(&|_| ()), 123);
    }

    #[test]
    fn nothing_is_said_where_the_exit_code_says_it_all() {
        let plain = Run { exit_code: Some(3), why: "ended with exit code 3".into(), ..run(RunState::Failed) };
        assert_eq!(exit_code(&plain), (3, None));
        let more = Run { why: "ended with exit code 3: a process that it left behind was ended".into(), ..plain };
        assert!(exit_code(&more).1.unwrap().contains("left behind"));
    }

    #[test]
    fn sizes_and_variables() {
        assert_eq!(["0", "12", "256K", "4m"].map(|text| size(text).unwrap()), [0, 12, 256 * 1024, 4 << 20]);
        for bad in ["", "K", "-1", "1G", "17M", "99999999999999999999"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert_eq!(variable("A=b=c").unwrap(), ("A".to_owned(), "b=c".to_owned()));
        assert!(variable("A").is_err() && variable("=b").is_err());
        assert!(timeout("24h").is_ok() && timeout("25h").is_err() && timeout("0s").is_err());
    }
}
