//! Two drivers over real TLS through a relay that breaks.

use std::cell::RefCell;
use std::rc::Rc;

use muster_proto::session::Target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use super::*;

use crate::test_relay::TestRelay;

const DEADLINE: Duration = Duration::from_secs(60);

/// Dials what the client asks for; notes what happens.
#[derive(Default)]
struct Notes {
    established: usize,
    lost: usize,
    failed: usize,
    refused: Vec<String>,
    exits: Vec<(Option<i32>, Option<String>)>,
}

#[derive(Clone, Default)]
struct App(Rc<RefCell<Notes>>);

impl Application for App {
    fn event(&mut self, handle: &Handle, event: Event) {
        let mut notes = self.0.borrow_mut();
        match event {
            Event::Established => notes.established += 1,
            Event::Open { stream, target: Target::Tcp { host, port } } => {
                let handle = handle.clone();
                tokio::task::spawn_local(async move {
                    match TcpStream::connect((host.as_str(), port)).await {
                        Ok(tcp) => {
                            handle.accept(stream, serde_json::Value::Null);
                            handle.attach(stream, Io::tcp(tcp));
                        }
                        Err(error) => handle.refuse(stream, code::CONNECTION_REFUSED, &error.to_string()),
                    }
                });
            }
            Event::Open { stream, .. } => handle.refuse(stream, code::POLICY, "the policy says no"),
            Event::Refused { message, .. } => notes.refused.push(message),
            Event::Exit { code, signal, .. } => notes.exits.push((code, signal)),
            _ => {}
        }
    }

    fn leg(&mut self, change: LegChange<'_>) {
        match change {
            LegChange::Up => {}
            LegChange::Lost(_) => self.0.borrow_mut().lost += 1,
            LegChange::Failed(..) => self.0.borrow_mut().failed += 1,
        }
    }
}

fn id() -> SessionId {
    SessionId::from_random([7; 15])
}

struct Ends {
    relay: TestRelay,
    client: Handle,
    device: Handle,
    notes: Rc<RefCell<Notes>>,
    running: tokio::task::JoinHandle<Ended>,
    serving: tokio::task::JoinHandle<Ended>,
}

async fn ends() -> Ends {
    let relay = TestRelay::start().await;
    let (app, theirs) = (App::default(), App::default());
    let client = Driver::new(Side::Client, id(), relay.relay("client"), app.clone());
    let device = Driver::new(Side::Device, id(), relay.relay("device"), theirs);
    Ends {
        relay,
        client: client.handle(),
        device: device.handle(),
        notes: app.0,
        running: tokio::task::spawn_local(async { client.run().await.0 }),
        serving: tokio::task::spawn_local(async { device.run().await.0 }),
    }
}

fn on_local(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async { tokio::time::timeout(DEADLINE, test).await.expect("the test's deadline") });
}

/// A TCP connection through the session to a listener behind the device.
async fn through(ends: &Ends, listener: &TcpListener) -> (TcpStream, TcpStream, StreamId) {
    let local = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let near = TcpStream::connect(local.local_addr().unwrap()).await.unwrap();
    let (inner, _) = local.accept().await.unwrap();
    let (stream, answer) = ends.client.open(Target::Tcp { host: "127.0.0.1".into(), port }).unwrap();
    ends.client.attach(stream, Io::tcp(inner));
    let (far, _) = listener.accept().await.unwrap();
    answer.await.unwrap().unwrap();
    (near, far, stream)
}

fn pattern(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed | 1;
    let step = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    std::iter::repeat_with(step).take(len).collect()
}

async fn condition(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn every_byte_arrives_once_while_the_relay_is_cut_again_and_again() {
    on_local(async {
        let ends = ends().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut near, mut far, _) = through(&ends, &listener).await;
        let (up, down) = (pattern(6_000_000, 1), pattern(6_000_000, 2));
        let (up_copy, down_copy) = (up.clone(), down.clone());
        let near_task = tokio::task::spawn_local(async move {
            let (mut read, mut write) = near.split();
            let mut got = Vec::new();
            let (sent, read) = tokio::join!(
                async {
                    write.write_all(&up_copy).await?;
                    write.shutdown().await
                },
                read.read_to_end(&mut got)
            );
            sent.unwrap();
            read.unwrap();
            got
        });
        let far_task = tokio::task::spawn_local(async move {
            let (mut read, mut write) = far.split();
            let mut got = Vec::new();
            let (sent, read) = tokio::join!(
                async {
                    write.write_all(&down_copy).await?;
                    write.shutdown().await
                },
                read.read_to_end(&mut got)
            );
            sent.unwrap();
            read.unwrap();
            got
        });
        for cut in 1..=4 {
            let mark = cut * 1_500_000;
            condition("bytes move", || ends.relay.moved() >= mark).await;
            ends.relay.cut();
        }
        assert!(near_task.await.unwrap() == down, "what came down differs");
        assert!(far_task.await.unwrap() == up, "what went up differs");
        condition("the stream is forgotten", || ends.client.streams() == 0 && ends.device.streams() == 0).await;
        assert!(ends.notes.borrow().lost >= 2, "the leg was cut {} times", ends.notes.borrow().lost);
        assert!(ends.notes.borrow().established >= 2);
        assert_eq!((ends.client.traffic().sent, ends.device.traffic().sent), (6_000_000, 6_000_000));
        ends.client.close(code::DONE, "that was all");
        assert_eq!(ends.running.await.unwrap().message, "that was all");
        assert_eq!(ends.serving.await.unwrap().message, "that was all");
    });
}

