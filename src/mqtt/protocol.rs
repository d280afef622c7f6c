//! One MQTT 5 connection as the device's side of a state machine: bytes in, meaning out. No I/O, no clock.
//!
//! `mqtt-protocol-core` parses and keeps the protocol's state; here is only what a device needs of it: one CONNECT with a last will,
//! one subscription, publishing at QoS 0 and 1 with topic aliases, PINGREQ, DISCONNECT. Timers belong to the caller.

use std::time::Duration;

use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, GenericEvent};
use mqtt_protocol_core::mqtt::packet::{self, GenericPacketTrait as _, Packet, Property, Qos, SubEntry, SubOpts, v5_0};
use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, MqttError, PubackReasonCode};
use mqtt_protocol_core::mqtt::{Connection, Version, role};
use muster_proto::limits::{MQTT_SESSION_EXPIRY, PAYLOAD_MAX};

use super::orders::Kept;

/// Largest packet that we accept: the largest payload with its topic and properties.
const PACKET_MAX: u32 = PAYLOAD_MAX as u32 + 4096;
/// Messages that the hub may send before we have acknowledged one: orders are few.
const RECEIVE_MAX: u16 = 32;

/// What the broker said.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// It let us in.
    Connected {
        /// Its keep alive, where it insists on one.
        keep_alive: Option<Duration>,
    },
    /// It did not let us in.
    Refused(Refusal),
    /// It took the subscription, or not.
    Subscribed {
        /// Whether it did.
        granted: bool,
    },
    /// It has the message with this id.
    Acknowledged {
        /// The id.
        packet_id: u16,
        /// Whether it also took it.
        taken: Taken,
    },
    /// A message for us.
    Message {
        /// Its topic.
        topic: String,
        /// Its payload.
        payload: Vec<u8>,
        /// How it was kept until now (MQTT 5, 3.3.1.3 and 3.3.2.3.3).
        kept: Kept,
    },
    /// It is alive.
    Pong,
    /// It ends the connection.
    Goodbye(Refusal),
}

/// Why the broker does not want us, or not now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// In words.
    pub reason: String,
    /// What the hub asks us to wait.
    pub retry_in: Option<Duration>,
    /// Somebody decided against this device, and only a person changes that (CONNACK 0x8a).
    pub banned: bool,
}

/// What became of a message that the broker acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It is stored.
    Yes,
    /// It will never be, however often it is sent.
    Never,
    /// The broker kept it if it is retained, and otherwise threw it away: nobody listens, as after a broker's restart until the hub is back.
    Unheard,
    /// The organization's storage is full: not now, and nothing is wrong with the link.
    Full,
    /// Not now.
    NotNow,
}

/// Why the connection cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("the hub's MQTT breaks the protocol ({0:?})")]
pub(super) struct ProtocolError(MqttError);

/// A last will, as the broker keeps it.
#[derive(Debug)]
pub(super) struct Will<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
}

/// The connection.
pub(super) struct Protocol {
    core: Connection<role::Client>,
    out: Vec<u8>,
}

impl Protocol {
    pub(super) fn new() -> Self {
        let options = ConnectionOptions::new().maximum_packet_size_recv(PACKET_MAX).receive_maximum(RECEIVE_MAX);
        let mut core = Connection::<role::Client>::with_options(Version::V5_0, options);
        core.set_auto_pub_response(true);
        core.set_auto_map_topic_alias_send(true);
        Self { core, out: Vec::new() }
    }

