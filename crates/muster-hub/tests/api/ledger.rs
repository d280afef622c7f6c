//! Credits: who books them, what use costs, and that every day is charged once.

use muster_hub::clock;
use muster_hub::config::Config;
use muster_hub::meter::Meter;
use muster_hub::store::metering::{self, Kind, Metered};
use muster_proto::api::Day;
use serde_json::{Value, json};

use crate::world::{OWNER, World};

async fn used(world: &World, key: &str, kind: Kind, project: Option<&str>, days_ago: i64, amount: i64) {
    let (key, project) = (key.to_owned(), project.map(|id| id.parse().unwrap()));
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let org = "acme".parse().unwrap();
        let at = Day::of(clock::now()).plus(-days_ago).start() + 5;
        metering::add(tx, &Metered { org: &org, project: project.as_ref(), uid: None, kind, amount, at, key })
    };
    world.hub.state.store.write(work).await.unwrap();
}

/// Everything that a start of the hub and its metering do.
async fn restart(world: &World, config: &Config) {
    let meter = Meter::start(world.hub.state.store.clone(), config, &world.hub.state.metrics).await.unwrap();
    meter.round(true).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_of_the_hub_tops_up_without_being_a_member() {
    let world = World::new().await;
    let bob = world.person("bob@else.example").await;
    bob.post("/v1/orgs", json!({ "id": "bobs" })).await.ok(201);
    // The owner of acme is an owner of the hub, and nothing in bobs.
    world.owner.get("/v1/orgs/bobs/billing").await.problem("not_found");
    let line = world.owner.post("/v1/orgs/bobs/credits", json!({ "credits": "100.50", "note": "invoice 7", "key": "i7" })).await.ok(201);
    assert_eq!((&line["credits"], &line["entry"], &line["actor"]), (&json!("100.5"), &json!("top_up"), &json!(OWNER)));
    let again = world.owner.post("/v1/orgs/bobs/credits", json!({ "credits": "100.50", "key": "i7" })).await.ok(200);
    assert_eq!(again["id"], line["id"]);
    world.owner.post("/v1/orgs/bobs/credits", json!({ "credits": "7", "key": "i7" })).await.problem("conflict");
    world.owner.post("/v1/orgs/bobs/credits", json!({ "credits": "-0.5", "correction": true })).await.ok(201);
    assert_eq!(bob.get("/v1/orgs/bobs/billing").await.ok(200)["balance"], "100");
    // Nobody else does, not for their own organization either.
    bob.post("/v1/orgs/bobs/credits", json!({ "credits": "1" })).await.problem("forbidden");
    bob.post("/v1/orgs/none/credits", json!({ "credits": "1" })).await.problem("forbidden");
    world.owner.post("/v1/orgs/none/credits", json!({ "credits": "1" })).await.problem("not_found");
    for (bad, field) in [
        (json!({ "credits": "0" }), "credits"),
        (json!({ "credits": "-1" }), "credits"),
        (json!({ "credits": 1 }), "credits"),
        (json!({ "credits": "1e3" }), "credits"),
        (json!({ "credits": "100000001" }), "credits"),
        (json!({ "credits": "1", "note": "" }), "note"),
        (json!({ "credits": "1", "key": "a\u{7}" }), "key"),
        (json!({ "credits": "1", "colour": 1 }), "colour"),
    ] {
        let detail = world.owner.post("/v1/orgs/bobs/credits", bad.clone()).await.problem("invalid").detail;
        assert!(detail.contains(field), "{bad}: {detail}");
    }
    let audit = bob.get("/v1/orgs/bobs/audit").await.ok(200);
    let booked: Vec<&Value> = audit["items"].as_array().unwrap().iter().filter(|event| event["action"] == "credits.add").collect();
    assert_eq!(booked.iter().filter(|event| event["result"] == "ok").count(), 2);
    assert!(booked.iter().any(|event| event["details"]["credits"] == "100.5" && event["actor"] == OWNER));
    // In pages, and as a file.
    let page = bob.get("/v1/orgs/bobs/ledger?limit=1").await.ok(200);
    assert_eq!(page["items"][0]["credits"], "-0.5");
    let next = bob.get(&format!("/v1/orgs/bobs/ledger?limit=1&cursor={}", page["next"].as_str().unwrap())).await.ok(200);
    assert_eq!((&next["items"][0]["note"], next.get("next")), (&json!("invoice 7"), None));
    bob.get("/v1/orgs/bobs/ledger?cursor=7").await.problem("invalid");
    let text = String::from_utf8(bob.get("/v1/orgs/bobs/ledger?format=csv").await.body.to_vec()).unwrap();
    assert!(text.starts_with("id,t,entry,credits,day,") && text.contains("top_up,100.5,,,,,,") && text.lines().count() == 3, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn days_are_charged_once_at_the_rate_of_their_time() {
    let world = World::new().await;
    let mut config = world.hub.state.config.clone();
    let hour = 3_600_000_000;
    used(&world, "run:a", Kind::CpuUs, Some("lab"), 1, 2 * hour).await;
    used(&world, "run:b", Kind::MemoryKibMs, Some("lab"), 1, metering::kib_ms(4 << 30) * 3_600_000).await;
    used(&world, "run:c", Kind::CpuUs, None, 0, hour).await;
    let billing = world.owner.get("/v1/orgs/acme/billing").await.ok(200);
    // The hub's own metering may have been faster with yesterday.
    let known = (billing["balance"].as_str().unwrap(), billing["uncharged"].as_str().unwrap());
    assert!([("0", "0.4"), ("-0.3", "0.1")].contains(&known), "{billing}");
    for _ in 0..3 {
        restart(&world, &config).await;
    }
    let billing = world.owner.get("/v1/orgs/acme/billing").await.ok(200);
    assert_eq!((&billing["balance"], &billing["spent"], &billing["uncharged"]), (&json!("-0.3"), &json!("0.3"), &json!("0.1")));
    assert_eq!(billing["projects"][0], json!({ "project": "lab", "credits": "0.3", "uncharged": "0" }));
    assert_eq!(billing["rates"][0]["credits"], "0.1");
    // The price is doubled: what was metered before keeps the old one, today's too.
    config.billing.cpu_hour = "0.2".parse().unwrap();
    restart(&world, &config).await;
    used(&world, "run:d", Kind::CpuUs, None, 0, hour).await;
    used(&world, "run:late", Kind::CpuUs, Some("lab"), 1, hour).await;
    restart(&world, &config).await;
    let billing = world.owner.get("/v1/orgs/acme/billing").await.ok(200);
    assert_eq!((&billing["balance"], &billing["uncharged"]), (&json!("-0.5"), &json!("0.3")));
    let ledger = world.owner.get("/v1/orgs/acme/ledger").await.ok(200);
    let lines: Vec<(&Value, &Value, &Value, &Value)> =
        ledger["items"].as_array().unwrap().iter().map(|line| (&line["unit"], &line["rate"], &line["credits"], &line["amount"])).collect();
    let (cpu, gib) = (&json!("cpu_hour"), &json!("gib_hour"));
    assert_eq!(
        lines,
        [
            (cpu, &json!("0.2"), &json!("-0.2"), &json!(hour)),
            (gib, &json!("0.025"), &json!("-0.1"), &json!(4_i64 * 1024 * 1024 * 3_600_000)),
            (cpu, &json!("0.1"), &json!("-0.2"), &json!(2 * hour)),
        ]
    );
    let changed = world.hub.state.store.read(|db| {
        Ok(db.query_row("SELECT count(*) FROM audit WHERE action = 'billing.rate' AND org IS NULL", [], |row| row.get::<_, i64>(0))?)
    });
    assert_eq!(changed.await.unwrap(), 4, "three rates at the first start, one change");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_however_large_makes_a_page_fail() {
    let world = World::new().await;
    let robot = world.admitted("robot-1").await;
    let uid = robot.uid.clone();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let today = Day::of(clock::now()).number();
        for (day, kind, uid) in [today - 1, today]
            .into_iter()
            .flat_map(|day| Kind::ALL.iter().map(move |kind| (day, kind)))
            .flat_map(|(day, kind)| [(day, kind, uid.as_str()), (day, kind, "daaaaaaaaaaaaaaa")])
        {
            let sql = "INSERT OR REPLACE INTO usage_days (org, day, kind, project, uid, amount) VALUES ('acme', ?1, ?2, 'lab', ?3, ?4)";
            tx.execute(sql, rusqlite::params![day, kind.as_str(), uid, i64::MAX])?;
        }
        for (nano, project) in [(i64::MAX, None), (i64::MAX, None), (-i64::MAX, Some("lab")), (i64::MIN, Some("lab"))] {
            let sql = "INSERT INTO ledger (t, org, entry, nano, day, project, kind, rate, amount, actor)
                       VALUES (1, 'acme', iif(?2 IS NULL, 'top_up', 'charge'), ?1, 1, ?2, 'cpu_us', 1, 1, 'hub')";
            tx.execute(sql, rusqlite::params![nano, project])?;
        }
        for (kind, rate) in [("cpu_us", i64::MAX), ("memory_kib_ms", 1), ("storage", i64::MAX)] {
            let sql = "INSERT OR REPLACE INTO charges (org, day, project, kind, rate, amount) VALUES ('acme', 3, 'lab', ?1, ?2, ?3)";
            tx.execute(sql, rusqlite::params![kind, rate, i64::MAX])?;
        }
        for boot in ["x", "y"] {
            let sql = "INSERT INTO usage_boots (uid, boot, received, bytes) VALUES (?1, ?2, 1, ?3)";
            tx.execute(sql, rusqlite::params![uid, boot, i64::MAX])?;
        }
        Ok(())
    };
    world.hub.state.store.write(work).await.unwrap();
    let pages = async |when: &str| {
        for page in [
            "usage",
            "usage?by=project",
            "usage?by=device",
            "usage?by=device&whole=true",
            "usage?format=csv",
            "projects/lab/usage",
            "billing",
            "ledger",
            "ledger?format=csv",
            "limits",
            "projects/lab",
            "devices",
        ] {
            let answer = world.owner.get(&format!("/v1/orgs/acme/{page}")).await;
            assert_eq!(answer.status, 200, "{when} {page}: {}", String::from_utf8_lossy(&answer.body));
        }
    };
    pages("before").await;
    let usage = world.owner.get("/v1/orgs/acme/usage").await.ok(200);
    assert_eq!(
        usage["total"]["session_ms"].as_u64(),
        Some(u64::try_from(i64::MAX).unwrap() * 2),
        "days that cannot be told more are added"
    );
    let billing = world.owner.get("/v1/orgs/acme/billing").await.ok(200);
    assert_eq!(billing["balance"], "-0.000000001", "exact, whatever was passed on the way");
    // Days are closed, storage is weighed, and an owner of the hub sets things right.
    restart(&world, &world.hub.state.config).await;
    pages("after").await;
    assert_eq!(world.owner.get("/v1/orgs/acme/billing").await.ok(200)["balance"], "-9223372036.854775807");
    let credits = |credits: &str| json!({ "credits": credits, "correction": true });
    for _ in 0..3 {
        world.owner.post("/v1/orgs/acme/credits", credits("100000000")).await.ok(201);
    }
    world.owner.post("/v1/orgs/acme/credits", credits("-100000000")).await.problem("invalid");
    pages("in the end").await;
}
