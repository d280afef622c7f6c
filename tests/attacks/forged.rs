//! Forged words: to the daemon, to the privileged part, and to the owner's commands.

use std::fs;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use muster_proto::order::{Order, OrderKind, SignedOrder};
use muster_proto::run::RunCommand;
use musterd::handoff::{Do, line};
use rustix::process::{Pid, Signal, kill_process};

use crate::ground::{DAEMON, Ground};
use crate::hostile::{self, Answer, Signer, hand_over};
use crate::key::connect;
use crate::lab::{SOON, ok};
use crate::table::Table;
use crate::wait::eventually;

/// Whoever has the daemon's user, its state and its sockets.
const TAKEN_OVER: &str = "a daemon taken over";

pub fn play(ground: &mut Ground<'_>, table: &mut Table) {
    sockets(ground, table);
    signatures(ground, table);
    replays(ground, table);
    handoffs(ground, table);
    live_directory(ground, table);
    at_once(ground, table);
}

fn sockets(ground: &mut Ground<'_>, table: &mut Table) {
    let (owner, eve) = (ground.owner.clone(), ground.eve.clone());
    let _other = owner.shell(ground.lab, "words", "echo here; exec sleep 600");
    let name = ground.only_one();
    let (run, private) = (ground.at("run"), ground.at("priv"));
    let report = format!("{{\"say\":\"closed\",\"reason\":\"{}\"}}", "forged-words");
    eve.tries(
        ground,
        table,
        4,
        &[
            ("forge events at the daemon's control socket", connect(&run.join("control.sock"))),
            ("hand an order over at the start socket", connect(&private.join("start.sock"))),
            ("speak to another session's socket", connect(&private.join(format!("live/{name}.sock")))),
            ("leave last words of another session", format!("echo '{report}' > {}/last/{name}.report", private.display())),
            ("leave reports of runs in the daemon's state", format!("mkdir -p {0} && echo x > {0}/x", ground.at("state/runs").display())),
            (
                "end another's session by the owner's command",
                format!("{} --config {} end {name}", ground.at("bin/musterd").display(), ground.at("etc/config.toml").display()),
            ),
            ("lock the device", format!("{} --config {} lock", ground.at("bin/musterd").display(), ground.at("etc/config.toml").display())),
            (
                "start a privileged part of one's own",
                format!("{} serve --policy /dev/null < /dev/null", ground.at("bin/musterd-session").display()),
            ),
            (
                "take the place of the metrics socket",
                format!(
                    "rm -f {0} && perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => \"{0}\", Listen => 1) or die'",
                    run.join("metrics.sock").display()
                ),
            ),
        ],
    );
    // Anybody may add a metric; never in the place of one of the device's own.
    eve.does(ground.lab, &format!("printf 'cpu 99\\nmem 99\\nlink 99\\n' | perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(Peer => \"{}\") or die; print $s $_ while <STDIN>'", run.join("metrics.sock").display()));
    ground.only_one();
    ground.clear();
}

fn try_order(ground: &Ground<'_>, table: &mut Table, what: &str, by: &str, order: SignedOrder) {
    let answer = hand_over(ground, order);
    table.row(4, what, by, answer.text(), matches!(answer, Answer::Refused(..)));
}

/// What is changed in an order.
type Change = fn(&mut Order);

