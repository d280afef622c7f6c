//! The session as its streams and its application see it: one state machine, one table of streams, no channel between.
//!
//! Everything lives on one thread. Whoever changes something wakes the driver, which alone writes to the leg.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use muster_proto::id::{SessionId, StreamId};
use muster_proto::session::{OpenError, Session, Target, code};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::io::Io;
use super::pump;
use super::reads::Reads;

/// Pieces given to the kernel in one write.
const GATHER: usize = 16;

/// Access to a running session. Cheap to clone; of no more use when the session is over.
#[derive(Clone)]
pub struct Handle(Rc<Shared>);

pub(super) struct Shared {
    pub(super) state: RefCell<State>,
    origin: Instant,
}

pub(super) struct State {
    pub(super) session: Session,
    pub(super) slots: HashMap<StreamId, Slot>,
    pub(super) driver: Option<Waker>,
    /// What streams read into.
    pub(super) reads: Reads,
    /// Streams with data that has not been tried on their socket.
    pub(super) fresh: Vec<StreamId>,
    /// Bytes that came in and went out, for the books.
    pub(super) traffic: Traffic,
    pub(super) over: bool,
}

/// Bytes of streams' data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the peer.
    pub received: u64,
    /// To the peer.
    pub sent: u64,
}

/// The answer to an `open`: what the device tells of the stream, or why not.
pub type Answer = Result<Value, Refusal>;

/// Why a stream was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Machine-readable reason.
    pub code: String,
    /// The sentence for the user.
    pub message: String,
}

/// One stream's end on this machine.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) io: Option<Io>,
    /// Data for `io` that it has not taken.
    pub(super) pending: VecDeque<Bytes>,
    /// `io` did not take all: its pump waits until it can.
    pub(super) blocked: bool,
    pub(super) in_fresh: bool,
    /// The peer sends no more.
    pub(super) peer_eof: bool,
    /// `io` has been told.
    pub(super) shut: bool,
    /// We send no more.
    pub(super) finished: bool,
    /// `io` gives no more.
    pub(super) read_done: bool,
    pub(super) process: Process,
    pub(super) pump: Option<Waker>,
    pub(super) writer: Option<Waker>,
    pub(super) answer: Option<oneshot::Sender<Answer>>,
    /// Who wants to know why `io` broke.
    failure: Option<oneshot::Sender<io::Error>>,
    task: Option<AbortOnDrop>,
}

/// Whether a process's end belongs to the stream.
#[derive(Debug, Clone, Default)]
pub(super) enum Process {
    #[default]
    None,
    Running,
    /// It ended; what it wrote may still be on the way out of the kernel.
    Ended {
        code: Option<i32>,
        signal: Option<String>,
        settled: bool,
    },
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whoever waits for the stream learns that it is gone.
impl Drop for Slot {
    fn drop(&mut self) {
        self.wake();
    }
}

impl Slot {
    pub(super) fn wake(&self) {
        for waker in [&self.pump, &self.writer].into_iter().flatten() {
            waker.wake_by_ref();
        }
    }

    fn is_done(&self) -> bool {
        self.finished && self.shut && self.pending.is_empty()
    }
}

impl Handle {
    pub(super) fn new(session: Session, origin: Instant) -> Self {
        let state = State {
            session,
            slots: HashMap::new(),
            driver: None,
            reads: Reads::default(),
            fresh: Vec::new(),
            traffic: Traffic::default(),
            over: false,
        };
        Self(Rc::new(Shared { state: RefCell::new(state), origin }))
    }

    pub(super) fn now(&self) -> Duration {
        self.0.origin.elapsed()
    }

    /// Runs `f` on the state and wakes the driver, which sends what came of it.
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.0.state.borrow_mut();
        let value = f(&mut state);
        if let Some(driver) = &state.driver {
            driver.wake_by_ref();
        }
        value
    }

