//! A hub that is killed, on machines whose clocks leap when they start: every minute once, every device's day once.

use super::*;
use crate::clock::{HOUR, SECOND};
use crate::init::{self, First, Wanted};

const MINUTE: i64 = 60 * SECOND;
/// Noon of the first day.
const NOON: i64 = 20_000 * DAY + DAY / 2;
const BYTES: i64 = 1000;

struct Lab {
    dir: tempfile::TempDir,
    config: Config,
    meter: Option<Meter>,
}

fn at(boot: &str, wall: i64, steady: i64) -> Moment {
    Moment { wall, boot: boot.into(), steady }
}

impl Lab {
    /// One organization with one device, which is online and holds some bytes. Nothing of the hub runs but its meter.
    async fn new(now: &Moment) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let wanted = Wanted::on_loopback(
            dir.path(),
            First { owner: "ada@acme.example".into(), org: Some("acme".parse().unwrap()), project: None, token_name: "test".into() },
        );
        let made = tokio::task::spawn_blocking(move || init::init(wanted, []).unwrap()).await.unwrap();
        let mut lab = Self { dir, config: Config::load(&made.config, []).unwrap(), meter: None };
        let sql = format!(
            "INSERT INTO devices (uid, org, serial, name, admission, facts, created_at) VALUES ('daaaaaaaaaaaaaaa', 'acme', '1', 'x', 'admitted', '{{}}', 0);
             INSERT INTO usage_boots (uid, boot, received, bytes) VALUES ('daaaaaaaaaaaaaaa', 'b', 0, {BYTES});
             INSERT INTO presence (uid, online, since, reason, link, last_seen) VALUES ('daaaaaaaaaaaaaaa', 1, {NOON}, 'birth', 1, {NOON});"
        );
        lab.store().write(move |tx| Ok(tx.execute_batch(&sql)?)).await.unwrap();
        lab.starts(now).await;
        lab
    }

    fn store(&self) -> Store {
        Store::open(&self.dir.path().join("data/hub.db")).unwrap()
    }

    /// Whatever ran before is gone without a word.
    async fn starts(&mut self, now: &Moment) {
        self.meter = None;
        self.meter = Some(Meter::start_at(self.store(), &self.config, &Metrics::default(), now).await.unwrap());
    }

    async fn round(&self, now: &Moment) {
        self.meter.as_ref().unwrap().round_at(true, now).await.unwrap();
    }

    /// Every minute's round for so long.
    async fn runs(&self, from: &Moment, minutes: i64) -> Moment {
        for minute in 0..=minutes {
            self.round(&from.plus(minute * MINUTE)).await;
        }
        from.plus(minutes * MINUTE)
    }

    /// Minutes of storage, minutes of storage that were charged or wait to be, and the days on which the device was active.
    async fn counted(&self) -> (i64, i64, Vec<i64>) {
        let read = |db: &rusqlite::Connection| {
            let one = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0));
            let minutes = one("SELECT coalesce(sum(amount), 0) FROM usage_days WHERE kind = 'storage'")? / BYTES;
            let charged = one("SELECT coalesce(sum(amount), 0) FROM charges WHERE kind = 'storage'")? / BYTES;
            let mut days = db.prepare("SELECT day - 20000 FROM usage_days WHERE kind = 'active_devices' ORDER BY day")?;
            let days = days.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
            Ok((minutes, charged, days))
        };
        self.meter.as_ref().unwrap().store.read(read).await.unwrap()
    }
}

