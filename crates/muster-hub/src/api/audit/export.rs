//! All events of a filter as one file: page after page is read when the caller has taken the one before.

use std::borrow::Cow;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use http::header;
use muster_proto::api::AuditEvent;

use super::{Asker, json_line, still_may};
use crate::api::usage::csv_answer;
use crate::csv_text;
use crate::store::audit::{self, Filter, From};

/// Events that are in memory at once, for each file.
const PAGE: usize = 500;

struct Place {
    asker: Asker,
    filter: Filter,
    csv: bool,
    before: i64,
    left: usize,
    first: bool,
}

pub(super) fn answer(asker: Asker, filter: Filter, csv: bool, limit: Option<usize>) -> Response {
    let name = format!("audit-{}.csv", asker.org);
    let place = Place { asker, filter, csv, before: i64::MAX, left: limit.unwrap_or(usize::MAX), first: true };
    // The first page was allowed by the request itself; an error in the midst cuts the file off, so that nobody takes it for whole.
    let body = Body::from_stream(stream::try_unfold(place, next));
    if csv { csv_answer(body, &name) } else { ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response() }
}

async fn next(mut place: Place) -> Result<Option<(Bytes, Place)>, axum::BoxError> {
    let mut out = Vec::new();
    if place.first && place.csv {
        out = csv_text::line(HEAD.iter().map(|name| Cow::Borrowed(*name)));
    }
    if !place.first {
        still_may(&place.asker).await?;
    }
    let size = PAGE.min(place.left);
    let (org, filter, before) = (place.asker.org.clone(), place.filter.clone(), place.before);
    let store = place.asker.state.store.clone();
    let events = match size {
        0 => Vec::new(),
        size => store.read(move |db| audit::list(db, org.as_str(), &filter, From::Before(before), size)).await?,
    };
    for event in &events {
        if place.csv { out.extend(csv_line(event)) } else { json_line(event, &mut out) }
    }
    place.first = false;
    place.left -= events.len();
    // A short page is the last one: the next one would be empty.
    match events.last() {
        Some(last) => place.before = last.id,
        None => place.left = 0,
    }
    if out.is_empty() { Ok(None) } else { Ok(Some((Bytes::from(out), place))) }
}

const HEAD: [&str; 8] = ["id", "t", "actor", "action", "target", "from", "result", "details"];

fn csv_line(event: &AuditEvent) -> Vec<u8> {
    let details = event.details.to_string();
    csv_text::line([
        csv_text::number(Some(event.id)),
        csv_text::number(Some(event.t)),
        csv_text::cell(&event.actor),
        csv_text::cell(&event.action),
        csv_text::cell(&event.target),
        csv_text::cell(event.from.as_deref().unwrap_or_default()),
        csv_text::cell(&event.result),
        csv_text::cell(&details),
    ])
}
