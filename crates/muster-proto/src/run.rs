//! Runs: one command on one device. The order on `down/run/{run}`, the reports on `up/run/{run}`.
//!
//! Reports are numbered from 0 in each run. Whatever is sent again bears its old number, so the hub stores each once and in order;
//! the device makes a report's bytes once, and sends the same ones until they are acknowledged.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::base64;
use crate::id::ProjectId;
use crate::limits::{
    PAYLOAD_MAX, RUN_ARGS_MAX, RUN_COMMAND_MAX, RUN_CWD_MAX, RUN_ENV_BYTES_MAX, RUN_ENV_MAX, RUN_MESSAGE_MAX, RUN_OUTPUT_MAX,
    RUN_PIECE_MAX, RUN_REPORTS_MAX, RUN_TIMEOUT_MAX_S,
};
use crate::mqtt::{PayloadError, decode};
use crate::order::SignedOrder;

/// `down/run/{run}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum RunOrder {
    /// Run a command: a signed [`crate::order::Order`] that holds a [`RunStart`]. The same order twice is one run.
    Start(SignedOrder),
    /// End it, and whatever it started.
    Cancel {
        /// The sentence for the journal.
        reason: String,
        /// The hub's clock.
        t: Millis,
    },
    /// An order of a later version, to be ignored.
    #[serde(other)]
    Unknown,
}

impl RunOrder {
    /// Decodes an order. What a signed one holds is checked when that is read ([`SignedOrder::read`]).
    ///
    /// # Errors
    /// When it is over a limit or is not an order.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        decode(payload, PAYLOAD_MAX)
    }
}

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunCommand {
    /// A program and its arguments, as they are.
    Argv(Vec<String>),
    /// A text for the shell of the user as whom it runs.
    Shell(String),
}

/// An order to run a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStart {
    /// What.
    pub command: RunCommand,
    /// As whom on the device; the first user that its policy names for this person if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as: Option<String>,
    /// In which directory; the user's home if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Added to the environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Seconds after which it is ended.
    pub timeout_s: u32,
    /// Bytes of output that are kept, both streams together.
    pub output_max: u64,
    /// Who asks: the account's name.
    pub user: String,
    /// In the name of which project.
    pub project: ProjectId,
    /// With which role there: "admin", "maintain", "operate".
    pub role: String,
    /// The hub's clock when it said this.
    pub t: Millis,
    /// By the hub's clock: from then on the order is void.
    pub expires: Millis,
}

/// A rule that an order breaks: the field, and what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    /// The field.
    pub field: &'static str,
    /// The rule, with the field.
    pub why: &'static str,
}

impl RunStart {
    /// Checks the bounds, and that the system can be given these texts.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), Broken> {
        let broken = |field, why| Err(Broken { field, why });
        match &self.command {
            RunCommand::Argv(argv) => {
                if argv.first().is_none_or(String::is_empty) {
                    return broken("command", "command: it must name a program");
                }
                if argv.len() > RUN_ARGS_MAX || argv.iter().map(|arg| arg.len() + 1).sum::<usize>() > RUN_COMMAND_MAX {
                    return broken("command", "command: it has at most 1024 arguments and 24 KiB");
                }
                if argv.iter().any(|arg| arg.contains('\0')) {
                    return broken("command", "command: an argument cannot hold a NUL");
                }
            }
            RunCommand::Shell(text) => {
                if text.trim().is_empty() || text.len() > RUN_COMMAND_MAX || text.contains('\0') {
                    return broken("command", "command: the shell's text has 1 byte to 24 KiB and no NUL");
                }
            }
        }
        if self.run_as.as_deref().is_some_and(|user| !is_user_name(user)) {
            return broken("run_as", "run_as: it must be a user's name");
        }
        if let Some(cwd) = &self.cwd
            && (!cwd.starts_with('/') || cwd.len() > RUN_CWD_MAX || cwd.contains('\0'))
        {
            return broken("cwd", "cwd: it must be an absolute path of at most 4096 bytes");
        }
        let bytes: usize = self.env.iter().map(|(name, value)| name.len() + value.len() + 2).sum();
        if self.env.len() > RUN_ENV_MAX || bytes > RUN_ENV_BYTES_MAX {
            return broken("env", "env: it has at most 64 variables and 8 KiB");
        }
        if self.env.iter().any(|(name, value)| !is_variable(name) || value.contains('\0')) {
            return broken("env", "env: a name has letters, digits and underscores, no digit first; a value has no NUL");
        }
        if !(1..=RUN_TIMEOUT_MAX_S).contains(&self.timeout_s) {
            return broken("timeout_s", "timeout_s: it is 1 second to 24 hours");
        }
        if self.output_max > RUN_OUTPUT_MAX {
            return broken("output_max", "output_max: it is at most 16 MiB");
        }
        Ok(())
    }
}

fn is_user_name(user: &str) -> bool {
    (1..=64).contains(&user.len()) && !user.starts_with('-') && !user.contains(['/', ':']) && user.chars().all(|c| c.is_ascii_graphic())
}

fn is_variable(name: &str) -> bool {
    let bytes = name.as_bytes();
    (1..=128).contains(&bytes.len()) && !bytes[0].is_ascii_digit() && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// `up/run/{run}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunReport {
    /// Its number in the run, from 0.
    pub n: u64,
    /// The hub's clock as well as the device knows it.
    pub t: Millis,
    /// What happened.
    #[serde(flatten)]
    pub kind: RunReportKind,
}

