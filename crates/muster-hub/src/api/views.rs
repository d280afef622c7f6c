//! Saved views: a name for a filter, an order and columns. One's own, and those that an organization shares.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_proto::api::{Page, View, ViewCreate, ViewEdit};
use muster_proto::problem::Code;
use serde::Deserialize;
use serde_json::json;

use super::csv::checked_columns;
use super::listing::{checked_filter, checked_order};
use super::{ApiError, ApiResult, Body, OrgAccess, Path, Query, Route, text};
use crate::clock;
use crate::rights::Action;
use crate::state::AppState;
use crate::store::views::{self, ViewRow};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs/{org}/views", list),
        Route::post("/v1/orgs/{org}/views", create).audited("view.create"),
        Route::patch("/v1/orgs/{org}/views/{view}", edit).audited("view.edit"),
        Route::delete("/v1/orgs/{org}/views/{view}", delete).audited("view.delete"),
    ]
}

/// Which of two views of one name: one's own comes first.
#[derive(Debug, Deserialize)]
struct Which {
    shared: Option<bool>,
}

async fn list(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Page<View>>> {
    let account = access.person.account;
    let rows = state.store.read(move |db| views::list(db, &access.org, account)).await?;
    Ok(Json(Page { items: rows.into_iter().map(|row| row.view).collect(), next: None }))
}

/// A view by its name: one's own before a shared one.
pub(super) async fn named(state: &AppState, access: &OrgAccess, name: &str, shared: Option<bool>) -> ApiResult<ViewRow> {
    let (org, account) = (access.org.clone(), access.person.account);
    let rows = state.store.read(move |db| views::list(db, &org, account)).await?;
    let found = rows.into_iter().find(|row| row.view.name == name && shared.is_none_or(|shared| row.view.shared == shared));
    found.ok_or_else(|| ApiError::not_found("view", name))
}

/// One's own views need no role, but a token that may change something.
fn may(access: &OrgAccess, shared: bool) -> ApiResult<()> {
    if shared { access.require(Action::ShareView) } else { access.require_scope(Action::ShareView) }
}

fn check(state: &AppState, access: &OrgAccess, view: &View) -> ApiResult<()> {
    let list = state.registry.list(&access.org);
    checked_filter(access, &list, &view.filter)?;
    checked_order(access, &list, &view.sort)?;
    checked_columns(access, &list, &view.columns)?;
    Ok(())
}

async fn create(State(state): State<AppState>, access: OrgAccess, Body(wanted): Body<ViewCreate>) -> ApiResult<(StatusCode, Json<View>)> {
    may(&access, wanted.shared)?;
    let view = View {
        name: text::name("name", wanted.name)?,
        shared: wanted.shared,
        filter: wanted.filter,
        sort: wanted.sort,
        columns: wanted.columns,
        changed_by: access.person.email.clone(),
        changed_at: clock::now(),
    };
    check(&state, &access, &view)?;
    let entry = access.entry("view.create", view.name.as_str()).with(json!({ "view": view }));
    let made = view.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        views::insert(tx, &access.org, access.person.account, &made)?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

async fn edit(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, name)): Path<(String, String)>,
    Query(which): Query<Which>,
    Body(wanted): Body<ViewEdit>,
) -> ApiResult<Json<View>> {
    let ViewRow { id, view: held } = named(&state, &access, &name, which.shared).await?;
    may(&access, held.shared)?;
    let view = View {
        name: wanted.name.map(|name| text::name("name", name)).transpose()?.unwrap_or(held.name),
        shared: held.shared,
        filter: wanted.filter.unwrap_or(held.filter),
        sort: wanted.sort.unwrap_or(held.sort),
        columns: wanted.columns.unwrap_or(held.columns),
        changed_by: access.person.email.clone(),
        changed_at: clock::now(),
    };
    check(&state, &access, &view)?;
    let entry = access.entry("view.edit", name).with(json!({ "view": view }));
    let edited = view.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        views::update(tx, &access.org, access.person.account, id, &edited)?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(Json(view))
}

async fn delete(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, name)): Path<(String, String)>,
    Query(which): Query<Which>,
) -> ApiResult<StatusCode> {
    let ViewRow { id, view } = named(&state, &access, &name, which.shared).await?;
    may(&access, view.shared)?;
    let entry = access.entry("view.delete", name).with(json!({ "was": view }));
    let work = move |tx: &rusqlite::Transaction<'_>| {
        views::delete(tx, id)?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// For the error of a view that cannot be read as columns.
pub(super) fn too_many(most: usize) -> ApiError {
    ApiError::new(Code::Invalid, format!("columns: at most {most}"))
}
