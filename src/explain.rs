//! `musterd policy explain`: whether the policy allows something, as whom, by which lines, and which of them rest on the hub's word.
//!
//! The answer comes from the same walk as the decision itself.

use std::process::ExitCode;

use clap::Args;
use muster_link::{errln, out, outln};
use muster_proto::run::{RunCommand, RunStart};
use serde_json::json;

use crate::config::Config;
use crate::policy::{self, Decision, Explanation, Line, Moment, Policy, ROLES, Request, Target};

/// Refused.
const REFUSED: u8 = 1;
/// Wrong usage.
const USAGE: u8 = 2;
/// Everything but a device's own word on its visitors is unknown here, such as how long a command may take.
const SHORTEST_S: u32 = 1;

/// What is asked.
#[derive(Debug, Args)]
pub(crate) struct Question {
    /// The account, such as ada@example.com
    #[arg(long)]
    user: String,
    /// The role in the project: connect, operate, maintain, admin
    #[arg(long)]
    role: String,
    /// session, terminal, terminal:USER, HOST:PORT, tcp:HOST:PORT, unix:/PATH, run:COMMAND
    #[arg(long)]
    target: String,
    /// As which user of the device a command is to run; for a terminal write terminal:USER
    #[arg(long = "as", value_name = "USER")]
    as_user: Option<String>,
    /// When, such as "2026-12-01 22:00" in the policy's time zone or 2026-12-01T21:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// A target as it was written.
#[derive(Debug, PartialEq)]
enum Wanted {
    Session,
    Terminal(Option<String>),
    Tcp(String, u16),
    Unix(String),
    Run(Box<RunStart>),
}

/// The whole answer.
struct Answer {
    explanation: Explanation,
    asks: bool,
    own_user: bool,
    clock: Option<String>,
    synchronised: bool,
}

/// Answers.
pub(crate) fn run(config: &Config, question: &Question) -> ExitCode {
    let wanted = match check(question) {
        Ok(wanted) => wanted,
        Err(why) => return usage(&why),
    };
    let policy = match policy::load(&config.policy) {
        Ok(policy) => policy,
        Err(fault) => {
            if question.json {
                outln!("{}", json!({"allowed": false, "code": fault.code, "message": fault.message, "lines": []}));
            } else {
                outln!("Refused ({}): {}", fault.code, fault.message);
            }
            return ExitCode::from(REFUSED);
        }
    };
    let moment = match question.at.as_deref().map(|at| policy.moment_of(at)) {
        None => policy::moment(),
        // Who asks of another time asks what a clock that is right would let through.
        Some(Some(now)) => Moment { now, synchronised: true },
        Some(None) => return usage("--at: write the time as \"2026-12-01 22:00\" or 2026-12-01T21:00:00Z"),
    };
    let answer = answer(&policy, question, &wanted, moment);
    if question.json {
        outln!("{}", in_json(&answer));
    } else {
        out!("{}", in_words(&answer, &config.policy.display().to_string()));
    }
    match answer.explanation.decision {
        Decision::Allow(_) => ExitCode::SUCCESS,
        Decision::Refuse { .. } => ExitCode::from(REFUSED),
    }
}

fn usage(why: &str) -> ExitCode {
    errln!("musterd: {why}");
    ExitCode::from(USAGE)
}

fn check(question: &Question) -> Result<Wanted, String> {
    if question.role != "view" && !ROLES.contains(&question.role.as_str()) {
        return Err(format!("--role: {:?} is none of view, {}", question.role, ROLES.join(", ")));
    }
    let wanted = target(question)?;
    if question.as_user.is_some() && !matches!(wanted, Wanted::Run(_)) {
        return Err("--as goes with run:COMMAND; for a terminal write terminal:USER, connections are made as the first user".into());
    }
    Ok(wanted)
}

fn target(question: &Question) -> Result<Wanted, String> {
    let text = question.target.as_str();
    let form = "--target: write session, terminal, terminal:USER, HOST:PORT, tcp:HOST:PORT, unix:/PATH or run:COMMAND";
    let tcp = |text: &str| match text.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) if !host.is_empty() => Ok(Wanted::Tcp(host.to_owned(), port)),
        _ => Err(form.to_owned()),
    };
    match text.split_once(':') {
        None if text == "session" => Ok(Wanted::Session),
        None if text == "terminal" => Ok(Wanted::Terminal(None)),
        Some(("terminal", user)) if !user.is_empty() => Ok(Wanted::Terminal(Some(user.to_owned()))),
        Some(("tcp", rest)) => tcp(rest),
        Some(("unix", path)) if path.starts_with('/') => Ok(Wanted::Unix(path.to_owned())),
        Some(("run", command)) if !command.trim().is_empty() => Ok(Wanted::Run(Box::new(RunStart {
            command: RunCommand::Argv(command.split_whitespace().map(str::to_owned).collect()),
            run_as: question.as_user.clone(),
            cwd: None,
            env: [].into(),
            timeout_s: SHORTEST_S,
            output_max: 0,
            user: question.user.clone(),
            project: "explain".parse().map_err(|_| form)?,
            role: question.role.clone(),
            t: 0,
            expires: 0,
        }))),
        Some(("session" | "terminal" | "unix" | "run", _)) | None => Err(form.to_owned()),
        Some(_) => tcp(text),
    }
}

