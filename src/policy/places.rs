//! Rules of a policy for places: hosts with ports, and relays. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use muster_proto::network::covers;

use super::Dial;

/// One entry of `[tcp] allow`: `host:port`, `address:port`, `network/bits:port`; the port a number, a range, or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostRule {
    /// As the owner wrote it.
    text: String,
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
        vec![Self { text: "localhost:*".into(), host: Host::Loopback, ports: 1..=u16::MAX }]
    }

    /// As the owner wrote it.
    pub(super) fn text(&self) -> &str {
        &self.text
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
        Ok(Self { text: text.to_owned(), host, ports })
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

/// One entry of a list of hosts, in its one form: a name in lower case, an address without brackets. A scheme may stand before it.
pub(super) fn host(text: &str) -> Result<String, String> {
    let text = match text.split_once("://") {
        Some((scheme, rest)) if matches!(&*scheme.to_ascii_lowercase(), "https" | "wss" | "mqtts") => {
            rest.strip_suffix('/').unwrap_or(rest)
        }
        _ => text,
    };
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(address.to_canonical().to_string());
    }
    name(text).ok_or_else(|| "write a name or an address, without a port".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_one_form() {
        let good = [
            ("Relay.example.com.", "relay.example.com"),
            ("10.0.0.1", "10.0.0.1"),
            ("[FD00::1]", "fd00::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("localhost", "localhost"),
            ("https://Relay.example.com", "relay.example.com"),
            ("WSS://[fd00::1]/", "fd00::1"),
            ("mqtts://10.0.0.1", "10.0.0.1"),
        ];
        for (text, want) in good {
            assert_eq!(host(text).as_deref(), Ok(want), "{text}");
        }
        for bad in [
            "",
            "https://",
            "http://relay.example.com",
            "https://relay.example.com:443",
            "https://relay.example.com/x",
            "relay.example.com:443",
            "*.example.com",
            "a b",
            "127.1",
            "[10.0.0.1",
            "x/y",
        ] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
