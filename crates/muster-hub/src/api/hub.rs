//! The hub itself: health, metrics, who it is, what its API is.

use axum::Json;
use axum::extract::{FromRequestParts as _, Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use muster_proto::api::HubInfo;
use muster_proto::problem::Code;
use serde_json::Value;

use super::{ApiError, ApiResult, Route};
use crate::auth::Person;
use crate::peer::RemoteAddr;
use crate::state::AppState;
use crate::store::devices;
use crate::{clock, openapi};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/healthz", healthz),
        Route::get("/readyz", readyz),
        Route::get("/metrics", metrics),
        Route::get("/v1/openapi.json", openapi_json),
        Route::get("/v1/hub", hub),
    ]
}

/// The process serves.
async fn healthz() -> Json<Value> {
    Json(serde_json::json!({ "status": "ok" }))
}

/// The database answers and writes, and devices can be reached.
async fn readyz(State(state): State<AppState>) -> ApiResult<Json<Value>> {
    if !state.lanes.are_up() {
        return Err(ApiError::new(Code::Unavailable, "the hub is not connected to its MQTT broker; its log says why"));
    }
    state.store.read(|db| Ok(db.query_row("SELECT 1", [], |row| row.get::<_, i64>(0))?)).await?;
    state.store.write(|_| Ok(())).await?;
    Ok(Json(serde_json::json!({ "status": "ready" })))
}

/// Prometheus' page: for this machine, and for whoever has an account (`authorization` in the scrape configuration).
async fn metrics(State(state): State<AppState>, request: Request) -> ApiResult<Response> {
    let local = request.extensions().get::<RemoteAddr>().is_some_and(|remote| remote.0.ip().to_canonical().is_loopback());
    if !local {
        let (mut parts, _) = request.into_parts();
        Person::from_request_parts(&mut parts, &state).await?;
    }
    let help = "Devices, by admission";
    for admission in ["pending", "admitted", "rejected", "revoked"] {
        state.metrics.gauge("muster_devices", help, &[("admission", admission)]).set(0);
    }
    for (admission, count) in state.store.read(devices::counts).await? {
        for known in ["pending", "admitted", "rejected", "revoked"] {
            if admission == known {
                state.metrics.gauge("muster_devices", help, &[("admission", known)]).set(count);
            }
        }
    }
    let counts = state.ingest.live().counts();
    for (presence, count) in [("online", counts.online), ("offline", counts.offline)] {
        let gauge = state.metrics.gauge("muster_devices_present", "Devices that were online once, by presence", &[("presence", presence)]);
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    let content = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, content)], state.metrics.render()).into_response())
}

/// The API's description.
async fn openapi_json() -> Response {
    let content = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, content)], openapi::document().to_string()).into_response()
}

/// What anybody may know of this hub.
async fn hub(State(state): State<AppState>) -> Result<Json<HubInfo>, ApiError> {
    Ok(Json(HubInfo {
        service: "muster-hub".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        now: clock::now(),
        pin: state.ca.pin().to_string(),
        mqtt: state.endpoints.mqtt.clone(),
    }))
}
