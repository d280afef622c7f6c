//! Single sign-on through a browser: to the provider, back, and a page on which the person says yes.
//!
//! A login belongs to the browser that began it (a cookie), serves once, and ends after ten minutes. The hub keeps no session of a browser:
//! whoever says yes has just come from the provider. What a yes is good for is either a code at this computer's loopback, worth nothing
//! without the verifier of the `muster` that waits there, or a login by device code ([`device`]). See decision 0020.

mod device;
mod pages;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use muster_proto::Millis;
use muster_proto::api::{AccessToken, LoginCode};
use muster_proto::problem::{Code, Problem};
use openidconnect::url::{Url, form_urlencoded};
use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq as _;

use super::people::{LOGIN_DAYS, check_name, file_token, new_token};
use super::{ApiError, ApiResult, Body, Route, extract};
use crate::audit::Entry;
use crate::auth;
use crate::clock::{self, SECOND};
use crate::random;
use crate::sso::admit::{self, Admitted};
use crate::sso::{self, Failed, Provider};
use crate::state::{App, AppState};
use crate::store::sso::{self as stored, CodeRow, LoginRow};
use crate::store::{self, accounts, problem};

/// From the beginning at the hub to the yes.
const LOGIN_LIFE: Millis = 600 * SECOND;
/// From the yes to the trade of the code: the browser brings it at once.
const CODE_LIFE: Millis = 60 * SECOND;
/// The browser that began a login. `__Host-`: only this host sets it, only over TLS (RFC 6265bis, section 4.1.3.2).
const COOKIE: &str = "__Host-muster-login";
/// Logins that one address may begin at once; one more each second.
const BEGIN_BURST: u32 = 60;
/// Longest text of the command line's that it is handed back with.
const STATE_MAX: usize = 128;

pub(super) fn routes() -> Vec<Route> {
    let mut routes = vec![
        Route::get("/v1/login/oidc/start", start),
        Route::get(sso::CALLBACK, callback),
        Route::post("/v1/login/oidc/confirm", confirm).audited("login.confirm"),
        Route::post("/v1/login/code", code).audited("account.login"),
    ];
    routes.extend(device::routes());
    routes
}

/// What a login through the browser is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Goal {
    /// A code for the `muster` that listens at this computer's loopback.
    Loopback { redirect: String, challenge: String, state: String },
    /// A login by device code.
    Device { user_code: String },
    /// It is known who it is; the person has to say yes.
    Confirm { account: i64, email: String, goal: Box<Self> },
}

/// The provider, where there is one.
fn provider(state: &App) -> Result<&Provider, ApiError> {
    let none = "this hub has no single sign-on: log in with e-mail and password, muster login HUB --email EMAIL";
    state.sso.as_ref().ok_or_else(|| ApiError::new(Code::NotFound, none))
}

/// One more from this address, in bounds.
fn pace(state: &App, what: &'static str, parts: &Parts, burst: u32, refill: Millis) -> Result<(), ApiError> {
    state.logins.attempt_from(what, auth::address(parts), burst, refill, clock::steady()).map_err(|seconds| {
        let mut error = ApiError::new(Code::RateLimited, format!("too many logins from this address; wait {seconds} s"));
        error.0.retry_in = Some(seconds);
        error
    })
}

async fn start(State(state): State<AppState>, parts: Parts) -> Response {
    if let Some(home) = elsewhere(&state, &parts) {
        return see_other(&home).unwrap_or_else(|error| refused(&parts, error));
    }
    match goal_of(&parts) {
        Ok(goal) => begin(&state, &parts, &goal).await.unwrap_or_else(|error| turn_back(&parts, &goal, error)),
        Err(why) => refused(&parts, ApiError::new(Code::Invalid, why)),
    }
}

/// The same address at the hub's public place, for a browser that came by another name: its cookie would be lost on the way back.
fn elsewhere(state: &App, parts: &Parts) -> Option<String> {
    let public = Url::parse(&state.endpoints.https).ok()?;
    let host = parts.headers.get(header::HOST)?.to_str().ok()?;
    let here = Url::parse(&format!("https://{host}")).ok()?;
    let same = (here.host_str(), here.port_or_known_default()) == (public.host_str(), public.port_or_known_default());
    // Once: something between may give every request another name.
    if same || field(parts, "moved").is_some() {
        return None;
    }
    let query = parts.uri.query().unwrap_or_default();
    Some(format!("{}/v1/login/oidc/start?{query}&moved=1", state.endpoints.https))
}

/// Says no: as a page to a browser, as a problem to whatever else asks.
fn refused(parts: &Parts, error: ApiError) -> Response {
    let accepts = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if accepts.contains("text/html") { pages::refused(&error.0) } else { error.into_response() }
}

