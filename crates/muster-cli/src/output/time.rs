//! Times for people: "3 min ago", local dates, and what they type as durations.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use muster_proto::Millis;

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Times within this of now are "now": clocks of two machines are never the same.
const NOW: i64 = 5 * SECOND;

/// This machine's clock.
pub fn now() -> Millis {
    Timestamp::now().as_millisecond()
}

/// A length of time in its one or two largest units.
pub fn span(ms: i64) -> String {
    match ms.abs() {
        ms if ms < MINUTE => format!("{} s", ms / SECOND),
        ms if ms < HOUR => format!("{} min", ms / MINUTE),
        ms if ms < 10 * HOUR && ms % HOUR >= MINUTE => format!("{} h {} min", ms / HOUR, ms % HOUR / MINUTE),
        ms if ms < 2 * DAY => format!("{} h", ms / HOUR),
        ms => format!("{} days", ms / DAY),
    }
}

/// How far a time lies from `now`: "3 min ago", "in 6 days".
pub fn ago(now: Millis, t: Millis) -> String {
    let away = now.saturating_sub(t);
    if away.saturating_abs() < NOW {
        "now".to_owned()
    } else if away > 0 {
        format!("{} ago", coarse(away))
    } else {
        // What was made for 7 days ends "in 7 days", not in 6 and 23 hours.
        format!("in {}", coarse(rounded(away.saturating_neg())))
    }
}

/// Half a unit more, in the unit that [`coarse`] shows: so its cut becomes the nearest.
fn rounded(ms: i64) -> i64 {
    ms.saturating_add(match ms {
        ms if ms < MINUTE => SECOND / 2,
        ms if ms < HOUR => MINUTE / 2,
        ms if ms < 2 * DAY => HOUR / 2,
        _ => DAY / 2,
    })
}

/// A length of time in its largest unit.
fn coarse(ms: i64) -> String {
    match ms {
        ms if ms < MINUTE => format!("{} s", ms / SECOND),
        ms if ms < HOUR => format!("{} min", ms / MINUTE),
        ms if ms < 2 * DAY => format!("{} h", ms / HOUR),
        ms => format!("{} days", ms / DAY),
    }
}

/// A time on this machine's calendar, to the second.
pub fn local(t: Millis) -> String {
    in_zone(t, TimeZone::system())
}

fn in_zone(t: Millis, zone: TimeZone) -> String {
    match Timestamp::from_millisecond(t) {
        Ok(at) => at.to_zoned(zone).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("{t} ms"),
    }
}

/// A time on the calendar and how far away it is.
pub fn local_ago(now: Millis, t: Millis) -> String {
    format!("{} ({})", local(t), ago(now, t))
}

/// Parses a duration such as `90s`, `30m`, `12h`, `7d`, `2w` or `1d12h` to seconds.
///
/// # Errors
/// When it is not one, or over a hundred years.
pub fn parse_span(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a duration: write it as 90s, 30m, 12h, 7d or 1d12h");
    let (mut total, mut rest) = (0u64, text.trim());
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "s" | "sec" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return Err(bad()),
        };
        rest = &rest[letters..];
        total = number.checked_mul(unit).and_then(|s| total.checked_add(s)).filter(|s| *s <= 100 * 366 * 86_400).ok_or_else(bad)?;
    }
    Ok(total)
}

/// Parses a moment as every command takes it: `now`, `now-1h`, `today`, `yesterday`, a length of time back such as `7d`,
/// a time of today such as `10:00`, a local date or time, or one with a zone (RFC 3339).
///
/// # Errors
/// When it is none of these.
pub fn parse_time(text: &str) -> Result<Millis, String> {
    parse_time_at(text, now(), &TimeZone::system())
}

/// [`parse_time`] at a given moment, with days of a given zone.
///
/// # Errors
/// When it is no time.
pub fn parse_time_at(text: &str, now: Millis, zone: &TimeZone) -> Result<Millis, String> {
    let bad = || {
        format!("{text:?} is not a time: write now-1h, 7d, today, yesterday, 10:00, 2026-01-31, 2026-01-31T12:00 or 2026-01-31T12:00:00Z")
    };
    let typed = text.trim().to_lowercase();
    relative(&typed, now, zone).or_else(|| absolute(text.trim(), now, zone)).ok_or_else(bad)
}

/// `now`, `today` and `yesterday` with what is added or taken away, or a length of time back from now.
fn relative(typed: &str, now: Millis, zone: &TimeZone) -> Option<Millis> {
    let midnight = |days_back: i64| {
        let date = Timestamp::from_millisecond(now).ok()?.to_zoned(zone.clone()).date();
        let date = date.checked_sub(jiff::Span::new().try_days(days_back).ok()?).ok()?;
        Some(date.to_zoned(zone.clone()).ok()?.timestamp().as_millisecond())
    };
    let words = [("now", Some(now)), ("today", midnight(0)), ("yesterday", midnight(1))];
    let (start, shift) = match words.into_iter().find_map(|(word, start)| typed.strip_prefix(word).map(|rest| (start, rest))) {
        Some((start, rest)) => (start?, rest.trim()),
        // A length of time alone lies back from now; `-1h` can mean nothing else.
        None => (now, typed),
    };
    let (back, length) = match (shift.strip_prefix('-'), shift.strip_prefix('+')) {
        (Some(length), _) => (true, length),
        (_, Some(length)) if shift != typed => (false, length),
        _ if shift.is_empty() && !typed.is_empty() => return Some(start),
        _ if shift == typed => (true, shift),
        _ => return None,
    };
    let length = i64::try_from(parse_span(length).ok()?).ok()?.checked_mul(SECOND)?;
    if back { start.checked_sub(length) } else { start.checked_add(length) }
}

