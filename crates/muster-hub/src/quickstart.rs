//! `muster-hub quickstart`: a hub with everything embedded, this machine as its first device, and what to try next.
//!
//! The hub runs in this process, `musterd` as a child with its files beside the hub's; nothing outside the data folder is touched.
//! A second start finds everything again: the same hub, the same list.

mod device;
mod files;
mod report;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use muster_link::outln;
use muster_link::signals::Signals;
use muster_proto::api::{Admission, AdmitRule, EnrolmentToken, PresenceState};
use muster_proto::id::{DeviceUid, OrgId, ProjectId};
use muster_proto::token::{Token, TokenKind};
use tokio::time::{Instant, timeout};

use crate::config::Config;
use crate::init::{self, First};
use crate::relay::End;
use crate::serve::{self, Ports, Running};
use crate::store::{devices, enrolment_tokens, tokens};
use crate::{clock, random};
use device::Daemon;
use files::Folder;

/// The owner of the quickstart's organization.
const OWNER: &str = "owner@quickstart.local";
/// From the daemon's start until it is online with a sample: start, dial, sample, batch.
const APPEARS: Duration = Duration::from_secs(60);
/// How often the list is looked at while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What `quickstart` takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The folder for everything that it makes
    #[arg(long, value_name = "DIR", env = "MUSTER_QUICKSTART_DATA", default_value = "./quickstart-data")]
    data: PathBuf,
    /// Where HTTPS listens; MQTT takes 8883 beside 8443, otherwise the next port
    #[arg(long, value_name = "ADDRESS", env = "MUSTER_QUICKSTART_LISTEN", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// The organization
    #[arg(long, default_value = "acme")]
    org: OrgId,
    /// The project
    #[arg(long, default_value = "lab")]
    project: ProjectId,
    /// The device daemon; by default the one beside this program, or on the PATH
    #[arg(long, value_name = "PATH")]
    musterd: Option<PathBuf>,
}

/// Runs until Ctrl-C or SIGTERM.
///
/// # Errors
/// When a part cannot start, or ends by itself.
pub async fn run(args: Args) -> Result<()> {
    let mut asked = Signals::new()?;
    let musterd = match args.musterd.clone() {
        Some(path) => path,
        None => files::program("musterd").ok_or_else(|| {
            anyhow!(
                "there is no musterd beside this program nor on the PATH: build it with `cargo build --bins`, or name it with --musterd"
            )
        })?,
    };
    let folder = Folder::open(&args.data)?;
    files::log_to(&folder.path.join("hub.log"))?;
    let config = configure(&args, &folder)?;
    let ports = Ports::bind(&config)
        .await
        .map_err(|error| error.context("a port of the quickstart is taken; choose others with MUSTER_QUICKSTART_LISTEN=127.0.0.1:9443"))?;
    let hub = serve::start(config, ports).await?;
    let outcome = with_hub(&args, &folder, &hub, &musterd, &mut asked).await;
    end_sessions(&hub).await;
    hub.stop().await;
    if outcome.is_ok() {
        outln!("Stopped. The next start shows the same list; `rm -r {}` forgets it.", init::shorten(&folder.path));
    }
    outcome
}

/// Ends the sessions for good: their ends on the device would wait two minutes for a hub that does not come back.
async fn end_sessions(hub: &Running) {
    let every = hub.state.store.read(devices::uids).await.unwrap_or_default();
    for uid in every {
        hub.state.relay.end_device(&uid, &End::by_hub("unavailable", "the quickstart was stopped")).await;
    }
}

async fn with_hub(args: &Args, folder: &Folder, hub: &Running, musterd: &std::path::Path, asked: &mut Signals) -> Result<()> {
    let hub_url = hub.state.endpoints.https.clone();
    folder.remember_ports(hub.https, hub.mqtt)?;
    let token = owner_token(args, folder, hub).await?;
    folder.write_env(&hub_url, &token, &args.org, &args.project)?;
    report::hub(folder, hub);

    let mut daemon = Daemon::new(folder, musterd)?;
    report::policy(&daemon.policy, daemon.runs_as_root);
    let uid = tokio::select! {
        uid = join(args, folder, hub, &mut daemon) => uid?,
        signal = asked.end() => {
            outln!("\n{signal}: stopping ...");
            daemon.stop().await;
            return Ok(());
        }
    };
    report::list(hub, &args.org).await?;
    report::try_next(folder, hub, &uid).await?;
    let outcome = tokio::select! {
        signal = asked.end() => {
            outln!("\n{signal}: stopping ...");
            Ok(())
        }
        ended = daemon.ended() => Err(ended),
    };
    daemon.stop().await;
    outcome
}

