//! How the hub speaks to a device: messages that wait for it, wishes that stay, and the end of its link.
//!
//! The same for the embedded endpoint and for an external broker; callers do not know which it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use muster_proto::Millis;
use muster_proto::id::DeviceUid;
use muster_proto::mqtt::{AdmissionNotice, encode};
use muster_proto::topic::{Down as Lane, Topic};
use rusqlite::Connection;

use super::bounds::{DOWN_MAX, QUEUE_MAX};
use super::links::{End, Links};
use super::outbox::Down;
use crate::broker::Broker;
use crate::clock;
use crate::ingest::Ingest;
use crate::store::{self, Store, mqtt};

/// How long a broker keeps the word that a device was revoked: for one that is there. Whoever comes later is told at the door.
const NOTICE_EXPIRY: Duration = Duration::from_secs(10);

/// What a device is told before it is cut off: topic and payload.
pub(super) fn revoked(uid: &DeviceUid, reason: &str) -> (String, Vec<u8>) {
    let notice = AdmissionNotice::Revoked { reason: reason.to_owned() };
    (Topic::Down(uid.clone(), Lane::Admission).to_string(), encode(&notice))
}

/// How a message is to be kept.
#[derive(Debug, Clone, Copy)]
pub struct SendOptions {
    /// It is a wish: the device gets it whenever it subscribes, until another takes its place.
    pub retain: bool,
    /// How long it waits for the device.
    pub expiry: Duration,
}

/// Why a message could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Too many wait already.
    #[error("{QUEUE_MAX} messages wait for the device already; it has to come back first")]
    Full,
    /// Too large.
    #[error("the message has {0} bytes; at most {DOWN_MAX} are allowed")]
    TooLarge(usize),
    /// The device was deleted meanwhile.
    #[error("the device was deleted meanwhile")]
    Gone,
    /// It could not be stored.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The external broker did not take it.
    #[error("the MQTT broker did not take the message: {0}")]
    Broker(String),
}

/// The hub's end of all devices' lanes. Clones share it.
#[derive(Debug, Clone)]
pub struct Lanes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    ingest: Ingest,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Embedded { links: Arc<Links>, last_id: AtomicI64 },
    External(Broker),
}

/// Messages belong to a device: without it the store does not take them.
fn refers_to_nothing(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY)
}

/// What became of keeping a message.
fn sent(kept: store::Result<bool>) -> Result<(), SendError> {
    match kept {
        Ok(true) => Ok(()),
        Ok(false) => Err(SendError::Full),
        Err(store::Error::Sql(error)) if refers_to_nothing(&error) => Err(SendError::Gone),
        Err(error) => Err(error.into()),
    }
}

/// A message on its way.
enum Addressed<'a> {
    Here(Arc<Links>, Down),
    At(&'a Broker, String, Vec<u8>),
}

impl Lanes {
    pub(super) fn embedded(store: Store, ingest: Ingest, links: Arc<Links>, last_id: i64) -> Self {
        // Numbers go on from the clock, so that a number is not used twice even where the highest was done with before a restart.
        let last_id = AtomicI64::new(last_id.max(clock::now()));
        Self(Arc::new(Inner { store, ingest, way: Way::Embedded { links, last_id } }))
    }

    /// Lanes through an external broker.
    pub fn external(store: Store, ingest: Ingest, broker: Broker) -> Self {
        Self(Arc::new(Inner { store, ingest, way: Way::External(broker) }))
    }

    /// Sends a message to a device; it waits for an absent one until it expires. Returns once it is safely kept.
    ///
    /// # Errors
    /// When it is too large, too many wait, or it could not be kept.
    pub async fn send(&self, uid: &DeviceUid, down: Lane, payload: Vec<u8>, options: SendOptions) -> Result<(), SendError> {
        if payload.len() > DOWN_MAX {
            return Err(SendError::TooLarge(payload.len()));
        }
        let (links, message) = match self.message(uid, down, payload, options) {
            Addressed::Here(links, message) => (links, message),
            Addressed::At(broker, topic, payload) => return broker.publish(topic, payload, options).await,
        };
        // At once to a device that is there: a person waits for a shell. The store has it for every other case.
        let early = links.get(uid).filter(|link| link.has_room());
        if let Some(link) = &early {
            link.deliver(message.clone());
        }
        let owner = uid.clone();
        let kept = self.0.store.write(move |tx| {
            if !mqtt::enqueue(tx, &owner, &message, options.retain, QUEUE_MAX, clock::now())? {
                return Ok(false);
            }
            // A link that came meanwhile has read the store before this write or after it: in the first case it must be told.
            if let Some(link) = links.get(&owner).filter(|link| !early.as_ref().is_some_and(|early| Arc::ptr_eq(early, link))) {
                link.deliver(message);
            }
            Ok(true)
        });
        sent(kept.await)
    }

