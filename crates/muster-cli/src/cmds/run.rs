//! `muster run`: one command on one device, its output as it comes, its exit code as ours.

mod follow;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use muster_link::http::CallError;
use muster_proto::api::{PresenceState, Run, RunCreate, RunState};
use muster_proto::limits::{RUN_OUTPUT_MAX, RUN_TIMEOUT_MAX_S, RUN_WAIT_MAX_S};
use muster_proto::problem::Code;
use muster_proto::run::RunCommand;

use crate::complete;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::note;
use crate::output::text::shell_word;
pub(super) use follow::{Show, follow, so_far};

/// `muster run`
#[derive(Debug, Args)]
#[command(after_help = "\
Several words after `--` are a program and its arguments, as they are. So is one plain word. One word with spaces or
other characters that a shell interprets is a line for the device's shell.
The command goes on without this computer. When it ends, everything that it started ends too. Ctrl-C ends it.
An offline device has ten minutes to come online, or --wait. The device's own policy decides whether it runs, and as which user.
If there is more output than --output, the beginning and the end are kept.

Exit codes, besides the command's own and those of `muster --help`:
  120     the device's policy refused it
  121     the device was offline, or did not take it in time
  122     the device lost it, as in a power cut
  123     it could not be started for another reason, such as a missing directory
  124     its time was over
  126     it may not be run on the device
  127     there is no such program on the device
  128+N   signal N ended it; 130 if a person ended the run

Examples:
  muster run robot-7 -- df -h
  muster run robot-7 -- 'dmesg | tail -3'
  muster run robot-7 --timeout 10m --user operator -- /opt/robot/selftest --quick
  muster run robot-7 --wait 0s -- uptime                   fails at once if the device is offline
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
    /// How long an offline device has to come online, up to 10m; 0s fails at once
    #[arg(long, value_name = "DURATION", value_parser = wait, default_value = "10m", hide_default_value = true)]
    wait: u32,
    /// Print the run's id, and don't wait for the end
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

fn wait(text: &str) -> Result<u32, String> {
    let seconds = if text == "0" { 0 } else { crate::output::time::parse_span(text)? };
    u32::try_from(seconds).ok().filter(|seconds| *seconds <= RUN_WAIT_MAX_S).ok_or_else(|| "it is 0s to 10m".to_owned())
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
    let command = command(args.command);
    if args.wait == 0 {
        let device = context.device(&args.device).await?;
        if device.presence != PresenceState::Online {
            let name = crate::output::text::clean(&device.name).into_owned();
            return Err(Failure { exit: NOT_TAKEN, message: format!("{name} is offline: {}", device.why), hint: None });
        }
    }
    let order = RunCreate {
        command,
        project: context.project().cloned(),
        run_as: args.user,
        cwd: args.cwd,
        env: args.env.into_iter().collect::<BTreeMap<_, _>>(),
        timeout_s: args.timeout,
        output_max: args.output,
        // Without a wait: as long as an order takes to a device that is online.
        wait_s: Some(if args.wait == 0 { AT_ONCE_S } else { args.wait }),
    };
    let run = start(context, &args.device, order).await?;
    if args.detach {
        context.out.done(&run, run.id.as_str())?;
        return Ok(0);
    }
    if run.state == RunState::Waiting && is_away(context, &run).await {
        let wait = crate::output::time::span(run.expires_at - run.created_at);
        note(format!("{} is offline. Run {} waits for it for {wait}; Ctrl-C cancels it.", run.device_name, run.id));
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

/// Several words are a program and its arguments, and so is a single plain one: a policy that names programs knows it then. Anything
/// else in one word is a line for the device's shell.
fn command(words: Vec<String>) -> RunCommand {
    match <[String; 1]>::try_from(words) {
        Ok([line]) if shell_word(&line) != line || line.contains('=') => RunCommand::Shell(line),
        Ok([program]) => RunCommand::Argv(vec![program]),
        Err(argv) => RunCommand::Argv(argv),
    }
}

/// Exit code: the device did not take it.
const NOT_TAKEN: u8 = 121;
/// How long an order may be on its way to a device that is online.
const AT_ONCE_S: u32 = 10;
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
        RunState::Expired => (NOT_TAKEN, say("was not taken")),
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
    fn one_plain_word_is_a_program() {
        let of = |words: &[&str]| command(words.iter().map(|word| (*word).to_owned()).collect());
        for program in ["uptime", "/usr/bin/uptime", "./step"] {
            assert_eq!(of(&[program]), RunCommand::Argv(vec![program.to_owned()]));
        }
        for line in ["dmesg | tail", "ls *", "$SHELL", "A=1", "a;b", "a&", "~/step", "\"a\"", "a\nb", "!x", "{a,b}", "[ab]*", "#x"] {
            assert_eq!(of(&[line]), RunCommand::Shell(line.to_owned()));
        }
        assert_eq!(of(&["echo", "$HOME"]), RunCommand::Argv(vec!["echo".to_owned(), "$HOME".to_owned()]));
    }

    #[test]
    fn waits() {
        assert_eq!(["0", "0s", "30s", "10m"].map(wait), [Ok(0), Ok(0), Ok(30), Ok(600)]);
        assert!(wait("11m").is_err() && wait("x").is_err() && wait("").is_err());
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
