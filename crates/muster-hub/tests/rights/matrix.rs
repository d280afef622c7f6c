//! Plays every cell: each call by each person, on something fresh.
//!
//! First those who may not, and the database must be what it was; then those who may, each on a target of its own.
//! Who may is read from the grid that was written by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use muster_hub::api::{self, Route};
use muster_hub::rights::Action;
use serde_json::Value;

use crate::caller::{Answer, Caller};
use crate::cases::{By, CASES, Case, On, Seen, WITHOUT_A_ROLE};
use crate::grid::{Archived, GRID, Proof, Row, STANDINGS, Scope, Standing, may, of_org, of_project};
use crate::records::{self, Event};
use crate::stage::{Stage, email, together};
use crate::targets::{Target, filled, fresh};

/// What must come back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    Done,
    /// One of these codes.
    Refused(Vec<&'static str>),
}

fn row(action: Action) -> &'static Row {
    GRID.iter().find(|row| row.0 == action).unwrap_or_else(|| panic!("{action:?} is not in the grid"))
}

/// What the grid says of one cell.
fn expected(case: &Case, standing: &Standing) -> Expected {
    let scope = match standing.proof {
        Proof::Nothing => return Expected::Refused(vec!["unauthenticated"]),
        Proof::Dead(_, code) => return Expected::Refused(vec![code]),
        Proof::Token(scope, ..) => scope,
    };
    if case.by != By::Right && standing.hub_owner && scope == Scope::Full {
        return Expected::Done;
    }
    if case.by == By::Hub {
        return Expected::Refused(vec!["forbidden"]);
    }
    let everywhere = format!("{} {}", standing.hats, standing.elsewhere);
    if everywhere.trim().is_empty() {
        return Expected::Refused(vec!["not_found"]);
    }
    let sees = match case.on {
        On::Org => true,
        On::Own => !of_org(&everywhere).is_empty(),
        On::Project => !of_project(standing.hats).is_empty(),
        On::Device | On::Both => !standing.hats.is_empty(),
    };
    if !sees {
        return Expected::Refused(vec!["not_found"]);
    }
    let Some(action) = case.action else { return Expected::Done };
    let row = row(action);
    if case.on == On::Both && of_project(standing.hats).is_empty() {
        return Expected::Refused(vec!["not_found", "forbidden"]);
    }
    if !may(row, if matches!(case.on, On::Org | On::Own) { &everywhere } else { standing.hats }) {
        return Expected::Refused(vec!["forbidden"]);
    }
    if scope < row.1 {
        return Expected::Refused(vec!["forbidden"]);
    }
    let shut = match case.shut.unwrap_or(row.3) {
        Archived::Open => false,
        Archived::Shut => true,
        Archived::ShutByProject => !may(row, &of_org(standing.hats)),
    };
    if standing.place == "attic" && shut && (!matches!(case.on, On::Org | On::Own) || case.shut.is_some()) {
        return Expected::Refused(vec!["archived", "forbidden"]);
    }
    match case.but {
        // What only a whole token does is refused before that.
        Some(code) if matches!(standing.proof, Proof::Token(_, "acme", _)) => Expected::Refused(vec![code, "forbidden"]),
        Some(code) => Expected::Refused(vec![code]),
        // Sessions and runs in its name ended when the project was archived.
        None if action == Action::EndSession && standing.place == "attic" => Expected::Refused(vec!["session_ended", "conflict"]),
        None => Expected::Done,
    }
}

fn audit_name(routes: &[Route], case: &Case) -> Option<&'static str> {
    let route = routes.iter().find(|route| (route.method, route.path) == (case.method, case.route));
    route.unwrap_or_else(|| panic!("there is no route {} {}", case.method, case.route)).action
}

/// The answer to one call on one target, or why there was none.
pub(crate) async fn play(caller: &Caller, case: &Case, target: &Target) -> Result<Answer, String> {
    let path = filled(case.route, target) + &filled(case.query, target);
    caller.ask(case.method, &path, case.kind, filled(case.body, target).into_bytes()).await
}

/// Whether it is seen to be done, by somebody who sees everything.
pub(crate) async fn is_done(owner: &Caller, seen: &Seen, target: &Target) -> bool {
    let answer = owner.send("GET", &filled(seen.path, target), "").await;
    assert!(answer.is_ok() || answer.status == 404, "{}: {}", answer.status, answer.text());
    has(&answer, &filled(seen.has, target)) == seen.there
}

