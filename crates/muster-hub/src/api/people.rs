//! People: login, who am I, personal access tokens.

use axum::Json;
use axum::extract::{FromRequest as _, Request, State};
use http::StatusCode;
use muster_proto::Millis;
use muster_proto::api::{AccessToken, AccessTokenCreate, LoginRequest, Me, Page, TokenScope};
use muster_proto::limits::NAME_MAX;
use muster_proto::problem::Code;
use muster_proto::token::{Token, TokenKind};
use serde_json::{Value, json};

use super::orgs::as_limited;
use super::text::{is_hidden, shows};
use super::{ApiError, ApiResult, Body, OrgAccess, Path, Route};
use crate::accounts::{self, PASSWORD_MAX};
use crate::audit::Entry;
use crate::auth::{self, Person};
use crate::clock::{self, DAY};
use crate::random;
use crate::state::AppState;
use crate::store::{self, accounts as stored, orgs, problem, tokens};
use rusqlite::Transaction;

/// Tokens of one account that are good at the same time: a script that logs in for ever is stopped.
const TOKENS_MAX: u32 = 200;
/// Longest life of a token, in days.
const TOKEN_DAYS_MAX: u32 = 360;
/// Life of a token from a login, in days.
pub(super) const LOGIN_DAYS: u32 = 90;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/login", login).audited("account.login"),
        Route::get("/v1/me", me),
        Route::get("/v1/tokens", list),
        Route::post("/v1/tokens", create).audited("token.create"),
        Route::delete("/v1/tokens/{id}", delete).audited("token.delete"),
    ]
}

async fn login(State(state): State<AppState>, request: Request) -> ApiResult<(StatusCode, Json<AccessToken>)> {
    let (parts, body) = request.into_parts();
    let from = auth::address(&parts);
    let trail = parts.extensions.get::<super::Trail>().cloned();
    let request = Request::from_parts(parts, body);
    let Body(login): Body<LoginRequest> = Body::from_request(request, &state).await?;

    if !state.config.login.password {
        return Err(ApiError::new(Code::Forbidden, "this hub has no password login: use single sign-on, with `muster login`"));
    }
    let refused = || ApiError::new(Code::Unauthenticated, "the e-mail or the password is wrong");
    let email = accounts::parse_email(&login.email).map_err(|_| refused())?;
    if login.password.len() > PASSWORD_MAX {
        return Err(refused());
    }
    if let Err(seconds) = state.logins.attempt(&email, from, clock::steady()) {
        let mut error = ApiError::new(Code::RateLimited, format!("too many attempts to log in; wait {seconds} s"));
        error.0.retry_in = Some(seconds);
        return Err(error);
    }
    // Bounded by the limit above, so that a failed attempt may stand in the records under the name that was tried.
    if let Some(trail) = trail {
        trail.set_actor(&email);
    }
    let by_email = email.clone();
    let account = state.store.read(move |db| stored::by_email(db, &by_email)).await?;
    let right = state.logins.verify(login.password, account.as_ref().and_then(|account| account.password.clone())).await;
    let Some(account) = account.filter(|account| right && account.is_open() && !account.service) else { return Err(refused()) };
    state.logins.succeeded(&email, from);
    let name = login.token_name.unwrap_or_else(|| "login".into());
    check_name(&name)?;
    let entry = Entry { org: None, actor: email, action: "account.login", target: String::new(), from, details: Value::Null };
    let (token, shown) = new_token(state.ca.pin(), name, LOGIN_DAYS, clock::now());
    issue(&state, account.id, token, shown, entry).await
}

async fn me(State(state): State<AppState>, person: Person) -> ApiResult<Json<Me>> {
    let account = person.account;
    let (orgs, has_password) = state.store.read(move |db| Ok((orgs::of_account(db, account)?, stored::has_password(db, account)?))).await?;
    let orgs = as_limited(&person, orgs);
    Ok(Json(Me { email: person.email, name: person.name, hub_owner: person.hub_owner, has_password, orgs }))
}

async fn list(State(state): State<AppState>, person: Person) -> ApiResult<Json<Page<AccessToken>>> {
    let mut items = state.store.read(move |db| tokens::list(db, person.account)).await?;
    // A token that may not do all need not know of the others.
    if person.scope != TokenScope::Full || person.only_org.is_some() {
        items.retain(|token| token.id == person.token);
    }
    Ok(Json(Page { items, next: None }))
}

