//! The tree of a filter: parsed from a text, and printed as one that parses to the same tree.

use std::fmt::{self, Write as _};

pub use super::lexer::Op;
use super::lexer::{Placed, Token, in_word, tokens};
use super::{DEPTH_MAX, QueryError, TERMS_MAX};

/// A filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// One of these.
    Or(Vec<Self>),
    /// All of these.
    And(Vec<Self>),
    /// Not this.
    Not(Box<Self>),
    /// A column that is true.
    True(Name),
    /// `column op value`.
    Compare(Name, Op, Literal),
    /// `column in (...)`, or `not in`.
    In {
        /// Which column.
        name: Name,
        /// Whether it is not among them.
        not: bool,
        /// Among which.
        values: Vec<Literal>,
    },
    /// `column is empty`, or `is not empty`.
    Empty {
        /// Which column.
        name: Name,
        /// Whether it is not.
        not: bool,
    },
}

/// What a column's name says of where it is to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A built-in column or a custom field.
    Any,
    /// `field.`: a custom field.
    Field,
    /// `fact.`: what the device says of itself.
    Fact,
    /// `usage.`: its newest sample.
    Usage,
}

impl Scope {
    const NAMED: [(Self, &'static str); 3] = [(Self::Field, "field."), (Self::Fact, "fact."), (Self::Usage, "usage.")];
}

/// A column's name. Where it stood does not count when two are compared.
#[derive(Debug, Clone, Eq)]
pub struct Name {
    /// Where to look.
    pub scope: Scope,
    /// What it is called there.
    pub name: String,
    /// Where it stood.
    pub at: usize,
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        (self.scope, &self.name) == (other.scope, &other.name)
    }
}

impl Name {
    /// From a bare word, such as in an order.
    pub fn of_word(word: &str, at: usize) -> Self {
        let scoped = Scope::NAMED.iter().find_map(|(scope, prefix)| Some((*scope, word.strip_prefix(prefix)?)));
        let (scope, name) = scoped.unwrap_or((Scope::Any, word));
        Self { scope, name: name.to_owned(), at }
    }
}

/// A value as it was written: the column's kind says what it means.
#[derive(Debug, Clone, Eq)]
pub struct Literal {
    /// The text.
    pub text: String,
    /// Whether it stood in quotes.
    pub quoted: bool,
    /// Where it stood.
    pub at: usize,
}

impl PartialEq for Literal {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.quoted) == (&other.text, other.quoted)
    }
}

const KEYWORDS: [&str; 6] = ["and", "or", "not", "in", "is", "empty"];

/// Whether the language has a meaning of its own for a word.
pub fn is_keyword(word: &str) -> bool {
    KEYWORDS.iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}

/// Parses a filter. `None` for an empty one, which lets everything pass.
///
/// # Errors
/// When it is not one.
pub fn parse(text: &str) -> Result<Option<Expr>, QueryError> {
    let mut parser = Parser { tokens: tokens(text)?, next: 0, terms: 0, end: text.chars().count() + 1 };
    if parser.tokens.is_empty() {
        return Ok(None);
    }
    let expr = parser.or(0)?;
    match parser.peek() {
        None => Ok(Some(expr)),
        Some(Placed { token: Token::Close, at, .. }) => Err(QueryError::new(*at, "this `)` closes nothing")),
        Some(placed) => {
            Err(QueryError::new(placed.at, format!("expected `and`, `or` or the end of the filter, found {}", placed.token.told())))
        }
    }
}

struct Parser {
    tokens: Vec<Placed>,
    next: usize,
    terms: usize,
    end: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Placed> {
        self.tokens.get(self.next)
    }

    fn here(&self) -> usize {
        self.peek().map_or(self.end, |placed| placed.at)
    }

    /// Takes a word of the language if it is next.
    fn keyword(&mut self, keyword: &str) -> bool {
        let is = matches!(self.peek(), Some(Placed { token: Token::Word(word), .. }) if word.eq_ignore_ascii_case(keyword));
        self.next += usize::from(is);
        is
    }

    fn wrong<T>(&self, expected: &str) -> Result<T, QueryError> {
        let found = self.peek().map_or_else(|| "the end of the filter".to_owned(), |placed| placed.token.told());
        Err(QueryError::new(self.here(), format!("expected {expected}, found {found}")))
    }

    fn or(&mut self, depth: usize) -> Result<Expr, QueryError> {
        let first = self.and(depth)?;
        let mut all = vec![first];
        while self.keyword("or") {
            all.push(self.and(depth)?);
        }
        Ok(one_or(all, Expr::Or))
    }

    fn and(&mut self, depth: usize) -> Result<Expr, QueryError> {
        let first = self.not(depth)?;
        let mut all = vec![first];
        while self.keyword("and") {
            all.push(self.not(depth)?);
        }
        Ok(one_or(all, Expr::And))
    }

    fn not(&mut self, depth: usize) -> Result<Expr, QueryError> {
        if depth > DEPTH_MAX {
            return Err(QueryError::new(self.here(), format!("parentheses and `not` nest at most {DEPTH_MAX} deep")));
        }
        if self.keyword("not") {
            return Ok(Expr::Not(Box::new(self.not(depth + 1)?)));
        }
        if matches!(self.peek(), Some(Placed { token: Token::Open, .. })) {
            let opened = self.here();
            self.next += 1;
            let inner = self.or(depth + 1)?;
            if !matches!(self.peek(), Some(Placed { token: Token::Close, .. })) {
                return match self.peek() {
                    None => Err(QueryError::new(opened, "this `(` is never closed")),
                    Some(_) => self.wrong("`and`, `or` or `)`"),
                };
            }
            self.next += 1;
            return Ok(inner);
        }
        self.term()
    }

