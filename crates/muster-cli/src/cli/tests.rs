//! The grammar holds together, every command explains itself, and every example in the help can be typed.

use super::*;

/// Every command that can be run, in the order of the help.
const COMMANDS: &[&str] = &[
    "login",
    "logout",
    "whoami",
    "profile list",
    "profile use",
    "org list",
    "org create",
    "org show",
    "org use",
    "org edit",
    "org logo set",
    "org logo save",
    "org logo remove",
    "org leave",
    "org delete",
    "member list",
    "member collaborators",
    "member set",
    "member remove",
    "invite",
    "invitation list",
    "invitation resend",
    "invitation revoke",
    "invitation accept",
    "service-account list",
    "service-account create",
    "service-account delete",
    "service-account token",
    "service-account tokens",
    "service-account revoke",
    "account show",
    "account edit",
    "account password",
    "account close",
    "team list",
    "team create",
    "team show",
    "team edit",
    "team add",
    "team remove",
    "team avatar set",
    "team avatar save",
    "team avatar remove",
    "team delete",
    "project list",
    "project create",
    "project show",
    "project use",
    "project edit",
    "project archive",
    "project restore",
    "project add-devices",
    "project remove-devices",
    "project participants",
    "project participant add",
    "project participant remove",
    "project teams",
    "project team add",
    "project team remove",
    "token create",
    "token list",
    "token revoke",
    "access-token create",
    "access-token list",
    "access-token revoke",
    "devices",
    "devices export",
    "devices import",
    "device show",
    "device add",
    "device admit",
    "device reject",
    "device revoke",
    "device replace",
    "device renew",
    "device edit",
    "device delete",
    "device history",
    "device usage",
    "device policy",
    "field list",
    "field add",
    "field edit",
    "field delete",
    "view list",
    "view save",
    "view delete",
    "top",
    "shell",
    "ssh",
    "proxy",
    "forward",
    "ssh-config",
    "run",
    "runs",
    "runs show",
    "runs output",
    "runs cancel",
    "sessions",
    "session show",
    "session end",
    "usage",
    "billing",
    "credit add",
    "limit show",
    "limit set",
    "audit",
    "completion",
];

fn leaves(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        let path = if path.is_empty() { sub.get_name().to_owned() } else { format!("{path} {}", sub.get_name()) };
        if !sub.has_subcommands() || sub.is_args_conflicts_with_subcommands_set() {
            found.push((path.clone(), sub.clone()));
        }
        leaves(sub, &path, found);
    }
}

fn try_parse(line: &str) -> Result<Cli, clap::Error> {
    parse(words(line).into_iter().map(Into::into))
}

/// Splits as a shell would, as far as the examples need it.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ') => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[test]
fn the_grammar_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn a_fingerprint_may_begin_with_a_hyphen() {
    let words =
        ["muster", "login", "https://hub.example.com", "--fingerprint", "-R8oGm0dUGOAW7uMKgwN8vhw3hq9pcE1sNxqrJ0sWcQ", "--no-browser"];
    assert!(Cli::command().try_get_matches_from(words).is_ok());
}

#[test]
fn every_command_and_every_flag_has_help() {
    let mut found = Vec::new();
    leaves(&command(), "", &mut found);
    assert_eq!(found.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(), COMMANDS);
    let mut without = Vec::new();
    for (path, command) in found {
        let about = command.get_about().unwrap_or_else(|| panic!("{path} has no help")).to_string();
        assert!(!about.ends_with('.') && about.len() <= 100, "{path}: {about}");
        for arg in command.get_arguments() {
            assert!(arg.get_help().is_some(), "{path}: {} has no help", arg.get_id());
        }
        let mut command = command.clone();
        let extra = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        for line in extra.lines().filter(|line| line.starts_with("  ")) {
            assert!(line.len() <= 98, "{path}: a terminal would break this example: {line}");
        }
        if !extra.contains("Examples:\n  ") {
            without.push(path.clone());
        }
        let help = command.render_long_help().to_string();
        assert!(help.contains("Usage: "), "{path}");
        assert!(!help.chars().any(|c| c.is_control() && c != '\n'), "{path}");
    }
    assert!(without.is_empty(), "no example in the help of: {}", without.join(", "));
}

#[test]
fn the_help_lists_exit_codes_and_environment() {
    let help = command().render_long_help().to_string();
    for text in ["Exit codes:", "  6  the hub cannot be reached", "MUSTER_TOKEN", "NO_COLOR", "config.toml", "Examples:"] {
        assert!(help.contains(text), "{text}\n{help}");
    }
    assert!(command().render_help().to_string().contains("Exit codes:"));
    // A token in the environment must not be shown to somebody who looks over a shoulder.
    assert!(!help.contains("mp1.a"));
}

