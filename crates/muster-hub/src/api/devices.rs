//! The device list: rows, edits, deletion.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_proto::api::{Admission, Device, DeviceEdit, Page, PresenceState};
use muster_proto::id::{DeviceUid, ProjectId};
use muster_proto::mqtt::{AdmissionNotice, encode};
use muster_proto::problem::Code;
use muster_proto::topic::Down;
use serde::Deserialize;
use serde_json::json;

use super::orgs::display_name;
use super::{ApiError, ApiResult, Body, OrgAccess, PAGE_DEFAULT, PAGE_MAX, Path, Query, Route, why};
use crate::clock::{self, DAY};
use crate::mqtt::SendOptions;
use crate::rights::Action;
use crate::state::AppState;
use crate::store::devices::{self, DeviceRow};

/// Projects that one edit may name.
const PROJECTS_MAX: usize = 100;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs/{org}/devices", list),
        Route::get("/v1/orgs/{org}/devices/{device}", show),
        Route::patch("/v1/orgs/{org}/devices/{device}", edit).audited("device.edit"),
        Route::delete("/v1/orgs/{org}/devices/{device}", delete).audited("device.delete"),
    ]
}

#[derive(Debug, Deserialize)]
struct Asked {
    project: Option<ProjectId>,
    admission: Option<Admission>,
    presence: Option<PresenceState>,
    cursor: Option<String>,
    limit: Option<usize>,
}

async fn list(State(state): State<AppState>, access: OrgAccess, Query(asked): Query<Asked>) -> ApiResult<Json<Page<Device>>> {
    if let Some(project) = &asked.project {
        access.project(project.as_str())?;
    }
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let mut after = asked.cursor.clone().unwrap_or_default();
    let mut items = Vec::new();
    // What a person sees and who is online is not for SQL to decide: read pages until one is full.
    loop {
        let (org, from) = (access.org.clone(), after.clone());
        let rows = state.store.read(move |db| devices::page(db, &org, &from, PAGE_MAX)).await?;
        let ended = rows.len() < PAGE_MAX;
        for device in rows {
            if items.len() == limit {
                return Ok(Json(Page { items, next: Some(after) }));
            }
            device.uid.as_str().clone_into(&mut after);
            if access.sees(&device) && matches_filter(&state, &asked, &device) {
                items.push(shown(&state, &access, device));
            }
        }
        if ended {
            return Ok(Json(Page { items, next: None }));
        }
    }
}

fn matches_filter(state: &AppState, asked: &Asked, device: &DeviceRow) -> bool {
    asked.project.as_ref().is_none_or(|project| device.projects.contains(project))
        && asked.admission.is_none_or(|admission| device.admission == admission)
        && asked.presence.is_none_or(|presence| state.ingest.live().get(&device.uid).presence == presence)
}

/// A device as a person sees it: projects that the person has nothing in stay unknown.
pub(super) fn shown(state: &AppState, access: &OrgAccess, device: DeviceRow) -> Device {
    let live = state.ingest.live().get(&device.uid);
    let sessions = state.relay.count_of(&device.uid);
    Device {
        why: why(&device, &live, &state.endpoints, clock::now()),
        projects: device.projects.into_iter().filter(|project| access.projects.contains_key(project)).collect(),
        id: device.serial,
        uid: device.uid,
        name: device.name,
        admission: device.admission,
        presence: live.presence,
        presence_since: live.since,
        last_seen: live.last_seen,
        facts: device.facts,
        usage: live.usage,
        pairing_code: device.pairing_code,
        replacement: device.replacement,
        agent: device.agent,
        sessions: u32::try_from(sessions).unwrap_or(u32::MAX),
        spooled: live.spooled,
        certificate_expires_at: device.certificate_expires_at,
        created_at: device.created_at,
    }
}

async fn show(State(state): State<AppState>, access: OrgAccess, Path((_, device)): Path<(String, String)>) -> ApiResult<Json<Device>> {
    let device = access.device(&state, &device).await?;
    Ok(Json(shown(&state, &access, device)))
}

