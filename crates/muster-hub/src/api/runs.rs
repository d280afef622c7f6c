//! Runs: who may start one, what it writes while it runs, the list, and the end.

use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::Body as AnswerBody;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use http::{StatusCode, header};
use muster_proto::api::{LimitName, Page, Run, RunCreate, RunLine, RunState};
use muster_proto::id::{ProjectId, RunId};
use muster_proto::limits::{PAYLOAD_MAX, RUN_OUTPUT_DEFAULT, RUN_TIMEOUT_DEFAULT_S, RUN_WAIT_MAX_S};
use muster_proto::mqtt::encode;
use muster_proto::order::OrderKind;
use muster_proto::problem::Code;
use muster_proto::run::{RunOrder, RunStart, RunUsed};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::asker::{Asker, Bearer, RECHECK};
use super::sessions::choose_project;
use super::{ApiError, ApiResult, Body, OrgAccess, PAGE_DEFAULT, PAGE_MAX, Path, Query, Route, cursor, orders};
use crate::auth;
use crate::clock;
use crate::lapse::Changes;
use crate::mqtt::SendError;
use crate::random;
use crate::rights::{self, Action};
use crate::runs::{Following, held};
use crate::state::AppState;
use crate::store::limits;
use crate::store::runs::{self, Filter, RunRow};

/// Pieces of output in one read: at most 1 MiB.
const PIECES: usize = 32;
/// A line without anything is sent about so often, so that both ends notice when the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// The media type of one JSON object a line.
const LINES: &str = "application/x-ndjson";

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/orgs/{org}/devices/{device}/runs", start).audited("run.start"),
        Route::get("/v1/orgs/{org}/runs", list),
        Route::get("/v1/orgs/{org}/runs/{id}", one),
        Route::get("/v1/orgs/{org}/runs/{id}/output", output),
        Route::post("/v1/orgs/{org}/runs/{id}/cancel", cancel).audited("run.cancel"),
    ]
}

