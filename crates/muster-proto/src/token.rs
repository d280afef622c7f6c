//! Tokens that name the hub they trust.
//!
//! `mt1.<id>.<secret>.<pin>` enrols devices, `mp1.<id>.<secret>.<pin>` speaks for a person, `mi1.<id>.<secret>.<pin>` invites one.
//! The pin is the SHA-256 of the hub CA's public key (SubjectPublicKeyInfo, RFC 7469 section 2.4) in base64url without padding:
//! the first contact with a self-signed hub is verified, and no CA file has to be copied.

use std::fmt;
use std::str::FromStr;

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenKind {
    /// `mt1`: enrols devices.
    Enrolment,
    /// `mp1`: a personal access token.
    Personal,
    /// `mi1`: an invitation, the part of its link behind the `#`.
    Invitation,
}

impl TokenKind {
    /// The first part of the token.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Enrolment => "mt1",
            Self::Personal => "mp1",
            Self::Invitation => "mi1",
        }
    }
}

/// SHA-256 of a CA's SubjectPublicKeyInfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);

/// A parsed token. `Debug` hides the secret; `Display` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is for.
    pub kind: TokenKind,
    /// Its public name: 10 of `a-z`, `2-7`.
    pub id: String,
    /// Its secret: 32 of `a-z`, `2-7` (160 bits).
    pub secret: String,
    /// The hub that it trusts.
    pub pin: Pin,
}

/// Why a text is not a token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// Not `kind.id.secret.pin`.
    #[error("this is not a Muster token: it must look like {prefix}.<id>.<secret>.<pin>; copy it whole, as it was printed", prefix = .0.prefix())]
    Form(TokenKind),
    /// A token of the other kind.
    #[error("this is {}, but {} is needed here", .got.described(), .want.described())]
    Kind {
        /// What was given.
        got: TokenKind,
        /// What is needed.
        want: TokenKind,
    },
    /// A part is damaged.
    #[error("the token's {0} is damaged: copy the token whole, as it was printed")]
    Part(&'static str),
}

impl TokenKind {
    fn described(self) -> &'static str {
        match self {
            Self::Enrolment => "an enrolment token (mt1...)",
            Self::Personal => "a personal access token (mp1...)",
            Self::Invitation => "an invitation (mi1...)",
        }
    }
}

/// Length of a token's public name.
pub const ID_LEN: usize = 10;
/// Length of a token's secret.
pub const SECRET_LEN: usize = 32;

impl Token {
    /// Makes a token from 42 random bytes.
    pub fn from_random(kind: TokenKind, random: [u8; ID_LEN + SECRET_LEN], pin: Pin) -> Self {
        let text: String = random.iter().map(|byte| char::from(b"abcdefghijklmnopqrstuvwxyz234567"[usize::from(byte & 31)])).collect();
        Self { kind, id: text[..ID_LEN].to_owned(), secret: text[ID_LEN..].to_owned(), pin }
    }

    /// Parses a token of the given kind. White space around it is ignored.
    ///
    /// # Errors
    /// When it is of another kind, cut, or damaged.
    pub fn parse(text: &str, want: TokenKind) -> Result<Self, InvalidToken> {
        let text = text.trim();
        let parts: Vec<&str> = text.split('.').collect();
        let [prefix, id, secret, pin] = parts[..] else { return Err(InvalidToken::Form(want)) };
        let got = match prefix {
            "mt1" => TokenKind::Enrolment,
            "mp1" => TokenKind::Personal,
            "mi1" => TokenKind::Invitation,
            _ => return Err(InvalidToken::Form(want)),
        };
        if got != want {
            return Err(InvalidToken::Kind { got, want });
        }
        let base32 = |text: &str, len| text.len() == len && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
        if !base32(id, ID_LEN) {
            return Err(InvalidToken::Part("id"));
        }
        if !base32(secret, SECRET_LEN) {
            return Err(InvalidToken::Part("secret"));
        }
        let pin = pin.parse().map_err(|_| InvalidToken::Part("hub fingerprint"))?;
        Ok(Self { kind: got, id: id.to_owned(), secret: secret.to_owned(), pin })
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.kind.prefix(), self.id, self.secret, self.pin)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.***.{}", self.kind.prefix(), self.id, self.pin)
    }
}

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.chunks(3) {
            let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for place in 0..=chunk.len() {
                write!(f, "{}", char::from(BASE64URL[(group >> (18 - 6 * place)) as usize & 63]))?;
            }
        }
        Ok(())
    }
}

impl FromStr for Pin {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let bad = InvalidToken::Part("hub fingerprint");
        if text.len() != 43 {
            return Err(bad);
        }
        let (mut bytes, mut len, mut bits, mut held) = ([0u8; 32], 0, 0u32, 0u32);
        for byte in text.bytes() {
            let Some(value) = BASE64URL.iter().position(|known| *known == byte) else { return Err(bad) };
            held = (held << 6 | u32::try_from(value).unwrap_or(0)) & 0xffff;
            bits += 6;
            if bits >= 8 {
                bits -= 8;
                bytes[len] = (held >> bits & 0xff) as u8;
                len += 1;
            }
        }
        // 43 digits hold 258 bits: the last two must be zero, or two texts would name one pin.
        if held & 0b11 != 0 {
            return Err(bad);
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_and_round_trip() {
        let random: [u8; 42] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let pin = Pin(std::array::from_fn(|i| u8::try_from(255 - i).unwrap()));
        let token = Token::from_random(TokenKind::Enrolment, random, pin);
        let text = "mt1.abcdefghij.klmnopqrstuvwxyz234567abcdefghij.__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA";
        assert_eq!(token.to_string(), text);
        assert_eq!(Token::parse(&format!(" {text}\n"), TokenKind::Enrolment), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("klmnop"));
        let invitation = Token { kind: TokenKind::Invitation, ..token };
        assert_eq!(invitation.to_string(), text.replace("mt1", "mi1"));
        assert_eq!(Token::parse(&invitation.to_string(), TokenKind::Invitation), Ok(invitation));
    }

    #[test]
    fn damaged_tokens_say_what_is_wrong() {
        let good = "mt1.abcdefghij.klmnopqrstuvwxyz234567abcdefghij.__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA";
        let kind = Token::parse(good, TokenKind::Personal).unwrap_err();
        assert_eq!(kind.to_string(), "this is an enrolment token (mt1...), but a personal access token (mp1...) is needed here");
        for (bad, why) in [
            ("", "must look like mt1."),
            ("mt1.a", "must look like"),
            (&good[..good.len() - 1], "fingerprint is damaged"),
            (&good.replace("abcde", "ABCDE"), "id is damaged"),
            (&good.replace("klmno", "klm"), "secret is damaged"),
            (&good.replace("eA", "eB"), "fingerprint is damaged"),
        ] {
            let error = Token::parse(bad, TokenKind::Enrolment).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
