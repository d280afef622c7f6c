//! A batch of samples as `up/usage` carries it, in few bytes. Pure.
//!
//! It is [`muster_proto::mqtt::UsageBatch`], written by hand: a number in its shortest form (`8.39e9`), a column that does not change as one number.
//! That halves the payload, and usage is two thirds of what an idle device sends.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use muster_proto::limits::{PAYLOAD_MAX, USAGE_COLUMNS_MAX, USAGE_SAMPLES_MAX};

use crate::spool::{Batch, Spool};

/// Samples in one batch at most: ten minutes at the usual step; a long backlog goes in several batches.
pub(crate) const SAMPLES_MAX: usize = if USAGE_SAMPLES_MAX < 60 { USAGE_SAMPLES_MAX } else { 60 };

/// The oldest samples of the spool and their bytes, within the wire's bound.
pub(crate) fn next(spool: &mut Spool) -> Option<(Batch, Vec<u8>)> {
    let mut most = SAMPLES_MAX;
    loop {
        let batch = spool.peek(most)?;
        let bytes = encode(&batch);
        // One sample cannot be over it: 256 columns of at most 100 bytes.
        if bytes.len() <= PAYLOAD_MAX || most == 1 {
            return Some((batch, bytes));
        }
        most = (most / 2).max(1);
    }
}

/// Encodes a batch. It has at least one sample.
fn encode(batch: &Batch) -> Vec<u8> {
    let samples = &batch.samples;
    let (first_seq, t0) = samples.first().map_or((0, 0), |first| (first.seq, first.t));
    let step_ms = samples.get(1).map_or(0, |second| second.t - t0);
    let even = (0..=86_400_000).contains(&step_ms) && samples.iter().enumerate().all(|(i, sample)| sample.t == t0 + i as i64 * step_ms);

    let mut out = format!("{{\"boot\":\"{}\",\"first_seq\":{first_seq},\"n\":{},\"t0\":{t0},\"step_s\":", batch.boot, samples.len());
    put_number(&mut out, if even { step_ms as f64 / 1000.0 } else { 0.0 });
    if !even {
        out.push_str(",\"dt\":[");
        for (i, sample) in samples.iter().enumerate() {
            let _ = write!(out, "{}{}", if i > 0 { "," } else { "" }, sample.t - t0);
        }
        out.push(']');
    }
    if batch.dropped > 0 {
        let _ = write!(out, ",\"dropped\":{}", batch.dropped);
    }
    out.push_str(",\"c\":{");
    for (i, (name, values)) in columns(batch).into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        // A mount point or a label may hold quotes.
        out.push_str(&serde_json::to_string(&*name).unwrap_or_default());
        out.push(':');
        put_column(&mut out, &values);
    }
    out.push_str("}}");
    out.into_bytes()
}

/// Values by column, in the order of the samples; columns may come and go within a batch. A column without any value is left out.
fn columns(batch: &Batch) -> BTreeMap<Arc<str>, Vec<Option<f64>>> {
    let mut columns: BTreeMap<Arc<str>, Vec<Option<f64>>> = BTreeMap::new();
    for (i, sample) in batch.samples.iter().enumerate() {
        for (name, value) in &sample.values {
            if value.is_some() && (columns.len() < USAGE_COLUMNS_MAX || columns.contains_key(name)) {
                columns.entry(Arc::clone(name)).or_insert_with(|| vec![None; batch.samples.len()])[i] = *value;
            }
        }
    }
    columns
}

fn put_column(out: &mut String, values: &[Option<f64>]) {
    if let Some(Some(first)) = values.first()
        && values.iter().all(|value| *value == Some(*first))
    {
        return put_number(out, *first);
    }
    for (i, value) in values.iter().enumerate() {
        out.push(if i == 0 { '[' } else { ',' });
        match value {
            Some(value) => put_number(out, *value),
            None => out.push_str("null"),
        }
    }
    out.push(']');
}

