//! The measuring pair: a server behind the tunnel, and clients in front of it. Blocking threads, plain sockets.
//!
//! A connection begins with one byte that says what it is for: `d` the server sends for ever, `u` it reads for ever and tells how much
//! it got each time it is asked by a count, `e` echo, `h` one byte and then silence.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// One read and write: as large as a program that wants speed takes.
const CHUNK: usize = 128 * 1024;
/// A tunnel that does not answer in this time has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Starts the server; it lives as long as the process.
pub(crate) fn serve() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            // Small stacks: a thousand connections are held.
            let _ = thread::Builder::new().stack_size(256 * 1024).spawn(move || {
                let _ = answer(tcp);
            });
        }
    });
    Ok(address)
}

fn answer(mut tcp: TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut what = [0];
    tcp.read_exact(&mut what)?;
    match what[0] {
        b'd' => {
            let mut len = [0; 8];
            tcp.read_exact(&mut len)?;
            send(&mut tcp, u64::from_be_bytes(len))?;
            // Closed by the client, which has counted.
            let _ = tcp.read(&mut what);
        }
        b'u' => {
            let mut len = [0; 8];
            tcp.read_exact(&mut len)?;
            receive(&mut tcp, u64::from_be_bytes(len))?;
            tcp.write_all(b"k")?;
            let _ = tcp.read(&mut what);
        }
        b'e' => {
            let mut buffer = vec![0; 4096];
            loop {
                let read = tcp.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                tcp.write_all(&buffer[..read])?;
            }
        }
        _ => {
            tcp.write_all(b"k")?;
            let _ = tcp.read(&mut what);
        }
    }
    Ok(())
}

fn send(tcp: &mut TcpStream, mut len: u64) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK];
    while len > 0 {
        let now = usize::try_from(len).unwrap_or(CHUNK).min(CHUNK);
        tcp.write_all(&chunk[..now])?;
        len -= now as u64;
    }
    Ok(())
}

fn receive(tcp: &mut TcpStream, mut len: u64) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    while len > 0 {
        let read = tcp.read(&mut chunk)?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the tunnel closed in the middle"));
        }
        len = len.checked_sub(read as u64).ok_or_else(|| io::Error::other("the tunnel gave more than was sent"))?;
    }
    Ok(())
}

/// Which way the bulk goes, seen from the engineer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the device.
    Down,
    /// To the device.
    Up,
}

/// Connects through a tunnel.
pub(crate) fn connect(at: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect_timeout(&at, PATIENCE)?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    Ok(tcp)
}

/// Moves `bytes` in all over `connections` at once; gives the time that it took.
pub(crate) fn bulk(at: SocketAddr, way: Way, connections: u64, bytes: u64) -> io::Result<Duration> {
    let each = bytes / connections;
    let sockets: Vec<TcpStream> = (0..connections).map(|_| connect(at)).collect::<io::Result<_>>()?;
    let started = Instant::now();
    let threads: Vec<_> = sockets
        .into_iter()
        .map(|mut tcp| {
            thread::spawn(move || -> io::Result<()> {
                match way {
                    Way::Down => {
                        tcp.write_all(b"d")?;
                        tcp.write_all(&each.to_be_bytes())?;
                        receive(&mut tcp, each)
                    }
                    Way::Up => {
                        tcp.write_all(b"u")?;
                        tcp.write_all(&each.to_be_bytes())?;
                        send(&mut tcp, each)?;
                        tcp.read_exact(&mut [0])
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| io::Error::other("a measuring thread panicked"))??;
    }
    Ok(started.elapsed())
}

/// Round trips of 64 bytes, one after the other, with a pause between them.
pub(crate) fn round_trips(at: SocketAddr, count: usize, pause: Duration) -> io::Result<Vec<Duration>> {
    let mut tcp = connect(at)?;
    tcp.write_all(b"e")?;
    let mut trips = Vec::with_capacity(count);
    let (sent, mut got) = ([7; 64], [0; 64]);
    for turn in 0..count + 20 {
        let started = Instant::now();
        tcp.write_all(&sent)?;
        tcp.read_exact(&mut got)?;
        // The first ones warm up.
        if turn >= 20 {
            trips.push(started.elapsed());
        }
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    Ok(trips)
}

/// Round trips while another connection of the same tunnel loads it from the device.
pub(crate) fn round_trips_beside_bulk(at: SocketAddr, count: usize) -> io::Result<Vec<Duration>> {
    let done = Arc::new(AtomicBool::new(false));
    let (ends, mut tcp) = (Arc::clone(&done), connect(at)?);
    let bulk = thread::spawn(move || -> io::Result<u64> {
        tcp.write_all(b"d")?;
        tcp.write_all(&u64::MAX.to_be_bytes())?;
        let (mut chunk, mut moved) = (vec![0; CHUNK], 0);
        while !ends.load(Ordering::Relaxed) {
            moved += tcp.read(&mut chunk)? as u64;
        }
        Ok(moved)
    });
    thread::sleep(Duration::from_millis(300));
    let trips = round_trips(at, count, Duration::from_millis(2));
    done.store(true, Ordering::Relaxed);
    let moved = bulk.join().map_err(|_| io::Error::other("the bulk thread panicked"))??;
    if moved < 1 << 20 {
        return Err(io::Error::other("the bulk transfer beside it did not move"));
    }
    trips
}

/// Times from `connect` to the first byte from the other side.
pub(crate) fn first_bytes(at: SocketAddr, count: usize) -> io::Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(count);
    for turn in 0..count + 5 {
        let started = Instant::now();
        let mut tcp = connect(at)?;
        tcp.write_all(b"h")?;
        tcp.read_exact(&mut [0])?;
        if turn >= 5 {
            times.push(started.elapsed());
        }
    }
    Ok(times)
}

/// Opens connections and leaves them alone.
pub(crate) fn hold(at: SocketAddr, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| {
            let mut tcp = connect(at)?;
            tcp.write_all(b"h")?;
            tcp.read_exact(&mut [0])?;
            Ok(tcp)
        })
        .collect()
}
