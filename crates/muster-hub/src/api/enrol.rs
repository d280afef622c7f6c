//! Enrolment and renewal: how a device gets its identity, and hears what was decided.

use std::time::Duration;

use axum::Json;
use axum::extract::{FromRequest, Request, State};
use muster_proto::Millis;
use muster_proto::api::{DeviceSelf, EnrolOutcome, EnrolRequest, EnrolState, Identity, RenewRequest};
use muster_proto::id::DeviceUid;
use muster_proto::limits::{ENROL_POLL_MAX, PRESENCE_MAX};
use muster_proto::problem::{Code, Problem};
use muster_proto::token::{InvalidToken, Token, TokenKind};
use rusqlite::Transaction;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, timeout_at};

use super::{ApiError, ApiResult, Body, Path, Query, Route, decisions, why};
use crate::audit::Entry;
use crate::auth::{self, DevicePeer, KnownDevice};
use crate::ca::DeviceKey;
use crate::clock;
use crate::random;
use crate::state::{App, AppState};
use crate::store::devices::{self, DeviceRow, KeyState};
use crate::store::enrolments::{self, Answer, Ask, Enrolment, Fresh};
use crate::store::problem;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/enrol", enrol),
        Route::get("/v1/enrol/{request}", poll),
        Route::post("/v1/device/renew", renew).audited("device.renew"),
        Route::get("/v1/device/self", this_device),
    ]
}

async fn enrol(State(state): State<AppState>, request: Request) -> ApiResult<Json<EnrolState>> {
    let (parts, body) = request.into_parts();
    let from = auth::address(&parts);
    let Body(asked): Body<EnrolRequest> = Body::from_request(Request::from_parts(parts, body), &state).await?;
    let token = Token::parse(&asked.token, TokenKind::Enrolment).map_err(|error| match error {
        InvalidToken::Kind { .. } => ApiError::new(Code::Invalid, format!("token: {error}")),
        error => ApiError::new(Code::TokenUnknown, error.to_string()),
    })?;
    if token.pin != state.ca.pin() {
        let why =
            "this enrolment token is of another hub: its fingerprint is not this hub's; check the URL, or ask for a token of this hub";
        return Err(ApiError::new(Code::TokenUnknown, why));
    }
    let key = DeviceKey::from_csr(&asked.csr)?;
    let facts = crate::words::facts(asked.facts);
    if serde_json::to_vec(&facts).is_ok_and(|facts| facts.len() > PRESENCE_MAX) {
        return Err(ApiError::new(Code::Invalid, "facts: they have more than 16 KiB"));
    }
    let serial = asked.serial;
    let ask =
        Ask { token: token.id, digest: random::sha256(token.secret.as_bytes()), serial: serial.clone(), key, facts, from, fresh: fresh() };
    let fresh_uid = ask.fresh.uid.clone();
    let answer = state.store.write(move |tx| enrolments::enrol(tx, &ask, clock::now())).await?;
    let enrolment = match answer {
        Answer::Filed(enrolment) => *enrolment,
        Answer::Refused(problem) => {
            tracing::info!(%serial, ?from, code = problem.code, "enrolment refused: {}", problem.detail);
            return Err(problem.into());
        }
    };
    if enrolment.uid == fresh_uid {
        let (uid, org, outcome) = (&enrolment.uid, &enrolment.org, enrolment.state);
        tracing::info!(%uid, %serial, %org, ?outcome, pairing_code = enrolment.pairing_code, "a device enrolled");
    }
    if enrolment.state == EnrolOutcome::Admitted {
        decisions::admitted(&state, &enrolment.uid).await;
    }
    Ok(Json(current(&state, &enrolment.request).await?.1))
}

/// Names for a request that may turn out to be new.
fn fresh() -> Fresh {
    Fresh { uid: DeviceUid::from_random(random::bytes()), request: random::hex::<16>(), pairing_code: random::pairing_code() }
}

#[derive(Debug, Default, Deserialize)]
struct Wait {
    /// Seconds to wait for a decision.
    #[serde(default)]
    wait: u64,
}

async fn poll(State(state): State<AppState>, Path(request): Path<String>, Query(query): Query<Wait>) -> ApiResult<Json<EnrolState>> {
    let deadline = Instant::now() + Duration::from_secs(query.wait).min(ENROL_POLL_MAX);
    // Listen first, then look: then no decision falls between.
    let mut waiter = state.admissions.listen();
    loop {
        let (uid, answer) = current(&state, &request).await?;
        let decided = matches!(answer.state, EnrolOutcome::Admitted | EnrolOutcome::Rejected);
        if decided || timeout_at(deadline, waiter.decided(&uid)).await.is_err() {
            return Ok(Json(answer));
        }
    }
}

