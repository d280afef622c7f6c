//! Written values: numbers with units, days, times.

use muster_proto::Millis;

use super::QueryError;
use super::columns::Unit;
use super::syntax::Literal;
use crate::clock::{DAY, SECOND};

/// Units of durations, in seconds.
const DURATIONS: &[(&str, f64)] =
    &[("ms", 0.001), ("s", 1.0), ("m", 60.0), ("min", 60.0), ("h", 3600.0), ("d", 86_400.0), ("w", 604_800.0)];
const BYTES: &[(&str, f64)] = &[
    ("b", 1.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("tb", 1e12),
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("tib", 1_099_511_627_776.0),
];
/// The last day that is understood: the year 9999.
const LAST_YEAR: i64 = 9999;

/// A number with its unit.
pub(super) fn number(literal: &Literal, unit: Unit) -> Result<f64, QueryError> {
    let units: &[&[(&str, f64)]] = match unit {
        Unit::Plain => &[],
        Unit::Ratio => &[&[("%", 0.01)]],
        Unit::Seconds => &[DURATIONS],
        Unit::Any => &[&[("%", 0.01)], BYTES, DURATIONS],
    };
    let wrong = || {
        let like = match unit {
            Unit::Plain => "a number, such as 12 or 0.5",
            Unit::Ratio => "a ratio from 0 to 1, such as 0.8, or a percentage, such as 80%",
            Unit::Seconds => "a duration, such as 90s, 15min, 36h or 7d",
            Unit::Any => "a number, such as 0.8, 80%, 2GB, 512MiB or 36h",
        };
        QueryError::new(literal.at, format!("expected {like}, found \"{}\"", literal.text.chars().take(40).collect::<String>()))
    };
    let (value, suffix) = split(&literal.text).ok_or_else(wrong)?;
    if suffix.is_empty() {
        if unit == Unit::Ratio && value.abs() > 1.0 {
            return Err(QueryError::new(literal.at, format!("a ratio goes from 0 to 1: write {}, or {value}%", value / 100.0)));
        }
        return Ok(value);
    }
    let suffix = suffix.to_lowercase();
    let known = units.iter().flat_map(|units| units.iter()).find(|(known, _)| *known == suffix);
    let (_, factor) = known.ok_or_else(wrong)?;
    // 80% is 0.8, as a person who compares it writes it.
    Ok(if *factor == 0.01 { value / 100.0 } else { value * factor })
}

/// A plain finite number and what stands behind it.
fn split(text: &str) -> Option<(f64, &str)> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let signed = text.len() - digits.len();
    let mut end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    // An exponent, where digits follow: 1e6, 2.5E-3.
    if let Some(rest) = digits[end..].strip_prefix(['e', 'E']) {
        let exponent = rest.strip_prefix(['-', '+']).unwrap_or(rest);
        let length = exponent.find(|c: char| !c.is_ascii_digit()).unwrap_or(exponent.len());
        if length > 0 {
            end += 1 + (rest.len() - exponent.len()) + length;
        }
    }
    let value: f64 = text[..signed + end].parse().ok()?;
    value.is_finite().then_some((value, &digits[end..]))
}

/// A plain number, as a field or a fact holds it.
pub(super) fn plain(text: &str) -> Option<f64> {
    split(text).filter(|(_, rest)| rest.is_empty()).map(|(value, _)| value)
}

/// A time as it was written: from its first millisecond to that after its last. A day is long, a minute is short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first millisecond.
    pub begin: Millis,
    /// The first one behind it.
    pub end: Millis,
}

/// `2026-11-22`, `2026-11-22T10:30`, `2026-11-22T10:30:00+01:00`, `now`, `now-1h`, `today`, `today-7d`, `yesterday`.
pub(super) fn time(literal: &Literal, now: Millis) -> Result<Span, QueryError> {
    let text = literal.text.trim();
    relative(text, now).or_else(|| absolute(text)).ok_or_else(|| {
        let hint = match split(text) {
            Some((_, unit)) if DURATIONS.iter().any(|(known, _)| *known == unit.to_lowercase()) => format!(": write now-{text}"),
            _ => String::new(),
        };
        let found: String = text.chars().take(40).collect();
        let why = format!("expected a time, such as now-1h, today, 2026-11-22 or 2026-11-22T10:30:00Z, found \"{found}\"{hint}");
        QueryError::new(literal.at, why)
    })
}

