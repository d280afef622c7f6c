//! `muster project`: where people and devices meet.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_proto::api::{Device, DeviceEdit, Participant, ParticipantPut, Project, ProjectCreate, ProjectRole, Visibility};
use muster_proto::id::ProjectId;

use super::confirm;
use super::org::saved_name;
use crate::cli::one_of;
use crate::client::encode;
use crate::complete;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Block;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{local_ago, now};
use crate::profile::Book;

/// Roles in a project; each has all that the ones before have.
const ROLES: &[(&str, ProjectRole)] = &[
    ("view", ProjectRole::View),
    ("connect", ProjectRole::Connect),
    ("operate", ProjectRole::Operate),
    ("maintain", ProjectRole::Maintain),
    ("admin", ProjectRole::Admin),
];
const VISIBILITIES: &[(&str, Visibility)] = &[("private", Visibility::Private), ("internal", Visibility::Internal)];

/// `muster project`
#[derive(Debug, Args)]
pub struct ProjectArgs {
    #[command(subcommand)]
    command: ProjectCommand,
}

#[derive(Debug, Subcommand)]
enum ProjectCommand {
    /// List projects
    List,
    /// Make a project
    #[command(after_help = "\
A private project is seen by its participants and the owners; an internal one by everyone in the organization:
owners as admin, members as operate, viewers as view.

Examples:
  muster project create lab
  muster project create customer-7 --visibility private --name 'Customer 7'")]
    Create {
        /// Its id: 2 to 40 of a-z, 0-9 and hyphen; it never changes
        id: ProjectId,
        /// Its display name; the id by default
        #[arg(long)]
        name: Option<String>,
        /// Who sees it
        #[arg(long, value_parser = one_of(VISIBILITIES), default_value = "internal")]
        visibility: Visibility,
    },
    /// Show a project
    Show {
        /// Its id; the one in use by default
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: Option<ProjectId>,
    },
    /// Choose the project that commands mean
    Use {
        /// Its id
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: ProjectId,
    },
    /// Put devices into a project
    #[command(after_help = "Examples:\n  muster project add-device lab robot-7 robot-8")]
    AddDevice(DevicesOf),
    /// Take devices out of a project; they stay on the organization's list
    #[command(after_help = "Examples:\n  muster project remove-device lab robot-7")]
    RemoveDevice(DevicesOf),
    /// List who works in a project
    Participants {
        /// The project; the one in use by default
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: Option<ProjectId>,
    },
    /// Add, change or remove a participant
    Participant(ParticipantArgs),
}

#[derive(Debug, Args)]
struct DevicesOf {
    /// The project
    #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
    id: ProjectId,
    /// The devices
    #[arg(value_name = "DEVICE", required = true, add = ArgValueCompleter::new(complete::devices))]
    devices: Vec<String>,
}

#[derive(Debug, Args)]
struct ParticipantArgs {
    #[command(subcommand)]
    command: ParticipantCommand,
}

