//! Identifiers: newtypes that cannot hold an invalid value.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{SERIAL_MAX, SLUG_MAX};

/// Why a text is not the identifier that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?} is not valid: {why}")]
pub struct InvalidId {
    /// The kind of identifier, such as "organization id".
    pub what: &'static str,
    /// The offending text, cut to 80 characters.
    pub value: String,
    /// The rule that it breaks.
    pub why: &'static str,
}

impl InvalidId {
    fn new(what: &'static str, value: &str, why: &'static str) -> Self {
        Self { what, value: value.chars().take(80).collect(), why }
    }
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The identifier as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(text).map_err(|why| InvalidId::new($what, text, why))?;
                Ok(Self(text.into()))
            }
        }
        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

text_id!(
    /// An organization's id: a slug that never changes. 2 to 40 of `a-z`, `0-9`, `-`; starts with a letter, does not end with `-`.
    OrgId, "organization id", slug
);
text_id!(
    /// A project's id inside its organization: a slug by the rules of [`OrgId`].
    ProjectId, "project id", slug
);
text_id!(
    /// A team's id inside its organization: a slug by the rules of [`OrgId`].
    TeamId, "team id", slug
);
text_id!(
    /// A device's uid: made by the hub, unique in the hub, the name in its certificate and topics. `d` and 15 of `a-z`, `2-7`.
    DeviceUid, "device uid", |text| tagged(text, b'd')
);
text_id!(
    /// A session's id: `s` and 15 of `a-z`, `2-7`.
    SessionId, "session id", |text| tagged(text, b's')
);
text_id!(
    /// A run's id: `r` and 15 of `a-z`, `2-7`.
    RunId, "run id", |text| tagged(text, b'r')
);
text_id!(
    /// A device's serial number as its maker or owner chose it: 1 to 64 printable characters, no white space at the ends.
    /// Chosen on the device, so it is never used in a topic, a path or a certificate's name.
    Serial, "serial number", serial
);

impl DeviceUid {
    /// Makes a uid from 75 random bits.
    pub fn from_random(random: [u8; 15]) -> Self {
        Self(tag('d', random))
    }
}
impl SessionId {
    /// Makes an id from 75 random bits.
    pub fn from_random(random: [u8; 15]) -> Self {
        Self(tag('s', random))
    }
}
impl RunId {
    /// Makes an id from 75 random bits.
    pub fn from_random(random: [u8; 15]) -> Self {
        Self(tag('r', random))
    }
}

const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

fn tag(tag: char, random: [u8; 15]) -> Box<str> {
    std::iter::once(tag).chain(random.iter().map(|byte| char::from(BASE32[usize::from(byte & 31)]))).collect::<String>().into()
}

fn tagged(text: &str, tag: u8) -> Result<(), &'static str> {
    match text.as_bytes() {
        [first, rest @ ..] if *first == tag && rest.len() == 15 && rest.iter().all(|byte| BASE32.contains(byte)) => Ok(()),
        _ => Err("it is one letter for the kind and 15 of a-z, 2-7"),
    }
}

fn slug(text: &str) -> Result<(), &'static str> {
    let bytes = text.as_bytes();
    if !(2..=SLUG_MAX).contains(&bytes.len()) {
        return Err("it must have 2 to 40 characters");
    }
    if !bytes[0].is_ascii_lowercase() {
        return Err("it must start with a small letter a-z");
    }
    if bytes.ends_with(b"-") {
        return Err("it must not end with a hyphen");
    }
    if !bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-') {
        return Err("only a-z, 0-9 and hyphen are allowed");
    }
    Ok(())
}

fn serial(text: &str) -> Result<(), &'static str> {
    if text.is_empty() || text.chars().count() > SERIAL_MAX {
        return Err("it must have 1 to 64 characters");
    }
    if text.trim() != text {
        return Err("it must not start or end with white space");
    }
    if text.chars().any(|c| c.is_control() || is_invisible(c)) {
        return Err("it must be printable");
    }
    Ok(())
}

/// Format characters that would let two serials look alike: zero-width, bidirectional, byte order mark.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{00ad}')
}

/// A stream inside a session. The client opens odd ones, the device even ones, so that both may open without asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamId(pub u32);

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uid_from_random_parses() {
        let uid = DeviceUid::from_random([0, 31, 32, 255, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17]);
        assert_eq!(uid.as_str(), "da7a7hijklmnopqr");
        assert_eq!(uid.as_str().parse::<DeviceUid>(), Ok(uid));
    }

    #[test]
    fn refuses_what_could_leave_its_place() {
        for bad in ["", "d", "+", "#", "d/aaaaaaaaaaaaaa", "daaaaaaaaaaaaaa+", "saaaaaaaaaaaaaaa", "DAAAAAAAAAAAAAAA", "daaaaaaaaaaaaaaaa"]
        {
            assert!(bad.parse::<DeviceUid>().is_err(), "{bad:?}");
        }
        for bad in ["", "a", "-ab", "ab-", "Ab", "a b", "a/b", "1a", "ä-b", &"a".repeat(41)] {
            assert!(bad.parse::<OrgId>().is_err(), "{bad:?}");
        }
        for bad in ["", " a", "a\n", "a\u{202e}b", "a\u{0}", &"x".repeat(65)] {
            assert!(bad.parse::<Serial>().is_err(), "{bad:?}");
        }
        for good in ["+", "#", "Robot 17 (Halle Süd)", "机器人-17", &"ü".repeat(64)] {
            assert!(good.parse::<Serial>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn json_checks_too() {
        assert!(serde_json::from_str::<DeviceUid>("\"nope\"").is_err());
        let org: OrgId = serde_json::from_str("\"acme\"").unwrap();
        assert_eq!(serde_json::to_string(&org).unwrap(), "\"acme\"");
    }
}
