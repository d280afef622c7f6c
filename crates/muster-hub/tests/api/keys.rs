//! Keys after enrolment: renewal, revocation, replacement, and the alarm that a copy raises.

use muster_proto::token::{Token, TokenKind};
use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::world::{Device, World, csr};

fn alarms(audit: &[Value]) -> Vec<&Value> {
    audit.iter().filter(|event| event["action"] == "device.clone_alarm").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_renews_and_a_stranger_does_not() {
    let world = World::new().await;
    let mut device = world.admitted("robot-1").await;
    let renewed = device.client(&world).post("/v1/device/renew", json!({ "csr": device.csr() })).await.ok(200);
    assert_eq!(renewed["uid"], device.uid);
    assert_ne!(renewed["certificate"], device.certificate);
    device.take(&renewed);
    device.client(&world).get("/v1/device/self").await.ok(200);

    world.stranger().post("/v1/device/renew", json!({ "csr": device.csr() })).await.problem("unauthenticated");
    world.owner.post("/v1/device/renew", json!({ "csr": device.csr() })).await.problem("unauthenticated");
    world.stranger().get("/v1/device/self").await.problem("unauthenticated");
    // A person's token is no good in the place of a certificate, nor a device's certificate in the place of a token.
    device.client(&world).get("/v1/orgs/acme/devices").await.problem("unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_with_a_new_key_survives_a_lost_answer() {
    let world = World::new().await;
    let mut device = world.admitted("robot-1").await;
    // The answer to the first renewal is lost: the device goes on with its old key, and asks again.
    let lost = KeyPair::generate().unwrap();
    device.client(&world).post("/v1/device/renew", json!({ "csr": csr(&lost) })).await.ok(200);
    device.client(&world).get("/v1/device/self").await.ok(200);
    let next = KeyPair::generate().unwrap();
    let renewed = device.client(&world).post("/v1/device/renew", json!({ "csr": csr(&next) })).await.ok(200);
    let old = Device { serial: device.serial.clone(), key: device.key, certificate: device.certificate.clone(), uid: device.uid.clone() };
    device = Device { key: next, ..Device::new("robot-1") };
    device.take(&renewed);
    device.client(&world).get("/v1/device/self").await.ok(200);
    assert!(alarms(&world.audit().await).is_empty());
    // Once the new key was used, the old one is dead, and its use is reported.
    old.client(&world).get("/v1/device/self").await.problem("device_revoked");
    assert_eq!(alarms(&world.audit().await).len(), 1);
    // Asking again with the new key finds the same device.
    let token = world.enrolment_token(json!({})).await;
    let state = device.enrol(&world, &token).await.ok(200);
    assert_eq!((&state["state"], &state["identity"]["uid"]), (&json!("admitted"), &json!(device.uid)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_hears_why_everywhere_and_can_come_back() {
    let world = World::new().await;
    let device = world.admitted("robot-1").await;
    let client = device.client(&world);
    let row = world.owner.post("/v1/orgs/acme/devices/robot-1/revoke", json!({ "reason": "stolen" })).await.ok(200);
    assert_eq!(row["admission"], "revoked");
    assert!(row["why"].as_str().unwrap().contains("stolen"), "{row}");
    let problem = client.post("/v1/device/renew", json!({ "csr": device.csr() })).await.problem("device_revoked");
    assert!(problem.detail.contains("stolen"), "{}", problem.detail);
    let me = client.get("/v1/device/self").await.ok(200);
    assert_eq!(me["admission"], "revoked");
    assert!(me["why"].as_str().unwrap().contains("stolen"), "{me}");
    let auto = world.enrolment_token(json!({ "admit": "auto" })).await;
    device.enrol(&world, &auto).await.problem("device_revoked");
    // Twice is once; and what was revoked cannot be rejected.
    world.owner.send("POST", "/v1/orgs/acme/devices/robot-1/revoke", None).await.ok(200);
    world.owner.send("POST", "/v1/orgs/acme/devices/robot-1/reject", None).await.problem("conflict");
    world.owner.send("POST", "/v1/orgs/acme/devices/robot-1/admit", None).await.ok(200);
    assert_eq!(client.get("/v1/device/self").await.ok(200)["admission"], "admitted");
    let revocations = world.audit().await.into_iter().filter(|event| event["action"] == "device.revoke").count();
    assert_eq!(revocations, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_takes_the_place_only_when_an_owner_says_so() {
    let world = World::new().await;
    let old = world.admitted("robot-1").await;
    world.owner.patch("/v1/orgs/acme/devices/robot-1", json!({ "name": "Hall 3" })).await.ok(200);
    let auto = world.enrolment_token(json!({ "admit": "auto" })).await;
    let mut new = Device::new("robot-1");
    let state = new.enrol(&world, &auto).await.ok(200);
    assert_eq!(state["state"], "replacement");
    assert!(state.get("identity").is_none());
    let code = state["pairing_code"].as_str().unwrap();
    // Nothing has changed.
    old.client(&world).get("/v1/device/self").await.ok(200);
    let row = world.owner.get("/v1/orgs/acme/devices/robot-1").await.ok(200);
    assert_eq!((&row["replacement"], &row["admission"]), (&json!(code), &json!("admitted")));
    assert!(row["why"].as_str().unwrap().contains(&format!("muster device replace {code}")), "{row}");

    // A second one asks as well: the owner has to say which.
    let other = Device::new("robot-1");
    other.enrol(&world, &auto).await.ok(200);
    let problem = world.owner.send("POST", "/v1/orgs/acme/devices/robot-1/replace", None).await.problem("conflict");
    assert!(problem.detail.contains(code), "{}", problem.detail);
    world.owner.post("/v1/orgs/acme/devices/robot-1/replace", json!({ "pairing_code": code })).await.ok(200);

    let state = world.stranger().get(&format!("/v1/enrol/{}", state["request"].as_str().unwrap())).await.ok(200);
    assert_eq!((&state["state"], &state["identity"]["name"]), (&json!("admitted"), &json!("Hall 3")));
    new.take(&state["identity"]);
    assert_eq!(new.uid, old.uid);
    new.client(&world).get("/v1/device/self").await.ok(200);

    assert!(alarms(&world.audit().await).is_empty());
    let dead = old.client(&world).get("/v1/device/self").await.problem("device_revoked");
    assert!(dead.detail.contains("another key"), "{}", dead.detail);
    old.client(&world).post("/v1/device/renew", json!({ "csr": old.csr() })).await.problem("device_revoked");
    let token = world.enrolment_token(json!({})).await;
    old.enrol(&world, &token).await.problem("device_revoked");
    let audit = world.audit().await;
    let alarm = alarms(&audit);
    assert_eq!(alarm.len(), 1, "{alarm:?}");
    assert_eq!((&alarm[0]["actor"], &alarm[0]["result"]), (&json!(format!("device:{}", old.uid)), &json!("device_revoked")));
    assert_eq!(alarm[0]["from"], "127.0.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_replacement_changes_nothing() {
    let world = World::new().await;
    let device = world.admitted("robot-1").await;
    let token = world.enrolment_token(json!({})).await;
    let intruder = Device::new("robot-1");
    let state = intruder.enrol(&world, &token).await.ok(200);
    world.owner.send("POST", "/v1/orgs/acme/devices/robot-1/reject", None).await.ok(200);
    let heard = world.stranger().get(&format!("/v1/enrol/{}?wait=20", state["request"].as_str().unwrap())).await.ok(200);
    assert_eq!(heard["state"], "rejected");
    device.client(&world).get("/v1/device/self").await.ok(200);
    let row = world.owner.get("/v1/orgs/acme/devices/robot-1").await.ok(200);
    assert_eq!((&row["admission"], row.get("replacement")), (&json!("admitted"), None));
    world.owner.send("POST", "/v1/orgs/acme/devices/robot-1/replace", None).await.problem("conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_gets_nowhere() {
    let (world, elsewhere) = (World::new().await, World::new().await);
    let device = elsewhere.admitted("robot-1").await;
    let mut foreign = Device { serial: device.serial.clone(), key: device.key, certificate: device.certificate, uid: device.uid };
    let refused = tokio::spawn({
        let client = foreign.client(&world);
        async move { client.get("/v1/device/self").await.status }
    });
    // TLS itself refuses: the request does not arrive.
    assert!(refused.await.is_err());
    // The token of the other hub is told apart from a damaged one.
    let token = elsewhere.enrolment_token(json!({})).await;
    foreign.serial = "robot-2".into();
    assert!(foreign.enrol(&world, &token).await.problem("token_unknown").detail.contains("another hub"));
    assert_ne!(Token::parse(&token, TokenKind::Enrolment).unwrap().pin, world.pin);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_device_is_gone_and_may_enrol_anew() {
    let world = World::new().await;
    let device = world.admitted("robot-1").await;
    world.owner.delete("/v1/orgs/acme/devices/robot-1").await.ok(204);
    world.owner.get("/v1/orgs/acme/devices/robot-1").await.problem("not_found");
    device.client(&world).get("/v1/device/self").await.problem("device_revoked");
    let token = world.enrolment_token(json!({ "admit": "auto" })).await;
    let state = device.enrol(&world, &token).await.ok(200);
    assert_eq!(state["state"], "admitted");
    assert_ne!(state["identity"]["uid"], device.uid);
    let mut again = Device::new("robot-1");
    again.key = device.key;
    again.take(&state["identity"]);
    again.client(&world).get("/v1/device/self").await.ok(200);
}
