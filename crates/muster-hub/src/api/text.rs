//! Texts that people give things: names, descriptions, places, web addresses. Pure.
//!
//! Any script is fine. Refused is what would not be seen as it is: control characters, line separators, marks that turn the
//! direction of what follows, and texts of nothing but invisible characters.

use muster_proto::limits::{DESCRIPTION_MAX, NAME_MAX, WEBSITE_MAX};
use muster_proto::problem::Code;

use super::{ApiError, ApiResult};
pub(crate) use crate::words::is_hidden;

/// A name of one line, 1 to 100 characters.
pub(super) fn name(field: &str, text: String) -> ApiResult<String> {
    if text.trim() != text || text.is_empty() || text.chars().count() > NAME_MAX || text.chars().any(is_hidden) || !shows(&text) {
        let why = format!("{field}: it has 1 to {NAME_MAX} printable characters and no white space at its ends");
        return Err(ApiError::new(Code::Invalid, why));
    }
    Ok(text)
}

/// A name of one line that may be empty: then there is none.
pub(super) fn line(field: &str, text: String) -> ApiResult<Option<String>> {
    if text.is_empty() { Ok(None) } else { name(field, text).map(Some) }
}

/// A text of several lines that may be empty: then there is none.
pub(super) fn description(field: &str, text: String) -> ApiResult<Option<String>> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let strange = text.chars().any(|c| c != '\n' && is_hidden(c));
    if strange || text.chars().count() > DESCRIPTION_MAX || !shows(&text) {
        let why = format!("{field}: it has at most {DESCRIPTION_MAX} printable characters and line feeds");
        return Err(ApiError::new(Code::Invalid, why));
    }
    Ok(Some(text))
}

/// A web address that may be empty: then there is none. What opens in a browser as anything but a web page is refused.
pub(super) fn website(field: &str, text: String) -> ApiResult<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    let uri = text.parse::<http::Uri>().ok().filter(|_| text.len() <= WEBSITE_MAX);
    let good = uri.is_some_and(|uri| {
        let scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        let named = uri.authority().is_some_and(|authority| !authority.as_str().contains('@') && !authority.host().is_empty());
        scheme && named
    });
    if !good {
        let why = format!(
            "{field}: it is a web address such as https://acme.example, in ASCII, without a login in it, of at most {WEBSITE_MAX} characters"
        );
        return Err(ApiError::new(Code::Invalid, why));
    }
    Ok(Some(text))
}

/// Whether anything of it is seen: joiners and fillers alone are no name.
pub(crate) fn shows(text: &str) -> bool {
    let blank = |c: char| {
        c.is_whitespace()
            || matches!(c, '\u{ad}' | '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{180e}' | '\u{200b}'..='\u{200d}' | '\u{2060}'..='\u{2064}'
                | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0000}'..='\u{e0fff}')
    };
    text.chars().any(|c| !blank(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_any_script_and_none_that_hide() {
        for good in [
            "Acme",
            "Łódź",
            "株式会社テスト",
            "شركة الروبوتات",
            "Ω≈ç",
            "🤖 Robots",
            "👩\u{200d}🔧",
            "می\u{200c}خواهم",
            "a b",
            &"ü".repeat(100),
        ] {
            assert_eq!(name("name", good.to_owned()).as_deref(), Ok(good), "{good:?}");
        }
        for bad in [
            "",
            " a",
            "a ",
            "\u{a0}",
            "a\nb",
            "a\tb",
            "a\0b",
            "a\u{7f}",
            "a\u{85}b",
            "\u{202e}txt.exe",
            "a\u{2066}b",
            "a\u{200f}b",
            "a\u{61c}b",
            "a\u{2028}b",
            "\u{feff}a",
            "\u{200b}",
            "\u{3164}",
            "\u{2800}\u{2800}",
            "\u{1b}[31mred",
            &"x".repeat(101),
        ] {
            let problem = name("name", bad.to_owned()).unwrap_err().0;
            assert!(problem.is(Code::Invalid) && problem.detail.starts_with("name:"), "{bad:?}");
        }
    }

    #[test]
    fn descriptions_have_lines_and_may_be_cleared() {
        assert_eq!(description("description", "One.\nTwo.".into()), Ok(Some("One.\nTwo.".into())));
        for empty in ["", "  ", "\n\n"] {
            assert_eq!(description("description", empty.into()), Ok(None));
        }
        for bad in ["a\u{202e}b", "a\rb", "a\u{1b}b", "\u{200b}", &"x".repeat(2001)] {
            assert!(description("description", bad.into()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn web_addresses() {
        for good in ["https://acme.example", "http://acme.example:8080/robots?x=1", "https://xn--bcher-kva.example/", "https://[::1]/"] {
            assert_eq!(website("website", good.into()), Ok(Some(good.into())), "{good}");
        }
        assert_eq!(website("website", String::new()), Ok(None));
        for bad in [
            "acme.example",
            "javascript:alert(1)",
            "data:text/html,x",
            "ftp://acme.example",
            "https://",
            "https://user:pw@acme.example",
            "https://acme .example",
            "https://acme.example/\n",
            "//acme.example",
            "/x",
            &format!("https://a.example/{}", "x".repeat(500)),
        ] {
            assert!(website("website", bad.into()).is_err(), "{bad:?}");
        }
    }
}
