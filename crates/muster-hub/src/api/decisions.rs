//! Decisions on a device: admit, reject, revoke, replace, renew. What they end, they end at once.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use muster_proto::api::{Admission, Device, DeviceDecision};
use muster_proto::id::DeviceUid;
use muster_proto::mqtt::{AdmissionNotice, encode};
use muster_proto::problem::Code;
use muster_proto::topic::Down;
use rusqlite::Transaction;
use serde::Deserialize;
use serde_json::{Value, json};

use super::devices::{change, shown};
use super::{ApiError, ApiResult, MaybeBody, OrgAccess, Path, Route};
use crate::audit::Entry;
use crate::auth;
use crate::clock;
use crate::mqtt::{SendError, SendOptions};
use crate::random;
use crate::relay::End;
use crate::rights::Action;
use crate::state::AppState;
use crate::store::devices::{self, DeviceRow};
use crate::store::{self, enrolments, policies, problem};

/// Longest reason, in characters.
const REASON_MAX: usize = 500;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/orgs/{org}/devices/{device}/admit", admit).audited("device.admit"),
        Route::post("/v1/orgs/{org}/devices/{device}/reject", reject).audited("device.reject"),
        Route::post("/v1/orgs/{org}/devices/{device}/revoke", revoke).audited("device.revoke"),
        Route::post("/v1/orgs/{org}/devices/{device}/replace", replace).audited("device.replace"),
        Route::post("/v1/orgs/{org}/devices/{device}/renew", renew).audited("device.renew_asked"),
    ]
}

/// Which key takes the place, where several ask.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// The pairing code that the new device shows.
    #[serde(default)]
    pub pairing_code: Option<String>,
}

type Named = Path<(String, String)>;

async fn decide_on(state: &AppState, access: &OrgAccess, name: &str) -> ApiResult<DeviceRow> {
    let device = access.device(state, name).await?;
    access.require_on(Action::DecideDevice, &device)?;
    Ok(device)
}

/// The device as it is inside the transaction that decides on it.
pub(super) fn fresh(tx: &Transaction<'_>, uid: &DeviceUid) -> store::Result<DeviceRow> {
    devices::by_uid(tx, uid)?.ok_or_else(|| problem(Code::NotFound, "the device was deleted meanwhile"))
}

/// What has to happen once a decision is committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing more.
    Nothing,
    /// Whoever waits hears of it.
    Decided,
    /// Its lane opens.
    Admitted,
    /// Its link and its sessions end, and whoever looks is told this.
    Cut(String),
    /// The same, and nothing is known of it any more.
    Deleted,
}

/// Does what follows a decision.
pub(super) async fn follow(state: &AppState, uid: DeviceUid, after: After) {
    match after {
        After::Nothing => {}
        After::Decided => state.admissions.decided(&uid),
        After::Admitted => admitted(state, &uid).await,
        After::Cut(told) => {
            cut(state, &uid, &told).await;
            state.admissions.decided(&uid);
        }
        After::Deleted => {
            cut(state, &uid, "the device was deleted from the list").await;
            state.ingest.live().forget(&uid);
            state.admissions.decided(&uid);
        }
    }
}

/// Takes a device in, inside a transaction. `None` where it belongs already.
pub(super) fn admit_in(
    tx: &Transaction<'_>,
    device: &DeviceRow,
    code: Option<&str>,
    by: &str,
    entry: Entry,
) -> store::Result<Option<After>> {
    let details = entry.details.clone();
    let told = told(details, json!({ "serial": device.serial, "was": device.admission }));
    if device.by_hand && device.replacement.is_some() {
        // No key speaks for it yet: the one that asks is its first.
        replace_now(tx, &device.uid, code, by, entry.with(told))?;
        return Ok(Some(After::Admitted));
    }
    if device.admission == Admission::Admitted {
        return Ok(None);
    }
    admit_now(tx, device, by)?;
    entry.with(told).ok(tx)?;
    Ok(Some(After::Admitted))
}

/// Says no to a device, inside a transaction. `None` where that was said already.
pub(super) fn reject_in(
    tx: &Transaction<'_>,
    device: &DeviceRow,
    reason: Option<&str>,
    by: &str,
    entry: Entry,
) -> store::Result<Option<After>> {
    // Where another key asks for the place, it is this wish that is refused; the device stays what it is.
    let replacement = device.replacement.is_some();
    match device.admission {
        _ if replacement => {
            enrolments::reject(tx, &device.uid, true)?;
        }
        Admission::Pending => {
            enrolments::reject(tx, &device.uid, false)?;
            devices::decide(tx, &device.uid, Admission::Rejected, reason, by, clock::now())?;
        }
        Admission::Rejected => return Ok(None),
        Admission::Admitted | Admission::Revoked => {
            let why = format!("{} was admitted; a device that belonged is revoked: muster device revoke", device.name);
            return Err(problem(Code::Conflict, why));
        }
    }
    let details = told(entry.details.clone(), json!({ "reason": reason }));
    entry.with(details).ok(tx)?;
    Ok(Some(After::Decided))
}

