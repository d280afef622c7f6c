//! CSV that a spreadsheet shows and does not run (RFC 4180, with the header in the first line).
//!
//! A cell that begins with one of `= + - @`, a tab or a carriage return may be taken for a formula, and names come from devices and people.
//! Such a text gets an apostrophe before it, which spreadsheets take for "this is text"; numbers that the hub itself writes are no texts.

use std::borrow::Cow;

/// What may begin a formula.
const FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// A text for a cell.
pub fn cell(text: &str) -> Cow<'_, str> {
    // A text that has the apostrophe already gets another one, so that reading takes exactly one away.
    let rest = text.trim_start_matches('\'');
    if rest.starts_with(FORMULA) { Cow::Owned(format!("'{text}")) } else { Cow::Borrowed(text) }
}

/// The text of a cell that [`cell`] wrote.
pub fn read(cell: &str) -> &str {
    match cell.strip_prefix('\'') {
        Some(rest) if rest.trim_start_matches('\'').starts_with(FORMULA) => rest,
        _ => cell,
    }
}

/// One line.
pub fn line<'a>(cells: impl IntoIterator<Item = Cow<'a, str>>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = writer.write_record(cells.into_iter().map(|cell| cell.into_owned().into_bytes()));
    debug_assert!(written.is_ok(), "a line in memory cannot fail");
    writer.into_inner().unwrap_or_default()
}

/// A number, or nothing.
pub fn number(n: Option<impl ToString>) -> Cow<'static, str> {
    n.map(|n| n.to_string()).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_become_texts_and_come_back() {
        for (text, written) in [
            ("robot-7", "robot-7"),
            ("", ""),
            ("=1+1", "'=1+1"),
            ("-2", "'-2"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("\tx", "'\tx"),
            ("'=x", "''=x"),
            ("'quoted'", "'quoted'"),
            ("a=b", "a=b"),
        ] {
            assert_eq!(cell(text), written);
            assert_eq!(read(&cell(text)), text);
        }
        assert_eq!(line([cell("a,b"), cell("=\"x\"\n"), number(Some(-5)), number(None::<i64>)]), b"\"a,b\",\"'=\"\"x\"\"\n\",-5,\n");
    }
}
