//! `muster device`: everything about one device, and decisions about many.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_proto::api::{BulkAction, BulkRequest, Device, DeviceAdd, DeviceEdit};
use muster_proto::id::{ProjectId, Serial};
use serde_json::Value;

use super::bulk::Meant;
use super::decide::{Decision, decide};
use super::{bulk, history, policy};
use crate::client::query;
use crate::complete;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::devices::block;
use crate::output::time::now;

/// `muster device`
#[derive(Debug, Args)]
#[command(after_help = "\
A DEVICE is named by its name, its serial number, its uid, or by the pairing code that it shows.")]
pub struct DeviceArgs {
    #[command(subcommand)]
    command: DeviceCommand,
}

#[derive(Debug, Args)]
struct Which {
    /// Name, serial number, uid or pairing code
    #[arg(add = ArgValueCompleter::new(complete::devices))]
    device: String,
}

#[derive(Debug, Args)]
struct WhichOnes {
    /// Names, serial numbers, uids or pairing codes
    #[arg(value_name = "DEVICE", required_unless_present_any = ["filter", "all"], conflicts_with_all = ["filter", "all"], add = ArgValueCompleter::new(complete::devices))]
    devices: Vec<String>,
    /// All devices for which this is true, instead; see `muster help devices`
    #[arg(long, short, value_name = "FILTER", value_parser = bulk::filter)]
    filter: Option<String>,
    /// Every device of the organization, instead
    #[arg(long, conflicts_with = "filter")]
    all: bool,
}

impl WhichOnes {
    /// Which ones, unless they are named.
    fn meant(&self) -> Option<Meant> {
        Meant::given(self.filter.clone(), self.all)
    }
}

