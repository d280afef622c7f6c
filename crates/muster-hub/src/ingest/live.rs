//! What the list shows of every device, in memory: presence, last word, newest sample.
//!
//! The store has the truth; this is what would cost a query per row. One lock, held for a few instructions.
//! Column names are shared between devices: ten thousand of one kind hold them once.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use muster_proto::Millis;
use muster_proto::api::{PresenceState, Sample};
use muster_proto::id::DeviceUid;
use muster_proto::mqtt::{Heartbeat, UsageBatch};

use crate::presence::{MISSED, Moment, Presence};
use crate::store::telemetry::{Keys, PresenceRow};

/// What is known of a device now.
#[derive(Debug, Clone)]
pub struct LiveDevice {
    /// Whether it is there.
    pub presence: PresenceState,
    /// Since when.
    pub since: Option<Millis>,
    /// When the hub last heard from it.
    pub last_seen: Option<Millis>,
    /// Why it is offline.
    pub offline_reason: Option<String>,
    /// Its newest sample.
    pub usage: Option<Sample>,
    /// Sessions, as its last heartbeat said.
    pub sessions: u32,
    /// Samples that wait on it, as its last heartbeat said.
    pub spooled: u64,
    /// Its samples find no room: the organization's storage is full.
    pub held: bool,
    /// Why its policy refuses everything, if it does.
    pub refuses: Option<String>,
    /// By its policy, sessions run as the daemon's own user.
    pub own_user: bool,
}

impl Default for LiveDevice {
    fn default() -> Self {
        Self {
            presence: PresenceState::Never,
            since: None,
            last_seen: None,
            offline_reason: None,
            usage: None,
            sessions: 0,
            spooled: 0,
            held: false,
            refuses: None,
            own_user: false,
        }
    }
}

/// How many devices are in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Online.
    pub online: usize,
    /// Offline.
    pub offline: usize,
}

/// The memory of all devices. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Live(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    devices: HashMap<DeviceUid, Entry>,
    names: HashMap<Box<[Box<str>]>, Weak<Names>>,
    /// Devices whose samples find no room.
    full: HashSet<DeviceUid>,
    /// Devices whose policy is worth a word in the list; most are not here.
    policies: HashMap<DeviceUid, Policy>,
}

/// What the list says of a device's policy.
#[derive(Debug)]
struct Policy {
    own_user: bool,
    refuses: Option<Box<str>>,
}

#[derive(Debug, PartialEq)]
struct Names(Box<[Box<str>]>);

#[derive(Debug)]
struct Entry {
    presence: Presence,
    last_seen: Millis,
    /// By the hub's uptime: when silence began.
    heard: Duration,
    sessions: u32,
    spooled: u64,
    /// `last_seen` and the counts are newer than what is stored.
    dirty: bool,
    newest: Option<Newest>,
    /// Samples stored since the bound on them was last checked.
    stored: u64,
}

#[derive(Debug)]
struct Newest {
    t: Millis,
    boot: Box<str>,
    seq: u64,
    names: Arc<Names>,
    values: Box<[f64]>,
    /// Under which this life and these names were stored.
    keys: Option<Keys>,
}

impl Live {
    /// What is known of a device.
    pub fn get(&self, uid: &DeviceUid) -> LiveDevice {
        let inner = self.lock();
        let Some(entry) = inner.devices.get(uid) else { return LiveDevice::default() };
        let (presence, offline_reason) = match (entry.presence.online, entry.presence.reason.as_str()) {
            (true, _) => (PresenceState::Online, None),
            (false, "") => (PresenceState::Never, None),
            (false, reason) => (PresenceState::Offline, Some(reason.to_owned())),
        };
        LiveDevice {
            presence,
            since: (presence != PresenceState::Never).then_some(entry.presence.since),
            last_seen: Some(entry.last_seen),
            offline_reason,
            usage: entry.newest.as_ref().map(Newest::sample),
            sessions: entry.sessions,
            spooled: entry.spooled,
            held: inner.full.contains(uid),
            refuses: inner.policies.get(uid).and_then(|policy| policy.refuses.as_deref()).map(str::to_owned),
            own_user: inner.policies.get(uid).is_some_and(|policy| policy.own_user),
        }
    }

    /// Takes note of what a device told of its policy.
    pub(super) fn put_policy(&self, uid: &DeviceUid, own_user: bool, refuses: Option<String>) {
        let mut inner = self.lock();
        if own_user || refuses.is_some() {
            inner.policies.insert(uid.clone(), Policy { own_user, refuses: refuses.map(String::into_boxed_str) });
        } else {
            inner.policies.remove(uid);
        }
    }

    /// Drops what a device told of its policy.
    pub fn forget_policy(&self, uid: &DeviceUid) {
        self.lock().policies.remove(uid);
    }

