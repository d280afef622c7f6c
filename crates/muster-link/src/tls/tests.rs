//! Handshakes against servers that are right, and wrong in each way that a person meets in the field.

use std::time::Duration;

use rcgen::date_time_ymd;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::dial::{self, DialError, Dialer, Endpoint};
use crate::test_hub::Authority;

/// A server that completes handshakes until the test ends.
async fn serve(config: Arc<ServerConfig>) -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            // A client that does not believe us ends the handshake.
            let _ = TlsAcceptor::from(Arc::clone(&config)).accept(tcp).await;
        }
    });
    endpoint
}

async fn dial(endpoint: &Endpoint, trust: Trust, clock: &Clock) -> Result<(), DialError> {
    let dialer = Dialer { timeout: Duration::from_secs(10), ..Dialer::new(client_config(&trust, None, clock).unwrap()) };
    dialer.dial(endpoint).await.map(drop)
}

fn fault(result: Result<(), DialError>) -> CertificateFault {
    match result {
        Err(DialError::Certificate { fault, .. }) => fault,
        other => panic!("expected a fault of the certificate, got {other:?}"),
    }
}

#[tokio::test]
async fn a_pin_or_the_authority_is_enough_and_nothing_else_is() {
    let (ours, other) = (Authority::new(), Authority::new());
    let endpoint = serve(ours.server(&["127.0.0.1"])).await;
    let clock = Clock::default();
    dial(&endpoint, Trust::Pin(ours.pin()), &clock).await.unwrap();
    dial(&endpoint, Trust::Ca(vec![ours.der.clone()]), &clock).await.unwrap();
    assert_eq!(fault(dial(&endpoint, Trust::Pin(other.pin()), &clock).await), CertificateFault::Authority);
    assert_eq!(fault(dial(&endpoint, Trust::Ca(vec![other.der.clone()]), &clock).await), CertificateFault::Authority);
    assert_eq!(fault(dial(&endpoint, Trust::Ca(Vec::new()), &clock).await), CertificateFault::Authority);
}

#[tokio::test]
async fn a_pinned_certificate_in_the_chain_that_did_not_sign_proves_nothing() {
    // Whoever stands between sends our hub's public authority along with a certificate of their own making.
    let (ours, theirs) = (Authority::new(), Authority::new());
    let endpoint = serve(theirs.server_showing(&["127.0.0.1"], &ours)).await;
    assert_eq!(fault(dial(&endpoint, Trust::Pin(ours.pin()), &Clock::default()).await), CertificateFault::Authority);
    assert_eq!(dial::probe(&endpoint, None).await.unwrap(), None, "an authority that did not sign is not the hub's");
}

#[tokio::test]
async fn names_and_dates_are_checked_against_the_later_clock() {
    let authority = Authority::new();
    let trust = Trust::Pin(authority.pin());
    let wrong = serve(authority.server(&["hub.example.com"])).await;
    assert_eq!(fault(dial(&wrong, trust.clone(), &Clock::default()).await), CertificateFault::Name);

    let dated = |from: i32, to: i32| {
        authority.server_with(&["127.0.0.1"], |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        })
    };
    let expired = serve(dated(2001, 2002)).await;
    let error = dial(&expired, trust.clone(), &Clock::default()).await.unwrap_err();
    assert!(error.to_string().contains("check this machine's clock"), "{error}");
    assert_eq!(fault(Err(error)), CertificateFault::Expired);

    // 2100-01-01: what a hub told wins over a clock that is behind.
    let future = serve(dated(2099, 2101)).await;
    assert_eq!(fault(dial(&future, trust.clone(), &Clock::default()).await), CertificateFault::NotYetValid);
    let clock = Clock::default();
    clock.raise(4_102_444_800_000);
    dial(&future, trust, &clock).await.unwrap();
}

#[tokio::test]
async fn an_unknown_hub_shows_its_authority() {
    let authority = Authority::new();
    let endpoint = serve(authority.server(&["whatever.example.com"])).await;
    assert_eq!(dial::probe(&endpoint, None).await.unwrap(), Some(authority.pin()));
}

#[test]
fn the_clock_never_goes_below_what_a_hub_told() {
    let clock = Clock::with_floor(4_102_444_800_000);
    assert_eq!(clock.now(), 4_102_444_800_000);
    clock.raise(1);
    assert_eq!(clock.floor(), 4_102_444_800_000);
    assert!(Clock::default().now() > 1_600_000_000_000);
}

#[test]
fn the_first_cipher_fits_the_processor() {
    let first = provider().cipher_suites[0].suite();
    let fast = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    assert_eq!(first == fast, has_aes());
}