    /// Bytes for the wire.
    pub(super) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    pub(super) fn connect(&mut self, client_id: &str, keep_alive: Duration, will: &Will<'_>) -> Result<(), ProtocolError> {
        let expiry = u32::try_from(MQTT_SESSION_EXPIRY.as_secs()).unwrap_or(u32::MAX);
        let properties = [
            packet::SessionExpiryInterval::new(expiry).map(Property::SessionExpiryInterval),
            packet::ReceiveMaximum::new(RECEIVE_MAX).map(Property::ReceiveMaximum),
            packet::MaximumPacketSize::new(PACKET_MAX).map(Property::MaximumPacketSize),
        ];
        let properties: Vec<Property> = properties.into_iter().collect::<Result<_, _>>().map_err(ProtocolError)?;
        let packet = v5_0::Connect::builder()
            .client_id(client_id)
            .and_then(|builder| builder.will_message(will.topic, will.payload.to_vec(), Qos::AtLeastOnce, true))
            .and_then(|builder| {
                let seconds = u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX);
                builder.clean_start(false).keep_alive(seconds).props(properties).build()
            });
        self.send(packet.map_err(ProtocolError)?.into())
    }

    pub(super) fn subscribe(&mut self, filter: &str) -> Result<(), ProtocolError> {
        let packet_id = self.core.acquire_packet_id().map_err(ProtocolError)?;
        let entry = SubEntry::new(filter, SubOpts::new().set_qos(Qos::AtLeastOnce)).map_err(ProtocolError)?;
        let packet = v5_0::Subscribe::builder().packet_id(packet_id).entries(vec![entry]).build().map_err(ProtocolError)?;
        self.send(packet.into())
    }

    /// Publishes at QoS 0.
    pub(super) fn publish_once(&mut self, topic: &str, payload: Vec<u8>) -> Result<(), ProtocolError> {
        let packet = v5_0::Publish::builder().topic_name(topic).and_then(|builder| builder.qos(Qos::AtMostOnce).payload(payload).build());
        self.send(packet.map_err(ProtocolError)?.into())
    }

    /// Publishes at QoS 1; the id comes back in [`Incoming::Acknowledged`].
    pub(super) fn publish(&mut self, topic: &str, payload: Vec<u8>, retain: bool) -> Result<u16, ProtocolError> {
        let packet_id = self.core.acquire_packet_id().map_err(ProtocolError)?;
        let packet = v5_0::Publish::builder()
            .topic_name(topic)
            .and_then(|builder| builder.qos(Qos::AtLeastOnce).retain(retain).packet_id(packet_id).payload(payload).build());
        self.send(packet.map_err(ProtocolError)?.into())?;
        Ok(packet_id)
    }

    pub(super) fn ping(&mut self) -> Result<(), ProtocolError> {
        self.send(v5_0::Pingreq::builder().build().map_err(ProtocolError)?.into())
    }

    /// Says good-bye: the broker forgets the will.
    pub(super) fn disconnect(&mut self) -> Result<(), ProtocolError> {
        self.send(v5_0::Disconnect::builder().build().map_err(ProtocolError)?.into())
    }

    /// What the bytes mean. They may end in the middle of a packet.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Incoming>, ProtocolError> {
        let (mut cursor, mut incoming) = (Cursor::new(bytes), Vec::new());
        while usize::try_from(cursor.position()).unwrap_or(usize::MAX) < bytes.len() {
            let events = self.core.recv(&mut cursor);
            self.handle(events, &mut incoming)?;
        }
        Ok(incoming)
    }

    fn send(&mut self, packet: Packet) -> Result<(), ProtocolError> {
        let events = self.core.send(packet);
        self.handle(events, &mut Vec::new())
    }

    fn handle(&mut self, events: Vec<GenericEvent<u16>>, incoming: &mut Vec<Incoming>) -> Result<(), ProtocolError> {
        for event in events {
            match event {
                GenericEvent::RequestSendPacket { packet, .. } => self.out.extend(packet.to_continuous_buffer()),
                GenericEvent::NotifyPacketReceived(packet) => incoming.extend(meaning(&packet)),
                GenericEvent::NotifyError(error) => return Err(ProtocolError(error)),
                // A refused CONNECT or a DISCONNECT, told above; the caller closes. Timers are the caller's.
                GenericEvent::RequestClose
                | GenericEvent::RequestTimerReset { .. }
                | GenericEvent::RequestTimerCancel(_)
                | GenericEvent::NotifyPacketIdReleased(_) => {}
            }
        }
        Ok(())
    }
}

