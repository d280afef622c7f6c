//! Storage times its time: what every device's samples, events and run outputs take, sampled in passes.
//!
//! A pass covers the whole minutes since the last one, whatever the hub did meanwhile: an hour while it runs, longer after it was away.
//! Across a start of the machine there is only the calendar, which nobody vouches for: of the time before the start an hour counts at most.
//! It goes through the devices in slices, so that no device waits behind a long transaction. Where it stands is written with each
//! slice: a pass that was cut off goes on from there, and no device counts the same minute twice.

use muster_proto::Millis;
use muster_proto::api::Day;
use muster_proto::id::{DeviceUid, OrgId, ProjectId};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use serde::{Deserialize, Serialize};

use super::Result;
use super::metering::{Cell, Kind, by_day, count};
use crate::clock::{DAY, HOUR, Moment, SECOND};

const MINUTE: Millis = 60 * SECOND;
/// Minutes after which a new pass begins.
const EVERY: Millis = 60;
/// The longest time that a pass covers within one start of the machine.
const CATCH_UP_MAX: Millis = 100 * DAY;
/// What may have passed between the last thing that was counted and the end of that start of the machine: as long as a pass waits.
/// While the machine was off nobody was served, and a clock that is ahead would charge days that are still to come.
const ACROSS_MAX: Millis = HOUR;
/// A machine that starts with a clock that leaps gets so long to set it right before anything is counted by it.
const SETTLING: Millis = 15 * MINUTE;
/// Where the state of the passes stands in `meta`.
const KEY: &str = "metering.storage";

/// How far storage is metered.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    /// Up to here, all of it.
    mark: Moment,
    /// The pass that is under way.
    pass: Option<Pass>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Pass {
    /// The mark once it is done.
    to: Moment,
    minutes: i64,
    /// The last device that was counted.
    after: String,
}

/// Whether the calendar is to be doubted: the machine has just started, and the last thing that was counted lies in the future or
/// long ago. Then this is when that was; a clock that is set right, or time, ends the doubt.
///
/// # Errors
/// When the database fails.
pub(crate) fn in_doubt(connection: &Connection, now: &Moment) -> Result<Option<Moment>> {
    let Some(State { mark, .. }) = load(connection)? else { return Ok(None) };
    let leaps = !(0..=ACROSS_MAX).contains(&(now.wall - mark.wall));
    Ok((!now.same_start(&mark) && leaps && now.steady < SETTLING).then_some(mark))
}

/// Does one slice of what is due. Whether there is more to do at once.
///
/// # Errors
/// When the database fails.
pub(crate) fn step(tx: &Transaction<'_>, now: &Moment, slice: usize) -> Result<bool> {
    let Some(mut state) = load(tx)? else {
        save(tx, &State { mark: now.clone(), pass: None })?;
        return Ok(false);
    };
    let mut pass = match state.pass.take() {
        Some(pass) => pass,
        None => {
            let passed = passed(&state.mark, now);
            // A day that ended is counted to its end at once: it is to be charged.
            let least = if Day::of(state.mark.wall) == Day::of(now.wall) { EVERY } else { 1 };
            if passed / MINUTE < least {
                return Ok(false);
            }
            Pass { to: now.plus(-(passed % MINUTE)), minutes: passed / MINUTE, after: String::new() }
        }
    };
    let sizes = devices(tx, &pass.after, slice)?;
    let last = sizes.last().map(|size| size.uid.as_str().to_owned());
    for size in &sizes {
        add(tx, size, &pass)?;
    }
    let more = sizes.len() == slice;
    match last {
        Some(last) if more => {
            pass.after = last;
            state.pass = Some(pass);
        }
        _ => {
            for size in outputs(tx)? {
                add(tx, &size, &pass)?;
            }
            state.mark = pass.to;
        }
    }
    save(tx, &state)?;
    Ok(more)
}

/// How long it is since then, as far as that is sure.
fn passed(mark: &Moment, now: &Moment) -> Millis {
    if now.same_start(mark) {
        return now.since(mark).min(CATCH_UP_MAX);
    }
    match now.wall - mark.wall {
        // One of the two clocks was wrong: only what the machine has been on is sure, if the mark is its own.
        ..0 => now.steady.min(ACROSS_MAX),
        gap => gap.min(now.steady + ACROSS_MAX).min(CATCH_UP_MAX),
    }
}

