//! Runs over HTTP: from the order to the end, with a device that is nothing but what it tells.

use muster_proto::order::{Order, OrderKind, SignedOrder};
use muster_proto::run::{RunEnd, RunOrder, RunOutcome, RunOutput, RunReport, RunReportKind, RunStream, RunUsed};
use muster_proto::topic::{Topic, Up};
use rcgen::PublicKeyData as _;
use serde_json::{Value, json};

use crate::world::{Client, Device, World};

/// What a device tells.
struct Told<'a> {
    world: &'a World,
    uid: String,
    run: String,
}

impl Told<'_> {
    async fn report(&self, n: u64, kind: RunReportKind) {
        let report = RunReport { n, t: now(), kind };
        let Ok(Topic::Up(uid, up)) = format!("muster/v1/{}/up/run/{}", self.uid, self.run).parse() else { panic!("no topic") };
        assert!(matches!(up, Up::Run(_)));
        self.world.hub.state.ingest.up(&uid, &up, &muster_proto::mqtt::encode(&report)).await.unwrap();
    }

    async fn output(&self, n: u64, stream: RunStream, at: u64, text: &str) {
        self.report(n, RunReportKind::Output(RunOutput { stream, at, bytes: text.into() })).await;
    }

    async fn end(&self, n: u64, outcome: RunOutcome, exit_code: Option<i32>, used: RunUsed) {
        let end = RunEnd { exit_code, code: None, message: None, used, ..RunEnd::without_process(outcome, "", "") };
        self.report(n, RunReportKind::End(end)).await;
    }
}

fn now() -> i64 {
    i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

async fn start(who: &Client, device: &Device, body: Value) -> Value {
    who.post(&format!("/v1/orgs/acme/devices/{}/runs", device.uid), body).await.ok(201)
}

fn told<'a>(world: &'a World, device: &Device, run: &Value) -> Told<'a> {
    Told { world, uid: device.uid.clone(), run: run["id"].as_str().unwrap().to_owned() }
}

async fn shown(world: &World, run: &Value) -> Value {
    world.owner.get(&format!("/v1/orgs/acme/runs/{}", run["id"].as_str().unwrap())).await.ok(200)
}

