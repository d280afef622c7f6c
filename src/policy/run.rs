//! What the owner says of runs: whether, for which roles, as whom, which commands, how many and how long. Pure.
//!
//! Without a `[run]` section a run is allowed to those who may also have a terminal, as the users of terminals, from `operate` on:
//! whoever has a terminal can type the same command there, so it gives nothing more; and an owner who forbade terminals
//! is not surprised by an update.

use muster_proto::api::ProjectRole;
use muster_proto::limits::RUN_TIMEOUT_MAX_S;
use muster_proto::run::{RunCommand, RunStart};

use super::{Decision, Grant, ROOT, refuse};
use crate::settings::{Section, Settings};

/// Runs at once, unless the policy says otherwise: a small device has few cores.
pub(super) const AT_ONCE_DEFAULT: u32 = 4;

/// The `[run]` section.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rules {
    allow: bool,
    roles: Vec<String>,
    users: Vec<String>,
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

    fn fits(&self, argv: &[String]) -> bool {
        argv.starts_with(&self.words) && (self.open || argv.len() == self.words.len())
    }
}

impl Rules {
    /// Without a section.
    pub(super) fn new(terminal: bool, terminal_users: &[String]) -> Self {
        Self {
            allow: terminal,
            roles: ["operate", "maintain", "admin"].map(str::to_owned).to_vec(),
            users: terminal_users.to_vec(),
            commands: None,
            at_once: AT_ONCE_DEFAULT,
            timeout_s: RUN_TIMEOUT_MAX_S,
        }
    }

    /// Reads the section; what it does not name is as without one.
    pub(super) fn read(settings: &mut Settings, default: Self) -> Self {
        let mut section: Section<'_> = settings.section("run");
        let roles = section.texts("roles");
        let known = [ProjectRole::Operate, ProjectRole::Maintain, ProjectRole::Admin].map(ProjectRole::as_str);
        for role in roles.iter().flatten() {
            if !known.contains(&role.as_str()) {
                section.mistake("roles", format!("{role:?} is none of {}", known.join(", ")));
            }
        }
        let users = section.texts("users");
        for user in users.iter().flatten() {
            if !super::is_user_name(user) {
                section.mistake("users", format!("{user:?} is not a user's name"));
            }
        }
        let commands = section.texts("commands").map(|texts| super::parsed(&mut section, "commands", &texts, Pattern::parse));
        let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
        Self {
            allow: section.flag("allow").unwrap_or(default.allow),
            roles: roles.unwrap_or(default.roles),
            users: users.unwrap_or(default.users),
            commands,
            at_once: number(section.number("at_once", 0..=1000)).unwrap_or(default.at_once),
            timeout_s: number(section.number("timeout_s", 1..=i64::from(RUN_TIMEOUT_MAX_S))).unwrap_or(default.timeout_s),
        }
    }

    /// How many at once.
    pub(super) fn at_once(&self) -> u32 {
        self.at_once
    }

