//! What the tasks of `musterd run` share: configuration, state, spool, status, and how they wake each other.
//!
//! One thread runs them all; the locks are held for moments and never over an await.
//! What others watch is a `watch` or a `Notify`, never a queue without a bound.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use muster_link::dial::{Dialer, Proxy};
use muster_link::tls::Clock;
use muster_proto::Millis;
use muster_proto::id::{RunId, SessionId};
use muster_proto::mqtt::{DeviceEvent, DeviceEventKind, PolicyReport, SessionOrder};
use muster_proto::run::RunOrder;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, watch};

use crate::config::Config;
use crate::log::{debug, warn};
use crate::runs::outgoing::Outgoing;
use crate::spool::Spool;
use crate::state::{Enrolled, LinkState, State};

/// Events that wait for the hub; then the oldest go. Each is under a kilobyte.
const EVENTS_MAX: usize = 256;
/// Longest sentence on a policy that refuses everything, in characters.
const FAULT_MAX: usize = 1000;
/// Orders that wait for the sessions' task.
const ORDERS_MAX: usize = 64;
/// A dial over MQTT: shorter than usual, because there may be a second way to try.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// The floor of time is kept on disk at most so often: flash memory wears out.
const FLOOR_EVERY: Millis = 6 * 3600 * 1000;

/// What the link is doing, for `musterd status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(crate) enum LinkStatus {
    /// No identity yet.
    NotEnrolled,
    /// An enrolment waits for a person.
    Pending {
        /// The code for that person.
        pairing_code: String,
        /// The hub's sentence.
        why: String,
    },
    /// Dialling.
    Connecting {
        /// Where.
        url: String,
    },
    /// Linked, proved.
    Online {
        /// Where.
        url: String,
        /// Since when.
        since: Millis,
        /// The number of this connection.
        link: u64,
    },
    /// Waiting for the next try.
    Waiting {
        /// Why the last one ended.
        why: String,
        /// When.
        retry_at: Millis,
    },
    /// The hub said that this device is no longer of the organization.
    Revoked {
        /// The hub's sentence.
        why: String,
    },
}

/// An open session, for `musterd status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SessionStatus {
    /// Which.
    pub session: SessionId,
    /// Who.
    pub user: String,
    /// In the name of which project.
    pub project: String,
    /// Since when.
    pub since: Millis,
    /// The process of its privileged part.
    pub pid: u32,
}

/// A command that runs, for `musterd status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct RunStatus {
    /// Which.
    pub run: RunId,
    /// Who.
    pub user: String,
    /// In the name of which project.
    pub project: String,
    /// The command, cut.
    pub command: String,
    /// Since when.
    pub since: Millis,
}

/// What the runs' task is told.
#[derive(Debug)]
pub(crate) enum RunCommand {
    /// By the hub.
    Order {
        /// Which run.
        run: RunId,
        /// What.
        order: Box<RunOrder>,
        /// When it came, by the steady clock.
        arrived: Duration,
        /// How long it was good for then, as the broker said.
        left: Option<Duration>,
    },
    /// End all runs, and why.
    EndAll(&'static str),
}

/// What the sessions' task is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// By the hub.
    Order(SessionOrder),
    /// End all sessions, and why.
    EndAll(&'static str),
}

/// A metric of a local program.
#[derive(Debug, Clone, Copy)]
struct Own {
    value: f64,
    at: Instant,
}

/// Shared by all tasks.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// Checked configuration.
    pub config: Config,
    /// Key, identity, numbers.
    pub state: State,
    /// One life of the daemon.
    pub boot: String,
    /// The later of the system's clock and the hub's last word.
    pub clock: Clock,
    /// Wakes the link: there is something to send.
    pub to_send: Notify,
    /// Wakes the renewal: the hub wants a new certificate now.
    pub renew: Notify,
    /// Wakes whoever waits for an identity: `musterd enrol` wrote one.
    pub reload: Notify,
    /// How often to sample; the hub's wish within the device's bounds.
    pub pace: watch::Sender<Pace>,
    orders: mpsc::Sender<Command>,
    run_orders: mpsc::Sender<RunCommand>,
    outgoing: Mutex<Outgoing>,
    stop: watch::Sender<bool>,
    spool: Mutex<Spool>,
    changing: Mutex<Changing>,
}

/// How often samples are taken and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Between samples.
    pub sample_every: Duration,
    /// Between batches.
    pub publish_every: Duration,
    /// Until then, once a second and at once.
    pub watch_until: Option<Instant>,
}

