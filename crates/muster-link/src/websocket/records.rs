//! TLS 1.3 records (RFC 8446, 5) with traffic keys that rustls negotiated.
//!
//! rustls makes the handshake, checks the certificates and derives the keys; then `dangerous_extract_secrets` hands the keys over,
//! as it does for the kernel's TLS, and from there this module protects records in buffers that the caller lays out.
//! That saves what rustls's own buffers cost a session: reads of 4 to 18 KiB, an allocation and two copies for each record
//! (see `docs/decisions/0007-websocket-and-records.md` for what was measured).
//!
//! It must not grow into a TLS implementation: no handshake, no key update, no renegotiation.
//! A peer that asks for new keys, or a key that is worn out, ends the connection, and the session goes on over a new one.

use bytes::{Buf, BytesMut};
use ring::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ExtractedSecrets};

/// Bytes of a record's header.
pub(super) const HEADER: usize = 5;
/// Largest plaintext of a record (RFC 8446, 5.1).
pub(super) const PLAIN_MAX: usize = 16_384;
/// What follows the plaintext: the content's type and the tag.
pub(super) const TRAILER: usize = 1 + TAG;
/// Largest record on the wire: header, plaintext, type, padding and tag (RFC 8446, 5.2).
pub(super) const RECORD_MAX: usize = HEADER + PLAIN_MAX + 256;
/// All three ciphers of TLS 1.3 here have a tag of 16 bytes.
const TAG: usize = 16;

/// Records that one key protects. RFC 8446, 5.5 allows AES-GCM about 2^24.5; half of 2^24 is 130 GB of full records.
const KEY_LIMIT: u64 = 1 << 23;
/// Records without payload in a row. More of them is a peer that only wants to keep us busy.
const EMPTY_MAX: u8 = 32;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const NEW_SESSION_TICKET: u8 = 4;
const CLOSE_NOTIFY: u8 = 0;

/// Why records cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The connection's settings do not allow it.
    #[error("TLS secrets cannot be taken: the connection must speak TLS 1.3 with secret extraction enabled, and its handshake be over")]
    Secrets,
    /// Bytes that are no record.
    #[error("the peer sent something that is no TLS record")]
    Malformed,
    /// A record that is not from the peer, or damaged.
    #[error("a TLS record from the peer is damaged")]
    Decrypt,
    /// The peer gave up.
    #[error("the peer ended TLS with alert {0}")]
    Alert(u8),
    /// Enough bytes for one key.
    #[error("the connection's key has protected all the records that it may; a new connection is needed")]
    WornOut,
    /// A post-handshake message that is not served here.
    #[error("the peer asked for new TLS keys, for which a new connection is needed")]
    Rekey,
}

/// What a record carried.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// Application data; never empty.
    Data(BytesMut),
    /// Nothing for the application.
    Skip,
    /// The peer will send no more.
    Closed,
}

/// Splits the secrets of a finished handshake into the two directions.
pub(super) fn split(tls: rustls::Connection) -> Result<(Sealer, Opener), RecordError> {
    if tls.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
        return Err(RecordError::Secrets);
    }
    let ExtractedSecrets { tx, rx } = tls.dangerous_extract_secrets().map_err(|_| RecordError::Secrets)?;
    Ok((
        Sealer { keys: Keys::new(&tx.1)?, next: tx.0, last: tx.0 + KEY_LIMIT },
        Opener { keys: Keys::new(&rx.1)?, next: rx.0, last: rx.0 + KEY_LIMIT, empty: 0 },
    ))
}

struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
}

impl Keys {
    fn new(secrets: &ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        let (algorithm, key, iv) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(RecordError::Secrets),
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| RecordError::Secrets)?;
        let iv = iv.as_ref().try_into().map_err(|_| RecordError::Secrets)?;
        Ok(Self { key: LessSafeKey::new(key), iv })
    }

    /// RFC 8446, 5.3: the record's number, exclusive-or the IV.
    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

fn header(len: usize) -> [u8; HEADER] {
    let [high, low] = (len as u16).to_be_bytes();
    [APPLICATION_DATA, 3, 3, high, low]
}

/// Protects what is sent.
pub(super) struct Sealer {
    keys: Keys,
    next: u64,
    last: u64,
}

impl Sealer {
    /// Protects the record whose header space starts at `start` and whose plaintext fills the rest of `buffer`.
    pub(super) fn seal(&mut self, buffer: &mut Vec<u8>, start: usize) -> Result<(), RecordError> {
        self.seal_as(buffer, start, APPLICATION_DATA)
    }