/// What became of a request until now, with the certificate once admitted.
async fn current(state: &AppState, request: &str) -> ApiResult<(DeviceUid, EnrolState)> {
    let missing = || ApiError::new(Code::NotFound, "the hub does not know this enrolment; its device was deleted, perhaps: enrol again");
    let name = request.to_owned();
    let found = state.store.read(move |db| {
        let Some((enrolment, device)) = enrolments::by_request(db, &name)? else { return Ok(None) };
        let key = devices::key(db, &enrolment.key)?;
        Ok(Some((enrolment, device, key)))
    });
    let (enrolment, device, key) = found.await?.ok_or_else(missing)?;
    if enrolment.superseded || key.is_some_and(|key| key.state == KeyState::Retired) {
        return Err(enrolments::superseded().into());
    }
    if let Some(problem) = auth::admission_problem(&device).filter(|problem| problem.is(Code::DeviceRevoked)) {
        return Err(problem.into());
    }
    let identity = match enrolment.state {
        EnrolOutcome::Admitted => Some(identity(state, &enrolment, &device).await?),
        EnrolOutcome::Pending | EnrolOutcome::Replacement | EnrolOutcome::Rejected => None,
    };
    let answer = EnrolState {
        why: sentence(&enrolment, &device),
        request: enrolment.request,
        pairing_code: enrolment.pairing_code,
        org: enrolment.org,
        state: enrolment.state,
        now: clock::now(),
        identity,
    };
    Ok((enrolment.uid, answer))
}

fn sentence(enrolment: &Enrolment, device: &DeviceRow) -> String {
    let (org, code, serial) = (&enrolment.org, &enrolment.pairing_code, enrolment.serial.as_str());
    match enrolment.state {
        EnrolOutcome::Pending => format!("it waits until an owner of {org} admits it: muster device admit {code}"),
        EnrolOutcome::Replacement => format!(
            "{serial:?} is listed in {org} with another key already; if this is the same machine with a new key, an owner says: \
             muster device replace {code}"
        ),
        EnrolOutcome::Admitted => format!("it belongs to {org} as {:?}", device.name),
        EnrolOutcome::Rejected => {
            let because = device.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
            format!("an owner of {org} rejected it{because}; ask them to admit it")
        }
    }
}

async fn identity(state: &AppState, enrolment: &Enrolment, device: &DeviceRow) -> ApiResult<Identity> {
    let (ca, request) = (state.ca.clone(), enrolment.request.clone());
    let certificate = state.store.write(move |tx| enrolments::certificate(tx, &ca, &request, clock::now())).await?;
    Ok(identity_with(state, device, certificate))
}

fn identity_with(state: &App, device: &DeviceRow, certificate: String) -> Identity {
    Identity {
        uid: device.uid.clone(),
        org: device.org.clone(),
        name: device.name.clone(),
        certificate,
        ca: state.ca.pem().to_owned(),
        mqtt: state.endpoints.mqtt.clone(),
    }
}

async fn renew(State(state): State<AppState>, peer: DevicePeer, Body(asked): Body<RenewRequest>) -> ApiResult<Json<Identity>> {
    let key = DeviceKey::from_csr(&asked.csr)?;
    let (ca, now, fresh) = (state.ca.clone(), clock::now(), fresh());
    let renewed = state.store.write(move |tx| {
        let Some(device) = devices::by_uid(tx, &peer.uid)? else {
            return Err(problem(Code::NotFound, "this device is no longer listed"));
        };
        if key.digest() != peer.key {
            take_next(tx, &device, &key, &fresh, now)?;
        }
        let issued = ca.sign_device(&key, &device.uid, &device.org, now)?;
        devices::set_certificate_end(tx, &device.uid, issued.expires_at)?;
        Entry::of_device(&device.uid, &device.org, "device.renew")
            .with(json!({ "expires_at": issued.expires_at, "new_key": key.digest() != peer.key }))
            .ok(tx)?;
        Ok((device, issued.pem))
    });
    let (device, certificate) = renewed.await?;
    tracing::info!(uid = %device.uid, "a device renewed its certificate");
    Ok(Json(identity_with(&state, &device, certificate)))
}

/// The new key stands beside the present one until the device uses it.
fn take_next(tx: &Transaction<'_>, device: &DeviceRow, key: &DeviceKey, fresh: &Fresh, now: Millis) -> crate::store::Result<()> {
    let digest = key.digest();
    let taken = || Problem::new(Code::Conflict, "csr: this key was used before; make a new one");
    match devices::key(tx, &digest)? {
        Some(known) if known.uid != device.uid || known.state == KeyState::Retired => return Err(taken().into()),
        Some(known) if known.state == KeyState::Next => return Ok(()),
        _ => {}
    }
    if enrolments::is_known(tx, &digest)? {
        return Err(taken().into());
    }
    devices::make_next(tx, &device.uid, &device.org, &digest, now)?;
    enrolments::file_renewal(tx, device, key, fresh, now)
}

async fn this_device(State(state): State<AppState>, KnownDevice { device, .. }: KnownDevice) -> ApiResult<Json<DeviceSelf>> {
    let live = state.ingest.live().get(&device.uid);
    Ok(Json(DeviceSelf {
        why: why(&device, &live, &state.endpoints, clock::now()),
        presence: live.presence,
        uid: device.uid,
        org: device.org,
        name: device.name,
        admission: device.admission,
        now: clock::now(),
    }))
}
