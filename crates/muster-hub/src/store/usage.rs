//! The daily series of what was used, summed by organization, project or device.

use std::collections::BTreeMap;

use muster_proto::api::{Day, UsageDay, Used};
use muster_proto::id::{DeviceUid, OrgId, ProjectId};
use rusqlite::{Connection, Transaction, params};

use super::metering::Kind;
use super::{Result, sums};

/// What the rows are about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum By {
    /// The organization: one row a day.
    #[default]
    Org,
    /// A row for each project, and one for what belongs to no one project.
    Project,
    /// A row for each device, and one for what belongs to none.
    Device,
}

/// Which usage.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub from: Day,
    pub to: Day,
    pub by: By,
    /// One row for all days together, which bears the first.
    pub whole: bool,
    /// Only of this project.
    pub project: Option<ProjectId>,
    /// Only of this device.
    pub uid: Option<DeviceUid>,
}

/// The rows, oldest first, at most `most` of them; and whether there are more.
///
/// # Errors
/// When the database fails.
pub(crate) fn series(connection: &Connection, org: &OrgId, filter: &Filter, most: usize) -> Result<(Vec<UsageDay>, bool)> {
    let column = match filter.by {
        By::Org => "''",
        By::Project => "u.project",
        By::Device => "u.uid",
    };
    let day = if filter.whole { "?2" } else { "u.day" };
    let amount = sums::columns("u.amount");
    if let (By::Device | By::Project, Ok(least)) = (filter.by, i64::try_from(most.saturating_add(1)))
        && parts(connection, org, filter, least)? == least
    {
        return Ok((Vec::new(), true));
    }
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {day} AS day_of, {column} AS part, u.kind, max(u.amount), d.name, {amount}
         FROM usage_days u LEFT JOIN devices d ON d.uid = {column} AND d.org = u.org
         WHERE u.org = ?1 AND u.day BETWEEN ?2 AND ?3 AND (?4 IS NULL OR u.project = ?4) AND (?5 IS NULL OR u.uid = ?5)
         GROUP BY day_of, part, u.kind ORDER BY day_of, part"
    ))?;
    let mut rows = statement.query(params![
        org.as_str(),
        filter.from.number(),
        filter.to.number(),
        filter.project.as_ref().map(ProjectId::as_str),
        filter.uid.as_ref().map(DeviceUid::as_str)
    ])?;
    let mut found: Vec<UsageDay> = Vec::new();
    let mut last: Option<(i64, String)> = None;
    while let Some(row) = rows.next()? {
        let (day, part): (i64, String) = (row.get(0)?, row.get(1)?);
        let kind = Kind::parse(&row.get::<_, String>(2)?)?;
        if last.as_ref() != Some(&(day, part.clone())) {
            if found.len() == most {
                return Ok((found, true));
            }
            let (project, device) = match filter.by {
                _ if part.is_empty() => (None, None),
                By::Org => (None, None),
                By::Project => (Some(part.parse()?), None),
                By::Device => (None, Some(part.parse()?)),
            };
            found.push(UsageDay { day: Day::from_number(day), project, device, device_name: row.get(4)?, used: Used::default() });
            last = Some((day, part));
        }
        if let Some(row_of) = found.last_mut() {
            let amount: i64 = if kind.is_peak() { row.get(3)? } else { sums::told(sums::read(row, 5)?) };
            put(&mut row_of.used, kind, amount.unsigned_abs());
        }
    }
    Ok((found, false))
}

/// How many rows there would be, counted no further than to `most`: days of ten thousand devices are not sorted to be refused.
fn parts(connection: &Connection, org: &OrgId, filter: &Filter, most: i64) -> Result<i64> {
    let day = if filter.whole { "0" } else { "u.day" };
    let column = if filter.by == By::Project { "u.project" } else { "u.uid" };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT count(*) FROM (SELECT DISTINCT {day}, {column} FROM usage_days u
         WHERE u.org = ?1 AND u.day BETWEEN ?2 AND ?3 AND (?4 IS NULL OR u.project = ?4) AND (?5 IS NULL OR u.uid = ?5) LIMIT ?6)"
    ))?;
    let uid = filter.uid.as_ref().map(DeviceUid::as_str);
    let of = params![org.as_str(), filter.from.number(), filter.to.number(), filter.project.as_ref().map(ProjectId::as_str), uid, most];
    Ok(statement.query_row(of, |row| row.get(0))?)
}

/// All rows together: sums, and the highest of what is a highest number.
pub(crate) fn total<'a>(rows: impl IntoIterator<Item = &'a UsageDay>) -> Used {
    let mut total = Used::default();
    for row in rows {
        for kind in Kind::ALL {
            put(&mut total, *kind, get(&row.used, *kind));
        }
    }
    total
}

fn put(used: &mut Used, kind: Kind, amount: u64) {
    let place = place(used, kind);
    *place = if kind.is_peak() { amount.max(*place) } else { place.saturating_add(amount) };
}

fn get(used: &Used, kind: Kind) -> u64 {
    *place(&mut used.clone(), kind)
}

