//! What people read is plain English: no word of a list that marks a sentence as a translation or a riddle.
//!
//! Read are the documents outside code blocks; and of the programs every text in quotes that is a sentence or a part of one, and the
//! help of commands and options. What is held at zero stays there; elsewhere the number of findings may only go down.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs;
use std::path::{Path, PathBuf};

/// Words and turns, in small letters, and what to write in their place.
const LIST: &[(&str, &str)] = &[
    ("whoever", "anyone who, people who"),
    ("somebody", "someone, a person, or the role that is meant"),
    ("whom it", "the term for it"),
    ("is nobody", "there is no"),
    ("are told", "see, get a message"),
    ("is told", "sees, gets a message"),
    ("was told", "got, was sent"),
    ("been told", "been sent"),
    ("did not tell", "did not return"),
    ("made up", "generated"),
    ("works no more", "no longer works, is revoked"),
    ("no more", "no longer"),
    ("as far as these", "that match"),
    ("is no forward", "is not a valid forward"),
    ("himself", "themselves"),
    ("herself", "themselves"),
    ("in so many words", "explicitly"),
    ("so many are", "N are"),
    ("is set aside", "is disabled"),
    ("be mended", "be fixed"),
    ("is mended", "is fixed"),
    ("shown only now", "shown only once"),
    ("commands mean", "default organization"),
    ("as they were", "unchanged"),
    ("went silent", "stopped responding"),
    ("without a word", "and gave no reason"),
    ("nothing was done", "nothing was changed"),
];

/// Documents that are held at zero.
const PLAIN: &[&str] = &["README.md", "docs/glossary.md", "docs/permissions.md", "docs/cli.md", "docs/operations.md"];
/// The others together: only ever lowered; the goal is 0.
const DOCUMENTS_MAX: usize = 36;
/// Texts of the programs, by folder: only ever lowered; the goal is 0.
const PROGRAMS: &[(&str, usize)] = &[
    ("src", 0),
    ("crates/muster-cli/src", 0),
    ("crates/muster-hub/src", 0),
    ("crates/muster-link/src", 0),
    ("crates/muster-proto/src", 0),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The words of the list in a text.
fn found(text: &str) -> Vec<&'static str> {
    let text = text.to_lowercase();
    let bounded = |at: usize, word: &str| {
        let outside = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric());
        outside(text[..at].chars().next_back()) && outside(text[at + word.len()..].chars().next())
    };
    LIST.iter().map(|(word, _)| *word).filter(|word| text.match_indices(*word).any(|(at, _)| bounded(at, word))).collect()
}

fn files(below: &Path, kind: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(below).unwrap().flatten().map(|entry| entry.path()) {
        if entry.is_dir() {
            all.extend(files(&entry, kind));
        } else if entry.extension().is_some_and(|found| found == kind) {
            all.push(entry);
        }
    }
    all.sort();
    all
}

/// A finding on each line.
fn report(name: &str, line: usize, text: &str, findings: &mut Vec<String>) {
    for word in found(text) {
        let better = LIST.iter().find(|(known, _)| *known == word).map_or("", |(_, better)| *better);
        findings.push(format!("{name}:{line}: {word:?} (write: {better}): {}", text.trim().chars().take(160).collect::<String>()));
    }
}

fn of_document(path: &Path, findings: &mut Vec<String>) {
    let name = path.strip_prefix(root()).unwrap().display().to_string();
    let mut in_code = false;
    for (number, line) in fs::read_to_string(path).unwrap().lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            report(&name, number + 1, line, findings);
        }
    }
}

