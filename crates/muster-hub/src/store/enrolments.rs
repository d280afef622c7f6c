//! Requests for a place on the list: filed, counted and decided in one transaction each.
//!
//! One key asks once: asking again gives the same request and counts the token once.
//! The writer thread is the only one that writes, so ten uses admit ten devices, however many ask at the same moment.

use muster_proto::Millis;
use muster_proto::api::{Admission, AdmitRule, EnrolOutcome, LimitName};
use muster_proto::id::{DeviceUid, OrgId, Serial};
use muster_proto::mqtt::Facts;
use muster_proto::problem::{Code, Problem};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde_json::json;

use super::devices::{self, DeviceRow, KeyState};
use super::{Error, Result, called, enrolment_tokens, limits, orgs};
use crate::audit::Entry;
use crate::auth;
use crate::ca::{Ca, DeviceKey};
use crate::clock::DAY;

/// Devices of one organization that may wait at the same time: a stolen token fills no disk.
const PENDING_MAX: i64 = 10_000;
/// Keys that may ask for the place of one device at the same time.
const REPLACEMENTS_MAX: i64 = 5;
/// A stored certificate is given again while it has this much of its 90 days left.
const CERTIFICATE_FRESH: Millis = 60 * DAY;

/// What a device asks.
pub(crate) struct Ask {
    /// The token's public name.
    pub token: String,
    /// SHA-256 of its secret.
    pub digest: [u8; 32],
    pub serial: Serial,
    pub key: DeviceKey,
    pub facts: Facts,
    pub from: Option<std::net::IpAddr>,
    /// Drawn by the caller, used if the request is new.
    pub fresh: Fresh,
}

/// Names for a new request.
pub(crate) struct Fresh {
    pub uid: DeviceUid,
    pub request: String,
    pub pairing_code: String,
}

/// A request as it is stored.
#[derive(Debug, Clone)]
pub(crate) struct Enrolment {
    pub request: String,
    pub uid: DeviceUid,
    pub org: OrgId,
    pub serial: Serial,
    pub key: [u8; 32],
    pub spki: Vec<u8>,
    pub token: String,
    pub pairing_code: String,
    pub state: EnrolOutcome,
    /// Another key took the device's place: this one gets nothing any more.
    pub superseded: bool,
    pub certificate: Option<String>,
    pub certificate_expires_at: Option<Millis>,
}

const COLUMNS: &str = "request, uid, org, serial, key, spki, token, pairing_code, state, certificate, certificate_expires_at";