#[test]
fn every_example_can_be_typed() {
    let mut found = Vec::new();
    leaves(&command(), "", &mut found);
    found.push((String::new(), command()));
    let mut parsed = 0;
    for (path, mut command) in found {
        let help = command.render_long_help().to_string();
        let Some((_, examples)) = help.split_once("Examples:\n") else { continue };
        for line in examples.lines().take_while(|line| line.starts_with("  ")) {
            // The first `muster` of the line up to a pipe, a redirection, a comment after spaces, or a closing bracket.
            let Some(start) = line.match_indices("muster ").map(|(at, _)| at).find(|at| line[at + 7..].starts_with(|c: char| c != '|'))
            else {
                continue;
            };
            let typed = line[start..].trim_end();
            let end = ["   ", " | ", " > ", " >> ", ")'", ")"].iter().filter_map(|stop| typed.find(stop)).min().unwrap_or(typed.len());
            let mut typed = &typed[..end];
            if line[..start].ends_with('\'') {
                typed = typed.split('\'').next().unwrap_or(typed);
            }
            let outcome = try_parse(&typed.replace("%p", "22"));
            if let Err(error) = &outcome {
                let help = matches!(
                    error.kind(),
                    clap::error::ErrorKind::DisplayHelp | clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                );
                assert!(help, "{path}: {typed}\n{error}");
            }
            parsed += 1;
        }
    }
    assert!(parsed >= 45, "only {parsed} examples");
}

#[test]
fn the_guide_types_what_exists() {
    let guide = include_str!("../../../../docs/cli.md");
    let mut parsed = 0;
    for line in guide.lines().filter_map(|line| line.strip_prefix("$ muster ")) {
        let typed = [" | ", " </"].iter().fold(line, |line, stop| line.split(stop).next().unwrap_or(line));
        if let Err(error) = try_parse(&format!("muster {typed}")) {
            panic!("muster {typed}\n{error}");
        }
        parsed += 1;
    }
    assert!(parsed >= 12, "only {parsed} commands");
    // The codes of --help and those of the guide.
    for row in EXIT_CODES.lines().filter(|line| line.starts_with("  ") && line.as_bytes()[2].is_ascii_digit()) {
        let (code, meaning) = row.trim().split_once("  ").expect("a code and its meaning");
        assert!(guide.contains(&format!("| {code} | {meaning} |")), "{row}");
    }
}

#[test]
fn global_flags_stand_anywhere() {
    let cli = try_parse("muster --json devices --project lab --org acme").unwrap();
    assert!(cli.globals.json && cli.globals.project_on_line);
    assert_eq!((cli.globals.project.as_deref(), cli.globals.org.as_deref()), (Some("lab"), Some("acme")));
    assert!(try_parse("muster --project lab devices").unwrap().globals.project_on_line);
    assert!(!try_parse("muster devices").unwrap().globals.project_on_line);
}

#[test]
fn what_follows_the_device_belongs_to_ssh() {
    let Command::Ssh(args) = try_parse("muster ssh --port 2222 pi@robot-7 -L 8080:localhost:80 -N -- uptime").unwrap().command else {
        panic!("not ssh")
    };
    assert_eq!(args.port, Some(2222));
    assert_eq!(args.words, ["pi@robot-7", "-L", "8080:localhost:80", "-N", "--", "uptime"]);
    // OpenSSH's own flags come first where another program calls.
    let line = "muster ssh --reason x -l pi -p 2222 -oBatchMode=yes robot-7 rsync --server";
    let Command::Ssh(args) = try_parse(line).unwrap().command else { panic!("not ssh") };
    assert_eq!((args.reason.as_deref(), args.port), (Some("x"), None));
    assert_eq!(args.words, ["-l", "pi", "-p", "2222", "-oBatchMode=yes", "robot-7", "rsync", "--server"]);
    let Command::Shell(args) = try_parse("muster shell robot-7 --user pi -- ls -l --json").unwrap().command else { panic!("not shell") };
    assert_eq!(args.command, ["ls", "-l", "--json"]);
}

