//! What must still be true when a request's change begins.
//!
//! A request is let go on by what its person has when it comes. Its change then waits for the writer behind others, and one of
//! those may take the person's rights. So whoever lets a request go on says here what that rests on, and the request's first write
//! looks at it again inside its own transaction: no handler has to remember it. What follows from a change that was committed,
//! such as telling the device, is no longer asked.

use std::sync::{Mutex, PoisonError};

use rusqlite::Transaction;

use super::Result;

type Check = Box<dyn FnOnce(&Transaction<'_>) -> Result<()> + Send>;

tokio::task_local! {
    static CHECKS: Mutex<Vec<Check>>;
}

/// Runs a request, which may set provisos.
pub(crate) async fn request<T>(request: impl Future<Output = T>) -> T {
    CHECKS.scope(Mutex::default(), request).await
}

/// Runs what a request does beside its change, such as noting when a token was used last: it takes no proviso away, and adds none.
pub(crate) async fn beside<T>(work: impl Future<Output = T>) -> T {
    CHECKS.scope(Mutex::default(), work).await
}

/// Adds what this request's first write rests on. Outside of a request nothing is held.
pub(crate) fn add(check: impl FnOnce(&Transaction<'_>) -> Result<()> + Send + 'static) {
    // Without a request there is nobody whose rights could go.
    let _ = CHECKS.try_with(|checks| checks.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(check)));
}

/// The provisos of this request, for its first write.
pub(super) fn take() -> Vec<Check> {
    CHECKS.try_with(|checks| std::mem::take(&mut *checks.lock().unwrap_or_else(PoisonError::into_inner))).unwrap_or_default()
}