fn enrolment(row: &Row<'_>) -> rusqlite::Result<Result<Enrolment>> {
    let (request, uid, org, serial): (String, String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
    let (key, spki, token, pairing_code) = (row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?);
    let (state, certificate, certificate_expires_at): (String, _, _) = (row.get(8)?, row.get(9)?, row.get(10)?);
    Ok((|| {
        Ok(Enrolment {
            request,
            uid: uid.parse()?,
            org: org.parse()?,
            serial: serial.parse()?,
            key,
            spki,
            token,
            pairing_code,
            superseded: state == "superseded",
            state: match state.as_str() {
                "pending" => EnrolOutcome::Pending,
                "replacement" => EnrolOutcome::Replacement,
                "rejected" => EnrolOutcome::Rejected,
                "admitted" | "superseded" => EnrolOutcome::Admitted,
                other => return Err(Error::Corrupt { what: "enrolment state", why: other.to_owned() }),
            },
            certificate,
            certificate_expires_at,
        })
    })())
}

/// How an attempt to enrol ended. A refusal is a value, not an error: what it records is committed.
pub(crate) enum Answer {
    Filed(Box<Enrolment>),
    Refused(Problem),
}

/// Files a request, or finds the one that this key made before.
pub(crate) fn enrol(tx: &Transaction<'_>, ask: &Ask, now: Millis) -> Result<Answer> {
    let held = enrolment_tokens::held(tx, &ask.token)?.filter(|held| {
        use subtle::ConstantTimeEq as _;
        bool::from(ask.digest.as_slice().ct_eq(&held.digest))
    });
    let Some(held) = held else {
        let why = "the enrolment token is not known here; copy it whole, or ask for a new one (`muster token create`)";
        return Ok(Answer::Refused(Problem::new(Code::TokenUnknown, why)));
    };
    let digest = ask.key.digest();
    if let Some(key) = devices::key(tx, &digest)?.filter(|key| key.state == KeyState::Retired && key.reason.as_deref() != Some("deleted")) {
        return Ok(Answer::Refused(auth::raise_alarm(tx, &digest, &key, ask.from, now)?));
    }
    let (org, serial) = (&held.org, &ask.serial);
    if let Some(existing) = find(tx, org, serial, &digest)? {
        return again(tx, &held, &existing, ask, now);
    }
    if let Some(other) = elsewhere(tx, &digest)? {
        let whose = if other.0 == *org { format!("the serial number {:?}", other.1) } else { "another device".to_owned() };
        let why = format!("this key is enrolled already as {whose}; a device keeps its serial number: give it a new key (remove key.pem)");
        return refuse(tx, &held, ask, Problem::new(Code::Conflict, why));
    }
    if let Some(refusal) = enrolment_tokens::refusal(tx, &held, serial, now)? {
        return refuse(tx, &held, ask, refusal);
    }
    if let Some(full) = bounds(tx, org, serial)? {
        return refuse(tx, &held, ask, full);
    }
    let listed = devices::by_serial(tx, org, serial.as_str())?;
    if listed.is_none()
        && let Some(why) = devices::mistaken(serial)
    {
        let why = format!("{why}; give the device another one: identity.serial in its configuration");
        return refuse(tx, &held, ask, Problem::new(Code::Invalid, why));
    }
    // Before the token's use is counted: a device that finds no place has cost nothing.
    if listed.is_none()
        && let Some(full) = limits::refusal(tx, org, LimitName::Devices, 1)?
    {
        return refuse(tx, &held, ask, full);
    }
    enrolment_tokens::count(tx, &ask.token)?;
    let outcome = match (&listed, held.token.admit) {
        // Entered by hand: no key dies by it, and the token's owner let in whatever it names.
        (Some(device), AdmitRule::Auto) if device.by_hand && device.admission == Admission::Admitted => EnrolOutcome::Admitted,
        (Some(_), _) => EnrolOutcome::Replacement,
        (None, AdmitRule::Auto) => EnrolOutcome::Admitted,
        (None, AdmitRule::Manual) => EnrolOutcome::Pending,
    };
    let uid = match listed {
        Some(device) => {
            if outcome == EnrolOutcome::Admitted {
                take_facts(tx, &device, ask)?;
                join_project(tx, &held, &device.uid)?;
            }
            device.uid
        }
        None => file_device(tx, &held, ask, now)?,
    };
    let state = match outcome {
        EnrolOutcome::Replacement => "replacement",
        _ => "pending",
    };
    insert(tx, ask, &uid, org, state, now)?;
    if outcome == EnrolOutcome::Admitted {
        admit_key(tx, &uid, org, &digest, &format!("token:{}", ask.token), "replaced", now)?;
    }
    let mut entry = Entry::of_device(&uid, org, "device.enrol").with(json!({
        "serial": serial, "token": ask.token, "outcome": outcome, "pairing_code": ask.fresh.pairing_code,
    }));
    entry.from = ask.from;
    entry.ok(tx)?;
    Ok(Answer::Filed(Box::new(stored(tx, &ask.fresh.request)?)))
}

/// The same key asks again: the same request, whatever became of the token since; a token that admits may admit what waits.
fn again(tx: &Transaction<'_>, held: &enrolment_tokens::Held, existing: &Enrolment, ask: &Ask, now: Millis) -> Result<Answer> {
    let Some(device) = devices::by_uid(tx, &existing.uid)? else {
        return Err(Error::Corrupt { what: "enrolment", why: format!("{} has no device", existing.request) });
    };
    if device.admission == Admission::Revoked
        && let Some(problem) = auth::admission_problem(&device)
    {
        return refuse(tx, held, ask, problem);
    }
    if existing.superseded {
        return refuse(tx, held, ask, superseded());
    }
    if existing.state == EnrolOutcome::Pending {
        take_facts(tx, &device, ask)?;
        if held.token.admit == AdmitRule::Auto && existing.token != ask.token {
            if let Some(refusal) = enrolment_tokens::refusal(tx, held, &ask.serial, now)? {
                return refuse(tx, held, ask, refusal);
            }
            enrolment_tokens::count(tx, &ask.token)?;
            admit_key(tx, &device.uid, &device.org, &existing.key, &format!("token:{}", ask.token), "replaced", now)?;
            join_project(tx, held, &device.uid)?;
            let mut entry = Entry::of_device(&device.uid, &device.org, "device.enrol")
                .with(json!({ "serial": ask.serial, "token": ask.token, "outcome": EnrolOutcome::Admitted }));
            entry.from = ask.from;
            entry.ok(tx)?;
        }
    }
    Ok(Answer::Filed(Box::new(stored(tx, &existing.request)?)))
}

/// What a key hears whose place another key took.
pub(crate) fn superseded() -> Problem {
    Problem::new(
        Code::DeviceRevoked,
        "another key took this device's place (`muster device replace`); enrol this machine as another serial number",
    )
}

/// A refusal to somebody who holds a real token is for the organization's records.
fn refuse(tx: &Transaction<'_>, held: &enrolment_tokens::Held, ask: &Ask, problem: Problem) -> Result<Answer> {
    // One record for each serial and code in the token's life: a device that tries for ever fills nothing.
    let mut statement = tx.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM audit WHERE org = ?1 AND action = 'device.enrol' AND actor = ?2 AND target = ?3 AND result = ?4)",
    )?;
    let actor = format!("token:{}", ask.token);
    if !statement.query_row(params![held.org.as_str(), actor, ask.serial.as_str(), problem.code], |row| row.get::<_, bool>(0))? {
        let mut entry = Entry::of_hub(Some(held.org.clone()), "device.enrol", ask.serial.as_str());
        (entry.actor, entry.from) = (actor, ask.from);
        entry.record(tx, &problem.code)?;
    }
    Ok(Answer::Refused(problem))
}

