//! Reads certificate requests: the proof that a device has the key which it wants a certificate for.
//!
//! Only the public key is taken from a request. Bounded, ECDSA P-256 only, and signed by itself.

use muster_proto::limits::CSR_MAX;
use muster_proto::problem::{Code, Problem};
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer as _;

use crate::random;

/// A device's public key, of which it has shown that it holds the private half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceKey {
    spki: Vec<u8>,
}

impl DeviceKey {
    /// Takes the key out of a PKCS #10 request in PEM and verifies the request's own signature.
    ///
    /// # Errors
    /// One sentence that says what is wrong with the request.
    pub fn from_csr(pem: &str) -> Result<Self, Problem> {
        let invalid = |why: &str| Problem::new(Code::Invalid, format!("csr: {why}"));
        if pem.len() > CSR_MAX {
            return Err(invalid("the certificate request is larger than 8 KiB"));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| invalid("this is not a certificate request in PEM (-----BEGIN CERTIFICATE REQUEST-----)"))?;
        let (rest, request) =
            X509CertificationRequest::from_der(&der).map_err(|_| invalid("the certificate request does not parse as PKCS #10"))?;
        if !rest.is_empty() {
            return Err(invalid("the certificate request has bytes after its end"));
        }
        let key = &request.certification_request_info.subject_pki;
        let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
        if key.algorithm.algorithm != OID_KEY_TYPE_EC_PUBLIC_KEY || curve != Some(OID_EC_P256) {
            return Err(invalid("only ECDSA keys on the curve P-256 are accepted"));
        }
        request.verify_signature().map_err(|_| invalid("the certificate request is not signed by its own key"))?;
        Ok(Self { spki: key.raw.to_vec() })
    }

    /// A key that was taken from a request earlier and stored.
    pub(crate) fn from_stored(spki: Vec<u8>) -> Self {
        Self { spki }
    }

    /// SubjectPublicKeyInfo in DER.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// SHA-256 of it: the key's name in the store.
    pub fn digest(&self) -> [u8; 32] {
        random::sha256(&self.spki)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    fn request(pair: &KeyPair) -> String {
        CertificateParams::default().serialize_request(pair).unwrap().pem().unwrap()
    }

    #[test]
    fn takes_the_key() {
        use rcgen::PublicKeyData as _;
        let pair = KeyPair::generate().unwrap();
        assert_eq!(DeviceKey::from_csr(&request(&pair)).unwrap().spki(), pair.subject_public_key_info());
    }

    #[test]
    fn refuses_other_keys_garbage_and_size() {
        let why = |pem: &str| DeviceKey::from_csr(pem).unwrap_err().detail;
        for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
            assert!(why(&request(&KeyPair::generate_for(algorithm).unwrap())).contains("P-256"));
        }
        assert!(why("").contains("not a certificate request"));
        assert!(why(&"x".repeat(CSR_MAX + 1)).contains("larger"));
        assert!(why("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n").contains("does not parse"));
    }

    #[test]
    fn a_request_for_anothers_key_is_refused_and_no_flipped_bit_passes() {
        let pair = KeyPair::generate().unwrap();
        let der = CertificateParams::default().serialize_request(&pair).unwrap().der().to_vec();
        let key = DeviceKey::from_csr(&rcgen_pem(&der)).unwrap();
        // 30 81 xx, then the signed part: 30 81 yy and yy bytes.
        let signed = 3..6 + usize::from(der[5]);
        let mut refused = 0;
        for index in 0..der.len() {
            let mut flipped = der.clone();
            flipped[index] ^= 1;
            match DeviceKey::from_csr(&rcgen_pem(&flipped)) {
                Err(_) => refused += 1,
                // A bit of the outer framing may not matter; the key never changes, and nothing that is signed may.
                Ok(other) => assert!(other == key && !signed.contains(&index), "byte {index} of {}, signed {signed:?}", der.len()),
            }
        }
        assert!(refused > signed.len(), "{refused}");
    }

    fn rcgen_pem(der: &[u8]) -> String {
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut body = String::new();
        for chunk in der.chunks(3) {
            let group = chunk.iter().fold(0u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
            for place in 0..4 {
                body.push(if place <= chunk.len() { char::from(DIGITS[(group >> (18 - 6 * place)) as usize & 63]) } else { '=' });
            }
        }
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    }
}