#[derive(Debug)]
struct Changing {
    link: LinkStatus,
    link_state: LinkState,
    sessions: BTreeMap<SessionId, SessionStatus>,
    runs: BTreeMap<RunId, RunStatus>,
    events: VecDeque<DeviceEvent>,
    own: BTreeMap<String, Own>,
    last_sample: Option<Millis>,
    told_policy: Option<PolicyReport>,
    policy_due: bool,
    usage_due: bool,
    /// The hub refused samples for want of room.
    samples_held: bool,
    /// The hub said that it has room again.
    room: bool,
    floor_written: Millis,
    /// No later time is taken from the hub; see [`Enrolled::believed_until`].
    believed_until: Millis,
}

impl Daemon {
    /// The shared part, and the orders' receiving ends for the sessions' and the runs' task.
    pub(crate) fn new(config: Config) -> (Self, mpsc::Receiver<Command>, mpsc::Receiver<RunCommand>) {
        let state = State::at(&config.state_dir);
        let (link_state, clock) = (state.link(), state.clock());
        let boot = crate::random::boot();
        let spool = Spool::open(config.state_dir.join("spool"), config.spool_max, boot.clone());
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let (run_orders, run_receiver) = mpsc::channel(ORDERS_MAX);
        let pace = Pace { sample_every: config.sample_every, publish_every: config.publish_every, watch_until: None };
        let daemon = Self {
            clock,
            state,
            boot,
            to_send: Notify::new(),
            renew: Notify::new(),
            reload: Notify::new(),
            pace: watch::Sender::new(pace),
            orders,
            run_orders,
            outgoing: Mutex::default(),
            stop: watch::Sender::new(false),
            spool: Mutex::new(spool),
            changing: Mutex::new(Changing {
                link: LinkStatus::NotEnrolled,
                floor_written: link_state.hub_time,
                believed_until: 0,
                link_state,
                sessions: BTreeMap::new(),
                runs: BTreeMap::new(),
                events: VecDeque::new(),
                own: BTreeMap::new(),
                last_sample: None,
                told_policy: None,
                policy_due: false,
                usage_due: false,
                samples_held: false,
                room: false,
            }),
            config,
        };
        (daemon, receiver, run_receiver)
    }

    fn changing(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spool. Held for moments.
    pub(crate) fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- The end -----------------------------------------------------------------------------------------------

    /// Tells all tasks to end.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until the tasks are to end.
    pub(crate) async fn stopped(&self) {
        // The sender lives in self, so waiting cannot fail.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Waits so long; `false` when the daemon is to end before.
    pub(crate) async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = self.stopped() => false,
        }
    }

    // ---- Link --------------------------------------------------------------------------------------------------

    /// What the link is doing.
    pub(crate) fn link_status(&self) -> LinkStatus {
        self.changing().link.clone()
    }

    /// Notes what the link is doing.
    pub(crate) fn set_link_status(&self, status: LinkStatus) {
        self.changing().link = status;
    }

    /// Takes the number for a new connection: higher than every one before, over restarts, and without a disk as well
    /// as long as the clock goes forward.
    pub(crate) fn next_link(&self) -> u64 {
        let now_s = u64::try_from(self.clock.now() / 1000).unwrap_or(0);
        let mut changing = self.changing();
        changing.link_state.link = (changing.link_state.link + 1).max(now_s);
        self.write_link_state(&mut changing);
        changing.link_state.link
    }

    /// Whether MQTT got through as WebSocket the last time.
    pub(crate) fn prefers_websocket(&self) -> bool {
        self.changing().link_state.websocket
    }

    /// Remembers how MQTT got through.
    pub(crate) fn remember_transport(&self, websocket: bool) {
        let mut changing = self.changing();
        if changing.link_state.websocket != websocket {
            changing.link_state.websocket = websocket;
            self.write_link_state(&mut changing);
        }
    }

    fn write_link_state(&self, changing: &mut Changing) {
        changing.link_state.hub_time = self.clock.floor();
        changing.floor_written = self.clock.floor();
        if let Err(error) = self.state.set_link(&changing.link_state) {
            warn!("{error}; the daemon goes on without");
        }
    }

