//! The line to the broker: dials, keeps the shared subscription, takes messages in, acknowledges what was committed.
//!
//! Messages of one device go to one worker, so that they keep their order; several workers share the store's commits.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster_proto::backoff::Backoff;
use muster_proto::id::DeviceUid;
use muster_proto::topic::{HUB_FILTER, HUB_SHARE, Topic};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet, Publish, SubscribeReasonCode};
use rumqttc::v5::{Event, EventLoop};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::control::ANSWERS;
use super::{Broker, INFLIGHT, admit_commands, cut_commands};
use crate::ingest::{Ingest, Refused};
use crate::mqtt::SendError;
use crate::random;
use crate::store::{Store, mqtt};

/// Workers that wait for commits side by side.
const WORKERS: usize = 16;
/// Messages that wait for a worker: all that the broker may have in flight, and as many heartbeats. More heartbeats are dropped.
const QUEUE: usize = 2 * INFLIGHT as usize;
/// First and longest pause between attempts.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Pause before a message that could not be stored is tried again.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// Names asked for at once when the lists are compared.
const PAGE: usize = 500;
/// Devices brought in line in one command.
const BATCH: usize = 50;
/// How long the good-bye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Keeps the line to the broker. Owned by `serve`.
pub struct Bridge {
    broker: Broker,
    events: EventLoop,
    store: Store,
    ingest: Ingest,
    url: String,
}

impl std::fmt::Debug for Bridge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bridge")
    }
}

/// A message with the connection that it came on: its acknowledgement belongs there and nowhere else.
type Job = (u64, Publish);

impl Bridge {
    pub(super) fn new(broker: Broker, events: EventLoop, store: Store, ingest: Ingest, url: String) -> Self {
        Self { broker, events, store, ingest, url }
    }

    /// Runs until cancelled.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let epoch = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        let workers: Vec<_> = (0..WORKERS)
            .map(|_| {
                let (jobs, queue) = mpsc::channel(QUEUE);
                tasks.spawn(work(self.broker.clone(), self.ingest.clone(), Arc::clone(&epoch), queue));
                jobs
            })
            .collect();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => break,
                event = self.events.poll() => event,
            };
            match event {
                Ok(Event::Incoming(Packet::ConnAck(_))) => {
                    epoch.fetch_add(1, Ordering::AcqRel);
                    self.subscribe();
                }
                Ok(Event::Incoming(Packet::SubAck(suback))) => {
                    if suback.return_codes.iter().all(|code| matches!(code, SubscribeReasonCode::Success(_))) {
                        backoff.reset();
                        tracing::info!(broker = self.url, "connected to the MQTT broker");
                        self.broker.0.up.store(true, Ordering::Release);
                        tasks.spawn(align(self.broker.clone(), self.store.clone()));
                    } else {
                        tracing::error!(broker = self.url, codes = ?suback.return_codes,
                            "the MQTT broker refuses the hub's subscriptions: configure it with what `muster-hub broker-config mosquitto` prints");
                    }
                }
                Ok(Event::Incoming(Packet::Publish(publish))) => self.take(&workers, epoch.load(Ordering::Acquire), publish),
                Ok(_) => {}
                Err(error) => {
                    self.broker.0.up.store(false, Ordering::Release);
                    epoch.fetch_add(1, Ordering::AcqRel);
                    let pause = backoff.next(u64::from_le_bytes(random::bytes()), None);
                    tracing::warn!(broker = self.url, %error, ?pause, "no line to the MQTT broker; trying again");
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = sleep(pause) => {}
                    }
                }
            }
        }
        self.broker.0.up.store(false, Ordering::Release);
        drop(workers);
        if self.broker.0.client.try_disconnect().is_ok() {
            let goodbye = async { while self.events.poll().await.is_ok() {} };
            // The broker keeps the session all the same.
            let _ = timeout(GOODBYE, goodbye).await;
        }
        tasks.shutdown().await;
    }

    fn subscribe(&self) {
        let filters = [format!("$share/{HUB_SHARE}/{HUB_FILTER}"), ANSWERS.to_owned()].map(|path| Filter::new(path, QoS::AtLeastOnce));
        if let Err(error) = self.broker.0.client.try_subscribe_many(filters) {
            tracing::error!(%error, "the subscription to the MQTT broker could not be sent");
        }
    }

    fn take(&self, workers: &[mpsc::Sender<Job>], epoch: u64, publish: Publish) {
        if publish.topic == ANSWERS.as_bytes() {
            self.broker.0.control.answered(&publish.payload);
            acknowledge(&self.broker, &publish);
            return;
        }
        let mut hasher = DefaultHasher::new();
        // `muster/v1/{uid}`: the device, however the topic goes on.
        publish.topic.split(|byte| *byte == b'/').nth(2).hash(&mut hasher);
        #[expect(clippy::cast_possible_truncation, reason = "only the remainder counts")]
        let worker = &workers[hasher.finish() as usize % workers.len()];
        if worker.try_send((epoch, publish)).is_err() {
            tracing::warn!("messages come faster than they can be stored; one waits at the broker, or was a heartbeat");
        }
    }
}

