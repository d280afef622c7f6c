//! The device's key and its certificate request (PKCS #10, RFC 2986), written in DER by hand.
//!
//! One kind of key (ECDSA P-256), one signature, one fixed subject: a hundred lines in place of a library that reads and writes all of X.509.
//! The subject says nothing: the hub names the device by the uid that it chooses, and learns the serial from the request around this one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// The device's key. `Debug` hides it.
pub(crate) struct DeviceKey {
    pkcs8: PrivatePkcs8KeyDer<'static>,
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl std::fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceKey(***)")
    }
}

// Object identifiers, as DER values.
const ID_EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

// Tags.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const GENERALIZED_TIME: u8 = 0x18;
const ATTRIBUTES: u8 = 0xa0;
const VERSION: u8 = 0xa0;

impl DeviceKey {
    /// Makes a new key.
    ///
    /// # Panics
    /// When the system gives no random numbers: no key is better than a weak one.
    pub(crate) fn generate() -> Self {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("the system gives random numbers");
        Self::from_pkcs8(document.as_ref().to_vec().into()).expect("ring reads what it wrote")
    }

    /// Reads a key.
    ///
    /// # Errors
    /// One text: what is wrong with it.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, String> {
        match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
            Ok(PrivateKeyDer::Pkcs8(pkcs8)) => Self::from_pkcs8(pkcs8),
            Ok(_) => Err("the key is not PKCS #8".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn from_pkcs8(pkcs8: PrivatePkcs8KeyDer<'static>) -> Result<Self, String> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.secret_pkcs8_der(), &random)
            .map_err(|error| format!("the key is not ECDSA P-256: {error}"))?;
        Ok(Self { pkcs8, pair, random })
    }

    /// The key as PKCS #8 in PEM, for the key file alone.
    pub(crate) fn to_pem(&self) -> String {
        pem("PRIVATE KEY", self.pkcs8.secret_pkcs8_der())
    }

    /// SHA-256 of the public key (SPKI), in hexadecimal: how the hub's orders name this device.
    pub(crate) fn digest(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.public_key());
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The public key as SPKI (RFC 5480, 2).
    fn public_key(&self) -> Vec<u8> {
        let algorithm = der(SEQUENCE, &[&der(OID, &[ID_EC_PUBLIC_KEY]), &der(OID, &[PRIME256V1])]);
        der(SEQUENCE, &[&algorithm, &der(BIT_STRING, &[&[0], self.pair.public_key().as_ref()])])
    }

    /// A certificate by this key for the key of one session: in it the session's id, and no dates that would mean anything, because
    /// the session's own end bounds it. The hub accepts it behind this device's own certificate, for that session's leg alone.
    ///
    /// # Panics
    /// When the system gives no random numbers.
    pub(crate) fn certify(&self, session: &Self, id: &str) -> String {
        let mut serial = [0; 16];
        ring::rand::SecureRandom::fill(&self.random, &mut serial).expect("the system gives random numbers");
        // Positive, and of one length (RFC 5280, 4.1.2.2).
        serial[0] = serial[0] & 0x7f | 0x40;
        let signed_with = der(SEQUENCE, &[&der(OID, &[ECDSA_WITH_SHA256])]);
        let validity = der(SEQUENCE, &[&der(GENERALIZED_TIME, &[b"20000101000000Z"]), &der(GENERALIZED_TIME, &[b"99991231235959Z"])]);
        let info = der(
            SEQUENCE,
            &[
                &der(VERSION, &[&der(INTEGER, &[&[2]])]),
                &der(INTEGER, &[&serial]),
                &signed_with,
                &name("musterd"),
                &validity,
                &name(id),
                &session.public_key(),
            ],
        );
        let signature = self.pair.sign(&self.random, &info).expect("the system gives random numbers");
        pem("CERTIFICATE", &der(SEQUENCE, &[&info, &signed_with, &der(BIT_STRING, &[&[0], signature.as_ref()])]))
    }

    /// A certificate request signed by the key: proof that we have it.
    ///
    /// # Panics
    /// When the system gives no random numbers.
    pub(crate) fn request(&self) -> String {
        let info = der(SEQUENCE, &[&der(INTEGER, &[&[0]]), &name("musterd"), &self.public_key(), &der(ATTRIBUTES, &[])]);
        let signature = self.pair.sign(&self.random, &info).expect("the system gives random numbers");
        let signed_with = der(SEQUENCE, &[&der(OID, &[ECDSA_WITH_SHA256])]);
        pem("CERTIFICATE REQUEST", &der(SEQUENCE, &[&info, &signed_with, &der(BIT_STRING, &[&[0], signature.as_ref()])]))
    }
}

/// A distinguished name of a common name alone.
fn name(common: &str) -> Vec<u8> {
    der(SEQUENCE, &[&der(SET, &[&der(SEQUENCE, &[&der(OID, &[COMMON_NAME]), &der(UTF8_STRING, &[common.as_bytes()])])])])
}

/// One DER value from its parts. Nothing here is longer than 64 KiB.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut out = vec![tag];
    match len {
        0..=0x7f => out.push(len as u8),
        0x80..=0xff => out.extend([0x81, len as u8]),
        _ => out.extend([0x82, (len >> 8) as u8, (len & 0xff) as u8]),
    }
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    for line in text.as_bytes().chunks(64) {
        out.extend(line.iter().map(|byte| char::from(*byte)));
        out.push('\n');
    }
    out + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

    #[test]
    fn a_request_is_signed_by_its_own_key() {
        let key = DeviceKey::generate();
        let request = key.request();
        let body: String = request.lines().filter(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(body).unwrap();
        // SEQUENCE of: the signed part, the algorithm, the signature.
        let (whole, _) = value(SEQUENCE, &der);
        let (_, after_info) = value(SEQUENCE, whole);
        let info = &whole[..whole.len() - after_info.len()];
        let (fields, _) = value(SEQUENCE, info);
        assert_eq!(&fields[..3], &[INTEGER, 1, 0]);
        assert!(fields.ends_with(&[ATTRIBUTES, 0]));
        let (_, after_algorithm) = value(SEQUENCE, after_info);
        let (signature, rest) = value(BIT_STRING, after_algorithm);
        assert!(rest.is_empty());
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.pair.public_key().as_ref()).verify(info, &signature[1..]).unwrap();
    }

    /// The value of this tag at the start of `der`, and what follows it.
    fn value(tag: u8, der: &[u8]) -> (&[u8], &[u8]) {
        assert_eq!(der[0], tag);
        let (start, len) = match der[1] {
            0x81 => (3, usize::from(der[2])),
            0x82 => (4, usize::from(der[2]) << 8 | usize::from(der[3])),
            len => (2, usize::from(len)),
        };
        (&der[start..start + len], &der[start + len..])
    }

    #[test]
    fn keys_survive_their_file() {
        let key = DeviceKey::generate();
        let again = DeviceKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.pair.public_key().as_ref(), key.pair.public_key().as_ref());
        assert!(!format!("{key:?}").contains("BEGIN"));
        assert!(DeviceKey::from_pem("").is_err());
        assert!(DeviceKey::from_pem(&key.to_pem().replace("PRIVATE KEY", "EC PRIVATE KEY")).is_err());
    }

    #[test]
    fn lengths() {
        assert_eq!(der(4, &[&[7; 127]])[..2], [4, 127]);
        assert_eq!(der(4, &[&[7; 128]])[..3], [4, 0x81, 128]);
        assert_eq!(der(4, &[&[7; 300]])[..4], [4, 0x82, 1, 44]);
    }
}
