//! The audit log, to read: in pages, as a file of any length in bounded memory, and as it is written.

mod export;
mod tail;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use muster_proto::Millis;
use muster_proto::api::{AuditEvent, Page};
use muster_proto::problem::Code;
use serde::Deserialize;

pub use tail::Tails;

use super::asker::{Asker, Bearer};
use super::{ApiError, ApiResult, OrgAccess, PAGE_DEFAULT, PAGE_MAX, Query, Route, cursor};
use crate::rights::Action;
use crate::state::AppState;
use crate::store::audit::{self, Filter, From};

/// Longest text in a filter.
const TEXT_MAX: usize = 200;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/v1/orgs/{org}/audit", list)]
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    actor: Option<String>,
    action: Option<String>,
    target: Option<String>,
    result: Option<String>,
    since: Option<Millis>,
    until: Option<Millis>,
    cursor: Option<String>,
    /// Oldest first, with ids above this one.
    after: Option<i64>,
    limit: Option<usize>,
    format: Option<Format>,
    follow: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    Json,
    Jsonl,
    Csv,
}

async fn list(State(state): State<AppState>, access: OrgAccess, bearer: Bearer, Query(asked): Query<Asked>) -> ApiResult<Response> {
    access.require(Action::ReadAudit)?;
    let filter = filter(&asked)?;
    let asker = Asker::of(&state, &access, bearer);
    let follow = asked.follow == Some(true);
    match asked.format.unwrap_or(if follow { Format::Jsonl } else { Format::Json }) {
        _ if follow && asked.cursor.is_some() => {
            Err(ApiError::new(Code::Invalid, "cursor: what is followed has no pages; name the last event that you have with after"))
        }
        Format::Jsonl if follow => tail::answer(asker, filter, asked.after).await,
        _ if follow => Err(ApiError::new(Code::Invalid, "format: what is followed comes as jsonl")),
        format @ (Format::Jsonl | Format::Csv) => {
            if asked.cursor.is_some() || asked.after.is_some() {
                return Err(ApiError::new(Code::Invalid, "cursor: a file has no pages; narrow it with since and until"));
            }
            Ok(export::answer(asker, filter, format == Format::Csv, asked.limit))
        }
        Format::Json => Ok(page(&state, &access, &asked, filter).await?.into_response()),
    }
}

fn filter(asked: &Asked) -> ApiResult<Filter> {
    for (name, text) in [("actor", &asked.actor), ("action", &asked.action), ("target", &asked.target), ("result", &asked.result)] {
        if text.as_ref().is_some_and(|text| text.chars().count() > TEXT_MAX) {
            return Err(ApiError::new(Code::Invalid, format!("{name}: it has at most {TEXT_MAX} characters")));
        }
    }
    let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    Ok(Filter {
        actor: some(&asked.actor),
        action: some(&asked.action),
        target: some(&asked.target),
        result: some(&asked.result),
        since: asked.since,
        until: asked.until,
    })
}

async fn page(state: &AppState, access: &OrgAccess, asked: &Asked, filter: Filter) -> ApiResult<Json<Page<AuditEvent>>> {
    let limit = asked.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let list = format!("audit {} {filter:?} {:?}", access.org, asked.after);
    let place: Option<i64> = cursor::maybe(&list, asked.cursor.as_deref())?;
    let from = match (asked.after, place) {
        (Some(after), place) => From::After(place.unwrap_or(after)),
        (None, place) => From::Before(place.unwrap_or(i64::MAX)),
    };
    let org = access.org.clone();
    let mut items = state.store.read(move |db| audit::list(db, org.as_str(), &filter, from, limit + 1)).await?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|event| cursor::make(&list, &event.id));
    Ok(Json(Page { items, next }))
}

/// Whether the token is still good and still gives the right.
async fn still_may(asker: &Asker) -> ApiResult<()> {
    asker.access().await?.require(Action::ReadAudit)
}

/// An event as a line of JSON.
fn json_line(event: &AuditEvent, into: &mut Vec<u8>) {
    // An event is made of texts and numbers: it always serializes.
    if serde_json::to_writer(&mut *into, event).is_ok() {
        into.push(b'\n');
    }
}
