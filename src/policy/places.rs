//! Rules of a policy: hosts with ports, and windows of the week. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use muster_proto::Millis;

use super::Dial;

/// One entry of `[tcp] allow`: `host:port`, `address:port`, `network/bits:port`; the port a number, a range, or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostRule {
    host: Host,
    ports: RangeInclusive<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    /// `localhost`: both loopback networks.
    Loopback,
    Network(IpAddr, u8),
    Name(String),
}

impl HostRule {
    /// Loopback, any port.
    pub(super) fn loopback() -> Vec<Self> {
        vec![Self { host: Host::Loopback, ports: 1..=u16::MAX }]
    }

    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once("]:").ok_or("write IPv6 as [address]:port or [network/bits]:port")?;
                (host, port)
            }
            None => text.rsplit_once(':').ok_or("write host:port, network/bits:port, or host:*")?,
        };
        let ports = match port.split_once('-') {
            _ if port == "*" => 1..=u16::MAX,
            Some((first, last)) => port_number(first)?..=port_number(last)?,
            None => port_number(port)?..=port_number(port)?,
        };
        if ports.is_empty() {
            return Err("the range of ports is empty".into());
        }
        let host = match host.split_once('/') {
            Some((address, bits)) => {
                let address: IpAddr = address.parse().map_err(|_| format!("{address:?} is not an IP address"))?;
                let most = if address.is_ipv4() { 32 } else { 128 };
                let bits = bits.parse().ok().filter(|bits| *bits <= most).ok_or(format!("a network has 0 to {most} bits"))?;
                Host::Network(address, bits)
            }
            None => match host.parse::<IpAddr>() {
                Ok(address) => Host::Network(address, if address.is_ipv4() { 32 } else { 128 }),
                Err(_) if host.contains(':') => return Err("write IPv6 as [address]:port".into()),
                Err(_) => match name(host) {
                    Some(name) if name == "localhost" => Host::Loopback,
                    Some(name) => Host::Name(name),
                    None => return Err(format!("{host:?} is neither a host name nor an IP address")),
                },
            },
        };
        Ok(Self { host, ports })
    }

    /// What to dial, if this rule covers the target.
    pub(super) fn grants(&self, host: &str, port: u16) -> Option<Dial> {
        if !self.ports.contains(&port) {
            return None;
        }
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // An IPv4 address in IPv6 clothing is the IPv4 address.
        if let Ok(address) = bare.parse::<IpAddr>().map(|address| address.to_canonical()) {
            let covered = match &self.host {
                Host::Loopback => address.is_loopback(),
                Host::Network(network, bits) => covers(*network, *bits, address),
                Host::Name(_) => false,
            };
            return covered.then_some(Dial::Address(address, port));
        }
        let asked = name(host)?;
        match &self.host {
            Host::Loopback if asked == "localhost" => Some(Dial::Loopback(port)),
            // 127.0.0.1 may be called localhost, in a rule for it alone too.
            Host::Network(network, bits) if asked == "localhost" => {
                let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                loopback.into_iter().find(|address| covers(*network, *bits, *address)).map(|address| Dial::Address(address, port))
            }
            Host::Name(name) if *name == asked => Some(Dial::Name(asked, port)),
            _ => None,
        }
    }
}

fn port_number(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("{text:?} is not a port (1 to 65535, a range 1000-2000, or *)"))
}

/// A host name in its one form: lower case, no dot at the end. A name of digits and dots only is refused:
/// resolvers take `127.1` or `2130706433` for addresses.
fn name(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let labels = text.split('.').all(|label| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
    });
    let last = text.rsplit('.').next().unwrap_or("");
    let number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    (text.len() <= 253 && labels && !number).then(|| text.to_ascii_lowercase())
}

fn covers(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            network.to_bits() & mask == address.to_bits() & mask
        }
        _ => false,
    }
}

/// One entry of `[when] windows`: `mon-fri 08:00-18:00`, `sat 10:00-12:30`, `daily 22:00-24:00`. UTC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Window {
    days: RangeInclusive<i64>,
    minutes: std::ops::Range<i64>,
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

impl Window {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let form = "write it as \"mon-fri 08:00-18:00\" (UTC)";
        let (days, times) = text.split_once(' ').ok_or(form)?;
        let day = |text: &str| DAYS.iter().position(|day| *day == text).and_then(|day| i64::try_from(day).ok()).ok_or(form);
        let days = match days.split_once('-') {
            _ if days == "daily" => 0..=6,
            Some((first, last)) => day(first)?..=day(last)?,
            None => day(days)?..=day(days)?,
        };
        let (from, to) = times.trim().split_once('-').ok_or(form)?;
        let minutes = minute(from).ok_or(form)?..minute(to).ok_or(form)?;
        if days.is_empty() || minutes.is_empty() {
            return Err("it must not end before it starts; write two windows where one would wrap around".into());
        }
        Ok(Self { days, minutes })
    }

    pub(super) fn holds(&self, now: Millis) -> bool {
        let minutes = now.div_euclid(60_000);
        // 1970-01-01 was a Thursday, the fourth day.
        let day = (minutes.div_euclid(1440) + 3).rem_euclid(7);
        self.days.contains(&day) && self.minutes.contains(&minutes.rem_euclid(1440))
    }
}

fn minute(text: &str) -> Option<i64> {
    let (hour, minute) = text.split_once(':')?;
    let (hour, minute): (i64, i64) = (hour.parse().ok()?, minute.parse().ok()?);
    let of_day = hour * 60 + minute;
    ((0..=24).contains(&hour) && (0..60).contains(&minute) && of_day <= 1440).then_some(of_day)
}
