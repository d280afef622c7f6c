//! The commands in groups, for `muster --help`; and words that people bring from other tools.

use clap::Command;
use clap::builder::StyledStr;

/// A heading, and its commands in their order.
const GROUPS: &[(&str, &[&str])] = &[
    ("Start here", &["login", "logout", "whoami", "profile", "completion"]),
    ("Devices", &["devices", "device", "top", "token", "field", "view"]),
    ("Connect", &["shell", "ssh", "ssh-config", "forward", "proxy", "sessions", "session"]),
    ("Run commands", &["run", "runs"]),
    ("People and projects", &["org", "project", "team", "member", "invite", "invitation", "account", "service-account", "access-token"]),
    ("Usage and records", &["usage", "billing", "credit", "limit", "audit"]),
];

/// What other tools call it, and what it is called here.
const HABITS: &[(&str, &str)] = &[
    ("cp", "To copy files, let OpenSSH know the devices (muster ssh-config --write ~/.ssh/config), then: scp FILE DEVICE:"),
    ("scp", "Let OpenSSH know the devices (muster ssh-config --write ~/.ssh/config), then: scp FILE DEVICE:"),
    ("exec", "Run a command on a device: muster run DEVICE -- COMMAND, or muster shell DEVICE -- COMMAND"),
    ("connect", "Open a terminal: muster shell DEVICE"),
    ("console", "Open a terminal: muster shell DEVICE"),
    ("version", "Show the version: muster --version"),
    ("status", "Show who you are: muster whoami. Show the devices: muster devices. Show one: muster device show DEVICE"),
    ("nodes", "List devices: muster devices"),
    ("hosts", "List devices: muster devices"),
    ("list", "List devices: muster devices. Other lists: muster project list, muster token list, muster member list"),
    ("ps", "List what runs: muster sessions, muster runs"),
    ("logs", "Read a device's journal: muster shell DEVICE -- journalctl -u UNIT. Who did what: muster audit"),
    ("port-forward", "Forward ports: muster forward DEVICE PORT"),
    ("tunnel", "Forward ports: muster forward DEVICE PORT"),
    ("enrol", "Create a token with muster token create, then run what it prints on the device"),
    ("enroll", "Create a token with muster token create, then run what it prints on the device"),
    ("register", "Create a token with muster token create, then run what it prints on the device"),
    ("users", "List members: muster member list"),
];

/// What to type in the place of a word from another tool.
pub(super) fn habit(word: &str) -> Option<&'static str> {
    HABITS.iter().find(|(known, _)| *known == word).map(|(_, tip)| *tip)
}

/// Shows the commands in their groups.
pub(super) fn grouped(root: Command) -> Command {
    let header = root.get_styles().get_header();
    let literal = root.get_styles().get_literal();
    let wide = GROUPS.iter().flat_map(|(_, names)| names.iter()).map(|name| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (heading, names) in GROUPS {
        text.push_str(&format!("\n{header}{heading}:{header:#}\n"));
        for name in *names {
            let about = root.find_subcommand(name).and_then(|command| command.get_about()).map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!("  {literal}{name:<wide$}{literal:#}  {about}\n"));
        }
    }
    let template =
        format!("{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{text}\n{header}Options:{header:#}\n{{options}}{{after-help}}");
    root.help_template(StyledStr::from(template))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_one_group() {
        let root = crate::cli::command();
        let mut grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut all: Vec<&str> = root.get_subcommands().map(Command::get_name).filter(|name| *name != "help").collect();
        grouped.sort_unstable();
        all.sort_unstable();
        assert_eq!(grouped, all);
    }

    #[test]
    fn words_from_other_tools_lead_to_a_command_of_ours() {
        let root = crate::cli::command();
        for (word, tip) in HABITS {
            assert!(root.find_subcommand(word).is_none(), "{word} is a command");
            for named in tip.split("muster ").skip(1) {
                let name = named.split([' ', '.', ',', ')']).next().unwrap();
                assert!(name.starts_with("--") || root.find_subcommand(name).is_some(), "{word}: muster {name}");
            }
        }
    }
}
