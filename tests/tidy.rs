//! Holds the rules of the house that no compiler checks: who may import whom, what pure code may know, the protocol page's hash.
//!
//! Each rule says what it is for in its failure, and asserts that it looked at something: a rule that matches no file is broken.
//! It reads files only; it must not build or run anything.

#[path = "support/sources.rs"]
mod sources;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sources::{files, is_test_path, root};

/// The upper end for a file; about 400 is what we aim at.
const LINES_MAX: usize = 600;
/// Longer ones, with the reason.
const LONG: &[(&str, &str)] = &[("crates/muster-proto/src/api.rs", "every body of the HTTP API, one documented field per line, no logic")];
/// Folders that hold Rust of ours.
const RUST_DIRS: [&str; 4] = ["src", "crates", "tests", "benches"];

fn rust_files() -> Vec<(String, String)> {
    let all: Vec<_> = RUST_DIRS.iter().flat_map(|dir| files(dir, ".rs")).collect();
    assert!(all.len() > 20, "only {} Rust files found: the walk is broken", all.len());
    all
}

/// The lines that are code, with their numbers from 1.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line)).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The part of a file that is only built for tests: all of a test file, and what follows `#[cfg(test)] mod` at the end of another.
fn test_part<'a>(path: &str, text: &'a str) -> (usize, &'a str) {
    if is_test_path(path) {
        return (0, text);
    }
    // `mod tests;` only names another file.
    let inline = |at: &usize| text[*at..].lines().nth(1).is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'));
    match text.match_indices("#[cfg(test)]\nmod ").map(|(at, _)| at).find(inline) {
        Some(at) => (text[..at].lines().count(), &text[at..]),
        None => (0, ""),
    }
}

/// Everything before the tests at a file's end.
fn product_part<'a>(path: &str, text: &'a str) -> &'a str {
    let (_, tests) = test_part(path, text);
    &text[..text.len() - tests.len()]
}

#[track_caller]
fn none(broken: &[String], rule: &str) {
    assert!(broken.is_empty(), "{rule}\n  {}", broken.join("\n  "));
}

fn manifest(path: &str) -> toml::Table {
    let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn names(manifest: &toml::Table, section: &str) -> BTreeSet<String> {
    let mut found: BTreeSet<String> =
        manifest.get(section).and_then(toml::Value::as_table).map(|table| table.keys().cloned().collect()).unwrap_or_default();
    if let Some(targets) = manifest.get("target").and_then(toml::Value::as_table) {
        for target in targets.values().filter_map(toml::Value::as_table) {
            found.extend(names(target, section));
        }
    }
    found
}

const MANIFESTS: [(&str, &str); 5] = [
    ("musterd", "Cargo.toml"),
    ("muster-proto", "crates/muster-proto/Cargo.toml"),
    ("muster-link", "crates/muster-link/Cargo.toml"),
    ("muster-hub", "crates/muster-hub/Cargo.toml"),
    ("muster-cli", "crates/muster-cli/Cargo.toml"),
];

/// Which of our crates each of our crates may name.
fn may_depend_on(package: &str) -> &'static [&'static str] {
    match package {
        "muster-proto" => &[],
        "muster-link" => &["muster-proto"],
        _ => &["muster-proto", "muster-link"],
    }
}

#[test]
fn programs_know_the_protocol_and_never_each_other() {
    let ours: BTreeSet<&str> = MANIFESTS.iter().map(|(name, _)| *name).collect();
    let mut broken = Vec::new();
    let mut looked_at = 0;
    for (package, path) in MANIFESTS {
        let manifest = manifest(path);
        assert_eq!(manifest["package"]["name"].as_str(), Some(package), "{path}");
        for dependency in names(&manifest, "dependencies").union(&names(&manifest, "build-dependencies")) {
            looked_at += 1;
            if ours.contains(dependency.as_str()) && !may_depend_on(package).contains(&dependency.as_str()) {
                broken.push(format!("{path}: {package} depends on {dependency}"));
            }
        }
    }
    assert!(looked_at > 20, "only {looked_at} dependencies seen");
    none(&broken, "The daemon, the hub and the command line know muster-proto and muster-link, and never each other:");
}

