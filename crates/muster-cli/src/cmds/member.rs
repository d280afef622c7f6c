//! `muster member`: who belongs to the organization, and who only works in its projects.

use clap::{Args, Subcommand};
use muster_proto::api::{Collaborator, Member, MemberPut, OrgRole};

use super::confirm;
use crate::cli::one_of;
use crate::client::encode;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{local_ago, now};

/// Roles in an organization.
pub const ROLES: &[(&str, OrgRole)] = &[("viewer", OrgRole::Viewer), ("member", OrgRole::Member), ("owner", OrgRole::Owner)];

/// `muster member`
#[derive(Debug, Args)]
pub struct MemberArgs {
    #[command(subcommand)]
    command: Option<MemberCommand>,
}

#[derive(Debug, Subcommand)]
enum MemberCommand {
    /// List the members
    #[command(
        after_help = "Examples:\n  muster member list\n  muster member list --json | jq -r '.[] | select(.role == \"owner\") | .email'"
    )]
    List,
    /// List the people who have a role only in projects
    #[command(after_help = "Examples:\n  muster member collaborators")]
    Collaborators,
    /// Change a person's role in the organization
    #[command(after_help = "\
Roles: a viewer sees the device list; a member also enrols, edits and assigns devices; an owner may do everything.
The last owner stays owner. Invite new people: `muster invite EMAIL`.

Examples:
  muster member set ben@example.com --role owner")]
    Set {
        /// The account's e-mail
        email: String,
        /// The role
        #[arg(long, value_parser = one_of(ROLES))]
        role: OrgRole,
    },
    /// Remove a person from the organization, its teams and its projects
    #[command(
        after_help = "Live sessions end at once. What the person did stays in the records.\n\nExamples:\n  muster member remove ben@example.com"
    )]
    Remove {
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
pub async fn run(context: &Context, args: MemberArgs) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    match args.command.unwrap_or(MemberCommand::List) {
        MemberCommand::List => {
            let members: Vec<Member> = hub.list(&context.org_path("/members").await?, None).await?;
            out.list(&members, "no members", members_table)?;
        }
        MemberCommand::Collaborators => {
            let people: Vec<Collaborator> = hub.list(&context.org_path("/collaborators").await?, None).await?;
            out.list(&people, "no collaborators: everybody here has a role in the organization", collaborators_table)?;
        }
        MemberCommand::Set { email, role } => {
            let path = context.org_path(&format!("/members/{}", encode(&email))).await?;
            let member: Member = hub.put(&path, &MemberPut { role }).await?;
            out.done(&member, format!("{} is now {} of {}.", member.email, member.role.as_str(), context.org().await?))?;
        }
        MemberCommand::Remove { email, yes } => {
            let org = context.org().await?;
            confirm(yes, &format!("Remove {email} from {org}, its teams and its projects? Live sessions end at once."))?;
            hub.delete(&context.org_path(&format!("/members/{}", encode(&email))).await?).await?;
            out.line(format!("{email} is no longer in {org}."))?;
        }
    }
    Ok(0)
}

fn members_table(members: &[Member]) -> Table {
    let columns = [column("E-MAIL").shrinks(16), column("NAME").shrinks(10).optional(2), column("ROLE"), column("SINCE").optional(1)];
    let mut table = Table::new(columns);
    let now = now();
    for member in members {
        table.row([styled(&member.email, Style::Bold), cell(&member.name), cell(member.role.as_str()), cell(local_ago(now, member.since))]);
    }
    table
}

fn collaborators_table(people: &[Collaborator]) -> Table {
    let columns =
        [column("E-MAIL").shrinks(16), column("NAME").shrinks(10).optional(2), column("PROJECTS").shrinks(16), column("TEAMS").optional(1)];
    let mut table = Table::new(columns);
    for person in people {
        let projects: Vec<String> = person.projects.iter().map(|role| format!("{} ({})", role.project, role.role.as_str())).collect();
        let teams: Vec<&str> = person.teams.iter().map(AsRef::as_ref).collect();
        table.row([styled(&person.email, Style::Bold), cell(&person.name), cell(projects.join(", ")), cell(teams.join(", "))]);
    }
    table
}