    fn term(&mut self) -> Result<Expr, QueryError> {
        let name = self.name()?;
        self.count()?;
        if let Some(Placed { token: Token::Op(op), .. }) = self.peek() {
            let op = *op;
            self.next += 1;
            return Ok(Expr::Compare(name, op, self.value()?));
        }
        if self.keyword("is") {
            let not = self.keyword("not");
            return if self.keyword("empty") { Ok(Expr::Empty { name, not }) } else { self.wrong("`empty` or `not empty`") };
        }
        if self.keyword("in") {
            return self.list(name, false);
        }
        if matches!(self.peek(), Some(Placed { token: Token::Word(word), .. }) if word.eq_ignore_ascii_case("not")) {
            self.next += 1;
            return if self.keyword("in") { self.list(name, true) } else { self.wrong("`in`") };
        }
        match self.peek() {
            None | Some(Placed { token: Token::Close, .. }) => Ok(Expr::True(name)),
            Some(Placed { token: Token::Word(word), .. }) if word.eq_ignore_ascii_case("and") || word.eq_ignore_ascii_case("or") => {
                Ok(Expr::True(name))
            }
            Some(_) => self.wrong("a comparison (= != < <= > >= ~), `in (...)` or `is empty`"),
        }
    }

    fn name(&mut self) -> Result<Name, QueryError> {
        let Some(Placed { token: Token::Word(word), at, end }) = self.peek() else { return self.wrong("a column's name") };
        if is_keyword(word) {
            return self.wrong("a column's name");
        }
        let (mut name, end) = (Name::of_word(word, *at), *end);
        self.next += 1;
        if name.scope != Scope::Any && name.name.is_empty() {
            match self.peek() {
                Some(Placed { token: Token::Quoted(text), at, .. }) if *at == end => {
                    name.name.clone_from(text);
                    self.next += 1;
                }
                _ => return self.wrong("a name behind the point, such as `fact.os` or `usage.\"disk:/\"`"),
            }
        }
        Ok(name)
    }

    fn value(&mut self) -> Result<Literal, QueryError> {
        let literal = match self.peek() {
            Some(Placed { token: Token::Word(word), .. }) if is_keyword(word) => {
                let why = format!("expected a value, found the word `{word}` of the language: put it in quotes if it is the value");
                return Err(QueryError::new(self.here(), why));
            }
            Some(Placed { token: Token::Word(text), at, .. }) => Literal { text: text.clone(), quoted: false, at: *at },
            Some(Placed { token: Token::Quoted(text), at, .. }) => Literal { text: text.clone(), quoted: true, at: *at },
            _ => return self.wrong("a value"),
        };
        self.next += 1;
        Ok(literal)
    }

    fn list(&mut self, name: Name, not: bool) -> Result<Expr, QueryError> {
        if !matches!(self.peek(), Some(Placed { token: Token::Open, .. })) {
            return self.wrong("`(` and a list of values");
        }
        self.next += 1;
        let mut values = vec![self.value()?];
        loop {
            match self.peek() {
                Some(Placed { token: Token::Comma, .. }) => {
                    self.next += 1;
                    self.count()?;
                    values.push(self.value()?);
                }
                Some(Placed { token: Token::Close, .. }) => {
                    self.next += 1;
                    return Ok(Expr::In { name, not, values });
                }
                _ => return self.wrong("`,` or `)`"),
            }
        }
    }

    fn count(&mut self) -> Result<(), QueryError> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(QueryError::new(self.here(), format!("a filter has at most {TERMS_MAX} comparisons")));
        }
        Ok(())
    }
}

fn one_or(mut all: Vec<Expr>, many: impl FnOnce(Vec<Expr>) -> Expr) -> Expr {
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => only,
        (last, _) => {
            all.extend(last);
            many(all)
        }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |f: &mut fmt::Formatter<'_>, all: &[Self], word: &str| {
            for (n, one) in all.iter().enumerate() {
                if n > 0 {
                    write!(f, " {word} ")?;
                }
                match one {
                    Self::And(_) if word == "or" => write!(f, "{one}")?,
                    Self::And(_) | Self::Or(_) => write!(f, "({one})")?,
                    _ => write!(f, "{one}")?,
                }
            }
            Ok(())
        };
        match self {
            Self::Or(all) => joined(f, all, "or"),
            Self::And(all) => joined(f, all, "and"),
            Self::Not(inner) if matches!(**inner, Self::And(_) | Self::Or(_)) => write!(f, "not ({inner})"),
            Self::Not(inner) => write!(f, "not {inner}"),
            Self::True(name) => write!(f, "{name}"),
            Self::Compare(name, op, value) => write!(f, "{name} {} {value}", op.text()),
            Self::In { name, not, values } => {
                write!(f, "{name} {}in (", if *not { "not " } else { "" })?;
                for (n, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if n > 0 { ", " } else { "" })?;
                }
                f.write_char(')')
            }
            Self::Empty { name, not } => write!(f, "{name} is {}empty", if *not { "not " } else { "" }),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((_, prefix)) = Scope::NAMED.iter().find(|(scope, _)| *scope == self.scope) {
            f.write_str(prefix)?;
            if self.name.is_empty() || !self.name.chars().all(in_word) {
                return quote(f, &self.name);
            }
        }
        f.write_str(&self.name)
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.quoted { quote(f, &self.text) } else { f.write_str(&self.text) }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            '\n' => f.write_str("\\n")?,
            '\t' => f.write_str("\\t")?,
            c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}
