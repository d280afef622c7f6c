//! `GET /mqtt`: the embedded MQTT endpoint as WebSocket, where only the HTTPS port gets out (MQTT 5, 6).
//!
//! The same endpoint, fence and bounds as on the MQTT port; only the way in differs. Mutual TLS is needed here too.

use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{Request, State};
use axum::response::Response;
use axum::{RequestExt as _, extract::ws};
use muster_proto::problem::Code;

use super::{ApiError, ApiResult, Route};
use crate::auth;
use crate::mqtt::{PACKET_MAX, Wrapped};
use crate::peer::RemoteAddr;
use crate::state::AppState;

/// Bytes read and written at once: what an idle connection keeps. Packets are small.
const BUFFER: usize = 4 * 1024;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/mqtt", upgrade)]
}

async fn upgrade(State(state): State<AppState>, request: Request) -> ApiResult<Response> {
    let endpoint = state.mqtt.clone().ok_or_else(|| {
        ApiError::new(Code::NotFound, format!("this hub's devices speak MQTT with its broker, {}", state.endpoints.mqtt.url))
    })?;
    let missing = "/mqtt is for devices: connect with the device's certificate (mutual TLS)";
    let certificate = auth::device_certificate(request.extensions(), missing)?;
    let from = request.extensions().get::<RemoteAddr>().map(|remote| remote.0);
    let from = from.ok_or_else(|| ApiError::new(Code::Internal, "the connection's address is not known"))?;
    let upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection> = request.extract().await;
    let upgrade = upgrade.map_err(|rejection| {
        ApiError::new(Code::Invalid, format!("/mqtt is a WebSocket with the sub-protocol mqtt: {}", rejection.body_text()))
    })?;
    let upgrade = upgrade.protocols(["mqtt"]);
    if upgrade.selected_protocol().is_none() {
        return Err(ApiError::new(Code::Invalid, "/mqtt is a WebSocket with the sub-protocol mqtt: name it in Sec-WebSocket-Protocol"));
    }
    let size = PACKET_MAX as usize;
    Ok(upgrade
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_message_size(size)
        .max_frame_size(size)
        .on_upgrade(async move |socket: ws::WebSocket| endpoint.serve_websocket(Wrapped::new(socket), certificate, from).await))
}