    /// [`Lanes::send`], but only if it is still wanted, which is asked in the transaction that keeps it: whoever takes the wish back
    /// in a transaction of his own comes before it, and nothing is sent, or after it. Whether it was sent.
    ///
    /// An external broker takes part in no transaction: there it is asked right before.
    ///
    /// # Errors
    /// As [`Lanes::send`], and when it cannot be asked.
    pub async fn send_if_wanted(
        &self,
        uid: &DeviceUid,
        down: Lane,
        payload: Vec<u8>,
        options: SendOptions,
        wanted: impl FnOnce(&Connection) -> store::Result<bool> + Send + 'static,
    ) -> Result<bool, SendError> {
        if payload.len() > DOWN_MAX {
            return Err(SendError::TooLarge(payload.len()));
        }
        let (links, message) = match self.message(uid, down, payload, options) {
            Addressed::Here(links, message) => (links, message),
            Addressed::At(broker, topic, payload) => {
                if !self.0.store.read(wanted).await? {
                    return Ok(false);
                }
                broker.publish(topic, payload, options).await?;
                return Ok(true);
            }
        };
        let owner = uid.clone();
        let kept = self.0.store.write(move |tx| {
            if !wanted(tx)? {
                return Ok(None);
            }
            if !mqtt::enqueue(tx, &owner, &message, options.retain, QUEUE_MAX, clock::now())? {
                return Ok(Some(false));
            }
            if let Some(link) = links.get(&owner) {
                link.deliver(message);
            }
            Ok(Some(true))
        });
        match kept.await {
            Ok(None) => Ok(false),
            Ok(Some(kept)) => sent(Ok(kept)).map(|()| true),
            Err(error) => sent(Err(error)).map(|()| true),
        }
    }

    fn message(&self, uid: &DeviceUid, down: Lane, payload: Vec<u8>, options: SendOptions) -> Addressed<'_> {
        let topic = Topic::Down(uid.clone(), down).to_string();
        match &self.0.way {
            Way::External(broker) => Addressed::At(broker, topic, payload),
            Way::Embedded { links, last_id } => {
                let expires_at = clock::now().saturating_add(Millis::try_from(options.expiry.as_millis()).unwrap_or(Millis::MAX));
                let id = last_id.fetch_add(1, Ordering::Relaxed) + 1;
                let message = Down { id, topic, payload, expires_at: Some(expires_at), retain: false, sent: false };
                Addressed::Here(Arc::clone(links), message)
            }
        }
    }

    /// Lets a device in that was admitted. Only an external broker has to be told.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn admit(&self, uid: &DeviceUid) -> Result<(), SendError> {
        match &self.0.way {
            Way::Embedded { .. } => Ok(()),
            Way::External(broker) => broker.admit(uid).await,
        }
    }

    /// Tells a device that it no longer belongs, as far as it can be told, and ends its link now.
    ///
    /// # Errors
    /// As [`Lanes::cut`].
    pub async fn dismiss(&self, uid: &DeviceUid, reason: &str) -> Result<(), SendError> {
        // The embedded endpoint's links say it themselves.
        if let Way::External(broker) = &self.0.way {
            let (topic, payload) = revoked(uid, reason);
            if let Err(error) = broker.publish(topic, payload, SendOptions { retain: false, expiry: NOTICE_EXPIRY }).await {
                tracing::debug!(%uid, %error, "the device is not told why it is cut off");
            }
        }
        self.cut(uid, reason).await
    }

    /// Ends a device's link now, forgets its MQTT session, and notes that it is offline.
    ///
    /// # Errors
    /// When the store fails or the broker does not answer. The link has been told all the same.
    pub async fn cut(&self, uid: &DeviceUid, reason: &str) -> Result<(), SendError> {
        let told = match &self.0.way {
            Way::Embedded { links, .. } => {
                if let Some(link) = links.get(uid) {
                    link.end(End::Cut(reason.to_owned()));
                }
                Ok(())
            }
            Way::External(broker) => broker.cut(uid).await,
        };
        let owner = uid.clone();
        self.0.store.write(move |tx| mqtt::forget(tx, &owner)).await?;
        self.0.ingest.revoked(uid).await?;
        told
    }

    /// Whether devices can be spoken to at all: the line to an external broker is up.
    pub fn are_up(&self) -> bool {
        match &self.0.way {
            Way::Embedded { .. } => true,
            Way::External(broker) => broker.is_up(),
        }
    }

    /// Whether the device's MQTT link is up, as far as the hub can know.
    pub fn is_linked(&self, uid: &DeviceUid) -> bool {
        match &self.0.way {
            Way::Embedded { links, .. } => links.get(uid).is_some(),
            Way::External(_) => self.0.ingest.live().is_online(uid),
        }
    }
}
