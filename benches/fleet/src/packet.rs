//! The few MQTT 5 packets that a device sends and gets, as bytes (MQTT 5, section 3).
//!
//! By hand: ten thousand state machines of a library would be more work than the hub's.

use anyhow::{Result, bail};

/// A CONNECT as the daemon's: no clean start, session expiry of a day, a retained will at QoS 1.
pub(crate) fn connect(client_id: &str, keep_alive: u16, will_topic: &str, will: &[u8]) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05\x2c".to_vec();
    body.extend(keep_alive.to_be_bytes());
    body.extend([5, 0x11, 0, 1, 0x51, 0x80]);
    text(&mut body, client_id.as_bytes());
    body.push(0);
    text(&mut body, will_topic.as_bytes());
    text(&mut body, will);
    packet(0x10, &body)
}

/// A SUBSCRIBE at QoS 1.
pub(crate) fn subscribe(id: u16, filter: &str) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.push(0);
    text(&mut body, filter.as_bytes());
    body.push(1);
    packet(0x82, &body)
}

/// A PUBLISH; at QoS 1 with an id, else at QoS 0.
pub(crate) fn publish(topic: &str, payload: &[u8], id: Option<u16>, retain: bool, again: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + 8);
    text(&mut body, topic.as_bytes());
    if let Some(id) = id {
        body.extend(id.to_be_bytes());
    }
    body.push(0);
    body.extend(payload);
    packet(0x30 | u8::from(again) << 3 | u8::from(id.is_some()) << 1 | u8::from(retain), &body)
}

/// A DISCONNECT: a good-bye, the will is void.
pub(crate) const DISCONNECT: [u8; 2] = [0xe0, 0];

fn text(body: &mut Vec<u8>, text: &[u8]) {
    body.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    body.extend(text);
}

fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(body.len() + 5);
    packet.push(kind);
    let mut left = body.len();
    loop {
        let low = u8::try_from(left % 128).unwrap_or(0);
        left /= 128;
        packet.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    packet.extend(body);
    packet
}

/// What a server said.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// It let us in.
    Welcome,
    /// It took the subscription.
    Subscribed,
    /// It has the message with this id.
    Acknowledged(u16),
    /// Something that needs no answer here.
    Other,
}

/// Takes the first whole packet off the front.
pub(crate) fn take(bytes: &mut Vec<u8>) -> Result<Option<Said>> {
    let (mut length, mut at) = (0_usize, 1);
    loop {
        let Some(byte) = bytes.get(at).copied() else { return Ok(None) };
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
        if at > 4 {
            bail!("the server sent a malformed length");
        }
    }
    let end = at + length;
    if bytes.len() < end {
        return Ok(None);
    }
    let said = meaning(bytes[0], &bytes[at..end]);
    bytes.drain(..end);
    said.map(Some)
}

fn meaning(kind: u8, body: &[u8]) -> Result<Said> {
    let refused = |code: Option<&u8>| code.copied().filter(|code| *code >= 0x80);
    let id = body.get(..2).map(|id| u16::from_be_bytes([id[0], id[1]]));
    match (kind >> 4, id) {
        (2, _) => match refused(body.get(1)) {
            Some(code) => bail!("the server refused a CONNECT with reason {code:#04x}"),
            None => Ok(Said::Welcome),
        },
        (4, Some(id)) => match refused(body.get(2)) {
            Some(code) => bail!("the server refused a message with reason {code:#04x}"),
            None => Ok(Said::Acknowledged(id)),
        },
        (9, _) => match refused(body.last()) {
            Some(code) => bail!("the server refused a subscription with reason {code:#04x}"),
            None => Ok(Said::Subscribed),
        },
        (14, _) => bail!("the server ended a link with reason {:#04x}", body.first().copied().unwrap_or(0)),
        _ => Ok(Said::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_what_the_standard_says() {
        assert_eq!(publish("t", b"x", None, false, false), [0x30, 5, 0, 1, b't', 0, b'x']);
        assert_eq!(publish("t", b"x", Some(7), true, true), [0x3b, 7, 0, 1, b't', 0, 7, 0, b'x']);
        assert_eq!(subscribe(1, "a"), [0x82, 7, 0, 1, 0, 0, 1, b'a', 1]);
        let long = publish("t", &[0; 200], None, false, false);
        assert_eq!(long[..3], [0x30, 0xcc, 0x01]);
        let connect = connect("d", 40, "w", b"{}");
        assert_eq!(connect[..12], [0x10, 27, 0, 4, b'M', b'Q', b'T', b'T', 5, 0x2c, 0, 40]);
        assert!(connect.ends_with(&[0, 1, b'd', 0, 0, 1, b'w', 0, 2, b'{', b'}']));
    }

    #[test]
    fn answers_are_read_in_pieces_and_refusals_are_errors() {
        let mut bytes = vec![0x20, 3, 0, 0];
        assert_eq!(take(&mut bytes).unwrap(), None);
        bytes.extend([0, 0x40, 2, 0, 9, 0x90, 4, 0, 1, 0, 1]);
        assert_eq!(take(&mut bytes).unwrap(), Some(Said::Welcome));
        assert_eq!(take(&mut bytes).unwrap(), Some(Said::Acknowledged(9)));
        assert_eq!(take(&mut bytes).unwrap(), Some(Said::Subscribed));
        assert_eq!(take(&mut bytes).unwrap(), None);
        for refusal in [&[0x20, 3, 0, 0x87, 0][..], &[0x40, 4, 0, 9, 0x99, 0], &[0x90, 4, 0, 1, 0, 0x87], &[0xe0, 1, 0x8d]] {
            assert!(take(&mut refusal.to_vec()).is_err(), "{refusal:?}");
        }
    }
}
