//! Memory that streams read into, used again while the processor still has it at hand.
//!
//! What was read is kept by the session until the peer acknowledges it; then its buffer can be read into again.
//! A fresh buffer for each read costs a page fault for each 4 KiB of it, and its bytes come from afar.

use std::collections::VecDeque;

use bytes::BytesMut;

use crate::websocket::RECORD_PAYLOAD;

/// One read: two of the largest messages, each of four full records (see `RECORD_PAYLOAD`).
/// Each read of a socket is an acknowledgement to its sender, so fewer are cheaper. Below the allocators' limit for mmap.
pub(super) const READ: usize = 8 * RECORD_PAYLOAD;
/// Less free room than this is left alone.
const READ_MIN: usize = READ / 2;
/// Buffers kept for the time when what was read from them is acknowledged: what a fast line has in flight and in the queues of some streams.
const RESTING_MAX: usize = 10;

/// The buffers of one session's end.
#[derive(Debug, Default)]
pub(super) struct Reads {
    current: BytesMut,
    /// Oldest first.
    resting: VecDeque<BytesMut>,
}

impl Reads {
    /// An empty buffer with room for a read. What was read is to be split off it, or cleared.
    pub(super) fn buffer(&mut self) -> &mut BytesMut {
        if self.current.capacity() < READ_MIN && !self.current.try_reclaim(READ) {
            // The newest that is free is the warmest.
            let free = self.resting.iter_mut().rposition(|buffer| buffer.try_reclaim(READ));
            let next = free.and_then(|at| self.resting.remove(at)).unwrap_or_else(|| BytesMut::with_capacity(READ));
            if self.resting.len() == RESTING_MAX {
                self.resting.pop_front();
            }
            self.resting.push_back(std::mem::replace(&mut self.current, next));
        }
        &mut self.current
    }

    /// Gives all memory back.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Bytes held at most.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        (1 + self.resting.len()) * READ
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_once_nobody_holds_what_was_read() {
        let mut reads = Reads::default();
        let mut read = |len: usize| {
            let buffer = reads.buffer();
            assert!(buffer.is_empty() && buffer.capacity() >= READ_MIN);
            buffer.resize(len, 7);
            buffer.split_to(len).freeze()
        };
        let first = read(READ);
        let place = first.as_ptr();
        let second = read(READ);
        assert_ne!(second.as_ptr(), place);
        drop(first);
        let third = read(READ);
        assert_eq!(third.as_ptr(), place, "the first buffer is free again");
        assert!(second.iter().all(|byte| *byte == 7));
        let kept: Vec<_> = (0..4 * RESTING_MAX).map(|_| read(READ)).collect();
        drop(kept);
        assert!(reads.held() <= (1 + RESTING_MAX) * READ);
        reads.clear();
        assert_eq!(reads.held(), READ);
    }
}
