//! WebSocket framing (RFC 6455) without I/O.
//!
//! Headers, masks, the order of frames, and close codes, for both roles.
//! Sessions and MQTT pass through it byte by byte, so it only ever looks at headers: payloads stay where they are.
//! What arrives is hostile: every rule of the RFC that a peer can break is an error here, none is a panic.
//!
//! Extensions are not offered and not accepted, so the reserved bits must be zero.

use crate::limits::DATA_MAX;

/// Longest frame header: 2 bytes, 8 of length, 4 of mask.
pub const HEADER_MAX: usize = 14;
/// Largest payload of a control frame (RFC 6455, 5.5).
pub const CONTROL_FRAME_MAX: usize = 125;
/// Largest message that is accepted, fragments taken together:
/// a session's largest data message, or the largest MQTT payload with its topic.
pub const MESSAGE_MAX: usize = DATA_MAX + 1024;

/// Which end of the connection this is. The client masks, the server must not (RFC 6455, 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It dialled.
    Client,
    /// It was dialled.
    Server,
}

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// More of the message before.
    Continuation,
    /// UTF-8 text.
    Text,
    /// Bytes.
    Binary,
    /// Good-bye.
    Close,
    /// Are you there?
    Ping,
    /// Yes.
    Pong,
}

impl Opcode {
    fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xa => Self::Pong,
            _ => return None,
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }

    /// Whether it may stand between the fragments of a message.
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// How a peer broke the protocol. Each has a close code, see [`FrameError::close_code`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A reserved bit is set, though no extension was agreed.
    #[error("a WebSocket frame has a reserved bit set, though no extension was agreed")]
    Reserved,
    /// An opcode that the RFC does not define.
    #[error("a WebSocket frame has the unknown opcode {0:#x}")]
    Opcode(u8),
    /// A length that is not in its shortest form, or has its highest bit set.
    #[error("a WebSocket frame's length is not in its shortest form")]
    Length,
    /// A client's frame without mask, or a server's with one.
    #[error("a WebSocket frame is {} though its sender must {} it", if *.masked { "masked" } else { "not masked" }, if *.masked { "not mask" } else { "mask" })]
    Mask {
        /// Whether it was masked.
        masked: bool,
    },
    /// A control frame that is fragmented or over 125 bytes.
    #[error("a WebSocket control frame is fragmented or longer than 125 bytes")]
    Control,
    /// A continuation of nothing, or a new message inside another.
    #[error("WebSocket fragments are out of order")]
    Order,
    /// A message over the limit.
    #[error("a WebSocket message is over the limit of {limit} bytes")]
    TooLarge {
        /// Bytes allowed.
        limit: usize,
    },
    /// A text message that is not UTF-8.
    #[error("a WebSocket text message is not UTF-8")]
    Utf8,
    /// A close frame with one byte, a code that must not be sent, or a reason that is not UTF-8.
    #[error("a WebSocket close frame is not valid")]
    Close,
}

impl FrameError {
    /// The close code that tells the peer (RFC 6455, 7.4.1).
    pub fn close_code(self) -> u16 {
        match self {
            Self::TooLarge { .. } => close_code::TOO_LARGE,
            Self::Utf8 => close_code::INVALID,
            _ => close_code::PROTOCOL,
        }
    }
}

/// Close codes that are used here.
pub mod close_code {
    /// The purpose is fulfilled.
    pub const NORMAL: u16 = 1000;
    /// The server stops, or the page is left.
    pub const GOING_AWAY: u16 = 1001;
    /// A broken frame.
    pub const PROTOCOL: u16 = 1002;
    /// A message whose content does not fit its type.
    pub const INVALID: u16 = 1007;
    /// Refused by a rule.
    pub const POLICY: u16 = 1008;
    /// A message over the limit.
    pub const TOO_LARGE: u16 = 1009;
    /// The server failed.
    pub const INTERNAL: u16 = 1011;
    /// Come back later.
    pub const TRY_AGAIN: u16 = 1013;
    /// Never sent: a close frame without a code was received.
    pub const NONE: u16 = 1005;
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether the message ends with this frame.
    pub fin: bool,
    /// What it is.
    pub opcode: Opcode,
    /// The mask key, from a client. All zero means that the payload is in clear.
    pub mask: Option<[u8; 4]>,
    /// Bytes of payload that follow.
    pub len: u64,
}

