//! The fence: what a device asks for, held against its lane, before anything comes of it.
//!
//! Publish, retained publish, will, subscription, shared subscription: one rule each in `muster_proto::topic`, asked here only.
//! A refusal carries MQTT 5's reason code, and a line for the log.

use std::time::Duration;

use mqtt_protocol_core::mqtt::packet::{self, Packet, Property, Qos, v5_0};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, DisconnectReasonCode, PubackReasonCode, SubackReasonCode, UnsubackReasonCode,
};
use muster_proto::topic::{Topic, Up, may_publish, may_subscribe};

use super::super::bounds::{REFUSALS_MAX, SUBSCRIPTIONS_MAX};
use super::super::outbox::{Subscription, is_filter};
use super::{Connect, Event, Machine, Publish, Will};

impl Machine {
    pub(super) fn connect(&mut self, connect: &v5_0::Connect) {
        // What followed the CONNECT waits in `inbound` until it is answered.
        let (mut expiry_s, mut authentication) = (0, false);
        for property in connect.props() {
            match property {
                Property::SessionExpiryInterval(seconds) => expiry_s = seconds.val(),
                Property::AuthenticationMethod(_) => authentication = true,
                _ => {}
            }
        }
        self.keep_alive = Duration::from_secs(connect.keep_alive().into());
        let verdict = if authentication {
            Err((ConnectReasonCode::BadAuthenticationMethod, "the certificate is the only authentication".to_owned()))
        } else if connect.client_id() != self.uid.as_str() {
            Err((ConnectReasonCode::ClientIdentifierNotValid, format!("the client id must be the certificate's name, {}", self.uid)))
        } else {
            self.will(connect)
        };
        match verdict {
            Ok(will) => self.events.push_back(Event::Connect(Connect { clean_start: connect.clean_start(), expiry_s, will })),
            Err((code, reason)) => {
                self.refuse(code, &reason);
                let named: String = connect.client_id().chars().take(64).collect();
                let event = self.fail(format!("refused its CONNECT as {named:?}: {reason}"));
                self.events.push_back(event);
            }
        }
    }

    fn will(&self, connect: &v5_0::Connect) -> Result<Option<Will>, (ConnectReasonCode, String)> {
        let Some(topic) = connect.will_topic().filter(|_| connect.will_flag()) else { return Ok(None) };
        if connect.will_qos() == Qos::ExactlyOnce {
            return Err((ConnectReasonCode::QosNotSupported, "QoS 2 is not supported".into()));
        }
        let Some(up) = self.lane(topic) else {
            return Err((ConnectReasonCode::NotAuthorized, format!("a will on {} is not allowed", short(topic))));
        };
        let delay_s = connect.will_props().iter().find_map(|property| match property {
            Property::WillDelayInterval(seconds) => Some(seconds.val()),
            _ => None,
        });
        Ok(Some(Will { up, payload: connect.will_payload().unwrap_or_default().to_vec(), delay_s: delay_s.unwrap_or(0) }))
    }

    /// The fence for everything that is published.
    fn lane(&self, topic: &str) -> Option<Up> {
        match topic.parse() {
            Ok(Topic::Up(whose, up)) if whose == self.uid && may_publish(&self.uid, topic) => Some(up),
            _ => None,
        }
    }

    pub(super) fn publish(&mut self, publish: &v5_0::Publish) {
        if publish.qos() == Qos::ExactlyOnce {
            self.disconnect(DisconnectReasonCode::QosNotSupported, "QoS 2 is not supported");
            let event = self.fail("it published at QoS 2".into());
            self.events.push_back(event);
            return;
        }
        if let Some(up) = self.lane(publish.topic_name()) {
            self.events.push_back(Event::Publish(Publish { up, payload: publish.payload().clone(), packet_id: publish.packet_id() }));
            return;
        }
        if let Some(packet_id) = publish.packet_id() {
            self.puback(packet_id, PubackReasonCode::NotAuthorized);
        }
        self.crossed(format!("refused its PUBLISH to {}", short(publish.topic_name())));
    }

    pub(super) fn subscribe(&mut self, subscribe: &v5_0::Subscribe) {
        let identified = subscribe.props().iter().any(|property| matches!(property, Property::SubscriptionIdentifier(_)));
        let (mut codes, mut wanted, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for entry in subscribe.entries() {
            let (filter, options) = (entry.topic_filter(), entry.sub_opts());
            codes.push(if identified {
                SubackReasonCode::SubscriptionIdentifiersNotSupported
            } else if !may_subscribe(&self.uid, filter) {
                refused.push(short(filter));
                SubackReasonCode::NotAuthorized
            } else if !is_filter(filter) {
                SubackReasonCode::TopicFilterInvalid
            } else if !self.outbox.has(filter) && self.outbox.subscriptions().len() >= SUBSCRIPTIONS_MAX {
                SubackReasonCode::QuotaExceeded
            } else {
                let qos = if options.qos() == Qos::AtMostOnce { 0 } else { 1 };
                let new = self.outbox.subscribe(Subscription(filter.to_owned(), qos));
                match options.rh() {
                    packet::RetainHandling::SendRetained => wanted.push(filter.to_owned()),
                    packet::RetainHandling::SendRetainedIfNotExists if new => wanted.push(filter.to_owned()),
                    _ => {}
                }
                if qos == 0 { SubackReasonCode::GrantedQos0 } else { SubackReasonCode::GrantedQos1 }
            });
        }
        let granted = codes.iter().any(SubackReasonCode::is_success);
        let suback = v5_0::Suback::builder().packet_id(subscribe.packet_id()).reason_codes(codes).build();
        self.send(suback.map(Packet::from));
        if granted {
            self.events.push_back(Event::Subscribed(wanted));
        }
        if !refused.is_empty() {
            self.crossed(format!("refused its SUBSCRIBE to {}", refused.join(", ")));
        }
    }

    pub(super) fn unsubscribe(&mut self, unsubscribe: &v5_0::Unsubscribe) {
        let codes = unsubscribe.entries().iter().map(|filter| match self.outbox.unsubscribe(filter.as_str()) {
            true => UnsubackReasonCode::Success,
            false => UnsubackReasonCode::NoSubscriptionExisted,
        });
        let unsuback = v5_0::Unsuback::builder().packet_id(unsubscribe.packet_id()).reason_codes(codes.collect::<Vec<_>>()).build();
        self.send(unsuback.map(Packet::from));
        self.events.push_back(Event::Unsubscribed);
    }

    /// Notes an attempt to leave the lane; too many end the connection, so that they cannot fill the log.
    fn crossed(&mut self, what: String) {
        self.refusals += 1;
        self.events.push_back(Event::Crossed(what));
        if self.refusals >= REFUSALS_MAX {
            self.disconnect(DisconnectReasonCode::NotAuthorized, "too many refused requests");
            let event = self.fail("too many refused requests".into());
            self.events.push_back(event);
        }
    }
}

/// A topic for the log: cut, and without control characters.
fn short(topic: &str) -> String {
    format!("{:?}", topic.chars().take(120).collect::<String>())
}