    /// Whether a device's samples find no room.
    pub(super) fn is_full(&self, uid: &DeviceUid) -> bool {
        self.lock().full.contains(uid)
    }

    /// Sets whose samples find no room. Gives those who are online and have room again.
    pub(super) fn set_full(&self, full: HashSet<DeviceUid>) -> Vec<DeviceUid> {
        let mut inner = self.lock();
        let before = std::mem::replace(&mut inner.full, full);
        let online = |uid: &DeviceUid| inner.devices.get(uid).is_some_and(|entry| entry.presence.online);
        before.into_iter().filter(|uid| !inner.full.contains(uid) && online(uid)).collect()
    }

    /// Looks at many devices without copying anything. Ingest waits meanwhile: a few hundred at once, not all.
    pub fn look(&self) -> Look<'_> {
        Look(self.lock())
    }

    /// Whether a device is online.
    pub fn is_online(&self, uid: &DeviceUid) -> bool {
        self.lock().devices.get(uid).is_some_and(|entry| entry.presence.online)
    }

    /// Drops what is known of a device that was deleted.
    pub fn forget(&self, uid: &DeviceUid) {
        let mut inner = self.lock();
        inner.devices.remove(uid);
        inner.policies.remove(uid);
    }

    /// How many are online and offline.
    pub fn counts(&self) -> Counts {
        let inner = self.lock();
        let online = inner.devices.values().filter(|entry| entry.presence.online).count();
        Counts { online, offline: inner.devices.len() - online }
    }

    pub(super) fn load(&self, row: PresenceRow, newest: Option<Sample>, now: Moment) {
        let mut inner = self.lock();
        let newest = newest.map(|sample| {
            let names = inner.intern(sample.values.keys().map(|name| name.as_str().into()).collect());
            Newest {
                t: sample.t,
                boot: sample.boot.into(),
                seq: sample.seq,
                names,
                values: sample.values.into_values().collect(),
                keys: None,
            }
        });
        // The clock of silence begins anew: while the hub was away nobody could be heard.
        let entry = Entry {
            presence: row.presence,
            last_seen: row.last_seen,
            heard: now.uptime,
            sessions: row.sessions,
            spooled: row.spooled,
            dirty: false,
            newest,
            stored: 0,
        };
        inner.devices.insert(row.uid, entry);
    }

    pub(super) fn presence(&self, uid: &DeviceUid) -> Option<Presence> {
        self.lock().devices.get(uid).map(|entry| entry.presence.clone())
    }

    pub(super) fn put_presence(&self, uid: &DeviceUid, presence: Presence, heard: bool, now: Moment) {
        let mut inner = self.lock();
        let entry = inner.entry(uid, now);
        entry.presence = presence;
        if heard {
            (entry.last_seen, entry.heard) = (now.wall, now.uptime);
        }
        if !entry.presence.online {
            entry.sessions = 0;
        }
    }

    /// Takes note of a sign of life. Whether it may bring the device back online, which is a matter for the store.
    pub(super) fn heard(&self, uid: &DeviceUid, heartbeat: Option<&Heartbeat>, now: Moment) -> bool {
        let mut inner = self.lock();
        let Some(entry) = inner.devices.get_mut(uid) else { return false };
        (entry.last_seen, entry.heard, entry.dirty) = (now.wall, now.uptime, true);
        if let Some(heartbeat) = heartbeat {
            (entry.sessions, entry.spooled) = (heartbeat.sessions, heartbeat.spooled);
        }
        entry.presence.reason == MISSED
    }

    /// The keys under which the batch before this one was stored, if it was of the same life and had the same names.
    pub(super) fn keys(&self, uid: &DeviceUid, batch: &UsageBatch) -> Option<Keys> {
        let inner = self.lock();
        let newest = inner.devices.get(uid)?.newest.as_ref()?;
        newest.keys.filter(|_| *newest.boot == *batch.boot && newest.names.are_of(batch))
    }

    /// Keeps the newest sample of a batch. Returns how many samples were stored since the bound was checked.
    pub(super) fn sampled(&self, uid: &DeviceUid, batch: &UsageBatch, new: usize, keys: Keys, now: Moment) -> u64 {
        let mut inner = self.lock();
        let last = batch.n.saturating_sub(1);
        let seq = batch.first_seq + u64::from(last);
        let t = batch.time_of(last as usize);
        let entry = inner.entry(uid, now);
        entry.stored += new as u64;
        let stored = entry.stored;
        let replaces = entry.newest.as_ref().is_none_or(|newest| {
            if *newest.boot == *batch.boot { seq > newest.seq } else { t > newest.t || entry.presence.boot.as_ref() == Some(&batch.boot) }
        });
        if replaces {
            // The names are the same as before in nearly every batch.
            let same = entry.newest.take().map(|newest| newest.names).filter(|names| names.are_of(batch));
            let names = same.unwrap_or_else(|| inner.intern(batch.c.keys().map(|name| name.as_str().into()).collect()));
            let values = batch.c.values().map(|column| column.at(last as usize).unwrap_or(f64::NAN)).collect();
            inner.entry(uid, now).newest = Some(Newest { t, boot: batch.boot.as_str().into(), seq, names, values, keys: Some(keys) });
        }
        stored
    }

    pub(super) fn bound_checked(&self, uid: &DeviceUid) {
        if let Some(entry) = self.lock().devices.get_mut(uid) {
            entry.stored = 0;
        }
    }

    /// Devices that count as online and were silent for too long.
    pub(super) fn silent(&self, most: Duration, now: Moment) -> Vec<DeviceUid> {
        let inner = self.lock();
        let silent = inner.devices.iter().filter(|(_, entry)| entry.presence.online && now.uptime.saturating_sub(entry.heard) >= most);
        silent.map(|(uid, _)| uid.clone()).collect()
    }

    /// Takes what is newer than stored, for [`crate::store::telemetry::touch`].
    pub(super) fn take_dirty(&self) -> Vec<(DeviceUid, Millis, u32, u64)> {
        let mut inner = self.lock();
        let dirty = inner.devices.iter_mut().filter_map(|(uid, entry)| {
            std::mem::take(&mut entry.dirty).then(|| (uid.clone(), entry.last_seen, entry.sessions, entry.spooled))
        });
        dirty.collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look at the memory of all devices.
pub struct Look<'a>(MutexGuard<'a, Inner>);