fn has(answer: &Answer, conditions: &str) -> bool {
    if !answer.is_ok() {
        return false;
    }
    let page: Value = serde_json::from_slice(&answer.body).unwrap();
    let fits = |item: &Value| {
        conditions.split_whitespace().all(|condition| {
            let (key, wanted) = condition.split_once('=').unwrap();
            let is = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned) == wanted;
            match &item[key] {
                Value::Null => false,
                _ if wanted == "*" => true,
                Value::Array(values) => values.iter().any(is),
                value => is(value),
            }
        })
    };
    match &page["items"] {
        Value::Array(items) => items.iter().any(fits),
        _ => fits(&page),
    }
}

struct Cell {
    standing: &'static Standing,
    caller: Caller,
    expected: Expected,
    target: Target,
}

/// The cells of one case: those who are refused share a target per place, each of the others has its own.
async fn cells(stage: &Arc<Stage>, case: &'static Case, cast: &[(&'static Standing, Caller)]) -> Vec<Cell> {
    stage.archive(false).await;
    let places: Vec<&'static str> = cast.iter().map(|(standing, _)| standing.place).collect::<BTreeSet<_>>().into_iter().collect();
    let make = |place: &'static str| {
        let stage = Arc::clone(stage);
        async move { fresh(&stage, case.fresh, place).await }
    };
    let shared: BTreeMap<_, _> = places.iter().copied().zip(together(places.iter().map(|place| make(place)).collect()).await).collect();
    let of = |(standing, _): &(&'static Standing, Caller)| {
        (expected(case, standing) == Expected::Done && case.changes() && !case.alone, standing.place)
    };
    let wanted: Vec<_> = cast.iter().map(of).collect();
    let own = together(wanted.iter().filter(|(own, _)| *own).map(|(_, place)| make(place)).collect()).await;
    stage.archive(true).await;
    let mut own = own.into_iter();
    let cell = |((standing, caller), (has_own, place)): (&(&'static Standing, Caller), &(bool, &str))| Cell {
        standing,
        caller: caller.clone(),
        expected: expected(case, standing),
        target: if *has_own { own.next().unwrap() } else { shared[place].clone() },
    };
    cast.iter().zip(&wanted).map(cell).collect()
}

/// What went wrong, one line for each.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

async fn play_all(case: &'static Case, cells: Vec<&Cell>) -> Vec<Answer> {
    let jobs = cells.into_iter().map(|cell| {
        let (caller, target) = (cell.caller.clone(), cell.target.clone());
        async move { play(&caller, case, &target).await.unwrap() }
    });
    together(jobs.collect()).await
}

/// Each with the only target there is, made ready again.
async fn one_by_one(stage: &Arc<Stage>, case: &'static Case, cells: &[&Cell]) -> Vec<Answer> {
    let mut answers = Vec::new();
    for cell in cells {
        let target = fresh(stage, case.fresh, cell.standing.place).await;
        answers.push(play(&cell.caller, case, &target).await.unwrap());
        if let Some(seen) = &case.seen {
            assert!(
                !answers.last().unwrap().is_ok() || is_done(&stage.owner, seen, &target).await,
                "{} {} by {} is not seen",
                case.method,
                case.route,
                cell.standing.name
            );
        }
    }
    answers
}

async fn play_case(stage: &Arc<Stage>, case: &'static Case, audit: Option<&str>, cast: &[(&'static Standing, Caller)], wrong: &mut Wrong) {
    let db = records::open(&stage.database);
    let cells = cells(stage, case, cast).await;
    let (may, may_not): (Vec<&Cell>, Vec<&Cell>) = cells.iter().partition(|cell| cell.expected == Expected::Done);
    let name = format!("{:?} {} {} {}", case.action, case.method, case.route, case.body);

    let (before, mark) = (records::digest(&db), records::newest(&db));
    let refused = play_all(case, may_not.clone()).await;
    let after = records::digest(&db);
    let changed: Vec<_> = before.iter().filter(|(table, digest)| after[*table] != **digest).map(|(table, _)| table).collect();
    wrong.check(changed.is_empty(), || format!("{name}: refused calls changed {changed:?}"));
    let events = records::events(&db, mark);
    for (cell, answer) in may_not.iter().zip(&refused) {
        let Expected::Refused(codes) = &cell.expected else { continue };
        let who = cell.standing.name;
        wrong.check(codes.contains(&answer.code().as_str()), || {
            format!("{name} by {who}: {} where {codes:?} is due: {}", answer.status, answer.text())
        });
        let sees = case.by != By::Hub && !format!("{}{}", cell.standing.hats, cell.standing.elsewhere).is_empty();
        one_event(case, &name, cell, (audit, &answer.code()), sees, &events, wrong);
    }

    let mark = records::newest(&db);
    if let (Some(seen), Some(cell), false) = (&case.seen, may.first(), case.alone) {
        wrong.check(!is_done(&stage.owner, seen, &cell.target).await, || format!("{name}: it is seen before it is done"));
    }
    let done = if case.alone { one_by_one(stage, case, &may).await } else { play_all(case, may.clone()).await };
    let events = records::events(&db, mark);
    for (cell, answer) in may.iter().zip(&done) {
        let who = cell.standing.name;
        wrong.check(answer.is_ok(), || format!("{name} by {who}: {} where it is allowed: {}", answer.status, answer.text()));
        one_event(case, &name, cell, (audit, "ok"), true, &events, wrong);
    }
    if let (Some(seen), Some(cell), false) = (&case.seen, may.first(), case.alone) {
        wrong.check(is_done(&stage.owner, seen, &cell.target).await, || format!("{name}: it is not seen after it was done"));
    }
}