#[test]
fn other_words_for_the_same_are_taken() {
    for (typed, meant) in [
        ("token delete x --yes", "token revoke x --yes"),
        ("token add --uses 1", "token create --uses 1"),
        ("access-token remove x", "access-token revoke x"),
        ("invitation delete x", "invitation revoke x"),
        ("service-account remove ci", "service-account delete ci"),
        ("runs end rabcdefghijklmno", "runs cancel rabcdefghijklmno"),
        ("session cancel sabcdefghijklmno", "session end sabcdefghijklmno"),
        ("field create site", "field add site"),
        ("field remove site", "field delete site"),
        ("view create hot --filter 'temp > 70'", "view save hot --filter 'temp > 70'"),
        ("project new lab", "project create lab"),
        ("project participant delete lab a@b.example", "project participant remove lab a@b.example"),
        ("device remove robot-7", "device delete robot-7"),
        ("device create SN-1", "device add SN-1"),
        ("member delete a@b.example", "member remove a@b.example"),
        ("credit create 10", "credit add 10"),
        ("account delete", "account close"),
        ("invitations", "invitation"),
        ("teams list", "team list"),
        ("fields", "field"),
        ("views ls", "view list"),
        ("projects", "project"),
        ("members", "member"),
        ("orgs", "org"),
        ("limits", "limit"),
    ] {
        let parsed = |line: &str| format!("{:?}", try_parse(&format!("muster {line}")).unwrap_or_else(|error| panic!("{line}\n{error}")));
        assert_eq!(parsed(typed), parsed(meant));
    }
    // A word that a noun uses itself keeps its meaning: these two put people into a team and take them out.
    assert_ne!(format!("{:?}", try_parse("muster team add ab b@c").unwrap()), format!("{:?}", try_parse("muster team create ab").unwrap()));
    assert!(try_parse("muster team remove night-shift").is_err());
    // Help and completion name each command once.
    for (noun, hidden) in [("muster", "invitations"), ("muster token", "delete"), ("muster view", "create")] {
        let help = try_parse(&format!("{noun} --help")).map(|_| ()).unwrap_err().to_string();
        assert!(!help.lines().any(|line| line.trim_start().starts_with(hidden)), "{noun}: {help}");
        assert!(!help.contains(&format!("aliases: {hidden}")), "{noun}: {help}");
    }
}

#[test]
fn a_noun_alone_lists() {
    for noun in
        "org member invitation service-account team project token access-token field view limit credit session account profile".split(' ')
    {
        assert!(try_parse(&format!("muster {noun}")).is_ok(), "{noun}");
    }
    for noun in ["device", "project participant", "team avatar night-shift", "org logo"] {
        let error = try_parse(&format!("muster {noun}")).unwrap_err();
        assert!(error.to_string().contains("Commands:") && error.exit_code() == 2, "{noun}: {error}");
    }
}

/// What is said about a line, in the words of the terminal.
fn said(line: &str) -> String {
    try_parse(line).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn mistakes_say_what_was_meant() {
    for (line, tip) in [
        ("muster show vm", "tip: name the thing first: muster device show vm, muster org show"),
        ("muster --org acme show vm", "muster device show vm,"),
        ("muster delete robot-7", "muster device delete robot-7,"),
        ("muster device vm show", "tip: the verb comes first: muster device show vm"),
        ("muster device vm edit --name x", "muster device edit vm"),
        ("muster --json device vm delete --yes", "muster device delete vm"),
        ("muster member add ann@acme.example", "people are invited: muster invite EMAIL"),
        ("muster team frobnicate", "muster team knows list, create, show, edit, add, remove, avatar, delete"),
    ] {
        let said = said(line);
        assert!(said.contains(tip), "{line}: {said}");
        assert!(!said.contains("similar subcommand"), "{line}: {said}");
    }
    assert!(said("muster view craete x").contains("'create'"), "so do those of a noun");
    assert!(said("muster devcies").contains("'devices'"), "clap's own suggestions stay");
    // What a shell would act on is not offered to be copied.
    assert!(!said("muster device '$(reboot)' show").contains("show $(reboot)"));
}

#[test]
fn usage_lines_name_what_is_missing_and_no_global_options() {
    for line in
        ["muster device show --org acme --hub https://h --token t --project lab", "muster --project lab device show", "muster device show"]
    {
        let said = said(line);
        assert!(said.contains("Usage: muster device show [OPTIONS] <DEVICE>"), "{line}: {said}");
    }
    assert!(said("muster --org acme limit set storage").contains("Usage: muster limit set [OPTIONS] <NAME> <MOST>"));
    assert!(said("muster --org acme team avatar night set").contains("Usage: muster team avatar <TEAM> set [OPTIONS] <FILE>"));
}

#[test]
fn mistakes_are_usage_errors() {
    for line in [
        "muster nonsense",
        "muster device edit robot-7",
        "muster token create --uses 0",
        "muster token create --expires 1y",
        "muster member set a@b --role god",
        "muster session end nope",
        "muster run robot-7",
        "muster run robot-7 --timeout 25h -- true",
        "muster run robot-7 --env A -- true",
        "muster runs --state asleep",
        "muster runs cancel nope",
        "muster devices --online --offline",
        "muster top --interval 0s",
        "muster org create Bad_Id",
        "muster usage --from monday",
        "muster billing --csv",
        "muster credit add lots",
        "muster limit set bananas 7",
        "muster audit --since -1",
        "muster audit --since tomorrow",
        "muster audit --follow --csv",
        "muster audit --until 1h --follow",
    ] {
        assert_eq!(try_parse(line).map(|_| ()).unwrap_err().exit_code(), 2, "{line}");
    }
}
