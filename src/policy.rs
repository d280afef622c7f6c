//! The device's policy: what its owner allows, whatever the hub says.
//!
//! `/etc/musterd/policy.toml`, owned by root. The hub can never change it, so a hub in the wrong hands cannot get past it.
//! Reading ([`Policy::read`]) and deciding ([`Policy::decide`]) are pure; the file, who may own it, the clock and the time zones
//! are in [`file`], `owners` and `clock`.
//! A host is compared as the hub wrote it and is not looked up here: a name that the policy does not name is refused
//! even where DNS would send it to an allowed address.

use std::net::IpAddr;

use muster_proto::Millis;
use muster_proto::run::RunStart;

use crate::account::ROOT;
use crate::settings::{Mistakes, Section, Settings};

mod clock;
mod decide;
pub mod file;
pub mod first;
mod identity;
mod limits;
mod owners;
mod places;
mod run;
#[cfg(test)]
mod tests;
mod users;
mod when;

pub use clock::moment;
pub use decide::{Explanation, Line, Refusal};
pub use file::{Fault, Watched, load, lock_path, read_trusted};
pub use limits::{Limits, Memory};
pub use users::is_user_name;
pub use when::Zones;

use places::HostRule;
use users::Users;
use when::When;

/// The example that `musterd example-config policy` prints.
pub const EXAMPLE: &str = include_str!("../config/policy.example.toml");
/// The project roles that can reach a device at all.
pub const ROLES: [&str; 4] = ["connect", "operate", "maintain", "admin"];

/// What the owner allows. The default policy is that of an empty file: it maps nobody to a user, so it lets nobody do anything.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    own_user: OwnUser,
    pam: Pam,
    linger: bool,
    users: Users,
    terminal: Terminal,
    run: run::Rules,
    tcp: Vec<HostRule>,
    unix: Vec<String>,
    who: Who,
    when: When,
    limits: Limits,
    ask: bool,
    approvers: Vec<String>,
    relay_hosts: Vec<String>,
}

/// Whether sessions run as the user that runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OwnUser {
    No,
    Yes,
    /// Also where that is root.
    Root,
}

/// The `[terminal]` section.
#[derive(Debug, Clone, PartialEq)]
struct Terminal {
    allow: bool,
    roles: Vec<String>,
}

/// The `[who]` section.
#[derive(Debug, Clone, PartialEq)]
struct Who {
    roles: Vec<String>,
    users: Option<Vec<String>>,
}

/// How a user is become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pam {
    /// Plainly: groups, group, user.
    None,
    /// Through the system's login: `pam_systemd`, limits.
    Login,
}

/// When something is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The system's clock, UTC. Never the hub's: it could open a window that the owner closed.
    pub now: Millis,
    /// Whether the system says that its clock is right.
    pub synchronised: bool,
}

/// What somebody asks for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The account, as the hub says.
    pub user: &'a str,
    /// The role in the project, as the hub says.
    pub role: &'a str,
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
        /// As whom; the first user that the policy names for this visitor if absent.
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
    /// As whom it is done. Absent for a session as such, and under `own_user`: there it is the user that runs the program.
    /// Root only where the policy says "root"; whether a name has number 0 is for the caller to look at.
    pub become_user: Option<String>,
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

