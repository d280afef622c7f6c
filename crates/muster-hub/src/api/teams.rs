//! Teams and who is in them, and the organization's collaborators.
//!
//! A team gives its people roles in projects, and nothing in the organization; which, `projects` decides.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use muster_proto::api::{Collaborator, Page, Team, TeamCreate, TeamEdit};
use muster_proto::id::TeamId;
use muster_proto::problem::Code;
use rusqlite::{Connection, Transaction};
use serde_json::json;

use super::images::{self, ImageBody};
use super::orgs::{account, display_name, not_in};
use super::text::description;
use super::{ApiError, ApiResult, Body, Email, OrgAccess, Path, Route};
use crate::clock;
use crate::rights::Action;
use crate::state::AppState;
use crate::store::{self, accounts, images as stored, problem, teams};

/// Most teams of an organization: lists of them have no pages.
const TEAMS_MAX: usize = 1000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs/{org}/collaborators", collaborators),
        Route::get("/v1/orgs/{org}/teams", list),
        Route::post("/v1/orgs/{org}/teams", create).audited("team.create"),
        Route::get("/v1/orgs/{org}/teams/{team}", show),
        Route::patch("/v1/orgs/{org}/teams/{team}", edit).audited("team.edit"),
        Route::delete("/v1/orgs/{org}/teams/{team}", delete).audited("team.delete"),
        Route::put("/v1/orgs/{org}/teams/{team}/members/{email}", put_member).audited("team.member_put"),
        Route::delete("/v1/orgs/{org}/teams/{team}/members/{email}", delete_member).audited("team.member_delete"),
        Route::get("/v1/orgs/{org}/teams/{team}/avatar", avatar),
        Route::put("/v1/orgs/{org}/teams/{team}/avatar", put_avatar).audited("team.avatar_put"),
        Route::delete("/v1/orgs/{org}/teams/{team}/avatar", delete_avatar).audited("team.avatar_delete"),
    ]
}

async fn collaborators(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Page<Collaborator>>> {
    access.require(Action::SeeMembers)?;
    let seeing = access.clone();
    let mut items = state.store.read(move |db| teams::collaborators(db, &seeing.org)).await?;
    // Who is only in projects that the caller may not know of is named, and where is not.
    for person in &mut items {
        person.projects.retain(|role| access.projects.contains_key(&role.project));
    }
    Ok(Json(Page { items, next: None }))
}

async fn list(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Page<Team>>> {
    access.require(Action::SeeMembers)?;
    let org = access.org.clone();
    let items = state.store.read(move |db| teams::list(db, &org, None)).await?;
    Ok(Json(Page { items: items.into_iter().map(|team| seen(&access, team)).collect(), next: None }))
}

/// A team as somebody sees it: projects that the person has nothing in stay unknown.
fn seen(access: &OrgAccess, mut team: Team) -> Team {
    team.projects.retain(|role| access.projects.contains_key(&role.project));
    team
}

fn team_id(text: &str) -> ApiResult<TeamId> {
    text.parse().map_err(|_| ApiError::not_found("team", text))
}

/// The team, with its people.
fn whole(db: &Connection, access: &OrgAccess, id: &TeamId) -> store::Result<Team> {
    let team = teams::by_id(db, &access.org, id)?.ok_or_else(|| missing(access, id))?;
    Ok(Team { people: Some(teams::people(db, &access.org, id)?), ..seen(access, team) })
}

fn missing(access: &OrgAccess, id: &TeamId) -> store::Error {
    problem(Code::NotFound, format!("there is no team {id} in {}", access.org))
}

fn must_be_there(db: &Connection, access: &OrgAccess, id: &TeamId) -> store::Result<()> {
    teams::by_id(db, &access.org, id)?.map(drop).ok_or_else(|| missing(access, id))
}

async fn show(State(state): State<AppState>, access: OrgAccess, Path((_, team)): Path<(String, String)>) -> ApiResult<Json<Team>> {
    access.require(Action::SeeMembers)?;
    let id = team_id(&team)?;
    Ok(Json(state.store.read(move |db| whole(db, &access, &id)).await?))
}

async fn create(State(state): State<AppState>, access: OrgAccess, Body(wanted): Body<TeamCreate>) -> ApiResult<(StatusCode, Json<Team>)> {
    access.require(Action::ManageTeams)?;
    let name = display_name(wanted.name, wanted.id.as_str())?;
    let about = wanted.description.map(|text| description("description", text)).transpose()?.flatten();
    let (id, entry) = (wanted.id.clone(), access.entry("team.create", wanted.id.as_str()).with(json!({ "name": name })));
    let work = move |tx: &Transaction<'_>| {
        if teams::list(tx, &access.org, None)?.len() >= TEAMS_MAX {
            return Err(problem(Code::Conflict, format!("{} has {TEAMS_MAX} teams, which is the most; delete some first", access.org)));
        }
        teams::create(tx, &access.org, &id, &name, about.as_deref(), clock::now())?;
        entry.ok(tx)?;
        whole(tx, &access, &id)
    };
    Ok((StatusCode::CREATED, Json(state.store.write(work).await?)))
}

async fn edit(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, team)): Path<(String, String)>,
    Body(wanted): Body<TeamEdit>,
) -> ApiResult<Json<Team>> {
    access.require(Action::ManageTeams)?;
    let id = team_id(&team)?;
    let name = wanted.name.map(|name| display_name(Some(name), "")).transpose()?;
    let about = match wanted.description {
        Some(Some(text)) => Some(description("description", text)?),
        cleared => cleared,
    };
    let entry = access.entry("team.edit", id.as_str()).with(json!({ "name": name, "description": about.is_some() }));
    let work = move |tx: &Transaction<'_>| {
        must_be_there(tx, &access, &id)?;
        teams::edit(tx, &access.org, &id, name.as_deref(), about.as_ref().map(Option::as_deref))?;
        entry.ok(tx)?;
        whole(tx, &access, &id)
    };
    Ok(Json(state.store.write(work).await?))
}

