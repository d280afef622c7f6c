//! A device that gets out only through an HTTP proxy, and only to the HTTPS port: MQTT as WebSocket, sessions as ever.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use crate::device::Device;
use crate::lab::{Lab, SOON};
use crate::netns::Host;
use crate::traffic::server;

/// A proxy that knows CONNECT to one address and nothing else. Its address, how often it let through, how often it refused.
fn proxy(only: SocketAddr) -> (SocketAddr, Arc<[AtomicU32; 2]>) {
    let counts = Arc::new([AtomicU32::new(0), AtomicU32::new(0)]);
    let shared = Arc::clone(&counts);
    let address = server(move |near| {
        let mut reader = BufReader::new(near.try_clone().expect("a second handle"));
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        assert!(reader.buffer().is_empty(), "nothing is sent before the proxy agreed");
        let wanted = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()).unwrap_or_default();
        let allowed = wanted == only.to_string();
        shared[usize::from(!allowed)].fetch_add(1, Ordering::Relaxed);
        let mut near = near;
        if !allowed {
            let _ = near.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
            return;
        }
        let far = TcpStream::connect(only).expect("the hub");
        let _ = near.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n");
        let (mut near2, mut far2) = (near.try_clone().expect("a second handle"), far.try_clone().expect("a second handle"));
        let back = thread::spawn(move || {
            let _ = io::copy(&mut far2, &mut near2);
            let _ = near2.shutdown(Shutdown::Write);
        });
        let mut far = far;
        let _ = io::copy(&mut near, &mut far);
        let _ = far.shutdown(Shutdown::Write);
        let _ = back.join();
    });
    (address, counts)
}

#[test]
fn a_device_behind_a_proxy_that_lets_only_https_out_is_reached_all_the_same() {
    let lab = Lab::new();
    let (address, counts) = proxy(lab.https);
    let mut device = Device::new(&lab, Host::default(), "robot-1", &format!("[proxy]\nurl = \"http://{address}\"\n"));
    device.enrol();
    assert!(counts[0].load(Ordering::Relaxed) > 0, "enrolment went through the proxy");
    device.start();
    lab.online("robot-1");
    assert!(counts[1].load(Ordering::Relaxed) > 0, "MQTT over TCP was tried first, and refused");
    lab.row_becomes("robot-1", "online with a sample", SOON, |row| row["usage"].is_object());

    let before = counts[0].load(Ordering::Relaxed);
    assert_eq!(lab.run(&["shell", "robot-1", "--", "echo", "through the proxy"]).trim(), "through the proxy");
    assert!(counts[0].load(Ordering::Relaxed) > before, "the session went through the proxy too");
    // Told to stop, it says farewell on this way too.
    device.stop();
    lab.row_becomes("robot-1", "offline", SOON, |row| row["presence"] == "offline");
}
