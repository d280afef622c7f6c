//! Control messages: one JSON object with `type` in one text message.
//!
//! This is the grammar only; what a message means for a session stands in `receive.rs`.
//! A `type` that is not known decodes as [`Control::Unknown`] and is counted and skipped;
//! a target that is not known is kept as JSON, so that it can be refused by name.
//! A known message with missing or wrong fields is an error.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{SessionId, StreamId};
use crate::limits::CONTROL_MAX;

/// The version of the session protocol that this crate speaks.
pub const VERSION: u32 = 1;
/// The WebSocket sub-protocol of a session.
pub const SUBPROTOCOL: &str = "muster.session.v1";

/// A control message.
///
/// All but hello, ack, ping and pong are counted, in each direction from 1, together with the data messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Control {
    /// First on every leg; see `docs/decisions/0002-session-resume.md`.
    Hello(Hello),
    /// Asks for a stream. Data may follow at once, within the first window.
    Open {
        /// The new stream: odd from the client, even from the device, growing.
        stream: StreamId,
        /// What it leads to.
        target: OpenTarget,
    },
    /// The stream is there.
    Opened {
        /// Which.
        stream: StreamId,
        /// What the accepting end tells of it: a file's size, a terminal's name. Null if nothing.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        info: Value,
    },
    /// The stream will not be.
    Refused {
        /// Which.
        stream: StreamId,
        /// Machine-readable reason.
        code: String,
        /// The sentence for the user.
        message: String,
    },
    /// The peer may send this many bytes more on the stream.
    Credit {
        /// Which.
        stream: StreamId,
        /// Bytes, at least 1.
        bytes: u32,
    },
    /// No more data on the stream from this end; the other direction goes on.
    Eof {
        /// Which.
        stream: StreamId,
    },
    /// The stream is gone, with what was under way on it.
    Reset {
        /// Which.
        stream: StreamId,
        /// Machine-readable reason.
        code: String,
        /// The sentence for the user.
        message: String,
    },
    /// How many counted messages have arrived in this session.
    Ack {
        /// The count.
        received: u64,
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
    /// A signal for the stream's process.
    Signal {
        /// Which.
        stream: StreamId,
        /// Its name without `SIG`: "INT", "TERM", "HUP".
        signal: String,
    },
    /// A sentence for the user while they wait, such as for a person at the device who has to approve. It changes nothing.
    Notice {
        /// Which.
        stream: StreamId,
        /// The sentence.
        message: String,
    },
    /// The stream's process ended.
    Exit {
        /// Which.
        stream: StreamId,
        /// Its exit code, unless a signal ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<i32>,
        /// The signal that ended it, without `SIG`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    },
    /// Is the other end there?
    Ping,
    /// It is.
    Pong,
    /// The session is over.
    Close {
        /// Machine-readable reason.
        code: String,
        /// The sentence for the user.
        message: String,
    },
    /// A message of a later version, to be counted and ignored.
    #[serde(other)]
    Unknown,
}

/// The first message of an end on each leg, and its answer to a leg of the peer that it has not yet named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Highest version that the end speaks; both then speak the lower one.
    pub version: u32,
    /// The session, as a check against crossed wires.
    pub session: SessionId,
    /// Whether the end has met its peer before in this session.
    pub resume: bool,
    /// Counted messages that have arrived here.
    pub received: u64,
    /// Counts the end's own dials in this session, from 1.
    pub leg: u64,
    /// The newest `leg` of the peer seen here; 0 before the first.
    pub peer_leg: u64,
}

/// A target as it arrives: one of ours, or whatever a later version asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OpenTarget {
    /// A target that this version knows.
    Known(Target),
    /// Anything else; it is refused.
    Unknown(Value),
}

