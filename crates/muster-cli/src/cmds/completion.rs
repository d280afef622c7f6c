//! `muster completion`: the script by which a shell asks `muster` itself what may come next.

use std::io::Write as _;

use clap::Args;

use crate::cli::Globals;
use crate::complete::VARIABLE;
use crate::failure::Failure;
use crate::output::Output;

/// `muster completion`
#[derive(Debug, Args)]
#[command(after_help = "\
Devices, projects, organizations and saved logins are completed too: the shell asks muster, and muster the hub.

Examples:
  echo 'source <(muster completion bash)' >> ~/.bashrc
  echo 'source <(muster completion zsh)' >> ~/.zshrc        after compinit
  muster completion fish > ~/.config/fish/completions/muster.fish")]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_parser = ["bash", "zsh", "fish", "elvish", "powershell"])]
    shell: String,
}

/// Prints the script.
///
/// # Errors
/// When standard output cannot be written.
pub fn run(globals: &Globals, args: &CompletionArgs) -> Result<u8, Failure> {
    let shells = clap_complete::env::Shells::builtins();
    let Some(shell) = shells.completer(&args.shell) else {
        return Err(Failure::usage(format!("there is no completion for {}", args.shell)));
    };
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "muster", "muster", "muster", &mut script)?;
    script.flush()?;
    Output::new(false, globals.color).raw(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