/// What is known of a device now, uncopied.
#[derive(Clone, Copy)]
pub struct Seen<'a>(&'a Entry);

impl Look<'_> {
    /// A device that was ever heard of.
    pub fn of(&self, uid: &DeviceUid) -> Option<Seen<'_>> {
        self.0.devices.get(uid).map(Seen)
    }
}

impl Seen<'_> {
    /// Whether it is there.
    pub fn presence(&self) -> PresenceState {
        match (self.0.presence.online, self.0.presence.reason.as_str()) {
            (true, _) => PresenceState::Online,
            (false, "") => PresenceState::Never,
            (false, _) => PresenceState::Offline,
        }
    }

    /// Since when.
    pub fn since(&self) -> Option<Millis> {
        (self.presence() != PresenceState::Never).then_some(self.0.presence.since)
    }

    /// When the hub last heard from it.
    pub fn last_seen(&self) -> Millis {
        self.0.last_seen
    }

    /// Samples that wait on it.
    pub fn spooled(&self) -> u64 {
        self.0.spooled
    }

    /// A value of its newest sample.
    pub fn value(&self, name: &str) -> Option<f64> {
        let newest = self.0.newest.as_ref()?;
        let at = newest.names.0.binary_search_by(|held| (**held).cmp(name)).ok()?;
        newest.values.get(at).copied().filter(|value| !value.is_nan())
    }

    /// The values whose names begin so, by the rest of their names.
    pub fn values<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = (&'s str, f64)> {
        let newest = self.0.newest.as_ref();
        let all = newest.into_iter().flat_map(|newest| newest.names.0.iter().zip(&newest.values));
        all.filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, *value))).filter(|(_, value)| !value.is_nan())
    }
}

impl Inner {
    fn entry(&mut self, uid: &DeviceUid, now: Moment) -> &mut Entry {
        self.devices.entry(uid.clone()).or_insert_with(|| Entry {
            presence: Presence::never(),
            last_seen: now.wall,
            heard: now.uptime,
            sessions: 0,
            spooled: 0,
            dirty: false,
            newest: None,
            stored: 0,
        })
    }

    fn intern(&mut self, names: Box<[Box<str>]>) -> Arc<Names> {
        if let Some(known) = self.names.get(&names).and_then(Weak::upgrade) {
            return known;
        }
        // Sets that nobody uses any more go when there are more of them than devices.
        if self.names.len() > self.devices.len() + 64 {
            self.names.retain(|_, names| names.strong_count() > 0);
        }
        let shared = Arc::new(Names(names.clone()));
        self.names.insert(names, Arc::downgrade(&shared));
        shared
    }
}

impl Names {
    fn are_of(&self, batch: &UsageBatch) -> bool {
        self.0.len() == batch.c.len() && self.0.iter().zip(batch.c.keys()).all(|(held, name)| **held == **name)
    }
}

impl Newest {
    fn sample(&self) -> Sample {
        let values = self.names.0.iter().zip(&self.values).filter(|(_, value)| !value.is_nan());
        Sample {
            t: self.t,
            boot: self.boot.to_string(),
            seq: self.seq,
            values: values.map(|(name, value)| (name.to_string(), *value)).collect(),
        }
    }
}
