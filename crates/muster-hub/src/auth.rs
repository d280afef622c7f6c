//! Who asks: a person with a personal access token, or a device with the key of its certificate.
//!
//! Here it is decided who somebody is; what they may do is decided in `rights`.
//! Public fields (serial, uid, organization) prove nothing here.

use std::net::IpAddr;

use axum::extract::FromRequestParts;
use http::request::Parts;
use muster_proto::Millis;
use muster_proto::api::{Admission, TokenScope};
use muster_proto::id::{DeviceUid, OrgId, ProjectId};
use muster_proto::problem::{Code, Problem};
use muster_proto::token::{InvalidToken, Token, TokenKind};
use rusqlite::Transaction;
use rustls_pki_types::CertificateDer;
use serde_json::json;
use subtle::ConstantTimeEq as _;

use crate::api::{ApiError, Trail};
use crate::audit::Entry;
use crate::ca::PeerName;
use crate::clock;
use crate::peer::{PeerCertificate, RemoteAddr};
use crate::random;
use crate::state::AppState;
use crate::store::devices::{self, DeviceRow, Key, KeyState};
use crate::store::{self, Store, proviso, tokens};

/// A token's last use is noted to this precision: reading a list must not write each time.
const USED_PRECISION: Millis = 60 * clock::SECOND;
/// A copied key that hammers the hub raises one alarm in this time.
const ALARM_EVERY: Millis = 3600 * clock::SECOND;
/// Why a disabled account gets nowhere.
pub const DISABLED: &str = "This account is disabled. Ask an owner of the hub.";

/// A person, proved by a personal access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The account.
    pub account: i64,
    /// Its e-mail.
    pub email: String,
    /// Its display name.
    pub name: String,
    /// Whether this is an owner of the hub; see [`Person::require_hub_owner`].
    pub hub_owner: bool,
    /// Whether it is a service account.
    pub service: bool,
    /// The public name of the token that was used.
    pub token: String,
    /// What the token may do.
    pub scope: TokenScope,
    /// The one organization that the token is limited to.
    pub only_org: Option<OrgId>,
    /// The one project there that the token is limited to.
    pub only_project: Option<ProjectId>,
    /// From where.
    pub from: Option<IpAddr>,
}

impl Person {
    /// Whether the token still speaks for the same person, as a transaction sees it.
    fn unchanged(&self, tx: &rusqlite::Transaction<'_>) -> store::Result<()> {
        let gone =
            || store::problem(Code::Unauthenticated, "this token was withdrawn just now, or its account disabled; nothing was changed");
        let held = tokens::held(tx, &self.token)?.ok_or_else(gone)?;
        let same = held.account == self.account && !held.disabled && held.expires_at > clock::now() && held.hub_owner >= self.hub_owner;
        if same { Ok(()) } else { Err(gone()) }
    }

    /// Lets only tokens go on that may do all that their account may: for what concerns the account itself, or the whole hub.
    ///
    /// # Errors
    /// `forbidden`, with what limits the token.
    pub fn require_whole(&self, what: &str) -> Result<(), ApiError> {
        let limit = match (self.scope, &self.only_org) {
            (TokenScope::Full, None) => return Ok(()),
            (TokenScope::Full, Some(org)) => format!("is limited to {org}"),
            (scope, _) => format!("has the scope {}", scope.as_str()),
        };
        Err(ApiError::new(Code::Forbidden, format!("this token {limit} and cannot {what}; log in with `muster login`")))
    }

    /// Lets only people go on: a service account has no account of its own to see to.
    ///
    /// # Errors
    /// `forbidden` for a service account, and as [`Person::require_whole`].
    pub fn require_person(&self, what: &str) -> Result<(), ApiError> {
        if self.service {
            return Err(ApiError::new(Code::Forbidden, format!("a service account cannot {what}")));
        }
        self.require_whole(what)
    }

    /// Lets only owners of the hub go on, with a token that is not limited.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn require_hub_owner(&self, what: &str) -> Result<(), ApiError> {
        if !self.hub_owner {
            return Err(ApiError::new(Code::Forbidden, format!("only an owner of the hub may {what}")));
        }
        self.require_whole(what)
    }

    /// An audit entry of this person, of no organization.
    pub fn entry(&self, action: &'static str, target: impl Into<String>) -> Entry {
        Entry { org: None, actor: self.email.clone(), action, target: target.into(), from: self.from, details: serde_json::Value::Null }
    }
}

/// An admitted device, proved by the key of its certificate.
#[derive(Debug, Clone)]
pub struct DevicePeer {
    /// Its uid.
    pub uid: DeviceUid,
    /// Whose it is.
    pub org: OrgId,
    /// Its name.
    pub name: String,
    /// SHA-256 of its public key.
    pub key: [u8; 32],
}

