//! When the device's certificate begins and ends: the one thing that we read of X.509. Pure.
//!
//! The rest of it is the hub's business, and rustls's.

use muster_proto::Millis;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// The span of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    /// Valid from.
    pub from: Millis,
    /// Valid to.
    pub to: Millis,
}

impl Validity {
    /// Of the first certificate in a PEM text. `None` if there is none or it does not parse.
    pub(crate) fn of_pem(pem: &str) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        Self::of_der(&certificate)
    }

    fn of_der(der: &[u8]) -> Option<Self> {
        // Certificate, in it the signed part: [0] version, serial number, algorithm, issuer, validity (RFC 5280, 4.1).
        let (_, certificate, _) = value(der)?;
        let (_, mut signed, _) = value(certificate)?;
        if let (0xa0, _, rest) = value(signed)? {
            signed = rest;
        }
        for _ in 0..3 {
            signed = value(signed)?.2;
        }
        let (_, validity, _) = value(signed)?;
        let (tag, from, rest) = value(validity)?;
        let from = time(tag, from)?;
        let (tag, to, _) = value(rest)?;
        Some(Self { from, to: time(tag, to)? })
    }

    /// When to ask for a new one: at two thirds of the lifetime.
    pub(crate) fn renew_at(self) -> Millis {
        self.from + (self.to - self.from) / 3 * 2
    }
}

/// Tag, value and what follows.
fn value(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, mut rest) = rest.split_first()?;
    let mut len = usize::from(*first);
    if len > 127 {
        let digits = rest.get(..len - 128).filter(|digits| digits.len() <= 3)?;
        rest = &rest[digits.len()..];
        len = digits.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
    }
    Some((*tag, rest.get(..len)?, &rest[len..]))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(tag: u8, text: &[u8]) -> Option<Millis> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        0x17 => {
            let year: i64 = text.get(..2)?.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
        }
        0x18 => (text.get(..4)?.parse().ok()?, text.get(4..)?),
        _ => return None,
    };
    let part = |i: usize| rest.get(2 * i..2 * i + 2)?.parse::<i64>().ok();
    let (month, day, hour, minute, second) = (part(0)?, part(1)?, part(2)?, part(3)?, part(4)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days from civil (Hinnant), with March as the first month.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + (153 * month + 2) / 5 + day - 1;
    let days = era * 146_097 + day_of_era - 719_468;
    Some((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(time(0x17, b"261122154526Z"), Some(1_795_362_326_000));
        assert_eq!(time(0x18, b"20000229000000Z"), Some(951_782_400_000));
        assert_eq!(time(0x17, b"700101000000Z"), Some(0));
        for bad in [&b""[..], b"Z", b"2611221545Z", b"26x122154526Z", b"261322154526Z", b"261122154526"] {
            assert_eq!(time(0x17, bad), None);
        }
    }

    #[test]
    fn of_a_certificate() {
        let mut tbs = vec![0xa0, 3, 2, 1, 2, 2, 1, 5, 0x30, 0, 0x30, 0, 0x30, 30, 0x17, 13];
        tbs.extend(b"261122154526Z");
        tbs.extend([0x17, 13]);
        tbs.extend(b"270220154526Z");
        let mut der = vec![0x30, tbs.len() as u8 + 2, 0x30, tbs.len() as u8];
        der.extend(&tbs);
        let validity = Validity::of_der(&der).unwrap();
        assert_eq!((validity.to - validity.from) / 86_400_000, 90);
        assert_eq!((validity.renew_at() - validity.from) / 86_400_000, 60);
        for len in 0..der.len() {
            assert_eq!(Validity::of_der(&der[..len]), None);
        }
    }
}
