//! `muster ssh`: OpenSSH with `muster proxy` as its ProxyCommand. This process becomes it.
//!
//! It takes OpenSSH's own words (ssh(1)), so that programs such as rsync and git can call it in the place of `ssh`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use crate::cmds::remote::SshArgs;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::text::is_plain;
use crate::output::text::shell_word;

/// Runs it; returns only if OpenSSH could not be started.
///
/// # Errors
/// When the device is not known, or there is no OpenSSH, or a flag has no place here.
pub async fn ssh(ctx: &Context, args: SshArgs) -> Result<u8, Failure> {
    let line = Line::read(&args.words);
    for flag in &line.flags {
        if let Some(why) = unusable(flag) {
            return Err(Failure::usage(why));
        }
    }
    let Some(destination) = line.destination else {
        // `-V` and `-Q` ask about OpenSSH itself.
        if line.flags.iter().any(|flag| flag.letters.contains(['V', 'Q'])) {
            return Err(start(Command::new("ssh").args(&args.words)));
        }
        return Err(Failure::usage("name the device: muster ssh [USER@]DEVICE [COMMAND]"));
    };
    let place = Place::read(destination).map_err(Failure::usage)?;
    let port = match (args.port, place.port) {
        (Some(one), Some(other)) if one != other => {
            return Err(Failure::usage(format!("two different ports were given: {one} and {other}")));
        }
        (one, other) => one.or(other),
    };
    // The hub's own id of the device: a name may be given twice or begin with a dash, this cannot.
    let uid = ctx.device(place.device).await?.uid;
    ctx.org().await?;
    let program = std::env::current_exe()?;
    let program = program.to_str().ok_or_else(|| Failure::new(Exit::Failed, "the path of this program is not UTF-8"))?;
    let flags = ctx.proxy_flags();
    let proxy = proxy_command(program, &flags, uid.as_str(), args.reason.as_deref());
    let mut ssh = Command::new("ssh");
    // OpenSSH takes the first of each that it reads.
    ssh.arg("-o").arg(format!("ProxyCommand={proxy}"));
    ssh.arg("-o").arg(format!("HostKeyAlias=muster-{uid}"));
    // The address is the relay's business; only the key says who the device is.
    ssh.args(["-o", "CheckHostIP=no"]);
    if let Some(port) = port {
        ssh.arg("-p").arg(port.to_string());
    }
    ssh.args(line.flags.iter().flat_map(|flag| flag.words));
    if let Some(user) = place.user {
        ssh.arg("-l").arg(user);
    }
    ssh.arg("--").arg(uid.as_str()).args(line.command);
    if !flags.iter().any(|flag| flag == "--profile") {
        // Not in the arguments, where every user of this machine could read it.
        ssh.env("MUSTER_TOKEN", ctx.token());
    }
    Err(start(&mut ssh))
}

/// Becomes OpenSSH; comes back when that is not possible.
fn start(ssh: &mut Command) -> Failure {
    let error = ssh.exec();
    match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::new(Exit::Failed, "there is no `ssh` on this machine").hint("install OpenSSH's client, or use `muster shell`")
        }
        _ => Failure::new(Exit::Failed, format!("cannot start ssh: {error}")),
    }
}

/// A line for the shell that OpenSSH starts with `exec` before it (ssh_config(5)); `%` is OpenSSH's own.
fn proxy_command(program: &str, flags: &[String], uid: &str, reason: Option<&str>) -> String {
    let mut words = vec![program.to_owned()];
    words.extend(flags.iter().cloned());
    words.push("proxy".to_owned());
    words.extend(reason.iter().map(|reason| format!("--reason={reason}")));
    let words: Vec<String> = words.iter().map(|word| shell_word(word).replace('%', "%%")).collect();
    format!("{} {uid} %p", words.join(" "))
}

/// OpenSSH's flags that take a value in the next word (ssh(1)).
const WITH_VALUE: &str = "BbcDEeFIiJLlmOoPpQRSWw";

/// One or several flags in one word, with the value of the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Flag<'a> {
    /// As they were given.
    words: &'a [String],
    letters: &'a str,
    value: Option<&'a str>,
}

/// OpenSSH's command line: flags stand before the destination and behind it, up to the command.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    flags: Vec<Flag<'a>>,
    destination: Option<&'a str>,
    command: &'a [String],
}

impl<'a> Line<'a> {
    fn read(words: &'a [String]) -> Self {
        let mut flags = Vec::new();
        let (rest, ended) = take_flags(words, &mut flags);
        let Some((destination, rest)) = rest.split_first() else { return Self { flags, destination: None, command: rest } };
        let command = if ended { rest } else { take_flags(rest, &mut flags).0 };
        Self { flags, destination: Some(destination), command }
    }
}