#[test]
fn versions_and_lints_stand_in_one_place() {
    let workspace = manifest("Cargo.toml")["workspace"]["dependencies"].as_table().expect("workspace.dependencies").clone();
    let version = |value: &toml::Value| value.as_str().or_else(|| value.get("version")?.as_str()).map(str::to_owned);
    let mut broken = Vec::new();
    for (_, path) in MANIFESTS {
        let manifest = manifest(path);
        if manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool) != Some(true) {
            broken.push(format!("{path}: no [lints] workspace = true"));
        }
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
            for (name, value) in table {
                let inherited = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                // Fewer features than the workspace's cannot be inherited (cargo, "Inheriting a dependency"); the version still must be.
                let same = version(value).is_some() && version(value) == workspace.get(name).and_then(version);
                if !inherited && !same {
                    broken.push(format!("{path}: [{section}] {name} has a version of its own"));
                }
            }
        }
    }
    none(&broken, "Versions and lints are set once, in the root Cargo.toml, so that no crate is built twice:");
}

#[test]
fn the_protocol_does_no_io() {
    let mut broken = Vec::new();
    for dependency in names(&manifest("crates/muster-proto/Cargo.toml"), "dependencies") {
        if !["bytes", "serde", "serde_json", "thiserror"].contains(&dependency.as_str()) {
            broken.push(format!("crates/muster-proto/Cargo.toml: {dependency}"));
        }
    }
    none(&broken, "muster-proto stands on serde, bytes and thiserror alone:");
    pure(&files("crates/muster-proto/src", ".rs"), 8);
}

/// The thin shells beside pure parts: they read files and clocks, and hand on what they found.
const SHELLS: &[&str] = &["src/policy/file.rs", "src/policy/owners.rs", "src/policy/clock.rs", "src/policy/first.rs"];

/// Parts of the programs that decide and do nothing else: a file, or the folder beside it.
/// Time, bytes and random numbers come in as arguments.
const PURE: &[&str] = &[
    "src/policy.rs",
    "crates/muster-hub/src/rights.rs",
    "crates/muster-hub/src/words.rs",
    "crates/muster-hub/src/query.rs",
    "crates/muster-hub/src/fields.rs",
];

#[test]
fn decisions_are_pure() {
    for part in PURE {
        let folder = format!("{}/", part.trim_end_matches(".rs"));
        let found: Vec<_> = rust_files()
            .into_iter()
            .filter(|(path, _)| (path == part || path.starts_with(&folder)) && !SHELLS.contains(&path.as_str()))
            .collect();
        pure(&found, 1);
    }
}

#[track_caller]
fn pure(files: &[(String, String)], at_least: usize) {
    const FOREIGN: [&str; 14] = [
        "tokio",
        "std::fs",
        "std::net::Tcp",
        "std::net::Udp",
        "std::net::ToSocketAddrs",
        "std::os::unix::net",
        "std::process",
        "std::thread",
        "std::env::var",
        "std::io::stdin",
        "SystemTime::now",
        "Instant::now",
        "println!",
        "rand::",
    ];
    assert!(files.len() >= at_least, "only {} files looked at: the rule is broken", files.len());
    let mut broken = Vec::new();
    for (path, text) in files {
        for (number, line) in code_lines(product_part(path, text)) {
            for foreign in FOREIGN {
                if line.contains(foreign) {
                    broken.push(format!("{path}:{number}: {foreign}"));
                }
            }
        }
    }
    none(&broken, "Pure code knows no runtime, file, socket, process or clock; what it needs comes in as an argument:");
}

/// A part of a program: the file, and the folder beside it.
fn part(name: &str) -> Vec<(String, String)> {
    let (file, folder) = (format!("src/{name}.rs"), format!("src/{name}/"));
    let found: Vec<_> = files("src", ".rs").into_iter().filter(|(path, _)| *path == file || path.starts_with(&folder)).collect();
    assert!(!found.is_empty(), "no file of src/{name} found");
    found
}

