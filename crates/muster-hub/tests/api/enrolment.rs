//! Enrolment: every bad token, idempotent retries, counted uses under concurrency, decisions that arrive at once.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use muster_proto::token::{Pin, Token, TokenKind};
use serde_json::{Value, json};

use crate::world::{Device, World, csr};

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_device_is_admitted_within_a_second_and_gets_a_certificate_for_its_own_key() {
    let world = World::new().await;
    let token = world.enrolment_token(json!({ "project": "lab" })).await;
    let mut device = Device::new("robot-1");
    let state = device.enrol(&world, &token).await.ok(200);
    assert_eq!((&state["state"], &state["org"]), (&json!("pending"), &json!("acme")));
    let code = state["pairing_code"].as_str().unwrap().to_owned();
    assert!(state["why"].as_str().unwrap().contains(&code), "{state}");
    assert!(state.get("identity").is_none(), "{state}");

    let row = world.owner.get("/v1/orgs/acme/devices/robot-1").await.ok(200);
    assert_eq!((&row["admission"], &row["presence"], &row["pairing_code"]), (&json!("pending"), &json!("never"), &json!(code)));
    assert_eq!((&row["projects"], &row["facts"]["hostname"]), (&json!(["lab"]), &json!("robot-1")));

    let (stranger, path) = (world.stranger(), format!("/v1/enrol/{}?wait=30", state["request"].as_str().unwrap()));
    let poll = tokio::spawn(async move { (stranger.get(&path).await, Instant::now()) });
    // Named by its pairing code, as a person types it who stands before it.
    let typed = code.to_lowercase().replace('-', "");
    world.owner.send("POST", &format!("/v1/orgs/acme/devices/{typed}/admit"), None).await.ok(200);
    let decided = Instant::now();
    let (answer, heard) = tokio::time::timeout(Duration::from_secs(10), poll).await.unwrap().unwrap();
    let state = answer.ok(200);
    assert_eq!(state["state"], "admitted");
    assert!(heard.saturating_duration_since(decided) < Duration::from_secs(1));

    device.take(&state["identity"]);
    let me = device.client(&world).get("/v1/device/self").await.ok(200);
    assert_eq!((&me["admission"], &me["name"]), (&json!("admitted"), &json!("robot-1")));
    assert_eq!(me["uid"], row["uid"]);
    world.hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_without_a_number_of_its_own_is_called_by_its_host() {
    let world = World::new().await;
    let token = world.enrolment_token(json!({})).await;
    let machine = |n: u32| format!("83f3bf5f8e22{n:020x}");
    let mut names = Vec::new();
    for (n, host) in ["gripper", "gripper", "gripper", "../\u{1b}[2J", "localhost", ""].into_iter().enumerate() {
        let serial = machine(u32::try_from(n).unwrap());
        Device::new(&serial).enrol_as(&world, &token, json!({ "hostname": host })).await.ok(200);
        let row = world.owner.get(&format!("/v1/orgs/acme/devices/{serial}")).await.ok(200);
        assert_eq!(row["id"], json!(serial));
        names.push(row["name"].as_str().unwrap().to_owned());
    }
    assert_eq!(names, ["gripper".into(), "gripper-2".into(), "gripper-3".into(), machine(3), machine(4), machine(5)]);
    // One that was given a number is called by that.
    Device::new("SN-1").enrol_as(&world, &token, json!({ "hostname": "gripper" })).await.ok(200);
    assert_eq!(world.owner.get("/v1/orgs/acme/devices/SN-1").await.ok(200)["name"], "SN-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_serial_number_passes_for_what_names_another_device() {
    let world = World::new().await;
    let token = world.enrolment_token(json!({ "project": "lab" })).await;
    let victim = Device::new("victim-1").enrol(&world, &token).await.ok(200);
    let code = victim["pairing_code"].as_str().unwrap();
    let admitted = world.admitted("robot-1").await;
    let row = world.owner.get("/v1/orgs/acme/devices/robot-1").await.ok(200);
    let uid = row["uid"].as_str().unwrap();
    world.owner.patch("/v1/orgs/acme/devices/robot-1", json!({ "name": "welder" })).await.ok(200);

    // The code that somebody reads off a device, in either case, and the uid that the hub gave.
    for (serial, what) in [(code, "a pairing code"), (&code.to_lowercase(), "a pairing code"), (uid, "the uid of a device")] {
        let told = Device::new(serial).enrol(&world, &token).await.problem("invalid").detail;
        assert!(told.contains(what) && told.contains("identity.serial"), "{told}");
        let told = world.owner.post("/v1/orgs/acme/devices", json!({ "id": serial })).await.problem("invalid").detail;
        assert!(told.starts_with("id: ") && told.contains(what), "{told}");
    }
    // A name: as long as it waits it takes nothing from the device that belongs; then neither is meant alone.
    Device::new("welder").enrol(&world, &token).await.ok(200);
    assert_eq!(world.owner.get("/v1/orgs/acme/devices/welder").await.ok(200)["uid"], row["uid"]);
    let put = |add: &'static str| world.owner.post("/v1/orgs/acme/projects/lab/devices", json!({ "add": [add] }));
    put("welder").await.ok(200);
    let listed = world.owner.get("/v1/orgs/acme/devices?filter=id%20%3D%20%22welder%22").await.ok(200);
    let rogue = listed["items"][0]["uid"].as_str().unwrap().to_owned();
    world.owner.send("POST", &format!("/v1/orgs/acme/devices/{rogue}/admit"), None).await.ok(200);
    let told = world.owner.get("/v1/orgs/acme/devices/welder").await.problem("conflict").detail;
    assert!(told.contains(uid) && told.contains(&rogue), "{told}");
    put("welder").await.problem("conflict");

    // A code without its hyphen may be somebody's serial number: then both are named, and none is let in for the other.
    let plain = code.replace('-', "");
    Device::new(&plain).enrol(&world, &token).await.ok(200);
    let told = world.owner.send("POST", &format!("/v1/orgs/acme/devices/{plain}/admit"), None).await.problem("conflict").detail;
    assert!(told.contains("victim-1") && told.contains(&plain), "{told}");

    let row = world.owner.send("POST", &format!("/v1/orgs/acme/devices/{code}/admit"), None).await.ok(200);
    assert_eq!(row["id"], "victim-1");
    drop(admitted);
    world.hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_archived_project_lets_nobody_in() {
    let world = World::new().await;
    let token = world.enrolment_token(json!({ "project": "lab", "admit": "auto", "uses": 1 })).await;
    world.owner.post("/v1/orgs/acme/projects/lab/archive", json!({})).await.ok(200);
    let device = Device::new("robot-1");
    let told = device.enrol(&world, &token).await.problem("archived").detail;
    assert!(told.contains("lab, which is archived"), "{told}");
    world.owner.post("/v1/orgs/acme/projects/lab/restore", json!({})).await.ok(200);
    // It was not used up by that.
    assert_eq!(device.enrol(&world, &token).await.ok(200)["state"], "admitted");
    world.hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_the_right_of_who_made_it() {
    let world = World::new().await;
    let other = world.joins("cid@example.com", "acme", "owner").await;
    let made = async |wanted: Value| {
        let made = other.post("/v1/orgs/acme/enrolment-tokens", wanted).await.ok(201);
        made["token"].as_str().unwrap().to_owned()
    };
    let (auto, manual) = (made(json!({ "admit": "auto" })).await, made(json!({ "project": "lab" })).await);
    assert_eq!(Device::new("robot-1").enrol(&world, &auto).await.ok(200)["state"], "admitted");
    let waiting = Device::new("robot-2");
    waiting.enrol(&world, &manual).await.ok(200);

    // A member still lets devices ask, and lets none in by a token.
    world.owner.put("/v1/orgs/acme/members/CID@Example.com", json!({ "role": "member" })).await.ok(200);
    let told = Device::new("robot-3").enrol(&world, &auto).await.problem("token_revoked").detail;
    assert!(told.contains("cid@example.com") && told.contains("muster token create"), "{told}");
    waiting.enrol(&world, &auto).await.problem("token_revoked");
    let row = world.owner.get("/v1/orgs/acme/devices/robot-2").await.ok(200);
    assert_eq!(row["admission"], "pending", "what waits is not let in by it either");
    Device::new("robot-4").enrol(&world, &manual).await.ok(200);

    world.owner.delete("/v1/orgs/acme/members/Cid@Example.com").await.ok(204);
    for token in [&auto, &manual] {
        Device::new("robot-5").enrol(&world, token).await.problem("token_revoked");
    }
    // However a person was typed, the records name them in one way.
    let told = world.owner.get("/v1/orgs/acme/audit?target=cid@example.com").await.ok(200);
    let actions: Vec<_> = told["items"].as_array().unwrap().iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert!(actions.contains(&"member.put") && actions.contains(&"member.delete"), "{actions:?}");
    world.hub.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_token_has_its_own_answer() {
    let world = World::new().await;
    let device = Device::new("robot-1");
    let refused = async |token: &str, code: &str| device.enrol(&world, token).await.problem(code).detail;

    let good = world.enrolment_token(json!({})).await;
    let mut parsed = Token::parse(&good, TokenKind::Enrolment).unwrap();
    refused("nonsense", "token_unknown").await;
    refused(&good[..good.len() - 3], "token_unknown").await;
    parsed.secret = "a".repeat(32);
    assert!(refused(&parsed.to_string(), "token_unknown").await.contains("not known"));
    let other_hub = Token { pin: Pin([7; 32]), ..Token::parse(&good, TokenKind::Enrolment).unwrap() };
    assert!(refused(&other_hub.to_string(), "token_unknown").await.contains("another hub"));
    let personal = Token { kind: TokenKind::Personal, ..Token::parse(&good, TokenKind::Enrolment).unwrap() };
    assert!(refused(&personal.to_string(), "invalid").await.contains("enrolment token"));

    let used_up = world.enrolment_token(json!({ "uses": 1 })).await;
    Device::new("robot-0").enrol(&world, &used_up).await.ok(200);
    refused(&used_up, "token_used_up").await;

    let named = world.enrolment_token(json!({ "serials": ["robot-7", "robot-8"] })).await;
    assert!(refused(&named, "token_serial").await.contains("robot-1"));
    Device::new("robot-8").enrol(&world, &named).await.ok(200);

    let revoked = world.enrolment_token(json!({})).await;
    let id = Token::parse(&revoked, TokenKind::Enrolment).unwrap().id;
    world.owner.delete(&format!("/v1/orgs/acme/enrolment-tokens/{id}")).await.ok(204);
    refused(&revoked, "token_revoked").await;

    let expired = world.enrolment_token(json!({ "expires_s": 60 })).await;
    let id = Token::parse(&expired, TokenKind::Enrolment).unwrap().id;
    let aged = world.hub.state.store.write(move |tx| Ok(tx.execute("UPDATE enrolment_tokens SET expires_at = 1 WHERE id = ?1", [id])?));
    assert_eq!(aged.await.unwrap(), 1);
    refused(&expired, "token_expired").await;

    // None of them left a row, and the good one still works.
    let rows = world.owner.get("/v1/orgs/acme/devices").await.ok(200);
    assert_eq!(rows["items"].as_array().unwrap().len(), 2);
    device.enrol(&world, &good).await.ok(200);
    // Refusals with a real token are in the records, once each.
    let audit = world.audit().await;
    let results: Vec<&str> =
        audit.iter().filter(|event| event["action"] == "device.enrol").filter_map(|event| event["result"].as_str()).collect();
    for code in ["token_used_up", "token_serial", "token_revoked", "token_expired"] {
        assert_eq!(results.iter().filter(|result| **result == code).count(), 1, "{code} in {results:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_asks_twice_and_is_counted_once() {
    let world = World::new().await;
    let token = world.enrolment_token(json!({ "uses": 1, "admit": "auto" })).await;
    let device = Device::new("robot-1");
    let first = device.enrol(&world, &token).await.ok(200);
    let again = device.enrol(&world, &token).await.ok(200);
    for field in ["request", "pairing_code", "identity"] {
        assert_eq!(first[field], again[field], "{field}");
    }
    let list = world.owner.get("/v1/orgs/acme/enrolment-tokens").await.ok(200);
    assert_eq!((&list["items"][0]["used"], &list["items"][0]["token"]), (&json!(1), &Value::Null));

    // The same key under another serial number would be two devices with one identity.
    let token = world.enrolment_token(json!({})).await;
    let twin = Device { serial: "robot-2".into(), ..device };
    assert!(twin.enrol(&world, &token).await.problem("conflict").detail.contains("robot-1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_uses_admit_ten_of_fifty_that_come_at_once() {
    let world = World::new().await;
    let token = world.enrolment_token(json!({ "uses": 10, "admit": "auto" })).await;
    let devices: Vec<Device> = (0..50).map(|n| Device::new(&format!("robot-{n}"))).collect();
    let answers = join_all(devices.iter().map(|device| device.enrol(&world, &token))).await;
    let admitted = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(admitted, 10);
    for answer in answers.iter().filter(|answer| answer.status != 200) {
        answer.problem("token_used_up");
    }
    let rows = world.owner.get("/v1/orgs/acme/devices?admission=admitted&limit=1000").await.ok(200);
    assert_eq!(rows["items"].as_array().unwrap().len(), 10);
    let list = world.owner.get("/v1/orgs/acme/enrolment-tokens").await.ok(200);
    assert_eq!(list["items"][0]["used"], 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_device_hears_why_and_may_be_taken_back() {
    let world = World::new().await;
    let token = world.enrolment_token(json!({})).await;
    let device = Device::new("robot-1");
    let state = device.enrol(&world, &token).await.ok(200);
    let request = format!("/v1/enrol/{}?wait=20", state["request"].as_str().unwrap());
    world.owner.post("/v1/orgs/acme/devices/robot-1/reject", json!({ "reason": "not ours" })).await.ok(200);
    let answer = world.stranger().get(&request).await.ok(200);
    assert_eq!(answer["state"], "rejected");
    assert!(answer["why"].as_str().unwrap().contains("not ours"), "{answer}");
    // A token that admits by itself does not overrule an owner.
    let auto = world.enrolment_token(json!({ "admit": "auto" })).await;
    assert_eq!(device.enrol(&world, &auto).await.ok(200)["state"], "rejected");
    world.owner.send("POST", "/v1/orgs/acme/devices/robot-1/admit", None).await.ok(200);
    assert_eq!(world.stranger().get(&request).await.ok(200)["state"], "admitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_admitted_by_a_token_that_admits() {
    let world = World::new().await;
    let manual = world.enrolment_token(json!({})).await;
    let auto = world.enrolment_token(json!({ "admit": "auto", "uses": 1, "project": "lab" })).await;
    let device = Device::new("robot-1");
    let waiting = device.enrol(&world, &manual).await.ok(200);
    let admitted = device.enrol(&world, &auto).await.ok(200);
    assert_eq!((&waiting["state"], &admitted["state"]), (&json!("pending"), &json!("admitted")));
    assert_eq!(waiting["request"], admitted["request"]);
    let row = world.owner.get("/v1/orgs/acme/devices/robot-1").await.ok(200);
    assert_eq!(row["projects"], json!(["lab"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_with_the_field() {
    let world = World::new().await;
    let token = world.enrolment_token(json!({})).await;
    let device = Device::new("robot-1");
    let good = json!({ "token": token, "serial": "robot-1", "csr": device.csr(), "facts": {} });
    let with = |field: &str, value: Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    let p384 = csr(&rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap());
    let mut flipped = device.csr().into_bytes();
    let middle = flipped.len() - 60;
    flipped[middle] = if flipped[middle] == b'A' { b'B' } else { b'A' };
    let cases = [
        (with("serial", json!("")), "serial"),
        (with("serial", json!("a\u{202e}b")), "serial"),
        (with("serial", json!(7)), "serial"),
        (with("csr", json!("garbage")), "csr"),
        (with("csr", json!("x".repeat(9000))), "csr"),
        (with("csr", json!(p384)), "P-256"),
        (with("csr", json!(String::from_utf8(flipped).unwrap())), "csr"),
        (with("facts", json!({ "blob": "x".repeat(20_000) })), "facts"),
        (json!({ "token": token }), "serial"),
    ];
    for (body, part) in cases {
        let problem = world.stranger().post("/v1/enrol", body).await.problem("invalid");
        assert!(problem.detail.contains(part), "{part}: {}", problem.detail);
    }
    world.stranger().get("/v1/enrol/0123456789abcdef0123456789abcdef").await.problem("not_found");
    assert_eq!(world.stranger().post("/v1/enrol", good).await.ok(200)["state"], "pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_name_takes_no_other_devices_name_and_a_persons_name_stays() {
    let world = World::new().await;
    let auto = world.enrolment_token(json!({ "admit": "auto", "project": "lab" })).await;
    let manual = world.enrolment_token(json!({ "project": "lab" })).await;
    let id = |n: u32| format!("83f3bf5f8e2241c0a1b2c3d4{n:08x}");
    let asks = async |device: &Device, token: &str, host: Value| device.enrol_as(&world, token, json!({ "hostname": host })).await.ok(200);
    let row = async |id: &str| world.owner.get(&format!("/v1/orgs/acme/devices/{id}")).await.ok(200);
    world.owner.post("/v1/orgs/acme/devices", json!({ "id": "robot-3", "name": "welder" })).await.ok(201);
    world.owner.patch("/v1/orgs/acme/devices/robot-3", json!({ "name": "camera" })).await.ok(200);
    for (n, token, host, name) in [
        (1, &auto, json!("robot"), "robot"),
        (2, &manual, json!("robot"), "robot-2"),
        // robot-3 is a serial number here: it would name two.
        (3, &auto, json!("robot"), "robot-4"),
        (4, &auto, json!("camera"), "camera-2"),
        (5, &auto, json!("arm 7\u{1b}[2J\u{202e}"), "arm-7-2J"),
        (6, &auto, json!("x".repeat(300)), &*"x".repeat(63)),
        (7, &auto, json!("localhost"), &*id(7)),
        (8, &auto, json!("ABCD-2345"), &*id(8)),
        (9, &auto, json!(["robot"]), &*id(9)),
        (10, &auto, json!(id(1)), &*id(10)),
    ] {
        let state = asks(&Device::new(&id(n)), token, host.clone()).await;
        let row = row(&id(n)).await;
        assert_eq!((&row["name"], &row["id"]), (&json!(name), &json!(id(n))), "{host}");
        if *token == auto {
            assert_eq!(state["identity"]["name"], name, "{state}");
        }
    }
    // A serial number that was chosen is the name, whatever the host is called.
    asks(&Device::new("SN-0017"), &auto, json!("robot")).await;
    assert_eq!(row("SN-0017").await["name"], "SN-0017");

    // What waits and gets its host name later is called by it then; a name that a person gave stays.
    let late = Device::new(&id(20));
    asks(&late, &manual, json!("localhost")).await;
    assert_eq!(row(&id(20)).await["name"], json!(id(20)));
    asks(&late, &manual, json!("arm")).await;
    assert_eq!(row(&id(20)).await["name"], "arm");
    world.owner.patch(&format!("/v1/orgs/acme/devices/{}", id(20)), json!({ "name": "left arm" })).await.ok(200);
    asks(&late, &manual, json!("arm-9")).await;
    assert_eq!(row(&id(20)).await["name"], "left arm");
    // Entered by hand without a name: the same.
    world.owner.post("/v1/orgs/acme/devices", json!({ "id": id(21) })).await.ok(201);
    asks(&Device::new(&id(21)), &auto, json!("gripper")).await;
    assert_eq!(row(&id(21)).await["name"], "gripper");
    world.hub.stop().await;
}
