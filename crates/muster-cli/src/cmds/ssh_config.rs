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

use super::sheet::count;
use crate::cli::Globals;
use crate::complete;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::note;
use crate::output::text::{is_plain, shell_word};

/// Around what we write.
const BEGIN: &str = "# >>> muster ssh-config >>>";
const END: &str = "# <<< muster ssh-config <<<";
const HEAD: &str = "# Written by `muster ssh-config`; run it again when devices were added.";

/// `muster ssh-config`
#[derive(Debug, Args)]
#[command(after_help = "\
Afterwards ssh, scp, sftp, rsync, git and editors reach the devices by name. Run it again when devices were added.
--write keeps what else stands in the file: it replaces its own section, or puts it at the top.
The login in use stands in the blocks by its name, never by its token; with MUSTER_TOKEN, keep that in the environment.

Examples:
  muster ssh-config --write ~/.ssh/config --user pi
  muster ssh-config robot-7
  rsync -a robot-7:/var/log/ logs/")]
pub struct SshConfigArgs {
    /// Only these devices; all admitted ones by default
    #[arg(value_name = "DEVICE", add = ArgValueCompleter::new(complete::devices))]
    devices: Vec<String>,
    /// Write to this file instead of standard output; everything else in it stays
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// The user to log in as on the devices
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The port of the devices' sshd; OpenSSH's default is 22
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
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
    let text = blocks(&devices, &program, &flags, &Login { user: args.user.as_deref(), port: args.port }, &args.prefix);
    if !context.is_saved() {
        note("These blocks hold no login: ssh needs MUSTER_TOKEN in its environment. `muster login` saves a login that they can name.");
    }
    let Some(path) = &args.write else {
        if let Some(file) = appended_to(std::io::stdout())
            && section(&file).is_some()
        {
            let message = "the file already holds a section of `muster ssh-config`; a second one would have no effect";
            return Err(Failure::new(Exit::Failed, message).hint("replace it with `muster ssh-config --write FILE`"));
        }
        context.out.raw(&text)?;
        return Ok(0);
    };
    let failed = |error: std::io::Error| Failure::new(Exit::Failed, format!("cannot write {}: {error}", path.display()));
    // A link stays one: the file that it leads to is written.
    let file = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
    let before = match fs::read_to_string(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.map_err(failed)?,
    };
    write(&file, &merged(&before, &text)).map_err(failed)?;
    context.out.line(format!("Wrote {} to {}.", count(devices.len() as u64, "device"), path.display()))?;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
    if !is_included(&absolute) {
        note(format!("Put this line at the top of ~/.ssh/config, once:\n\n  Include {}\n", quoted(&absolute.to_string_lossy())));
    }
    Ok(0)
}

/// What a block says of the login on the device.
#[derive(Debug, Clone, Copy, Default)]
struct Login<'a> {
    user: Option<&'a str>,
    port: Option<u16>,
}

fn blocks(devices: &[Device], program: &str, flags: &[String], login: &Login<'_>, prefix: &str) -> String {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for device in devices {
        *count.entry(device.name.as_str()).or_default() += 1;
    }
    let mut text = format!("{BEGIN}\n{HEAD}\n");
    for device in devices {
        let uid = device.uid.as_str();
        let usable = is_plain(&device.name) && count[device.name.as_str()] == 1 && device.name != uid;
        let names = if usable { format!("{prefix}{} {uid}", device.name) } else { uid.to_owned() };
        let note = if usable { String::new() } else { format!("# {}\n", crate::output::text::clean(&device.name)) };
        // OpenSSH expands % in the command and gives the rest to a shell.
        let command: Vec<String> =
            std::iter::once(program).chain(flags.iter().map(String::as_str)).map(|word| shell_word(word).replace('%', "%%")).collect();
        text.push_str(&format!("\n{note}Host {names}\n    HostName {uid}\n    HostKeyAlias muster-{uid}\n"));
        if let Some(user) = login.user {
            text.push_str(&format!("    User {user}\n"));
        }
        if let Some(port) = login.port {
            text.push_str(&format!("    Port {port}\n"));
        }
        text.push_str(&format!("    ProxyCommand {} proxy {uid} %p\n", command.join(" ")));
    }
    // What stands below belongs to all hosts again, and not to the last block.
    text.push_str(&format!("\nMatch all\n{END}\n"));
    text
}

