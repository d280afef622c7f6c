//! Enrolment: from a token to an identity signed by the hub.
//!
//! It can be interrupted and repeated at any point: the key and the request are on disk before they are used, and the hub knows them again.
//! While a person has to decide, `musterd enrol` and `musterd run` both long-poll; admission takes effect within a second.

use std::sync::Arc;
use std::time::Duration;

use muster_link::dial::Endpoint;
use muster_link::http::{CallError, Hub, Request};
use muster_link::tls::{Clock, Trust, client_config};
use muster_proto::api::{EnrolOutcome, EnrolRequest, EnrolState};
use muster_proto::backoff::Backoff;
use muster_proto::limits::ENROL_POLL_MAX;
use muster_proto::problem::Code;
use muster_proto::token::{Pin, Token, TokenKind};

use crate::config::Config;
use crate::daemon::{Daemon, LinkStatus, proxy};
use crate::log::{debug, error, info, warn};
use crate::state::{Enrolled, PendingRequest, State};
use crate::{anchor, facts, random, serial};
use musterd::account::Account;
use musterd::policy;

/// One long poll, in seconds: under the idle timeouts of usual proxies (60 s).
const POLL_S: u64 = if ENROL_POLL_MAX.as_secs() < 50 { ENROL_POLL_MAX.as_secs() } else { 50 };
/// The call's bound: the poll and the way.
const POLL_TIMEOUT: Duration = Duration::from_secs(POLL_S + 15);
/// Longest pause between polls that failed: a person waits.
const POLL_BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How often `run` looks whether there is an identity, should the word of `enrol` not reach it.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What `musterd enrol` came to.
#[derive(Debug)]
pub(crate) enum Enrolment {
    /// The identity is on disk.
    Admitted(Box<Enrolled>),
    /// A person has to decide.
    Pending {
        /// The request, on disk.
        request: PendingRequest,
        /// The hub's sentence.
        why: String,
    },
}

/// Sends the enrolment request; `say` gets the sentences for the person who runs it.
///
/// # Errors
/// One sentence: what failed, and what to do.
pub(crate) async fn request(
    config: &Config,
    url: &str,
    token: &str,
    user: Option<&str>,
    say: &mut impl FnMut(&str),
) -> Result<Enrolment, String> {
    let hub = Endpoint::hub(url).map_err(|error| error.to_string())?;
    let token = Token::parse(token, TokenKind::Enrolment).map_err(|error| error.to_string())?;
    let serial = serial::read(&config.identity)?;
    let state = State::at(&config.state_dir);
    // Before anything is asked of the hub: a disk that cannot keep the key must not use up the token.
    state.prepare().map_err(|error| error.to_string())?;
    let key = state.key_or_new().map_err(|error| error.to_string())?;
    first_policy(config, user, say)?;
    let anchored = anchor::prepare(&config.anchor);
    if rustix::process::geteuid().is_root() {
        anchored.as_ref().map_err(ToString::to_string)?;
    } else if let Err(error) = &anchored {
        say(&format!("this device will refuse sessions: {error}; run `musterd enrol` as root to allow them"));
    }
    let already = state.enrolled().ok().flatten();
    if let Some(already) = already.filter(|already| already.pin != token.pin.to_string()) {
        say(&format!("this device belongs to {} on {} until the new hub admits it", already.identity.org, already.hub));
    }
    let clock = state.clock();
    let mut api = open_hub(config, &hub, token.pin, &clock)?;
    let body = EnrolRequest { token: token.to_string(), serial: serial.clone(), csr: key.request(), facts: facts::read() };
    let answer: EnrolState = api.call("POST", "/v1/enrol", None, Some(&body)).await.map_err(|error| unanswered(config, &error))?;
    let hub = format!("https://{}", hub.authority());
    if anchored.is_ok() {
        anchor::write(&config.anchor, &hub, &token.pin, &key).map_err(|error| error.to_string())?;
    }
    let request = PendingRequest {
        hub,
        pin: token.pin.to_string(),
        serial,
        request: answer.request.clone(),
        pairing_code: answer.pairing_code.clone(),
    };
    outcome(&state, request, answer)
}