/// What a browser that begins asks for. Only this computer's loopback is a place to be sent to.
fn goal_of(parts: &Parts) -> Result<Goal, &'static str> {
    if let Some(code) = field(parts, "user_code") {
        let user_code = device::normal(&code).ok_or("This is no code of muster login --device-code: it looks like ABCD-2345.")?;
        return Ok(Goal::Device { user_code });
    }
    let incomplete = "This address is not whole. Begin again with muster login.";
    let (Some(redirect), Some(challenge), Some(state)) = (field(parts, "redirect_uri"), field(parts, "challenge"), field(parts, "state"))
    else {
        return Err(incomplete);
    };
    if !is_loopback_redirect(&redirect) {
        return Err("A login is only handed to this very computer, and this address names another place. Begin again with muster login.");
    }
    let whole = challenge.len() == 43 && is_token(&challenge) && (16..=STATE_MAX).contains(&state.len()) && is_token(&state);
    if whole { Ok(Goal::Loopback { redirect, challenge, state }) } else { Err(incomplete) }
}

/// `http://127.0.0.1:PORT/`, or the same with `[::1]`, to the letter (RFC 8252, section 7.3).
fn is_loopback_redirect(text: &str) -> bool {
    let rest = text.strip_prefix("http://127.0.0.1:").or_else(|| text.strip_prefix("http://[::1]:"));
    let port = rest.and_then(|rest| rest.strip_suffix('/'));
    port.is_some_and(|port| port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port))
}

/// Base64 for URLs.
fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
}

async fn begin(state: &AppState, parts: &Parts, goal: &Goal) -> ApiResult<Response> {
    let provider = provider(state)?;
    pace(state, "login", parts, BEGIN_BURST, SECOND)?;
    let (secret, nonce, verifier) = (secret(), self::secret(), self::secret());
    let url = provider.authorize(&secret, &nonce, &verifier).await.map_err(|error| failed(&error))?;
    let browser = cookie(&parts.headers).unwrap_or_else(self::secret);
    let now = clock::now();
    let row =
        LoginRow { state: digest(&secret), browser: digest(&browser), nonce, verifier, goal: to_json(goal), expires_at: now + LOGIN_LIFE };
    state.store.write(move |tx| stored::begin(tx, &row, now)).await?;
    let mut response = see_other(&url)?;
    let set = format!("{COOKIE}={browser}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Lax", LOGIN_LIFE / SECOND);
    response.headers_mut().insert(header::SET_COOKIE, HeaderValue::from_str(&set).expect("a cookie of ours is ASCII"));
    Ok(response)
}

async fn callback(State(state): State<AppState>, parts: Parts) -> Response {
    let row = match brought(&state, &parts, field(&parts, "state")).await {
        Ok(row) => row,
        Err(error) => return refused(&parts, error),
    };
    match from_json(&row.goal) {
        // The secret of a page is no state.
        None | Some(Goal::Confirm { .. }) => refused(&parts, begin_again()),
        Some(goal) => came_back(&state, &parts, row, &goal).await.unwrap_or_else(|error| turn_back(&parts, &goal, error)),
    }
}

/// The login whose secret a browser brings: its own, and no more after this.
async fn brought(state: &AppState, parts: &Parts, secret: Option<String>) -> ApiResult<LoginRow> {
    provider(state)?;
    let (Some(secret), now) = (secret, clock::now()) else { return Err(begin_again()) };
    let key = digest(&secret);
    let row = state.store.write(move |tx| stored::take(tx, key, now)).await?.ok_or_else(begin_again)?;
    let browser = cookie(&parts.headers).ok_or_else(begin_again)?;
    if bool::from(digest(&browser).ct_eq(&row.browser)) { Ok(row) } else { Err(begin_again()) }
}

fn begin_again() -> ApiError {
    let why = "This login was not begun in this browser, was used already, or is more than ten minutes old. Begin again with muster login.";
    ApiError::new(Code::Invalid, why)
}

