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