fn meaning(packet: &Packet) -> Option<Incoming> {
    Some(match packet {
        Packet::V5_0Connack(connack) => match connack.reason_code() {
            ConnectReasonCode::Success => Incoming::Connected {
                keep_alive: connack.props().iter().find_map(|property| match property {
                    Property::ServerKeepAlive(keep_alive) => Some(Duration::from_secs(u64::from(keep_alive.val()))),
                    _ => None,
                }),
            },
            code => {
                let banned = code == ConnectReasonCode::Banned;
                Incoming::Refused(Refusal { banned, ..refusal(&format!("{code:?}"), connack.props()) })
            }
        },
        Packet::V5_0Suback(suback) => Incoming::Subscribed { granted: suback.reason_codes().iter().all(|code| code.is_success()) },
        Packet::V5_0Puback(puback) => {
            let taken = match puback.reason_code() {
                None => Taken::Yes,
                // A success by its number (MQTT 5, 3.4.2.1), but the message is gone.
                Some(PubackReasonCode::NoMatchingSubscribers) => Taken::Unheard,
                Some(code) if code.is_success() => Taken::Yes,
                Some(PubackReasonCode::PayloadFormatInvalid | PubackReasonCode::TopicNameInvalid) => Taken::Never,
                Some(PubackReasonCode::QuotaExceeded) => Taken::Full,
                Some(_) => Taken::NotNow,
            };
            Incoming::Acknowledged { packet_id: puback.packet_id(), taken }
        }
        Packet::V5_0Publish(publish) => {
            let (topic, payload) = (publish.topic_name().to_owned(), publish.payload().as_slice().to_vec());
            let expires_in = publish.props().iter().find_map(|property| match property {
                Property::MessageExpiryInterval(seconds) => Some(Duration::from_secs(u64::from(seconds.val()))),
                _ => None,
            });
            Incoming::Message { topic, payload, kept: Kept { retained: publish.retain(), expires_in } }
        }
        Packet::V5_0Pingresp(_) => Incoming::Pong,
        Packet::V5_0Disconnect(disconnect) => {
            let code = disconnect.reason_code().map_or_else(|| "no reason given".to_owned(), |code| format!("{code:?}"));
            Incoming::Goodbye(refusal(&code, disconnect.props().as_deref().unwrap_or_default()))
        }
        _ => return None,
    })
}

