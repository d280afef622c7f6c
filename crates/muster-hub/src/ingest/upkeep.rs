//! What has to be done without a message: noticing silence, noting who was heard, dropping what is old.
//!
//! One task, owned by `serve`. Old rows go in slices, so that no device waits behind a long transaction.

use std::time::Duration;

use muster_proto::id::DeviceUid;
use muster_proto::limits::HEARTBEATS_MISSED;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Ingest;
use crate::clock::{self, DAY};
use crate::presence::Sign;
use crate::store::{self, mqtt, telemetry};

/// How often silence is looked for.
const SILENCE_EVERY: Duration = Duration::from_secs(2);
/// How often last words are written down: the loss when the hub is killed.
const TOUCH_EVERY: u32 = 30;
/// How often old rows are looked for, in rounds of [`SILENCE_EVERY`].
const PRUNE_EVERY: u32 = 150;
/// Rows removed in one transaction: some milliseconds.
const SLICE: i64 = 2000;
/// Slices in a row before the others get a turn again.
const SLICES: u32 = 50;
/// New samples of a device after which the bound on them is checked.
const CHECK_AFTER: u64 = 20_000;

impl Ingest {
    /// Runs until cancelled, then notes the last words.
    pub async fn run(&self, shutdown: CancellationToken) {
        let mut ticks = interval(SILENCE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 1_u32.. {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let done = async {
                self.notice_silence().await?;
                if round.is_multiple_of(TOUCH_EVERY) {
                    self.note_last_words().await?;
                }
                if round.is_multiple_of(PRUNE_EVERY) || round == 1 {
                    self.prune().await?;
                }
                store::Result::Ok(())
            };
            if let Err(error) = done.await {
                tracing::error!(%error, "the upkeep of presence and samples failed; it is tried again");
            }
        }
        if let Err(error) = self.note_last_words().await {
            tracing::debug!(%error, "last words were not noted");
        }
    }

    async fn notice_silence(&self) -> store::Result<()> {
        for uid in self.0.live.silent(self.0.options.heartbeat_every * HEARTBEATS_MISSED, self.now()) {
            self.sign(&uid, Sign::Silence, None, false).await?;
            // What went wrong in the store must not come back every round.
            if self.0.live.presence(&uid).is_some_and(|presence| presence.online) {
                self.0.live.heard(&uid, None, self.now());
            }
        }
        Ok(())
    }

    async fn note_last_words(&self) -> store::Result<()> {
        let seen = self.0.live.take_dirty();
        if seen.is_empty() {
            return Ok(());
        }
        self.0.store.write(move |tx| telemetry::touch(tx, &seen)).await
    }

    async fn prune(&self) -> store::Result<()> {
        let cutoff = clock::now() - i64::from(self.0.options.keep_days) * DAY;
        self.0.store.write(|tx| mqtt::prune(tx, clock::now(), SLICE)).await?;
        for _ in 0..SLICES {
            if !self.0.store.write(move |tx| telemetry::prune(tx, cutoff, SLICE)).await? {
                break;
            }
        }
        Ok(())
    }

    /// Holds a device to its number of samples: the oldest go.
    pub(super) async fn keep_bound(&self, uid: &DeviceUid, stored: u64) -> store::Result<()> {
        if stored < CHECK_AFTER {
            return Ok(());
        }
        self.0.live.bound_checked(uid);
        let (owner, keep) = (uid.clone(), i64::from(self.0.options.samples_per_device));
        let mut surplus = self.0.store.read(move |db| telemetry::surplus(db, &owner, keep)).await?;
        while surplus > 0 {
            let owner = uid.clone();
            let slice = surplus.min(SLICE);
            let gone = self.0.store.write(move |tx| telemetry::drop_oldest(tx, &owner, slice)).await?;
            if gone == 0 {
                break;
            }
            surplus -= i64::try_from(gone).unwrap_or(i64::MAX);
        }
        Ok(())
    }
}
