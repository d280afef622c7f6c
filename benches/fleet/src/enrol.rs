//! The whole fleet enrols over the hub's API, with one token, each device with a key of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use muster_link::dial::Endpoint;
use muster_link::http;
use muster_link::tls::{self, Clock, Trust};
use muster_proto::api::{AdmitRule, EnrolRequest, EnrolState, EnrolmentToken, EnrolmentTokenCreate};
use muster_proto::id::DeviceUid;
use muster_proto::mqtt::Facts;
use muster_proto::token::{Token, TokenKind};
use rcgen::{CertificateParams, KeyPair};
use rustls::ClientConfig;

use crate::server::Hub;

/// Enrolments at once: enough to share the disk's syncs.
const AT_ONCE: usize = 48;

/// An enrolled device.
pub(crate) struct Identity {
    /// Its uid.
    pub(crate) uid: DeviceUid,
    /// Its certificate and key, and trust in the hub's authority.
    pub(crate) tls: Arc<ClientConfig>,
}

/// Enrols so many devices.
pub(crate) async fn fleet(hub: &Hub, devices: usize) -> Result<Vec<Identity>> {
    let bearer = hub.token().to_owned();
    let pin = Token::parse(&bearer, TokenKind::Personal).context("the token that muster-hub init printed")?.pin;
    let endpoint: Endpoint = format!("https://{}", hub.https()?).parse()?;
    let trusting = tls::client_config(&Trust::Pin(pin), None, &Clock::default())?;
    let api = move || http::Hub::new(&endpoint, muster_link::dial::Dialer::new(Arc::clone(&trusting)));
    let wanted = EnrolmentTokenCreate {
        project: Some("lab".parse()?),
        uses: Some(u32::try_from(devices)?),
        expires_s: None,
        admit: AdmitRule::Auto,
        serials: None,
        note: None,
    };
    let made: EnrolmentToken = api().call("POST", "/v1/orgs/acme/enrolment-tokens", Some(&bearer), Some(&wanted)).await?;
    let token: Arc<str> = made.token.context("the hub made an enrolment token without showing it")?.into();

    let next = Arc::new(AtomicUsize::new(0));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE.min(devices) {
        let (next, token, mut api) = (Arc::clone(&next), Arc::clone(&token), api());
        workers.spawn(async move {
            let mut enrolled = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= devices {
                    return anyhow::Ok(enrolled);
                }
                enrolled.push(one(&mut api, &token, index).await.with_context(|| format!("device {index} cannot enrol"))?);
            }
        });
    }
    let mut fleet = Vec::with_capacity(devices);
    while let Some(enrolled) = workers.join_next().await {
        fleet.extend(enrolled??);
    }
    Ok(fleet)
}

async fn one(api: &mut http::Hub, token: &str, index: usize) -> Result<Identity> {
    let key = KeyPair::generate()?;
    let csr = CertificateParams::default().serialize_request(&key)?.pem()?;
    let ask = EnrolRequest { token: token.to_owned(), serial: format!("fleet-{index:06}").parse()?, csr, facts: Facts::default() };
    let state: EnrolState = api.call("POST", "/v1/enrol", None, Some(&ask)).await?;
    let Some(identity) = state.identity else { bail!("the hub did not admit it: {}", state.why) };
    let own = tls::Identity::from_pem(identity.certificate.as_bytes(), key.serialize_pem().as_bytes())?;
    let tls = tls::client_config(&Trust::from_pem(identity.ca.as_bytes())?, Some(&own), &Clock::default())?;
    Ok(Identity { uid: identity.uid, tls })
}
