//! Runs: their record, and their output by pieces.
//!
//! What a device says of an end is the truth. What the hub says without it (expired, cancelled while it waited, lost) stands
//! until the device says otherwise: `by_hub` marks it.

use muster_proto::Millis;
use muster_proto::api::{RunPiece, RunState};
use muster_proto::id::{DeviceUid, OrgId, ProjectId, RunId};
use muster_proto::limits::RUN_PIECE_MAX;
use muster_proto::run::{RunCommand, RunEnd, RunOutcome, RunOutput, RunReport, RunReportKind, RunStream, RunUsed};
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde_json::json;

use super::metering::{self, Kind, Metered};
use super::{Error, Result, orgs};
use crate::audit::Entry;

/// A run as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRow {
    /// Grows from run to run: the place in a list.
    pub n: i64,
    /// Its id.
    pub id: RunId,
    /// Whose it is.
    pub org: OrgId,
    /// On which device.
    pub uid: DeviceUid,
    /// The device's name then.
    pub device_name: String,
    /// In the name of which project.
    pub project: ProjectId,
    /// With which role there.
    pub role: String,
    /// Who.
    pub account: i64,
    /// Who, by e-mail.
    pub email: String,
    /// The access token that was used; `None` from before this was kept.
    pub token: Option<String>,
    /// From which address.
    pub address: Option<String>,
    /// What.
    pub command: RunCommand,
    /// As whom on the device.
    pub run_as: Option<String>,
    /// Where.
    pub cwd: Option<String>,
    /// Names of the variables that were added.
    pub env: Vec<String>,
    /// Seconds that it may take.
    pub timeout_s: u32,
    /// Bytes of output that are kept.
    pub output_max: u64,
    /// What it is doing, or how it ended.
    pub state: RunState,
    /// Whether only the hub says that it is over.
    pub by_hub: bool,
    /// When asked for.
    pub created_at: Millis,
    /// When its order is void.
    pub expires_at: Millis,
    /// When the device took it.
    pub accepted_at: Option<Millis>,
    /// When its process began.
    pub started_at: Option<Millis>,
    /// When it ended.
    pub ended_at: Option<Millis>,
    /// When somebody asked for its end.
    pub cancelled_at: Option<Millis>,
    /// Who did.
    pub cancelled_by: Option<String>,
    /// The exit code.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<String>,
    /// Why it ended so, for programs.
    pub end_code: Option<String>,
    /// Why, for people.
    pub end_reason: Option<String>,
    /// Bytes that it wrote to standard output.
    pub stdout: u64,
    /// Bytes that it wrote to standard error.
    pub stderr: u64,
    /// Of these dropped.
    pub dropped: u64,
    /// Bytes of output that are stored.
    pub kept: u64,
    /// What it used.
    pub used: RunUsed,
}

const COLUMNS: &str = "n, id, org, uid, device_name, project, role, account, email, address, command, run_as, cwd, env, timeout_s, \
     output_max, state, by_hub, created_at, expires_at, accepted_at, started_at, ended_at, cancelled_at, cancelled_by, exit_code, signal, \
     end_code, end_reason, stdout, stderr, dropped, kept, cpu_us, mem_byte_ms, mem_peak, token";