#[tokio::test]
async fn a_start_with_a_clock_ahead_charges_nothing_that_is_still_to_come() {
    let mut lab = Lab::new(&at("a", NOON, HOUR)).await;
    let end = lab.runs(&at("a", NOON, HOUR), 90).await;
    assert_eq!(lab.counted().await, (60, 60, vec![0]));
    // Killed with its machine; two minutes later it starts forty days ahead, and a time server sets it right.
    let ahead = at("b", end.wall + 2 * MINUTE + 40 * DAY, 30 * SECOND);
    lab.starts(&ahead).await;
    lab.runs(&ahead, 8).await;
    assert_eq!(lab.counted().await, (60, 60, vec![0]), "nothing is counted by a clock that leapt");
    let right = at("b", end.wall + 11 * MINUTE, 9 * MINUTE);
    let end = lab.runs(&right, 60).await;
    // 90 minutes, 11 between, 60: one hour and one of them waits for the next pass.
    let (minutes, charged, days) = lab.counted().await;
    assert!((101..=161).contains(&minutes) && minutes == charged, "{minutes} {charged}");
    assert_eq!(days, [0]);
    // The forty days come by themselves, and are counted as they come.
    let mut now = end.clone();
    while now.wall < NOON + 41 * DAY {
        now = now.plus(30 * MINUTE);
        lab.round(&now).await;
    }
    let (minutes, charged, days) = lab.counted().await;
    let real = (now.wall - NOON) / MINUTE;
    assert!((real - 61..=real).contains(&minutes) && minutes == charged, "{minutes} of {real}");
    assert_eq!(days, (0..=41).collect::<Vec<_>>());
    let charges =
        lab.meter.as_ref().unwrap().store.read(|db| {
            Ok(db.query_row("SELECT coalesce(sum(amount), 0) FROM ledger WHERE entry = 'charge'", [], |row| row.get::<_, i64>(0))?)
        });
    assert!(charges.await.unwrap() / BYTES <= real, "the ledger says no more");
}

#[tokio::test]
async fn a_clock_that_stays_wrong_stretches_nothing() {
    let mut lab = Lab::new(&at("a", NOON, HOUR)).await;
    let now = lab.runs(&at("a", NOON, HOUR), 60).await;
    let mut real = 60;
    // Nobody sets it right: ahead by forty days, back by forty, in 1970, and right in the end. Each time three hours, off for a minute.
    for (boot, wall) in [("b", now.wall + 40 * DAY), ("c", now.wall), ("d", 1000), ("e", now.wall + DAY)] {
        let now = at(boot, wall, MINUTE);
        lab.starts(&now).await;
        lab.runs(&now, 180).await;
        real += 182;
        // What was used in 1970 is old once the clock is right, and removed; the charges are not.
        let (_, minutes, _) = lab.counted().await;
        // An hour at most is not counted yet, and an hour at most for each start is counted for what the machine may have run before.
        let starts = i64::from(boot.as_bytes()[0] - b'a');
        assert!((real - 62 * starts - 60..=real + 60 * starts).contains(&minutes), "{boot}: {minutes} of {real}");
    }
    assert!(lab.counted().await.2.len() <= 4, "{:?}", lab.counted().await.2);
}

#[tokio::test]
async fn an_honest_pause_of_three_days_counts_what_the_machine_was_on() {
    // The machine was on, and the hub was not: stored is stored.
    let mut lab = Lab::new(&at("a", NOON, HOUR)).await;
    let end = lab.runs(&at("a", NOON, HOUR), 60).await;
    let back = end.plus(3 * DAY);
    lab.starts(&back).await;
    assert_eq!(lab.counted().await.0, 60 + 3 * 24 * 60);
    // The machine was off: an hour at most, and after a while in which the clock is not believed.
    let off = at("b", back.wall + 3 * DAY, MINUTE);
    lab.starts(&off).await;
    lab.runs(&off, 13).await;
    assert_eq!(lab.counted().await.0, 60 + 3 * 24 * 60);
    lab.runs(&off.plus(14 * MINUTE), 1).await;
    let (minutes, charged, days) = lab.counted().await;
    assert_eq!((minutes, charged), (60 + 3 * 24 * 60 + 75, minutes));
    assert_eq!(days, [0, 3, 6], "the days on which it was heard of, and the one on which it is back");
}
