//! `muster project`: where people and devices meet.

pub(super) mod people;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_proto::api::{Assigned, Project, ProjectCreate, ProjectDevices, ProjectEdit, Visibility};
use muster_proto::id::{OrgId, ProjectId};
use muster_proto::text_file;

use super::confirm;
use super::image::changed;
use super::org::saved_name;
use crate::cli::one_of;
use crate::client::Hub;
use crate::complete;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Block;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{local_ago, now};
use crate::profile::Book;
use people::{ParticipantArgs, ProjectTeamArgs};

const VISIBILITIES: &[(&str, Visibility)] = &[("private", Visibility::Private), ("internal", Visibility::Internal)];

/// `muster project`
#[derive(Debug, Args)]
pub struct ProjectArgs {
    #[command(subcommand)]
    command: Option<ProjectCommand>,
}

#[derive(Debug, Subcommand)]
enum ProjectCommand {
    /// List projects
    #[command(after_help = "Examples:\n  muster project list")]
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
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Show a project
    #[command(after_help = "Examples:\n  muster project show\n  muster project show lab --json")]
    Show {
        /// Its id; the one in use by default
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: Option<ProjectId>,
    },
    /// Choose the default project
    #[command(after_help = "Examples:\n  muster project use lab")]
    Use {
        /// Its id
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: ProjectId,
    },
    /// Change a project's name, description or visibility
    #[command(after_help = "\
An empty description clears it. People who lose their role by a new visibility lose their live sessions at once.

Examples:
  muster project edit lab --name 'The lab' --visibility private")]
    Edit {
        /// Its id; the one in use by default
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: Option<ProjectId>,
        /// A new display name
        #[arg(long)]
        name: Option<String>,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        /// Who sees it
        #[arg(long, value_parser = one_of(VISIBILITIES))]
        visibility: Option<Visibility>,
    },
    /// Make a project read-only; its live sessions and runs end at once
    #[command(after_help = "Examples:\n  muster project archive customer-7")]
    Archive {
        /// Its id
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: ProjectId,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Bring a project back from the archive
    #[command(after_help = "Examples:\n  muster project restore customer-7")]
    Restore {
        /// Its id
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: ProjectId,
    },
    /// Put devices into a project: all of them, or none
    #[command(
        visible_alias = "add-device",
        after_help = "\
Examples:
  muster project add-devices lab robot-7 robot-8
  muster devices --json | jq -r '.[].uid' | muster project add-devices lab --file -"
    )]
    AddDevices(DevicesOf),
    /// Take devices out of a project; they stay on the list
    #[command(
        visible_alias = "remove-device",
        after_help = "All of them are taken out, or none.\n\nExamples:\n  muster project remove-devices lab robot-7"
    )]
    RemoveDevices(DevicesOf),
    /// List who has a role in a project, in person or through teams
    #[command(after_help = "Examples:\n  muster project participants lab")]
    Participants {
        /// The project; the one in use by default
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: Option<ProjectId>,
    },
    /// Add, change or remove a participant
    Participant(ParticipantArgs),
    /// List the teams that have a role in a project
    #[command(after_help = "Examples:\n  muster project teams lab")]
    Teams {
        /// The project; the one in use by default
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: Option<ProjectId>,
    },
    /// Give a team a role in a project, or take it away
    Team(ProjectTeamArgs),
}

