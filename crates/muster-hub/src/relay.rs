//! The relay: pairs the two legs of each session and moves messages between them.
//!
//! It has a thread of its own with a single-threaded runtime. A leg's socket is moved there after the HTTP upgrade, so that
//! a busy session neither hops between threads nor stands behind the hub's other work, nor the other way round.
//! Sessions are in the store from their first moment: after a restart the hub takes them up again and both ends dial back in.
//!
//! It must not look into what the ends say to each other, and decides nothing about rights: `api/sessions.rs` does.

mod legs;
mod pump;
mod ticket;
mod upgrade;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use axum::body::Body;
use http::{Request, Response};
use muster_link::websocket::WebSocket;
use muster_proto::Millis;
use muster_proto::api::SessionState;
use muster_proto::id::{DeviceUid, OrgId, ProjectId, SessionId};
use muster_proto::mqtt::{DeviceEvent, DeviceEventKind, SessionOrder};
use muster_proto::problem::{Code, Problem};
use muster_proto::session::Side;
use serde_json::json;
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Entry;
use crate::clock;
use crate::metrics::{Counter, Gauge, Metrics};
use crate::store::sessions::{self, Ending, SessionRow};
use crate::store::{self, Store};

pub use ticket::Ticket;

use legs::Legs;
use pump::Pump;

/// Sessions at once. Each needs two sockets and at most half a megabyte of buffers.
const SESSIONS_MAX: usize = 4096;
/// Sessions at once on one device: more is a script that has gone wrong.
const DEVICE_SESSIONS_MAX: usize = 64;
/// New legs and orders that may wait for a session's task; it takes them at its next turn.
const INBOX: usize = 8;
/// How often the counts of living sessions are written down.
const COUNT_EVERY: Duration = Duration::from_secs(60);
/// How long the end of a session may take until its record is written; the caller goes on after that.
const END_WAIT: Duration = Duration::from_secs(2);
/// How long the relay may take to stop.
const STOP_WAIT: Duration = Duration::from_secs(3);

/// Why and through whom a session ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// For programs: a session code or a problem's code.
    pub code: String,
    /// The sentence that both ends see.
    pub message: String,
    /// An account's e-mail, `device:{uid}` or `hub`.
    pub by: String,
    /// The address that it was asked from, where a person asked.
    pub from: Option<IpAddr>,
}

impl End {
    /// An end that the hub decided.
    pub fn by_hub(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), by: "hub".to_owned(), from: None }
    }
}

/// Tells a device to end a session, as far as it can be told.
pub type Order = Arc<dyn Fn(DeviceUid, SessionOrder) + Send + Sync>;

/// What a session's task is told.
enum Command {
    Leg(Side, Box<WebSocket>),
    End(End),
}

/// A living session.
struct Live {
    id: SessionId,
    org: OrgId,
    uid: DeviceUid,
    device_name: String,
    project: ProjectId,
    email: String,
    token: Option<String>,
    relay: Relay,
    inbox: mpsc::Sender<Command>,
    tickets: Mutex<[Ticket; 2]>,
    /// Bit 0: the client's leg is there; bit 1: the device's.
    legs: AtomicU8,
    opened: AtomicBool,
    created_at: Millis,
    to_device: AtomicU64,
    to_client: AtomicU64,
    /// Bytes that the hub's counter has.
    metered: AtomicU64,
    ended: Notify,
}

/// The relay. Clones are cheap and share it.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

struct Inner {
    runtime: tokio::runtime::Handle,
    store: Store,
    order: Order,
    live: Mutex<HashMap<SessionId, Arc<Live>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    gauge: Gauge,
    relayed: Counter,
}

impl fmt::Debug for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("sessions", &self.lock().len()).finish()
    }
}

