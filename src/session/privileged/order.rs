//! Whether an order is the hub's, is meant for this device, and is used for the first time.
//!
//! The anchor names the hub's authority and this device's key; it belongs to root. All else in a [`Handoff`] comes from the daemon,
//! and is believed only as far as it fits the anchor.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use muster_link::tls::pin_of;
use muster_proto::Millis;
use muster_proto::order::{ORDERS_EKU_DER, Order, OrderKind, SIGNED};
use musterd::handoff::{Handoff, ORDER_USED};
use musterd::policy::{Moment, read_trusted};
use rustix::fs::{FlockOperation, flock};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::Deserialize;
use webpki::{EndEntityCert, KeyUsage};

use super::Refusal;

/// An order's time may differ by so much from a clock that is synchronised: what was used is remembered for longer.
const AGE_MAX: Millis = 24 * 3600 * 1000;
/// Orders that are remembered; the oldest half goes then. A hub gives some hundred a day.
const REMEMBERED: usize = 16_384;

/// The anchor file.
#[derive(Debug, Deserialize)]
pub(super) struct Anchor {
    /// The hub that is obeyed.
    pub(super) hub: String,
    /// SHA-256 of its authority's public key.
    pin: String,
    /// SHA-256 of this device's public key, in hexadecimal.
    key: String,
}

impl Anchor {
    /// Reads it.
    pub(super) fn read(path: &Path) -> Result<Self, Refusal> {
        let unusable = |why: String| {
            Refusal::new("no_anchor", format!("This device does not know which hub to obey: {why}. Run `musterd enrol` as root."))
        };
        let text = read_trusted(path).map_err(unusable)?;
        serde_json::from_str(&text).map_err(|error| unusable(format!("{} is damaged: {error}", path.display())))
    }
}

/// The order in a handoff, once it is proved to be this hub's for this device.
pub(super) fn verify(handoff: &Handoff, anchor: &Anchor, moment: Moment) -> Result<Order, Refusal> {
    let forged = |why: &str| Refusal::new("order_signature", format!("The order is not from the hub that this device obeys: {why}."));
    let (bytes, signature, certificate) = handoff.order.parts().map_err(|error| forged(&error.to_string()))?;
    let ca = CertificateDer::from_pem_slice(handoff.ca.as_bytes()).map_err(|_| forged("its authority is unreadable"))?;
    if pin_of(&ca).is_none_or(|pin| pin.to_string() != anchor.pin) {
        return Err(forged("its authority has another key"));
    }
    let authority = webpki::anchor_from_trusted_cert(&ca).map_err(|error| forged(&error.to_string()))?;
    let certificate = CertificateDer::from(certificate);
    let signer = EndEntityCert::try_from(&certificate).map_err(|error| forged(&error.to_string()))?;
    // A clock that is behind must not lock a device out; the daemon's word can move this one only forward.
    let now = moment.now.max(handoff.floor).max(0).unsigned_abs();
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now));
    signer
        .verify_for_usage(&[webpki::ring::ECDSA_P256_SHA256], &[authority], &[], now, KeyUsage::required(ORDERS_EKU_DER), None, None)
        .map_err(|error| forged(&format!("the certificate of the key that signed it: {error}")))?;
    let mut signed = SIGNED.to_vec();
    signed.extend_from_slice(&bytes);
    signer.verify_signature(webpki::ring::ECDSA_P256_SHA256, &signed, &signature).map_err(|_| forged("the signature is wrong"))?;

    let order = muster_proto::order::read(&bytes).map_err(|error| forged(&error.to_string()))?;
    if order.device_key != anchor.key {
        return Err(Refusal::new("order_device", "The order is for another device, or for an earlier key of this one."));
    }
    if moment.synchronised && moment.now.abs_diff(order.t) > AGE_MAX.unsigned_abs() {
        let message =
            "The order's time is more than a day from this device's synchronised clock: the order is old, or the hub's clock is wrong.";
        return Err(Refusal::new("order_time", message));
    }
    Ok(order)
}

/// Notes that an order is used, on the disk and in memory; refuses one that was used before.
///
/// A run that cannot be noted on the disk does not begin: it could be begun twice. A session may, so that somebody can still come
/// and make room: the relay lets nobody into a session that is over.
pub(super) fn use_once(disk: &Path, memory: &Path, order: &Order) -> Result<(), Refusal> {
    let (on_disk, in_memory) = (note(disk, order.name()), note(memory, order.name()));
    match (on_disk, in_memory, &order.kind) {
        (Ok(false), ..) | (_, Ok(false), _) => Err(Refusal::new(ORDER_USED, "This order was used before; nothing is begun twice.")),
        (Ok(true), Ok(true), _) | (Err(_), Ok(true), OrderKind::Session { .. }) => Ok(()),
        (Err(error), ..) | (_, Err(error), _) => {
            Err(Refusal::new("disk", format!("The device cannot note that this order is used: {error}.")))
        }
    }
}