async fn start(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, device)): Path<(String, String)>,
    Body(wanted): Body<RunCreate>,
) -> ApiResult<(StatusCode, Json<Run>)> {
    let device = access.device(&state, &device).await?;
    access.require_on(Action::Operate, &device)?;
    let (project, _) = choose_project(&access, &device, wanted.project.as_ref(), Action::Operate)?;
    if let Some(problem) = auth::admission_problem(&device) {
        return Err(problem.into());
    }
    let now = clock::now();
    let wait_s = wanted.wait_s.unwrap_or(RUN_WAIT_MAX_S);
    if !(1..=RUN_WAIT_MAX_S).contains(&wait_s) {
        return Err(ApiError::new(Code::Invalid, format!("wait_s: it must be 1 to {RUN_WAIT_MAX_S}")));
    }
    let expires = now + i64::from(wait_s) * 1000;
    let order = RunStart {
        command: wanted.command,
        run_as: wanted.run_as,
        cwd: wanted.cwd,
        env: wanted.env,
        timeout_s: wanted.timeout_s.unwrap_or(RUN_TIMEOUT_DEFAULT_S),
        output_max: wanted.output_max.unwrap_or(RUN_OUTPUT_DEFAULT),
        user: access.person.email.clone(),
        project: project.project.clone(),
        role: project.role.as_str().to_owned(),
        t: now,
        expires,
    };
    order.check().map_err(|broken| ApiError::new(Code::Invalid, broken.why))?;
    let id = RunId::from_random(random::bytes());
    let signed = orders::sign(&state, &device, now, OrderKind::Run { run: id.clone(), start: order.clone() }).await?;
    if encode(&RunOrder::Start(signed.clone())).len() > PAYLOAD_MAX {
        return Err(ApiError::new(Code::Invalid, "command: with its environment it is too large for a message to the device"));
    }
    let row = RunRow {
        n: 0,
        id,
        org: access.org.clone(),
        uid: device.uid.clone(),
        device_name: device.name.clone(),
        project: project.project,
        role: order.role.clone(),
        account: access.person.account,
        email: order.user.clone(),
        token: Some(access.person.token.clone()),
        address: access.person.from.map(|from| from.to_string()),
        command: order.command.clone(),
        run_as: order.run_as.clone(),
        cwd: order.cwd.clone(),
        env: order.env.keys().cloned().collect(),
        timeout_s: order.timeout_s,
        output_max: order.output_max,
        state: RunState::Waiting,
        by_hub: false,
        created_at: now,
        expires_at: expires,
        accepted_at: None,
        started_at: None,
        ended_at: None,
        cancelled_at: None,
        cancelled_by: None,
        exit_code: None,
        signal: None,
        end_code: None,
        end_reason: None,
        stdout: 0,
        stderr: 0,
        dropped: 0,
        kept: 0,
        used: RunUsed::default(),
    };
    let entry = access.entry("run.start", device.uid.as_str()).with(json!({
        "run": row.id, "project": row.project, "role": row.role, "command": row.command, "run_as": row.run_as, "cwd": row.cwd,
        "env": row.env, "timeout_s": row.timeout_s,
    }));
    let filed = row.clone();
    state
        .store
        .write(move |tx| {
            limits::check(tx, &filed.org, LimitName::Runs, 1)?;
            limits::check(tx, &filed.org, LimitName::Storage, filed.output_max)?;
            runs::insert(tx, &filed)?;
            entry.ok(tx)
        })
        .await?;
    // The right was there when it was asked for. If it went since, nobody else will find this run: it was not there yet.
    if let Some(gone) = state.lapses.lapsed(held(&row)).await? {
        state.runs.cancel(&row, "hub", &gone.detail, None).await?;
        return Err(gone.into());
    }
    let sent = state.runs.start(&row.uid, &row.id, signed, Duration::from_secs(wait_s.into())).await;
    if let Err(error) = sent {
        let (id, why) = (row.id.clone(), format!("the order could not be kept for the device: {error}"));
        let told = why.clone();
        state
            .store
            .write(move |tx| runs::end_by_hub(tx, &id, RunState::Waiting, RunState::Failed, "device_silent", &told, clock::now()))
            .await?;
        return Err(match error {
            SendError::Store(error) => error.into(),
            SendError::Full | SendError::TooLarge(_) => ApiError::new(Code::Conflict, why),
            SendError::Broker(_) => ApiError::new(Code::Unavailable, why),
            SendError::Gone => ApiError::new(Code::NotFound, why),
        });
    }
    let linked = state.lanes.is_linked(&row.uid);
    // Somebody may have ended it already: then the order did not leave, and the answer says so.
    let id = row.id.clone();
    let row = if sent.is_ok_and(|left| left) { row } else { state.store.read(move |db| runs::by_id(db, &id)).await?.unwrap_or(row) };
    Ok((StatusCode::CREATED, Json(shown(row, linked))))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    device: Option<String>,
    state: Option<StateFilter>,
    user: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

/// A state, or those that are not over.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(untagged)]
enum StateFilter {
    One(RunState),
    Several(Several),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Several {
    Alive,
    Over,
}

impl StateFilter {
    fn states(self) -> Vec<RunState> {
        match self {
            Self::One(state) => vec![state],
            Self::Several(several) => {
                let over = matches!(several, Several::Over);
                RunState::ALL.into_iter().filter(|state| state.is_over() == over).collect()
            }
        }
    }
}

async fn list(State(state): State<AppState>, access: OrgAccess, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<Run>>> {
    let uid = match &query.device {
        Some(text) => Some(access.device(&state, text).await?.uid),
        None => None,
    };
    let email = query.user.as_ref().map(|user| user.to_lowercase());
    let states = query.state.map(StateFilter::states).unwrap_or_default();
    let list = format!("runs {} {uid:?} {states:?} {email:?}", access.org);
    let filter = Filter { uid, states, email, projects: visible_projects(&access) };
    let limit = query.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let (org, cursor) = (access.org.clone(), cursor::maybe(&list, query.cursor.as_deref())?);
    let rows = state.store.read(move |db| runs::list(db, &org, &filter, cursor, limit)).await?;
    let next = if rows.len() == limit { rows.last().map(|row| cursor::make(&list, &row.n)) } else { None };
    let items = rows.into_iter().map(|row| {
        let linked = state.lanes.is_linked(&row.uid);
        shown(row, linked)
    });
    Ok(Json(Page { items: items.collect(), next }))
}

/// The projects whose runs somebody sees; `None` for all.
fn visible_projects(access: &OrgAccess) -> Option<Vec<ProjectId>> {
    if rights::allows(Action::ViewDevice, access.role, None) && access.person.only_project.is_none() {
        return None;
    }
    let seen = access.projects.iter().filter(|(_, project)| rights::allows(Action::ViewDevice, access.role, Some(project.role)));
    Some(seen.map(|(id, _)| id.clone()).collect())
}

async fn one(State(state): State<AppState>, access: OrgAccess, Path((_, id)): Path<(String, String)>) -> ApiResult<Json<Run>> {
    let row = find(&state, &access, &id).await?;
    let linked = state.lanes.is_linked(&row.uid);
    Ok(Json(shown(row, linked)))
}

async fn cancel(State(state): State<AppState>, access: OrgAccess, Path((_, id)): Path<(String, String)>) -> ApiResult<Json<Run>> {
    let row = find(&state, &access, &id).await?;
    if row.email == access.person.email {
        // One's own ends with the scope that started it, whatever became of the role.
        access.require_scope(Action::Operate)?;
    } else {
        access.require_in(Action::EndSession, row.project.as_str())?;
    }
    if row.state.is_over() {
        return Err(ApiError::new(Code::Conflict, format!("run {} is over: {}", row.id, why(&row, true))));
    }
    let entry = access.entry("run.cancel", row.uid.as_str()).with(json!({ "run": row.id, "project": row.project, "of": row.email }));
    let email = access.person.email.clone();
    match state.runs.cancel(&row, &email, &format!("ended by {email}"), Some(entry)).await? {
        Some(asked) => {
            let linked = state.lanes.is_linked(&asked.uid);
            Ok(Json(shown(asked, linked)))
        }
        // It ended by itself meanwhile, or somebody else was faster.
        None => one(State(state), access, Path((String::new(), id))).await,
    }
}

async fn find(state: &AppState, access: &OrgAccess, id: &str) -> ApiResult<RunRow> {
    let missing = || ApiError::not_found("run", id);
    let wanted: RunId = id.parse().map_err(|_| missing())?;
    let row = state.store.read(move |db| runs::by_id(db, &wanted)).await?.ok_or_else(missing)?;
    let seen = visible_projects(access).is_none_or(|projects| projects.contains(&row.project));
    if row.org == access.org && seen { Ok(row) } else { Err(missing()) }
}

// ---- Output ----------------------------------------------------------------------------------------------------

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct OutputQuery {
    /// Number of the first piece.
    from: Option<u64>,
    /// Whether to wait for what is still to come.
    follow: Option<bool>,
}

async fn output(
    State(state): State<AppState>,
    access: OrgAccess,
    bearer: Bearer,
    Path((_, id)): Path<(String, String)>,
    Query(query): Query<OutputQuery>,
) -> ApiResult<Response> {
    // Listened to before the first look, so that nothing is missed between.
    let changes = state.lapses.changes(&access.org);
    let row = find(&state, &access, &id).await?;
    let following = query.follow.unwrap_or(false).then(|| state.runs.follow(&row.id));
    let asker = Asker::of(&state, &access, bearer);
    let reader =
        Reader { asker, id, from: query.from.unwrap_or(0), following, changes, checked: Instant::now(), said: Instant::now(), done: false };
    let lines = stream::unfold(reader, |reader| async { Box::pin(reader.next()).await });
    let headers = [(header::CONTENT_TYPE, LINES), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, AnswerBody::from_stream(lines)).into_response())
}

/// Somebody who reads a run's output, piece by piece as it comes.
struct Reader {
    asker: Asker,
    id: String,
    from: u64,
    following: Option<Following>,
    changes: Changes,
    /// When the right was looked at.
    checked: Instant,
    /// When something was sent.
    said: Instant,
    done: bool,
}

impl Reader {
    /// The next lines; none after the last.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.done {
            return None;
        }
        loop {
            let found = match self.look().await {
                // After the reading and before the sending: nothing goes out once the right is gone.
                Ok((row, pieces)) => self.check(!pieces.is_empty()).await.map(|()| (row, pieces)),
                Err(error) => Err(error),
            };
            let (row, pieces) = match found {
                Ok(found) => found,
                Err(error) => {
                    self.done = true;
                    return Some((Ok(lines([RunLine::Problem { problem: error.0 }])), self));
                }
            };
            if let Some(last) = pieces.last() {
                (self.from, self.said) = (last.n + 1, Instant::now());
                return Some((Ok(lines(pieces.into_iter().map(RunLine::Piece))), self));
            }
            let linked = self.asker.state.lanes.is_linked(&row.uid);
            let Some(following) = self.following.as_mut().filter(|_| !row.state.is_over()) else {
                self.done = true;
                return Some((Ok(lines([RunLine::Run { run: Box::new(shown(row, linked)) }])), self));
            };
            if self.said.elapsed() >= KEEP_ALIVE {
                self.said = Instant::now();
                return Some((Ok(Bytes::from_static(b"\n")), self));
            }
            tokio::select! {
                more = following.more() => if !more {
                    return None;
                },
                () = self.changes.changed() => self.checked = self.checked.checked_sub(RECHECK).unwrap_or(self.checked),
                () = tokio::time::sleep(RECHECK) => {}
            }
        }
    }

    async fn look(&self) -> ApiResult<(RunRow, Vec<muster_proto::api::RunPiece>)> {
        let missing = || ApiError::not_found("run", &self.id);
        let (wanted, from): (RunId, u64) = (self.id.parse().map_err(|_| missing())?, self.from);
        let found = self.asker.state.store.read(move |db| {
            let Some(row) = runs::by_id(db, &wanted)? else { return Ok(None) };
            let pieces = runs::output(db, row.n, from, PIECES)?;
            Ok(Some((row, pieces)))
        });
        found.await?.ok_or_else(missing)
    }

    /// Whether this reader still sees the run; looked at now and then, or `now`.
    async fn check(&mut self, now: bool) -> ApiResult<()> {
        if now || self.checked.elapsed() >= RECHECK {
            find(&self.asker.state, &self.asker.access().await?, &self.id).await?;
            self.checked = Instant::now();
        }
        Ok(())
    }
}

