//! Networks of IP addresses, as a policy or `NO_PROXY` names them.

use std::net::IpAddr;

/// Whether an address lies in a network: whether its first `bits` bits are the network's (RFC 4632, section 3.1).
/// No address lies in a network of the other family, or of more bits than an address has.
pub fn covers(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let bits = u32::from(bits);
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => bits <= 32 && (network.to_bits() ^ address.to_bits()).leading_zeros() >= bits,
        (IpAddr::V6(network), IpAddr::V6(address)) => bits <= 128 && (network.to_bits() ^ address.to_bits()).leading_zeros() >= bits,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_edges() {
        for (network, bits, address, yes) in [
            ("10.0.0.0", 8, "10.255.255.255", true),
            ("10.0.0.0", 8, "11.0.0.0", false),
            ("10.1.2.3", 32, "10.1.2.3", true),
            ("10.1.2.3", 32, "10.1.2.2", false),
            ("10.1.2.3", 31, "10.1.2.2", true),
            ("0.0.0.0", 0, "255.255.255.255", true),
            ("10.1.2.3", 33, "10.1.2.3", false),
            ("fd00::", 8, "fdff::1", true),
            ("fd00::", 8, "fe00::1", false),
            ("::", 0, "fe00::1", true),
            ("::1", 128, "::1", true),
            ("::1", 129, "::1", false),
            ("0.0.0.0", 0, "::1", false),
            ("::", 0, "10.0.0.1", false),
        ] {
            assert_eq!(covers(network.parse().unwrap(), bits, address.parse().unwrap()), yes, "{network}/{bits} {address}");
        }
    }
}
