//! Pages over rows that come and go; and that the index is what the store says, whatever happens.

use muster_proto::id::ProjectId;
use proptest::prelude::*;
use rusqlite::Transaction;

use super::*;
use crate::query::{self, Schema, order};
use crate::rights;
use crate::standings::Standings;

fn uid(n: usize) -> DeviceUid {
    let letters: String = (0..15).map(|at| char::from(b'a' + u8::try_from(n >> (at * 2) & 3).unwrap())).collect();
    format!("d{letters}").parse().unwrap()
}

fn device(tx: &Transaction<'_>, n: usize) -> store::Result<()> {
    let name = format!("robot-{}", n % 10);
    let serial = format!("SN-{n}").parse()?;
    devices::insert_by_hand(tx, &uid(n), &"acme".parse()?, &serial, &name, "ada@acme.example", 0)?;
    Ok(())
}

struct Hub {
    _dir: tempfile::TempDir,
    store: Store,
    registry: Registry,
    standings: Standings,
    live: crate::ingest::Live,
}

impl Hub {
    async fn new(many: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("hub.db")).unwrap();
        let standings = Standings::open(&store).await.unwrap();
        let registry = Registry::open(&store).await.unwrap();
        let work = move |tx: &Transaction<'_>| {
            for email in ["ada@acme.example", "cy@guest.example"] {
                store::accounts::create(tx, email, "x", None, 0)?;
            }
            store::orgs::create(tx, &"acme".parse()?, "Acme", 1, 0)?;
            tx.execute_batch(
                "INSERT INTO projects (org, id, name, visibility, created_at) VALUES ('acme', 'lab', 'Lab', 'private', 0);
                 INSERT INTO participants VALUES ('acme', 'lab', 2, 'view', 0)",
            )?;
            (0..many).try_for_each(|n| device(tx, n))
        };
        store.write(work).await.unwrap();
        Self { _dir: dir, store, registry, standings, live: crate::ingest::Live::default() }
    }

    async fn page(&self, account: i64, filter: &str, sort: &str, after: Option<&Place>, limit: usize) -> Found {
        let org: OrgId = "acme".parse().unwrap();
        let standing = self.standings.get(&self.store, &org, account).await.unwrap().unwrap();
        let list = self.registry.list(&org);
        let schema = Schema { fields: &list.fields, projects: &["lab"], me: "ada@acme.example", now: 0 };
        let (plan, order) = (query::filter(filter, &schema).unwrap(), order::order(sort, &schema).unwrap());
        let viewer = Viewer { standing: &standing, live: &self.live, sessions: HashMap::new() };
        list.page(&viewer, &Listing { plan: &plan, order: &order, after, limit })
    }

    /// The index against what the store says, value by value.
    async fn is_in_line(&self) {
        let org: OrgId = "acme".parse().unwrap();
        let held = self.registry.list(&org);
        let (rows, fields) = self
            .store
            .read(move |db| {
                let mut rows = Vec::new();
                devices::each(db, &org, |row| {
                    rows.push(Arc::new(Entry::of(row, &mut Texts::default())));
                    Ok(())
                })?;
                Ok((rows, fields::list(db, &org)?))
            })
            .await
            .unwrap();
        assert_eq!(format!("{:?}", held.rows), format!("{rows:?}"));
        assert_eq!(*held.fields, fields);
    }
}

#[tokio::test]
async fn pages_are_pieces_of_the_whole_order() {
    let hub = Hub::new(500).await;
    for sort in ["name", "-name", "created,-id", "-admission", "manual,-serial,uid"] {
        let whole = hub.page(1, "", sort, None, 1000).await;
        assert_eq!((whole.uids.len(), whole.total, whole.next.is_none()), (500, 500, true));
        for limit in [1, 50, 63, 64, 65, 249, 250, 499, 500] {
            let (mut walked, mut after, mut pages) = (Vec::new(), None, 0);
            loop {
                let page = hub.page(1, "", sort, after.as_ref(), limit).await;
                assert_eq!(page.total, 500);
                walked.extend(page.uids);
                (after, pages) = (page.next, pages + 1);
                if after.is_none() || pages == 12 {
                    break;
                }
            }
            assert_eq!(walked, whole.uids[..walked.len()], "{sort} by {limit}");
            assert_eq!(walked.len(), 500.min(pages * limit));
        }
    }
}

