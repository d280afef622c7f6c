//! `muster forward`: ports here lead to places that the device reaches. Many connections share one session.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use muster_link::driver::{Handle, Io};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::spec::{Remote, Spec};
use super::watch::say;
use super::{Session, with_session};
use crate::cmds::remote::ForwardArgs;
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::text::clean;

/// Wait after a failed accept, such as for want of descriptors: trying at once would burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Runs it until it is interrupted or the session ends.
///
/// # Errors
/// When a port here is taken, the session cannot be opened, or it ends.
pub async fn forward(ctx: &Context, args: ForwardArgs) -> Result<u8, Failure> {
    let specs: Vec<Spec> =
        args.specs.iter().map(|text| text.parse().map_err(|error| Failure::usage(format!("{error}")))).collect::<Result<_, _>>()?;
    muster_link::raise_open_files();
    // Here first: a port that is taken should not cost the device a session.
    let mut listeners = Vec::new();
    for spec in specs {
        let at = SocketAddr::new(args.bind, spec.local);
        let listener = TcpListener::bind(at).await.map_err(|error| taken(at, &error))?;
        listeners.push((listener, spec.remote));
    }
    with_session(ctx, &args.device, "forward", args.reason.as_deref(), async |session| {
        let mut serving = JoinSet::new();
        let mut lines = Vec::new();
        for (listener, remote) in listeners {
            let local = listener.local_addr()?;
            lines.push((local, remote.to_string()));
            serving.spawn_local(serve(session.handle.clone(), listener, remote, session.name.clone()));
        }
        announce(ctx, session, &lines)?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = serving.join_next() => {}
        }
        Ok(0)
    })
    .await
}

fn announce(ctx: &Context, session: &Session, lines: &[(SocketAddr, String)]) -> Result<(), Failure> {
    if ctx.out.json {
        let rows: Vec<_> = lines.iter().map(|(local, remote)| json!({ "local": local, "device": session.uid, "remote": remote })).collect();
        return ctx.out.json(&rows);
    }
    for (local, remote) in lines {
        ctx.out.line(format!("{local} -> {} {remote}", session.name))?;
    }
    Ok(())
}

fn taken(at: SocketAddr, error: &io::Error) -> Failure {
    let failure = Failure::new(Exit::Failed, format!("cannot listen on {at}: {error}"));
    match error.kind() {
        io::ErrorKind::AddrInUse => failure.hint("choose another port here, such as 0:PORT for a free one"),
        io::ErrorKind::PermissionDenied => failure.hint("ports below 1024 need root here; choose one as LOCAL:PORT"),
        _ => failure,
    }
}

/// Accepts connections and opens a stream for each. Ends when the session does, with the set that holds it.
async fn serve(handle: Handle, listener: TcpListener, remote: Remote, device: String) {
    loop {
        let (tcp, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                say(&format!("a connection could not be accepted: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // The first bytes travel with the request; the answer is only waited for to say why not.
        let (stream, answer) = match handle.open(remote.target()) {
            Ok(opened) => opened,
            Err(error) => {
                say(&format!("a connection to {remote} was not forwarded: {error}"));
                continue;
            }
        };
        handle.attach(stream, Io::tcp(tcp));
        let (device, remote) = (device.clone(), remote.clone());
        tokio::task::spawn_local(async move {
            if let Ok(Err(refusal)) = answer.await {
                say(&format!("{device} refused a connection to {remote}: {}", clean(&refusal.message)));
            }
        });
    }
}
