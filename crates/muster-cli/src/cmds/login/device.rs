//! Login by device code (RFC 8628), for a machine without a browser: it shows a code, and a person confirms it in a browser elsewhere.

use std::time::Duration;

use muster_link::http::CallError;
use muster_proto::api::{AccessToken, DeviceLogin, DeviceLoginPoll, DeviceLoginStart};
use muster_proto::problem::Code;
use muster_proto::token::{Pin, Token};
use tokio::time::{Instant, sleep};

use super::{checked, token_name};
use crate::client::Hub;
use crate::failure::{Exit, Failure};
use crate::output::note;

/// What is added to the time between polls after one that failed on its way (RFC 8628, section 3.5).
const SLOWER: Duration = Duration::from_secs(5);
/// Longest time between polls, whatever the hub says.
const SLOWEST: Duration = Duration::from_secs(60);

pub(super) async fn by_device_code(url: &str, pin: Pin) -> Result<Token, Failure> {
    let hub = Hub::new(url, pin, None, None)?;
    let start = DeviceLoginStart { token_name: Some(token_name()) };
    let login: DeviceLogin = hub.try_call("POST", "/v1/login/device", Some(&start)).await?;
    note(format!(
        "Open this address in a browser, on any machine, and confirm the code:\n\n  {}\n\n  {}\n\nThis waits for {} minutes.",
        login.verification_uri_complete,
        login.user_code,
        login.expires_in / 60
    ));
    let until = Instant::now() + Duration::from_secs(login.expires_in.into());
    let mut interval = Duration::from_secs(login.interval.into()).min(SLOWEST);
    let poll = DeviceLoginPoll { device_code: login.device_code };
    loop {
        sleep(interval).await;
        match hub.try_call::<AccessToken>("POST", "/v1/login/device/token", Some(&poll)).await {
            Ok(made) => return checked(made, pin),
            Err(CallError::Problem(problem)) if problem.is(Code::AuthorizationPending) => {}
            Err(CallError::Problem(problem)) if problem.is(Code::SlowDown) => {
                interval = problem.retry_in.map_or(interval + SLOWER, |seconds| Duration::from_secs(seconds.into())).min(SLOWEST);
            }
            Err(CallError::Problem(problem)) if [Code::Expired, Code::Forbidden].iter().any(|code| problem.is(*code)) => {
                return Err(Failure::new(Exit::Denied, problem.detail));
            }
            Err(error @ (CallError::Dial(_) | CallError::Lost { .. } | CallError::Timeout { .. })) => {
                if Instant::now() >= until {
                    return Err(error.into());
                }
                interval = (interval + SLOWER).min(SLOWEST);
            }
            Err(error) => return Err(error.into()),
        }
        if Instant::now() >= until + SLOWEST {
            return Err(Failure::new(Exit::Denied, "nobody confirmed the code in time"));
        }
    }
}
