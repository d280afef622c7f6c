//! The network side of a session: dials the hub's relay and speaks the session protocol, as a user of its own without any power.
//!
//! What the visitor opens it asks of the privileged part, and gets descriptors. It needs nothing from the daemon, so it lives on when
//! the daemon dies, restarts or is updated. It proves the device by a key and a certificate made for this session alone.
//! It decides nothing about rights.

mod serve;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use muster_link::dial::Dialer;
use muster_link::driver::{Driver, Ended, Handle, Relay, Traffic};
use muster_link::tls::{Clock, Identity, Trust, client_config};
use muster_proto::session::{Side, code};
use muster_proto::token::Pin;
use musterd::handoff::Report;
use musterd::log::{self, error, info};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tokio::task::LocalSet;

use crate::channel::{Ask, Begin, Channel, SessionBegin};
use serve::Server;

/// How often a session with an idle limit is looked at, as a share of the limit.
const IDLE_LOOKS: u32 = 8;

/// Runs the network side; descriptor 0 is its channel.
pub(crate) fn run() -> ExitCode {
    muster_link::raise_open_files();
    match begin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            error!("the network side of a session: {why:#}");
            ExitCode::FAILURE
        }
    }
}

/// The channel of this process's start: descriptor 0. From here on no other process of the same user looks into this one.
pub(crate) fn channel() -> anyhow::Result<Channel> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).context("it can be looked into")?;
    Ok(Channel::inherited(crate::take_stdin().context("there is no channel on descriptor 0")?))
}

fn begin() -> anyhow::Result<()> {
    let channel = channel()?;
    let Some((Begin::Session(begin), _)) = channel.receive()? else { bail!("`musterd-session serve` starts this command, not a person") };
    log::set_level_named(&begin.log_level);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("the runtime cannot start")?;
    let id = begin.session.clone();
    LocalSet::new().block_on(&runtime, async {
        let server = Server::new(channel, id.to_string())?;
        let mut by_visitor = false;
        let report = match session(begin, &server).await {
            Ok(Ended { code, message, traffic, .. }) => {
                by_visitor = [code::DONE, code::GRACE].contains(&code.as_str());
                Report { reason: message, received: traffic.received, sent: traffic.sent }
            }
            Err(why) => {
                error!("session {id}: {why:#}");
                Report { reason: format!("{why:#}"), received: 0, sent: 0 }
            }
        };
        server.ask(&Ask::Done { report, by_visitor });
        server.finish().await;
        anyhow::Ok(())
    })
}

async fn session(begin: SessionBegin, server: &Server) -> anyhow::Result<Ended> {
    let SessionBegin { session, user, relay, ticket, ca, certificate, key, proxy, floor, idle_s, total_s, streams, .. } = begin;
    let clock = Clock::with_floor(floor);
    let authority = CertificateDer::from_pem_slice(ca.as_bytes()).context("the hub's authority is unreadable")?;
    let pin: Pin = muster_link::tls::pin_of(&authority).context("the hub's authority has no key")?;
    let identity = Identity::from_pem(certificate.as_bytes(), key.as_bytes())?;
    let tls = client_config(&Trust::Pin(pin), Some(&identity), &clock)?;
    let proxy = proxy.map(|url| url.parse()).transpose()?;
    let relay = Relay { endpoint: relay.parse()?, ticket, dialer: Dialer::new(tls).via(proxy) };
    info!("session {session}: network side of {user}");
    let driver = Driver::new(Side::Device, session, relay, server.clone());
    let handle = driver.handle();
    server.serve(&handle, streams);
    let guard = tokio::task::spawn_local(keep_limits(handle, idle_s, total_s));
    let (ended, _) = driver.run().await;
    guard.abort();
    Ok(ended)
}

/// Ends a session that is idle or old beyond what the policy allows.
async fn keep_limits(handle: Handle, idle_s: Option<u32>, total_s: Option<u32>) {
    let total = async {
        match total_s {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
            None => std::future::pending().await,
        }
        format!("This device's policy ends sessions after {} s.", total_s.unwrap_or_default())
    };
    let idle = async {
        let Some(seconds) = idle_s else { return std::future::pending().await };
        let (mut quiet, mut before) = (0, Traffic::default());
        while quiet < IDLE_LOOKS {
            tokio::time::sleep(Duration::from_secs(seconds.into()) / IDLE_LOOKS).await;
            let now = handle.traffic();
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
        format!("This device's policy ends sessions that are idle for {seconds} s.")
    };
    let why = tokio::select! { why = total => why, why = idle => why };
    handle.close(code::POLICY, &why);
}