impl Header {
    /// The header of a whole message. A client's mask key is zero: see `docs/decisions/0007-websocket-and-records.md`.
    pub fn whole(role: Role, opcode: Opcode, len: usize) -> Self {
        let mask = (role == Role::Client).then_some([0; 4]);
        Self { fin: true, opcode, mask, len: len as u64 }
    }

    /// Reads a header from the start of `bytes`; `None` when more bytes are needed. Also gives the header's own length.
    ///
    /// # Errors
    /// When no peer may send this.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let &[first, second, ..] = bytes else { return Ok(None) };
        if first & 0x70 != 0 {
            return Err(FrameError::Reserved);
        }
        let opcode = Opcode::from_bits(first & 0x0f).ok_or(FrameError::Opcode(first & 0x0f))?;
        let fin = first & 0x80 != 0;
        let short = second & 0x7f;
        if opcode.is_control() && (!fin || usize::from(short) > CONTROL_FRAME_MAX) {
            return Err(FrameError::Control);
        }
        let (len, mut at) = match short {
            126 => {
                let Some(&[high, low]) = bytes.get(2..4).and_then(<[u8]>::first_chunk) else { return Ok(None) };
                (u64::from(u16::from_be_bytes([high, low])), 4)
            }
            127 => {
                let Some(long) = bytes.get(2..10).and_then(<[u8]>::first_chunk) else { return Ok(None) };
                (u64::from_be_bytes(*long), 10)
            }
            short => (u64::from(short), 2),
        };
        if (at == 4 && len < 126) || (at == 10 && (len <= 0xffff || len >> 63 != 0)) {
            return Err(FrameError::Length);
        }
        let mask = if second & 0x80 != 0 {
            let Some(mask) = bytes.get(at..at + 4).and_then(<[u8]>::first_chunk) else { return Ok(None) };
            at += 4;
            Some(*mask)
        } else {
            None
        };
        Ok(Some((Self { fin, opcode, mask, len }, at)))
    }

    /// Writes the header; gives the bytes and how many of them count.
    pub fn encode(&self) -> ([u8; HEADER_MAX], usize) {
        let mut out = [0; HEADER_MAX];
        out[0] = u8::from(self.fin) << 7 | self.opcode.bits();
        let mut at = match self.len {
            len @ 0..=125 => {
                out[1] = len as u8;
                2
            }
            len @ 126..=0xffff => {
                out[1] = 126;
                out[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                4
            }
            len => {
                out[1] = 127;
                out[2..10].copy_from_slice(&len.to_be_bytes());
                10
            }
        };
        if let Some(mask) = self.mask {
            out[1] |= 0x80;
            out[at..at + 4].copy_from_slice(&mask);
            at += 4;
        }
        (out, at)
    }
}

/// Takes the mask off, or puts it on. A zero key costs nothing.
pub fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    if mask == [0; 4] {
        return;
    }
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Watches the order and the size of the frames that one peer sends.
#[derive(Debug)]
pub struct Order {
    /// The role of the end that watches; its peer has the other.
    role: Role,
    limit: usize,
    /// The message that has begun and not ended: its opcode and its bytes so far.
    open: Option<(Opcode, usize)>,
}

impl Order {
    /// For the end with `role`, with messages of at most `limit` bytes.
    pub fn new(role: Role, limit: usize) -> Self {
        Self { role, limit, open: None }
    }

