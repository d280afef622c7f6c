//! Organizations and their members.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use muster_proto::api::{Credits, Member, MemberPut, Org, OrgCreate, OrgEdit, OrgRole, Page};
use muster_proto::id::OrgId;
use muster_proto::problem::Code;
use rusqlite::{Connection, Transaction};
use serde::Deserialize;
use serde_json::json;

use super::images::{self, ImageBody};
use super::invitations::refuse_service_owner;
use super::{ApiError, ApiResult, Body, Email, OrgAccess, Path, Query, Route, text};
use crate::auth::Person;
use crate::clock;
use crate::rights::Action;
use crate::state::AppState;
use crate::store::accounts::{self, Account};
use crate::store::orgs::Details;
use crate::store::{self, images as stored, ledger, org_deletion, orgs, problem, teams};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs", list),
        Route::post("/v1/orgs", create).audited("org.create"),
        Route::get("/v1/orgs/{org}", show),
        Route::patch("/v1/orgs/{org}", edit).audited("org.edit"),
        Route::delete("/v1/orgs/{org}", delete).audited("org.delete"),
        Route::get("/v1/orgs/{org}/logo", logo),
        Route::put("/v1/orgs/{org}/logo", put_logo).audited("org.logo_put"),
        Route::delete("/v1/orgs/{org}/logo", delete_logo).audited("org.logo_delete"),
        Route::post("/v1/orgs/{org}/leave", leave).audited("member.leave"),
        Route::get("/v1/orgs/{org}/members", members),
        Route::put("/v1/orgs/{org}/members/{email}", put_member).audited("member.put"),
        Route::delete("/v1/orgs/{org}/members/{email}", delete_member).audited("member.delete"),
    ]
}

async fn list(State(state): State<AppState>, person: Person) -> ApiResult<Json<Page<Org>>> {
    let items = state.store.read(move |db| orgs::of_account(db, person.account)).await?;
    Ok(Json(Page { items: as_limited(&person, items), next: None }))
}

/// The organizations of an account as this token knows them: only its own, and to one project as a collaborator.
pub(super) fn as_limited(person: &Person, mut orgs: Vec<Org>) -> Vec<Org> {
    orgs.retain(|org| person.only_org.as_ref().is_none_or(|only| *only == org.id));
    if person.only_project.is_some() {
        orgs.iter_mut().for_each(|org| org.role = None);
    }
    orgs
}

async fn create(State(state): State<AppState>, person: Person, Body(wanted): Body<OrgCreate>) -> ApiResult<(StatusCode, Json<Org>)> {
    person.require_person("make an organization")?;
    let name = display_name(wanted.name, wanted.id.as_str())?;
    let details = checked(OrgEdit {
        name: None,
        full_name: Some(wanted.full_name),
        description: Some(wanted.description),
        location: Some(wanted.location),
        website: Some(wanted.website),
    })?;
    let mut entry = person.entry("org.create", wanted.id.as_str()).with(json!({ "name": name }));
    entry.org = Some(wanted.id.clone());
    let work = move |tx: &Transaction<'_>| {
        orgs::create(tx, &wanted.id, &name, person.account, clock::now())?;
        orgs::edit(tx, &wanted.id, &details)?;
        entry.ok(tx)?;
        orgs::show(tx, &wanted.id, Some(OrgRole::Owner))?.ok_or_else(|| problem(Code::NotFound, "the organization is gone already"))
    };
    Ok((StatusCode::CREATED, Json(state.store.write(work).await?)))
}

/// What a person wrote, held to the rules of each field.
fn checked(wanted: OrgEdit) -> ApiResult<Details> {
    type Check = fn(&str, String) -> ApiResult<Option<String>>;
    let field = |name: &str, value: Option<Option<String>>, check: Check| match value {
        Some(Some(text)) => check(name, text).map(Some),
        Some(None) => Ok(Some(None)),
        None => Ok(None),
    };
    Ok(Details {
        name: wanted.name.map(|name| text::name("name", name)).transpose()?,
        full_name: field("full_name", wanted.full_name, text::line)?,
        description: field("description", wanted.description, text::description)?,
        location: field("location", wanted.location, text::line)?,
        website: field("website", wanted.website, text::website)?,
    })
}

async fn show(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Org>> {
    let (org, role) = (access.org.clone(), access.role);
    let found = state.store.read(move |db| orgs::show(db, &org, role)).await?;
    Ok(Json(found.ok_or_else(|| ApiError::not_found("organization", access.org.as_str()))?))
}

async fn edit(State(state): State<AppState>, access: OrgAccess, Body(wanted): Body<OrgEdit>) -> ApiResult<Json<Org>> {
    access.require(Action::ManageOrg)?;
    let changed = serde_json::to_value(&wanted).unwrap_or_default();
    let details = checked(wanted)?;
    let entry = access.entry("org.edit", access.org.as_str()).with(changed);
    let work = move |tx: &Transaction<'_>| {
        orgs::edit(tx, &access.org, &details)?;
        entry.ok(tx)?;
        orgs::show(tx, &access.org, access.role)?.ok_or_else(|| gone(&access.org))
    };
    Ok(Json(state.store.write(work).await?))
}

fn gone(org: &OrgId) -> store::Error {
    problem(Code::NotFound, format!("there is no organization {org} any more"))
}

#[derive(Debug, Deserialize)]
struct Confirmed {
    confirm: Option<String>,
    /// The credits that are given up, as the balance says them.
    forfeit: Option<Credits>,
}