/// The reason in the hub's words where it gives them, else the code's name; and `retry_in`, seconds in a user property.
fn refusal(code: &str, properties: &[Property]) -> Refusal {
    let reason = properties.iter().find_map(|property| match property {
        Property::ReasonString(reason) => Some(reason.val().to_owned()),
        _ => None,
    });
    let retry_in = properties.iter().find_map(|property| match property {
        Property::UserProperty(pair) if pair.key() == "retry_in" => pair.val().parse().ok().map(Duration::from_secs),
        _ => None,
    });
    Refusal { reason: reason.unwrap_or_else(|| code.to_owned()), retry_in, banned: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONNACK: [u8; 8] = [0x20, 6, 0, 0, 3, 0x22, 0, 10]; // Topic Alias Maximum 10

    fn connected() -> Protocol {
        let mut protocol = Protocol::new();
        protocol.connect("daaaaaaaaaaaaaaa", Duration::from_secs(40), &Will { topic: "w", payload: b"{}" }).unwrap();
        protocol.take_output();
        assert_eq!(protocol.receive(&CONNACK).unwrap(), [Incoming::Connected { keep_alive: None }]);
        protocol
    }

    #[test]
    fn the_connect_is_frozen() {
        let mut protocol = Protocol::new();
        protocol.connect("d1", Duration::from_secs(40), &Will { topic: "w", payload: b"{}" }).unwrap();
        let bytes = protocol.take_output();
        // Flags: will, QoS 1, retained, no clean start. Keep alive 40. Session expiry 86400, receive maximum 32, packet size.
        assert_eq!(bytes[2..12], [0, 4, b'M', b'Q', b'T', b'T', 5, 0b0010_1100, 0, 40]);
        assert_eq!(bytes[12..18], [13, 0x11, 0, 1, 0x51, 0x80]);
        assert!(bytes.ends_with(&[0, 2, b'd', b'1', 0, 0, 1, b'w', 0, 2, b'{', b'}']));
    }

    #[test]
    fn aliases_shorten_the_second_message() {
        let mut protocol = connected();
        protocol.publish_once("muster/v1/d/up/heartbeat", b"1".to_vec()).unwrap();
        let first = protocol.take_output();
        protocol.publish_once("muster/v1/d/up/heartbeat", b"2".to_vec()).unwrap();
        protocol.ping().unwrap();
        let second = protocol.take_output();
        assert!(first.len() > 24);
        assert_eq!(second, [0x30, 7, 0, 0, 3, 0x23, 0, 1, b'2', 0xc0, 0]);
    }

    #[test]
    fn acknowledgements_name_their_message() {
        let mut protocol = connected();
        let first = protocol.publish("t", b"x".to_vec(), false).unwrap();
        let second = protocol.publish("t", b"y".to_vec(), true).unwrap();
        let [high, low] = first.to_be_bytes();
        assert_eq!(protocol.receive(&[0x40, 2, high, low]).unwrap(), [Incoming::Acknowledged { packet_id: first, taken: Taken::Yes }]);
        let [high, low] = second.to_be_bytes();
        let invalid = protocol.receive(&[0x40, 4, high, low, 0x99, 0]).unwrap();
        assert_eq!(invalid, [Incoming::Acknowledged { packet_id: second, taken: Taken::Never }]);
        // Mosquitto 2 after its restart, before the hub has subscribed again.
        let third = protocol.publish("t", b"z".to_vec(), false).unwrap();
        let [high, low] = third.to_be_bytes();
        let unheard = protocol.receive(&[0x40, 3, high, low, 0x10]).unwrap();
        assert_eq!(unheard, [Incoming::Acknowledged { packet_id: third, taken: Taken::Unheard }]);
        for (code, taken) in [(0x97, Taken::Full), (0x83, Taken::NotNow)] {
            let next = protocol.publish("t", b"z".to_vec(), false).unwrap();
            let [high, low] = next.to_be_bytes();
            let answered = protocol.receive(&[0x40, 3, high, low, code]).unwrap();
            assert_eq!(answered, [Incoming::Acknowledged { packet_id: next, taken }]);
        }
    }

    #[test]
    fn refusals_speak() {
        let mut protocol = Protocol::new();
        protocol.connect("d1", Duration::from_secs(40), &Will { topic: "w", payload: b"" }).unwrap();
        let mut bytes = vec![0x20, 23, 0, 0x89, 20, 0x1f, 0, 3, b'b', b'y', b'e', 0x26, 0, 8];
        bytes.extend(b"retry_in");
        bytes.extend([0, 1, b'7']);
        let incoming = protocol.receive(&bytes).unwrap();
        let refusal = Refusal { reason: "bye".into(), retry_in: Some(Duration::from_secs(7)), banned: false };
        assert_eq!(incoming, [Incoming::Refused(refusal)]);

        let mut protocol = Protocol::new();
        protocol.connect("d1", Duration::from_secs(40), &Will { topic: "w", payload: b"" }).unwrap();
        let incoming = protocol.receive(&[0x20, 10, 0, 0x8a, 7, 0x1f, 0, 4, b's', b'o', b'l', b'd']).unwrap();
        assert_eq!(incoming, [Incoming::Refused(Refusal { reason: "sold".into(), retry_in: None, banned: true })]);
    }

    #[test]
    fn a_message_is_acknowledged_by_itself_and_may_come_in_pieces() {
        let mut protocol = connected();
        let bytes = [0x32, 7, 0, 1, b't', 0, 9, 0, b'x'];
        assert_eq!(protocol.receive(&bytes[..4]).unwrap(), []);
        let message = |retained| {
            let kept = Kept { retained, expires_in: None };
            Incoming::Message { topic: "t".into(), payload: b"x".to_vec(), kept }
        };
        assert_eq!(protocol.receive(&bytes[4..]).unwrap(), [message(false)]);
        assert_eq!(protocol.take_output(), [0x40, 2, 0, 9]);
        let kept = [&[bytes[0] | 1], &bytes[1..]].concat();
        assert_eq!(protocol.receive(&kept).unwrap(), [message(true)]);
        let expiring = [0x32, 12, 0, 1, b't', 0, 10, 5, 2, 0, 0, 2, 88, b'x'];
        let kept = Kept { retained: false, expires_in: Some(Duration::from_secs(600)) };
        let wanted = Incoming::Message { topic: "t".into(), payload: b"x".to_vec(), kept };
        assert_eq!(protocol.receive(&expiring).unwrap(), [wanted]);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let mut protocol = connected();
            let cut = cut.min(bytes.len());
            if protocol.receive(&bytes[..cut]).is_ok() {
                let _ = protocol.receive(&bytes[cut..]);
            }
        }
    }
}
