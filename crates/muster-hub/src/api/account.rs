//! One's own account: name, password, its end; and what the hub offers to log in with.
//!
//! An account that its person closes stays as a row: the records name it. Its tokens end, and it leaves every organization.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use muster_proto::api::{AccountClose, LoginMethods, Me, MeEdit, OidcMethod, PasswordPut};
use muster_proto::problem::Code;
use serde_json::json;

use super::orgs::display_name;
use super::{ApiError, ApiResult, Body, Route};
use crate::accounts::{self, PASSWORD_MAX};
use crate::auth::Person;
use crate::clock;
use crate::state::{App, AppState};
use crate::store::{accounts as stored, orgs, problem, tokens};

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/login/methods", methods),
        Route::patch("/v1/me", edit).audited("account.edit"),
        Route::put("/v1/me/password", password).audited("account.password"),
        Route::delete("/v1/me", close).audited("account.close"),
    ]
}

async fn methods(State(state): State<AppState>) -> Json<LoginMethods> {
    let oidc = state.config.oidc.as_ref().map(|oidc| OidcMethod { name: oidc.name.clone(), issuer: oidc.issuer.clone() });
    Json(LoginMethods { password: state.config.login.password, oidc })
}

async fn edit(State(state): State<AppState>, person: Person, Body(wanted): Body<MeEdit>) -> ApiResult<Json<Me>> {
    person.require_person("change the account")?;
    let name = display_name(wanted.name, &person.name)?;
    let entry = person.entry("account.edit", person.email.as_str()).with(json!({ "name": name }));
    let (account, new) = (person.account, name.clone());
    let work = move |tx: &rusqlite::Transaction<'_>| {
        stored::set_name(tx, account, &new)?;
        entry.ok(tx)?;
        Ok((orgs::of_account(tx, account)?, stored::has_password(tx, account)?))
    };
    let (orgs, has_password) = state.store.write(work).await?;
    Ok(Json(Me { email: person.email, name, hub_owner: person.hub_owner, has_password, orgs }))
}

/// Whether the password of the account is this one; guessing is bounded as at the login.
async fn prove(state: &App, person: &Person, password: String) -> ApiResult<()> {
    let wrong = || ApiError::new(Code::Forbidden, "the present password is wrong");
    if let Err(seconds) = state.logins.attempt(&person.email, person.from, clock::steady()) {
        let mut error = ApiError::new(Code::RateLimited, format!("too many attempts; wait {seconds} s"));
        error.0.retry_in = Some(seconds);
        return Err(error);
    }
    if password.len() > PASSWORD_MAX {
        return Err(wrong());
    }
    let email = person.email.clone();
    let held = state.store.read(move |db| stored::by_email(db, &email)).await?.and_then(|account| account.password);
    if !state.logins.verify(password, held).await {
        return Err(wrong());
    }
    state.logins.succeeded(&person.email, person.from);
    Ok(())
}

async fn password(State(state): State<AppState>, person: Person, Body(wanted): Body<PasswordPut>) -> ApiResult<StatusCode> {
    person.require_person("change the password")?;
    if !state.config.login.password {
        return Err(ApiError::new(Code::Forbidden, "this hub has no password login: people log in with single sign-on"));
    }
    accounts::check_new_password(&wanted.new).map_err(|why| ApiError::new(Code::Invalid, format!("new: {why}")))?;
    prove(&state, &person, wanted.old).await?;
    let hashed = accounts::hash_slowly(wanted.new).await?;
    let entry = person.entry("account.password", person.email.as_str());
    let end_others = wanted.end_other_tokens;
    let work = move |tx: &rusqlite::Transaction<'_>| {
        stored::set_password(tx, &person.email, &hashed)?;
        let ended = if end_others { tokens::delete_others(tx, person.account, Some(&person.token))? } else { 0 };
        entry.with(json!({ "ended_tokens": ended })).ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn close(State(state): State<AppState>, person: Person, Body(wanted): Body<AccountClose>) -> ApiResult<StatusCode> {
    person.require_person("close the account")?;
    if wanted.email.trim().to_lowercase() != person.email {
        return Err(ApiError::new(Code::Invalid, format!("email: write the account's own e-mail, {}, to close it", person.email)));
    }
    let account = person.account;
    // Where passwords open nothing, none is asked for.
    if state.config.login.password && state.store.read(move |db| stored::has_password(db, account)).await? {
        let password = wanted.password.ok_or_else(|| ApiError::new(Code::Invalid, "password: is needed to close the account"))?;
        prove(&state, &person, password).await?;
    }
    let work = move |tx: &rusqlite::Transaction<'_>| {
        if person.hub_owner && stored::hub_owners(tx)? < 2 {
            return Err(problem(Code::Conflict, "you are the last owner of the hub; `muster-hub user owner EMAIL` makes another first"));
        }
        for org in orgs::anywhere(tx, account)? {
            // The last owner of an organization stays: this says so.
            orgs::remove_member(tx, &org, account)?;
            let mut entry = person.entry("member.leave", person.email.as_str());
            entry.org = Some(org);
            entry.ok(tx)?;
        }
        tokens::delete_others(tx, account, None)?;
        stored::close(tx, account, clock::now())?;
        person.entry("account.close", person.email.as_str()).ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}
