//! `GET /devices`: pages of the list by filter, order and view.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use muster_proto::api::{Admission, DevicePage, PresenceState, View};
use muster_proto::id::ProjectId;
use muster_proto::problem::Code;
use serde::Deserialize;

use super::devices::shown;
use super::{ApiError, ApiResult, OrgAccess, PAGE_DEFAULT, PAGE_MAX, Query, Route, cursor, views};
use crate::clock;
use crate::query::{self, Column, Plan, QueryError, Schema, SortBy, order};
use crate::registry::{List, Listing, Place, Viewer};
use crate::rights::{self, Action};
use crate::state::AppState;
use crate::store::devices;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/v1/orgs/{org}/devices", list)]
}

/// Which devices, in which order: the parameters that the list and the export share.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Asked {
    filter: Option<String>,
    sort: Option<String>,
    view: Option<String>,
    project: Option<ProjectId>,
    admission: Option<Admission>,
    presence: Option<PresenceState>,
    cursor: Option<String>,
    limit: Option<usize>,
    pub(super) columns: Option<String>,
}

/// A checked choice of devices, with the list as it is at this moment.
pub(super) struct Selection {
    pub(super) list: List,
    pub(super) plan: Plan,
    pub(super) order: Vec<SortBy>,
    pub(super) view: Option<View>,
    /// All that rows and their order depend on, for cursors.
    scope: String,
}

/// An organization's list as the person may know it.
pub(super) async fn known(state: &AppState, access: &OrgAccess) -> ApiResult<List> {
    let list = state.registry.list(&access.org);
    if rights::allows(Action::SeeMembers, access.role, None) {
        return Ok(list);
    }
    // On a reader's thread: a collaborator's fields are those of his devices.
    let standing = Arc::clone(&access.standing);
    Ok(state.store.read(move |_| Ok(list.known_to(&standing))).await?)
}

/// Says what a filter or an order is compared with; everything that names columns goes through here.
pub(super) fn with_schema<T>(access: &OrgAccess, list: &List, look: impl FnOnce(&Schema<'_>) -> T) -> T {
    let projects: Vec<&str> = access.projects.iter().map(|(id, _)| id.as_str()).collect();
    look(&Schema { fields: &list.fields, projects: &projects, me: &access.person.email, now: clock::now() })
}

/// A mistake in a filter or an order, as a problem that names the parameter.
pub(super) fn mistake(parameter: &str, error: &QueryError) -> ApiError {
    ApiError::new(Code::Invalid, format!("{parameter}: {error}"))
}

/// Checks a filter.
pub(super) fn checked_filter(access: &OrgAccess, list: &List, text: &str) -> ApiResult<Plan> {
    with_schema(access, list, |schema| query::filter(text, schema)).map_err(|error| mistake("filter", &error))
}

/// Checks an order.
pub(super) fn checked_order(access: &OrgAccess, list: &List, text: &str) -> ApiResult<Vec<SortBy>> {
    with_schema(access, list, |schema| order::order(text, schema)).map_err(|error| mistake("sort", &error))
}

/// Checks what was asked for. A view gives what the parameters leave open; filters narrow each other.
pub(super) async fn select(state: &AppState, access: &OrgAccess, asked: &Asked) -> ApiResult<Selection> {
    if let Some(project) = &asked.project {
        access.project(project.as_str())?;
    }
    let list = known(state, access).await?;
    let view = match &asked.view {
        Some(name) => Some(views::named(state, access, &list, name).await?),
        None => None,
    };
    let (given, kept) = (asked.filter.as_deref().unwrap_or_default(), view.as_ref().map_or("", |view| view.filter.as_str()));
    let mut plan = checked_filter(access, &list, given)?;
    if !kept.trim().is_empty() {
        let filter =
            with_schema(access, &list, |schema| query::filter(kept, schema)).map_err(|error| mistake("the view's filter", &error))?;
        plan = plan.and(filter);
    }
    let (admission, presence) = (asked.admission.map(devices::admission_text), asked.presence.map(presence_text));
    for (column, value) in
        [(Column::Project, asked.project.as_ref().map(ProjectId::as_str)), (Column::Admission, admission), (Column::Presence, presence)]
    {
        if let Some(value) = value {
            plan = plan.and(Plan::is(column, value));
        }
    }
    let sort = asked.sort.as_deref().unwrap_or_else(|| view.as_ref().map_or("", |view| view.sort.as_str()));
    let order = checked_order(access, &list, sort)?;
    let scope = format!("devices {:?}", (access.org.as_str(), given, kept, sort, &asked.project, admission, presence));
    Ok(Selection { list, plan, order, view, scope })
}

fn presence_text(presence: PresenceState) -> &'static str {
    match presence {
        PresenceState::Online => "online",
        PresenceState::Offline => "offline",
        PresenceState::Never => "never",
    }
}

impl Selection {
    /// Who looks.
    pub(super) fn viewer<'a>(state: &'a AppState, access: &'a OrgAccess) -> Viewer<'a> {
        Viewer { standing: &access.standing, live: state.ingest.live(), sessions: state.relay.counts() }
    }
}

async fn list(State(state): State<AppState>, access: OrgAccess, Query(asked): Query<Asked>) -> ApiResult<Json<DevicePage>> {
    let selection = select(&state, &access, &asked).await?;
    let after: Option<Place> = cursor::maybe(&selection.scope, asked.cursor.as_deref())?;
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let (on_thread, access_there) = (state.clone(), access.clone());
    // On a reader's thread: looking at ten thousand devices is no work for a thread that serves connections.
    let work = move |db: &rusqlite::Connection| {
        let viewer = Selection::viewer(&on_thread, &access_there);
        let listing = Listing { plan: &selection.plan, order: &selection.order, after: after.as_ref(), limit };
        let found = selection.list.page(&viewer, &listing);
        let mut rows = Vec::with_capacity(found.uids.len());
        for uid in &found.uids {
            // One that was deleted, or taken out of the person's projects, since the list was copied is left out.
            rows.extend(devices::by_uid(db, uid)?.filter(|device| access_there.sees(device)));
        }
        Ok((rows, found.total, found.next.map(|place| cursor::make(&selection.scope, &place))))
    };
    let (rows, total, next) = state.store.read(work).await?;
    let items = rows.into_iter().map(|device| shown(&state, &access, device)).collect();
    Ok(Json(DevicePage { items, next, total: total as u64 }))
}
