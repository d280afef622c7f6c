//! The spool's bytes: records with a length and a checksum. Pure: no files, no clock.
//!
//! A segment is a header, then schemas, samples and positions as they come. It can be read from its start alone.
//! What is torn or damaged ends the reading; everything before it stands.
//!
//! | kind | payload after the kind's byte, little-endian |
//! |---|---|
//! | 1 header | `musterspool1`, boot (16 ASCII) |
//! | 2 schema | count u16, then per column: length u8, name |
//! | 3 sample | seq u64, t i64, one f64 per column of the last schema; NaN where not read |
//! | 4 position | segment u64, samples u32, dropped u64: all before this sample of this segment was delivered; so many losses are untold |

use std::sync::Arc;

use muster_proto::Millis;

/// One sample: what was measured at one time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// Its number in this life of the daemon.
    pub seq: u64,
    /// When taken.
    pub t: Millis,
    /// Values by column; `None` where one could not be read.
    pub values: Vec<(Arc<str>, Option<f64>)>,
}

/// What has been delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Position {
    /// The segment of the first sample that has not.
    pub segment: u64,
    /// How many samples of that segment have.
    pub samples: u32,
    /// Samples lost that the hub was not told of.
    pub dropped: u64,
}

/// One record, as read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Record {
    /// First of a segment.
    Header {
        /// The daemon's life that wrote it.
        boot: String,
    },
    /// A sample, with the names of the schema before it.
    Sample(Sample),
    /// Progress.
    Position(Position),
}

const MAGIC: &[u8] = b"musterspool1";
const HEADER: u8 = 1;
const SCHEMA: u8 = 2;
const SAMPLE: u8 = 3;
const POSITION: u8 = 4;
/// Length and checksum before each payload.
const FRAME: usize = 8;
/// Largest payload: a schema of 256 columns with names of 64 bytes is under 17 KiB.
const PAYLOAD_MAX: usize = 32 * 1024;

/// Appends a segment's header.
pub(crate) fn put_header(out: &mut Vec<u8>, boot: &str) {
    put(out, HEADER, |payload| {
        payload.extend_from_slice(MAGIC);
        payload.extend_from_slice(boot.as_bytes());
    });
}

/// Appends a schema.
pub(crate) fn put_schema(out: &mut Vec<u8>, names: &[Arc<str>]) {
    put(out, SCHEMA, |payload| {
        payload.extend_from_slice(&(names.len() as u16).to_le_bytes());
        for name in names {
            payload.push(name.len() as u8);
            payload.extend_from_slice(name.as_bytes());
        }
    });
}

/// Appends a sample. Its columns must be those of the schema before it.
pub(crate) fn put_sample(out: &mut Vec<u8>, sample: &Sample) {
    put(out, SAMPLE, |payload| {
        payload.extend_from_slice(&sample.seq.to_le_bytes());
        payload.extend_from_slice(&sample.t.to_le_bytes());
        for (_, value) in &sample.values {
            payload.extend_from_slice(&value.unwrap_or(f64::NAN).to_le_bytes());
        }
    });
}

/// Appends a position.
pub(crate) fn put_position(out: &mut Vec<u8>, position: Position) {
    put(out, POSITION, |payload| {
        payload.extend_from_slice(&position.segment.to_le_bytes());
        payload.extend_from_slice(&position.samples.to_le_bytes());
        payload.extend_from_slice(&position.dropped.to_le_bytes());
    });
}

fn put(out: &mut Vec<u8>, kind: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME]);
    out.push(kind);
    fill(out);
    let payload = &out[start + FRAME..];
    let (len, crc) = (payload.len() as u32, crc32(payload));
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4..start + FRAME].copy_from_slice(&crc.to_le_bytes());
}

/// Reads records. The schema carries over, so a reader can be given a segment's bytes piece by piece from a record's start.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Reader {
    schema: Vec<Arc<str>>,
}

impl Reader {
    /// The next record and how many bytes it and the schemas before it take. `None` at the end, or where the bytes are torn or damaged.
    pub(crate) fn next(&mut self, bytes: &[u8]) -> Option<(Record, usize)> {
        let mut taken = 0;
        loop {
            let (payload, len) = frame(&bytes[taken..])?;
            taken += len;
            let (kind, body) = payload.split_first()?;
            match *kind {
                HEADER => {
                    let boot = std::str::from_utf8(body.strip_prefix(MAGIC)?).ok()?;
                    return muster_proto::mqtt::is_boot(boot).then(|| (Record::Header { boot: boot.to_owned() }, taken));
                }
                SCHEMA => self.schema = schema(body)?,
                SAMPLE => return Some((Record::Sample(self.sample(body)?), taken)),
                POSITION => {
                    let (segment, rest) = body.split_first_chunk()?;
                    let (samples, rest) = rest.split_first_chunk()?;
                    let position = Position {
                        segment: u64::from_le_bytes(*segment),
                        samples: u32::from_le_bytes(*samples),
                        dropped: u64::from_le_bytes(*rest.first_chunk()?),
                    };
                    return Some((Record::Position(position), taken));
                }
                // Of a later version: skipped, as everywhere.
                _ => {}
            }
        }
    }

