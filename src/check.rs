//! `musterd check-config`: all mistakes of the configuration and the policy, and what the policy comes to on this machine.
//!
//! The policy's text alone does not say whether its users exist, nor whether anything here can become them.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::config::Config;
use crate::policy::{Policy, ROLES, file};
use crate::settings::{Mistake, Mistakes};
use muster_link::{errln, outln};
use musterd::account::{Account, OUR_USERS, ROOT};
use musterd::handoff::{RUN_DIR, START_SOCKET};

/// Where the policy is unless the configuration says otherwise.
const POLICY: &str = "/etc/musterd/policy.toml";
/// Wrong usage or configuration.
const USAGE: u8 = 2;

/// What there is to say of a policy that can be read.
#[derive(Debug, Default, PartialEq, Eq)]
struct Findings {
    sentences: Vec<String>,
    mistakes: Vec<Mistake>,
}

impl Findings {
    fn say(&mut self, sentence: impl Into<String>) {
        self.sentences.push(sentence.into());
    }

    fn mistake(&mut self, key: &str, what: String) {
        self.mistakes.push(Mistake { key: key.to_owned(), what });
    }
}

/// What this machine has.
struct Machine<'a> {
    /// The number of a user, if there is one of this name.
    user: &'a dyn Fn(&str) -> Option<u32>,
    /// Whether something waits to become users; absent where we may not look.
    starter: Option<bool>,
    /// Whether this command runs as root.
    is_root: bool,
}

/// Checks both files.
pub(crate) fn run(config: &Result<Config, Mistakes>) -> ExitCode {
    let (path, session_dir) = match config {
        Ok(config) => {
            outln!("The configuration is valid.");
            (config.policy.clone(), config.session_dir.clone())
        }
        Err(mistakes) => {
            print_mistakes("configuration", mistakes);
            // Where the policy is may be among the mistakes; the usual place is better than nothing.
            (PathBuf::from(POLICY), PathBuf::from(RUN_DIR))
        }
    };
    let policy = check_policy(&path, &session_dir);
    if let Err(mistakes) = &policy {
        print_mistakes(&format!("policy {}", path.display()), mistakes);
    }
    if config.is_ok() && policy.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(USAGE) }
}

/// Prints each mistake with its key.
pub(crate) fn print_mistakes(what: &str, mistakes: &Mistakes) {
    for mistake in &mistakes.0 {
        if mistake.key.is_empty() {
            errln!("musterd: {what}: {}", mistake.what);
        } else {
            errln!("musterd: {what}: {}: {}", mistake.key, mistake.what);
        }
    }
}

