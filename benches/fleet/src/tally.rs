//! What the devices count together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// First links that are made at once: a fleet that is switched on in order, not a storm.
const ORDERLY: usize = 64;

/// The counts.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Lets only so many devices link at once when nothing went wrong before.
    pub(crate) gate: Semaphore,
    linked: AtomicUsize,
    broken: AtomicUsize,
    dials: AtomicU64,
    under_way: AtomicUsize,
    late: AtomicU64,
    /// Acknowledged batches, of each device.
    stored: Box<[AtomicU64]>,
    links: Mutex<Vec<Instant>>,
    complaints: Mutex<BTreeMap<String, u64>>,
}

impl Tally {
    pub(crate) fn new(devices: usize) -> Self {
        Self {
            gate: Semaphore::new(ORDERLY),
            linked: AtomicUsize::new(0),
            broken: AtomicUsize::new(0),
            dials: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
            late: AtomicU64::new(0),
            stored: (0..devices).map(|_| AtomicU64::new(0)).collect(),
            links: Mutex::default(),
            complaints: Mutex::default(),
        }
    }

    /// A device dials.
    pub(crate) fn dial(&self) {
        self.dials.fetch_add(1, Relaxed);
    }

    /// A device is linked: the server acknowledged its birth.
    pub(crate) fn link(&self) {
        self.linked.fetch_add(1, Relaxed);
        lock(&self.links).push(Instant::now());
    }

    /// A device's link is over.
    pub(crate) fn unlink(&self) {
        self.linked.fetch_sub(1, Relaxed);
        self.broken.fetch_add(1, Relaxed);
    }

    /// A batch was sent for the first time.
    pub(crate) fn send(&self) {
        self.under_way.fetch_add(1, Relaxed);
    }

    /// A batch was acknowledged.
    pub(crate) fn acknowledge(&self, device: usize) {
        self.under_way.fetch_sub(1, Relaxed);
        self.stored[device].fetch_add(1, Relaxed);
    }

    /// A batch had to be left out because the one before is not acknowledged yet.
    pub(crate) fn late(&self) {
        self.late.fetch_add(1, Relaxed);
    }

    /// Something went wrong, in a few words that are the same for many devices.
    pub(crate) fn complain(&self, what: String) {
        *lock(&self.complaints).entry(what).or_default() += 1;
    }

    /// Devices that are linked now.
    pub(crate) fn linked(&self) -> usize {
        self.linked.load(Relaxed)
    }

    /// Links that ended since [`Tally::forget_links`].
    pub(crate) fn broken(&self) -> usize {
        self.broken.load(Relaxed)
    }

    /// Dials since [`Tally::forget_links`].
    pub(crate) fn dials(&self) -> u64 {
        self.dials.load(Relaxed)
    }

    /// Batches that are not acknowledged yet.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Relaxed)
    }

    /// Batches that were left out; the count starts anew.
    pub(crate) fn take_late(&self) -> u64 {
        self.late.swap(0, Relaxed)
    }

    /// Batches that were acknowledged, of all devices.
    pub(crate) fn stored(&self) -> u64 {
        self.stored.iter().map(|stored| stored.load(Relaxed)).sum()
    }

    /// Batches of one device that were acknowledged.
    pub(crate) fn stored_of(&self, device: usize) -> u64 {
        self.stored[device].load(Relaxed)
    }

    /// When links were made, since `from`, in order.
    pub(crate) fn links(&self, from: Instant) -> Vec<Duration> {
        lock(&self.links).iter().map(|at| at.saturating_duration_since(from)).collect()
    }

    /// What follows is counted by itself.
    pub(crate) fn forget_links(&self) {
        lock(&self.links).clear();
        lock(&self.complaints).clear();
        self.broken.store(0, Relaxed);
        self.dials.store(0, Relaxed);
    }

    /// What went wrong most often.
    pub(crate) fn complaints(&self) -> String {
        let complaints = lock(&self.complaints);
        let mut most: Vec<_> = complaints.iter().collect();
        most.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let shown: Vec<_> = most.iter().take(5).map(|(what, count)| format!("{count} times {what}")).collect();
        if shown.is_empty() { "no device complains".to_owned() } else { shown.join("; ") }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