fn signatures(ground: &mut Ground<'_>, table: &mut Table) {
    let hub = Signer::hub(ground);
    assert!(matches!(hand_over(ground, hub.sign(&hostile::session(ground))), Answer::Opened(_)), "a good order is good");
    ground.clear();

    let signed = hub.sign(&hostile::session(ground));
    try_order(ground, table, "an unsigned order", TAKEN_OVER, SignedOrder { signature: String::new(), ..signed.clone() });
    let other = hub.sign(&hostile::session(ground));
    try_order(ground, table, "the signature of another order", TAKEN_OVER, SignedOrder { signature: other.signature, ..signed });
    // What is changed after it was signed: the signed bytes are the order's, so any change is another order.
    let changes: [(&str, Change); 6] = [
        ("another person", |order| open(order, |open| open.user = "eve@example.org".into())),
        ("another role", |order| open(order, |open| open.role = "maintain".into())),
        ("another relay", |order| open(order, |open| open.relay = "wss://127.0.0.1:9/x".into())),
        ("another session", |order| open(order, |open| open.session = "saaaaaaaaaaaaaaa".parse().unwrap())),
        ("another time", |order| order.t += 1),
        ("another device", |order| order.device = "daaaaaaaaaaaaaaa".parse().unwrap()),
    ];
    for (what, change) in changes {
        let order = hostile::session(ground);
        let mut changed = order.clone();
        change(&mut changed);
        let signed = SignedOrder { order: hub.sign(&changed).order, ..hub.sign(&order) };
        try_order(ground, table, &format!("a session changed after it was signed: {what}"), TAKEN_OVER, signed);
    }
    let proof = ground.at("proof/changed");
    let run = hostile::run(ground, "true");
    let mut changed = run.clone();
    if let OrderKind::Run { start, .. } = &mut changed.kind {
        start.command = RunCommand::Shell(format!("touch {}", proof.display()));
    }
    let signed = SignedOrder { order: hub.sign(&changed).order, ..hub.sign(&run) };
    try_order(ground, table, "a run changed after it was signed: another command", TAKEN_OVER, signed);
    assert!(!proof.exists());

    let mut foreign = hostile::session(ground);
    foreign.device_key = "00".repeat(32);
    try_order(ground, table, "an order for another device's key", "a hostile hub", hub.sign(&foreign));

    // Keys that the same authority certified for something else.
    let server = Signer::from_pem(&ground.lab.data.join("server.key"), &ground.lab.data.join("server.pem"));
    try_order(ground, table, "signed by the hub's TLS server key", TAKEN_OVER, server.sign(&hostile::session(ground)));
    let (certificate, key) = device_credentials(ground);
    try_order(ground, table, "signed by the device's own key", TAKEN_OVER, Signer::of(&key, &certificate).sign(&hostile::session(ground)));
    let below = Signer::issued_by(&certificate, &key);
    try_order(ground, table, "signed by a key that the device's key certified", TAKEN_OVER, below.sign(&hostile::session(ground)));
    let (authority, authority_key) = Signer::own_authority();
    let own = Signer::issued_by(&authority, &authority_key);
    try_order(ground, table, "signed by an authority of its own", TAKEN_OVER, own.sign(&hostile::session(ground)));
    let mut with_own = hostile::handoff(ground, own.sign(&hostile::session(ground)));
    for (what, ca) in [
        ("handed over with it", authority.clone()),
        ("behind the hub's", ground.lab.ca() + &authority),
        ("before the hub's", authority + &ground.lab.ca()),
    ] {
        with_own.ca = ca;
        let answer = hostile::send(ground, &line(&with_own), &[]);
        table.row(4, format!("an authority of its own, {what}"), TAKEN_OVER, answer.text(), matches!(answer, Answer::Refused(..)));
    }
    // The anchor is root's.
    let (code, said) = ground.as_user(DAEMON, &format!("echo x > {0} || mv {0} {0}.old", ground.at("etc/hub.json").display()));
    table.row(4, "another hub in the anchor", DAEMON, said, code != 0);
}

fn open(order: &mut Order, change: impl FnOnce(&mut muster_proto::mqtt::SessionOpen)) {
    if let OrderKind::Session { open } = &mut order.kind {
        change(open);
    }
}

fn device_credentials(ground: &Ground<'_>) -> (String, String) {
    let identity: serde_json::Value = serde_json::from_str(&fs::read_to_string(ground.at("state/identity.json")).unwrap()).unwrap();
    let certificate = identity["certificate"].as_str().or_else(|| identity["identity"]["certificate"].as_str());
    let certificate = certificate.unwrap_or_else(|| panic!("no certificate in {identity}")).to_owned();
    (certificate, fs::read_to_string(ground.at("state/key.pem")).unwrap())
}

