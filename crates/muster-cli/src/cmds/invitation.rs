//! `muster invite`, `muster invitation`: the way into an organization or a project, with the person's consent.

use clap::{Args, Subcommand};
use muster_proto::api::{
    Invitation, InvitationAccept, InvitationAccepted, InvitationCreate, InvitationLook, InvitationLooked, MailState, OrgRole, ProjectRole,
};
use muster_proto::token::{Token, TokenKind};

use super::member::ROLES as ORG_ROLES;
use super::project::people::ROLES as PROJECT_ROLES;
use super::{confirm, decide, login};
use crate::cli::Globals;
use crate::client::{Hub, encode};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::table::{Style, Table, cell, column, styled};
use crate::output::time::{local_ago, now};
use crate::output::{Output, note};
use crate::profile::{Book, hub_url};
use crate::tty;

/// `muster invite`
#[derive(Debug, Args)]
#[command(after_help = "\
Without --project the person is invited to the organization; with it to that one project, as a collaborator who sees nothing else.
The link is printed, so that it can be passed on; where the hub has a mail server, it is mailed as well. It is good for 7 days.

Roles in the organization: viewer, member, owner. In a project: view, connect, operate, maintain, admin.

Examples:
  muster invite ben@example.com --role member
  muster invite kim@elsewhere.example --project lab --role connect")]
pub struct InviteArgs {
    /// Whom
    email: String,
    /// The role: member in the organization, operate in a project by default
    #[arg(long)]
    role: Option<String>,
}

/// `muster invitation`
#[derive(Debug, Args)]
pub struct InvitationArgs {
    #[command(subcommand)]
    command: Option<InvitationCommand>,
}

