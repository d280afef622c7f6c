//! Many devices at once: all or nothing, in one transaction, with one event for each device and one for the whole.
//!
//! Each device is looked at again inside the transaction, and the right is checked for each. What a decision ends or begins
//! happens after the commit, as for a single decision. A dry run does the same and is rolled back: it tells what would be.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::State;
use futures_util::StreamExt as _;
use muster_proto::api::{BulkAction, BulkRequest, BulkResult};
use muster_proto::id::DeviceUid;
use muster_proto::problem::Code;
use rusqlite::Transaction;
use serde_json::{Value, json};

use super::decisions::{self, After, checked_reason};
use super::edit::{Checked, Wishes, short};
use super::listing::{Selection, checked_filter, known};
use super::{ApiError, ApiResult, Body, OrgAccess, Route};
use crate::rights::Action;
use crate::state::AppState;
use crate::store::devices::{self, DeviceRow};
use crate::store::{self, problem};

/// Most devices at once: all writes of the hub wait for this one.
pub(super) const BULK_MAX: usize = 10_000;
/// Devices whose links are cut or opened at the same time.
const AT_ONCE: usize = 64;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::post("/v1/orgs/{org}/devices/bulk", bulk).audited("device.bulk")]
}

fn invalid(why: impl Into<String>) -> ApiError {
    ApiError::new(Code::Invalid, why)
}

async fn bulk(State(state): State<AppState>, access: OrgAccess, Body(wanted): Body<BulkRequest>) -> ApiResult<Json<BulkResult>> {
    let order = Order::check(&access, &wanted)?;
    let meant = meant(&state, &access, &wanted).await?;
    let dry_run = wanted.dry_run;
    let outcome = Arc::new(Mutex::new(None));
    let (kept, by) = (Arc::clone(&outcome), access.clone());
    let done = state
        .store
        .write(move |tx| {
            let (result, after) = carry_out(tx, &by, &wanted, &order, &meant)?;
            if dry_run {
                // Rolled back: what happened until here never did.
                *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                return Err(problem(Code::Conflict, "a dry run changes nothing"));
            }
            Ok((result, after))
        })
        .await;
    let tried = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(result) = tried {
        return Ok(Json(result));
    }
    let (result, after) = done?;
    futures_util::stream::iter(after).for_each_concurrent(AT_ONCE, |(uid, after)| decisions::follow(&state, uid, after)).await;
    Ok(Json(result))
}

/// What is done, checked as far as that goes without the database.
struct Order {
    wishes: Wishes,
    reason: Option<String>,
}

impl Order {
    fn check(access: &OrgAccess, wanted: &BulkRequest) -> ApiResult<Self> {
        use BulkAction as B;
        let edits = !wanted.fields.is_empty() || !wanted.add_labels.is_empty() || !wanted.remove_labels.is_empty();
        let moves = matches!(wanted.action, B::Assign | B::Unassign);
        if moves == wanted.projects.is_empty() {
            return Err(invalid(if moves { "projects: name at least one" } else { "projects: they are for assign and unassign" }));
        }
        if (wanted.action == B::Edit) != edits {
            let why =
                if edits { "fields: fields and labels are for edit" } else { "fields: an edit names fields, add_labels or remove_labels" };
            return Err(invalid(why));
        }
        if wanted.reason.is_some() && !matches!(wanted.action, B::Reject | B::Revoke) {
            return Err(invalid("reason: it is for reject and revoke"));
        }
        let projects = Wishes::projects(access, "projects", &wanted.projects)?;
        let mut wishes = Wishes {
            values: wanted.fields.clone(),
            add_labels: wanted.add_labels.iter().cloned().collect(),
            remove_labels: wanted.remove_labels.iter().cloned().collect(),
            ..Wishes::default()
        };
        if wanted.action == B::Assign {
            wishes.join = projects;
        } else {
            wishes.leave = projects;
        }
        wishes.check()?;
        Ok(Self { wishes, reason: checked_reason(wanted.reason.clone())? })
    }
}

/// The devices that are meant: those that match now, or those that are named.
enum Meant {
    Matching(Vec<DeviceUid>),
    Named(Vec<String>),
}

async fn meant(state: &AppState, access: &OrgAccess, wanted: &BulkRequest) -> ApiResult<Meant> {
    let everything = String::new();
    let filter = if wanted.all { wanted.filter.as_ref().or(Some(&everything)) } else { wanted.filter.as_ref() };
    let meant = match (filter, &wanted.devices) {
        (Some(filter), None) if filter.trim().is_empty() != wanted.all => {
            let why = if wanted.all {
                "all: it takes no filter"
            } else {
                "filter: it is empty. To mean every device, send \"all\": true instead"
            };
            return Err(invalid(why));
        }
        (Some(filter), None) => {
            let list = known(state, access).await?;
            let plan = checked_filter(access, &list, filter)?;
            let (there, by) = (state.clone(), access.clone());
            Meant::Matching(state.store.read(move |_| Ok(list.matching(&Selection::viewer(&there, &by), &plan))).await?)
        }
        (None, Some(devices)) => Meant::Named(devices.clone()),
        _ => return Err(invalid("filter: give one of filter, devices and all")),
    };
    let count = match &meant {
        Meant::Matching(uids) => uids.len(),
        Meant::Named(names) => names.len(),
    };
    if let Some(expect) = wanted.expect
        && expect != count as u64
    {
        let why = format!("expected {expect} devices and found {count}: the list has changed; look again, and say the new number");
        return Err(ApiError::new(Code::Conflict, why));
    }
    if count > BULK_MAX {
        return Err(invalid(format!("filter: {count} devices, and at most {BULK_MAX} at once; narrow it")));
    }
    Ok(meant)
}