fn replays(ground: &mut Ground<'_>, table: &mut Table) {
    let hub = Signer::hub(ground);
    let proof = ground.at("proof/runs");
    let (session, run) =
        (hub.sign(&hostile::session(ground)), hub.sign(&hostile::run(ground, &format!("echo ran >> {}", proof.display()))));
    for order in [&session, &run] {
        let answer = hand_over(ground, order.clone());
        assert!(matches!(answer, Answer::Opened(_)), "{answer:?}");
    }
    eventually("the run ran", SOON, || proof.exists().then_some(()));
    ground.clear();
    let again = |ground: &Ground<'_>, table: &mut Table, when: &str| {
        for (what, order) in [("session", &session), ("run", &run)] {
            let answer = hand_over(ground, order.clone());
            table.row(4, format!("a {what} once more, {when}"), TAKEN_OVER, answer.text(), answer.is_refused("order_used"));
        }
    };
    again(ground, table, "after it was over");
    let (code, said) =
        ground.as_user(DAEMON, &format!("rm -f {0}/priv/used {0}/privstate/used || : > {0}/privstate/used", ground.at("").display()));
    table.row(4, "make the device forget used orders", DAEMON, said, code != 0);
    ground.stop_service();
    // As a reboot does.
    fs::remove_dir_all(ground.at("priv")).unwrap();
    ground.start_service();
    again(ground, table, "after a reboot");
    let ran = fs::read_to_string(&proof).unwrap().lines().count();
    table.row(4, "how often the run ran", TAKEN_OVER, ran.to_string(), ran == 1);
    // Two at the same moment.
    let order = hub.sign(&hostile::session(ground));
    let answers = hostile::hand_over_together(ground, vec![order; 4]);
    let opened = answers.iter().filter(|answer| matches!(answer, Answer::Opened(_))).count();
    table.row(4, "one order four times at the same moment", TAKEN_OVER, format!("{opened} opened"), opened == 1);
    ground.clear();
}

