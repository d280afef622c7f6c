//! `muster org`: organizations.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;
use muster_proto::api::{Credits, Me, Org, OrgCreate, OrgEdit, OrgRole};
use muster_proto::id::OrgId;

use super::confirm;
use super::image::{self, ImageCommand, changed};
use super::project;
use crate::complete;
use crate::context::{Context, Source};
use crate::failure::{Exit, Failure};
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{local_ago, now};
use crate::output::{Block, note};
use crate::profile::Book;

/// `muster org`
#[derive(Debug, Args)]
pub struct OrgArgs {
    #[command(subcommand)]
    command: Option<OrgCommand>,
}

#[derive(Debug, Subcommand)]
enum OrgCommand {
    /// List the organizations that you belong to
    #[command(after_help = "Examples:\n  muster org list\n  muster org list --json | jq -r '.[].id'")]
    List,
    /// Make an organization; you become its owner
    #[command(after_help = "\
Examples:
  muster org create acme --name 'Acme Robotics'
  muster org create acme --full-name 'Acme Robotics GmbH' --website https://acme.example")]
    Create {
        /// Its id: 2 to 40 of a-z, 0-9 and hyphen; it never changes, and is never given again
        id: OrgId,
        /// Its display name; the id by default
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        about: About,
    },
    /// Show an organization
    #[command(after_help = "Examples:\n  muster org show\n  muster org show acme")]
    Show {
        /// Its id; the one in use by default
        #[arg(value_name = "ORG", add = ArgValueCompleter::new(complete::orgs))]
        id: Option<OrgId>,
    },
    /// Choose the default organization
    #[command(after_help = "Examples:\n  muster org use acme")]
    Use {
        /// Its id
        #[arg(value_name = "ORG", add = ArgValueCompleter::new(complete::orgs))]
        id: OrgId,
    },
    /// Change what an organization says of itself; an empty text clears it
    #[command(after_help = "Examples:\n  muster org edit --name 'Acme Robots' --location Bonn\n  muster org edit --website ''")]
    Edit {
        /// Its id; the one in use by default
        #[arg(value_name = "ORG", add = ArgValueCompleter::new(complete::orgs))]
        id: Option<OrgId>,
        /// A new display name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        about: About,
    },
    /// Set, save or remove the logo
    #[command(after_help = "Examples:\n  muster org logo set acme.png\n  muster org logo save old-logo.png")]
    Logo {
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Leave an organization, its teams and its projects
    #[command(after_help = "\
Your live sessions there end at once. The last owner cannot leave: make another person an owner first, or delete the organization.

Examples:
  muster org leave acme")]
    Leave {
        /// Its id
        #[arg(value_name = "ORG", add = ArgValueCompleter::new(complete::orgs))]
        id: OrgId,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Delete an organization, once nothing stands in the way
    #[command(after_help = "\
The hub says what stands in the way: devices, projects that are not archived, live sessions and runs, other members, collaborators,
waiting invitations, credits that are left.
Nothing of it comes back, and its id is never given again.

Examples:
  muster org delete acme
  muster org delete acme --forfeit 12.5")]
    Delete {
        /// Its id
        #[arg(value_name = "ORG", add = ArgValueCompleter::new(complete::orgs))]
        id: OrgId,
        /// Give up the credits that are left: how many the hub says
        #[arg(long, value_name = "CREDITS")]
        forfeit: Option<Credits>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// What an organization says of itself.
#[derive(Debug, Args)]
struct About {
    /// Its name in full, as in a contract
    #[arg(long, value_name = "NAME")]
    full_name: Option<String>,
    /// What it does
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Where it is
    #[arg(long, value_name = "PLACE")]
    location: Option<String>,
    /// Its web address
    #[arg(long, value_name = "URL", value_hint = clap::ValueHint::Url)]
    website: Option<String>,
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(context: &Context, args: OrgArgs) -> Result<u8, Failure> {
    let (hub, out) = (context.hub(), &context.out);
    match args.command.unwrap_or(OrgCommand::List) {
        OrgCommand::List => {
            let orgs: Vec<Org> = hub.list("/v1/orgs", None).await?;
            out.list(&orgs, "you belong to no organization: make one with `muster org create`", |orgs| table(context, orgs))?;
        }
        OrgCommand::Create { id, name, about } => {
            let About { full_name, description, location, website } = about;
            let org: Org = hub.post("/v1/orgs", &OrgCreate { id, name, full_name, description, location, website }).await?;
            out.done(&org, format!("Made organization {}. `muster org use {}` makes it the default.", org.id, org.id))?;
        }
        OrgCommand::Edit { id, name, about } => {
            let About { full_name, description, location, website } = about;
            let edit = OrgEdit {
                name,
                full_name: changed(full_name),
                description: changed(description),
                location: changed(location),
                website: changed(website),
            };
            if edit == OrgEdit::default() {
                return Err(Failure::usage("nothing to change was given").hint("`muster org edit --help` lists what can be changed"));
            }
            let org: Org = hub.patch(&org_path(context, id).await?, &edit).await?;
            out.done(&org, format!("Changed organization {}.", org.id))?;
        }
        OrgCommand::Logo { command } => {
            let org = context.org().await?.to_string();
            return image::run::<Org>(context, command, &format!("/v1/orgs/{org}/logo"), &org).await;
        }
        OrgCommand::Leave { id, yes } => {
            confirm(yes, &format!("Leave {id}? You lose your roles, teams and projects there, and your sessions end at once."))?;
            let _: serde::de::IgnoredAny = hub.post(&format!("/v1/orgs/{id}/leave"), &serde_json::json!({})).await?;
            out.line(format!("You are no longer in {id}."))?;
        }
        OrgCommand::Delete { id, forfeit, yes } => {
            confirm(yes, &format!("Delete {id} with its projects, teams, tokens and history? Nothing of it comes back."))?;
            let forfeit = forfeit.map(|credits| format!("&forfeit={credits}")).unwrap_or_default();
            hub.delete(&format!("/v1/orgs/{id}?confirm={id}{forfeit}")).await?;
            out.line(format!("Deleted organization {id}."))?;
        }
        OrgCommand::Show { id } => {
            let org: Org = hub.get(&org_path(context, id).await?).await?;
            out.show(&org, |org| {
                Block::default()
                    .styled("id", org.id.as_str(), Style::Bold)
                    .with("name", &org.name)
                    .maybe("full name", org.full_name.as_ref())
                    .maybe("description", org.description.as_ref())
                    .maybe("location", org.location.as_ref())
                    .maybe("website", org.website.as_ref())
                    .maybe("logo", org.logo.as_ref().map(|_| "yes: muster org logo save FILE"))
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
            let open = project::open(hub, &id).await?;
            let mut now = None;
            Book::update(&Book::path()?, |book| {
                if let Some(profile) = book.profiles.get_mut(name) {
                    if profile.org.as_ref() != Some(&id) {
                        profile.org = Some(id.clone());
                        // A project of the old organization is none of this one's; where there is only one, that is meant.
                        profile.project = if let [only] = &open[..] { Some(only.clone()) } else { None };
                    }
                    now = profile.project.clone();
                }
                Ok(())
            })?;
            match now {
                Some(project) => out.line(format!("Default organization: {id}, project: {project}."))?,
                None => {
                    out.line(format!("Default organization: {id}."))?;
                    note("No default project. Choose one: muster project use PROJECT");
                }
            }
        }
    }
    Ok(0)
}

async fn org_path(context: &Context, id: Option<OrgId>) -> Result<String, Failure> {
    Ok(match id {
        Some(id) => format!("/v1/orgs/{id}"),
        None => context.org_path("").await?,
    })
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