fn lines(all: impl IntoIterator<Item = RunLine>) -> Bytes {
    let mut bytes = Vec::new();
    for line in all {
        bytes.extend(encode(&line));
        bytes.push(b'\n');
    }
    bytes.into()
}

// ---- As people see it ------------------------------------------------------------------------------------------

/// One sentence: what it waits for, or why it ended so.
fn why(row: &RunRow, linked: bool) -> String {
    let said = row.end_reason.as_deref();
    let and = |text: String| said.map_or(text.clone(), |said| format!("{text}: {said}"));
    match row.state {
        RunState::Waiting if row.cancelled_at.is_some() => "being cancelled".into(),
        RunState::Waiting if linked => "sent to the device; it has not answered yet".into(),
        RunState::Waiting => format!("waiting for the device, which is offline; the order is good for {}", crate::runs::waited(row)),
        RunState::Running if row.cancelled_at.is_some() && !linked => "to be ended; waiting for the device, which is not connected".into(),
        RunState::Running if row.cancelled_at.is_some() => "being ended".into(),
        RunState::Running if !linked => "running when the device was last heard; it is not connected now".into(),
        RunState::Running => "running".into(),
        RunState::Done => and("ended with exit code 0".into()),
        RunState::Failed => match (&row.signal, row.exit_code) {
            (Some(signal), _) => and(format!("ended by signal {signal}")),
            (None, Some(code)) => and(format!("ended with exit code {code}")),
            (None, None) => said.unwrap_or("it could not be started").to_owned(),
        },
        RunState::Cancelled => said.unwrap_or("ended by a person").to_owned(),
        RunState::TimedOut => said.unwrap_or("its time was over").to_owned(),
        RunState::Expired => said.unwrap_or("the device did not take it in time").to_owned(),
        RunState::Refused => said.unwrap_or("the device's policy refused it").to_owned(),
        RunState::Lost => said.unwrap_or("the device lost it").to_owned(),
    }
}

fn shown(row: RunRow, linked: bool) -> Run {
    let why = why(&row, linked);
    Run {
        id: row.id,
        device: row.uid,
        device_name: row.device_name,
        user: row.email,
        project: row.project,
        command: row.command,
        run_as: row.run_as,
        cwd: row.cwd,
        env: row.env,
        timeout_s: row.timeout_s,
        output_max: row.output_max,
        state: row.state,
        why,
        created_at: row.created_at,
        expires_at: row.expires_at,
        started_at: row.started_at,
        ended_at: row.ended_at,
        cancelled_by: row.cancelled_by,
        exit_code: row.exit_code,
        signal: row.signal,
        code: row.end_code,
        stdout: row.stdout,
        stderr: row.stderr,
        dropped: row.dropped,
        cpu_us: row.used.cpu_us,
        mem_byte_ms: row.used.mem_byte_ms,
        mem_peak: row.used.mem_peak,
    }
}
