//! Letters to tokens. A bare word is everything up to white space or a sign, so that `80%`, `now-1h` and `2026-11-22` are words.

use super::{QueryError, TEXT_MAX};

/// A comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `=`
    Is,
    /// `!=`
    IsNot,
    /// `<`
    Below,
    /// `<=`
    AtMost,
    /// `>`
    Above,
    /// `>=`
    AtLeast,
    /// `~`
    Contains,
}

impl Op {
    /// As it is written.
    pub fn text(self) -> &'static str {
        match self {
            Self::Is => "=",
            Self::IsNot => "!=",
            Self::Below => "<",
            Self::AtMost => "<=",
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Contains => "~",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Quoted(String),
    Op(Op),
    Open,
    Close,
    Comma,
}

impl Token {
    pub(super) fn told(&self) -> String {
        match self {
            Self::Word(word) => format!("`{}`", short(word)),
            Self::Quoted(text) => format!("\"{}\"", short(text)),
            Self::Op(op) => format!("`{}`", op.text()),
            Self::Open => "`(`".to_owned(),
            Self::Close => "`)`".to_owned(),
            Self::Comma => "`,`".to_owned(),
        }
    }
}

fn short(text: &str) -> String {
    let mut told: String =
        text.chars().take(40).flat_map(|c| if c.is_control() { '?' } else { c }.to_string().chars().collect::<Vec<_>>()).collect();
    if text.chars().nth(40).is_some() {
        told.push('…');
    }
    told
}

/// A token and the characters before it and before its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) token: Token,
    pub(super) at: usize,
    pub(super) end: usize,
}

/// Whether a character may stand in a bare word.
pub(super) fn in_word(c: char) -> bool {
    !(c.is_whitespace() || c.is_control() || "()=!<>~,\"'&|;".contains(c))
}

pub(super) fn tokens(text: &str) -> Result<Vec<Placed>, QueryError> {
    if text.len() > TEXT_MAX {
        return Err(QueryError::new(1, format!("a filter has at most {TEXT_MAX} bytes, and this one {}", text.len())));
    }
    let chars: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let start = at;
        let next = chars.get(at + 1).copied();
        at += 1;
        let token = match c {
            c if c.is_whitespace() => continue,
            '(' => Token::Open,
            ')' => Token::Close,
            ',' => Token::Comma,
            '~' => Token::Op(Op::Contains),
            '=' if next == Some('=') => return Err(QueryError::new(start + 1, "equality is written with one `=`")),
            '=' => Token::Op(Op::Is),
            '<' | '>' | '!' if next == Some('=') => {
                at += 1;
                Token::Op(match c {
                    '<' => Op::AtMost,
                    '>' => Op::AtLeast,
                    _ => Op::IsNot,
                })
            }
            '<' => Token::Op(Op::Below),
            '>' => Token::Op(Op::Above),
            '!' => return Err(QueryError::new(start + 1, "`!` alone means nothing here: write `!=`, or `not` before a comparison")),
            '&' => return Err(QueryError::new(start + 1, "write `and` instead of `&`")),
            '|' => return Err(QueryError::new(start + 1, "write `or` instead of `|`")),
            '\'' => return Err(QueryError::new(start + 1, "texts stand in double quotes: \"like this\"")),
            ';' => return Err(QueryError::new(start + 1, "a filter is one expression, without `;`: join comparisons with `and` or `or`")),
            '"' => {
                let (text, end) = quoted(&chars, at)?;
                at = end;
                Token::Quoted(text)
            }
            c if c.is_control() => {
                return Err(QueryError::new(start + 1, format!("a control character (U+{:04X}) cannot stand here", u32::from(c))));
            }
            _ => {
                let end = (at..chars.len()).find(|n| !in_word(chars[*n])).unwrap_or(chars.len());
                at = end;
                Token::Word(chars[start..end].iter().collect())
            }
        };
        found.push(Placed { token, at: start + 1, end: at + 1 });
    }
    Ok(found)
}

/// A text in quotes, from behind its first quote.
fn quoted(chars: &[char], begin: usize) -> Result<(String, usize), QueryError> {
    let mut text = String::new();
    let mut at = begin;
    while let Some(&c) = chars.get(at) {
        at += 1;
        match c {
            '"' => return Ok((text, at)),
            '\\' => {
                let wrong = || QueryError::new(at, r#"an escape is one of \" \\ \n \t and \u{1F916}"#);
                match chars.get(at) {
                    Some('"') => text.push('"'),
                    Some('\\') => text.push('\\'),
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('u') => {
                        let end = (at + 2..chars.len().min(at + 9)).find(|n| chars[*n] == '}').ok_or_else(wrong)?;
                        let digits: String = chars[at + 1..end].iter().collect();
                        let code = digits.strip_prefix('{').and_then(|digits| u32::from_str_radix(digits, 16).ok());
                        text.push(code.and_then(char::from_u32).ok_or_else(wrong)?);
                        at = end;
                    }
                    _ => return Err(wrong()),
                }
                at += 1;
            }
            c => text.push(c),
        }
    }
    Err(QueryError::new(begin, "this text has no end: a second `\"` is missing"))
}
