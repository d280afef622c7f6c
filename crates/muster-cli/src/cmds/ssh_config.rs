//! `muster ssh-config`: Host blocks, so that plain OpenSSH tools know the devices by name.
//!
//! A device's name may be chosen on the device. Only names that neither OpenSSH nor a shell interprets become a `Host`;
//! the command line in the block names the device by its uid, which only the hub makes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use muster_proto::api::{Admission, Device};

use crate::cli::Globals;
use crate::complete;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::note;
use crate::output::text::{is_plain, shell_word};

/// `muster ssh-config`
#[derive(Debug, Args)]
#[command(after_help = "\
Afterwards ssh, scp, sftp, rsync, git and editors reach the devices by name. Run it again when devices were added.
The login in use stands in the blocks by its name, never by its token; with MUSTER_TOKEN, keep that in the environment.

Examples:
  muster ssh-config --write ~/.ssh/muster.conf --user pi
  muster ssh-config robot-7 >> ~/.ssh/config
  rsync -a robot-7:/var/log/ logs/")]
pub struct SshConfigArgs {
    /// Only these devices; all admitted ones by default
    #[arg(value_name = "DEVICE", add = ArgValueCompleter::new(complete::devices))]
    devices: Vec<String>,
    /// Write to this file instead of standard output; it is replaced
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// The user to log in as on the devices
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Put this before each name, such as acme-
    #[arg(long, value_name = "TEXT", default_value = "")]
    prefix: String,
}

/// Runs it.
///
/// # Errors
/// As every call; or when the file cannot be written.
pub async fn run(context: &Context, globals: &Globals, args: &SshConfigArgs) -> Result<u8, Failure> {
    if let Some(user) = &args.user
        && !is_plain(user)
    {
        return Err(Failure::usage(format!("{user:?} cannot stand in OpenSSH's configuration as a user name")));
    }
    if !args.prefix.is_empty() && !is_plain(&args.prefix) {
        return Err(Failure::usage(format!("{:?} cannot stand before a host name", args.prefix)));
    }
    let mut devices = Vec::new();
    if args.devices.is_empty() {
        devices = context.devices().await?;
        devices.retain(|device| device.admission == Admission::Admitted);
        if globals.project_on_line {
            let project = globals.project()?;
            devices.retain(|device| device.projects.iter().any(|joined| Some(joined) == project.as_ref()));
        }
    }
    for name in &args.devices {
        devices.push(context.device(name).await?);
    }
    if devices.is_empty() {
        return Err(Failure::new(Exit::NotFound, "no admitted devices").hint("`muster devices` shows those that wait"));
    }
    context.org().await?;
    let program = std::env::current_exe().ok().and_then(|path| path.to_str().map(str::to_owned)).unwrap_or_else(|| "muster".to_owned());
    let flags = context.proxy_flags();
    let text = blocks(&devices, &program, &flags, args.user.as_deref(), &args.prefix);
    let Some(path) = &args.write else {
        context.out.raw(&text)?;
        return Ok(0);
    };
    write(path, &text).map_err(|error| Failure::new(Exit::Failed, format!("cannot write {}: {error}", path.display())))?;
    context.out.line(format!("Wrote {} devices to {}.", devices.len(), path.display()))?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    if !is_included(&absolute) {
        note(format!("Put this line at the top of ~/.ssh/config, once:\n\n  Include {}\n", quoted(&absolute.to_string_lossy())));
    }
    Ok(0)
}

fn blocks(devices: &[Device], program: &str, flags: &[String], user: Option<&str>, prefix: &str) -> String {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for device in devices {
        *count.entry(device.name.as_str()).or_default() += 1;
    }
    let mut text = "# Written by `muster ssh-config`; run it again when devices were added.\n".to_owned();
    for device in devices {
        let uid = device.uid.as_str();
        let usable = is_plain(&device.name) && count[device.name.as_str()] == 1 && device.name != uid;
        let names = if usable { format!("{prefix}{} {uid}", device.name) } else { uid.to_owned() };
        let note = if usable { String::new() } else { format!("# {}\n", crate::output::text::clean(&device.name)) };
        // OpenSSH expands % in the command and gives the rest to a shell.
        let command: Vec<String> =
            std::iter::once(program).chain(flags.iter().map(String::as_str)).map(|word| shell_word(word).replace('%', "%%")).collect();
        text.push_str(&format!("\n{note}Host {names}\n    HostName {uid}\n    HostKeyAlias muster-{uid}\n"));
        if let Some(user) = user {
            text.push_str(&format!("    User {user}\n"));
        }
        text.push_str(&format!("    ProxyCommand {} proxy {uid} %p\n", command.join(" ")));
    }
    text
}

/// A word of OpenSSH's configuration.
fn quoted(word: &str) -> String {
    if word.contains(' ') { format!("\"{word}\"") } else { word.to_owned() }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let written = (|| {
        // OpenSSH refuses a configuration that others may write.
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    if written.is_err() {
        drop(fs::remove_file(&draft));
    }
    written
}

/// Whether `~/.ssh/config` is this file or names it. A pattern may name it too: then the hint is only superfluous.
fn is_included(path: &Path) -> bool {
    let Some(home) = std::env::var_os("HOME").map(PathBuf::from) else { return false };
    let ssh = home.join(".ssh");
    let config = ssh.join("config");
    let Ok(text) = fs::read_to_string(&config) else { return path == config };
    path == config
        || text.lines().map(str::trim).filter(|line| line.to_ascii_lowercase().starts_with("include")).any(|line| {
            line.split_whitespace().skip(1).map(|word| word.trim_matches('"')).any(|word| {
                let named = word.strip_prefix("~/").map_or_else(|| ssh.join(word), |below| home.join(below));
                named == path
            })
        })
}

#[cfg(test)]
mod tests {
    use muster_proto::api::PresenceState;

    use super::*;
    use crate::output::devices::tests::device;

    #[test]
    fn a_block() {
        let robot = device("robot-7", Admission::Admitted, PresenceState::Online);
        let flags = ["--profile".to_owned(), "my lab".to_owned(), "--org".to_owned(), "acme".to_owned()];
        assert_eq!(
            blocks(&[robot], "/opt/100%/muster", &flags, Some("pi"), "acme-"),
            "\
# Written by `muster ssh-config`; run it again when devices were added.

Host acme-robot-7 d2345abcdefghijk
    HostName d2345abcdefghijk
    HostKeyAlias muster-d2345abcdefghijk
    User pi
    ProxyCommand '/opt/100%%/muster' --profile 'my lab' --org acme proxy d2345abcdefghijk %p
"
        );
    }

    #[test]
    fn hostile_and_shared_names_do_not_become_hosts() {
        for name in ["*", "a b", "x\nProxyCommand reboot", "$(reboot)", "-oX", "!a"] {
            let text = blocks(&[device(name, Admission::Admitted, PresenceState::Online)], "muster", &[], None, "");
            assert!(text.contains("\nHost d2345abcdefghijk\n"), "{text}");
            assert_eq!(text.lines().filter(|line| line.trim_start().starts_with("ProxyCommand")).count(), 1, "{text}");
        }
        let twins =
            [device("twin", Admission::Admitted, PresenceState::Online), device("twin", Admission::Admitted, PresenceState::Online)];
        assert!(!blocks(&twins, "muster", &[], None, "").contains("Host twin"));
    }

    #[test]
    fn written_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("muster.conf");
        for text in ["one", "two"] {
            write(&path, text).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