/// What a device tells of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RunReportKind {
    /// The device's policy allows it, and it will be run.
    Accepted,
    /// Its process is there.
    Started,
    /// A piece of its output.
    Output(RunOutput),
    /// It is over, for good.
    End(RunEnd),
    /// Whatever a later version tells.
    #[serde(other)]
    Unknown,
}

/// Where output came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output. On the wire `text` where it is such, else `data` in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawOutput", into = "RawOutput")]
pub struct RunOutput {
    /// Which stream.
    pub stream: RunStream,
    /// The place of its first byte in that stream. A gap before it is output that was dropped.
    pub at: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct RawOutput {
    stream: RunStream,
    at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<String>,
}

impl From<RunOutput> for RawOutput {
    fn from(RunOutput { stream, at, bytes }: RunOutput) -> Self {
        // Control characters take six bytes in JSON: many of them are shorter as base64, and only that has a bound.
        let escaped: usize = bytes.iter().map(|byte| if *byte < 0x20 && !b"\n\r\t".contains(byte) || *byte == 0x7f { 6 } else { 1 }).sum();
        let quoted = bytes.iter().filter(|byte| b"\n\r\t\"\\".contains(byte)).count();
        match String::from_utf8(bytes) {
            Ok(text) if escaped + quoted <= base64::length(text.len()) + 64 => Self { stream, at, text: Some(text), data: None },
            Ok(text) => Self { stream, at, text: None, data: Some(base64::encode(text.as_bytes())) },
            Err(error) => Self { stream, at, text: None, data: Some(base64::encode(error.as_bytes())) },
        }
    }
}

impl TryFrom<RawOutput> for RunOutput {
    type Error = &'static str;

    fn try_from(RawOutput { stream, at, text, data }: RawOutput) -> Result<Self, Self::Error> {
        let bytes = match (text, data) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(data)) => base64::decode(&data).ok_or("data is not base64")?,
            _ => return Err("output has either text or data"),
        };
        Ok(Self { stream, at, bytes })
    }
}

/// How a run ended, as the device says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// How.
    pub outcome: RunOutcome,
    /// The process's exit code, where it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it: "KILL", "SEGV", or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<String>,
    /// Why, for programs: the policy's code, "not_found", ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Why, or what else is to be said, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Bytes that it wrote to standard output, kept or not.
    #[serde(default)]
    pub stdout: u64,
    /// Bytes that it wrote to standard error, kept or not.
    #[serde(default)]
    pub stderr: u64,
    /// Of these, bytes that were dropped, out of the middle.
    #[serde(default)]
    pub dropped: u64,
    /// What it used.
    #[serde(default)]
    pub used: RunUsed,
}

/// What a run used, as the device measured it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunUsed {
    /// Processor time of all its processes, in microseconds.
    pub cpu_us: u64,
    /// Resident memory of all its processes over time, in bytes times milliseconds.
    pub mem_byte_ms: u64,
    /// The most resident memory that was seen at once, in bytes.
    pub mem_peak: u64,
    /// From its start to its end, in milliseconds by a clock that nobody sets.
    pub wall_ms: u64,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunOutcome {
    /// The command ended by itself, well or not: the exit code or the signal says.
    Done,
    /// The command could not be started.
    Failed,
    /// It was ended because somebody asked for it.
    Cancelled,
    /// It was ended because its time was over.
    TimedOut,
    /// The order came too late and was not run.
    Expired,
    /// The device's policy refused it.
    Refused,
    /// What was to watch over it is gone, such as by a power cut.
    Lost,
    /// An outcome of a later version.
    #[serde(other)]
    Unknown,
}

impl RunEnd {
    /// An end without a process.
    pub fn without_process(outcome: RunOutcome, code: &str, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        let cut = (0..=RUN_MESSAGE_MAX).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(cut);
        Self {
            outcome,
            exit_code: None,
            signal: None,
            code: Some(code.to_owned()),
            message: Some(message),
            stdout: 0,
            stderr: 0,
            dropped: 0,
            used: RunUsed::default(),
        }
    }
}

/// The largest amounts that a report may name: above what any machine can use in the longest run, and far from overflow.
const USED_MAX: u64 = 1 << 62;

impl RunReport {
    /// Decodes and checks a report.
    ///
    /// # Errors
    /// When it is over a limit or breaks a rule.
    pub fn decode(payload: &[u8]) -> Result<Self, PayloadError> {
        let report: Self = decode(payload, PAYLOAD_MAX)?;
        if report.n >= RUN_REPORTS_MAX {
            return Err(PayloadError::Rule("a run has at most 80000 reports"));
        }
        match &report.kind {
            RunReportKind::Output(RunOutput { at, bytes, .. }) => {
                if bytes.is_empty() || bytes.len() > RUN_PIECE_MAX {
                    return Err(PayloadError::Rule("a piece of output has 1 byte to 32 KiB"));
                }
                if *at > USED_MAX {
                    return Err(PayloadError::Rule("no command writes so much"));
                }
            }
            RunReportKind::End(end) => {
                let long = |text: &Option<String>, most| text.as_ref().is_some_and(|text| text.len() > most);
                if long(&end.message, RUN_MESSAGE_MAX) || long(&end.code, 64) || long(&end.signal, 16) {
                    return Err(PayloadError::Rule("an end has short texts"));
                }
                let used = &end.used;
                if [end.stdout, end.stderr, end.dropped, used.cpu_us, used.mem_byte_ms, used.mem_peak, used.wall_ms]
                    .iter()
                    .any(|amount| *amount > USED_MAX)
                {
                    return Err(PayloadError::Rule("no command uses so much"));
                }
            }
            RunReportKind::Accepted | RunReportKind::Started | RunReportKind::Unknown => {}
        }
        Ok(report)
    }
}