/// Whose a living session is, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alive {
    /// The session.
    pub id: SessionId,
    /// Whose device it is.
    pub org: OrgId,
    /// In the name of which project.
    pub project: ProjectId,
    /// The device.
    pub uid: DeviceUid,
    /// What the device was called when it began.
    pub device_name: String,
    /// Who.
    pub email: String,
    /// The access token that it was asked for with.
    pub token: Option<String>,
}

/// What is known of a living session at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// What it is doing.
    pub state: SessionState,
    /// Bytes relayed to the device.
    pub to_device: u64,
    /// Bytes relayed to the client.
    pub to_client: u64,
}

impl Relay {
    /// Starts the relay's thread and takes up the sessions that the store knows as living.
    ///
    /// # Errors
    /// When the thread or its runtime cannot be made, or the store cannot be read.
    pub async fn start(store: Store, metrics: &Metrics, order: Order) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let relay = Self(Arc::new(Inner {
            runtime: runtime.handle().clone(),
            store,
            order,
            live: Mutex::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            gauge: metrics.gauge("muster_relay_sessions", "Remote sessions alive now.", &[]),
            relayed: metrics.counter("muster_relay_bytes_total", "Bytes that sessions have moved, both ways.", &[]),
        }));
        let (stop, tasks) = (relay.0.stop.clone(), relay.0.tasks.clone());
        thread::Builder::new().name("hub-relay".into()).spawn(move || {
            runtime.block_on(async {
                stop.cancelled().await;
                tasks.wait().await;
            });
        })?;
        let alive = relay.0.store.read(sessions::alive).await?;
        for row in alive {
            let legs = Legs::resumed(row.opened_at.is_some());
            relay.spawn(&row, legs);
        }
        let counting = relay.clone();
        relay.0.tasks.spawn_on(async move { counting.count_often().await }, &relay.0.runtime);
        Ok(relay)
    }

    /// Stops: legs are dropped, sessions stay alive in the store with their counts, and both ends dial again.
    pub async fn stop(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        if timeout(STOP_WAIT, self.0.tasks.wait()).await.is_err() {
            tracing::warn!("some sessions did not stop in time");
        }
    }

    /// Whether one more session to this device may begin.
    ///
    /// # Errors
    /// When there are too many, in the hub or on the device.
    pub fn has_room(&self, uid: &DeviceUid) -> Result<(), Problem> {
        let live = self.lock();
        if live.len() >= SESSIONS_MAX {
            return Err(Problem::new(
                Code::RateLimited,
                format!("the hub carries {SESSIONS_MAX} sessions, which is the most; try again later"),
            ));
        }
        if live.values().filter(|live| live.uid == *uid).count() >= DEVICE_SESSIONS_MAX {
            let detail =
                format!("this device has {DEVICE_SESSIONS_MAX} sessions open, which is the most; end some first (muster sessions)");
            return Err(Problem::new(Code::RateLimited, detail));
        }
        Ok(())
    }

    /// Begins a session that is in the store: its two ends may come now.
    pub fn open(&self, row: &SessionRow) {
        self.spawn(row, Legs::fresh());
    }

    /// Ends a session, and waits until its record says so. False if it does not live.
    pub async fn end(&self, id: &SessionId, end: End) -> bool {
        let Some(live) = self.find(id) else { return false };
        live.end(end).await;
        true
    }

    /// Ends all sessions of a device. Gives how many.
    pub async fn end_device(&self, uid: &DeviceUid, end: &End) -> usize {
        let ends: Vec<_> = self.living(|live| live.uid == *uid);
        let count = ends.len();
        // All are told before any is waited for.
        for live in &ends {
            let _ = live.inbox.try_send(Command::End(end.clone()));
        }
        for live in ends {
            live.end(end.clone()).await;
        }
        count
    }

    /// Ends a session without waiting for it.
    pub fn end_soon(&self, id: &SessionId, end: End) {
        let Some(live) = self.find(id) else { return };
        self.0.tasks.spawn_on(async move { live.end(end).await }, &self.0.runtime);
    }

    /// The sessions that live now, in an organization or in all.
    pub fn alive(&self, org: Option<&OrgId>) -> Vec<Alive> {
        let living = self.living(|live| org.is_none_or(|org| live.org == *org));
        let alive = living.iter().map(|live| Alive {
            id: live.id.clone(),
            org: live.org.clone(),
            project: live.project.clone(),
            uid: live.uid.clone(),
            device_name: live.device_name.clone(),
            email: live.email.clone(),
            token: live.token.clone(),
        });
        alive.collect()
    }

    /// What a device reported: a session that it cannot serve ends with its sentence. It may speak only of its own sessions.
    pub fn device_event(&self, uid: &DeviceUid, event: &DeviceEvent) {
        let DeviceEventKind::SessionFailed { session, code, message } = &event.kind else { return };
        let Some(live) = self.find(session).filter(|live| live.uid == *uid) else { return };
        let end = End { code: code.clone(), message: message.clone(), by: format!("device:{uid}"), from: None };
        self.0.tasks.spawn_on(async move { live.end(end).await }, &self.0.runtime);
    }

    /// What a living session is doing; `None` if it does not live.
    pub fn now(&self, id: &SessionId) -> Option<Now> {
        self.find(id).map(|live| live.now())
    }

    /// How many sessions of a device live.
    pub fn count_of(&self, uid: &DeviceUid) -> usize {
        self.lock().values().filter(|live| live.uid == *uid).count()
    }

    /// How many sessions each device has that has any.
    pub fn counts(&self) -> HashMap<DeviceUid, usize> {
        let mut counts = HashMap::new();
        for live in self.lock().values() {
            *counts.entry(live.uid.clone()).or_insert(0) += 1;
        }
        counts
    }

    /// Whose leg may attach: checks the ticket and gives the device that the session is with.
    ///
    /// # Errors
    /// When the session is unknown or over, or the ticket does not let in.
    pub async fn admit(&self, id: &SessionId, side: Side, ticket: Option<&str>) -> Result<Admitted, Problem> {
        let ticket = ticket.ok_or_else(|| Problem::new(Code::Unauthenticated, "a session's leg needs its ticket as bearer"))?;
        let Some(live) = self.find(id) else { return Err(self.why_not(id, side, ticket).await) };
        let which = usize::from(side == Side::Device);
        let first = {
            let mut tickets = live.tickets.lock().unwrap_or_else(PoisonError::into_inner);
            tickets[which].check(ticket, clock::now()).map_err(refused)?;
            !std::mem::replace(&mut tickets[which].used, true)
        };
        if first {
            let (relay, id) = (self.clone(), id.clone());
            // Not waited for: were the hub to die in this very moment, the ticket would be good for the rest of its 30 s.
            self.0.tasks.spawn_on(
                async move {
                    let client = side == Side::Client;
                    relay.logged(relay.0.store.write(move |tx| sessions::ticket_used(tx, &id, client)).await);
                },
                &self.0.runtime,
            );
        }
        Ok(Admitted { live, side })
    }

    /// The session does not live: why, for somebody who has its ticket; whoever has not learns nothing.
    async fn why_not(&self, id: &SessionId, side: Side, ticket: &str) -> Problem {
        let unknown = || Problem::new(Code::NotFound, format!("there is no session {id} here"));
        let wanted = id.clone();
        let row = match self.0.store.read(move |db| sessions::by_id(db, &wanted)).await {
            Ok(Some(row)) => row,
            Ok(None) => return unknown(),
            Err(error) => {
                self.logged(Err(error));
                return Problem::new(Code::Unavailable, "the hub cannot look the session up now; try again in a moment");
            }
        };
        let held = if side == Side::Client { row.client_ticket } else { row.device_ticket };
        // However old: the ticket proves that this was the end's session.
        if (Ticket { used: true, ..held }).check(ticket, clock::now()).is_err() {
            return unknown();
        }
        if row.ended_at.is_none() {
            // The hub lets go of it while it stops, and takes it up at its next start.
            return Problem::new(Code::Unavailable, "the hub is being restarted; the session goes on when it is back");
        }
        Problem::new(Code::SessionEnded, row.end_reason.unwrap_or_else(|| "the session is over".to_owned()))
    }

    fn spawn(&self, row: &SessionRow, legs: Legs) {
        let (inbox, orders) = mpsc::channel(INBOX);
        let live = Arc::new(Live {
            id: row.id.clone(),
            org: row.org.clone(),
            uid: row.uid.clone(),
            device_name: row.device_name.clone(),
            project: row.project.clone(),
            email: row.email.clone(),
            token: row.token.clone(),
            relay: self.clone(),
            inbox,
            tickets: Mutex::new([row.client_ticket, row.device_ticket]),
            legs: AtomicU8::new(0),
            opened: AtomicBool::new(row.opened_at.is_some()),
            created_at: row.created_at,
            to_device: AtomicU64::new(row.to_device),
            to_client: AtomicU64::new(row.to_client),
            metered: AtomicU64::new(row.to_device + row.to_client),
            ended: Notify::new(),
        });
        self.lock().insert(row.id.clone(), Arc::clone(&live));
        self.0.gauge.add(1);
        let relay = self.clone();
        let task = async move {
            let running = Pump::new(Arc::clone(&live), orders, legs).run();
            let outcome = tokio::select! {
                ended = running => Some(ended),
                // The legs drop and the session lives on in the store.
                () = relay.0.stop.cancelled() => None,
            };
            match outcome {
                Some((end, told)) => {
                    // Also where it heard it over its leg: what the visitor left behind may linger there, and ends with the hub's word.
                    if !told || end.code != "closed" {
                        let order = SessionOrder::End { session: live.id.clone(), reason: end.message.clone() };
                        (relay.0.order)(live.uid.clone(), order);
                    }
                    relay.ended(&live, &end).await;
                }
                // Nothing passes any more: now the count is whole.
                None => relay.count(std::slice::from_ref(&live)).await,
            }
            relay.lock().remove(&live.id);
            relay.0.gauge.add(-1);
            live.ended.notify_waiters();
        };
        self.0.tasks.spawn_on(task, &self.0.runtime);
    }

    /// Writes down that a session ended.
    async fn ended(&self, live: &Live, end: &End) {
        let (to_device, to_client) = live.counts();
        tracing::info!(session = %live.id, device = %live.uid, user = live.email, by = end.by, code = end.code, to_device, to_client,
            "session ended: {}", end.message);
        self.meter(live);
        let entry = Entry {
            org: Some(live.org.clone()),
            actor: end.by.clone(),
            action: "session.end",
            target: live.id.to_string(),
            from: end.from,
            details: json!({
                "device": live.uid, "user": live.email, "code": end.code, "reason": end.message,
                "to_device": to_device, "to_client": to_client, "seconds": clock::now().saturating_sub(live.created_at) / 1000,
            }),
        };
        let (id, end) = (live.id.clone(), end.clone());
        let written = self.0.store.write(move |tx| {
            let ending = Ending { at: clock::now(), code: &end.code, reason: &end.message, by: &end.by, to_device, to_client };
            if sessions::end(tx, &id, &ending)? { entry.ok(tx) } else { Ok(()) }
        });
        self.logged(written.await);
    }

    async fn count_often(&self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(COUNT_EVERY) => self.count(&self.living(|_| true)).await,
                () = self.0.stop.cancelled() => return,
            }
        }
    }

    /// Writes down what has passed so far, so that a crash loses a minute of counting at most.
    async fn count(&self, living: &[Arc<Live>]) {
        living.iter().for_each(|live| self.meter(live));
        let counts: Vec<_> = living.iter().map(|live| (live.id.clone(), live.counts())).collect();
        let written = self
            .0
            .store
            .write(move |tx| counts.iter().try_for_each(|(id, (to_device, to_client))| sessions::counted(tx, id, *to_device, *to_client)));
        self.logged(written.await);
    }

    /// Adds what has passed since the last time to the hub's counter.
    fn meter(&self, live: &Live) {
        let (to_device, to_client) = live.counts();
        let total = to_device + to_client;
        self.0.relayed.add(total.saturating_sub(live.metered.swap(total, Ordering::Relaxed)));
    }

    fn logged(&self, written: store::Result<()>) {
        if let Err(error) = written {
            tracing::error!(%error, "the relay cannot write to the database");
        }
    }

    fn find(&self, id: &SessionId) -> Option<Arc<Live>> {
        self.lock().get(id).cloned()
    }

    fn living(&self, which: impl Fn(&Live) -> bool) -> Vec<Arc<Live>> {
        self.lock().values().filter(|live| which(live)).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Arc<Live>>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refused(why: ticket::Refused) -> Problem {
    match why {
        ticket::Refused::Wrong => Problem::new(Code::Unauthenticated, "this is not the session's ticket"),
        ticket::Refused::Expired => Problem::new(Code::Expired, "the session's ticket was not used in time; ask for a new session"),
    }
}

impl Live {
    async fn end(&self, end: End) {
        let ended = self.ended.notified();
        let mut ended = std::pin::pin!(ended);
        ended.as_mut().enable();
        // A closed inbox: it has just ended by itself, and its record is being written.
        let _ = self.inbox.send(Command::End(end)).await;
        if self.relay.find(&self.id).is_some() {
            let _ = timeout(END_WAIT, ended).await;
        }
    }

    /// Both ends have met for the first time.
    fn opened(&self) {
        self.opened.store(true, Ordering::Relaxed);
        tracing::info!(session = %self.id, device = %self.uid, user = self.email, "session open");
        let (relay, id) = (self.relay.clone(), self.id.clone());
        let noting = async move { relay.logged(relay.0.store.write(move |tx| sessions::opened(tx, &id, clock::now())).await) };
        self.relay.0.tasks.spawn_on(noting, &self.relay.0.runtime);
    }

    fn counts(&self) -> (u64, u64) {
        (self.to_device.load(Ordering::Relaxed), self.to_client.load(Ordering::Relaxed))
    }

    fn now(&self) -> Now {
        let state = match (self.legs.load(Ordering::Relaxed), self.opened.load(Ordering::Relaxed)) {
            (0b11, _) => SessionState::Open,
            (_, true) => SessionState::Interrupted,
            (_, false) => SessionState::Opening,
        };
        let (to_device, to_client) = self.counts();
        Now { state, to_device, to_client }
    }
}

/// A leg that may attach.
pub struct Admitted {
    live: Arc<Live>,
    side: Side,
}

impl Admitted {
    /// The device that the session is with: a device's leg must be of this one.
    pub fn device(&self) -> &DeviceUid {
        &self.live.uid
    }

    /// Answers the upgrade; the connection follows to the relay's thread once hyper has sent the answer.
    ///
    /// # Errors
    /// When the request does not ask for a session WebSocket.
    pub fn attach(self, request: Request<Body>) -> Result<Response<Body>, Problem> {
        let accept = upgrade::check(request.method(), request.headers())?;
        tokio::spawn(async move {
            if let Err(error) = self.hand_over(request).await {
                tracing::warn!(session = %self.live.id, side = ?self.side, %error, "a session's leg was lost while it attached");
            }
        });
        Ok(upgrade::answer(&accept))
    }

    async fn hand_over(&self, request: Request<Body>) -> io::Result<()> {
        let parts = upgrade::take(request).await?;
        let (live, side) = (Arc::clone(&self.live), self.side);
        let attaching = async move {
            let socket = Box::new(parts.into_websocket()?);
            live.inbox.send(Command::Leg(side, socket)).await.map_err(|_| io::Error::other("the session has ended"))
        };
        self.live.relay.0.runtime.spawn(attaching).await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests;