    /// The same without waking: for the driver itself and for looking.
    pub(super) fn look<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.0.state.borrow_mut())
    }

    /// Opens a stream. Data may be sent, and an end point attached, at once; the answer comes later,
    /// or never if the session ends before.
    ///
    /// # Errors
    /// When the session is over or has too many streams.
    pub fn open(&self, target: Target) -> Result<(StreamId, oneshot::Receiver<Answer>), OpenError> {
        self.with(|state| {
            let stream = state.session.open(target)?;
            let (sender, receiver) = oneshot::channel();
            let mut slot = Slot::default();
            slot.answer = Some(sender);
            state.slots.insert(stream, slot);
            Ok((stream, receiver))
        })
    }

    /// Says yes to a stream that the peer opened.
    pub fn accept(&self, stream: StreamId, info: Value) {
        self.with(|state| state.session.accept(stream, info));
    }

    /// Says no to a stream that the peer opened.
    pub fn refuse(&self, stream: StreamId, code: &str, message: &str) {
        self.with(|state| {
            state.session.refuse(stream, code, message);
            state.slots.remove(&stream);
        });
    }

    /// Connects a stream with its end point on this machine. From now on data flows without the application.
    /// Must be called inside a `LocalSet`.
    pub fn attach(&self, stream: StreamId, io: Io) {
        self.attach_as(stream, io, Process::None, None);
    }

    /// The same, and tells why the end point broke, if it does: the stream is given up then.
    pub fn attach_told(&self, stream: StreamId, io: Io) -> oneshot::Receiver<io::Error> {
        let (failure, told) = oneshot::channel();
        self.attach_as(stream, io, Process::None, Some(failure));
        told
    }

    /// The same for a process on a pseudo-terminal: the end of reading is not the end of the stream, [`Self::ended`] is.
    pub fn attach_process(&self, stream: StreamId, io: Io) {
        self.attach_as(stream, io, Process::Running, None);
    }

    fn attach_as(&self, stream: StreamId, io: Io, process: Process, failure: Option<oneshot::Sender<io::Error>>) {
        let task = tokio::task::spawn_local(pump::run(self.clone(), stream)).abort_handle();
        self.with(|state| {
            let task = AbortOnDrop(task);
            // A stream that was given up meanwhile: the task is aborted and the end point closed.
            if let Some(slot) = state.slots.get_mut(&stream) {
                slot.io = Some(io);
                slot.process = process;
                slot.failure = failure;
                slot.task = Some(task);
                state.write_out(stream);
            }
        });
    }

    /// The process behind a stream ended. `settled` once nothing that it wrote can still be on its way.
    pub fn ended(&self, stream: StreamId, code: Option<i32>, signal: Option<String>, settled: bool) {
        self.with(|state| {
            if let Some(slot) = state.slots.get_mut(&stream) {
                slot.process = Process::Ended { code, signal, settled };
                slot.wake();
            }
        });
    }

    /// Sends data on a stream whose input the application reads itself; waits for room.
    ///
    /// # Errors
    /// When the stream is gone.
    pub async fn send(&self, stream: StreamId, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            let room = poll_fn(|cx| {
                self.look(|state| {
                    let Some(slot) = state.slots.get_mut(&stream).filter(|slot| !slot.finished) else {
                        return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe)));
                    };
                    match state.session.writable(stream) {
                        0 => {
                            slot.writer = Some(cx.waker().clone());
                            Poll::Pending
                        }
                        room => Poll::Ready(Ok(room)),
                    }
                })
            })
            .await?;
            let piece = data.split_to(room.min(data.len()));
            self.with(|state| {
                state.traffic.sent += piece.len() as u64;
                state.session.send(stream, piece);
            });
        }
        Ok(())
    }

    /// No more data from this end on the stream.
    pub fn finish(&self, stream: StreamId) {
        self.with(|state| state.finish(stream));
    }

    /// Waits until a stream is gone: all that arrived was written to its end point, and both ends have finished; or it was given up.
    pub async fn gone(&self, stream: StreamId) {
        poll_fn(|cx| {
            self.look(|state| match state.slots.get_mut(&stream) {
                Some(slot) => {
                    slot.writer = Some(cx.waker().clone());
                    Poll::Pending
                }
                None => Poll::Ready(()),
            })
        })
        .await;
    }

    /// Gives a stream up.
    pub fn reset(&self, stream: StreamId, code: &str, message: &str) {
        self.with(|state| state.reset(stream, code, message));
    }

    /// The user's terminal has another size.
    pub fn resize(&self, stream: StreamId, cols: u16, rows: u16) {
        self.with(|state| state.session.resize(stream, cols, rows));
    }

    /// Sends a signal to the stream's process.
    pub fn signal(&self, stream: StreamId, signal: &str) {
        self.with(|state| state.session.signal(stream, signal));
    }

    /// Tells the peer's user something while they wait for the stream.
    pub fn notice(&self, stream: StreamId, message: &str) {
        self.with(|state| state.session.notice(stream, message));
    }

    /// Ends the session.
    pub fn close(&self, code: &str, message: &str) {
        self.with(|state| state.session.close(code, message));
    }

    /// Whether the stream still exists on this end.
    pub fn is_open(&self, stream: StreamId) -> bool {
        self.look(|state| state.slots.contains_key(&stream))
    }

    /// Whose session this is.
    pub fn session(&self) -> SessionId {
        self.look(|state| state.session.id().clone())
    }

    /// Whether the session is over, and [`super::Driver::run`] about to say how.
    pub fn is_over(&self) -> bool {
        self.look(|state| state.over)
    }

    /// How many streams exist on this end.
    pub fn streams(&self) -> usize {
        self.look(|state| state.slots.len())
    }

    /// Bytes so far.
    pub fn traffic(&self) -> Traffic {
        self.look(|state| state.traffic)
    }
}

