//! Renewal: a daemon whose certificate is old gets a new one from the hub, over mutual TLS, once, and lives on with it.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, date_time_ymd};
use serde_json::Value;

use crate::device::Device;
use crate::lab::{Lab, SOON};
use crate::netns::Host;
use crate::wait::eventually;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Puts a certificate into the device's identity that the hub could have signed so many days ago, for 90 days. Returns it.
fn grow_old(lab: &Lab, device: &Device<'_>, days: u32) -> String {
    let (_, key) = device.credentials();
    let path = device.folder.join("state/identity.json");
    let mut identity: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let authority = lab.folder().join("hub");
    let [ca_key, ca] = ["ca.key", "ca.pem"].map(|name| fs::read_to_string(authority.join(name)).unwrap());
    let issuer = Issuer::from_ca_cert_pem(&ca, KeyPair::from_pem(&ca_key).unwrap()).unwrap();
    let mut wish = CertificateParams::new(Vec::<String>::new()).unwrap();
    wish.distinguished_name = rcgen::DistinguishedName::new();
    wish.distinguished_name.push(DnType::CommonName, identity["identity"]["uid"].as_str().unwrap());
    wish.distinguished_name.push(DnType::OrganizationName, identity["identity"]["org"].as_str().unwrap());
    wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    wish.not_before = date_time_ymd(1970, 1, 1) + (SystemTime::now().duration_since(UNIX_EPOCH).unwrap() - DAY * days);
    wish.not_after = wish.not_before + DAY * 90;
    let certificate = wish.signed_by(&KeyPair::from_pem(&key).unwrap(), &issuer).unwrap().pem();
    identity["identity"]["certificate"] = certificate.clone().into();
    fs::write(&path, identity.to_string()).unwrap();
    certificate
}

fn renewals(lab: &Lab) -> usize {
    let answer = lab.api("GET", "/v1/orgs/acme/audit", None);
    assert_eq!(answer.status, 200, "{answer:?}");
    crate::lab::rows(answer.json()).iter().filter(|entry| entry["action"] == "device.renew").count()
}

#[test]
fn a_certificate_that_is_two_thirds_through_is_renewed_once() {
    let lab = Lab::new();
    let mut device = Device::new(&lab, Host::default(), "robot-1", "");
    device.enrol();

    let young = grow_old(&lab, &device, 59);
    device.start();
    lab.online("robot-1");
    device.stop();
    assert_eq!((renewals(&lab), device.credentials().0), (0, young), "a day before two thirds nothing happens");

    let old = grow_old(&lab, &device, 61);
    device.start();
    device.daemon().says("the certificate is renewed", SOON);
    let renewed = device.credentials().0;
    assert_ne!(renewed, old);
    lab.online("robot-1");
    device.stop();

    // The new one lets it in, and is young.
    device.start();
    lab.online("robot-1");
    device.stop();
    assert_eq!((renewals(&lab), device.credentials().0), (1, renewed));
}

#[test]
fn an_owner_has_a_certificate_renewed_now() {
    let lab = Lab::new();
    let mut device = Device::online(&lab, "robot-1");
    let young = device.credentials().0;
    lab.run(&["device", "renew", "robot-1"]);
    device.daemon().says("the certificate is renewed", SOON);
    assert_ne!(device.credentials().0, young);
    assert_eq!(renewals(&lab), 1);
    // One that is not there is asked when it comes.
    device.stop();
    lab.run(&["device", "renew", "robot-1"]);
    device.start();
    eventually("it renews when it is back", SOON, || (renewals(&lab) == 2).then_some(()));
}
