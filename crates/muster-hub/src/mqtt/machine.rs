//! One MQTT 5 connection as a state machine: bytes and decisions in, events and bytes out.
//!
//! `mqtt-protocol-core` parses and keeps the protocol's state; here is what makes it Muster's: the fence around a device's
//! lane, the bounds, what is announced, and the order of deliveries. No I/O, no clock, no store: whoever holds the socket
//! feeds bytes, handles events, and writes what [`Machine::take_output`] gives.
//! The fence is in `fence`: nothing that crosses it leaves as anything but [`Event::Crossed`].

mod fence;

use std::time::Duration;

use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, GenericEvent};
use mqtt_protocol_core::mqtt::packet::{self, GenericPacketTrait as _, Packet, Property, Qos, v5_0};
use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, DisconnectReasonCode, MqttError, PubackReasonCode};
use mqtt_protocol_core::mqtt::{ArcPayload, Connection, Version, role};
use muster_proto::Millis;
use muster_proto::id::DeviceUid;
use muster_proto::topic::Up;

use super::bounds::{CONNECT_WAIT, INFLIGHT_UP_MAX, KEEP_ALIVE_MAX, PACKET_MAX, RETRY_IN_S};
use super::opening::{self, Verdict};
use super::outbox::{Down, Outbox, Subscription};

/// What the device wants or did. The holder of the socket acts on it.
#[derive(Debug)]
pub(super) enum Event {
    /// It asks in. Answer with [`Machine::accept`] or [`Machine::refuse`]; nothing else happens before.
    Connect(Connect),
    /// A message inside its own lane. Answer one with a packet id with [`Machine::acknowledge`].
    Publish(Publish),
    /// It acknowledged the message with this id.
    Delivered(i64),
    /// It subscribed, within its lane: these filters now want the retained wishes.
    Subscribed(Vec<String>),
    /// It unsubscribed.
    Unsubscribed,
    /// It tried to leave its lane, or broke a rule that does not end the connection. For the log.
    Crossed(String),
    /// It says good-bye.
    Goodbye {
        /// Whether its will is wanted all the same (reason code 4).
        with_will: bool,
        /// A new session expiry, in seconds.
        expiry_s: Option<u32>,
    },
    /// The connection is over: flush the output and close.
    Failed(String),
}

/// What a CONNECT asks for.
#[derive(Debug)]
pub(super) struct Connect {
    /// Discard what was.
    pub(super) clean_start: bool,
    /// Seconds that the session outlives the connection.
    pub(super) expiry_s: u32,
    /// The last will, inside the device's lane.
    pub(super) will: Option<Will>,
}

/// What is published when the connection ends without a good-bye.
#[derive(Debug)]
pub(super) struct Will {
    /// Where.
    pub(super) up: Up,
    /// What.
    pub(super) payload: Vec<u8>,
    /// After how many seconds without the device.
    pub(super) delay_s: u32,
}

/// A message from the device.
#[derive(Debug)]
pub(super) struct Publish {
    /// Which of its topics.
    pub(super) up: Up,
    /// What.
    pub(super) payload: ArcPayload,
    /// To be acknowledged.
    pub(super) packet_id: Option<u16>,
}

/// How a QoS 1 message is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is stored.
    Stored,
    /// It is not what its topic carries; sending it again is no use.
    Invalid,
    /// There is no room for it now.
    Full,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// Collecting the CONNECT.
    Opening,
    /// The CONNECT waits for its answer.
    Asked,
    Linked,
    Closed,
}

