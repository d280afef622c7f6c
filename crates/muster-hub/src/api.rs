//! The HTTP API under `/v1`.

mod problem;

pub use problem::{ApiError, ApiResult};
