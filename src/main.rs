//! `musterd`, the device daemon: enrols, keeps one MQTT link, reports heartbeats and resource usage, hands over what the hub orders.
//!
//! This file parses the command line and hands over; each command has its own module.
//! The daemon knows `muster-proto` and `muster-link`, never the hub or the command line; `mqtt` and `session` never import each other.

#![warn(clippy::print_stdout, clippy::print_stderr)] // they panic: see `muster_link::print`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use muster_link::{errln, out, outln};

use musterd::{log, policy, settings};

use crate::config::Config;
use crate::enrol::Enrolment;
use crate::log::error;

mod anchor;
mod certificate;
mod check;
mod config;
mod control;
mod csr;
mod daemon;
mod doctor;
mod enrol;
mod explain;
mod facts;
mod living;
mod local;
mod lock;
mod metrics;
mod mqtt;
mod notify;
mod random;
mod renew;
mod run;
mod runs;
mod serial;
mod sessions;
mod spool;
mod state;
mod status;
mod usage;
mod visits;

/// The Muster device daemon.
#[derive(Debug, Parser)]
#[command(name = "musterd", version, about = "Puts this device on its organization's list and lets the right people reach it")]
#[command(after_help = "Exit codes: 0 all is well, 1 failed or not well, 2 wrong usage or configuration.")]
struct Cli {
    /// Configuration file [default: /etc/musterd/config.toml, which may be missing]
    #[arg(long, global = true, env = "MUSTERD_CONFIG", value_name = "PATH", hide_env = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Asks a hub to admit this device: URL and token as `muster token create` prints them
    Enrol {
        /// The hub, such as https://hub.example.com
        url: String,
        /// The enrolment token, mt1...
        token: String,
        /// The user of this device whom visitors become: written into a first policy, if there is none yet
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Do not wait until a person has decided; `musterd run` goes on waiting
        #[arg(long)]
        no_wait: bool,
    },
    /// Runs the daemon
    Run,
    /// Says how the daemon is
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Goes the whole way to the hub and says what to do
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Lists the remote sessions and runs that live on this device
    Sessions {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Ends a remote session or a run, or all of them
    End {
        /// Its id, as `musterd sessions` prints it
        #[arg(required_unless_present = "all")]
        id: Option<String>,
        /// All of them
        #[arg(long, conflicts_with = "id")]
        all: bool,
        /// The message that the visitor gets
        #[arg(long, value_name = "TEXT", default_value = "ended at the device")]
        reason: String,
    },
    /// Says yes to a visitor who waits for a person at this device
    Approve {
        /// The code, as the visitor and `musterd sessions` have it
        code: String,
    },
    /// Serves sessions where systemd does not; run it as root under your supervisor
    Sessiond,
    /// Checks the configuration and the policy, names all mistakes, and says as whom each role gets in
    CheckConfig,
    /// Answers questions about this device's policy
    Policy {
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Shuts this device: it refuses everything until `musterd unlock`
    Lock {
        /// What visitors read
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Opens this device again, as its policy says
    Unlock,
    /// Prints an example of the configuration or of the policy
    ExampleConfig {
        /// Which
        #[arg(value_parser = ["config", "policy"], default_value = "config")]
        which: String,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Says whether the policy allows something, as whom, by which lines, and which of them rest on the hub's word
    #[command(after_help = "Exit codes: 0 allowed, 1 refused, 2 wrong usage.")]
    Explain(explain::Question),
}

/// Wrong usage or configuration.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let code = execute(Cli::parse());
    match muster_link::print::failure() {
        None => code,
        Some(why) => {
            errln!("musterd: {why}");
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli) -> ExitCode {
    if let Command::ExampleConfig { which } = &cli.command {
        out!("{}", if which == "policy" { policy::EXAMPLE } else { config::EXAMPLE });
        return ExitCode::SUCCESS;
    }
    let config = Config::load(cli.config.as_deref());
    if let Command::CheckConfig = cli.command {
        return check::run(&config);
    }
    let config = match config {
        Ok(config) => config,
        Err(mistakes) => {
            check::print_mistakes("configuration", &mistakes);
            return ExitCode::from(USAGE);
        }
    };
    log::set_level(config.log_level);
    match &cli.command {
        Command::Policy { command: PolicyCommand::Explain(question) } => return explain::run(&config, question),
        Command::Lock { reason } => return lock::lock(&config, reason.as_deref()),
        Command::Unlock => return lock::unlock(&config),
        _ => {}
    }
    // One thread: a device's processor has better things to do than to pass our messages around.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let code = match cli.command {
        Command::Enrol { url, token, user, no_wait } => runtime.block_on(enrol_command(&config, &url, &token, user.as_deref(), no_wait)),
        Command::Run => runtime.block_on(run::run(config, cli.config.clone())),
        Command::Status { json } => status::run(&config, json),
        Command::Doctor { json } => runtime.block_on(doctor::run(&config, json)),
        Command::Sessions { json } => visits::list(&config, json),
        Command::End { id, reason, .. } => visits::end(&config, id.as_deref(), &reason),
        Command::Approve { code } => visits::approve(&config, &code),
        Command::Sessiond => visits::sessiond(&config),
        // These have returned above.
        Command::CheckConfig | Command::Policy { .. } | Command::Lock { .. } | Command::Unlock | Command::ExampleConfig { .. } => {
            ExitCode::SUCCESS
        }
    };
    // A name that is being looked up must not hold up the end.
    runtime.shutdown_background();
    code
}

async fn enrol_command(config: &Config, url: &str, token: &str, user: Option<&str>, no_wait: bool) -> ExitCode {
    let mut say = |text: &str| outln!("{text}");
    let result = enrol::request(config, url, token, user, &mut say).await;
    // A daemon that waits takes it up at once, also to wait in our place; none may run.
    let tell_daemon = || drop(control::ask(&config.control_socket(), &control::Ask::Reload));
    if result.is_ok() {
        tell_daemon();
    }
    let result = match result {
        Ok(Enrolment::Pending { request, why }) => {
            outln!("pairing code: {}", request.pairing_code);
            outln!("{why}");
            if no_wait {
                outln!("`musterd run` goes on waiting.");
                return ExitCode::SUCCESS;
            }
            enrol::follow(config, request, &mut say).await
        }
        Ok(Enrolment::Admitted(enrolled)) => Ok(enrolled),
        Err(why) => Err(why),
    };
    match result {
        Ok(enrolled) => {
            tell_daemon();
            let identity = &enrolled.identity;
            outln!("admitted: this device is {} ({}) of {}", identity.name, identity.uid, identity.org);
            ExitCode::SUCCESS
        }
        Err(why) => {
            errln!("musterd: not enrolled: {why}");
            ExitCode::FAILURE
        }
    }
}
