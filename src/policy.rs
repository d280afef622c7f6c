//! The device's policy: what its owner allows, whatever the hub says.
//!
//! `/etc/musterd/policy.toml`, owned by root. The hub can never change it, so a hub in the wrong hands cannot get past it.
//! [`Policy::parse`] and [`Policy::decide`] are pure; reading the file, and who may own it, is in [`file`].
//! A host is compared as the hub wrote it and is not looked up here: a name that the policy does not name is refused
//! even where DNS would send it to an allowed address.

use std::net::IpAddr;

use muster_proto::Millis;
use muster_proto::api::ProjectRole;
use muster_proto::run::RunStart;

use crate::settings::{Mistakes, Section, Settings};

mod file;
mod places;
mod run;

pub use file::{Watched, check, load};
use places::{HostRule, Window};

/// Where the policy is unless the configuration says otherwise.
pub const EXAMPLE: &str = include_str!("../config/policy.example.toml");
/// Sessions at once, unless the policy says otherwise: a robot has few visitors, and each worker costs some megabytes.
const SESSIONS_DEFAULT: u32 = 16;
/// The superuser's name in a [`Request`], whatever `/etc/passwd` calls him.
pub const ROOT: &str = "root";

/// What the owner allows.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    terminal: bool,
    terminal_users: Vec<String>,
    run: run::Rules,
    tcp: Vec<HostRule>,
    unix: Vec<String>,
    roles: Vec<String>,
    users: Option<Vec<String>>,
    windows: Vec<Window>,
    limits: Limits,
}

/// How much the owner allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Sessions at once.
    pub sessions: u32,
    /// Runs at once.
    pub runs: u32,
    /// Streams at once in one session.
    pub streams: u32,
    /// Seconds without a byte after which a session ends; none if absent.
    pub idle_s: Option<u32>,
    /// Seconds after which a session ends; none if absent.
    pub total_s: Option<u32>,
}

/// What somebody asks for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The account, as the hub says.
    pub user: &'a str,
    /// The role in the project, as the hub says.
    pub role: &'a str,
    /// The user as whom the worker runs: [`ROOT`] for number 0.
    pub own_user: &'a str,
    /// What.
    pub target: Target<'a>,
}

/// The target of a stream, or the session as such.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// The session, before any stream.
    Session,
    /// A terminal.
    Terminal {
        /// As whom; the worker's own user if absent. Root must be named in either case.
        user: Option<&'a str>,
    },
    /// A TCP connection from the device.
    Tcp {
        /// Name or address.
        host: &'a str,
        /// Port.
        port: u16,
    },
    /// A Unix socket on the device.
    Unix {
        /// Its path.
        path: &'a str,
    },
    /// A command.
    Run {
        /// The order.
        start: &'a RunStart,
    },
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may be done, like this.
    Allow(Grant),
    /// It may not.
    Refuse {
        /// Stable code, reaches the user.
        code: &'static str,
        /// The sentence for the user.
        message: String,
    },
}

/// How something may be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Grant {
    /// Terminal: become this user; the worker's own if absent.
    pub run_as: Option<String>,
    /// TCP: dial this, and nothing else.
    pub dial: Option<Dial>,
}

/// What a granted TCP target means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dial {
    /// This address.
    Address(IpAddr, u16),
    /// Loopback, IPv4 first, then IPv6.
    Loopback(u16),
    /// This name, which the policy names; DNS decides.
    Name(String, u16),
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            terminal: true,
            terminal_users: Vec::new(),
            run: run::Rules::new(true, &[]),
            tcp: HostRule::loopback(),
            unix: Vec::new(),
            roles: ["connect", "operate", "maintain", "admin"].map(str::to_owned).to_vec(),
            users: None,
            windows: Vec::new(),
            limits: Limits {
                sessions: SESSIONS_DEFAULT,
                runs: run::AT_ONCE_DEFAULT,
                streams: STREAMS_DEFAULT,
                idle_s: None,
                total_s: None,
            },
        }
    }
}

/// Streams of one session, unless the policy says otherwise.
const STREAMS_DEFAULT: u32 = muster_proto::limits::STREAMS_MAX as u32;

