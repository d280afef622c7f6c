//! Invitations: the only way into an organization or a project, with the person's consent.
//!
//! A secret that was mailed proves the e-mail; one that the inviter was shown proves nothing but the inviter's word, and everybody
//! with an account may make an organization and invite. So what makes or opens an account is decided by [`Proof`]; see decision 0012.

use axum::Json;
use axum::extract::{FromRequest as _, FromRequestParts as _, Request, State};
use http::{StatusCode, header};
use muster_proto::Millis;
use muster_proto::api::{
    AccessToken, Invitation, InvitationAccept, InvitationAccepted, InvitationCreate, InvitationLook, InvitationLooked, MailState, OrgRole,
    Page,
};
use muster_proto::problem::Code;
use muster_proto::token::{Token, TokenKind};
use rusqlite::{Connection, Transaction};
use serde_json::json;
use subtle::ConstantTimeEq as _;

use super::orgs::display_name;
use super::people::{LOGIN_DAYS, check_name, new_token};
use super::{ApiError, ApiResult, Body, OrgAccess, Path, Route};
use crate::audit::Entry;
use crate::auth::{self, Person};
use crate::clock::{self, DAY, SECOND};
use crate::rights::Action;
use crate::standings::Standings;
use crate::state::{App, AppState};
use crate::store::accounts::{self as stored, Account};
use crate::store::invitations::{self, InvitationRow, Place};
use crate::store::{self, orgs, problem, tokens};
use crate::{accounts, random, rights};

/// Life of a link.
const LIFE: Millis = 7 * DAY;
/// Invitations of one organization that wait at the same time.
const PENDING_MAX: u32 = 1000;
/// One invitation is mailed at most so often: nobody's mailbox is to be filled.
const MAIL_EVERY: Millis = 300 * SECOND;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs/{org}/invitations", list),
        Route::post("/v1/orgs/{org}/invitations", create).audited("invitation.create"),
        Route::post("/v1/orgs/{org}/invitations/{id}/resend", resend).audited("invitation.resend"),
        Route::delete("/v1/orgs/{org}/invitations/{id}", revoke).audited("invitation.revoke"),
        Route::post("/v1/invitations/look", look).audited("invitation.look"),
        Route::post("/v1/invitations/accept", accept).audited("invitation.accept"),
    ]
}

/// Lets only those go on who may invite to this place; nobody gives more than is his own.
fn may_invite(access: &OrgAccess, place: &Place) -> ApiResult<()> {
    let Place::Project(project, role) = place else { return access.require(Action::ManageMembers) };
    access.require_in(Action::ManageParticipants, project.as_str())?;
    access.own_at_least(project, *role).map(drop)
}

