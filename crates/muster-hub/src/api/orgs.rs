//! Organizations and their members.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_proto::api::{Member, MemberPut, Org, OrgCreate, OrgRole, Page};
use muster_proto::limits::NAME_MAX;
use muster_proto::problem::Code;
use rusqlite::Connection;
use serde_json::json;

use super::{ApiError, ApiResult, Body, OrgAccess, Path, Route};
use crate::auth::Person;
use crate::clock;
use crate::rights::Action;
use crate::state::AppState;
use crate::store::accounts::{self, Account};
use crate::store::{self, orgs, problem};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs", list),
        Route::post("/v1/orgs", create).audited("org.create"),
        Route::get("/v1/orgs/{org}", show),
        Route::get("/v1/orgs/{org}/members", members),
        Route::put("/v1/orgs/{org}/members/{email}", put_member).audited("member.put"),
        Route::delete("/v1/orgs/{org}/members/{email}", delete_member).audited("member.delete"),
    ]
}

async fn list(State(state): State<AppState>, person: Person) -> ApiResult<Json<Page<Org>>> {
    let mut items = state.store.read(move |db| orgs::of_account(db, person.account)).await?;
    items.retain(|org| person.only_org.as_ref().is_none_or(|only| *only == org.id));
    Ok(Json(Page { items, next: None }))
}

async fn create(State(state): State<AppState>, person: Person, Body(wanted): Body<OrgCreate>) -> ApiResult<(StatusCode, Json<Org>)> {
    person.require_person("make an organization")?;
    let name = display_name(wanted.name, wanted.id.as_str())?;
    let org = Org { id: wanted.id, name, role: Some(OrgRole::Owner), created_at: clock::now() };
    let mut entry = person.entry("org.create", org.id.as_str());
    entry.org = Some(org.id.clone());
    let row = org.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        orgs::create(tx, &row.id, &row.name, person.account, row.created_at)?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok((StatusCode::CREATED, Json(org)))
}

async fn show(access: OrgAccess) -> Json<Org> {
    Json(access.to_org())
}

async fn members(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Page<Member>>> {
    access.require(Action::SeeMembers)?;
    let items = state.store.read(move |db| orgs::members(db, &access.org)).await?;
    Ok(Json(Page { items, next: None }))
}

async fn put_member(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, email)): Path<(String, String)>,
    Body(wanted): Body<MemberPut>,
) -> ApiResult<Json<Member>> {
    access.require(Action::ManageMembers)?;
    let role = wanted.role;
    let entry = access.entry("member.put", &email).with(json!({ "role": role }));
    let member = state.store.write(move |tx| {
        let account = account(tx, &email)?;
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
    Path((_, email)): Path<(String, String)>,
) -> ApiResult<StatusCode> {
    access.require(Action::ManageMembers)?;
    let entry = access.entry("member.delete", &email);
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let account = account(tx, &email)?;
        if !orgs::remove_member(tx, &access.org, account.id)? {
            return Err(problem(Code::NotFound, format!("{email} is no member of {}", access.org)));
        }
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The account of an e-mail in a path.
pub(super) fn account(connection: &Connection, email: &str) -> store::Result<Account> {
    accounts::by_email(connection, email)?.ok_or_else(|| {
        problem(Code::NotFound, format!("there is no account for {email}; the hub's operator makes one: muster-hub user add {email}"))
    })
}

/// A display name, or the id where none was given.
pub(super) fn display_name(name: Option<String>, id: &str) -> ApiResult<String> {
    let name = name.unwrap_or_else(|| id.to_owned());
    if name.trim() != name || name.is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
        let why = format!("name: it has 1 to {NAME_MAX} printable characters and no white space at its ends");
        return Err(ApiError::new(Code::Invalid, why));
    }
    Ok(name)
}
