//! `muster forward`: many connections at once, each with its own bytes, and none that holds up the others.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::device::Device;
use crate::lab::{Lab, SOON, free_port};
use crate::process::Process;
use crate::traffic::{hashing_server, random, server, sha256, sha256_to_end};
use crate::wait::eventually;

/// Connections at once.
const CONNECTIONS: usize = 50;
/// Bytes up and down each of them.
const BYTES: usize = 400_000;

/// `muster forward robot-1 LOCAL:PORT`, ready.
pub fn forward(lab: &Lab, to: SocketAddr) -> (Process, SocketAddr) {
    let near = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let command = lab.muster(&["forward", "robot-1", &format!("{}:{}", near.port(), to.port())]);
    let mut forward = Process::start("forward", lab.folder(), command);
    eventually("the forward listens", SOON, || {
        forward.assert_alive();
        TcpStream::connect(near).ok()
    });
    (forward, near)
}

#[test]
fn fifty_connections_at_once_are_never_mixed_up() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    // The far side answers with bytes of its own, derived from nothing that the other connections know, and their hash;
    // then with the hash of what it read.
    let far = server(|mut connection| {
        let own = random(BYTES);
        let mut writer = connection.try_clone().expect("a second handle");
        let sending = thread::spawn(move || {
            let _ = writer.write_all(sha256(&own).as_bytes()).and_then(|()| writer.write_all(&own));
        });
        let (hash, _) = sha256_to_end(&mut connection);
        sending.join().expect("the writer");
        let _ = connection.write_all(hash.as_bytes());
    });
    let (mut forward, near) = forward(&lab, far);
    let all: Vec<_> = (0..CONNECTIONS)
        .map(|number| {
            thread::spawn(move || {
                let sent = random(BYTES + number * 1000);
                let mut connection = TcpStream::connect(near).expect("the forward accepts");
                connection.set_read_timeout(Some(Duration::from_secs(90))).expect("a deadline");
                let mut writer = connection.try_clone().expect("a second handle");
                let hash = sha256(&sent);
                let sending = thread::spawn(move || writer.write_all(&sent).and_then(|()| writer.shutdown(Shutdown::Write)));
                let mut got = Vec::new();
                connection.read_to_end(&mut got).unwrap_or_else(|error| panic!("connection {number} after {} bytes: {error}", got.len()));
                sending.join().expect("the writer").unwrap_or_else(|error| panic!("connection {number}, sending: {error}"));
                assert_eq!(got.len(), 64 + BYTES + 64, "connection {number}");
                assert_eq!(String::from_utf8_lossy(&got[..64]), sha256(&got[64..64 + BYTES]), "down connection {number}");
                assert_eq!(String::from_utf8_lossy(&got[64 + BYTES..]), hash, "up connection {number}");
            })
        })
        .collect();
    let count = all.into_iter().map(|one| one.join().expect("a connection whose bytes are its own")).count();
    assert_eq!(count, CONNECTIONS);
    forward.assert_alive();
}

#[test]
fn a_forward_that_leads_into_itself_says_so_and_ends() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    let port = free_port();
    let mut forward = Process::start("circle", lab.folder(), lab.muster(&["forward", "robot-1", &port.to_string()]));
    let near = SocketAddr::from(([127, 0, 0, 1], port));
    let _connection = eventually("the forward listens", SOON, || TcpStream::connect(near).ok());
    assert_eq!(forward.ended(SOON).code(), Some(1));
    let log = forward.log();
    assert!(log.contains("robot-1 is this machine") && log.contains("the forward leads into itself"), "{log}");
    assert!(log.contains(&format!("0:{port} takes a free one")), "{log}");
    // One with another port here does what it should, over many connections.
    let far = server(|mut connection| drop(connection.write_all(b"far")));
    let (mut forward, near) = self::forward(&lab, far);
    for _ in 0..20 {
        let mut got = String::new();
        TcpStream::connect(near).unwrap().read_to_string(&mut got).unwrap();
        assert_eq!(got, "far");
    }
    forward.assert_alive();
}

#[test]
fn a_stalled_connection_does_not_slow_the_others() {
    let lab = Lab::new();
    let _device = Device::with_sessiond(&lab, "robot-1");
    // Never reads until the test ends.
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let shared = Arc::clone(&gate);
    let stalled_server = server(move |connection| {
        let (open, changed) = &*shared;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        drop(connection);
    });
    let hashing = hashing_server();
    let command_ports = [free_port(), free_port()];
    // Both through ONE session: that is where a stall could be felt.
    let both = lab.muster(&[
        "forward",
        "robot-1",
        &format!("{}:{}", command_ports[0], stalled_server.port()),
        &format!("{}:{}", command_ports[1], hashing.port()),
    ]);
    let mut both = Process::start("forward-both", lab.folder(), both);
    let [mut stalled, mut free] = command_ports.map(|port| {
        eventually("the forward listens", SOON, || {
            both.assert_alive();
            TcpStream::connect(("127.0.0.1", port)).ok()
        })
    });

    // Fill the stalled one until nothing more is taken.
    stalled.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let (block, mut taken) = (random(1 << 20), 0);
    loop {
        match stalled.write(&block) {
            Ok(n) => taken += n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => panic!("the stalled connection ended after {taken} bytes: {error}"),
        }
        assert!(taken < 64 << 20, "nobody reads, but {taken} bytes were taken: memory is not bounded");
    }

    let bytes = random(20 << 20);
    let hash = sha256(&bytes);
    let started = Instant::now();
    free.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    free.write_all(&bytes).unwrap();
    free.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    free.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, hash);
    assert!(started.elapsed() < Duration::from_secs(30), "20 MiB beside a stalled connection took {:?}", started.elapsed());
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}