/// Writes the first policy where there is none: nobody comes in before the owner has said as whom.
fn first_policy(config: &Config, user: Option<&str>, say: &mut impl FnMut(&str)) -> Result<(), String> {
    if let Some(user) = user {
        match Account::named(user) {
            Ok(Some(_)) => {}
            Ok(None) => return Err(format!("this device has no user {user:?}; name one with --user whom visitors may become")),
            Err(error) => return Err(format!("cannot look up the user {user:?}: {error}")),
        }
    }
    let path = config.policy.display();
    match policy::first::write_first(&config.policy, &policy::first::first(user)) {
        Ok(true) => match user {
            Some(user) => say(&format!("wrote {path}: visitors become {user}")),
            None => say(&format!("wrote {path}: nobody is let in yet; name a user there, or enrol with --user NAME")),
        },
        Ok(false) if user.is_some() => say(&format!("{path} is there already and stays as it is; --user changes nothing")),
        Ok(false) => {}
        Err(error) if user.is_some() => return Err(format!("cannot write {path}: {error}; run this as root")),
        // Without one everything is refused: the device reports all the same.
        Err(error) => say(&format!("there is no policy, and {path} cannot be written ({error}): this device will refuse sessions")),
    }
    Ok(())
}

/// Asks until a person has decided; `say` gets what changes.
///
/// # Errors
/// One sentence: rejected, or the request is not known any more.
pub(crate) async fn follow(config: &Config, request: PendingRequest, say: &mut impl FnMut(&str)) -> Result<Box<Enrolled>, String> {
    let state = State::at(&config.state_dir);
    let pin: Pin = request.pin.parse().map_err(|_| "the pending enrolment is damaged: enrol again".to_owned())?;
    let hub: Endpoint = request.hub.parse().map_err(|error| format!("{error}"))?;
    let clock = state.clock();
    let mut api = open_hub(config, &hub, pin, &clock)?;
    let mut backoff = Backoff::new(Duration::from_secs(1), POLL_BACKOFF_MAX);
    let mut said = String::new();
    loop {
        let path = format!("/v1/enrol/{}?wait={POLL_S}", request.request);
        let poll = Request { timeout: POLL_TIMEOUT, ..Request::new("GET", &path) };
        match api.json::<EnrolState>(&poll).await {
            Ok(answer) => {
                backoff.reset();
                match outcome(&state, request.clone(), answer)? {
                    Enrolment::Admitted(enrolled) => return Ok(enrolled),
                    Enrolment::Pending { why, .. } if why != said => {
                        say(&why);
                        said = why;
                    }
                    // A hub that answers at once must not be asked without a pause.
                    Enrolment::Pending { .. } => tokio::time::sleep(Duration::from_millis(500)).await,
                }
            }
            Err(CallError::Problem(problem)) if !is_passing(&problem.code) => {
                state.forget_pending();
                return Err(format!("{problem}; enrol again with a valid token"));
            }
            Err(error) => {
                let retry_in = error.problem().and_then(|problem| problem.retry_in).map(|s| Duration::from_secs(u64::from(s)));
                let delay = backoff.next(random::number(), retry_in);
                let text = error.to_string();
                if text != said {
                    say(&format!("{text}; trying on"));
                    said = text;
                }
                tokio::time::sleep(delay).await;
            }
        }
    }
}

/// Errors of the hub that go away by themselves.
fn is_passing(code: &str) -> bool {
    [Code::Internal, Code::Unavailable, Code::RateLimited].iter().any(|known| known.as_str() == code)
}

