//! An organization of some size, written straight into the database, and a hub on it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use muster_hub::clock::{self, DAY};
use muster_hub::config::Config;
use muster_hub::init::{self, First, Wanted};
use muster_hub::serve::{self, Ports, Running};
use muster_proto::id::DeviceUid;
use muster_proto::topic::Up;
use rusqlite::{Connection, params};
use serde_json::json;

pub(crate) const PROJECTS: usize = 200;
pub(crate) const PEOPLE: usize = 500;
/// Days of presence history, with so many changes a day.
const DAYS: usize = 90;
const CHANGES: usize = 2;
/// Devices that report at the same time.
const AT_ONCE: usize = 256;

/// The data directory.
pub(crate) struct Town {
    dir: tempfile::TempDir,
    config: PathBuf,
    /// The owner's token.
    owner: String,
    /// Of somebody with a role in one project, of somebody with one in each, and of a member without any but by internal projects.
    guests: [String; 3],
    devices: usize,
}

/// A hub that runs on it.
pub(crate) struct Hub {
    pub(crate) running: Running,
    pub(crate) owner: String,
    pub(crate) guests: [String; 3],
    /// From the start until it answers.
    pub(crate) started: Duration,
}

pub(crate) fn uid(n: usize) -> String {
    let letters: String = (0..15).map(|at| char::from(b'a' + u8::try_from((n >> (at * 2)) & 3).unwrap_or_default())).collect();
    format!("d{letters}")
}

impl Town {
    pub(crate) fn build(devices: usize) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let first = |owner: &str, org: Option<&str>| -> Result<First> {
            let org = org.map(str::parse).transpose()?;
            Ok(First { owner: owner.into(), org, project: None, token_name: "bench".into() })
        };
        let wanted = Wanted::on_loopback(dir.path(), first("owner@acme.example", Some("acme"))?);
        let made = init::init(wanted, [])?;
        let config = Config::load(&made.config, [])?;
        let (ca, store) = serve::open(&config)?;
        let one = init::first(&store, &ca, first("one@guest.example", None)?)?;
        let all = init::first(&store, &ca, first("all@guest.example", None)?)?;
        let member = init::first(&store, &ca, first("member@acme.example", None)?)?;
        drop(store);
        let owner = made.token.context("a new hub gives its owner a token")?;
        let town = Self { config: made.config, owner, guests: [one, all, member], devices, dir };
        fill(&mut Connection::open(town.database())?, devices)?;
        Ok(town)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.dir.path().join("data").join("hub.db")
    }

    /// Starts a hub on it, and lets two thirds of the devices come online and all of those report.
    pub(crate) async fn open(&self) -> Result<Hub> {
        let config = Config::load(&self.config, [])?;
        let ports = Ports::bind(&config).await?;
        let began = Instant::now();
        let running = serve::start(config, ports).await?;
        let started = began.elapsed();
        let ingest = running.state.ingest.clone();
        let reports = (0..self.devices).filter(|n| n % 3 != 0).map(|n| {
            let ingest = ingest.clone();
            async move {
                let uid: DeviceUid = uid(n).parse()?;
                let boot = format!("{n:016x}");
                let birth = json!({ "online": true, "link": 1, "boot": boot, "t": clock::now() });
                ingest.up(&uid, &Up::Presence, birth.to_string().as_bytes()).await?;
                ingest.up(&uid, &Up::Usage, sample(n, &boot).to_string().as_bytes()).await?;
                Ok::<(), anyhow::Error>(())
            }
        });
        let mut reports = futures_util::stream::iter(reports).buffer_unordered(AT_ONCE);
        while let Some(reported) = reports.next().await {
            reported?;
        }
        drop(reports);
        Ok(Hub { running, owner: self.owner.clone(), guests: self.guests.clone(), started })
    }
}

fn sample(n: usize, boot: &str) -> serde_json::Value {
    let share = |step: usize| (n * step % 997) as f64 / 997.0;
    json!({ "boot": boot, "first_seq": 1, "n": 1, "t0": clock::now(), "step_s": 10.0, "c": {
        "cpu": [share(7)], "load1": [share(11) * 4.0], "mem": [share(13) * 8e9], "mem_total": [8e9], "uptime": [n * 60],
        "disk:/": [share(17) * 6e10], "disk_total:/": [6e10], "net_rx:eth0": [share(19) * 1e6], "net_tx:eth0": [share(23) * 1e6],
        "temp:cpu": [40.0 + share(29) * 50.0], "agent_cpu": [0.001], "agent_mem": [6e6],
    } })
}

