//! `musterd doctor`: goes the whole way to the hub step by step and says in one sentence each what is well and what to do about what is not.
//!
//! It changes nothing, and it stops at nothing: a broken disk and a broken network are both found in one go.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use muster_link::dial::{DialError, Dialer, Endpoint};
use muster_link::http::{CallError, Hub, Request};
use muster_link::outln;
use muster_link::tls::{Clock, Trust, client_config};
use muster_proto::api::{Admission, DeviceSelf, EnrolOutcome, EnrolState, HubInfo};
use muster_proto::token::Pin;
use serde::Serialize;

use crate::certificate::Validity;
use crate::config::Config;
use crate::control::{Ask, ask};
use crate::daemon::{proxy, wall_clock};
use crate::state::{Enrolled, PendingRequest, State};
use crate::{living, log, policy, serial};
use musterd::account::{Account, NETWORK};
use musterd::handoff::START_SOCKET;

/// One dial of the doctor: a person waits.
const DIAL_TIMEOUT: Duration = Duration::from_secs(8);
/// A clock that differs by more is worth a sentence, in milliseconds.
const CLOCK_TOLERANCE: i64 = 30_000;
/// Less free space than this is worth a sentence, in bytes.
const SPACE_MIN: u64 = 64 * 1024 * 1024;

/// How a step went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Ok,
    Warning,
    Failed,
    Skipped,
}

/// One step.
#[derive(Debug, Serialize)]
struct Step {
    step: &'static str,
    verdict: Verdict,
    sentence: String,
}

#[derive(Debug, Default)]
struct Report {
    steps: Vec<Step>,
    json: bool,
}

impl Report {
    fn add(&mut self, step: &'static str, verdict: Verdict, sentence: impl Into<String>) {
        let sentence = sentence.into();
        if !self.json {
            let mark = match verdict {
                Verdict::Ok => "ok     ",
                Verdict::Warning => "warning",
                Verdict::Failed => "FAILED ",
                Verdict::Skipped => "skipped",
            };
            outln!("{mark} {step:<12} {sentence}");
        }
        self.steps.push(Step { step, verdict, sentence });
    }

    fn result(&mut self, step: &'static str, result: Result<String, String>) -> bool {
        let well = result.is_ok();
        match result {
            Ok(sentence) => self.add(step, Verdict::Ok, sentence),
            Err(sentence) => self.add(step, Verdict::Failed, sentence),
        }
        well
    }
}

