//! What a device reported: its presence, its samples, its policy; and the wish to see it closer for a while.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_proto::Millis;
use muster_proto::api::{DevicePolicy, Page, PresenceChange, Sample, WatchRequest};
use muster_proto::mqtt::{ConfigWish, encode};
use muster_proto::problem::Code;
use muster_proto::topic::Down;
use serde::Deserialize;

use super::{ApiError, ApiResult, Body, OrgAccess, PAGE_DEFAULT, PAGE_MAX, Path, Query, Route};
use crate::clock;
use crate::mqtt::SendOptions;
use crate::rights::Action;
use crate::state::AppState;
use crate::store::{policies, telemetry};

/// Longest watch, in seconds.
const WATCH_MAX_S: u32 = 600;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs/{org}/devices/{device}/presence", presence),
        Route::get("/v1/orgs/{org}/devices/{device}/usage", usage),
        Route::get("/v1/orgs/{org}/devices/{device}/policy", policy),
        Route::post("/v1/orgs/{org}/devices/{device}/watch", watch).audited("device.watch"),
    ]
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    since: Option<Millis>,
    limit: Option<usize>,
}

impl Asked {
    fn bounds(&self) -> (Millis, usize) {
        (self.since.unwrap_or(0), self.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX))
    }
}

type Named = Path<(String, String)>;

async fn presence(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, name)): Named,
    Query(asked): Query<Asked>,
) -> ApiResult<Json<Page<PresenceChange>>> {
    let device = access.device(&state, &name).await?;
    access.require_on(Action::ViewDevice, &device)?;
    let (since, limit) = asked.bounds();
    let items = state.store.read(move |db| telemetry::history(db, &device.uid, since, limit)).await?;
    Ok(Json(Page { items, next: None }))
}

async fn usage(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, name)): Named,
    Query(asked): Query<Asked>,
) -> ApiResult<Json<Page<Sample>>> {
    let device = access.device(&state, &name).await?;
    access.require_on(Action::ViewDevice, &device)?;
    let (since, limit) = asked.bounds();
    let items = state.store.read(move |db| telemetry::samples(db, &device.uid, since, limit)).await?;
    Ok(Json(Page { items, next: None }))
}

async fn policy(State(state): State<AppState>, access: OrgAccess, Path((_, name)): Named) -> ApiResult<Json<DevicePolicy>> {
    let device = access.device(&state, &name).await?;
    access.require_on(Action::ViewDevice, &device)?;
    let uid = device.uid.clone();
    let told = state.store.read(move |db| policies::of(db, &uid)).await?.ok_or_else(|| {
        let detail = format!("device {} has not told its policy yet; it does so when it connects to the hub", device.name);
        ApiError::new(Code::NotFound, detail)
    })?;
    Ok(Json(told))
}

async fn watch(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, name)): Named,
    Body(asked): Body<WatchRequest>,
) -> ApiResult<StatusCode> {
    let device = access.device(&state, &name).await?;
    access.require_on(Action::WatchDevice, &device)?;
    if !(1..=WATCH_MAX_S).contains(&asked.seconds) {
        return Err(ApiError::new(Code::Invalid, format!("seconds: it is 1 to {WATCH_MAX_S}")));
    }
    let now = clock::now();
    let wish = ConfigWish { watch_until: Some(now + Millis::from(asked.seconds) * clock::SECOND), now, ..ConfigWish::default() };
    let expiry = Duration::from_secs(asked.seconds.into());
    let entry = access.entry("device.watch", device.uid.as_str()).with(serde_json::json!({ "seconds": asked.seconds }));
    state.store.write(move |tx| entry.ok(tx)).await?;
    let options = SendOptions { retain: true, expiry };
    ApiError::told(&device.name, state.lanes.send(&device.uid, Down::Config, encode(&wish), options).await)?;
    Ok(StatusCode::NO_CONTENT)
}
