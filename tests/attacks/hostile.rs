//! A hub in the wrong hands, and a daemon in the wrong hands: orders signed with whatever key, handed over past the daemon.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use muster_proto::id::{RunId, SessionId};
use muster_proto::mqtt::SessionOpen;
use muster_proto::order::{ORDERS_EKU, Order, OrderKind, SIGNED, SignedOrder};
use muster_proto::run::{RunCommand, RunStart};
use musterd::handoff::{Arrival, Handoff, Say, line};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SigningKey as _};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::ground::{Ground, ROBOT};
use crate::lab::OWNER;

/// Longest wait for the device's first word.
const ANSWER: Duration = Duration::from_secs(10);

/// A key that signs orders, with its certificate.
pub struct Signer {
    key: KeyPair,
    certificate: CertificateDer<'static>,
}

impl Signer {
    /// The hub's own: what a hostile hub has.
    pub fn hub(ground: &Ground<'_>) -> Self {
        Self::from_pem(&ground.lab.data.join("orders.key"), &ground.lab.data.join("orders.pem"))
    }

    /// Any key with any certificate of PEM files.
    pub fn from_pem(key: &Path, certificate: &std::path::Path) -> Self {
        Self::of(&fs::read_to_string(key).unwrap(), &fs::read_to_string(certificate).unwrap())
    }

    /// The same of texts.
    pub fn of(key: &str, certificate: &str) -> Self {
        Self { key: KeyPair::from_pem(key).unwrap(), certificate: CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap() }
    }

    /// A certificate for signing orders, issued by whoever has this key.
    pub fn issued_by(issuer_certificate: &str, issuer_key: &str) -> Self {
        let issuer = Issuer::from_ca_cert_pem(issuer_certificate, KeyPair::from_pem(issuer_key).unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, muster_proto::order::COMMON_NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Other(ORDERS_EKU.to_vec())];
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Self { certificate: certificate.der().clone(), key }
    }

    /// An authority of the attacker's own: its certificate and key in PEM.
    pub fn own_authority() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "muster hub");
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// Signs.
    pub fn sign(&self, order: &Order) -> SignedOrder {
        let bytes = order.to_bytes();
        let signature = self.key.sign(&[SIGNED, &bytes].concat()).unwrap();
        SignedOrder::new(&bytes, &signature, &self.certificate)
    }
}

/// What the device says to an order.
#[derive(Debug)]
pub enum Answer {
    /// It has begun, and lives as long as this connection is of use.
    Opened(#[expect(dead_code, reason = "held open")] UnixStream),
    /// It does not begin.
    Refused(String, String),
    /// The connection ended without a word.
    Nothing,
}

impl Answer {
    /// For the table.
    pub fn text(&self) -> String {
        match self {
            Self::Opened(_) => "opened".to_owned(),
            Self::Refused(code, message) => format!("{code}: {message}"),
            Self::Nothing => "no answer".to_owned(),
        }
    }

    /// Whether it was refused with this code.
    pub fn is_refused(&self, with: &str) -> bool {
        matches!(self, Self::Refused(code, _) if code == with)
    }
}

/// The time now, as orders tell it.
pub fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// For an id of 15 characters of five bits each.
fn random() -> [u8; 15] {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed) << 32 | u64::from(std::process::id());
    std::array::from_fn(|at| u8::try_from(number.checked_shr(5 * u32::try_from(at).unwrap()).unwrap_or(0) & 31).unwrap())
}

/// An order for the device, otherwise good in all.
pub fn order(ground: &Ground<'_>, kind: OrderKind) -> Order {
    let anchor: serde_json::Value = serde_json::from_str(&fs::read_to_string(ground.at("etc/hub.json")).unwrap()).unwrap();
    let uid = ground.lab.device_row(ROBOT).unwrap()["uid"].as_str().unwrap().to_owned();
    Order { device: uid.parse().unwrap(), device_key: anchor["key"].as_str().unwrap().to_owned(), t: now(), kind }
}

/// A session for the organization's owner.
pub fn session(ground: &Ground<'_>) -> Order {
    let session = SessionId::from_random(random());
    let open = SessionOpen {
        relay: format!("{}/v1/sessions/{session}/device", ground.lab.url.replace("https", "wss")),
        session,
        ticket: "none".into(),
        user: OWNER.into(),
        project: "lab".parse().unwrap(),
        role: "admin".into(),
        reason: None,
        t: now(),
    };
    order(ground, OrderKind::Session { open })
}