async fn list(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Page<Invitation>>> {
    let all = access.require(Action::ManageMembers);
    let own: Vec<_> = access
        .projects
        .iter()
        .filter(|(id, _)| access.require_in(Action::ManageParticipants, id.as_str()).is_ok())
        .map(|(id, _)| id.clone())
        .collect();
    // Whoever maintains a project sees whom it waits for; owners see all.
    if own.is_empty() {
        all.clone()?;
    }
    let org = access.org.clone();
    let rows = state.store.read(move |db| invitations::pending(db, &org)).await?;
    let seen = |row: &InvitationRow| all.is_ok() || row.place.project().is_some_and(|project| own.contains(project));
    let items = rows.iter().filter(|row| seen(row)).map(InvitationRow::shown).collect();
    Ok(Json(Page { items, next: None }))
}

async fn create(
    State(state): State<AppState>,
    access: OrgAccess,
    Body(wanted): Body<InvitationCreate>,
) -> ApiResult<(StatusCode, Json<Invitation>)> {
    let invalid = |why: &str| ApiError::new(Code::Invalid, why);
    let place = match (wanted.role, wanted.project, wanted.project_role) {
        (Some(role), None, None) => Place::Org(role),
        (None, Some(project), Some(role)) => Place::Project(project, role),
        (None, None, None) => return Err(invalid("role: say with which role, or name a project and project_role")),
        (None, None, Some(_)) => return Err(invalid("project: project_role needs a project")),
        (None, Some(_), None) => return Err(invalid("project_role: say with which role in the project")),
        (Some(_), ..) => {
            return Err(invalid("role: an invitation is to the organization or to one project; invite to the other as well later"));
        }
    };
    may_invite(&access, &place)?;
    let email = accounts::parse_email(&wanted.email).map_err(|why| ApiError::new(Code::Invalid, format!("email: {why}")))?;
    let now = clock::now();
    let token = Token::from_random(TokenKind::Invitation, random::bytes(), state.ca.pin());
    let row = InvitationRow {
        id: token.id.clone(),
        org: access.org.clone(),
        place,
        email: email.clone(),
        digest: random::sha256(token.secret.as_bytes()).to_vec(),
        mail_digest: None,
        invited_by: access.person.email.clone(),
        created_at: now,
        renewed_at: now,
        expires_at: now + LIFE,
        accepted_at: None,
        revoked_at: None,
        mail: state.mailer.first_state(),
        mail_attempts: 0,
        mail_error: None,
    };
    let mut shown = row.shown();
    let entry = access.entry("invitation.create", &email).with(json!({
        "id": row.id, "role": shown.role, "project": shown.project, "project_role": shown.project_role,
    }));
    let work = move |tx: &Transaction<'_>| {
        refuse_if_in(tx, &row)?;
        match invitations::pending_for(tx, &row.org, row.place.project(), &row.email)? {
            Some(waits) if waits.expires_at > now => {
                let why =
                    format!("{} is invited already ({}); send it again with `muster invitation resend {}`", row.email, waits.id, waits.id);
                return Err(problem(Code::Exists, why));
            }
            // Its link is past its date: this one takes its place.
            Some(ended) => invitations::revoke(tx, &ended.id, &row.invited_by, now)?,
            None => {}
        }
        if invitations::count_pending(tx, &row.org)? >= PENDING_MAX {
            return Err(problem(Code::Conflict, format!("{PENDING_MAX} invitations wait already; revoke some first")));
        }
        invitations::insert(tx, &row)?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    state.mailer.wake();
    shown.link = Some(link(&state, &token));
    Ok((StatusCode::CREATED, Json(shown)))
}

/// Nobody is invited to where he is.
fn refuse_if_in(connection: &Connection, row: &InvitationRow) -> store::Result<()> {
    let Some(account) = stored::by_email(connection, &row.email)? else { return Ok(()) };
    let exists = |place: &dyn std::fmt::Display| Err(problem(Code::Exists, format!("{} is in {place} already", row.email)));
    match &row.place {
        Place::Org(_) if orgs::role(connection, &row.org, account.id)?.is_some() => exists(&row.org),
        Place::Project(project, _) if orgs::participant(connection, &row.org, project, account.id)?.is_some() => exists(project),
        _ => Ok(()),
    }
}

fn link(state: &App, token: &Token) -> String {
    format!("{}/invite#{token}", state.endpoints.https)
}

/// What is done with an invitation that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taking {
    /// It is sent again: the project must be open.
    Forward,
    /// It is taken back, also while the project is archived: its link would be good again with the project.
    Back,
}

/// An invitation of this organization that waits, which the person may see to.
async fn pending(state: &AppState, access: &OrgAccess, id: &str, taking: Taking) -> ApiResult<InvitationRow> {
    let by_id = id.to_owned();
    let found = state.store.read(move |db| invitations::by_id(db, &by_id)).await?;
    let found = found.filter(|row| row.org == access.org).ok_or_else(|| ApiError::not_found("invitation", id))?;
    match &found.place {
        Place::Project(project, role) if taking == Taking::Back => {
            access.require_in_any(Action::ManageParticipants, project.as_str())?;
            access.own_at_least(project, *role)?;
        }
        place => may_invite(access, place)?,
    }
    if !found.is_pending() {
        let how = if found.accepted_at.is_some() { "was accepted" } else { "was revoked" };
        return Err(ApiError::new(Code::Conflict, format!("the invitation of {} {how} already", found.email)));
    }
    Ok(found)
}

async fn resend(State(state): State<AppState>, access: OrgAccess, Path((_, id)): Path<(String, String)>) -> ApiResult<Json<Invitation>> {
    let row = pending(&state, &access, &id, Taking::Forward).await?;
    let now = clock::now();
    let mail = state.mailer.first_state();
    let wait = row.renewed_at + MAIL_EVERY - now;
    if mail != MailState::None && wait > 0 {
        let mut error = ApiError::new(Code::RateLimited, format!("{} was mailed just now; send it again later", row.email));
        error.0.retry_in = u32::try_from(wait / SECOND + 1).ok();
        return Err(error);
    }
    let drawn = Token::from_random(TokenKind::Invitation, random::bytes(), state.ca.pin());
    let token = Token { id: row.id.clone(), ..drawn };
    let digest = random::sha256(token.secret.as_bytes());
    let entry = access.entry("invitation.resend", &row.email).with(json!({ "id": row.id }));
    let work = move |tx: &Transaction<'_>| {
        still_pending(invitations::by_id(tx, &id)?)?;
        invitations::renew(tx, &id, digest, now, now + LIFE, mail)?;
        entry.ok(tx)?;
        still_pending(invitations::by_id(tx, &id)?)
    };
    let mut shown = state.store.write(work).await?.shown();
    state.mailer.wake();
    shown.link = Some(link(&state, &token));
    Ok(Json(shown))
}