/// See the module.
pub(super) struct Machine {
    uid: DeviceUid,
    core: Connection<role::Server>,
    stage: Stage,
    inbound: Vec<u8>,
    read: usize,
    out: Vec<u8>,
    /// At most one packet's worth.
    events: std::collections::VecDeque<Event>,
    outbox: Outbox,
    keep_alive: Duration,
    heard: Duration,
    refusals: u32,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("uid", &self.uid).field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl Machine {
    /// A connection whose certificate named this device. `now` counts from any fixed origin.
    pub(super) fn new(uid: DeviceUid, now: Duration) -> Self {
        let options = ConnectionOptions::new().maximum_packet_size_recv(PACKET_MAX).receive_maximum(INFLIGHT_UP_MAX);
        let mut core = Connection::with_options(Version::V5_0, options);
        core.set_auto_ping_response(true);
        Self {
            uid,
            core,
            stage: Stage::Opening,
            inbound: Vec::new(),
            read: 0,
            out: Vec::new(),
            events: std::collections::VecDeque::new(),
            outbox: Outbox::default(),
            keep_alive: CONNECT_WAIT,
            heard: now,
            refusals: 0,
        }
    }

    /// Takes bytes from the socket; [`Machine::poll`] works on them.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        if self.stage != Stage::Closed {
            self.inbound.extend_from_slice(bytes);
        }
    }

    /// The next event, or nothing until more bytes or an answer come.
    pub(super) fn poll(&mut self, now: Duration) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            match self.stage {
                Stage::Opening => match opening::look(&self.inbound) {
                    Verdict::Incomplete => return None,
                    Verdict::Complete(size) => {
                        opening::mend(&mut self.inbound[..size]);
                        // Also where the CONNECT is refused below: the answer needs somebody to give it.
                        self.stage = Stage::Asked;
                        self.heard = now;
                        self.step(size);
                    }
                    Verdict::Old => {
                        self.out.extend_from_slice(&opening::REFUSE_V3);
                        return Some(self.fail("it speaks MQTT 3; only MQTT 5 is served".into()));
                    }
                    Verdict::Refused(why) => return Some(self.fail(why.into())),
                },
                Stage::Linked if self.read < self.inbound.len() => {
                    if self.step(self.inbound.len()) {
                        self.heard = now;
                    }
                    if self.read == self.inbound.len() {
                        // An idle connection owns no buffer.
                        self.inbound = Vec::new();
                        self.read = 0;
                        self.events.shrink_to(self.events.len());
                    }
                }
                Stage::Asked | Stage::Linked | Stage::Closed => return None,
            }
        }
    }

    /// Lets the device in.
    pub(super) fn accept(&mut self, session_present: bool, subscriptions: Vec<Subscription>, waiting: Vec<Down>) {
        if self.stage != Stage::Asked {
            return;
        }
        let keep_alive = (self.keep_alive > KEEP_ALIVE_MAX || self.keep_alive.is_zero()).then_some(KEEP_ALIVE_MAX);
        if let Some(keep_alive) = keep_alive {
            self.keep_alive = keep_alive;
        }
        let mut properties = vec![
            packet::MaximumQos::new(1).map(Property::MaximumQos),
            packet::SharedSubscriptionAvailable::new(0).map(Property::SharedSubscriptionAvailable),
            packet::SubscriptionIdentifierAvailable::new(0).map(Property::SubscriptionIdentifierAvailable),
        ];
        if let Some(keep_alive) = keep_alive {
            let seconds = u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX);
            properties.push(packet::ServerKeepAlive::new(seconds).map(Property::ServerKeepAlive));
        }
        let connack = v5_0::Connack::builder()
            .session_present(session_present)
            .reason_code(ConnectReasonCode::Success)
            .props(properties.into_iter().filter_map(Result::ok).collect::<Vec<_>>())
            .build();
        self.stage = Stage::Linked;
        self.send(connack.map(Packet::from));
        self.outbox.resume(subscriptions, waiting);
    }

    /// Refuses the CONNECT, and the connection with it.
    pub(super) fn refuse(&mut self, code: ConnectReasonCode, reason: &str) {
        if self.stage != Stage::Asked {
            return;
        }
        let later = matches!(code, ConnectReasonCode::ServerBusy | ConnectReasonCode::ServerUnavailable);
        let connack = v5_0::Connack::builder().session_present(false).reason_code(code).props(words(reason, later)).build();
        self.send(connack.map(Packet::from));
        self.stage = Stage::Closed;
    }

    /// Answers a message that came with a packet id.
    pub(super) fn acknowledge(&mut self, packet_id: u16, answer: Answer) {
        let code = match answer {
            Answer::Stored => PubackReasonCode::Success,
            Answer::Invalid => PubackReasonCode::PayloadFormatInvalid,
            Answer::Full => PubackReasonCode::QuotaExceeded,
        };
        self.puback(packet_id, code);
    }

    /// Ends the connection with a reason. Does nothing before the CONNECT was accepted, where only closing is allowed.
    pub(super) fn disconnect(&mut self, code: DisconnectReasonCode, reason: &str) {
        if self.stage == Stage::Linked {
            let later = code == DisconnectReasonCode::ServerBusy;
            let packet = v5_0::Disconnect::builder().reason_code(code).props(words(reason, later)).build();
            self.send(packet.map(Packet::from));
        }
        self.stage = Stage::Closed;
    }

    /// Adds a message for the device. It goes out with the next [`Machine::pump`].
    pub(super) fn queue(&mut self, message: Down) {
        self.outbox.push(message);
    }

    /// Sends what may be sent now. Returns the ids of messages that are done without an acknowledgement:
    /// expired, or wanted at QoS 0 only.
    pub(super) fn pump(&mut self, wall: Millis) -> Vec<i64> {
        let mut done = Vec::new();
        if self.stage != Stage::Linked {
            return done;
        }
        let vacancy = usize::from(self.core.get_receive_maximum_vacancy_for_send().unwrap_or(u16::MAX));
        for next in self.outbox.next(wall, vacancy, &mut done) {
            let (message, qos) = (next.message, next.qos);
            let mut builder = v5_0::Publish::builder().qos(qos).retain(message.retain).payload(message.payload.to_vec());
            if qos == Qos::AtLeastOnce {
                let Some(packet_id) = self.packet_id(message.id) else { continue };
                builder = builder.packet_id(packet_id).dup(message.sent);
                self.outbox.sent(packet_id, message.id);
            } else {
                done.push(message.id);
            }
            if let Some(left) = message.seconds_left(wall).and_then(|left| packet::MessageExpiryInterval::new(left).ok()) {
                builder = builder.props(vec![Property::MessageExpiryInterval(left)]);
            }
            let packet = builder.topic_name(message.topic.as_str()).and_then(|builder| builder.build());
            self.send(packet.map(Packet::from));
        }
        done
    }

    /// Bytes for the socket.
    pub(super) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Whether nothing more will come of this connection.
    #[cfg(test)]
    pub(super) fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// When the device counts as gone if it stays silent: one and a half times its keep alive (MQTT 5, 3.1.2.10).
    pub(super) fn deadline(&self) -> Duration {
        self.heard + if self.stage == Stage::Linked { self.keep_alive * 3 / 2 } else { CONNECT_WAIT }
    }

    /// The ids of messages that were sent and not acknowledged.
    pub(super) fn unacknowledged(&self) -> Vec<i64> {
        self.outbox.unacknowledged()
    }

    /// How many messages the device has yet to acknowledge.
    pub(super) fn owed(&self) -> usize {
        self.outbox.owed()
    }

    /// What the device is subscribed to.
    pub(super) fn subscriptions(&self) -> &[Subscription] {
        self.outbox.subscriptions()
    }

    /// Feeds the core up to `end`, one packet at most. Whether a packet was completed.
    fn step(&mut self, end: usize) -> bool {
        let events = {
            let mut cursor = Cursor::new(&self.inbound[self.read..end]);
            let events = self.core.recv(&mut cursor);
            self.read += usize::try_from(cursor.position()).unwrap_or(usize::MAX).min(end - self.read);
            events
        };
        let complete = !events.is_empty();
        self.handle(events);
        complete
    }

    fn handle(&mut self, events: Vec<GenericEvent<u16>>) {
        let mut error = None;
        for event in events {
            match event {
                GenericEvent::RequestSendPacket { packet, .. } => self.out.extend(packet.to_continuous_buffer()),
                GenericEvent::NotifyPacketReceived(packet) => self.received(packet),
                GenericEvent::NotifyError(what) => error = Some(what),
                GenericEvent::RequestClose => error = error.or(Some(MqttError::ProtocolError)),
                // Timers are ours, see `deadline`; packet ids come and go with the outbox.
                GenericEvent::RequestTimerReset { .. } | GenericEvent::RequestTimerCancel(_) | GenericEvent::NotifyPacketIdReleased(_) => {}
            }
        }
        if let Some(error) = error
            && self.stage != Stage::Closed
        {
            if self.stage == Stage::Asked && self.out.is_empty() {
                self.refuse(ConnectReasonCode::MalformedPacket, "the CONNECT is malformed");
            } else if self.stage == Stage::Linked {
                // Where the core has said it already, this adds nothing.
                self.disconnect(DisconnectReasonCode::ProtocolError, "the packet is not allowed here");
            }
            let event = self.fail(format!("protocol error: {error}"));
            self.events.push_back(event);
        }
    }

    fn fail(&mut self, why: String) -> Event {
        self.stage = Stage::Closed;
        self.inbound = Vec::new();
        self.read = 0;
        Event::Failed(why)
    }

    fn received(&mut self, packet: Packet) {
        match packet {
            Packet::V5_0Connect(connect) => self.connect(&connect),
            _ if self.stage != Stage::Linked => {}
            Packet::V5_0Publish(publish) => self.publish(&publish),
            Packet::V5_0Puback(puback) => {
                if let Some(id) = self.outbox.acknowledged(puback.packet_id()) {
                    self.events.push_back(Event::Delivered(id));
                }
            }
            Packet::V5_0Subscribe(subscribe) => self.subscribe(&subscribe),
            Packet::V5_0Unsubscribe(unsubscribe) => self.unsubscribe(&unsubscribe),
            Packet::V5_0Pingreq(_) => {}
            Packet::V5_0Disconnect(disconnect) => {
                let expiry_s = disconnect.props().iter().flatten().find_map(|property| match property {
                    Property::SessionExpiryInterval(seconds) => Some(seconds.val()),
                    _ => None,
                });
                let with_will = disconnect.reason_code() == Some(DisconnectReasonCode::DisconnectWithWillMessage);
                self.stage = Stage::Closed;
                self.events.push_back(Event::Goodbye { with_will, expiry_s });
            }
            _ => {
                self.disconnect(DisconnectReasonCode::ProtocolError, "the hub does not take this packet");
                let event = self.fail("a packet that the hub does not take".into());
                self.events.push_back(event);
            }
        }
    }

    fn puback(&mut self, packet_id: u16, code: PubackReasonCode) {
        if self.stage == Stage::Linked {
            let mut builder = v5_0::Puback::builder().packet_id(packet_id);
            if code != PubackReasonCode::Success {
                builder = builder.reason_code(code);
            }
            self.send(builder.build().map(Packet::from));
        }
    }

    /// The packet id of a message: made of its own, so that it is the same when the message is sent again (MQTT 5, 4.4).
    fn packet_id(&mut self, id: i64) -> Option<u16> {
        if id > 0 {
            let own = u16::try_from(id % 65_535 + 1).unwrap_or(1);
            if self.core.register_packet_id(own).is_ok() {
                return Some(own);
            }
        }
        self.core.acquire_packet_id().ok()
    }

    fn send(&mut self, packet: Result<Packet, MqttError>) {
        match packet {
            Ok(packet) => {
                for event in self.core.send(packet) {
                    match event {
                        GenericEvent::RequestSendPacket { packet, .. } => self.out.extend(packet.to_continuous_buffer()),
                        GenericEvent::NotifyError(error) => tracing::debug!(uid = %self.uid, %error, "a packet was not sent"),
                        _ => {}
                    }
                }
            }
            Err(error) => tracing::debug!(uid = %self.uid, %error, "a packet could not be made"),
        }
    }
}

/// The reason in words, and when to come back where it passes by itself (`retry_in`, seconds, in a user property).
fn words(reason: &str, later: bool) -> Vec<Property> {
    let reason = packet::ReasonString::new(reason).map(Property::ReasonString);
    let retry_in = later.then(|| packet::UserProperty::new("retry_in", RETRY_IN_S.to_string().as_str()).map(Property::UserProperty));
    std::iter::once(reason).chain(retry_in).filter_map(Result::ok).collect()
}
