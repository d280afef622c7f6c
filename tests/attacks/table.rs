//! The table of attacks.

use std::io::Write as _;

/// What each class is about.
const CLASSES: [&str; 8] = [
    "the device's key",
    "denial",
    "other visitors",
    "forged words",
    "escape from the end",
    "the policy file",
    "the clock",
    "relay and broker",
];
/// What a real user can do by the system's own means, and why it stands apart.
const FOOTER: &str = "Counted apart: what a visitor's user may leave behind by the system's own means (cron, at, `systemd-run --user`, \
                      `loginctl enable-linger`, ~/.ssh/authorized_keys, ~/.profile of that same user). They are services of the device, \
                      and who may use them its owner decides there (cron.allow, at.allow, linger); ending a session does not undo them.";

/// All rows so far.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

struct Row {
    class: usize,
    what: String,
    by: String,
    happened: String,
    held: bool,
}

impl Table {
    /// Notes one attack: what was tried, by whom, what happened, and whether it was held off.
    pub fn row(&mut self, class: usize, what: impl Into<String>, by: &str, happened: impl Into<String>, held: bool) {
        let row = Row { class, what: what.into(), by: by.to_owned(), happened: happened.into(), held };
        self.rows.push(row);
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Those that succeeded.
    pub fn succeeded(&self) -> Vec<String> {
        self.rows.iter().filter(|row| !row.held).map(Row::line).collect()
    }

    /// Prints it whole, past the test harness, which would swallow it.
    pub fn print(&self) {
        let mut out = String::from("\n");
        for (class, about) in CLASSES.iter().enumerate() {
            out.push_str(&format!("\n{}. {about}\n", class + 1));
            for row in self.rows.iter().filter(|row| row.class == class + 1) {
                out.push_str(&row.line());
                out.push('\n');
            }
        }
        let held = self.rows.iter().filter(|row| row.held).count();
        out.push_str(&format!("\n{} attacks, {} succeeded\n{FOOTER}\n\n", self.rows.len(), self.rows.len() - held));
        let _ = std::io::stderr().write_all(out.as_bytes());
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // A scene that cannot go on still leaves what it found.
        if std::thread::panicking() {
            self.print();
        }
    }
}

impl Row {
    fn line(&self) -> String {
        let held = if self.held { "held" } else { "SUCCEEDED" };
        let happened: String = self.happened.chars().map(|c| if c.is_control() { ' ' } else { c }).take(110).collect();
        format!("| {} | {} | {} | {} | {held} |", self.class, self.what, self.by, happened.trim())
    }
}
