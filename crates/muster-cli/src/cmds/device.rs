//! `muster device`: everything about one device, and decisions about many.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_proto::api::{Device, DeviceEdit};
use muster_proto::id::ProjectId;

use super::decide::{Decision, decide};
use super::history;
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
    #[arg(value_name = "DEVICE", required = true, add = ArgValueCompleter::new(complete::devices))]
    devices: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum DeviceCommand {
    /// Show a device: state, facts, newest usage
    #[command(after_help = "Examples:\n  muster device show robot-7\n  muster device show SN-0017 --json | jq .usage.values")]
    Show(Which),
    /// Admit pending devices
    #[command(after_help = "\
Compare the pairing code with the one that the device shows (`musterd status`), so that it is the right device.

Examples:
  muster device admit ABCD-2345
  muster device admit SN-0017 --name robot-7 --into lab")]
    Admit {
        #[command(flatten)]
        which: WhichOnes,
        /// Put them into this project as well; may be given several times
        #[arg(long, value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        into: Vec<ProjectId>,
        /// Call it so; for one device only
        #[arg(long)]
        name: Option<String>,
    },
    /// Reject pending devices, or another key that asks to take a device over
    Reject {
        #[command(flatten)]
        which: WhichOnes,
        /// Why, for the records and for the device's journal
        #[arg(long)]
        reason: Option<String>,
    },
    /// Revoke admitted devices: link and sessions end at once, the key never works again
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
system, or somebody who copied the serial number. Compare the pairing code with the one that the device shows.

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
    /// Change a device's name and projects
    #[command(after_help = "\
Examples:
  muster device edit SN-0017 --name robot-7
  muster device edit robot-7 --add-project lab --remove-project staging")]
    Edit {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        changes: Changes,
    },
    /// Delete devices with their history
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
        DeviceCommand::Admit { which, into, name } => {
            if name.is_some() && which.devices.len() > 1 {
                return Err(Failure::usage("--name is for one device, and several are given"));
            }
            decide(context, &which.devices, &Decision::Admit { projects: into, name }, true).await
        }
        DeviceCommand::Reject { which, reason } => decide(context, &which.devices, &Decision::Reject { reason }, true).await,
        DeviceCommand::Revoke { which, reason, yes } => decide(context, &which.devices, &Decision::Revoke { reason }, yes).await,
        DeviceCommand::Replace { which, yes } => decide(context, &[which.device], &Decision::Replace, yes).await,
        DeviceCommand::Renew(which) => decide(context, &which.devices, &Decision::Renew, true).await,
        DeviceCommand::Delete { which, yes } => decide(context, &which.devices, &Decision::Delete, yes).await,
        DeviceCommand::Edit { which, changes } => {
            let device = context.device(&which.device).await?;
            let edit = DeviceEdit {
                name: changes.name,
                add_projects: changes.add_project,
                remove_projects: changes.remove_project,
                ..DeviceEdit::default()
            };
            let edited: Device = context.hub().patch(&context.device_path(device.uid.as_str(), "").await?, &edit).await?;
            let projects = edited.projects.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let place = if projects.is_empty() { "in no project".to_owned() } else { format!("in {projects}") };
            context.out.done(&edited, format!("{} (serial {}) is {place}.", edited.name, edited.id))?;
            Ok(0)
        }
        DeviceCommand::History(args) => history::history(context, args).await,
        DeviceCommand::Usage(args) => history::usage(context, args).await,
    }
}
