//! What is metered without anybody's doing: who was active, what is stored, how many users; and days that are over are charged.
//!
//! One task, owned by `serve`. Every step looks into the store for what is due and writes what it did in the same transaction,
//! so that a hub that is killed between any two of them does neither twice. Nothing here relies on having run at a certain time.
//! On a machine that has just started with a clock that leaps, it waits a while for the clock to be set right.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use muster_proto::api::{Day, LimitName};
use muster_proto::id::{DeviceUid, OrgId};
use muster_proto::mqtt::{AdmissionNotice, encode};
use muster_proto::topic::Down;
use rusqlite::Transaction;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::audit::Entry;
use crate::clock::{self, DAY, Moment};
use crate::config::Config;
use crate::ingest::Ingest;
use crate::metrics::{Counter, Metrics};
use crate::mqtt::{Lanes, SendOptions};
use crate::store::metering::{self, Kind};
use crate::store::{self, Store, ledger, limits, sessions, storage, usage};

/// How often it is looked what is due: half as long as what a killed hub could forget of a device that came and went.
const EVERY: Duration = Duration::from_secs(30);
/// How long the word that there is room is kept for a device that has just gone: one that comes back asks by itself.
const ROOM_EXPIRY: Duration = Duration::from_secs(30);
/// Rounds of [`EVERY`] between two counts of users and two looks for old rows: an hour.
const SELDOM: u32 = 120;
/// Devices in one transaction: some milliseconds.
const SLICE: usize = 500;
/// Old rows removed in one transaction.
const PRUNE: i64 = 2000;
/// Slices in a row, before the next round goes on.
const SLICES: usize = 10_000;

/// The task's parts.
#[derive(Debug)]
pub struct Meter {
    store: Store,
    keep_sessions: i64,
    keep_usage: i64,
    charged: Counter,
    active: Counter,
    /// Organizations that were full when it was last looked.
    full: Mutex<BTreeSet<OrgId>>,
}

