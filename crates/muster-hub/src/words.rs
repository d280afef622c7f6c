//! What others wrote, made harmless before it is kept. Pure.
//!
//! A device chooses its facts, its version and its reasons freely, and they are shown to people in lists, journals and records:
//! nothing in them may act on a terminal or make one text look like another.

use muster_proto::mqtt::Facts;
use serde_json::Value;

/// What is not printed, ends a line, or turns the direction of what stands after it.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// A text of one line of at most `most` characters: line ends and tabs are spaces, what else is hidden is left out.
pub(crate) fn plain(text: &str, most: usize) -> String {
    let seen = |c: char| if matches!(c, '\n' | '\r' | '\t') { Some(' ') } else { (!is_hidden(c)).then_some(c) };
    text.chars().filter_map(seen).take(most).collect()
}

/// A text of several lines: line ends and tabs stay, what else is hidden is left out.
pub(crate) fn lines(text: &str) -> String {
    text.chars().filter(|c| matches!(c, '\n' | '\t') || !is_hidden(*c)).collect()
}

/// A device's facts within their bound, names and texts made plain.
pub(crate) fn facts(facts: Facts) -> Facts {
    let Facts(map) = facts.bounded();
    let plain_text = |text: String| if text.contains(is_hidden) { plain(&text, usize::MAX) } else { text };
    Facts(map.into_iter().map(|(name, value)| (plain_text(name), plain_value(value, &plain_text))).collect())
}

fn plain_value(value: Value, plain_text: &impl Fn(String) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(plain_text(text)),
        Value::Array(values) => values.into_iter().map(|value| plain_value(value, plain_text)).collect(),
        Value::Object(map) => map.into_iter().map(|(name, value)| (plain_text(name), plain_value(value, plain_text))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_lose_what_acts_and_keep_what_is_written() {
        for (given, kept) in [
            ("0.1.0", "0.1.0"),
            ("\u{202e}1.0\u{202c}", "1.0"),
            ("\u{1b}[31mred\u{7}", "[31mred"),
            ("a\nb\tc\u{85}", "a b c"),
            ("\u{2066}x\u{2069}\u{feff}", "x"),
            ("می\u{200c}خواهم 👩\u{200d}🔧 株式会社", "می\u{200c}خواهم 👩\u{200d}🔧 株式会社"),
        ] {
            assert_eq!(plain(given, 100), kept);
        }
        assert_eq!(plain("abcdef", 3), "abc");
        assert_eq!(lines("[who]\r\n\troles = []\u{1b}[2J\u{202e}\n"), "[who]\n\troles = [][2J\n");
    }

    #[test]
    fn facts_are_plain_however_deep() {
        let given = serde_json::json!({
            "agent": "\u{202e}9.9", "os\u{200f}": "Linux", "n": 7, "addresses": ["10.0.0.1\r\n", {"if\u{1b}": "eth0\u{2028}"}],
        });
        let kept = serde_json::json!({"agent": "9.9", "os": "Linux", "n": 7, "addresses": ["10.0.0.1  ", {"if": "eth0"}]});
        assert_eq!(facts(serde_json::from_value(given).unwrap()), serde_json::from_value(kept).unwrap());
    }
}
