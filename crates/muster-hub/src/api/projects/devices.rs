//! Devices into a project and out of it, from the project's side: many in one request, all of them or none.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::State;
use muster_proto::api::{Assigned, ProjectDevices};
use muster_proto::id::DeviceUid;
use muster_proto::limits::ASSIGN_MAX;
use muster_proto::problem::Code;
use rusqlite::Connection;
use serde_json::json;

use crate::api::{ApiError, ApiResult, Body, OrgAccess, Path};
use crate::rights::Action;
use crate::state::AppState;
use crate::store::projects::{self, Candidate};
use crate::store::{self, problem};

/// Devices that a refusal names before it only counts the others.
const NAMED_MAX: usize = 20;
/// Devices that the audit event names.
const RECORDED_MAX: usize = 1000;

pub(super) async fn change(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, project)): Path<(String, String)>,
    Body(wanted): Body<ProjectDevices>,
) -> ApiResult<Json<Assigned>> {
    let project = access.require_in(Action::AssignDevice, &project)?;
    if wanted.add.len() + wanted.remove.len() > ASSIGN_MAX {
        return Err(ApiError::new(Code::Invalid, format!("add: at most {ASSIGN_MAX} devices in one request")));
    }
    // Found on a reader, so that the writer only writes.
    let (asking, named) = (access.clone(), wanted);
    let (add, remove) = state.store.read(move |db| resolve(db, &asking, &named)).await?;
    if let Some(both) = add.intersection(&remove).next() {
        return Err(ApiError::new(Code::Invalid, format!("add: {both} is in remove as well")));
    }
    let entry = access.entry("project.devices", project.as_str());
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for uid in &add {
            match projects::add_device(tx, &access.org, &project, uid)? {
                Some(true) => added.push(uid),
                Some(false) => {}
                None => return Err(problem(Code::Conflict, format!("nothing was changed: device {uid} was deleted meanwhile"))),
            }
        }
        for uid in &remove {
            if projects::remove_device(tx, &access.org, &project, uid)? {
                removed.push(uid);
            }
        }
        let done = Assigned { added: count(added.len()), removed: count(removed.len()) };
        added.truncate(RECORDED_MAX);
        removed.truncate(RECORDED_MAX);
        let details = json!({ "added": done.added, "removed": done.removed, "add": added, "remove": removed });
        entry.with(details).ok(tx)?;
        Ok(done)
    };
    Ok(Json(state.store.write(work).await?))
}

fn count(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// The devices that are meant; or what is wrong, device by device.
fn resolve(db: &Connection, access: &OrgAccess, wanted: &ProjectDevices) -> store::Result<(BTreeSet<DeviceUid>, BTreeSet<DeviceUid>)> {
    let (mut add, mut remove, mut wrong) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for (names, found, adding) in [(&wanted.add, &mut add, true), (&wanted.remove, &mut remove, false)] {
        for name in names {
            match choose(projects::candidates(db, &access.org, name)?, name, access, adding) {
                Ok(uid) => {
                    found.insert(uid);
                }
                Err(why) => wrong.push(why),
            }
        }
    }
    if wrong.is_empty() { Ok((add, remove)) } else { Err(refusal(&wrong)) }
}

/// What is wrong with one device.
struct Wrong {
    code: Code,
    why: String,
}

fn choose(mut found: Vec<Candidate>, name: &str, access: &OrgAccess, adding: bool) -> Result<DeviceUid, Wrong> {
    found.retain(|device| access.allows_among(Action::SeeDevices, &device.projects));
    let several = found.len();
    let Some(device) = found.pop() else {
        return Err(Wrong { code: Code::NotFound, why: format!("{name:?}: there is no such device here, or you have no access to it") });
    };
    if several > 1 {
        let why = format!("{name:?}: {several} devices bear this name; say which by its id or uid");
        return Err(Wrong { code: Code::Conflict, why });
    }
    // Otherwise who maintains one project could take in any device that he only sees, and would have it in his hands.
    if adding && !access.allows_among(Action::AssignDevice, &device.projects) {
        let why = format!(
            "{name:?}: you may put it into a project only as a member of {}, or with maintain in a project that has it",
            access.org
        );
        return Err(Wrong { code: Code::Forbidden, why });
    }
    Ok(device.uid)
}

/// All that is wrong in one sentence; the code is that of the first.
fn refusal(wrong: &[Wrong]) -> store::Error {
    let named: Vec<&str> = wrong.iter().take(NAMED_MAX).map(|wrong| wrong.why.as_str()).collect();
    let more = wrong.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let code = wrong.first().map_or(Code::Invalid, |wrong| wrong.code);
    problem(code, format!("nothing was changed: {}{more}", named.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_some_and_counts_the_rest() {
        let wrong: Vec<Wrong> = (0..25).map(|n| Wrong { code: Code::NotFound, why: format!("\"robot-{n}\": not here") }).collect();
        let store::Error::Problem(told) = refusal(&wrong) else { panic!("a problem") };
        assert!(told.is(Code::NotFound));
        assert!(told.detail.contains("robot-19") && !told.detail.contains("robot-20") && told.detail.ends_with("and 5 more"), "{told}");
    }
}