fn handoffs(ground: &mut Ground<'_>, table: &mut Table) {
    let hub = Signer::hub(ground);
    let null = || OwnedFd::from(fs::File::open("/dev/null").unwrap());
    let good = |order: &Order| line(&hostile::handoff(ground, hub.sign(order)));
    let session = good(&hostile::session(ground));
    let mut huge = b"{\"order\":{\"order\":\"".to_vec();
    huge.resize(2 * 1024 * 1024, b'A');
    let mut deep = vec![b'['; 100_000];
    deep.push(b'\n');
    let mut bytes: Vec<u8> = (0..4096u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    bytes.push(b'\n');
    for (what, bytes, fds) in [
        ("random bytes", bytes, vec![]),
        ("a line without an end", huge, vec![]),
        ("a hundred thousand brackets", deep, vec![]),
        ("half an order", session[..session.len() / 2].iter().copied().chain(*b"\n").collect(), vec![]),
        ("a run without its files", good(&hostile::run(ground, "touch /tmp/muster-t-no-files")), vec![]),
        ("a run with too many files", good(&hostile::run(ground, "touch /tmp/muster-t-no-files")), (0..9).map(|_| null()).collect()),
    ] {
        let answer = hostile::send(ground, &bytes, &fds);
        let began =
            matches!(answer, Answer::Opened(_)) && !what.contains("files") || std::path::Path::new("/tmp/muster-t-no-files").exists();
        table.row(4, format!("handed over: {what}"), TAKEN_OVER, answer.text(), !began);
    }
    let odd =
        [fs::File::open("/etc/shadow").unwrap().into(), fs::File::open("/").unwrap().into(), fs::File::open("/dev/zero").unwrap().into()];
    let answer = hostile::send(ground, &good(&hostile::run(ground, "touch /tmp/muster-t-odd-files")), &odd);
    // Its collector can write nothing, and tries for a minute; nobody but the daemon is the worse for it.
    for live in ground.living() {
        let side = ground.parts_of(live["name"].as_str().unwrap()).side;
        kill_process(Pid::from_raw(side).unwrap(), Signal::KILL).unwrap();
    }
    ground.clear();
    let ran = std::path::Path::new("/tmp/muster-t-odd-files").exists();
    table.row(4, "handed over: odd descriptors instead of files", TAKEN_OVER, format!("{}, ran: {ran}", answer.text()), true);
    let _ = fs::remove_file("/tmp/muster-t-odd-files");
    // Somebody who connects and says nothing holds nobody up.
    let silent: Vec<UnixStream> = (0..64).map(|_| UnixStream::connect(ground.at("priv/start.sock")).unwrap()).collect();
    let began = Instant::now();
    let answer = hand_over(ground, hub.sign(&hostile::session(ground)));
    let held = matches!(answer, Answer::Opened(_)) && began.elapsed() < Duration::from_secs(30);
    table.row(4, "64 silent connections hold the service up", TAKEN_OVER, format!("{} ms", began.elapsed().as_millis()), held);
    drop(silent);
    ground.clear();
}

/// The daemon may connect to what lives, and end it; it may not hide it, nor keep root from it.
fn live_directory(ground: &mut Ground<'_>, table: &mut Table) {
    let owner = ground.owner.clone();
    let mut shell = owner.shell(ground.lab, "hidden", "echo here; exec sleep 600");
    let name = ground.only_one();
    let live = ground.at("priv/live");
    let dir = live.display();
    for (what, line) in [
        ("hide a session from its owner: remove its socket", format!("rm {dir}/{name}.sock")),
        ("rename its socket", format!("mv {dir}/{name}.sock {dir}/other.sock")),
        ("a socket of its own in that place", format!("ln -sf /tmp/x {dir}/{name}.sock")),
        ("a link for the next socket", format!("ln -s /etc/shadow {dir}/saaaaaaaaaaaaaaa.sock")),
        (
            "sockets that count as sessions",
            format!("perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => \"{dir}/sbbbbbbbbbbbbbbb.sock\", Listen => 1) or die $!'"),
        ),
        ("the directory itself", format!("mv {dir} {dir}.old || chmod 777 {dir}")),
        ("read the lock by which sessions are counted", format!("flock -n {dir}/../lock true")),
    ] {
        let (code, said) = ground.as_user(DAEMON, &line);
        table.row(4, what, DAEMON, said, code != 0);
    }
    // A link where last words will be written: it must not be written through.
    let target = ground.at("proof/through");
    fs::write(&target, "untouched").unwrap();
    let (code, said) = ground.as_user(DAEMON, &format!("ln -s {} {}/{name}.report", target.display(), ground.at("priv/last").display()));
    assert_eq!(code, 0, "the daemon may write there: {said}");
    // It holds connections, and root is heard all the same.
    let socket = live.join(format!("{name}.sock"));
    let attached: Vec<UnixStream> = (0..20)
        .map(|_| {
            let stream = UnixStream::connect(&socket).unwrap();
            (&stream).write_all(&line(&Do::Attach)).unwrap();
            stream
        })
        .collect();
    for stream in &attached {
        let _ = (&mut &*stream).write_all(&b"{\"do\":\"status\"}\n".repeat(50));
    }
    ground.daemon().signal(Signal::STOP);
    ok(&mut ground.musterd(&["end", "--all"]));
    let ended = shell.ended(SOON);
    let gone = ground.is_empty(SOON);
    kill_process(ground.daemon().pid(), Signal::CONT).unwrap();
    table.row(4, "keep the owner's `musterd end` out by a flood of connections", TAKEN_OVER, format!("ended: {gone}, {ended}"), gone);
    drop(attached);
    let through = fs::read_to_string(&target).unwrap() != "untouched";
    table.row(4, "a link in place of last words", DAEMON, if through { "written through" } else { "not written through" }, !through);
    let _ = fs::remove_file(ground.at(&format!("priv/last/{name}.report")));
}

/// The bound of runs at once holds also where they begin at the same moment.
fn at_once(ground: &mut Ground<'_>, table: &mut Table) {
    let hub = Signer::hub(ground);
    let orders: Vec<SignedOrder> = (0..6).map(|_| hub.sign(&hostile::run(ground, "sleep 600"))).collect();
    let answers = hostile::hand_over_together(ground, orders);
    let opened = answers.iter().filter(|answer| matches!(answer, Answer::Opened(_))).count();
    table.row(4, "six runs at once where four are allowed", "a hostile hub", format!("{opened} run"), opened <= 4);
    assert!(opened > 0, "{answers:?}");
    ground.clear();
}
