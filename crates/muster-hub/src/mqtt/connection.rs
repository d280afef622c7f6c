//! One device's connection: the thin shell that moves bytes and carries out what the machine decides.
//!
//! Two phases, two tasks: a stranger is looked at (`open`), then a linked device is served (`run`), whose task is small
//! because ten thousand of them are idle. Every wait has an end: a deadline, the peer, or the link's order to end.

use std::future::poll_fn;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::ready;
use std::time::{Duration, Instant};

use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, DisconnectReasonCode};
use muster_proto::id::DeviceUid;
use muster_proto::problem::{Code, Problem};
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant as Tick, sleep, sleep_until, timeout, timeout_at};

use super::bounds::{CONNECT_WAIT, LINKS_MAX, READ_AT_ONCE, SESSION_EXPIRY_MAX_S, TAKEOVER_WAIT, WILL_DELAY_MAX_S, WRITE_WAIT};
use super::lanes;
use super::links::{End, Links, Place};
use super::machine::{Answer, Connect, Event, Machine, Publish, Will};
use super::outbox::Down;
use crate::ca::PeerName;
use crate::ingest::{Ingest, Refused};
use crate::metrics::{Counter, Gauge};
use crate::store::{Store, mqtt};
use crate::{auth, clock};

/// How long a last word may take to reach the peer.
const LAST_WORD: Duration = Duration::from_secs(1);
/// What a peer may still be sending when its connection is refused, so that the refusal is not lost with a reset.
const DRAIN_MAX: usize = 256 * 1024;

/// What all connections share.
pub(super) struct Hub {
    pub(super) store: Store,
    pub(super) ingest: Ingest,
    pub(super) links: Arc<Links>,
    pub(super) started: Instant,
    pub(super) linked: Gauge,
    pub(super) accepted: Counter,
    pub(super) refused: Counter,
}

impl Hub {
    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn tick(&self, uptime: Duration) -> Tick {
        Tick::from_std(self.started + uptime)
    }
}

/// A device that was let in.
pub(super) struct Linked<S> {
    hub: Arc<Hub>,
    stream: S,
    machine: Machine,
    place: Place,
    uid: DeviceUid,
    will: Option<Will>,
    expiry_s: u32,
}

/// Why a linked device's connection ended.
#[derive(Debug, PartialEq, Eq)]
enum Over {
    /// It said good-bye; its will is void.
    Goodbye,
    /// It broke, or was ended for a fault of the device: its will speaks for it.
    Broken(String),
    /// The hub ended it.
    Ended(End),
}

/// Looks at a stranger whose certificate TLS has verified. `None` when it was refused or went away.
pub(super) async fn open<S>(hub: Arc<Hub>, mut stream: S, certificate: CertificateDer<'static>, from: SocketAddr) -> Option<Linked<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let uid = PeerName::read(&certificate).ok().and_then(|name| name.common_name.parse::<DeviceUid>().ok());
    let Some(uid) = uid else {
        hub.refused.add(1);
        tracing::warn!(%from, "mqtt: refused a certificate that is not a device's");
        return None;
    };
    let mut machine = Machine::new(uid.clone(), hub.uptime());
    match admit(&hub, &mut stream, &mut machine, &certificate, &uid, from).await {
        Ok((place, connect)) => {
            hub.accepted.add(1);
            tracing::debug!(%from, %uid, "mqtt: linked");
            let expiry_s = connect.expiry_s.min(SESSION_EXPIRY_MAX_S);
            Some(Linked { hub, stream, machine, place, uid, will: connect.will, expiry_s })
        }
        Err(why) => {
            hub.refused.add(1);
            tracing::warn!(%from, %uid, why, "mqtt: refused");
            last_word(&mut stream, machine.take_output()).await;
            None
        }
    }
}

