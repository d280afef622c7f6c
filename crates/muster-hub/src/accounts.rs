//! Passwords and logins: argon2id, off the async threads, and a bound on guessing.
//!
//! An unknown account costs the same work as a known one with a wrong password, and both read the same.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
use argon2::{Argon2, Params};
use muster_proto::Millis;
use muster_proto::problem::Code;
use tokio::sync::Semaphore;

use crate::api::ApiError;
use crate::clock::SECOND;

/// Shortest password.
pub const PASSWORD_MIN: usize = 10;
/// Longest password, in bytes: argon2 would take any, and so would somebody who wants to keep it busy.
pub const PASSWORD_MAX: usize = 1024;
/// Longest e-mail, in bytes (RFC 5321, 4.5.3.1.3).
pub const EMAIL_MAX: usize = 254;
/// The end of a service account's e-mail (`NAME@ORG.service`), which no person's may have.
pub const SERVICE: &str = ".service";
/// Password checks at once: each takes 19 MiB and tens of milliseconds.
static CHECKS: Semaphore = Semaphore::const_new(2);

/// Checks the form of an e-mail and gives it in lower case.
///
/// # Errors
/// One sentence.
pub fn parse_email(text: &str) -> Result<String, String> {
    let text = text.trim();
    let ok = text.len() <= EMAIL_MAX
        && text
            .split_once('@')
            .is_some_and(|(user, host)| !user.is_empty() && !host.contains('@') && host.split('.').all(|label| !label.is_empty()))
        && !text.to_ascii_lowercase().ends_with(SERVICE)
        && !text.chars().any(|c| !(c.is_ascii_graphic() || c.is_alphanumeric()) || "/\\\"<>,;".contains(c));
    if ok { Ok(text.to_lowercase()) } else { Err(format!("{:?} is not an e-mail address", text.chars().take(80).collect::<String>())) }
}

/// Checks a new password's length.
///
/// # Errors
/// One sentence.
pub fn check_new_password(password: &str) -> Result<(), String> {
    if password.chars().count() < PASSWORD_MIN {
        return Err(format!("a password has at least {PASSWORD_MIN} characters"));
    }
    if password.len() > PASSWORD_MAX {
        return Err(format!("a password has at most {PASSWORD_MAX} bytes"));
    }
    Ok(())
}

/// Hashes a password: argon2id in PHC form. Slow on purpose: never on an async thread.
pub fn hash(password: &str) -> String {
    // With the default parameters it fails only for passwords of 4 GiB.
    Argon2::default().hash_password(password.as_bytes()).expect("passwords are bounded").to_string()
}

/// [`hash`] off the async threads, and no more at once than the checks.
///
/// # Errors
/// When the hub is stopping.
pub async fn hash_slowly(password: String) -> Result<String, ApiError> {
    let stopping = || ApiError::new(Code::Unavailable, "the hub is stopping; try again in a moment");
    let _permit = CHECKS.acquire().await.map_err(|_| stopping())?;
    tokio::task::spawn_blocking(move || hash(&password)).await.map_err(|_| stopping())
}

/// Whether a password is the one of a hash, and the work that it took to find out: blocks of memory, times the passes over them.
/// `None`, for an account that has none or does not exist, takes as much.
fn verify_now(password: &str, hashed: Option<&str>) -> (bool, u64) {
    static NOBODY: OnceLock<String> = OnceLock::new();
    let nobody = NOBODY.get_or_init(|| hash("nobody has this password"));
    let Ok(parsed) = PasswordHash::new(hashed.unwrap_or(nobody)) else { return (false, 0) };
    let right = Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok() && hashed.is_some();
    let work = Params::try_from(&parsed).map_or(0, |params| u64::from(params.m_cost()) * u64::from(params.t_cost()));
    (right, work)
}

/// Attempts before somebody has to wait, for one account from one address.
const PAIR_BURST: u32 = 5;
/// The same for one address over all accounts, and for one account over all addresses.
const ONE_BURST: u32 = 30;
/// One more attempt is allowed after this time.
const REFILL: Millis = 12 * SECOND;
/// Most entries kept; the oldest go first, which frees a guesser only after thousands of other addresses.
const ENTRIES: usize = 30_000;