async fn create(
    State(state): State<AppState>,
    person: Person,
    Body(wanted): Body<AccessTokenCreate>,
) -> ApiResult<(StatusCode, Json<AccessToken>)> {
    person.require_person("make tokens")?;
    check_name(&wanted.name)?;
    check_days(wanted.expires_days)?;
    match (&wanted.org, &wanted.project) {
        // A limit to something that the account does not have would be a token that never works.
        (Some(org), project) => {
            let access = OrgAccess::load(&state, person.clone(), org.as_str()).await?;
            if let Some(project) = project {
                access.project(project.as_str())?;
            }
        }
        (None, Some(_)) => return Err(ApiError::new(Code::Invalid, "project: a limit to a project needs `org` as well")),
        (None, None) => {}
    }
    let entry = person.entry("token.create", "");
    let (token, mut shown) = new_token(state.ca.pin(), wanted.name, wanted.expires_days, clock::now());
    (shown.scope, shown.org, shown.project) = (wanted.scope, wanted.org, wanted.project);
    issue(&state, person.account, token, shown, entry).await
}

async fn delete(State(state): State<AppState>, person: Person, Path(id): Path<String>) -> ApiResult<StatusCode> {
    // Any token may end itself: that is how a login ends.
    if id != person.token {
        person.require_person("withdraw other tokens")?;
    }
    let entry = person.entry("token.delete", &id);
    let account = person.account;
    let work = move |tx: &rusqlite::Transaction<'_>| {
        if !tokens::delete(tx, account, &id)? {
            return Err(problem(Code::NotFound, format!("you have no token {id:?}")));
        }
        entry.ok(tx)
    };
    state.store.write(work).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) fn check_name(name: &str) -> ApiResult<()> {
    if name.is_empty() || name.chars().count() > NAME_MAX || name.chars().any(is_hidden) {
        return Err(ApiError::new(Code::Invalid, format!("name: a token's name has 1 to {NAME_MAX} printable characters")));
    }
    Ok(())
}

/// A display name for somebody whose own may be missing or odd: then the part of the e-mail before the @.
pub(crate) fn display_name_of(name: Option<&str>, email: &str) -> String {
    let tidied = |text: &str| -> String { text.chars().filter(|c| !is_hidden(*c)).take(NAME_MAX).collect::<String>().trim().to_owned() };
    let named = name.map(tidied).filter(|name| shows(name));
    named.unwrap_or_else(|| tidied(email.split('@').next().unwrap_or(email)))
}

pub(super) fn check_days(days: u32) -> ApiResult<()> {
    if (1..=TOKEN_DAYS_MAX).contains(&days) {
        return Ok(());
    }
    Err(ApiError::new(Code::Invalid, format!("expires_days: {days} is not from 1 to {TOKEN_DAYS_MAX}")))
}

/// Files a new token in bounds, and gives what the records say of it.
pub(super) fn file_token(tx: &Transaction<'_>, account: i64, token: &Token, row: &AccessToken) -> store::Result<Value> {
    if tokens::count_valid(tx, account, row.created_at)? >= TOKENS_MAX {
        return Err(problem(Code::Conflict, format!("there are {TOKENS_MAX} tokens already; withdraw some")));
    }
    tokens::insert(tx, account, random::sha256(token.secret.as_bytes()), row)?;
    Ok(json!({
        "id": row.id, "name": row.name, "expires_at": row.expires_at, "scope": row.scope, "org": row.org, "project": row.project,
    }))
}

async fn issue(
    state: &AppState,
    account: i64,
    token: Token,
    shown: AccessToken,
    entry: Entry,
) -> ApiResult<(StatusCode, Json<AccessToken>)> {
    let row = shown.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let details = file_token(tx, account, &token, &row)?;
        let mut entry = entry;
        entry.target.clone_from(&row.id);
        entry.with(details).ok(tx)
    };
    state.store.write(work).await?;
    Ok((StatusCode::CREATED, Json(shown)))
}

/// Draws a personal access token: what is stored of it, and what is shown once.
pub(crate) fn new_token(pin: muster_proto::token::Pin, name: String, days: u32, now: Millis) -> (Token, AccessToken) {
    let token = Token::from_random(TokenKind::Personal, random::bytes(), pin);
    let shown = AccessToken {
        id: token.id.clone(),
        token: Some(token.to_string()),
        name,
        scope: TokenScope::Full,
        org: None,
        project: None,
        created_at: now,
        expires_at: now + Millis::from(days) * DAY,
        used_at: None,
    };
    (token, shown)
}