/// Where our section stands in a file.
fn section(file: &str) -> Option<std::ops::Range<usize>> {
    let begin = line_at(file, BEGIN)?;
    let end = begin + line_at(&file[begin..], END)? + END.len();
    Some(begin..end + usize::from(file[end..].starts_with('\n')))
}

/// Where a line begins that is just this text.
fn line_at(file: &str, text: &str) -> Option<usize> {
    let mut at = 0;
    file.split_inclusive('\n').find_map(|line| {
        let here = at;
        at += line.len();
        (line.trim_end() == text).then_some(here)
    })
}

/// The file with our section in it, once.
fn merged(before: &str, text: &str) -> String {
    match section(before) {
        Some(place) => format!("{}{text}{}", &before[..place.start], &before[place.end..]),
        // Written as a whole, before there were sections.
        None if before.starts_with(HEAD) => text.to_owned(),
        None if before.is_empty() => text.to_owned(),
        // At the top: OpenSSH takes the first value that it finds, also below `Host *`.
        None => format!("{text}\n{before}"),
    }
}

/// What a file holds to whose end standard output is appended, as with `>> ~/.ssh/config`.
fn appended_to(output: impl std::os::fd::AsFd) -> Option<String> {
    let flags = rustix::fs::fcntl_getfl(&output).ok()?;
    let file = fs::File::from(output.as_fd().try_clone_to_owned().ok()?);
    if !flags.contains(rustix::fs::OFlags::APPEND) || !file.metadata().ok()?.is_file() {
        return None;
    }
    use std::os::fd::AsRawFd as _;
    fs::read_to_string(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
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
            blocks(&[robot], "/opt/100%/muster", &flags, &Login { user: Some("pi"), port: Some(2222) }, "acme-"),
            "\
# >>> muster ssh-config >>>
# Written by `muster ssh-config`; run it again when devices were added.

Host acme-robot-7 d2345abcdefghijk
    HostName d2345abcdefghijk
    HostKeyAlias muster-d2345abcdefghijk
    User pi
    Port 2222
    ProxyCommand '/opt/100%%/muster' --profile 'my lab' --org acme proxy d2345abcdefghijk %p

Match all
# <<< muster ssh-config <<<
"
        );
    }

    #[test]
    fn a_file_keeps_what_is_not_ours_and_never_doubles() {
        let text =
            |prefix| blocks(&[device("robot-7", Admission::Admitted, PresenceState::Online)], "muster", &[], &Login::default(), prefix);
        let own = "Compression yes\nHost *\n    User me\n";
        let once = merged(own, &text(""));
        assert!(once.starts_with(BEGIN) && once.ends_with(own), "{once}");
        assert_eq!(merged(&once, &text("")), once);
        let again = merged(&format!("# mine\n{once}"), &text("acme-"));
        assert!(again.starts_with("# mine\n# >>>") && again.ends_with(own) && again.contains("Host acme-robot-7 "), "{again}");
        assert_eq!(again.matches(BEGIN).count(), 1);
        assert_eq!(merged("", &text("")), text(""));
        assert_eq!(merged(&format!("{HEAD}\n\nHost old\n"), &text("")), text(""), "a file of an earlier version");
        // A begin without an end is somebody's own text.
        assert!(merged(&format!("{BEGIN}\nHost x\n"), &text("")).ends_with("Host x\n"));
    }

    #[test]
    fn appending_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        fs::write(&path, "Host *\n").unwrap();
        let open = |append| fs::File::options().append(append).write(true).open(&path).unwrap();
        assert_eq!(appended_to(open(true)).as_deref(), Some("Host *\n"));
        assert_eq!(appended_to(open(false)), None);
        assert_eq!(appended_to(std::io::pipe().unwrap().1), None);
    }

    #[test]
    fn hostile_and_shared_names_do_not_become_hosts() {
        for name in ["*", "a b", "x\nProxyCommand reboot", "$(reboot)", "-oX", "!a"] {
            let text = blocks(&[device(name, Admission::Admitted, PresenceState::Online)], "muster", &[], &Login::default(), "");
            assert!(text.contains("\nHost d2345abcdefghijk\n"), "{text}");
            assert_eq!(text.lines().filter(|line| line.trim_start().starts_with("ProxyCommand")).count(), 1, "{text}");
        }
        let twins =
            [device("twin", Admission::Admitted, PresenceState::Online), device("twin", Admission::Admitted, PresenceState::Online)];
        assert!(!blocks(&twins, "muster", &[], &Login::default(), "").contains("Host twin"));
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
