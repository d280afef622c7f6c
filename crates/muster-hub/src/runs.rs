//! Runs on the hub's side: orders to devices, what devices tell, and an end for each that nobody tells of.
//!
//! The record is in `store::runs`. This tells those who follow a run that there is more, sends a cancel on its way, and calls a run
//! over that its device has not taken in time or has not been heard of since its time was over.
//! It decides nobody's right: the API asks the table, and the watch over rights ([`crate::lapse`]) calls [`Holder::end`].

use std::sync::Arc;
use std::time::Duration;

use muster_proto::Millis;
use muster_proto::api::RunState;
use muster_proto::id::{DeviceUid, OrgId, RunId};
use muster_proto::mqtt::encode;
use muster_proto::order::SignedOrder;
use muster_proto::problem::Problem;
use muster_proto::run::RunOrder;
use muster_proto::topic::{Down, Topic};
use rusqlite::Connection;
use tokio::sync::broadcast;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::audit::Entry;
use crate::clock::{self, DAY, SECOND};
use crate::lapse::{ByToken, Held, Holder};
use crate::mqtt::{Lanes, SendError, SendOptions};
use crate::rights::Action;
use crate::store::runs::{self, RunRow};
use crate::store::{self, Store, mqtt};

/// How often it is looked for runs whose time is over.
const LOOK: Duration = Duration::from_secs(5);
/// How often old output is looked for, in rounds of [`LOOK`].
const PRUNE_EVERY: u32 = 60;
/// Runs whose output goes in one transaction.
const SLICE: i64 = 50;
/// What a device tells in the last moment of an order is on its way for so long.
const UNDER_WAY: Millis = 15 * SECOND;
/// After a run's time was over its device has so long to tell how it ended.
const SILENCE: Millis = 600 * SECOND;
/// A cancel waits so long for an absent device: until then the longest run has ended by itself.
const CANCEL: SendOptions = SendOptions { retain: false, expiry: Duration::from_secs(24 * 3600) };
/// Changes that somebody who follows may fall behind by; further behind, he looks all the same.
const BEHIND: usize = 1024;

/// The runs of all devices. Clones share it.
#[derive(Debug, Clone)]
pub struct Runs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    lanes: Lanes,
    changes: broadcast::Sender<RunId>,
    stopped: CancellationToken,
}

impl Runs {
    /// Over these lanes.
    pub fn new(store: Store, lanes: Lanes) -> Self {
        Self(Arc::new(Inner { store, lanes, changes: broadcast::channel(BEHIND).0, stopped: CancellationToken::new() }))
    }

    /// Orders a device to run a command, for as long as `wait`, unless the run was ended since it was filed: then nothing leaves. The device's answers come by themselves.
    /// Whether the order left.
    ///
    /// # Errors
    /// When the order could not be kept for the device.
    pub async fn start(&self, uid: &DeviceUid, run: &RunId, order: SignedOrder, wait: Duration) -> Result<bool, SendError> {
        let id = run.clone();
        let waits = move |db: &Connection| {
            Ok(runs::by_id(db, &id)?.is_some_and(|run| run.state == RunState::Waiting && run.cancelled_at.is_none()))
        };
        self.0
            .lanes
            .send_if_wanted(
                uid,
                Down::Run(run.clone()),
                encode(&RunOrder::Start(order)),
                SendOptions { retain: false, expiry: wait },
                waits,
            )
            .await
    }

