//! What devices say, taken into the store: presence, heartbeats, samples, events.
//!
//! It does not know how a message came: the embedded endpoint and an external broker both call [`Ingest::up`],
//! and acknowledge to the device only after it returned, which is after the commit. So a message arrives at least once
//! and is stored exactly once. It never trusts a payload, and stores nothing of a device that is not admitted.

mod gather;
mod live;
mod policy;
mod runs;
mod upkeep;

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use muster_proto::id::DeviceUid;
use muster_proto::limits::{HEARTBEAT_EVERY, HEARTBEAT_MAX, PAYLOAD_MAX, PRESENCE_MAX};
use muster_proto::mqtt::{DeviceEvent, Heartbeat, PayloadError, Presence as PresenceMessage, UsageBatch, decode, is_boot};
use muster_proto::topic::Up;
use tokio::sync::Notify;

use gather::{Batch, Gather};
pub use live::{Counts, Live, LiveDevice, Look, Seen};
pub use runs::RunSink;

use crate::clock;
use crate::metrics::{Counter, Metrics};
use crate::presence::{Moment, Presence, Sign};
use crate::store::{self, Store, policies, telemetry};
use crate::words::{self, plain};

/// A device's version and its reason to go, in characters.
const WORD_MAX: usize = 100;

/// The bounds that an operator may choose.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How often devices are expected to send a heartbeat: three missed ones mean offline.
    pub heartbeat_every: Duration,
    /// Days that samples and events are kept, from when they came: a device with a wrong clock loses nothing.
    pub keep_days: u32,
    /// Samples kept per device: more than one each second for eleven days.
    pub samples_per_device: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self { heartbeat_every: HEARTBEAT_EVERY, keep_days: 30, samples_per_device: 1_000_000 }
    }
}

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// It is not what its topic carries: sending it again is no use.
    #[error("{0}")]
    Payload(#[from] PayloadError),
    /// Nothing takes this topic.
    #[error("nothing in this hub takes {0:?}")]
    Topic(Up),
    /// The device does not belong.
    #[error("the device is not admitted")]
    NotAdmitted,
    /// The organization stores as much as it may: the device keeps its samples, and sends them again later.
    #[error("the organization's storage is full")]
    Full,
    /// It could not be stored: the device must send it again.
    #[error("cannot store it: {0}")]
    Store(#[from] store::Error),
}

/// Told of every new event, after its commit. Must not block. The session that an event names need not be the device's.
pub type EventSink = Arc<dyn Fn(&DeviceUid, &DeviceEvent) + Send + Sync>;

/// Takes in what devices say. Clones share it.
#[derive(Clone)]
pub struct Ingest(Arc<Inner>);

struct Inner {
    store: Store,
    live: Live,
    options: Options,
    started: Instant,
    gather: Gather,
    sink: OnceLock<EventSink>,
    /// Somebody waits for room that may have come.
    room: Notify,
    run_sink: OnceLock<runs::RunSink>,
    messages: Counter,
    refused: Counter,
    samples: Counter,
}

impl std::fmt::Debug for Ingest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ingest")
    }
}