fn load(connection: &Connection) -> Result<Option<State>> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    let found: Option<String> = statement.query_row([KEY], |row| row.get(0)).optional()?;
    Ok(found.map(|text| serde_json::from_str(&text)).transpose()?)
}

fn save(tx: &Transaction<'_>, state: &State) -> Result<()> {
    tx.prepare_cached("INSERT INTO meta VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = ?2")?
        .execute(params![KEY, serde_json::to_string(state)?])?;
    Ok(())
}

/// What a device holds, or what a project holds of it.
struct Size {
    org: OrgId,
    project: Option<ProjectId>,
    uid: DeviceUid,
    bytes: i64,
}

fn size(row: &rusqlite::Row<'_>) -> rusqlite::Result<(String, Option<String>, String, i64)> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
}

fn checked((org, project, uid, bytes): (String, Option<String>, String, i64)) -> Result<Size> {
    Ok(Size { org: org.parse()?, project: project.map(|project| project.parse()).transpose()?, uid: uid.parse()?, bytes })
}

/// Samples and events of the next devices: of the project where there is only one, of no project where several share them.
fn devices(tx: &Transaction<'_>, after: &str, slice: usize) -> Result<Vec<Size>> {
    let mut statement = tx.prepare_cached(
        "SELECT d.org, (SELECT CASE count(*) WHEN 1 THEN min(p.project) END FROM device_projects p WHERE p.uid = d.uid), d.uid,
                CAST((SELECT total(b.bytes) FROM usage_boots b WHERE b.uid = d.uid)
                     + (SELECT total(e.bytes) FROM event_sizes e WHERE e.uid = d.uid) AS INTEGER)
         FROM devices d WHERE d.uid > ?1 ORDER BY d.uid LIMIT ?2",
    )?;
    let rows = statement.query_map(params![after, i64::try_from(slice).unwrap_or(i64::MAX)], size)?;
    rows.map(|row| checked(row?)).collect()
}

/// Kept output of runs, each in its project.
fn outputs(tx: &Transaction<'_>) -> Result<Vec<Size>> {
    let mut statement =
        tx.prepare_cached("SELECT org, project, uid, CAST(total(kept) AS INTEGER) FROM runs WHERE kept > 0 GROUP BY org, project, uid")?;
    let rows = statement.query_map([], size)?;
    rows.map(|row| checked(row?)).collect()
}

