//! The device list as a CSV file: out as one sees it, in as rows entered by hand and edits.
//!
//! What a spreadsheet would take for a formula goes out with a `'` before it, and comes in without.
//! A file is taken whole or not at all; a dry run lists every mistake with its line and column.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;

use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use muster_proto::api::{Field, ImportMistake, ImportResult, LimitName};
use muster_proto::id::{DeviceUid, ProjectId, Serial};
use muster_proto::problem::Code;
use muster_proto::text_file;
use rusqlite::Transaction;
use serde::Deserialize;
use serde_json::{Value as JsonValue, json};

use super::edit::{self, Checked, Wishes, short};
use super::extract::received;
use super::listing::{Asked, Selection, select, with_schema};
use super::{ApiError, ApiResult, OrgAccess, Query, Route, text, views};
use crate::clock;
use crate::csv_text;
use crate::query::columns::{Kind, built_in, resolve};
use crate::query::syntax::Name;
use crate::query::{Column, Value};
use crate::random;
use crate::registry::{List, Listing};
use crate::rights::Action;
use crate::state::AppState;
use crate::store::devices::{self, DeviceRow};
use crate::store::{self, limits, problem};

/// Largest file, in bytes: 10,000 lines with some 800 bytes each.
const BODY_MAX: usize = 8 * 1024 * 1024;
/// Most lines of a file.
const LINES_MAX: usize = 10_000;
/// Most columns, of a file and of a view.
const COLUMNS_MAX: usize = 100;
/// Mistakes that are listed; a file with more is not what it should be.
const MISTAKES_MAX: usize = 1000;
/// Mistakes that a refusal tells; a dry run tells all.
const TOLD_MAX: usize = 20;
/// Columns of an export where nobody chose; the custom fields follow.
const USUAL: [&str; 7] = ["id", "name", "admission", "presence", "last_seen", "projects", "labels"];

pub(super) fn routes() -> Vec<Route> {
    vec![
        Route::get("/v1/orgs/{org}/devices/export", export),
        Route::post("/v1/orgs/{org}/devices/import", import).audited("device.import").body_max(BODY_MAX),
    ]
}

/// Checks names of columns, for views and exports.
pub(super) fn checked_columns(access: &OrgAccess, list: &List, names: &[String]) -> ApiResult<Vec<(Column, Kind)>> {
    if names.len() > COLUMNS_MAX {
        return Err(views::too_many(COLUMNS_MAX));
    }
    let resolved = with_schema(access, list, |schema| {
        let column = |name: &String| resolve(&Name::of_word(name.trim(), 1), schema);
        names.iter().map(column).collect::<Result<Vec<_>, _>>()
    });
    resolved.map_err(|error| ApiError::new(Code::Invalid, format!("columns: {}", error.why)))
}

async fn export(State(state): State<AppState>, access: OrgAccess, Query(asked): Query<Asked>) -> ApiResult<Response> {
    let selection = select(&state, &access, &asked).await?;
    let given = asked.columns.as_deref().filter(|columns| !columns.trim().is_empty());
    let names: Vec<String> = match (given, &selection.view) {
        (Some(given), _) => given.split(',').map(|name| name.trim().to_owned()).collect(),
        (None, Some(view)) if !view.columns.is_empty() => view.columns.clone(),
        (None, _) => {
            let keys = selection.list.fields.iter().map(|(_, field)| field.key.clone());
            USUAL.iter().map(|name| (*name).to_owned()).chain(keys).collect()
        }
    };
    let columns = checked_columns(&access, &selection.list, &names)?;
    let (there, by) = (state.clone(), access.clone());
    let work = move |_: &rusqlite::Connection| {
        let viewer = Selection::viewer(&there, &by);
        let listing = Listing { plan: &selection.plan, order: &selection.order, after: None, limit: usize::MAX };
        let found = selection.list.page(&viewer, &listing);
        let wanted: Vec<&Column> = columns.iter().map(|(column, _)| column).collect();
        let mut file = ::csv::Writer::from_writer(Vec::new());
        let mut written = file.write_record(names.iter().map(|name| csv_text::cell(name).into_owned()));
        selection.list.rows_of(&viewer, &found.uids, &wanted, |values| {
            let cells = values.iter().zip(&columns).map(|(value, (_, kind))| cell(value, kind));
            if written.is_ok() {
                written = file.write_record(cells);
            }
        });
        let bytes = written.map_err(::csv::Error::into).and_then(|()| file.into_inner().map_err(|error| error.into_error()));
        bytes.map_err(|error: std::io::Error| problem(Code::Internal, format!("the file could not be made: {error}")))
    };
    let bytes = state.store.read(work).await?;
    let name = format!("attachment; filename=\"{}-devices.csv\"", access.org);
    Ok(([(CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()), (CONTENT_DISPOSITION, name)], bytes).into_response())
}