/// The texts in quotes of a source, with the line on which each begins.
fn literals(source: &str) -> Vec<(usize, String)> {
    let bytes: Vec<char> = source.chars().collect();
    let (mut at, mut line, mut all) = (0, 1, Vec::new());
    while at < bytes.len() {
        match bytes[at] {
            '\n' => line += 1,
            '/' if bytes.get(at + 1) == Some(&'/') => {
                while at < bytes.len() && bytes[at] != '\n' {
                    at += 1;
                }
                continue;
            }
            // A character or a lifetime.
            '\'' if bytes.get(at + 1) == Some(&'\\') => at += 2,
            '\'' if bytes.get(at + 2) == Some(&'\'') => at += 2,
            'r' if matches!(bytes.get(at + 1), Some('"' | '#'))
                && !bytes.get(at.wrapping_sub(1)).is_some_and(|c| c.is_alphanumeric() || *c == '_') =>
            {
                let hashes = bytes[at + 1..].iter().take_while(|c| **c == '#').count();
                if bytes.get(at + 1 + hashes) == Some(&'"') {
                    let (begin, start) = (line, at + 2 + hashes);
                    let end: String = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                    let rest: String = bytes[start..].iter().collect();
                    let text = rest.split(&end).next().unwrap_or_default().to_owned();
                    line += text.matches('\n').count();
                    at = start + text.chars().count() + end.len();
                    all.push((begin, text));
                    continue;
                }
            }
            '"' => {
                let (begin, mut text) = (line, String::new());
                at += 1;
                while at < bytes.len() && bytes[at] != '"' {
                    if bytes[at] == '\\' {
                        at += 1;
                        if bytes[at] == '\n' {
                            // The text goes on with the next line's first letter.
                            line += 1;
                            while bytes.get(at + 1).is_some_and(|c| c.is_whitespace()) {
                                at += 1;
                            }
                        } else {
                            text.push(if bytes[at] == 'n' { ' ' } else { bytes[at] });
                        }
                    } else {
                        line += usize::from(bytes[at] == '\n');
                        text.push(bytes[at]);
                    }
                    at += 1;
                }
                all.push((begin, text));
            }
            _ => {}
        }
        at += 1;
    }
    all
}

/// The help of a command line: doc comments of what clap derives its grammar from.
fn help(source: &str) -> Vec<(usize, String)> {
    if !["Args)]", "Subcommand)]", "Parser)]", "Args, ", "Subcommand, "].iter().any(|derive| source.contains(derive)) {
        return Vec::new();
    }
    let lines: Vec<&str> = source.lines().collect();
    let is_help = |at: usize| {
        lines[at..].iter().find(|line| !line.trim_start().starts_with("///")).is_some_and(|next| {
            let next = next.trim_start();
            next.starts_with("#[arg") || next.starts_with("#[command") || next.starts_with(|c: char| c.is_uppercase())
        })
    };
    let texts = lines.iter().enumerate().filter_map(|(at, line)| Some((at, line.trim_start().strip_prefix("/// ")?)));
    texts.filter(|(at, _)| is_help(*at)).map(|(at, text)| (at + 1, text.to_owned())).collect()
}

/// The part of a source that is no test.
fn product(path: &Path, source: &str) -> String {
    if path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests") {
        return String::new();
    }
    source.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned()
}

#[test]
fn documents_are_plain() {
    let mut findings = Vec::new();
    PLAIN.iter().for_each(|name| of_document(&root().join(name), &mut findings));
    assert!(findings.is_empty(), "{}\n{} findings", findings.join("\n"), findings.len());
    let mut others = Vec::new();
    let all = files(&root().join("docs"), "md").into_iter().chain([root().join("CHANGELOG.md")]);
    all.filter(|path| !PLAIN.iter().any(|name| path.ends_with(name))).for_each(|path| of_document(&path, &mut others));
    assert!(others.len() <= DOCUMENTS_MAX, "{}\n{} findings, at most {DOCUMENTS_MAX}", others.join("\n"), others.len());
}

#[test]
fn programs_speak_plainly() {
    let mut texts = 0;
    let mut broken = Vec::new();
    for (folder, most) in PROGRAMS {
        let mut findings = Vec::new();
        for path in files(&root().join(folder), "rs") {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            let source = product(&path, &fs::read_to_string(&path).unwrap());
            for (line, text) in literals(&source).into_iter().chain(help(&source)).filter(|(_, text)| text.contains(' ')) {
                texts += 1;
                report(&name, line, &text, &mut findings);
            }
        }
        if findings.len() > *most {
            broken.push(format!("{}\n{folder}: {} findings, at most {most}", findings.join("\n"), findings.len()));
        }
    }
    assert!(texts > 2000, "only {texts} texts found");
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_list_finds_what_it_should_and_nothing_else() {
    assert_eq!(found("Whoever comes is told himself"), ["whoever", "is told", "himself"]);
    assert!(found("a symptom more, nobody, the toldo").is_empty());
    let source = "let a = \"one \\\n   two\"; // \"not this\"\nlet b = r#\"thr\"ee\"#; let c = '\"'; let d = \"four\";";
    let texts: Vec<String> = literals(source).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["one two", "thr\"ee", "four"]);
    let clap = "#[derive(Debug, Args)]\nstruct A {\n    /// Some help\n    #[arg(long)]\n    a: bool,\n}\n/// Not help\nfn x() {}\n";
    assert_eq!(help(clap), [(3, "Some help".to_owned())]);
}