impl Meter {
    /// Meters what happened until now, at the rates of before; then puts rates and limits of the configuration in force.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn start(store: Store, config: &Config, metrics: &Metrics) -> store::Result<Self> {
        Self::start_at(store, config, metrics, &Moment::now()).await
    }

    async fn start_at(store: Store, config: &Config, metrics: &Metrics, now: &Moment) -> store::Result<Self> {
        let meter = Self {
            store,
            keep_sessions: i64::from(config.retention.sessions_days) * DAY,
            keep_usage: i64::from(config.retention.usage_days),
            charged: metrics.counter("muster_ledger_charges_total", "Charges written to the ledgers", &[]),
            active: metrics.counter("muster_active_device_days_total", "Devices counted as active, each once a day", &[]),
            full: Mutex::default(),
        };
        // Before anything new is heard: a device that came back would hide when it was last there.
        match meter.doubts(now).await? {
            None => {
                meter.note_active(now, true).await?;
                meter.weigh(now).await?;
            }
            Some(mark) => {
                tracing::warn!("the clock of this machine leapt with its start: it is waited until it is set right, or for a while");
                meter.note_active(&mark, false).await?;
            }
        }
        let (rates, limits) = (config.billing, config.limits);
        meter.store.write(move |tx| put_in_force(tx, &rates.each(), &limits)).await?;
        Ok(meter)
    }

    /// Runs until cancelled.
    pub async fn run(&self, ingest: &Ingest, lanes: &Lanes, shutdown: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 0_u32.. {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
                () = ingest.room_may_have_come() => {}
            }
            let done = async {
                tell_of_room(lanes, self.find_full(ingest).await?).await;
                self.round(round.is_multiple_of(SELDOM)).await
            };
            if let Err(error) = done.await {
                tracing::error!(%error, "metering failed; it is tried again, and nothing is lost or counted twice");
            }
        }
    }

    /// Does all that is due.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn round(&self, seldom: bool) -> store::Result<()> {
        self.round_at(seldom, &Moment::now()).await
    }

    async fn round_at(&self, seldom: bool, now: &Moment) -> store::Result<()> {
        if self.doubts(now).await?.is_some() {
            return Ok(());
        }
        self.note_active(now, true).await?;
        // Before the charges, so that a day that has just ended is charged with all of its storage.
        self.weigh(now).await?;
        if seldom {
            self.count_users(now).await?;
            self.prune(now).await?;
        }
        self.close_days(now).await
    }

    /// When something was last counted, where this calendar is not to be believed yet.
    async fn doubts(&self, now: &Moment) -> store::Result<Option<Moment>> {
        let now = now.clone();
        self.store.read(move |db| storage::in_doubt(db, &now)).await
    }

    /// Tells the ingest whose samples find no room any more, and the records where that begins and ends.
    /// Gives the devices that are online and have room again.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn find_full(&self, ingest: &Ingest) -> store::Result<Vec<DeviceUid>> {
        let found = self.store.read(limits::full).await?;
        let now: BTreeSet<OrgId> = found.iter().map(|(org, _)| org.clone()).collect();
        let freed = ingest.set_full(found.into_iter().flat_map(|(_, uids)| uids).collect());
        let before = std::mem::replace(&mut *self.full.lock().unwrap_or_else(PoisonError::into_inner), now.clone());
        for (orgs, action) in [(now.difference(&before), "storage.full"), (before.difference(&now), "storage.room")] {
            for org in orgs {
                tracing::warn!(%org, action, "whether an organization has room for more samples has changed");
                let entry = Entry::of_hub(Some(org.clone()), action, org.as_str());
                self.store.write(move |tx| entry.ok(tx)).await?;
            }
        }
        Ok(freed)
    }

    async fn note_active(&self, now: &Moment, online: bool) -> store::Result<()> {
        let today = Day::of(now.wall);
        for _ in 0..SLICES {
            let found = self.store.read(move |db| usage::not_noted(db, today, online, SLICE)).await?;
            let count = found.len();
            if count > 0 {
                self.store.write(move |tx| usage::note_active(tx, &found)).await?;
                self.active.add(count as u64);
            }
            if count < SLICE {
                break;
            }
        }
        Ok(())
    }

    async fn weigh(&self, now: &Moment) -> store::Result<()> {
        for _ in 0..SLICES {
            let now = now.clone();
            if !self.store.write(move |tx| storage::step(tx, &now, SLICE)).await? {
                break;
            }
        }
        Ok(())
    }

    async fn count_users(&self, now: &Moment) -> store::Result<()> {
        let (users, now) = (self.store.read(usage::users).await?, now.wall);
        let work = move |tx: &Transaction<'_>| {
            for (org, [members, collaborators, service]) in &users {
                let org = org.parse()?;
                metering::peak(tx, &org, Kind::Members, now, *members)?;
                metering::peak(tx, &org, Kind::Collaborators, now, *collaborators)?;
                metering::peak(tx, &org, Kind::ServiceAccounts, now, *service)?;
            }
            Ok(())
        };
        self.store.write(work).await
    }

    async fn close_days(&self, now: &Moment) -> store::Result<()> {
        let (today, t) = (Day::of(now.wall), now.wall);
        for _ in 0..SLICES {
            let Some((org, day)) = self.store.read(move |db| ledger::next_to_close(db, today)).await? else { break };
            let whose = org.clone();
            let lines = self.store.write(move |tx| ledger::close(tx, &whose, day, t)).await?;
            self.charged.add(lines as u64);
            tracing::info!(%org, %day, lines, "a day was charged");
        }
        Ok(())
    }

    async fn prune(&self, now: &Moment) -> store::Result<()> {
        let now = now.wall;
        let (ended, first) = (now - self.keep_sessions, Day::of(now).plus(-self.keep_usage));
        for _ in 0..SLICES {
            let gone = self.store.write(move |tx| {
                let sessions = sessions::prune(tx, ended, PRUNE)?;
                Ok(sessions + usage::prune(tx, first, PRUNE)? + metering::prune_keys(tx, now, PRUNE)?)
            });
            if gone.await? == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// Tells devices that were refused that they need not wait any longer. Whoever does not hear it tries again by itself.
async fn tell_of_room(lanes: &Lanes, devices: Vec<DeviceUid>) {
    let options = SendOptions { retain: false, expiry: ROOM_EXPIRY };
    // Side by side, so that they share commits.
    for some in devices.chunks(SLICE) {
        let mut told = JoinSet::new();
        for uid in some {
            let (lanes, uid) = (lanes.clone(), uid.clone());
            told.spawn(async move {
                if let Err(error) = lanes.send(&uid, Down::Admission, encode(&AdmissionNotice::Room), options).await {
                    tracing::debug!(%uid, %error, "the device is not told that there is room");
                }
            });
        }
        while told.join_next().await.is_some() {}
    }
}

fn put_in_force(tx: &Transaction<'_>, rates: &[(Kind, muster_proto::api::Credits)], most: &crate::config::Limits) -> store::Result<()> {
    for (kind, credits) in rates {
        if metering::set_rate(tx, *kind, *credits, clock::now())? {
            let unit = kind.price().map_or("", |(unit, _)| unit);
            Entry::of_hub(None, "billing.rate", unit).with(json!({ "credits": credits })).ok(tx)?;
        }
    }
    LimitName::ALL.into_iter().try_for_each(|name| limits::put_default(tx, name, most.get(name)))
}

#[cfg(test)]
mod tests;