async fn revoke(State(state): State<AppState>, access: OrgAccess, Path((_, id)): Path<(String, String)>) -> ApiResult<StatusCode> {
    let row = pending(&state, &access, &id, Taking::Back).await?;
    let entry = access.entry("invitation.revoke", &row.email).with(json!({ "id": row.id }));
    let work = move |tx: &Transaction<'_>| {
        still_pending(invitations::by_id(tx, &id)?)?;
        invitations::revoke(tx, &id, &entry.actor, clock::now())?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn still_pending(row: Option<InvitationRow>) -> store::Result<InvitationRow> {
    row.filter(InvitationRow::is_pending).ok_or_else(|| problem(Code::Conflict, "the invitation was accepted or revoked just now"))
}

/// The token of a link, of this hub.
fn parse(state: &App, text: &str) -> ApiResult<Token> {
    let token = Token::parse(text, TokenKind::Invitation).map_err(|error| ApiError::new(Code::Invalid, format!("token: {error}")))?;
    if token.pin != state.ca.pin() {
        return Err(ApiError::new(Code::Invalid, "token: this invitation is to another hub"));
    }
    Ok(token)
}

/// What the holder of a link has proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// That mail to the invited address reaches them.
    Mailed,
    /// That an owner of the hub gave them the link: the operator's word.
    Operator,
    /// That somebody who may invite gave them the link.
    Shown,
}

/// The invitation that a token opens now, and what the token proves.
fn opened(connection: &Connection, token: &Token, now: Millis) -> store::Result<(InvitationRow, Proof)> {
    let unknown = || problem(Code::NotFound, "this invitation is not known here; ask for a new one");
    let row = invitations::by_id(connection, &token.id)?.ok_or_else(unknown)?;
    let digest = random::sha256(token.secret.as_bytes());
    let by_link = digest.as_slice().ct_eq(&row.digest);
    let by_mail = row.mail_digest.as_ref().map_or(0.into(), |mailed| digest.as_slice().ct_eq(mailed));
    if !bool::from(by_link | by_mail) {
        return Err(problem(Code::NotFound, "this link was replaced by a newer one: look for the newest mail, or ask for the link"));
    }
    if row.accepted_at.is_some() {
        return Err(problem(Code::Conflict, "this invitation was accepted already"));
    }
    if row.revoked_at.is_some() {
        return Err(problem(Code::NotFound, "this invitation was withdrawn"));
    }
    if row.expires_at <= now {
        return Err(problem(Code::NotFound, format!("this invitation has expired; ask {} for a new link", row.invited_by)));
    }
    let inviter = stored::by_email(connection, &row.invited_by)?.filter(Account::is_open);
    if !inviter.as_ref().map_or(Ok(false), |inviter| still_may(connection, &row, inviter.id))? {
        return Err(problem(Code::NotFound, format!("{} may no longer invite you there; ask for a new invitation", row.invited_by)));
    }
    let proof = match inviter {
        _ if bool::from(by_mail) => Proof::Mailed,
        Some(inviter) if inviter.hub_owner => Proof::Operator,
        _ => Proof::Shown,
    };
    Ok((row, proof))
}

/// Whether who invited still has the right: who left, or has less, leaves no doors behind.
fn still_may(connection: &Connection, row: &InvitationRow, inviter: i64) -> store::Result<bool> {
    let Some(standing) = Standings::inside(connection, &row.org, inviter)? else { return Ok(false) };
    Ok(match &row.place {
        Place::Org(_) => rights::allows(Action::ManageMembers, standing.role, None),
        Place::Project(project, gives) => {
            let role = standing.projects.get(project).map(|project| project.role);
            rights::allows(Action::ManageParticipants, standing.role, role) && role.is_some_and(|role| role >= *gives)
        }
    })
}