/// Examines everything. The exit code is 0 when nothing failed.
pub(crate) async fn run(config: &Config, json: bool) -> ExitCode {
    let mut report = Report { steps: Vec::new(), json };
    let state = State::at(&config.state_dir);
    report.add("version", Verdict::Ok, format!("This is musterd {}.", env!("CARGO_PKG_VERSION")));
    local(config, &state, &mut report);
    let (enrolled, pending) = identity(config, &state, &mut report);
    let place = enrolled
        .as_ref()
        .map(|enrolled| (enrolled.hub.clone(), enrolled.pin.clone()))
        .or_else(|| pending.as_ref().map(|pending| (pending.hub.clone(), pending.pin.clone())));
    match place {
        Some((hub, pin)) => remote(config, &state, &hub, &pin, enrolled.as_ref(), pending.as_ref(), &mut report).await,
        None => report.add("hub", Verdict::Skipped, "No hub is known before the first `musterd enrol URL TOKEN`."),
    }
    let failed = report.steps.iter().filter(|step| step.verdict == Verdict::Failed).count();
    if json {
        outln!("{}", serde_json::json!({"healthy": failed == 0, "steps": report.steps}));
    } else if failed > 0 {
        outln!("{failed} of {} steps failed.", report.steps.len());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Disk, policy, daemon, serial number.
fn local(config: &Config, state: &State, report: &mut Report) {
    let disk = state.prepare().map(|()| format!("The state directory {} can be written.", state.dir().display()));
    if report.result("disk", disk.map_err(|error| error.to_string()))
        && let Some(free) = free_space(state.dir()).filter(|free| *free < SPACE_MIN)
    {
        report.add("space", Verdict::Warning, format!("Only {} MB are free below {}: make room.", free / 1_000_000, state.dir().display()));
    }
    sessions(config, report);
    match ask(&config.control_socket(), &Ask::Status) {
        Ok(_) => report.add("daemon", Verdict::Ok, "The daemon runs."),
        Err(error) => {
            let why = format!("The daemon does not run, or not with this configuration ({error}): `systemctl start musterd`.");
            report.add("daemon", Verdict::Warning, why);
        }
    }
    report.result("serial", serial::read(&config.identity).map(|serial| format!("The serial number is {serial}.")));
}

/// Who may come in, and whether anything here can serve them.
fn sessions(config: &Config, report: &mut Report) {
    match policy::load(&config.policy) {
        Ok(policy) if policy.own_user() => {
            let why = "The policy sets own_user: visitors are the daemon's own user, and nothing keeps them from the device's key. For trials only.";
            report.add("policy", Verdict::Warning, why);
            if let Err(error) = living::program() {
                report.add("sessions", Verdict::Failed, format!("Sessions cannot be served: {error}."));
            }
        }
        Ok(policy) => {
            let missing: Vec<&str> =
                policy.all_users().into_iter().chain([NETWORK]).filter(|name| !matches!(Account::named(name), Ok(Some(_)))).collect();
            match missing.as_slice() {
                [] => report.add("policy", Verdict::Ok, format!("The policy {} is valid.", config.policy.display())),
                missing => {
                    report.add("policy", Verdict::Failed, format!("Visitors are refused: this device has no user {}.", missing.join(", ")));
                }
            }
            let socket = config.session_dir.join(START_SOCKET);
            let served = std::os::unix::net::UnixStream::connect(&socket)
                .map(|_| format!("The service for sessions listens on {}.", socket.display()));
            report.result(
                "sessions",
                served.map_err(|error| {
                    format!(
                        "Nothing serves sessions on {} ({error}): systemctl start musterd-session.socket, or run `musterd sessiond`.",
                        socket.display()
                    )
                }),
            );
        }
        // The owner's will, or a device that only reports how it is.
        Err(fault) if fault.code != "policy_broken" => report.add("policy", Verdict::Warning, fault.message),
        Err(fault) => report.add("policy", Verdict::Failed, fault.message),
    }
    match policy::read_trusted(&config.anchor) {
        Ok(_) => report.add("anchor", Verdict::Ok, format!("{} names the hub whose orders count.", config.anchor.display())),
        Err(why) => report.add("anchor", Verdict::Warning, format!("No order of any hub counts: {why}. Run `musterd enrol` as root.")),
    }
}

fn free_space(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Who this device is by its own files.
fn identity(config: &Config, state: &State, report: &mut Report) -> (Option<Enrolled>, Option<PendingRequest>) {
    let enrolled = match state.enrolled() {
        Ok(enrolled) => enrolled,
        Err(error) => {
            report.add("identity", Verdict::Failed, error.to_string());
            None
        }
    };
    let pending = state.pending().ok().flatten();
    if let Some(enrolled) = &enrolled {
        let identity = &enrolled.identity;
        let now = state.clock().now();
        let verdict = match Validity::of_pem(&identity.certificate) {
            None => Err("The certificate is damaged: enrol again with `musterd enrol`.".to_owned()),
            Some(validity) if now >= validity.to => Err(format!(
                "The certificate ended on {}: enrol again with `musterd enrol`.",
                log::timestamp(validity.to.unsigned_abs() / 1000)
            )),
            Some(validity) => Ok(format!(
                "This device is {} ({}) of {}, its certificate is valid to {}.",
                identity.name,
                identity.uid,
                identity.org,
                log::timestamp(validity.to.unsigned_abs() / 1000)
            )),
        };
        let verdict = verdict.and_then(|sentence| {
            let clock = Clock::with_floor(now);
            state.client_tls(enrolled, &clock).map(|_| sentence).map_err(|error| error.to_string())
        });
        report.result("identity", verdict);
        if serial::read(&config.identity).is_ok_and(|serial| serial != enrolled.serial) {
            let why = format!("This device enrolled as {}; its serial number has changed since: enrol again.", enrolled.serial);
            report.add("serial", Verdict::Warning, why);
        }
    } else if let Some(pending) = &pending {
        let why = format!("The enrolment waits for a person; the pairing code is {}.", pending.pairing_code);
        report.add("identity", Verdict::Warning, why);
    } else {
        report.add("identity", Verdict::Failed, "This device is not enrolled: run `musterd enrol URL TOKEN`.");
    }
    (enrolled, pending)
}

/// DNS, route, proxy, TLS, clock, token and admission, MQTT.
async fn remote(
    config: &Config,
    state: &State,
    hub: &str,
    pin: &str,
    enrolled: Option<&Enrolled>,
    pending: Option<&PendingRequest>,
    report: &mut Report,
) {
    let (endpoint, pin, proxy) = match (hub.parse::<Endpoint>(), pin.parse::<Pin>(), proxy(config)) {
        (Ok(endpoint), Ok(pin), Ok(proxy)) => (endpoint, pin, proxy),
        (Err(error), ..) => return report.add("hub", Verdict::Failed, error.to_string()),
        (_, Err(_), _) => return report.add("hub", Verdict::Failed, "The hub's fingerprint on disk is damaged: enrol again."),
        (.., Err(error)) => return report.add("proxy", Verdict::Failed, error),
    };
    let clock = state.clock();
    let tls = match client_config(&Trust::Pin(pin), None, &clock) {
        Ok(tls) => tls,
        Err(error) => return report.add("tls", Verdict::Failed, error.to_string()),
    };
    let dialer = Dialer { timeout: DIAL_TIMEOUT, ..Dialer::new(tls).via(proxy.clone()) };
    if let Err(error) = dialer.dial(&endpoint).await {
        // The steps before the one that failed went well, or it would not have come to it.
        let step = step_of(&error);
        for (passed, sentence) in [("dns", "has an address"), ("route", "answers")] {
            if passed == step || (step == "proxy") {
                break;
            }
            report.add(passed, Verdict::Ok, format!("{} {sentence}.", endpoint.host));
        }
        return report.add(step, Verdict::Failed, error.to_string());
    }
    let way = if config.proxy.is_some() { " through the proxy" } else { "" };
    report.add("dns", Verdict::Ok, format!("{} has an address.", endpoint.host));
    report.add("route", Verdict::Ok, format!("{} answers{way}.", endpoint.authority()));
    report.add("tls", Verdict::Ok, "The hub shows the certificate authority that the token named; nothing between opens the connection.");

    let mut api = Hub::new(&endpoint, dialer);
    match api.json::<HubInfo>(&Request::new("GET", "/v1/hub")).await {
        Ok(info) => {
            report.add("hub", Verdict::Ok, format!("The hub is {} {}.", info.service, info.version));
            let off = wall_clock() - info.now;
            if off.abs() > CLOCK_TOLERANCE {
                let (by, which) = (off.abs() / 1000, if off > 0 { "ahead of" } else { "behind" });
                let why = format!("This machine's clock is {by} s {which} the hub's: set it, samples carry its time.");
                report.add("clock", Verdict::Warning, why);
            } else {
                report.add("clock", Verdict::Ok, "The clock agrees with the hub's.");
            }
        }
        Err(error) => report.add("hub", Verdict::Failed, error.to_string()),
    }
    if let Some(pending) = pending.filter(|_| enrolled.is_none()) {
        let path = format!("/v1/enrol/{}?wait=0", pending.request);
        match api.json::<EnrolState>(&Request::new("GET", &path)).await {
            Ok(answer) => {
                let verdict = if answer.state == EnrolOutcome::Rejected { Verdict::Failed } else { Verdict::Warning };
                report.add("admission", verdict, answer.why);
            }
            Err(error) => report.add("admission", Verdict::Failed, error.to_string()),
        }
    }
    if let Some(enrolled) = enrolled {
        admission(config, state, enrolled, &clock, report).await;
    }
}

/// What the hub thinks of us, and whether MQTT gets through: both over mutual TLS.
async fn admission(config: &Config, state: &State, enrolled: &Enrolled, clock: &Clock, report: &mut Report) {
    let dialer = match (state.client_tls(enrolled, clock), proxy(config)) {
        (Ok(tls), Ok(proxy)) => Dialer { timeout: DIAL_TIMEOUT, ..Dialer::new(tls).via(proxy) },
        // Said already, with the identity and the proxy.
        _ => return report.add("admission", Verdict::Skipped, "Without a usable identity the hub cannot be asked."),
    };
    let Ok(endpoint) = enrolled.hub.parse::<Endpoint>() else { return };
    let mut api = Hub::new(&endpoint, dialer.clone());
    match api.json::<DeviceSelf>(&Request::new("GET", "/v1/device/self")).await {
        Ok(answer) if answer.admission == Admission::Admitted => {
            report.add(
                "admission",
                Verdict::Ok,
                format!("The hub has admitted this device as {}: {}.", answer.name, answer.why.trim_end_matches('.')),
            );
        }
        Ok(answer) => report.add("admission", Verdict::Failed, answer.why),
        Err(error @ CallError::Dial(_)) => {
            report.add("admission", Verdict::Failed, format!("{error}; the hub may not know this device any more: enrol again"));
        }
        Err(error) => report.add("admission", Verdict::Failed, error.to_string()),
    }
    let mqtt = &enrolled.identity.mqtt;
    let mut failures = Vec::new();
    for (url, what) in
        [Some((&mqtt.url, "on its own port")), mqtt.websocket.as_ref().map(|url| (url, "as WebSocket"))].into_iter().flatten()
    {
        match url.parse::<Endpoint>() {
            Ok(endpoint) => match dialer.dial(&endpoint).await {
                Ok(_) if failures.is_empty() => return report.add("mqtt", Verdict::Ok, format!("MQTT {what} can be reached at {url}.")),
                Ok(_) => {
                    let why = format!("MQTT can be reached only {what}: {}", failures.join("; "));
                    return report.add("mqtt", Verdict::Warning, why);
                }
                Err(error) => failures.push(error.to_string()),
            },
            Err(error) => failures.push(error.to_string()),
        }
    }
    report.add("mqtt", Verdict::Failed, failures.join("; "));
}

fn step_of(error: &DialError) -> &'static str {
    match error {
        DialError::Dns { .. } => "dns",
        DialError::Refused { .. } | DialError::Unreachable { .. } | DialError::Timeout { .. } => "route",
        DialError::Proxy { .. } => "proxy",
        DialError::Certificate { .. } | DialError::Tls { .. } => "tls",
    }
}