#[derive(Debug, Subcommand)]
enum ParticipantCommand {
    /// Add a participant, or change the role
    #[command(after_help = "\
Roles, each with all that the ones before have: view (details, usage, history), connect (terminal, ssh, forward),
operate (run commands, copy to devices), maintain (participants and devices), admin (settings).

Examples:
  muster project participant add lab ben@example.com --role connect")]
    Add {
        /// The project
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: ProjectId,
        /// The account's e-mail
        email: String,
        /// The role
        #[arg(long, value_parser = one_of(ROLES), default_value = "operate")]
        role: ProjectRole,
    },
    /// Remove a participant
    Remove {
        /// The project
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: ProjectId,
        /// The account's e-mail
        email: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: ProjectArgs) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    match args.command {
        ProjectCommand::List => {
            let projects: Vec<Project> = hub.list(&context.org_path("/projects").await?, None).await?;
            out.list(&projects, "no projects: make one with `muster project create`", |projects| table(context, projects))?;
        }
        ProjectCommand::Create { id, name, visibility } => {
            let project: Project =
                hub.post(&context.org_path("/projects").await?, &ProjectCreate { id, name, description: None, visibility }).await?;
            out.done(&project, format!("Made project {}.", project.id))?;
        }
        ProjectCommand::Show { id } => {
            let project: Project = hub.get(&path(context, id, "").await?).await?;
            out.show(&project, |project| {
                Block::default()
                    .styled("id", project.id.as_str(), Style::Bold)
                    .with("name", &project.name)
                    .with("visibility", visibility(project.visibility))
                    .with("your role", project.role.as_str())
                    .with("devices", format!("{}, {} online", project.devices, project.online))
                    .with("made", local_ago(now(), project.created_at))
            })?;
        }
        ProjectCommand::Use { id } => {
            let project: Project = hub.get(&path(context, Some(id), "").await?).await?;
            let name = saved_name(context)?;
            let org = context.org().await?.clone();
            Book::update(&Book::path()?, |book| {
                if let Some(profile) = book.profiles.get_mut(name) {
                    (profile.org, profile.project) = (Some(org.clone()), Some(project.id.clone()));
                }
                Ok(())
            })?;
            out.line(format!("Commands now mean project {} of {org}.", project.id))?;
        }
        ProjectCommand::AddDevice(DevicesOf { id, devices }) => {
            let edit = DeviceEdit { add_projects: vec![id.clone()], ..DeviceEdit::default() };
            return assign(context, &devices, &edit, &format!("is now in {id}")).await;
        }
        ProjectCommand::RemoveDevice(DevicesOf { id, devices }) => {
            let edit = DeviceEdit { remove_projects: vec![id.clone()], ..DeviceEdit::default() };
            return assign(context, &devices, &edit, &format!("is no longer in {id}")).await;
        }
        ProjectCommand::Participants { id } => {
            let rows: Vec<Participant> = hub.list(&path(context, id, "/participants").await?, None).await?;
            out.list(&rows, "no participants: an internal project is open to the organization's members all the same", |rows| {
                let mut table = Table::new([column("E-MAIL"), column("ROLE")]);
                for row in rows {
                    table.row([styled(&row.email, Style::Bold), cell(row.role.as_str())]);
                }
                table
            })?;
        }
        ProjectCommand::Participant(ParticipantArgs { command: ParticipantCommand::Add { id, email, role } }) => {
            let below = format!("/participants/{}", encode(&email));
            let participant: Participant = hub.put(&path(context, Some(id.clone()), &below).await?, &ParticipantPut { role }).await?;
            out.done(&participant, format!("{} now has the role {} in {id}.", participant.email, participant.role.as_str()))?;
        }
        ProjectCommand::Participant(ParticipantArgs { command: ParticipantCommand::Remove { id, email, yes } }) => {
            confirm(yes, &format!("Remove {email} from {id}?"))?;
            hub.delete(&path(context, Some(id.clone()), &format!("/participants/{}", encode(&email))).await?).await?;
            out.line(format!("{email} is no longer a participant of {id}."))?;
        }
    }
    Ok(0)
}

async fn path(context: &Context, id: Option<ProjectId>, below: &str) -> Result<String, Failure> {
    let id = match id {
        Some(id) => id,
        None => context.need_project()?.clone(),
    };
    context.org_path(&format!("/projects/{id}{below}")).await
}

async fn assign(context: &Context, devices: &[String], edit: &DeviceEdit, what: &str) -> Result<u8, Failure> {
    super::decide::each(devices, async |name| {
        let uid = context.device(name).await?.uid;
        let device: Device = context.hub().patch(&context.device_path(uid.as_str(), "").await?, edit).await?;
        context.out.done(&device, format!("{} {what}.", device.name))
    })
    .await
}

fn visibility(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Private => "private: its participants and the owners",
        Visibility::Internal => "internal: everyone in the organization",
    }
}

fn table(context: &Context, projects: &[Project]) -> Table {
    let mut table = Table::new([
        column(""),
        column("ID"),
        column("NAME").shrinks(10).optional(3),
        column("VISIBILITY").optional(2),
        column("YOUR ROLE"),
        column("DEVICES").right(),
        column("ONLINE").right(),
        column("MADE").optional(4),
    ]);
    let now = now();
    for project in projects {
        table.row([
            cell(if context.project() == Some(&project.id) { "*" } else { "" }),
            styled(project.id.as_str(), Style::Bold),
            cell(if project.name == project.id.as_str() { "" } else { &project.name }),
            cell(visibility(project.visibility).split(':').next().unwrap_or_default()),
            cell(project.role.as_str()),
            cell(project.devices.to_string()),
            styled(project.online.to_string(), if project.online > 0 { Style::Green } else { Style::Plain }),
            cell(local_ago(now, project.created_at)),
        ]);
    }
    table
}