    /// Ends a run: at once where its order still waits for the device, else as soon as the device has ended it.
    /// `entry` is the record of who asked; without one nobody did but the hub. Gives the run as that left it; nothing where it was over.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn cancel(&self, run: &RunRow, by: &str, reason: &str, entry: Option<Entry>) -> store::Result<Option<RunRow>> {
        let (id, uid, who, why, now) = (run.id.clone(), run.uid.clone(), by.to_owned(), reason.to_owned(), clock::now());
        let topic = Topic::Down(uid.clone(), Down::Run(id.clone())).to_string();
        let asked = self.0.store.write(move |tx| {
            if !runs::cancel(tx, &id, &who, now)? {
                return Ok(None);
            }
            if runs::end_by_hub(tx, &id, RunState::Waiting, RunState::Cancelled, "cancelled", &why, now)? {
                mqtt::retract(tx, &uid, &topic)?;
            }
            if let Some(entry) = entry {
                entry.ok(tx)?;
            }
            runs::by_id(tx, &id)
        });
        let asked = asked.await?;
        if asked.is_some() {
            self.changed(&run.id);
            self.tell_cancel(&run.uid, &run.id, reason).await;
        }
        Ok(asked)
    }

    async fn tell_cancel(&self, uid: &DeviceUid, run: &RunId, reason: &str) {
        let order = RunOrder::Cancel { reason: reason.chars().take(500).collect(), t: clock::now() };
        if let Err(error) = self.0.lanes.send(uid, Down::Run(run.clone()), encode(&order), CANCEL).await {
            tracing::warn!(%run, device = %uid, %error, "a device could not be told to end a run; it ends with its time");
        }
    }

    /// A device has told something new of a run.
    pub fn told(&self, run: &RunRow, first: bool) {
        self.changed(&run.id);
        // Somebody asked for its end before the device had taken it: the cancel may have come first, and was nobody's then.
        if first && run.state == RunState::Running && run.cancelled_at.is_some() {
            let (runs, uid, id) = (self.clone(), run.uid.clone(), run.id.clone());
            let reason = format!("ended by {}", run.cancelled_by.as_deref().unwrap_or("the hub"));
            tokio::spawn(async move { runs.tell_cancel(&uid, &id, &reason).await });
        }
    }

    fn changed(&self, run: &RunId) {
        // Nobody may follow it.
        let _ = self.0.changes.send(run.clone());
    }

    /// For somebody who follows a run. Listen first, then look: then nothing is missed.
    pub fn follow(&self, run: &RunId) -> Following {
        Following { run: run.clone(), told: self.0.changes.subscribe(), stopped: self.0.stopped.clone() }
    }

    /// Runs until cancelled.
    pub async fn run(&self, keep_days: u32, shutdown: CancellationToken) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for round in 0_u32.. {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let done = async {
                self.end_overdue(clock::now()).await?;
                if round.is_multiple_of(PRUNE_EVERY) {
                    let cutoff = clock::now() - i64::from(keep_days) * DAY;
                    while self.0.store.write(move |tx| runs::prune(tx, cutoff, SLICE)).await? {}
                }
                store::Result::Ok(())
            };
            if let Err(error) = done.await {
                tracing::error!(%error, "the upkeep of runs failed; it is tried again");
            }
        }
        self.0.stopped.cancel();
    }

    /// Calls over what nobody will tell of any more. What the device says later is truer, and takes its place.
    async fn end_overdue(&self, now: Millis) -> store::Result<()> {
        let alive = self.0.store.read(|db| runs::alive(db, None)).await?;
        for run in alive {
            let Some((from, to, code, why)) = overdue(&run, now) else { continue };
            tracing::info!(run = %run.id, device = %run.uid, "{why}");
            let id = run.id.clone();
            if self.0.store.write(move |tx| runs::end_by_hub(tx, &id, from, to, code, &why, now)).await? {
                self.changed(&run.id);
            }
        }
        Ok(())
    }
}

/// Whether a run is called over without its device.
fn overdue(run: &RunRow, now: Millis) -> Option<(RunState, RunState, &'static str, String)> {
    match run.state {
        RunState::Waiting if run.expires_at + UNDER_WAY <= now => {
            let why = format!("device {} did not take it within {}", run.device_name, waited(run));
            Some((RunState::Waiting, RunState::Expired, "expired", why))
        }
        RunState::Running => {
            let since = run.started_at.or(run.accepted_at).unwrap_or(run.created_at);
            let over = since + Millis::from(run.timeout_s) * SECOND + SILENCE;
            let why = format!("device {} has not told how it ended, and its time is long over", run.device_name);
            (over <= now).then_some((RunState::Running, RunState::Lost, "silent", why))
        }
        _ => None,
    }
}

/// How long an order waits for its device, in words.
pub fn waited(run: &RunRow) -> String {
    let seconds = (run.expires_at - run.created_at) / SECOND;
    match seconds % 60 {
        0 if seconds >= 120 => format!("{} minutes", seconds / 60),
        _ => format!("{seconds} s"),
    }
}

/// Waits for news of one run.
#[derive(Debug)]
pub struct Following {
    run: RunId,
    told: broadcast::Receiver<RunId>,
    stopped: CancellationToken,
}

