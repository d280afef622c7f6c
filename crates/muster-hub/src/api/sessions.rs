//! Remote sessions: who may open one, the two addresses at which the relay takes its legs, the list, and the end.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::Response;
use http::StatusCode;
use http::header::AUTHORIZATION;
use muster_proto::api::{LimitName, Page, Session, SessionCreate, SessionState, SessionTicket};
use muster_proto::id::{ProjectId, SessionId};
use muster_proto::limits::SESSION_ORDER_EXPIRY;
use muster_proto::mqtt::{SessionOpen, SessionOrder, encode};
use muster_proto::order::OrderKind;
use muster_proto::problem::{Code, Problem};
use muster_proto::session::Side;
use muster_proto::topic::Down;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::json;

use super::text::is_hidden;
use super::{ApiError, ApiResult, MaybeBody, OrgAccess, PAGE_DEFAULT, PAGE_MAX, Path, ProjectOn, Query, Route, cursor, orders};
use crate::auth;
use crate::clock;
use crate::lapse;
use crate::mqtt::{Lanes, SendOptions};
use crate::peer::{PeerCertificate, RemoteAddr};
use crate::random;
use crate::relay::{End, Order, Relay, Ticket};
use crate::rights::{self, Action};
use crate::state::AppState;
use crate::store::devices::DeviceRow;
use crate::store::limits;
use crate::store::sessions::{self, Filter, SessionRow};

/// Longest `want`, in characters.
const WANT_MAX: usize = 40;
/// Longest `reason`, in characters.
const REASON_MAX: usize = 500;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/orgs/{org}/devices/{device}/sessions", open).audited("session.open"),
        Route::get("/v1/orgs/{org}/sessions", list),
        Route::get("/v1/orgs/{org}/sessions/{id}", one),
        Route::delete("/v1/orgs/{org}/sessions/{id}", end).audited("session.end"),
        Route::get("/v1/sessions/{id}/client", client_leg),
        Route::get("/v1/sessions/{id}/device", device_leg),
    ]
}

/// How the relay tells a device to end a session: on its lane, where it waits as long as an order to open does.
pub fn order_through(lanes: Lanes) -> Order {
    let runtime = tokio::runtime::Handle::current();
    Arc::new(move |uid, order| {
        let lanes = lanes.clone();
        runtime.spawn(async move {
            if let Err(error) = lanes.send(&uid, Down::Session, encode(&order), ORDER).await {
                tracing::warn!(device = %uid, %error, "a device could not be told that a session has ended");
            }
        });
    })
}

const ORDER: SendOptions = SendOptions { retain: false, expiry: SESSION_ORDER_EXPIRY };

async fn open(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, device)): Path<(String, String)>,
    MaybeBody(wanted): MaybeBody<SessionCreate>,
) -> ApiResult<(StatusCode, Json<SessionTicket>)> {
    let device = access.device(&state, &device).await?;
    access.require_on(Action::Connect, &device)?;
    let (project, project_chosen) = choose_project(&access, &device, wanted.project.as_ref(), Action::Connect)?;
    check_text("want", wanted.want.as_deref(), WANT_MAX)?;
    check_text("reason", wanted.reason.as_deref(), REASON_MAX)?;
    if let Some(problem) = auth::admission_problem(&device) {
        return Err(problem.into());
    }
    if !state.lanes.is_linked(&device.uid) {
        let detail = format!(
            "device {} is not connected to the hub now; `muster device show {}` says since when and why",
            device.name, device.serial
        );
        return Err(ApiError::new(Code::DeviceOffline, detail));
    }
    state.relay.has_room(&device.uid)?;

    let now = clock::now();
    let ((client, client_ticket), (for_device, device_ticket)) = (Ticket::make(now), Ticket::make(now));
    let row = SessionRow {
        n: 0,
        id: SessionId::from_random(random::bytes()),
        org: access.org.clone(),
        uid: device.uid.clone(),
        device_name: device.name.clone(),
        project: project.project,
        role: project.role.as_str().to_owned(),
        email: access.person.email.clone(),
        token: Some(access.person.token.clone()),
        address: access.person.from.map(|from| from.to_string()),
        want: wanted.want,
        reason: wanted.reason,
        client_ticket,
        device_ticket,
        created_at: now,
        opened_at: None,
        ended_at: None,
        end_code: None,
        end_reason: None,
        to_device: 0,
        to_client: 0,
    };
    let open = SessionOpen {
        session: row.id.clone(),
        relay: format!("{}/v1/sessions/{}/device", state.endpoints.wss, row.id),
        ticket: for_device,
        user: row.email.clone(),
        project: row.project.clone(),
        role: row.role.clone(),
        reason: row.reason.clone(),
        t: now,
    };
    let order = orders::sign(&state, &device, now, OrderKind::Session { open }).await?;
    let entry = access.entry("session.open", device.uid.as_str()).with(json!({
        "session": row.id, "project": row.project, "role": row.role, "want": row.want, "reason": row.reason,
    }));
    let filed = row.clone();
    state
        .store
        .write(move |tx| {
            limits::check(tx, &filed.org, LimitName::Sessions, 1)?;
            sessions::insert(tx, &filed)?;
            entry.ok(tx)
        })
        .await?;
    state.relay.open(&row);
    // The right was there when it was asked for. If it went since, nobody else will find this session: it was not there yet.
    if let Some(gone) = state.lapses.lapsed(lapse::Sessions::held(&row)).await? {
        state.relay.end(&row.id, lapse::Sessions::end(&gone)).await;
        return Err(gone.into());
    }
    // Not waited for: the device gets it at once, and the caller may dial meanwhile. A failure ends the session, which the caller sees.
    tokio::spawn(send_order(state.lanes.clone(), state.relay.clone(), row.clone(), SessionOrder::Open(order)));
    let path = format!("/v1/sessions/{}/client", row.id);
    let ticket = SessionTicket {
        relay: format!("{}{path}", state.endpoints.wss),
        path,
        session: row.id,
        ticket: client,
        device: row.uid,
        device_name: row.device_name,
        project: row.project,
        project_chosen,
    };
    Ok((StatusCode::CREATED, Json(ticket)))
}