async fn admit<S>(
    hub: &Arc<Hub>,
    stream: &mut S,
    machine: &mut Machine,
    certificate: &CertificateDer<'static>,
    uid: &DeviceUid,
    from: SocketAddr,
) -> Result<(Place, Connect), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let deadline = Tick::now() + CONNECT_WAIT;
    let connect = loop {
        match machine.poll(hub.uptime()) {
            Some(Event::Connect(connect)) => break connect,
            Some(Event::Failed(why)) => return Err(why),
            Some(_) => {}
            None => match timeout_at(deadline, read(stream, machine)).await {
                Ok(Ok(0)) => return Err("it left before its CONNECT".into()),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(format!("the connection broke before its CONNECT: {error}")),
                Err(_) => return Err("no whole CONNECT in 10 seconds".into()),
            },
        }
    };
    let ip = Some(from.ip().to_canonical());
    let refuse = |machine: &mut Machine, problem: &Problem| {
        machine.refuse(reason_code(problem), &problem.detail);
        problem.detail.clone()
    };
    if let Err(error) = auth::authenticate(&hub.store, certificate, ip).await {
        return Err(refuse(machine, &error.0));
    }
    if hub.links.len() >= LINKS_MAX {
        machine.refuse(ConnectReasonCode::ServerBusy, "the hub has as many links as it may; try again later");
        return Err("too many links".into());
    }
    let (place, before) = hub.links.enter(uid);
    if let Some(before) = before
        && timeout(TAKEOVER_WAIT, before.gone()).await.is_err()
    {
        machine.refuse(ConnectReasonCode::ServerBusy, "the old connection of this device does not end; try again");
        return Err("the old connection does not end".into());
    }
    // Whoever revokes cuts the link that stands here; what was decided just before it stood here shows now.
    if let Err(error) = auth::authenticate(&hub.store, certificate, ip).await {
        return Err(refuse(machine, &error.0));
    }
    let (owner, clean_start, expiry_s) = (uid.clone(), connect.clean_start, connect.expiry_s.min(SESSION_EXPIRY_MAX_S));
    match hub.store.write_patiently(move |tx| mqtt::resume(tx, &owner, clean_start, expiry_s, clock::now())).await {
        Ok(session) => machine.accept(session.present, session.subscriptions, session.waiting),
        Err(error) => {
            machine.refuse(ConnectReasonCode::ServerUnavailable, "the hub cannot store now; try again later");
            return Err(error.to_string());
        }
    }
    Ok((place, connect))
}