fn answer(policy: &Policy, question: &Question, wanted: &Wanted, moment: Moment) -> Answer {
    let target = match wanted {
        Wanted::Session => Target::Session,
        Wanted::Terminal(user) => Target::Terminal { user: user.as_deref() },
        Wanted::Tcp(host, port) => Target::Tcp { host, port: *port },
        Wanted::Unix(path) => Target::Unix { path },
        Wanted::Run(start) => Target::Run { start },
    };
    let mut explanation = policy.explain(&Request { user: &question.user, role: &question.role, target }, moment);
    let limits = policy.limits();
    let (none, key, code) = match wanted {
        Wanted::Run(_) => (limits.runs == 0, "run.at_once", "policy_runs"),
        _ => (limits.sessions == 0, "limits.sessions", "policy_sessions"),
    };
    // Counted where sessions and runs are, and not by the walk; but none at all is no matter of counting.
    if none && matches!(explanation.decision, Decision::Allow(_)) {
        explanation.lines.push(Line { key: key.into(), value: "0".into(), allows: false, hubs_word: false });
        explanation.decision = Decision::Refuse { code, message: format!("This device's policy allows none at all ({key} = 0).") };
    }
    let of_time = question.at.is_some() || explanation.lines.iter().any(|line| line.key.starts_with("when."));
    Answer {
        explanation,
        asks: policy.asks() && !matches!(wanted, Wanted::Terminal(_) | Wanted::Tcp(..) | Wanted::Unix(_)),
        own_user: policy.own_user(),
        clock: policy.clock(moment.now).filter(|_| of_time),
        synchronised: moment.synchronised,
    }
}

fn in_words(answer: &Answer, file: &str) -> String {
    let Answer { explanation, asks, own_user, clock, synchronised } = answer;
    let mut text = match &explanation.decision {
        Decision::Allow(grant) => match &grant.become_user {
            Some(user) => format!("Allowed, as {user}.\n"),
            None if *own_user => "Allowed, as the user that runs musterd.\n".into(),
            None => "Allowed.\n".into(),
        },
        Decision::Refuse { code, message } => format!("Refused ({code}): {message}\n"),
    };
    if *asks && matches!(explanation.decision, Decision::Allow(_)) {
        text += "A person at the device must approve it first ([ask] ask = true).\n";
    }
    if let Some(clock) = clock {
        let doubt = if *synchronised { "" } else { ", by a clock that is not synchronised" };
        text += &format!("At {clock}{doubt}.\n");
    }
    text += &format!("Lines of {file}, and defaults:\n");
    let width = explanation.lines.iter().map(|line| line.key.len()).max().unwrap_or_default();
    for Line { key, value, allows, hubs_word } in &explanation.lines {
        let mark = if *hubs_word { '*' } else { ' ' };
        let refuses = if *allows { "" } else { "   refuses" };
        text += &format!(" {mark} {key:width$} = {value}{refuses}\n");
    }
    if explanation.lines.iter().any(|line| line.hubs_word) {
        text += " * rests on the hub's word: the hub says which account and role a person has.\n";
    }
    text
}