fn place(used: &mut Used, kind: Kind) -> &mut u64 {
    match kind {
        Kind::ActiveDevices => &mut used.active_devices,
        Kind::SessionMs => &mut used.session_ms,
        Kind::ToDevice => &mut used.to_device,
        Kind::ToClient => &mut used.to_client,
        Kind::Runs => &mut used.runs,
        Kind::RunsPeak => &mut used.runs_peak,
        Kind::CpuUs => &mut used.cpu_us,
        Kind::MemoryKibMs => &mut used.memory_kib_ms,
        Kind::Storage => &mut used.storage_byte_minutes,
        Kind::Members => &mut used.members,
        Kind::Collaborators => &mut used.collaborators,
        Kind::ServiceAccounts => &mut used.service_accounts,
    }
}

/// A device on a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ActiveOn {
    pub org: String,
    pub uid: String,
    /// The project, where it is the only one.
    pub project: Option<String>,
    pub day: i64,
}

/// Which devices were there on which day and are not noted yet, of what the presence table knows: today for whoever is online, where it
/// is known that today is today, and the days on which a device came, went, or was last heard of.
///
/// # Errors
/// When the database fails.
pub(crate) fn not_noted(connection: &Connection, today: Day, online: bool, most: usize) -> Result<Vec<ActiveOn>> {
    let mut statement = connection.prepare_cached(
        "WITH days AS (
             SELECT uid, ?1 AS day FROM presence WHERE online AND ?4
             UNION SELECT uid, since / 86400000 FROM presence WHERE since > 0
             UNION SELECT uid, last_seen / 86400000 FROM presence WHERE last_seen > 0)
         SELECT d.org, d.uid, (SELECT CASE count(*) WHEN 1 THEN min(p.project) END FROM device_projects p WHERE p.uid = d.uid), a.day
         FROM days a JOIN devices d ON d.uid = a.uid
         WHERE a.day BETWEEN ?2 AND ?1 AND NOT EXISTS (
             SELECT 1 FROM usage_days n WHERE n.kind = 'active_devices' AND n.day = a.day AND n.uid = a.uid) LIMIT ?3",
    )?;
    // A device that was last heard of long ago is known by its row, or was before the hub metered anything.
    let oldest = today.plus(-LOOK_BACK).number();
    let rows = statement.query_map(params![today.number(), oldest, i64::try_from(most).unwrap_or(i64::MAX), online], |row| {
        Ok(ActiveOn { org: row.get(0)?, uid: row.get(1)?, project: row.get(2)?, day: row.get(3)? })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Days back for which it is looked who was there.
const LOOK_BACK: i64 = 7;

/// Notes that devices were there. One that is noted already stays as it is.
///
/// # Errors
/// When the database fails.
pub(crate) fn note_active(tx: &Transaction<'_>, active: &[ActiveOn]) -> Result<()> {
    let mut statement = tx.prepare_cached(
        "INSERT OR IGNORE INTO usage_days (org, day, kind, project, uid, amount) VALUES (?1, ?2, 'active_devices', ?3, ?4, 1)",
    )?;
    for one in active {
        statement.execute(params![one.org, one.day, one.project.as_deref().unwrap_or_default(), one.uid])?;
    }
    Ok(())
}

/// Removes at most `slice` rows of days before `first`. How many went.
///
/// # Errors
/// When the database fails.
pub(crate) fn prune(tx: &Transaction<'_>, first: Day, slice: i64) -> Result<usize> {
    let day: Option<i64> = tx.prepare_cached("SELECT min(day) FROM usage_days")?.query_row([], |row| row.get(0))?;
    let Some(day) = day.filter(|day| *day < first.number()) else { return Ok(0) };
    let gone = "DELETE FROM usage_days WHERE day = ?1 AND (org, kind, project, uid) IN
                (SELECT org, kind, project, uid FROM usage_days WHERE day = ?1 LIMIT ?2)";
    Ok(tx.prepare_cached(gone)?.execute([day, slice])?)
}

/// How many users of each kind an organization has.
///
/// # Errors
/// When the database fails.
pub(crate) fn users(connection: &Connection) -> Result<BTreeMap<String, [u64; 3]>> {
    let mut found = BTreeMap::<String, [u64; 3]>::new();
    let counts = [
        "SELECT m.org, count(*) FROM members m JOIN accounts a ON a.id = m.account WHERE a.kind = 'person' GROUP BY m.org",
        "SELECT c.org, count(*) FROM (
             SELECT p.org, p.account FROM participants p UNION SELECT t.org, t.account FROM team_members t) c
         JOIN accounts a ON a.id = c.account
         WHERE a.kind = 'person' AND NOT EXISTS (SELECT 1 FROM members m WHERE m.org = c.org AND m.account = c.account) GROUP BY c.org",
        "SELECT org, count(*) FROM accounts WHERE kind = 'service' AND org IS NOT NULL AND closed_at IS NULL GROUP BY org",
    ];
    for (place, sql) in counts.into_iter().enumerate() {
        let mut statement = connection.prepare_cached(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            found.entry(row.get(0)?).or_default()[place] = row.get::<_, i64>(1)?.unsigned_abs();
        }
    }
    Ok(found)
}
