//! Orders that start something for a person, signed by the hub: a session, a run.
//!
//! The device's daemon only hands them on. The privileged part of a session, which shares nothing with the network, believes the
//! signature: [`SIGNED`] and the order's bytes, ECDSA P-256 with SHA-256 (RFC 6979 or random, ASN.1 form), by a key that the hub's
//! authority certified for nothing else ([`COMMON_NAME`], [`ORDERS_EKU`]).
//! This module knows the form; whoever checks a signature brings the cryptography.
//!
//! 2026-11-30: first version.

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::base64;
use crate::id::{DeviceUid, RunId};
use crate::limits::PAYLOAD_MAX;
use crate::mqtt::{PayloadError, SessionOpen, decode};
use crate::run::RunStart;

/// What is signed in front of an order's bytes, so that the key's signature means nothing elsewhere.
pub const SIGNED: &[u8] = b"muster order v1\n";
/// The common name in the certificate of the key that signs orders.
pub const COMMON_NAME: &str = "muster orders";
/// The one extended key usage of that certificate, an object identifier of our own:
/// no other certificate of the authority carries it.
pub const ORDERS_EKU: &[u64] = &[2, 25, 1_296_454_484, 1_163_018_834, 1];
/// The content bytes of [`ORDERS_EKU`] in DER.
pub const ORDERS_EKU_DER: &[u8] = &[0x69, 0x84, 0xea, 0x99, 0xa6, 0x54, 0x84, 0xaa, 0xc9, 0x84, 0x52, 0x01];
/// Largest certificate, in base64.
const CERTIFICATE_MAX: usize = 4096;

/// An order with its signature, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedOrder {
    /// The exact bytes of an [`Order`] in JSON, as base64.
    pub order: String,
    /// The signature over [`SIGNED`] and these bytes, as base64.
    pub signature: String,
    /// The certificate of the key that signed, in DER, as base64.
    pub certificate: String,
}

/// The order's exact bytes, the signature, and the certificate in DER.
pub type Parts = (Vec<u8>, Vec<u8>, Vec<u8>);

/// What the hub orders.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The device that is meant.
    pub device: DeviceUid,
    /// SHA-256 of that device's public key (SPKI), in lower-case hexadecimal: a device knows itself by it before it knows its uid.
    pub device_key: String,
    /// The hub's clock when it signed.
    pub t: Millis,
    /// What is to be started.
    #[serde(flatten)]
    pub kind: OrderKind,
}

/// What is started for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum OrderKind {
    /// A remote session.
    Session {
        /// Which.
        open: SessionOpen,
    },
    /// A command.
    Run {
        /// Which.
        run: RunId,
        /// What.
        start: RunStart,
    },
}

impl Order {
    /// The name under which an order is used once: the session's or the run's.
    pub fn name(&self) -> &str {
        match &self.kind {
            OrderKind::Session { open } => open.session.as_str(),
            OrderKind::Run { run, .. } => run.as_str(),
        }
    }

    /// The bytes that are signed and sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        crate::mqtt::encode(self)
    }
}

impl SignedOrder {
    /// Puts the parts together.
    pub fn new(order: &[u8], signature: &[u8], certificate: &[u8]) -> Self {
        Self { order: base64::encode(order), signature: base64::encode(signature), certificate: base64::encode(certificate) }
    }

    /// The order's exact bytes, the signature, and the certificate in DER.
    ///
    /// # Errors
    /// When a part is not base64 or too large.
    pub fn parts(&self) -> Result<Parts, PayloadError> {
        if self.certificate.len() > CERTIFICATE_MAX || self.signature.len() > 256 || self.order.len() > base64::length(PAYLOAD_MAX) {
            return Err(PayloadError::Rule("a part of the signed order is too large"));
        }
        match (base64::decode(&self.order), base64::decode(&self.signature), base64::decode(&self.certificate)) {
            (Some(order), Some(signature), Some(certificate)) => Ok((order, signature, certificate)),
            _ => Err(PayloadError::Rule("a part of the signed order is not base64")),
        }
    }

    /// Reads what the order says, whoever signed it.
    ///
    /// # Errors
    /// When it is not an order, or breaks a rule.
    pub fn read(&self) -> Result<Order, PayloadError> {
        read(&self.parts()?.0)
    }
}

/// Reads an order's bytes.
///
/// # Errors
/// When they are not an order, or break a rule.
pub fn read(bytes: &[u8]) -> Result<Order, PayloadError> {
    let order: Order = decode(bytes, PAYLOAD_MAX)?;
    if let OrderKind::Run { start, .. } = &order.kind {
        start.check().map_err(|broken| PayloadError::Rule(broken.why))?;
    }
    Ok(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> Order {
        let open = SessionOpen {
            session: "saaaaaaaaaaaaaaa".parse().unwrap(),
            relay: "wss://hub/v1/sessions/saaaaaaaaaaaaaaa/device".into(),
            ticket: "t".into(),
            user: "ada@example.com".into(),
            project: "lab".parse().unwrap(),
            role: "connect".into(),
            reason: None,
            t: 7,
        };
        Order { device: "daaaaaaaaaaaaaaa".parse().unwrap(), device_key: "00".repeat(32), t: 7, kind: OrderKind::Session { open } }
    }

    #[test]
    fn the_bytes_are_frozen_and_come_back() {
        let order = order();
        let want = "{\"device\":\"daaaaaaaaaaaaaaa\",\"device_key\":\"0000000000000000000000000000000000000000000000000000000000000000\",\
                    \"t\":7,\"kind\":\"session\",\"open\":{\"session\":\"saaaaaaaaaaaaaaa\",\
                    \"relay\":\"wss://hub/v1/sessions/saaaaaaaaaaaaaaa/device\",\"ticket\":\"t\",\"user\":\"ada@example.com\",\
                    \"project\":\"lab\",\"role\":\"connect\",\"t\":7}}";
        assert_eq!(String::from_utf8(order.to_bytes()).unwrap(), want);
        let signed = SignedOrder::new(&order.to_bytes(), b"sig", b"cert");
        assert_eq!((signed.signature.as_str(), signed.certificate.as_str()), ("c2ln", "Y2VydA=="));
        assert_eq!(signed.read().unwrap(), order);
        assert_eq!(order.name(), "saaaaaaaaaaaaaaa");
    }

    #[test]
    fn damaged_ones_are_refused() {
        let signed = SignedOrder::new(&order().to_bytes(), b"sig", b"cert");
        for bad in [
            SignedOrder { order: "****".into(), ..signed.clone() },
            SignedOrder { order: String::new(), ..signed.clone() },
            SignedOrder { signature: "A".repeat(260), ..signed.clone() },
            SignedOrder { certificate: "A".repeat(CERTIFICATE_MAX + 4), ..signed.clone() },
            SignedOrder { order: base64::encode(b"{\"device\":1}"), ..signed.clone() },
        ] {
            assert!(bad.read().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_usage_has_one_form_in_der() {
        let mut der = Vec::new();
        let arcs: Vec<u64> = std::iter::once(ORDERS_EKU[0] * 40 + ORDERS_EKU[1]).chain(ORDERS_EKU[2..].iter().copied()).collect();
        for arc in arcs {
            let groups = (1..10).rev().find(|n| arc >> (7 * n) > 0).unwrap_or(0);
            der.extend((0..=groups).rev().map(|n| u8::try_from((arc >> (7 * n)) & 0x7f).unwrap() | if n > 0 { 0x80 } else { 0 }));
        }
        assert_eq!(der, ORDERS_EKU_DER);
    }
}
