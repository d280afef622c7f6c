//! Random numbers of the system, for jitter and names.

use ring::rand::{SecureRandom, SystemRandom};

/// Evenly drawn.
///
/// # Panics
/// When the system gives no random numbers, which Linux does not do once it runs.
pub(crate) fn number() -> u64 {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).expect("the system gives random numbers");
    u64::from_le_bytes(bytes)
}

/// Evenly drawn below a bound; zero where the bound is zero.
pub(crate) fn below(bound: u64) -> u64 {
    // The high half of the product: even enough for jitter.
    u64::try_from((u128::from(number()) * u128::from(bound)) >> 64).unwrap_or(0)
}

/// The name of one life of the daemon: 16 hexadecimal digits.
pub(crate) fn boot() -> String {
    format!("{:016x}", number())
}

#[cfg(test)]
mod tests {
    #[test]
    fn below_its_bound() {
        assert_eq!(super::below(0), 0);
        assert!((0..1000).all(|_| super::below(3) < 3));
        assert!(muster_proto::mqtt::is_boot(&super::boot()));
    }
}
