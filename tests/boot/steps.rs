//! The table that the test prints: each step, what was seen, and how long it took.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

/// The rows so far. Printed whatever happens.
#[derive(Default)]
pub struct Steps {
    rows: Vec<Row>,
    told: bool,
}

struct Row {
    step: String,
    seen: Result<String, String>,
    took: Duration,
}

impl Steps {
    /// A step without which nothing can follow: the test ends where it fails.
    pub fn first<T: Seen>(&mut self, step: &str, body: impl FnOnce() -> T) -> T {
        self.take(step, body)
            .unwrap_or_else(|| panic!("{step}: {}", self.rows.last().and_then(|row| row.seen.clone().err()).unwrap_or_default()))
    }

    /// A step of its own: what it saw is its row, and where it panics the others still run.
    pub fn step<T: Seen>(&mut self, step: &str, body: impl FnOnce() -> T) {
        let _ = self.take(step, body);
    }

    /// A row of something that was seen within another step.
    pub fn row(&mut self, step: &str, seen: Result<String, String>) {
        self.rows.push(Row { step: step.to_owned(), seen, took: Duration::ZERO });
    }

    fn take<T: Seen>(&mut self, step: &str, body: impl FnOnce() -> T) -> Option<T> {
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(body));
        let (seen, value) = match result {
            Ok(value) => (Ok(value.seen()), Some(value)),
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                (Err(text.unwrap_or_else(|| "panicked".to_owned())), None)
            }
        };
        self.rows.push(Row { step: step.to_owned(), seen, took: started.elapsed() });
        value
    }

    /// Prints the table, and fails the test where a step failed.
    pub fn end(mut self) {
        self.tell();
        let failed: Vec<&str> = self.rows.iter().filter(|row| row.seen.is_err()).map(|row| row.step.as_str()).collect();
        assert!(failed.is_empty(), "{} of {} steps failed: {}", failed.len(), self.rows.len(), failed.join("; "));
    }

    fn tell(&mut self) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let mut table = format!("\n  {:<64} {:>6}  seen\n", "step", "s");
        for row in &self.rows {
            let (mark, seen) = match &row.seen {
                Ok(seen) => (" ", seen.trim().replace('\n', " | ")),
                Err(why) => ("!", format!("FAILED: {}", why.trim())),
            };
            table += &format!("{mark} {:<64} {:>6.1}  {seen}\n", row.step, row.took.as_secs_f64());
        }
        let total: f64 = self.rows.iter().map(|row| row.took.as_secs_f64()).sum();
        println!("{table}  {} steps, {total:.1} s", self.rows.len());
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.tell();
    }
}

/// What a step gives to its row.
pub trait Seen {
    /// One line, or a few.
    fn seen(&self) -> String;
}

impl Seen for String {
    fn seen(&self) -> String {
        self.clone()
    }
}

impl Seen for () {
    fn seen(&self) -> String {
        "as expected".to_owned()
    }
}