/// Where one part names another one of the same program.
fn imports(name: &str, other: &str) -> Vec<String> {
    let imports = [format!("crate::{other}::"), format!("crate::{other};"), format!("crate::{{{other}"), format!("crate::{other},")];
    let mut broken = Vec::new();
    for (path, text) in part(name) {
        for (number, line) in code_lines(&text) {
            if imports.iter().any(|import| line.contains(import.as_str())) {
                broken.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    broken
}

#[test]
fn mqtt_and_what_serves_visitors_do_not_import_each_other() {
    let mut broken = Vec::new();
    for part in ["sessions", "runs", "living", "visits"] {
        broken.extend(imports("mqtt", part));
        broken.extend(imports(part, "mqtt"));
    }
    none(&broken, "In the daemon, `mqtt` and `sessions` or `runs` never import each other; `daemon` carries orders from one to the other:");
}

/// The sides of a session that have no power, and those that may know them: none.
const POWERLESS: [&str; 2] = ["network", "collector"];

#[test]
fn the_privileged_part_and_its_unprivileged_sides_share_only_their_channel() {
    let mut broken = Vec::new();
    for side in POWERLESS {
        broken.extend(imports("session/privileged", side));
        broken.extend(imports(&format!("session/{side}"), "privileged"));
    }
    broken.extend(["privileged", "network", "collector"].iter().flat_map(|part| imports("session/channel", part)));
    none(&broken, "What has power knows those without it by `channel` alone, and they know it by nothing else:");
}

/// Lines of code in the privileged part, without tests, comments and blank lines. It is only ever lowered.
const PRIVILEGED_MAX: usize = 1843;
/// Where it is to be.
const PRIVILEGED_GOAL: usize = 800;

#[test]
fn what_has_power_stays_small_enough_to_be_read() {
    let counted = part("session/privileged");
    assert!(counted.len() >= 8, "only {} files of the privileged part found", counted.len());
    let lines: usize =
        counted.iter().map(|(path, text)| code_lines(product_part(path, text)).filter(|(_, line)| !line.trim().is_empty()).count()).sum();
    assert!(
        lines <= PRIVILEGED_MAX,
        "src/session/privileged has {lines} lines of code, more than {PRIVILEGED_MAX}: whoever takes it over is root, so it stays small \
         enough to be read in an hour; the goal is {PRIVILEGED_GOAL}"
    );
}

#[test]
fn files_begin_with_their_purpose_and_stay_short() {
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        if !text.starts_with("//! ") {
            broken.push(format!("{path}: does not begin with `//! ` and what it is"));
        }
        let lines = text.lines().count();
        if lines > LINES_MAX && !LONG.iter().any(|(long, _)| *long == path) {
            broken.push(format!("{path}: {lines} lines, more than {LINES_MAX}"));
        }
        if path.ends_with("/mod.rs") {
            broken.push(format!("{path}: foo.rs stands beside foo/, there is no mod.rs"));
        }
        let name = Path::new(&path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if ["utils", "util", "common", "helpers", "misc", "manager", "base"].contains(&name.as_str()) {
            broken.push(format!("{path}: a name that says nothing; use a noun of the field"));
        }
    }
    none(&broken, "Files are short, named by what they hold, and say first what they are for:");
}

#[test]
fn tests_neither_sleep_nor_hide() {
    let mut broken = Vec::new();
    let mut looked_at = 0;
    for (path, text) in rust_files() {
        let (before, part) = test_part(&path, &text);
        // Under tokio's paused clock a sleep takes no time and is exact.
        let virtual_time = part.contains("start_paused");
        let lines: Vec<&str> = part.lines().collect();
        for (number, line) in code_lines(part) {
            looked_at += 1;
            let sleeps = line.contains("thread::sleep") || (!virtual_time && line.contains("time::sleep("));
            // The pause between two looks at a condition is no sleep: the loop stands right above.
            let looks = lines[number.saturating_sub(7)..number].iter().any(|above| above.contains("while ") || above.contains("loop {"));
            if sleeps && !looks && !path.ends_with("tidy.rs") {
                broken.push(format!("{path}:{}: sleeps", before + number));
            }
            if line.trim_start().starts_with(concat!("#[", "ignore")) {
                broken.push(format!("{path}:{}: ignored", before + number));
            }
        }
    }
    assert!(looked_at > 500, "only {looked_at} lines of tests seen");
    none(&broken, "A test waits for a condition with a deadline, and every test runs:");
}

#[test]
fn nothing_is_left_to_do() {
    // Written in two parts, so that this file passes its own rule.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("todo", "!("), concat!("unimple", "mented!(")];
    let mut broken = Vec::new();
    for (path, text) in rust_files() {
        for (index, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                broken.push(format!("{path}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    none(&broken, "Work that is left belongs on the tracker, not in the code:");
}

#[test]
fn nothing_names_the_machine_it_was_made_on() {
    let marks = [concat!("/wo", "rk/"), concat!("/root/", ".cargo"), concat!("/home/", "user")];
    let mut texts = rust_files();
    for dir in ["docs", "scripts", "config", "systemd", "packaging", ".ci", "crates"] {
        texts.extend(files(dir, ""));
    }
    for file in ["README.md", "CHANGELOG.md", "Makefile", "Cargo.toml", "deny.toml", "clippy.toml"] {
        texts.push((file.to_owned(), fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))));
    }
    let mut broken = Vec::new();
    for (path, text) in texts {
        for (index, line) in text.lines().enumerate() {
            if marks.iter().any(|mark| line.contains(mark)) {
                broken.push(format!("{path}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    none(&broken, "No path of one machine stands in the repository:");
}

#[test]
fn one_tls_library_in_rust() {
    let lock: toml::Table = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock").parse().expect("Cargo.lock is TOML");
    let packages = lock["package"].as_array().expect("packages");
    assert!(packages.len() > 50, "only {} packages in Cargo.lock", packages.len());
    let banned = ["openssl", "openssl-sys", "native-tls", "aws-lc-rs", "aws-lc-sys", "reqwest", "ureq"];
    let broken: Vec<String> =
        packages.iter().filter_map(|package| package["name"].as_str()).filter(|name| banned.contains(name)).map(str::to_owned).collect();
    none(&broken, "TLS is rustls with ring, static and the same on every target; deny.toml says why:");
}

#[test]
fn the_protocol_page_was_read_with_the_protocol() {
    let mut lines: Vec<(String, String)> = Vec::new();
    for (path, text) in files("crates/muster-proto/src", ".rs") {
        let inside = path.strip_prefix("crates/muster-proto/src/").expect("below src").to_owned();
        lines.push((inside, sha256(text.as_bytes())));
    }
    assert!(lines.len() >= 8, "only {} files of the protocol found", lines.len());
    lines.sort();
    let joined: String = lines.iter().map(|(path, hash)| format!("{hash}  {path}\n")).collect();
    let now = sha256(joined.as_bytes());
    let page = fs::read_to_string(root().join("docs/protocol.md")).expect("docs/protocol.md");
    let told = page.lines().find_map(|line| line.strip_prefix("Protocol source: `")).and_then(|rest| rest.split('`').next());
    assert_eq!(
        told,
        Some(now.as_str()),
        "the protocol's source has changed since docs/protocol.md was last read: read the page, mend it, then run `scripts/protocol-hash --write`"
    );
}

fn sha256(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_decision_is_listed_once() {
    let index = fs::read_to_string(root().join("docs/decisions/README.md")).expect("docs/decisions/README.md");
    let pages: Vec<String> = files("docs/decisions", ".md")
        .into_iter()
        .map(|(path, _)| path.trim_start_matches("docs/decisions/").to_owned())
        .filter(|name| name != "README.md")
        .collect();
    assert!(!pages.is_empty(), "no decision found");
    let mut broken: Vec<String> = pages.iter().filter(|page| !index.contains(&format!("]({page})"))).cloned().collect();
    let numbers: BTreeSet<&str> = pages.iter().map(|page| &page[..4]).collect();
    if numbers.len() < pages.len() {
        broken.push("two decisions have one number".to_owned());
    }
    none(&broken, "docs/decisions/README.md lists every decision, each with a number of its own:");
}