fn bounds(tx: &Transaction<'_>, org: &OrgId, serial: &Serial) -> Result<Option<Problem>> {
    let (pending, replacements): (i64, i64) = tx
        .prepare_cached(
            "SELECT (SELECT count(*) FROM devices WHERE org = ?1 AND admission = 'pending'),
                    (SELECT count(*) FROM enrolments WHERE org = ?1 AND serial = ?2 AND state = 'replacement')",
        )?
        .query_row([org.as_str(), serial.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(if pending >= PENDING_MAX {
        Some(Problem::new(
            Code::Conflict,
            format!("{PENDING_MAX} devices of {org} wait already; an owner has to admit or delete some first"),
        ))
    } else if replacements >= REPLACEMENTS_MAX {
        let why = format!("{REPLACEMENTS_MAX} other keys ask for the place of {serial:?} already; an owner has to replace or reject first");
        Some(Problem::new(Code::Conflict, why))
    } else {
        None
    })
}

fn file_device(tx: &Transaction<'_>, held: &enrolment_tokens::Held, ask: &Ask, now: Millis) -> Result<DeviceUid> {
    let uid = &ask.fresh.uid;
    let name = called::name(tx, &held.org, &ask.serial, &ask.facts)?;
    tx.prepare_cached(
        "INSERT INTO devices (uid, org, serial, name, admission, facts, agent, created_at) VALUES (?1, ?2, ?3, ?7, 'pending', ?4, ?5, ?6)",
    )?
    .execute(params![
        uid.as_str(),
        held.org.as_str(),
        ask.serial.as_str(),
        serde_json::to_string(&ask.facts)?,
        agent(&ask.facts),
        now,
        name
    ])?;
    join_project(tx, held, uid)?;
    Ok(uid.clone())
}

/// Stores what a listed device says of itself. One that nobody named so far may have its name from that.
fn take_facts(tx: &Transaction<'_>, device: &DeviceRow, ask: &Ask) -> Result<()> {
    devices::set_facts(tx, &device.uid, &ask.facts, agent(&ask.facts))?;
    if device.name == device.serial.as_str() {
        devices::rename(tx, &device.uid, &called::name(tx, &device.org, &device.serial, &ask.facts)?)?;
    }
    Ok(())
}

fn join_project(tx: &Transaction<'_>, held: &enrolment_tokens::Held, uid: &DeviceUid) -> Result<()> {
    match &held.token.project {
        Some(project) if orgs::project_is_open(tx, &held.org, project)? => devices::join(tx, uid, &held.org, project),
        _ => Ok(()),
    }
}

fn agent(facts: &Facts) -> Option<&str> {
    facts.0.get("agent").and_then(|agent| agent.as_str())
}

fn insert(tx: &Transaction<'_>, ask: &Ask, uid: &DeviceUid, org: &OrgId, state: &str, now: Millis) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO enrolments (request, uid, org, serial, key, spki, token, pairing_code, state, facts, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        ask.fresh.request,
        uid.as_str(),
        org.as_str(),
        ask.serial.as_str(),
        ask.key.digest(),
        ask.key.spki(),
        ask.token,
        ask.fresh.pairing_code,
        state,
        serde_json::to_string(&ask.facts)?,
        now
    ])?;
    Ok(())
}