#[derive(Debug, Subcommand)]
enum DeviceCommand {
    /// Show a device: state, facts, newest usage
    #[command(after_help = "Examples:\n  muster device show robot-7\n  muster device show SN-0017 --json | jq .usage.values")]
    Show(Which),
    /// Enter a device that has no daemon; one that enrols later with this id takes the row over
    #[command(after_help = "\
Examples:
  muster device add CAM-0042 --name 'gate camera' --set site=berlin --label camera --into lab")]
    Add {
        /// Its serial number
        id: Serial,
        /// What to call it; the serial number by default
        #[arg(long)]
        name: Option<String>,
        /// A field's value, as KEY=VALUE; may be given several times
        #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
        set: Vec<(String, String)>,
        /// A label; may be given several times
        #[arg(long)]
        label: Vec<String>,
        /// Put it into this project; may be given several times
        #[arg(long, value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        into: Vec<ProjectId>,
    },
    /// Admit pending devices
    #[command(after_help = "\
Compare the pairing code with the one that the device shows (`musterd status`), so that it is the right device.

Examples:
  muster device admit ABCD-2345
  muster device admit SN-0017 --name robot-7 --into lab
  muster device admit --filter 'admission = pending and id ~ SN-2026'")]
    Admit {
        #[command(flatten)]
        which: WhichOnes,
        /// Put them into this project as well; may be given several times
        #[arg(long, value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        into: Vec<ProjectId>,
        /// Call it so; for one device only
        #[arg(long)]
        name: Option<String>,
        /// Do not ask, with --filter
        #[arg(long, short)]
        yes: bool,
    },
    /// Reject pending devices, or another key that asks to take a device over
    #[command(after_help = "Examples:\n  muster device reject ABCD-2345 --reason 'not ours'")]
    Reject {
        #[command(flatten)]
        which: WhichOnes,
        /// Why, for the records and for the device's journal
        #[arg(long)]
        reason: Option<String>,
        /// Do not ask, with --filter
        #[arg(long, short)]
        yes: bool,
    },
    /// Revoke admitted devices: their links and sessions end at once
    #[command(after_help = "Examples:\n  muster device revoke robot-7 --reason 'sold' --yes")]
    Revoke {
        #[command(flatten)]
        which: WhichOnes,
        /// Why, for the records and for the device's journal
        #[arg(long)]
        reason: Option<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Let a new key take a device's row over, with its name and projects
    #[command(after_help = "\
A device that enrols with a serial number that is listed with another key waits for this: a new disk, a reinstalled
system, or an attacker who copied the serial number. Compare the pairing code with the one that the device shows.

Examples:
  muster device replace robot-7")]
    Replace {
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Let devices renew their certificates now, as before the hub's MQTT address changes
    #[command(after_help = "\
Devices renew by themselves at two thirds of a certificate's life. With the new one they learn where MQTT is, so ask
before the old address goes away; the link that is up stays up, and the next one goes to the new address. A device that
is offline is asked when it is back, within a day.

Examples:
  muster device renew robot-7 robot-8")]
    Renew(WhichOnes),
    /// Change a device's name, fields, labels and projects, or those of many
    #[command(after_help = "\
With --filter one kind of change at once: fields and labels, or projects to join, or projects to leave.

Examples:
  muster device edit SN-0017 --name robot-7
  muster device edit robot-7 --set site=berlin --set rack=12 --label spare --unset keeper
  muster device edit robot-7 --add-project lab --remove-project staging
  muster device edit --filter 'site = berlin and stage = test' --set stage=live
  muster device edit --filter 'label = spare' --add-project yard --yes")]
    Edit {
        #[command(flatten)]
        which: OneOrMany,
        #[command(flatten)]
        changes: Changes,
        /// Do not ask, with --filter
        #[arg(long, short)]
        yes: bool,
    },
    /// Delete devices with their history
    #[command(after_help = "Examples:\n  muster device delete robot-7\n  muster device delete --filter 'admission = rejected' --yes")]
    Delete {
        #[command(flatten)]
        which: WhichOnes,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// When a device came and went, and why
    #[command(after_help = "Examples:\n  muster device history robot-7 --since 7d")]
    History(history::HistoryArgs),
    /// A device's resource usage over time
    #[command(after_help = "\
Columns: cpu, load1, mem, swap, uptime, disk:MOUNT, disk_read, disk_write, net_rx:IF, net_tx:IF, temp:SENSOR,
agent_cpu, agent_mem, and what the device adds itself. `all` shows every column; a name without its part, such as
net_rx, shows all that begin so.

Examples:
  muster device usage robot-7
  muster device usage robot-7 --since 24h --limit 1000 --columns cpu,temp --json")]
    Usage(history::UsageArgs),
    /// What a device's owner allows there: its policy file, as the device told it last
    #[command(after_help = "\
The file goes to standard output as the device has it, everything else to standard error. The device decides by its own
file, and the hub cannot change it. Some lines rest on the hub's word all the same: it says which account and role a
visitor has.

Examples:
  muster device policy robot-7
  muster device policy robot-7 --json | jq .rests_on_hub")]
    Policy(policy::PolicyArgs),
}

#[derive(Debug, Args)]
struct OneOrMany {
    /// Name, serial number, uid or pairing code
    #[arg(required_unless_present_any = ["filter", "all"], conflicts_with_all = ["filter", "all"], add = ArgValueCompleter::new(complete::devices))]
    device: Option<String>,
    /// All devices for which this is true, instead; see `muster help devices`
    #[arg(long, short, value_name = "FILTER", value_parser = bulk::filter)]
    filter: Option<String>,
    /// Every device of the organization, instead
    #[arg(long, conflicts_with = "filter")]
    all: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Changes {
    /// A new name
    #[arg(long)]
    name: Option<String>,
    /// Join this project; may be given several times
    #[arg(long, value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
    add_project: Vec<ProjectId>,
    /// Leave this project; may be given several times
    #[arg(long, value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
    remove_project: Vec<ProjectId>,
    /// Give a field a value, as KEY=VALUE; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    /// Empty a field; may be given several times
    #[arg(long, value_name = "KEY", add = ArgValueCompleter::new(complete::fields))]
    unset: Vec<String>,
    /// Give it a label; may be given several times
    #[arg(long)]
    label: Vec<String>,
    /// Take a label away; may be given several times
    #[arg(long, value_name = "LABEL")]
    unlabel: Vec<String>,
}

/// `KEY=VALUE`.
fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is KEY=VALUE, such as site=berlin")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

/// Texts as the hub takes them: it reads numbers and days from texts as well.
fn values(set: Vec<(String, String)>, unset: Vec<String>) -> BTreeMap<String, Value> {
    let given = set.into_iter().map(|(key, value)| (key, Value::String(value)));
    given.chain(unset.into_iter().map(|key| (key, Value::Null))).collect()
}

/// What an edit asks for, in words.
fn changed(edit: &DeviceEdit) -> String {
    let mut parts: Vec<String> = edit.name.iter().map(|name| format!("the name is now {name}")).collect();
    for (key, value) in &edit.fields {
        parts.push(match value {
            Value::Null => format!("{key} is now empty"),
            value => format!("{key} = {}", crate::output::columns::text(value)),
        });
    }
    parts.extend(edit.add_labels.iter().map(|label| format!("label {label} added")));
    parts.extend(edit.remove_labels.iter().map(|label| format!("label {label} removed")));
    parts.extend(edit.add_projects.iter().map(|project| format!("added to project {project}")));
    parts.extend(edit.remove_projects.iter().map(|project| format!("removed from project {project}")));
    parts.join(", ")
}

async fn edit_many(context: &Context, meant: Meant, changes: Changes, yes: bool) -> Result<u8, Failure> {
    if changes.name.is_some() {
        return Err(Failure::usage("--name is for one device, and a filter may match many"));
    }
    let fields = values(changes.set, changes.unset);
    let edits = !fields.is_empty() || !changes.label.is_empty() || !changes.unlabel.is_empty();
    let wanted = match (edits, changes.add_project.is_empty(), changes.remove_project.is_empty()) {
        (true, true, true) => {
            BulkRequest { fields, add_labels: changes.label, remove_labels: changes.unlabel, ..bulk::of(BulkAction::Edit, meant) }
        }
        (false, false, true) => BulkRequest { projects: changes.add_project, ..bulk::of(BulkAction::Assign, meant) },
        (false, true, false) => BulkRequest { projects: changes.remove_project, ..bulk::of(BulkAction::Unassign, meant) },
        _ => {
            return Err(Failure::usage("with --filter one kind of change at once")
                .hint("run it once for fields and labels, once for --add-project and once for --remove-project"));
        }
    };
    bulk::run(context, wanted, yes).await
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: DeviceArgs) -> Result<u8, Failure> {
    match args.command {
        DeviceCommand::Show(which) => {
            let device = context.device(&which.device).await?;
            context.out.show(&device, |device| block(device, now()))?;
            Ok(0)
        }
        DeviceCommand::Add { id, name, set, label, into } => {
            let wanted = DeviceAdd { id, name, fields: values(set, Vec::new()), labels: label, projects: into };
            let added: Device = context.hub().post(&context.org_path("/devices").await?, &wanted).await?;
            context.out.done(&added, format!("Entered {} (serial {}).", added.name, added.id))?;
            Ok(0)
        }
        DeviceCommand::Admit { which, into, name, yes } => match which.meant() {
            Some(_) if name.is_some() || !into.is_empty() => {
                Err(Failure::usage("--name and --into are for devices that are named, not for --filter and --all")
                    .hint("admit them, then: muster device edit --filter ... --add-project PROJECT"))
            }
            Some(meant) => bulk::run(context, bulk::of(BulkAction::Admit, meant), yes).await,
            None if name.is_some() && which.devices.len() > 1 => Err(Failure::usage("--name is for one device, and several are given")),
            None => decide(context, &which.devices, &Decision::Admit { projects: into, name }, true).await,
        },
        DeviceCommand::Reject { which, reason, yes } => match which.meant() {
            Some(meant) => bulk::run(context, BulkRequest { reason, ..bulk::of(BulkAction::Reject, meant) }, yes).await,
            None => decide(context, &which.devices, &Decision::Reject { reason }, true).await,
        },
        DeviceCommand::Revoke { which, reason, yes } => match which.meant() {
            Some(meant) => bulk::run(context, BulkRequest { reason, ..bulk::of(BulkAction::Revoke, meant) }, yes).await,
            None => decide(context, &which.devices, &Decision::Revoke { reason }, yes).await,
        },
        DeviceCommand::Replace { which, yes } => decide(context, &[which.device], &Decision::Replace, yes).await,
        DeviceCommand::Renew(which) => {
            let devices = match which.meant() {
                None => which.devices,
                Some(meant) => {
                    let filter = if let Meant::Matching(filter) = meant { format!("({filter}) and ") } else { String::new() };
                    let wanted = [("filter", Some(format!("{filter}admission = admitted")))];
                    let path = format!("{}{}", context.org_path("/devices").await?, query(wanted));
                    let found: Vec<Device> = context.hub().list(&path, None).await?;
                    found.into_iter().map(|device| device.uid.to_string()).collect()
                }
            };
            decide(context, &devices, &Decision::Renew, true).await
        }
        DeviceCommand::Delete { which, yes } => match which.meant() {
            Some(meant) => bulk::run(context, bulk::of(BulkAction::Delete, meant), yes).await,
            None => decide(context, &which.devices, &Decision::Delete, yes).await,
        },
        DeviceCommand::Edit { which, changes, yes } => {
            if let Some(meant) = Meant::given(which.filter, which.all) {
                return edit_many(context, meant, changes, yes).await;
            }
            let device = context.device(which.device.as_deref().unwrap_or_default()).await?;
            let edit = DeviceEdit {
                name: changes.name,
                add_projects: changes.add_project,
                remove_projects: changes.remove_project,
                fields: values(changes.set, changes.unset),
                add_labels: changes.label,
                remove_labels: changes.unlabel,
            };
            let said = changed(&edit);
            let edited: Device = context.hub().patch(&context.device_path(device.uid.as_str(), "").await?, &edit).await?;
            context.out.done(&edited, format!("Changed {} (serial {}): {said}.", device.name, edited.id))?;
            if edit.name.is_some() {
                super::decide::warn_of_twins(context, &edited).await?;
            }
            Ok(0)
        }
        DeviceCommand::History(args) => history::history(context, args).await,
        DeviceCommand::Usage(args) => history::usage(context, args).await,
        DeviceCommand::Policy(args) => policy::run(context, args).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_answered_with_what_it_changed() {
        let edit = DeviceEdit {
            name: Some("robot-7".into()),
            add_projects: vec!["lab".parse().unwrap()],
            remove_projects: vec!["yard".parse().unwrap()],
            fields: values(vec![("site".into(), "berlin".into())], vec!["keeper".into()]),
            add_labels: vec!["spare".into()],
            remove_labels: vec!["old".into()],
        };
        let want = "the name is now robot-7, keeper is now empty, site = berlin, label spare added, label old removed, \
                    added to project lab, removed from project yard";
        assert_eq!(changed(&edit), want);
    }
}