/// A value as a file has it.
fn cell(value: &Value<'_>, kind: &Kind) -> String {
    match value {
        Value::Absent => String::new(),
        Value::Text(text) => csv_text::cell(text).into_owned(),
        Value::List(list) => csv_text::cell(&list.join(";")).into_owned(),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        Value::Time(time) => {
            let text = iso(*time);
            if *kind == Kind::Date { text[..10].to_owned() } else { text }
        }
    }
}

/// `2026-11-22T10:30:00Z`.
fn iso(time: muster_proto::Millis) -> String {
    let nanos = i128::from(time) * 1_000_000;
    let Ok(at) = time::OffsetDateTime::from_unix_timestamp_nanos(nanos) else { return time.to_string() };
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", at.hour(), at.minute(), at.second())
}

#[derive(Debug, Deserialize)]
struct How {
    dry_run: Option<bool>,
}

async fn import(
    State(state): State<AppState>,
    access: OrgAccess,
    Query(how): Query<How>,
    request: Request,
) -> ApiResult<Json<ImportResult>> {
    access.require(Action::AddDevice)?;
    access.require(Action::EditDevice)?;
    let media = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let is_csv = media.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("text/csv"));
    let too_large = || format!("the file is larger than {} MiB; import it in parts", BODY_MAX / 1024 / 1024);
    let body = received(request, &state, too_large).await?;
    if !is_csv {
        return Err(ApiError::new(Code::MediaType, "the body must be a CSV file: send it with Content-Type: text/csv"));
    }
    let dry_run = how.dry_run.unwrap_or(false);
    let list = state.registry.list(&access.org);
    let mut file = read(&access, &list, &body)?;
    let outcome = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&outcome);
    let done = state
        .store
        .write(move |tx| {
            let result = take(tx, &access, &mut file)?;
            if result.mistakes.is_empty() && !dry_run {
                return Ok(result);
            }
            // Rolled back: what happened until here never did.
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(ImportResult { dry_run, ..result });
            Err(problem(Code::Conflict, "nothing was imported"))
        })
        .await;
    let tried = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    match tried {
        Some(result) if dry_run => Ok(Json(result)),
        Some(result) => Err(refused(&result)),
        None => Ok(Json(done?)),
    }
}

fn refused(result: &ImportResult) -> ApiError {
    let told: Vec<String> = result.mistakes.iter().take(TOLD_MAX).map(told).collect();
    let more = result.mistakes.len().saturating_sub(TOLD_MAX);
    let more = if more > 0 { format!("; and {more} more, which ?dry_run=true lists") } else { String::new() };
    ApiError::new(Code::Invalid, format!("nothing was imported: {}{more}", told.join("; ")))
}

fn told(mistake: &ImportMistake) -> String {
    match &mistake.column {
        Some(column) => format!("line {}, column {column}: {}", mistake.line, mistake.message),
        None => format!("line {}: {}", mistake.line, mistake.message),
    }
}

/// What a column of a file is for.
#[derive(Debug, Clone)]
enum Meaning {
    Id,
    Name,
    Labels,
    Projects,
    Field(i64, Field),
    /// The hub says this, not a file.
    Ignored,
}

/// A line, taken apart.
#[derive(Debug)]
struct Line {
    number: u64,
    id: Serial,
    name: Option<String>,
    labels: Option<BTreeSet<String>>,
    projects: BTreeSet<ProjectId>,
    /// Projects that no device can be put into here: a mistake, unless the device is in them already.
    closed: Vec<(String, ImportMistake)>,
    values: Vec<(i64, Field, String)>,
}

