//! Holds the documents to what is there: links and their anchors, paths of the repository, commands and flags of the programs.
//!
//! Each finding is one line: `file:line: what was not found`.
//! It reads files only; it must not build or run anything. Commands come from clap's attributes in the sources, by their form.

#[path = "support/sources.rs"]
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use sources::{is_test_path, root};

/// The programs, and where their command lines are defined.
const PROGRAMS: [(&str, &str); 3] = [("muster", "crates/muster-cli/src"), ("muster-hub", "crates/muster-hub/src"), ("musterd", "src")];
/// Folders of the repository that documents name by their path.
const FOLDERS: [&str; 8] = ["benches", "config", "crates", "docs", "packaging", "scripts", "src", "systemd"];
/// What begins like a command and is none: one that a page corrects, one of an earlier version, the first words of a signed text.
const NO_COMMANDS: [&str; 3] = ["muster device vm show", "musterd run-job", "muster order v1"];

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every text file below a folder, by its path from the root.
fn files(dir: &str) -> Vec<String> {
    sources::files(dir, "").into_iter().map(|(path, _)| path).collect()
}

fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned(), "CHANGELOG.md".to_owned()];
    pages.extend(["docs", "packaging"].iter().flat_map(|dir| files(dir)).filter(|path| path.ends_with(".md")));
    assert!(pages.len() > 20, "only {} pages found", pages.len());
    pages
}

/// What people copy from: the pages, the examples of configuration, the units.
fn documents() -> Vec<String> {
    [pages(), files("config"), files("systemd")].concat()
}

/// A line of a document.
enum Line {
    /// In a fenced block: typed or printed.
    Code(String),
    Prose(String),
}

fn lines(path: &str) -> Vec<(usize, Line)> {
    let mut fenced = false;
    let mut found = Vec::new();
    for (index, line) in read(path).lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced {
            found.push((index + 1, Line::Code(line.trim().to_owned())));
        } else {
            found.push((index + 1, Line::Prose(line.to_owned())));
        }
    }
    found
}

/// What is in backticks.
fn spans(prose: &str) -> impl Iterator<Item = &str> {
    prose.split('`').skip(1).step_by(2)
}

#[track_caller]
fn none(broken: &[String], looked_at: usize, at_least: usize, rule: &str) {
    assert!(looked_at >= at_least, "only {looked_at} looked at: the reader is broken");
    assert!(broken.is_empty(), "{rule}\n  {}", broken.join("\n  "));
}

/// The anchors of a page, as GitHub makes them from its headings.
fn anchors(path: &str) -> BTreeSet<String> {
    let headings = lines(path).into_iter().filter_map(|(_, line)| match line {
        Line::Prose(text) if text.starts_with('#') => Some(text.trim_start_matches('#').trim().to_lowercase()),
        _ => None,
    });
    headings
        .map(|heading| heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c)).collect::<String>().replace(' ', "-"))
        .collect()
}

#[test]
fn links_lead_to_a_file_and_to_a_heading_in_it() {
    let (mut broken, mut looked_at) = (Vec::new(), 0);
    for path in pages() {
        let folder = Path::new(&path).parent().expect("a folder").to_owned();
        for (number, line) in lines(&path) {
            let Line::Prose(text) = line else { continue };
            for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()).filter(|link| !link.contains("://")) {
                looked_at += 1;
                let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
                let target = if file.is_empty() { path.clone() } else { folder.join(file).to_string_lossy().into_owned() };
                if !root().join(&target).exists() {
                    broken.push(format!("{path}:{number}: no file for the link {link}"));
                } else if !anchor.is_empty() && !anchors(&target).contains(anchor) {
                    broken.push(format!("{path}:{number}: no heading for the link {link}"));
                }
            }
        }
    }
    none(&broken, looked_at, 60, "Links in the documents lead to files and headings that exist:");
}

