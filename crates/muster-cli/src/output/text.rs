//! Text that others chose, made harmless for a terminal.
//!
//! A serial number, a fact or a hostname comes from a device and may carry escape sequences, line breaks or
//! characters that turn the reading direction around. Every human output passes through [`clean`];
//! JSON passes through [`escape_json`], which changes no value.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Most combining marks kept on one character: real scripts need two or three, a smear over other lines needs many.
const MARKS_MAX: usize = 4;

/// Whether a character acts on a terminal or on its reader instead of being shown.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{00ad}' | '\u{061c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with every active character written out, such as `\x1b` or `\u{202e}`.
pub fn clean(text: &str) -> Cow<'_, str> {
    let mut marks = 0;
    let calm = text.chars().all(|c| {
        marks = if c.width() == Some(0) { marks + 1 } else { 0 };
        !is_active(c) && marks <= MARKS_MAX
    });
    if calm {
        return Cow::Borrowed(text);
    }
    let (mut out, mut marks) = (String::with_capacity(text.len() + 8), 0);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_active(c) && c.is_ascii() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_active(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => {
                marks = if c.width() == Some(0) { marks + 1 } else { 0 };
                if marks <= MARKS_MAX {
                    out.push(c);
                }
                continue;
            }
        }
        marks = 0;
    }
    Cow::Owned(out)
}

/// The text with active characters written out, line by line: for messages that have lines of their own.
pub fn clean_lines(text: &str) -> String {
    text.lines().map(clean).collect::<Vec<_>>().join("\n")
}

/// A piece of a file, for a terminal: its lines stay lines, nothing in them acts.
pub fn clean_file(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for line in String::from_utf8_lossy(bytes).split_inclusive('\n') {
        out.push_str(&clean(line.trim_end_matches(['\r', '\n'])));
        out.push_str(if line.ends_with('\n') { "\n" } else { "" });
    }
    out
}

/// JSON text in which active characters are `\uXXXX`. They can stand only inside its strings, so no value changes.
pub fn escape_json(json: &str) -> Cow<'_, str> {
    // Line breaks between values are the printer's own; inside strings they are escaped already.
    let passes = |c: char| c == '\n' || !is_active(c);
    if json.chars().all(passes) {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len() + 16);
    let mut units = [0u16; 2];
    for c in json.chars() {
        if passes(c) {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    Cow::Owned(out)
}

/// Whether a text can be typed into any shell and stand in any list as it is.
pub fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(['-', '~', '.', '@', '+'])
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@' | b'+'))
}

/// A word that a POSIX shell takes as it is.
pub fn shell_word(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:@+=,[]".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Columns that a text takes on the terminal.
pub fn width(text: &str) -> usize {
    text.width()
}

/// The text cut to `columns`, with an ellipsis where something is missing.
pub fn fit(text: &str, columns: usize) -> Cow<'_, str> {
    if width(text) <= columns {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    let mut used = 0;
    for c in text.chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide + 1 > columns {
            break;
        }
        used += wide;
        out.push(c);
    }
    out.push('…');
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_on_a_terminal_commands_nothing() {
        let file = "id,note\r\nSN-1,\u{202e}gpj.exe\nSN-2,\u{1b}[2J\u{200b}ü\nlast";
        assert_eq!(clean_file(file.as_bytes()), "id,note\nSN-1,\\u{202e}gpj.exe\nSN-2,\\x1b[2J\\u{200b}ü\nlast");
        assert_eq!(clean_file(b"\xff\n"), "\u{fffd}\n");
    }

    #[test]
    fn what_acts_is_written_out() {
        for (hostile, harmless) in [
            ("robot-7", "robot-7"),
            ("机器人 Süd", "机器人 Süd"),
            ("\u{1b}[2J\u{1b}]0;pwned\u{7}x", "\\x1b[2J\\x1b]0;pwned\\x07x"),
            ("a\nb\r\tc", "a\\nb\\r\\tc"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("abc\u{202e}fed", "abc\\u{202e}fed"),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
            ("x\u{301}\u{301}\u{301}\u{301}\u{301}\u{301}y", "x\u{301}\u{301}\u{301}\u{301}y"),
            ("\u{7f}\u{e0041}", "\\x7f\\u{e0041}"),
        ] {
            assert_eq!(clean(hostile), harmless);
        }
        assert_eq!(clean_lines("one\ntwo\u{1b}"), "one\ntwo\\x1b");
    }

    #[test]
    fn names_for_shells() {
        for good in ["robot-7", "a.b_c@d", "SN+17", "d2345abcdefghijk"] {
            assert!(is_plain(good), "{good}");
        }
        for bad in ["", "-oProxyCommand=x", "a b", "$(reboot)", "a;b", "ü", "*", "~x", "a'b", "a\nb"] {
            assert!(!is_plain(bad), "{bad:?}");
        }
    }

    #[test]
    fn cut_to_columns() {
        assert_eq!(fit("robot", 5), "robot");
        assert_eq!(fit("robots", 5), "robo…");
        assert_eq!(fit("机器人机器人", 5), "机器…");
        assert_eq!(fit("ab", 1), "…");
    }

    proptest! {
        #[test]
        fn nothing_active_survives(text in any::<String>()) {
            prop_assert!(!clean(&text).chars().any(is_active));
        }

        #[test]
        fn json_keeps_its_value(text in any::<String>()) {
            let json = serde_json::to_string_pretty(&[&text]).unwrap();
            let escaped = escape_json(&json);
            prop_assert!(!escaped.chars().any(|c| c != '\n' && is_active(c)));
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&escaped).unwrap(), vec![text]);
        }

        #[test]
        fn never_wider_than_asked(text in any::<String>(), columns in 1usize..60) {
            prop_assert!(width(&fit(&clean(&text), columns)) <= columns);
        }
    }
}