/// Its people keep what they have in person.
async fn delete(State(state): State<AppState>, access: OrgAccess, Path((_, team)): Path<(String, String)>) -> ApiResult<StatusCode> {
    access.require(Action::ManageTeams)?;
    let id = team_id(&team)?;
    let entry = access.entry("team.delete", id.as_str());
    let work = move |tx: &Transaction<'_>| {
        let team = whole(tx, &access, &id)?;
        teams::delete(tx, &access.org, &id)?;
        // What it gave is gone with it: the records keep it.
        entry.with(json!({ "name": team.name, "members": team.members, "projects": team.projects })).ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn put_member(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, team, Email(email))): Path<(String, String, Email)>,
) -> ApiResult<Json<Team>> {
    access.require(Action::ManageTeams)?;
    let id = team_id(&team)?;
    let entry = access.entry("team.member_put", format!("{id}/{email}"));
    let work = move |tx: &Transaction<'_>| {
        must_be_there(tx, &access, &id)?;
        let account = account(tx, &email)?;
        if !teams::belongs(tx, &access.org, account.id)? {
            return Err(not_in(&email));
        }
        if teams::add(tx, &access.org, &id, account.id, clock::now())? {
            entry.ok(tx)?;
        }
        whole(tx, &access, &id)
    };
    Ok(Json(state.store.write(work).await?))
}

async fn delete_member(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, team, Email(email))): Path<(String, String, Email)>,
) -> ApiResult<StatusCode> {
    access.require(Action::ManageTeams)?;
    let id = team_id(&team)?;
    let entry = access.entry("team.member_delete", format!("{id}/{email}"));
    let work = move |tx: &Transaction<'_>| {
        must_be_there(tx, &access, &id)?;
        // Of an account that is elsewhere on the hub no more is told than of none.
        let removed = match accounts::by_email(tx, &email)? {
            Some(account) => teams::remove(tx, &access.org, &id, account.id)?,
            None => false,
        };
        if !removed {
            return Err(problem(Code::NotFound, format!("{email} is not in team {id}")));
        }
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn avatar(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, team)): Path<(String, String)>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    access.require(Action::SeeMembers)?;
    let id = team_id(&team)?;
    let what = format!("team {id}");
    let image = state.store.read(move |db| {
        must_be_there(db, &access, &id)?;
        stored::avatar(db, &access.org, &id)
    });
    images::serve(image.await?, &what, &headers)
}

async fn put_avatar(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, team)): Path<(String, String)>,
    ImageBody(image): ImageBody,
) -> ApiResult<Json<Team>> {
    access.require(Action::ManageTeams)?;
    let id = team_id(&team)?;
    let entry = access.entry("team.avatar_put", id.as_str()).with(json!({ "bytes": image.bytes.len(), "digest": image.digest }));
    let work = move |tx: &Transaction<'_>| {
        must_be_there(tx, &access, &id)?;
        stored::set_avatar(tx, &access.org, &id, &image)?;
        entry.ok(tx)?;
        whole(tx, &access, &id)
    };
    Ok(Json(state.store.write(work).await?))
}

async fn delete_avatar(State(state): State<AppState>, access: OrgAccess, Path((_, team)): Path<(String, String)>) -> ApiResult<StatusCode> {
    access.require(Action::ManageTeams)?;
    let id = team_id(&team)?;
    let entry = access.entry("team.avatar_delete", id.as_str());
    let work = move |tx: &Transaction<'_>| {
        must_be_there(tx, &access, &id)?;
        if stored::remove_avatar(tx, &access.org, &id)? { entry.ok(tx) } else { Ok(()) }
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}
