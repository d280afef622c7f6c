//! `muster`: the field engineer's command line.
//!
//! Parses, runs one command, reports its failure once, and ends with its exit code.
//! What a command does is in `cmds`; sessions to devices are in `session`.

#![warn(clippy::print_stdout, clippy::print_stderr)] // they panic: see `muster_link::print`

pub mod cli;
pub mod client;
pub mod cmds;
pub mod complete;
pub mod context;
pub mod failure;
pub mod output;
pub mod profile;
pub mod session;
pub mod tty;

use std::process::ExitCode;

use failure::{Exit, Failure};

/// The program: parses the process's arguments, runs the command, reports a failure once.
pub fn main() -> ExitCode {
    if complete::answer() {
        return ExitCode::SUCCESS;
    }
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no failure; a reader that has gone is none either.
            drop(error.print());
            return if error.use_stderr() { ExitCode::from(Exit::Usage as u8) } else { ExitCode::SUCCESS };
        }
    };
    // One thread: a session moves its bytes without a hop from task to task.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&Failure::new(Exit::Failed, format!("cannot start: {error}"))),
    };
    let outcome = runtime.block_on(Box::pin(cli::run(cli)));
    // A name that is still being resolved must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => report(&failure),
    }
}

fn report(failure: &Failure) -> ExitCode {
    if !failure.message.is_empty() {
        output::note(format!("muster: {}", failure.message));
        if let Some(hint) = &failure.hint {
            output::note(hint);
        }
    }
    ExitCode::from(failure.exit)
}