impl State {
    /// Data came for a stream. It is written with what comes in the same batch.
    pub(super) fn arrived(&mut self, stream: StreamId, payload: Bytes) {
        if let Some(slot) = self.slots.get_mut(&stream) {
            slot.pending.push_back(payload);
            self.note_fresh(stream);
        }
    }

    /// The peer sends no more on a stream.
    pub(super) fn peer_finished(&mut self, stream: StreamId) {
        if let Some(slot) = self.slots.get_mut(&stream) {
            slot.peer_eof = true;
            self.note_fresh(stream);
        }
    }

    fn note_fresh(&mut self, stream: StreamId) {
        if let Some(slot) = self.slots.get_mut(&stream)
            && !slot.in_fresh
            && !slot.blocked
        {
            slot.in_fresh = true;
            self.fresh.push(stream);
        }
    }

    /// Gives pending data to the end point; what it does not take now waits for its pump.
    pub(super) fn write_out(&mut self, stream: StreamId) {
        let Some(slot) = self.slots.get_mut(&stream) else { return };
        slot.in_fresh = false;
        let Some(io) = &mut slot.io else { return };
        let mut consumed = 0;
        while !slot.pending.is_empty() {
            let mut slices = [IoSlice::new(&[]); GATHER];
            let count = slot.pending.len().min(GATHER);
            for (slice, piece) in slices.iter_mut().zip(&slot.pending) {
                *slice = IoSlice::new(piece);
            }
            match io.try_write(&slices[..count]) {
                Ok(written) => {
                    consumed += written;
                    take(&mut slot.pending, written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !slot.blocked {
                        slot.blocked = true;
                        if let Some(pump) = &slot.pump {
                            pump.wake_by_ref();
                        }
                    }
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A process that no longer reads: what it wrote, and how it ended, still has to come.
                Err(_) if !matches!(slot.process, Process::None) => io.shut(),
                Err(error) => return self.broke(stream, error),
            }
        }
        if slot.pending.is_empty() {
            slot.blocked = false;
            if slot.peer_eof && !slot.shut {
                io.shut();
                slot.shut = true;
            }
        }
        if consumed > 0 {
            self.session.consumed(stream, consumed);
        }
        self.forget_if_done(stream);
    }

    /// The end point broke.
    pub(super) fn broke(&mut self, stream: StreamId, error: io::Error) {
        let failure = self.slots.get_mut(&stream).and_then(|slot| slot.failure.take());
        self.reset(stream, code::BROKEN, &format!("the connection behind the stream broke: {error}"));
        if let Some(failure) = failure {
            let _ = failure.send(error);
        }
    }

    pub(super) fn finish(&mut self, stream: StreamId) {
        if let Some(slot) = self.slots.get_mut(&stream)
            && !slot.finished
        {
            slot.finished = true;
            self.session.finish(stream);
            self.forget_if_done(stream);
        }
    }

    pub(super) fn reset(&mut self, stream: StreamId, code: &str, message: &str) {
        if self.slots.remove(&stream).is_some() {
            self.session.reset(stream, code, message);
        }
    }

    fn forget_if_done(&mut self, stream: StreamId) {
        if self.slots.get(&stream).is_some_and(Slot::is_done) {
            self.slots.remove(&stream);
        }
    }
}

/// Takes `written` bytes off the front.
fn take(pending: &mut VecDeque<Bytes>, mut written: usize) {
    while written > 0 {
        let Some(first) = pending.front_mut() else { return };
        if first.len() > written {
            first.advance(written);
            return;
        }
        written -= first.len();
        pending.pop_front();
    }
}