fn run(row: &Row<'_>) -> rusqlite::Result<Result<RunRow>> {
    let amount = |at| row.get::<_, i64>(at).map(i64::unsigned_abs);
    let (id, org, uid, project): (String, String, String, String) = (row.get(1)?, row.get(2)?, row.get(3)?, row.get(5)?);
    let (command, env, state): (String, String, String) = (row.get(10)?, row.get(13)?, row.get(16)?);
    let used = RunUsed { cpu_us: amount(33)?, mem_byte_ms: amount(34)?, mem_peak: amount(35)?, wall_ms: 0 };
    let (n, device_name, role, account, email, address) = (row.get(0)?, row.get(4)?, row.get(6)?, row.get(7)?, row.get(8)?, row.get(9)?);
    let (run_as, cwd, timeout_s, output_max, by_hub) = (row.get(11)?, row.get(12)?, row.get(14)?, amount(15)?, row.get(17)?);
    let (created_at, expires_at, accepted_at, started_at, ended_at) =
        (row.get(18)?, row.get(19)?, row.get(20)?, row.get(21)?, row.get(22)?);
    let (cancelled_at, cancelled_by, exit_code, signal) = (row.get(23)?, row.get(24)?, row.get(25)?, row.get(26)?);
    let (end_code, end_reason, token) = (row.get(27)?, row.get(28)?, row.get(36)?);
    let (stdout, stderr, dropped, kept) = (amount(29)?, amount(30)?, amount(31)?, amount(32)?);
    Ok((|| {
        Ok(RunRow {
            n,
            id: id.parse()?,
            org: org.parse()?,
            uid: uid.parse()?,
            device_name,
            project: project.parse()?,
            role,
            account,
            email,
            token,
            address,
            command: serde_json::from_str(&command)?,
            run_as,
            cwd,
            env: serde_json::from_str(&env)?,
            timeout_s,
            output_max,
            state: parse_state(&state)?,
            by_hub,
            created_at,
            expires_at,
            accepted_at,
            started_at,
            ended_at,
            cancelled_at,
            cancelled_by,
            exit_code,
            signal,
            end_code,
            end_reason,
            stdout,
            stderr,
            dropped,
            kept,
            used,
        })
    })())
}

fn parse_state(text: &str) -> Result<RunState> {
    let found = RunState::ALL.into_iter().find(|state| state.as_str() == text);
    found.ok_or_else(|| Error::Corrupt { what: "state of a run", why: text.to_owned() })
}

/// Files a new run.
///
/// # Errors
/// `not_found` when the organization was deleted meanwhile.
pub(crate) fn insert(tx: &Transaction<'_>, run: &RunRow) -> Result<()> {
    orgs::must_exist(tx, &run.org)?;
    tx.prepare_cached(
        "INSERT INTO runs (id, org, uid, device_name, project, role, account, email, address, command, run_as, cwd, env, timeout_s, \
         output_max, state, created_at, expires_at, token) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19)",
    )?
    .execute(params![
        run.id.as_str(),
        run.org.as_str(),
        run.uid.as_str(),
        run.device_name,
        run.project.as_str(),
        run.role,
        run.account,
        run.email,
        run.address,
        serde_json::to_string(&run.command)?,
        run.run_as,
        run.cwd,
        serde_json::to_string(&run.env)?,
        run.timeout_s,
        run.output_max.cast_signed(),
        run.state.as_str(),
        run.created_at,
        run.expires_at,
        run.token,
    ])?;
    Ok(())
}

/// One run.
///
/// # Errors
/// When the database fails.
pub(crate) fn by_id(connection: &Connection, id: &RunId) -> Result<Option<RunRow>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM runs WHERE id = ?1"))?;
    statement.query_row([id.as_str()], run).optional()?.transpose()
}

/// Which runs to list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Filter {
    /// On this device only.
    pub(crate) uid: Option<DeviceUid>,
    /// Only in these states; all if empty.
    pub(crate) states: Vec<RunState>,
    /// Only of this person.
    pub(crate) email: Option<String>,
    /// Only in the name of these projects; all if absent.
    pub(crate) projects: Option<Vec<ProjectId>>,
}

/// Runs of an organization, newest first, with numbers below `before`.
///
/// # Errors
/// When the database fails.
pub(crate) fn list(connection: &Connection, org: &OrgId, filter: &Filter, before: Option<i64>, limit: usize) -> Result<Vec<RunRow>> {
    let projects = filter.projects.as_ref().map(serde_json::to_string).transpose()?;
    let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
    let states = if states.is_empty() { None } else { Some(serde_json::to_string(&states)?) };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM runs WHERE org = ?1 AND n < ?2 AND (?3 IS NULL OR uid = ?3) \
         AND (?4 IS NULL OR state IN (SELECT value FROM json_each(?4))) AND (?5 IS NULL OR email = ?5) \
         AND (?6 IS NULL OR project IN (SELECT value FROM json_each(?6))) ORDER BY n DESC LIMIT ?7"
    ))?;
    let (uid, limit) = (filter.uid.as_ref().map(DeviceUid::as_str), i64::try_from(limit).unwrap_or(i64::MAX));
    let given = params![org.as_str(), before.unwrap_or(i64::MAX), uid, states, filter.email, projects, limit];
    let rows = statement.query_map(given, run)?;
    rows.map(|row| row?).collect()
}