fn in_json(answer: &Answer) -> serde_json::Value {
    let Answer { explanation, asks, own_user, clock, synchronised } = answer;
    let lines: Vec<_> = explanation
        .lines
        .iter()
        .map(|line| json!({"key": line.key, "value": line.value, "allows": line.allows, "hubs_word": line.hubs_word}))
        .collect();
    let mut whole = json!({"asks": asks, "own_user": own_user, "at": clock, "synchronised": synchronised, "lines": lines});
    match &explanation.decision {
        Decision::Allow(grant) => {
            whole["allowed"] = true.into();
            whole["as"] = grant.become_user.clone().into();
        }
        Decision::Refuse { code, message } => {
            whole["allowed"] = false.into();
            whole["code"] = (*code).into();
            whole["message"] = message.as_str().into();
        }
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(target: &str) -> Question {
        Question { user: "ada@example.com".into(), role: "admin".into(), target: target.into(), as_user: None, at: None, json: false }
    }

    fn explained(policy: &str, question: &Question) -> Answer {
        let policy = Policy::parse(policy).unwrap();
        answer(&policy, question, &check(question).unwrap(), Moment { now: 1_795_435_200_000, synchronised: true })
    }

    #[test]
    fn targets_are_read_as_they_are_written() {
        let of = |text: &str| check(&question(text));
        assert_eq!(of("session"), Ok(Wanted::Session));
        assert_eq!(of("terminal"), Ok(Wanted::Terminal(None)));
        assert_eq!(of("terminal:root"), Ok(Wanted::Terminal(Some("root".into()))));
        assert_eq!(of("tcp:localhost:22"), Ok(Wanted::Tcp("localhost".into(), 22)));
        assert_eq!(of("10.0.0.1:80"), Ok(Wanted::Tcp("10.0.0.1".into(), 80)));
        assert_eq!(of("[::1]:80"), Ok(Wanted::Tcp("[::1]".into(), 80)));
        assert_eq!(of("unix:/run/app.sock"), Ok(Wanted::Unix("/run/app.sock".into())));
        let Ok(Wanted::Run(start)) = of("run:/usr/bin/df -h") else { panic!() };
        assert_eq!(start.command, RunCommand::Argv(vec!["/usr/bin/df".into(), "-h".into()]));
        for bad in ["", "shell", "terminal:", "session:x", "unix:relative", "run:", "run: ", "host", "host:", ":22", "host:99999", "tcp:22"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
        let odd = Question { role: "boss".into(), ..question("session") };
        assert!(check(&odd).unwrap_err().contains("view, connect, operate, maintain, admin"));
        let odd = Question { as_user: Some("pi".into()), ..question("terminal") };
        assert!(check(&odd).is_err());
    }

    #[test]
    fn the_answer_names_the_lines_and_the_hubs_word() {
        let policy = "[users.roles]\nadmin = [\"root\", \"pi\"]\n[ask]\nask = true\n[when]\nwindows = [\"mon 06:00-18:00\"]\n";
        let said = in_words(&explained(policy, &question("terminal:pi")), "FILE");
        let want = "Allowed, as pi.\nAt 2026-11-23 12:00 UTC.\nLines of FILE, and defaults:\n \
                    * who.roles         = [\"connect\", \"operate\", \"maintain\", \"admin\"]\n   \
                    when.windows      = mon 06:00-18:00 (UTC)\n   terminal.allow    = true\n \
                    * terminal.roles    = [\"connect\", \"operate\", \"maintain\", \"admin\"]\n \
                    * users.roles.admin = [\"root\", \"pi\"]\n \
                    * rests on the hub's word: the hub says which account and role a person has.\n";
        assert_eq!(said, want);
        let said = in_words(&explained(policy, &question("run:df")), "FILE");
        assert!(said.starts_with("Allowed, as root.\nA person at the device must approve it first"), "{said}");
        let said = in_words(&explained(policy, &Question { as_user: Some("ada".into()), ..question("run:df") }), "FILE");
        assert!(said.starts_with("Refused (policy_run_as): ") && said.contains("[\"root\", \"pi\"]   refuses\n"), "{said}");
        let said = in_words(&explained("own_user = true\n", &question("terminal")), "FILE");
        assert!(said.starts_with("Allowed, as the user that runs musterd.\nLines of"), "{said}");
    }

    #[test]
    fn none_at_all_is_refused_here_too() {
        let policy = "[users]\ndefault = \"pi\"\n[limits]\nsessions = 0\n[run]\nat_once = 0\n";
        for (target, code) in [("session", "policy_sessions"), ("terminal", "policy_sessions"), ("run:df", "policy_runs")] {
            let whole = in_json(&explained(policy, &question(target)));
            assert_eq!((whole["allowed"].as_bool(), whole["code"].as_str()), (Some(false), Some(code)), "{target}");
            assert_eq!(whole["lines"].as_array().unwrap().last().unwrap()["allows"], false);
        }
    }

    #[test]
    fn programs_read_it_as_json() {
        let whole = in_json(&explained("[users]\ndefault = \"pi\"\n", &question("localhost:22")));
        assert_eq!((whole["allowed"].as_bool(), whole["as"].as_str(), whole["at"].is_null()), (Some(true), Some("pi"), true));
        assert_eq!(whole["lines"][1], json!({"key": "tcp.allow", "value": "\"localhost:*\"", "allows": true, "hubs_word": false}));
    }
}
