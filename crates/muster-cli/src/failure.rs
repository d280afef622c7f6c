//! How a command fails: one sentence, what to do about it, and the process's exit code.
//!
//! Scripts branch on the code, so its meaning never changes; people read the sentence.
//! Nothing here prints: `main` reports a failure once.

use std::fmt;

use muster_proto::problem::{Code, Problem};

/// Exit codes, as `muster --help` lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It failed; the message says why.
    Failed = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// Not logged in, or not allowed.
    Denied = 3,
    /// No such device, project, session, ...
    NotFound = 4,
    /// The device is offline or did not answer.
    Silent = 5,
    /// The hub cannot be reached or is not the one that is trusted.
    Unreachable = 6,
}

/// The table of exit codes in `--help`.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed; the message says why
  2  wrong usage or configuration
  3  not logged in, or not allowed
  4  no such device, project, session or organization
  5  the device is offline or did not answer
  6  the hub cannot be reached, or is not the hub that is trusted
  `shell`, `ssh` and `run` exit with the remote command's own code; `muster help run` has more.";

/// Why a command did not do what it should.
#[derive(Debug)]
pub struct Failure {
    /// The process's exit code.
    pub exit: u8,
    /// One sentence; empty when nothing is to be said.
    pub message: String,
    /// What to do, where the sentence does not say so.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with its sentence.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit: exit as u8, message: message.into(), hint: None }
    }

    /// A mistake in the command line or the configuration.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// Ends the process without a word, as when the reader of a pipe has gone.
    pub fn silent(exit: u8) -> Self {
        Self { exit, message: String::new(), hint: None }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts what was attempted before the sentence.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let code = Code::ALL.iter().copied().find(|code| problem.is(*code));
        // A newer hub may send a code that this program does not know: the status still tells the kind.
        let exit = match code {
            Some(Code::Unauthenticated | Code::Expired | Code::Forbidden | Code::DeviceRefused) => Exit::Denied,
            Some(Code::NotFound) => Exit::NotFound,
            Some(Code::DeviceOffline | Code::DeviceSilent) => Exit::Silent,
            Some(Code::Unavailable) => Exit::Unreachable,
            Some(_) => Exit::Failed,
            None => match problem.status {
                401 | 403 => Exit::Denied,
                404 => Exit::NotFound,
                502..=504 => Exit::Unreachable,
                _ => Exit::Failed,
            },
        };
        let mut hint = match code {
            Some(Code::Unauthenticated) => Some("log in again with `muster login`, or set MUSTER_TOKEN to a valid token".to_owned()),
            Some(Code::Expired) => Some("make a new token with `muster login`".to_owned()),
            Some(Code::Internal) => Some("the hub's log says why".to_owned()),
            _ => None,
        };
        // The hub's own sentence may say it already.
        if code == Some(Code::Unauthenticated) && problem.detail.contains("`muster login`") {
            hint = Some("or set MUSTER_TOKEN to a token that is valid".to_owned());
        }
        if code == Some(Code::Expired) && problem.detail.contains("`muster login`") {
            hint = None;
        }
        if let Some(seconds) = problem.retry_in {
            hint = Some(format!("try again in {seconds} s"));
        }
        if code == Some(Code::Internal)
            && let Some(request) = &problem.request
        {
            hint = Some(format!("the hub's log says why, at request {request}"));
        }
        Self { exit: exit as u8, message: problem.detail, hint }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::silent(0);
        }
        Self::new(Exit::Failed, error.to_string())
    }
}

impl From<muster_proto::id::InvalidId> for Failure {
    fn from(error: muster_proto::id::InvalidId) -> Self {
        Self::usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_exit_code() {
        let exits: Vec<(&str, u8)> = Code::ALL.iter().map(|code| (code.as_str(), Failure::from(Problem::new(*code, "why")).exit)).collect();
        assert!(exits.len() >= 20);
        for (code, exit) in exits {
            let want = match code {
                "unauthenticated" | "expired" | "forbidden" | "device_refused" => 3,
                "not_found" => 4,
                "device_offline" | "device_silent" => 5,
                "unavailable" => 6,
                _ => 1,
            };
            assert_eq!(exit, want, "{code}");
        }
    }

    #[test]
    fn an_unknown_code_goes_by_its_status() {
        let problem = |status| Problem { code: "from_the_future".into(), status, detail: "why".into(), request: None, retry_in: None };
        assert_eq!(Failure::from(problem(403)).exit, 3);
        assert_eq!(Failure::from(problem(404)).exit, 4);
        assert_eq!(Failure::from(problem(503)).exit, 6);
        assert_eq!(Failure::from(problem(409)).exit, 1);
    }

    #[test]
    fn a_wait_is_told() {
        let mut problem = Problem::new(Code::RateLimited, "too many attempts");
        problem.retry_in = Some(30);
        assert_eq!(Failure::from(problem).hint.as_deref(), Some("try again in 30 s"));
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert_eq!((failure.exit, failure.message.as_str()), (0, ""));
    }
}
