//! The measurements: medians of many rounds, through the router that serves the port.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use axum::Router;
use axum::body::Body;
use http::Request;
use http_body_util::BodyExt as _;
use muster_hub::api::{self, OrgAccess};
use muster_hub::auth;
use muster_hub::registry::Registry;
use muster_hub::rights::Action;
use muster_hub::store::{Store, devices};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::town::{Hub, PROJECTS, uid};

/// Who asks for a page.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Who {
    Owner,
    Member,
    InOne,
    InAll,
}

/// A page: what it is called, who asks, filter, order. Each fills a page of fifty, with many devices and with few.
pub(crate) const PAGES: &[(&str, Who, &str, &str)] = &[
    ("all, by name", Who::Owner, "", "name"),
    (
        "online, some sites, busy; by -cpu",
        Who::Owner,
        "online = true and site in (site-4, site-10, site-17, site-25) and cpu > 20%",
        "-cpu",
    ),
    ("all, by -cpu (live)", Who::Owner, "", "-cpu"),
    ("custom fields; by -bought,site", Who::Owner, "stage = live and rack >= 10 and keeper is not empty", "-bought,site"),
    ("name ~ part; by name", Who::Owner, "name ~ \"OT-17\" or os ~ debian", "name"),
    ("labels, times; by last_seen", Who::Owner, "label = batch-3 and last_seen > now-1h or not fact.cores > 4", "-last_seen,-disk"),
    ("projects; by project,-rack", Who::Owner, "project in (project-007, project-074) or label ~ batch-1", "project,-rack"),
    ("member, by -cpu where he may see it", Who::Member, "cpu > 10%", "-cpu"),
    ("person with one project", Who::InOne, "cpu > 10%", "-mem"),
    ("person with 200 projects", Who::InAll, "cpu > 10%", "-mem"),
];

/// What was measured.
#[derive(Debug)]
pub(crate) struct Figures {
    /// In the order of [`PAGES`].
    pub(crate) pages: Vec<Duration>,
    /// The last page of a walk through the whole list, by its cursor.
    pub(crate) deep: Duration,
    /// An owner's check, and that of somebody with a role in each project.
    pub(crate) warm: [Duration; 2],
    /// The first one after somebody else's rights there changed, after the own did, and after everybody's did.
    pub(crate) others: [Duration; 2],
    pub(crate) own: [Duration; 2],
    pub(crate) everybody: [Duration; 2],
    /// The slowest of everybody's first checks after one change of everybody's rights.
    pub(crate) slowest: Duration,
    /// A write that touches no rights; one account's, with what is made again; everybody's, likewise.
    pub(crate) rebuilt: [Duration; 3],
    /// Half of the devices into a project and out of it.
    pub(crate) assign: [Duration; 2],
    pub(crate) assigned: u64,
    /// The longest that another write waited meanwhile.
    pub(crate) waited: Duration,
    pub(crate) projects: Duration,
    pub(crate) export: Duration,
    pub(crate) index: u64,
    pub(crate) started: Duration,
}

struct Asker {
    router: Router,
}