/// A device that the hub knows by its current key, admitted or not.
#[derive(Debug, Clone)]
pub struct KnownDevice {
    /// The device.
    pub device: DeviceRow,
    /// SHA-256 of its public key.
    pub key: [u8; 32],
}

/// The address of a request.
pub fn address(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<RemoteAddr>().map(|remote| remote.0.ip().to_canonical())
}

/// Checks a personal access token as it stands in a request.
///
/// # Errors
/// One sentence: missing, damaged, of another hub, unknown, ended.
pub async fn person(state: &AppState, bearer: Option<&str>, from: Option<IpAddr>) -> Result<Person, ApiError> {
    let refuse = |why: &str| ApiError::new(Code::Unauthenticated, why);
    let bearer = bearer.ok_or_else(|| refuse("this needs a personal access token: log in with `muster login`, or set MUSTER_TOKEN"))?;
    let token = Token::parse(bearer, TokenKind::Personal).map_err(|error| match error {
        InvalidToken::Kind { .. } => refuse("this is an enrolment token; people need a personal access token (mp1...)"),
        error => refuse(&error.to_string()),
    })?;
    if token.pin != state.ca.pin() {
        return Err(refuse("this token is of another hub; log in to this one with `muster login`"));
    }
    let unknown = || refuse("this token is not known here, or was withdrawn; log in again with `muster login`");
    let id = token.id.clone();
    let held = state.store.read(move |db| tokens::held(db, &id)).await?.ok_or_else(unknown)?;
    if !bool::from(random::sha256(token.secret.as_bytes()).as_slice().ct_eq(&held.digest)) {
        return Err(unknown());
    }
    let now = clock::now();
    if held.expires_at <= now {
        return Err(ApiError::new(Code::Expired, "this token has expired; log in again with `muster login`"));
    }
    if held.disabled {
        let why = if held.service { "this service account is gone" } else { DISABLED };
        return Err(refuse(why));
    }
    if held.used_at.is_none_or(|used| now - used >= USED_PRECISION) {
        let id = token.id.clone();
        proviso::beside(state.store.write(move |tx| tokens::touch(tx, &id, now))).await?;
    }
    Ok(Person {
        account: held.account,
        email: held.email,
        name: held.name,
        hub_owner: held.hub_owner,
        service: held.service,
        token: token.id,
        scope: held.scope,
        only_org: held.org,
        only_project: held.project,
        from,
    })
}

/// Which device a verified certificate speaks for, whatever its admission.
///
/// A key that was replaced, renewed away or deleted raises the clone alarm: an audit event of its organization.
///
/// # Errors
/// One sentence that the device prints.
pub async fn identify(store: &Store, certificate: &CertificateDer<'_>, from: Option<IpAddr>) -> Result<KnownDevice, ApiError> {
    let refuse = |why: &str| ApiError::new(Code::Unauthenticated, why);
    let name = PeerName::read(certificate).map_err(refuse)?;
    let uid: DeviceUid =
        name.common_name.parse().map_err(|_| refuse("this certificate is not a device's: its common name is no device uid"))?;
    let digest = name.key;
    let by_uid = uid.clone();
    let (key, device) = store.read(move |db| Ok((devices::key(db, &digest)?, devices::by_uid(db, &by_uid)?))).await?;
    let key = key
        .filter(|key| key.uid == uid)
        .ok_or_else(|| refuse("the hub does not know this device's key; enrol again with a new token: musterd enrol URL TOKEN"))?;
    if key.state == KeyState::Retired {
        let problem = store.write(move |tx| {
            // Another connection of the copy may have been faster: the alarm's time is read again here.
            let key = devices::key(tx, &digest)?.unwrap_or(key);
            raise_alarm(tx, &digest, &key, from, clock::now())
        });
        return Err(problem.await?.into());
    }
    let device = device.ok_or_else(|| refuse("this device is no longer listed; enrol it again with a new token"))?;
    if key.state == KeyState::Next {
        let org = device.org.clone();
        store.write(move |tx| devices::make_current(tx, &uid, &org, &digest, "renewed", clock::now())).await?;
    }
    Ok(KnownDevice { device, key: digest })
}

/// Which admitted device a verified certificate speaks for.
///
/// # Errors
/// As [`identify`], and when the device is pending, rejected or revoked.
pub async fn authenticate(store: &Store, certificate: &CertificateDer<'_>, from: Option<IpAddr>) -> Result<DevicePeer, ApiError> {
    let KnownDevice { device, key } = identify(store, certificate, from).await?;
    match admission_problem(&device) {
        Some(problem) => Err(problem.into()),
        None => Ok(DevicePeer { uid: device.uid, org: device.org, name: device.name, key }),
    }
}

