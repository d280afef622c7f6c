//! `musterd sessions`, `musterd end`, `musterd sessiond`: what a person at the device sees and does about visitors.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use std::time::Duration;

use muster_link::{errln, out, outln};
use musterd::handoff::{Live, consent_dir};

use crate::config::Config;
use crate::daemon::wall_clock;
use crate::living;
use crate::status::span;

/// Longest wait for the answer to an approval.
const ANSWER: Duration = Duration::from_secs(2);

/// Prints what lives on this device.
pub(crate) fn list(config: &Config, json: bool) -> ExitCode {
    let mut all: Vec<Live> = living::ask_all(config).into_iter().map(|(live, _)| live).collect();
    all.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
    if json {
        outln!("{}", serde_json::json!(all));
    } else {
        out!("{}", table(&all, wall_clock()));
    }
    ExitCode::SUCCESS
}

fn table(all: &[Live], now: i64) -> String {
    if all.is_empty() {
        return "No remote sessions or runs on this device.\n".to_owned();
    }
    let mut rows = vec![["ID", "KIND", "WHO", "ROLE", "PROJECT", "USER", "FOR"].map(str::to_owned)];
    rows.extend(all.iter().map(|live| {
        let kind = match (live.name.starts_with('r'), live.lingers) {
            (true, _) => "run",
            (false, false) => "session",
            (false, true) => "lingers",
        };
        // What the hub says of a person must not write to the terminal's controls.
        let plain = |text: &str| text.chars().map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
        let become_user = live.become_user.as_deref().unwrap_or("-");
        [
            plain(&live.name),
            kind.to_owned(),
            plain(&live.user),
            plain(&live.role),
            plain(&live.project),
            plain(become_user),
            span(now - live.since),
        ]
    }));
    let widths: Vec<usize> = (0..7).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    let waiting: Vec<String> =
        all.iter().filter_map(|live| Some(format!("{} waits for you: musterd approve {}", live.name, live.waits.as_ref()?))).collect();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let _ = writeln!(out, "{}", cells.join("  ").trim_end());
    }
    for line in waiting {
        let _ = writeln!(out, "{line}");
    }
    out
}

/// Ends one, or all.
pub(crate) fn end(config: &Config, id: Option<&str>, reason: &str) -> ExitCode {
    let chosen: Vec<_> = living::sockets(config).into_iter().filter(|(name, _)| id.is_none_or(|id| id == name)).collect();
    if chosen.is_empty()
        && let Some(id) = id
    {
        errln!("musterd: there is no session or run {id} here, or you may not see it; `sudo musterd sessions` lists all");
        return ExitCode::FAILURE;
    }
    if chosen.is_empty() {
        outln!("Nothing to end.");
    }
    let mut failed = 0;
    for (name, path) in &chosen {
        match living::end(path, reason) {
            Ok(true) => outln!("{name}: told to end"),
            Ok(false) => {}
            Err(error) => {
                errln!("musterd: {name}: {error}; are you root?");
                failed += 1;
            }
        }
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says yes to a visitor, as a person at the device.
pub(crate) fn approve(config: &Config, code: &str) -> ExitCode {
    let plain: String = code.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_uppercase();
    let code = if plain.len() == 8 { format!("{}-{}", &plain[..4], &plain[4..]) } else { plain };
    let dirs = [consent_dir(&config.session_dir), consent_dir(&config.run_dir.join("sessions"))];
    let connected = dirs.iter().map(|dir| UnixStream::connect(dir.join(&code))).find(Result::is_ok);
    let Some(Ok(stream)) = connected else {
        errln!("musterd: nobody waits with the code {code}; `musterd sessions` shows who does");
        return ExitCode::FAILURE;
    };
    let mut answer = String::new();
    let said = stream
        .set_read_timeout(Some(ANSWER))
        // Who may not is answered before they have said anything.
        .map(|()| drop((&stream).write_all(b"approve\n")))
        .and_then(|()| BufReader::new((&stream).take(400)).read_line(&mut answer));
    match (said, answer.trim()) {
        (Ok(_), "ok") => {
            outln!("Approved.");
            ExitCode::SUCCESS
        }
        (Ok(_), why) if !why.is_empty() => {
            errln!("musterd: not approved: {why}");
            ExitCode::FAILURE
        }
        (Ok(_), _) => {
            errln!("musterd: not approved: the session ended meanwhile");
            ExitCode::FAILURE
        }
        (Err(error), _) => {
            errln!("musterd: not approved: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Becomes the service for sessions, for supervisors other than systemd.
pub(crate) fn sessiond(config: &Config) -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        errln!("musterd: the service for sessions becomes the users whom the policy names, so it runs as root");
        return ExitCode::FAILURE;
    }
    let error = match living::program() {
        Ok(program) => {
            let mut command = std::process::Command::new(program);
            command.arg("listen").arg("--policy").arg(&config.policy).arg("--anchor").arg(&config.anchor);
            command.arg("--run-dir").arg(&config.session_dir);
            command.exec()
        }
        Err(error) => error,
    };
    errln!("musterd: cannot start the service for sessions: {error}");
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lives_is_shown_harmlessly() {
        assert_eq!(table(&[], 0), "No remote sessions or runs on this device.\n");
        let live = Live {
            name: "saaaaaaaaaaaaaaa".into(),
            pid: 7,
            user: "ada\u{1b}[2J@example.com".into(),
            role: "connect".into(),
            project: "lab".into(),
            become_user: Some("pi".into()),
            since: 0,
            lingers: false,
            waits: Some("ABCD-2345".into()),
        };
        let text = table(&[live], 90_000);
        assert!(text.contains("saaaaaaaaaaaaaaa  session  ada?[2J@example.com  connect  lab      pi    90 s\n"), "{text}");
        assert!(text.ends_with("saaaaaaaaaaaaaaa waits for you: musterd approve ABCD-2345\n"), "{text}");
    }
}
