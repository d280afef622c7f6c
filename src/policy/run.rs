//! What the owner says of runs: whether, for which roles, which commands, how many and how long. Pure.
//!
//! Without a `[run]` section a run is allowed where terminals are, from the role `operate` on:
//! whoever has a terminal can type the same command there, so it gives nothing more; and an owner who forbade terminals
//! is not surprised by an update. As whom it runs stands in `[users]`, as for everything.

use muster_proto::limits::RUN_TIMEOUT_MAX_S;
use muster_proto::run::{RunCommand, RunStart};

use super::decide::{Asked, Refusal, list, unless};
use super::{ROLES, roles};
use crate::settings::Settings;

/// Runs at once, unless the policy says otherwise: a small device has few cores.
const AT_ONCE_DEFAULT: u32 = 4;

/// The `[run]` section.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rules {
    allow: bool,
    /// The section says so itself, or else `[terminal]` does.
    allow_key: &'static str,
    roles: Vec<String>,
    commands: Option<Vec<Pattern>>,
    at_once: u32,
    timeout_s: u32,
}

/// A command line: a program and its arguments, and whether more may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pattern {
    words: Vec<String>,
    open: bool,
}

impl Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        let open = words.last().is_some_and(|word| word == "*");
        if open {
            words.pop();
        }
        match words.first() {
            Some(program) if super::is_plain_path(program) => Ok(Self { words, open }),
            _ => Err("it begins with the absolute path of a program".into()),
        }
    }

    fn text(&self) -> String {
        let open = if self.open { " *" } else { "" };
        format!("{}{open}", self.words.join(" "))
    }

    fn fits(&self, argv: &[String]) -> bool {
        argv.starts_with(&self.words) && (self.open || argv.len() == self.words.len())
    }
}

impl Rules {
    /// Reads the section. `terminal` is what `[terminal] allow` says.
    pub(super) fn read(settings: &mut Settings, terminal: bool) -> Self {
        let mut section = settings.section("run");
        let commands = section.texts("commands").map(|texts| super::parsed(&mut section, "commands", &texts, Pattern::parse));
        let allow = section.flag("allow");
        let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
        Self {
            allow: allow.unwrap_or(terminal),
            allow_key: if allow.is_some() { "run.allow" } else { "terminal.allow" },
            // Connect, the first, may have a terminal and no run.
            roles: roles(&mut section, &ROLES[1..]),
            commands,
            at_once: number(section.number("at_once", 0..=1000)).unwrap_or(AT_ONCE_DEFAULT),
            timeout_s: number(section.number("timeout_s", 1..=i64::from(RUN_TIMEOUT_MAX_S))).unwrap_or(RUN_TIMEOUT_MAX_S),
        }
    }

    /// How many at once.
    pub(super) fn at_once(&self) -> u32 {
        self.at_once
    }

    /// Weighs an order, after the rules of `[who]` and `[when]` and before that of `[users]`.
    pub(super) fn weigh(&self, role: &str, start: &RunStart, asked: &mut Asked) -> Result<(), Refusal> {
        let allow = unless(self.allow, || {
            Refusal::new("policy_run", "This device's policy does not allow runs ([run] allow, or else [terminal] allow, is false).")
        });
        asked.own(self.allow_key, self.allow.to_string(), allow)?;
        let may = unless(self.roles.iter().any(|allowed| allowed == role), || {
            Refusal::new("policy_role", format!("This device's policy does not let the project role {role:?} run commands ([run] roles)."))
        });
        asked.hubs("run.roles", list(&self.roles), may)?;
        let short = unless(start.timeout_s <= self.timeout_s, || {
            let most = self.timeout_s;
            Refusal::new(
                "policy_timeout",
                format!("This device's policy lets a command run for {most} s at most ([run] timeout_s): ask for less."),
            )
        });
        asked.own("run.timeout_s", self.timeout_s.to_string(), short)?;
        let Some(commands) = &self.commands else { return Ok(()) };
        let texts: Vec<String> = commands.iter().map(Pattern::text).collect();
        let named = matches!(&start.command, RunCommand::Argv(argv) if commands.iter().any(|pattern| pattern.fits(argv)));
        // Variables such as LD_PRELOAD, and files in the present directory, would make another command of it.
        let plain = start.env.is_empty() && start.cwd.is_none();
        let answer = unless(named, || Refusal::new("policy_command", "This device's policy does not name this command in [run] commands."))
            .and_then(|()| {
                unless(plain, || {
                    Refusal::new(
                        "policy_environment",
                        "This device's policy names the commands that may be run ([run] commands), so you cannot choose their environment \
                         or directory.",
                    )
                })
            });
        asked.own("run.commands", list(&texts), answer)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Decision, Moment, Policy, Request, Target};
    use super::*;

