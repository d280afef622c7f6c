//! How much an organization may have: to look at, and to set by its owners (their own) and the hub's (in place of the configuration).

use axum::Json;
use axum::extract::State;
use muster_proto::api::{LimitScope, Limits, LimitsEdit};
use muster_proto::id::OrgId;
use muster_proto::problem::Code;
use serde_json::json;

use super::billing::{known_org, still_known};
use super::{ApiError, ApiResult, Body, OrgAccess, Path, Route, Trail};
use crate::auth::Person;
use crate::rights::Action;
use crate::state::AppState;
use crate::store::limits;

/// Most of anything: what all counters hold.
const MOST: u64 = 1_000_000_000_000_000;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/v1/orgs/{org}/limits", show), Route::patch("/v1/orgs/{org}/limits", edit).audited("limits.edit")]
}

async fn show(State(state): State<AppState>, person: Person, Path(org): Path<String>) -> ApiResult<Json<Limits>> {
    let own = async {
        let access = OrgAccess::load(&state, person.clone(), &org).await?;
        access.require(Action::SeeBilling)?;
        ApiResult::Ok(access.org)
    };
    let org = match own.await {
        Ok(org) => org,
        // Whoever sets limits for the hub sees them, without belonging to the organization.
        Err(_) if person.require_hub_owner("look at the limits of any organization").is_ok() => known_org(&state, &org).await?,
        Err(error) => return Err(error),
    };
    read(&state, org).await
}

async fn edit(
    State(state): State<AppState>,
    person: Person,
    axum::Extension(trail): axum::Extension<Trail>,
    Path(org): Path<String>,
    Body(wanted): Body<LimitsEdit>,
) -> ApiResult<Json<Limits>> {
    let mut entry = person.entry("limits.edit", &org);
    let org = match wanted.scope {
        LimitScope::Hub => {
            person.require_hub_owner("set what the hub allows an organization; leave out the scope to set its own limits")?;
            known_org(&state, &org).await?
        }
        LimitScope::Own => {
            let access = OrgAccess::load(&state, person, &org).await?;
            trail.set_org(&access.org);
            access.require(Action::SetLimits)?;
            access.org
        }
    };
    trail.set_org(&org);
    if wanted.limits.is_empty() {
        return Err(ApiError::new(Code::Invalid, "limits: name at least one"));
    }
    if let Some(limit) = wanted.limits.iter().find(|limit| limit.most.is_some_and(|most| most > MOST)) {
        return Err(ApiError::new(Code::Invalid, format!("limits: {} is at most {MOST}", limit.name.as_str())));
    }
    entry.org = Some(org.clone());
    let entry = entry.with(json!({ "scope": wanted.scope, "limits": wanted.limits }));
    let whose = org.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        still_known(tx, &whose)?;
        for limit in &wanted.limits {
            limits::put(tx, &whose, wanted.scope, limit.name, limit.most)?;
        }
        entry.ok(tx)?;
        limits::all(tx, &whose)
    };
    let items = state.store.write(work).await?;
    state.ingest.look_for_room();
    Ok(Json(Limits { org, items }))
}

async fn read(state: &AppState, org: OrgId) -> ApiResult<Json<Limits>> {
    let whose = org.clone();
    let items = state.store.read(move |db| limits::all(db, &whose)).await?;
    Ok(Json(Limits { org, items }))
}
