//! One simulated device: links, sends heartbeats, reports when told to, and comes back by the daemon's own back-off.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use muster_proto::backoff::Backoff;
use muster_proto::id::DeviceUid;
use muster_proto::limits::{HEARTBEAT_EVERY, MQTT_KEEP_ALIVE};
use muster_proto::mqtt::{Column, Heartbeat, Presence, UsageBatch, encode};
use muster_proto::topic::down_filter;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::enrol::Identity;
use crate::packet::{self, Said};
use crate::tally::Tally;

/// Time between two batches of one device.
pub(crate) const BATCH_EVERY: Duration = Duration::from_secs(10);
/// Samples in a batch.
pub(crate) const SAMPLES: u32 = 3;
/// Devices that share a source address: well under the ports that one address has.
const DEVICES_PER_ADDRESS: usize = 10_000;
/// Longest dial, and longest wait for the answers to CONNECT, SUBSCRIBE and birth: the daemon's.
const DIAL_WAIT: Duration = Duration::from_secs(15);
const GREETING_WAIT: Duration = Duration::from_secs(15);
/// Packet ids: of the subscription and the birth; batches have those above.
const SUBSCRIBE_ID: u16 = 1;
const BIRTH_ID: u16 = 2;
/// One read: everything that a device is told here is smaller.
const READ_SIZE: usize = 512;

/// What the devices are told to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Orders {
    /// Where to link; nowhere if absent.
    pub(crate) to: Option<SocketAddr>,
    /// Report batches, beginning in the ten seconds after this.
    pub(crate) report_from: Option<Instant>,
}

/// The one life of a device's daemon here.
pub(crate) fn boot(device: usize) -> String {
    format!("{:016x}", random(device as u64))
}

/// A device's whole life. Ends when nobody gives orders any more.
pub(crate) fn run(
    index: usize,
    identity: &Identity,
    tally: Arc<Tally>,
    orders: watch::Receiver<Orders>,
) -> Result<impl Future<Output = ()> + Send + 'static> {
    let address = u8::try_from(index / DEVICES_PER_ADDRESS + 2).context("too many devices for the addresses of loopback")?;
    let device = Device {
        index,
        uid: identity.uid.clone(),
        tls: Arc::clone(&identity.tls),
        source: Ipv4Addr::new(127, 0, 0, address),
        tally,
        orders,
        link: 0,
        beats: 0,
        batches: 0,
        pending: None,
        draws: random(index as u64 + (1 << 32)),
    };
    Ok(device.live())
}

struct Device {
    index: usize,
    uid: DeviceUid,
    tls: Arc<ClientConfig>,
    source: Ipv4Addr,
    tally: Arc<Tally>,
    orders: watch::Receiver<Orders>,
    link: u64,
    beats: u64,
    batches: u64,
    /// A batch that is not acknowledged: its packet id and payload.
    pending: Option<(u16, Vec<u8>)>,
    draws: u64,
}

/// Why a link is over.
enum Over {
    /// Told to go.
    Told,
    Broken(anyhow::Error),
}

