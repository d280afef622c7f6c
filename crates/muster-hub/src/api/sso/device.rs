//! Login by device code (RFC 8628): a machine without a browser shows a code, a person confirms it in a browser elsewhere.
//!
//! The danger is a code that somebody else began and sends to a person. So nothing is looked up before the person has logged in at the
//! provider, the page says which machine asks and from where, and only its button decides. Device codes are long; user codes are short,
//! live ten minutes, and guessing is bounded for each account and address.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use http::request::Parts;
use muster_proto::Millis;
use muster_proto::api::{AccessToken, DeviceLogin, DeviceLoginPoll, DeviceLoginStart};
use muster_proto::problem::{Code, Problem};
use serde_json::json;

use super::{LOGIN_DAYS, Route, check_name, digest, field, file, may_enter, new_token, pace, pages, provider, refused, secret};
use crate::api::{ApiError, ApiResult, Body};
use crate::audit::Entry;
use crate::auth;
use crate::clock::{self, SECOND};
use crate::random;
use crate::state::AppState;
use crate::store::sso::{self as stored, DeviceRow};

/// From the beginning to the yes.
const LIFE_S: u32 = 600;
/// Seconds between polls at first.
const INTERVAL_S: u32 = 5;
/// What a program that polls too often has to wait more (RFC 8628, section 3.5).
const SLOWER_S: u32 = 5;
/// A poll on time may come a little early, by the way that it took.
const EARLY: Millis = SECOND;
/// Ended logins stay for so long, to be told that they ended.
const ENDED: Millis = 3600 * SECOND;
/// Logins that one address may begin at once; one more each 10 s.
const BEGIN_BURST: u32 = 30;
/// Polls of one address at once; ten more each second.
const POLL_BURST: u32 = 600;

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::post("/v1/login/device", begin).audited("login.device"),
        Route::post("/v1/login/device/token", poll).audited("account.login"),
        Route::get("/login/device", page),
    ]
}

async fn begin(
    State(state): State<AppState>,
    parts: Parts,
    Body(wanted): Body<DeviceLoginStart>,
) -> ApiResult<(StatusCode, Json<DeviceLogin>)> {
    provider(&state)?;
    pace(&state, "device", &parts, BEGIN_BURST, 10 * SECOND)?;
    let address = auth::address(&parts).map(|address| address.to_string());
    let token_name = wanted.token_name.unwrap_or_else(|| "login by device code".into());
    check_name(&token_name)?;
    let (device_code, user_code, now) = (secret(), random::pairing_code(), clock::now());
    let row = DeviceRow {
        digest: digest(&device_code),
        user_code: user_code.clone(),
        token_name,
        address,
        created_at: now,
        expires_at: now + Millis::from(LIFE_S) * SECOND,
        interval_s: INTERVAL_S,
        polled_at: None,
        account: None,
        approved: None,
    };
    state.store.write(move |tx| stored::begin_device(tx, &row, now - ENDED)).await?;
    let verification_uri = format!("{}/login/device", state.endpoints.https);
    let answer = DeviceLogin {
        device_code,
        verification_uri_complete: format!("{verification_uri}?code={user_code}"),
        user_code,
        verification_uri,
        expires_in: LIFE_S,
        interval: INTERVAL_S,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}

async fn page(State(state): State<AppState>, parts: Parts) -> Response {
    let provider = match provider(&state) {
        Ok(provider) => provider,
        Err(error) => return refused(&parts, error),
    };
    match field(&parts, "code").filter(|code| !code.is_empty()) {
        None => pages::ask_code(),
        Some(code) => match normal(&code) {
            Some(code) => pages::go_on(&code, &provider.settings().name),
            None => refused(&parts, ApiError::new(Code::Invalid, "this is no code of muster login --device-code: it looks like ABCD-2345")),
        },
    }
}

/// A code as it is stored, however it was typed.
pub(super) fn normal(text: &str) -> Option<String> {
    let letters: String = text.chars().filter(|c| !matches!(c, '-' | ' ')).map(|c| c.to_ascii_uppercase()).collect();
    let good = letters.len() == 8 && letters.bytes().all(|byte| byte.is_ascii_alphanumeric());
    good.then(|| format!("{}-{}", &letters[..4], &letters[4..]))
}

/// The login that a person who has just proved who it is may decide on.
pub(super) async fn waiting(state: &AppState, parts: &Parts, email: &str, user_code: &str) -> ApiResult<DeviceRow> {
    let (guesser, from) = (format!("device code of {email}"), auth::address(parts));
    state.logins.attempt(&guesser, from, clock::steady()).map_err(|seconds| {
        let mut error = ApiError::new(Code::RateLimited, format!("too many codes that are none; wait {seconds} s"));
        error.0.retry_in = Some(seconds);
        error
    })?;
    let code = user_code.to_owned();
    let found = state.store.read(move |db| stored::waiting_device(db, &code, clock::now())).await?;
    let none = || ApiError::new(Code::NotFound, format!("nobody waits with the code {user_code}: it is mistyped, or ended"));
    let device = found.ok_or_else(none)?;
    state.logins.succeeded(&guesser, from);
    Ok(device)
}

/// The person's yes or no.
pub(super) async fn decide(state: &AppState, account: i64, user_code: &str, yes: bool, entry: Entry) -> ApiResult<Response> {
    let (code, now) = (user_code.to_owned(), clock::now());
    let work = move |tx: &rusqlite::Transaction<'_>| {
        may_enter(tx, account)?;
        let Some(device) = stored::waiting_device(tx, &code, now)? else { return Ok(false) };
        stored::decide_device(tx, &code, account, yes, now)?;
        let details = json!({ "approved": yes, "user_code": code, "address": device.address });
        Entry { target: device.token_name, details, ..entry }.ok(tx)?;
        Ok(true)
    };
    if !state.store.write(work).await? {
        return Err(ApiError::new(Code::NotFound, format!("nobody waits with the code {user_code} any more")));
    }
    Ok(pages::told(if yes {
        "Done: the machine that showed the code is logged in. You can close this page."
    } else {
        "The login was refused. You can close this page."
    }))
}

