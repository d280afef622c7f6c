//! What a command writes, gathered into pieces and held to its bound. Pure: bytes go in, pieces come out.
//!
//! Three quarters of the bound are kept from the beginning and leave at once, one quarter from the end.
//! What is between is dropped and counted; the gap shows in the pieces' places.

use std::collections::VecDeque;

use muster_proto::limits::RUN_PIECE_MAX;
use muster_proto::run::{RunOutput, RunStream};

/// Pieces in one flush: where two streams alternate faster, their order within one flush is given up.
const ALTERNATIONS_MAX: usize = 4;
/// Pieces of the end that are kept: each costs some bytes of its own.
const TAIL_PIECES_MAX: usize = 4096;

/// What is kept of a command's output.
#[derive(Debug)]
pub(super) struct Output {
    head_left: u64,
    tail_max: u64,
    pending: Vec<RunOutput>,
    tail: VecDeque<RunOutput>,
    tail_bytes: u64,
    written: [u64; 2],
    dropped: u64,
}

fn index(stream: RunStream) -> usize {
    usize::from(stream == RunStream::Stderr)
}

impl Output {
    /// With a bound for both streams together.
    pub(super) fn new(max: u64) -> Self {
        let tail_max = max / 4;
        Self { head_left: max - tail_max, tail_max, pending: Vec::new(), tail: VecDeque::new(), tail_bytes: 0, written: [0, 0], dropped: 0 }
    }

    /// Bytes that were written to a stream.
    pub(super) fn written(&self, stream: RunStream) -> u64 {
        self.written[index(stream)]
    }

    /// Bytes that were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether something waits to leave.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// No more leaves from the beginning: what comes counts as the end.
    pub(super) fn close_head(&mut self) {
        self.head_left = 0;
    }

    /// The command wrote this.
    pub(super) fn push(&mut self, stream: RunStream, bytes: &[u8]) {
        let at = self.written[index(stream)];
        self.written[index(stream)] += bytes.len() as u64;
        let kept = usize::try_from(self.head_left).unwrap_or(usize::MAX).min(bytes.len());
        self.head_left -= kept as u64;
        let (head, tail) = bytes.split_at(kept);
        if !head.is_empty() {
            self.push_head(stream, at, head);
        }
        if !tail.is_empty() {
            self.push_tail(stream, at + kept as u64, tail);
        }
    }

    fn push_head(&mut self, stream: RunStream, at: u64, bytes: &[u8]) {
        let goes_on = self.pending.last().is_some_and(|last| last.stream == stream) || self.pending.len() >= ALTERNATIONS_MAX;
        // The last piece of a stream ends where this begins.
        match self.pending.iter_mut().rev().find(|piece| goes_on && piece.stream == stream) {
            Some(piece) => piece.bytes.extend_from_slice(bytes),
            None => self.pending.push(RunOutput { stream, at, bytes: bytes.to_vec() }),
        }
    }

    fn push_tail(&mut self, stream: RunStream, at: u64, bytes: &[u8]) {
        // More than the whole end at once: only its end counts.
        let over = (bytes.len() as u64).saturating_sub(self.tail_max);
        self.dropped += over;
        let (at, bytes) = (at + over, &bytes[usize::try_from(over).unwrap_or(bytes.len()).min(bytes.len())..]);
        if bytes.is_empty() {
            return;
        }
        self.tail_bytes += bytes.len() as u64;
        match self.tail.back_mut() {
            Some(last) if last.stream == stream && last.at + last.bytes.len() as u64 == at && last.bytes.len() < RUN_PIECE_MAX => {
                last.bytes.extend_from_slice(bytes);
            }
            _ => self.tail.push_back(RunOutput { stream, at, bytes: bytes.to_vec() }),
        }
        while self.tail_bytes > self.tail_max || self.tail.len() > TAIL_PIECES_MAX {
            let (surplus, crowded) = (self.tail_bytes.saturating_sub(self.tail_max), self.tail.len() > TAIL_PIECES_MAX);
            let Some(first) = self.tail.front_mut() else { break };
            let gone = if crowded || surplus >= first.bytes.len() as u64 {
                self.tail.pop_front().map_or(0, |piece| piece.bytes.len() as u64)
            } else {
                first.bytes.drain(..usize::try_from(surplus).unwrap_or(0));
                first.at += surplus;
                surplus
            };
            self.tail_bytes -= gone;
            self.dropped += gone;
        }
    }

    /// What may leave now, in pieces that fit a report. A character that is not whole yet waits, unless it is the `last` time.
    pub(super) fn take(&mut self, last: bool) -> Vec<RunOutput> {
        let (mut pieces, mut begun) = (Vec::new(), [None::<RunOutput>, None]);
        for mut piece in std::mem::take(&mut self.pending) {
            let begun = &mut begun[index(piece.stream)];
            if let Some(mut before) = begun.take() {
                before.bytes.append(&mut piece.bytes);
                piece = before;
            }
            *begun = cut(piece, last, &mut pieces);
        }
        self.pending.extend(begun.into_iter().flatten());
        pieces
    }

    /// All that is left, once the command is over.
    pub(super) fn finish(mut self) -> Vec<RunOutput> {
        // The end goes on where the beginning stopped, if nothing was dropped: then it is one piece with it.
        let mut tail = std::mem::take(&mut self.tail);
        if let Some(first) = tail.front()
            && self.pending.last().is_some_and(|last| last.stream == first.stream && last.at + last.bytes.len() as u64 == first.at)
            && let (Some(last), Some(first)) = (self.pending.last_mut(), tail.pop_front())
        {
            last.bytes.extend_from_slice(&first.bytes);
        }
        self.pending.extend(tail);
        self.take(true)
    }
}

