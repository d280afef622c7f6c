//! A hub that is killed with SIGKILL again and again while it charges days and weighs storage: everything once, nothing lost.

#![allow(clippy::unwrap_used, reason = "a test that meets the unexpected fails there")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use muster_hub::clock::{self, HOUR, Moment};
use muster_hub::config::Config;
use muster_hub::init::{self, First, Wanted};
use muster_hub::meter::Meter;
use muster_hub::metrics::Metrics;
use muster_hub::store::Store;
use muster_proto::api::Day;
use rusqlite::params;
use serde_json::json;

const DAYS: i64 = 60;
const DEVICES: usize = 2200;

fn made() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let wanted = Wanted::on_loopback(
        dir.path(),
        First {
            owner: "ada@acme.example".into(),
            org: Some("acme".parse().unwrap()),
            project: Some("lab".parse().unwrap()),
            token_name: "test".into(),
        },
    );
    let config = init::init(wanted, []).unwrap().config;
    (dir, config)
}

/// Sixty days that nobody charged, and devices whose storage was last weighed ten hours ago.
fn fill(store: &Store) {
    let today = Day::of(clock::now()).number();
    let work = move |tx: &rusqlite::Transaction<'_>| {
        for day in today - DAYS..today {
            for (project, kind, rate) in [("lab", "cpu_us", 100_000_000), ("", "cpu_us", 100_000_000), ("lab", "memory_kib_ms", 25_000_000)]
            {
                tx.execute(
                    "INSERT INTO charges (org, day, project, kind, rate, amount) VALUES ('acme', ?1, ?2, ?3, ?4, 3600000000)",
                    params![day, project, kind, rate],
                )?;
            }
        }
        for n in 0..DEVICES {
            let letters: String = format!("{n:05}").bytes().map(|digit| char::from(b'a' + digit - b'0')).collect();
            let uid = format!("daaaaaaaaaa{letters}");
            tx.execute(
                "INSERT INTO devices (uid, org, serial, name, admission, facts, created_at) VALUES (?1, 'acme', ?1, ?1, 'admitted', '{}', 0)",
                [&uid],
            )?;
            tx.execute("INSERT INTO usage_boots (uid, boot, received, bytes) VALUES (?1, 'b', ?2, 1000)", params![uid, clock::now()])?;
        }
        // Of this start of the machine, even if that was later: the steady clock counts from there.
        let mark = json!({ "mark": Moment::now().plus(-10 * HOUR), "pass": null });
        tx.execute("INSERT OR REPLACE INTO meta VALUES ('metering.storage', ?1)", [mark.to_string()])?;
        Ok(())
    };
    store.write_blocking(work).unwrap();
}

/// Starts a hub and kills it once it has said so many lines of this kind, or has nothing more to do. How many it said.
fn killed_after(config: &Path, what: &str, lines: usize) -> usize {
    let mut hub: Child = Command::new(env!("CARGO_BIN_EXE_muster-hub"))
        .arg("--config")
        .arg(config)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(hub.stderr.take().unwrap());
    let mut said = 0;
    for line in log.lines().map_while(Result::ok) {
        if line.contains(what) {
            said += 1;
        }
        if said >= lines {
            break;
        }
    }
    hub.kill().unwrap();
    hub.wait().unwrap();
    said
}

#[test]
fn everything_is_charged_once_however_often_the_hub_is_killed() {
    let (_dir, path) = made();
    let config = Config::load(&path, []).unwrap();
    let database = config.data_dir.join("hub.db");
    let store = Store::open(&database).unwrap();
    fill(&store);
    drop(store);
    // Killed as soon as it lives, in the midst of the storage; then after 1, 4, 7... days were charged.
    for _ in 0..4 {
        killed_after(&path, "INFO", 1);
    }
    let (mut charged, mut kills) = (0, 0);
    while charged < 40 {
        let lines = 1 + kills * 3;
        charged += killed_after(&path, "a day was charged", lines);
        kills += 1;
        assert!(kills < 20, "{charged}");
    }
    assert!(kills >= 4, "{kills}");

    // The rest, in peace.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store = runtime.block_on(async {
        let store = Store::open(&database).unwrap();
        let meter = Meter::start(store.clone(), &config, &Metrics::default()).await.unwrap();
        meter.round(true).await.unwrap();
        store
    });
    let read = |db: &rusqlite::Connection| {
        let mut lines = BTreeMap::<(i64, String, String), (i64, i64)>::new();
        let mut statement = db.prepare("SELECT day, project, kind, nano FROM ledger WHERE entry = 'charge' AND kind != 'storage'")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let line = lines.entry((row.get(0)?, row.get(1)?, row.get(2)?)).or_default();
            *line = (line.0 + 1, line.1 + row.get::<_, i64>(3)?);
        }
        // What each device stored, in minutes: the same for all, as each was weighed in the same passes.
        let mut statement = db.prepare(
            "SELECT count(*), min(s), max(s) FROM (SELECT sum(amount) / 1000 AS s FROM usage_days WHERE kind = 'storage' GROUP BY uid)",
        )?;
        let minutes: (i64, i64, i64) = statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        Ok((lines, minutes))
    };
    let (lines, (devices, least, most)) = store.read_blocking(read).unwrap();
    assert_eq!(lines.len(), 3 * usize::try_from(DAYS).unwrap());
    for ((day, project, kind), (count, nano)) in &lines {
        let price = if kind == "cpu_us" { -100_000_000 } else { -23_842 };
        assert_eq!((*count, *nano), (1, price), "{day} {project:?} {kind}");
    }
    assert_eq!((usize::try_from(devices).unwrap(), least), (DEVICES, most));
    assert!((600..620).contains(&least), "ten hours and what the test took: {least}");
}