/// Runs that are not over, oldest first; of one organization, or all.
///
/// # Errors
/// When the database fails.
pub(crate) fn alive(connection: &Connection, org: Option<&OrgId>) -> Result<Vec<RunRow>> {
    let sql = format!("SELECT {COLUMNS} FROM runs WHERE state IN ('waiting', 'running') AND (?1 IS NULL OR org = ?1) ORDER BY n");
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map([org.map(OrgId::as_str)], run)?;
    rows.map(|row| row?).collect()
}

/// What came of a report.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reported {
    /// There is no such run on this device.
    Unknown,
    /// It was known already, or says nothing new.
    Nothing,
    /// It changed the run, or its output.
    Changed(Box<RunRow>),
    /// It ended the run, for good.
    Ended(Box<RunRow>),
}

/// Takes a report of a device. Whatever is repeated changes nothing.
///
/// # Errors
/// When the database fails.
pub(crate) fn report(tx: &Transaction<'_>, uid: &DeviceUid, id: &RunId, report: &RunReport, now: Millis) -> Result<Reported> {
    let Some(mut row) = by_id(tx, id)?.filter(|row| row.uid == *uid) else { return Ok(Reported::Unknown) };
    let settled = row.state.is_over() && !row.by_hub;
    let at = report.t.clamp(row.created_at, now.max(row.created_at));
    match &report.kind {
        RunReportKind::Unknown => Ok(Reported::Nothing),
        RunReportKind::Output(output) => {
            // Pieces may overtake the end where several hubs share the work.
            let new = add_output(tx, &row, report.n, at, output)?;
            let taken = !settled && take(tx, &mut row, at, None, now)?;
            Ok(if new || taken { Reported::Changed(Box::new(row)) } else { Reported::Nothing })
        }
        _ if settled => Ok(Reported::Nothing),
        RunReportKind::Accepted => {
            Ok(if take(tx, &mut row, at, None, now)? { Reported::Changed(Box::new(row)) } else { Reported::Nothing })
        }
        RunReportKind::Started => {
            let known = row.started_at.is_some() && row.state == RunState::Running;
            take(tx, &mut row, at, Some(at), now)?;
            Ok(if known { Reported::Nothing } else { Reported::Changed(Box::new(row)) })
        }
        // A device that knows nothing of a run that is over anyway has nothing to add.
        RunReportKind::End(end) if row.by_hub && end.code.as_deref() == Some(UNKNOWN_THERE) => Ok(Reported::Nothing),
        RunReportKind::End(ended) => {
            let ended_at = at.max(row.started_at.unwrap_or(at));
            end(tx, &row, &Ending { state: state_of(ended), by_hub: false, at: ended_at, end: ended })?;
            meter(tx, &row, ended, now)?;
            Ok(by_id(tx, id)?.map_or(Reported::Unknown, |row| Reported::Ended(Box::new(row))))
        }
    }
}

/// Counts what a run used, once: whatever the device was asked to keep, it said it in its one end.
fn meter(tx: &Transaction<'_>, row: &RunRow, end: &RunEnd, now: Millis) -> Result<()> {
    // What never began used nothing.
    if row.started_at.is_none() && end.used == RunUsed::default() {
        return Ok(());
    }
    let (most_cpu, most_memory) = metering::most_of_run(row.timeout_s);
    let amounts = [
        (Kind::Runs, 1, String::new()),
        (Kind::CpuUs, i64::try_from(end.used.cpu_us).unwrap_or(i64::MAX).min(most_cpu), ":cpu".to_owned()),
        (Kind::MemoryKibMs, metering::kib_ms(end.used.mem_byte_ms.into()).min(most_memory), ":mem".to_owned()),
    ];
    for (kind, amount, of) in amounts {
        let key = format!("run:{}{of}", row.id);
        let metered = Metered { org: &row.org, project: Some(&row.project), uid: Some(&row.uid), kind, amount, at: now, key };
        metering::add(tx, &metered)?;
    }
    Ok(())
}

