//! The command as a process: which program, as whom, where, with which environment; and in words why it could not be started.

use std::io::{self, ErrorKind};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use muster_proto::run::{RunCommand, RunEnd, RunOutcome};
use rustix::process::{Pid, Signal, set_parent_process_death_signal, setsid};

use super::processes::MARK;
use crate::account::Account;
use crate::guard::Hidden;
use crate::runs::folder::Job;

/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A started command and what it writes.
pub(super) struct Started {
    pub(super) pid: Pid,
    pub(super) stdout: std::process::ChildStdout,
    pub(super) stderr: std::process::ChildStderr,
}

/// Starts it, as the leader of a session of its own.
pub(super) fn start(job: &Job, account: &Account, hidden: &Hidden) -> io::Result<Started> {
    let mut command = command(job, account)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    lead_session(&mut command);
    hidden.bind(&mut command)?;
    let mut child = command.spawn()?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    match (pid, child.stdout.take(), child.stderr.take()) {
        (Some(pid), Some(stdout), Some(stderr)) => Ok(Started { pid, stdout, stderr }),
        _ => Err(io::Error::other("the process has no number or no output")),
    }
}

#[expect(unsafe_code, reason = "between fork and exec only async-signal-safe calls may be made: these system calls are")]
fn lead_session(command: &mut Command) {
    let prepare = || {
        setsid()?;
        // A supervisor that is killed takes at least its own child with it at once.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        Ok(())
    };
    // SAFETY: the closure makes system calls, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(prepare);
    }
}

fn command(job: &Job, account: &Account) -> io::Result<Command> {
    let start = &job.start;
    let command = match (&job.run_as, &start.command) {
        (Some(_), _) if !account.is_root => {
            let why = format!("the device's daemon runs as {} and cannot become another user", account.name);
            return Err(io::Error::new(ErrorKind::PermissionDenied, why));
        }
        (Some(user), wanted) => {
            // `su` knows the system's accounts, groups and limits, and clears the environment: what was asked for is set behind it.
            let mut command = Command::new("su");
            let there = start.cwd.as_deref().unwrap_or_default();
            let variables = variables(job).map(|(name, value)| format!("{name}={value}"));
            let enter = "d=$1; shift; [ -z \"$d\" ] || cd -- \"$d\" || exit 126; exec env \"$@\"";
            command.args(["-s", "/bin/sh", "-l", "-c", enter, "--", user, "sh", there]).args(variables);
            match wanted {
                RunCommand::Argv(argv) => command.args(argv),
                RunCommand::Shell(text) => command.args(["sh", "-c", text]),
            };
            command.env_clear().env("PATH", PATH);
            command.current_dir("/");
            return Ok(command);
        }
        (None, RunCommand::Argv(argv)) => {
            let mut command = Command::new(argv.first().map_or("", String::as_str));
            command.args(argv.iter().skip(1));
            command
        }
        (None, RunCommand::Shell(text)) => {
            let mut command = Command::new(&account.shell);
            command.args(["-c", text]);
            command
        }
    };
    let mut command = command;
    command.env_clear().env("PATH", PATH).env("HOME", &account.home).env("SHELL", &account.shell);
    command.env("USER", &account.name).env("LOGNAME", &account.name);
    for name in ["LANG", "LC_ALL", "TZ"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(variables(job));
    match &start.cwd {
        Some(cwd) => command.current_dir(cwd),
        None => command.current_dir(if account.home.is_dir() { account.home.as_path() } else { "/".as_ref() }),
    };
    Ok(command)
}

/// What was asked for, and our own, which nobody overrides: by the mark the run's processes are found again.
fn variables(job: &Job) -> impl Iterator<Item = (&str, &str)> {
    let ours = [(MARK, job.run.as_str()), ("MUSTER_VISITOR", job.start.user.as_str())];
    job.start.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain(ours)
}

/// Why it could not be started, for the user.
pub(super) fn failure(job: &Job, error: &io::Error) -> RunEnd {
    let program = match &job.start.command {
        RunCommand::Argv(argv) => argv.first().map_or("", String::as_str),
        RunCommand::Shell(_) => "the shell",
    };
    let place = job.start.cwd.as_deref().filter(|cwd| !std::path::Path::new(cwd).is_dir());
    let (code, message) = match (error.kind(), place) {
        (_, Some(cwd)) => ("not_found", format!("there is no directory {cwd:?} on the device, or it may not be entered")),
        (ErrorKind::NotFound, None) => ("not_found", format!("there is no program {program:?} on the device")),
        (ErrorKind::PermissionDenied, None) => ("denied", format!("{program:?} may not be run on the device: {error}")),
        (_, None) => ("failed", format!("{program:?} could not be started on the device: {error}")),
    };
    RunEnd::without_process(RunOutcome::Failed, code, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runs::folder::Arrival;
    use muster_proto::run::RunStart;

    fn job(run_as: Option<&str>, command: RunCommand) -> Job {
        Job {
            run: "raaaaaaaaaaaaaaa".parse().unwrap(),
            start: RunStart {
                command,
                run_as: run_as.map(str::to_owned),
                cwd: Some("/tmp".into()),
                env: [("A".to_owned(), "1 2".to_owned()), (MARK.to_owned(), "forged".to_owned())].into(),
                timeout_s: 1,
                output_max: 1,
                user: "ada@example.com".into(),
                project: "lab".parse().unwrap(),
                role: "operate".into(),
                t: 0,
                expires: 1,
            },
            run_as: run_as.map(str::to_owned),
            control: "/x".into(),
            arrival: Arrival { hub: 0, steady: 0, left: 0, boot: String::new() },
            log_level: String::new(),
        }
    }

    fn account(is_root: bool) -> Account {
        Account { name: "musterd".into(), home: "/nowhere".into(), shell: "/bin/sh".into(), is_root }
    }

    fn words(command: &Command) -> Vec<String> {
        std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn arguments_are_passed_as_they_are_and_a_text_goes_to_the_shell() {
        let argv = RunCommand::Argv(vec!["echo".into(), "a b".into(), "$HOME".into()]);
        let command_of = |run_as, wanted| command(&job(run_as, wanted), &account(true)).unwrap();
        let plain = command_of(None, argv.clone());
        assert_eq!(words(&plain), ["echo", "a b", "$HOME"]);
        let variable = |name: &str| plain.get_envs().find(|(known, _)| *known == name).and_then(|(_, value)| Some(value?.to_owned()));
        assert_eq!(variable("A").unwrap(), "1 2");
        assert_eq!(variable(MARK).unwrap(), "raaaaaaaaaaaaaaa", "the mark cannot be forged");
        assert_eq!(words(&command_of(None, RunCommand::Shell("echo $A".into()))), ["/bin/sh", "-c", "echo $A"]);
        let other = words(&command_of(Some("operator"), argv));
        assert_eq!(other[..4], ["su", "-s", "/bin/sh", "-l"]);
        assert_eq!(other[6..9], ["--", "operator", "sh"]);
        assert_eq!(
            other[9..],
            ["/tmp", "A=1 2", "MUSTER_RUN=forged", "MUSTER_RUN=raaaaaaaaaaaaaaa", "MUSTER_VISITOR=ada@example.com", "echo", "a b", "$HOME"]
        );
    }

    #[test]
    fn nobody_but_root_becomes_another() {
        let error = command(&job(Some("operator"), RunCommand::Shell("id".into())), &account(false)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }
}