/// A date, a time of a day, or a time of today.
fn absolute(text: &str, now: Millis, zone: &TimeZone) -> Option<Millis> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at.as_millisecond());
    }
    let today = || Timestamp::from_millisecond(now).ok().map(|now| now.to_zoned(zone.clone()).date());
    let clock = || text.contains(':').then(|| text.parse::<jiff::civil::Time>().ok()).flatten();
    let civil = text
        .parse::<jiff::civil::DateTime>()
        .ok()
        .or_else(|| Some(text.parse::<jiff::civil::Date>().ok()?.at(0, 0, 0, 0)))
        .or_else(|| Some(today()?.to_datetime(clock()?)))?;
    Some(civil.to_zoned(zone.clone()).ok()?.timestamp().as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let now = 1_800_000_000_000;
        for (back, text) in [
            (0, "now"),
            (4 * SECOND, "now"),
            (-4 * SECOND, "now"),
            (12 * SECOND, "12 s ago"),
            (3 * MINUTE + 50 * SECOND, "3 min ago"),
            (5 * HOUR, "5 h ago"),
            (47 * HOUR, "47 h ago"),
            (49 * HOUR, "2 days ago"),
            (-6 * DAY - HOUR, "in 6 days"),
            (-7 * DAY + SECOND, "in 7 days"),
            (-24 * HOUR + MINUTE, "in 24 h"),
            (-HOUR + SECOND, "in 1 h"),
        ] {
            assert_eq!(ago(now, now - back), text);
        }
        assert!(ago(i64::MAX, i64::MIN).contains("days ago"));
    }

    #[test]
    fn lengths() {
        for (ms, text) in [
            (0, "0 s"),
            (59_999, "59 s"),
            (3 * MINUTE, "3 min"),
            (2 * HOUR + 5 * MINUTE, "2 h 5 min"),
            (9 * HOUR, "9 h"),
            (30 * HOUR, "30 h"),
            (72 * HOUR, "3 days"),
        ] {
            assert_eq!(span(ms), text);
        }
    }

    #[test]
    fn typed_lengths() {
        for (text, seconds) in
            [("90s", 90), ("30m", 1800), ("30min", 1800), ("12h", 43_200), ("7d", 604_800), ("1d12h", 129_600), ("2w", 1_209_600)]
        {
            assert_eq!(parse_span(text), Ok(seconds), "{text}");
        }
        for bad in ["", "7", "d", "7 d", "-1d", "1y", "99999999999999999999d", "9999999w", "1.5h", "7d x"] {
            assert!(parse_span(bad).unwrap_err().contains("is not a duration"), "{bad}");
        }
    }

    #[test]
    fn typed_times() {
        let now = 1_800_000_000_000;
        let berlin = TimeZone::fixed(jiff::tz::offset(1));
        // 2027-01-15 09:00 in Berlin.
        let midnight = now - 9 * HOUR;
        for (text, t) in [
            ("2h", now - 2 * HOUR),
            ("-2h", now - 2 * HOUR),
            ("now", now),
            (" Now ", now),
            ("now-1d12h", now - 36 * HOUR),
            ("now+5m", now + 5 * MINUTE),
            ("today", midnight),
            ("today-7d", midnight - 7 * DAY),
            ("yesterday", midnight - DAY),
            ("yesterday+8h", midnight - 16 * HOUR),
            ("08:30", midnight + 8 * HOUR + 30 * MINUTE),
            ("2026-01-31T12:00:00Z", 1_769_860_800_000),
            ("2026-01-31T12:00:00", 1_769_857_200_000),
            ("2026-01-31 12:00", 1_769_857_200_000),
            ("2026-01-31", 1_769_814_000_000),
        ] {
            assert_eq!(parse_time_at(text, now, &berlin), Ok(t), "{text}");
        }
        for bad in ["", "-", "tomorrow", "now-", "now1h", "today-1", "--2h", "+2h", "2026-13-01", "12", "25:00", "-1", "now-99999w"] {
            let why = parse_time_at(bad, now, &berlin).unwrap_err();
            assert!(why.contains("is not a time: write now-1h, 7d, today"), "{bad}: {why}");
        }
    }

    #[test]
    fn dates() {
        assert_eq!(in_zone(1_769_860_800_000, TimeZone::UTC), "2026-01-31 12:00:00");
        assert_eq!(in_zone(i64::MAX, TimeZone::UTC), "9223372036854775807 ms");
    }
}