    /// The hub told the time, over a connection that proved to be the hub's.
    pub(crate) fn hub_told(&self, told: Millis) {
        let mut changing = self.changing();
        if told > changing.believed_until {
            debug!("the hub's clock is far ahead ({told}); as far as certificates go it is believed until {}", changing.believed_until);
        }
        self.clock.raise(told.min(changing.believed_until));
        if self.clock.floor().saturating_sub(changing.floor_written) > FLOOR_EVERY {
            self.write_link_state(&mut changing);
        }
    }

    /// Hands an order to the sessions' task. An order that finds the queue full is lost, and the hub ends its session in 10 s.
    pub(crate) fn order(&self, order: SessionOrder) {
        if self.orders.try_send(Command::Order(order)).is_err() {
            warn!("too many session orders at once; one is dropped");
        }
    }

    /// Hands an order to the runs' task. An order that finds the queue full is lost, and expires at the hub.
    pub(crate) fn order_run(&self, run: RunId, order: RunOrder, left: Option<Duration>) {
        if self.run_orders.try_send(RunCommand::Order { run, order: Box::new(order), arrived: steady_clock(), left }).is_err() {
            warn!("too many orders for runs at once; one is dropped");
        }
    }

    /// Ends all sessions and runs now.
    pub(crate) fn end_sessions(&self, reason: &'static str) {
        if self.run_orders.try_send(RunCommand::EndAll(reason)).is_err() {
            warn!("too many orders for runs at once; the runs end with their time");
        }
        if self.orders.try_send(Command::EndAll(reason)).is_err() {
            warn!("too many session orders at once; the sessions end with the hub's relay");
        }
    }

    /// How to dial with this identity.
    ///
    /// # Errors
    /// One sentence: the state directory is damaged, or the proxy's URL is not usable.
    pub(crate) fn dialer(&self, enrolled: &Enrolled) -> Result<Dialer, String> {
        let tls = self.state.client_tls(enrolled, &self.clock).map_err(|error| error.to_string())?;
        self.changing().believed_until = enrolled.believed_until();
        Ok(Dialer { timeout: DIAL_TIMEOUT, ..Dialer::new(tls).via(proxy(&self.config)?) })
    }

    // ---- Events ------------------------------------------------------------------------------------------------

    /// Reports something to the hub, as soon as there is a link.
    pub(crate) fn report(&self, kind: DeviceEventKind) {
        self.report_event(DeviceEvent { t: wall_clock(), kind });
    }

    /// Reports an event with the time at which it was noted.
    pub(crate) fn report_event(&self, event: DeviceEvent) {
        let mut changing = self.changing();
        if changing.events.len() >= EVENTS_MAX {
            changing.events.pop_front();
        }
        changing.events.push_back(event);
        drop(changing);
        self.to_send.notify_one();
    }

    /// Takes the events that wait.
    pub(crate) fn take_events(&self) -> VecDeque<DeviceEvent> {
        std::mem::take(&mut self.changing().events)
    }

    /// Puts back events that were not acknowledged, before the newer ones.
    pub(crate) fn return_events(&self, events: impl DoubleEndedIterator<Item = DeviceEvent>) {
        let mut changing = self.changing();
        for event in events.rev() {
            if changing.events.len() < EVENTS_MAX {
                changing.events.push_front(event);
            }
        }
    }

    // ---- Policy ----------------------------------------------------------------------------------------------------

    /// The policy as it is in force, unless the hub was told just this.
    pub(crate) fn untold_policy(&self) -> Option<PolicyReport> {
        let report = policy_report(&self.config.policy);
        let told = &self.changing().told_policy;
        let same = |told: &PolicyReport| PolicyReport { t: report.t, ..told.clone() } == report;
        (!told.as_ref().is_some_and(same)).then_some(report)
    }

    /// Something at the device changed the policy, or locked it: it is looked at now.
    pub(crate) fn look_at_policy(&self) {
        self.changing().policy_due = true;
        self.to_send.notify_one();
    }

    /// Takes that wish.
    pub(crate) fn take_policy_due(&self) -> bool {
        std::mem::take(&mut self.changing().policy_due)
    }

    /// The hub has it.
    pub(crate) fn policy_told(&self, report: PolicyReport) {
        self.changing().told_policy = Some(report);
    }

    // ---- Usage -------------------------------------------------------------------------------------------------

    /// A sample was taken; `due`: a batch should go out now.
    pub(crate) fn sampled(&self, t: Millis, due: bool) {
        let mut changing = self.changing();
        changing.last_sample = Some(t);
        changing.usage_due |= due;
        drop(changing);
        if due {
            self.to_send.notify_one();
        }
    }

