//! What a fleet costs its hub: memory per idle device, processor time per stored message, and a storm of reconnects.
//!
//! `bench-fleet [--devices 10000] [--seconds 30] [--hub PATH] [--without-mosquitto]`. The hub is `muster-hub` beside this program,
//! a process of its own with its defaults. Every device has its own key and certificate, enrolled over the hub's API with one token.
//! Then the same devices put the same load on Mosquitto, where it is installed, with the same certificates.
//!
//! One process plays all devices: MQTT 5 by hand over rustls, so that the measuring side stays light; it still takes the other core.
//! Prints one table. Nothing is judged by time except in the table; a sample that was acknowledged and is not stored exactly once,
//! or a device that does not come back, fails the run.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::sync::watch;

mod device;
mod enrol;
mod options;
mod packet;
mod process;
mod rows;
mod server;
mod table;
mod tally;

use device::{BATCH_EVERY, Orders, SAMPLES};
use options::Options;
use process::Reading;
use server::{Hub, Mosquitto};
use table::{Broker, Storm};
use tally::Tally;

/// All devices are linked after this, or the run ends: several times what a slow machine needs for ten thousand.
const LINK_WAIT: Duration = Duration::from_secs(300);
/// The links at rest: longer than a heartbeat's period, so that every device has sent one.
const REST: Duration = Duration::from_secs(35);
/// A fresh server at rest.
const SETTLE: Duration = Duration::from_secs(3);
/// Everything that is under way is acknowledged after this, or the run ends.
const DRAIN_WAIT: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            say(&format!("{error:#}"));
            return ExitCode::from(2);
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(anyhow::Error::from).and_then(|runtime| runtime.block_on(run(&options))) {
        Ok(missed) => {
            say(&format!("goals missed: {missed}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<usize> {
    let folder = tempfile::tempdir()?;
    let mut hub = Hub::make(&options.hub, folder.path())?;
    say(&format!("{} devices enrol", options.devices));
    hub.start().await?;
    let started = Instant::now();
    let identities = enrol::fleet(&hub, options.devices).await?;
    let enrolled = started.elapsed();
    // What enrolling left in the hub's memory would hide a part of what links need.
    hub.stop().await?;

    let tally = Arc::new(Tally::new(options.devices));
    let (orders, _) = watch::channel(Orders::default());
    for (index, identity) in identities.iter().enumerate() {
        tokio::spawn(device::run(index, identity, Arc::clone(&tally), orders.subscribe())?);
    }
    let fleet = Fleet { tally, orders, devices: options.devices, seconds: options.seconds };

    hub.start().await?;
    let mut ours = fleet.load("muster-hub", hub.mqtt()?, || hub.reading()).await?;
    let storm = fleet.storm(&mut hub).await?;
    let samples = rows::check(&hub.database(), &identities, &fleet.tally, SAMPLES)?;
    ours.samples = Some(samples);
    fleet.leave().await?;
    hub.stop().await?;

    let theirs = match options.mosquitto.as_deref() {
        None => None,
        Some(program) => {
            let mosquitto = Mosquitto::start(program, folder.path(), options.devices).await?;
            let load = fleet.load("mosquitto", mosquitto.address, || mosquitto.reading()).await?;
            fleet.leave().await?;
            Some((mosquitto.version.clone(), load))
        }
    };
    Ok(table::print(options, enrolled, &ours, &storm, theirs.as_ref()))
}

fn say(text: &str) {
    eprintln!("fleet: {text}");
}

/// The devices, and what they are told.
struct Fleet {
    tally: Arc<Tally>,
    orders: watch::Sender<Orders>,
    devices: usize,
    seconds: u64,
}

impl Fleet {
    /// Links all devices, lets them rest, lets them report, and says what each of it cost the server.
    async fn load(&self, name: &str, address: std::net::SocketAddr, reading: impl Fn() -> Result<Reading>) -> Result<Broker> {
        tokio::time::sleep(SETTLE).await;
        let empty = reading()?;
        say(&format!("{name}: all link"));
        self.orders.send_modify(|orders| orders.to = Some(address));
        self.all_linked(LINK_WAIT).await?;
        let linked = reading()?;
        say(&format!("{name}: all rest for {} s", REST.as_secs()));
        tokio::time::sleep(REST).await;
        let rested = reading()?;
        say(&format!("{name}: all report for {} s", self.seconds));
        let stored_before = self.tally.stored();
        self.orders.send_modify(|orders| orders.report_from = Some(Instant::now()));
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
        let busy = reading()?;
        let stored = self.tally.stored() - stored_before;
        if stored == 0 {
            bail!("{name} acknowledged no message: {}", self.tally.complaints());
        }
        let late = self.tally.take_late();
        Ok(Broker { empty, linked, rested, busy, stored, late, samples: None })
    }

    /// Kills the hub under load and starts it again; all devices come back by their own back-off.
    async fn storm(&self, hub: &mut Hub) -> Result<Storm> {
        say("muster-hub: killed with SIGKILL and started again");
        self.tally.forget_links();
        hub.kill()?;
        let killed = Instant::now();
        // What was under way is sent again; nothing new, so that a connect's cost is not mixed with reports.
        self.orders.send_modify(|orders| orders.report_from = None);
        let under_way = self.tally.under_way();
        hub.start().await?;
        let answering = killed.elapsed();
        self.until(LINK_WAIT, "come back", || self.tally.broken() >= self.devices).await?;
        self.all_linked(LINK_WAIT).await?;
        let back = self.tally.links(killed);
        let reading = hub.reading()?;
        self.drain().await?;
        say("muster-hub: all report once more");
        self.orders.send_modify(|orders| orders.report_from = Some(Instant::now()));
        tokio::time::sleep(BATCH_EVERY).await;
        self.drain().await?;
        Ok(Storm { answering, back, dials: self.tally.dials(), under_way, reading })
    }

    async fn all_linked(&self, within: Duration) -> Result<()> {
        self.until(within, "are linked", || self.tally.linked() == self.devices).await
    }

    /// Nothing new is reported; waits until everything is acknowledged.
    async fn drain(&self) -> Result<()> {
        self.orders.send_modify(|orders| orders.report_from = None);
        self.until(DRAIN_WAIT, "have all acknowledged", || self.tally.under_way() == 0).await
    }

    /// All devices say good-bye.
    async fn leave(&self) -> Result<()> {
        self.drain().await?;
        self.orders.send_modify(|orders| orders.to = None);
        self.until(DRAIN_WAIT, "have left", || self.tally.linked() == 0).await?;
        self.tally.forget_links();
        Ok(())
    }

    async fn until(&self, within: Duration, what: &str, condition: impl Fn() -> bool) -> Result<()> {
        let waiting = async {
            while !condition() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(within, waiting).await.ok().with_context(|| {
            let (linked, all, complaints) = (self.tally.linked(), self.devices, self.tally.complaints());
            format!("not all devices {what} after {} s ({linked} of {all} are linked now): {complaints}", within.as_secs())
        })
    }
}