/// Cuts a device off, inside a transaction. `None` where it was cut off already.
pub(super) fn revoke_in(
    tx: &Transaction<'_>,
    device: &DeviceRow,
    reason: Option<&str>,
    by: &str,
    entry: Entry,
) -> store::Result<Option<After>> {
    match device.admission {
        Admission::Admitted => {}
        Admission::Revoked => return Ok(None),
        Admission::Pending | Admission::Rejected => {
            let why = format!("{} was never admitted; refuse it with: muster device reject", device.name);
            return Err(problem(Code::Conflict, why));
        }
    }
    devices::decide(tx, &device.uid, Admission::Revoked, reason, by, clock::now())?;
    let details = told(entry.details.clone(), json!({ "reason": reason }));
    entry.with(details).ok(tx)?;
    Ok(Some(After::Cut(match reason {
        Some(reason) => format!("revoked by an owner of {}: {reason}", device.org),
        None => format!("revoked by an owner of {}", device.org),
    })))
}

/// Lets only those go on who may take a device off the list as it is inside the transaction.
pub(super) fn may_delete(access: &OrgAccess, device: &DeviceRow) -> ApiResult<()> {
    if !access.sees(device) {
        return Err(ApiError::not_found("device", device.uid.as_str()));
    }
    access.require_on(if device.admitted_at.is_none() { Action::DeleteUnadmitted } else { Action::DeleteDevice }, device)
}

/// Takes a device off the list, inside a transaction.
pub(super) fn delete_in(tx: &Transaction<'_>, device: &DeviceRow, entry: Entry) -> store::Result<After> {
    devices::delete(tx, &device.uid, clock::now())?;
    let details = told(entry.details.clone(), json!({ "serial": device.serial, "name": device.name }));
    entry.with(details).ok(tx)?;
    Ok(After::Deleted)
}

/// An event's details with more.
fn told(mut details: Value, more: Value) -> Value {
    match (&mut details, more) {
        (Value::Object(details), Value::Object(more)) => details.extend(more),
        (_, more) => return more,
    }
    details
}

async fn admit(State(state): State<AppState>, access: OrgAccess, Path((_, name)): Named) -> ApiResult<Json<Device>> {
    let device = decide_on(&state, &access, &name).await?;
    let (uid, by) = (device.uid.clone(), access.person.email.clone());
    let entry = access.entry("device.admit", uid.as_str());
    let code = code_in(&device, &name);
    let work = move |tx: &Transaction<'_>| admit_in(tx, &fresh(tx, &uid)?, code.as_deref(), &by, entry);
    let (_, device) = change(&state, &device.uid, work).await?;
    admitted(&state, &device.uid).await;
    Ok(Json(shown(&state, &access, device)))
}

/// The pairing code by which a device was named: what is its serial number or its name is none, whatever it looks like.
fn code_in(device: &DeviceRow, name: &str) -> Option<String> {
    random::pairing_code_of(name).filter(|_| device.serial.as_str() != name && device.name != name)
}

fn admit_now(tx: &Transaction<'_>, device: &DeviceRow, by: &str) -> store::Result<()> {
    let now = clock::now();
    if device.by_hand || devices::current_key(tx, &device.uid)?.is_some() {
        // It was revoked, and keeps the key that it had.
        return devices::decide(tx, &device.uid, Admission::Admitted, None, by, now);
    }
    let first = enrolments::first_key(tx, &device.uid)?
        .ok_or_else(|| problem(Code::Conflict, "no key waits for this device: enrol it again, then replace or admit it"))?;
    enrolments::admit_key(tx, &device.uid, &device.org, &first.key, by, "replaced", now)
}

async fn reject(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, name)): Named,
    MaybeBody(decision): MaybeBody<DeviceDecision>,
) -> ApiResult<Json<Device>> {
    let device = decide_on(&state, &access, &name).await?;
    let reason = checked_reason(decision.reason)?;
    let (uid, by) = (device.uid.clone(), access.person.email.clone());
    let entry = access.entry("device.reject", uid.as_str());
    let work = move |tx: &Transaction<'_>| reject_in(tx, &fresh(tx, &uid)?, reason.as_deref(), &by, entry);
    let (_, device) = change(&state, &device.uid, work).await?;
    state.admissions.decided(&device.uid);
    Ok(Json(shown(&state, &access, device)))
}

async fn revoke(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, name)): Named,
    MaybeBody(decision): MaybeBody<DeviceDecision>,
) -> ApiResult<Json<Device>> {
    let device = decide_on(&state, &access, &name).await?;
    let reason = checked_reason(decision.reason)?;
    let (uid, by) = (device.uid.clone(), access.person.email.clone());
    let entry = access.entry("device.revoke", uid.as_str());
    let work = move |tx: &Transaction<'_>| revoke_in(tx, &fresh(tx, &uid)?, reason.as_deref(), &by, entry);
    let (after, device) = change(&state, &device.uid, work).await?;
    if let Some(after) = after {
        follow(&state, device.uid.clone(), after).await;
    }
    Ok(Json(shown(&state, &access, device)))
}