#[derive(Debug, Default)]
struct File {
    lines: Vec<Line>,
    count: u64,
    mistakes: Vec<ImportMistake>,
}

impl File {
    fn mistake(&mut self, line: u64, column: Option<&str>, message: impl Into<String>) {
        self.add(ImportMistake { line, column: column.map(short), message: message.into() });
    }

    fn add(&mut self, mistake: ImportMistake) {
        if self.mistakes.len() < MISTAKES_MAX {
            self.mistakes.push(mistake);
        }
    }
}

/// Reads a file as far as that goes without the database.
fn read(access: &OrgAccess, list: &List, body: &[u8]) -> ApiResult<File> {
    let text = text_file::decode(body).map_err(|error| ApiError::new(Code::Invalid, format!("{error}; nothing was imported")))?;
    let body = text.as_bytes();
    let delimiter = csv_text::delimiter(body);
    if let Some((line, why)) = csv_text::misquoted(body, delimiter) {
        return Err(ApiError::new(Code::Invalid, format!("line {line}: {why}; nothing was imported")));
    }
    let mut reader = ::csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).has_headers(false).from_reader(body);
    let (mut file, mut record) = (File::default(), ::csv::StringRecord::new());
    let mut headers: Option<Vec<(String, Meaning)>> = None;
    let mut seen = BTreeMap::new();
    loop {
        let line = reader.position().line();
        match reader.read_record(&mut record) {
            Ok(false) => break,
            Ok(true) => {}
            Err(error) => {
                let line = error.position().map_or(line, ::csv::Position::line);
                file.mistake(line, None, error.to_string());
                continue;
            }
        }
        let line = record.position().map_or(line, ::csv::Position::line);
        let Some(headers) = &headers else {
            headers = Some(meanings(list, &record, &mut file)?);
            continue;
        };
        if record.iter().all(|cell| cell.trim().is_empty()) {
            continue;
        }
        file.count += 1;
        if file.count > LINES_MAX as u64 {
            return Err(ApiError::new(Code::TooLarge, format!("the file has more than {LINES_MAX} lines; import it in parts")));
        }
        if record.len() != headers.len() {
            file.mistake(line, None, format!("it has {} columns, and the header {}", record.len(), headers.len()));
            continue;
        }
        if let Some(read) = take_apart(access, headers, &record, line, &mut file) {
            if let Some(before) = seen.insert(read.id.clone(), line) {
                file.mistake(line, Some("id"), format!("{} stands on line {before} already", read.id));
            } else {
                file.lines.push(read);
            }
        }
    }
    if headers.is_none() {
        return Err(ApiError::new(Code::Invalid, "the file is empty: its first line names the columns, such as id,name,labels"));
    }
    Ok(file)
}

fn meanings(list: &List, record: &::csv::StringRecord, file: &mut File) -> ApiResult<Vec<(String, Meaning)>> {
    if record.len() > COLUMNS_MAX {
        return Err(ApiError::new(Code::Invalid, format!("the file has {} columns, and at most {COLUMNS_MAX} are read", record.len())));
    }
    let mut headers: Vec<(String, Meaning)> = Vec::new();
    for header in record {
        let header = csv_text::read(header.trim());
        let key = header.strip_prefix("field.").unwrap_or(header);
        let field = list.fields.iter().find(|(_, field)| field.key == key);
        let meaning = match (header, field) {
            ("id" | "serial", _) => Meaning::Id,
            ("name", _) => Meaning::Name,
            ("label" | "labels", _) => Meaning::Labels,
            ("project" | "projects", _) => Meaning::Projects,
            (_, Some((id, field))) => Meaning::Field(*id, field.clone()),
            _ if header.starts_with("fact.") || header.starts_with("usage.") || built_in().any(|(name, _)| name == header) => {
                Meaning::Ignored
            }
            _ => {
                let keys: Vec<&str> = list.fields.iter().map(|(_, field)| field.key.as_str()).collect();
                let why =
                    format!("there is no such column; there are id, name, labels, projects and the custom fields: {}", keys.join(", "));
                file.mistake(1, Some(header), why);
                Meaning::Ignored
            }
        };
        let again = !matches!(meaning, Meaning::Ignored)
            && headers.iter().any(|(_, held)| {
                std::mem::discriminant(held) == std::mem::discriminant(&meaning)
                    && !matches!((held, &meaning), (Meaning::Field(a, _), Meaning::Field(b, _)) if a != b)
            });
        if again {
            file.mistake(1, Some(header), "the column stands there twice");
        }
        headers.push((header.to_owned(), meaning));
    }
    if !headers.iter().any(|(_, meaning)| matches!(meaning, Meaning::Id)) {
        return Err(ApiError::new(Code::Invalid, "line 1: the column id is missing: it says which device a line is about"));
    }
    Ok(headers)
}

