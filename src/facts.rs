//! What the device states about itself: read once per connection, cheap, and nothing that a person would mind.

use std::collections::BTreeSet;

use muster_proto::mqtt::Facts;
use serde_json::{Value, json};

/// Addresses that are told at most.
const ADDRESSES_MAX: usize = 16;

/// The daemon's version, as it states it everywhere.
pub(crate) const AGENT: &str = concat!("musterd ", env!("CARGO_PKG_VERSION"));

/// Reads the facts of this machine. What cannot be read is left out.
pub(crate) fn read() -> Facts {
    let mut facts = Facts::default();
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            facts.0.insert(name.to_owned(), value);
        }
    };
    put("agent", Some(AGENT.into()));
    put("arch", Some(std::env::consts::ARCH.into()));
    put("hostname", line("/proc/sys/kernel/hostname"));
    put("kernel", line("/proc/sys/kernel/osrelease"));
    put("os", std::fs::read_to_string("/etc/os-release").ok().and_then(|text| pretty_name(&text)).map(Value::from));
    put("model", line("/proc/device-tree/model").or_else(|| line("/sys/class/dmi/id/product_name")));
    put("cpus", std::thread::available_parallelism().ok().map(|count| json!(count.get())));
    let v4 = std::fs::read_to_string("/proc/net/fib_trie").unwrap_or_default();
    let v6 = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    put("addresses", Some(json!(addresses(&v4, &v6))));
    facts.bounded()
}

fn line(path: &str) -> Option<Value> {
    let text = std::fs::read_to_string(path).ok()?;
    let text: String = text.trim_matches(['\0', '\n', ' ']).chars().filter(|c| !c.is_control()).take(120).collect();
    (!text.is_empty()).then(|| text.into())
}

fn pretty_name(os_release: &str) -> Option<String> {
    let name = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(name.trim_matches('"').chars().take(120).collect())
}

/// Addresses of this machine, without loopback and link-local ones.
fn addresses(fib_trie: &str, if_inet6: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    let mut last = "";
    for line in fib_trie.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address;
        } else if line.contains("host LOCAL") && !last.starts_with("127.") && !last.starts_with("169.254.") {
            found.insert(last.to_owned());
        }
    }
    for line in if_inet6.lines() {
        let mut fields = line.split_ascii_whitespace();
        // Address, index, prefix, scope (00 is global), flags, name.
        let (Some(digits), Some("00")) = (fields.next(), fields.nth(2)) else { continue };
        if let Ok(bits) = u128::from_str_radix(digits, 16) {
            found.insert(std::net::Ipv6Addr::from_bits(bits).to_string());
        }
    }
    found.into_iter().take(ADDRESSES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsed() {
        assert_eq!(pretty_name("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n").as_deref(), Some("Debian GNU/Linux 12"));
        let fib = "Main:\n  +-- 0.0.0.0/0 3\n     |-- 10.0.2.15\n        /32 host LOCAL\n     |-- 10.0.2.255\n        /32 link BROADCAST\n\
                   |-- 127.0.0.1\n /32 host LOCAL\nLocal:\n     |-- 10.0.2.15\n        /32 host LOCAL\n";
        let v6 = "fe800000000000000000000000000001 02 40 20 80 eth0\n20010db8000000000000000000000007 02 40 00 80 eth0\n00000000000000000000000000000001 01 80 10 80 lo\n";
        assert_eq!(addresses(fib, v6), ["10.0.2.15", "2001:db8::7"]);
    }

    #[test]
    fn this_machine_has_facts() {
        let facts = read();
        for name in ["agent", "arch", "hostname", "kernel", "addresses"] {
            assert!(facts.0.contains_key(name), "{name}: {facts:?}");
        }
    }
}