    fn sample(&self, body: &[u8]) -> Option<Sample> {
        let (seq, rest) = body.split_first_chunk()?;
        let (t, rest) = rest.split_first_chunk()?;
        let (values, excess) = rest.as_chunks::<8>();
        if values.len() != self.schema.len() || !excess.is_empty() {
            return None;
        }
        let values = values.iter().map(|value| Some(f64::from_le_bytes(*value)).filter(|value| value.is_finite()));
        Some(Sample { seq: u64::from_le_bytes(*seq), t: i64::from_le_bytes(*t), values: self.schema.iter().cloned().zip(values).collect() })
    }
}

/// The payload of the record at the start of `bytes`, if it is whole and its checksum holds; and the record's length.
fn frame(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (crc, rest) = rest.split_first_chunk()?;
    let len = u32::from_le_bytes(*len) as usize;
    let payload = rest.get(..len).filter(|_| len <= PAYLOAD_MAX)?;
    (crc32(payload) == u32::from_le_bytes(*crc)).then_some((payload, FRAME + len))
}

fn schema(body: &[u8]) -> Option<Vec<Arc<str>>> {
    let (count, mut rest) = body.split_first_chunk()?;
    let mut names = Vec::new();
    for _ in 0..u16::from_le_bytes(*count) {
        let (len, after) = rest.split_first()?;
        let name = after.get(..usize::from(*len))?;
        names.push(Arc::from(std::str::from_utf8(name).ok()?));
        rest = &after[usize::from(*len)..];
    }
    Some(names)
}

/// CRC-32 (IEEE 802.3), a nibble at a time: 64 bytes of table, and a sample is 300 bytes.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = {
        let mut table = [0; 16];
        let mut i = 0;
        while i < 16 {
            let (mut value, mut bit) = (i as u32, 0);
            while bit < 4 {
                value = if value & 1 == 1 { 0xedb8_8320 ^ (value >> 1) } else { value >> 1 };
                bit += 1;
            }
            table[i] = value;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0u32, |crc, byte| {
        let crc = TABLE[((crc ^ u32::from(*byte)) & 15) as usize] ^ (crc >> 4);
        TABLE[((crc ^ (u32::from(*byte) >> 4)) & 15) as usize] ^ (crc >> 4)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOOT: &str = "0123456789abcdef";

    fn sample(seq: u64) -> Sample {
        Sample { seq, t: 1_795_000_000_000, values: vec![("cpu".into(), Some(0.5)), ("temp:x".into(), None)] }
    }

    fn segment() -> Vec<u8> {
        let mut bytes = Vec::new();
        put_header(&mut bytes, BOOT);
        put_schema(&mut bytes, &["cpu".into(), "temp:x".into()]);
        put_sample(&mut bytes, &sample(7));
        put_position(&mut bytes, Position { segment: 3, samples: 1, dropped: 2 });
        put_sample(&mut bytes, &sample(8));
        bytes
    }

    fn read(mut bytes: &[u8]) -> Vec<Record> {
        let (mut reader, mut records) = (Reader::default(), Vec::new());
        while let Some((record, len)) = reader.next(bytes) {
            records.push(record);
            bytes = &bytes[len..];
        }
        records
    }

    #[test]
    fn bytes_are_frozen() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let mut bytes = Vec::new();
        put_position(&mut bytes, Position { segment: 1, samples: 2, dropped: 3 });
        assert_eq!(bytes[..4], [21, 0, 0, 0]);
        assert_eq!(bytes[8..], [4, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        let mut bytes = Vec::new();
        put_sample(&mut bytes, &Sample { seq: 1, t: 2, values: vec![("a".into(), Some(1.0))] });
        assert_eq!(bytes[8..], [3, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f]);
    }

    #[test]
    fn round_trip() {
        assert_eq!(
            read(&segment()),
            [
                Record::Header { boot: BOOT.into() },
                Record::Sample(sample(7)),
                Record::Position(Position { segment: 3, samples: 1, dropped: 2 }),
                Record::Sample(sample(8)),
            ]
        );
    }

    #[test]
    fn a_torn_tail_costs_only_the_last_record() {
        let bytes = segment();
        let whole = read(&bytes).len();
        for len in 0..bytes.len() {
            assert!(read(&bytes[..len]).len() < whole);
        }
        assert_eq!(read(&bytes[..bytes.len() - 1]).len(), whole - 1);
    }

    proptest! {
        #[test]
        fn never_panics_and_never_takes_damage_for_data(at in 0usize..150, flip in 1u8..=255, noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = segment();
            let whole = read(&bytes);
            let at = at % bytes.len();
            bytes[at] ^= flip;
            let damaged = read(&bytes);
            prop_assert!(damaged.len() < whole.len());
            prop_assert_eq!(&whole[..damaged.len()], &damaged[..]);
            prop_assert!(read(&noise).is_empty());
        }
    }
}