/// The provider sent a browser back: who is it, and what has the person to confirm?
async fn came_back(state: &AppState, parts: &Parts, row: LoginRow, goal: &Goal) -> ApiResult<Response> {
    let provider = provider(state)?;
    let name = &provider.settings().name;
    // Another provider's answer (RFC 9207).
    if field(parts, "iss").is_some_and(|issuer| issuer != provider.settings().issuer) {
        return Err(ApiError::new(Code::Forbidden, format!("the answer does not come from {name}, but from another provider")));
    }
    if let Some(error) = field(parts, "error") {
        let more = field(parts, "error_description").map(|more| format!(": {more}")).unwrap_or_default();
        let told: String = format!("{error}{more}").chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect();
        return Err(ApiError::new(Code::Forbidden, format!("{name} did not let you in ({told})")));
    }
    let code = field(parts, "code").ok_or_else(|| ApiError::new(Code::Invalid, format!("{name} sent no code along")))?;
    let who = provider.exchange(&code, &row.nonce, &row.verifier).await.map_err(|error| failed(&error))?;
    let (settings, from, now) = (provider.settings().clone(), auth::address(parts), clock::now());
    let admitted = state.store.write(move |tx| admit::admit(tx, &who, &settings, from, now)).await?;
    let device = match goal {
        Goal::Device { user_code } => Some(device::waiting(state, parts, &admitted.email, user_code).await?),
        _ => None,
    };
    let secret = secret();
    let Admitted { account, email, notes } = admitted;
    let confirm = Goal::Confirm { account, email: email.clone(), goal: Box::new(goal.clone()) };
    let waiting = LoginRow {
        state: digest(&secret),
        browser: row.browser,
        nonce: String::new(),
        verifier: String::new(),
        goal: to_json(&confirm),
        expires_at: row.expires_at.max(now + LOGIN_LIFE / 2),
    };
    state.store.write(move |tx| stored::begin(tx, &waiting, now)).await?;
    Ok(match (goal, device) {
        (_, Some(device)) => pages::confirm_device(&device, &email, &notes, &secret, now),
        (Goal::Loopback { redirect, .. }, None) => pages::confirm_loopback(redirect, &state.endpoints.https, &email, &notes, &secret),
        _ => return Err(begin_again()),
    })
}

/// The person pressed a button of the page.
async fn confirm(State(state): State<AppState>, parts: Parts, request: Request) -> Response {
    confirmed(&state, &parts, request).await.unwrap_or_else(|error| refused(&parts, error))
}

async fn confirmed(state: &AppState, parts: &Parts, request: Request) -> ApiResult<Response> {
    let is_form =
        parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    let body = extract::received(request, state, || "this is more than the page sends".to_owned()).await?;
    // Browsers say where a form was sent from; the secret in the page and the cookie decide.
    let foreign = parts.headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin");
    if !is_form || foreign {
        return Err(begin_again());
    }
    let told = |name: &str| form_urlencoded::parse(&body).find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    let row = brought(state, parts, told("secret")).await?;
    let Some(Goal::Confirm { account, email, goal }) = from_json(&row.goal) else { return Err(begin_again()) };
    let yes = told("decision").as_deref() == Some("yes");
    let (from, now) = (auth::address(parts), clock::now());
    let entry =
        Entry { org: None, actor: email, action: "login.confirm", target: String::new(), from, details: json!({ "approved": yes }) };
    match *goal {
        Goal::Loopback { redirect, challenge, state: theirs } => {
            if !yes {
                let no = ApiError::new(Code::Forbidden, "the login was refused in the browser");
                return Ok(turn_back(parts, &Goal::Loopback { redirect, challenge, state: theirs }, no));
            }
            let secret = secret();
            let (key, kept) = (digest(&secret), CodeRow { account, challenge, redirect: redirect.clone() });
            let work = move |tx: &rusqlite::Transaction<'_>| {
                may_enter(tx, account)?;
                stored::give_code(tx, key, &kept, now, now + CODE_LIFE)?;
                Entry { target: "muster on this computer".to_owned(), ..entry }.ok(tx)
            };
            state.store.write(work).await?;
            see_other(&format!("{redirect}?code={secret}&state={theirs}"))
        }
        Goal::Device { user_code } => device::decide(state, account, &user_code, yes, entry).await,
        Goal::Confirm { .. } => Err(begin_again()),
    }
}

/// Somebody who was let in a moment ago may have been set aside since.
fn may_enter(tx: &rusqlite::Transaction<'_>, account: i64) -> store::Result<accounts::Account> {
    let account = accounts::by_id(tx, account)?.ok_or_else(|| problem(Code::Forbidden, "this account is gone"))?;
    admit::may_enter(&account)?;
    Ok(account)
}