impl Device {
    async fn live(mut self) {
        let (mut backoff, mut fresh) = (Backoff::default(), true);
        loop {
            let Some(to) = self.orders.borrow_and_update().to else {
                (backoff, fresh) = (Backoff::default(), true);
                if self.orders.changed().await.is_err() {
                    return;
                }
                continue;
            };
            match Box::pin(self.once(to, fresh, &mut backoff)).await {
                Over::Told => continue,
                Over::Broken(error) => self.tally.complain(error.to_string()),
            }
            fresh = false;
            let until = Instant::now() + backoff.next(self.draw(), None);
            while self.orders.borrow().to == Some(to) {
                tokio::select! {
                    () = sleep_until(until.into()) => break,
                    changed = self.orders.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    /// One link, from the dial to its end.
    async fn once(&mut self, to: SocketAddr, fresh: bool, backoff: &mut Backoff) -> Over {
        let linked = {
            let tally = Arc::clone(&self.tally);
            // Only a first link waits for its turn; who comes back has the back-off for that.
            let _turn = if fresh { tally.gate.acquire().await.ok() } else { None };
            Box::pin(self.open(to)).await
        };
        let (mut stream, mut inbound) = match linked {
            Ok(linked) => linked,
            Err(error) => return Over::Broken(error),
        };
        self.tally.link();
        let over = self.serve(to, &mut stream, &mut inbound, backoff).await;
        if matches!(over, Over::Told) {
            let _ = stream.write_all(&packet::DISCONNECT).await;
            let _ = timeout(Duration::from_secs(1), stream.shutdown()).await;
        }
        self.tally.unlink();
        over
    }

    async fn open(&mut self, to: SocketAddr) -> Result<(TlsStream<TcpStream>, Vec<u8>)> {
        self.tally.dial();
        let dialling = async {
            let socket = TcpSocket::new_v4()?;
            socket.bind((self.source, 0).into())?;
            let tcp = socket.connect(to).await?;
            tcp.set_nodelay(true)?;
            TlsConnector::from(Arc::clone(&self.tls)).connect(ServerName::from(to.ip()), tcp).await
        };
        let mut stream = timeout(DIAL_WAIT, dialling).await.context("no TLS in time")?.map_err(|error| anyhow::anyhow!("dial: {error}"))?;
        let mut inbound = Vec::new();
        self.link += 1;
        timeout(GREETING_WAIT, self.greet(&mut stream, &mut inbound)).await.context("no greeting in time")??;
        Ok((stream, inbound))
    }

    async fn greet(&mut self, stream: &mut TlsStream<TcpStream>, inbound: &mut Vec<u8>) -> Result<()> {
        let absent = Presence { online: false, link: self.link, boot: None, t: None, agent: None, facts: None, reason: None };
        let keep_alive = u16::try_from(MQTT_KEEP_ALIVE.as_secs())?;
        stream.write_all(&packet::connect(self.uid.as_str(), keep_alive, &self.topic("presence"), &encode(&absent))).await?;
        await_said(stream, inbound, &Said::Welcome).await?;
        let birth = Presence { online: true, boot: Some(boot(self.index)), t: Some(now()), agent: Some("fleet".into()), ..absent };
        let mut both = packet::subscribe(SUBSCRIBE_ID, &down_filter(&self.uid));
        both.extend(packet::publish(&self.topic("presence"), &encode(&birth), Some(BIRTH_ID), true, false));
        stream.write_all(&both).await?;
        await_said(stream, inbound, &Said::Subscribed).await?;
        await_said(stream, inbound, &Said::Acknowledged(BIRTH_ID)).await
    }

    async fn serve(&mut self, to: SocketAddr, stream: &mut TlsStream<TcpStream>, inbound: &mut Vec<u8>, backoff: &mut Backoff) -> Over {
        let mut next_beat = Instant::now() + HEARTBEAT_EVERY.mul_f64(self.share());
        let mut next_batch = self.first_batch();
        if self.pending.is_some()
            && let Err(error) = self.send_pending(stream, true).await
        {
            return Over::Broken(error);
        }
        let mut bytes = [0; READ_SIZE];
        let mut changes = self.orders.clone();
        loop {
            let wake = next_batch.map_or(next_beat, |batch| batch.min(next_beat));
            tokio::select! {
                got = stream.read(&mut bytes) => match got {
                    Ok(0) => return Over::Broken(anyhow::anyhow!("the server closed the link")),
                    Ok(got) => {
                        inbound.extend_from_slice(&bytes[..got]);
                        match self.hear(inbound) {
                            Ok(true) => backoff.reset(),
                            Ok(false) => {}
                            Err(error) => return Over::Broken(error),
                        }
                    }
                    Err(error) => return Over::Broken(anyhow::anyhow!("link: {error}")),
                },
                () = sleep_until(wake.into()) => {
                    let sent = if wake == next_beat {
                        next_beat += HEARTBEAT_EVERY;
                        self.beat(stream).await
                    } else {
                        next_batch = next_batch.map(|batch| batch + BATCH_EVERY);
                        self.report(stream).await
                    };
                    if let Err(error) = sent {
                        return Over::Broken(error);
                    }
                }
                changed = changes.changed() => {
                    if changed.is_err() || changes.borrow_and_update().to != Some(to) {
                        return Over::Told;
                    }
                    next_batch = self.first_batch();
                }
            }
        }
    }

    /// Takes what came. Whether a batch was acknowledged: the link has proved itself.
    fn hear(&mut self, inbound: &mut Vec<u8>) -> Result<bool> {
        let mut proved = false;
        while let Some(said) = packet::take(inbound)? {
            if let Said::Acknowledged(id) = said {
                match self.pending.take() {
                    Some((pending, _)) if pending == id => self.tally.acknowledge(self.index),
                    _ => bail!("the server acknowledged what was not sent"),
                }
                proved = true;
            }
        }
        Ok(proved)
    }

    async fn beat(&mut self, stream: &mut TlsStream<TcpStream>) -> Result<()> {
        self.beats += 1;
        let beat = Heartbeat { seq: self.beats, t: now(), uptime_s: 86_400 + self.beats * 30, sessions: 0, spooled: 0 };
        let packet = packet::publish(&self.topic("heartbeat"), &encode(&beat), None, false, false);
        Ok(stream.write_all(&packet).await?)
    }

    async fn report(&mut self, stream: &mut TlsStream<TcpStream>) -> Result<()> {
        if self.pending.is_some() {
            self.tally.late();
            return Ok(());
        }
        let id = u16::try_from(self.batches % 60_000)? + BIRTH_ID + 1;
        self.pending = Some((id, self.batch()));
        self.batches += 1;
        self.tally.send();
        self.send_pending(stream, false).await
    }

    async fn send_pending(&mut self, stream: &mut TlsStream<TcpStream>, again: bool) -> Result<()> {
        let Some((id, payload)) = &self.pending else { return Ok(()) };
        Ok(stream.write_all(&packet::publish(&self.topic("usage"), payload, Some(*id), false, again)).await?)
    }

    /// About two hundred bytes: consecutive samples of processor, load, memory and a temperature.
    fn batch(&mut self) -> Vec<u8> {
        let step = BATCH_EVERY.as_secs_f64() / f64::from(SAMPLES);
        let mut column = |from: f64, spread: f64, digits: i32| {
            let unit = 10_f64.powi(digits);
            let values = (0..SAMPLES).map(|_| Some(((from + spread * self.share()) * unit).round() / unit));
            Column::Each(values.collect())
        };
        let columns = [
            ("cpu", column(0.1, 0.5, 3)),
            ("load1", column(0.5, 1.0, 2)),
            ("mem", column(1.9e9, 2e8, 0)),
            ("temp:cpu", column(48.0, 9.0, 1)),
        ];
        encode(&UsageBatch {
            boot: boot(self.index),
            first_seq: self.batches * u64::from(SAMPLES),
            n: SAMPLES,
            t0: now() - i64::try_from(BATCH_EVERY.as_millis()).unwrap_or(0),
            step_s: (step * 1000.0).round() / 1000.0,
            dt: None,
            dropped: 0,
            c: columns.map(|(name, column)| (name.to_owned(), column)).into(),
        })
    }

    /// The devices begin spread over one period.
    fn first_batch(&mut self) -> Option<Instant> {
        let from = self.orders.borrow().report_from?;
        Some(from + BATCH_EVERY.mul_f64(self.share()))
    }

    fn topic(&self, name: &str) -> String {
        format!("{}/{}/up/{name}", muster_proto::topic::ROOT, self.uid)
    }

    fn draw(&mut self) -> u64 {
        self.draws = self.draws.wrapping_add(1);
        random(self.draws)
    }

    /// Evenly from 0 to 1.
    fn share(&mut self) -> f64 {
        self.draw() as f64 / u64::MAX as f64
    }
}

async fn await_said(stream: &mut TlsStream<TcpStream>, inbound: &mut Vec<u8>, wanted: &Said) -> Result<()> {
    let mut bytes = [0; READ_SIZE];
    loop {
        match packet::take(inbound)? {
            Some(said) if said == *wanted => return Ok(()),
            Some(Said::Other) => {}
            Some(said) => bail!("the server said {said:?} where {wanted:?} belongs"),
            None => match stream.read(&mut bytes).await.map_err(|error| anyhow::anyhow!("greeting: {error}"))? {
                0 => bail!("the server closed the link before its answer"),
                got => inbound.extend_from_slice(&bytes[..got]),
            },
        }
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// The same number for the same seed (SplitMix64): a run can be repeated. Nothing here needs secrecy.
fn random(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
