//! A filter that was checked against the columns, ready to look at rows.
//!
//! A value that is not there makes every comparison false but for `!=` and `not in`, which are the opposite of `=` and `in`.

use std::collections::HashSet;

use muster_proto::Millis;
use muster_proto::wildcard::Wildcard;

use super::QueryError;
use super::columns::{Column, Kind, Schema, resolve};
use super::lexer::Op;
use super::near::hint;
use super::order::natural;
use super::syntax::{Expr, Literal, Name};
use super::values::{self, Span};

/// A value of a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// There is none.
    Absent,
    /// A text.
    Text(&'a str),
    /// Several texts.
    List(Vec<&'a str>),
    /// A number.
    Number(f64),
    /// A time or a day.
    Time(Millis),
    /// True or false.
    Bool(bool),
}

/// A row of the list, with texts that live for `'a`.
pub trait Row<'a> {
    /// What it has in a column.
    fn value(&self, column: &Column) -> Value<'a>;
}

/// A checked filter.
#[derive(Debug, Clone)]
pub struct Plan(Node);

#[derive(Debug, Clone)]
enum Node {
    All(Vec<Node>),
    Any(Vec<Node>),
    Not(Box<Node>),
    Test(Column, Test),
}

#[derive(Debug, Clone)]
enum Test {
    Filled,
    True,
    Bool(bool),
    Text(Op, String),
    /// The text to look for in small letters.
    Contains(String),
    /// Bare text with `*`.
    Like(Wildcard),
    OneOf(HashSet<String>),
    Number(Op, f64),
    Numbers(Vec<f64>),
    Time(Op, Span),
    /// What a device states: compared as what it is.
    Stated(Op, String, Option<f64>),
}

impl Plan {
    /// Lets every row pass.
    pub fn everything() -> Self {
        Self(Node::All(Vec::new()))
    }

    /// Both this and that.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(Node::All(vec![self.0, other.0]))
    }

    /// One comparison with a text, for parameters that are no filter.
    pub fn is(column: Column, text: &str) -> Self {
        Self(Node::Test(column, Test::Text(Op::Is, text.to_owned())))
    }

    /// Whether a row passes.
    pub fn passes<'a>(&self, row: &impl Row<'a>) -> bool {
        self.0.passes(row)
    }

    /// Whether it looks at something that changes without an edit.
    pub fn is_live(&self) -> bool {
        self.0.is_live()
    }
}

impl Node {
    fn passes<'a>(&self, row: &impl Row<'a>) -> bool {
        match self {
            Self::All(all) => all.iter().all(|node| node.passes(row)),
            Self::Any(any) => any.iter().any(|node| node.passes(row)),
            Self::Not(node) => !node.passes(row),
            Self::Test(column, test) => test.holds(&row.value(column)),
        }
    }

    fn is_live(&self) -> bool {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().any(Self::is_live),
            Self::Not(node) => node.is_live(),
            Self::Test(column, _) => column.is_live(),
        }
    }
}

impl Test {
    fn holds(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (_, Value::Absent) => false,
            (Self::Filled, Value::List(list)) => !list.is_empty(),
            (Self::Filled, _) => true,
            (Self::True, value) => *value == Value::Bool(true),
            (test, Value::List(list)) => list.iter().any(|text| test.holds(&Value::Text(text))),
            (Self::Bool(wanted), value) => *value == Value::Bool(*wanted),
            (Self::Text(op, wanted), Value::Text(text)) => compare(*op, text, wanted),
            (Self::Contains(part), Value::Text(text)) => contains(text, part),
            (Self::Like(pattern), Value::Text(text)) => pattern.matches(text),
            (Self::OneOf(wanted), Value::Text(text)) => wanted.contains(*text),
            (Self::Number(op, wanted), Value::Number(number)) => compare_numbers(*op, *number, *wanted),
            (Self::Numbers(wanted), Value::Number(number)) => wanted.contains(number),
            (Self::Time(op, span), Value::Time(time)) => match op {
                Op::Is => span.begin <= *time && *time < span.end,
                Op::Below => *time < span.begin,
                Op::AtMost => *time < span.end,
                Op::Above => *time >= span.end,
                Op::AtLeast => *time >= span.begin,
                Op::IsNot | Op::Contains => false,
            },
            (Self::Stated(op, wanted, number), value) => match value {
                Value::Text(text) if *op == Op::Contains => contains(text, wanted),
                Value::Text(text) => compare(*op, text, wanted),
                Value::Number(value) if *op == Op::Contains => contains(&value.to_string(), wanted),
                Value::Number(value) => number.is_some_and(|number| compare_numbers(*op, *value, number)),
                Value::Bool(value) => *op == Op::Is && wanted == if *value { "true" } else { "false" },
                _ => false,
            },
            _ => false,
        }
    }
}

