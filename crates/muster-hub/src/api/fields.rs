//! Custom fields: defined by owners, seen by whoever belongs; a collaborator knows of those that his devices have a value for.
//! Whatever would lose values says so first.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_proto::api::{Field, FieldCreate, FieldEdit, Page};
use muster_proto::id::OrgId;
use muster_proto::problem::Code;
use rusqlite::Connection;
use serde::Deserialize;
use serde_json::json;

use super::listing::known;
use super::{ApiError, ApiResult, Body, OrgAccess, Path, Query, Route};
use crate::clock;
use crate::fields as rules;
use crate::rights::Action;
use crate::state::AppState;
use crate::store::{self, fields, problem};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs/{org}/fields", list),
        Route::post("/v1/orgs/{org}/fields", create).audited("field.create"),
        Route::patch("/v1/orgs/{org}/fields/{field}", edit).audited("field.edit"),
        Route::delete("/v1/orgs/{org}/fields/{field}", delete).audited("field.delete"),
    ]
}

#[derive(Debug, Deserialize)]
struct Confirmed {
    confirm: Option<String>,
}

async fn list(State(state): State<AppState>, access: OrgAccess) -> ApiResult<Json<Page<Field>>> {
    let list = known(&state, &access).await?;
    Ok(Json(Page { items: list.fields.iter().map(|(_, field)| field.clone()).collect(), next: None }))
}

async fn create(State(state): State<AppState>, access: OrgAccess, Body(wanted): Body<FieldCreate>) -> ApiResult<(StatusCode, Json<Field>)> {
    access.require(Action::ManageFields)?;
    let field = Field {
        title: wanted.title.unwrap_or_else(|| wanted.key.clone()),
        key: wanted.key,
        kind: wanted.kind,
        choices: wanted.choices,
        required: wanted.required,
        description: wanted.description,
        created_at: clock::now(),
    };
    rules::check(&field).map_err(|why| ApiError::new(Code::Invalid, why))?;
    let entry = access.entry("field.create", field.key.as_str()).with(json!({ "field": field }));
    let made = field.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        fields::insert(tx, &access.org, &made)?;
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok((StatusCode::CREATED, Json(field)))
}

async fn edit(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, key)): Path<(String, String)>,
    Query(asked): Query<Confirmed>,
    Body(wanted): Body<FieldEdit>,
) -> ApiResult<Json<Field>> {
    access.require(Action::ManageFields)?;
    let entry = access.entry("field.edit", key.as_str());
    let edited = state.store.write(move |tx| {
        let (id, held) = find(tx, &access.org, &key)?;
        let field = Field {
            title: wanted.title.unwrap_or_else(|| held.title.clone()),
            choices: wanted.choices.unwrap_or_else(|| held.choices.clone()),
            required: wanted.required.unwrap_or(held.required),
            description: wanted.description.unwrap_or_else(|| held.description.clone()),
            ..held.clone()
        };
        rules::check_about(&field).map_err(|why| problem(Code::Invalid, why))?;
        let gone: Vec<String> = held.choices.iter().filter(|choice| !field.choices.contains(choice)).cloned().collect();
        let lost = if gone.is_empty() { 0 } else { fields::used(tx, id, Some(&gone))? };
        if lost > 0 {
            confirmed(&key, asked.confirm.as_deref(), || {
                format!("{} {} {} of {key}, and would lose it", devices(lost), if lost == 1 { "has" } else { "have" }, told(&gone))
            })?;
            fields::clear(tx, id, &gone)?;
        }
        fields::update(tx, id, &field)?;
        entry.with(json!({ "field": field, "was": held, "values_lost": lost })).ok(tx)?;
        Ok(field)
    });
    Ok(Json(edited.await?))
}

async fn delete(
    State(state): State<AppState>,
    access: OrgAccess,
    Path((_, key)): Path<(String, String)>,
    Query(asked): Query<Confirmed>,
) -> ApiResult<StatusCode> {
    access.require(Action::ManageFields)?;
    let entry = access.entry("field.delete", key.as_str());
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let (id, held) = find(tx, &access.org, &key)?;
        let lost = fields::used(tx, id, None)?;
        if lost > 0 {
            confirmed(&key, asked.confirm.as_deref(), || {
                format!("{} {} a value in {key}, and would lose it", devices(lost), if lost == 1 { "has" } else { "have" })
            })?;
        }
        fields::delete(tx, id)?;
        entry.with(json!({ "was": held, "values_lost": lost })).ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn find(db: &Connection, org: &OrgId, key: &str) -> store::Result<(i64, Field)> {
    let found = fields::list(db, org)?.into_iter().find(|(_, field)| field.key == key);
    found.ok_or_else(|| problem(Code::NotFound, format!("there is no custom field {:?} in {org}", super::edit::short(key))))
}

/// What would be lost is lost only for whoever repeats the field's key.
fn confirmed(key: &str, given: Option<&str>, lost: impl FnOnce() -> String) -> store::Result<()> {
    if given == Some(key) {
        return Ok(());
    }
    Err(problem(Code::Conflict, format!("{}; to do it all the same, say ?confirm={key}", lost())))
}

fn devices(count: u64) -> String {
    if count == 1 { "1 device".to_owned() } else { format!("{count} devices") }
}

fn told(choices: &[String]) -> String {
    match choices {
        [one] => format!("the choice {one:?}"),
        many => format!("one of the choices {many:?}"),
    }
}
