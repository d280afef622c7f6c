//! What everything answers that is not as it should be: always a problem, with a request id; and the pages for machines.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_are_problems() {
    let world = World::new().await;
    let owner = &world.owner;
    owner.get("/").await.problem("not_found");
    owner.get("/v1/nothing").await.problem("not_found");
    let answer = owner.send("DELETE", "/v1/hub", None).await;
    answer.problem("method_not_allowed");
    assert!(answer.headers.contains_key("allow"), "{:?}", answer.headers);
    owner.raw("POST", "/v1/orgs", &[], b"{}".to_vec()).await.problem("media_type");
    owner.raw("POST", "/v1/orgs", &[("content-type", "text/plain")], b"{}".to_vec()).await.problem("media_type");
    let json_type: &[(&str, &str)] = &[("content-type", "application/json; charset=utf-8")];
    let detail = async |body: &str| owner.raw("POST", "/v1/orgs", json_type, body.as_bytes().to_vec()).await.problem("invalid").detail;
    assert!(detail("").await.starts_with("body:"));
    assert!(detail("{").await.contains("EOF"));
    assert!(detail("{\"id\":\"abc\"} trailing").await.contains("trailing"));
    assert!(detail("{\"id\":7}").await.starts_with("id:"));
    assert!(detail("{\"id\":\"abc\",\"colour\":1}").await.contains("colour"));
    assert!(detail("[]").await.starts_with("body:"));
    let nested = json!({ "serials": ["good", ""] }).to_string();
    let answer = owner.raw("POST", "/v1/orgs/acme/enrolment-tokens", json_type, nested.into_bytes()).await;
    assert!(answer.problem("invalid").detail.starts_with("serials[1]:"));
    owner.raw("POST", "/v1/orgs", json_type, vec![b' '; 300 * 1024]).await.problem("too_large");
    let deep = "[".repeat(100_000);
    owner.raw("POST", "/v1/orgs", json_type, deep.into_bytes()).await.problem("invalid");
    let detail = owner.get("/v1/orgs/acme/devices?limit=many").await.problem("invalid").detail;
    assert!(detail.contains("limit"), "{detail}");
    owner.get("/v1/orgs/acme/devices?presence=maybe").await.problem("invalid");
    owner.get("/v1/orgs/acme/devices/%ff").await.problem("not_found");
    // A stranger gets no further, whatever he sends.
    world.stranger().raw("POST", "/v1/orgs", json_type, b"{".to_vec()).await.problem("unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_have_ids_and_answers_are_not_kept() {
    let world = World::new().await;
    let given = world.owner.raw("GET", "/v1/me", &[("x-request-id", "my-1")], Vec::new()).await;
    assert_eq!(given.headers["x-request-id"], "my-1");
    let made = world.owner.raw("GET", "/v1/me", &[("x-request-id", "a b\"c")], Vec::new()).await;
    assert_eq!(made.headers["x-request-id"].len(), 16);
    assert_eq!(made.headers["cache-control"], "no-store");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_for_machines() {
    let world = World::new().await;
    let stranger = world.stranger();
    world.admitted("robot-1").await;
    assert_eq!(stranger.get("/healthz").await.ok(200)["status"], "ok");
    assert_eq!(stranger.get("/readyz").await.ok(200)["status"], "ready");
    let hub = stranger.get("/v1/hub").await.ok(200);
    assert_eq!((&hub["service"], &hub["pin"]), (&json!("muster-hub"), &json!(world.pin.to_string())));
    let port = world.hub.https.port();
    assert_eq!(hub["mqtt"]["websocket"], format!("wss://127.0.0.1:{port}/mqtt"));
    assert_eq!(hub["mqtt"]["url"], format!("mqtts://127.0.0.1:{}", world.hub.mqtt.unwrap().port()));
    let page = String::from_utf8(stranger.get("/metrics").await.body.to_vec()).unwrap();
    for line in ["muster_devices{admission=\"admitted\"} 1", "muster_mqtt_links 0", "# TYPE http_server_request_duration_seconds histogram"]
    {
        assert!(page.lines().any(|have| have == line), "{line} is not in\n{page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_described_is_there_and_guarded() {
    let world = World::new().await;
    let document = world.stranger().get("/v1/openapi.json").await.ok(200);
    let open = [
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/openapi.json",
        "/v1/hub",
        "/v1/enrol",
        "/v1/enrol/{request}",
        "/v1/login",
        "/invite",
        "/v1/login/methods",
        "/v1/login/oidc/start",
        "/v1/login/oidc/callback",
        "/v1/login/oidc/confirm",
        "/v1/login/code",
        "/v1/login/device",
        "/v1/login/device/token",
        "/login/device",
        "/v1/invitations/look",
        "/v1/invitations/accept",
    ];
    let mut asked = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let real = path.replace("{org}", "acme").replace("{project}", "lab").replace(['{', '}'], "");
            let answer = world.stranger().send(&method.to_uppercase(), &real, None).await;
            let guarded = operation["security"] != json!([]);
            assert_eq!(guarded, !open.contains(&path.as_str()), "{path}");
            if guarded {
                // A WebSocket's path may find first that it is none.
                assert!([400, 401, 404, 426].contains(&answer.status), "{method} {path}: {}", answer.status);
                let websocket = operation["responses"].get("101").is_some();
                assert!(websocket || answer.status == 401, "{method} {path}: {}", answer.status);
            } else {
                assert!(![401, 405].contains(&answer.status), "{method} {path}: {}", answer.status);
            }
            asked += 1;
        }
    }
    assert!(asked >= 45, "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_device_list_pages_and_filters() {
    let world = World::new().await;
    let token = world.enrolment_token(json!({ "admit": "auto", "project": "lab" })).await;
    let manual = world.enrolment_token(json!({})).await;
    for n in 0..7 {
        crate::world::Device::new(&format!("robot-{n}")).enrol(&world, if n < 5 { &token } else { &manual }).await.ok(200);
    }
    let count = async |query: &str| {
        let page = world.owner.get(&format!("/v1/orgs/acme/devices{query}")).await.ok(200);
        page["items"].as_array().unwrap().len()
    };
    assert_eq!(count("").await, 7);
    assert_eq!(count("?project=lab").await, 5);
    assert_eq!(count("?admission=pending").await, 2);
    assert_eq!(count("?presence=online").await, 0);
    assert_eq!(count("?presence=never&admission=admitted").await, 5);
    let (mut cursor, mut seen) = (String::new(), Vec::new());
    for _ in 0..4 {
        let page = world.owner.get(&format!("/v1/orgs/acme/devices?limit=2{cursor}")).await.ok(200);
        seen.extend(page["items"].as_array().unwrap().iter().map(|device| device["uid"].as_str().unwrap().to_owned()));
        cursor = page.get("next").and_then(Value::as_str).map(|next| format!("&cursor={next}")).unwrap_or_default();
    }
    assert!(cursor.is_empty());
    seen.dedup();
    assert_eq!(seen.len(), 7);
    // A name that two bear is a question, not a guess.
    for n in [1, 2] {
        world.owner.patch(&format!("/v1/orgs/acme/devices/robot-{n}"), json!({ "name": "twin" })).await.ok(200);
    }
    let detail = world.owner.get("/v1/orgs/acme/devices/twin").await.problem("conflict").detail;
    assert!(detail.contains("robot-1") && detail.contains("robot-2"), "{detail}");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_harms_nobody() {
    let world = World::new().await;
    for garbage in [&b""[..], b"\0\0\0\0", b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 0xff, 0xff], &[0xff; 4096]] {
        let mut stream = TcpStream::connect(world.hub.https).await.unwrap();
        // The hub may close before all is written.
        let _ = stream.write_all(garbage).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await.expect("the hub closes it");
    }
    world.owner.get("/v1/me").await.ok(200);
    let stopped = tokio::time::timeout(Duration::from_secs(10), world.hub.stop()).await;
    assert!(stopped.is_ok());
}