fn reason_code(problem: &Problem) -> ConnectReasonCode {
    match problem.code.as_str() {
        code if code == Code::DeviceRevoked.as_str() || code == Code::DeviceRejected.as_str() => ConnectReasonCode::Banned,
        code if code == Code::Internal.as_str() || code == Code::Unavailable.as_str() => ConnectReasonCode::ServerUnavailable,
        _ => ConnectReasonCode::NotAuthorized,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Linked<S> {
    /// Serves the device until its connection is over.
    ///
    /// What is seldom or short is boxed where it is awaited: the room of this task is kept for every idle device.
    pub(super) async fn run(mut self: Box<Self>) {
        self.hub.linked.add(1);
        let over = self.serve().await;
        self.hub.linked.add(-1);
        tracing::debug!(uid = %self.uid, ?over, "mqtt: link over");
        Box::pin(self.finish(over)).await;
    }

    /// Leaves the session for the next connection, says good-bye, and speaks the will.
    async fn finish(self: Box<Self>, over: Over) {
        let Self { hub, mut stream, mut machine, place, uid, will, expiry_s } = *self;
        if let Over::Ended(end) = &over {
            let (code, reason) = match end {
                End::TakenOver => (DisconnectReasonCode::SessionTakenOver, "the same device connected again"),
                End::Cut(reason) => {
                    // Only on this link, never kept: the next one with this name may be of a device that belongs.
                    let (topic, payload) = lanes::revoked(&uid, reason);
                    machine.queue(Down { id: 0, topic, payload, expires_at: None, retain: false, sent: false });
                    machine.pump(clock::now());
                    (DisconnectReasonCode::AdministrativeAction, reason.as_str())
                }
                End::Shutdown => (DisconnectReasonCode::ServerShuttingDown, "the hub stops; come back soon"),
            };
            machine.disconnect(code, reason);
        }
        // A session that was cut is gone from the store: this changes nothing then.
        let (owner, unacknowledged) = (uid.clone(), machine.unacknowledged());
        let kept = hub.store.write(move |tx| mqtt::suspend(tx, &owner, expiry_s, &unacknowledged, clock::now())).await;
        if let Err(error) = kept {
            tracing::error!(%uid, %error, "a session could not be suspended");
        }
        drop(place);
        last_word(&mut stream, machine.take_output()).await;
        drop(stream);
        if let (Over::Broken(_), Some(will)) = (&over, will) {
            publish_will(&hub, &uid, will, expiry_s).await;
        }
    }

    async fn serve(&mut self) -> Over {
        let mut timer = pin!(sleep_until(self.hub.tick(self.machine.deadline())));
        loop {
            if let Some(over) = Box::pin(self.work()).await {
                return over;
            }
            tokio::select! {
                biased;
                () = self.place.bell() => {}
                got = read(&mut self.stream, &mut self.machine) => match got {
                    Ok(0) => return Over::Broken("the device closed the connection".into()),
                    Ok(_) => {}
                    Err(error) => return Over::Broken(error.to_string()),
                },
                () = &mut timer => {
                    let deadline = self.machine.deadline();
                    if self.hub.uptime() >= deadline {
                        self.machine.disconnect(DisconnectReasonCode::KeepAliveTimeout, "nothing heard for one and a half keep alives");
                        return Over::Broken("silent for one and a half keep alives".into());
                    }
                    timer.as_mut().reset(self.hub.tick(deadline));
                }
            }
        }
    }

    /// Does everything that can be done without waiting for the peer.
    async fn work(&mut self) -> Option<Over> {
        let (messages, end) = self.place.take();
        if let Some(end) = end {
            return Some(Over::Ended(end));
        }
        for message in messages {
            self.machine.queue(message);
        }
        let mut done = Vec::new();
        let mut over = None;
        while let Some(event) = self.machine.poll(self.hub.uptime()) {
            over = self.handle(event, &mut done).await;
            if over.is_some() {
                break;
            }
        }
        done.extend(self.machine.pump(clock::now()));
        done.retain(|id| *id != 0);
        self.place.note_owed(self.machine.owed());
        if !done.is_empty()
            && let Err(error) = self.hub.store.write_patiently(move |tx| mqtt::done(tx, &done)).await
        {
            tracing::error!(uid = %self.uid, %error, "delivered messages could not be removed; they will be sent again");
        }
        if over.is_none() {
            over = self.flush().await;
        }
        over
    }

    async fn handle(&mut self, event: Event, done: &mut Vec<i64>) -> Option<Over> {
        match event {
            Event::Publish(publish) => return self.publish(publish).await,
            Event::Delivered(id) => done.push(id),
            Event::Subscribed(filters) => {
                self.keep_filters().await;
                self.repeat_wishes(&filters).await;
            }
            Event::Unsubscribed => self.keep_filters().await,
            Event::Crossed(what) => tracing::warn!(uid = %self.uid, what, "mqtt: a device tried to leave its lane"),
            Event::Goodbye { with_will, expiry_s } => {
                // A session that was to end with its connection cannot be made to outlive it (MQTT 5, 3.14.2.2.2).
                if let Some(expiry_s) = expiry_s.filter(|_| self.expiry_s > 0) {
                    self.expiry_s = expiry_s.min(SESSION_EXPIRY_MAX_S);
                }
                return Some(if with_will { Over::Broken("good-bye with will".into()) } else { Over::Goodbye });
            }
            Event::Failed(why) => {
                tracing::warn!(uid = %self.uid, why, "mqtt: a link was ended");
                return Some(Over::Broken(why));
            }
            // The machine lets one CONNECT through, and that was before.
            Event::Connect(_) => {}
        }
        None
    }

    async fn publish(&mut self, publish: Publish) -> Option<Over> {
        let taken = tokio::select! {
            taken = self.hub.ingest.from_link(&self.uid, &publish.up, publish.payload.as_slice()) => taken,
            () = self.place.ended() => return self.place.take().1.map(Over::Ended),
        };
        let answer = match taken {
            Ok(()) => Answer::Stored,
            Err(Refused::Payload(_) | Refused::Topic(_)) => Answer::Invalid,
            Err(Refused::Full) => Answer::Full,
            Err(Refused::NotAdmitted) => {
                self.machine.disconnect(DisconnectReasonCode::NotAuthorized, "the device is not admitted");
                return Some(Over::Broken("not admitted".into()));
            }
            Err(Refused::Store(_)) if publish.packet_id.is_none() => return None,
            Err(Refused::Store(_)) => {
                // No acknowledgement: the device keeps the message and brings it again.
                self.machine.disconnect(DisconnectReasonCode::ServerBusy, "the hub cannot store now; try again later");
                return Some(Over::Broken("cannot store".into()));
            }
        };
        if let Some(packet_id) = publish.packet_id {
            self.machine.acknowledge(packet_id, answer);
        }
        None
    }

    async fn keep_filters(&mut self) {
        let (owner, filters) = (self.uid.clone(), self.machine.subscriptions().to_vec());
        if let Err(error) = self.hub.store.write_patiently(move |tx| mqtt::put_filters(tx, &owner, &filters)).await {
            tracing::error!(uid = %self.uid, %error, "subscriptions could not be kept; the device has to subscribe again");
        }
    }

    async fn repeat_wishes(&mut self, filters: &[String]) {
        let owner = self.uid.clone();
        match self.hub.store.read(move |db| mqtt::retained(db, &owner)).await {
            Ok(wishes) => {
                for (topic, payload) in wishes {
                    if filters.iter().any(|filter| super::outbox::matches(filter, &topic)) {
                        self.machine.queue(Down { id: 0, topic, payload, expires_at: None, retain: true, sent: false });
                    }
                }
            }
            Err(error) => tracing::error!(uid = %self.uid, %error, "wishes could not be read"),
        }
    }

    async fn flush(&mut self) -> Option<Over> {
        let bytes = self.machine.take_output();
        if bytes.is_empty() {
            return None;
        }
        tokio::select! {
            written = async {
                self.stream.write_all(&bytes).await?;
                self.stream.flush().await
            } => written.err().map(|error| Over::Broken(error.to_string())),
            () = self.place.ended() => self.place.take().1.map(Over::Ended),
            () = sleep(WRITE_WAIT) => Some(Over::Broken("it does not read what is sent to it".into())),
        }
    }
}

/// Takes the device's last will in, unless it is back by then.
async fn publish_will(hub: &Hub, uid: &DeviceUid, will: Will, expiry_s: u32) {
    let delay = will.delay_s.min(expiry_s).min(WILL_DELAY_MAX_S);
    if delay > 0 {
        sleep(Duration::from_secs(delay.into())).await;
        if hub.links.get(uid).is_some() {
            return;
        }
    }
    // A refusal is logged there.
    let _ = hub.ingest.up(uid, &will.up, &will.payload).await;
}

/// Reads what is there into the machine. The buffer lives on the stack for the moment of the read.
async fn read<S: AsyncRead + Unpin>(stream: &mut S, machine: &mut Machine) -> std::io::Result<usize> {
    poll_fn(|cx| {
        let mut bytes = [MaybeUninit::<u8>::uninit(); READ_AT_ONCE];
        let mut buffer = ReadBuf::uninit(&mut bytes);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
        machine.feed(buffer.filled());
        std::task::Poll::Ready(Ok(buffer.filled().len()))
    })
    .await
}

/// Writes a last packet, closes, and waits a moment for the peer to take it.
async fn last_word<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, bytes: Vec<u8>) {
    let said = Box::pin(timeout(LAST_WORD, async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await?;
        let mut drained = 0;
        while drained < DRAIN_MAX {
            let got = poll_fn(|cx| {
                let mut bytes = [MaybeUninit::<u8>::uninit(); READ_AT_ONCE];
                let mut buffer = ReadBuf::uninit(&mut bytes);
                ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
                std::task::Poll::Ready(std::io::Result::Ok(buffer.filled().len()))
            });
            match got.await? {
                0 => break,
                got => drained += got,
            }
        }
        std::io::Result::Ok(())
    }));
    // The peer may be gone: then there is nobody to tell.
    let _ = said.await;
}
