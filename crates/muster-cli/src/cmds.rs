//! One module per command: its flags, its calls to the hub, what it prints.
//!
//! A command parses, calls and prints; what is shared stands in `client`, `context` and `output`.

pub mod access_token;
pub mod account;
pub mod audit;
pub mod billing;
mod bulk;
pub mod completion;
pub mod decide;
pub mod device;
pub mod devices;
pub mod field;
pub mod history;
pub mod image;
pub mod invitation;
pub mod login;
pub mod member;
pub mod org;
pub mod policy;
pub mod profiles;
pub mod project;
pub mod remote;
pub mod run;
pub mod runs;
pub mod service_account;
pub mod sessions;
mod sheet;
pub mod ssh_config;
pub mod team;
pub mod token;
pub mod top;
pub mod usage;
pub mod view;

use crate::failure::Failure;
use crate::tty;

/// Asks before something that cannot be undone.
///
/// # Errors
/// When the person says no, or nobody can be asked.
pub fn confirm(yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    let question = crate::output::text::clean(question);
    if !tty::interactive() {
        return Err(Failure::usage(format!("{question} Nobody can be asked here")).hint("give --yes to do it without asking"));
    }
    if tty::confirm(&question)? { Ok(()) } else { Err(Failure::new(crate::failure::Exit::Failed, "nothing was changed")) }
}