/// Cuts a piece so that each part fits a report and text stays text; gives back what is to wait.
fn cut(mut piece: RunOutput, last: bool, into: &mut Vec<RunOutput>) -> Option<RunOutput> {
    while !piece.bytes.is_empty() {
        let most = piece.bytes.len().min(RUN_PIECE_MAX);
        let whole = whole_characters(&piece.bytes[..most]);
        let len = if most == piece.bytes.len() && last { most } else { whole };
        if len == 0 {
            return Some(piece);
        }
        let rest = piece.bytes.split_off(len);
        let after = RunOutput { stream: piece.stream, at: piece.at + len as u64, bytes: rest };
        into.push(std::mem::replace(&mut piece, after));
    }
    None
}

/// The length without a character that has only begun at the end. Bytes that are no text at all are left as they are.
fn whole_characters(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let byte = bytes[bytes.len() - back];
        let needs = match byte {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => break,
        };
        return if needs > back { bytes.len() - back } else { bytes.len() };
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use RunStream::{Stderr, Stdout};
    use proptest::prelude::*;

    fn texts(pieces: &[RunOutput]) -> Vec<(RunStream, u64, String)> {
        pieces.iter().map(|piece| (piece.stream, piece.at, String::from_utf8_lossy(&piece.bytes).into_owned())).collect()
    }

    #[test]
    fn gathers_and_keeps_the_order_of_the_streams() {
        let mut output = Output::new(1024);
        output.push(Stdout, b"a");
        output.push(Stdout, b"b");
        output.push(Stderr, b"x");
        output.push(Stdout, b"c");
        assert!(output.has_pending());
        let want = [(Stdout, 0, "ab".to_owned()), (Stderr, 0, "x".to_owned()), (Stdout, 2, "c".to_owned())];
        assert_eq!(texts(&output.take(false)), want);
        assert!(!output.has_pending() && output.finish().is_empty());
    }

    #[test]
    fn many_alternations_are_few_pieces() {
        let mut output = Output::new(100_000);
        for _ in 0..1000 {
            output.push(Stdout, b"o");
            output.push(Stderr, b"e");
        }
        let pieces = output.take(false);
        assert!(pieces.len() <= ALTERNATIONS_MAX + 1, "{}", pieces.len());
        let sum: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        assert_eq!(sum, 2000);
    }

    #[test]
    fn a_character_is_not_cut() {
        let mut output = Output::new(1024);
        output.push(Stdout, &"ä€".as_bytes()[..4]);
        assert_eq!(texts(&output.take(false)), [(Stdout, 0, "ä".to_owned())]);
        output.push(Stdout, &"ä€".as_bytes()[4..]);
        assert_eq!(texts(&output.take(false)), [(Stdout, 2, "€".to_owned())]);
        output.push(Stdout, &[0xe2, 0x82]);
        assert_eq!(output.take(false), []);
        assert_eq!(output.finish()[0].bytes, [0xe2, 0x82]);
    }

    #[test]
    fn the_beginning_and_the_end_are_kept_and_the_gap_is_told() {
        let mut output = Output::new(40);
        for i in 0..100u8 {
            output.push(Stdout, &[b'a' + i % 26]);
        }
        let head = output.take(false);
        assert_eq!((head[0].at, head[0].bytes.len()), (0, 30));
        assert_eq!((output.written(Stdout), output.dropped()), (100, 60));
        let tail = output.finish();
        assert_eq!((tail[0].at, tail[0].bytes.len(), tail.len()), (90, 10, 1));
    }

    #[test]
    fn a_bound_of_nothing_keeps_nothing() {
        let mut output = Output::new(0);
        output.push(Stdout, b"abc");
        assert_eq!((output.dropped(), output.has_pending()), (3, false));
        assert_eq!(output.finish(), []);
    }

    proptest! {
        #[test]
        fn what_is_kept_is_what_was_written(
            max in 0u64..3000,
            writes in proptest::collection::vec((any::<bool>(), proptest::collection::vec(any::<u8>(), 1..200), any::<bool>()), 0..60),
        ) {
            let (mut output, mut all, mut pieces) = (Output::new(max), [Vec::new(), Vec::new()], Vec::new());
            for (stderr, bytes, flush) in &writes {
                let stream = if *stderr { Stderr } else { Stdout };
                all[index(stream)].extend_from_slice(bytes);
                output.push(stream, bytes);
                if *flush {
                    pieces.extend(output.take(false));
                }
            }
            let (dropped, written) = (output.dropped(), [output.written(Stdout), output.written(Stderr)]);
            pieces.extend(output.finish());
            let mut ends = [0u64, 0];
            let mut kept = 0;
            for piece in &pieces {
                let stream = index(piece.stream);
                prop_assert!(piece.at >= ends[stream] && !piece.bytes.is_empty() && piece.bytes.len() <= RUN_PIECE_MAX);
                let at = usize::try_from(piece.at).unwrap();
                prop_assert_eq!(&all[stream][at..at + piece.bytes.len()], &piece.bytes[..]);
                ends[stream] = piece.at + piece.bytes.len() as u64;
                kept += piece.bytes.len() as u64;
            }
            prop_assert_eq!(kept + dropped, written[0] + written[1]);
            prop_assert!(kept <= max);
            if written[0] + written[1] <= max {
                prop_assert_eq!(dropped, 0);
            }
        }
    }
}
