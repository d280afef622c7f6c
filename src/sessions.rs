//! Remote sessions on the daemon's side: hands orders over, finds living sessions again, and reports what becomes of them.
//!
//! Whether a session may begin and what may be done inside it, its privileged part decides (`musterd-session`), by the hub's signature
//! and the device's policy. Supervision waits for events (a line, the end of a connection), it never polls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use muster_proto::id::SessionId;
use muster_proto::mqtt::{DeviceEvent, DeviceEventKind, SessionOrder};
use muster_proto::order::{OrderKind, SignedOrder};
use musterd::handoff::{Do, Live, ORDER_USED, Report, Say};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;

use crate::daemon::{Command, Daemon, SessionStatus};
use crate::living::{self, Conversation, Refusal, Silence};
use crate::log::{debug, info, warn};

/// Orders that are remembered, because MQTT may deliver one twice.
const REMEMBERED: usize = 256;
/// What one session is told at once; it ends with the first.
const TOLD_MAX: usize = 4;
/// A daemon that was killed may have handed an order over just before: its session has a socket by then.
const BEGINS: Duration = Duration::from_secs(2);
/// Between two looks for that socket.
const LOOK: Duration = Duration::from_millis(100);

/// Runs until the daemon stops; the sessions go on.
pub(crate) async fn run(daemon: Arc<Daemon>, mut commands: Receiver<Command>) {
    let mut sessions = Sessions { live: BTreeMap::new(), seen: VecDeque::new(), tasks: JoinSet::new(), daemon };
    sessions.find_again().await;
    let daemon = Arc::clone(&sessions.daemon);
    let (mut found_all, again) = (false, tokio::time::sleep(BEGINS));
    tokio::pin!(again);
    loop {
        tokio::select! {
            () = &mut again, if !found_all => {
                found_all = true;
                sessions.find_again().await;
            }
            command = commands.recv() => match command {
                Some(Command::Order(SessionOrder::Open(order))) => sessions.open(order),
                Some(Command::Order(SessionOrder::End { session, reason })) => sessions.end(&session, &reason),
                Some(Command::Order(SessionOrder::Unknown)) => {}
                Some(Command::EndAll(reason)) => sessions.end_all(reason),
                None => break,
            },
            Some(ended) = sessions.tasks.join_next() => if let Ok(session) = ended { drop(sessions.live.remove(&session)) },
            () = daemon.stopped() => break,
        }
    }
    if !sessions.live.is_empty() {
        info!("{} sessions go on without the daemon", sessions.live.len());
    }
}

struct Sessions {
    daemon: Arc<Daemon>,
    live: BTreeMap<SessionId, Sender<Do>>,
    seen: VecDeque<SessionId>,
    tasks: JoinSet<SessionId>,
}

impl Sessions {
    fn open(&mut self, order: SignedOrder) {
        let session = match order.read().map(|order| order.kind) {
            Ok(OrderKind::Session { open }) => open.session,
            Ok(OrderKind::Run { .. }) => return warn!("an order for a run came on the sessions' lane; ignored"),
            Err(error) => return warn!("a session order is ignored: {error}"),
        };
        if !self.see(&session) {
            return;
        }
        match living::hand_over(&self.daemon, session.as_str(), order, None) {
            Ok(conversation) => self.follow(session, conversation, None),
            Err(Refusal { code, message }) => refuse(&self.daemon, session, code, message),
        }
    }

    /// Whether this session is new to this daemon.
    fn see(&mut self, session: &SessionId) -> bool {
        if self.seen.contains(session) || self.live.contains_key(session) {
            return false;
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.pop_front();
        }
        self.seen.push_back(session.clone());
        true
    }

    fn follow(&mut self, session: SessionId, conversation: Conversation, known: Option<Live>) {
        let (sender, told) = mpsc::channel(TOLD_MAX);
        self.live.insert(session.clone(), sender);
        self.tasks.spawn(follow(Arc::clone(&self.daemon), session, conversation, told, known));
    }

    fn end(&self, session: &SessionId, reason: &str) {
        info!("session {session} is ended: {reason}");
        match self.live.get(session) {
            // A full queue holds the same word already.
            Some(sender) => drop(sender.try_send(Do::End { reason: reason.to_owned() })),
            // What lingers has no conversation any more, and ends all the same.
            None => living::sockets_of(&self.daemon.config, session.as_str()).for_each(|path| drop(living::end(&path, reason))),
        }
    }

    fn end_all(&self, reason: &str) {
        let lingers = living::sockets(&self.daemon.config).into_iter().filter_map(|(name, _)| name.parse::<SessionId>().ok());
        for session in self.live.keys().cloned().chain(lingers).collect::<BTreeSet<_>>() {
            self.end(&session, reason);
        }
    }

