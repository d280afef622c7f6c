//! `muster org`: organizations and their members.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_proto::api::{Me, Member, MemberPut, Org, OrgCreate, OrgRole};
use muster_proto::id::OrgId;

use super::confirm;
use crate::cli::one_of;
use crate::client::encode;
use crate::complete;
use crate::context::{Context, Source};
use crate::failure::{Exit, Failure};
use crate::output::Block;
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{local_ago, now};
use crate::profile::Book;

/// Roles in an organization.
const ROLES: &[(&str, OrgRole)] = &[("viewer", OrgRole::Viewer), ("member", OrgRole::Member), ("owner", OrgRole::Owner)];

/// `muster org`
#[derive(Debug, Args)]
pub struct OrgArgs {
    #[command(subcommand)]
    command: OrgCommand,
}

#[derive(Debug, Subcommand)]
enum OrgCommand {
    /// List the organizations that you belong to
    List,
    /// Make an organization; you become its owner
    #[command(after_help = "Examples:\n  muster org create acme --name 'Acme Robotics'")]
    Create {
        /// Its id: 2 to 40 of a-z, 0-9 and hyphen; it never changes
        id: OrgId,
        /// Its display name; the id by default
        #[arg(long)]
        name: Option<String>,
    },
    /// Show an organization
    Show {
        /// Its id; the one in use by default
        #[arg(value_name = "ORG", add = ArgValueCompleter::new(complete::orgs))]
        id: Option<OrgId>,
    },
    /// Choose the organization that commands mean
    Use {
        /// Its id
        #[arg(value_name = "ORG", add = ArgValueCompleter::new(complete::orgs))]
        id: OrgId,
    },
    /// List the members
    Members,
    /// Add, change or remove a member
    Member(MemberArgs),
}

#[derive(Debug, Args)]
struct MemberArgs {
    #[command(subcommand)]
    command: MemberCommand,
}

#[derive(Debug, Subcommand)]
enum MemberCommand {
    /// Add a member, or change the role
    #[command(after_help = "\
Roles: a viewer sees the device list; a member also enrols, edits and assigns devices; an owner may do everything.
The person needs an account on the hub: `muster-hub user add EMAIL` makes one there.

Examples:
  muster org member add ben@example.com --role member")]
    Add {
        /// The account's e-mail
        email: String,
        /// The role
        #[arg(long, value_parser = one_of(ROLES), default_value = "member")]
        role: OrgRole,
    },
    /// Remove a member
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
pub async fn run(context: &Context, args: OrgArgs) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    match args.command {
        OrgCommand::List => {
            let orgs: Vec<Org> = hub.list("/v1/orgs", None).await?;
            out.list(&orgs, "you belong to no organization: make one with `muster org create`", |orgs| table(context, orgs))?;
        }
        OrgCommand::Create { id, name } => {
            let org: Org =
                hub.post("/v1/orgs", &OrgCreate { id, name, full_name: None, description: None, location: None, website: None }).await?;
            out.done(&org, format!("Made organization {}. `muster org use {}` makes it the one that commands mean.", org.id, org.id))?;
        }
        OrgCommand::Show { id } => {
            let id = match id {
                Some(id) => id,
                None => context.org().await?.clone(),
            };
            let org: Org = hub.get(&format!("/v1/orgs/{id}")).await?;
            out.show(&org, |org| {
                Block::default()
                    .styled("id", org.id.as_str(), Style::Bold)
                    .with("name", &org.name)
                    .with("your role", org.role.map_or("collaborator", OrgRole::as_str))
                    .with("made", local_ago(now(), org.created_at))
            })?;
        }
        OrgCommand::Use { id } => {
            let me: Me = hub.get("/v1/me").await?;
            if !me.orgs.iter().any(|org| org.id == id) {
                return Err(Failure::new(Exit::NotFound, format!("{} does not belong to an organization {id}", me.email))
                    .hint("`muster org list` shows yours"));
            }
            let name = saved_name(context)?;
            Book::update(&Book::path()?, |book| {
                if let Some(profile) = book.profiles.get_mut(name)
                    && profile.org.as_ref() != Some(&id)
                {
                    profile.org = Some(id.clone());
                    profile.project = None;
                }
                Ok(())
            })?;
            out.line(format!("Commands now mean organization {id}."))?;
        }
        OrgCommand::Members => {
            let members: Vec<Member> = hub.list(&context.org_path("/members").await?, None).await?;
            out.list(&members, "no members", |members| {
                let mut table = Table::new([
                    column("E-MAIL").shrinks(16),
                    column("NAME").shrinks(10).optional(2),
                    column("ROLE"),
                    column("SINCE").optional(1),
                ]);
                let now = now();
                for member in members {
                    table.row([
                        styled(&member.email, Style::Bold),
                        cell(&member.name),
                        cell(member.role.as_str()),
                        cell(local_ago(now, member.since)),
                    ]);
                }
                table
            })?;
        }
        OrgCommand::Member(MemberArgs { command: MemberCommand::Add { email, role } }) => {
            let path = context.org_path(&format!("/members/{}", encode(&email))).await?;
            let member: Member = hub.put(&path, &MemberPut { role }).await?;
            out.done(&member, format!("{} is now {} of {}.", member.email, member.role.as_str(), context.org().await?))?;
        }
        OrgCommand::Member(MemberArgs { command: MemberCommand::Remove { email, yes } }) => {
            let org = context.org().await?;
            confirm(yes, &format!("Remove {email} from {org}?"))?;
            hub.delete(&context.org_path(&format!("/members/{}", encode(&email))).await?).await?;
            out.line(format!("{email} is no longer in {org}."))?;
        }
    }
    Ok(0)
}

/// The saved login that `use` changes.
///
/// # Errors
/// When the login in use is not a saved one.
pub fn saved_name(context: &Context) -> Result<&str, Failure> {
    match &context.source {
        Source::Saved(name) => Ok(name),
        Source::Given => Err(Failure::usage("the login in use comes from --token or MUSTER_TOKEN, and nothing is saved for it")
            .hint("set MUSTER_ORG and MUSTER_PROJECT instead, or save the login with `muster login`")),
    }
}

fn table(context: &Context, orgs: &[Org]) -> Table {
    let mut table = Table::new([column(""), column("ID"), column("NAME").shrinks(10), column("YOUR ROLE"), column("MADE").optional(1)]);
    let now = now();
    for org in orgs {
        let mark = if context.named_org() == Some(&org.id) { "*" } else { "" };
        let role = org.role.map_or("collaborator", OrgRole::as_str);
        table.row([cell(mark), styled(org.id.as_str(), Style::Bold), cell(&org.name), cell(role), cell(local_ago(now, org.created_at))]);
    }
    table
}