fn acknowledge(broker: &Broker, publish: &Publish) {
    if publish.qos == QoS::AtLeastOnce
        && let Err(error) = broker.0.client.try_ack(publish)
    {
        tracing::debug!(%error, "an acknowledgement was not sent; the message comes again");
    }
}

async fn work(broker: Broker, ingest: Ingest, epoch: Arc<AtomicU64>, mut queue: mpsc::Receiver<Job>) {
    while let Some((came, publish)) = queue.recv().await {
        let topic = std::str::from_utf8(&publish.topic).ok().and_then(|topic| topic.parse::<Topic>().ok());
        match topic {
            Some(Topic::Up(uid, up)) => {
                // What cannot be stored now is neither acknowledged nor dropped: the broker holds what comes after it.
                while let Err(Refused::Store(_)) = ingest.up(&uid, &up, &publish.payload).await {
                    if publish.qos == QoS::AtMostOnce {
                        break;
                    }
                    sleep(STORE_RETRY).await;
                }
            }
            _ => tracing::warn!(topic = %String::from_utf8_lossy(&publish.topic), "a message on a topic that is none of Muster's"),
        }
        // After a new connection the broker sends it again, under a number of that connection.
        if came == epoch.load(Ordering::Acquire) {
            acknowledge(&broker, &publish);
        }
    }
}

/// Brings the broker's list of devices in line with the hub's.
async fn align(broker: Broker, store: Store) {
    if let Err(error) = aligned(&broker, &store).await {
        tracing::error!(%error, "the devices at the MQTT broker could not be compared with the hub's list; the next connection tries again");
    }
}

async fn aligned(broker: &Broker, store: &Store) -> Result<(), SendError> {
    let mut known = BTreeSet::new();
    for offset in (0..).step_by(PAGE) {
        let list = json!({ "command": "listClients", "verbose": false, "count": PAGE, "offset": offset });
        let answers = broker.0.control.ask(vec![list]).await?;
        let names = answers.first().and_then(|answer| answer["data"]["clients"].as_array().cloned()).unwrap_or_default();
        known.extend(names.iter().filter_map(|name| name.as_str()?.parse::<DeviceUid>().ok()));
        if names.len() < PAGE {
            break;
        }
    }
    // Read after the broker was asked: a device that is admitted now is made known by whoever admits it.
    let admitted: BTreeSet<_> = store.read(mqtt::admitted).await?.into_iter().collect();
    let (new, gone): (Vec<_>, Vec<_>) = (admitted.difference(&known).collect(), known.difference(&admitted).collect());
    if !new.is_empty() || !gone.is_empty() {
        tracing::info!(new = new.len(), gone = gone.len(), "bringing the devices at the MQTT broker in line");
    }
    for batch in new.chunks(BATCH) {
        broker.0.control.run(batch.iter().flat_map(|uid| admit_commands(uid)).collect()).await?;
    }
    for batch in gone.chunks(BATCH) {
        broker.0.control.run(batch.iter().flat_map(|uid| cut_commands(uid)).collect()).await?;
    }
    Ok(())
}
