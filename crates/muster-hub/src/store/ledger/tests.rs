//! The ledger against a recomputation from what was metered, for any order of amounts, days, rates, closings and failures between.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use rusqlite::TransactionBehavior;

use super::*;
use crate::clock::DAY;
use crate::store::metering::{self, Metered};
use crate::store::{Store, migrate};

fn acme() -> OrgId {
    "acme".parse().unwrap()
}

#[test]
fn prices_are_rounded_once_to_the_nearest() {
    let hour = 3_600_000_000;
    for (amount, rate, nano) in [
        (hour, 100_000_000, 100_000_000),
        (hour / 2, 1, 1),
        (hour / 2 - 1, 1, 0),
        (3 * hour / 2, 1, 2),
        (1, 100_000_000, 0),
        (18, 100_000_000, 1),
        (i64::MAX, 1_000_000_000_000_000, i64::MAX),
        (0, 5, 0),
        (hour, 0, 0),
    ] {
        assert_eq!(price(amount, rate, Kind::CpuUs), nano, "{amount} at {rate}");
    }
    assert_eq!(price(1024 * 1024 * 3_600_000, 25_000_000, Kind::MemoryKibMs), 25_000_000);
    assert_eq!(price(1_000_000_000 * 43_200, 25_000_000, Kind::Storage), 25_000_000);
    assert_eq!(price(5, 5, Kind::Runs), 0, "what has no price costs nothing");
}

#[test]
fn lines_are_never_changed_and_a_key_is_booked_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("hub.db")).unwrap();
    let book = |credits: &str, entry, key: Option<&'static str>| {
        let credits: Credits = credits.parse().unwrap();
        let work = move |tx: &Transaction<'_>| book(tx, &acme(), &Booking { entry, credits, actor: "ada", note: None, key }, 7);
        store.write_blocking(work)
    };
    assert!(book("100", LedgerEntry::TopUp, Some("invoice 1")).unwrap().1);
    let (line, new) = book("100", LedgerEntry::TopUp, Some("invoice 1")).unwrap();
    assert!(!new && line.credits.to_string() == "100" && line.id == 1);
    assert!(book("99", LedgerEntry::TopUp, Some("invoice 1")).unwrap_err().to_string().contains("used already"));
    book("-0.5", LedgerEntry::Correction, None).unwrap();
    book("-0.5", LedgerEntry::Correction, None).unwrap();
    assert_eq!(store.read_blocking(|db| balance(db, &acme())).unwrap().to_string(), "99");
    assert!(book("9223372036", LedgerEntry::TopUp, None).is_err(), "more than can be counted");
    for sql in ["UPDATE ledger SET nano = 0", "DELETE FROM ledger"] {
        let error = store.write_blocking(move |tx| Ok(tx.execute(sql, [])?)).unwrap_err();
        assert!(error.to_string().contains("ledger lines are never"), "{error}");
    }
    let lines = store.read_blocking(|db| lines(db, &acme(), Some(3), 10)).unwrap();
    assert_eq!(lines.iter().map(|line| line.id).collect::<Vec<_>>(), [2, 1]);
}

/// What can happen to a hub.
#[derive(Debug, Clone)]
enum Step {
    /// Something is metered: its key, its kind, its project, how much. The same key comes again after a failure.
    Use { key: u8, kind: u8, project: bool, amount: u32 },
    /// The clock is set to a day.
    Clock(u8),
    /// The configuration has another rate at the next start.
    Rate { kind: u8, nano: u32 },
    /// The hub closes what is over.
    Close,
    /// The next write is lost with the process: it was never committed.
    Killed,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..40_u8, 0..3_u8, any::<bool>(), 0..u32::MAX).prop_map(|(key, kind, project, amount)| Step::Use { key, kind, project, amount }),
        3 => (0..5_u8).prop_map(Step::Clock),
        1 => (0..3_u8, 0..2_000_000_000_u32).prop_map(|(kind, nano)| Step::Rate { kind, nano }),
        3 => Just(Step::Close),
        2 => Just(Step::Killed),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_ledger_is_what_was_metered(steps in prop::collection::vec(step(), 1..80)) {
        let mut db = Connection::open_in_memory().unwrap();
        migrate::run(&mut db).unwrap();
        let kinds: Vec<Kind> = Kind::priced().collect();
        let lab: ProjectId = "lab".parse().unwrap();
        // The model: amounts by day, project, kind and the rate then in force, each key once.
        let (mut today, mut rates, mut keys) = (2_u8, [0_i64; 3], BTreeSet::new());
        let mut cells = BTreeMap::<(u8, bool, u8, i64), i64>::new();
        let mut killed = false;
        for step in steps.into_iter().chain([Step::Close, Step::Clock(9), Step::Close]) {
            let mut commit = !killed;
            killed = false;
            let tx = db.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
            let now = Millis::from(today) * DAY + 5;
            match step {
                Step::Use { key, kind, project, amount } => {
                    let (project_id, what) = (project.then_some(&lab), kinds[usize::from(kind)]);
                    let metered = Metered {
                        org: &acme(), project: project_id, uid: None, kind: what, amount: amount.into(), at: now, key: format!("key {key}"),
                    };
                    let added = metering::add(&tx, &metered).unwrap();
                    prop_assert_eq!(added, !keys.contains(&key));
                    if added && commit {
                        keys.insert(key);
                        *cells.entry((today, project, kind, rates[usize::from(kind)])).or_default() += i64::from(amount);
                    }
                }
                Step::Rate { kind, nano } => {
                    metering::set_rate(&tx, kinds[usize::from(kind)], Credits(nano.into()), now).unwrap();
                    if commit {
                        rates[usize::from(kind)] = nano.into();
                    }
                }
                Step::Close => {
                    let mut closed = 0;
                    while let Some((org, day)) = next_to_close(&tx, Day::of(now)).unwrap() {
                        close(&tx, &org, day, now).unwrap();
                        prop_assert_eq!(close(&tx, &org, day, now).unwrap(), 0, "closing again charges nothing");
                        closed += 1;
                        prop_assert!(closed < 20);
                    }
                }
                Step::Clock(day) => today = day,
                Step::Killed => (killed, commit) = (true, true),
            }
            if commit { tx.commit().unwrap() } else { tx.rollback().unwrap() }
        }
        let whole: i64 = cells.iter().map(|((_, _, kind, rate), amount)| price(*amount, *rate, kinds[usize::from(*kind)])).sum();
        prop_assert_eq!(balance(&db, &acme()).unwrap(), Credits(-whole));
        // Every line carries its amount and its rate, and together they are what was metered.
        let mut told = BTreeMap::<(u8, bool, u8, i64), i64>::new();
        for line in lines(&db, &acme(), None, 10_000).unwrap() {
            let kind = kinds.iter().position(|kind| kind.price().map(|(unit, _)| unit) == line.unit.as_deref()).unwrap();
            let day = u8::try_from(line.day.unwrap().number()).unwrap();
            *told.entry((day, line.project.is_some(), u8::try_from(kind).unwrap(), line.rate.unwrap().0)).or_default() += line.amount.unwrap();
        }
        cells.retain(|_, amount| *amount > 0);
        prop_assert_eq!(told, cells);
        let uncharged: i64 = spent(&db, &acme()).unwrap().iter().map(|spent| spent.uncharged.0).sum();
        prop_assert_eq!(uncharged, 0);
    }
}
