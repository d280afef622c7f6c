//! Saved views: a name for a filter, an order and columns. One's own, and those that an organization shares.
//!
//! Shared ones are for whoever has a role in the organization, and not where they name a project that the person may not know of.
//! A view is looked at again inside the transaction that changes it: nothing that somebody else changed meanwhile is lost.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_proto::api::{Page, View, ViewCreate, ViewEdit};
use muster_proto::problem::Code;
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::json;

use super::csv::checked_columns;
use super::listing::{checked_filter, checked_order, known, with_schema};
use super::{ApiError, ApiResult, Body, OrgAccess, Path, Query, Route, text};
use crate::clock;
use crate::query::{self, Schema};
use crate::registry::List;
use crate::rights::{self, Action};
use crate::state::AppState;
use crate::store::views::{self, ViewRow};
use crate::store::{self, roles};

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
    let list = known(&state, &access).await?;
    let rows = state.store.read(move |db| visible(db, &access, &list)).await?;
    Ok(Json(Page { items: rows.into_iter().map(|row| row.view).collect(), next: None }))
}

/// The views that the person may know of: one's own, then shared ones.
fn visible(db: &Connection, access: &OrgAccess, list: &List) -> store::Result<Vec<ViewRow>> {
    let mut rows = views::list(db, &access.org, access.person.account)?;
    if !rights::allows(Action::SeeMembers, access.role, None) {
        rows.retain(|row| !row.view.shared);
    }
    if rows.iter().any(|row| row.view.shared) {
        let all = roles::projects(db, &access.org)?;
        // One that fits nobody's list any more stays in sight, to be mended.
        rows.retain(|row| !row.view.shared || fits(access, list, None, &row.view) || !fits(access, list, Some(&all), &row.view));
    }
    Ok(rows)
}

/// Whether a view's filter fits the list, with the projects that the person knows of or with these.
fn fits(access: &OrgAccess, list: &List, projects: Option<&[String]>, view: &View) -> bool {
    let these: Option<Vec<&str>> = projects.map(|projects| projects.iter().map(String::as_str).collect());
    with_schema(access, list, |schema| {
        query::filter(&view.filter, &Schema { projects: these.as_deref().unwrap_or(schema.projects), ..*schema }).is_ok()
    })
}

fn find(db: &Connection, access: &OrgAccess, list: &List, name: &str, shared: Option<bool>) -> store::Result<ViewRow> {
    let rows = visible(db, access, list)?;
    let found = rows.into_iter().find(|row| row.view.name == name && shared.is_none_or(|shared| row.view.shared == shared));
    found.ok_or_else(|| ApiError::not_found("view", name).into())
}

/// A view by its name: one's own before a shared one.
pub(super) async fn named(state: &AppState, access: &OrgAccess, list: &List, name: &str) -> ApiResult<View> {
    let (access, list, name) = (access.clone(), list.clone(), name.to_owned());
    Ok(state.store.read(move |db| find(db, &access, &list, &name, None)).await?.view)
}

/// One's own views need no role, but a token that may change something.
fn may(access: &OrgAccess, shared: bool) -> ApiResult<()> {
    if shared { access.require(Action::ShareView) } else { access.require_scope(Action::ShareView) }
}

fn check(access: &OrgAccess, list: &List, view: &View) -> ApiResult<()> {
    checked_filter(access, list, &view.filter)?;
    checked_order(access, list, &view.sort)?;
    checked_columns(access, list, &view.columns)?;
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
    check(&access, &known(&state, &access).await?, &view)?;
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
    let new_name = wanted.name.map(|name| text::name("name", name)).transpose()?;
    let list = known(&state, &access).await?;
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let ViewRow { id, view: held } = find(tx, &access, &list, &name, which.shared)?;
        may(&access, held.shared)?;
        let view = View {
            name: new_name.unwrap_or(held.name),
            shared: held.shared,
            filter: wanted.filter.unwrap_or(held.filter),
            sort: wanted.sort.unwrap_or(held.sort),
            columns: wanted.columns.unwrap_or(held.columns),
            changed_by: access.person.email.clone(),
            changed_at: clock::now(),
        };
        check(&access, &list, &view)?;
        views::update(tx, &access.org, access.person.account, id, &view)?;
        access.entry("view.edit", name).with(json!({ "view": view })).ok(tx)?;
        Ok(view)
    };
    Ok(Json(state.store.write(work).await?))
}

async fn delete(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, name)): Path<(String, String)>,
    Query(which): Query<Which>,
) -> ApiResult<StatusCode> {
    let list = known(&state, &access).await?;
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let ViewRow { id, view } = find(tx, &access, &list, &name, which.shared)?;
        may(&access, view.shared)?;
        views::delete(tx, id)?;
        access.entry("view.delete", name).with(json!({ "was": view })).ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// For the error of a view that cannot be read as columns.
pub(super) fn too_many(most: usize) -> ApiError {
    ApiError::new(Code::Invalid, format!("columns: at most {most}"))
}