/// The code of a device that is told to cancel what it never heard of.
pub(crate) const UNKNOWN_THERE: &str = "unknown_run";

fn state_of(end: &RunEnd) -> RunState {
    match end.outcome {
        RunOutcome::Done if end.exit_code == Some(0) => RunState::Done,
        RunOutcome::Done | RunOutcome::Failed | RunOutcome::Unknown => RunState::Failed,
        RunOutcome::Cancelled => RunState::Cancelled,
        RunOutcome::TimedOut => RunState::TimedOut,
        RunOutcome::Expired => RunState::Expired,
        RunOutcome::Refused => RunState::Refused,
        RunOutcome::Lost => RunState::Lost,
    }
}

/// The device has it: it runs, also where the hub alone had called it over. Whether that is new.
fn take(tx: &Transaction<'_>, row: &mut RunRow, at: Millis, started: Option<Millis>, now: Millis) -> Result<bool> {
    let new = row.state != RunState::Running;
    if new || (started.is_some() && row.started_at.is_none()) {
        row.state = RunState::Running;
        row.by_hub = false;
        row.accepted_at.get_or_insert(at);
        row.started_at = row.started_at.or(started);
        (row.ended_at, row.end_code, row.end_reason) = (None, None, None);
        tx.prepare_cached(
            "UPDATE runs SET state = 'running', by_hub = 0, accepted_at = ?2, started_at = ?3, ended_at = NULL, end_code = NULL, \
             end_reason = NULL WHERE n = ?1",
        )?
        .execute(params![row.n, row.accepted_at, row.started_at])?;
        let running = "SELECT count(*) FROM runs WHERE state = 'running' AND org = ?1";
        let running: i64 = tx.prepare_cached(running)?.query_row([row.org.as_str()], |row| row.get(0))?;
        metering::peak(tx, &row.org, Kind::RunsPeak, now, running.unsigned_abs())?;
    }
    Ok(new)
}

/// Stores a piece once. A device that sends more than it was asked to keep is not stored beyond that.
fn add_output(tx: &Transaction<'_>, row: &RunRow, n: u64, t: Millis, output: &RunOutput) -> Result<bool> {
    if row.kept + output.bytes.len() as u64 > row.output_max + RUN_PIECE_MAX as u64 {
        tracing::warn!(run = %row.id, uid = %row.uid, "a device sends more output than the run's bound; it is dropped");
        return Ok(false);
    }
    let stream = match output.stream {
        RunStream::Stdout => 1,
        RunStream::Stderr => 2,
    };
    let new = tx
        .prepare_cached("INSERT OR IGNORE INTO run_output (run, n, t, stream, at, bytes) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![row.n, n.cast_signed(), t, stream, output.at.cast_signed(), output.bytes])?;
    if new > 0 {
        tx.prepare_cached("UPDATE runs SET kept = kept + ?2 WHERE n = ?1")?
            .execute(params![row.n, i64::try_from(output.bytes.len()).unwrap_or(0)])?;
    }
    Ok(new > 0)
}

/// How a run ended.
#[derive(Debug, Clone)]
pub(crate) struct Ending<'a> {
    pub(crate) state: RunState,
    /// Whether only the hub says so.
    pub(crate) by_hub: bool,
    pub(crate) at: Millis,
    pub(crate) end: &'a RunEnd,
}

