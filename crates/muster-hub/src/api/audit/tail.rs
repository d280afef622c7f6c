//! The audit log as it is written: lines of JSON until the right is lost, the reader is too slow, or one of the two goes.
//!
//! The numbers of events grow in the order of their commits, for one writer writes them all. So whoever comes back and names the last
//! number that he has gets the next one, and none twice. An empty line comes where nothing happens, so that a dead path is noticed.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use http::header;
use muster_proto::problem::Code;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::{Asker, json_line, still_may};
use crate::api::asker::RECHECK;
use crate::api::{ApiError, ApiResult};
use crate::store::audit::{self, Filter, From};

/// Readers at the same time, on the whole hub.
const TAILS_MAX: usize = 32;
/// Chunks of at most [`PAGE`] events that wait for a slow reader.
const WAITING: usize = 8;
const PAGE: usize = 100;
/// A reader that takes nothing for so long is let go.
const SLOW: Duration = Duration::from_secs(30);
/// How often it is looked for new events.
const LOOK: Duration = Duration::from_millis(250);
/// How often an empty line says that the hub is still there.
const ALIVE: Duration = Duration::from_secs(15);

/// The bound on readers. Clones share it.
#[derive(Debug, Clone)]
pub struct Tails(Arc<Semaphore>);

impl Default for Tails {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TAILS_MAX)))
    }
}

impl Tails {
    /// Places that are free.
    pub fn free(&self) -> usize {
        self.0.available_permits()
    }
}

pub(super) async fn answer(asker: Asker, filter: Filter, after: Option<i64>) -> ApiResult<Response> {
    let place = Arc::clone(&asker.state.tails.0).try_acquire_owned().map_err(|_| {
        ApiError::new(
            Code::RateLimited,
            format!("{TAILS_MAX} readers follow records on this hub already; try again later, or ask in pages"),
        )
    })?;
    let after = match after {
        Some(after) => after,
        // What was before is asked for by its time.
        None if filter.since.is_some() => 0,
        None => asker.state.store.read(audit::newest).await?,
    };
    let (sender, receiver) = mpsc::channel(WAITING);
    // Ends with its reader, whose going it sees, or with the runtime.
    tokio::spawn(run(Tail { asker, filter, after, sender }, place));
    let lines = stream::unfold(receiver, async |mut receiver| {
        let chunk: Bytes = receiver.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(chunk), receiver))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

struct Tail {
    asker: Asker,
    filter: Filter,
    after: i64,
    sender: mpsc::Sender<Bytes>,
}

async fn run(mut tail: Tail, _place: OwnedSemaphorePermit) {
    // A place for the last word, whatever waits before it.
    let Ok(last) = tail.sender.clone().try_reserve_owned() else { return };
    if let Err(why) = tail.go_on().await {
        last.send(Bytes::from(format!("{}\n", json!({ "note": why }))));
    }
}

impl Tail {
    /// Goes on until there is something to say to the reader, or nobody to say it to.
    async fn go_on(&mut self) -> Result<(), String> {
        let mut changes = self.asker.state.lapses.changes(&self.asker.org);
        let (mut checked, mut said) = (Instant::now(), Instant::now());
        loop {
            let mut out = self.read().await.map_err(|error| error.to_string())?;
            if !out.is_empty() || checked.elapsed() >= RECHECK {
                // After the reading and before the sending: nothing goes out once the right is gone.
                still_may(&self.asker).await.map_err(|error| format!("the stream ends: {error}"))?;
                checked = Instant::now();
            }
            if out.is_empty() && said.elapsed() >= ALIVE {
                out.push(b'\n');
            }
            if out.is_empty() {
                tokio::select! {
                    () = sleep(LOOK) => {}
                    () = changes.changed() => checked = checked.checked_sub(RECHECK).unwrap_or(checked),
                    () = self.sender.closed() => return Ok(()),
                }
                continue;
            }
            match timeout(SLOW, self.sender.send(out.into())).await {
                Ok(Ok(())) => said = Instant::now(),
                Ok(Err(_)) => return Ok(()),
                Err(_) => {
                    let seconds = SLOW.as_secs();
                    return Err(format!("the stream ends: nothing was read for {seconds} s; go on with after= and the last id that came"));
                }
            }
        }
    }

    async fn read(&mut self) -> ApiResult<Vec<u8>> {
        let (org, filter, after) = (self.asker.org.clone(), self.filter.clone(), self.after);
        // On one snapshot: what is newer than `newest` is not in the list either.
        let found = self
            .asker
            .state
            .store
            .read(move |db| Ok((audit::newest(db)?, audit::list(db, org.as_str(), &filter, From::After(after), PAGE)?)));
        let (newest, events) = found.await?;
        self.after = match events.last() {
            Some(last) if events.len() == PAGE => last.id,
            _ => newest.max(self.after),
        };
        let mut out = Vec::new();
        events.iter().for_each(|event| json_line(event, &mut out));
        Ok(out)
    }
}