#[tokio::test]
async fn pages_hold_each_row_once_while_rows_come_and_go() {
    let hub = Hub::new(100).await;
    for sort in ["name", "-name,id", "site", "-created", "cpu,-id"] {
        // Nobody has a site: what all lack decides nothing.
        hub.store
            .write(|tx| {
                Ok(tx.execute("INSERT OR IGNORE INTO fields (id, org, key, title, kind, required, created_at) VALUES (1, 'acme', 'site', 'S', 'text', 0, 0)", [])?)
            })
            .await
            .unwrap();
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = hub.page(1, "", sort, after.as_ref(), 7).await;
            assert!(page.uids.len() <= 7);
            seen.extend(page.uids);
            pages += 1;
            // Some go that were seen, and some come.
            let (gone, new) = (seen[0].clone(), 1000 + pages);
            let work = move |tx: &Transaction<'_>| {
                devices::delete(tx, &gone, 0)?;
                device(tx, new)
            };
            hub.store.write(work).await.unwrap();
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut once = seen.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), seen.len(), "{sort}: a row came twice");
        // Of the rows that were there all the time, none is left out.
        let all = hub.page(1, "", sort, None, 1000).await;
        let later: Vec<DeviceUid> = (1000..1000 + pages + 1).map(uid).collect();
        let missed: Vec<_> = all.uids.iter().filter(|uid| !seen.contains(uid) && !later.contains(uid)).collect();
        assert!(missed.is_empty(), "{sort}: {missed:?}");
        assert_eq!(all.total, all.uids.len());
        hub.is_in_line().await;
        for n in 1000..1000 + pages + 1 {
            let gone = uid(n);
            hub.store.write(move |tx| devices::delete(tx, &gone, 0)).await.unwrap();
        }
        let work = |tx: &Transaction<'_>| (0..100).try_for_each(|n| device(tx, n));
        hub.store.write(work).await.unwrap();
    }
}

#[tokio::test]
async fn a_collaborator_finds_the_devices_and_projects_of_the_own_projects_only() {
    let hub = Hub::new(10).await;
    let lab: ProjectId = "lab".parse().unwrap();
    let work = move |tx: &Transaction<'_>| {
        tx.execute_batch("INSERT INTO projects (org, id, name, visibility, created_at) VALUES ('acme', 'den', 'Den', 'private', 0)")?;
        devices::join(tx, &uid(3), &"acme".parse()?, &lab)?;
        devices::join(tx, &uid(3), &"acme".parse()?, &"den".parse()?)
    };
    hub.store.write(work).await.unwrap();
    assert_eq!(hub.page(1, "", "", None, 100).await.total, 10);
    let found = hub.page(2, "", "", None, 100).await;
    assert_eq!((found.total, found.uids), (1, vec![uid(3)]));
    // Nor do filters tell of a project that is not the own.
    assert_eq!(hub.page(2, "project ~ den", "", None, 100).await.total, 0);
    assert_eq!(hub.page(1, "project ~ den", "", None, 100).await.total, 1);
    assert!(rights::allows(rights::Action::SeeDevices, None, Some(muster_proto::api::ProjectRole::View)));
}

#[derive(Debug, Clone)]
enum Step {
    Add(usize),
    Delete(usize),
    Rename(usize, String),
    Label(usize, String, bool),
    Value(usize, String),
    Join(usize),
    Field(bool),
    Fails(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let n = || 0_usize..12;
    prop_oneof![
        n().prop_map(Step::Add),
        n().prop_map(Step::Delete),
        (n(), "[a-zé ]{1,6}").prop_map(|(n, name)| Step::Rename(n, name)),
        (n(), "[ab]", any::<bool>()).prop_map(|(n, label, on)| Step::Label(n, label, on)),
        (n(), "[0-9]{1,3}").prop_map(|(n, value)| Step::Value(n, value)),
        n().prop_map(Step::Join),
        any::<bool>().prop_map(Step::Field),
        n().prop_map(Step::Fails),
    ]
}

fn take(tx: &Transaction<'_>, step: &Step) -> store::Result<()> {
    match step {
        Step::Add(n) => device(tx, *n)?,
        Step::Delete(n) => devices::delete(tx, &uid(*n), 0)?,
        Step::Rename(n, name) => devices::rename(tx, &uid(*n), name)?,
        Step::Label(n, label, on) => fields::set_label(tx, &uid(*n), label, *on)?,
        Step::Value(n, value) => fields::set_value(tx, &uid(*n), 1, Some(value))?,
        Step::Join(n) => devices::join(tx, &uid(*n), &"acme".parse()?, &"lab".parse()?)?,
        Step::Field(true) => {
            let sql = "INSERT OR IGNORE INTO fields (id, org, key, title, kind, required, created_at) VALUES (1, 'acme', 'n', 'N', 'number', 1, 0)";
            tx.execute(sql, [])?;
        }
        Step::Field(false) => fields::delete(tx, 1)?,
        Step::Fails(n) => {
            devices::delete(tx, &uid(*n), 0)?;
            return Err(store::problem(muster_proto::problem::Code::Conflict, "no"));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn whatever_is_written_the_index_is_what_the_store_says(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let hub = Hub::new(4).await;
            for some in steps.chunks(4) {
                // Several at once share a commit; those that break a rule (a value of a field that is not there) fail alone.
                let writes = some.iter().cloned().map(|step| hub.store.write(move |tx| take(tx, &step)));
                futures_util::future::join_all(writes).await;
                hub.is_in_line().await;
            }
        });
    }
}
