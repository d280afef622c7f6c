//! What commands print: tables, blocks of facts and JSON on standard output, notes on standard error.
//!
//! Everything that a device or another person chose is made harmless on its way out, see [`text`].
//! Nothing else in this crate writes to standard output, but for a session's own bytes.

pub mod columns;
pub mod devices;
pub mod table;
pub mod text;
pub mod time;
pub mod units;

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::failure::{Exit, Failure};
use table::{Style, Table};

/// When to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How this run prints.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// JSON instead of tables.
    pub json: bool,
    /// Colours on standard output.
    pub color: bool,
    /// Columns of the terminal; `None` in a pipe.
    pub width: Option<usize>,
}

impl Output {
    /// From the flags and the environment.
    pub fn new(json: bool, when: When) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let color = match when {
            When::Always => true,
            When::Never => false,
            When::Auto => terminal && !set("NO_COLOR") && !dumb,
        };
        let width = if terminal { crate::tty::size().map(|(columns, _)| usize::from(columns)) } else { None };
        Self { json, color, width }
    }

    /// Prints a text as it is: the caller made it harmless.
    ///
    /// # Errors
    /// When standard output cannot be written; silently when its reader has gone.
    pub fn raw(&self, text: &str) -> Result<(), Failure> {
        print(text.as_bytes())
    }

    /// Prints bytes of a file: as they are on their way into a file or another program, made harmless on a terminal.
    ///
    /// # Errors
    /// As [`Self::raw`].
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        if std::io::stdout().is_terminal() { print(text::clean_file(bytes).as_bytes()) } else { print(bytes) }
    }

    /// Prints a line, made harmless.
    ///
    /// # Errors
    /// As [`Self::raw`].
    pub fn line(&self, text: impl AsRef<str>) -> Result<(), Failure> {
        self.raw(&format!("{}\n", text::clean(text.as_ref())))
    }

    /// Prints a value as JSON.
    ///
    /// # Errors
    /// As [`Self::raw`].
    pub fn json<T: Serialize + ?Sized>(&self, value: &T) -> Result<(), Failure> {
        let json = serde_json::to_string_pretty(value)
            .map_err(|error| Failure::new(Exit::Failed, format!("the answer cannot be written as JSON: {error}")))?;
        self.raw(&format!("{}\n", text::escape_json(&json)))
    }

    /// Prints a table, or what to say where it has no rows.
    ///
    /// # Errors
    /// As [`Self::raw`].
    pub fn table(&self, table: &Table, empty: bool, nothing: &str) -> Result<(), Failure> {
        if empty {
            note(nothing);
            return Ok(());
        }
        self.raw(&table.render(self.width, self.color))
    }

    /// Prints rows as JSON or as a table.
    ///
    /// # Errors
    /// As [`Self::raw`].
    pub fn list<T: Serialize>(&self, rows: &[T], nothing: &str, table: impl FnOnce(&[T]) -> Table) -> Result<(), Failure> {
        if self.json { self.json(rows) } else { self.table(&table(rows), rows.is_empty(), nothing) }
    }

    /// Prints a value as JSON or as a block of facts.
    ///
    /// # Errors
    /// As [`Self::raw`].
    pub fn show<T: Serialize>(&self, value: &T, block: impl FnOnce(&T) -> Block) -> Result<(), Failure> {
        if self.json { self.json(value) } else { self.raw(&block(value).render(self.color)) }
    }

    /// Says that something was done: JSON of the result, or a sentence.
    ///
    /// # Errors
    /// As [`Self::raw`].
    pub fn done<T: Serialize>(&self, value: &T, sentence: impl AsRef<str>) -> Result<(), Failure> {
        if self.json { self.json(value) } else { self.line(sentence) }
    }
}

/// The exit code of a program whose reader has gone: 128 and the number of SIGPIPE.
const BROKEN_PIPE: u8 = 141;

/// Where bytes of a session or a run are written.
#[derive(Debug, Clone, Copy)]
pub enum Written {
    /// Standard output.
    Output,
    /// Standard error.
    Errors,
}

impl Written {
    /// Why they could not be written, as this program's failure. A reader that has gone ends this as any program in a pipe.
    pub fn failure(self, error: &std::io::Error) -> Failure {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Failure::silent(BROKEN_PIPE);
        }
        let name = match self {
            Self::Output => "standard output",
            Self::Errors => "standard error",
        };
        Failure::new(Exit::Failed, format!("can't write to {name}: {}", muster_link::print::reason(error)))
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// As [`Self::failure`] says.
    pub fn write(self, bytes: &[u8]) -> Result<(), Failure> {
        let all = |to: &mut dyn Write| to.write_all(bytes).and_then(|()| to.flush());
        let written = match self {
            Self::Output => all(&mut std::io::stdout().lock()),
            Self::Errors => all(&mut std::io::stderr().lock()),
        };
        written.map_err(|error| self.failure(&error))
    }
}

/// Prints what is complete in itself, such as a list: a reader that has enough is no failure.
fn print(bytes: &[u8]) -> Result<(), Failure> {
    Written::Output.write(bytes).map_err(|failure| if failure.exit == BROKEN_PIPE { Failure::silent(0) } else { failure })
}

/// A line on standard error for the person, made harmless. A closed standard error loses it.
pub fn note(text: impl AsRef<str>) {
    let mut err = std::io::stderr().lock();
    drop(writeln!(err, "{}", text::clean_lines(text.as_ref())));
}

/// Names and values below each other.
#[derive(Debug, Default)]
pub struct Block {
    lines: Vec<(String, String, Style)>,
}

impl Block {
    /// Adds a line.
    #[must_use]
    pub fn with(self, name: &str, value: impl AsRef<str>) -> Self {
        self.styled(name, value, Style::Plain)
    }

    /// Adds a line with a style.
    #[must_use]
    pub fn styled(mut self, name: &str, value: impl AsRef<str>, style: Style) -> Self {
        self.lines.push((text::clean(name).into_owned(), text::clean(value.as_ref()).into_owned(), style));
        self
    }

    /// Adds a line where there is a value.
    #[must_use]
    pub fn maybe(self, name: &str, value: Option<impl AsRef<str>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds a heading with space above.
    #[must_use]
    pub fn heading(mut self, title: &str) -> Self {
        self.lines.push((String::new(), title.to_owned(), Style::Dim));
        self
    }

    /// The block as lines.
    pub fn render(&self, color: bool) -> String {
        let wide = self.lines.iter().map(|(name, ..)| text::width(name)).max().unwrap_or(0).min(32);
        let mut out = String::new();
        for (name, value, style) in &self.lines {
            if name.is_empty() {
                out.push_str(&format!("\n{}\n", style.paint(value, color)));
            } else {
                let gap = " ".repeat(wide.saturating_sub(text::width(name)) + 2);
                out.push_str(&format!("{}{gap}{}\n", Style::Dim.paint(name, color), style.paint(value, color)));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_align_and_stay_harmless() {
        let block = Block::default().with("name", "robot\u{1b}[2J").maybe("gone", None::<&str>).heading("facts").with("a\nlong key", "ü");
        assert_eq!(block.render(false), "name         robot\\x1b[2J\n\nfacts\na\\nlong key  ü\n");
        assert!(block.render(true).contains("\x1b[2mfacts\x1b[0m"));
    }
}