    /// Decides on an order, after the rules of `[who]` and `[when]`.
    pub(super) fn decide(&self, role: &str, start: &RunStart, own_user: &str) -> Decision {
        if !self.allow {
            return refuse("policy_run", "this device's policy allows no runs: [run] allow, or else [terminal] allow, is false".into());
        }
        if !self.roles.iter().any(|allowed| allowed == role) {
            return refuse("policy_role", format!("this device's policy does not let the project role {role:?} run commands"));
        }
        if start.timeout_s > self.timeout_s {
            let message = format!("this device's policy lets a command run for {} s at most; ask for no more", self.timeout_s);
            return refuse("policy_timeout", message);
        }
        if let Some(allowed) = &self.commands {
            match &start.command {
                RunCommand::Argv(argv) if allowed.iter().any(|pattern| pattern.fits(argv)) => {}
                _ => return refuse("policy_command", "this device's policy does not name this command in [run] commands".into()),
            }
            // Variables such as LD_PRELOAD, and files in the present directory, would make another command of it.
            if !start.env.is_empty() || start.cwd.is_some() {
                let message =
                    "this device's policy names the commands that may be run, and lets nobody choose their environment or directory";
                return refuse("policy_environment", message.into());
            }
        }
        let named = |user: &str| self.users.iter().any(|allowed| allowed == user);
        match start.run_as.as_deref() {
            None | Some(ROOT) if own_user == ROOT && !named(ROOT) => refuse(
                "policy_root",
                "this device's daemon runs as root, and its policy does not name root: run it as a user of its own, as its unit does, \
                 ask for another user, or write users = [\"root\"] under [run] in its policy.toml"
                    .into(),
            ),
            None => Decision::Allow(Grant::default()),
            Some(user) if user == own_user => Decision::Allow(Grant::default()),
            Some(user) if named(user) => Decision::Allow(Grant { run_as: Some(user.to_owned()), dial: None }),
            Some(user) => refuse(
                "policy_run_as",
                format!("this device's policy does not name {user:?} in [run] users; leave the user out for {own_user:?}"),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, Request, Target};
    use super::*;

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
    fn check(policy: &str, role: &str, own_user: &str, start: &RunStart, want: &str) {
        let request = Request { user: "ada@example.com", role, own_user, target: Target::Run { start } };
        let code = match Policy::parse(policy).unwrap().decide(&request, 0) {
            Decision::Allow(grant) => grant.run_as.map_or_else(|| "allow".to_owned(), |user| format!("allow as {user}")),
            Decision::Refuse { code, .. } => code.to_owned(),
        };
        assert_eq!(code, want, "{policy:?} {role} {own_user} {start:?}");
    }

    #[test]
    fn the_default_follows_terminals() {
        let plain = start(&["df"]);
        check("", "operate", "musterd", &plain, "allow");
        check("", "admin", "musterd", &plain, "allow");
        check("", "connect", "musterd", &plain, "policy_role");
        check("[terminal]\nallow = false\n", "operate", "musterd", &plain, "policy_run");
        check("[terminal]\nallow = false\n[run]\nallow = true\n", "operate", "musterd", &plain, "allow");
        check("[run]\nallow = false\n", "admin", "musterd", &plain, "policy_run");
        check("", "operate", "root", &plain, "policy_root");
        check("[terminal]\nusers = [\"root\"]\n", "operate", "root", &plain, "allow");
        check("[terminal]\nusers = [\"root\"]\n[run]\nusers = []\n", "operate", "root", &plain, "policy_root");
        check("[who]\nroles = [\"admin\"]\n", "operate", "musterd", &plain, "policy_role");
        check("[who]\nusers = [\"bob@example.com\"]\n", "operate", "musterd", &plain, "policy_user");
    }

    #[test]
    fn as_whom_and_how_long() {
        let as_whom = |user: &str| RunStart { run_as: Some(user.into()), ..start(&["df"]) };
        check("", "operate", "musterd", &as_whom("musterd"), "allow");
        check("", "operate", "musterd", &as_whom("operator"), "policy_run_as");
        check("[run]\nusers = [\"operator\"]\n", "operate", "musterd", &as_whom("operator"), "allow as operator");
        check("[run]\nusers = [\"operator\"]\n", "operate", "root", &as_whom("operator"), "allow as operator");
        check("[run]\nusers = [\"operator\"]\n", "operate", "root", &as_whom("root"), "policy_root");
        check("[run]\ntimeout_s = 59\n", "operate", "musterd", &start(&["df"]), "policy_timeout");
        check("[run]\nroles = [\"admin\"]\n", "maintain", "musterd", &start(&["df"]), "policy_role");
    }

    #[test]
    fn only_named_commands_where_some_are_named() {
        let policy = "[run]\ncommands = [\"/usr/bin/df -h\", \"/opt/selftest *\", \"/usr/bin/uptime\"]\n";
        let cases: [(&[&str], &str); 8] = [
            (&["/usr/bin/df", "-h"], "allow"),
            (&["/usr/bin/df"], "policy_command"),
            (&["/usr/bin/df", "-h", "/"], "policy_command"),
            (&["df", "-h"], "policy_command"),
            (&["/opt/selftest"], "allow"),
            (&["/opt/selftest", "--quick", "a b"], "allow"),
            (&["/usr/bin/uptime"], "allow"),
            (&["/usr/bin/uptime", "-p"], "policy_command"),
        ];
        for (argv, want) in cases {
            check(policy, "operate", "musterd", &start(argv), want);
        }
        let shell = RunStart { command: RunCommand::Shell("/usr/bin/uptime".into()), ..start(&[]) };
        check(policy, "operate", "musterd", &shell, "policy_command");
        let loaded = RunStart { env: [("LD_PRELOAD".to_owned(), "/tmp/x.so".to_owned())].into(), ..start(&["/usr/bin/uptime"]) };
        check(policy, "operate", "musterd", &loaded, "policy_environment");
        check("[run]\ncommands = []\n", "operate", "musterd", &start(&["/usr/bin/uptime"]), "policy_command");
    }

    #[test]
    fn mistakes_have_their_keys() {
        let text = "[run]\nallow = 1\nroles = [\"connect\"]\nusers = [\"a b\"]\ncommands = [\"df\"]\nat_once = -1\ntimeout_s = 0\n";
        let mut keys: Vec<String> = Policy::parse(text).unwrap_err().0.into_iter().map(|mistake| mistake.key).collect();
        keys.sort();
        assert_eq!(keys, ["run.allow", "run.at_once", "run.commands", "run.roles", "run.timeout_s", "run.users"]);
    }
}