impl Ingest {
    /// Loads what the store knows. Presence stays as it was: that the hub was away says nothing about a device.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open(store: Store, options: Options, metrics: &Metrics) -> store::Result<Self> {
        let live = Live::default();
        let ingest = Self(Arc::new(Inner {
            gather: Gather::new(store.clone()),
            store,
            live,
            options,
            started: Instant::now(),
            sink: OnceLock::new(),
            room: Notify::new(),
            run_sink: OnceLock::new(),
            messages: metrics.counter("muster_device_messages_total", "Messages taken from devices", &[("result", "stored")]),
            refused: metrics.counter("muster_device_messages_total", "Messages taken from devices", &[("result", "refused")]),
            samples: metrics.counter("muster_samples_stored_total", "Samples stored, each once", &[]),
        }));
        let rows = ingest.0.store.read(|db| {
            let rows = telemetry::all_presence(db)?;
            rows.into_iter().map(|row| telemetry::samples(db, &row.uid, 0, 1).map(|mut newest| (row, newest.pop()))).collect()
        });
        let rows: Vec<_> = rows.await?;
        let now = ingest.now();
        for (row, newest) in rows {
            ingest.0.live.load(row, newest, now);
        }
        for (uid, own_user, refuses) in ingest.0.store.read(policies::remarks).await? {
            ingest.0.live.put_policy(&uid, own_user, refuses);
        }
        Ok(ingest)
    }

    /// What is known of all devices.
    pub fn live(&self) -> &Live {
        &self.0.live
    }

    /// Sets who is told of events. Once, at start.
    pub fn on_event(&self, sink: EventSink) {
        if self.0.sink.set(sink).is_err() {
            tracing::warn!("a second listener for device events was ignored");
        }
    }

    /// Sets whose samples find no room. Those of all others are taken. Gives those who are online and have room again.
    pub fn set_full(&self, full: HashSet<DeviceUid>) -> Vec<DeviceUid> {
        self.0.live.set_full(full)
    }

    /// A limit was changed: whoever meters looks again now who has room.
    pub fn look_for_room(&self) {
        self.0.room.notify_one();
    }

    /// Waits for that.
    pub(crate) async fn room_may_have_come(&self) {
        self.0.room.notified().await;
    }

    /// Takes a message in, whoever brought it. Returns after it was committed.
    ///
    /// # Errors
    /// When it is refused, or could not be stored.
    pub async fn up(&self, uid: &DeviceUid, up: &Up, payload: &[u8]) -> Result<(), Refused> {
        self.take(uid, up, payload, true).await
    }

    /// [`Ingest::up`] from a link whose device was let in: whoever revokes it cuts the link, so it need not be looked up each time.
    ///
    /// # Errors
    /// As [`Ingest::up`].
    pub async fn from_link(&self, uid: &DeviceUid, up: &Up, payload: &[u8]) -> Result<(), Refused> {
        self.take(uid, up, payload, false).await
    }

    async fn take(&self, uid: &DeviceUid, up: &Up, payload: &[u8], check: bool) -> Result<(), Refused> {
        let done = match up {
            Up::Presence => self.presence(uid, payload).await,
            Up::Heartbeat => self.heartbeat(uid, payload).await,
            Up::Usage => self.usage(uid, payload, check).await,
            Up::Event => self.event(uid, payload).await,
            Up::Run(run) => self.run_report(uid, run, payload).await,
            Up::Policy => self.policy(uid, payload).await,
        };
        match &done {
            Ok(()) => self.0.messages.add(1),
            // Said once for the organization, by whoever found it full.
            Err(Refused::Full) => self.0.refused.add(1),
            Err(error) => {
                self.0.refused.add(1);
                tracing::warn!(%uid, topic = ?up, bytes = payload.len(), %error, "a device's message was not taken");
            }
        }
        done
    }

    /// An owner cut the device off.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn revoked(&self, uid: &DeviceUid) -> store::Result<()> {
        self.sign(uid, Sign::Revoked, None, false).await.map(drop)
    }

    async fn presence(&self, uid: &DeviceUid, payload: &[u8]) -> Result<(), Refused> {
        let message: PresenceMessage = decode(payload, PRESENCE_MAX)?;
        if message.boot.as_deref().is_some_and(|boot| !is_boot(boot)) {
            return Err(PayloadError::Rule("boot is 16 hexadecimal digits").into());
        }
        let link = message.link;
        let sign = match (message.online, message.reason) {
            (true, _) => Sign::Birth { link, boot: message.boot },
            (false, Some(reason)) => Sign::Farewell { link, reason: plain(&reason, WORD_MAX) },
            (false, None) => Sign::Will { link },
        };
        let agent = message.agent.map(|agent| plain(&agent, WORD_MAX));
        let facts = message.facts.filter(|_| message.online).map(|facts| (words::facts(facts), agent));
        // The broker sends a will, long after the device's last word.
        let heard = !matches!(sign, Sign::Will { .. });
        if self.sign(uid, sign, facts, heard).await? { Ok(()) } else { Err(Refused::NotAdmitted) }
    }

    async fn heartbeat(&self, uid: &DeviceUid, payload: &[u8]) -> Result<(), Refused> {
        let heartbeat: Heartbeat = decode(payload, HEARTBEAT_MAX)?;
        self.heard(uid, Some(&heartbeat)).await?;
        Ok(())
    }

    async fn heard(&self, uid: &DeviceUid, heartbeat: Option<&Heartbeat>) -> store::Result<()> {
        let offline = self.0.live.heard(uid, heartbeat, self.now());
        if offline {
            self.sign(uid, Sign::Heard, None, true).await?;
        }
        Ok(())
    }

    async fn usage(&self, uid: &DeviceUid, payload: &[u8], check: bool) -> Result<(), Refused> {
        let batch = UsageBatch::decode(payload)?;
        if self.0.live.is_full(uid) {
            self.heard(uid, None).await?;
            return Err(Refused::Full);
        }
        let names: Vec<&str> = batch.c.keys().map(String::as_str).collect();
        let samples = (0..batch.n as usize).map(|index| telemetry::NewSample {
            seq: batch.first_seq.saturating_add(index as u64).cast_signed(),
            t: batch.time_of(index),
            values: batch.c.values().flat_map(|column| column.at(index).unwrap_or(f64::NAN).to_le_bytes()).collect(),
        });
        let now = self.now();
        let written = self.0.gather.store(Batch {
            uid: uid.clone(),
            boot: batch.boot.clone(),
            names: serde_json::to_string(&names).map_err(PayloadError::Json)?,
            samples: samples.collect(),
            dropped: batch.dropped,
            now: now.wall,
            check,
            keys: self.0.live.keys(uid, &batch),
        });
        let (new, keys) = written.await?.ok_or(Refused::NotAdmitted)?;
        self.0.samples.add(new as u64);
        let stored = self.0.live.sampled(uid, &batch, new, keys, now);
        self.heard(uid, None).await?;
        self.keep_bound(uid, stored).await?;
        Ok(())
    }

    async fn event(&self, uid: &DeviceUid, payload: &[u8]) -> Result<(), Refused> {
        let event: DeviceEvent = decode(payload, PAYLOAD_MAX)?;
        let body = String::from_utf8(payload.to_vec()).map_err(|_| PayloadError::Rule("an event is UTF-8"))?;
        let digest = ring::digest::digest(&ring::digest::SHA256, payload);
        let (owner, t, now) = (uid.clone(), event.t, clock::now());
        let written = self.0.store.write(move |tx| {
            if !telemetry::is_admitted(tx, &owner)? {
                return Ok(None);
            }
            telemetry::insert_event(tx, &owner, digest.as_ref(), t, &body, now).map(Some)
        });
        let new = written.await?.ok_or(Refused::NotAdmitted)?;
        if let Some(sink) = self.0.sink.get().filter(|_| new) {
            sink(uid, &event);
        }
        self.heard(uid, None).await?;
        Ok(())
    }

    /// Applies a sign to what is stored, and to the list. `false` when the device is not admitted.
    async fn sign(
        &self,
        uid: &DeviceUid,
        sign: Sign,
        facts: Option<(muster_proto::mqtt::Facts, Option<String>)>,
        heard: bool,
    ) -> store::Result<bool> {
        let (owner, live, now, urgent) = (uid.clone(), self.0.live.clone(), self.now(), sign == Sign::Revoked);
        let work = move |tx: &rusqlite::Transaction<'_>| {
            if sign != Sign::Revoked && sign != Sign::Silence && !telemetry::is_admitted(tx, &owner)? {
                return Ok(false);
            }
            let stored = telemetry::presence(tx, &owner)?;
            if stored.is_none() && matches!(sign, Sign::Revoked | Sign::Silence | Sign::Heard) {
                return Ok(true);
            }
            let mut presence = stored.map_or_else(Presence::never, |row| row.presence);
            let changed = presence.apply(sign, now.wall);
            telemetry::put_presence(tx, &owner, &presence, changed, heard.then_some(now.wall), now.wall)?;
            if let Some((facts, agent)) = facts {
                telemetry::put_facts(tx, &owner, &serde_json::to_string(&facts)?, agent.as_deref())?;
            }
            if changed {
                tracing::info!(uid = %owner, online = presence.online, reason = presence.reason, "presence");
            }
            // In the writer's order, so that the list ends where the store ends.
            live.put_presence(&owner, presence, heard, now);
            Ok(true)
        };
        // Somebody waits for a revocation.
        let written = if urgent { self.0.store.write(work).await } else { self.0.store.write_patiently(work).await };
        if written.is_err() {
            self.reload(uid).await;
        }
        written
    }

    /// Brings the list back to what is stored, after a write that failed.
    async fn reload(&self, uid: &DeviceUid) {
        let owner = uid.clone();
        if let Ok(Some(row)) = self.0.store.read(move |db| telemetry::presence(db, &owner)).await {
            self.0.live.put_presence(uid, row.presence, false, self.now());
        }
    }

    fn now(&self) -> Moment {
        Moment { wall: clock::now(), uptime: self.0.started.elapsed() }
    }
}