fn compare(op: Op, text: &str, wanted: &str) -> bool {
    match op {
        Op::Is => text == wanted,
        Op::Below => natural(text, wanted).is_lt(),
        Op::AtMost => natural(text, wanted).is_le(),
        Op::Above => natural(text, wanted).is_gt(),
        Op::AtLeast => natural(text, wanted).is_ge(),
        // Made of `=` and of `Contains` when the filter was checked.
        Op::IsNot | Op::Contains => false,
    }
}

fn compare_numbers(op: Op, number: f64, wanted: f64) -> bool {
    match op {
        #[allow(clippy::float_cmp, reason = "a person who writes = means what is shown")]
        Op::Is => number == wanted,
        Op::Below => number < wanted,
        Op::AtMost => number <= wanted,
        Op::Above => number > wanted,
        Op::AtLeast => number >= wanted,
        Op::IsNot | Op::Contains => false,
    }
}

/// Whether a text contains another, which is in small letters already.
fn contains(text: &str, part: &str) -> bool {
    if part.is_empty() {
        return true;
    }
    if !text.is_ascii() {
        return text.to_lowercase().contains(part);
    }
    let (text, part) = (text.as_bytes(), part.as_bytes());
    text.len() >= part.len() && text.windows(part.len()).any(|window| window.eq_ignore_ascii_case(part))
}

/// Checks a filter against the columns.
///
/// # Errors
/// When a column is not there, or a value does not fit its column.
pub fn check(expr: &Expr, schema: &Schema<'_>) -> Result<Plan, QueryError> {
    node(expr, schema).map(Plan)
}

fn node(expr: &Expr, schema: &Schema<'_>) -> Result<Node, QueryError> {
    Ok(match expr {
        Expr::Or(all) => Node::Any(all.iter().map(|expr| node(expr, schema)).collect::<Result<_, _>>()?),
        Expr::And(all) => Node::All(all.iter().map(|expr| node(expr, schema)).collect::<Result<_, _>>()?),
        Expr::Not(inner) => Node::Not(Box::new(node(inner, schema)?)),
        Expr::True(name) => {
            let (column, kind) = resolve(name, schema)?;
            if !matches!(kind, Kind::Bool | Kind::Stated) {
                let why = format!("`{}` is neither true nor false: compare it with something, such as `{0} {}`", name.name, example(&kind));
                return Err(QueryError::new(name.at, why));
            }
            Node::Test(column, Test::True)
        }
        Expr::Empty { name, not } => {
            let (column, _) = resolve(name, schema)?;
            let filled = Node::Test(column, Test::Filled);
            if *not { filled } else { Node::Not(Box::new(filled)) }
        }
        Expr::Compare(name, op, literal) => {
            let (column, kind) = resolve(name, schema)?;
            match op {
                Op::IsNot => Node::Not(Box::new(Node::Test(column, test(name, &kind, Op::Is, literal, schema)?))),
                op => Node::Test(column, test(name, &kind, *op, literal, schema)?),
            }
        }
        Expr::In { name, not, values } => {
            let (column, kind) = resolve(name, schema)?;
            let tests: Vec<Test> = values.iter().map(|literal| test(name, &kind, Op::Is, literal, schema)).collect::<Result<_, _>>()?;
            let among = gathered(&column, tests);
            if *not { Node::Not(Box::new(among)) } else { among }
        }
    })
}

/// Many texts or numbers are one look-up.
fn gathered(column: &Column, tests: Vec<Test>) -> Node {
    let texts: Option<HashSet<String>> =
        tests.iter().map(|test| if let Test::Text(Op::Is, text) = test { Some(text.clone()) } else { None }).collect();
    let numbers: Option<Vec<f64>> = tests.iter().map(|test| if let Test::Number(Op::Is, n) = test { Some(*n) } else { None }).collect();
    match (texts, numbers) {
        (Some(texts), _) => Node::Test(column.clone(), Test::OneOf(texts)),
        (_, Some(numbers)) => Node::Test(column.clone(), Test::Numbers(numbers)),
        _ => Node::Any(tests.into_iter().map(|test| Node::Test(column.clone(), test)).collect()),
    }
}

