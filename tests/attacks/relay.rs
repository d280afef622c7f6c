//! Where the device can be sent: the hub names a relay and a broker, and the device goes to its own hub only.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::ground::{Ground, ROBOT};
use crate::hostile::{self, Answer, Signer, hand_over};
use crate::lab::SOON;
use crate::table::Table;
use crate::wait::{eventually, pause};

const HUB: &str = "a hostile hub";
/// A host beside the hub's own 127.0.0.1; all of this network is this machine.
const ELSEWHERE: &str = "127.0.0.2";

/// A place that counts who comes.
struct Lure {
    address: SocketAddr,
    came: Arc<AtomicUsize>,
}

impl Lure {
    fn at(host: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let (address, came) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&came);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                count.fetch_add(1, Ordering::Relaxed);
                drop(stream);
            }
        });
        Self { address, came }
    }

    fn came(&self) -> usize {
        self.came.load(Ordering::Relaxed)
    }
}

pub fn play(ground: &mut Ground<'_>, table: &mut Table) {
    let hub = Signer::hub(ground);
    let lure = Lure::at(ELSEWHERE);
    let port = lure.address.port();
    let own = ground.lab.https.port();
    for relay in [
        format!("wss://{ELSEWHERE}:{port}/v1/sessions/x/device"),
        format!("wss://localhost:{port}/x"),
        format!("wss://localhost:{own}/x"),
        format!("wss://LOCALHOST.:{port}/x"),
        format!("wss://127.0.0.1.:{port}/x"),
        format!("wss://127.2:{port}/x"),
        format!("wss://2130706434:{port}/x"),
        format!("wss://0x7f000002:{port}/x"),
        format!("wss://[::ffff:127.0.0.2]:{port}/x"),
        format!("wss://[::1]:{port}/x"),
        format!("wss://127.0.0.1@{ELSEWHERE}:{port}/x"),
        format!("wss://127.0.0.1:{own}@{ELSEWHERE}:{port}/x"),
        format!("wss://127.0.0.1#@{ELSEWHERE}:{port}/x"),
        format!("wss://127.0.0.1\\@{ELSEWHERE}:{port}/x"),
        format!("wss://{ELSEWHERE}:{port}?127.0.0.1"),
        format!("ws://127.0.0.1:{own}/x"),
        format!("http://{ELSEWHERE}:{port}/x"),
        "unix:///run/x.sock".to_owned(),
        "wss://".to_owned(),
    ] {
        let answer = hand_over(ground, hub.sign(&hostile::session_at(ground, &relay)));
        // What begins all the same is given the time to dial.
        if matches!(answer, Answer::Opened(_)) {
            let _ = ground.is_empty(Duration::from_secs(3));
        }
        let shown = relay.replace(&port.to_string(), "PORT").replace(&own.to_string(), "HUBPORT");
        // One whose host is the hub's after all dials the hub: it is not sent elsewhere.
        let held = lure.came() == 0
            && (matches!(answer, Answer::Refused(..)) || shown.starts_with("wss://127.0.0.1#") || shown.starts_with("wss://127.0.0.1\\"));
        table.row(8, format!("relay {shown}"), HUB, answer.text(), held);
        ground.clear();
    }
    // The owner's list lets it: the lure would be seen.
    ground.policy(&format!("{}[relay]\nhosts = [\"{ELSEWHERE}\"]\n", ground.usual_policy()));
    let relay = format!("wss://{ELSEWHERE}:{port}/x");
    let answer = hand_over(ground, hub.sign(&hostile::session_at(ground, &relay)));
    assert!(matches!(answer, Answer::Opened(_)), "{}", answer.text());
    eventually("the network side dials a relay that the owner named", SOON, || (lure.came() > 0).then_some(()));
    drop(answer);
    ground.clear();
    let answer = hand_over(ground, hub.sign(&hostile::session_at(ground, &format!("wss://127.0.0.3:{port}/x"))));
    table.row(8, "a host beside the one that the owner named", HUB, answer.text(), matches!(answer, Answer::Refused(..)));
    ground.policy(&ground.usual_policy());

    // A target of the local network through a session, past [tcp].
    let inner = Lure::at("127.0.0.1");
    for target in [
        format!("{}", inner.address.port()),
        format!("127.0.0.1:{}", inner.address.port()),
        format!("{ELSEWHERE}:{port}"),
        "/run/dbus/system_bus_socket".to_owned(),
    ] {
        let before = inner.came() + lure.came();
        let reached = forwards(ground, &target, || inner.came() + lure.came() > before);
        let shown = target.replace(&inner.address.port().to_string(), "PORT").replace(&port.to_string(), "PORT");
        table.row(8, format!("forward {shown} past [tcp] and [unix]"), "a visitor", if reached { "reached" } else { "refused" }, !reached);
    }

    // The broker: the hub tells at the next enrolment or renewal where it is; here it moves, and says so.
    let broker = Lure::at(ELSEWHERE);
    broker_moves(ground, table, &broker);
}

/// Whether a forwarded port reaches what it names.
fn forwards(ground: &Ground<'_>, target: &str, reached: impl Fn() -> bool) -> bool {
    let local = crate::lab::free_port();
    let owner = ground.owner.clone();
    let mut forward = owner.muster(ground.lab, &["forward", ROBOT, &format!("{local}:{target}")]);
    let mut child =
        forward.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let mut stream = eventually("the port listens here", SOON, || std::net::TcpStream::connect(("127.0.0.1", local)).ok());
    // A target that is refused ends the connection.
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let ended = std::io::Read::read(&mut stream, &mut [0; 1]);
    let timed_out = ended.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    let got = reached() || matches!(ended, Ok(1..)) || timed_out;
    let _ = child.kill();
    let _ = child.wait();
    ground.clear();
    got
}

fn broker_moves(ground: &mut Ground<'_>, table: &mut Table, lure: &Lure) {
    // What a hostile hub answers lies in the daemon's state afterwards: the same is written there.
    let path = ground.at("state/identity.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let own = format!("mqtts://{}", ground.lab.mqtt);
    assert!(text.contains(&own), "{text}");
    ground.daemon().stop();
    for (what, url) in [
        ("another host", format!("mqtts://{}", lure.address)),
        ("userinfo", format!("mqtts://127.0.0.1@{}", lure.address)),
        ("plaintext", format!("mqtt://{}", lure.address)),
    ] {
        std::fs::write(&path, text.replace(&own, &url)).unwrap();
        let before = ground.daemon().log().len();
        ground.start_daemon();
        let said = eventually("the daemon says what it makes of it", SOON, || {
            let log = ground.daemon().log();
            let new = log.get(before..).unwrap_or_default().to_owned();
            new.lines().find(|line| line.contains(" warn ") || line.contains(" error") || line.contains("online")).map(str::to_owned)
        });
        pause(Duration::from_millis(500));
        table.row(8, format!("a broker with {what}"), HUB, said.get(21..).unwrap_or_default(), lure.came() == 0);
        ground.daemon().stop();
    }
    std::fs::write(&path, &text).unwrap();
    ground.start_daemon();
    ground.lab.online(ROBOT);
}