/// Takes the flags off the front; what is left, and whether `--` ended them.
fn take_flags<'a>(mut words: &'a [String], flags: &mut Vec<Flag<'a>>) -> (&'a [String], bool) {
    while let Some(word) = words.first() {
        if word == "--" {
            return (&words[1..], true);
        }
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else { break };
        // `-vL 80:x:80`: the first letter that wants a value takes the rest of the word, or the next one.
        let (letters, value, count) = match letters.find(|letter| WITH_VALUE.contains(letter)) {
            None => (letters, None, 1),
            Some(at) if at + 1 < letters.len() => (&letters[..=at], Some(&letters[at + 1..]), 1),
            Some(_) => (letters, words.get(1).map(String::as_str), 2.min(words.len())),
        };
        flags.push(Flag { words: &words[..count], letters, value });
        words = &words[count..];
    }
    (words, false)
}

/// Why a flag has no place here.
fn unusable(flag: &Flag<'_>) -> Option<String> {
    let option = flag.value.filter(|_| flag.letters.ends_with('o')).unwrap_or_default();
    let name = option.split(['=', ' ']).next().unwrap_or_default();
    let what = match name {
        _ if flag.letters.ends_with('J') => "-J",
        _ if ["ProxyJump", "ProxyCommand", "ProxyUseFdpass"].iter().any(|own| own.eq_ignore_ascii_case(name)) => name,
        _ => return None,
    };
    Some(format!("{what} has no place here: `muster ssh` reaches the device through the hub"))
}

/// `[user@]device`, or `ssh://[user@]device[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    user: Option<&'a str>,
    device: &'a str,
    port: Option<u16>,
}

impl<'a> Place<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        let url = text.strip_prefix("ssh://");
        let rest = url.map_or(text, |rest| rest.trim_end_matches('/'));
        let (user, rest) = rest.rsplit_once('@').map_or((None, rest), |(user, device)| (Some(user), device));
        let (device, port) = match url.and_then(|_| rest.rsplit_once(':')) {
            Some((device, port)) => {
                let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("{text:?}: the port is not 1 to 65535"))?;
                (device, Some(port))
            }
            None => (rest, None),
        };
        if let Some(user) = user.filter(|user| !is_plain(user)) {
            return Err(format!("{user:?} cannot be a user's name for OpenSSH"));
        }
        if device.is_empty() {
            return Err(format!("{text:?} names no device"));
        }
        Ok(Self { user, device, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn opensshs_words_are_told_apart() {
        for (line, flags, destination, command) in [
            ("robot", 0, "robot", ""),
            ("robot uptime -p", 0, "robot", "uptime -p"),
            ("-v robot uptime -p", 1, "robot", "uptime -p"),
            ("-l pi robot rsync --server -vlogDtpre.iLsfxC . /x", 1, "robot", "rsync --server -vlogDtpre.iLsfxC . /x"),
            ("-N -L 80:localhost:80 pi@robot", 2, "pi@robot", ""),
            ("pi@robot -vL 80:localhost:80 -N", 2, "pi@robot", ""),
            ("-p 2222 robot -t htop", 2, "robot", "htop"),
            ("-p2222 -oBatchMode=yes robot", 2, "robot", ""),
            ("-o BatchMode=yes -tt -- robot -v", 2, "robot", "-v"),
            ("robot -- -x", 0, "robot", "-x"),
        ] {
            let words = words(line);
            let read = Line::read(&words);
            assert_eq!(
                (read.flags.len(), read.destination, read.command.join(" ").as_str()),
                (flags, Some(destination), command),
                "{line}"
            );
        }
        for line in ["", "-V", "-Q cipher", "-l", "-v -i"] {
            assert_eq!(Line::read(&words(line)).destination, None, "{line}");
        }
    }

    #[test]
    fn a_jump_host_is_refused() {
        for (line, refused) in [
            ("-J bastion robot", true),
            ("-vJ bastion robot", true),
            ("-o ProxyJump=bastion robot", true),
            ("-oproxycommand=nc robot", true),
            ("-o ProxyCommand none robot", true),
            ("-o Port=22 -i key robot", false),
            ("-D 1080 -R 80:x:80 -A -q -T -X robot", false),
        ] {
            let words = words(line);
            assert_eq!(Line::read(&words).flags.iter().any(|flag| unusable(flag).is_some()), refused, "{line}");
        }
    }

    #[test]
    fn destinations() {
        let place = |user, device, port| Ok(Place { user, device, port });
        assert_eq!(Place::read("robot"), place(None, "robot", None));
        assert_eq!(Place::read("pi@robot"), place(Some("pi"), "robot", None));
        assert_eq!(Place::read("ssh://pi@robot:2222"), place(Some("pi"), "robot", Some(2222)));
        assert_eq!(Place::read("ssh://robot/"), place(None, "robot", None));
        for bad in ["", "pi@", "-x@robot", "a b@robot", "ssh://robot:0", "ssh://robot:x"] {
            assert!(Place::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_proxy_command_survives_a_shell_and_opensshs_percent() {
        let line = proxy_command("/opt/my tools/muster", &["--profile".into(), "50%".into()], "dabc", Some("it's me"));
        assert_eq!(line, r"'/opt/my tools/muster' --profile '50%%' proxy '--reason=it'\''s me' dabc %p");
    }
}