/// Exactly one event of a change, with its result, in the organization's records if its people see it; none of a look.
fn one_event(case: &Case, name: &str, cell: &Cell, (audit, result): (Option<&str>, &str), sees: bool, events: &[Event], wrong: &mut Wrong) {
    let actor = email(cell.standing);
    let also = |event: &Event| result == "ok" && case.also.contains(&event.action.as_str());
    let found: Vec<_> = events.iter().filter(|event| event.actor == actor && !also(event)).collect();
    let fits = match (audit, cell.standing.proof) {
        (None, _) | (_, Proof::Nothing | Proof::Dead(..)) => found.is_empty(),
        (Some(action), Proof::Token(..)) => {
            let org = sees.then_some("acme");
            found.len() == 1 && found[0].action == action && found[0].result == result && found[0].org.as_deref() == org
        }
    };
    wrong.check(fits, || format!("{name} by {}: {audit:?} with {result} is due in the records, not {found:?}", cell.standing.name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_cell_of_the_table_of_rights() {
    let started = std::time::Instant::now();
    let stage = Stage::new().await;
    let mut cast = Vec::new();
    for standing in STANDINGS {
        cast.push((standing, stage.cast(standing).await));
    }
    let routes = api::routes();
    let mut wrong = Wrong::default();
    for case in CASES {
        play_case(&stage, case, audit_name(&routes, case), &cast, &mut wrong).await;
    }
    let cells = CASES.len() * STANDINGS.len();
    println!("{cells} cells played ({} calls by {} people) in {:?}", CASES.len(), STANDINGS.len(), started.elapsed());
    assert!(wrong.0.is_empty(), "{} of {cells} cells are wrong:\n{}", wrong.0.len(), wrong.0.join("\n"));
    assert!(cells >= 6000, "{cells}");
}

#[test]
fn every_route_is_played_or_needs_no_role() {
    let played: BTreeSet<_> = CASES.iter().map(|case| (case.method, case.route)).collect();
    let free: BTreeSet<_> = WITHOUT_A_ROLE.iter().map(|(method, path, _)| (*method, *path)).collect();
    let routed: BTreeSet<_> = api::routes().iter().map(|route| (route.method, route.path)).collect();
    let unplayed: Vec<_> = routed.iter().filter(|route| !played.contains(route) && !free.contains(route)).collect();
    assert!(unplayed.is_empty(), "give these a case in cases.rs, or a reason why they need no role: {unplayed:?}");
    let gone: Vec<_> = played.union(&free).filter(|route| !routed.contains(route)).collect();
    assert!(gone.is_empty(), "there is no such route any more: {gone:?}");
    assert!(WITHOUT_A_ROLE.iter().all(|(_, _, reason)| reason.len() > 10));
}

/// A row that no route exercises would be a promise.
#[test]
fn every_action_is_played() {
    let played: Vec<_> = CASES.iter().filter_map(|case| case.action).collect();
    let rows: Vec<_> = GRID.iter().map(|row| row.0).collect();
    assert_eq!(rows, Action::ALL, "the grid has every action, in the table's order");
    let unplayed: Vec<_> = Action::ALL.iter().filter(|action| !played.contains(action)).collect();
    assert!(unplayed.is_empty(), "{unplayed:?}");
}