/// Whether the holder of a link may make, open or take over the account of its e-mail.
fn may_have(account: Option<&Account>, proof: Proof, mails: bool, email: &str) -> store::Result<()> {
    let operator = "an owner of the hub can help: muster-hub user";
    match (account, proof) {
        (None, Proof::Mailed | Proof::Operator) => Ok(()),
        // Where the hub mails, the mail is what proves; where it does not, the inviter's word is all there is.
        (None, Proof::Shown) if !mails => Ok(()),
        (None, Proof::Shown) => {
            Err(problem(Code::Forbidden, format!("a new account is made with the link that was mailed to {email}: open that one")))
        }
        (Some(account), _) if account.disabled_at.is_some() => Err(problem(Code::Forbidden, auth::DISABLED)),
        (Some(account), Proof::Mailed | Proof::Operator) if account.closed_at.is_some() => Ok(()),
        (Some(account), Proof::Shown) if account.closed_at.is_some() => {
            Err(problem(Code::Forbidden, format!("the account {email} was closed by its person; {operator} enable")))
        }
        // Somebody made it who never proved to read this address: its person takes it over.
        (Some(account), Proof::Mailed) if account.verified_at.is_none() => Ok(()),
        (Some(_), _) => {
            Err(problem(Code::Unauthenticated, format!("{email} has an account here: log in first, with `muster login`, then accept")))
        }
    }
}

async fn look(State(state): State<AppState>, Body(asked): Body<InvitationLook>) -> ApiResult<Json<InvitationLooked>> {
    let token = parse(&state, &asked.token)?;
    let password_login = state.config.login.password;
    let work = move |db: &Connection| {
        let (row, proof) = opened(db, &token, clock::now())?;
        let account = stored::by_email(db, &row.email)?;
        let to_log_in = account.is_some_and(|account| account.is_open() && !(proof == Proof::Mailed && account.verified_at.is_none()));
        let (org_name, project_name) = orgs::names(db, &row.org, row.place.project())?;
        let shown = row.shown();
        Ok(InvitationLooked {
            org: row.org,
            org_name,
            email: row.email,
            role: shown.role,
            project: shown.project,
            project_name,
            project_role: shown.project_role,
            invited_by: row.invited_by,
            expires_at: row.expires_at,
            has_account: to_log_in,
            password_login,
        })
    };
    Ok(Json(state.store.read(work).await?))
}

async fn accept(State(state): State<AppState>, request: Request) -> ApiResult<Json<InvitationAccepted>> {
    let (mut parts, body) = request.into_parts();
    let person = match parts.headers.contains_key(header::AUTHORIZATION) {
        true => Some(Person::from_request_parts(&mut parts, &state).await?),
        false => None,
    };
    let from = auth::address(&parts);
    let Body(wanted): Body<InvitationAccept> = Body::from_request(Request::from_parts(parts, body), &state).await?;
    let token = parse(&state, &wanted.token)?;
    let (by_token, now) = (token.clone(), clock::now());
    // Looked at first without writing: whoever has no link does not make the hub hash passwords.
    let (row, proof) = state.store.read(move |db| opened(db, &by_token, now)).await?;
    let newcomer = match person {
        Some(person) => {
            person.require_person("accept invitations")?;
            if person.email != row.email {
                let why = format!("this invitation is for {}; you are logged in as {}", row.email, person.email);
                return Err(ApiError::new(Code::Forbidden, why));
            }
            None
        }
        None => Some(newcomer(&state, wanted, &row, proof).await?),
    };
    let made_by_token = newcomer.as_ref().and_then(|newcomer| newcomer.token.clone());
    let entry = Entry {
        org: Some(row.org.clone()),
        actor: row.email.clone(),
        action: "invitation.accept",
        target: row.place.project().map_or_else(|| row.org.to_string(), ToString::to_string),
        from,
        details: json!({ "id": row.id, "invited_by": row.invited_by, "new_account": newcomer.is_some(), "by_mail": proof == Proof::Mailed }),
    };
    let work = move |tx: &Transaction<'_>| {
        let (row, proof) = opened(tx, &token, now)?;
        let account = match &newcomer {
            Some(newcomer) => newcomer.settle(tx, &row, proof, now)?,
            // Whoever is logged in to an account that was never proved may be one of two who know its password: it stays unproved.
            None => open_account(tx, &row.email)?.id,
        };
        match &row.place {
            // Who came in otherwise meanwhile keeps what is more.
            Place::Org(role) if orgs::role(tx, &row.org, account)?.is_none_or(|has| has < *role) => {
                orgs::set_member(tx, &row.org, account, *role, now)?;
            }
            Place::Project(project, role) if orgs::participant(tx, &row.org, project, account)?.is_none_or(|has| has < *role) => {
                if !orgs::project_is_open(tx, &row.org, project)? {
                    return Err(problem(Code::Archived, format!("project {project} is archived: nobody can join it")));
                }
                orgs::set_participant(tx, &row.org, project, account, *role, now)?;
            }
            _ => {}
        }
        invitations::accept(tx, &row.id, now)?;
        entry.ok(tx)?;
        Ok(row)
    };
    let row = state.store.write(work).await?;
    let shown = row.shown();
    Ok(Json(InvitationAccepted {
        org: row.org,
        role: shown.role,
        project: shown.project,
        project_role: shown.project_role,
        email: row.email,
        token: made_by_token,
    }))
}