fn example(kind: &Kind) -> String {
    match kind {
        Kind::Text | Kind::List | Kind::Stated => "~ \"part\"".into(),
        Kind::Person => "= me".into(),
        Kind::Choice(of) => format!("= {}", of.first().map_or("\"one\"", String::as_str)),
        Kind::Projects => "= lab".into(),
        Kind::Number(_) => "> 0.5".into(),
        Kind::Time | Kind::Date => "> now-1d".into(),
        Kind::Bool => "= true".into(),
    }
}

fn test(name: &Name, kind: &Kind, op: Op, literal: &Literal, schema: &Schema<'_>) -> Result<Test, QueryError> {
    let text = literal.text.as_str();
    let refuse = |what: &str| {
        let why = format!("`{}` is {what} and is not compared with `{}`", name.name, op.text());
        Err(QueryError::new(literal.at, why))
    };
    let among = |what: &str, known: &[&str]| {
        if known.contains(&text) {
            return Ok(());
        }
        let shown: String = text.chars().take(60).collect();
        Err(QueryError::new(literal.at, format!("there is no {what} \"{shown}\"{}", hint(text, known.iter().copied()))))
    };
    // Such as from a variable that is not set: it would mean every device, also for a change.
    if (op == Op::Contains && text.is_empty()) || (op == Op::Is && !literal.quoted && !text.is_empty() && text.chars().all(|c| c == '*')) {
        let why = format!("this would match everything; for devices that have any `{0}`, use `{0} is not empty`", name.name);
        return Err(QueryError::new(literal.at, why));
    }
    if let (Kind::Text | Kind::List, Op::Is, false) = (kind, op, literal.quoted)
        && let Some(pattern) = Wildcard::parse(text)
    {
        return Ok(Test::Like(pattern));
    }
    match kind {
        Kind::Text | Kind::List if op == Op::Contains => Ok(Test::Contains(text.to_lowercase())),
        Kind::Text => Ok(Test::Text(op, text.to_owned())),
        Kind::List | Kind::Projects if !matches!(op, Op::Is | Op::Contains) => refuse("several values"),
        Kind::List => Ok(Test::Text(op, text.to_owned())),
        Kind::Projects | Kind::Person | Kind::Choice(_) if op == Op::Contains => Ok(Test::Contains(text.to_lowercase())),
        Kind::Projects => among("project", schema.projects).map(|()| Test::Text(op, text.to_owned())),
        Kind::Person if op == Op::Is => {
            let me = text == "me" && !literal.quoted;
            Ok(Test::Text(op, if me { schema.me.to_owned() } else { text.to_lowercase() }))
        }
        Kind::Person => Ok(Test::Text(op, text.to_owned())),
        Kind::Choice(of) if op == Op::Is => {
            let known: Vec<&str> = of.iter().map(String::as_str).collect();
            among(&format!("value of `{}`", name.name), &known).map(|()| Test::Text(op, text.to_owned()))
        }
        Kind::Choice(_) => refuse("a choice"),
        Kind::Number(_) | Kind::Time | Kind::Date | Kind::Bool if op == Op::Contains => refuse(match kind {
            Kind::Number(_) => "a number",
            Kind::Bool => "true or false",
            _ => "a time",
        }),
        Kind::Number(unit) => values::number(literal, *unit).map(|number| Test::Number(op, number)),
        Kind::Time | Kind::Date => values::time(literal, schema.now).map(|span| Test::Time(op, span)),
        Kind::Bool if op != Op::Is => refuse("true or false"),
        Kind::Bool => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" => Ok(Test::Bool(true)),
            "false" | "no" => Ok(Test::Bool(false)),
            _ => {
                let shown: String = text.chars().take(40).collect();
                Err(QueryError::new(literal.at, format!("`{}` is true or false, not \"{shown}\"", name.name)))
            }
        },
        Kind::Stated => {
            let wanted = if op == Op::Contains { text.to_lowercase() } else { text.to_owned() };
            Ok(Test::Stated(op, wanted, values::plain(text)))
        }
    }
}
