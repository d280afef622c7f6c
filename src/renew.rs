//! Renews the device's certificate at two thirds of its life, or when the hub wants it: over mutual TLS, with the same key.
//!
//! The link that is up stays up; the next one uses the new certificate.

use std::sync::Arc;
use std::time::Duration;

use muster_link::http::Hub;
use muster_proto::api::{Identity, RenewRequest};
use muster_proto::backoff::Backoff;

use crate::certificate::Validity;
use crate::daemon::Daemon;
use crate::log::{error, info, warn};
use crate::random;
use crate::state::Enrolled;

/// The clock is looked at so often: it may be set, and timers do not count while a machine sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// First pause after a failure; a month is left, so there is no hurry.
const RETRY_FIRST: Duration = Duration::from_secs(60);
/// Longest pause after a failure.
const RETRY_MAX: Duration = Duration::from_secs(6 * 3600);

/// Renews until the daemon stops.
pub(crate) async fn run(daemon: Arc<Daemon>) {
    let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let mut asked = false;
    loop {
        let enrolled = daemon.state.enrolled().ok().flatten();
        let due = enrolled.as_ref().filter(|enrolled| asked || is_due(&daemon, enrolled));
        let pause = match due {
            None => LOOK_EVERY,
            Some(enrolled) => match renew(&daemon, enrolled).await {
                Ok(until) => {
                    info!("the certificate is renewed, valid to {until}");
                    backoff.reset();
                    asked = false;
                    LOOK_EVERY
                }
                Err(why) => {
                    let delay = backoff.next(random::number(), None);
                    warn!("the certificate is not renewed: {why}; next try in {} s", delay.as_secs());
                    delay
                }
            },
        };
        tokio::select! {
            go_on = daemon.pause(pause) => if !go_on { return },
            () = daemon.renew.notified() => asked = true,
        }
    }
}

fn is_due(daemon: &Daemon, enrolled: &Enrolled) -> bool {
    let Some(validity) = Validity::of_pem(&enrolled.identity.certificate) else { return true };
    let now = daemon.clock.now();
    if now >= validity.to {
        error!("the device's certificate has expired: enrol again with `musterd enrol`");
        return false;
    }
    now >= validity.renew_at()
}

async fn renew(daemon: &Daemon, enrolled: &Enrolled) -> Result<String, String> {
    let key = daemon.state.key().map_err(|error| error.to_string())?.ok_or("the key is missing")?;
    let hub = enrolled.hub.parse().map_err(|error| format!("{error}"))?;
    let mut api = Hub::new(&hub, daemon.dialer(enrolled)?);
    let body = RenewRequest { csr: key.request() };
    let identity: Identity = api.call("POST", "/v1/device/renew", None, Some(&body)).await.map_err(|error| error.to_string())?;
    if identity.uid != enrolled.identity.uid {
        return Err(format!("the hub sent a certificate for {}, not for {}", identity.uid, enrolled.identity.uid));
    }
    let renewed = Enrolled { identity, signed_at: daemon.clock.now(), ..enrolled.clone() };
    daemon.state.client_tls(&renewed, &daemon.clock).map_err(|error| error.to_string())?;
    let kept = daemon.state.change_enrolled(enrolled, |current| current.clone_from(&renewed)).map_err(|error| error.to_string())?;
    if !kept {
        return Err("the device was enrolled anew meanwhile, and that certificate stands".to_owned());
    }
    let to = Validity::of_pem(&renewed.identity.certificate).map_or(0, |validity| validity.to);
    Ok(crate::log::timestamp(to.unsigned_abs() / 1000))
}