/// An account that may be used, of somebody who proved to own it.
fn open_account(connection: &Connection, email: &str) -> store::Result<Account> {
    let account = stored::by_email(connection, email)?.filter(Account::is_open);
    account.ok_or_else(|| problem(Code::Forbidden, auth::DISABLED))
}

/// Somebody who has no account yet.
struct Newcomer {
    name: String,
    password: String,
    /// Whether the hub mails.
    mails: bool,
    first: Option<(AccessToken, [u8; 32])>,
    token: Option<String>,
}

async fn newcomer(state: &App, wanted: InvitationAccept, row: &InvitationRow, proof: Proof) -> ApiResult<Newcomer> {
    let email = row.email.clone();
    let account = state.store.read(move |db| stored::by_email(db, &email)).await?;
    let mails = state.mailer.first_state() != MailState::None;
    may_have(account.as_ref(), proof, mails, &row.email)?;
    if !state.config.login.password {
        return Err(ApiError::new(Code::Unauthenticated, "this hub has single sign-on: log in first, with `muster login`, then accept"));
    }
    let needed = |what: &str| {
        ApiError::new(Code::Invalid, format!("{what}: {} has no account yet; a new one needs a name and a password", row.email))
    };
    let name = display_name(Some(wanted.name.ok_or_else(|| needed("name"))?), "")?;
    let password = wanted.password.ok_or_else(|| needed("password"))?;
    accounts::check_new_password(&password).map_err(|why| ApiError::new(Code::Invalid, format!("password: {why}")))?;
    let first = match wanted.token_name {
        None => None,
        Some(name) => {
            check_name(&name)?;
            let (token, shown) = new_token(state.ca.pin(), name, LOGIN_DAYS, clock::now());
            Some((AccessToken { token: None, ..shown }, random::sha256(token.secret.as_bytes()), token.to_string()))
        }
    };
    let password = accounts::hash_slowly(password).await?;
    let token = first.as_ref().map(|(_, _, text)| text.clone());
    Ok(Newcomer { name, password, mails, first: first.map(|(shown, digest, _)| (shown, digest)), token })
}

impl Newcomer {
    /// Makes the account, opens the one that its person closed once, or takes over one that somebody else made.
    fn settle(&self, tx: &Transaction<'_>, row: &InvitationRow, proof: Proof, now: Millis) -> store::Result<i64> {
        let present = stored::by_email(tx, &row.email)?;
        may_have(present.as_ref(), proof, self.mails, &row.email)?;
        let (account, how) = match present {
            None => (stored::create(tx, &row.email, &self.name, Some(&self.password), now)?, "account.create"),
            Some(account) => {
                stored::hand_over(tx, account.id, &self.name, Some(&self.password))?;
                (account.id, if account.closed_at.is_some() { "account.reopen" } else { "account.take_over" })
            }
        };
        stored::set_verified(tx, account, (proof != Proof::Shown).then_some(now))?;
        if let Some((shown, digest)) = &self.first {
            tokens::insert(tx, account, *digest, shown)?;
        }
        let vouched_by = (proof != Proof::Mailed).then_some(&row.invited_by);
        let details = json!({ "invitation": row.id, "by_mail": proof == Proof::Mailed, "vouched_by": vouched_by });
        let (actor, target) = (row.email.clone(), row.email.clone());
        Entry { org: None, actor, action: how, target, from: None, details }.ok(tx)?;
        Ok(account)
    }
}

/// Whether a role in the organization can be held by this account; a service account is never an owner.
pub(super) fn refuse_service_owner(account: &Account, role: OrgRole) -> store::Result<()> {
    if account.service && role == OrgRole::Owner {
        return Err(problem(Code::Forbidden, format!("{} is a service account and never an owner", account.email)));
    }
    Ok(())
}