impl Policy {
    /// Reads a policy. `zones` finds a time zone by its name, or says why it cannot.
    ///
    /// # Errors
    /// All mistakes, each with its key.
    pub fn read(text: &str, zones: &Zones<'_>) -> Result<Self, Mistakes> {
        let mut settings = Settings::parse(text)?;
        let (own_user, pam, linger) = {
            let mut top = settings.top();
            let own_user = match top.flag_or("own_user", ROOT).as_deref() {
                Some("true") => OwnUser::Yes,
                Some(ROOT) => OwnUser::Root,
                _ => OwnUser::No,
            };
            let pam = if top.one_of("pam", &["none", "login"]).as_deref() == Some("login") { Pam::Login } else { Pam::None };
            if own_user != OwnUser::No && pam == Pam::Login {
                top.mistake(
                    "pam",
                    "a login makes another user of the visitor, and own_user says that there is none: leave one of them out",
                );
            }
            (own_user, pam, top.flag("linger").unwrap_or(false))
        };
        let users = Users::read(&mut settings, own_user != OwnUser::No);
        let terminal = {
            let mut section = settings.section("terminal");
            Terminal { allow: section.flag("allow").unwrap_or(true), roles: roles(&mut section, &ROLES) }
        };
        let run = run::Rules::read(&mut settings, terminal.allow);
        let tcp = {
            let mut section = settings.section("tcp");
            section.texts("allow").map_or_else(HostRule::loopback, |rules| parsed(&mut section, "allow", &rules, HostRule::parse))
        };
        let unix = {
            let mut section = settings.section("unix");
            let paths = section.texts("allow").unwrap_or_default();
            parsed(&mut section, "allow", &paths, |path| match is_plain_path(path) {
                true => Ok(path.to_owned()),
                false => Err("write an absolute path without \".\" and \"..\"".into()),
            })
        };
        let who = {
            let mut section = settings.section("who");
            Who { roles: roles(&mut section, &ROLES), users: section.texts("users") }
        };
        let when = When::read(&mut settings, zones);
        let limits = Limits::read(&mut settings, run.at_once());
        let (ask, approvers) = {
            let mut section = settings.section("ask");
            let names = section.texts("approvers").unwrap_or_default();
            (section.flag("ask").unwrap_or(false), users::names(&mut section, "approvers", names))
        };
        let relay_hosts = hosts(&mut settings.section("relay"));
        settings.finish()?;
        Ok(Self { own_user, pam, linger, users, terminal, run, tcp, unix, who, when, limits, ask, approvers, relay_hosts })
    }

    /// How much is allowed.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Whether sessions run as the user that runs the program, without a wall between visitors and the device's key.
    pub fn own_user(&self) -> bool {
        self.own_user != OwnUser::No
    }

    /// Whether the user that runs the program may be root: the policy says `own_user = "root"`.
    pub fn own_user_may_be_root(&self) -> bool {
        self.own_user == OwnUser::Root
    }

    /// Whether what a visitor leaves behind goes on after the session.
    pub fn linger(&self) -> bool {
        self.linger
    }

    /// How a user is become.
    pub fn pam(&self) -> Pam {
        self.pam
    }

    /// Whether a person at the device must approve.
    pub fn asks(&self) -> bool {
        self.ask
    }

    /// The Unix users who may approve, besides root.
    pub fn approvers(&self) -> &[String] {
        &self.approvers
    }

    /// Every Unix user whom a visitor could become, each once. Approvers are not among them.
    pub fn all_users(&self) -> Vec<&str> {
        self.users.all()
    }

    /// The Unix users whom a role gets where no person's own line says otherwise; none if it gets nobody.
    pub fn users_of_role(&self, role: &str) -> &[String] {
        self.users.of_role(role)
    }

    /// Whom the policy maps by their own name: the account, and the Unix users.
    pub fn people(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.users.people()
    }

    /// What a clock shows in the policy's time zone, with the zone's name.
    pub fn clock(&self, now: Millis) -> Option<String> {
        self.when.shown(now)
    }

    /// The moment at which a clock shows `2026-12-01 22:00` in the policy's time zone; in UTC with a Z at the end.
    pub fn moment_of(&self, text: &str) -> Option<Millis> {
        self.when.moment_of(text)
    }

    /// The roles that may come in at all.
    pub fn roles(&self) -> &[String] {
        &self.who.roles
    }
}

/// Reads `roles`, which holds those of `known` and by default all of them.
fn roles(section: &mut Section<'_>, known: &[&str]) -> Vec<String> {
    let Some(roles) = section.texts("roles") else { return known.iter().map(|role| (*role).to_owned()).collect() };
    for role in &roles {
        if !known.contains(&role.as_str()) {
            section.mistake("roles", format!("{role:?} is none of {}", known.join(", ")));
        }
    }
    roles
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

/// The list `hosts` of a section of the policy or the configuration: names and addresses that are dialled besides the hub's own.
pub fn hosts(section: &mut Section<'_>) -> Vec<String> {
    let texts = section.texts("hosts").unwrap_or_default();
    parsed(section, "hosts", &texts, places::host)
}

/// Absolute, and the same file whichever way one reads it.
fn is_plain_path(path: &str) -> bool {
    path.len() > 1
        && path.starts_with('/')
        && !path.chars().any(char::is_control)
        && path[1..].split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}