/// Whether the name is new.
fn note(dir: &Path, name: &str) -> io::Result<bool> {
    let mut file: File = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(dir.join("used"))?;
    flock(&file, FlockOperation::LockExclusive)?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    // What a power cut left of the last line counts as no line.
    let mut names: Vec<&[u8]> = text.split(|byte| *byte == b'\n').filter(|name| !name.is_empty()).collect();
    if names.contains(&name.as_bytes()) {
        return Ok(false);
    }
    if names.len() >= REMEMBERED {
        names.drain(..REMEMBERED / 2);
        let mut kept = names.join(&b'\n');
        kept.push(b'\n');
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&kept)?;
        file.set_len(kept.len() as u64)?;
    }
    file.seek(SeekFrom::End(0))?;
    file.write_all(format!("\n{name}\n").as_bytes())?;
    file.sync_data()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_used_once_and_the_memory_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        assert!(note(dir.path(), "saaaaaaaaaaaaaaa").unwrap());
        assert!(!note(dir.path(), "saaaaaaaaaaaaaaa").unwrap());
        // Half a line of a power cut.
        OpenOptions::new().append(true).open(dir.path().join("used")).unwrap().write_all(b"rbbb").unwrap();
        assert!(note(dir.path(), "rbbbbbbbbbbbbbbb").unwrap());
        assert!(!note(dir.path(), "rbbbbbbbbbbbbbbb").unwrap());
        let many: String = (0..REMEMBERED).map(|n| format!("s{n:015}\n")).collect();
        std::fs::write(dir.path().join("used"), many).unwrap();
        assert!(note(dir.path(), "rccccccccccccccc").unwrap());
        assert!(!note(dir.path(), "rccccccccccccccc").unwrap());
        let last = format!("s{:015}", REMEMBERED - 1);
        assert!(!note(dir.path(), &last).unwrap(), "the newer half is kept");
        let lines = std::fs::read_to_string(dir.path().join("used")).unwrap().lines().filter(|line| !line.is_empty()).count();
        assert_eq!(lines, REMEMBERED / 2 + 1);
    }

    /// A hub with its key for orders, good for a year from 2026-11-01 on, and the device that believes it.
    struct Hub {
        anchor: Anchor,
        ca: String,
        certificate: Vec<u8>,
        key: rcgen::KeyPair,
    }

    /// 2026-11-01, and a day.
    const BEGIN: Millis = 1_793_491_200_000;
    const DAY: Millis = 24 * 3600 * 1000;

    impl Hub {
        fn new() -> Self {
            use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
            let (authority, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
            let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let ca = params.self_signed(&authority).unwrap();
            let mut orders = CertificateParams::new(Vec::<String>::new()).unwrap();
            orders.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(muster_proto::order::ORDERS_EKU.to_vec())];
            (orders.not_before, orders.not_after) = (rcgen::date_time_ymd(2026, 11, 1), rcgen::date_time_ymd(2027, 11, 1));
            let certificate = orders.signed_by(&key, &Issuer::new(params, authority)).unwrap().der().to_vec();
            let pin = pin_of(ca.der()).unwrap().to_string();
            Self { anchor: Anchor { hub: "https://hub".into(), pin, key: "0a".into() }, ca: ca.pem(), certificate, key }
        }

        fn handoff(&self, t: Millis, floor: Millis) -> Handoff {
            let open = serde_json::from_value(serde_json::json!({
                "session": "saaaaaaaaaaaaaaa", "relay": "x", "ticket": "x", "user": "x", "project": "lab", "role": "connect", "t": t,
            }));
            let kind = OrderKind::Session { open: open.unwrap() };
            let order = Order { device: "daaaaaaaaaaaaaaa".parse().unwrap(), device_key: "0a".into(), t, kind }.to_bytes();
            let signature = rcgen::SigningKey::sign(&self.key, &[SIGNED, &order].concat()).unwrap();
            let order = muster_proto::order::SignedOrder::new(&order, &signature, &self.certificate);
            let empty = String::new;
            let (certificate, key, log_level) = (empty(), empty(), empty());
            Handoff { order, ca: self.ca.clone(), certificate, key, proxy: None, floor, log_level, arrival: None }
        }

        /// What comes of an order of the time `t` at the device's time `now`.
        fn order(&self, t: Millis, now: Millis, synchronised: bool, floor: Millis) -> Result<Order, String> {
            verify(&self.handoff(t, floor), &self.anchor, Moment { now, synchronised }).map_err(|refusal| refusal.code)
        }
    }

    #[test]
    fn an_order_counts_for_a_day_by_a_clock_that_is_right() {
        let (hub, now) = (Hub::new(), BEGIN + 100 * DAY);
        let code = |t, synchronised| hub.order(t, now, synchronised, 0).err();
        for t in [now, now - DAY, now + DAY] {
            assert_eq!(code(t, true), None, "{}", t - now);
        }
        let far = [0, Millis::MAX, Millis::MIN, Millis::MIN + now];
        for t in [now - DAY - 1, now + DAY + 1, now - 8 * DAY, now + 8 * DAY].into_iter().chain(far) {
            assert_eq!(code(t, true).as_deref(), Some("order_time"), "{t}");
            assert_eq!(code(t, false), None, "by a clock that nobody set an order has no age");
        }
    }

    #[test]
    fn the_hubs_word_on_the_time_moves_the_clock_for_certificates_only_and_only_forward() {
        let hub = Hub::new();
        let code = |now, floor| hub.order(now, now, true, floor).err();
        assert_eq!(code(BEGIN + DAY, 0), None);
        // A machine without a battery for its clock.
        assert_eq!(code(0, 0).as_deref(), Some("order_signature"));
        assert_eq!(code(0, BEGIN + DAY), None);
        // What is over stays over.
        assert_eq!(code(BEGIN + 366 * DAY, BEGIN).as_deref(), Some("order_signature"));
        assert_eq!(code(BEGIN + DAY, BEGIN + 366 * DAY).as_deref(), Some("order_signature"));
    }

    #[test]
    fn whatever_was_changed_is_no_order() {
        let hub = Hub::new();
        let now = BEGIN + DAY;
        let good = hub.handoff(now, 0);
        let refused = |handoff: &Handoff, anchor: &Anchor| verify(handoff, anchor, Moment { now, synchronised: true }).unwrap_err().code;
        verify(&good, &hub.anchor, Moment { now, synchronised: true }).unwrap();
        let (order, signature, _) = good.order.parts().unwrap();
        let mut cases = 0;
        for (bytes, which) in [(&order, 0), (&signature, 1), (&hub.certificate, 2)] {
            for at in 0..bytes.len() {
                let mut parts = [order.clone(), signature.clone(), hub.certificate.clone()];
                parts[which][at] ^= 1;
                let changed = muster_proto::order::SignedOrder::new(&parts[0], &parts[1], &parts[2]);
                assert_eq!(refused(&Handoff { order: changed, ..good.clone() }, &hub.anchor), "order_signature", "part {which}, byte {at}");
                cases += 1;
            }
        }
        assert!(cases > 500, "{cases}");
        let stranger = Hub::new();
        assert_eq!(refused(&stranger.handoff(now, 0), &hub.anchor), "order_signature");
        assert_eq!(refused(&Handoff { ca: stranger.ca.clone(), ..good.clone() }, &hub.anchor), "order_signature");
        assert_eq!(refused(&Handoff { ca: stranger.ca, ..good.clone() }, &stranger.anchor), "order_signature");
        assert_eq!(refused(&good, &Anchor { key: "0b".into(), ..hub.anchor }), "order_device");
    }

    #[test]
    fn what_cannot_be_noted_does_not_begin_unless_it_is_a_session() {
        let (nowhere, memory) = (Path::new("/proc/nowhere"), tempfile::tempdir().unwrap());
        let order = |kind| Order { device: "daaaaaaaaaaaaaaa".parse().unwrap(), device_key: String::new(), t: 0, kind };
        let open = serde_json::from_value(serde_json::json!({
            "session": "saaaaaaaaaaaaaaa", "relay": "x", "ticket": "x", "user": "x", "project": "lab", "role": "connect", "t": 0,
        }));
        let session = order(OrderKind::Session { open: open.unwrap() });
        let start = serde_json::from_value(serde_json::json!({
            "command": {"shell": "x"}, "timeout_s": 1, "output_max": 1, "user": "x", "project": "lab", "role": "operate", "t": 0, "expires": 1,
        }));
        let run = order(OrderKind::Run { run: "raaaaaaaaaaaaaaa".parse().unwrap(), start: start.unwrap() });
        assert_eq!(use_once(nowhere, memory.path(), &run).unwrap_err().code, "disk");
        use_once(nowhere, memory.path(), &session).unwrap();
        assert_eq!(use_once(nowhere, memory.path(), &session).unwrap_err().code, "order_used");
        assert_eq!(use_once(nowhere, nowhere, &session).unwrap_err().code, "disk");
    }
}