fn take_apart(
    access: &OrgAccess,
    headers: &[(String, Meaning)],
    record: &::csv::StringRecord,
    number: u64,
    file: &mut File,
) -> Option<Line> {
    let before = file.mistakes.len();
    let (mut id, mut line_name, mut labels, mut values) = (None, None, None, Vec::new());
    let (mut projects, mut closed) = (BTreeSet::new(), Vec::new());
    for ((header, meaning), cell) in headers.iter().zip(record) {
        let cell = csv_text::read(cell.trim());
        let several = || cell.split([';', ',']).map(str::trim).filter(|part| !part.is_empty());
        match meaning {
            Meaning::Ignored => {}
            Meaning::Id => match cell.parse::<Serial>() {
                Ok(serial) => id = Some(serial),
                Err(error) => file.mistake(number, Some(header), error.to_string()),
            },
            Meaning::Name if cell.is_empty() => {}
            Meaning::Name => match text::name("name", cell.to_owned()) {
                Ok(name) => line_name = Some(name),
                Err(error) => file.mistake(number, Some(header), error.0.detail),
            },
            Meaning::Labels => {
                for label in several() {
                    if let Err(why) = crate::fields::check_label(label) {
                        file.mistake(number, Some(header), why);
                    }
                }
                labels = Some(several().map(str::to_owned).collect());
            }
            Meaning::Projects => {
                for project in several() {
                    match access.require_in(Action::AssignDevice, project) {
                        Ok(project) => drop(projects.insert(project)),
                        Err(error) => {
                            let mistake = ImportMistake { line: number, column: Some(short(header)), message: error.0.detail };
                            closed.push((project.to_owned(), mistake));
                        }
                    }
                }
            }
            Meaning::Field(field_id, field) => values.push((*field_id, field.clone(), cell.to_owned())),
        }
    }
    match id.filter(|_| file.mistakes.len() == before) {
        Some(id) => Some(Line { number, id, name: line_name, labels, projects, closed, values }),
        None => {
            closed.into_iter().for_each(|(_, mistake)| file.add(mistake));
            None
        }
    }
}

/// Applies a file, inside a transaction that is rolled back where there is a mistake.
fn take(tx: &Transaction<'_>, access: &OrgAccess, file: &mut File) -> store::Result<ImportResult> {
    let lines = std::mem::take(&mut file.lines);
    let mut listed = Vec::with_capacity(lines.len());
    for line in &lines {
        listed.push(devices::by_serial(tx, &access.org, line.id.as_str())?);
    }
    let new = listed.iter().filter(|row| row.is_none()).count() as u64;
    limits::check(tx, &access.org, LimitName::Devices, new)?;
    let mut result = ImportResult { lines: file.count, ..ImportResult::default() };
    for (line, listed) in lines.iter().zip(listed) {
        let number = line.number;
        match one(tx, access, line, listed, file) {
            Ok(Some(Done::Created)) => result.created += 1,
            Ok(Some(Done::Updated)) => result.updated += 1,
            Ok(Some(Done::Unchanged)) => result.unchanged += 1,
            Ok(None) => {}
            Err(store::Error::Problem(refused)) => file.mistake(number, None, refused.detail),
            Err(error) => return Err(error),
        }
    }
    result.mistakes = std::mem::take(&mut file.mistakes);
    result.mistakes.sort_by_key(|mistake| mistake.line);
    let counts = json!({ "lines": result.lines, "created": result.created, "updated": result.updated });
    access.entry("device.import", format!("{} lines", result.lines)).with(counts).ok(tx)?;
    Ok(result)
}