/// Compares passwords and bounds the guessing of them: a bucket per account and address, one per account, one per address.
#[derive(Debug, Default)]
pub struct LoginLimit {
    buckets: Mutex<HashMap<Key, Bucket>>,
    work: AtomicU64,
}

type Key = (Option<String>, Option<IpAddr>);

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When it is full again.
    full_at: Millis,
}

/// Who has one IPv6 address has 2^64 of them: what is counted is the network.
fn network(from: Option<IpAddr>) -> Option<IpAddr> {
    from.map(|from| match from {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        IpAddr::V4(_) => from,
    })
}

impl LoginLimit {
    /// Whether a password is the one of a hash; without one it takes as much work to say no.
    pub async fn verify(&self, password: String, hashed: Option<String>) -> bool {
        let Ok(_permit) = CHECKS.acquire().await else { return false };
        let (right, work) = tokio::task::spawn_blocking(move || verify_now(&password, hashed.as_deref())).await.unwrap_or((false, 0));
        self.work.fetch_add(work, Ordering::Relaxed);
        right
    }

    /// The work that was spent on comparing passwords, in argon2's blocks.
    pub fn work(&self) -> u64 {
        self.work.load(Ordering::Relaxed)
    }

    /// Takes one attempt, or says how many seconds to wait.
    ///
    /// # Errors
    /// The seconds until the next attempt.
    pub fn attempt(&self, email: &str, from: Option<IpAddr>, now: Millis) -> Result<(), u32> {
        let from = network(from);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ENTRIES {
            evict(&mut buckets, now);
        }
        let keys = [((Some(email.to_owned()), from), PAIR_BURST), ((Some(email.to_owned()), None), ONE_BURST), ((None, from), ONE_BURST)];
        let used = |full_at: Millis| (full_at - now).max(0);
        let mut wait = 0;
        for (key, burst) in &keys {
            let used = buckets.get(key).map_or(0, |bucket| used(bucket.full_at));
            wait = wait.max(used - (i64::from(*burst) - 1) * REFILL);
        }
        if wait > 0 {
            return Err(u32::try_from(wait / SECOND + 1).unwrap_or(u32::MAX));
        }
        for (key, _) in keys {
            let bucket = buckets.entry(key).or_insert(Bucket { full_at: now });
            bucket.full_at = bucket.full_at.max(now) + REFILL;
        }
        Ok(())
    }

    /// Takes one of what an address may do without saying who it is, such as to begin a login, or says how many seconds to wait.
    ///
    /// # Errors
    /// The seconds until the next attempt.
    pub fn attempt_from(&self, what: &'static str, from: Option<IpAddr>, burst: u32, refill: Millis, now: Millis) -> Result<(), u32> {
        let from = network(from);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ENTRIES {
            evict(&mut buckets, now);
        }
        // No e-mail begins so.
        let bucket = buckets.entry((Some(format!("\0{what}")), from)).or_insert(Bucket { full_at: now });
        let wait = bucket.full_at - now - (i64::from(burst) - 1) * refill;
        if wait > 0 {
            return Err(u32::try_from(wait / SECOND + 1).unwrap_or(u32::MAX));
        }
        bucket.full_at = bucket.full_at.max(now) + refill;
        Ok(())
    }

    /// The password was right: what this account used up from this address is forgotten.
    pub fn succeeded(&self, email: &str, from: Option<IpAddr>) {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner).remove(&(Some(email.to_owned()), network(from)));
    }
}