/// Writes a run's end.
///
/// # Errors
/// When the database fails.
pub(crate) fn end(tx: &Transaction<'_>, row: &RunRow, ending: &Ending<'_>) -> Result<()> {
    let RunEnd { exit_code, signal, code, message, stdout, stderr, dropped, used, .. } = ending.end;
    tx.prepare_cached(
        "UPDATE runs SET state = ?2, by_hub = ?3, ended_at = ?4, exit_code = ?5, signal = ?6, end_code = ?7, end_reason = ?8, \
         stdout = ?9, stderr = ?10, dropped = ?11, cpu_us = ?12, mem_byte_ms = ?13, mem_peak = ?14 WHERE n = ?1",
    )?
    .execute(params![
        row.n,
        ending.state.as_str(),
        ending.by_hub,
        ending.at,
        exit_code,
        signal,
        code,
        message,
        stdout.cast_signed(),
        stderr.cast_signed(),
        dropped.cast_signed(),
        used.cpu_us.cast_signed(),
        used.mem_byte_ms.cast_signed(),
        used.mem_peak.cast_signed(),
    ])?;
    // A command that ran and failed is no refusal; what kept it from running is.
    let result = match ending.state {
        RunState::Refused => code.as_deref().unwrap_or("refused"),
        RunState::Failed if exit_code.is_none() && signal.is_none() => code.as_deref().unwrap_or("failed"),
        RunState::Expired | RunState::Lost => ending.state.as_str(),
        _ => "ok",
    };
    let entry = Entry::of_device(&row.uid, &row.org, "run.end").with(json!({
        "run": row.id, "user": row.email, "state": ending.state, "exit_code": exit_code, "signal": signal, "why": message,
        "by_hub": ending.by_hub,
    }));
    entry.record(tx, result)
}

/// Ends a run that the hub alone calls over, if it is still in the state in which that was decided. Whether it was.
///
/// # Errors
/// When the database fails.
pub(crate) fn end_by_hub(
    tx: &Transaction<'_>,
    id: &RunId,
    from: RunState,
    to: RunState,
    code: &str,
    why: &str,
    now: Millis,
) -> Result<bool> {
    let Some(row) = by_id(tx, id)?.filter(|row| row.state == from) else { return Ok(false) };
    let said = RunEnd::without_process(RunOutcome::Unknown, code, why);
    end(tx, &row, &Ending { state: to, by_hub: true, at: now, end: &said })?;
    Ok(true)
}

/// Notes that somebody asks for its end. False if somebody did before, or it is over.
///
/// # Errors
/// When the database fails.
pub(crate) fn cancel(tx: &Transaction<'_>, id: &RunId, by: &str, now: Millis) -> Result<bool> {
    let changed = tx
        .prepare_cached(
            "UPDATE runs SET cancelled_at = ?2, cancelled_by = ?3 WHERE id = ?1 AND cancelled_at IS NULL AND state IN ('waiting', 'running')",
        )?
        .execute(params![id.as_str(), now, by])?;
    Ok(changed > 0)
}

/// Pieces of a run's output from number `from` on, at most `limit`, in order.
///
/// # Errors
/// When the database fails.
pub(crate) fn output(connection: &Connection, run: i64, from: u64, limit: usize) -> Result<Vec<RunPiece>> {
    let mut statement =
        connection.prepare_cached("SELECT n, t, stream, at, bytes FROM run_output WHERE run = ?1 AND n >= ?2 ORDER BY n LIMIT ?3")?;
    let from = i64::try_from(from).unwrap_or(i64::MAX);
    let rows = statement.query_map(params![run, from, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        let stream = if row.get::<_, i64>(2)? == 1 { RunStream::Stdout } else { RunStream::Stderr };
        let output = RunOutput { stream, at: row.get::<_, i64>(3)?.unsigned_abs(), bytes: row.get(4)? };
        Ok(RunPiece { n: row.get::<_, i64>(0)?.unsigned_abs(), t: row.get(1)?, output })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Removes the output of at most `slice` runs that ended before `cutoff`. Whether there may be more.
///
/// # Errors
/// When the database fails.
pub(crate) fn prune(tx: &Transaction<'_>, cutoff: Millis, slice: i64) -> Result<bool> {
    let mut old = tx.prepare_cached("SELECT n FROM runs WHERE kept > 0 AND ended_at < ?1 ORDER BY ended_at LIMIT ?2")?;
    let old = old.query_map(params![cutoff, slice], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
    for run in &old {
        tx.prepare_cached("DELETE FROM run_output WHERE run = ?1")?.execute([run])?;
        tx.prepare_cached("UPDATE runs SET kept = 0 WHERE n = ?1")?.execute([run])?;
    }
    Ok(i64::try_from(old.len()).is_ok_and(|count| count == slice))
}