fn check_policy(path: &Path, session_dir: &Path) -> Result<(), Mistakes> {
    let lock = file::lock_path(path);
    if lock.symlink_metadata().is_ok() {
        let reason = file::reason(&lock).map(|reason| format!(" ({reason})")).unwrap_or_default();
        outln!("This device is locked{reason}: it refuses everything until `musterd unlock`.");
    }
    let Some(policy) = file::mistakes(path)? else {
        outln!(
            "There is no policy {}: this device refuses everything. `musterd example-config policy` explains every key.",
            path.display()
        );
        return Ok(());
    };
    let starter = match session_dir.join(START_SOCKET).symlink_metadata() {
        Ok(_) => Some(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Some(false),
        Err(_) => None,
    };
    let findings = judge(
        &policy,
        &Machine {
            user: &|name| Account::named(name).ok().flatten().map(|account| account.uid),
            starter,
            is_root: rustix::process::geteuid().is_root(),
        },
    );
    if findings.mistakes.is_empty() {
        outln!("The policy {} is valid.", path.display());
    }
    for sentence in findings.sentences {
        outln!("  {sentence}");
    }
    if findings.mistakes.is_empty() { Ok(()) } else { Err(Mistakes(findings.mistakes)) }
}

fn judge(policy: &Policy, machine: &Machine<'_>) -> Findings {
    let mut findings = Findings::default();
    if policy.asks() && policy.approvers().iter().any(|approver| policy.all_users().contains(&approver.as_str())) {
        findings.say(
            "[ask] approvers: visitors become a user who may approve. From inside a session nobody can, but such a user can leave a job \
             (cron, systemd-run --user) that does.",
        );
    }
    if policy.own_user() {
        findings.say(
            "own_user: sessions run as the user that runs musterd. No wall stands between visitors and this device's key: \
             anyone in a session can take it.",
        );
        if machine.is_root && !policy.own_user_may_be_root() {
            findings.say("own_user: where musterd itself runs as root, everything is refused; own_user = \"root\" allows it.");
        }
    } else {
        say_who_becomes_whom(policy, &mut findings);
        find_users(policy, machine, &mut findings);
    }
    if policy.asks() {
        let approvers = policy.approvers().iter().map(|user| format!(" or {user}")).collect::<String>();
        findings.say(format!("ask: root{approvers} must approve each session and run with `musterd approve CODE`."));
    }
    if policy.limits().sessions == 0 {
        findings.say("limits.sessions is 0: nobody gets a session.");
    }
    findings
}

fn say_who_becomes_whom(policy: &Policy, findings: &mut Findings) {
    if policy.all_users().is_empty() {
        return findings.say("[users] names nobody: this device reports how it is, and lets nobody in.");
    }
    for role in ROLES {
        if !policy.roles().iter().any(|allowed| allowed == role) {
            findings.say(format!("Role {role}: refused by [who] roles."));
        } else if policy.users_of_role(role).is_empty() {
            findings.say(format!("Role {role}: refused, because [users] names no user for it."));
        } else {
            findings.say(format!("Role {role}: {}.", becomes(policy.users_of_role(role))));
        }
    }
    for (account, users) in policy.people() {
        findings.say(format!("{account}: {}, whatever the role.", becomes(users)));
    }
}

fn becomes(users: &[String]) -> String {
    match users.split_first() {
        Some((first, [])) => format!("becomes {first}"),
        Some((first, others)) => format!("becomes {first}, or {} if asked", others.join(", ")),
        None => "becomes nobody".into(),
    }
}

fn find_users(policy: &Policy, machine: &Machine<'_>, findings: &mut Findings) {
    let visitors = policy.all_users().into_iter().map(|user| ("users", user));
    for (key, user) in visitors.chain(policy.approvers().iter().map(|user| ("ask.approvers", user.as_str()))) {
        match (machine.user)(user) {
            None => findings.mistake(key, format!("this machine has no user {user:?}: `useradd -m {user}`, or name another")),
            Some(0) if user != ROOT => findings.mistake(key, format!("{user:?} is root on this machine (its number is 0): write \"root\"")),
            Some(_) if OUR_USERS.contains(&user) => {
                findings.mistake(
                    key,
                    format!("{user:?} is the user that Muster itself runs as, and it holds the device's key: name another user"),
                );
            }
            Some(_) => {}
        }
    }
    if policy.all_users().is_empty() || machine.starter != Some(false) {
        return;
    }
    let what =
        "nothing on this machine can become a user: start musterd-session.socket, or `musterd sessiond` as root where there is no systemd";
    // Root is about to start it, and is told; anyone else has a device on which the policy cannot work.
    if machine.is_root { findings.say(format!("For now {what}.")) } else { findings.mistake("users", what.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(policy: &str, starter: Option<bool>, is_root: bool) -> (String, Vec<String>) {
        let user = |name: &str| {
            [("root", 0), ("toor", 0), ("pi", 1000), ("ada", 1001), ("musterd", 998)]
                .into_iter()
                .find(|user| user.0 == name)
                .map(|user| user.1)
        };
        let policy = Policy::parse(policy).unwrap();
        let findings = judge(&policy, &Machine { user: &user, starter, is_root });
        (findings.sentences.join("\n"), findings.mistakes.into_iter().map(|mistake| format!("{}: {}", mistake.key, mistake.what)).collect())
    }

    #[test]
    fn each_role_is_told_as_whom_it_gets_in() {
        let policy = "[users]\n[users.roles]\nadmin = [\"root\", \"pi\"]\noperate = \"pi\"\n[users.people]\n\"ada@example.com\" = \"ada\"\n\
                      [who]\nroles = [\"connect\", \"operate\", \"admin\"]\n";
        let (said, mistakes) = found(policy, Some(true), false);
        assert_eq!(mistakes, [""; 0]);
        let want = "Role connect: refused, because [users] names no user for it.\nRole operate: becomes pi.\n\
                    Role maintain: refused by [who] roles.\nRole admin: becomes root, or pi if asked.\n\
                    ada@example.com: becomes ada, whatever the role.";
        assert_eq!(said, want);
        assert!(found("", Some(false), false).0.contains("lets nobody in"));
    }

    #[test]
    fn users_who_do_not_exist_or_cannot_be_become_are_mistakes() {
        let policy = "[users]\ndefault = [\"pi\", \"ghost\"]\n[users.roles]\nadmin = \"toor\"\n[ask]\napprovers = [\"nobody-here\"]\n";
        let (_, mistakes) = found(policy, Some(true), true);
        assert_eq!(mistakes.len(), 3, "{mistakes:?}");
        assert!(mistakes[0].starts_with("users: this machine has no user \"ghost\""), "{mistakes:?}");
        assert!(mistakes[1].contains("\"toor\" is root on this machine"), "{mistakes:?}");
        assert!(mistakes[2].starts_with("ask.approvers: this machine has no user"), "{mistakes:?}");

        let (_, mistakes) = found("[users]\ndefault = \"musterd\"\n", Some(true), true);
        assert!(mistakes.len() == 1 && mistakes[0].contains("holds the device's key"), "{mistakes:?}");

        let policy = "[users]\ndefault = \"pi\"\n";
        let (_, mistakes) = found(policy, Some(false), false);
        assert!(mistakes[0].contains("musterd-session.socket") && mistakes.len() == 1, "{mistakes:?}");
        let (said, mistakes) = found(policy, Some(false), true);
        assert!(said.contains("musterd-session.socket") && mistakes.is_empty(), "{said} {mistakes:?}");
        let (said, mistakes) = found(policy, None, false);
        assert!(!said.contains("musterd-session.socket") && mistakes.is_empty(), "{said} {mistakes:?}");
    }

    #[test]
    fn own_user_is_warned_of() {
        let (said, mistakes) = found("own_user = true\n", Some(false), false);
        assert!(said.contains("anyone in a session can take it") && mistakes.is_empty(), "{said} {mistakes:?}");
        assert!(found("own_user = true\n", None, true).0.contains("own_user = \"root\""));
        assert!(!found("own_user = \"root\"\n", None, true).0.contains("own_user = \"root\""));
    }
}
