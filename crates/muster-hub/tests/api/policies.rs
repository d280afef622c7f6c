//! What devices tell of their policies, and what people read of it.

use muster_hub::ingest::{Ingest, Options, Refused};
use muster_hub::metrics::Metrics;
use muster_proto::mqtt::{PolicyReport, encode};
use muster_proto::topic::Up;
use serde_json::{Value, json};

use crate::world::{Device, World};

const POLICY: &str = "[users]\ndefault = \"pi\"\n";

async fn tells(world: &World, device: &Device, report: &PolicyReport) -> Result<(), Refused> {
    world.hub.state.ingest.up(&device.uid.parse().unwrap(), &Up::Policy, &encode(report)).await
}

fn report(text: Option<&str>) -> PolicyReport {
    PolicyReport { text: text.map(str::to_owned), code: None, fault: None, own_user: false, t: 7 }
}

async fn why(world: &World, device: &Device) -> String {
    world.owner.get(&format!("/v1/orgs/acme/devices/{}", device.uid)).await.ok(200)["why"].as_str().unwrap().to_owned()
}

/// As its birth on a link says.
async fn comes_online(world: &World, device: &Device) {
    let birth = json!({ "online": true, "link": 1, "boot": "0123456789abcdef" }).to_string();
    world.hub.state.ingest.up(&device.uid.parse().unwrap(), &Up::Presence, birth.as_bytes()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_is_shown_and_a_fault_stands_in_the_list() {
    let world = World::new().await;
    let device = world.admitted("R-1").await;
    let path = format!("/v1/orgs/acme/devices/{}/policy", device.uid);
    let none = world.owner.get(&path).await.ok(404);
    assert!(none["detail"].as_str().unwrap().contains("has not told its policy yet"), "{none}");

    tells(&world, &device, &report(Some(POLICY))).await.unwrap();
    let told = world.owner.get(&path).await.ok(200);
    assert_eq!((&told["text"], &told["own_user"], &told["t"]), (&json!(POLICY), &json!(false), &json!(7)));
    assert!(told["told_at"].as_i64().unwrap() > 1_000_000 && told.get("code").is_none() && told.get("fault").is_none(), "{told}");
    comes_online(&world, &device).await;
    assert_eq!(why(&world, &device).await, "online");

    let code = |code: &str| Some(format!("policy_{code}"));
    let fault = Some("/etc/musterd/policy.toml can be written by others\u{1b}[2J\nthan root.".to_owned());
    for (told, said) in [
        (
            PolicyReport { code: code("broken"), fault, ..report(Some("x = \u{202e}1\r\n\ty\n")) },
            "/etc/musterd/policy.toml can be written by others[2J than root",
        ),
        (PolicyReport { code: code("missing"), ..report(None) }, "policy_missing"),
        (PolicyReport { code: code("locked"), fault: Some("it is locked".into()), ..report(None) }, "it is locked"),
    ] {
        tells(&world, &device, &told).await.unwrap();
        assert_eq!(why(&world, &device).await, format!("online, but refuses every session: {said}"));
        let shown = world.owner.get(&path).await.ok(200);
        assert_eq!(shown["code"], json!(told.code));
        assert_eq!(shown.get("text").cloned(), told.text.map(|_| json!("x = 1\n\ty\n")));
        assert!(!shown.to_string().contains('\u{202e}') && !shown.to_string().contains("\\u001b"), "{shown}");
    }
    tells(&world, &device, &PolicyReport { own_user: true, ..report(Some(POLICY)) }).await.unwrap();
    assert!(why(&world, &device).await.starts_with("online; sessions run as the daemon's own user"));
    tells(&world, &device, &report(Some(POLICY))).await.unwrap();
    assert_eq!(why(&world, &device).await, "online");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused_and_so_is_a_device_that_does_not_belong() {
    let world = World::new().await;
    let device = world.admitted("R-1").await;
    let path = format!("/v1/orgs/acme/devices/{}/policy", device.uid);
    tells(&world, &device, &report(Some(&"#".repeat(32 * 1024)))).await.unwrap();
    for bad in [
        report(Some(&"#".repeat(32 * 1024 + 1))),
        PolicyReport { code: Some("c".repeat(65)), ..report(None) },
        PolicyReport { fault: Some("f".repeat(4097)), ..report(None) },
    ] {
        assert!(matches!(tells(&world, &device, &bad).await, Err(Refused::Payload(_))));
    }
    world.owner.post(&format!("/v1/orgs/acme/devices/{}/revoke", device.uid), json!({})).await.ok(200);
    assert!(matches!(tells(&world, &device, &report(Some(POLICY))).await, Err(Refused::NotAdmitted)));
    let told = world.owner.get(&path).await.ok(200);
    assert_eq!(told["text"].as_str().map(str::len), Some(32 * 1024), "what stood before stands");
    world.owner.delete(&format!("/v1/orgs/acme/devices/{}", device.uid)).await.ok(204);
    assert_eq!(world.owner.get(&path).await.ok(404)["code"], "not_found");
    let left = world.hub.state.store.read(|db| Ok(db.query_row("SELECT count(*) FROM device_policies", [], |row| row.get::<_, i64>(0))?));
    assert_eq!(left.await.unwrap(), 0);
    let audit: Vec<Value> = world.audit().await.into_iter().filter(|event| event["action"].as_str().unwrap().contains("policy")).collect();
    assert_eq!(audit, Vec::<Value>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_takes_the_place_has_not_told_yet_and_a_restart_forgets_nothing() {
    let world = World::new().await;
    let device = world.admitted("R-1").await;
    comes_online(&world, &device).await;
    let locked = PolicyReport { code: Some("policy_locked".into()), ..report(Some(POLICY)) };
    tells(&world, &device, &locked).await.unwrap();
    let state = &world.hub.state;
    let again = Ingest::open(state.store.clone(), Options::default(), &Metrics::default()).await.unwrap();
    assert_eq!(again.live().get(&device.uid.parse().unwrap()).refuses.as_deref(), Some("policy_locked"));

    let token = world.enrolment_token(json!({ "admit": "auto" })).await;
    assert_eq!(Device::new("R-1").enrol(&world, &token).await.ok(200)["state"], "replacement");
    assert!(why(&world, &device).await.contains("policy_locked"));
    world.owner.post("/v1/orgs/acme/devices/R-1/replace", json!({})).await.ok(200);
    world.owner.get("/v1/orgs/acme/devices/R-1/policy").await.problem("not_found");
    assert!(!why(&world, &device).await.contains("policy_locked"));
}