    const USERS: &str = "[users]\ndefault = [\"pi\", \"robot\"]\n";

    fn start(argv: &[&str]) -> RunStart {
        RunStart {
            command: RunCommand::Argv(argv.iter().map(|arg| (*arg).to_owned()).collect()),
            run_as: None,
            cwd: None,
            env: [].into(),
            timeout_s: 60,
            output_max: 1,
            user: "ada@example.com".into(),
            project: "lab".parse().unwrap(),
            role: "operate".into(),
            t: 0,
            expires: 1,
        }
    }

    #[track_caller]
    fn check(policy: &str, role: &str, start: &RunStart, want: &str) {
        let text = format!("{USERS}{policy}");
        let request = Request { user: "ada@example.com", role, target: Target::Run { start } };
        let policy = Policy::parse(&text).unwrap();
        let code = match policy.decide(&request, Moment { now: 0, synchronised: true }) {
            Decision::Allow(grant) => format!("as {}", grant.become_user.unwrap()),
            Decision::Refuse { code, .. } => code.to_owned(),
        };
        assert_eq!(code, want, "{text:?} {role} {start:?}");
    }

    #[test]
    fn the_default_follows_terminals() {
        let plain = start(&["df"]);
        check("", "operate", &plain, "as pi");
        check("", "admin", &plain, "as pi");
        check("", "connect", &plain, "policy_role");
        check("[terminal]\nallow = false\n", "operate", &plain, "policy_run");
        check("[terminal]\nallow = false\n[run]\nallow = true\n", "operate", &plain, "as pi");
        check("[terminal]\nroles = [\"admin\"]\n", "operate", &plain, "as pi");
        check("[run]\nallow = false\n", "admin", &plain, "policy_run");
        check("[who]\nroles = [\"admin\"]\n", "operate", &plain, "policy_role");
        check("[who]\nusers = [\"bob@example.com\"]\n", "operate", &plain, "policy_user");
    }

    #[test]
    fn as_whom_and_how_long() {
        let as_whom = |user: &str| RunStart { run_as: Some(user.into()), ..start(&["df"]) };
        check("", "operate", &as_whom("pi"), "as pi");
        check("", "operate", &as_whom("robot"), "as robot");
        check("", "operate", &as_whom("root"), "policy_run_as");
        check("[users.roles]\nadmin = \"root\"\n", "operate", &as_whom("root"), "policy_run_as");
        check("[users.roles]\nadmin = \"root\"\n", "admin", &as_whom("root"), "as root");
        check("[run]\ntimeout_s = 59\n", "operate", &start(&["df"]), "policy_timeout");
        check("[run]\nroles = [\"admin\"]\n", "maintain", &start(&["df"]), "policy_role");
    }

    #[test]
    fn only_named_commands_where_some_are_named() {
        let policy = "[run]\ncommands = [\"/usr/bin/df -h\", \"/opt/selftest *\", \"/usr/bin/uptime\"]\n";
        let cases: [(&[&str], &str); 8] = [
            (&["/usr/bin/df", "-h"], "as pi"),
            (&["/usr/bin/df"], "policy_command"),
            (&["/usr/bin/df", "-h", "/"], "policy_command"),
            (&["df", "-h"], "policy_command"),
            (&["/opt/selftest"], "as pi"),
            (&["/opt/selftest", "--quick", "a b"], "as pi"),
            (&["/usr/bin/uptime"], "as pi"),
            (&["/usr/bin/uptime", "-p"], "policy_command"),
        ];
        for (argv, want) in cases {
            check(policy, "operate", &start(argv), want);
        }
        let shell = RunStart { command: RunCommand::Shell("/usr/bin/uptime".into()), ..start(&[]) };
        check(policy, "operate", &shell, "policy_command");
        let loaded = RunStart { env: [("LD_PRELOAD".to_owned(), "/tmp/x.so".to_owned())].into(), ..start(&["/usr/bin/uptime"]) };
        check(policy, "operate", &loaded, "policy_environment");
        check("[run]\ncommands = []\n", "operate", &start(&["/usr/bin/uptime"]), "policy_command");
    }

    #[test]
    fn mistakes_have_their_keys() {
        let text = "[run]\nallow = 1\nroles = [\"connect\"]\nusers = [\"pi\"]\ncommands = [\"df\"]\nat_once = -1\ntimeout_s = 0\n";
        let mut keys: Vec<String> = Policy::parse(text).unwrap_err().0.into_iter().map(|mistake| mistake.key).collect();
        keys.sort();
        assert_eq!(keys, ["run.allow", "run.at_once", "run.commands", "run.roles", "run.timeout_s", "run.users"]);
    }
}
