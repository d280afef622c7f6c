//! Puts the hub together, runs it, and takes it apart in order.
//!
//! The listeners come bound, so that a test chooses port 0. Every part is a task that this module owns.
//! A part that ends by itself ends the hub: systemd starts it afresh, which is better than half a hub.
//!
//! Order of stopping: no new connections; requests and MQTT links end; sessions are kept for both ends to dial again;
//! last words are written; the database closes. Each step has a deadline.

mod hold;

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use muster_link::signals::{Asked, Signals};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::accounts::LoginLimit;
use crate::api;
use crate::broker::{self, Bridge};
use crate::ca::{Ca, OrderKey};
use crate::clock::{self, DAY};
use crate::config::Config;
use crate::ingest::{Ingest, Options};
use crate::lapse::{self, Lapses};
use crate::listener;
use crate::mail::Mailer;
use crate::meter::Meter;
use crate::metrics::Metrics;
use crate::mqtt::{Endpoint, Lanes};
use crate::registry::Registry;
use crate::relay::Relay;
use crate::runs::Runs;
use crate::sso::Provider;
use crate::standings::Standings;
use crate::state::{Admissions, App, AppState, Endpoints};
use crate::store::{Store, tokens};
use crate::systemd;
use crate::tls::ServerCertificate;

/// From the stop to the end of all parts; what is left then is dropped. systemd waits longer (`TimeoutStopSec`).
const STOP: Duration = Duration::from_secs(10);
/// How often certificates and ended tokens are looked after.
const HOUSEKEEPING: Duration = Duration::from_secs(6 * 3600);
/// Personal access tokens stay listed for this long after their end.
const ENDED_TOKENS: i64 = 30 * DAY;

/// The hub's ports, bound.
#[derive(Debug)]
pub struct Ports {
    /// HTTPS.
    pub https: TcpListener,
    /// MQTT; absent with an external broker.
    pub mqtt: Option<TcpListener>,
}

impl Ports {
    /// Binds what the configuration names.
    ///
    /// # Errors
    /// When an address is taken or not ours.
    pub async fn bind(config: &Config) -> Result<Self> {
        let https = bind("listen", config.listen).await?;
        let mqtt = match config.mqtt.broker {
            None => Some(bind("mqtt.listen", config.mqtt.listen).await?),
            Some(_) => None,
        };
        Ok(Self { https, mqtt })
    }
}

async fn bind(key: &str, address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} ({key}): is another hub running there? choose another address in the configuration")
    })
}

/// A hub that runs.
pub struct Running {
    /// What its parts share.
    pub state: AppState,
    /// Where HTTPS listens.
    pub https: SocketAddr,
    /// Where MQTT listens.
    pub mqtt: Option<SocketAddr>,
    tasks: JoinSet<&'static str>,
    shutdown: CancellationToken,
    /// Keeps a second hub off the data directory.
    _held: File,
}

