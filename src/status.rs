//! `musterd status`: asks the daemon over its control socket and says in sentences how it is.

use std::fmt::Write;
use std::process::ExitCode;

use muster_link::{errln, out, outln};
use muster_proto::Millis;

use crate::config::Config;
use crate::control::{Ask, Status, ask};
use crate::daemon::{LinkStatus, wall_clock};

/// Prints the status. The exit code is 0 when the device is online.
pub(crate) fn run(config: &Config, json: bool) -> ExitCode {
    let reply = match ask(&config.control_socket(), &Ask::Status) {
        Ok(reply) => reply,
        Err(error) => {
            let socket = config.control_socket();
            if json {
                outln!("{}", serde_json::json!({"running": false, "error": error.to_string()}));
            } else {
                outln!("musterd does not run, or not with this configuration: {}: {error}.", socket.display());
            }
            return ExitCode::FAILURE;
        }
    };
    match serde_json::from_str::<Status>(&reply) {
        Ok(status) if json => {
            out!("{reply}");
            exit_code(&status)
        }
        Ok(status) => {
            out!("{}", sentences(&status, wall_clock()));
            exit_code(&status)
        }
        Err(error) => {
            errln!("musterd: the daemon answered something else than a status ({error}): is it of another version?");
            ExitCode::FAILURE
        }
    }
}

fn exit_code(status: &Status) -> ExitCode {
    if matches!(status.link, LinkStatus::Online { .. }) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn sentences(status: &Status, now: Millis) -> String {
    let mut out = String::new();
    let name = status.name.as_deref().unwrap_or("this device");
    let org = status.org.as_ref().map_or("its organization", |org| org.as_str());
    let mut say = |text: std::fmt::Arguments<'_>| {
        let _ = writeln!(out, "{text}");
    };
    match &status.link {
        LinkStatus::Online { url, since, .. } => say(format_args!("{name} of {org} is online at {url} for {}.", span(now - since))),
        LinkStatus::Connecting { url } => say(format_args!("{name} is connecting to {url}.")),
        LinkStatus::Waiting { why, retry_at } => {
            say(format_args!("{name} is offline: {why}. Next try in {}. `musterd doctor` looks closer.", span(retry_at - now)));
        }
        LinkStatus::NotEnrolled => say(format_args!("This device is not enrolled: run `musterd enrol URL TOKEN`.")),
        LinkStatus::Pending { pairing_code, why } => {
            say(format_args!("The enrolment waits for a person; pairing code {pairing_code}. {why}"));
        }
        LinkStatus::Revoked { why } => say(format_args!("{name} does not belong to {org} now: {}.", why.trim_end_matches('.'))),
    }
    match status.spooled {
        0 => say(format_args!("No samples wait.")),
        1 => say(format_args!("1 sample waits for the hub.")),
        n => say(format_args!("{n} samples wait for the hub.")),
    }
    if status.samples_held {
        say(format_args!(
            "Samples are held here because the storage of {org} is full; all else goes on. An owner sees it with `muster limit`."
        ));
    }
    if let Some(fault) = &status.spool_fault {
        say(format_args!("The spool is in trouble: {fault}."));
    }
    if let Some(fault) = &status.policy_fault {
        say(format_args!("Every session is refused: {fault}."));
    }
    if let Some(expires) = status.certificate_expires_at.filter(|expires| expires - now < 15 * 86_400_000) {
        if expires < now {
            say(format_args!("Its certificate has expired: enrol again."));
        } else {
            say(format_args!("Its certificate ends in {} and could not be renewed yet.", span(expires - now)));
        }
    }
    for session in &status.sessions {
        say(format_args!("Session {} of {} in {} for {}.", session.session, session.user, session.project, span(now - session.since)));
    }
    for run in &status.runs {
        say(format_args!("Run {} of {} in {} for {}: {}", run.run, run.user, run.project, span(now - run.since), run.command));
    }
    out
}

/// `3 s`, `5 min`, `7 h`, `12 d`.
pub(crate) fn span(millis: Millis) -> String {
    let seconds = millis.max(0) / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_say_what_to_do() {
        let mut status = Status {
            version: "0".into(),
            boot: "0123456789abcdef".into(),
            pid: 1,
            hub: None,
            org: Some("acme".parse().unwrap()),
            uid: None,
            name: Some("robot-7".into()),
            link: LinkStatus::Online { url: "mqtts://hub:8883/".into(), since: 0, link: 1 },
            certificate_expires_at: None,
            last_sample: None,
            spooled: 0,
            spool_fault: None,
            samples_held: false,
            policy_fault: None,
            sessions: Vec::new(),
            runs: Vec::new(),
        };
        assert_eq!(sentences(&status, 300_000), "robot-7 of acme is online at mqtts://hub:8883/ for 5 min.\nNo samples wait.\n");
        status.link = LinkStatus::NotEnrolled;
        status.spooled = 2;
        status.policy_fault = Some("the policy x has mistakes".into());
        status.samples_held = true;
        let text = sentences(&status, 0);
        assert!(text.contains("held here because the storage of acme is full"), "{text}");
        assert!(text.contains("musterd enrol URL TOKEN") && text.contains("2 samples wait") && text.contains("Every session is refused"));
        status.link = LinkStatus::Revoked { why: "revoked by an owner of acme: sold".into() };
        let text = sentences(&status, 0);
        assert!(text.starts_with("robot-7 does not belong to acme now: revoked by an owner of acme: sold.\n"), "{text}");
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
