//! The thin line that is always there: one MQTT link to the hub.
//!
//! [`run`] dials again and again, [`Link::run_once`] is one connection from the dial to its end, and each state of it is one method:
//! open, greet, prove, serve, farewell. The back-off resets only when the link proved itself: let in, subscribed, and the birth acknowledged.
//! This module carries orders and samples and knows neither what a session does nor how a sample is measured.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use muster_link::dial::Dialer;
use muster_proto::backoff::Backoff;
use muster_proto::id::RunId;
use muster_proto::limits::{BACKOFF_FIRST, HEARTBEAT_EVERY, MQTT_KEEP_ALIVE};
use muster_proto::mqtt::{DeviceEvent, Heartbeat, PolicyReport, Presence, encode};
use muster_proto::topic::{Topic, Up, down_filter};
use tokio::time::Instant;

use crate::daemon::{Daemon, LinkStatus, steady_clock, wall_clock};
use crate::log::{error, info, warn};
use crate::random;
use crate::spool::Batch;
use crate::state::Enrolled;
use crate::usage::batch;

mod dial;
mod hold;
mod orders;
mod protocol;
mod wire;

use hold::Hold;
use protocol::{Incoming, Protocol, Refusal, Taken, Will};
use wire::Wire;

/// From the open connection to the acknowledged birth.
const GREETING_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest wait for a PINGRESP: with the heartbeat before it, a frozen broker is noticed within 45 s.
/// While something waits for its acknowledgement, that one's bound holds for both.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the acknowledgement of a batch or an event.
const ACK_TIMEOUT: Duration = Duration::from_secs(30);
/// Highest ceiling of the back-off while the hub is not reached at all. A dial that comes to nothing costs the hub nothing, and a device
/// is to be back within a minute of the hub's return. Where the hub answers and cannot go on, the ceiling rises to five minutes.
const UNREACHED_MAX: Duration = Duration::from_secs(60);
/// Longest farewell: the whole stop has five seconds.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);
/// Keep alive is so much longer than the heartbeat, so that heartbeats alone keep the link alive.
const KEEP_ALIVE_MARGIN: Duration = MQTT_KEEP_ALIVE.saturating_sub(HEARTBEAT_EVERY);
/// Events under way at once.
const EVENTS_UNDER_WAY: usize = 8;
/// Events that are kept while nobody listens at the broker, as many as while there is no link; later ones are dropped.
const UNHEARD_MAX: usize = 256;
/// A message that the broker cannot take now is tried again with a new link after this, if the hub does not say.
const NOT_NOW: Duration = Duration::from_secs(30);

/// How a connection ended.
#[derive(Debug)]
enum End {
    /// The daemon stops.
    Stopped,
    /// There is a new identity.
    Reload,
    /// The hub said that this device is no longer of the organization.
    Revoked(String),
    /// The hub was not reached at all.
    Unreached(String),
    /// Anything else: try again.
    Lost { why: String, retry_in: Option<Duration> },
}

impl End {
    fn lost(why: impl Into<String>) -> Self {
        Self::Lost { why: why.into(), retry_in: None }
    }

    fn refused(what: &str, refusal: &Refusal) -> Self {
        Self::Lost { why: format!("{what}: {}", refusal.reason), retry_in: refusal.retry_in }
    }
}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        Self::lost(format!("the link broke: {error}"))
    }
}

impl From<protocol::ProtocolError> for End {
    fn from(error: protocol::ProtocolError) -> Self {
        Self::lost(error.to_string())
    }
}