fn is_in(listed: Option<&DeviceRow>, project: &str) -> bool {
    listed.is_some_and(|device| device.projects.iter().any(|held| held.as_str() == project))
}

enum Done {
    Created,
    Updated,
    Unchanged,
}

fn one(tx: &Transaction<'_>, access: &OrgAccess, line: &Line, listed: Option<DeviceRow>, file: &mut File) -> store::Result<Option<Done>> {
    let mut checked = Checked::default();
    let (before, is_new) = (file.mistakes.len(), listed.is_none());
    let held = |id: i64| {
        let value = listed.iter().flat_map(|device| &device.values).find(|value| value.field == id);
        value.map_or("", |value| value.value.as_str())
    };
    for (_, mistake) in line.closed.iter().filter(|(project, _)| !is_in(listed.as_ref(), project)) {
        file.add(mistake.clone());
    }
    for (id, field, given) in &line.values {
        // As it stands in the list it may stay: a required field that nobody filled so far, a choice or a person of before.
        if !is_new && held(*id) == given {
            continue;
        }
        match edit::value(tx, &access.org, field, &JsonValue::String(given.clone()))? {
            Ok(value) => checked.push(*id, value),
            Err(why) => file.mistake(line.number, Some(&field.key), why),
        }
    }
    if file.mistakes.len() > before {
        return Ok(None);
    }
    let device = match listed {
        Some(device) => device,
        None => {
            if let Some(why) = devices::mistaken(&line.id) {
                file.mistake(line.number, Some("id"), why);
                return Ok(None);
            }
            let uid = DeviceUid::from_random(random::bytes());
            let name = line.name.as_deref().unwrap_or(line.id.as_str());
            devices::insert_by_hand(tx, &uid, &access.org, &line.id, name, &access.person.email, clock::now())?;
            devices::by_uid(tx, &uid)?.ok_or_else(|| problem(Code::Internal, "the new row is gone"))?
        }
    };
    let has: BTreeSet<String> = device.labels.iter().cloned().collect();
    let labels = line.labels.clone().unwrap_or_else(|| has.clone());
    let wishes = Wishes {
        name: line.name.clone(),
        add_labels: labels.difference(&has).cloned().collect(),
        remove_labels: has.difference(&labels).cloned().collect(),
        join: line.projects.clone(),
        ..Wishes::default()
    };
    let changed = wishes.apply(tx, &device, &checked)?;
    if is_new {
        for key in edit::missing(tx, &access.org, &device.uid)? {
            file.mistake(line.number, Some(&key), "it is required, and this device is new");
        }
    }
    if !changed && !is_new {
        return Ok(Some(Done::Unchanged));
    }
    let mut told = wishes.told();
    let values = line.values.iter().map(|(_, field, given)| (field.key.clone(), JsonValue::String(given.clone())));
    (told["import"], told["line"]) = (JsonValue::Bool(true), json!(line.number));
    (told["serial"], told["fields"]) = (json!(line.id), values.collect::<serde_json::Map<_, _>>().into());
    access.entry(if is_new { "device.add" } else { "device.edit" }, device.uid.as_str()).with(told).ok(tx)?;
    Ok(Some(if is_new { Done::Created } else { Done::Updated }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells() {
        assert_eq!(cell(&Value::Time(1_795_348_800_123), &Kind::Time), "2026-11-22T12:00:00Z");
        assert_eq!(cell(&Value::Time(1_795_305_600_000), &Kind::Date), "2026-11-22");
        assert_eq!(cell(&Value::List(vec!["a", "b"]), &Kind::List), "a;b");
        assert_eq!(cell(&Value::Number(-0.5), &Kind::Number(crate::query::columns::Unit::Plain)), "-0.5");
        assert_eq!(cell(&Value::Text("-x"), &Kind::Text), "'-x");
    }
}
