//! `muster forward`: ports here lead to places that the device reaches. Many connections share one session.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use muster_link::driver::{Handle, Io};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
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
            _ = interrupt.recv() => Ok(0),
            _ = terminate.recv() => Ok(0),
            _ = hangup.recv() => Ok(0),
            Some(Ok(failure)) = serving.join_next() => Err(failure),
        }
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

/// Accepts connections and opens a stream for each. Ends when the session does, with the set that holds it; or when it leads into
/// itself, and gives that.
async fn serve(handle: Handle, listener: TcpListener, remote: Remote, device: String) -> Failure {
    let ends = Rc::new(RefCell::new(Ends::default()));
    let circle = Rc::new(Notify::new());
    loop {
        let accepted = tokio::select! {
            () = circle.notified() => return leads_into_itself(&listener, &remote, &device),
            accepted = listener.accept() => accepted,
        };
        let (tcp, peer) = match accepted {
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
        let (device, remote, handle) = (device.clone(), remote.clone(), handle.clone());
        let (ends, circle) = (Rc::clone(&ends), Rc::clone(&circle));
        tokio::task::spawn_local(async move {
            let note = |end, known: bool| {
                if ends.borrow_mut().note(end, known) {
                    circle.notify_one();
                }
            };
            note(End::Accepted(peer), true);
            let mut from = None;
            match answer.await {
                Ok(Err(refusal)) => say(&format!("{device} refused a connection to {remote}: {}", clean(&refusal.message))),
                Ok(Ok(info)) => from = info["from"].as_str().and_then(|from| from.parse().ok()),
                Err(_) => {}
            }
            from.into_iter().for_each(|from| note(End::Dialled(from), true));
            handle.gone(stream).await;
            note(End::Accepted(peer), false);
            from.into_iter().for_each(|from| note(End::Dialled(from), false));
        });
    }
}

fn leads_into_itself(listener: &TcpListener, remote: &Remote, device: &str) -> Failure {
    let at = listener.local_addr().map_or_else(|_| "this port".to_owned(), |at| at.to_string());
    let failure =
        Failure::new(Exit::Failed, format!("{device} is this machine, and {remote} there is {at} here: the forward leads into itself"));
    match remote {
        Remote::Tcp { port, .. } => failure.hint(format!("choose another port here: 0:{port} takes a free one")),
        Remote::Unix { .. } => failure,
    }
}

/// An end of a connection on a machine's loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum End {
    /// Somebody here connected from it.
    Accepted(SocketAddr),
    /// The device says that it connected from it.
    Dialled(SocketAddr),
}

/// The open connections' ends: one that is on both sides is the device's own connection to us.
#[derive(Debug, Default)]
struct Ends(HashSet<End>);

impl Ends {
    /// Notes that an end is there, or no more; whether this forward leads into itself. One end that two machines have in common may
    /// be chance, two at the same moment are not.
    fn note(&mut self, end: End, known: bool) -> bool {
        if !known {
            self.0.remove(&end);
            return false;
        }
        self.0.insert(end);
        let shared = self.0.iter().filter(|end| matches!(end, End::Dialled(from) if self.0.contains(&End::Accepted(*from))));
        shared.take(2).count() == 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ends_in_common_are_a_circle_and_one_is_chance() {
        let mut ends = Ends::default();
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        assert!(!ends.note(End::Accepted(at(1)), true));
        assert!(!ends.note(End::Dialled(at(2)), true));
        assert!(!ends.note(End::Accepted(at(2)), true), "the first");
        assert!(!ends.note(End::Accepted(at(2)), false));
        assert!(!ends.note(End::Dialled(at(3)), true));
        assert!(!ends.note(End::Accepted(at(3)), true), "the first is gone");
        assert!(ends.note(End::Accepted(at(2)), true));
    }
}