/// Lines of output.
async fn lines(who: &Client, run: &Value, query: &str) -> Vec<Value> {
    let answer = who.get(&format!("/v1/orgs/acme/runs/{}/output{query}", run["id"].as_str().unwrap())).await;
    assert_eq!((answer.status, answer.headers["content-type"].to_str().unwrap()), (200, "application/x-ndjson"));
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn queued(world: &World, device: &Device) -> i64 {
    let uid = device.uid.clone();
    let count = world.hub.state.store.read(move |db| {
        Ok(db.query_row("SELECT count(*) FROM mqtt_queue WHERE uid = ?1 AND topic LIKE '%/down/run/%'", [uid], |row| row.get(0))?)
    });
    count.await.unwrap()
}

/// The order that waits for the device, out of its envelope.
async fn ordered(world: &World, device: &Device) -> Order {
    let uid = device.uid.clone();
    let payload = world.hub.state.store.read(move |db| {
        let sql = "SELECT payload FROM mqtt_queue WHERE uid = ?1 AND topic LIKE '%/down/run/%'";
        Ok(db.query_row(sql, [uid], |row| row.get::<_, Vec<u8>>(0))?)
    });
    match RunOrder::decode(&payload.await.unwrap()).unwrap() {
        RunOrder::Start(signed) => signed.read().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_from_the_order_to_the_end_and_each_report_counts_once() {
    let world = World::new().await;
    let device = world.admitted("R-1").await;
    let body = json!({ "command": { "argv": ["df", "-h"] }, "env": { "SECRET": "hunter2" }, "cwd": "/tmp", "timeout_s": 60 });
    let run = start(&world.owner, &device, body).await;
    assert_eq!((&run["state"], &run["project"], &run["env"]), (&json!("waiting"), &json!("lab"), &json!(["SECRET"])));
    assert!(run["why"].as_str().unwrap().starts_with("waiting for the device"), "{run}");
    assert_eq!(run["expires_at"].as_i64().unwrap() - run["created_at"].as_i64().unwrap(), 600_000);
    assert_eq!(queued(&world, &device).await, 1);
    let order = ordered(&world, &device).await;
    assert_eq!((order.device.as_str(), order.name()), (device.uid.as_str(), run["id"].as_str().unwrap()));
    assert_eq!(order.device_key, muster_hub::random::to_hex(&muster_hub::random::sha256(&device.key.subject_public_key_info())));
    let OrderKind::Run { start, .. } = &order.kind else { panic!("{order:?}") };
    assert_eq!((start.env["SECRET"].as_str(), start.user.as_str()), ("hunter2", "ada@acme.example"));

    let device_tells = told(&world, &device, &run);
    let used = RunUsed { cpu_us: 1_500_000, mem_byte_ms: 4096 * 1000, mem_peak: 4096, wall_ms: 1000 };
    for _ in 0..2 {
        device_tells.report(0, RunReportKind::Accepted).await;
        device_tells.report(1, RunReportKind::Started).await;
        device_tells.output(2, RunStream::Stdout, 0, "hello\n").await;
        device_tells.output(3, RunStream::Stderr, 0, "oh\n").await;
    }
    assert_eq!(shown(&world, &run).await["state"], "running");
    for _ in 0..2 {
        device_tells.end(4, RunOutcome::Done, Some(3), used).await;
        device_tells.output(2, RunStream::Stdout, 0, "forged\n").await;
        device_tells.report(1, RunReportKind::Started).await;
        device_tells.end(5, RunOutcome::Lost, None, RunUsed::default()).await;
    }
    let ended = shown(&world, &run).await;
    assert_eq!((&ended["state"], &ended["exit_code"], &ended["cpu_us"]), (&json!("failed"), &json!(3), &json!(1_500_000)));
    assert_eq!(ended["why"], "ended with exit code 3");
    assert!(ended["started_at"].as_i64() <= ended["ended_at"].as_i64() && ended["started_at"].is_i64());

    let all = lines(&world.owner, &run, "").await;
    assert_eq!(all.len(), 3);
    assert_eq!((&all[0]["text"], &all[0]["stream"], &all[1]["stream"]), (&json!("hello\n"), &json!("stdout"), &json!("stderr")));
    assert_eq!(all[2]["run"]["id"], run["id"]);
    assert_eq!(lines(&world.owner, &run, "?from=3&follow=true").await[..], all[1..]);

    // Metered once, in the transaction of the end.
    let id = run["id"].as_str().unwrap().to_owned();
    let keys = world.hub.state.store.read(move |db| {
        Ok(db.query_row("SELECT count(*) FROM usage_keys WHERE key LIKE ?1", [format!("run:{id}%")], |row| row.get::<_, i64>(0))?)
    });
    assert_eq!(keys.await.unwrap(), 3);
    let amounts = world.hub.state.store.read(|db| {
        let mut statement = db.prepare("SELECT kind, sum(amount) FROM usage_days WHERE org = 'acme' AND kind IN ('runs', 'cpu_us', 'memory_kib_ms', 'runs_peak') GROUP BY kind ORDER BY kind")?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?)))?;
        Ok(rows.collect::<Result<Vec<_>, _>>()?)
    });
    let want =
        [("cpu_us", 1_500_000), ("memory_kib_ms", 4000), ("runs", 1), ("runs_peak", 1)].map(|(kind, amount)| (kind.to_owned(), amount));
    assert_eq!(amounts.await.unwrap(), want);

    let event = world.audit().await.into_iter().find(|event| event["action"] == "run.start").unwrap();
    assert_eq!((&event["result"], &event["details"]["command"]["argv"][0]), (&json!("ok"), &json!("df")));
    assert!(!event.to_string().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_while_it_waits_is_at_once_and_the_device_has_the_last_word() {
    let world = World::new().await;
    let device = world.admitted("R-1").await;
    let command = json!({ "command": { "shell": "sleep 100" } });
    let run = start(&world.owner, &device, command.clone()).await;
    let path = format!("/v1/orgs/acme/runs/{}/cancel", run["id"].as_str().unwrap());
    let cancelled = world.owner.post(&path, Value::Null).await.ok(200);
    assert_eq!((&cancelled["state"], &cancelled["cancelled_by"]), (&json!("cancelled"), &json!(crate::world::OWNER)));
    assert_eq!(queued(&world, &device).await, 1, "the order is taken back; the cancel waits");
    world.owner.post(&path, Value::Null).await.problem("conflict");
    let device_tells = told(&world, &device, &run);
    device_tells.report(0, RunReportKind::End(RunEnd::without_process(RunOutcome::Lost, "unknown_run", "never heard of it"))).await;
    assert_eq!(shown(&world, &run).await["state"], "cancelled");
    // It had taken the order all the same: that is what counts, and it is told again to end it.
    device_tells.report(0, RunReportKind::Accepted).await;
    assert_eq!(shown(&world, &run).await["state"], "running");
    device_tells.end(1, RunOutcome::Cancelled, None, RunUsed::default()).await;
    let ended = shown(&world, &run).await;
    assert_eq!((&ended["state"], &ended["cancelled_by"]), (&json!("cancelled"), &json!(crate::world::OWNER)));

    // One that runs goes on until the device has ended it.
    let run = start(&world.owner, &device, command).await;
    told(&world, &device, &run).report(0, RunReportKind::Accepted).await;
    let path = format!("/v1/orgs/acme/runs/{}/cancel", run["id"].as_str().unwrap());
    assert_eq!(world.owner.post(&path, Value::Null).await.ok(200)["state"], "running");
    assert_eq!(world.audit().await.iter().filter(|event| event["action"] == "run.cancel" && event["result"] == "ok").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_does_not_leave_for_a_run_that_was_ended_meanwhile() {
    let world = World::new().await;
    let device = world.admitted("R-1").await;
    let run = start(&world.owner, &device, json!({ "command": { "argv": ["true"] } })).await;
    let id = run["id"].as_str().unwrap();
    world.owner.post(&format!("/v1/orgs/acme/runs/{id}/cancel"), Value::Null).await.ok(200);
    let waiting = queued(&world, &device).await;
    // As where the cancel came between the record of a run and its order.
    let (uid, id) = (device.uid.parse().unwrap(), id.parse().unwrap());
    let left =
        world.hub.state.runs.start(&uid, &id, SignedOrder::new(b"{}", b"s", b"c"), std::time::Duration::from_secs(60)).await.unwrap();
    assert!(!left);
    assert_eq!(queued(&world, &device).await, waiting);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_no_key_speaks_for_is_sent_no_order() {
    let world = World::new().await;
    let made = world.owner.post("/v1/orgs/acme/devices", json!({ "id": "CAM-1", "projects": ["lab"] })).await.ok(201);
    let path = format!("/v1/orgs/acme/devices/{}/runs", made["uid"].as_str().unwrap());
    let problem = world.owner.post(&path, json!({ "command": { "argv": ["true"] } })).await.problem("device_offline");
    assert!(problem.detail.contains("has no key yet") && problem.detail.contains("musterd enrol"), "{problem:?}");
    assert_eq!(world.owner.get("/v1/orgs/acme/runs").await.ok(200)["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_finds_room_for_its_output_or_does_not_begin() {
    let world = World::new().await;
    let device = world.admitted("R-1").await;
    let limits = json!({ "limits": [{ "name": "storage", "most": 1000 }] });
    world.owner.patch("/v1/orgs/acme/limits", limits).await.ok(200);
    let path = format!("/v1/orgs/acme/devices/{}/runs", device.uid);
    let with = |output_max: Option<u64>| json!({ "command": { "argv": ["true"] }, "output_max": output_max });
    for too_much in [None, Some(1001)] {
        let problem = world.owner.post(&path, with(too_much)).await.problem("limit_reached");
        assert!(problem.detail.contains("1000 bytes stored") && problem.detail.contains("were asked for"), "{problem:?}");
    }
    let run = start(&world.owner, &device, with(Some(1000))).await;
    told(&world, &device, &run).output(0, RunStream::Stdout, 0, &"x".repeat(400)).await;
    world.owner.post(&path, with(Some(601))).await.problem("limit_reached");
    world.owner.post(&path, with(Some(600))).await.ok(201);
    // Without output it needs none.
    world.owner.patch("/v1/orgs/acme/limits", json!({ "limits": [{ "name": "storage", "most": 1 }] })).await.ok(200);
    world.owner.post(&path, with(Some(0))).await.ok(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_and_what_is_refused() {
    let world = World::new().await;
    let device = world.admitted("R-1").await;
    let path = format!("/v1/orgs/acme/devices/{}/runs", device.uid);
    let command = json!({ "command": { "argv": ["true"] } });
    let operator = world.collaborates("op@acme.example", "acme", "lab", "operate").await;
    let other = world.collaborates("other@acme.example", "acme", "lab", "operate").await;
    let connect = world.collaborates("con@acme.example", "acme", "lab", "connect").await;
    let stranger = world.person("eve@evil.example").await;
    connect.post(&path, command.clone()).await.problem("forbidden");
    stranger.post(&path, command.clone()).await.problem("not_found");
    world.stranger().post(&path, command.clone()).await.problem("unauthenticated");
    let run = start(&operator, &device, command.clone()).await;
    let id = run["id"].as_str().unwrap();
    connect.get(&format!("/v1/orgs/acme/runs/{id}")).await.ok(200);
    for tail in ["", "/output"] {
        stranger.get(&format!("/v1/orgs/acme/runs/{id}{tail}")).await.problem("not_found");
    }
    connect.post(&format!("/v1/orgs/acme/runs/{id}/cancel"), Value::Null).await.problem("forbidden");
    other.post(&format!("/v1/orgs/acme/runs/{id}/cancel"), Value::Null).await.problem("forbidden");
    operator.post(&format!("/v1/orgs/acme/runs/{id}/cancel"), Value::Null).await.ok(200);
    for missing in ["rzzzzzzzzzzzzzzz", "nonsense", "%00"] {
        world.owner.get(&format!("/v1/orgs/acme/runs/{missing}")).await.problem("not_found");
    }

    let mut refused = 0;
    for (field, value) in [
        ("command", json!({ "argv": [] })),
        ("command", json!({ "argv": ["a\u{0}b"] })),
        ("command", json!({ "argv": ["x".repeat(30_000)] })),
        ("command", json!({ "shell": " " })),
        ("command", json!("df")),
        ("command", json!({ "argv": ["df"], "shell": "df" })),
        ("cwd", json!("tmp")),
        ("env", json!({ "A=B": "1" })),
        ("env", json!({ "A": "x".repeat(9000) })),
        ("run_as", json!("-root")),
        ("timeout_s", json!(0)),
        ("timeout_s", json!(86_401)),
        ("output_max", json!(16 * 1024 * 1024 + 1)),
        ("colour", json!("blue")),
    ] {
        let mut body = command.clone();
        body[field] = value;
        let problem = world.owner.post(&path, body).await.problem("invalid");
        assert!(problem.detail.contains(field), "{problem:?}");
        refused += 1;
    }
    assert_eq!(refused, 14);
    // Six bytes in JSON for each: under the bound of a command, over that of a message.
    let bells = json!({ "command": { "shell": "\u{7}".repeat(20_000) } });
    assert!(world.owner.post(&path, bells).await.problem("invalid").detail.contains("too large"));
    world.owner.get("/v1/orgs/acme/runs?cursor=AAAA").await.problem("invalid");
    world.owner.get("/v1/orgs/acme/runs?state=asleep").await.problem("invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_filtered_paged_and_shows_only_what_one_sees() {
    let world = World::new().await;
    let (first, second) = (world.admitted("R-1").await, world.admitted("R-2").await);
    let operator = world.collaborates("op@acme.example", "acme", "lab", "operate").await;
    let command = json!({ "command": { "argv": ["true"] } });
    let mut ids = Vec::new();
    for (who, device) in [(&world.owner, &first), (&operator, &first), (&operator, &second)] {
        ids.push(start(who, device, command.clone()).await);
    }
    told(&world, &second, &ids[2]).end(0, RunOutcome::Done, Some(0), RunUsed::default()).await;
    let list = async |who: &Client, query: &str| -> Vec<Value> {
        let page = who.get(&format!("/v1/orgs/acme/runs{query}")).await.ok(200);
        page["items"].as_array().unwrap().iter().map(|run| run["id"].clone()).collect()
    };
    let id = |n: usize| ids[n]["id"].clone();
    assert_eq!(list(&operator, "").await, [id(2), id(1), id(0)]);
    assert_eq!(list(&operator, "?device=R-1").await, [id(1), id(0)]);
    assert_eq!(list(&operator, "?state=alive").await, [id(1), id(0)]);
    assert_eq!(list(&operator, "?state=over").await, [id(2)]);
    assert_eq!(list(&operator, "?state=done&user=OP@acme.example").await, [id(2)]);
    let page = operator.get("/v1/orgs/acme/runs?limit=2").await.ok(200);
    let cursor = page["next"].as_str().unwrap();
    assert_eq!(list(&operator, &format!("?limit=2&cursor={cursor}")).await, [id(0)]);
    operator.get(&format!("/v1/orgs/acme/runs?limit=2&state=over&cursor={cursor}")).await.problem("invalid");
    world.owner.post("/v1/orgs/acme/projects", json!({ "id": "attic", "visibility": "private" })).await.ok(201);
    let elsewhere = world.collaborates("else@acme.example", "acme", "attic", "admin").await;
    assert!(list(&elsewhere, "").await.is_empty());
    elsewhere.get(&format!("/v1/orgs/acme/runs/{}", ids[0]["id"].as_str().unwrap())).await.problem("not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_sees_it_live_and_no_longer_than_the_right_lasts() {
    let world = World::new().await;
    let device = world.admitted("R-1").await;
    let viewer = world.collaborates("view@acme.example", "acme", "lab", "view").await;
    let operator = world.collaborates("op@acme.example", "acme", "lab", "operate").await;
    let run = start(&operator, &device, json!({ "command": { "argv": ["top"] } })).await;
    let device_tells = told(&world, &device, &run);
    device_tells.report(0, RunReportKind::Accepted).await;
    let path = format!("/v1/orgs/acme/runs/{}/output?follow=true", run["id"].as_str().unwrap());
    let (mut sees, mut loses) = (world.owner.lines(&path).await, viewer.lines(&path).await);
    device_tells.output(1, RunStream::Stdout, 0, "one\n").await;
    for reader in [&mut sees, &mut loses] {
        assert_eq!(reader.next().await.unwrap()["text"], "one\n", "it comes while the run goes on");
    }
    world.owner.delete("/v1/orgs/acme/projects/lab/participants/view@acme.example").await.ok(204);
    assert!(loses.next().await.unwrap()["problem"]["code"].is_string());
    assert!(loses.next().await.is_none());

    // Whoever started it loses the right: the run is ended.
    world.owner.delete("/v1/orgs/acme/projects/lab/participants/op@acme.example").await.ok(204);
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    while shown(&world, &run).await["cancelled_by"] != "hub" {
        assert!(tokio::time::Instant::now() < end, "the run of somebody without a right goes on");
        tokio::task::yield_now().await;
    }
    device_tells.end(2, RunOutcome::Cancelled, None, RunUsed::default()).await;
    assert_eq!(sees.next().await.unwrap()["run"]["state"], "cancelled");
    assert!(sees.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_token_ends_what_it_follows_and_what_it_ordered() {
    let world = World::new().await;
    let device = world.admitted("R-1").await;
    let made = world.owner.post("/v1/tokens", json!({ "name": "ci" })).await.ok(201);
    let ci = world.with_token(made["token"].as_str().unwrap());
    let (own, of_ci) =
        (start(&world.owner, &device, json!({ "command": { "argv": ["top"] } })).await, json!({ "command": { "argv": ["a"] } }));
    let of_ci = start(&ci, &device, of_ci).await;
    let device_tells = told(&world, &device, &own);
    device_tells.output(0, RunStream::Stdout, 0, "one\n").await;
    let mut follows = ci.lines(&format!("/v1/orgs/acme/runs/{}/output?follow=true", own["id"].as_str().unwrap())).await;
    assert_eq!(follows.next().await.unwrap()["text"], "one\n");
    world.owner.delete(&format!("/v1/tokens/{}", made["id"].as_str().unwrap())).await.ok(204);
    device_tells.output(1, RunStream::Stdout, 4, "secret\n").await;
    let last = follows.next().await.unwrap();
    assert!(last["problem"]["detail"].as_str().unwrap().contains("withdrawn"), "{last}");
    assert_eq!(follows.next().await, None);
    let end = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let ended = loop {
        let run = shown(&world, &of_ci).await;
        if run["cancelled_by"] == "hub" {
            break run;
        }
        assert!(tokio::time::Instant::now() < end, "the run of a withdrawn token goes on: {run}");
        tokio::task::yield_now().await;
    };
    assert_eq!(ended["state"], "cancelled");
    assert!(ended["why"].as_str().unwrap().contains("the access token"), "{ended}");
    assert_eq!(shown(&world, &own).await["state"], "running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_tells_of_its_own_runs_only_and_no_more_than_was_asked() {
    let world = World::new().await;
    let (device, thief) = (world.admitted("R-1").await, world.admitted("R-2").await);
    let run = start(&world.owner, &device, json!({ "command": { "argv": ["true"] }, "output_max": 10 })).await;
    told(&world, &thief, &run).end(0, RunOutcome::Done, Some(0), RunUsed::default()).await;
    assert_eq!(shown(&world, &run).await["state"], "waiting");
    let device_tells = told(&world, &device, &run);
    for n in 0..10 {
        device_tells.output(n, RunStream::Stdout, n * 10_000, &"x".repeat(10_000)).await;
    }
    let stored: usize = lines(&world.owner, &run, "").await.iter().filter_map(|line| line["text"].as_str()).map(str::len).sum();
    assert!(stored <= 10 + 32 * 1024, "{stored}");
}