/// Why the hub was not asked. The daemon takes its proxy from its configuration alone, not from the shell of whoever enrols it.
fn unanswered(config: &Config, error: &CallError) -> String {
    let is_set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let variable = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"].into_iter().find(is_set);
    match (error, variable) {
        (CallError::Dial(_), Some(variable)) if config.proxy.is_none() => {
            format!("{error}. musterd does not read {variable}: if this device needs a proxy, set url under [proxy] in its configuration")
        }
        _ => error.to_string(),
    }
}

fn open_hub(config: &Config, hub: &Endpoint, pin: Pin, clock: &Clock) -> Result<Hub, String> {
    let tls = client_config(&Trust::Pin(pin), None, clock).map_err(|error| error.to_string())?;
    Ok(Hub::new(hub, muster_link::dial::Dialer::new(tls).via(proxy(config)?)))
}

/// Keeps what the hub answered.
fn outcome(state: &State, request: PendingRequest, answer: EnrolState) -> Result<Enrolment, String> {
    match (answer.state, answer.identity) {
        (EnrolOutcome::Admitted, Some(identity)) => {
            let enrolled = Enrolled { hub: request.hub, pin: request.pin, serial: request.serial, identity, signed_at: answer.now };
            // Try the parts together before the old identity is given up.
            let clock = Clock::with_floor(answer.now);
            state.client_tls(&enrolled, &clock).map_err(|error| format!("the hub sent an identity that cannot be used: {error}"))?;
            state.set_enrolled(&enrolled).map_err(|error| error.to_string())?;
            let mut link = state.link();
            // Afresh: what another hub may have told, or this one while its clock was wrong, is over.
            link.hub_time = answer.now;
            if let Err(error) = state.set_link(&link) {
                warn!("{error}");
            }
            Ok(Enrolment::Admitted(Box::new(enrolled)))
        }
        (EnrolOutcome::Admitted, None) => Err("the hub admitted this device but sent no certificate: enrol again".into()),
        (EnrolOutcome::Pending | EnrolOutcome::Replacement, _) => {
            state.set_pending(&request).map_err(|error| error.to_string())?;
            Ok(Enrolment::Pending { request, why: answer.why })
        }
        (EnrolOutcome::Rejected, _) => {
            state.forget_pending();
            Err(format!("the hub rejected this device: {}", answer.why))
        }
    }
}

/// `run`: the identity, as soon as there is one. `None` when the daemon stops before.
pub(crate) async fn wait_for_identity(daemon: &Arc<Daemon>) -> Option<Enrolled> {
    let mut said = String::new();
    let mut say_once = |text: String| {
        if text != said {
            warn!("{text}");
            said = text;
        }
    };
    loop {
        match daemon.state.enrolled() {
            Ok(Some(enrolled)) => return Some(enrolled),
            Ok(None) => {}
            Err(error) => say_once(error.to_string()),
        }
        let pending = daemon.state.pending().ok().flatten();
        match pending {
            Some(pending) => {
                let code = pending.pairing_code.clone();
                info!("the enrolment waits for a person; pairing code {code}");
                daemon.set_link_status(LinkStatus::Pending { pairing_code: code.clone(), why: String::new() });
                let mut say = |why: &str| {
                    info!("pairing code {code}: {why}");
                    daemon.set_link_status(LinkStatus::Pending { pairing_code: code.clone(), why: why.to_owned() });
                };
                tokio::select! {
                    followed = follow(&daemon.config, pending, &mut say) => if let Err(why) = followed {
                        error!("{why}");
                    },
                    // `enrol` may have been faster, or was run anew.
                    () = daemon.reload.notified() => {}
                    () = daemon.stopped() => return None,
                }
            }
            None => {
                say_once("this device is not enrolled: run `musterd enrol URL TOKEN`; the daemon waits for it".into());
                daemon.set_link_status(LinkStatus::NotEnrolled);
                tokio::select! {
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                    () = daemon.reload.notified() => debug!("looking for an identity"),
                    () = daemon.stopped() => return None,
                }
            }
        }
    }
}
