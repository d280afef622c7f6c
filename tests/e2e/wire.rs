//! A network that can fail: carries TCP connections to another address until the test holds or cuts it.
//!
//! *Held*: nothing moves in either direction and nobody is told, as when a Wi-Fi link goes; new connections are accepted and hang.
//! *Cut*: every connection is reset, new ones too, as when a router or a hub restarts.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Open,
    Held,
    Cut,
}

struct State {
    mode: Mutex<Mode>,
    changed: Condvar,
    live: Mutex<Vec<TcpStream>>,
    carried: AtomicU64,
}

/// One listening address, carried to another.
pub struct Wire {
    address: SocketAddr,
    state: Arc<State>,
}

impl Wire {
    /// Listens on a loopback port of its own and carries what comes to `to`.
    pub fn to(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("a bound port");
        let state =
            Arc::new(State { mode: Mutex::new(Mode::Open), changed: Condvar::new(), live: Mutex::default(), carried: AtomicU64::new(0) });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || carry(&shared, &near, to));
            }
        });
        Self { address, state }
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes carried so far, both ways.
    pub fn carried(&self) -> u64 {
        self.state.carried.load(Ordering::Relaxed)
    }

    /// Nothing moves any more, and nobody is told.
    pub fn hold(&self) {
        self.set(Mode::Held);
    }

    /// All connections end at once, new ones too.
    pub fn cut(&self) {
        self.set(Mode::Cut);
        for stream in self.state.live.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// As new. Connections that were held go on.
    pub fn mend(&self) {
        self.set(Mode::Open);
    }

    fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
        self.state.changed.notify_all();
    }
}

impl State {
    /// Waits while the wire is held. Whether bytes may move.
    fn passes(&self) -> bool {
        let mode = self.changed.wait_while(self.mode.lock().unwrap(), |mode| *mode == Mode::Held).unwrap();
        *mode == Mode::Open
    }
}

fn carry(state: &Arc<State>, near: &TcpStream, to: SocketAddr) {
    if !state.passes() {
        return;
    }
    let Ok(far) = TcpStream::connect(to) else { return };
    let (Ok(near2), Ok(far2)) = (near.try_clone(), far.try_clone()) else { return };
    for stream in [near, &far] {
        let _ = stream.set_nodelay(true);
        state.live.lock().unwrap().extend(stream.try_clone());
    }
    let back = Arc::clone(state);
    thread::spawn(move || pump(&back, far2, near2));
    if let (Ok(near), Ok(far)) = (near.try_clone(), far.try_clone()) {
        pump(state, near, far);
    }
}

/// Moves bytes one way. A held wire stops reading within one look, so that what is under way stays under way.
fn pump(state: &State, mut from: TcpStream, mut to: TcpStream) {
    let _ = from.set_read_timeout(Some(Duration::from_millis(50)));
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer);
        if !state.passes() {
            break;
        }
        match read {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(n) => {
                if to.write_all(&buffer[..n]).is_err() {
                    break;
                }
                state.carried.fetch_add(n as u64, Ordering::Relaxed);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