/// Admits a device with one of the keys that asked. All other keys of it are dead from here on.
pub(crate) fn admit_key(
    tx: &Transaction<'_>,
    uid: &DeviceUid,
    org: &OrgId,
    key: &[u8; 32],
    by: &str,
    reason: &str,
    now: Millis,
) -> Result<()> {
    devices::decide(tx, uid, Admission::Admitted, None, by, now)?;
    devices::make_current(tx, uid, org, key, reason, now)?;
    tx.prepare_cached(
        "UPDATE enrolments SET state = 'superseded' WHERE uid = ?1 AND key != ?2 AND state IN ('pending', 'admitted', 'rejected')",
    )?
    .execute(params![uid.as_str(), key])?;
    tx.prepare_cached("UPDATE enrolments SET state = 'admitted' WHERE uid = ?1 AND key = ?2")?.execute(params![uid.as_str(), key])?;
    tx.prepare_cached("UPDATE devices SET by_hand = 0 WHERE uid = ?1 AND by_hand = 1")?.execute([uid.as_str()])?;
    Ok(())
}

/// The request of a device that is not a replacement: the key that an admission is for.
pub(crate) fn first_key(connection: &Connection, uid: &DeviceUid) -> Result<Option<Enrolment>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM enrolments WHERE uid = ?1 AND state IN ('pending', 'rejected', 'admitted') ORDER BY created_at DESC LIMIT 1"
    ))?;
    statement.query_row([uid.as_str()], enrolment).optional()?.transpose()
}

/// The keys that ask for a device's place, newest first.
pub(crate) fn replacements(connection: &Connection, uid: &DeviceUid) -> Result<Vec<Enrolment>> {
    let mut statement = connection
        .prepare_cached(&format!("SELECT {COLUMNS} FROM enrolments WHERE uid = ?1 AND state = 'replacement' ORDER BY created_at DESC"))?;
    let rows = statement.query_map([uid.as_str()], enrolment)?;
    rows.map(|row| row?).collect()
}