fn evict(buckets: &mut HashMap<Key, Bucket>, now: Millis) {
    buckets.retain(|_, bucket| bucket.full_at > now);
    if buckets.len() >= ENTRIES {
        let mut ends: Vec<Millis> = buckets.values().map(|bucket| bucket.full_at).collect();
        let (_, middle, _) = ends.select_nth_unstable(ENTRIES / 2);
        let middle = *middle;
        buckets.retain(|_, bucket| bucket.full_at > middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_checked() {
        let hashed = hash("correct horse battery");
        assert!(hashed.starts_with("$argon2id$"), "{hashed}");
        let (right, work) = verify_now("correct horse battery", Some(&hashed));
        assert!(right && work >= 19 * 1024 * 2, "{work}");
        assert_eq!(verify_now("wrong", Some(&hashed)), (false, work));
        assert_eq!(verify_now("nobody has this password", None), (false, work));
        assert!(check_new_password("short").is_err() && check_new_password(&"x".repeat(2000)).is_err());
    }

    #[test]
    fn emails() {
        assert_eq!(parse_email(" Ada@Example.COM "), Ok("ada@example.com".into()));
        for bad in [
            "",
            "ada",
            "@x",
            "a@",
            "a@b..c",
            "a@b.",
            "a\u{200b}b@c",
            "a\u{202e}b@c",
            "a b@c",
            "a@b@c",
            "a/b@c",
            "ci@acme.service",
            "ci@acme.SERVICE",
            &format!("{}@x", "a".repeat(300)),
        ] {
            assert!(parse_email(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn guessing_is_bounded_and_comes_back_with_time() {
        let limit = LoginLimit::default();
        let here: Option<IpAddr> = Some([10, 0, 0, 1].into());
        for attempt in 0..5 {
            assert_eq!(limit.attempt("a@x", here, 1000), Ok(()), "{attempt}");
        }
        let wait = limit.attempt("a@x", here, 1000).unwrap_err();
        assert!((12..=13).contains(&wait), "{wait}");
        // Another account from here and the same account from elsewhere are free, up to their own bounds.
        assert_eq!(limit.attempt("b@x", here, 1000), Ok(()));
        assert_eq!(limit.attempt("a@x", Some([10, 0, 0, 2].into()), 1000), Ok(()));
        assert_eq!(limit.attempt("a@x", here, 1000 + i64::from(wait) * SECOND), Ok(()));
        limit.succeeded("a@x", here);
        assert_eq!(limit.attempt("a@x", here, 1000), Ok(()));
    }

    #[test]
    fn strangers_are_bounded_by_their_address() {
        let limit = LoginLimit::default();
        let here: Option<IpAddr> = Some([10, 0, 0, 1].into());
        let refused = (0..10).filter(|_| limit.attempt_from("login", here, 4, SECOND, 0).is_err()).count();
        assert_eq!(refused, 6);
        assert_eq!(limit.attempt_from("login", Some([10, 0, 0, 2].into()), 4, SECOND, 0), Ok(()));
        assert_eq!(limit.attempt_from("login", here, 4, SECOND, 2 * SECOND), Ok(()));
        assert_eq!(limit.attempt("a@x", here, 0), Ok(()), "and logins by password go on");
    }

    #[test]
    fn many_addresses_and_many_accounts_are_bounded_too() {
        let limit = LoginLimit::default();
        let refused = (0..100u8).filter(|n| limit.attempt("a@x", Some([10, 0, 1, *n].into()), 0).is_err()).count();
        assert_eq!(refused, 70);
        let refused = (0..100).filter(|n| limit.attempt(&format!("{n}@x"), Some([10, 0, 2, 1].into()), 0).is_err()).count();
        assert_eq!(refused, 70);
        for n in 0..200_000u32 {
            let _ = limit.attempt("z@x", Some(std::net::Ipv4Addr::from(n).into()), 0);
        }
        assert!(limit.buckets.lock().unwrap().len() <= ENTRIES + 3);
    }

    #[test]
    fn a_network_of_addresses_is_one_and_others_are_not_held_up() {
        let limit = LoginLimit::default();
        let v6 = |network: u128, host: u128| Some(Ipv6Addr::from_bits((0x2001_0db8 << 96) | (network << 64) | host).into());
        let refused = (0..100).filter(|n| limit.attempt(&format!("{n}@x"), v6(1, *n), 0).is_err()).count();
        assert_eq!(refused, 70);
        assert_eq!(limit.attempt("a@x", v6(2, 1), 0), Ok(()), "the network beside it");
        assert_eq!(limit.attempt("a@x", Some([10, 0, 0, 1].into()), 0), Ok(()));
        for n in 2..6 {
            assert_eq!(limit.attempt("a@x", v6(2, n), 0), Ok(()));
        }
        assert!(limit.attempt("a@x", v6(2, 7), 0).is_err(), "one account from one network");
        limit.succeeded("a@x", v6(2, 9));
        assert_eq!(limit.attempt("a@x", v6(2, 7), 0), Ok(()));
    }
}