/// The hub's configuration: made at the first start, with the ports of this one.
fn configure(args: &Args, folder: &Folder) -> Result<Config> {
    let (https, mqtt) = folder.ports(args.listen)?;
    let data = folder.path.join("hub");
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let host = if args.listen.ip().is_unspecified() { "127.0.0.1".parse()? } else { args.listen.ip() };
    let text = format!(
        "# Written by `muster-hub quickstart` at every start.\ndata_dir = {}\nlisten = {}\npublic_url = {}\n\n[mqtt]\nlisten = {}\n",
        quoted(&data.display().to_string()),
        quoted(&https.to_string()),
        quoted(&format!("https://{}", SocketAddr::from((host, https.port())))),
        quoted(&mqtt.to_string()),
    );
    crate::ca::files::write_private(&folder.path.join("hub.toml"), text.as_bytes())?;
    Ok(Config::parse(&text, "the quickstart's hub.toml", [])?)
}

/// The owner's token: the one in quickstart.env while it is good, otherwise a new one.
async fn owner_token(args: &Args, folder: &Folder, hub: &Running) -> Result<String> {
    if let Some(text) = folder.env_token()
        && let Ok(token) = Token::parse(&text, TokenKind::Personal)
        && token.pin == hub.state.ca.pin()
    {
        let (id, now) = (token.id.clone(), clock::now());
        let held = hub.state.store.read(move |db| tokens::held(db, &id)).await?;
        let good = held.is_some_and(|held| held.digest == random::sha256(token.secret.as_bytes()) && held.expires_at > now + clock::DAY);
        if good {
            return Ok(text);
        }
    }
    let first =
        First { owner: OWNER.into(), org: Some(args.org.clone()), project: Some(args.project.clone()), token_name: "quickstart".into() };
    let (store, ca) = (hub.state.store.clone(), hub.state.ca.clone());
    tokio::task::spawn_blocking(move || init::first(&store, &ca, first)).await?
}

/// Enrols this machine where that is needed, starts the daemon, and waits until it is on the list with a sample.
async fn join(args: &Args, folder: &Folder, hub: &Running, daemon: &mut Daemon) -> Result<DeviceUid> {
    let (org, serial) = (args.org.clone(), daemon.serial.clone());
    let listed = hub.state.store.read(move |db| devices::by_serial(db, &org, &serial)).await?;
    let reached = format!("{} {}", hub.state.endpoints.https, hub.state.endpoints.mqtt.url);
    let already = folder.enrolled_at().is_some_and(|at| at == reached);
    match &listed {
        Some(device) if already || matches!(device.admission, Admission::Rejected | Admission::Revoked) => {}
        _ => {
            let token = enrolment_token(args, hub).await?;
            daemon.enrol(&hub.state.endpoints.https, &token).await?;
            folder.remember_enrolled(&reached)?;
        }
    }
    let (org, serial) = (args.org.clone(), daemon.serial.clone());
    let device = hub.state.store.read(move |db| devices::by_serial(db, &org, &serial)).await?;
    let device = device.context("this machine enrolled, but is not on the list")?;
    daemon.start()?;
    if device.admission == Admission::Admitted {
        report::waiting(&device.name);
        timeout(APPEARS, appears(hub, &device.uid, daemon))
            .await
            .map_err(|_| anyhow!("this machine did not appear within {} s; {}", APPEARS.as_secs(), daemon.last_words()))??;
    }
    Ok(device.uid)
}

async fn appears(hub: &Running, uid: &DeviceUid, daemon: &mut Daemon) -> Result<()> {
    let started = clock::now();
    let mut look = tokio::time::interval_at(Instant::now(), LOOK_EVERY);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            ended = daemon.ended() => return Err(ended),
        }
        let live = hub.state.ingest.live().get(uid);
        let fresh = live.usage.as_ref().is_some_and(|sample| sample.t >= started - clock::SECOND);
        if live.presence == PresenceState::Online && fresh {
            return Ok(());
        }
    }
}

/// A token for one device that admits by itself.
async fn enrolment_token(args: &Args, hub: &Running) -> Result<String> {
    let token = Token::from_random(TokenKind::Enrolment, random::bytes(), hub.state.ca.pin());
    let now = clock::now();
    let row = EnrolmentToken {
        id: token.id.clone(),
        token: None,
        project: Some(args.project.clone()),
        uses: Some(1),
        used: 0,
        admit: AdmitRule::Auto,
        serials: None,
        note: Some("quickstart".into()),
        created_by: OWNER.into(),
        created_at: now,
        expires_at: now + 3600 * clock::SECOND,
        revoked_at: None,
    };
    let (org, digest) = (args.org.clone(), random::sha256(token.secret.as_bytes()));
    hub.state.store.write(move |tx| enrolment_tokens::insert(tx, &org, digest, &row)).await?;
    Ok(token.to_string())
}