/// Keeps the link until the daemon stops. `enrolled` is asked for before every connection.
pub(crate) async fn run(daemon: Arc<Daemon>) {
    let (mut backoff, mut unreached) = (Backoff::default(), Backoff::new(BACKOFF_FIRST, UNREACHED_MAX));
    // What the hub said, while the dials after it fail without saying more, as at an external broker.
    let mut revoked: Option<String> = None;
    loop {
        let Some(enrolled) = crate::enrol::wait_for_identity(&daemon).await else { return };
        let end = match Link::new(&daemon, &enrolled) {
            Ok(mut link) => {
                let end = link.run_once().await;
                link.give_back();
                if link.proved {
                    backoff.reset();
                    unreached.reset();
                    revoked = None;
                }
                end
            }
            Err(why) => End::lost(why),
        };
        let (why, delay) = match end {
            End::Stopped => return,
            End::Reload => {
                info!("the identity changed; linking anew");
                revoked = None;
                continue;
            }
            End::Revoked(why) => {
                if revoked.as_ref() != Some(&why) {
                    error!("this device no longer belongs: {why}");
                }
                revoked = Some(why.clone());
                // It may be admitted again one day, this minute or next year: it asks more and more rarely.
                (why, backoff.next(random::number(), None))
            }
            End::Unreached(why) => (why, unreached.next(random::number(), None)),
            End::Lost { why, retry_in } => (why, backoff.next(random::number(), retry_in)),
        };
        warn!("{why}; next try in {:.1} s", delay.as_secs_f64());
        let retry_at = wall_clock() + i64::try_from(delay.as_millis()).unwrap_or(0);
        daemon.set_link_status(match &revoked {
            Some(why) => LinkStatus::Revoked { why: why.clone() },
            None => LinkStatus::Waiting { why, retry_at },
        });
        if !wait(&daemon, delay).await {
            return;
        }
    }
}

/// Waits before the next try; a new identity ends the wait. `false` when the daemon stops.
async fn wait(daemon: &Daemon, delay: Duration) -> bool {
    tokio::select! {
        go_on = daemon.pause(delay) => go_on,
        () = daemon.reload.notified() => true,
    }
}

/// One connection.
struct Link<'a> {
    daemon: &'a Daemon,
    enrolled: &'a Enrolled,
    dialer: Dialer,
    protocol: Protocol,
    number: u64,
    heartbeat_every: Duration,
    proved: bool,
    heartbeats: u64,
    /// The batch that waits for its acknowledgement.
    batch: Option<(u16, Batch)>,
    /// Events that wait for theirs.
    events: BTreeMap<u16, DeviceEvent>,
    /// Events that wait to be sent.
    waiting: VecDeque<DeviceEvent>,
    /// Events that reached the broker while nobody listened: sent again with the next batch.
    unheard: Vec<DeviceEvent>,
    /// A batch reached the broker while nobody listened: sent again when the next one is due.
    batch_unheard: bool,
    /// Samples are held back: the organization's storage is full.
    hold: Hold,
    /// Reports of runs that wait for theirs.
    reports: BTreeMap<u16, RunId>,
    /// The policy that waits for its own.
    policy: Option<(u16, PolicyReport)>,
    /// When the oldest unanswered message is overdue.
    ack_by: Option<Instant>,
    ping_by: Option<Instant>,
    topics: Topics,
}

/// The topics that we publish to.
struct Topics {
    presence: String,
    heartbeat: String,
    usage: String,
    event: String,
    policy: String,
}

impl<'a> Link<'a> {
    fn new(daemon: &'a Daemon, enrolled: &'a Enrolled) -> Result<Self, String> {
        let topic = |up| Topic::Up(enrolled.identity.uid.clone(), up).to_string();
        Ok(Self {
            daemon,
            enrolled,
            dialer: daemon.dialer(enrolled)?,
            protocol: Protocol::new(),
            number: 0,
            heartbeat_every: daemon.config.heartbeat_every,
            proved: false,
            heartbeats: 0,
            batch: None,
            events: BTreeMap::new(),
            waiting: VecDeque::new(),
            unheard: Vec::new(),
            batch_unheard: false,
            hold: Hold::default(),
            reports: BTreeMap::new(),
            policy: None,
            ack_by: None,
            ping_by: None,
            topics: Topics {
                presence: topic(Up::Presence),
                heartbeat: topic(Up::Heartbeat),
                usage: topic(Up::Usage),
                event: topic(Up::Event),
                policy: topic(Up::Policy),
            },
        })
    }

