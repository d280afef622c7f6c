//! Service accounts: what programs of an organization log in as. Owners make them and their tokens.
//!
//! In records and among participants one is `NAME@ORG.service`, which no person's e-mail can be. It is never an owner.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_proto::api::{AccessToken, AccessTokenCreate, OrgRole, Page, ServiceAccount, ServiceAccountCreate};
use muster_proto::id::OrgId;
use muster_proto::problem::Code;
use rusqlite::Connection;
use serde_json::json;

use super::people::{check_days, check_name, file_token, new_token};
use super::text::description;
use super::{ApiError, ApiResult, Body, OrgAccess, Path, Route};
use crate::rights::Action;
use crate::state::AppState;
use crate::store::accounts::Account;
use crate::store::{self, orgs, problem, service_accounts as stored, tokens};
use crate::{accounts, clock};

/// Service accounts of one organization.
const MOST: usize = 200;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs/{org}/service-accounts", list),
        Route::post("/v1/orgs/{org}/service-accounts", create).audited("service_account.create"),
        Route::delete("/v1/orgs/{org}/service-accounts/{name}", delete).audited("service_account.delete"),
        Route::get("/v1/orgs/{org}/service-accounts/{name}/tokens", list_tokens),
        Route::post("/v1/orgs/{org}/service-accounts/{name}/tokens", create_token).audited("service_account.token"),
        Route::delete("/v1/orgs/{org}/service-accounts/{name}/tokens/{id}", delete_token).audited("service_account.token_delete"),
    ]
}

fn email(org: &OrgId, name: &str) -> String {
    format!("{name}@{org}{}", accounts::SERVICE)
}

fn named(connection: &Connection, org: &OrgId, name: &str) -> store::Result<Account> {
    let found = store::accounts::by_email(connection, &email(org, name))?.filter(|account| account.service && account.is_open());
    found.ok_or_else(|| problem(Code::NotFound, format!("{org} has no service account {name:?}")))
}

async fn list(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Page<ServiceAccount>>> {
    access.require(Action::ManageMembers)?;
    let items = state.store.read(move |db| stored::list(db, &access.org, clock::now())).await?;
    Ok(Json(Page { items, next: None }))
}

async fn create(
    State(state): State<AppState>,
    access: OrgAccess,
    Body(wanted): Body<ServiceAccountCreate>,
) -> ApiResult<(StatusCode, Json<ServiceAccount>)> {
    access.require(Action::ManageMembers)?;
    let invalid = |why: String| ApiError::new(Code::Invalid, why);
    // The same form as an organization's id: it stands before an @ and in paths.
    wanted.name.parse::<OrgId>().map_err(|_| invalid("name: it has 2 to 40 of a-z, 0-9 and hyphen".into()))?;
    if wanted.role == Some(OrgRole::Owner) {
        return Err(invalid("role: a service account is member, viewer or nothing in the organization, never owner".into()));
    }
    let about = wanted.description.map(|text| description("description", text)).transpose()?.flatten();
    let place = match (wanted.project, wanted.project_role) {
        (None, None) => None,
        (Some(project), Some(role)) => Some((access.require_in(Action::ManageParticipants, project.as_str())?, role)),
        _ => return Err(invalid("project: project and project_role go together".into())),
    };
    let email = email(&access.org, &wanted.name);
    let entry = access.entry("service_account.create", &email).with(json!({
        "role": wanted.role, "project": place.as_ref().map(|(project, _)| project), "project_role": place.as_ref().map(|(_, role)| role),
    }));
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let now = clock::now();
        if stored::list(tx, &access.org, now)?.len() >= MOST {
            return Err(problem(Code::Conflict, format!("{} has {MOST} service accounts already; delete some first", access.org)));
        }
        let account = stored::create(tx, &access.org, &wanted.name, &email, about.as_deref(), &access.person.email, now)?;
        if let Some(role) = wanted.role {
            orgs::set_member(tx, &access.org, account, role, now)?;
        }
        if let Some((project, role)) = place {
            orgs::set_participant(tx, &access.org, &project, account, role, now)?;
        }
        entry.ok(tx)?;
        let made = stored::list(tx, &access.org, now)?.into_iter().find(|made| made.email == email);
        made.ok_or_else(|| problem(Code::NotFound, "the service account is gone already"))
    };
    Ok((StatusCode::CREATED, Json(state.store.write(work).await?)))
}

async fn delete(State(state): State<AppState>, access: OrgAccess, Path((_, name)): Path<(String, String)>) -> ApiResult<StatusCode> {
    access.require(Action::ManageMembers)?;
    let entry = access.entry("service_account.delete", email(&access.org, &name));
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let account = named(tx, &access.org, &name)?;
        tokens::delete_others(tx, account.id, None)?;
        // Its rights go with its roles, and what lives by them ends.
        orgs::remove_member(tx, &access.org, account.id)?;
        store::accounts::close(tx, account.id, clock::now())?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list_tokens(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, name)): Path<(String, String)>,
) -> ApiResult<Json<Page<AccessToken>>> {
    access.require(Action::ManageMembers)?;
    let items = state.store.read(move |db| tokens::list(db, named(db, &access.org, &name)?.id)).await?;
    Ok(Json(Page { items, next: None }))
}

async fn create_token(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, name)): Path<(String, String)>,
    Body(wanted): Body<AccessTokenCreate>,
) -> ApiResult<(StatusCode, Json<AccessToken>)> {
    access.require(Action::ManageMembers)?;
    check_name(&wanted.name)?;
    check_days(wanted.expires_days)?;
    if wanted.org.as_ref().is_some_and(|org| *org != access.org) {
        return Err(ApiError::new(Code::Invalid, format!("org: a service account belongs to {} alone", access.org)));
    }
    if let Some(project) = &wanted.project {
        access.project(project.as_str())?;
    }
    let (token, mut shown) = new_token(state.ca.pin(), wanted.name, wanted.expires_days, clock::now());
    (shown.scope, shown.project) = (wanted.scope, wanted.project);
    shown.org = Some(access.org.clone());
    let entry = access.entry("service_account.token", email(&access.org, &name));
    let row = shown.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let account = named(tx, &access.org, &name)?;
        let details = file_token(tx, account.id, &token, &row)?;
        entry.with(details).ok(tx)
    };
    state.store.write(work).await?;
    Ok((StatusCode::CREATED, Json(shown)))
}

async fn delete_token(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, name, id)): Path<(String, String, String)>,
) -> ApiResult<StatusCode> {
    access.require(Action::ManageMembers)?;
    let entry = access.entry("service_account.token_delete", email(&access.org, &name)).with(json!({ "id": id }));
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let account = named(tx, &access.org, &name)?;
        if !tokens::delete(tx, account.id, &id)? {
            return Err(problem(Code::NotFound, format!("{name} has no token {id:?}")));
        }
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}