/// The device as it is now, after a change.
pub(super) async fn reread(state: &AppState, access: &OrgAccess, uid: &DeviceUid) -> ApiResult<Json<Device>> {
    let by_uid = uid.clone();
    let device = state.store.read(move |db| devices::by_uid(db, &by_uid)).await?;
    let device = device.ok_or_else(|| ApiError::not_found("device", uid.as_str()))?;
    Ok(Json(shown(state, access, device)))
}

async fn edit(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, device)): Path<(String, String)>,
    Body(wanted): Body<DeviceEdit>,
) -> ApiResult<Json<Device>> {
    let device = access.device(&state, &device).await?;
    if wanted.add_projects.len() + wanted.remove_projects.len() > PROJECTS_MAX {
        return Err(ApiError::new(Code::Invalid, format!("add_projects: at most {PROJECTS_MAX} projects in one edit")));
    }
    let name = wanted.name.map(|name| display_name(Some(name), "")).transpose()?;
    if name.is_some() {
        access.require_on(Action::EditDevice, &device)?;
    }
    // Otherwise who maintains one project could take in any device that he only sees, and would have it in his hands.
    if !wanted.add_projects.is_empty() {
        access.require_on(Action::AssignDevice, &device)?;
    }
    let mut add = BTreeSet::new();
    for project in &wanted.add_projects {
        add.insert(access.require_in(Action::AssignDevice, project.as_str())?);
    }
    let mut remove = BTreeSet::new();
    for project in &wanted.remove_projects {
        remove.insert(access.require_in(Action::AssignDevice, project.as_str())?);
    }
    if let Some(both) = add.intersection(&remove).next() {
        return Err(ApiError::new(Code::Invalid, format!("add_projects: {both} is in remove_projects as well")));
    }
    let entry =
        access.entry("device.edit", device.uid.as_str()).with(json!({ "name": name, "add_projects": add, "remove_projects": remove }));
    let (uid, org, new_name) = (device.uid.clone(), device.org.clone(), name.clone());
    let work = move |tx: &rusqlite::Transaction<'_>| {
        if let Some(name) = &new_name {
            devices::rename(tx, &uid, name)?;
        }
        for project in &add {
            devices::join(tx, &uid, &org, project)?;
        }
        for project in &remove {
            devices::leave(tx, &uid, project)?;
        }
        entry.ok(tx)
    };
    state.store.write(work).await?;
    if let Some(name) = name.filter(|name| *name != device.name && device.admission == Admission::Admitted) {
        tell_name(&state, &device, name).await;
    }
    reread(&state, &access, &device.uid).await
}

/// The device shows its name in its own status; it learns it when it is there.
async fn tell_name(state: &AppState, device: &DeviceRow, name: String) {
    let notice = AdmissionNotice::Named { uid: device.uid.clone(), org: device.org.clone(), name, now: clock::now() };
    let options = SendOptions { retain: false, expiry: std::time::Duration::from_millis(DAY.unsigned_abs()) };
    if let Err(error) = state.lanes.send(&device.uid, Down::Admission, encode(&notice), options).await {
        tracing::warn!(uid = %device.uid, %error, "the device could not be told its new name");
    }
}

async fn delete(State(state): State<AppState>, access: OrgAccess, Path((_, device)): Path<(String, String)>) -> ApiResult<StatusCode> {
    let device = access.device(&state, &device).await?;
    access.require_on(if device.admitted_at.is_none() { Action::DeleteUnadmitted } else { Action::DeleteDevice }, &device)?;
    let entry = access.entry("device.delete", device.uid.as_str()).with(json!({ "serial": device.serial, "name": device.name }));
    let uid = device.uid.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        devices::delete(tx, &uid, clock::now())?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    super::decisions::cut(&state, &device.uid, "the device was deleted from the list").await;
    state.ingest.live().forget(&device.uid);
    state.admissions.decided(&device.uid);
    Ok(StatusCode::NO_CONTENT)
}
