//! Samples of many devices in one write: a commit costs about the same for one batch as for fifty.
//!
//! While one write waits for its commit, the batches that come gather for the next. A lone batch is written at once, so that one
//! device brings its backlog home quickly. A group is patient, and the store spaces patient writes: a fleet's reports cost a few
//! transactions a second. Nobody looks at a sample within that time, and the acknowledgement follows the commit either way.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_proto::Millis;
use muster_proto::id::DeviceUid;
use rusqlite::Transaction;
use tokio::sync::oneshot;

use crate::store::telemetry::{self, Keys, NewSample};
use crate::store::{self, Store};

/// Batches in one write: some ten milliseconds of the writer's time.
const GROUP_MAX: usize = 512;

/// A device's batch on its way into the store.
pub(super) struct Batch {
    pub(super) uid: DeviceUid,
    pub(super) boot: String,
    /// JSON array of the column names.
    pub(super) names: String,
    pub(super) samples: Vec<NewSample>,
    pub(super) dropped: u64,
    pub(super) now: Millis,
    /// Whether it has yet to be looked up that the device belongs.
    pub(super) check: bool,
    /// The keys of the batch before, which may have been removed meanwhile.
    pub(super) keys: Option<Keys>,
}

/// What became of a batch: `None` when the device does not belong, else the samples that were new, and the keys for the next.
pub(super) type Stored = Option<(usize, Keys)>;

/// Gathers batches. Clones share it.
#[derive(Clone)]
pub(super) struct Gather(Arc<Inner>);

struct Inner {
    store: Store,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: Vec<(Batch, oneshot::Sender<store::Result<Stored>>)>,
    /// A task is at work and will take what waits.
    busy: bool,
}

impl Gather {
    pub(super) fn new(store: Store) -> Self {
        Self(Arc::new(Inner { store, state: Mutex::default() }))
    }

    /// Stores a batch. Returns after its commit.
    pub(super) async fn store(&self, batch: Batch) -> store::Result<Stored> {
        let (answer, answered) = oneshot::channel();
        let idle = {
            let mut state = self.lock();
            state.waiting.push((batch, answer));
            !std::mem::replace(&mut state.busy, true)
        };
        if idle {
            // Ends by itself when nothing waits. Not the caller's future, which may be given up while others rely on the write.
            tokio::spawn(self.clone().work());
        }
        answered.await.map_err(|_| store::Error::Closed)?
    }

    async fn work(self) {
        loop {
            let group: Vec<_> = {
                let mut state = self.lock();
                if state.waiting.is_empty() {
                    // An idle hub keeps no room for a rush.
                    *state = State::default();
                    return;
                }
                let size = state.waiting.len().min(GROUP_MAX);
                state.waiting.drain(..size).collect()
            };
            let (batches, answers): (Vec<_>, Vec<_>) = group.into_iter().unzip();
            let work = move |tx: &Transaction<'_>| Ok(batches.iter().map(|batch| insert(tx, batch)).collect::<Vec<_>>());
            let written = if answers.len() == 1 { self.0.store.write(work).await } else { self.0.store.write_patiently(work).await };
            match written {
                // Whoever waited may have gone: then its batch comes again, and is known.
                Ok(stored) => answers.into_iter().zip(stored).for_each(|(answer, stored)| drop(answer.send(stored))),
                Err(error) => answers.into_iter().for_each(|answer| drop(answer.send(Err(store::Error::Commit(error.to_string()))))),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn insert(tx: &Transaction<'_>, batch: &Batch) -> store::Result<Stored> {
    if batch.check && !telemetry::is_admitted(tx, &batch.uid)? {
        return Ok(None);
    }
    let keys = match batch.keys {
        Some(keys) if telemetry::holds(tx, &batch.uid, keys)? => keys,
        _ => telemetry::keys(tx, &batch.uid, &batch.boot, &batch.names, batch.now)?,
    };
    let new = if keys.columns == 0 {
        telemetry::insert_samples(tx, keys, &named(batch)?, batch.dropped, batch.now)?
    } else {
        telemetry::insert_samples(tx, keys, &batch.samples, batch.dropped, batch.now)?
    };
    Ok(Some((new, keys)))
}

/// Samples that carry their names, for a device with too many column sets.
fn named(batch: &Batch) -> store::Result<Vec<NewSample>> {
    let names: Vec<String> = serde_json::from_str(&batch.names)?;
    batch
        .samples
        .iter()
        .map(|sample| {
            let floats = sample.values.chunks_exact(8).map(|bytes| f64::from_le_bytes(bytes.try_into().unwrap_or_default()));
            let values: std::collections::BTreeMap<_, _> = names.iter().zip(floats).filter(|(_, value)| !value.is_nan()).collect();
            Ok(NewSample { values: serde_json::to_vec(&values)?, ..*sample })
        })
        .collect()
}
