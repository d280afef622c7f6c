//! Sizes, ratios and rates for people.

/// Bytes in binary units, three digits at most: "1.5 GiB".
pub fn bytes(n: f64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if !n.is_finite() || n < 0.0 {
        return "?".to_owned();
    }
    let (mut value, mut unit) = (n, 0);
    // 999.5 would be shown as 1000.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value >= 9.95 { format!("{value:.0} {}", UNITS[unit]) } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Whole bytes in binary units.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn byte_count(n: u64) -> String {
    bytes(n as f64)
}

/// Parses a size such as `10GB`, `512MiB` or `1.5T` to bytes. A unit is needed: nobody means ten bytes with `10`.
///
/// # Errors
/// When it is no size, has no unit, or is more than can be counted.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = (&text[..digits], text[digits..].trim().to_lowercase());
    let bad = || format!("{text:?} is not a size: write it with its unit, such as 512MiB, 10GB or 1.5TB");
    let each: u64 = match unit.as_str() {
        "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "" if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            return Err(format!("{text} of what? Write the unit, such as {text}GB or {text}MiB; {text}B for bytes"));
        }
        _ => return Err(bad()),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
    // Six digits after the point are bytes of a megabyte.
    if whole.is_empty() || part.is_empty() || part.len() > 6 {
        return Err(bad());
    }
    let whole: u128 = whole.parse().map_err(|_| bad())?;
    let millionths: u128 = format!("{part:0<6}").parse().map_err(|_| bad())?;
    let bytes = whole.checked_mul(1_000_000).and_then(|n| n.checked_add(millionths)).and_then(|n| n.checked_mul(u128::from(each)));
    let bytes = bytes.ok_or_else(bad)? / 1_000_000;
    u64::try_from(bytes).ok().filter(|bytes| *bytes <= i64::MAX.unsigned_abs()).ok_or_else(|| format!("{text} is too much"))
}

/// Bytes per second.
pub fn rate(n: f64) -> String {
    format!("{}/s", bytes(n))
}

/// A ratio of 0 to 1 as per cent.
pub fn percent(ratio: f64) -> String {
    if ratio.is_finite() { format!("{:.0} %", ratio * 100.0) } else { "?".to_owned() }
}

/// Any other number, with the digits that matter.
pub fn number(n: f64) -> String {
    match n.abs() {
        a if !a.is_finite() => "?".to_owned(),
        a if a >= 1e15 => format!("{n:.3e}"),
        _ if n.fract() == 0.0 => format!("{n:.0}"),
        a if a >= 100.0 => format!("{n:.1}"),
        _ => format!("{n:.2}"),
    }
}

/// A usage column's value in the unit that its name implies, see `muster_proto::mqtt::UsageBatch`.
pub fn usage(column: &str, value: f64) -> String {
    let kind = column.split(':').next().unwrap_or(column);
    match kind {
        "cpu" | "agent_cpu" => percent(value),
        "mem" | "mem_total" | "swap" | "swap_total" | "disk" | "disk_total" | "agent_mem" => bytes(value),
        "disk_read" | "disk_write" | "net_rx" | "net_tx" => rate(value),
        "temp" => format!("{value:.0} °C"),
        "uptime" if value.is_finite() && (0.0..1e12).contains(&value) =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
            super::time::span(value as i64 * 1000)
        }
        _ => number(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (n, text) in [
            (0.0, "0 B"),
            (999.0, "999 B"),
            (1000.0, "1.0 KiB"),
            (1024.0, "1.0 KiB"),
            (10_240.0, "10 KiB"),
            (1_610_612_736.0, "1.5 GiB"),
            (f64::NAN, "?"),
            (-1.0, "?"),
        ] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(byte_count(u64::MAX), "16 EiB");
    }

    #[test]
    fn typed_sizes() {
        for (text, n) in [
            ("0B", 0),
            ("10GB", 10_000_000_000),
            ("512MiB", 512 << 20),
            ("512 mib", 512 << 20),
            ("16M", 16 << 20),
            ("1.5TB", 1_500_000_000_000),
            ("0.5KiB", 512),
            ("20k", 20_480),
        ] {
            assert_eq!(parse_bytes(text), Ok(n), "{text}");
        }
        assert!(parse_bytes("10").unwrap_err().contains("Write the unit, such as 10GB"));
        for bad in ["", "GB", "-1GB", "1..5GB", "1.GB", ".5GB", "10 bananas", "10GBB", "1e3GB", "1.1234567GB", "１GB", "9999999999TB"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert!(parse_bytes("8388608TiB").is_err() && parse_bytes("8388607TiB").is_ok());
    }

    #[test]
    fn by_column() {
        for (column, value, text) in [
            ("cpu", 0.123, "12 %"),
            ("mem", 8_589_934_592.0, "8.0 GiB"),
            ("disk:/", 1024.0, "1.0 KiB"),
            ("net_rx:eth0", 2048.0, "2.0 KiB/s"),
            ("temp:cpu", 51.4, "51 °C"),
            ("uptime", 7500.0, "2 h 5 min"),
            ("load1", 0.456, "0.46"),
            ("battery", 87.0, "87"),
            ("mission", 123.456, "123.5"),
        ] {
            assert_eq!(usage(column, value), text, "{column}");
        }
    }
}
