//! Who asked for an answer that goes on for long, to be looked at again while it does.
//!
//! One mechanism for all streams. It looks at the token as it stood in the request, so that a token that was withdrawn or has expired,
//! an account that was set aside and a role that went end a stream alike.

use std::net::IpAddr;
use std::time::Duration;

use axum::extract::FromRequestParts;
use http::request::Parts;
use muster_proto::id::OrgId;

use super::{ApiError, ApiResult, OrgAccess};
use crate::auth;
use crate::state::AppState;

/// How often a stream looks at the right where nothing happens: a token may run out without any change.
pub(super) const RECHECK: Duration = Duration::from_secs(5);

/// The token of a request, which was found good by [`OrgAccess`] before.
pub(super) struct Bearer(Option<String>, Option<IpAddr>);

impl<S: Sync> FromRequestParts<S> for Bearer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Ok(Self(auth::bearer(parts).map(str::to_owned), auth::address(parts)))
    }
}

/// Who asks.
pub(super) struct Asker {
    pub(super) state: AppState,
    pub(super) org: OrgId,
    bearer: Bearer,
}

impl Asker {
    /// Whoever sent this token, in the organization that was asked for.
    pub(super) fn of(state: &AppState, access: &OrgAccess, bearer: Bearer) -> Self {
        Self { state: state.clone(), org: access.org.clone(), bearer }
    }

    /// What the asker has in the organization now.
    ///
    /// # Errors
    /// As for a new request: the token is no longer good, or the asker no longer belongs.
    pub(super) async fn access(&self) -> ApiResult<OrgAccess> {
        let Bearer(token, from) = &self.bearer;
        let person = auth::person(&self.state, token.as_deref(), *from).await?;
        OrgAccess::load(&self.state, person, self.org.as_str()).await
    }
}
