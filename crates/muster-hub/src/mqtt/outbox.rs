//! What a linked device is to get: its subscriptions, the messages that wait, and those sent but not acknowledged.
//!
//! Pure. The store holds the same messages until they are acknowledged; this is only the part that a live link works on.

use std::collections::{BTreeMap, VecDeque};

use mqtt_protocol_core::mqtt::packet::Qos;
use muster_proto::Millis;
use serde::{Deserialize, Serialize};

use super::bounds::INFLIGHT_DOWN_MAX;

/// A message for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Down {
    /// Its number in the store; 0 for a wish that is only repeated on subscription.
    pub id: i64,
    /// The whole topic.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
    /// When it is void.
    pub expires_at: Option<Millis>,
    /// Sent because of a new subscription (MQTT 5, 3.3.1.3).
    pub retain: bool,
    /// May have been sent before.
    pub sent: bool,
}

impl Down {
    /// Whole seconds until it is void, for the message expiry interval.
    pub(super) fn seconds_left(&self, now: Millis) -> Option<u32> {
        self.expires_at.map(|end| u32::try_from((end - now).max(0).saturating_add(999) / 1000).unwrap_or(u32::MAX))
    }
}

/// A filter and the QoS granted for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription(pub String, pub u8);

/// A message whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) message: Down,
    pub(super) qos: Qos,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    subscriptions: Vec<Subscription>,
    waiting: VecDeque<Down>,
    /// Packet id to message id.
    inflight: BTreeMap<u16, i64>,
}

impl Outbox {
    pub(super) fn resume(&mut self, subscriptions: Vec<Subscription>, waiting: Vec<Down>) {
        self.subscriptions = subscriptions;
        // What was queued between the store's answer and now stands behind it.
        let late = std::mem::take(&mut self.waiting);
        self.waiting = waiting.into();
        for message in late {
            self.push(message);
        }
    }

    pub(super) fn push(&mut self, message: Down) {
        // The store may have told of it already.
        let known = message.id != 0
            && (self.waiting.iter().any(|other| other.id == message.id) || self.inflight.values().any(|id| *id == message.id));
        if !known {
            self.waiting.push_back(message);
        }
    }

    /// Takes the messages that may go now, in order; expired ones land in `done`.
    pub(super) fn next(&mut self, now: Millis, vacancy: usize, done: &mut Vec<i64>) -> Vec<Next> {
        let mut room = vacancy.min(INFLIGHT_DOWN_MAX.saturating_sub(self.inflight.len()));
        let (mut next, mut kept) = (Vec::new(), VecDeque::new());
        for message in std::mem::take(&mut self.waiting) {
            if message.expires_at.is_some_and(|end| end <= now) {
                done.push(message.id);
                continue;
            }
            match self.granted(&message.topic) {
                Some(0) => next.push(Next { message, qos: Qos::AtMostOnce }),
                Some(_) if room > 0 => {
                    room -= 1;
                    next.push(Next { message, qos: Qos::AtLeastOnce });
                }
                // No room, or not subscribed yet: it waits, and expires if that never comes.
                _ => kept.push_back(message),
            }
        }
        kept.shrink_to_fit();
        self.waiting = kept;
        next
    }

    pub(super) fn sent(&mut self, packet_id: u16, id: i64) {
        self.inflight.insert(packet_id, id);
    }

    pub(super) fn acknowledged(&mut self, packet_id: u16) -> Option<i64> {
        self.inflight.remove(&packet_id)
    }

    pub(super) fn unacknowledged(&self) -> Vec<i64> {
        self.inflight.values().copied().filter(|id| *id != 0).collect()
    }

    /// How many messages of the store wait or are under way.
    pub(super) fn owed(&self) -> usize {
        self.waiting.len() + self.inflight.len()
    }

