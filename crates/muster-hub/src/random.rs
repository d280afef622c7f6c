//! Random bytes of the system, for ids, secrets and pairing codes, and the digests under which secrets are stored.
//!
//! Secrets here are random and long, so one SHA-256 protects them at rest; passwords go through argon2id in `accounts`.

use ring::rand::{SecureRandom, SystemRandom};

/// Draws `N` random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // The system's generator fails only where there is no getrandom(2); nothing can run safely then.
    SystemRandom::new().fill(&mut bytes).expect("the system's random generator works");
    bytes
}

/// `len` bytes as lower-case hexadecimal digits.
pub fn hex<const N: usize>() -> String {
    to_hex(&bytes::<N>())
}

/// Lower-case hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

const PAIRING_LETTERS: &[u8] = b"ABCDEFGHJKMNPQRSTVWXYZ23456789";

/// The pairing code that a text means, as it is kept: in either case, with its hyphen or without.
pub fn pairing_code_of(text: &str) -> Option<String> {
    let letters: String = match text.trim().split_once('-') {
        Some((first, last)) if first.len() == 4 => format!("{first}{last}"),
        Some(_) => return None,
        None => text.trim().to_owned(),
    };
    let letters = letters.to_ascii_uppercase();
    let fits = letters.len() == 8 && letters.bytes().all(|byte| PAIRING_LETTERS.contains(&byte));
    fits.then(|| format!("{}-{}", &letters[..4], &letters[4..]))
}

/// `ABCD-2345`: eight characters of an alphabet without 0, 1, I, L, O and U, so that it can be read out on the telephone.
pub fn pairing_code() -> String {
    // 240 is the largest multiple of 30 in a byte: bytes from there on would favour the first letters.
    let mut code = String::with_capacity(9);
    while code.len() < 9 {
        for byte in bytes::<16>() {
            if code.len() == 4 {
                code.push('-');
            }
            if byte < 240 && code.len() < 9 {
                code.push(char::from(PAIRING_LETTERS[usize::from(byte) % PAIRING_LETTERS.len()]));
            }
        }
    }
    code
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairing_codes_have_their_form() {
        for _ in 0..200 {
            let code = pairing_code();
            for typed in [code.clone(), code.to_lowercase(), code.replace('-', ""), format!(" {code} ")] {
                assert_eq!(pairing_code_of(&typed).as_deref(), Some(&*code), "{typed}");
            }
            assert_eq!(code.len(), 9, "{code}");
            assert_eq!(code.as_bytes()[4], b'-', "{code}");
            assert!(code.bytes().all(|byte| b"ABCDEFGHJKMNPQRSTVWXYZ23456789-".contains(&byte)), "{code}");
        }
        assert_ne!(pairing_code(), pairing_code());
        for other in ["", "ABCD234", "ABC-D2345", "ABCD--2345", "ABCD-234", "ABCD-23456", "ABCD-2O45", "ABCDE-345", "\u{e9}BC-2345"] {
            assert_eq!(pairing_code_of(other), None, "{other}");
        }
    }

    #[test]
    fn hexadecimal() {
        assert_eq!(to_hex(&[0, 15, 255]), "000fff");
        assert_eq!(hex::<16>().len(), 32);
    }
}