    /// Whether a frame with this header may come now. Gives the opcode of the message that it belongs to.
    ///
    /// # Errors
    /// When it may not; the connection has to be closed.
    pub fn admit(&mut self, header: &Header) -> Result<Opcode, FrameError> {
        let masked = header.mask.is_some();
        if masked != (self.role == Role::Server) {
            return Err(FrameError::Mask { masked });
        }
        if header.opcode.is_control() {
            return Ok(header.opcode);
        }
        let (opcode, before) = match (header.opcode, self.open) {
            (Opcode::Continuation, Some(open)) => open,
            (Opcode::Continuation, None) | (_, Some(_)) => return Err(FrameError::Order),
            (opcode, None) => (opcode, 0),
        };
        let len = usize::try_from(header.len).ok().and_then(|len| before.checked_add(len));
        let len = len.filter(|len| *len <= self.limit).ok_or(FrameError::TooLarge { limit: self.limit })?;
        self.open = (!header.fin).then_some((opcode, len));
        Ok(opcode)
    }
}

/// Reads the payload of a close frame: code and reason. An empty one gives [`close_code::NONE`].
///
/// # Errors
/// When it has one byte, a code that must not be sent, or a reason that is not UTF-8.
pub fn parse_close(payload: &[u8]) -> Result<(u16, &str), FrameError> {
    if payload.is_empty() {
        return Ok((close_code::NONE, ""));
    }
    let (code, reason) = payload.split_first_chunk().ok_or(FrameError::Close)?;
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(FrameError::Close);
    }
    Ok((code, std::str::from_utf8(reason).map_err(|_| FrameError::Close)?))
}