#[test]
fn a_stalled_stream_does_not_stop_others() {
    on_local(async {
        let ends = ends().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut stalled, _unread, _) = through(&ends, &listener).await;
        // Fills the window, both sockets and the queue; nobody reads at the other end.
        let filler = tokio::task::spawn_local(async move { stalled.write_all(&vec![0; 64_000_000]).await });
        let mut before = 0;
        loop {
            let moved = ends.relay.moved();
            if moved == before && moved > 0 {
                break;
            }
            before = moved;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (mut near, mut far, _) = through(&ends, &listener).await;
        let data = pattern(2_000_000, 3);
        let copy = data.clone();
        let sender = tokio::task::spawn_local(async move {
            near.write_all(&copy).await.unwrap();
            near
        });
        let mut got = vec![0; data.len()];
        far.read_exact(&mut got).await.unwrap();
        assert!(got == data);
        assert!(!filler.is_finished());
        filler.abort();
        sender.await.unwrap();
    });
}

#[test]
fn a_thousand_idle_streams_hold_and_still_work() {
    // Four descriptors for each stream, all in this process.
    crate::raise_open_files();
    on_local(async {
        let ends = ends().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut held = Vec::new();
        for _ in 0..1000 {
            held.push(through(&ends, &listener).await);
        }
        assert_eq!((ends.client.streams(), ends.device.streams()), (1000, 1000));
        assert!(ends.client.look(|state| state.reads.held()) <= 2 * reads::READ);
        for (near, far, _) in held.iter_mut().step_by(97) {
            near.write_all(b"still there?").await.unwrap();
            let mut got = [0; 12];
            far.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"still there?");
        }
        drop(held);
        condition("all are forgotten", || ends.client.streams() == 0 && ends.device.streams() == 0).await;
    });
}

#[test]
fn a_half_closed_stream_still_answers() {
    on_local(async {
        let ends = ends().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut near, mut far, stream) = through(&ends, &listener).await;
        near.write_all(b"question").await.unwrap();
        near.shutdown().await.unwrap();
        let mut question = Vec::new();
        far.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        far.write_all(b"answer").await.unwrap();
        drop(far);
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        ends.client.gone(stream).await;
    });
}

#[test]
fn a_broken_target_breaks_the_near_connection() {
    on_local(async {
        let ends = ends().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut near, far, _) = through(&ends, &listener).await;
        socket2::SockRef::from(&far).set_linger(Some(Duration::ZERO)).unwrap();
        drop(far);
        let error = near.read(&mut [0; 8]).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_refusal_reaches_the_client() {
    on_local(async {
        let ends = ends().await;
        let (_, answer) = ends.client.open(Target::Unix { path: "/run/secret".into() }).unwrap();
        let refusal = answer.await.unwrap().unwrap_err();
        assert_eq!((refusal.code.as_str(), refusal.message.as_str()), (code::POLICY, "the policy says no"));
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let (_, answer) = ends.client.open(Target::Tcp { host: "127.0.0.1".into(), port: closed }).unwrap();
        assert_eq!(answer.await.unwrap().unwrap_err().code, code::CONNECTION_REFUSED);
        assert_eq!(ends.notes.borrow().refused.len(), 2);
    });
}

#[test]
fn a_session_that_the_relay_ends_is_not_dialled_again() {
    on_local(async {
        let ends = ends().await;
        condition("they meet", || ends.notes.borrow().established == 1).await;
        ends.relay.close_ended();
        assert_eq!(ends.running.await.unwrap().message, "revoked by an owner");
        assert_eq!(ends.serving.await.unwrap().message, "revoked by an owner");
        assert_eq!(ends.relay.dials(), 2);
    });
}

#[test]
fn the_relays_word_is_heard_while_the_other_end_is_away() {
    on_local(async {
        let relay = TestRelay::start().await;
        relay.close_ended();
        let driver = Driver::new(Side::Client, id(), relay.relay("client"), App::default());
        let (_, answer) = driver.handle().open(Target::Unix { path: "/run/x".into() }).unwrap();
        let (ended, _) = driver.run().await;
        assert!(answer.await.is_err(), "the end of a session is no refusal of a stream");
        assert_eq!((ended.code.as_str(), ended.message.as_str()), ("revoked", "revoked by an owner"));
    });
}

#[test]
fn a_refused_resumption_ends_the_session_with_the_hubs_sentence() {
    on_local(async {
        let ends = ends().await;
        condition("they meet", || ends.notes.borrow().established == 1).await;
        ends.relay.refuse(410);
        ends.relay.cut();
        // An idle session notices at once, not at its next ping.
        let began = Instant::now();
        let ended = ends.running.await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(5));
        assert_eq!((ended.code.as_str(), ended.message.as_str()), ("session_ended", "the session is over"));
    });
}

#[test]
fn a_relay_that_is_away_for_a_while_is_dialled_until_it_is_back() {
    on_local(async {
        let ends = ends().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (mut near, mut far, _) = through(&ends, &listener).await;
        ends.relay.refuse(503);
        ends.relay.cut();
        condition("dials fail", || ends.notes.borrow().failed >= 2).await;
        near.write_all(b"sent while apart").await.unwrap();
        ends.relay.refuse(0);
        let mut got = [0; 16];
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"sent while apart");
    });
}

#[test]
fn an_impatient_end_gives_up_at_once() {
    on_local(async {
        let relay = TestRelay::start().await;
        let mut there = relay.relay("client");
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        there.endpoint = format!("wss://{closed}/").parse().unwrap();
        let (ended, _) = Driver::new(Side::Client, id(), there, App::default()).impatient().run().await;
        assert!(matches!(ended.leg, Some(LegError::Dial(crate::dial::DialError::Refused { .. }))), "{ended:?}");
        assert!(ended.message.contains("refused the connection"));
    });
}
