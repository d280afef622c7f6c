//! Around every request: an id, one line in the log, a count, a net for panics, and the audit event of a refused change.

use std::collections::HashMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderName, HeaderValue, Method, header};
use muster_proto::id::OrgId;
use muster_proto::problem::Code;
use serde_json::json;

use super::text::is_hidden;
use super::{ApiError, Route};
use crate::audit::Entry;
use crate::metrics::{Counter, Seconds};
use crate::peer::RemoteAddr;
use crate::random;
use crate::state::AppState;
use crate::store::{Store, proviso};

/// The name of a request, in the answer's header, in a problem's body and in the log.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Most characters of a refusal's sentence.
const DETAIL_MAX: usize = 2000;

/// Who asks, noted by the extractors for the audit event of a refusal.
#[derive(Debug, Clone, Default)]
pub struct Trail(Arc<Mutex<(Option<String>, Option<OrgId>)>>);

impl Trail {
    /// Notes who asks.
    pub fn set_actor(&self, actor: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0 = Some(actor.to_owned());
    }

    /// Notes the organization, once the person was found to have something to do with it.
    pub fn set_org(&self, org: &OrgId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 = Some(org.clone());
    }

    fn take(&self) -> (Option<String>, Option<OrgId>) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What the layer needs.
#[derive(Clone)]
pub(super) struct Around {
    store: Store,
    actions: Arc<HashMap<(&'static str, &'static str), &'static str>>,
    answered: Arc<[Counter; 5]>,
    duration: Seconds,
}

impl Around {
    pub(super) fn new(state: &AppState, routes: &[Route]) -> Self {
        let actions = routes.iter().filter_map(|route| Some(((route.method, route.path), route.action?))).collect();
        let help = "HTTP requests answered, by the class of their status";
        let answered = ["1xx", "2xx", "3xx", "4xx", "5xx"]
            .map(|class| state.metrics.counter("http_server_requests_total", help, &[("status_class", class)]));
        let duration = state.metrics.seconds("http_server_request_duration_seconds", "Time to answer a request; long polls included", &[]);
        Self { store: state.store.clone(), actions: Arc::new(actions), answered: Arc::new(answered), duration }
    }
}

pub(super) async fn around(State(around): State<Around>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request.headers().get(REQUEST_ID).and_then(given_id).unwrap_or_else(random::hex::<8>);
    let trail = Trail::default();
    request.extensions_mut().insert(trail.clone());
    let from = request.extensions().get::<RemoteAddr>().map(|remote| remote.0);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let matched = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let action = matched.as_deref().and_then(|path| {
        let known = around.actions.iter().find(|((of, at), _)| *of == method.as_str() && *at == path);
        known.map(|(_, action)| *action)
    });

    let mut response = proviso::request(without_panic(next.run(request))).await;
    let mut refusal = response.extensions_mut().remove::<ApiError>();
    if let Some(refusal) = &mut refusal {
        refusal.0.detail = harmless(&refusal.0.detail);
    }
    if let (Some(refusal), Some(action)) = (&refusal, action) {
        let (actor, org) = trail.take();
        // A stranger without credentials is for the log: he could fill the records.
        if let Some(actor) = actor {
            let entry = Entry {
                org,
                actor,
                action,
                target: path.chars().take(200).collect(),
                from: from.map(|from| from.ip().to_canonical()),
                details: json!({ "detail": refusal.0.detail, "request": id }),
            };
            let code = refusal.0.code.clone();
            if let Err(error) = around.store.write(move |tx| entry.record(tx, &code)).await {
                tracing::error!(%error, "a refusal could not be recorded in the audit log");
            }
        }
    }
    let status = response.status();
    if let Some(class) = usize::from(status.as_u16() / 100).checked_sub(1).and_then(|class| around.answered.get(class)) {
        class.add(1);
    }
    around.duration.observe(started.elapsed());
    let code = refusal.as_ref().map_or("-", |refusal| refusal.0.code.as_str());
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let from = from.map(|from| from.to_string()).unwrap_or_default();
    // The path may hold a request's name, which is a capability: only its pattern is logged.
    let pattern = matched.as_deref().unwrap_or("-");
    match status.as_u16() {
        500.. => tracing::error!(request = id, %method, path = pattern, status = status.as_u16(), code, took_ms, from, "request failed"),
        400.. => tracing::info!(request = id, %method, path = pattern, status = status.as_u16(), code, took_ms, from, "request refused"),
        _ => tracing::debug!(request = id, %method, path = pattern, status = status.as_u16(), took_ms, from, "request"),
    }
    finish(response, refusal, &id, &method)
}

fn finish(mut response: Response, refusal: Option<ApiError>, id: &str, method: &Method) -> Response {
    if let Some(mut refusal) = refusal {
        refusal.0.request = Some(id.to_owned());
        if *method != Method::HEAD {
            let body = serde_json::to_vec(&refusal.0).expect("a problem always serializes");
            response.headers_mut().remove(header::CONTENT_LENGTH);
            *response.body_mut() = Body::from(body);
        }
    }
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, value);
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A sentence that may repeat what somebody sent: bounded, as it goes into the records, and with nothing that a terminal obeys.
fn harmless(detail: &str) -> String {
    let mut text = String::with_capacity(detail.len().min(DETAIL_MAX));
    for (n, c) in detail.chars().enumerate() {
        if n == DETAIL_MAX {
            text.push('…');
            break;
        }
        if c != '\n' && is_hidden(c) { text.extend(c.escape_unicode()) } else { text.push(c) }
    }
    text
}

/// A caller's own name for the request, if it is short and harmless in a log.
fn given_id(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?;
    let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    ((1..=64).contains(&text.len()) && text.bytes().all(harmless)).then(|| text.to_owned())
}

/// A bug in one handler answers 500 and ends nothing else.
async fn without_panic(answer: impl Future<Output = Response>) -> Response {
    let mut answer = pin!(answer);
    let caught = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(response)) => Poll::Ready(Some(response)),
        Err(_) => Poll::Ready(None),
    });
    caught.await.unwrap_or_else(|| {
        tracing::error!("a handler panicked");
        ApiError::new(Code::Internal, "the hub failed to do this; its log says why").into_response()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_harmless_request_ids_are_taken_over() {
        for (given, taken) in [("abc-1", true), ("", false), ("a b", false), ("a\"b", false), (&*"x".repeat(65), false)] {
            assert_eq!(given_id(&HeaderValue::from_str(given).unwrap()).is_some(), taken, "{given:?}");
        }
    }

    #[test]
    fn what_a_refusal_repeats_is_bounded_and_harmless() {
        assert_eq!(harmless("name: \u{1b}[31m\u{202e}txt\nü"), "name: \\u{1b}[31m\\u{202e}txt\nü");
        let long = harmless(&"ü".repeat(300_000));
        assert!(long.chars().count() == DETAIL_MAX + 1 && long.ends_with('…'));
    }

    #[tokio::test]
    async fn a_panic_becomes_a_problem() {
        let response = without_panic(async { panic!("a bug") }).await;
        assert_eq!(response.status(), 500);
    }
}
