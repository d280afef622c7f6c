//! What comes out of a session: events for the application, messages for the leg, errors.
//!
//! Plain data; nothing here decides.

use bytes::Bytes;
use serde_json::Value;

use super::message::{InvalidControl, Target};
use crate::id::StreamId;
use crate::limits::{CONTROL_MAX, DATA_MAX, STREAMS_MAX};

/// A message for the leg, in the order in which it must be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// A text message.
    Control(String),
    /// A binary message: the stream id in four bytes, big-endian, then the payload.
    Data {
        /// The stream.
        stream: StreamId,
        /// 1 to 65,536 bytes.
        payload: Bytes,
    },
}

/// What the application should know.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Both ends have met on the present legs. Comes again after each resumption.
    Established,
    /// The peer asks for a stream: answer with `accept` or `refuse`. Its data may come before the answer.
    Open {
        /// The new stream.
        stream: StreamId,
        /// What it should lead to.
        target: Target,
    },
    /// A stream of ours is there.
    Opened {
        /// Which.
        stream: StreamId,
        /// What the peer tells of it; null if nothing.
        info: Value,
    },
    /// A stream of ours will not be; it is forgotten.
    Refused {
        /// Which.
        stream: StreamId,
        /// Machine-readable reason, see [`code`].
        code: String,
        /// The sentence for the user.
        message: String,
    },
    /// Data arrived. Call `consumed` when it has been passed on.
    Data {
        /// The stream.
        stream: StreamId,
        /// 1 to 65,536 bytes.
        payload: Bytes,
    },
    /// The peer sends no more data on the stream.
    Eof {
        /// Which.
        stream: StreamId,
    },
    /// The peer gave the stream up; it is forgotten.
    Reset {
        /// Which.
        stream: StreamId,
        /// Machine-readable reason, see [`code`].
        code: String,
        /// The sentence for the user.
        message: String,
    },
    /// `writable` was zero, or the queue was long, and there is room again.
    Writable {
        /// Which.
        stream: StreamId,
    },
    /// The user's terminal has another size.
    Resize {
        /// Which.
        stream: StreamId,
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
    /// The peer tells the user something while they wait.
    Notice {
        /// Which.
        stream: StreamId,
        /// The sentence for the user.
        message: String,
    },
    /// A signal for the stream's process.
    Signal {
        /// Which.
        stream: StreamId,
        /// Its name without `SIG`.
        signal: String,
    },
    /// The stream's process ended.
    Exit {
        /// Which.
        stream: StreamId,
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that ended it, without `SIG`.
        signal: Option<String>,
    },
    /// The session is over, with all its streams. Comes once, from whichever side.
    Closed {
        /// Machine-readable reason, see [`code`].
        code: String,
        /// The sentence for the user.
        message: String,
    },
}

/// Codes of `refused`, `reset` and `close`. Programs branch on them; a code that is not here passes through as text.
pub mod code {
    /// The target's kind is not known to this version.
    pub const UNSUPPORTED: &str = "unsupported";
    /// The target's fields are wrong.
    pub const INVALID: &str = "invalid";
    /// The device's policy does not allow it.
    pub const POLICY: &str = "policy";
    /// Too many streams.
    pub const LIMIT: &str = "limit";
    /// The target refused the connection.
    pub const CONNECTION_REFUSED: &str = "connection_refused";
    /// The target cannot be reached, or its name is not known.
    pub const UNREACHABLE: &str = "unreachable";
    /// The target did not answer in time.
    pub const TIMEOUT: &str = "timeout";
    /// Nothing there.
    pub const NOT_FOUND: &str = "not_found";
    /// The directory that was asked for is not there, or may not be entered.
    pub const NO_DIRECTORY: &str = "no_directory";
    /// The device's system does not permit it.
    pub const DENIED: &str = "denied";
    /// The connection behind the stream broke.
    pub const BROKEN: &str = "broken";
    /// The other side no longer wants it.
    pub const CANCELLED: &str = "cancelled";
    /// It failed otherwise; the message says how.
    pub const FAILED: &str = "failed";
    /// The end of a session: done as wished.
    pub const DONE: &str = "done";
    /// The end of a session: the ends were apart for too long.
    pub const GRACE: &str = "grace";
    /// The end of a session: a rule of the protocol was broken.
    pub const PROTOCOL: &str = "protocol";
}

/// A rule that the peer broke. The session is over; what `poll_transmit` still gives tells the peer why.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Not a control message.
    #[error("the peer sent what is not a control message: {0}")]
    Control(#[from] InvalidControl),
    /// A binary message of a wrong size.
    #[error("the peer sent a binary message of {0} bytes; it has 4 bytes of stream id and 1 to {DATA_MAX} of data")]
    Size(usize),
    /// More data than credited.
    #[error("the peer sent {size} bytes on stream {stream}, which had credit for {credit}")]
    Credit {
        /// The stream.
        stream: StreamId,
        /// Bytes that came.
        size: usize,
        /// Bytes that were allowed.
        credit: u32,
    },
    /// More credit than any window.
    #[error("the peer credited {bytes} bytes on stream {stream}, which is over the largest window")]
    CreditTooLarge {
        /// The stream.
        stream: StreamId,
        /// Bytes credited.
        bytes: u32,
    },
    /// A message for a stream that never was.
    #[error("the peer sent {what} for stream {stream}, which was never opened")]
    NeverOpened {
        /// The kind of message.
        what: &'static str,
        /// The stream.
        stream: StreamId,
    },
    /// A message that the stream's state does not allow.
    #[error("the peer sent {what} for stream {stream} {when}")]
    OutOfPlace {
        /// The kind of message.
        what: &'static str,
        /// The stream.
        stream: StreamId,
        /// The state: "after its eof".
        when: &'static str,
    },
    /// An open with a number of the wrong kind or order.
    #[error("the peer opened stream {0}, which is not the next of its numbers")]
    StreamNumber(StreamId),
    /// An acknowledgement of what was never sent, or of less than before.
    #[error("the peer says that {received} messages arrived; {acknowledged} were acknowledged and {sent} were sent")]
    Received {
        /// What the peer says.
        received: u64,
        /// What it had said before.
        acknowledged: u64,
        /// What was sent.
        sent: u64,
    },
    /// The peer speaks no version that we do.
    #[error("the peer speaks version {0} of the session protocol; version 1 is needed")]
    Version(u32),
    /// Another session's hello.
    #[error("the peer speaks of session {0}, which is not this one")]
    Session(String),
    /// The peer began anew.
    #[error("the peer has lost the state of this session and cannot resume it")]
    StateLost,
    /// The peer makes us answer and does not acknowledge.
    #[error("the peer leaves {0} control messages unacknowledged")]
    Unacknowledged(usize),
}

/// Why a stream cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The bound is reached.
    #[error("this session has {STREAMS_MAX} streams open, which is the most; close some first")]
    TooMany,
    /// No session any more.
    #[error("the session is over")]
    Closed,
    /// All stream numbers are used.
    #[error("this session has used up its stream numbers; start a new one")]
    Exhausted,
    /// The target does not fit.
    #[error("the target does not fit in a control message of {CONTROL_MAX} bytes")]
    TooLarge,
}