async fn poll(
    State(state): State<AppState>,
    parts: Parts,
    Body(wanted): Body<DeviceLoginPoll>,
) -> ApiResult<(StatusCode, Json<AccessToken>)> {
    provider(&state)?;
    pace(&state, "poll", &parts, POLL_BURST, SECOND / 10)?;
    let from = auth::address(&parts);
    let (key, now, pin) = (digest(&wanted.device_code), clock::now(), state.ca.pin());
    let work = move |tx: &rusqlite::Transaction<'_>| {
        // What is told here has to be written as well: it is an outcome, not an error.
        let no = |code: Code, why: &str| Ok(Err(Problem::new(code, why)));
        let Some(device) = stored::device_by_digest(tx, key)?.filter(|device| device.expires_at > now) else {
            return no(Code::Expired, "nobody confirmed the code in time, or it is not known; run muster login again");
        };
        match (device.approved, device.account) {
            (Some(true), Some(account)) => {
                let (token, shown) = new_token(pin, device.token_name, LOGIN_DAYS, now);
                file(tx, account, &token, &shown, from)?;
                stored::end_device(tx, key)?;
                Ok(Ok(shown))
            }
            (Some(_), _) => {
                stored::end_device(tx, key)?;
                no(Code::Forbidden, "the login was refused in the browser")
            }
            (None, _) => {
                let due = device.polled_at.map_or(now, |polled| polled + Millis::from(device.interval_s) * SECOND - EARLY);
                let hasty = now < due;
                let interval = device.interval_s + if hasty { SLOWER_S } else { 0 };
                stored::polled(tx, key, now, interval)?;
                let mut problem = match hasty {
                    true => Problem::new(Code::SlowDown, "asked too soon; wait longer between two questions"),
                    false => Problem::new(Code::AuthorizationPending, "nobody has confirmed the code yet"),
                };
                problem.retry_in = Some(interval);
                Ok(Err(problem))
            }
        }
    };
    let shown = state.store.write(work).await??;
    Ok((StatusCode::CREATED, Json(shown)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_people_type_them() {
        for typed in ["ABCD-2345", "abcd2345", " ab cd 23 45 ", "abcd-2345"] {
            assert_eq!(normal(typed).as_deref(), Some("ABCD-2345"), "{typed}");
        }
        for bad in ["", "ABCD", "ABCD-23456", "ABCD-234ü", "<b>-2345"] {
            assert_eq!(normal(bad), None, "{bad}");
        }
    }
}