/// Nobody deletes what others still work with: what stands in the way is named, and nothing is half deleted.
async fn delete(State(state): State<AppState>, access: OrgAccess, Query(given): Query<Confirmed>) -> ApiResult<StatusCode> {
    access.require(Action::ManageOrg)?;
    access.person.require_person("delete an organization")?;
    let (org, by) = (access.org.clone(), access.person.email.clone());
    let entry = access.entry("org.delete", org.as_str()).with(json!({ "name": access.name, "forfeit": given.forfeit }));
    let (confirmed, forfeit) = (given.confirm.as_deref() == Some(org.as_str()), given.forfeit);
    let work = move |tx: &Transaction<'_>| {
        let mut obstacles = org_deletion::obstacles(tx, &org, access.person.account)?;
        // What is left of what was paid is not lost by the way: whoever gives it up says how much that is.
        let balance = ledger::balance(tx, &org)?;
        if balance.0 > 0 && forfeit != Some(balance) {
            let way = format!("ask an owner of the hub to take them back, or give them up: muster org delete {org} --forfeit {balance}");
            obstacles.push(format!("a balance of {balance} credits ({way})"));
        }
        if !obstacles.is_empty() {
            return Err(problem(Code::Conflict, format!("{org} cannot be deleted yet. In the way: {}", obstacles.join("; "))));
        }
        if !confirmed {
            let why = format!("confirm: nothing of {org} comes back, and its id is never given again; say ?confirm={org} to delete it");
            return Err(problem(Code::Invalid, why));
        }
        org_deletion::delete(tx, &org, &by, clock::now())?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn logo(State(state): State<AppState>, access: OrgAccess, headers: HeaderMap) -> ApiResult<Response> {
    let what = access.org.to_string();
    let image = state.store.read(move |db| stored::logo(db, &access.org)).await?;
    images::serve(image, &what, &headers)
}

async fn put_logo(State(state): State<AppState>, access: OrgAccess, ImageBody(image): ImageBody) -> ApiResult<Json<Org>> {
    access.require(Action::ManageOrg)?;
    let details = json!({ "media_type": image.media_type, "bytes": image.bytes.len(), "digest": image.digest });
    let entry = access.entry("org.logo_put", access.org.as_str()).with(details);
    let work = move |tx: &Transaction<'_>| {
        stored::set_logo(tx, &access.org, &image)?;
        entry.ok(tx)?;
        orgs::show(tx, &access.org, access.role)?.ok_or_else(|| gone(&access.org))
    };
    Ok(Json(state.store.write(work).await?))
}

async fn delete_logo(State(state): State<AppState>, access: OrgAccess) -> ApiResult<StatusCode> {
    access.require(Action::ManageOrg)?;
    let entry = access.entry("org.logo_delete", access.org.as_str());
    let work = move |tx: &Transaction<'_>| if stored::remove_logo(tx, &access.org)? { entry.ok(tx) } else { Ok(()) };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Everybody may go, whatever the role; the last owner only after somebody else is one.
async fn leave(State(state): State<AppState>, access: OrgAccess) -> ApiResult<StatusCode> {
    access.person.require_person("leave an organization")?;
    let entry = access.entry("member.leave", access.person.email.as_str()).with(json!({ "role": access.role }));
    let work = move |tx: &Transaction<'_>| {
        if !orgs::remove_member(tx, &access.org, access.person.account)? {
            return Err(problem(Code::NotFound, format!("you are not in {} any more", access.org)));
        }
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn members(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Page<Member>>> {
    access.require(Action::SeeMembers)?;
    let items = state.store.read(move |db| orgs::members(db, &access.org)).await?;
    Ok(Json(Page { items, next: None }))
}

async fn put_member(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, Email(email))): Path<(String, Email)>,
    Body(wanted): Body<MemberPut>,
) -> ApiResult<Json<Member>> {
    access.require(Action::ManageMembers)?;
    let role = wanted.role;
    let entry = access.entry("member.put", &email).with(json!({ "role": role }));
    let member = state.store.write(move |tx| {
        let account = account(tx, &email)?;
        if !teams::belongs(tx, &access.org, account.id)? {
            return Err(not_in(&email));
        }
        refuse_service_owner(&account, role)?;
        orgs::set_member(tx, &access.org, account.id, role, clock::now())?;
        entry.ok(tx)?;
        let member = orgs::members(tx, &access.org)?.into_iter().find(|member| member.email == account.email);
        member.ok_or_else(|| problem(Code::NotFound, "the member is gone already"))
    });
    Ok(Json(member.await?))
}

async fn delete_member(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, Email(email))): Path<(String, Email)>,
) -> ApiResult<StatusCode> {
    access.require(Action::ManageMembers)?;
    let entry = access.entry("member.delete", &email);
    let work = move |tx: &Transaction<'_>| {
        // Of an account that is elsewhere on the hub no more is told than of none.
        let removed = match accounts::by_email(tx, &email)? {
            Some(account) => orgs::remove_member(tx, &access.org, account.id)?,
            None => false,
        };
        if !removed {
            return Err(problem(Code::NotFound, format!("{email} is neither member nor collaborator of {}", access.org)));
        }
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The account of an e-mail in a path.
pub(super) fn account(connection: &Connection, email: &str) -> store::Result<Account> {
    accounts::by_email(connection, email)?.ok_or_else(|| not_in(email))
}

/// Nobody is put anywhere without consent; whether there is such an account is not told.
pub(super) fn not_in(email: &str) -> store::Error {
    problem(Code::NotFound, format!("{email} is not known here; invite them: muster invite {email}"))
}

/// A display name, or the id where none was given.
pub(super) fn display_name(name: Option<String>, id: &str) -> ApiResult<String> {
    text::name("name", name.unwrap_or_else(|| id.to_owned()))
}