fn fill(db: &mut Connection, devices: usize) -> Result<()> {
    db.pragma_update(None, "synchronous", "off")?;
    let now = clock::now();
    let tx = db.transaction()?;
    for n in 0..PROJECTS {
        let visibility = if n % 2 == 0 { "internal" } else { "private" };
        tx.prepare_cached("INSERT INTO projects (org, id, name, visibility, created_at) VALUES ('acme', ?1, ?2, ?3, ?4)")?
            .execute(params![format!("project-{n:03}"), format!("Project {n}"), visibility, now])?;
        tx.prepare_cached(
            "INSERT INTO participants VALUES ('acme', ?1, (SELECT id FROM accounts WHERE email = 'all@guest.example'), 'operate', ?2)",
        )?
        .execute(params![format!("project-{n:03}"), now])?;
    }
    let one =
        "INSERT INTO participants VALUES ('acme', 'project-007', (SELECT id FROM accounts WHERE email = 'one@guest.example'), 'view', 0)";
    tx.execute(one, [])?;
    tx.execute("INSERT INTO members VALUES ('acme', (SELECT id FROM accounts WHERE email = 'member@acme.example'), 'member', 0)", [])?;
    for n in 4..PEOPLE {
        tx.prepare_cached("INSERT INTO accounts (email, name, created_at) VALUES (?1, ?2, ?3)")?.execute(params![
            format!("person-{n}@acme.example"),
            format!("Person {n}"),
            now
        ])?;
        let account = tx.last_insert_rowid();
        if n % 2 == 0 {
            let role = if n % 4 == 0 { "member" } else { "viewer" };
            tx.prepare_cached("INSERT INTO members VALUES ('acme', ?1, ?2, ?3)")?.execute(params![account, role, now])?;
        }
        for at in 0..1 + n % 4 {
            tx.prepare_cached("INSERT OR IGNORE INTO participants VALUES ('acme', ?1, ?2, 'connect', ?3)")?.execute(params![
                format!("project-{:03}", (n * 7 + at * 31) % PROJECTS),
                account,
                now
            ])?;
        }
    }
    for (id, (key, kind, choices)) in [
        ("site", "text", "[]"),
        ("rack", "number", "[]"),
        ("stage", "choice", "[\"test\",\"live\",\"retired\"]"),
        ("bought", "date", "[]"),
        ("keeper", "person", "[]"),
    ]
    .into_iter()
    .enumerate()
    {
        tx.prepare_cached(
            "INSERT INTO fields (id, org, key, title, kind, choices, required, created_at) VALUES (?1, 'acme', ?2, ?2, ?3, ?4, 0, ?5)",
        )?
        .execute(params![i64::try_from(id)? + 1, key, kind, choices, now])?;
    }
    for n in 0..devices {
        device(&tx, n, now)?;
    }
    tx.commit()?;
    db.execute_batch("ANALYZE; PRAGMA wal_checkpoint(TRUNCATE);")?;
    Ok(())
}

fn device(tx: &Connection, n: usize, now: i64) -> Result<()> {
    let uid = uid(n);
    let facts = json!({
        "hostname": format!("robot-{n}"), "os": if n.is_multiple_of(5) { "Debian GNU/Linux 12" } else { "Ubuntu 24.04 LTS" },
        "arch": if n.is_multiple_of(3) { "aarch64" } else { "x86_64" }, "kernel": format!("6.8.0-{}", n % 7), "agent": "0.1.0", "cores": 4 + n % 5,
        "addresses": [format!("10.{}.{}.{}", n / 65_536, n / 256 % 256, n % 256), "fe80::1"],
    });
    tx.prepare_cached(
        "INSERT INTO devices (uid, org, serial, name, admission, facts, agent, created_at, decided_at, decided_by, admitted_at, certificate_expires_at)
         VALUES (?1, 'acme', ?2, ?3, 'admitted', ?4, '0.1.0', ?5, ?5, 'owner@acme.example', ?5, ?6)",
    )?
    .execute(params![uid, format!("SN-{n:06}"), format!("robot-{n}"), facts.to_string(), now - DAY * 100, now + DAY * 30])?;
    for at in 0..3 {
        let project = format!("project-{:03}", (n + at * 67) % PROJECTS);
        tx.prepare_cached("INSERT OR IGNORE INTO device_projects VALUES (?1, 'acme', ?2)")?.execute(params![uid, project])?;
    }
    // The project of whoever has a role in one alone: it does not grow with the organization.
    if n < 120 {
        tx.prepare_cached("INSERT OR IGNORE INTO device_projects VALUES (?1, 'acme', 'project-007')")?.execute([&uid])?;
    }
    let stage = ["test", "live", "retired"][n % 3];
    let day = format!("2026-{:02}-{:02}", 1 + n % 12, 1 + n % 28);
    let keeper = format!("person-{}@acme.example", 4 + n % 400);
    for (field, value) in [(1, format!("site-{}", n % 40)), (2, (n % 100).to_string()), (3, stage.into()), (4, day), (5, keeper)] {
        tx.prepare_cached("INSERT INTO device_values VALUES (?1, ?2, ?3)")?.execute(params![uid, field, value])?;
    }
    for label in [format!("batch-{}", n % 20), "fleet".into()] {
        tx.prepare_cached("INSERT INTO device_labels VALUES (?1, ?2)")?.execute(params![uid, label])?;
    }
    for change in 0..DAYS * CHANGES {
        let t = now - i64::try_from(DAYS * CHANGES - change)? * (DAY / i64::try_from(CHANGES)?);
        tx.prepare_cached("INSERT INTO presence_history (uid, t, online, reason) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
            uid,
            t,
            i64::from(change % 2 == 1),
            if change % 2 == 1 { "birth" } else { "will" }
        ])?;
    }
    Ok(())
}