#[test]
fn paths_of_the_repository_exist() {
    let all: Vec<String> = FOLDERS.iter().chain(&["tests"]).flat_map(|dir| files(dir)).collect();
    let is_path = |word: &str| {
        word.split_once('/').is_some_and(|(first, _)| FOLDERS.contains(&first) || first == "tests")
            && word.chars().all(|c| c.is_ascii_alphanumeric() || "/._-@*".contains(c))
    };
    let exists = |word: &str| match word.split_once('*') {
        Some((before, after)) => all.iter().any(|path| path.starts_with(before) && path.ends_with(after)),
        None => root().join(word).exists(),
    };
    let (mut broken, mut looked_at) = (Vec::new(), 0);
    for path in documents() {
        for (number, line) in lines(&path) {
            let text = match &line {
                Line::Code(text) => text.clone(),
                Line::Prose(text) => spans(text).collect::<Vec<_>>().join(" "),
            };
            for word in text.split_whitespace() {
                let bare = !word.contains(['/', '*']) && (word.ends_with(".rs") || word.ends_with(".sh"));
                if !bare && !is_path(word) {
                    continue;
                }
                looked_at += 1;
                let there = if bare { all.iter().any(|path| path.ends_with(&format!("/{word}"))) } else { exists(word) };
                if !there {
                    broken.push(format!("{path}:{number}: no file {word}"));
                }
            }
        }
    }
    none(&broken, looked_at, 80, "Paths in the documents are those of files in the repository:");
}

/// What a program's command line knows.
#[derive(Default)]
struct Known {
    /// Commands of every depth, and their other names.
    commands: BTreeSet<String>,
    /// Commands that take another one after them.
    nouns: BTreeSet<String>,
    flags: BTreeSet<String>,
}

/// `AccessToken` to `access-token`.
fn kebab(variant: &str) -> String {
    let mut out = String::new();
    for c in variant.chars() {
        if c.is_uppercase() && !out.is_empty() {
            out.push('-');
        }
        out.extend(c.to_lowercase());
    }
    out
}

