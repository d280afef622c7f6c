//! Sessions to devices: `shell`, `proxy`, `forward`, `ssh`.
//!
//! Opens a session at the hub, runs its client end on this thread, and lets a command use it.
//! The device decides what it allows; what it says in refusal is shown, cleaned of control characters.

mod escape;
mod forward;
mod proxy;
mod shell;
mod spec;
mod ssh;
mod stdio;
mod watch;

use muster_link::driver::{Driver, Ended, Handle, LegError, Refusal, Relay};
use muster_proto::id::DeviceUid;
use muster_proto::session::{Side, code};
use tokio::task::LocalSet;

use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::note;
use crate::output::text::clean;

pub use forward::forward;
pub use proxy::proxy;
pub use shell::shell;
pub use ssh::ssh;

use watch::Watch;

/// An open session, as a command sees it.
struct Session {
    handle: Handle,
    watch: Watch,
    uid: DeviceUid,
    /// What the organization calls the device, cleaned.
    name: String,
}

impl Session {
    /// If the session is over, waits for [`with_session`] to say how: that is the reason of whatever just broke.
    async fn heed_end(&self) {
        if self.handle.is_over() {
            std::future::pending::<()>().await;
        }
    }
}

/// Opens a session, runs `body` on it, and ends it. Whichever ends first, the body or the session, decides.
async fn with_session<T>(
    ctx: &Context,
    device: &str,
    want: &str,
    reason: Option<&str>,
    body: impl AsyncFnOnce(&Session) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let ticket = ctx.open_session(device, want, reason).await?;
    // The way that has just worked: the hub's public name may not be known here, or lead past a tunnel.
    let hub = ctx.hub().endpoint();
    let (host, path) = (muster_link::dial::Endpoint::authority(hub), &ticket.path);
    let endpoint = format!("wss://{host}{path}")
        .parse()
        .map_err(|error| Failure::new(Exit::Failed, format!("the hub named an unusable place for the session: {error}")))?;
    let relay = Relay { endpoint, ticket: ticket.ticket, dialer: ctx.hub().dialer().clone() };
    let name = clean(&ticket.device_name).into_owned();
    if ticket.project_chosen {
        note(format!("Using project {}: you can reach {name} through several. --project chooses another.", ticket.project));
    }
    let watch = Watch::new(&name);
    LocalSet::new()
        .run_until(async {
            let driver = Driver::new(Side::Client, ticket.session, relay, watch.clone()).impatient();
            let session = Session { handle: driver.handle(), watch, uid: ticket.device, name };
            let mut running = tokio::task::spawn_local(async { driver.run().await.0 });
            tokio::select! {
                // What the body saw says more than the end of the session that it saw it in.
                biased;
                outcome = body(&session) => {
                    session.handle.close(code::DONE, "the user ended the session");
                    // Bounded by the driver itself.
                    drop(running.await);
                    outcome
                }
                ended = &mut running => Err(match ended {
                    Ok(ended) => failure_of(ended, &session.name),
                    Err(error) => Failure::new(Exit::Failed, format!("the session ended by a mistake of this program: {error}")),
                }),
            }
        })
        .await
}

fn failure_of(ended: Ended, name: &str) -> Failure {
    match ended.leg {
        Some(LegError::Refused(problem) | LegError::Later(problem)) => problem.into(),
        Some(error) => Failure::new(Exit::Unreachable, error.to_string()),
        None => {
            let exit = match ended.code.as_str() {
                "device_silent" | "device_offline" => Exit::Silent,
                "device_refused" | "device_revoked" | "forbidden" => Exit::Denied,
                code if code.starts_with("policy") => Exit::Denied,
                _ => Exit::Failed,
            };
            Failure::new(exit, format!("the session with {name} is over: {}", clean(&ended.message)))
        }
    }
}

/// A stream's refusal as this program's failure.
fn refused(refusal: &Refusal, name: &str) -> Failure {
    let denied = refusal.code.starts_with("policy") || refusal.code == code::DENIED;
    let exit = match refusal.code.as_str() {
        _ if denied => Exit::Denied,
        code::NOT_FOUND => Exit::NotFound,
        _ => Exit::Failed,
    };
    let failure = Failure::new(exit, format!("{name} refused: {}", clean(&refusal.message)));
    if denied { failure.hint("the owner of the device decides, in its /etc/musterd/policy.toml") } else { failure }
}