/// The shorter of `1234` and `1.234e3`; both are JSON. Both read back as the same number.
fn put_number(out: &mut String, value: f64) {
    if !value.is_finite() {
        return out.push_str("null");
    }
    let (plain, scientific) = (format!("{value}"), format!("{value:e}"));
    out.push_str(if scientific.len() < plain.len() { &scientific } else { &plain });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Sample;
    use muster_proto::mqtt::UsageBatch;

    /// A batch can only be had from a spool.
    fn batch(samples: &[Sample]) -> (tempfile::TempDir, Batch) {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path().join("s"), 1 << 20, "0123456789abcdef".into());
        for sample in samples {
            spool.push(sample.clone());
        }
        let batch = spool.peek(SAMPLES_MAX).unwrap();
        (dir, batch)
    }

    fn sample(seq: u64, t: i64, values: &[(&str, Option<f64>)]) -> Sample {
        Sample { seq, t, values: values.iter().map(|(name, value)| ((*name).into(), *value)).collect() }
    }

    #[test]
    fn bytes_are_frozen_and_read_back() {
        let (_dir, batch) = batch(&[
            sample(5, 1_795_000_000_000, &[("cpu", Some(0.012)), ("mem", Some(8.39e9)), ("x\"y", None)]),
            sample(6, 1_795_000_010_000, &[("cpu", Some(0.5)), ("mem", Some(8.39e9)), ("x\"y", Some(-1.0))]),
        ]);
        let bytes = encode(&batch);
        assert_eq!(
            String::from_utf8(bytes.clone()).unwrap(),
            r#"{"boot":"0123456789abcdef","first_seq":5,"n":2,"t0":1795000000000,"step_s":10,"c":{"cpu":[0.012,0.5],"mem":8.39e9,"x\"y":[null,-1]}}"#
        );
        let read = UsageBatch::decode(&bytes).unwrap();
        assert_eq!(read.c["mem"].at(1), Some(8_390_000_000.0));
        assert_eq!(read.c["x\"y"].at(0), None);
        assert_eq!((read.time_of(1), read.dt), (1_795_000_010_000, None));
    }

    #[test]
    fn uneven_steps_keep_their_times() {
        let times = [1_795_000_000_000, 1_795_000_010_000, 1_795_000_010_100, 1_794_000_000_000];
        let samples: Vec<Sample> = (0..).zip(times).map(|(seq, t)| sample(seq, t, &[("cpu", Some(0.0))])).collect();
        let (_dir, batch) = batch(&samples);
        let read = UsageBatch::decode(&encode(&batch)).unwrap();
        assert_eq!((0..4).map(|i| read.time_of(i)).collect::<Vec<_>>(), times);
    }

    #[test]
    fn one_sample_is_a_batch() {
        let (_dir, batch) = batch(&[sample(0, 1_795_000_000_000, &[("cpu", Some(1.0))])]);
        assert_eq!(UsageBatch::decode(&encode(&batch)).unwrap().c["cpu"].at(0), Some(1.0));
    }

    #[test]
    fn the_largest_batch_is_under_the_bound() {
        let names: Vec<String> = (0..130).map(|i| format!("net_rx:some-long-interface-name-of-forty-bytes-{i}")).collect();
        let values: Vec<(&str, Option<f64>)> = names.iter().map(|name| (name.as_str(), Some(12_345.6))).collect();
        let samples: Vec<Sample> = (0..200)
            .map(|seq| {
                let mut sample = sample(seq, 1_795_000_000_000, &values);
                sample.values.iter_mut().for_each(|(_, value)| *value = value.map(|value| value + seq as f64));
                sample
            })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::open(dir.path().join("s"), 1 << 20, "0123456789abcdef".into());
        samples.into_iter().for_each(|sample| spool.push(sample));
        let (batch, bytes) = next(&mut spool).unwrap();
        assert!((10..SAMPLES_MAX).contains(&batch.samples.len()), "{}", batch.samples.len());
        UsageBatch::decode(&bytes).unwrap();
    }

    #[test]
    fn numbers_are_short_and_exact() {
        for (value, text) in [(0.0, "0"), (8.39e9, "8.39e9"), (0.5, "0.5"), (12.0, "12"), (1e-4, "1e-4"), (f64::NAN, "null"), (-3.0, "-3")]
        {
            let mut out = String::new();
            put_number(&mut out, value);
            assert_eq!(out, text);
        }
        for bits in [1u64, 0x3fb9_9999_9999_999a, 0x7fef_ffff_ffff_ffff, 0x4330_0000_0000_0001] {
            let value = f64::from_bits(bits);
            let mut out = String::new();
            put_number(&mut out, value);
            assert_eq!(serde_json::from_str::<f64>(&out).unwrap(), value);
        }
    }
}