async fn send_order(lanes: Lanes, relay: Relay, row: SessionRow, order: SessionOrder) {
    if let Err(error) = lanes.send(&row.uid, Down::Session, encode(&order), ORDER).await {
        tracing::warn!(session = %row.id, device = %row.uid, %error, "a device could not be told to open a session");
        relay.end(&row.id, End::by_hub("device_silent", format!("the device could not be told: {error}"))).await;
    }
}

/// The project in whose name a device is reached: the one that was named, or else the one where the person may do most, by name where
/// several are equal. And whether it was chosen among several.
pub(super) fn choose_project(
    access: &OrgAccess,
    device: &DeviceRow,
    named: Option<&ProjectId>,
    action: Action,
) -> ApiResult<(ProjectOn, bool)> {
    let roles = access.project_roles(device);
    if let Some(named) = named {
        access.require_in(action, named.as_str())?;
        let found = roles.into_iter().find(|project| project.project == *named);
        let missing = || ApiError::new(Code::NotFound, format!("{} is not in project {named}.", device.name));
        return found.map(|project| (project, false)).ok_or_else(missing);
    }
    let mut fit = roles.into_iter().filter(|project| !project.archived && rights::allows(action, None, Some(project.role)));
    match fit.next() {
        Some(first) => Ok((first, fit.next().is_some())),
        None => {
            let why = format!(
                "You can't {}: you have no role for that in its projects. Add it to one of yours: muster device edit {} --add-project PROJECT",
                action.deed(),
                device.name
            );
            Err(ApiError::new(Code::Forbidden, why))
        }
    }
}

