//! Bytes to send and ways to tell that they arrived: random data, SHA-256, small TCP servers.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom, SystemRandom};

/// Random bytes, so that no two streams carry the same.
pub fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
    bytes
}

/// A file of random bytes; its SHA-256.
pub fn random_file(path: &Path, length: usize) -> String {
    let mut file = File::create(path).expect("a file in the laboratory");
    let (mut hash, mut rest) = (Context::new(&SHA256), length);
    while rest > 0 {
        let piece = random(rest.min(1 << 20));
        hash.update(&piece);
        file.write_all(&piece).expect("room for the file");
        rest -= piece.len();
    }
    hex(hash)
}

/// SHA-256 of a file.
pub fn sha256_file(path: &Path) -> String {
    let file = File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    sha256_to_end(file).0
}

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> String {
    sha256_to_end(bytes).0
}

/// SHA-256 of everything up to the end, and how much it was. A reset in between counts as the end; the hash tells.
pub fn sha256_to_end(mut from: impl Read) -> (String, usize) {
    let (mut hash, mut buffer, mut length) = (Context::new(&SHA256), vec![0; 64 * 1024], 0);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hash.update(&buffer[..n]);
                length += n;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    (hex(hash), length)
}

fn hex(hash: Context) -> String {
    hash.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

/// A server on loopback that runs `serve` in a thread per connection, until the test process ends.
pub fn server(serve: impl Fn(TcpStream) + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
    let address = listener.local_addr().expect("a bound port");
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(connection));
        }
    });
    address
}

/// Sends back what comes, and ends when the other side does.
pub fn echo_server() -> SocketAddr {
    server(|mut connection| {
        let mut back = connection.try_clone().expect("a second handle");
        let _ = io::copy(&mut connection, &mut back);
        let _ = back.shutdown(Shutdown::Write);
    })
}

/// Reads to the end, then answers with the SHA-256 of what came, in hexadecimal.
pub fn hashing_server() -> SocketAddr {
    server(|mut connection| {
        let (hash, _) = sha256_to_end(&mut connection);
        let _ = connection.write_all(hash.as_bytes());
    })
}
