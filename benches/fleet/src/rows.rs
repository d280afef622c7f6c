//! Looks into the hub's database: is every acknowledged sample there, exactly once?

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, OpenFlags};

use crate::device;
use crate::enrol::Identity;
use crate::tally::Tally;

/// Returns how many samples are stored. Fails when that is not what was acknowledged.
///
/// A sample's number is part of the table's key: as many rows as numbers, from 0 without a gap, is each of them once.
pub(crate) fn check(database: &Path, identities: &[Identity], tally: &Tally, per_batch: u32) -> Result<u64> {
    let db = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).context("cannot read the hub's database")?;
    let mut statement = db.prepare(
        "SELECT b.uid, b.boot, count(*), min(s.seq), max(s.seq) FROM usage_boots b JOIN usage_samples s ON s.boot = b.id GROUP BY b.id",
    )?;
    let rows =
        statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, [row.get(2)?, row.get(3)?, row.get(4)?])))?;
    let mut stored: HashMap<(String, String), [i64; 3]> = HashMap::new();
    for row in rows {
        let (uid, boot, counts) = row?;
        stored.insert((uid, boot), counts);
    }
    let (mut wrong, mut all) = (0, 0);
    for (index, identity) in identities.iter().enumerate() {
        let expected = i64::try_from(tally.stored_of(index) * u64::from(per_batch))?;
        let found = stored.remove(&(identity.uid.to_string(), device::boot(index)));
        let right = match found {
            Some([count, first, last]) => count == expected && first == 0 && last == expected - 1,
            None => expected == 0,
        };
        if !right {
            wrong += 1;
            eprintln!("fleet: {} acknowledged {expected} samples, stored (count, first, last) are {found:?}", identity.uid);
        }
        all += expected;
    }
    if wrong > 0 || !stored.is_empty() {
        bail!("{wrong} devices have not each acknowledged sample stored exactly once, {} rows belong to nobody", stored.len());
    }
    if all == 0 {
        bail!("no sample is stored: nothing was measured");
    }
    Ok(all.unsigned_abs())
}