fn check_text(field: &str, text: Option<&str>, max: usize) -> ApiResult<()> {
    match text {
        Some(text) if text.chars().count() > max || text.chars().any(is_hidden) => {
            Err(ApiError::new(Code::Invalid, format!("{field}: it has at most {max} printable characters")))
        }
        _ => Ok(()),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    device: Option<String>,
    state: Option<StateFilter>,
    cursor: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StateFilter {
    Opening,
    Open,
    Interrupted,
    Ended,
    Alive,
}

impl StateFilter {
    fn fits(self, state: SessionState) -> bool {
        match self {
            Self::Opening => state == SessionState::Opening,
            Self::Open => state == SessionState::Open,
            Self::Interrupted => state == SessionState::Interrupted,
            Self::Ended => state == SessionState::Ended,
            Self::Alive => state != SessionState::Ended,
        }
    }
}

async fn list(State(state): State<AppState>, access: OrgAccess, Query(query): Query<ListQuery>) -> ApiResult<Json<Page<Session>>> {
    let uid = match &query.device {
        Some(text) => Some(access.device(&state, text).await?.uid),
        None => None,
    };
    let filter = Filter { uid, ended: query.state.map(|state| state == StateFilter::Ended), projects: visible_projects(&access) };
    let limit = query.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX);
    let list = format!("sessions {} {:?} {:?}", access.org, filter.uid, query.state);
    let (org, cursor) = (access.org.clone(), cursor::maybe(&list, query.cursor.as_deref())?);
    let rows = state.store.read(move |db| sessions::list(db, &org, &filter, cursor, limit)).await?;
    let next = if rows.len() == limit { rows.last().map(|row| cursor::make(&list, &row.n)) } else { None };
    let items = rows.into_iter().map(|row| shown(&state.relay, row));
    let items = items.filter(|session| query.state.is_none_or(|filter| filter.fits(session.state))).collect();
    Ok(Json(Page { items, next }))
}

/// The projects whose sessions somebody sees; `None` for all.
fn visible_projects(access: &OrgAccess) -> Option<Vec<ProjectId>> {
    if rights::allows(Action::ViewDevice, access.role, None) {
        return None;
    }
    let seen = access.projects.iter().filter(|(_, project)| rights::allows(Action::ViewDevice, access.role, Some(project.role)));
    Some(seen.map(|(id, _)| id.clone()).collect())
}

async fn one(State(state): State<AppState>, access: OrgAccess, Path((_, id)): Path<(String, String)>) -> ApiResult<Json<Session>> {
    let row = find(&state, &access, &id).await?;
    Ok(Json(shown(&state.relay, row)))
}

async fn end(State(state): State<AppState>, access: OrgAccess, Path((_, id)): Path<(String, String)>) -> ApiResult<StatusCode> {
    let row = find(&state, &access, &id).await?;
    if row.email == access.person.email {
        // One's own ends with the scope that opened it, whatever became of the role.
        access.require_scope(Action::Connect)?;
    } else {
        access.require_in(Action::EndSession, row.project.as_str())?;
    }
    // The relay ends it, and writes it down afterwards: what this rests on is looked at before.
    state.store.write(|_| Ok(())).await?;
    let email = access.person.email;
    let end = End { code: "cancelled".into(), message: format!("ended by {email}"), by: email, from: access.person.from };
    if !state.relay.end(&row.id, end).await {
        return Err(ApiError::new(Code::SessionEnded, row.end_reason.unwrap_or_else(|| "the session is over".to_owned())));
    }
    Ok(StatusCode::NO_CONTENT)
}

async fn find(state: &AppState, access: &OrgAccess, id: &str) -> ApiResult<SessionRow> {
    let missing = || ApiError::not_found("session", id);
    let wanted: SessionId = id.parse().map_err(|_| missing())?;
    let row = state.store.read(move |db| sessions::by_id(db, &wanted)).await?.ok_or_else(missing)?;
    let seen = visible_projects(access).is_none_or(|projects| projects.contains(&row.project));
    // One's own, whatever became of the role; but a token that is limited to a project has nothing of another one.
    let within = access.person.only_project.as_ref().is_none_or(|only| *only == row.project);
    let own = row.email == access.person.email && within;
    if row.org == access.org && (seen || own) { Ok(row) } else { Err(missing()) }
}

fn shown(relay: &Relay, row: SessionRow) -> Session {
    let now = relay.now(&row.id).filter(|_| row.ended_at.is_none());
    let (to_device, to_client) = now.map_or((row.to_device, row.to_client), |now| (now.to_device, now.to_client));
    let state = match now {
        Some(now) => now.state,
        // It ends in this very moment, and its record follows.
        None => SessionState::Ended,
    };
    Session {
        id: row.id,
        device: row.uid,
        device_name: row.device_name,
        user: row.email,
        project: row.project,
        want: row.want,
        reason: row.reason,
        state,
        created_at: row.created_at,
        opened_at: row.opened_at,
        ended_at: row.ended_at,
        end_reason: row.end_reason,
        to_device,
        to_client,
    }
}

async fn client_leg(State(state): State<AppState>, Path(id): Path<String>, request: Request) -> ApiResult<Response> {
    leg(&state, &id, Side::Client, request).await
}

async fn device_leg(State(state): State<AppState>, Path(id): Path<String>, request: Request) -> ApiResult<Response> {
    leg(&state, &id, Side::Device, request).await
}

async fn leg(state: &AppState, id: &str, side: Side, request: Request) -> ApiResult<Response> {
    let id: SessionId = id.parse().map_err(|_| Problem::new(Code::NotFound, format!("there is no session {id:?} here")))?;
    let bearer = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
    let peer = match side {
        Side::Client => None,
        Side::Device => {
            let from = request.extensions().get::<RemoteAddr>().map(|remote| remote.0.ip().to_canonical());
            let device = certificate_for(&id, request.extensions().get())?;
            Some(auth::authenticate(&state.store, device, from).await?)
        }
    };
    let admitted = state.relay.admit(&id, side, bearer).await?;
    if let Some(peer) = peer
        && peer.uid != *admitted.device()
    {
        tracing::warn!(session = %id, device = %peer.uid, "a device showed the ticket of another device's session");
        return Err(ApiError::new(Code::Forbidden, "this session is with another device"));
    }
    Ok(admitted.attach(request)?)
}

/// The certificate of the device that made the one which a leg shows, if that was made for this session.
fn certificate_for<'a>(id: &SessionId, peer: Option<&'a PeerCertificate>) -> ApiResult<&'a CertificateDer<'static>> {
    let why = match peer {
        Some(PeerCertificate::Session(certificate)) if certificate.session == *id => return Ok(&certificate.device),
        Some(PeerCertificate::Session(_)) => "this certificate was made for another session",
        Some(PeerCertificate::Device(_)) => {
            "the device's leg of a session needs a certificate that the device made for this session; the device's own does not let in here"
        }
        Some(PeerCertificate::None) | None => {
            "the device's leg of a session needs a certificate that the device made for this session (mutual TLS)"
        }
    };
    Err(ApiError::new(Code::Unauthenticated, why))
}