/// `POST /v1/login/code`: the command line trades its code.
async fn code(State(state): State<AppState>, parts: Parts, Body(wanted): Body<LoginCode>) -> ApiResult<(StatusCode, Json<AccessToken>)> {
    provider(&state)?;
    pace(&state, "code", &parts, BEGIN_BURST, SECOND)?;
    let from = auth::address(&parts);
    let name = wanted.token_name.unwrap_or_else(|| "login".into());
    check_name(&name)?;
    let now = clock::now();
    let (token, shown) = new_token(state.ca.pin(), name, LOGIN_DAYS, now);
    let (key, proof) = (digest(&wanted.code), BASE64_URL_SAFE_NO_PAD.encode(random::sha256(wanted.verifier.as_bytes())));
    let row = shown.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let unknown = Problem::new(Code::Unauthenticated, "this login is not known, was used, or is over; run muster login again");
        // An error would bring the code back: it is told as an outcome.
        let Some(kept) = stored::take_code(tx, key, now)? else { return Ok(Err(unknown)) };
        let same = bool::from(kept.challenge.as_bytes().ct_eq(proof.as_bytes())) && kept.redirect == wanted.redirect_uri;
        if !same {
            return Ok(Err(unknown));
        }
        file(tx, kept.account, &token, &row, from).map(Ok)
    };
    state.store.write(work).await??;
    Ok((StatusCode::CREATED, Json(shown)))
}

/// Files the token of a login.
fn file(
    tx: &rusqlite::Transaction<'_>,
    account: i64,
    token: &muster_proto::token::Token,
    row: &AccessToken,
    from: Option<std::net::IpAddr>,
) -> store::Result<()> {
    let account = may_enter(tx, account)?;
    let mut details = file_token(tx, account.id, token, row)?;
    details["by"] = "single sign-on".into();
    Entry { org: None, actor: account.email, action: "account.login", target: row.id.clone(), from, details }.ok(tx)
}

/// Tells a browser, and the `muster` that waits behind it, why it came to nothing.
fn turn_back(parts: &Parts, goal: &Goal, error: ApiError) -> Response {
    tracing::info!(code = error.0.code, detail = ?error.0.detail, "a login by single sign-on was refused");
    if let Goal::Loopback { redirect, state, .. } = goal {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("error", &error.0.code).append_pair("error_description", &error.0.detail).append_pair("state", state);
        if let Ok(response) = see_other(&format!("{redirect}?{}", query.finish())) {
            return response;
        }
    }
    refused(parts, error)
}

fn failed(error: &Failed) -> ApiError {
    match error {
        Failed::Down { .. } => ApiError::new(Code::Unavailable, error.to_string()),
        Failed::Refused { .. } => {
            tracing::warn!(%error, "single sign-on");
            ApiError::new(Code::Forbidden, error.to_string())
        }
    }
}

fn see_other(url: &str) -> ApiResult<Response> {
    let location = HeaderValue::from_str(url).map_err(|error| ApiError::internal(&error))?;
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

/// The first value of a parameter of the query.
fn field(parts: &Parts, name: &str) -> Option<String> {
    let query = parts.uri.query()?;
    form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn cookie(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(';'));
    let mut ours = cookies.filter_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='));
    ours.next().filter(|value| value.len() == 43 && is_token(value)).map(str::to_owned)
}

fn secret() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(random::bytes::<32>())
}

fn digest(secret: &str) -> [u8; 32] {
    random::sha256(secret.as_bytes())
}

fn to_json(goal: &Goal) -> String {
    serde_json::to_string(goal).expect("a goal is JSON")
}

fn from_json(text: &str) -> Option<Goal> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_computers_loopback_is_a_place_to_be_sent_to() {
        for good in ["http://127.0.0.1:1/", "http://127.0.0.1:65535/", "http://[::1]:4000/"] {
            assert!(is_loopback_redirect(good), "{good}");
        }
        for bad in [
            "http://127.0.0.1/",
            "http://127.0.0.1:0/",
            "http://127.0.0.1:080/",
            "http://127.0.0.1:+80/",
            "http://127.0.0.1:65536/",
            "https://127.0.0.1:80/",
            "http://127.0.0.1:80",
            "http://127.0.0.1:80//evil.example/",
            "http://127.0.0.1:80@evil.example/",
            "http://127.0.0.1.evil.example:80/",
            "http://localhost:80/",
            "http://evil.example:80/",
            "//evil.example/",
            "javascript:alert(1)",
            "http://127.0.0.1:80/\r\nSet-Cookie: a=b",
        ] {
            assert!(!is_loopback_redirect(bad), "{bad}");
        }
    }

    #[test]
    fn the_cookie_is_ours_or_none() {
        let own = "a".repeat(43);
        let of = |text: &str| cookie(&HeaderMap::from_iter([(header::COOKIE, HeaderValue::from_str(text).unwrap())]));
        assert_eq!(of(&format!("x=1; {COOKIE}={own}; y=2")), Some(own.clone()));
        for bad in [format!("muster-login={own}"), format!("{COOKIE}={own}a"), format!("{COOKIE}x={own}"), format!("{COOKIE}=\"{own}\"")] {
            assert_eq!(of(&bad), None, "{bad}");
        }
    }
}
