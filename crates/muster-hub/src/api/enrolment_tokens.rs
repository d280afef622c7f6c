//! Enrolment tokens: made, listed, withdrawn.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_proto::Millis;
use muster_proto::api::{EnrolmentToken, EnrolmentTokenCreate, Page};
use muster_proto::problem::Code;
use muster_proto::token::{Token, TokenKind};
use serde_json::json;

use super::text::is_hidden;
use super::{ApiError, ApiResult, Body, OrgAccess, Path, Route};
use crate::clock::{self, SECOND};
use crate::random;
use crate::rights::Action;
use crate::state::AppState;
use crate::store::enrolment_tokens;

/// Life of a token when nobody says: a week, in seconds.
const EXPIRES_DEFAULT: u64 = 7 * 24 * 3600;
/// Shortest and longest life, in seconds.
const EXPIRES: std::ops::RangeInclusive<u64> = 60..=365 * 24 * 3600;
/// Longest note, in characters.
const NOTE_MAX: usize = 200;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs/{org}/enrolment-tokens", list),
        Route::post("/v1/orgs/{org}/enrolment-tokens", create).audited("enrolment_token.create"),
        Route::delete("/v1/orgs/{org}/enrolment-tokens/{id}", delete).audited("enrolment_token.revoke"),
    ]
}

async fn list(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Page<EnrolmentToken>>> {
    access.require(Action::MakeManualToken)?;
    let items = state.store.read(move |db| enrolment_tokens::list(db, &access.org)).await?;
    Ok(Json(Page { items, next: None }))
}

async fn create(
    State(state): State<AppState>,
    access: OrgAccess,
    Body(wanted): Body<EnrolmentTokenCreate>,
) -> ApiResult<(StatusCode, Json<EnrolmentToken>)> {
    access.require(enrolment_tokens::action(wanted.admit))?;
    if let Some(project) = &wanted.project {
        access.require_in(Action::AssignDevice, project.as_str())?;
    }
    let (token, shown) = check(&access, wanted, state.ca.pin(), clock::now())?;
    let entry = access.entry("enrolment_token.create", &shown.id).with(json!({
        "admit": shown.admit, "uses": shown.uses, "project": shown.project, "expires_at": shown.expires_at,
        "serials": shown.serials.as_ref().map(Vec::len),
    }));
    let row = shown.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        enrolment_tokens::insert(tx, &access.org, random::sha256(token.secret.as_bytes()), &row)?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok((StatusCode::CREATED, Json(shown)))
}

fn check(
    access: &OrgAccess,
    wanted: EnrolmentTokenCreate,
    pin: muster_proto::token::Pin,
    now: Millis,
) -> ApiResult<(Token, EnrolmentToken)> {
    let invalid = |why: String| ApiError::new(Code::Invalid, why);
    let expires = wanted.expires_s.unwrap_or(EXPIRES_DEFAULT);
    if !EXPIRES.contains(&expires) {
        return Err(invalid(format!("expires_s: {expires} is not from {} to {} seconds", EXPIRES.start(), EXPIRES.end())));
    }
    if wanted.uses == Some(0) {
        return Err(invalid("uses: a token that may be used by 0 devices is of no use; leave it out for no limit".into()));
    }
    if wanted.serials.as_ref().is_some_and(Vec::is_empty) {
        return Err(invalid("serials: the list is empty; leave it out for no limit".into()));
    }
    if wanted.note.as_ref().is_some_and(|note| note.chars().count() > NOTE_MAX || note.chars().any(is_hidden)) {
        return Err(invalid(format!("note: it has at most {NOTE_MAX} printable characters")));
    }
    let token = Token::from_random(TokenKind::Enrolment, random::bytes(), pin);
    let shown = EnrolmentToken {
        id: token.id.clone(),
        token: Some(token.to_string()),
        project: wanted.project,
        uses: wanted.uses,
        used: 0,
        admit: wanted.admit,
        serials: wanted.serials,
        note: wanted.note,
        created_by: access.person.email.clone(),
        created_at: now,
        expires_at: now + Millis::try_from(expires).unwrap_or(0) * SECOND,
        revoked_at: None,
    };
    Ok((token, shown))
}

async fn delete(State(state): State<AppState>, access: OrgAccess, Path((_, id)): Path<(String, String)>) -> ApiResult<StatusCode> {
    access.require(Action::MakeManualToken)?;
    let by_id = id.clone();
    let held = state.store.read(move |db| enrolment_tokens::held(db, &by_id)).await?;
    let held = held.filter(|held| held.org == access.org).ok_or_else(|| ApiError::not_found("enrolment token", &id))?;
    access.require(enrolment_tokens::action(held.token.admit))?;
    let entry = access.entry("enrolment_token.revoke", &id);
    let work = move |tx: &rusqlite::Transaction<'_>| {
        enrolment_tokens::revoke(tx, &id, clock::now())?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}