#[derive(Debug, Subcommand)]
enum InvitationCommand {
    /// List invitations that wait for their people
    #[command(after_help = "Examples:\n  muster invitation list")]
    List,
    /// Make a new link for 7 days, and mail it where the hub has a mail server; the old link is dead
    #[command(after_help = "Examples:\n  muster invitation resend abcdefghij")]
    Resend {
        /// Its id, as `muster invitation list` shows it
        id: String,
    },
    /// Withdraw invitations
    #[command(after_help = "Examples:\n  muster invitation revoke abcdefghij")]
    Revoke {
        /// Their ids, as `muster invitation list` shows them
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Accept an invitation that you were sent
    #[command(after_help = "\
If you have an account at that hub, log in first. If you have none, you choose a name and a password, and are logged in.

Examples:
  muster invitation accept 'https://hub.example.com/invite#mi1....'
  pass show hub | muster invitation accept 'https://hub/invite#mi1....' --password-stdin")]
    Accept {
        /// The whole link
        link: String,
        /// The name that others see, for a new account
        #[arg(long)]
        name: Option<String>,
        /// Read the new account's password from standard input
        #[arg(long)]
        password_stdin: bool,
    },
}

fn parse_role<T: Copy>(text: Option<String>, roles: &[(&str, T)], usual: T, hint: &str) -> Result<T, Failure> {
    let Some(text) = text else { return Ok(usual) };
    roles.iter().find(|(name, _)| *name == text).map(|(_, role)| *role).ok_or_else(|| {
        let names: Vec<&str> = roles.iter().map(|(name, _)| *name).collect();
        Failure::usage(format!("{text:?} is not a role here; write one of: {}", names.join(", "))).hint(hint)
    })
}

/// Invites somebody.
///
/// # Errors
/// As every call.
pub async fn invite(context: &Context, globals: &Globals, args: InviteArgs) -> Result<u8, Failure> {
    let wanted = if globals.project_on_line {
        let project = context.need_project()?.clone();
        let role = parse_role(args.role, PROJECT_ROLES, ProjectRole::Operate, "with --project the invitation is to that project alone")?;
        InvitationCreate { email: args.email, role: None, project: Some(project), project_role: Some(role) }
    } else {
        let role = parse_role(
            args.role,
            ORG_ROLES,
            OrgRole::Member,
            "roles in a project need --project; without it the invitation is to the organization",
        )?;
        InvitationCreate { email: args.email, role: Some(role), project: None, project_role: None }
    };
    let made: Invitation = context.hub().post(&context.org_path("/invitations").await?, &wanted).await?;
    tell(context, &made).await
}

async fn tell(context: &Context, made: &Invitation) -> Result<u8, Failure> {
    if context.out.json {
        context.out.json(made)?;
        return Ok(0);
    }
    let link =
        made.link.as_deref().ok_or_else(|| Failure::new(Exit::Failed, "the hub created the invitation but did not return its link"))?;
    let place = place(made);
    note(format!(
        "Invited {} to {} with the role {place}. The link is good until {}.",
        made.email,
        context.org().await?,
        local_ago(now(), made.expires_at)
    ));
    note(match made.mail {
        MailState::Queued | MailState::Sent => "The hub mails the link. It is this one, only for that person:",
        MailState::None | MailState::Failed => "The hub sends no mail: pass this link on, only to that person:",
    });
    context.out.line(link)?;
    Ok(0)
}

fn place(invitation: &Invitation) -> String {
    match (&invitation.project, invitation.project_role, invitation.role) {
        (Some(project), Some(role), _) => format!("{} of {project}", role.as_str()),
        (_, _, Some(role)) => role.as_str().to_owned(),
        _ => "?".to_owned(),
    }
}

/// Runs it.
///
/// # Errors
/// As every call.
pub async fn run(globals: &Globals, args: InvitationArgs) -> Result<u8, Failure> {
    match args.command.unwrap_or(InvitationCommand::List) {
        InvitationCommand::Accept { link, name, password_stdin } => accept(globals, &link, name, password_stdin).await,
        InvitationCommand::List => {
            let context = Context::new(globals)?;
            let items: Vec<Invitation> = context.hub().list(&context.org_path("/invitations").await?, None).await?;
            context.out.list(&items, "no invitations wait", table)?;
            Ok(0)
        }
        InvitationCommand::Resend { id } => {
            let context = Context::new(globals)?;
            let path = context.org_path(&format!("/invitations/{}/resend", encode(&id))).await?;
            let made: Invitation = context.hub().post(&path, &serde_json::json!({})).await?;
            tell(&context, &made).await
        }
        InvitationCommand::Revoke { ids, yes } => {
            let context = Context::new(globals)?;
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            confirm(yes, &format!("Revoke {}?", ids.join(", ")))?;
            decide::each(&ids, async |id| {
                context.hub().delete(&context.org_path(&format!("/invitations/{}", encode(id))).await?).await?;
                context.out.line(format!("Revoked {id}."))
            })
            .await
        }
    }
}

fn table(items: &[Invitation]) -> Table {
    let columns = [
        column("ID"),
        column("E-MAIL").shrinks(16),
        column("AS").shrinks(10),
        column("ENDS"),
        column("MAIL").optional(1),
        column("INVITED BY").shrinks(10).optional(2),
    ];
    let mut table = Table::new(columns);
    let now = now();
    for one in items {
        let mail = match (one.mail, &one.mail_error) {
            (MailState::None, _) => "-".to_owned(),
            (MailState::Sent, _) => "sent".to_owned(),
            (MailState::Queued, None) => "queued".to_owned(),
            (MailState::Queued, Some(why)) => format!("is tried again: {why}"),
            (MailState::Failed, why) => format!("failed: {}", why.as_deref().unwrap_or("?")),
        };
        let style = if one.expires_at <= now { Style::Red } else { Style::Plain };
        table.row([
            styled(&one.id, Style::Bold),
            cell(&one.email),
            cell(place(one)),
            styled(local_ago(now, one.expires_at), style),
            cell(mail),
            cell(&one.invited_by),
        ]);
    }
    table
}

/// The hub and the token of a link.
fn parse_link(globals: &Globals, link: &str) -> Result<(String, Token), Failure> {
    let bad = |why: String| Failure::usage(why).hint("copy the whole link, with everything behind the #, and put it in quotes");
    let (url, token) = match link.trim().split_once('#') {
        Some((url, token)) => {
            let base = url.strip_suffix("/invite").ok_or_else(|| bad(format!("{url} is not the address of an invitation")))?;
            (hub_url(base)?, token)
        }
        None => match globals.hub.as_deref().filter(|url| !url.is_empty()) {
            Some(url) => (hub_url(url)?, link.trim()),
            None => return Err(bad("this is not the link of an invitation".to_owned())),
        },
    };
    Ok((url, Token::parse(token, TokenKind::Invitation).map_err(|error| bad(error.to_string()))?))
}

async fn accept(globals: &Globals, link: &str, name: Option<String>, password_stdin: bool) -> Result<u8, Failure> {
    let (url, token) = parse_link(globals, link)?;
    let stranger = Hub::new(&url, token.pin, None, None)?;
    let look = InvitationLook { token: token.to_string() };
    let looked: InvitationLooked = stranger.post("/v1/invitations/look", &look).await?;
    let (accepted, made) = match saved_login(globals, &url, &token)? {
        Some(own) if looked.has_account || !looked.password_login => {
            let hub = Hub::new(&url, token.pin, Some(&own), None)?;
            let body = InvitationAccept { token: token.to_string(), ..InvitationAccept::default() };
            (hub.post::<InvitationAccepted>("/v1/invitations/accept", &body).await?, None)
        }
        _ if looked.has_account || !looked.password_login => {
            let why = format!("{} is invited, and accepts logged in", looked.email);
            return Err(Failure::new(Exit::Denied, why).hint(format!("run: muster login {url}, then this command again")));
        }
        _ => {
            let body = newcomer(&looked, &token, name, password_stdin)?;
            let accepted: InvitationAccepted = stranger.post("/v1/invitations/accept", &body).await?;
            let made = Token::parse(accepted.token.as_deref().unwrap_or_default(), TokenKind::Personal).map_err(|error| {
                Failure::new(Exit::Failed, format!("the account is made, but the hub's answer holds no token: {error}"))
            })?;
            (accepted, Some(made))
        }
    };
    let shown = InvitationAccepted { token: None, ..accepted };
    let place = match (&shown.project, shown.project_role, shown.role) {
        (Some(project), Some(role), _) => format!("now has the {} role in project {project} of {}", role.as_str(), shown.org),
        (_, _, Some(role)) => format!("now has the {} role in {}", role.as_str(), shown.org),
        _ => format!("now belongs to {}", shown.org),
    };
    let out = Output::new(globals.json, globals.color);
    out.done(&shown, format!("{} {place}.", shown.email))?;
    if let Some(made) = made {
        let quiet = Globals { json: false, ..globals.clone() };
        let saved = login::save(&quiet, &Book::path()?, &url, &made, true, None).await?;
        note(format!("Logged in to {url} as {}; saved as {:?}.", saved.me.email, saved.name));
    }
    Ok(0)
}

/// The login that there is for this hub: given, or saved.
fn saved_login(globals: &Globals, url: &str, invitation: &Token) -> Result<Option<Token>, Failure> {
    let same = |token: &Token| token.pin == invitation.pin;
    if let Some(text) = globals.token.as_deref().filter(|text| !text.is_empty()) {
        let token = Token::parse(text, TokenKind::Personal).map_err(|error| Failure::usage(error.to_string()))?;
        return Ok(Some(token).filter(same));
    }
    let book = Book::load(&Book::path()?)?;
    let name = globals.profile.as_deref().or_else(|| book.for_hub(url));
    let profile = name.and_then(|name| book.profiles.get(name)).filter(|profile| profile.hub == url);
    Ok(profile.map(|profile| profile.token()).transpose()?.filter(same))
}

/// What an invitation is to, and with which role.
fn offered(looked: &InvitationLooked) -> String {
    let project = looked.project_name.as_deref().or(looked.project.as_ref().map(AsRef::as_ref));
    match (project, looked.project_role, looked.role) {
        (Some(project), Some(role), _) => format!("project {project} of {} with the {} role", looked.org_name, role.as_str()),
        (_, _, Some(role)) => format!("{} with the {} role", looked.org_name, role.as_str()),
        _ => looked.org_name.clone(),
    }
}

fn newcomer(looked: &InvitationLooked, token: &Token, name: Option<String>, from_stdin: bool) -> Result<InvitationAccept, Failure> {
    if !from_stdin && !tty::interactive() {
        return Err(Failure::usage("nobody can be asked for the new account's password here").hint("give --name and --password-stdin"));
    }
    if !from_stdin {
        note(format!("{} invites {} to {}. This creates an account.", looked.invited_by, looked.email, offered(looked)));
    }
    let name = match name {
        Some(name) => name,
        None if from_stdin => looked.email.split('@').next().unwrap_or_default().to_owned(),
        None => tty::ask("Your name:")?,
    };
    let password = if from_stdin {
        tty::line()?
    } else {
        let password = tty::ask_hidden("Choose a password, at least 10 characters:")?;
        if tty::ask_hidden("Repeat it:")? != password {
            return Err(Failure::usage("the two passwords differ; nothing was changed"));
        }
        password
    };
    let token_name = Some(login::token_name());
    Ok(InvitationAccept { token: token.to_string(), name: Some(name.trim().to_owned()), password: Some(password), token_name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links() {
        let token = "mi1.abcdefghij.klmnopqrstuvwxyz234567abcdefghij.__79_Pv6-fj39vX08_Lx8O_u7ezr6uno5-bl5OPi4eA";
        let none = Globals::default();
        let (url, parsed) = parse_link(&none, &format!("https://Hub.example:8443/invite#{token}\n")).unwrap();
        assert_eq!((url.as_str(), parsed.id.as_str()), ("https://hub.example:8443", "abcdefghij"));
        assert_eq!(parse_link(&none, &format!("hub.example/invite#{token}")).unwrap().0, "https://hub.example");
        let named = Globals { hub: Some("hub.example".into()), ..Globals::default() };
        assert_eq!(parse_link(&named, token).unwrap().0, "https://hub.example");
        for bad in ["", token, "https://hub.example/invite", "https://hub.example/invite#mi1.x", "https://hub.example/x#mi1.a"] {
            assert_eq!(parse_link(&none, bad).unwrap_err().exit, 2, "{bad}");
        }
        assert!(parse_link(&none, &format!("http://hub.example/invite#{token}")).is_err());
    }
}
