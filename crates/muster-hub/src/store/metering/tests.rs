//! Nothing is counted twice, nothing is lost: keys, midnights, restarts, clocks that are set.

use super::*;
use crate::store::Store;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("hub.db")).unwrap();
    store.write_blocking(|tx| Ok(tx.execute("INSERT INTO orgs (id, name, created_at) VALUES ('acme', 'Acme', 0)", [])?)).unwrap();
    (dir, store)
}

fn amounts(store: &Store) -> Vec<(i64, String, String, i64)> {
    let read = |db: &Connection| {
        let mut statement = db.prepare("SELECT day, kind, project, amount FROM usage_days ORDER BY day, kind, project")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    };
    store.read_blocking(read).unwrap()
}

fn acme() -> OrgId {
    "acme".parse().unwrap()
}

#[test]
fn a_key_counts_once_and_days_are_apart() {
    let (_dir, store) = store();
    let put = |key: &str, at: Millis, amount: i64| {
        let key = key.to_owned();
        let work = move |tx: &Transaction<'_>| {
            let org = acme();
            add(tx, &Metered { org: &org, project: None, uid: None, kind: Kind::Runs, amount, at, key })
        };
        store.write_blocking(work).unwrap()
    };
    assert!(put("run:a", DAY - 1, 1));
    assert!(!put("run:a", DAY, 1));
    assert!(put("run:b", DAY, 2));
    assert!(put("run:c", DAY, 3));
    assert!(put("run:d", DAY, 0), "nothing is a key as well");
    assert_eq!(amounts(&store), [(0, "runs".into(), String::new(), 1), (1, "runs".into(), String::new(), 5)]);
    assert!(put("run:e", DAY, i64::MAX), "a sum stays within 64 bits");
    assert_eq!(amounts(&store)[1].3, i64::MAX);
    assert_eq!(store.write_blocking(|tx| prune_keys(tx, KEYS_KEPT + DAY, 10)).unwrap(), 1);
}

#[test]
fn a_day_keeps_its_highest_number() {
    let (_dir, store) = store();
    for present in [2, 5, 0, 3] {
        store.write_blocking(move |tx| peak(tx, &acme(), Kind::RunsPeak, DAY, present)).unwrap();
    }
    assert_eq!(amounts(&store), [(1, "runs_peak".into(), String::new(), 5)]);
}

#[test]
fn lengths_are_split_at_midnights() {
    let split = |end, length| by_day(end, length).map(|(day, part)| (day.number(), part)).collect::<Vec<_>>();
    assert_eq!(split(DAY + 10, 10), [(1, 10)]);
    assert_eq!(split(DAY + 10, 25), [(1, 10), (0, 15)]);
    assert_eq!(split(3 * DAY, 2 * DAY + 5), [(2, DAY), (1, DAY), (0, 5)]);
    assert_eq!(split(DAY, 0), []);
    assert_eq!(split(5, 10), [(0, 10)], "a clock at its beginning loses nothing");
}

#[test]
fn a_session_is_metered_as_it_goes() {
    let (_dir, store) = store();
    let id: SessionId = SessionId::from_random([7; 15]);
    let (wanted, minute) = (id.clone(), 60 * SECOND);
    let sql = "INSERT INTO sessions (id, org, uid, device_name, project, role, email, client_ticket, device_ticket, created_at)
               VALUES (?1, 'acme', 'daaaaaaaaaaaaaaa', 'robot', 'lab', 'connect', 'ada@acme.example', x'00', x'00', 0)";
    store.write_blocking(move |tx| Ok(tx.execute(sql, [wanted.as_str()])?)).unwrap();
    let step = |what: &'static str, moment: Moment, bytes: u64| {
        let id = id.clone();
        let work = move |tx: &Transaction<'_>| match what {
            "opened" => session_opened(tx, &id, &moment),
            "counted" => session(tx, &id, bytes, 2 * bytes, &moment),
            _ => session_ended(tx, &id, bytes, 2 * bytes, &moment),
        };
        store.write_blocking(work).unwrap();
    };
    let start = Moment { wall: DAY - 30 * SECOND, boot: "a".into(), steady: 1000 };
    step("counted", start.clone(), 5);
    assert_eq!(amounts(&store), [], "it is not open yet");
    step("opened", start.clone(), 0);
    step("counted", start.plus(minute), 10);
    // The clock is set back two hours: the time goes on.
    let back = Moment { wall: start.wall - 120 * minute, ..start.plus(2 * minute) };
    step("counted", back.clone(), 10);
    step("opened", back.clone(), 0);
    // The machine is started anew within the grace; the counts of the new hub are those of the store.
    let anew = Moment { wall: back.wall + 90 * SECOND, boot: "b".into(), steady: 3 };
    step("counted", anew.clone(), 10);
    step("counted", anew.clone(), 10);
    // The hub was away for a day: nobody was connected but for the grace.
    step("ended", Moment { wall: anew.wall + DAY, boot: "c".into(), steady: 3 }, 12);
    step("ended", anew.plus(2 * DAY), 99);
    let of = |kind: &str| amounts(&store).iter().filter(|row| row.1 == kind).map(|row| row.3).sum::<i64>();
    assert_eq!(of("session_ms"), 60_000 + 60_000 + 90_000 + SESSION_STEP_MAX);
    assert_eq!((of("to_device"), of("to_client")), (12, 24));
    assert_eq!(amounts(&store).iter().find(|row| row.0 == 1 && row.1 == "session_ms").unwrap().3, 30_000 + SESSION_STEP_MAX);
    assert!(amounts(&store).iter().all(|row| row.2 == "lab"));
}

#[test]
fn no_device_invents_a_bill() {
    let (cpu, memory) = most_of_run(3600);
    assert!(cpu >= 1024 * 3600 * 1_000_000 && memory >= kib_ms(1 << 46) * 3600 * 1000);
    let (cpu, memory) = most_of_run(u32::MAX);
    assert!(cpu > 0 && memory > 0, "it saturates");
}