/// The same with another relay.
pub fn session_at(ground: &Ground<'_>, relay: &str) -> Order {
    let mut order = session(ground);
    if let OrderKind::Session { open } = &mut order.kind {
        open.relay = relay.to_owned();
    }
    order
}

/// A run of this line of the shell, for the organization's owner.
pub fn run(ground: &Ground<'_>, shell: &str) -> Order {
    let start = RunStart {
        command: RunCommand::Shell(shell.to_owned()),
        run_as: None,
        cwd: None,
        env: [].into(),
        timeout_s: 60,
        output_max: 65_536,
        user: OWNER.into(),
        project: "lab".parse().unwrap(),
        role: "admin".into(),
        t: now(),
        expires: now() + 600_000,
    };
    order(ground, OrderKind::Run { run: RunId::from_random(random()), start })
}

/// What the daemon hands over with an order.
pub fn handoff(ground: &Ground<'_>, order: SignedOrder) -> Handoff {
    let own = rcgen::generate_simple_self_signed(vec!["session".to_owned()]).unwrap();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    let steady = fs::read_to_string("/proc/uptime").unwrap();
    let steady: f64 = steady.split_whitespace().next().unwrap().parse().unwrap();
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds since the machine's start")]
    let steady = (steady * 1000.0) as i64;
    Handoff {
        order,
        ca: ground.lab.ca(),
        certificate: own.cert.pem(),
        key: own.signing_key.serialize_pem(),
        proxy: None,
        floor: 0,
        log_level: "debug".into(),
        arrival: Some(Arrival { hub: now(), steady, left: 600_000, boot }),
    }
}

/// The files of a run as the daemon hands them over.
pub fn files(ground: &Ground<'_>) -> Vec<OwnedFd> {
    let open = |name: &str| {
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        OwnedFd::from(options.open(ground.at(&format!("proof/{name}"))).unwrap())
    };
    let number: String = random().iter().map(|five| format!("{five:02}")).collect();
    ["reports", "used", "lock"].iter().map(|name| open(&format!("{name}-{number}"))).collect()
}

/// Hands an order over, with what a good daemon adds.
pub fn hand_over(ground: &Ground<'_>, order: SignedOrder) -> Answer {
    hand_over_together(ground, vec![order]).remove(0)
}

/// The same with several at the same moment.
pub fn hand_over_together(ground: &Ground<'_>, orders: Vec<SignedOrder>) -> Vec<Answer> {
    let lines: Vec<(Vec<u8>, Vec<OwnedFd>)> = orders
        .into_iter()
        .map(|order| {
            let is_run = order.read().is_ok_and(|order| matches!(order.kind, OrderKind::Run { .. }));
            (line(&handoff(ground, order)), if is_run { files(ground) } else { Vec::new() })
        })
        .collect();
    let socket = ground.at("priv/start.sock");
    std::thread::scope(|scope| {
        let all: Vec<_> = lines.iter().map(|(line, fds)| scope.spawn(|| send_to(&socket, line, fds))).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// Hands over whatever it is.
pub fn send(ground: &Ground<'_>, bytes: &[u8], fds: &[OwnedFd]) -> Answer {
    send_to(&ground.at("priv/start.sock"), bytes, fds)
}

fn send_to(socket: &Path, bytes: &[u8], fds: &[OwnedFd]) -> Answer {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(ANSWER)).unwrap();
    stream.set_write_timeout(Some(ANSWER)).unwrap();
    let borrowed: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(100))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)));
    }
    let sent = sendmsg(&stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).unwrap_or(0);
    if (&stream).write_all(&bytes[sent..]).is_err() {
        return Answer::Nothing;
    }
    let mut text = String::new();
    match BufReader::new(&stream).read_line(&mut text) {
        Ok(1..) => match serde_json::from_str(&text).unwrap() {
            Say::Refused { code, message } => Answer::Refused(code, message),
            Say::Opened(_) => Answer::Opened(stream),
            other => panic!("{other:?}"),
        },
        _ => Answer::Nothing,
    }
}
