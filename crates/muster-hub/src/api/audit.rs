//! The audit log, to read.

use axum::Json;
use axum::extract::State;
use muster_proto::api::{AuditEvent, Page};
use serde::Deserialize;

use super::{ApiResult, OrgAccess, PAGE_DEFAULT, PAGE_MAX, Query, Route};
use crate::rights::Action;
use crate::state::AppState;
use crate::store::audit;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/v1/orgs/{org}/audit", list)]
}

#[derive(Debug, Deserialize)]
struct Asked {
    cursor: Option<i64>,
    limit: Option<usize>,
}

async fn list(State(state): State<AppState>, access: OrgAccess, Query(asked): Query<Asked>) -> ApiResult<Json<Page<AuditEvent>>> {
    access.require(Action::ReadAudit)?;
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let mut items = state.store.read(move |db| audit::list(db, access.org.as_str(), asked.cursor, limit + 1)).await?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|event| event.id.to_string());
    Ok(Json(Page { items, next }))
}