impl Following {
    /// Returns when there is, or may be, more of the run; `false` when the hub goes down.
    pub async fn more(&mut self) -> bool {
        loop {
            tokio::select! {
                () = self.stopped.cancelled() => return false,
                told = self.told.recv() => match told {
                    Ok(run) if run != self.run => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return true,
                    Err(broadcast::error::RecvError::Closed) => return false,
                },
            }
        }
    }
}

/// A run as something that lives by a right.
pub fn held(run: &RunRow) -> Held {
    Held {
        id: run.id.to_string(),
        org: run.org.clone(),
        project: run.project.clone(),
        uid: run.uid.clone(),
        device_name: run.device_name.clone(),
        email: run.email.clone(),
        token: run.token.clone().map(ByToken::UntilWithdrawn),
        needs: Action::Operate,
    }
}

impl Holder for Runs {
    fn held(&self, db: &Connection, org: Option<&OrgId>) -> store::Result<Vec<Held>> {
        let alive = runs::alive(db, org)?;
        // One whose end was asked for already goes on only until its device has ended it.
        Ok(alive.iter().filter(|run| run.cancelled_at.is_none()).map(held).collect())
    }

    fn end(&self, held: &Held, why: &Problem) {
        let (runs, id, why) = (self.clone(), held.id.clone(), why.detail.clone());
        tokio::spawn(async move {
            let ended = async {
                let Ok(id) = id.parse::<RunId>() else { return Ok(None) };
                match runs.0.store.read(move |db| runs::by_id(db, &id)).await? {
                    Some(run) => runs.cancel(&run, "hub", &why, None).await,
                    None => Ok(None),
                }
            };
            if let Err(error) = ended.await {
                tracing::error!(run = id, %error, "a run whose right is gone could not be ended");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_proto::run::{RunCommand, RunUsed};

    fn row(state: RunState) -> RunRow {
        RunRow {
            n: 1,
            id: "raaaaaaaaaaaaaaa".parse().unwrap(),
            org: "acme".parse().unwrap(),
            uid: "daaaaaaaaaaaaaaa".parse().unwrap(),
            device_name: "robot-7".into(),
            project: "lab".parse().unwrap(),
            role: "operate".into(),
            account: 1,
            email: "ada@acme.example".into(),
            token: None,
            address: None,
            command: RunCommand::Shell("true".into()),
            run_as: None,
            cwd: None,
            env: Vec::new(),
            timeout_s: 60,
            output_max: 1,
            state,
            by_hub: false,
            created_at: 1_000_000,
            expires_at: 1_600_000,
            accepted_at: Some(1_100_000),
            started_at: Some(1_200_000),
            ended_at: None,
            cancelled_at: None,
            cancelled_by: None,
            exit_code: None,
            signal: None,
            end_code: None,
            end_reason: None,
            stdout: 0,
            stderr: 0,
            dropped: 0,
            kept: 0,
            used: RunUsed::default(),
        }
    }

    #[test]
    fn nothing_waits_or_runs_for_ever() {
        let to = |row: &RunRow, now| overdue(row, now).map(|(_, to, ..)| to);
        let waiting = row(RunState::Waiting);
        assert_eq!(to(&waiting, 1_600_000 + UNDER_WAY - 1), None);
        assert_eq!(to(&waiting, 1_600_000 + UNDER_WAY), Some(RunState::Expired));
        assert!(overdue(&waiting, Millis::MAX / 2).unwrap().3.contains("10 minutes"));
        assert_eq!(waited(&RunRow { expires_at: waiting.created_at + 90 * SECOND, ..row(RunState::Waiting) }), "90 s");
        let running = row(RunState::Running);
        assert_eq!(to(&running, 1_200_000 + 60_000 + SILENCE - 1), None);
        assert_eq!(to(&running, 1_200_000 + 60_000 + SILENCE), Some(RunState::Lost));
        let begun = RunRow { started_at: None, ..running };
        assert_eq!(to(&begun, 1_100_000 + 60_000 + SILENCE), Some(RunState::Lost));
        for state in RunState::ALL.into_iter().filter(|state| state.is_over()) {
            assert_eq!(to(&row(state), Millis::MAX / 2), None, "{state:?}");
        }
    }
}
