//! The query language of the device list: `online = true and site = "berlin" and cpu > 80%`. Pure.
//!
//! [`syntax`] makes a tree of a text, [`plan`] checks it against the columns that there are and makes tests of it, which look at
//! rows through [`Row`]. Every error names the place and what would be right. Lengths and depths are bounded, so that no text,
//! however made, keeps the hub busy. The language is described in `docs/cli.md`, and why it is so in `docs/decisions/0015`.

pub mod columns;
mod lexer;
mod near;
pub mod order;
pub mod plan;
pub mod syntax;
pub mod values;

pub use columns::{Column, Kind, Schema};
pub use order::{Key, SortBy};
pub use plan::{Plan, Row, Value};
pub use syntax::Expr;

/// Longest filter, in bytes.
pub const TEXT_MAX: usize = 4096;
/// Deepest nesting of parentheses and `not`.
pub const DEPTH_MAX: usize = 32;
/// Most comparisons in a filter, each value of an `in` list counted as one.
pub const TERMS_MAX: usize = 256;

/// What is wrong with a filter or an order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {at}: {why}")]
pub struct QueryError {
    /// Where, counted in characters from 1.
    pub at: usize,
    /// What is wrong, and what would be right.
    pub why: String,
}

impl QueryError {
    pub(crate) fn new(at: usize, why: impl Into<String>) -> Self {
        Self { at, why: why.into() }
    }
}

/// Parses and checks a filter.
///
/// # Errors
/// When it is not one, or does not fit the columns.
pub fn filter(text: &str, schema: &Schema<'_>) -> Result<Plan, QueryError> {
    match syntax::parse(text)? {
        Some(expr) => plan::check(&expr, schema),
        None => Ok(Plan::everything()),
    }
}

#[cfg(test)]
mod tests;
