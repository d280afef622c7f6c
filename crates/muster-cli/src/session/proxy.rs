//! `muster proxy`: standard input and output lead to a port of the device, for OpenSSH's ProxyCommand.

use muster_link::driver::Io;
use muster_proto::session::Target;
use tokio::signal::unix::{SignalKind, signal};

use super::stdio::Stdio;
use super::{refused, with_session};
use crate::cmds::remote::ProxyArgs;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::Written;

/// Runs it.
///
/// # Errors
/// When the session cannot be opened, the port is refused, or the connection breaks.
pub async fn proxy(ctx: &Context, args: ProxyArgs) -> Result<u8, Failure> {
    // `user@device`, as OpenSSH's `%r@%h` would say.
    let device = args.device.rsplit_once('@').map_or(args.device.as_str(), |(_, device)| device);
    with_session(ctx, device, "ssh", args.reason.as_deref(), async |session| {
        let target = Target::Tcp { host: args.host, port: args.port };
        let (stream, mut answer) = session.handle.open(target).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        // At once: what is to be sent first goes along with the request.
        let Stdio { input, output, restore } = Stdio::open()?;
        let mut broke = session.handle.attach_told(stream, Io::pair(input, output));
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            () = session.handle.gone(stream) => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        drop(restore);
        if let Ok(error) = broke.try_recv() {
            return Err(Written::Output.failure(&error));
        }
        if let Ok(Err(refusal)) = answer.try_recv() {
            return Err(refused(&refusal, &session.name));
        }
        session.heed_end().await;
        match session.watch.broken(stream) {
            Some(refusal) => Err(refused(&refusal, &session.name)),
            None => Ok(0),
        }
    })
    .await
}
