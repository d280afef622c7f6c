//! Who is linked now: one small mailbox per device, and the rule that a device has one link.
//!
//! A mailbox is a short list and a bell, not a channel: ten thousand idle links must cost next to nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use muster_proto::id::DeviceUid;
use tokio::sync::Notify;

use super::bounds::QUEUE_MAX;
use super::outbox::Down;

/// Why a link has to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// The same device connected again.
    TakenOver,
    /// An owner cut it off.
    Cut(String),
    /// The hub stops.
    Shutdown,
}

/// The mailbox of a link.
#[derive(Debug)]
pub(super) struct Link {
    uid: DeviceUid,
    mail: Mutex<Mail>,
    bell: Notify,
    ending: Notify,
    gone: AtomicBool,
    farewell: Notify,
    /// Messages of the store that its device has not acknowledged.
    owed: AtomicUsize,
}

#[derive(Debug, Default)]
struct Mail {
    messages: Vec<Down>,
    end: Option<End>,
}

impl Link {
    /// Puts a message in. A full box drops it: the store has it for the next link.
    pub(super) fn deliver(&self, message: Down) {
        let mut mail = self.lock();
        if mail.messages.len() < QUEUE_MAX {
            mail.messages.push(message);
            drop(mail);
            self.bell.notify_one();
        }
    }

    /// Notes how many messages the device has yet to acknowledge.
    pub(super) fn note_owed(&self, owed: usize) {
        self.owed.store(owed, Ordering::Relaxed);
    }

    /// Whether a message may go to the device before the store has taken it: only far from the bound, where the store will not refuse.
    pub(super) fn has_room(&self) -> bool {
        self.owed.load(Ordering::Relaxed) + self.lock().messages.len() < QUEUE_MAX / 2
    }

    /// Tells the link to end. The first reason stands, but a cut outranks the others.
    pub(super) fn end(&self, end: End) {
        let mut mail = self.lock();
        if mail.end.is_none() || matches!(end, End::Cut(_)) {
            mail.end = Some(end);
        }
        drop(mail);
        self.bell.notify_one();
        self.ending.notify_waiters();
    }

    /// Takes what is in the box.
    pub(super) fn take(&self) -> (Vec<Down>, Option<End>) {
        let mut mail = self.lock();
        (std::mem::take(&mut mail.messages), mail.end.clone())
    }

    /// Rings when something was put in since [`Link::take`].
    pub(super) async fn bell(&self) {
        self.bell.notified().await;
    }

    /// Returns when the link has to end.
    pub(super) async fn ended(&self) {
        loop {
            // Made before the look: what happens in between is not missed.
            let ending = self.ending.notified();
            if self.lock().end.is_some() {
                return;
            }
            ending.await;
        }
    }

    /// Returns when its owner let go of the session.
    pub(super) async fn gone(&self) {
        loop {
            let farewell = self.farewell.notified();
            if self.gone.load(Ordering::Acquire) {
                return;
            }
            farewell.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All links.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<HashMap<DeviceUid, Arc<Link>>>);

/// A device's place among the links; leaves when dropped.
#[derive(Debug)]
pub(super) struct Place {
    links: Arc<Links>,
    link: Arc<Link>,
}

impl std::ops::Deref for Place {
    type Target = Link;
    fn deref(&self) -> &Link {
        &self.link
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut links = self.links.lock();
        if links.get(&self.link.uid).is_some_and(|held| Arc::ptr_eq(held, &self.link)) {
            links.remove(&self.link.uid);
        }
        drop(links);
        self.link.gone.store(true, Ordering::Release);
        self.link.farewell.notify_waiters();
    }
}

impl Links {
    /// Takes the device's place. The link that had it is told to end, and returned to be waited for.
    pub(super) fn enter(self: &Arc<Self>, uid: &DeviceUid) -> (Place, Option<Arc<Link>>) {
        let link = Arc::new(Link {
            uid: uid.clone(),
            mail: Mutex::default(),
            bell: Notify::new(),
            ending: Notify::new(),
            gone: AtomicBool::new(false),
            farewell: Notify::new(),
            owed: AtomicUsize::new(0),
        });
        let before = self.lock().insert(uid.clone(), Arc::clone(&link));
        if let Some(before) = &before {
            before.end(End::TakenOver);
        }
        (Place { links: Arc::clone(self), link }, before)
    }

    pub(super) fn get(&self, uid: &DeviceUid) -> Option<Arc<Link>> {
        self.lock().get(uid).cloned()
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Tells all links to end.
    pub(super) fn end_all(&self) {
        for link in self.lock().values() {
            link.end(End::Shutdown);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceUid, Arc<Link>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_newer_link_has_the_place() {
        let links = Arc::new(Links::default());
        let uid: DeviceUid = "daaaaaaaaaaaaaaa".parse().unwrap();
        let (first, none) = links.enter(&uid);
        assert!(none.is_none());
        let (second, before) = links.enter(&uid);
        let before = before.unwrap();
        first.ended().await;
        assert_eq!(first.take().1, Some(End::TakenOver));
        drop(first);
        before.gone().await;
        assert_eq!(links.len(), 1, "the old one does not take the new one's place away");
        links.get(&uid).unwrap().end(End::Cut("no".into()));
        links.end_all();
        assert_eq!(second.take().1, Some(End::Cut("no".into())));
        drop(second);
        assert_eq!(links.len(), 0);
    }
}
