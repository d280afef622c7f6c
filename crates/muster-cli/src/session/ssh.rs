//! `muster ssh`: OpenSSH with `muster proxy` as its ProxyCommand. This process becomes it.

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
/// When the device is not known or there is no OpenSSH.
pub async fn ssh(ctx: &Context, args: SshArgs) -> Result<u8, Failure> {
    let (user, device) = match args.destination.rsplit_once('@') {
        Some((user, device)) => (Some(user), device),
        None => (None, args.destination.as_str()),
    };
    if let Some(user) = user
        && !is_plain(user)
    {
        return Err(Failure::usage(format!("{user:?} cannot be a user's name for OpenSSH")));
    }
    // The hub's own id of the device: a name may be given twice or begin with a dash, this cannot.
    let uid = ctx.device(device).await?.uid;
    ctx.org().await?;
    let program = std::env::current_exe()?;
    let program = program.to_str().ok_or_else(|| Failure::new(Exit::Failed, "the path of this program is not UTF-8"))?;
    let flags = ctx.proxy_flags();
    let proxy = proxy_command(program, &flags, uid.as_str(), args.reason.as_deref());
    let mut ssh = Command::new("ssh");
    ssh.arg("-o").arg(format!("ProxyCommand={proxy}"));
    ssh.arg("-o").arg(format!("HostKeyAlias=muster-{uid}"));
    // The address is the relay's business; only the key says who the device is.
    ssh.args(["-o", "CheckHostIP=no"]);
    ssh.arg("-p").arg(args.port.to_string());
    if let Some(user) = user {
        ssh.arg("-l").arg(user);
    }
    // Flags stand before the host for OpenSSH, or it takes them for the command.
    let (theirs, command) = split_flags(&args.args);
    ssh.args(theirs).arg(uid.as_str()).args(command);
    if !flags.iter().any(|flag| flag == "--profile") {
        // Not in the arguments, where every user of this machine could read it.
        ssh.env("MUSTER_TOKEN", ctx.token());
    }
    let error = ssh.exec();
    Err(match error.kind() {
        std::io::ErrorKind::NotFound => {
            Failure::new(Exit::Failed, "there is no `ssh` on this machine").hint("install OpenSSH's client, or use `muster shell`")
        }
        _ => Failure::new(Exit::Failed, format!("cannot start ssh: {error}")),
    })
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

/// Splits words into OpenSSH's flags with their values, and the command.
fn split_flags(words: &[String]) -> (&[String], &[String]) {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        if word == "--" {
            return (&words[..at], &words[at + 1..]);
        }
        let Some(letters) = word.strip_prefix('-').filter(|letters| !letters.is_empty()) else { break };
        // `-vL 80:x:80`: the first letter that wants a value takes the rest of the word, or the next one.
        let wants = letters.find(|letter| WITH_VALUE.contains(letter));
        at += if wants.is_some_and(|place| place + 1 == letters.len()) { 2 } else { 1 };
    }
    words.split_at(at.min(words.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_told_from_the_command() {
        for (line, flags) in [
            ("", 0),
            ("uptime -p", 0),
            ("-v uptime -p", 1),
            ("-L 80:localhost:80 -N", 3),
            ("-vL 80:localhost:80 -N", 3),
            ("-L80:localhost:80 ls", 1),
            ("-o BatchMode=yes -tt htop", 3),
            ("-i", 1),
        ] {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(split_flags(&words).0.len(), flags, "{line}");
        }
        let words = ["-v", "--", "-x"].map(str::to_owned);
        assert_eq!(split_flags(&words), (&words[..1], &words[2..]));
    }

    #[test]
    fn the_proxy_command_survives_a_shell_and_opensshs_percent() {
        let line = proxy_command("/opt/my tools/muster", &["--profile".into(), "50%".into()], "dabc", Some("it's me"));
        assert_eq!(line, r"'/opt/my tools/muster' --profile '50%%' proxy '--reason=it'\''s me' dabc %p");
    }
}
