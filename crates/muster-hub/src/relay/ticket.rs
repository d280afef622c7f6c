//! Tickets: what a leg shows to be let into its session.
//!
//! A ticket is 160 random bits, known to one end only, kept here as a digest.
//! Unused it is void after 30 s, so that one in a log or a screenshot is worth nothing; once used it serves this session's resumptions.

use muster_proto::Millis;
use muster_proto::limits::SESSION_ORDER_EXPIRY;
use subtle::ConstantTimeEq as _;

use crate::random;

/// Characters of a ticket, 5 bits each.
const LEN: usize = 32;

/// What the hub keeps of a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// SHA-256 of the ticket.
    pub digest: [u8; 32],
    /// Whether it was used in time.
    pub used: bool,
    /// When it was made.
    pub made: Millis,
}

/// Why a ticket does not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not this session's ticket for this side.
    Wrong,
    /// Nobody used it in time.
    Expired,
}

impl Ticket {
    /// Makes a ticket: its text, for the end that may use it, and what is kept.
    pub fn make(now: Millis) -> (String, Self) {
        let text: String =
            random::bytes::<LEN>().iter().map(|byte| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(byte & 31)])).collect();
        let digest = random::sha256(text.as_bytes());
        (text, Self { digest, used: false, made: now })
    }

    /// Whether a text lets in now.
    pub(super) fn check(&self, text: &str, now: Millis) -> Result<(), Refused> {
        if !bool::from(self.digest.ct_eq(&random::sha256(text.as_bytes()))) {
            return Err(Refused::Wrong);
        }
        // Either way: a clock that is set back must not make a ticket good for longer, nor a step of a millisecond void it.
        let in_time = u128::from(now.abs_diff(self.made)) <= SESSION_ORDER_EXPIRY.as_millis();
        if self.used || in_time { Ok(()) } else { Err(Refused::Expired) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_void_after_thirty_seconds_unless_used() {
        let (text, mut ticket) = Ticket::make(100_000);
        assert_eq!(text.len(), LEN);
        assert_eq!(ticket.check(&text, 99_999), Ok(()));
        assert_eq!(ticket.check(&text, 130_000), Ok(()));
        assert_eq!(ticket.check(&text, 130_001), Err(Refused::Expired));
        assert_eq!(ticket.check(&text, 0), Err(Refused::Expired));
        assert_eq!(ticket.check(&text[1..], 100_000), Err(Refused::Wrong));
        assert_eq!(ticket.check("", 100_000), Err(Refused::Wrong));
        ticket.used = true;
        assert_eq!(ticket.check(&text, 1_000_000), Ok(()));
        assert_eq!(ticket.check("wrong", 1000), Err(Refused::Wrong));
    }
}