    /// Takes the wish that a batch goes out.
    pub(crate) fn take_usage_due(&self) -> bool {
        std::mem::take(&mut self.changing().usage_due)
    }

    /// Notes whether samples are held here because the organization's storage is full.
    pub(crate) fn set_samples_held(&self, held: bool) {
        self.changing().samples_held = held;
    }

    /// Whether they are.
    pub(crate) fn samples_held(&self) -> bool {
        self.changing().samples_held
    }

    /// The hub says that it has room for samples again.
    pub(crate) fn has_room(&self) {
        self.changing().room = true;
        self.to_send.notify_one();
    }

    /// Takes that word.
    pub(crate) fn take_room(&self) -> bool {
        std::mem::take(&mut self.changing().room)
    }

    /// When the last sample was taken.
    pub(crate) fn last_sample(&self) -> Option<Millis> {
        self.changing().last_sample
    }

    /// A local program's metric.
    pub(crate) fn set_own_metric(&self, name: &str, value: f64) {
        let mut changing = self.changing();
        if changing.own.len() < crate::usage::OWN_COLUMNS_MAX || changing.own.contains_key(name) {
            changing.own.insert(name.to_owned(), Own { value, at: Instant::now() });
        }
    }

    /// Local programs' metrics that are not older than this.
    pub(crate) fn own_metrics(&self, fresh: Duration) -> BTreeMap<String, f64> {
        let mut changing = self.changing();
        changing.own.retain(|_, own| own.at.elapsed() < fresh);
        changing.own.iter().map(|(name, own)| (name.clone(), own.value)).collect()
    }

    // ---- Sessions ----------------------------------------------------------------------------------------------

    /// Open sessions.
    pub(crate) fn sessions(&self) -> Vec<SessionStatus> {
        self.changing().sessions.values().cloned().collect()
    }

    /// How many sessions are open.
    pub(crate) fn session_count(&self) -> u32 {
        u32::try_from(self.changing().sessions.len()).unwrap_or(u32::MAX)
    }

    /// A session is open.
    pub(crate) fn add_session(&self, status: SessionStatus) {
        self.changing().sessions.insert(status.session.clone(), status);
    }

    /// A session is over.
    pub(crate) fn remove_session(&self, session: &SessionId) {
        self.changing().sessions.remove(session);
    }

    // ---- Runs --------------------------------------------------------------------------------------------------

    /// Reports of runs that wait for the hub. Held for moments.
    pub(crate) fn outgoing(&self) -> MutexGuard<'_, Outgoing> {
        self.outgoing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commands that run.
    pub(crate) fn runs(&self) -> Vec<RunStatus> {
        self.changing().runs.values().cloned().collect()
    }

    /// A command runs.
    pub(crate) fn add_run(&self, status: RunStatus) {
        self.changing().runs.insert(status.run.clone(), status);
    }

    /// A command is over.
    pub(crate) fn remove_run(&self, run: &RunId) {
        self.changing().runs.remove(run);
    }
}

/// The owner's policy, for the hub's people to read.
fn policy_report(path: &Path) -> PolicyReport {
    let (own_user, fault) = match musterd::policy::load(path) {
        Ok(policy) => (policy.own_user(), None),
        Err(fault) => (false, Some(fault)),
    };
    // One that cannot be used is shown as well: it is what there is to mend.
    let text = musterd::policy::file::text(path);
    let (code, fault) = fault.map(|fault| (fault.code.to_owned(), fault.message)).unzip();
    let fault = fault.map(|sentence| sentence.chars().take(FAULT_MAX).collect());
    PolicyReport { text, code, fault, own_user, t: wall_clock() }
}

/// The proxy of the configuration, parsed.
///
/// # Errors
/// One sentence with the key.
pub(crate) fn proxy(config: &Config) -> Result<Option<Proxy>, String> {
    config.proxy.as_deref().map(str::parse).transpose().map_err(|error| format!("proxy.url: {error}"))
}

/// Milliseconds since the epoch by the system's clock.
pub(crate) fn wall_clock() -> Millis {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Millis::try_from(now.as_millis()).unwrap_or(Millis::MAX)
}

/// Since the machine's start, sleep included. Never set by anybody.
pub(crate) fn steady_clock() -> Duration {
    Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Boottime)).unwrap_or_default()
}

/// The same in milliseconds.
pub(crate) fn steady_millis() -> Millis {
    Millis::try_from(steady_clock().as_millis()).unwrap_or(Millis::MAX)
}