/// What a stream leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    /// A TCP connection that the device dials.
    Tcp {
        /// Host name or address, resolved on the device.
        host: String,
        /// Port.
        port: u16,
    },
    /// Datagrams to one address; each data message is one datagram and is never split or joined.
    Udp {
        /// Host name or address, resolved on the device.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket on the device.
    Unix {
        /// Absolute path.
        path: String,
    },
    /// A process on a new pseudo-terminal, or with pipes.
    Terminal(Terminal),
    /// The standard error of a process with pipes that was opened in this session with `errors`, or is being opened.
    Errors {
        /// The process's stream.
        of: StreamId,
    },
    /// A file from the device.
    Get {
        /// Absolute path.
        path: String,
        /// Where to begin, in bytes.
        #[serde(default)]
        offset: u64,
    },
    /// A file to the device.
    Put {
        /// Absolute path.
        path: String,
        /// Size of the whole file, in bytes.
        size: u64,
        /// Permission bits, such as 0o644 as a number.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mode: Option<u32>,
        /// Where to go on, in bytes.
        #[serde(default)]
        offset: u64,
        /// SHA-256 of the whole file in hexadecimal, to be checked before the file takes its name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
    },
    /// A directory's entries.
    List {
        /// Absolute path.
        path: String,
    },
}

/// A terminal on the device; or, with a size of 0 x 0, a process with pipes: bytes pass as they are, and `eof` is the end of its
/// input. Its standard error goes with standard output, or to a stream of its own ([`Target::Errors`]).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Columns; 0 with 0 rows for pipes.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
    /// The value of `TERM`.
    pub term: String,
    /// As whom; the first user that the device's policy names for this person if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// A command line for the user's shell; a login shell if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The name of a kept terminal to attach to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<String>,
    /// With pipes: standard error goes to a stream of its own, which the same end opens.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub errors: bool,
}

impl Target {
    /// The target's kind on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tcp { .. } => "tcp",
            Self::Udp { .. } => "udp",
            Self::Unix { .. } => "unix",
            Self::Terminal(_) => "terminal",
            Self::Errors { .. } => "errors",
            Self::Get { .. } => "get",
            Self::Put { .. } => "put",
            Self::List { .. } => "list",
        }
    }

    /// Kinds that this version knows.
    pub const KINDS: [&'static str; 8] = ["tcp", "udp", "unix", "terminal", "errors", "get", "put", "list"];
}

impl std::fmt::Display for Target {
    /// One line for logs, journals and events: `tcp 127.0.0.1:22`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } | Self::Udp { host, port } if host.contains(':') => write!(f, "{} [{host}]:{port}", self.kind()),
            Self::Tcp { host, port } | Self::Udp { host, port } => write!(f, "{} {host}:{port}", self.kind()),
            Self::Unix { path } | Self::Get { path, .. } | Self::Put { path, .. } | Self::List { path } => {
                write!(f, "{} {path}", self.kind())
            }
            Self::Terminal(Terminal { user: Some(user), .. }) => write!(f, "terminal as {user}"),
            Self::Terminal(_) => f.write_str("terminal"),
            Self::Errors { of } => write!(f, "errors of stream {of}"),
        }
    }
}

/// Why a text message is not a control message.
#[derive(Debug, thiserror::Error)]
pub enum InvalidControl {
    /// Over the bound.
    #[error("a control message of {0} bytes is over the limit of {CONTROL_MAX}")]
    TooLarge(usize),
    /// Not the JSON of a message.
    #[error("a control message is not valid: {0}")]
    Json(#[from] serde_json::Error),
}

impl Control {
    /// Decodes a text message.
    ///
    /// # Errors
    /// When it is over the bound, or not a JSON object with `type`, or a known type with wrong fields.
    pub fn parse(text: &str) -> Result<Self, InvalidControl> {
        if text.len() > CONTROL_MAX {
            return Err(InvalidControl::TooLarge(text.len()));
        }
        match parse_ack(text) {
            Some(received) => Ok(Self::Ack { received }),
            None => Ok(serde_json::from_str(text)?),
        }
    }

    /// Encodes it as a text message.
    pub fn encode(&self) -> String {
        // Text keys only, and `Unknown` is never made by this side.
        serde_json::to_string(self).expect("control messages always serialize")
    }

    /// Whether it counts in `received`.
    pub fn is_counted(&self) -> bool {
        !matches!(self, Self::Hello(_) | Self::Ack { .. } | Self::Ping | Self::Pong)
    }
}

/// The most frequent control message by far, in the form in which we write it; any other form goes the long way.
fn parse_ack(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("{\"type\":\"ack\",\"received\":")?.strip_suffix('}')?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    if plain { digits.parse().ok() } else { None }
}