/// Starts all parts. Returns when the hub answers.
///
/// # Errors
/// When the data directory, the database, the authority or TLS is not usable.
pub async fn start(config: Config, ports: Ports) -> Result<Running> {
    let https = ports.https.local_addr()?;
    let mqtt = ports.mqtt.as_ref().map(TcpListener::local_addr).transpose()?;
    let now = clock::now();
    make_private_dir(&config.data_dir)?;
    let held = hold::hold(&config.data_dir)?;
    close_keys(&config.data_dir)?;
    let (ca, store) = open(&config)?;
    let certificate = ServerCertificate::open(&config.data_dir, config.certificate_names(), &ca, now)?;
    let orders = OrderKey::open(&config.data_dir, &ca, now)?;
    let standings = Standings::open(&store).await?;
    let registry = Registry::open(&store).await?;
    let mailer = Mailer::new(&config)?;
    let metrics = Metrics::default();
    let meter = Meter::start(store.clone(), &config, &metrics).await?;
    let options =
        Options { heartbeat_every: config.presence.heartbeat_every, keep_days: config.retention.samples_days, ..Options::default() };
    let ingest = Ingest::open(store.clone(), options, &metrics).await?;
    let way = Way::open(&config, &ca, &store, &ingest, &metrics).await?;
    let lanes = way.lanes();
    let relay = Relay::start(store.clone(), &metrics, api::sessions::order_through(lanes.clone())).await?;
    let lapses = Lapses::of(&store, &standings);
    lapses.watch(Arc::new(lapse::Sessions(relay.clone())));
    let runs = Runs::new(store.clone(), lanes.clone());
    lapses.watch(Arc::new(runs.clone()));
    let told = runs.clone();
    ingest.on_run(Box::new(move |run, first| told.told(run, first)));
    let told = relay.clone();
    ingest.on_event(Arc::new(move |uid, event| told.device_event(uid, event)));

    let endpoints = Endpoints::new(&config, https.port(), mqtt.map_or(0, |address| address.port()));
    let sso = config.oidc.clone().map(|settings| Provider::new(settings, &endpoints.https)).transpose()?;
    let state: AppState = Arc::new(App {
        config,
        store,
        standings,
        registry,
        ca,
        orders: orders.clone(),
        endpoints,
        metrics,
        logins: LoginLimit::default(),
        ingest: ingest.clone(),
        lanes,
        mqtt: way.endpoint(),
        sso,
        mailer,
        relay,
        runs: runs.clone(),
        lapses: lapses.clone(),
        tails: api::Tails::default(),
        admissions: Admissions::default(),
    });

    let shutdown = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (tls, stop) = (certificate.https()?, shutdown.clone());
    let router = api::router(Arc::clone(&state));
    tasks.spawn(async move {
        listener::serve(ports.https, tls, router, stop).await;
        "the HTTPS listener"
    });
    let stop = shutdown.clone();
    match (way, ports.mqtt) {
        (Way::Embedded(endpoint, _), Some(listener)) => {
            let tls = certificate.mqtt()?;
            tasks.spawn(async move {
                endpoint.serve_tcp(listener, tls, stop).await;
                "the MQTT endpoint"
            });
        }
        (Way::Embedded(..), None) => bail!("mqtt.listen: the embedded endpoint needs a port"),
        (Way::External(bridge, _), _) => {
            tasks.spawn(async move {
                bridge.run(stop).await;
                "the line to the MQTT broker"
            });
        }
    }
    let stop = shutdown.clone();
    tasks.spawn(async move {
        ingest.run(stop).await;
        "the upkeep of devices"
    });
    let (stop, keep_days) = (shutdown.clone(), options.keep_days);
    tasks.spawn(async move {
        runs.run(keep_days, stop).await;
        "the upkeep of runs"
    });
    let stop = shutdown.clone();
    tasks.spawn(async move {
        lapses.run(stop).await;
        "the watch over rights"
    });
    let (stop, told, lanes) = (shutdown.clone(), state.ingest.clone(), state.lanes.clone());
    tasks.spawn(async move {
        meter.run(&told, &lanes, stop).await;
        "the metering"
    });
    let (post, stop) = (Arc::clone(&state), shutdown.clone());
    tasks.spawn(async move {
        post.mailer.run(post.store.clone(), post.ca.pin(), post.endpoints.https.clone(), stop).await;
        "the mail"
    });
    let (store, stop) = (state.store.clone(), shutdown.clone());
    tasks.spawn(async move {
        keep_house(store, certificate, orders, stop).await;
        "the housekeeping"
    });
    Ok(Running { state, https, mqtt, tasks, shutdown, _held: held })
}

/// How MQTT reaches this hub.
enum Way {
    Embedded(Endpoint, Lanes),
    External(Box<Bridge>, Lanes),
}

impl Way {
    async fn open(config: &Config, ca: &Ca, store: &Store, ingest: &Ingest, metrics: &Metrics) -> Result<Self> {
        Ok(match &config.mqtt.broker {
            None => {
                let (endpoint, lanes) = Endpoint::open(store.clone(), ingest.clone(), metrics).await?;
                Self::Embedded(endpoint, lanes)
            }
            Some(settings) => {
                let (broker, bridge) = broker::connect(settings, ca, store.clone(), ingest.clone())?;
                Self::External(Box::new(bridge), Lanes::external(store.clone(), ingest.clone(), broker))
            }
        })
    }

    fn lanes(&self) -> Lanes {
        let (Self::Embedded(_, lanes) | Self::External(_, lanes)) = self;
        lanes.clone()
    }

    fn endpoint(&self) -> Option<Endpoint> {
        match self {
            Self::Embedded(endpoint, _) => Some(endpoint.clone()),
            Self::External(..) => None,
        }
    }
}

