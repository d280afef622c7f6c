//! Flags of the commands that reach a device: `shell`, `ssh`, `proxy`, `forward`. What they do is in `session`.

use std::net::IpAddr;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;

use crate::complete;

/// `muster shell`
#[derive(Debug, Args)]
#[command(after_help = "\
The shell survives a change of network and a restart of the hub or the daemon, for two minutes each.
The device's own policy decides whether it runs, and as which user. A person at the device may have to approve it.
The end of the session ends all that it started, background jobs and nohup too, unless that policy says `linger = true`.
After a line break, `~.` ends the session and `~~` sends a tilde.
One word after `--` is a line for the device's shell; several are a program and its arguments, as they are.

Examples:
  muster shell robot-7
  muster shell robot-7 -- journalctl -u mission -f
  muster shell robot-7 -- 'dmesg | tail -3'
  muster shell robot-7 --reason 'ticket 4711' -- df -h      exits with the command's own code")]
pub struct ShellArgs {
    /// Name, serial number or uid
    #[arg(add = ArgValueCompleter::new(complete::devices))]
    pub device: String,
    /// The user on the device; the policy's own choice by default
    #[arg(long, short = 'l', value_name = "NAME")]
    pub user: Option<String>,
    /// Why, for the hub's records
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// A command instead of the login shell
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `muster ssh`
#[derive(Debug, Args)]
#[command(override_usage = "muster ssh [OPTIONS] [SSH_FLAGS] [USER@]DEVICE [COMMAND]...")]
#[command(after_help = "\
It is OpenSSH, with `muster proxy` as its ProxyCommand, and takes OpenSSH's own flags, before the device or behind it.
Programs that call `ssh` can call `muster ssh`; for those that read OpenSSH's configuration there is `muster ssh-config`.
The device needs an sshd. Options of muster come first.

Examples:
  muster ssh pi@robot-7
  muster ssh -l pi -p 2222 robot-7 uptime
  muster ssh --reason 'ticket 4711' pi@robot-7 -N -L 8080:localhost:80
  rsync -a -e 'muster ssh -q' pi@robot-7:/var/log/ logs/
  GIT_SSH_COMMAND='muster ssh -q' git clone pi@robot-7:src/mission")]
pub struct SshArgs {
    /// Why, for the hub's records
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
    /// The port of the device's sshd; OpenSSH's -p does the same [default: 22]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// OpenSSH's flags, the device (name, serial number or uid; the user on the device before it), and a command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true, value_name = "[USER@]DEVICE", add = ArgValueCompleter::new(complete::devices))]
    pub words: Vec<String>,
}

/// `muster proxy`
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ssh -o ProxyCommand='muster proxy %h %p' pi@robot-7
  echo PING | muster proxy robot-7 6379")]
pub struct ProxyArgs {
    /// Name, serial number or uid
    #[arg(add = ArgValueCompleter::new(complete::devices))]
    pub device: String,
    /// The port
    #[arg(default_value_t = 22, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The host, as the device sees it; the device's policy decides
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Why, for the hub's records
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `muster forward`
#[derive(Debug, Args)]
#[command(after_help = "\
SPEC is
  PORT              the same port here and on the device
  LOCAL:PORT        another port here; 0 takes a free one and prints it
  LOCAL:HOST:PORT   a host that the device reaches and its policy allows
  LOCAL:/PATH       a Unix socket on the device

The forward ends when you press Ctrl-C, or when the session ends.

Examples:
  muster forward robot-7 8765                     Foxglove
  muster forward robot-7 8080:80 5900
  muster forward robot-7 8443:10.0.0.2:443        the camera beside the robot")]
pub struct ForwardArgs {
    /// Name, serial number or uid
    #[arg(add = ArgValueCompleter::new(complete::devices))]
    pub device: String,
    /// What to forward
    #[arg(value_name = "SPEC", required = true)]
    pub specs: Vec<String>,
    /// The address here to listen on
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub bind: IpAddr,
    /// Why, for the hub's records
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}
