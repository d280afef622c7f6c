//! What was used, as owners and admins of projects see it.

use muster_hub::clock;
use muster_hub::store::metering::{self, Kind, Metered};
use muster_proto::api::Day;
use serde_json::{Value, json};

use crate::world::World;

/// Meters something in the hub's store, as its parts do.
async fn used(world: &World, key: &str, kind: Kind, project: Option<&str>, uid: Option<&str>, days_ago: i64, amount: i64) {
    let (key, project, uid) = (key.to_owned(), project.map(|id| id.parse().unwrap()), uid.map(|uid| uid.parse().unwrap()));
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let org = "acme".parse().unwrap();
        let at = Day::of(clock::now()).plus(-days_ago).start() + 5;
        metering::add(tx, &Metered { org: &org, project: project.as_ref(), uid: uid.as_ref(), kind, amount, at, key })
    };
    world.hub.state.store.write(work).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_series_by_day_by_project_and_by_device() {
    let world = World::new().await;
    let robot = world.admitted("=robot").await;
    used(&world, "a", Kind::SessionMs, Some("lab"), Some(&robot.uid), 0, 1000).await;
    used(&world, "a", Kind::SessionMs, Some("lab"), Some(&robot.uid), 0, 1000).await;
    used(&world, "b", Kind::SessionMs, Some("lab"), Some("daaaaaaaaaaaaaaa"), 1, 500).await;
    used(&world, "c", Kind::CpuUs, Some("field"), Some(&robot.uid), 1, 70).await;
    used(&world, "d", Kind::Storage, None, Some(&robot.uid), 0, 9).await;
    let owner = &world.owner;
    let usage = owner.get("/v1/orgs/acme/usage").await.ok(200);
    assert_eq!(usage["items"].as_array().unwrap().len(), 2);
    assert_eq!(
        (&usage["total"]["session_ms"], &usage["total"]["cpu_us"], &usage["total"]["storage_byte_minutes"]),
        (&json!(1500), &json!(70), &json!(9))
    );
    let rows = |usage: &Value, field: &str, kind: &str| -> Vec<(Value, Value)> {
        usage["items"].as_array().unwrap().iter().map(|row| (row[field].clone(), row["used"][kind].clone())).collect()
    };
    let by_project = owner.get("/v1/orgs/acme/usage?by=project").await.ok(200);
    assert_eq!(
        rows(&by_project, "project", "session_ms"),
        [(json!("field"), json!(0)), (json!("lab"), json!(500)), (Value::Null, json!(0)), (json!("lab"), json!(1000))]
    );
    assert_eq!(by_project["total"], usage["total"], "no sum counts anything twice");
    let by_device = owner.get("/v1/orgs/acme/usage?by=device").await.ok(200);
    assert_eq!(by_device["total"], usage["total"]);
    assert!(by_device["items"].as_array().unwrap().iter().any(|row| row["device_name"] == "=robot"));
    let one = owner.get("/v1/orgs/acme/usage?device=%3Drobot&project=lab").await.ok(200);
    assert_eq!((&one["total"]["session_ms"], &one["total"]["storage_byte_minutes"]), (&json!(1000), &json!(0)));
    let today = Day::of(clock::now());
    let one = owner.get(&format!("/v1/orgs/acme/usage?from={today}&to={today}")).await.ok(200);
    assert_eq!(one["total"]["session_ms"], 1000);
    let whole = owner.get("/v1/orgs/acme/usage?by=device&whole=true").await.ok(200);
    assert_eq!(whole["total"], usage["total"]);
    assert!(whole["items"].as_array().unwrap().iter().any(|row| row["device_name"] == "=robot" && row["used"]["cpu_us"] == 70));
    assert!(whole["items"].as_array().unwrap().iter().all(|row| row["day"] == whole["from"]));
    // The same as a file, safe for a spreadsheet.
    let answer = owner.get("/v1/orgs/acme/usage?by=device&format=csv").await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/csv"));
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(text.starts_with("day,project,device,device_name,active_devices,session_ms,"), "{text}");
    assert!(text.contains(&format!("{today},,{},'=robot,0,1000,0,0,0,0,0,0,9,0,0,0\n", robot.uid)), "{text}");
    assert!(text.lines().count() >= 4, "{text}");
    for bad in [
        "from=yesterday",
        "from=2026-02-30",
        "from=2026-02-01&to=2026-01-01",
        "from=2001-01-01",
        "by=person",
        "format=xml",
        "project=X%20Y",
        "colour=1",
    ] {
        owner.get(&format!("/v1/orgs/acme/usage?{bad}")).await.problem("invalid");
    }
    owner.get("/v1/orgs/acme/usage?device=nothing").await.problem("not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_rows_than_an_answer_has_are_refused_and_as_many_are_told() {
    let world = World::new().await;
    // Days on which the hub itself metered nothing.
    let to = Day::of(clock::now()).plus(-3);
    let (from, next, first) = (to.plus(-2), to.plus(-1), to.plus(-2).number());
    let work = move |tx: &rusqlite::Transaction<'_>| {
        let sql = "INSERT INTO usage_days (org, day, kind, project, uid, amount) VALUES ('acme', ?1, ?2, 'lab', ?3, 1)";
        let mut statement = tx.prepare(sql)?;
        for n in 0..10_000 {
            let letters: String = (0..15).map(|at| char::from(b'a' + u8::try_from((n >> (at * 2)) & 3).unwrap())).collect();
            for day in first..first + 3 {
                for kind in [Kind::SessionMs, Kind::CpuUs] {
                    statement.execute((day, kind.as_str(), format!("d{letters}")))?;
                }
            }
        }
        Ok(())
    };
    world.hub.state.store.write(work).await.unwrap();
    let owner = &world.owner;
    let refused = owner.get(&format!("/v1/orgs/acme/usage?by=device&from={from}&to={to}")).await.problem("invalid");
    assert!(refused.detail.contains("more than 20000 rows"), "{}", refused.detail);
    let told = owner.get(&format!("/v1/orgs/acme/usage?by=device&from={from}&to={next}")).await.ok(200);
    assert_eq!((told["items"].as_array().unwrap().len(), &told["total"]["cpu_us"]), (20_000, &json!(20_000)));
    let whole = owner.get(&format!("/v1/orgs/acme/usage?by=device&whole=true&from={from}&to={to}")).await.ok(200);
    assert_eq!((whole["items"].as_array().unwrap().len(), &whole["total"]["session_ms"]), (10_000, &json!(30_000)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_sees_its_own_and_no_other() {
    let world = World::new().await;
    used(&world, "a", Kind::Runs, Some("lab"), None, 0, 3).await;
    used(&world, "b", Kind::Runs, Some("field"), None, 0, 5).await;
    used(&world, "c", Kind::Runs, None, None, 0, 7).await;
    let usage = world.owner.get("/v1/orgs/acme/projects/lab/usage?by=project").await.ok(200);
    assert_eq!((&usage["total"]["runs"], usage["items"].as_array().unwrap().len()), (&json!(3), 1));
    world.owner.get("/v1/orgs/acme/projects/lab/usage?project=field").await.problem("invalid");
    world.owner.get("/v1/orgs/acme/projects/field/usage").await.problem("not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_there_is_counted_once_a_day_whatever_becomes_of_the_hub() {
    let world = World::new().await;
    let (robot, other) = (world.admitted("robot-1").await, world.admitted("robot-2").await);
    let (now, store) = (clock::now(), world.hub.state.store.clone());
    // As the ingest writes presence: one is online since yesterday, the other went the day before yesterday.
    let put = move |tx: &rusqlite::Transaction<'_>| {
        let sql = "INSERT OR REPLACE INTO presence (uid, online, since, reason, link, last_seen) VALUES (?1, ?2, ?3, 'birth', 1, ?4)";
        tx.execute(sql, rusqlite::params![robot.uid, true, now - clock::DAY, now])?;
        tx.execute(sql, rusqlite::params![other.uid, false, now - 2 * clock::DAY, now - 2 * clock::DAY])?;
        Ok(())
    };
    store.write(put).await.unwrap();
    for _ in 0..3 {
        let meter = muster_hub::meter::Meter::start(store.clone(), &world.hub.state.config, &world.hub.state.metrics).await.unwrap();
        meter.round(true).await.unwrap();
    }
    // It leaves its project in the midst of the day, and is still one device.
    world.owner.patch("/v1/orgs/acme/devices/robot-1", json!({ "remove_projects": ["lab"] })).await.ok(200);
    let meter = muster_hub::meter::Meter::start(store.clone(), &world.hub.state.config, &world.hub.state.metrics).await.unwrap();
    meter.round(true).await.unwrap();
    let usage = world.owner.get("/v1/orgs/acme/usage").await.ok(200);
    let days: Vec<i64> = usage["items"].as_array().unwrap().iter().map(|row| row["used"]["active_devices"].as_i64().unwrap()).collect();
    assert_eq!(days, [1, 1, 1]);
    assert_eq!(usage["items"][2]["used"]["members"], 1);
}