    pub(super) fn subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }

    pub(super) fn has(&self, filter: &str) -> bool {
        self.subscriptions.iter().any(|other| other.0 == filter)
    }

    /// Whether the filter is new.
    pub(super) fn subscribe(&mut self, subscription: Subscription) -> bool {
        match self.subscriptions.iter_mut().find(|other| other.0 == subscription.0) {
            Some(other) => {
                other.1 = subscription.1;
                false
            }
            None => {
                self.subscriptions.push(subscription);
                true
            }
        }
    }

    /// Whether it was there.
    pub(super) fn unsubscribe(&mut self, filter: &str) -> bool {
        let before = self.subscriptions.len();
        self.subscriptions.retain(|other| other.0 != filter);
        self.subscriptions.len() < before
    }

    fn granted(&self, topic: &str) -> Option<u8> {
        self.subscriptions.iter().filter(|subscription| matches(&subscription.0, topic)).map(|subscription| subscription.1).max()
    }
}

/// Whether a text is a well-formed topic filter (MQTT 5, 4.7.1).
pub(super) fn is_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let wild = level.contains(['+', '#']);
        if (wild && level.len() > 1) || (level == "#" && levels.peek().is_some()) {
            return false;
        }
    }
    !filter.is_empty() && !filter.contains('\0')
}

/// Whether a filter matches a topic (MQTT 5, 4.7).
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(filter), Some(topic)) if filter == topic => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(id: i64, topic: &str, expires_at: Millis) -> Down {
        Down { id, topic: topic.into(), payload: vec![1], expires_at: Some(expires_at), retain: false, sent: false }
    }

    #[test]
    fn filters() {
        for (filter, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/+", "a/b", true),
            ("a/#", "a/b/c", true),
            ("a/#", "a", true),
            ("a/+", "a/b/c", false),
            ("a/+/c", "a/b/c", true),
            ("a", "a/b", false),
            ("a/b", "a", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
        for bad in ["", "a/b+", "a/#/b", "a#", "++", "a\0"] {
            assert!(!is_filter(bad), "{bad:?}");
        }
        for good in ["a/+/#", "#", "a//b", "+"] {
            assert!(is_filter(good), "{good:?}");
        }
    }

    #[test]
    fn waits_for_a_subscription_keeps_order_and_expires() {
        let mut outbox = Outbox::default();
        outbox.push(down(1, "d/a", 100));
        outbox.push(down(2, "d/a", 10));
        outbox.push(down(3, "d/b", 100));
        let mut done = Vec::new();
        assert!(outbox.next(10, 9, &mut done).is_empty());
        assert_eq!(done, [2]);
        assert!(outbox.subscribe(Subscription("d/#".into(), 1)));
        assert!(!outbox.subscribe(Subscription("d/#".into(), 1)));
        let ids: Vec<_> = outbox.next(20, 9, &mut done).iter().map(|next| next.message.id).collect();
        assert_eq!(ids, [1, 3]);
        assert_eq!(done, [2]);
    }

    #[test]
    fn no_more_in_flight_than_the_bound_or_the_device_allows() {
        let mut outbox = Outbox::default();
        outbox.subscribe(Subscription("#".into(), 1));
        for id in 1..=40 {
            outbox.push(down(id, "x", 100));
        }
        let mut done = Vec::new();
        for (packet_id, next) in (1..).zip(outbox.next(0, 3, &mut done)) {
            outbox.sent(packet_id, next.message.id);
        }
        assert_eq!(outbox.unacknowledged(), [1, 2, 3]);
        for (packet_id, next) in (4..).zip(outbox.next(0, 1000, &mut done)) {
            outbox.sent(packet_id, next.message.id);
        }
        assert_eq!(outbox.unacknowledged().len(), INFLIGHT_DOWN_MAX);
        assert_eq!(outbox.acknowledged(2), Some(2));
        assert_eq!(outbox.acknowledged(2), None);
        assert_eq!(outbox.next(0, 1000, &mut done).len(), 1);
    }

    #[test]
    fn what_the_store_told_of_is_not_queued_twice() {
        let mut outbox = Outbox::default();
        outbox.push(down(7, "x", 100));
        outbox.resume(vec![Subscription("x".into(), 1)], vec![down(6, "x", 100), down(7, "x", 100)]);
        let mut done = Vec::new();
        let ids: Vec<_> = outbox.next(0, 9, &mut done).iter().map(|next| next.message.id).collect();
        assert_eq!(ids, [6, 7]);
    }
}
