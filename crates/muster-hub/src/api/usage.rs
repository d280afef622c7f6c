//! What an organization or a project used, by day: JSON, or CSV with the same fields.

use std::borrow::Cow;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;

use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::{HeaderName, HeaderValue, header};
use muster_proto::api::{Day, Usage, UsageDay};
use muster_proto::id::{DeviceUid, OrgId, ProjectId};
use muster_proto::problem::Code;
use serde::Deserialize;

use super::{ApiError, ApiResult, OrgAccess, Path, Query, Route};
use crate::rights::Action;
use crate::state::AppState;
use crate::store::usage::{self, By, Filter};
use crate::{clock, csv_text};

/// Days in one answer.
const DAYS_MAX: i64 = 800;
/// Days when nobody says which.
const DAYS_USUAL: i64 = 30;
/// Rows in one answer: what a caller reads at once, 16 MiB.
const ROWS_MAX: usize = 20_000;

pub(super) fn routes() -> Vec<Route> {
    vec![Route::get("/v1/orgs/{org}/usage", of_org), Route::get("/v1/orgs/{org}/projects/{project}/usage", of_project)]
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    from: Option<String>,
    to: Option<String>,
    by: Option<GroupBy>,
    project: Option<String>,
    device: Option<String>,
    /// One row for all days together.
    whole: Option<bool>,
    format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum GroupBy {
    Project,
    Device,
}

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Format {
    Json,
    Csv,
}

async fn of_org(State(state): State<AppState>, access: OrgAccess, Query(asked): Query<Asked>) -> ApiResult<Response> {
    access.require(Action::SeeBilling)?;
    // Usage outlives projects: one that is gone is asked for by its id.
    let parse = |text: &String| text.parse().map_err(|_| ApiError::new(Code::Invalid, format!("project: {text:?} is no project's id")));
    let project = asked.project.as_ref().map(parse).transpose()?;
    answer(&state, &access, &asked, project).await
}

async fn of_project(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, project)): Path<(String, String)>,
    Query(asked): Query<Asked>,
) -> ApiResult<Response> {
    let project = access.require_in(Action::SeeProjectUsage, &project)?;
    if asked.project.as_ref().is_some_and(|named| *named != project.as_str()) {
        return Err(ApiError::new(Code::Invalid, "project: the path names it already"));
    }
    answer(&state, &access, &asked, Some(project)).await
}

async fn answer(state: &AppState, access: &OrgAccess, asked: &Asked, project: Option<ProjectId>) -> ApiResult<Response> {
    let (from, to) = range(asked, Day::of(clock::now()))?;
    let uid = match &asked.device {
        Some(text) => Some(device(state, access, text).await?),
        None => None,
    };
    let by = match asked.by {
        None => By::Org,
        Some(GroupBy::Project) => By::Project,
        Some(GroupBy::Device) => By::Device,
    };
    let (org, filter) = (access.org.clone(), Filter { from, to, by, whole: asked.whole == Some(true), project, uid });
    if asked.format == Some(Format::Csv) {
        let name = format!("usage-{org}-{from}-{to}.csv");
        let file = File { state: state.clone(), org, filter, next: Some(from), last: to };
        return Ok(csv_answer(Body::from_stream(stream::try_unfold(file, next_lines)), &name));
    }
    let (items, more) = state.store.read(move |db| usage::series(db, &org, &filter, ROWS_MAX)).await?;
    if more {
        let why = format!("from: these days have more than {ROWS_MAX} rows; ask for fewer days, for whole=true, or for a CSV file");
        return Err(ApiError::new(Code::Invalid, why));
    }
    let total = usage::total(&items);
    Ok(Json(Usage { from, to, items, total }).into_response())
}

/// A file that is written day by day, so that no length of it needs memory.
struct File {
    state: AppState,
    org: OrgId,
    filter: Filter,
    /// `None` once all is written.
    next: Option<Day>,
    last: Day,
}

async fn next_lines(mut file: File) -> Result<Option<(Bytes, File)>, axum::BoxError> {
    let Some(day) = file.next else { return Ok(None) };
    let first = day == file.filter.from;
    let mut filter = file.filter.clone();
    if !filter.whole {
        (filter.from, filter.to) = (day, day);
    }
    let (org, store) = (file.org.clone(), file.state.store.clone());
    let (items, _) = store.read(move |db| usage::series(db, &org, &filter, usize::MAX)).await?;
    let mut out = if first { csv_text::line(HEAD.iter().map(|name| Cow::Borrowed(*name))) } else { Vec::new() };
    items.iter().for_each(|row| out.extend(csv_line(row)));
    file.next = (!file.filter.whole && day < file.last).then(|| day.plus(1));
    Ok(Some((Bytes::from(out), file)))
}

/// A device that is still listed, by any of its names; or one that is gone, by its uid.
async fn device(state: &AppState, access: &OrgAccess, text: &str) -> ApiResult<DeviceUid> {
    match access.device(state, text).await {
        Ok(device) => Ok(device.uid),
        Err(error) => text.parse().map_err(|_| error),
    }
}

fn range(asked: &Asked, today: Day) -> ApiResult<(Day, Day)> {
    let parse = |name: &str, text: &Option<String>| match text {
        Some(text) => text.parse::<Day>().map(Some).map_err(|error| ApiError::new(Code::Invalid, format!("{name}: {error}"))),
        None => Ok(None),
    };
    let to = parse("to", &asked.to)?.unwrap_or(today);
    let from = parse("from", &asked.from)?.unwrap_or_else(|| to.plus(1 - DAYS_USUAL));
    let days = to.number() - from.number() + 1;
    if days < 1 {
        return Err(ApiError::new(Code::Invalid, format!("from: {from} is after to, which is {to}")));
    }
    if days > DAYS_MAX {
        return Err(ApiError::new(
            Code::Invalid,
            format!("from: {from} to {to} are {days} days; at most {DAYS_MAX} can be asked for at once"),
        ));
    }
    Ok((from, to))
}

const HEAD: [&str; 16] = [
    "day",
    "project",
    "device",
    "device_name",
    "active_devices",
    "session_ms",
    "to_device",
    "to_client",
    "runs",
    "runs_peak",
    "cpu_us",
    "memory_kib_ms",
    "storage_byte_minutes",
    "members",
    "collaborators",
    "service_accounts",
];

fn csv_line(row: &UsageDay) -> Vec<u8> {
    let used = &row.used;
    let numbers = [
        used.active_devices,
        used.session_ms,
        used.to_device,
        used.to_client,
        used.runs,
        used.runs_peak,
        used.cpu_us,
        used.memory_kib_ms,
        used.storage_byte_minutes,
        used.members,
        used.collaborators,
        used.service_accounts,
    ];
    let texts = [
        Cow::from(row.day.to_string()),
        row.project.as_ref().map(ToString::to_string).unwrap_or_default().into(),
        row.device.as_ref().map(ToString::to_string).unwrap_or_default().into(),
        csv_text::cell(row.device_name.as_deref().unwrap_or_default()),
    ];
    csv_text::line(texts.into_iter().chain(numbers.into_iter().map(|n| csv_text::number(Some(n)))))
}

/// An answer that is a CSV file.
pub(super) fn csv_answer(body: impl Into<axum::body::Body>, name: &str) -> Response {
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers: [(HeaderName, HeaderValue); 2] = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8; header=present")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment"))),
    ];
    (headers, body.into()).into_response()
}
