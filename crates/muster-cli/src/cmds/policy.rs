//! `muster device policy`: what a device's owner allows there, as the device told it last.

use std::collections::BTreeSet;

use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use muster_proto::Millis;
use muster_proto::api::{Device, DevicePolicy};
use serde::Serialize;
use toml::de::{DeTable, DeValue};

use crate::complete;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::note;
use crate::output::time::{local_ago, now};

/// `muster device policy`
#[derive(Debug, Args)]
pub struct PolicyArgs {
    /// Name, serial number, uid or pairing code
    #[arg(add = ArgValueCompleter::new(complete::devices))]
    device: String,
}

/// What a device told, and what in it rests on the hub's word.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    policy: DevicePolicy,
    /// Numbers of the lines, from 1.
    rests_on_hub: BTreeSet<usize>,
}

/// Shows it: the file on standard output, everything else beside it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: PolicyArgs) -> Result<u8, Failure> {
    let device = context.device(&args.device).await?;
    let policy: DevicePolicy = context.hub().get(&context.device_path(device.uid.as_str(), "/policy").await?).await?;
    let told = Told { rests_on_hub: policy.text.as_deref().map(resting_on_hub).unwrap_or_default(), policy };
    if context.out.json {
        context.out.json(&told)?;
        return Ok(0);
    }
    note(above(&told.policy, &device, now()));
    if let Some(text) = &told.policy.text {
        context.out.bytes(text.as_bytes())?;
        if !text.is_empty() && !text.ends_with('\n') {
            context.out.bytes(b"\n")?;
        }
        if !told.rests_on_hub.is_empty() {
            note(below(text, &told.rests_on_hub));
        }
    }
    Ok(0)
}

fn above(policy: &DevicePolicy, device: &Device, now: Millis) -> String {
    let mut said = format!("Policy of {} (serial {}), told {}.", device.name, device.id, local_ago(now, policy.told_at));
    if let Some(why) = policy.fault.as_ref().or(policy.code.as_ref()) {
        said.push_str(&format!("\nThe device refuses every session and run: {}.", why.trim_end_matches('.')));
    }
    if policy.own_user {
        said.push_str("\nSessions run as the daemon's own user: nothing stands between a visitor and the device's key.");
    }
    said
}

fn below(text: &str, lines: &BTreeSet<usize>) -> String {
    let mut said = "\nThese lines rest on the hub's word:".to_owned();
    for (number, line) in text.lines().enumerate().map(|(index, line)| (index + 1, line)).filter(|(number, _)| lines.contains(number)) {
        said.push_str(&format!("\n{number:>4}  {}", line.trim()));
    }
    said.push_str("\nThe hub says which account and role a visitor has; the device decides what they may do.");
    said
}

/// The lines of a policy that mean something only by what the hub says of a visitor.
fn resting_on_hub(text: &str) -> BTreeSet<usize> {
    let mut lines = BTreeSet::new();
    // A file that does not parse refuses everything, on nobody's word.
    if let Ok(table) = DeTable::parse(text) {
        gather(text, table.get_ref(), &mut Vec::new(), &mut lines);
    }
    lines
}

fn gather<'t>(text: &str, table: &'t DeTable<'_>, path: &mut Vec<&'t str>, lines: &mut BTreeSet<usize>) {
    for (key, value) in table {
        path.push(key.get_ref().as_ref());
        if rests_on_hub(path) {
            // A table's own header; what stands in it comes with its own keys.
            let end = if value.get_ref().is_table() { key.span().end } else { value.span().end };
            lines.extend(line_at(text, key.span().start)..=line_at(text, end.saturating_sub(1)));
        }
        if let DeValue::Table(inner) = value.get_ref() {
            gather(text, inner, path, lines);
        }
        path.pop();
    }
}

/// Whether a key is about accounts or roles.
fn rests_on_hub(path: &[&str]) -> bool {
    matches!(path, ["who", ..] | ["users", "roles" | "people", ..] | ["terminal" | "run", "roles"])
}

/// The number of the line, from 1, in which a byte stands.
fn line_at(text: &str, byte: usize) -> usize {
    text.bytes().take(byte).filter(|byte| *byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::devices::tests::device;
    use muster_proto::api::{Admission, PresenceState};

    #[test]
    fn says_when_it_was_told_and_what_is_wrong_with_it() {
        let robot = device("robot-7", Admission::Admitted, PresenceState::Online);
        let told = DevicePolicy { text: None, code: Some("policy_missing".into()), fault: None, own_user: false, t: 0, told_at: 1_000_000 };
        let said = above(&told, &robot, 1_180_000);
        assert!(said.starts_with("Policy of robot-7 (serial SN-0017), told ") && said.contains("(3 min ago).\n"), "{said}");
        assert!(said.ends_with("\nThe device refuses every session and run: policy_missing."), "{said}");
        let told = DevicePolicy { fault: Some("it is locked.".into()), own_user: true, ..told };
        let said = above(&told, &robot, 1_180_000);
        assert!(said.contains("every session and run: it is locked.\nSessions run as the daemon's own user:"), "{said}");
        let fine = DevicePolicy { code: None, fault: None, own_user: false, ..told };
        assert_eq!(above(&fine, &robot, 1_180_000).lines().count(), 1);
    }

    #[test]
    fn finds_what_rests_on_the_hubs_word_however_it_is_written() {
        let text = "\
own_user = false

[users]                # 3
default = \"pi\"
[users.roles]          # 5
admin = [
  \"root\",
  \"pi\",
]                      # 9
[users.people]
\"ada@example.com\" = \"ada\"

[terminal]
allow = true
roles = [\"connect\"]    # 15
[run]
commands = [[\"df\"]]
at_once = 2
[who]
# Comments are nobody's word.
roles = [\"admin\"]
[when]
windows = [\"mon-fri 06:00-18:00\"]
";
        assert_eq!(resting_on_hub(text).into_iter().collect::<Vec<_>>(), [5, 6, 7, 8, 9, 10, 11, 15, 19, 21]);
        let dotted = "who.users = []\nusers.default = \"pi\"\nusers.roles.admin = \"root\"\nrun = { allow = true, roles = [] }\n";
        assert_eq!(resting_on_hub(dotted).into_iter().collect::<Vec<_>>(), [1, 3, 4]);
        for none in ["", "[tcp]\nallow = []\n", "[who\nroles = []", "roles = []\n[unix]\nroles = 1\n"] {
            assert_eq!(resting_on_hub(none), BTreeSet::new(), "{none}");
        }
        let said = below(text, &BTreeSet::from([5, 15]));
        assert!(said.contains("\n   5  [users.roles] ") && said.ends_with("the device decides what they may do."), "{said}");
    }
}