/// Says no to what a device's keys asked: to the first one, or to those that ask for its place.
pub(crate) fn reject(tx: &Transaction<'_>, uid: &DeviceUid, replacement: bool) -> Result<usize> {
    let state = if replacement { "replacement" } else { "pending" };
    Ok(tx.prepare_cached("UPDATE enrolments SET state = 'rejected' WHERE uid = ?1 AND state = ?2")?.execute([uid.as_str(), state])?)
}

/// Files the key of a renewal as a request that is admitted already, so that the device may ask again with it.
pub(crate) fn file_renewal(tx: &Transaction<'_>, device: &DeviceRow, key: &DeviceKey, fresh: &Fresh, now: Millis) -> Result<()> {
    tx.prepare_cached(
        "INSERT OR IGNORE INTO enrolments (request, uid, org, serial, key, spki, token, pairing_code, state, facts, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, '', ?7, 'admitted', '{}', ?8)",
    )?
    .execute(params![
        fresh.request,
        device.uid.as_str(),
        device.org.as_str(),
        device.serial.as_str(),
        key.digest(),
        key.spki(),
        fresh.pairing_code,
        now
    ])?;
    Ok(())
}

/// The request of a name, with its device.
pub(crate) fn by_request(connection: &Connection, request: &str) -> Result<Option<(Enrolment, DeviceRow)>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM enrolments WHERE request = ?1"))?;
    let Some(found) = statement.query_row([request], enrolment).optional()?.transpose()? else { return Ok(None) };
    Ok(devices::by_uid(connection, &found.uid)?.map(|device| (found, device)))
}

fn stored(connection: &Connection, request: &str) -> Result<Enrolment> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM enrolments WHERE request = ?1"))?;
    statement.query_row([request], enrolment)?
}

fn find(connection: &Connection, org: &OrgId, serial: &Serial, key: &[u8; 32]) -> Result<Option<Enrolment>> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM enrolments WHERE org = ?1 AND serial = ?2 AND key = ?3"))?;
    statement.query_row(params![org.as_str(), serial.as_str(), key], enrolment).optional()?.transpose()
}

/// Whose else a key is.
fn elsewhere(connection: &Connection, key: &[u8; 32]) -> Result<Option<(OrgId, Serial)>> {
    let mut statement = connection.prepare_cached("SELECT org, serial FROM enrolments WHERE key = ?1 LIMIT 1")?;
    let found: Option<(String, String)> = statement.query_row([key], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    Ok(match found {
        Some((org, serial)) => Some((org.parse()?, serial.parse()?)),
        None => None,
    })
}

/// The certificate of an admitted request: the stored one while it is fresh, otherwise a new one for the same key.
pub(crate) fn certificate(tx: &Transaction<'_>, ca: &Ca, request: &str, now: Millis) -> Result<String> {
    let enrolment = stored(tx, request)?;
    if enrolment.state != EnrolOutcome::Admitted || enrolment.superseded {
        return Err(superseded().into());
    }
    if let (Some(certificate), Some(expires_at)) = (&enrolment.certificate, enrolment.certificate_expires_at)
        && expires_at - now > CERTIFICATE_FRESH
    {
        return Ok(certificate.clone());
    }
    let issued = ca.sign_device(&DeviceKey::from_stored(enrolment.spki), &enrolment.uid, &enrolment.org, now)?;
    tx.prepare_cached("UPDATE enrolments SET certificate = ?2, certificate_expires_at = ?3 WHERE request = ?1")?.execute(params![
        request,
        issued.pem,
        issued.expires_at
    ])?;
    devices::set_certificate_end(tx, &enrolment.uid, issued.expires_at)?;
    Ok(issued.pem)
}

/// Whether a key has asked for anything before.
pub(crate) fn is_known(connection: &Connection, key: &[u8; 32]) -> Result<bool> {
    Ok(elsewhere(connection, key)?.is_some())
}