type Followed = Vec<(DeviceUid, After)>;

fn carry_out(
    tx: &Transaction<'_>,
    access: &OrgAccess,
    wanted: &BulkRequest,
    order: &Order,
    meant: &Meant,
) -> store::Result<(BulkResult, Followed)> {
    let rows = rows(tx, access, meant)?;
    if let Some(expect) = wanted.expect
        && expect != rows.len() as u64
    {
        return Err(problem(Code::Conflict, format!("{expect} devices were meant and {} are left: look again", rows.len())));
    }
    let checked = order.wishes.checked(tx, &access.org)?;
    let mut after = Vec::new();
    for device in &rows {
        let done = one(tx, access, wanted.action, order, &checked, device).map_err(|error| named(error, device))?;
        if let Some(done) = done {
            after.push((device.uid.clone(), done));
        }
    }
    let result = BulkResult {
        matched: rows.len() as u64,
        changed: after.len() as u64,
        dry_run: wanted.dry_run,
        devices: after.iter().map(|(uid, _)| uid.clone()).collect(),
    };
    let target = wanted.filter.as_deref().map_or_else(|| format!("{} devices", rows.len()), short);
    let whole = json!({ "action": wanted.action, "filter": wanted.filter, "matched": result.matched, "changed": result.changed });
    access.entry("device.bulk", target).with(whole).ok(tx)?;
    Ok((result, after))
}

/// The devices as they are now. Whoever names one that is not there is told; one that matched and has gone does not match any more.
fn rows(tx: &Transaction<'_>, access: &OrgAccess, meant: &Meant) -> store::Result<Vec<DeviceRow>> {
    let mut rows = Vec::new();
    match meant {
        Meant::Matching(uids) => {
            for uid in uids {
                rows.extend(devices::by_uid(tx, uid)?.filter(|device| access.sees(device)));
            }
        }
        Meant::Named(names) => {
            let (mut unknown, mut seen) = (Vec::new(), HashSet::new());
            for name in names {
                let by_uid = match name.parse::<DeviceUid>() {
                    Ok(uid) => devices::by_uid(tx, &uid)?.filter(|device| device.org == access.org),
                    Err(_) => None,
                };
                let found = match by_uid {
                    Some(found) => Some(found),
                    None => devices::by_serial(tx, &access.org, name)?,
                };
                match found.filter(|device| access.sees(device)) {
                    // One that is named twice is meant once.
                    Some(device) => rows.extend(seen.insert(device.uid.clone()).then_some(device)),
                    None => unknown.push(format!("{:?}", short(name))),
                }
            }
            if !unknown.is_empty() {
                let more = if unknown.len() > 10 { format!(" and {} more", unknown.len() - 10) } else { String::new() };
                unknown.truncate(10);
                let why =
                    format!("devices: no device of {} has the id or uid {}{more}; nothing was changed", access.org, unknown.join(", "));
                return Err(problem(Code::NotFound, why));
            }
        }
    }
    Ok(rows)
}

/// Does it to one device. `None` where it is as wished already.
fn one(
    tx: &Transaction<'_>,
    access: &OrgAccess,
    action: BulkAction,
    order: &Order,
    checked: &Checked,
    device: &DeviceRow,
) -> store::Result<Option<After>> {
    let require = |action: Action| access.require_on(action, device).map_err(store::Error::from);
    let by = access.person.email.as_str();
    let entry = |name: &'static str| access.entry(name, device.uid.as_str()).with(json!({ "bulk": true, "serial": device.serial }));
    match action {
        BulkAction::Admit => {
            require(Action::DecideDevice)?;
            decisions::admit_in(tx, device, None, by, entry("device.admit"))
        }
        BulkAction::Reject => {
            require(Action::DecideDevice)?;
            decisions::reject_in(tx, device, order.reason.as_deref(), by, entry("device.reject"))
        }
        BulkAction::Revoke => {
            require(Action::DecideDevice)?;
            decisions::revoke_in(tx, device, order.reason.as_deref(), by, entry("device.revoke"))
        }
        BulkAction::Delete => {
            decisions::may_delete(access, device)?;
            decisions::delete_in(tx, device, entry("device.delete")).map(Some)
        }
        BulkAction::Assign | BulkAction::Unassign | BulkAction::Edit => {
            order.wishes.may(access, device)?;
            if !order.wishes.apply(tx, device, checked)? {
                return Ok(None);
            }
            let mut told = order.wishes.told();
            told["bulk"] = Value::Bool(true);
            access.entry("device.edit", device.uid.as_str()).with(told).ok(tx)?;
            Ok(Some(After::Nothing))
        }
    }
}

/// A rule's refusal, with the device that it is about.
fn named(error: store::Error, device: &DeviceRow) -> store::Error {
    match error {
        store::Error::Problem(mut refused) => {
            refused.detail = format!("{} (id {}): {}; nothing was changed", device.name, device.serial, refused.detail);
            store::Error::Problem(refused)
        }
        other => other,
    }
}
