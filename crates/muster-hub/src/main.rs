//! `muster-hub`: the command line of the hub, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    muster_hub::cli::run()
}