fn relative(text: &str, now: Millis) -> Option<Span> {
    let low = text.to_lowercase();
    let (begin, length, rest) = if let Some(rest) = low.strip_prefix("now") {
        (now, 1, rest)
    } else {
        let today = now - now.rem_euclid(DAY);
        match low.strip_prefix("yesterday") {
            Some(rest) => (today - DAY, DAY, rest),
            None => (today, DAY, low.strip_prefix("today")?),
        }
    };
    let shift = match rest {
        "" => 0.0,
        _ => {
            let (value, unit) = split(rest).filter(|_| rest.starts_with(['-', '+']))?;
            let (_, seconds) = DURATIONS.iter().find(|(known, _)| *known == unit)?;
            value * seconds * 1000.0
        }
    };
    // Some ten thousand years either way, so that nothing overflows.
    if shift.abs() > 4e14 {
        return None;
    }
    #[allow(clippy::cast_possible_truncation, reason = "bounded just above")]
    let begin = begin.checked_add(shift as Millis)?;
    Some(Span { begin, end: begin.checked_add(length)? })
}

fn absolute(text: &str) -> Option<Span> {
    let (date, clock) = match text.split_once(['T', 't', ' ']) {
        Some((date, clock)) => (date, Some(clock)),
        None => (text, None),
    };
    let midnight = day(date)?;
    let Some(clock) = clock else { return Some(Span { begin: midnight, end: midnight + DAY }) };
    let (clock, offset) = zone(clock)?;
    let mut parts = clock.splitn(3, ':');
    let (hour, minute) = (two(parts.next()?, 23)?, two(parts.next()?, 59)?);
    let (second, length) = match parts.next() {
        None => (0, 60 * SECOND),
        Some(seconds) => {
            let (whole, fraction) = seconds.split_once('.').map_or((seconds, None), |(whole, fraction)| (whole, Some(fraction)));
            let millis = match fraction {
                None => 0,
                Some(digits) if (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                    format!("{digits:0<3}")[..3].parse::<Millis>().ok()?
                }
                Some(_) => return None,
            };
            (two(whole, 59)? * SECOND + millis, if fraction.is_some() { 1 } else { SECOND })
        }
    };
    let begin = midnight + (hour * 3600 + minute * 60) * SECOND + second - offset;
    Some(Span { begin, end: begin + length })
}

/// The clock without its zone, and the zone's distance from UTC. Without a zone it is UTC.
fn zone(clock: &str) -> Option<(&str, Millis)> {
    if let Some(clock) = clock.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = clock.rfind(['+', '-']) else { return Some((clock, 0)) };
    let (hours, minutes) = clock[at + 1..].split_once(':')?;
    let offset = (two(hours, 23)? * 3600 + two(minutes, 59)? * 60) * SECOND;
    Some((&clock[..at], if clock[at..].starts_with('-') { -offset } else { offset }))
}

fn two(text: &str, most: Millis) -> Option<Millis> {
    let value = text.parse::<Millis>().ok().filter(|_| text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit()))?;
    (value <= most).then_some(value)
}

/// `2026-11-22` as its midnight in UTC.
pub fn day(text: &str) -> Option<Millis> {
    let bytes = text.as_bytes();
    let shape =
        bytes.len() == 10 && bytes.iter().enumerate().all(|(n, byte)| if n == 4 || n == 7 { *byte == b'-' } else { byte.is_ascii_digit() });
    if !shape {
        return None;
    }
    let (year, month, day) = (text[..4].parse::<i64>().ok()?, text[5..7].parse::<i64>().ok()?, text[8..].parse::<i64>().ok()?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=LAST_YEAR).contains(&year) || !(1..=length).contains(&day) {
        return None;
    }
    // Days since 1970-01-01 of a year that begins in March, after H. Hinnant's days_from_civil.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * month + 2) / 5 + day - 1;
    Some((era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468) * DAY)
}