impl Policy {
    /// Parses a policy.
    ///
    /// # Errors
    /// All mistakes, each with its key.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        let mut settings = Settings::parse(text)?;
        let default = Self::default();
        drop(settings.top());
        let (terminal, terminal_users) = {
            let mut section = settings.section("terminal");
            let users = section.texts("users").unwrap_or_default();
            for user in &users {
                if !is_user_name(user) {
                    section.mistake("users", format!("{user:?} is not a user's name"));
                }
            }
            (section.flag("allow").unwrap_or(default.terminal), users)
        };
        let run = run::Rules::read(&mut settings, run::Rules::new(terminal, &terminal_users));
        let tcp = {
            let mut section = settings.section("tcp");
            section.texts("allow").map_or(default.tcp, |rules| parsed(&mut section, "allow", &rules, HostRule::parse))
        };
        let unix = {
            let mut section = settings.section("unix");
            let paths = section.texts("allow").unwrap_or_default();
            for path in &paths {
                if !is_plain_path(path) {
                    section.mistake("allow", format!("{path:?} must be an absolute path without \".\" and \"..\""));
                }
            }
            paths
        };
        let (roles, users) = {
            let mut section = settings.section("who");
            let roles = section.texts("roles");
            let known = [ProjectRole::Connect, ProjectRole::Operate, ProjectRole::Maintain, ProjectRole::Admin].map(ProjectRole::as_str);
            for role in roles.iter().flatten() {
                if !known.contains(&role.as_str()) {
                    section.mistake("roles", format!("{role:?} is none of {}", known.join(", ")));
                }
            }
            (roles.unwrap_or(default.roles), section.texts("users"))
        };
        let windows = {
            let mut section = settings.section("when");
            section.texts("windows").map_or_else(Vec::new, |windows| parsed(&mut section, "windows", &windows, Window::parse))
        };
        let limits = {
            let mut section = settings.section("limits");
            let mut number = |key, low, high| section.number(key, low..=high).and_then(|n| u32::try_from(n).ok());
            Limits {
                runs: run.at_once(),
                sessions: number("sessions", 0, 1000).unwrap_or(SESSIONS_DEFAULT),
                streams: number("streams", 1, i64::from(STREAMS_DEFAULT)).unwrap_or(STREAMS_DEFAULT),
                idle_s: number("idle_s", 1, 604_800),
                total_s: number("total_s", 1, 604_800),
            }
        };
        settings.finish()?;
        Ok(Self { terminal, terminal_users, run, tcp, unix, roles, users, windows, limits })
    }

    /// How much is allowed.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Decides. `now` is the device's clock; time windows are in UTC.
    pub fn decide(&self, request: &Request<'_>, now: Millis) -> Decision {
        if !self.roles.iter().any(|role| role == request.role) {
            return refuse("policy_role", format!("this device's policy does not let the project role {:?} in", request.role));
        }
        if self.users.as_ref().is_some_and(|users| !users.iter().any(|user| user.eq_ignore_ascii_case(request.user))) {
            return refuse("policy_user", format!("this device's policy does not name {} among its visitors", request.user));
        }
        if !self.windows.is_empty() && !self.windows.iter().any(|window| window.holds(now)) {
            return refuse("policy_time", "this device's policy lets nobody in at this time of the week".into());
        }
        match request.target {
            Target::Session => Decision::Allow(Grant::default()),
            Target::Terminal { user } => self.decide_terminal(user, request.own_user),
            Target::Tcp { host, port } => self.decide_tcp(host, port),
            Target::Run { start } => self.run.decide(request.role, start, request.own_user),
            Target::Unix { path } => {
                if is_plain_path(path) && self.unix.iter().any(|allowed| allowed == path) {
                    Decision::Allow(Grant::default())
                } else {
                    refuse("policy_unix", format!("this device's policy does not name the Unix socket {path:?} in [unix] allow"))
                }
            }
        }
    }

    fn decide_terminal(&self, user: Option<&str>, own_user: &str) -> Decision {
        if !self.terminal {
            return refuse("policy_terminal", "this device's policy allows no terminals".into());
        }
        let named = |user: &str| self.terminal_users.iter().any(|allowed| allowed == user);
        match user {
            // A daemon that somebody started as root does not thereby give root away.
            None | Some(ROOT) if own_user == ROOT && !named(ROOT) => refuse(
                "policy_root",
                "this device's daemon runs as root, and its policy does not name root: run it as a user of its own, as its unit does, \
                 ask for another user, or write users = [\"root\"] under [terminal] in its policy.toml"
                    .into(),
            ),
            None => Decision::Allow(Grant::default()),
            Some(user) if user == own_user => Decision::Allow(Grant::default()),
            Some(user) if named(user) => Decision::Allow(Grant { run_as: Some(user.to_owned()), dial: None }),
            Some(user) => refuse(
                "policy_run_as",
                format!("this device's policy does not name {user:?} in [terminal] users; leave the user out for {own_user:?}"),
            ),
        }
    }

    fn decide_tcp(&self, host: &str, port: u16) -> Decision {
        if let Some(dial) = self.tcp.iter().find_map(|rule| rule.grants(host, port)) {
            return Decision::Allow(Grant { run_as: None, dial: Some(dial) });
        }
        refuse("policy_host", format!("this device's policy does not name {host}:{port} in [tcp] allow"))
    }
}