async fn replace(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, name)): Named,
    MaybeBody(wanted): MaybeBody<Replace>,
) -> ApiResult<Json<Device>> {
    let device = decide_on(&state, &access, &name).await?;
    let (uid, by) = (device.uid.clone(), access.person.email.clone());
    let entry = access.entry("device.replace", uid.as_str());
    // The device may have been named by the pairing code of the new key.
    let code = wanted.pairing_code.map(|code| random::pairing_code_of(&code).unwrap_or(code)).or_else(|| code_in(&device, &name));
    let live = state.ingest.live().clone();
    let work = move |tx: &Transaction<'_>| {
        replace_now(tx, &uid, code.as_deref(), &by, entry)?;
        live.forget_policy(&uid);
        Ok(())
    };
    let ((), device) = change(&state, &device.uid, work).await?;
    // No word is left for the old unit: on a broker the new one would find it, under the same name.
    let why = "another key took this device's place";
    end_all(&state, &device.uid, why, state.lanes.cut(&device.uid, why)).await;
    admitted(&state, &device.uid).await;
    Ok(Json(shown(&state, &access, device)))
}

/// Asks the device for a new certificate now, and so to take what the hub tells with it: where MQTT is, and its name.
async fn renew(State(state): State<AppState>, access: OrgAccess, Path((_, name)): Named) -> ApiResult<Json<Device>> {
    let device = decide_on(&state, &access, &name).await?;
    if let Some(problem) = auth::admission_problem(&device) {
        return Err(problem.into());
    }
    let entry = access.entry("device.renew_asked", device.uid.as_str());
    let ((), device) = change(&state, &device.uid, move |tx| entry.ok(tx)).await?;
    let options = SendOptions { retain: false, expiry: Duration::from_millis(clock::DAY.unsigned_abs()) };
    let sent = state.lanes.send(&device.uid, Down::Admission, encode(&AdmissionNotice::Renew), options).await;
    ApiError::told(&device.name, sent)?;
    Ok(Json(shown(&state, &access, device)))
}

fn replace_now(tx: &Transaction<'_>, uid: &DeviceUid, code: Option<&str>, by: &str, entry: Entry) -> store::Result<()> {
    let device = fresh(tx, uid)?;
    let mut asking = enrolments::replacements(tx, uid)?;
    if let Some(code) = code {
        asking.retain(|enrolment| enrolment.pairing_code.eq_ignore_ascii_case(code));
    }
    let chosen = match (asking.pop(), asking.is_empty()) {
        (Some(only), true) => only,
        (None, _) => {
            let why = format!(
                "no other key asks for the place of {}: enrol the new unit with the serial number {} first",
                device.name, device.serial
            );
            return Err(problem(Code::Conflict, why));
        }
        (Some(last), false) => {
            let codes: Vec<String> = asking.into_iter().chain([last]).map(|enrolment| enrolment.pairing_code).collect();
            let why = format!("several keys ask for the place of {}: name one by its pairing code: {}", device.name, codes.join(", "));
            return Err(problem(Code::Conflict, why));
        }
    };
    enrolments::admit_key(tx, uid, &device.org, &chosen.key, by, "replaced", clock::now())?;
    devices::take_facts(tx, uid, &chosen.request)?;
    // The new unit has a policy of its own.
    policies::forget(tx, uid)?;
    let details = json!({ "serial": device.serial, "pairing_code": chosen.pairing_code, "was": device.admission });
    let details = told(entry.details.clone(), details);
    entry.with(details).ok(tx)
}

pub(super) fn checked_reason(reason: Option<String>) -> ApiResult<Option<String>> {
    match reason.filter(|reason| !reason.trim().is_empty()) {
        Some(reason) if reason.chars().count() > REASON_MAX || reason.chars().any(super::text::is_hidden) => {
            Err(ApiError::new(Code::Invalid, format!("reason: it has at most {REASON_MAX} printable characters")))
        }
        reason => Ok(reason),
    }
}

/// A device belongs from now on: its lane opens, then whoever waits for it hears so.
pub(super) async fn admitted(state: &AppState, uid: &DeviceUid) {
    if let Err(error) = state.lanes.admit(uid).await {
        // The line to the broker brings its list in line when it is up again.
        tracing::warn!(%uid, %error, "the broker could not be told of an admitted device yet");
    }
    state.admissions.decided(uid);
}

/// Ends a device's MQTT link and its live sessions, now; the device is told that it no longer belongs.
pub(super) async fn cut(state: &AppState, uid: &DeviceUid, reason: &str) {
    end_all(state, uid, reason, state.lanes.dismiss(uid, reason)).await;
}

async fn end_all(state: &AppState, uid: &DeviceUid, reason: &str, link: impl Future<Output = Result<(), SendError>>) {
    let end = End::by_hub(Code::DeviceRevoked.as_str(), reason);
    let (_, cut) = tokio::join!(state.relay.end_device(uid, &end), link);
    if let Err(error) = cut {
        tracing::error!(%uid, %error, "the device's MQTT link could not be cut");
    }
}