    /// Finds the sessions that an earlier daemon handed over, and hears the last words of those that are over.
    async fn find_again(&mut self) {
        for (name, said) in living::last_words(&self.daemon.config, None) {
            let Ok(session) = name.parse::<SessionId>() else { continue };
            // Nobody was told any of it.
            for say in said {
                hear(&self.daemon, &session, say, true);
            }
        }
        for (name, path) in living::sockets(&self.daemon.config) {
            let Ok(session) = name.parse::<SessionId>() else { continue };
            if self.seen.contains(&session) {
                continue;
            }
            match living::attach(&path).await {
                Ok((_, live)) if live.lingers => debug!("what session {session} left behind lingers"),
                Ok((conversation, live)) => {
                    info!("session {session} of {} goes on in process {}", live.user, live.pid);
                    self.see(&session);
                    self.follow(session, conversation, Some(live));
                }
                Err(Silence::Killed) => close(&self.daemon, &session, lost()),
                Err(Silence::Ended) => debug!("session {session} has just ended"),
            }
        }
    }
}

/// Hears a session until it is over.
async fn follow(
    daemon: Arc<Daemon>,
    session: SessionId,
    mut conversation: Conversation,
    mut told: Receiver<Do>,
    known: Option<Live>,
) -> SessionId {
    let (mut opened, mut told_opened) = (known.is_some(), false);
    if let Some(live) = known {
        add(&daemon, &session, live);
    }
    loop {
        tokio::select! {
            said = conversation.next() => match said {
                // Handed over by a daemon before this one, and the order came again.
                Some(Say::Refused { code, message }) if code == ORDER_USED => match begun(&daemon, &session).await {
                    Some((found, live)) => {
                        (conversation, opened) = (found, true);
                        add(&daemon, &session, live);
                    }
                    None => {
                        refuse(&daemon, session.clone(), &code, message);
                        return session;
                    }
                },
                Some(say) => {
                    let over = matches!(say, Say::Closed(_) | Say::Refused { .. });
                    // What answers who attached was taken by that; this one waited for somebody to be told.
                    let first = !told_opened && matches!(say, Say::Opened(_));
                    (opened, told_opened) = (opened || first, told_opened || first);
                    hear(&daemon, &session, say, first);
                    if over {
                        return session;
                    }
                }
                None => {
                    let last = living::last_words(&daemon.config, Some(session.as_str()));
                    if !last.is_empty() {
                        last.into_iter().flat_map(|(_, said)| said).for_each(|say| hear(&daemon, &session, say, false));
                    } else if opened {
                        close(&daemon, &session, lost());
                    } else {
                        refuse(&daemon, session.clone(), "no_service", "The device's service for sessions ended unexpectedly; on the device, journalctl -t musterd-session says more.".to_owned());
                    }
                    return session;
                }
            },
            Some(what) = told.recv() => conversation.tell(&what).await,
            () = daemon.stopped() => return session,
        }
    }
}

/// The session itself, once it answers.
async fn begun(daemon: &Daemon, session: &SessionId) -> Option<(Conversation, Live)> {
    let look = async {
        loop {
            if let Some(found) = living::find(&daemon.config, session.as_str()).await {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(BEGINS, look).await.ok()
}

fn hear(daemon: &Daemon, session: &SessionId, say: Say, first: bool) {
    match say {
        Say::Refused { code, message } => refuse(daemon, session.clone(), &code, message),
        Say::Opened(live) => {
            if first {
                info!("session {session} for {} in {}: process {}", live.user, live.project, live.pid);
                daemon.report(DeviceEventKind::SessionOpened { session: session.clone() });
            }
            add(daemon, session, live);
        }
        // Only what a session may say, and only of itself.
        Say::Event { t, event: DeviceEventKind::PolicyRefused { session: whose, target, code, message } } if whose == *session => {
            daemon.report_event(DeviceEvent { t, kind: DeviceEventKind::PolicyRefused { session: whose, target, code, message } });
        }
        Say::Closed(report) => close(daemon, session, report),
        Say::Event { .. } | Say::More | Say::Unknown => {}
    }
}

fn add(daemon: &Daemon, session: &SessionId, live: Live) {
    let Live { pid, user, project, since, .. } = live;
    daemon.add_session(SessionStatus { session: session.clone(), user, project, since, pid });
}

fn lost() -> Report {
    Report { reason: "the session's process on the device was lost".to_owned(), ..Report::default() }
}

fn close(daemon: &Daemon, session: &SessionId, Report { reason, received, sent }: Report) {
    info!("session {session} closed: {reason} ({received} bytes in, {sent} out)");
    daemon.remove_session(session);
    daemon.report(DeviceEventKind::SessionClosed { session: session.clone(), reason, received, sent });
}

fn refuse(daemon: &Daemon, session: SessionId, code: &str, message: String) {
    info!("session {session} refused ({code}): {message}");
    daemon.report(DeviceEventKind::SessionFailed { session, code: code.to_owned(), message });
}
