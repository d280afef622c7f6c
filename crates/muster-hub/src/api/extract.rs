//! Takes requests apart: body, query, path. What does not fit is a problem that names the field.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use muster_proto::problem::Code;
use serde::de::DeserializeOwned;

use super::{ApiError, OrgAccess};
use crate::auth::{self, Person};
use crate::state::AppState;
use crate::store::proviso;

/// A JSON body.
#[derive(Debug)]
pub struct Body<T>(pub T);

/// A JSON body that may be left out.
#[derive(Debug)]
pub struct MaybeBody<T>(pub T);

/// The query's parameters.
#[derive(Debug)]
pub struct Query<T>(pub T);

/// The path's parameters.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned> FromRequest<AppState> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let is_json = media_type_is_json(request.headers());
        let body = bytes(request, state).await?;
        if !is_json {
            return Err(ApiError::new(Code::MediaType, "the body must be JSON: send it with Content-Type: application/json"));
        }
        parse(&body).map(Self)
    }
}

impl<T: DeserializeOwned + Default> FromRequest<AppState> for MaybeBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        let is_json = media_type_is_json(request.headers());
        let body = bytes(request, state).await?;
        if body.is_empty() {
            return Ok(Self(T::default()));
        }
        if !is_json {
            return Err(ApiError::new(Code::MediaType, "the body must be JSON: send it with Content-Type: application/json"));
        }
        parse(&body).map(Self)
    }
}

fn media_type_is_json(headers: &http::HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

/// A body may take this long, and so much longer for its length: a slow line sends 32 KiB in a second.
const BODY_TIME: Duration = Duration::from_secs(30);
const BODY_RATE: u64 = 32 * 1024;

async fn bytes(request: Request, state: &AppState) -> Result<Bytes, ApiError> {
    received(request, state, || "the body is larger than 256 KiB".to_owned()).await
}

/// The whole body of a request, within a time.
///
/// Who asks was looked at before the body was sent, and its sender chose when to send it: what was found then must still be so now.
pub(super) async fn received(request: Request, state: &AppState, too_large: impl Fn() -> String + Send) -> Result<Bytes, ApiError> {
    let (parts, body) = request.into_parts();
    let length = parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    let time = BODY_TIME + Duration::from_secs((length / BODY_RATE).min(600));
    let request = Request::from_parts(parts.clone(), body);
    let body = tokio::time::timeout(time, Bytes::from_request(request, state)).await;
    let body = body.map_err(|_| ApiError::new(Code::Invalid, format!("the body did not arrive within {} s", time.as_secs())))?;
    let body = body.map_err(|rejection| {
        if rejection.status() == http::StatusCode::PAYLOAD_TOO_LARGE {
            ApiError::new(Code::TooLarge, too_large())
        } else {
            ApiError::new(Code::Invalid, "the body was cut off before its end")
        }
    })?;
    if let Some(then) = parts.extensions.get::<OrgAccess>() {
        // The change rests on what the head was let go on by already.
        let now =
            proviso::beside(async { OrgAccess::load(state, auth::still(state, &parts, &then.person).await?, then.org.as_str()).await });
        let now = now.await?;
        if !now.standing.keeps(&then.standing) {
            let why = "your rights here were taken back while the request was being sent; look again before you send it again";
            return Err(ApiError::new(Code::Forbidden, why));
        }
    } else if let Some(then) = parts.extensions.get::<Person>() {
        auth::still(state, &parts, then).await?;
    }
    Ok(body)
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    // serde would take an array for an object without names.
    if body.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|first| *first != b'{') {
        return Err(ApiError::new(Code::Invalid, "body: it must be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let why = error.into_inner();
        if path == "." {
            ApiError::new(Code::Invalid, format!("body: {why}"))
        } else {
            ApiError::new(Code::Invalid, format!("{path}: {why}"))
        }
    })?;
    reader.end().map_err(|error| ApiError::new(Code::Invalid, format!("body: {error}")))?;
    Ok(value)
}

impl<T: DeserializeOwned> FromRequestParts<AppState> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let axum::extract::Query(query) = axum::extract::Query::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::new(Code::Invalid, format!("query: {}", rejection.body_text())))?;
        Ok(Self(query))
    }
}

/// Whom a path names by e-mail: as accounts have it, so that the records name a person in one way however it was typed.
pub(super) struct Email(pub String);

impl<'de> serde::Deserialize<'de> for Email {
    fn deserialize<D: serde::Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        Ok(Self(String::deserialize(source)?.trim().to_lowercase()))
    }
}

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for Path<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        // An id that cannot exist is an id of nothing.
        let axum::extract::Path(path) = axum::extract::Path::from_request_parts(parts, state)
            .await
            .map_err(|rejection| ApiError::new(Code::NotFound, format!("there is nothing of this name: {}", rejection.body_text())))?;
        Ok(Self(path))
    }
}