impl Asker {
    async fn send(&self, token: &str, method: &str, path: &str, body: Option<Value>) -> Result<(Duration, Value)> {
        let mut request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(body.map_or_else(Body::empty, |body| Body::from(body.to_string())))?;
        let began = Instant::now();
        let answer = self.router.clone().oneshot(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        let took = began.elapsed();
        if !status.is_success() {
            bail!("{method} {path}: {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok((took, serde_json::from_slice(&body).unwrap_or(Value::Null)))
    }

    /// The median of a page that is asked for again and again. The first ones warm what is warm in a hub that runs.
    async fn asked(&self, token: &str, path: &str, rounds: usize, good: impl Fn(&Value) -> bool) -> Result<Duration> {
        let mut times = Vec::new();
        for round in 0..rounds + 5 {
            let (took, page) = self.send(token, "GET", path, None).await?;
            if !good(&page) {
                bail!("GET {path}: {page:.200}");
            }
            if round >= 5 {
                times.push(took);
            }
        }
        Ok(median(times))
    }
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

pub(crate) async fn all(hub: &Hub, devices: usize, rounds: usize, index: u64) -> Result<Figures> {
    let asker = Asker { router: api::router(hub.running.state.clone()) };
    let token = |who: Who| match who {
        Who::Owner => &hub.owner,
        Who::InOne => &hub.guests[0],
        Who::InAll => &hub.guests[1],
        Who::Member => &hub.guests[2],
    };
    let some = |page: &Value| page["items"].as_array().is_some_and(|items| !items.is_empty());
    let full = |page: &Value| page["items"].as_array().is_some_and(|items| items.len() == 50);
    let mut pages = Vec::new();
    for (name, who, filter, sort) in PAGES {
        let path = format!("/v1/orgs/acme/devices?limit=50&filter={}&sort={}", encoded(filter), encoded(sort));
        pages.push(asker.asked(token(*who), &path, rounds, full).await.with_context(|| (*name).to_owned())?);
    }
    let deep = deep(&asker, &hub.owner, devices, rounds).await?;
    let projects = asker.asked(&hub.owner, "/v1/orgs/acme/projects", rounds / 10, some).await?;
    let export = asker.asked(&hub.owner, "/v1/orgs/acme/devices/export", rounds / 20, |_| true).await?;
    let mut checked = [[Duration::ZERO; 2]; 4];
    for (times, after) in checked.iter_mut().zip([After::Nothing, After::Others, After::Own, After::Everybody]) {
        *times = [checks(hub, &hub.owner, rounds, after).await?, checks(hub, &hub.guests[1], rounds, after).await?];
    }
    let [warm, others, own, everybody] = checked;
    let (slowest, rebuilt) = (slowest(hub).await?, rebuilt(hub, rounds).await?);
    let (assign, assigned, waited) = assign(&asker, hub).await?;
    let (index, started) = (index, hub.started);
    Ok(Figures { pages, deep, warm, others, own, everybody, slowest, rebuilt, assign, assigned, waited, projects, export, index, started })
}

/// Walks to the end of the list, and asks for the last page again and again.
async fn deep(asker: &Asker, owner: &str, devices: usize, rounds: usize) -> Result<Duration> {
    let path = "/v1/orgs/acme/devices?limit=50&sort=-site,name";
    let (mut cursor, mut seen) = (String::new(), 0);
    loop {
        let (_, page) = asker.send(owner, "GET", &format!("{path}&cursor={cursor}"), None).await?;
        seen += page["items"].as_array().map_or(0, Vec::len);
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut cursor),
            None => break,
        }
    }
    if seen != devices {
        bail!("a walk through the list found {seen} of {devices} devices");
    }
    let mut times = Vec::new();
    for _ in 0..rounds {
        times.push(asker.send(owner, "GET", &format!("{path}&cursor={cursor}"), None).await?.0);
    }
    Ok(median(times))
}

/// What happened just before a check.
#[derive(Debug, Clone, Copy, PartialEq)]
enum After {
    Nothing,
    Others,
    Own,
    Everybody,
}

impl After {
    /// Changes the rights of whom it says, of somebody with this account.
    async fn happen(self, hub: &Hub, account: i64, round: usize) -> Result<()> {
        let sql = match self {
            Self::Nothing => return Ok(()),
            Self::Others => {
                "UPDATE members SET since = ?1 WHERE org = 'acme' AND account = (SELECT max(account) FROM members WHERE account != ?2)"
            }
            Self::Own => "INSERT INTO participants VALUES ('acme', 'project-000', ?2, 'operate', ?1) ON CONFLICT DO UPDATE SET since = ?1",
            Self::Everybody => "UPDATE projects SET name = 'Project ' || ?1 WHERE org = 'acme' AND id = 'project-000' AND ?2 IS NOT NULL",
        };
        let round = i64::try_from(round)?;
        let changed = hub.running.state.store.write(move |tx| Ok(tx.execute(sql, [round, account])?)).await?;
        anyhow::ensure!(changed == 1, "nobody's rights changed");
        Ok(())
    }
}

/// One check: what the person has in the organization, and whether that is enough for a device.
async fn checks(hub: &Hub, token: &str, rounds: usize, after: After) -> Result<Duration> {
    let state = &hub.running.state;
    let person = auth::person(state, Some(token), None).await.map_err(|error| anyhow::anyhow!("{}", error.0.detail))?;
    let account = person.account;
    let device = state.store.read(|db| devices::by_uid(db, &uid(8).parse()?)).await?.context("a device")?;
    let mut times = Vec::new();
    for round in 0..if after == After::Nothing { rounds * 100 } else { rounds } {
        after.happen(hub, account, round).await?;
        let person = person.clone();
        let began = Instant::now();
        let access = OrgAccess::load(state, person, "acme").await.map_err(|error| anyhow::anyhow!("{}", error.0.detail))?;
        let allowed = access.allows_on(Action::ViewDevice, &device);
        times.push(began.elapsed());
        if !allowed || access.projects.len() < PROJECTS {
            bail!("the check said no");
        }
    }
    Ok(median(times))
}

/// Everybody's rights change, and then everybody asks: the slowest answer.
async fn slowest(hub: &Hub) -> Result<Duration> {
    let (state, org) = (&hub.running.state, "acme".parse()?);
    let accounts = state.store.read(|db| {
        let mut statement = db.prepare("SELECT account FROM members UNION SELECT account FROM participants")?;
        let accounts = statement.query_map([], |row| row.get::<_, i64>(0))?.collect::<rusqlite::Result<Vec<_>>>();
        Ok(accounts?)
    });
    let accounts = accounts.await?;
    anyhow::ensure!(accounts.len() > 400, "{} people have a role", accounts.len());
    // A check that the system interrupted is no figure of the hub's: the least of a few such maxima.
    let mut least = Duration::MAX;
    for round in 0..10 {
        After::Everybody.happen(hub, 1, 1_000_000 + round).await?;
        let mut slowest = Duration::ZERO;
        for account in &accounts {
            let began = Instant::now();
            let standing = state.standings.get(&state.store, &org, *account).await?;
            slowest = slowest.max(began.elapsed());
            anyhow::ensure!(standing.is_some(), "somebody lost all roles");
        }
        least = least.min(slowest);
    }
    Ok(least)
}

/// What a write costs that touches no rights, one account's, and everybody's.
async fn rebuilt(hub: &Hub, rounds: usize) -> Result<[Duration; 3]> {
    let store = &hub.running.state.store;
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    for round in 0..rounds {
        let began = Instant::now();
        store
            .write(
                move |tx| Ok(tx.execute("UPDATE accounts SET name = 'Person ' || ?1 WHERE id = 5", [i64::try_from(round).unwrap_or(0)])?),
            )
            .await?;
        times[0].push(began.elapsed());
        for (n, after) in [(1, After::Own), (2, After::Everybody)] {
            let began = Instant::now();
            after.happen(hub, 5, 2_000_000 + round).await?;
            times[n].push(began.elapsed());
        }
    }
    Ok(times.map(median))
}

/// Half of the devices into a project, and out of it again, while others write.
async fn assign(asker: &Asker, hub: &Hub) -> Result<([Duration; 2], u64, Duration)> {
    let filter = "rack < 50";
    asker.send(&hub.owner, "POST", "/v1/orgs/acme/projects", Some(json!({ "id": "bulk" }))).await?;
    let (mut times, mut changed, mut waited) = ([Vec::new(), Vec::new()], 0, Duration::ZERO);
    for _ in 0..5 {
        for (n, action) in ["assign", "unassign"].into_iter().enumerate() {
            let body = json!({ "action": action, "filter": filter, "projects": ["bulk"] });
            let bulk = asker.send(&hub.owner, "POST", "/v1/orgs/acme/devices/bulk", Some(body));
            let (bulk, longest) = besides(&hub.running.state.store, bulk).await?;
            let (took, result) = bulk?;
            waited = waited.max(longest);
            changed = result["changed"].as_u64().unwrap_or(0);
            if changed == 0 || result["changed"] != result["matched"] {
                bail!("{action}: {result:.200}");
            }
            times[n].push(took);
        }
    }
    Ok((times.map(median), changed, waited))
}

/// Lets somebody write small things all the time while something goes on: how long the slowest of it took.
async fn besides<T>(store: &Store, work: impl Future<Output = T>) -> Result<(T, Duration)> {
    let mut longest = Duration::ZERO;
    let mut work = std::pin::pin!(work);
    loop {
        let began = Instant::now();
        let small = store.write(|tx| Ok(tx.execute("UPDATE accounts SET name = name WHERE id = 5", [])?));
        let mut small = std::pin::pin!(small);
        tokio::select! {
            done = &mut work => {
                small.await?;
                return Ok((done, longest.max(began.elapsed())));
            }
            written = &mut small => {
                written?;
                longest = longest.max(began.elapsed());
            }
        }
    }
}

/// How much memory the index takes, in a process that has done nothing else.
pub(crate) fn index_bytes(database: &Path) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = Store::open(database)?;
        store.write(|_| Ok(())).await?;
        let before = resident()?;
        let registry = Registry::open(&store).await?;
        let rows = registry.list(&"acme".parse()?).rows.len() as u64;
        // SQLite's page cache of the writer grew as well: it is bounded, and counted here all the same.
        Ok((resident()? - before) / rows.max(1))
    })
}

fn resident() -> Result<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm")?.split_whitespace().nth(1).context("statm")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}
