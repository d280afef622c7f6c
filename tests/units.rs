//! The systemd units: systemd reads them without a word, and they are as tight as promised.
//!
//! What they do on a running system is tried in the booted machine (`tests/boot`).

use std::fs;
use std::path::Path;
use std::process::Command;

/// Every unit that we ship.
const UNITS: [&str; 4] = ["muster-hub.service", "musterd.service", "musterd-session.socket", "musterd-session@.service"];
/// Services whose exposure is promised: `systemd-analyze security` goes from 0 (tight) to 10.
/// A session's own unit is not among them: a sandbox there would be felt in a real login.
const EXPOSURE: [(&str, f64); 2] = [("musterd.service", 1.3), ("muster-hub.service", 1.3)];

fn systemd_analyze(arguments: &[&str], unit: &Path) -> (bool, String) {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(unit)
        .env("SYSTEMD_PAGER", "")
        .env("SYSTEMD_COLORS", "0")
        .output()
        .unwrap_or_else(|error| panic!("systemd-analyze: {error}; `scripts/install-test-tools` installs what the tests need"));
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd"))
}

#[test]
fn systemd_reads_every_unit_without_a_word() {
    // The programs are not installed here, which systemd would complain of: the copies name one that is.
    let copies = tempfile::tempdir().expect("a folder");
    for unit in UNITS {
        let text = fs::read_to_string(folder().join(unit)).unwrap_or_else(|error| panic!("{unit}: {error}"));
        let programs = ["/usr/bin/musterd-session", "/usr/bin/musterd", "/usr/bin/muster-hub"];
        let copy = programs.iter().fold(text, |text, program| text.replace(&format!("{program} "), "/bin/true "));
        fs::write(copies.path().join(unit), copy).unwrap_or_else(|error| panic!("{unit}: {error}"));
    }
    for unit in UNITS {
        let (good, said) = systemd_analyze(&["verify"], &copies.path().join(unit));
        assert!(good && said.trim().is_empty(), "systemd-analyze verify {unit}: {said}");
    }
    let there = fs::read_dir(folder()).expect("the folder of the units").flatten();
    let units = there.filter(|entry| !entry.file_name().to_string_lossy().ends_with(".conf")).count();
    assert_eq!(units, UNITS.len(), "each unit of systemd/ is looked at");
}

#[test]
fn services_are_as_tight_as_promised() {
    for (unit, most) in EXPOSURE {
        let (_, said) = systemd_analyze(&["security", "--offline=true", "--no-pager"], &folder().join(unit));
        let line = said.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_else(|| panic!("{unit}: {said}"));
        let level = line.split(": ").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|level| level.parse::<f64>().ok());
        println!("{unit}: {level:?}, at most {most}");
        assert!(level.is_some_and(|level| level <= most), "{unit} may be at most {most}: {line}\n{said}");
    }
}