    /// One connection, from the dial to its end.
    async fn run_once(&mut self) -> End {
        let daemon = self.daemon;
        let opened = tokio::select! {
            opened = self.open() => opened,
            () = daemon.stopped() => return End::Stopped,
        };
        let (mut wire, url) = match opened {
            Ok(opened) => opened,
            Err(end) => return end,
        };
        let greeted = tokio::select! {
            greeted = tokio::time::timeout(GREETING_TIMEOUT, self.greet(&mut wire)) => greeted,
            () = daemon.stopped() => return End::Stopped,
        };
        let greeted_at = match greeted {
            Ok(Ok(greeted_at)) => greeted_at,
            Ok(Err(end)) => {
                self.acknowledge(&end, &mut wire).await;
                return end;
            }
            Err(_) => return End::lost(format!("{url} did not answer MQTT within {} s", GREETING_TIMEOUT.as_secs())),
        };
        self.proved = true;
        info!("online as {} ({}) at {url}, link {}", self.enrolled.identity.name, self.enrolled.identity.uid, self.number);
        daemon.set_link_status(LinkStatus::Online { url: url.to_string(), since: wall_clock(), link: self.number });
        let end = match self.serve(&mut wire, greeted_at).await {
            Ok(never) => match never {},
            Err(end) => end,
        };
        self.acknowledge(&end, &mut wire).await;
        if matches!(end, End::Stopped | End::Reload) {
            let reason = if matches!(end, End::Stopped) { "stopped" } else { "identity changed" };
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, self.farewell(&mut wire, reason)).await;
            wire.close().await;
        }
        end
    }

    /// The word that the device was revoked is acknowledged, or the broker would say it again.
    async fn acknowledge(&mut self, end: &End, wire: &mut Wire) {
        if let End::Revoked(_) = end {
            let _ = tokio::time::timeout(FAREWELL_TIMEOUT, self.flush(wire)).await;
        }
    }

    /// CONNECT, SUBSCRIBE and the birth, until all three are answered. When the last answer came.
    async fn greet(&mut self, wire: &mut Wire) -> Result<Duration, End> {
        self.number = self.daemon.next_link();
        let will = encode(&self.presence(false));
        let keep_alive = self.heartbeat_every + KEEP_ALIVE_MARGIN;
        let will = Will { topic: &self.topics.presence, payload: &will };
        self.protocol.connect(self.enrolled.identity.uid.as_str(), keep_alive, &will)?;
        self.flush(wire).await?;
        let (mut birth, mut subscribed, mut born, mut turned_at) = (None, false, false, steady_clock());
        while !(subscribed && born) {
            let heard = self.receive(wire).await?;
            turned_at = self.still_awake(turned_at)?;
            for incoming in heard {
                match incoming {
                    Incoming::Connected { keep_alive } => {
                        if let Some(keep_alive) = keep_alive {
                            self.heartbeat_every = self.heartbeat_every.min(keep_alive * 3 / 4);
                        }
                        self.protocol.subscribe(&down_filter(&self.enrolled.identity.uid))?;
                        let topic = self.topics.presence.clone();
                        birth = Some(self.protocol.publish(&topic, encode(&self.presence(true)), true)?);
                    }
                    Incoming::Subscribed { granted: true } => subscribed = true,
                    Incoming::Subscribed { granted: false } => {
                        return Err(End::lost("the hub does not grant the subscription to this device's own topics"));
                    }
                    Incoming::Acknowledged { packet_id, taken } if Some(packet_id) == birth => {
                        // The birth is retained: the hub finds it when it comes.
                        if !matches!(taken, Taken::Yes | Taken::Unheard) {
                            return Err(End::Lost { why: "the hub did not take the birth message".into(), retry_in: Some(NOT_NOW) });
                        }
                        born = true;
                    }
                    other => self.heard(other)?,
                }
            }
            self.flush(wire).await?;
        }
        Ok(turned_at)
    }

    /// The linked state, from the answer to the greeting on. Only an end leaves it.
    async fn serve(&mut self, wire: &mut Wire, mut turned_at: Duration) -> Result<std::convert::Infallible, End> {
        let daemon = self.daemon;
        // The first heartbeat soon, so that the list is right; then evenly, spread over the fleet.
        let mut heartbeat_at = Instant::now() + self.heartbeat_every / 10;
        let (mut usage, mut policy_due) = (true, true);
        loop {
            usage &= !std::mem::take(&mut self.batch_unheard);
            if daemon.take_usage_due() {
                usage = true;
                self.waiting.extend(self.unheard.drain(..));
                daemon.outgoing().release();
            }
            self.send_events()?;
            self.send_reports()?;
            if std::mem::take(&mut policy_due) || daemon.take_policy_due() {
                self.send_policy()?;
            }
            if daemon.take_room() {
                self.hold.room(Instant::now(), random::number());
            }
            if usage && self.batch.is_none() && !self.hold.holds(Instant::now()) {
                usage = self.send_usage()?;
            }
            self.still_awake(turned_at)?;
            // On a slow line this takes its time.
            self.flush(wire).await?;
            let overdue = [self.ack_by, self.ping_by].into_iter().flatten().min();
            let wake_at = [overdue, self.hold.until()].into_iter().flatten().fold(heartbeat_at, Instant::min);
            turned_at = steady_clock();
            tokio::select! {
                bytes = wire.read() => {
                    let bytes = bytes?;
                    self.still_awake(turned_at)?;
                    for incoming in self.protocol.receive(&bytes)? {
                        self.heard(incoming)?;
                    }
                }
                () = daemon.to_send.notified() => {}
                () = tokio::time::sleep_until(wake_at) => {
                    if overdue.is_some_and(|overdue| overdue <= Instant::now()) {
                        return Err(End::lost("the hub has fallen silent"));
                    }
                    if heartbeat_at <= Instant::now() {
                        self.send_heartbeat()?;
                        policy_due = true;
                        heartbeat_at = Instant::now() + self.next_heartbeat();
                    }
                }
                () = daemon.stopped() => return Err(End::Stopped),
                () = daemon.reload.notified() => if self.is_outdated() {
                    return Err(End::Reload);
                },
            }
        }
    }

    /// Ends a link on which nothing moved for longer than it can: what lies in our own kernel since then may be void by now,
    /// and nobody would tell. It is not acknowledged, so the broker still has it, and brings it again with the time that is left.
    fn still_awake(&self, turned_at: Duration) -> Result<Duration, End> {
        let now = steady_clock();
        if now.saturating_sub(turned_at) > self.heartbeat_every * 2 + PING_TIMEOUT {
            return Err(End::lost("this device slept, or was held up"));
        }
        Ok(now)
    }

    /// Whether the disk holds another identity than the one of this link. A renewed certificate is the same identity.
    fn is_outdated(&self) -> bool {
        let current = self.daemon.state.enrolled().ok().flatten();
        current.is_none_or(|current| (current.identity.uid, current.pin) != (self.enrolled.identity.uid.clone(), self.enrolled.pin.clone()))
    }

    /// Takes back the will and says good-bye.
    async fn farewell(&mut self, wire: &mut Wire, reason: &str) -> Result<(), End> {
        let death = Presence { reason: Some(reason.to_owned()), ..self.presence(false) };
        let topic = self.topics.presence.clone();
        let packet_id = self.protocol.publish(&topic, encode(&death), true)?;
        self.flush(wire).await?;
        loop {
            let incoming = self.receive(wire).await?;
            if incoming.iter().any(|incoming| matches!(incoming, Incoming::Acknowledged { packet_id: acked, .. } if *acked == packet_id)) {
                break;
            }
            // A last batch may be acknowledged meanwhile. Orders are not taken any more.
            for incoming in incoming {
                if let Incoming::Acknowledged { .. } = incoming {
                    self.heard(incoming)?;
                }
            }
        }
        self.protocol.disconnect()?;
        self.flush(wire).await
    }

    /// What was under way when the link ended and has to be sent again. Samples are still in the spool.
    fn give_back(&mut self) {
        self.daemon.outgoing().give_back();
        let events = std::mem::take(&mut self.unheard).into_iter().chain(std::mem::take(&mut self.events).into_values());
        self.daemon.return_events(events.chain(std::mem::take(&mut self.waiting)).collect::<Vec<_>>().into_iter());
    }

    // ---- Sending -----------------------------------------------------------------------------------------------

    fn presence(&self, online: bool) -> Presence {
        let about = |value: String| online.then_some(value);
        Presence {
            online,
            link: self.number,
            boot: about(self.daemon.boot.clone()),
            t: online.then(wall_clock),
            agent: about(crate::facts::AGENT.to_owned()),
            facts: online.then(crate::facts::read),
            reason: None,
        }
    }

    /// Around the set time, a tenth to either side.
    fn next_heartbeat(&self) -> Duration {
        let tenth = self.heartbeat_every / 10;
        let spread = u64::try_from(tenth.as_millis()).unwrap_or(0) * 2;
        self.heartbeat_every - tenth + Duration::from_millis(random::below(spread))
    }

    /// A heartbeat and a PINGREQ in one write: the answer tells a living broker from a frozen one.
    fn send_heartbeat(&mut self) -> Result<(), End> {
        let heartbeat = Heartbeat {
            seq: self.heartbeats,
            t: wall_clock(),
            uptime_s: uptime_s(),
            sessions: self.daemon.session_count(),
            spooled: self.daemon.spool().waiting(),
        };
        self.heartbeats += 1;
        self.protocol.publish_once(&self.topics.heartbeat, encode(&heartbeat))?;
        self.protocol.ping()?;
        // On a slow line the answer waits behind what is still being sent: then the bound on that counts.
        let by = (Instant::now() + PING_TIMEOUT).max(self.ack_by.unwrap_or_else(Instant::now));
        self.ping_by.get_or_insert(by);
        Ok(())
    }

    fn send_events(&mut self) -> Result<(), End> {
        self.waiting.extend(self.daemon.take_events());
        while self.events.len() < EVENTS_UNDER_WAY
            && let Some(event) = self.waiting.pop_front()
        {
            let packet_id = self.protocol.publish(&self.topics.event, encode(&event), false)?;
            self.events.insert(packet_id, event);
            self.ack_by.get_or_insert(Instant::now() + ACK_TIMEOUT);
        }
        Ok(())
    }

    fn send_reports(&mut self) -> Result<(), End> {
        while let Some((run, bytes)) = self.daemon.outgoing().next() {
            let topic = Topic::Up(self.enrolled.identity.uid.clone(), Up::Run(run.clone())).to_string();
            let packet_id = self.protocol.publish(&topic, bytes, false)?;
            self.reports.insert(packet_id, run);
            self.ack_by.get_or_insert(Instant::now() + ACK_TIMEOUT);
        }
        Ok(())
    }

    /// Sends the policy as it is in force, if the hub does not have it yet.
    fn send_policy(&mut self) -> Result<(), End> {
        if self.policy.is_none()
            && let Some(report) = self.daemon.untold_policy()
        {
            let packet_id = self.protocol.publish(&self.topics.policy, encode(&report), false)?;
            self.policy = Some((packet_id, report));
            self.ack_by.get_or_insert(Instant::now() + ACK_TIMEOUT);
        }
        Ok(())
    }

    /// Sends the oldest samples. Whether there may be more.
    fn send_usage(&mut self) -> Result<bool, End> {
        let Some((batch, bytes)) = batch::next(&mut self.daemon.spool()) else { return Ok(false) };
        let packet_id = self.protocol.publish(&self.topics.usage, bytes, false)?;
        self.batch = Some((packet_id, batch));
        self.ack_by.get_or_insert(Instant::now() + ACK_TIMEOUT);
        Ok(true)
    }

    async fn flush(&mut self, wire: &mut Wire) -> Result<(), End> {
        let bytes = self.protocol.take_output();
        if !bytes.is_empty() {
            wire.write(&bytes).await?;
        }
        Ok(())
    }

    // ---- Receiving ---------------------------------------------------------------------------------------------

    async fn receive(&mut self, wire: &mut Wire) -> Result<Vec<Incoming>, End> {
        let bytes = wire.read().await?;
        Ok(self.protocol.receive(&bytes)?)
    }

    fn heard(&mut self, incoming: Incoming) -> Result<(), End> {
        match incoming {
            Incoming::Refused(refusal) if refusal.banned => return Err(End::Revoked(refusal.reason)),
            Incoming::Refused(refusal) => return Err(End::refused("the hub does not let this device in", &refusal)),
            Incoming::Goodbye(refusal) => return Err(End::refused("the hub ended the link", &refusal)),
            Incoming::Pong => self.ping_by = None,
            Incoming::Acknowledged { packet_id, taken } => self.acknowledged(packet_id, taken)?,
            Incoming::Message { topic, payload, kept } => orders::take(self.daemon, self.enrolled, &topic, &payload, kept)?,
            Incoming::Connected { .. } | Incoming::Subscribed { .. } => {}
        }
        Ok(())
    }

    fn acknowledged(&mut self, packet_id: u16, taken: Taken) -> Result<(), End> {
        if taken == Taken::NotNow {
            return Err(End::Lost { why: "the hub cannot store what this device sends now".into(), retry_in: Some(NOT_NOW) });
        }
        if let Some((_, batch)) = self.batch.take_if(|(sent, _)| *sent == packet_id) {
            match taken {
                Taken::Unheard => {
                    warn!("the broker has a batch of {} samples and nobody listens there; sending it again later", batch.samples.len());
                    self.batch_unheard = true;
                }
                Taken::Full => {
                    info!("the organization's storage is full: samples are held here; the link goes on");
                    self.hold.begin(Instant::now(), random::number());
                    self.daemon.set_samples_held(true);
                }
                _ => {
                    if taken == Taken::Never {
                        error!("the hub calls a batch of {} samples invalid; they are dropped", batch.samples.len());
                    }
                    self.daemon.set_samples_held(false);
                    self.daemon.spool().delivered(&batch);
                }
            }
        } else if let Some((_, report)) = self.policy.take_if(|(sent, _)| *sent == packet_id) {
            // A hub that does not want it is not asked again and again; one that nobody heard is sent again with the next look.
            if !matches!(taken, Taken::Unheard | Taken::Full) {
                self.daemon.policy_told(report);
            }
        } else if let Some(event) = self.events.remove(&packet_id) {
            match taken {
                Taken::Unheard | Taken::Full if self.unheard.len() < UNHEARD_MAX => self.unheard.push(event),
                Taken::Unheard | Taken::Full => warn!("nobody takes events now; one is dropped"),
                Taken::Never => warn!("the hub calls an event invalid; it is dropped"),
                _ => {}
            }
        } else if let Some(run) = self.reports.remove(&packet_id) {
            if taken == Taken::Never {
                warn!("the hub calls a report of run {run} invalid; it is left out");
            }
            let mut outgoing = self.daemon.outgoing();
            if matches!(taken, Taken::Unheard | Taken::Full) { outgoing.unheard(&run) } else { outgoing.acknowledged(&run) }
        }
        let under_way = self.batch.is_some() || self.policy.is_some() || !self.events.is_empty() || !self.reports.is_empty();
        self.ack_by = under_way.then(|| Instant::now() + ACK_TIMEOUT);
        Ok(())
    }
}

fn uptime_s() -> u64 {
    steady_clock().as_secs()
}