/// Opens the authority and the database of a data directory; makes them at the first start.
///
/// # Errors
/// When they cannot be made or are damaged.
pub fn open(config: &Config) -> Result<(Ca, Store)> {
    make_private_dir(&config.data_dir)?;
    let ca = Ca::open_or_create(&config.data_dir, clock::now())?;
    let store = Store::open(&config.data_dir.join("hub.db"))?;
    Ok((ca, store))
}

/// Keys that others could read are theirs to read no more. That they could is said: nobody knows who did.
fn close_keys(dir: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for (path, mode) in Ca::exposed_keys(dir)? {
        let closed = std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600));
        let path = path.display();
        match closed {
            Ok(()) => {
                tracing::warn!("{path} could be read by others (mode {mode:o}); it is closed to them now, but one of them may have a copy");
            }
            Err(error) => tracing::error!("{path} can be read by others (mode {mode:o}), and that cannot be changed: {error}"),
        }
    }
    Ok(())
}

/// Makes a directory that only its owner may enter, if it is not there.
///
/// # Errors
/// When it cannot be made.
pub fn make_private_dir(dir: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the directory {}: choose another data_dir, or give yourself the right", dir.display()))
}

/// Renews the hub's own certificates in place, and drops tokens that ended long ago.
async fn keep_house(store: Store, certificate: ServerCertificate, orders: OrderKey, stop: CancellationToken) {
    let mut ticks = interval(HOUSEKEEPING);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let renewing = certificate.clone();
        renew("server certificate", move || renewing.renew(clock::now())).await;
        let renewing = orders.clone();
        renew("certificate of the key for orders", move || renewing.renew(clock::now())).await;
        if let Err(error) = store.write(|tx| tokens::purge(tx, clock::now() - ENDED_TOKENS)).await {
            tracing::error!(%error, "ended tokens could not be dropped");
        }
    }
}

async fn renew<E: std::fmt::Display + Send + 'static>(what: &'static str, work: impl FnOnce() -> Result<bool, E> + Send + 'static) {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(true)) => tracing::info!("the {what} was renewed"),
        Ok(Ok(false)) => {}
        Ok(Err(error)) => tracing::error!(%error, "the {what} could not be renewed"),
        Err(error) => tracing::error!(%error, "the renewal of the {what} broke off"),
    }
}

impl Running {
    /// Returns the name of a part that ended by itself.
    pub async fn part_ended(&mut self) -> String {
        match self.tasks.join_next().await {
            Some(Ok(name)) => name.to_owned(),
            Some(Err(error)) => format!("a part that broke off: {error}"),
            None => "everything".to_owned(),
        }
    }

    /// Stops everything in order, within a deadline.
    pub async fn stop(mut self) {
        self.shutdown.cancel();
        let orderly = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a part broke off while the hub stopped");
                }
            }
            self.state.relay.stop().await;
            self.state.store.close().await;
        };
        if timeout(STOP, orderly).await.is_err() {
            tracing::error!("the hub did not stop within {} s; what is left is dropped", STOP.as_secs());
        }
    }
}

/// `muster-hub serve`: runs until SIGTERM or SIGINT. SIGHUP calls `reload`, which says what it took.
///
/// # Errors
/// When it cannot start, or a part ends by itself.
pub async fn serve(config: Config, reload: impl Fn()) -> Result<()> {
    let mut asked = Signals::new()?;
    let ports = Ports::bind(&config).await?;
    let mut running = start(config, ports).await?;
    let mqtt = running.mqtt.map_or_else(|| "external".to_owned(), |address| address.to_string());
    tracing::info!("the hub's fingerprint: {}", running.state.ca.pin());
    tracing::info!("listening https={} mqtt={mqtt}", running.https);
    systemd::notify("READY=1");
    let (store, stop) = (running.state.store.clone(), CancellationToken::new());
    let watchdog = tokio::spawn(systemd::watchdog(store, stop.clone()));
    let ended = loop {
        tokio::select! {
            asked = asked.next() => match asked {
                Asked::Stop(signal) => {
                    tracing::info!("{signal}: stopping");
                    break None;
                }
                Asked::Reload => reload(),
            },
            ended = running.part_ended() => break Some(ended),
        }
    };
    systemd::notify("STOPPING=1");
    running.stop().await;
    stop.cancel();
    let _ = watchdog.await;
    match ended {
        Some(part) => bail!("{part} ended by itself; the log says why"),
        None => Ok(()),
    }
}