/// Writes the payload of a close frame. The reason is cut, at a character, to what a control frame holds.
pub fn encode_close(code: u16, reason: &str) -> Vec<u8> {
    let end = reason.floor_char_boundary(CONTROL_FRAME_MAX - 2);
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    payload
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(bytes: &[u8]) -> (Header, usize) {
        Header::parse(bytes).unwrap().unwrap()
    }

    /// The examples of RFC 6455, 5.7.
    #[test]
    fn literal_bytes() {
        let (header, at) = parsed(&[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!((header, at), (Header { fin: true, opcode: Opcode::Text, mask: None, len: 5 }, 2));

        let mut masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let (header, at) = parsed(&masked);
        assert_eq!((header.mask, at), (Some([0x37, 0xfa, 0x21, 0x3d]), 6));
        unmask(&mut masked[at..], header.mask.unwrap());
        assert_eq!(&masked[at..], b"Hello");

        assert_eq!(parsed(&[0x01, 0x03]).0, Header { fin: false, opcode: Opcode::Text, mask: None, len: 3 });
        assert_eq!(parsed(&[0x80, 0x02]).0.opcode, Opcode::Continuation);
        assert_eq!(parsed(&[0x89, 0x05]).0.opcode, Opcode::Ping);
        assert_eq!(parsed(&[0x82, 0x7e, 0x01, 0x00]), (Header { fin: true, opcode: Opcode::Binary, mask: None, len: 256 }, 4));
        assert_eq!(parsed(&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]).0.len, 65_536);

        let (bytes, len) = Header::whole(Role::Client, Opcode::Binary, 16_376).encode();
        assert_eq!(&bytes[..len], [0x82, 0xfe, 0x3f, 0xf8, 0, 0, 0, 0]);
        let (bytes, len) = Header::whole(Role::Server, Opcode::Binary, 65_540).encode();
        assert_eq!(&bytes[..len], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 4]);
        assert_eq!(encode_close(1000, "bye"), [0x03, 0xe8, b'b', b'y', b'e']);
    }

    #[test]
    fn broken_headers_are_refused() {
        for (bytes, why) in [
            (&[0xc2, 0x00][..], FrameError::Reserved),
            (&[0x83, 0x00], FrameError::Opcode(3)),
            (&[0x8b, 0x00], FrameError::Opcode(11)),
            (&[0x09, 0x00], FrameError::Control),
            (&[0x88, 0x7e, 0x00, 0x7e], FrameError::Control),
            (&[0x82, 0x7e, 0x00, 0x7d], FrameError::Length),
            (&[0x82, 0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0xff], FrameError::Length),
            (&[0x82, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0], FrameError::Length),
        ] {
            assert_eq!(Header::parse(bytes), Err(why), "{bytes:?}");
        }
    }

    #[test]
    fn order_of_frames() {
        let frame = |fin, opcode, len| Header { fin, opcode, mask: None, len };
        let mut order = Order::new(Role::Client, 10);
        assert_eq!(order.admit(&frame(true, Opcode::Continuation, 1)), Err(FrameError::Order));
        assert_eq!(order.admit(&frame(false, Opcode::Text, 4)), Ok(Opcode::Text));
        assert_eq!(order.admit(&frame(true, Opcode::Ping, 4)), Ok(Opcode::Ping));
        assert_eq!(order.admit(&frame(true, Opcode::Binary, 1)), Err(FrameError::Order));
        assert_eq!(order.admit(&frame(false, Opcode::Continuation, 4)), Ok(Opcode::Text));
        assert_eq!(order.admit(&frame(true, Opcode::Continuation, 3)), Err(FrameError::TooLarge { limit: 10 }));
        assert_eq!(order.admit(&frame(true, Opcode::Continuation, 2)), Ok(Opcode::Text));
        assert_eq!(order.admit(&frame(true, Opcode::Binary, u64::MAX >> 1)), Err(FrameError::TooLarge { limit: 10 }));
        assert_eq!(order.admit(&Header { mask: Some([0; 4]), ..frame(true, Opcode::Text, 1) }), Err(FrameError::Mask { masked: true }));
        assert_eq!(Order::new(Role::Server, 10).admit(&frame(true, Opcode::Ping, 1)), Err(FrameError::Mask { masked: false }));
    }

    #[test]
    fn close_frames() {
        assert_eq!(parse_close(&[]), Ok((close_code::NONE, "")));
        assert_eq!(parse_close(&[0x03, 0xe8, b'x']), Ok((1000, "x")));
        for bad in [&[0x03][..], &[0x03, 0xed], &[0x03, 0xee], &[0, 0], &[0x03, 0xe8, 0xff]] {
            assert_eq!(parse_close(bad), Err(FrameError::Close), "{bad:?}");
        }
        let long = "ü".repeat(100);
        let payload = encode_close(1008, &long);
        assert_eq!(payload.len(), 124);
        assert_eq!(parse_close(&payload).unwrap().1, "ü".repeat(61));
    }

    fn opcode() -> impl Strategy<Value = Opcode> {
        prop_oneof![Just(Opcode::Continuation), Just(Opcode::Text), Just(Opcode::Binary)]
    }

    proptest! {
        #[test]
        fn headers_round_trip(fin: bool, opcode in opcode(), mask: Option<[u8; 4]>, bits in 0u32..63, low: u64) {
            let header = Header { fin, opcode, mask, len: low & ((1u64 << bits) | ((1u64 << bits) - 1)) & (u64::MAX >> 1) };
            let (bytes, len) = header.encode();
            prop_assert_eq!(Header::parse(&bytes[..len]), Ok(Some((header, len))));
            for cut in 0..len {
                prop_assert_eq!(Header::parse(&bytes[..cut]), Ok(None));
            }
        }

        #[test]
        fn parse_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..20), limit in 0usize..100) {
            if let Ok(Some((header, at))) = Header::parse(&bytes) {
                prop_assert!(at <= bytes.len() && at <= HEADER_MAX);
                let (again, len) = header.encode();
                prop_assert_eq!(&again[..len], &bytes[..at]);
                for role in [Role::Client, Role::Server] {
                    let _ = Order::new(role, limit).admit(&header);
                }
            }
            let _ = parse_close(&bytes);
        }

        #[test]
        fn unmask_twice_is_nothing(mut payload in proptest::collection::vec(any::<u8>(), 0..70), mask: [u8; 4]) {
            let before = payload.clone();
            unmask(&mut payload, mask);
            for (at, byte) in payload.iter().enumerate() {
                prop_assert_eq!(*byte, before[at] ^ mask[at % 4]);
            }
            unmask(&mut payload, mask);
            prop_assert_eq!(payload, before);
        }
    }
}
