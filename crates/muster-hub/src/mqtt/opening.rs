//! The first packet of a connection, before the protocol machine sees it: is it a CONNECT, of which version, how large?
//!
//! Here because an anonymous peer's first bytes deserve a bound of their own, because MQTT 3.1.1 is refused politely
//! (with a CONNACK that its clients understand), and because `mqtt-protocol-core` 0.7.9 panics on a Topic Alias Maximum of 0,
//! which MQTT 5 allows (3.1.2.11.5). Pure: bytes in, verdict out.

/// Largest CONNECT: a will of 16 KiB and its topic, with room for properties. Kept in memory before the peer is known.
pub(super) const CONNECT_MAX: usize = 24 * 1024;

/// CONNACK of MQTT 3.1.1: unacceptable protocol level.
pub(super) const REFUSE_V3: [u8; 4] = [0x20, 0x02, 0x00, 0x01];

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The beginning of a CONNECT.
    Incomplete,
    /// A whole CONNECT of MQTT 5 of this many bytes.
    Complete(usize),
    /// A CONNECT of an older MQTT: to be answered with [`REFUSE_V3`].
    Old,
    /// Not MQTT, or not to be borne.
    Refused(&'static str),
}

/// Looks at the first bytes of a connection.
pub(super) fn look(bytes: &[u8]) -> Verdict {
    let Some((&kind, rest)) = bytes.split_first() else { return Verdict::Incomplete };
    if kind != 0x10 {
        return Verdict::Refused("the first packet is not a CONNECT");
    }
    let (length, size) = match varint(rest) {
        Varint::Value(length, size) => (length, size),
        Varint::Incomplete => return Verdict::Incomplete,
        Varint::Malformed => return Verdict::Refused("the packet's length is malformed"),
    };
    let total = 1 + size + length;
    if total > CONNECT_MAX {
        return Verdict::Refused("the CONNECT is over 24 KiB");
    }
    let body = &rest[size..];
    if let Some(level) = body.get(6) {
        match (&body[..6], level) {
            (b"\x00\x04MQTT", 5) => {}
            // 3.1.1, and 3.1 whose name is longer ("MQIsdp").
            (b"\x00\x04MQTT", 3 | 4) | (b"\x00\x06MQIs", _) => return Verdict::Old,
            _ => return Verdict::Refused("the CONNECT is not of MQTT 5"),
        }
    } else if length < 7 {
        return Verdict::Refused("the CONNECT is too short");
    }
    if bytes.len() < total { Verdict::Incomplete } else { Verdict::Complete(total) }
}

/// Makes a Topic Alias Maximum of 0 a 1 in a complete CONNECT. The hub sends no aliases, so the peer cannot tell.
pub(super) fn mend(connect: &mut [u8]) {
    let Varint::Value(_, size) = varint(&connect[1..]) else { return };
    // Fixed header, protocol name (6), level, flags, keep alive (2).
    let mut at = 1 + size + 10;
    let Some(Varint::Value(length, size)) = connect.get(at..).map(varint) else { return };
    at += size;
    let end = at.saturating_add(length).min(connect.len());
    while at < end {
        let text = |at: usize| connect.get(at..at + 2).map(|length| 2 + usize::from(u16::from_be_bytes([length[0], length[1]])));
        let value = match connect[at] {
            0x17 | 0x19 => Some(1),
            0x21 => Some(2),
            0x22 => {
                if at + 3 <= end && connect[at + 1..at + 3] == [0, 0] {
                    connect[at + 2] = 1;
                }
                Some(2)
            }
            0x11 | 0x27 => Some(4),
            0x15 | 0x16 => text(at + 1),
            0x26 => text(at + 1).and_then(|key| text(at + 1 + key).map(|value| key + value)),
            // Unknown: the machine refuses the packet.
            _ => None,
        };
        let Some(value) = value else { return };
        at += 1 + value;
    }
}

enum Varint {
    Value(usize, usize),
    Incomplete,
    Malformed,
}

fn varint(bytes: &[u8]) -> Varint {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Varint::Value(value, index + 1);
        }
    }
    if bytes.len() < 4 { Varint::Incomplete } else { Varint::Malformed }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CONNECT of MQTT 5 with these properties, client id "a".
    fn connect(properties: &[u8]) -> Vec<u8> {
        let mut body = b"\x00\x04MQTT\x05\x00\x00\x28".to_vec();
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend_from_slice(properties);
        body.extend_from_slice(b"\x00\x01a");
        let mut packet = vec![0x10, u8::try_from(body.len()).unwrap()];
        packet.extend(body);
        packet
    }

    #[test]
    fn every_prefix_is_incomplete() {
        let whole = connect(b"");
        for end in 0..whole.len() {
            assert_eq!(look(&whole[..end]), Verdict::Incomplete, "{end}");
        }
        assert_eq!(look(&whole), Verdict::Complete(whole.len()));
        let mut more = whole.clone();
        more.extend_from_slice(&[0xc0, 0]);
        assert_eq!(look(&more), Verdict::Complete(whole.len()));
    }

    #[test]
    fn refuses_what_is_not_mqtt_5() {
        assert!(matches!(look(b"GET / HTTP/1.1\r\n"), Verdict::Refused(_)));
        assert!(matches!(look(&[0x16, 3, 1]), Verdict::Refused(_)));
        assert!(matches!(look(&[0x10, 0xff, 0xff, 0xff, 0xff]), Verdict::Refused(_)));
        assert!(matches!(look(&[0x10, 0xff, 0xff, 0xff, 0x7f]), Verdict::Refused(_)));
        assert!(matches!(look(&[0x10, 3, 0, 4, b'M']), Verdict::Refused(_)));
        assert_eq!(look(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a"), Verdict::Old);
        assert_eq!(look(b"\x10\x0f\x00\x06MQIsdp\x03\x02\x00\x3c\x00\x01a"), Verdict::Old);
        assert!(matches!(look(b"\x10\x0d\x00\x04MQTT\x09\x02\x00\x3c\x00\x01a"), Verdict::Refused(_)));
    }

    #[test]
    fn mends_a_topic_alias_maximum_of_zero_and_nothing_else() {
        let before = connect(b"\x11\x00\x01\x51\x80\x26\x00\x01k\x00\x01v\x15\x00\x02\x22\x00\x22\x00\x00\x21\x00\x00");
        let mut after = before.clone();
        mend(&mut after);
        let changed: Vec<_> = before.iter().zip(&after).enumerate().filter(|(_, (a, b))| a != b).map(|(at, _)| at).collect();
        assert_eq!(changed, [before.len() - 7]);
        for same in [connect(b"\x22\x00\x0a"), connect(b"\x22\x00"), connect(b"\x99\x22\x00\x00"), connect(b"")] {
            let mut mended = same.clone();
            mend(&mut mended);
            assert_eq!(mended, same);
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            look(&bytes);
            if bytes.len() > 1 {
                mend(&mut bytes);
            }
            let mut real = connect(&bytes);
            mend(&mut real);
        }
    }
}
