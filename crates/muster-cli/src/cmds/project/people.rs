//! Who works in a project: participants in person, and teams.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_proto::api::{Participant, ParticipantPut, ProjectRole, ProjectTeam, ProjectTeamPut};
use muster_proto::id::{ProjectId, TeamId};

use super::super::confirm;
use super::path;
use crate::cli::one_of;
use crate::client::encode;
use crate::complete;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{local_ago, now};

/// Roles in a project; each has all that the ones before have.
pub(crate) const ROLES: &[(&str, ProjectRole)] = &[
    ("view", ProjectRole::View),
    ("connect", ProjectRole::Connect),
    ("operate", ProjectRole::Operate),
    ("maintain", ProjectRole::Maintain),
    ("admin", ProjectRole::Admin),
];

/// `muster project participant`
#[derive(Debug, Args)]
pub(super) struct ParticipantArgs {
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
    /// Remove a participant; what no team gives ends at once
    #[command(after_help = "Examples:\n  muster project participant remove lab ben@example.com")]
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

/// `muster project team`
#[derive(Debug, Args)]
pub(super) struct ProjectTeamArgs {
    #[command(subcommand)]
    command: ProjectTeamCommand,
}

#[derive(Debug, Subcommand)]
enum ProjectTeamCommand {
    /// Give a team a role, or change it
    #[command(
        after_help = "Everyone in the team gets the role. If a person has several roles, the highest counts.\n\nExamples:\n  muster project team add lab night-shift --role connect"
    )]
    Add {
        /// The project
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: ProjectId,
        /// The team
        #[arg(add = ArgValueCompleter::new(complete::teams))]
        team: TeamId,
        /// The role
        #[arg(long, value_parser = one_of(ROLES), default_value = "operate")]
        role: ProjectRole,
    },
    /// Take a team out of a project; what only it gave ends at once
    #[command(after_help = "Examples:\n  muster project team remove lab night-shift")]
    Remove {
        /// The project
        #[arg(value_name = "PROJECT_ID", add = ArgValueCompleter::new(complete::projects))]
        id: ProjectId,
        /// The team
        #[arg(add = ArgValueCompleter::new(complete::teams))]
        team: TeamId,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// `muster project participants`
///
/// # Errors
/// As every call.
pub(super) async fn list(context: &Context, id: Option<ProjectId>) -> Result<(), Failure> {
    let rows: Vec<Participant> = context.hub().list(&path(context, id, "/participants").await?, None).await?;
    context.out.list(&rows, "no participants: an internal project is open to the organization's members all the same", |rows| {
        let mut table = Table::new([
            column("E-MAIL").shrinks(16),
            column("NAME").shrinks(10).optional(2),
            column("ROLE"),
            column("THROUGH").optional(1),
        ]);
        for row in rows {
            let own = row.own.map(|own| if own == row.role { "in person".to_owned() } else { format!("in person ({})", own.as_str()) });
            let through: Vec<String> = own.into_iter().chain(row.teams.iter().map(ToString::to_string)).collect();
            table.row([styled(&row.email, Style::Bold), cell(&row.name), cell(row.role.as_str()), cell(through.join(", "))]);
        }
        table
    })
}

/// `muster project participant`
///
/// # Errors
/// As every call.
pub(super) async fn participant(context: &Context, args: ParticipantArgs) -> Result<(), Failure> {
    match args.command {
        ParticipantCommand::Add { id, email, role } => {
            let below = format!("/participants/{}", encode(&email));
            let path = path(context, Some(id.clone()), &below).await?;
            let participant: Participant = context.hub().put(&path, &ParticipantPut { role }).await?;
            let given = participant.own.unwrap_or(role);
            let team = if given == participant.role { String::new() } else { format!(" (through a team: {})", participant.role.as_str()) };
            context.out.done(&participant, format!("{} now has the role {} in {id}{team}.", participant.email, given.as_str()))
        }
        ParticipantCommand::Remove { id, email, yes } => {
            confirm(yes, &format!("Remove {email} from {id}?"))?;
            context.hub().delete(&path(context, Some(id.clone()), &format!("/participants/{}", encode(&email))).await?).await?;
            context.out.line(format!("{email} is no longer a participant of {id}."))
        }
    }
}

/// `muster project teams`
///
/// # Errors
/// As every call.
pub(super) async fn teams(context: &Context, id: Option<ProjectId>) -> Result<(), Failure> {
    let rows: Vec<ProjectTeam> = context.hub().list(&path(context, id, "/teams").await?, None).await?;
    context.out.list(&rows, "no teams: give one a role with `muster project team add`", |rows| {
        let mut table = Table::new([
            column("TEAM"),
            column("NAME").shrinks(10).optional(2),
            column("ROLE"),
            column("PEOPLE").right(),
            column("SINCE").optional(1),
        ]);
        let now = now();
        for row in rows {
            let name = if row.name == row.id.as_str() { "" } else { &row.name };
            let since = local_ago(now, row.since);
            table.row([
                styled(row.id.as_str(), Style::Bold),
                cell(name),
                cell(row.role.as_str()),
                cell(row.members.to_string()),
                cell(since),
            ]);
        }
        table
    })
}

/// `muster project team`
///
/// # Errors
/// As every call.
pub(super) async fn team(context: &Context, args: ProjectTeamArgs) -> Result<(), Failure> {
    match args.command {
        ProjectTeamCommand::Add { id, team, role } => {
            let path = path(context, Some(id.clone()), &format!("/teams/{team}")).await?;
            let team: ProjectTeam = context.hub().put(&path, &ProjectTeamPut { role }).await?;
            context.out.done(&team, format!("Team {} now has the role {} in {id}.", team.id, team.role.as_str()))
        }
        ProjectTeamCommand::Remove { id, team, yes } => {
            confirm(yes, &format!("Take team {team} out of {id}?"))?;
            context.hub().delete(&path(context, Some(id.clone()), &format!("/teams/{team}")).await?).await?;
            context.out.line(format!("Team {team} has no role in {id} any more."))
        }
    }
}
