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

/// What separates the cells: the first of these that the header has. Spreadsheets of half the world write semicolons, and tabs in UTF-16.
pub fn delimiter(body: &[u8]) -> u8 {
    let header = body.split(|byte| matches!(byte, b'\n' | b'\r')).next().unwrap_or_default();
    [b',', b';', b'\t'].into_iter().find(|delimiter| header.contains(delimiter)).unwrap_or(b',')
}

/// The first cell whose quotes are wrong: the line on which it begins, and what is wrong. A reader would take everything up to the
/// next quote for one cell, and say nothing.
pub fn misquoted(body: &[u8], delimiter: u8) -> Option<(u64, &'static str)> {
    enum At {
        Begin,
        Plain,
        Quoted,
        /// The quoted cell has ended, or a quote is written twice.
        Quote,
    }
    let (mut at, mut line, mut began) = (At::Begin, 1, 1);
    for byte in body {
        at = match (at, *byte) {
            (At::Quoted, b'"') => At::Quote,
            (At::Quoted, _) => At::Quoted,
            (At::Quote, b'"') => At::Quoted,
            (_, byte) if byte == delimiter || byte == b'\n' || byte == b'\r' => At::Begin,
            (At::Begin, b'"') => {
                began = line;
                At::Quoted
            }
            (At::Begin | At::Plain, _) => At::Plain,
            (At::Quote, _) => return Some((began, "a quoted cell goes on behind its second quote; a quote inside is written twice: \"\"")),
        };
        line += u64::from(*byte == b'\n');
    }
    matches!(at, At::Quoted).then_some((began, "a quote is opened here and never closed"))
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
    fn the_header_says_what_separates() {
        for (text, want) in [
            ("id,name\n1;2\n", b','),
            ("id;name\r\n1;\"a,b\"", b';'),
            ("id\tname\n1\ta,b;c", b'\t'),
            ("id;x\r1;a,b\r", b';'),
            ("id\n1", b','),
        ] {
            assert_eq!(delimiter(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn quotes_that_do_not_close() {
        for (text, found) in [
            ("id,name\n1,\"a, b\"\n", None),
            ("id,name\r\n1,\"say \"\"a\"\"\"\r\n", None),
            ("id,name\n1,5\" pipe\n", None),
            ("id,name\n1,\"two\nlines\"\n2,\"\"", None),
            ("id;name\n1;\"a;b\"", None),
            ("", None),
            ("id,name\n1,\"two\nlines\"\n2,\"b\n3,c\n", Some((4, "never closed"))),
            ("\"id,name", Some((1, "never closed"))),
            ("id,name\n1,\"b\n2,\"c\"\n", Some((2, "behind its second quote"))),
        ] {
            let delimiter = if text.contains(';') { b';' } else { b',' };
            let told = misquoted(text.as_bytes(), delimiter);
            assert_eq!(told.map(|told| told.0), found.map(|found| found.0), "{text:?}");
            assert!(told.zip(found).is_none_or(|(told, found)| told.1.contains(found.1)), "{told:?}");
        }
    }

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
