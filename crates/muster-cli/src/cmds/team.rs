//! `muster team`: members and collaborators who are given roles in projects as one.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_proto::api::{OrgRole, Team, TeamCreate, TeamEdit};
use muster_proto::id::TeamId;

use super::image::{self, ImageCommand, changed};
use super::{confirm, decide};
use crate::client::encode;
use crate::complete;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Block;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{local_ago, now};

/// `muster team`
#[derive(Debug, Args)]
#[command(after_help = "A team gets a role in a project with `muster project team add`; it gives nothing in the organization itself.")]
pub struct TeamArgs {
    #[command(subcommand)]
    command: Option<TeamCommand>,
}

#[derive(Debug, Args)]
struct Which {
    /// The team
    #[arg(value_name = "TEAM", add = ArgValueCompleter::new(complete::teams))]
    id: TeamId,
}

#[derive(Debug, Args)]
struct People {
    #[command(flatten)]
    team: Which,
    /// The accounts' e-mails
    #[arg(value_name = "EMAIL", required = true)]
    emails: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum TeamCommand {
    /// List teams
    #[command(after_help = "Examples:\n  muster team list")]
    List,
    /// Make a team
    #[command(after_help = "Examples:\n  muster team create night-shift --name 'Night shift' --description 'On call from 22:00'")]
    Create {
        /// Its id: 2 to 40 of a-z, 0-9 and hyphen; it never changes
        id: TeamId,
        /// Its display name; the id by default
        #[arg(long)]
        name: Option<String>,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Show a team, who is in it and its roles
    #[command(after_help = "Examples:\n  muster team show night-shift\n  muster team show night-shift --json | jq -r '.people[].email'")]
    Show(Which),
    /// Change a team's name and description
    #[command(after_help = "Examples:\n  muster team edit night-shift --name Nightwatch")]
    Edit {
        #[command(flatten)]
        team: Which,
        /// A new display name
        #[arg(long)]
        name: Option<String>,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// Put members or collaborators into a team
    #[command(after_help = "Examples:\n  muster team add night-shift ben@example.com ann@example.com")]
    Add(People),
    /// Take people out of a team; what only it gave ends at once
    #[command(after_help = "Examples:\n  muster team remove night-shift ben@example.com")]
    Remove(People),
    /// Set, save or remove a team's avatar
    #[command(after_help = "Examples:\n  muster team avatar night-shift set owl.png")]
    Avatar {
        #[command(flatten)]
        team: Which,
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Delete a team; its people keep what they have in person
    #[command(after_help = "Examples:\n  muster team delete night-shift")]
    Delete {
        #[command(flatten)]
        team: Which,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: TeamArgs) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    let path = async |id: &TeamId, below: &str| context.org_path(&format!("/teams/{id}{below}")).await;
    match args.command.unwrap_or(TeamCommand::List) {
        TeamCommand::List => {
            let teams: Vec<Team> = hub.list(&context.org_path("/teams").await?, None).await?;
            out.list(&teams, "no teams: make one with `muster team create`", table)?;
        }
        TeamCommand::Create { id, name, description } => {
            let team: Team = hub.post(&context.org_path("/teams").await?, &TeamCreate { id, name, description }).await?;
            out.done(&team, format!("Made team {}. `muster team add {} EMAIL` puts people into it.", team.id, team.id))?;
        }
        TeamCommand::Show(Which { id }) => {
            let team: Team = hub.get(&path(&id, "").await?).await?;
            out.show(&team, block)?;
        }
        TeamCommand::Edit { team: Which { id }, name, description } => {
            let edit = TeamEdit { name, description: changed(description) };
            if edit == TeamEdit::default() {
                return Err(Failure::usage("nothing to change was given").hint("give --name or --description"));
            }
            let team: Team = hub.patch(&path(&id, "").await?, &edit).await?;
            out.done(&team, format!("Changed team {}.", team.id))?;
        }
        TeamCommand::Add(People { team: Which { id }, emails }) => {
            return decide::each(&emails, async |email| {
                let team: Team = hub.put(&path(&id, &format!("/members/{}", encode(email))).await?, &serde_json::json!({})).await?;
                out.done(&team, format!("{email} is now in team {id}."))
            })
            .await;
        }
        TeamCommand::Remove(People { team: Which { id }, emails }) => {
            return decide::each(&emails, async |email| {
                hub.delete(&path(&id, &format!("/members/{}", encode(email))).await?).await?;
                out.line(format!("{email} is no longer in team {id}."))
            })
            .await;
        }
        TeamCommand::Avatar { team: Which { id }, command } => {
            return image::run::<Team>(context, command, &path(&id, "/avatar").await?, &format!("team {id}")).await;
        }
        TeamCommand::Delete { team: Which { id }, yes } => {
            confirm(yes, &format!("Delete team {id}? What only it gave its people ends at once, sessions too."))?;
            hub.delete(&path(&id, "").await?).await?;
            out.line(format!("Deleted team {id}."))?;
        }
    }
    Ok(0)
}

fn roles(team: &Team) -> String {
    let roles: Vec<String> = team.projects.iter().map(|role| format!("{} ({})", role.project, role.role.as_str())).collect();
    roles.join(", ")
}

fn block(team: &Team) -> Block {
    let mut block = Block::default()
        .styled("id", team.id.as_str(), Style::Bold)
        .with("name", &team.name)
        .maybe("description", team.description.as_ref())
        .maybe("avatar", team.avatar.as_ref().map(|_| format!("yes: muster team avatar {} save FILE", team.id)))
        .with("projects", if team.projects.is_empty() { "none that you see".to_owned() } else { roles(team) })
        .with("made", local_ago(now(), team.created_at));
    let people = team.people.as_deref().unwrap_or_default();
    block = block.heading(if people.is_empty() { "nobody is in it" } else { "people" });
    for person in people {
        block = block.with(&person.email, format!("{}, {}", person.name, person.role.map_or("collaborator", OrgRole::as_str)));
    }
    block
}

fn table(teams: &[Team]) -> Table {
    let columns = [
        column("ID"),
        column("NAME").shrinks(10).optional(2),
        column("PEOPLE").right(),
        column("PROJECTS").shrinks(16),
        column("MADE").optional(1),
    ];
    let mut table = Table::new(columns);
    let now = now();
    for team in teams {
        table.row([
            styled(team.id.as_str(), Style::Bold),
            cell(if team.name == team.id.as_str() { "" } else { &team.name }),
            cell(team.members.to_string()),
            cell(roles(team)),
            cell(local_ago(now, team.created_at)),
        ]);
    }
    table
}