fn add(tx: &Transaction<'_>, size: &Size, pass: &Pass) -> Result<()> {
    let cell = Cell { org: &size.org, project: size.project.as_ref(), uid: Some(&size.uid), kind: Kind::Storage };
    // Days begin at whole minutes, so the parts are whole minutes as well.
    let end = pass.to.wall.max(0) / MINUTE * MINUTE;
    for (day, part) in by_day(end, pass.minutes * MINUTE) {
        count(tx, &cell, day, size.bytes.max(0).saturating_mul(part / MINUTE))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;

    fn stored(store: &Store) -> Vec<(i64, String, i64)> {
        let read = |db: &rusqlite::Connection| {
            let mut statement =
                db.prepare("SELECT day, project, sum(amount) FROM usage_days GROUP BY day, project ORDER BY day, project")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        };
        store.read_blocking(read).unwrap()
    }

    #[test]
    fn passes_cover_every_minute_once_however_they_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("hub.db")).unwrap();
        let made = |tx: &Transaction<'_>| {
            tx.execute_batch(
                "INSERT INTO orgs (id, name, created_at) VALUES ('acme', 'Acme', 0);
                 INSERT INTO projects (org, id, name, visibility, created_at) VALUES ('acme', 'lab', 'Lab', 'internal', 0), ('acme', 'field', 'Field', 'internal', 0);",
            )?;
            for n in 0..5 {
                let uid = format!("d{n}aaaaaaaaaaaaaa").replace('0', "z").replace('1', "y");
                let sql = "INSERT INTO devices (uid, org, serial, name, admission, facts, created_at) VALUES (?1, 'acme', ?1, ?1, 'admitted', '{}', 0)";
                tx.execute(sql, [&uid])?;
                tx.execute("INSERT INTO usage_boots (uid, boot, received, bytes) VALUES (?1, 'b', 0, 100)", [&uid])?;
                let events = "INSERT INTO device_events (uid, digest, t, received, body) VALUES (?1, x'00', 0, 0, 'grün')";
                tx.execute(events, [&uid])?;
                tx.execute("INSERT INTO device_projects (uid, org, project) VALUES (?1, 'acme', 'lab')", [&uid])?;
                if n == 0 {
                    tx.execute("INSERT INTO device_projects (uid, org, project) VALUES (?1, 'acme', 'field')", [&uid])?;
                }
            }
            Ok(())
        };
        store.write_blocking(made).unwrap();
        let each = 100 + 5 + 64;
        let step = |now: &Moment| {
            let now = now.clone();
            store.write_blocking(move |tx| step(tx, &now, 2)).unwrap()
        };
        let start = Moment { wall: DAY - 90 * MINUTE + 7, boot: "a".into(), steady: 1000 };
        assert!(!step(&start));
        assert!(!step(&start.plus(59 * MINUTE)), "not due yet");
        // Three slices, with the clock set back an hour in the midst and the time going on: the pass stays what it was.
        assert!(step(&start.plus(60 * MINUTE + 30_000)));
        assert!(step(&Moment { wall: start.wall, ..start.plus(61 * MINUTE) }));
        assert!(!step(&start.plus(62 * MINUTE)));
        assert_eq!(stored(&store), [(0, String::new(), each * 60), (0, "lab".into(), 4 * each * 60)]);
        assert!(!step(&start.plus(62 * MINUTE)), "not due again");
        // Midnight passed: the day is counted to its end although no hour is over. The half minute was kept.
        let next = start.plus(95 * MINUTE);
        while step(&next) {}
        assert_eq!(stored(&store)[..2], [(0, String::new(), each * 90), (0, "lab".into(), 4 * each * 90)]);
        assert_eq!(stored(&store)[2].2, each * 5);
        let total = || stored(&store).iter().map(|row| row.2).sum::<i64>() / (5 * each);
        assert_eq!(total(), 95);
        // The hub was away for three days, on a machine that was on.
        let away = next.plus(3 * DAY);
        while step(&away) {}
        assert_eq!(total(), 95 + 3 * 24 * 60);
        // The machine was off for as long: what it may have run before, and what it has been on since.
        let off = Moment { wall: away.wall + 3 * DAY, boot: "b".into(), steady: 20 * MINUTE };
        while step(&off) {}
        let mut minutes = 95 + 3 * 24 * 60 + 80;
        assert_eq!(total(), minutes);
        // It comes back with a clock of 1970, on which it stays: what it has been on, and from there on every minute.
        let behind = Moment { wall: 0, boot: "c".into(), steady: 30 * MINUTE };
        while step(&behind) {}
        while step(&behind.plus(5 * 60 * MINUTE)) {}
        minutes += 30 + 5 * 60;
        assert_eq!(total(), minutes);
        // And with the right one, half a century later.
        while step(&Moment { wall: off.wall + DAY, boot: "d".into(), steady: 16 * MINUTE }) {}
        assert_eq!(total(), minutes + 76);
        // The same database on a machine that has been on for a year: the calendar says how long it was away.
        while step(&Moment { wall: off.wall + DAY + 40 * MINUTE + DAY, boot: "e".into(), steady: 365 * DAY }) {}
        assert_eq!(total(), minutes + 76 + 24 * 60 + 40);
        // Events that go give their room back.
        store.write_blocking(|tx| Ok(tx.execute("DELETE FROM device_events", [])?)).unwrap();
        let sizes: i64 = store.read_blocking(|db| Ok(db.query_row("SELECT sum(bytes) FROM event_sizes", [], |row| row.get(0))?)).unwrap();
        assert_eq!(sizes, 0);
    }
}
