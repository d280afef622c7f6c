//! Runs: one command on one device, its output, and how it ended.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::id::{DeviceUid, ProjectId, RunId};
use crate::problem::Problem;
use crate::run::{RunCommand, RunOutput};

/// `POST /v1/orgs/{org}/devices/{device}/runs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunCreate {
    /// `{"argv": ["df", "-h"]}`, or `{"shell": "df -h | tail -3"}`.
    pub command: RunCommand,
    /// In the name of which project; may be absent where only one gives the right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ProjectId>,
    /// As whom on the device; the first user that its policy names for this person if absent. The policy must name the one wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as: Option<String>,
    /// In which directory; the user's home if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Variables for its environment. The hub keeps their names only.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Seconds after which it is ended; 1 to 86400, an hour if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u32>,
    /// Bytes of output that are kept; at most 16 MiB, 1 MiB if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_max: Option<u64>,
    /// Seconds that the order waits for a device that is offline; 1 to 600, 600 if absent. Then the run is `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_s: Option<u32>,
}

/// What a run is doing, or how it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// The device has not taken it yet; it has until `expires_at`.
    Waiting,
    /// The device has taken it.
    Running,
    /// The command ended with exit code 0.
    Done,
    /// The command could not be started, ended with another exit code, or by a signal.
    Failed,
    /// Somebody ended it.
    Cancelled,
    /// Its time was over.
    TimedOut,
    /// The device did not take it in time.
    Expired,
    /// The device's policy refused it.
    Refused,
    /// The device lost it, as in a power cut, or has not been heard of since its time was over.
    Lost,
}

impl RunState {
    /// All, in the order of a life.
    pub const ALL: [Self; 9] =
        [Self::Waiting, Self::Running, Self::Done, Self::Failed, Self::Cancelled, Self::TimedOut, Self::Expired, Self::Refused, Self::Lost];

    /// The state on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Lost => "lost",
        }
    }

    /// Whether it is over.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Waiting | Self::Running)
    }
}

/// A row of `GET /v1/orgs/{org}/runs`, newest first, and `GET /v1/orgs/{org}/runs/{id}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: RunId,
    /// The device.
    pub device: DeviceUid,
    /// Its name.
    pub device_name: String,
    /// Who.
    pub user: String,
    /// In the name of which project.
    pub project: ProjectId,
    /// What.
    pub command: RunCommand,
    /// As whom on the device, if asked for.
    pub run_as: Option<String>,
    /// In which directory, if asked for.
    pub cwd: Option<String>,
    /// Names of the variables that were added to its environment.
    pub env: Vec<String>,
    /// Seconds after which it is ended.
    pub timeout_s: u32,
    /// Bytes of output that are kept.
    pub output_max: u64,
    /// What it is doing, or how it ended.
    pub state: RunState,
    /// One sentence: what it waits for, or why it ended so.
    pub why: String,
    /// When asked for.
    pub created_at: Millis,
    /// Until when the device may take it.
    pub expires_at: Millis,
    /// When its process began.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// Who asked to end it.
    pub cancelled_by: Option<String>,
    /// The process's exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<String>,
    /// Why it ended so, for programs.
    pub code: Option<String>,
    /// Bytes that it wrote to standard output, kept or not.
    pub stdout: u64,
    /// Bytes that it wrote to standard error, kept or not.
    pub stderr: u64,
    /// Of these, bytes that were dropped, out of the middle.
    pub dropped: u64,
    /// Processor time, in microseconds.
    pub cpu_us: u64,
    /// Resident memory over time, in bytes times milliseconds.
    pub mem_byte_ms: u64,
    /// The most resident memory that was seen at once, in bytes.
    pub mem_peak: u64,
}

/// A piece of output in a line of `GET /v1/orgs/{org}/runs/{id}/output`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunPiece {
    /// Its number: `?from=` the number after the last one goes on behind it.
    pub n: u64,
    /// When the device saw it.
    pub t: Millis,
    /// `stream`, `at`, and `text` or `data`.
    #[serde(flatten)]
    pub output: RunOutput,
}

/// A line of `GET /v1/orgs/{org}/runs/{id}/output`: pieces, and the run itself as the last one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RunLine {
    /// A piece of output.
    Piece(RunPiece),
    /// The last line: the run as it is now.
    Run {
        /// The run.
        run: Box<Run>,
    },
    /// The last line where the reader's right went while it read.
    Problem {
        /// Why.
        problem: Problem,
    },
}
