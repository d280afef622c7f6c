//! The task of one stream: reads its end point when there is something to read and room to send it,
//! and writes to it again after it had been full.
//!
//! What arrives is written by the driver straight away; the pump is only asked where that did not go through.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll};

use bytes::Bytes;
use muster_proto::id::StreamId;

use super::handle::{Handle, Process, State};

/// Up to here data is copied, so that a keystroke does not keep the whole buffer.
const COPY_MAX: usize = 4 * 1024;
/// Reads in one go before other tasks have their turn.
const READS: usize = 4;

pub(super) async fn run(handle: Handle, stream: StreamId) {
    poll_fn(|cx| handle.look(|state| poll(state, stream, cx))).await;
}

fn poll(state: &mut State, stream: StreamId, cx: &mut Context<'_>) -> Poll<()> {
    let Some(slot) = state.slots.get_mut(&stream) else { return Poll::Ready(()) };
    if !slot.pump.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
        slot.pump = Some(cx.waker().clone());
    }
    let mut changed = write(state, stream, cx);
    changed |= read(state, stream, cx);
    if changed && let Some(driver) = &state.driver {
        driver.wake_by_ref();
    }
    if state.slots.contains_key(&stream) {
        return Poll::Pending;
    }
    if state.slots.is_empty() {
        state.reads.clear();
    }
    Poll::Ready(())
}

/// Whether anything happened of which the driver should know.
fn write(state: &mut State, stream: StreamId, cx: &mut Context<'_>) -> bool {
    let mut changed = false;
    while let Some(slot) = state.slots.get_mut(&stream)
        && slot.blocked
        && let Some(io) = &slot.io
    {
        match io.poll_write_ready(cx) {
            Poll::Pending => break,
            Poll::Ready(Ok(())) => {
                slot.blocked = false;
                state.write_out(stream);
            }
            Poll::Ready(Err(error)) => state.broke(stream, error),
        }
        changed = true;
    }
    changed
}

fn read(state: &mut State, stream: StreamId, cx: &mut Context<'_>) -> bool {
    let mut changed = false;
    for turn in 0.. {
        let Some(slot) = state.slots.get_mut(&stream).filter(|slot| !slot.finished) else { break };
        if slot.read_done {
            return changed | end(state, stream);
        }
        let room = state.session.writable(stream);
        let Some(io) = slot.io.as_mut().filter(|_| room > 0) else { break };
        if turn == READS {
            super::yield_to_others(cx);
            break;
        }
        let buffer = state.reads.buffer();
        let limit = room.min(buffer.capacity());
        let result = match io.poll_read(cx, buffer, limit) {
            Poll::Ready(result) => result,
            // A process that ended, and whose children keep its output open: what there is now is the last of it.
            Poll::Pending if matches!(slot.process, Process::Ended { settled: true, .. }) => {
                let rest = io.read_rest(buffer, limit);
                slot.read_done = rest.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
                rest
            }
            Poll::Pending => break,
        };
        match result {
            Ok(0) => slot.read_done = true,
            Ok(read) => {
                let data = if read <= COPY_MAX {
                    let data = Bytes::copy_from_slice(buffer);
                    buffer.clear();
                    data
                } else {
                    buffer.split_to(read).freeze()
                };
                state.traffic.sent += read as u64;
                state.session.send(stream, data);
                changed = true;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            // Linux says EIO when the last process has left a pseudo-terminal.
            Err(_) if !matches!(slot.process, Process::None) => slot.read_done = true,
            Err(error) => {
                state.broke(stream, error);
                return true;
            }
        }
    }
    changed
}

/// Nothing more to read: the stream's own end, once its process, if it has one, has ended.
fn end(state: &mut State, stream: StreamId) -> bool {
    let Some(slot) = state.slots.get_mut(&stream) else { return false };
    match std::mem::take(&mut slot.process) {
        Process::None => {}
        Process::Running => {
            slot.process = Process::Running;
            return false;
        }
        Process::Ended { code, signal, .. } => state.session.exit(stream, code, signal.as_deref()),
    }
    state.finish(stream);
    true
}
