//! The HTTP API: one table of routes, and the layer around all of them.
//!
//! Handlers read roles through [`OrgAccess`], change through the store, and record an audit event in the same transaction.
//! Whatever fails leaves as `application/problem+json`.

mod access;
mod account;
mod asker;
mod audit;
mod billing;
mod bulk;
mod csv;
pub(crate) mod cursor;
mod decisions;
mod devices;
mod edit;
mod enrol;
mod enrolment_tokens;
mod extract;
mod fields;
mod hub;
mod images;
mod invitations;
mod invite_page;
mod layer;
mod limits;
mod listing;
mod mqtt_ws;
mod orders;
mod orgs;
mod page;
mod people;
mod problem;
mod projects;
mod runs;
mod service_accounts;
pub mod sessions;
mod sso;
mod teams;
mod telemetry;
pub(crate) mod text;
mod usage;
mod views;
mod why;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::routing::{MethodRouter, delete, get, patch, post, put};
use muster_proto::limits::HTTP_BODY_MAX;
use muster_proto::problem::Code;

use crate::state::AppState;

pub use access::{OrgAccess, ProjectOn};
pub use audit::Tails;
pub use decisions::Replace;
use extract::Email;
pub use extract::{Body, MaybeBody, Path, Query};
pub use layer::Trail;
pub(crate) use people::display_name_of;
pub(crate) use people::new_token;
pub use problem::{ApiError, ApiResult};
pub use why::why;

/// Most rows in one page of a list.
pub const PAGE_MAX: usize = 1000;
/// Rows in a page when nobody says how many.
pub const PAGE_DEFAULT: usize = 100;

/// One method on one path.
pub struct Route {
    /// "GET", "POST", ...
    pub method: &'static str,
    /// As axum matches it: `/v1/orgs/{org}`.
    pub path: &'static str,
    /// The audit log's name for it. Every route that changes something has one.
    pub action: Option<&'static str>,
    handler: MethodRouter<AppState>,
}

macro_rules! methods {
    ($($name:ident $method:literal;)*) => {
        impl Route {
            $(
                #[doc = concat!("A route for ", $method, ".")]
                pub fn $name<H, T>(path: &'static str, handler: H) -> Self
                where
                    H: Handler<T, AppState>,
                    T: 'static,
                {
                    Self { method: $method, path, action: None, handler: $name(handler) }
                }
            )*
        }
    };
}

methods! {
    get "GET";
    post "POST";
    put "PUT";
    patch "PATCH";
    delete "DELETE";
}

impl Route {
    /// Takes larger bodies than the other routes do.
    pub fn body_max(mut self, bytes: usize) -> Self {
        self.handler = self.handler.layer(DefaultBodyLimit::max(bytes));
        self
    }

    /// Names it in the audit log: the layer records its refusals under this name.
    pub fn audited(mut self, action: &'static str) -> Self {
        self.action = Some(action);
        self
    }
}

/// All routes of the hub.
pub fn routes() -> Vec<Route> {
    let mut routes = hub::routes();
    routes.extend(enrol::routes());
    routes.extend(people::routes());
    routes.extend(account::routes());
    routes.extend(sso::routes());
    routes.extend(service_accounts::routes());
    routes.extend(invitations::routes());
    routes.extend(invite_page::routes());
    routes.extend(orgs::routes());
    routes.extend(projects::routes());
    routes.extend(teams::routes());
    routes.extend(enrolment_tokens::routes());
    routes.extend(devices::routes());
    routes.extend(listing::routes());
    routes.extend(bulk::routes());
    routes.extend(csv::routes());
    routes.extend(fields::routes());
    routes.extend(views::routes());
    routes.extend(decisions::routes());
    routes.extend(sessions::routes());
    routes.extend(runs::routes());
    routes.extend(telemetry::routes());
    routes.extend(mqtt_ws::routes());
    routes.extend(audit::routes());
    routes.extend(usage::routes());
    routes.extend(billing::routes());
    routes.extend(limits::routes());
    routes
}

/// The router of the HTTPS port.
pub fn router(state: AppState) -> Router {
    let routes = routes();
    let layer = layer::Around::new(&state, &routes);
    let mut router = Router::new();
    for route in routes {
        router = router.route(route.path, route.handler);
    }
    router
        .fallback(async || ApiError::new(Code::NotFound, "there is nothing at this path; GET /v1/openapi.json lists what there is"))
        .method_not_allowed_fallback(async || {
            ApiError::new(Code::MethodNotAllowed, "this path does not know this method; GET /v1/openapi.json lists what there is")
        })
        .layer(DefaultBodyLimit::max(HTTP_BODY_MAX))
        .layer(axum::middleware::from_fn_with_state(layer, layer::around))
        .with_state(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_that_changes_something_is_named_in_the_records() {
        let routes = routes();
        let unnamed: Vec<_> =
            routes.iter().filter(|route| route.method != "GET" && route.action.is_none()).map(|route| route.path).collect();
        // Enrolment records itself: a stranger's attempt without a real token is for the log.
        assert_eq!(unnamed, ["/v1/enrol"]);
        let named = routes.iter().filter(|route| route.action.is_some()).count();
        assert!(named >= 20 && routes.iter().all(|route| route.method != "GET" || route.action.is_none()), "{named}");
    }
}