    /// Appends the alert that ends the stream in good order.
    pub(super) fn close_notify(&mut self, buffer: &mut Vec<u8>) -> Result<(), RecordError> {
        let start = buffer.len();
        buffer.extend_from_slice(&[0; HEADER]);
        buffer.extend_from_slice(&[1, CLOSE_NOTIFY]);
        self.seal_as(buffer, start, ALERT)
    }

    /// Whether the key has protected all the records that it may.
    pub(super) fn worn_out(&self) -> bool {
        self.next >= self.last
    }

    /// Leaves the key only `records` more.
    #[cfg(test)]
    pub(super) fn wear_to(&mut self, records: u64) {
        self.last = self.next + records;
    }

    fn seal_as(&mut self, buffer: &mut Vec<u8>, start: usize, content: u8) -> Result<(), RecordError> {
        debug_assert!(buffer.len() - start - HEADER <= PLAIN_MAX, "a record holds at most {PLAIN_MAX} bytes");
        if self.next >= self.last {
            return Err(RecordError::WornOut);
        }
        buffer.push(content);
        let header = header(buffer.len() - start - HEADER + TAG);
        let (head, plain) = buffer[start..].split_at_mut(HEADER);
        head.copy_from_slice(&header);
        let nonce = self.keys.nonce(self.next);
        self.next += 1;
        let tag = self.keys.key.seal_in_place_separate_tag(nonce, Aad::from(header), plain).map_err(|_| RecordError::WornOut)?;
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

/// Opens what is received.
pub(super) struct Opener {
    keys: Keys,
    next: u64,
    last: u64,
    empty: u8,
}

impl Opener {
    /// Takes the next record off `incoming` and opens it where it lies. `None` when it is not complete.
    pub(super) fn open(&mut self, incoming: &mut BytesMut) -> Result<Option<Record>, RecordError> {
        let Some(&[content, _, _, high, low]) = incoming.first_chunk::<HEADER>() else { return Ok(None) };
        let len = usize::from(u16::from_be_bytes([high, low]));
        if content == CHANGE_CIPHER_SPEC && len == 1 {
            // Middlebox compatibility (RFC 8446, D.4): only before the end of a handshake, which is over.
            return Err(RecordError::Malformed);
        }
        if content != APPLICATION_DATA || !(TRAILER..=RECORD_MAX - HEADER).contains(&len) {
            return Err(RecordError::Malformed);
        }
        if incoming.len() < HEADER + len {
            return Ok(None);
        }
        if self.next >= self.last {
            return Err(RecordError::WornOut);
        }
        let mut record = incoming.split_to(HEADER + len);
        let mut aad = [0; HEADER];
        record.copy_to_slice(&mut aad);
        let nonce = self.keys.nonce(self.next);
        self.next += 1;
        let inner = self.keys.key.open_in_place(nonce, Aad::from(aad), &mut record).map_err(|_| RecordError::Decrypt)?;
        // The type is the last byte that is not zero; zeros after it are padding.
        let end = inner.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Malformed)?;
        let content = inner[end];
        record.truncate(end);
        self.received(content, record)
    }

    fn received(&mut self, content: u8, record: BytesMut) -> Result<Option<Record>, RecordError> {
        match content {
            APPLICATION_DATA if record.is_empty() => {
                self.empty += 1;
                if self.empty >= EMPTY_MAX { Err(RecordError::Malformed) } else { Ok(Some(Record::Skip)) }
            }
            APPLICATION_DATA if record.len() <= PLAIN_MAX => {
                self.empty = 0;
                Ok(Some(Record::Data(record)))
            }
            ALERT => match record[..] {
                [_, CLOSE_NOTIFY] => Ok(Some(Record::Closed)),
                [_, alert] => Err(RecordError::Alert(alert)),
                _ => Err(RecordError::Malformed),
            },
            HANDSHAKE => tickets_only(&record),
            _ => Err(RecordError::Malformed),
        }
    }
}

/// A server sends tickets after the handshake. They are of no use here: a session's leg is dialled afresh.
fn tickets_only(mut messages: &[u8]) -> Result<Option<Record>, RecordError> {
    while let Some((head, rest)) = messages.split_first_chunk::<4>() {
        let len = usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
        if head[0] != NEW_SESSION_TICKET {
            return Err(RecordError::Rekey);
        }
        messages = rest.get(len..).ok_or(RecordError::Rekey)?;
    }
    if messages.is_empty() { Ok(Some(Record::Skip)) } else { Err(RecordError::Rekey) }
}