fn refuse(code: &'static str, message: String) -> Decision {
    Decision::Refuse { code, message }
}

fn parsed<T>(section: &mut Section<'_>, key: &str, texts: &[String], parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
    texts
        .iter()
        .filter_map(|text| match parse(text) {
            Ok(rule) => Some(rule),
            Err(why) => {
                section.mistake(key, format!("{text:?}: {why}"));
                None
            }
        })
        .collect()
}

fn is_user_name(user: &str) -> bool {
    !user.is_empty() && !user.contains(['/', ':']) && !user.chars().any(|c| c.is_whitespace() || c.is_control())
}

/// Absolute, and the same file whichever way one reads it.
fn is_plain_path(path: &str) -> bool {
    path.len() > 1
        && path.starts_with('/')
        && !path.chars().any(char::is_control)
        && path[1..].split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONDAY_NOON: Millis = 1_795_435_200_000; // 2026-11-23T12:00:00Z

    fn ask<'a>(target: Target<'a>) -> Request<'a> {
        Request { user: "ada@example.com", role: "connect", own_user: "musterd", target }
    }

    fn code(decision: &Decision) -> &'static str {
        match decision {
            Decision::Allow(_) => "allow",
            Decision::Refuse { code, .. } => code,
        }
    }

    #[test]
    fn the_default_is_own_terminal_and_loopback_and_so_is_the_example() {
        let policy = Policy::default();
        assert_eq!(Policy::parse("").unwrap(), policy);
        assert_eq!(Policy::parse(EXAMPLE).unwrap(), policy);
        let cases = [
            (Target::Session, "allow"),
            (Target::Terminal { user: None }, "allow"),
            (Target::Terminal { user: Some("musterd") }, "allow"),
            (Target::Terminal { user: Some("root") }, "policy_run_as"),
            (Target::Tcp { host: "127.0.0.1", port: 22 }, "allow"),
            (Target::Tcp { host: "127.9.9.9", port: 22 }, "allow"),
            (Target::Tcp { host: "::1", port: 22 }, "allow"),
            (Target::Tcp { host: "[::1]", port: 22 }, "allow"),
            (Target::Tcp { host: "::ffff:127.0.0.1", port: 22 }, "allow"),
            (Target::Tcp { host: "LocalHost", port: 22 }, "allow"),
            (Target::Tcp { host: "127.0.0.1", port: 0 }, "policy_host"),
            (Target::Tcp { host: "0.0.0.0", port: 22 }, "policy_host"),
            (Target::Tcp { host: "::", port: 22 }, "policy_host"),
            (Target::Tcp { host: "127.1", port: 22 }, "policy_host"),
            (Target::Tcp { host: "2130706433", port: 22 }, "policy_host"),
            (Target::Tcp { host: "localhost.example.com", port: 22 }, "policy_host"),
            (Target::Tcp { host: "10.0.0.1", port: 22 }, "policy_host"),
            (Target::Tcp { host: "169.254.169.254", port: 80 }, "policy_host"),
            (Target::Tcp { host: "", port: 22 }, "policy_host"),
            (Target::Unix { path: "/run/docker.sock" }, "policy_unix"),
            (Target::Unix { path: "" }, "policy_unix"),
        ];
        for (target, want) in cases {
            assert_eq!(code(&policy.decide(&ask(target), MONDAY_NOON)), want, "{target:?}");
        }
    }

    #[test]
    fn root_is_had_only_where_the_policy_names_him() {
        let ask = |user| Request { own_user: ROOT, ..ask(Target::Terminal { user }) };
        let cases = [
            ("", None, "policy_root"),
            ("", Some("root"), "policy_root"),
            ("", Some("operator"), "policy_run_as"),
            ("[terminal]\nusers = [\"operator\"]\n", None, "policy_root"),
            ("[terminal]\nusers = [\"operator\"]\n", Some("operator"), "allow"),
            ("[terminal]\nusers = [\"root\"]\n", None, "allow"),
            ("[terminal]\nusers = [\"root\"]\n", Some("root"), "allow"),
            ("[terminal]\nallow = false\nusers = [\"root\"]\n", None, "policy_terminal"),
        ];
        for (policy, user, want) in cases {
            let decision = Policy::parse(policy).unwrap().decide(&ask(user), MONDAY_NOON);
            assert_eq!(code(&decision), want, "{policy:?} {user:?}");
            if let Decision::Refuse { code: "policy_root", message } = decision {
                assert!(message.contains("users = [\"root\"] under [terminal]"), "{message}");
            }
        }
        let loopback = Request { own_user: ROOT, ..ask(None) };
        let loopback = Request { target: Target::Tcp { host: "localhost", port: 22 }, ..loopback };
        assert_eq!(code(&Policy::default().decide(&loopback, MONDAY_NOON)), "allow", "what is not run is not root's");
    }

    #[test]
    fn localhost_is_dialled_without_dns() {
        let policy = Policy::default();
        let grant = policy.decide(&ask(Target::Tcp { host: "localhost", port: 22 }), MONDAY_NOON);
        assert_eq!(grant, Decision::Allow(Grant { run_as: None, dial: Some(Dial::Loopback(22)) }));
    }

    #[test]
    fn who_where_when_as_whom() {
        let policy = Policy::parse(
            "[terminal]\nusers = [\"operator\"]\n[tcp]\nallow = [\"192.168.1.0/24:80\", \"plc.lan:502\", \"[fd00::/8]:1000-2000\"]\n\
             [unix]\nallow = [\"/run/app.sock\"]\n[who]\nroles = [\"operate\"]\nusers = [\"Ada@example.com\"]\n\
             [when]\nwindows = [\"mon-fri 08:00-18:00\"]\n[limits]\nsessions = 2\nidle_s = 600\n",
        )
        .unwrap();
        assert_eq!(policy.limits(), Limits { sessions: 2, runs: 4, streams: STREAMS_DEFAULT, idle_s: Some(600), total_s: None });
        let ask = |target| Request { role: "operate", ..ask(target) };
        let cases = [
            (Target::Terminal { user: Some("operator") }, "allow"),
            (Target::Terminal { user: Some("root") }, "policy_run_as"),
            (Target::Tcp { host: "192.168.1.77", port: 80 }, "allow"),
            (Target::Tcp { host: "192.168.1.77", port: 81 }, "policy_host"),
            (Target::Tcp { host: "192.168.2.1", port: 80 }, "policy_host"),
            (Target::Tcp { host: "PLC.lan.", port: 502 }, "allow"),
            (Target::Tcp { host: "fd12::1", port: 1500 }, "allow"),
            (Target::Tcp { host: "fd12::1", port: 2001 }, "policy_host"),
            (Target::Tcp { host: "127.0.0.1", port: 22 }, "policy_host"),
            (Target::Unix { path: "/run/app.sock" }, "allow"),
            (Target::Unix { path: "/run/../run/app.sock" }, "policy_unix"),
            (Target::Unix { path: "/run/app.sock/" }, "policy_unix"),
        ];
        for (target, want) in cases {
            assert_eq!(code(&policy.decide(&ask(target), MONDAY_NOON)), want, "{target:?}");
        }
        let session = ask(Target::Session);
        assert_eq!(code(&policy.decide(&Request { role: "connect", ..session }, MONDAY_NOON)), "policy_role");
        assert_eq!(code(&policy.decide(&Request { user: "eve@example.com", ..session }, MONDAY_NOON)), "policy_user");
        let sunday = MONDAY_NOON - 86_400_000;
        assert_eq!(code(&policy.decide(&session, sunday)), "policy_time");
        assert_eq!(code(&policy.decide(&session, MONDAY_NOON + 6 * 3_600_000)), "policy_time");
    }

    #[test]
    fn all_mistakes_at_once() {
        let Mistakes(mistakes) = Policy::parse(
            "[terminal]\nallow = \"yes\"\nusers = [\"a b\"]\n[tcp]\nallow = [\"nonsense\", \"10.0.0.0/40:1\", \"h:99999\"]\n\
             [unix]\nallow = [\"relative\"]\n[who]\nroles = [\"root\"]\n[when]\nwindows = [\"someday\"]\n[limits]\nsessions = -1\n[files]\n",
        )
        .unwrap_err();
        let keys: Vec<&str> = mistakes.iter().map(|mistake| mistake.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "terminal.users",
                "terminal.allow",
                "tcp.allow",
                "tcp.allow",
                "tcp.allow",
                "unix.allow",
                "who.roles",
                "when.windows",
                "limits.sessions",
                "files"
            ]
        );
    }
}
