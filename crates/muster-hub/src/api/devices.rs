//! The device list: rows, edits, deletion.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_proto::api::{Admission, Device, DeviceAdd, DeviceEdit, LimitName};
use muster_proto::id::{DeviceUid, Serial};
use muster_proto::mqtt::{AdmissionNotice, Facts, encode};
use muster_proto::problem::Code;
use muster_proto::topic::Down;
use serde_json::json;

use super::edit::{self, Wishes};
use super::orgs::display_name;
use super::{ApiResult, Body, OrgAccess, Path, Route, decisions, why};
use crate::clock::{self, DAY};
use crate::fields;
use crate::mqtt::SendOptions;
use crate::random;
use crate::rights::{self, Action};
use crate::state::AppState;
use crate::store::devices::{self, DeviceRow, FieldValue};
use crate::store::{self, limits, problem};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/orgs/{org}/devices", add).audited("device.add"),
        Route::get("/v1/orgs/{org}/devices/{device}", show),
        Route::patch("/v1/orgs/{org}/devices/{device}", edit).audited("device.edit"),
        Route::delete("/v1/orgs/{org}/devices/{device}", delete).audited("device.delete"),
    ]
}

/// A device as a person sees it: projects that the person has nothing in stay unknown, and so do details without the right to view
/// it. What is hidden here is absent in filters, orders and files as well: `Column::is_detail`.
pub(super) fn shown(state: &AppState, access: &OrgAccess, device: DeviceRow) -> Device {
    let live = state.ingest.live().get(&device.uid);
    let views = access.allows_on(Action::ViewDevice, &device);
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
        facts: if views { device.facts } else { Facts::default() },
        usage: live.usage.filter(|_| views),
        pairing_code: device.pairing_code,
        replacement: device.replacement,
        agent: device.agent,
        sessions: views.then(|| u32::try_from(sessions).unwrap_or(u32::MAX)),
        spooled: views.then_some(live.spooled),
        certificate_expires_at: device.certificate_expires_at,
        created_at: device.created_at,
        manual: device.by_hand,
        missing: missing(state, access, &device.values),
        fields: device.values.into_iter().map(|held| (held.key, fields::to_json(held.kind, &held.value))).collect(),
        labels: device.labels,
    }
}

/// Required fields that are empty. What the organization wants of its devices is no collaborator's business.
fn missing(state: &AppState, access: &OrgAccess, has: &[FieldValue]) -> Vec<String> {
    if !rights::allows(Action::SeeMembers, access.role, None) {
        return Vec::new();
    }
    let list = state.registry.list(&access.org);
    let empty = list.fields.iter().filter(|(id, field)| field.required && !has.iter().any(|held| held.field == *id));
    empty.map(|(_, field)| field.key.clone()).collect()
}

/// A device without a daemon: it belongs, and no key speaks for it.
async fn add(State(state): State<AppState>, access: OrgAccess, Body(wanted): Body<DeviceAdd>) -> ApiResult<(StatusCode, Json<Device>)> {
    access.require(Action::AddDevice)?;
    let name = display_name(wanted.name, wanted.id.as_str())?;
    let wishes = Wishes {
        values: wanted.fields,
        add_labels: wanted.labels.into_iter().collect(),
        join: Wishes::projects(&access, "projects", &wanted.projects)?,
        ..Wishes::default()
    };
    wishes.check()?;
    let uid = DeviceUid::from_random(random::bytes());
    let (serial, made, by) = (wanted.id, uid.clone(), access.clone());
    let ((), device) = change(&state, &uid, move |tx| add_in(tx, &by, &made, &serial, &name, &wishes)).await?;
    Ok((StatusCode::CREATED, Json(shown(&state, &access, device))))
}

/// Enters a device by hand, inside a transaction.
pub(super) fn add_in(
    tx: &rusqlite::Transaction<'_>,
    access: &OrgAccess,
    uid: &DeviceUid,
    serial: &Serial,
    name: &str,
    wishes: &Wishes,
) -> store::Result<()> {
    let (org, by, now) = (&access.org, access.person.email.as_str(), clock::now());
    limits::check(tx, org, LimitName::Devices, 1)?;
    if let Some(why) = devices::mistaken(serial) {
        return Err(problem(Code::Invalid, format!("id: {why}")));
    }
    let checked = wishes.checked(tx, org)?;
    if !devices::insert_by_hand(tx, uid, org, serial, name, by, now)? {
        return Err(problem(Code::Exists, format!("id: a device with the id {serial} is listed already; edit that one")));
    }
    let row = devices::by_uid(tx, uid)?.ok_or_else(|| problem(Code::Internal, "the new row is gone"))?;
    wishes.apply(tx, &row, &checked)?;
    let missing = edit::missing(tx, org, uid)?;
    if !missing.is_empty() {
        return Err(problem(Code::Invalid, format!("fields.{}: required", missing.join(", fields."))));
    }
    let mut told = wishes.told();
    (told["serial"], told["name"]) = (json!(serial), json!(name));
    access.entry("device.add", uid.as_str()).with(told).ok(tx)
}

async fn show(State(state): State<AppState>, access: OrgAccess, Path((_, device)): Path<(String, String)>) -> ApiResult<Json<Device>> {
    let device = access.device(&state, &device).await?;
    Ok(Json(shown(&state, &access, device)))
}

/// Changes a device in one transaction, which also says how it left the device.
///
/// Read afterwards it may be gone: somebody else deletes it, and a change that was made would be answered, and recorded, as refused.
pub(super) async fn change<T: Send + 'static>(
    state: &AppState,
    uid: &DeviceUid,
    work: impl FnOnce(&rusqlite::Transaction<'_>) -> store::Result<T> + Send + 'static,
) -> ApiResult<(T, DeviceRow)> {
    let uid = uid.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| Ok((work(tx)?, decisions::fresh(tx, &uid)?));
    Ok(state.store.write(work).await?)
}

async fn edit(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, device)): Path<(String, String)>,
    Body(wanted): Body<DeviceEdit>,
) -> ApiResult<Json<Device>> {
    let device = access.device(&state, &device).await?;
    let name = wanted.name.map(|name| display_name(Some(name), "")).transpose()?;
    let wishes = Wishes {
        name: name.clone(),
        values: wanted.fields,
        add_labels: wanted.add_labels.into_iter().collect(),
        remove_labels: wanted.remove_labels.into_iter().collect(),
        join: Wishes::projects(&access, "add_projects", &wanted.add_projects)?,
        leave: Wishes::projects(&access, "remove_projects", &wanted.remove_projects)?,
    };
    wishes.check()?;
    let (uid, by) = (device.uid.clone(), access.clone());
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let device = decisions::fresh(tx, &uid)?;
        wishes.may(&by, &device)?;
        let checked = wishes.checked(tx, &device.org)?;
        wishes.apply(tx, &device, &checked)?;
        by.entry("device.edit", uid.as_str()).with(wishes.told()).ok(tx)?;
        Ok(device)
    };
    let (device, changed) = change(&state, &device.uid, work).await?;
    if let Some(name) = name.filter(|name| *name != device.name && device.admission == Admission::Admitted) {
        tell_name(&state, &device, name).await;
    }
    Ok(Json(shown(&state, &access, changed)))
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
    let uid = device.uid.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let device = decisions::fresh(tx, &uid)?;
        decisions::may_delete(&access, &device)?;
        decisions::delete_in(tx, &device, access.entry("device.delete", uid.as_str()))
    };
    let after = state.store.write(work).await?;
    decisions::follow(&state, device.uid, after).await;
    Ok(StatusCode::NO_CONTENT)
}