/// Why a device may not do anything yet, or any more. `None` if admitted.
pub fn admission_problem(device: &DeviceRow) -> Option<Problem> {
    let because = device.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    match device.admission {
        Admission::Admitted => None,
        Admission::Pending => Some(Problem::new(
            Code::DevicePending,
            "this device waits to be admitted: an owner says `muster device admit` for its pairing code",
        )),
        Admission::Rejected => Some(Problem::new(
            Code::DeviceRejected,
            format!("this device was rejected by an owner of {}{because}; ask them to admit it", device.org),
        )),
        Admission::Revoked => Some(Problem::new(
            Code::DeviceRevoked,
            format!("this device was revoked by an owner of {}{because}; ask them to admit it again", device.org),
        )),
    }
}

/// A retired key is used: records the alarm, at most once in a while for each key, and gives what its holder is told.
///
/// # Errors
/// When the database fails.
pub(crate) fn raise_alarm(tx: &Transaction<'_>, digest: &[u8; 32], key: &Key, from: Option<IpAddr>, now: Millis) -> store::Result<Problem> {
    let reason = key.reason.as_deref().unwrap_or("replaced");
    if key.alarm_at.is_none_or(|last| now - last >= ALARM_EVERY) {
        tracing::warn!(uid = %key.uid, ?from, reason, "a key that was retired is used again: there may be a copy of the device");
        let mut entry = Entry::of_device(&key.uid, &key.org, "device.clone_alarm").with(json!({
            "key": random::to_hex(digest),
            "retired": reason,
            "message": "a key that was retired is used again: a copy of the device, or the old unit, is still running",
        }));
        entry.from = from;
        entry.record(tx, Code::DeviceRevoked.as_str())?;
        devices::note_alarm(tx, digest, now)?;
    }
    let why = match reason {
        "deleted" => "this device was deleted from the list; enrol it again with a new token",
        "renewed" => "this key was replaced by a newer one of the same device; if that was not this machine, there is a copy of it",
        _ => "another key took this device's place (`muster device replace`); this one is dead and its use was reported",
    };
    Ok(Problem::new(Code::DeviceRevoked, why))
}

/// The token that a request carries, whatever it is worth.
pub(crate) fn bearer(parts: &Parts) -> Option<&str> {
    let (scheme, token) = parts.headers.get(http::header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

impl FromRequestParts<AppState> for Person {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let person = person(state, bearer(parts), address(parts)).await?;
        if let Some(trail) = parts.extensions.get::<Trail>() {
            trail.set_actor(&person.email);
        }
        // For the body, which comes later, and for the change, which comes last.
        parts.extensions.insert(person.clone());
        let then = person.clone();
        proviso::add(move |tx| then.unchanged(tx));
        Ok(person)
    }
}

/// Whether a request's token still speaks for the same person as when its head came: it may have been withdrawn since.
///
/// # Errors
/// As for a new request; `unauthenticated` when the account is not what it was.
pub async fn still(state: &AppState, parts: &Parts, then: &Person) -> Result<Person, ApiError> {
    let now = person(state, bearer(parts), address(parts)).await?;
    if now == *then { Ok(now) } else { Err(ApiError::new(Code::Unauthenticated, "your account was changed meanwhile; send it again")) }
}

/// The certificate of a device that speaks for itself.
///
/// # Errors
/// `unauthenticated`: without one, `missing` says so; one for a session speaks for no device.
pub(crate) fn device_certificate(extensions: &http::Extensions, missing: &str) -> Result<CertificateDer<'static>, ApiError> {
    match extensions.get() {
        Some(PeerCertificate::Device(certificate)) => Ok(certificate.clone()),
        Some(PeerCertificate::Session(_)) => Err(ApiError::new(
            Code::Unauthenticated,
            "this certificate was made for a session and lets in there alone; use the device's own certificate",
        )),
        Some(PeerCertificate::None) | None => Err(ApiError::new(Code::Unauthenticated, missing)),
    }
}

/// The same, for requests over HTTP.
fn certificate(parts: &Parts) -> Result<CertificateDer<'static>, ApiError> {
    device_certificate(&parts.extensions, "this needs the device's client certificate; enrol first: musterd enrol URL TOKEN")
}

impl FromRequestParts<AppState> for DevicePeer {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let peer = authenticate(&state.store, &certificate(parts)?, address(parts)).await?;
        if let Some(trail) = parts.extensions.get::<Trail>() {
            trail.set_actor(&format!("device:{}", peer.uid));
            trail.set_org(&peer.org);
        }
        Ok(peer)
    }
}

impl FromRequestParts<AppState> for KnownDevice {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        identify(&state.store, &certificate(parts)?, address(parts)).await
    }
}
