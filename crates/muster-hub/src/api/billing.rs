//! Credits: the balance, what projects spent, the ledger, and what an owner of the hub books.

use std::borrow::Cow;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use muster_proto::api::{Billing, CreditAdd, Credits, LedgerEntry, LedgerLine, Page};
use muster_proto::id::OrgId;
use muster_proto::problem::Code;
use serde::Deserialize;
use serde_json::json;

use super::usage::{Format, csv_answer};
use super::{ApiError, ApiResult, Body, OrgAccess, PAGE_DEFAULT, PAGE_MAX, Path, Query, Route, Trail, cursor};
use crate::auth::Person;
use crate::rights::Action;
use crate::state::AppState;
use crate::store::{self, ledger, orgs, problem};
use crate::{clock, csv_text};

/// Longest note and key of a booking, in characters.
const NOTE_MAX: usize = 200;
const KEY_MAX: usize = 100;
/// Most credits in one booking: more is a typing mistake.
const BOOKING_MAX: i64 = 100_000_000 * 1_000_000_000;
/// Lines in one CSV file.
const CSV_MAX: usize = 100_000;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs/{org}/billing", show),
        Route::get("/v1/orgs/{org}/ledger", lines),
        Route::post("/v1/orgs/{org}/credits", add).audited("credits.add"),
    ]
}

async fn show(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Billing>> {
    access.require(Action::SeeBilling)?;
    let billing = state.store.read(move |db| {
        let (balance, projects) = (ledger::balance(db, &access.org)?, ledger::spent(db, &access.org)?);
        let sum = |of: fn(&muster_proto::api::Spent) -> i64| Credits(projects.iter().map(of).fold(0, i64::saturating_add));
        let (spent, uncharged) = (sum(|project| project.credits.0), sum(|project| project.uncharged.0));
        Ok(Billing { balance, spent, uncharged, rates: ledger::rates(db)?, projects })
    });
    Ok(Json(billing.await?))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    cursor: Option<String>,
    limit: Option<usize>,
    format: Option<Format>,
}

async fn lines(State(state): State<AppState>, access: OrgAccess, Query(asked): Query<Asked>) -> ApiResult<Response> {
    access.require(Action::SeeBilling)?;
    let list = format!("ledger {}", access.org);
    let before: Option<i64> = cursor::maybe(&list, asked.cursor.as_deref())?;
    let csv = asked.format == Some(Format::Csv);
    let limit = if csv { asked.limit.unwrap_or(CSV_MAX).clamp(1, CSV_MAX) } else { asked.limit.unwrap_or(PAGE_DEFAULT).clamp(1, PAGE_MAX) };
    let org = access.org.clone();
    let mut items = state.store.read(move |db| ledger::lines(db, &org, before, limit + 1)).await?;
    let more = items.len() > limit;
    items.truncate(limit);
    if csv {
        let body = items.iter().fold(csv_text::line(HEAD.iter().map(|name| Cow::Borrowed(*name))), |mut body, line| {
            body.extend(csv_line(line));
            body
        });
        return Ok(csv_answer(body, &format!("ledger-{}.csv", access.org)));
    }
    let next = items.last().filter(|_| more).map(|line| cursor::make(&list, &line.id));
    Ok(Json(Page { items, next }).into_response())
}

/// An owner of the hub books credits, without belonging to the organization.
async fn add(
    State(state): State<AppState>,
    person: Person,
    axum::Extension(trail): axum::Extension<Trail>,
    Path(org): Path<String>,
    Body(wanted): Body<CreditAdd>,
) -> ApiResult<(StatusCode, Json<LedgerLine>)> {
    person.require_hub_owner("book credits")?;
    let org = known_org(&state, &org).await?;
    trail.set_org(&org);
    check(&wanted)?;
    let entry = if wanted.correction { LedgerEntry::Correction } else { LedgerEntry::TopUp };
    let mut audit = person.entry("credits.add", org.as_str());
    audit.org = Some(org.clone());
    let booked = state.store.write(move |tx| {
        let booking = ledger::Booking {
            entry,
            credits: wanted.credits,
            actor: &person.email,
            note: wanted.note.as_deref(),
            key: wanted.key.as_deref(),
        };
        still_known(tx, &org)?;
        let (line, new) = ledger::book(tx, &org, &booking, clock::now())?;
        if new {
            audit.with(json!({ "credits": line.credits, "entry": entry, "line": line.id, "note": line.note })).ok(tx)?;
        }
        Ok((line, new))
    });
    let (line, new) = booked.await?;
    Ok((if new { StatusCode::CREATED } else { StatusCode::OK }, Json(line)))
}

/// An organization by its id, for owners of the hub.
pub(super) async fn known_org(state: &AppState, text: &str) -> ApiResult<OrgId> {
    let missing = || ApiError::not_found("organization", text);
    let org: OrgId = text.parse().map_err(|_| missing())?;
    let wanted = org.clone();
    let found = state.store.read(move |db| orgs::show(db, &wanted, None)).await?;
    found.map(|_| org).ok_or_else(missing)
}

/// The same in the transaction that books something on it: it may have been deleted just now.
pub(super) fn still_known(tx: &rusqlite::Transaction<'_>, org: &OrgId) -> store::Result<()> {
    match orgs::show(tx, org, None)? {
        Some(_) => Ok(()),
        None => Err(problem(Code::NotFound, format!("there is no organization {org} any more"))),
    }
}

fn check(wanted: &CreditAdd) -> ApiResult<()> {
    let invalid = |why: String| Err(ApiError::new(Code::Invalid, why));
    if !wanted.correction && wanted.credits.0 <= 0 {
        return invalid("credits: a top-up is more than nothing; only a correction takes away".into());
    }
    if wanted.credits.0 == 0 || wanted.credits.0.unsigned_abs() > BOOKING_MAX.unsigned_abs() {
        return invalid(format!("credits: it is not nothing, and at most {} in one booking", Credits(BOOKING_MAX)));
    }
    for (field, text, max) in [("note", &wanted.note, NOTE_MAX), ("key", &wanted.key, KEY_MAX)] {
        if text.as_ref().is_some_and(|text| text.is_empty() || text.chars().count() > max || text.chars().any(super::text::is_hidden)) {
            return invalid(format!("{field}: it has 1 to {max} printable characters"));
        }
    }
    Ok(())
}

const HEAD: [&str; 11] = ["id", "t", "entry", "credits", "day", "project", "unit", "amount", "rate", "actor", "note"];

fn csv_line(line: &LedgerLine) -> Vec<u8> {
    let entry = match line.entry {
        LedgerEntry::Charge => "charge",
        LedgerEntry::TopUp => "top_up",
        LedgerEntry::Correction => "correction",
    };
    csv_text::line([
        csv_text::number(Some(line.id)),
        csv_text::number(Some(line.t)),
        entry.into(),
        csv_text::number(Some(line.credits)),
        csv_text::number(line.day),
        csv_text::number(line.project.as_ref()),
        line.unit.as_deref().unwrap_or_default().into(),
        csv_text::number(line.amount),
        csv_text::number(line.rate),
        csv_text::cell(&line.actor),
        csv_text::cell(line.note.as_deref().unwrap_or_default()),
    ])
}