#[derive(Debug, Args)]
struct DevicesOf {
    /// The project
    #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
    id: ProjectId,
    /// Names, serial numbers or uids
    #[arg(value_name = "DEVICE", required_unless_present = "file", add = ArgValueCompleter::new(complete::devices))]
    devices: Vec<String>,
    /// A file with one device in each line; - for standard input
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    file: Option<PathBuf>,
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: ProjectArgs) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    match args.command.unwrap_or(ProjectCommand::List) {
        ProjectCommand::List => {
            let projects: Vec<Project> = hub.list(&context.org_path("/projects").await?, None).await?;
            out.list(&projects, "no projects: make one with `muster project create`", |projects| table(context, projects))?;
        }
        ProjectCommand::Create { id, name, visibility, description } => {
            let project: Project =
                hub.post(&context.org_path("/projects").await?, &ProjectCreate { id, name, description, visibility }).await?;
            out.done(&project, format!("Made project {}.", project.id))?;
        }
        ProjectCommand::Show { id } => {
            let project: Project = hub.get(&path(context, id, "").await?).await?;
            out.show(&project, |project| {
                Block::default()
                    .styled("id", project.id.as_str(), Style::Bold)
                    .with("name", &project.name)
                    .maybe("description", project.description.as_ref())
                    .maybe("archived", project.archived_at.map(|at| format!("{}: read-only", local_ago(now(), at))))
                    .with("visibility", visibility(project.visibility))
                    .with("your role", project.role.as_str())
                    .with("devices", format!("{}, {} online", project.devices, project.online))
                    .with("sessions", format!("{} now", project.sessions))
                    .with("runs", format!("{} now", project.runs))
                    .with("people", project.members.to_string())
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
        ProjectCommand::Edit { id, name, description, visibility } => {
            let edit = ProjectEdit { name, description: changed(description), visibility };
            if edit == ProjectEdit::default() {
                return Err(Failure::usage("nothing to change was given").hint("give --name, --description or --visibility"));
            }
            let project: Project = hub.patch(&path(context, id, "").await?, &edit).await?;
            out.done(&project, format!("Changed project {}.", project.id))?;
        }
        ProjectCommand::Archive { id, yes } => {
            confirm(
                yes,
                &format!("Archive project {id}? Its live sessions and runs end at once, and it is read-only until it is restored."),
            )?;
            let project: Project = hub.post(&path(context, Some(id), "/archive").await?, &serde_json::json!({})).await?;
            out.done(&project, format!("Archived project {}. `muster project restore {}` brings it back.", project.id, project.id))?;
        }
        ProjectCommand::Restore { id } => {
            let project: Project = hub.post(&path(context, Some(id), "/restore").await?, &serde_json::json!({})).await?;
            out.done(&project, format!("Restored project {}.", project.id))?;
        }
        ProjectCommand::AddDevices(of) => assign(context, of, true).await?,
        ProjectCommand::RemoveDevices(of) => assign(context, of, false).await?,
        ProjectCommand::Participants { id } => people::list(context, id).await?,
        ProjectCommand::Participant(args) => people::participant(context, args).await?,
        ProjectCommand::Teams { id } => people::teams(context, id).await?,
        ProjectCommand::Team(args) => people::team(context, args).await?,
    }
    Ok(0)
}

/// The organization's projects that are not archived.
///
/// # Errors
/// As every call.
pub async fn open(hub: &Hub, org: &OrgId) -> Result<Vec<ProjectId>, Failure> {
    let all: Vec<Project> = hub.list(&format!("/v1/orgs/{org}/projects"), None).await?;
    Ok(all.into_iter().filter(|project| project.archived_at.is_none()).map(|project| project.id).collect())
}

async fn path(context: &Context, id: Option<ProjectId>, below: &str) -> Result<String, Failure> {
    let id = match id {
        Some(id) => id,
        None => context.need_project()?.clone(),
    };
    context.org_path(&format!("/projects/{id}{below}")).await
}

async fn assign(context: &Context, of: DevicesOf, add: bool) -> Result<(), Failure> {
    let DevicesOf { id, mut devices, file } = of;
    if let Some(file) = file {
        devices.extend(lines(&file)?);
    }
    if devices.is_empty() {
        return Err(Failure::usage("the file names no device"));
    }
    let body = if add { ProjectDevices { add: devices, remove: Vec::new() } } else { ProjectDevices { add: Vec::new(), remove: devices } };
    let done: Assigned = context.hub().post(&path(context, Some(id.clone()), "/devices").await?, &body).await?;
    let (count, what, others) =
        if add { (done.added, "now in", body.add.len()) } else { (done.removed, "no longer in", body.remove.len()) };
    let others = others.saturating_sub(count as usize);
    let others = match (others, add) {
        (0, _) => String::new(),
        (others, true) => format!("; {others} had been in it before, or were named twice"),
        (others, false) => format!("; {others} had not been in it, or were named twice"),
    };
    let devices = if count == 1 { "1 device is".to_owned() } else { format!("{count} devices are") };
    context.out.done(&done, format!("{devices} {what} {id}{others}."))
}

/// The lines of a file that say something.
fn lines(file: &Path) -> Result<Vec<String>, Failure> {
    let bytes = super::sheet::read(file).map_err(|error| super::sheet::unusable("read", file, &error))?;
    let text = text_file::decode(&bytes).map_err(|error| Failure::new(Exit::Failed, error.to_string()).context(file.display()))?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect())
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
        column("STATE").optional(1),
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
            styled(if project.archived_at.is_some() { "archived" } else { "" }, Style::Dim),
            cell(local_ago(now, project.created_at)),
        ]);
    }
    table
}