fn identifier(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

fn known(dir: &str) -> Known {
    let sources: BTreeMap<String, String> = files(dir)
        .into_iter()
        .filter(|path| path.ends_with(".rs") && !is_test_path(path))
        .map(|path| (path.clone(), read(&path)))
        .collect();
    let with_commands = |module: &str| {
        let derived = |path: &str, text: &String| {
            (path.ends_with(&format!("/{module}.rs")) || path.contains(&format!("/{module}/"))) && text.contains("Subcommand)]")
        };
        sources.iter().any(|(path, text)| derived(path, text))
    };
    // These are clap's own.
    let mut known = Known { flags: BTreeSet::from(["help".to_owned(), "version".to_owned()]), ..Known::default() };
    known.commands.insert("help".to_owned());
    for text in sources.values() {
        let (mut attribute, mut is_flag, mut derives, mut in_commands) = (String::new(), false, false, false);
        let mut latest = Vec::new();
        for line in text.lines() {
            let trimmed = line.trim();
            if !attribute.is_empty() || trimmed.starts_with("#[arg(") || trimmed.starts_with("#[command(") {
                attribute.push_str(trimmed);
                if !trimmed.ends_with(")]") {
                    continue;
                }
                let names: Vec<String> = attribute
                    .split("alias")
                    .skip(1)
                    .chain(attribute.split("long = ").skip(1))
                    .chain(attribute.split("name = ").skip(1))
                    .flat_map(|part| part.split([')', ']']).next().unwrap_or_default().split('"').skip(1).step_by(2))
                    .map(str::to_owned)
                    .collect();
                let words: BTreeSet<&str> = attribute.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
                if attribute.starts_with("#[arg(") {
                    is_flag |= words.contains("long");
                    known.flags.extend(names);
                } else {
                    // `command: ...` below this line: the variant above it takes another command.
                    if words.contains("subcommand") && in_commands {
                        known.nouns.extend(latest.iter().cloned());
                    }
                    known.commands.extend(names.iter().cloned());
                    latest = names;
                }
                attribute.clear();
            } else if trimmed.starts_with("//") {
                continue;
            } else if trimmed.starts_with("#[derive(") {
                derives = trimmed.contains("Subcommand");
            } else if derives && trimmed.contains("enum ") {
                (derives, in_commands) = (false, true);
            } else if line == "}" {
                in_commands = false;
            } else if is_flag {
                let field = trimmed.trim_start_matches("pub(crate) ").trim_start_matches("pub(super) ").trim_start_matches("pub ");
                known.flags.insert(identifier(field).replace('_', "-"));
                is_flag = false;
            } else if in_commands && line.starts_with("    ") && line[4..].starts_with(char::is_uppercase) {
                let variant = identifier(trimmed);
                latest.push(kebab(variant));
                known.commands.insert(kebab(variant));
                let module = trimmed[variant.len()..].trim_start_matches('(').split_once("::").map(|(module, _)| module);
                if module.is_some_and(with_commands) {
                    known.nouns.extend(latest.iter().cloned());
                }
                if !trimmed.ends_with('{') {
                    latest.clear();
                }
            }
        }
    }
    known
}

/// What a command line names that its program does not know. Words that may be values are left out.
fn unknown(words: &[&str], known: &Known) -> Vec<String> {
    let mut found = Vec::new();
    let is_word = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
    let mut depth = 0;
    // `device reject|revoke` names two commands.
    for alternatives in words.iter().take_while(|word| !["--", "|", "<", ">", "&&"].contains(*word)) {
        for word in alternatives.split('|') {
            if let Some(flag) = word.strip_prefix("--") {
                let flag = flag.split(['=', ')', ',', '.']).next().unwrap_or_default();
                if !known.flags.contains(flag) {
                    found.push(format!("no flag --{flag}"));
                }
            } else if depth < 2 && is_word(&word) && !known.commands.contains(word) {
                found.push(format!("no command {word}"));
            }
        }
        depth = match depth {
            0 if *alternatives == "help" => 0,
            0 if known.nouns.contains(*alternatives) => 1,
            _ => 2,
        };
    }
    found
}

#[test]
fn commands_and_flags_exist() {
    let programs: BTreeMap<&str, Known> = PROGRAMS.into_iter().map(|(program, dir)| (program, known(dir))).collect();
    for (program, known) in &programs {
        assert!(known.commands.len() >= 9 && known.flags.len() >= 8, "{program}: {:?} {:?}", known.commands, known.flags);
    }
    let (mut broken, mut looked_at) = (Vec::new(), 0);
    let mut look = |at: &str, line: &str, typed: bool| -> Vec<String> {
        let mut found = Vec::new();
        let words: Vec<&str> = line.split_whitespace().collect();
        for (index, word) in words.iter().enumerate() {
            let word = word.trim_start_matches("$(").trim_start_matches('<').trim_start_matches('(');
            let first = index == 0 || typed && ["|", "--", "$", "&&", "sudo"].contains(&words[index - 1]) || words[index].contains('(');
            let Some(known) = programs.get(word).filter(|_| first && !NO_COMMANDS.contains(&line)) else { continue };
            looked_at += 1;
            found.extend(unknown(&words[index + 1..], known).into_iter().map(|what| format!("{at}: {word}: {what}: {line}")));
        }
        found
    };
    for path in documents() {
        for (number, line) in lines(&path) {
            let at = format!("{path}:{number}");
            match &line {
                Line::Code(text) => broken.extend(look(&at, text.split(" #").next().unwrap_or_default(), true)),
                Line::Prose(text) => {
                    spans(text).for_each(|span| broken.extend(look(&at, span, false)));
                    // A flag alone is one of any program.
                    for flag in
                        spans(text).filter_map(|span| span.strip_prefix("--")?.split([' ', '=']).next()).filter(|flag| !flag.is_empty())
                    {
                        if !programs.values().any(|known| known.flags.contains(flag)) {
                            broken.push(format!("{at}: no program has the flag --{flag}"));
                        }
                    }
                }
            }
        }
    }
    none(&broken, looked_at, 200, "Commands in the documents are those of the programs:");
}

#[test]
fn a_command_that_does_not_exist_is_found() {
    let cli = known("crates/muster-cli/src");
    let split = |line: &str| unknown(&line.split(' ').collect::<Vec<_>>(), &cli);
    for right in
        ["device edit robot-7 --set a=b", "devices --filter x", "help devices import", "shell vm -- ls --color", "teams", "project use lab"]
    {
        assert_eq!(split(right), Vec::<String>::new(), "{right}");
    }
    assert_eq!(split("device rename robot-7 --sett a=b"), ["no command rename", "no flag --sett"]);
    assert_eq!(split("restart"), ["no command restart"]);
    let daemon = known("src");
    assert_eq!(unknown(&["policy", "check", "--user", "a"], &daemon), ["no command check"]);
    assert_eq!(unknown(&["end", "--everything"], &daemon), ["no flag --everything"]);
}
