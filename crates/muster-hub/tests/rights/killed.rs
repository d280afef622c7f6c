//! A hub that is killed in the middle of every change at once is, for each of them, before it or after it.
//!
//! A round sends every changing call of the table, each by a person of its own, and kills the hub at a moment that is swept
//! from the first byte to after the last answer. Then it starts again, and for each call: it is seen to be done if and only if
//! the records have its event; what was answered is done; and the database hangs together.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;

use crate::caller::{Answer, Caller};
use crate::cases::{By, CASES, Case};
use crate::grid::{STANDINGS, Standing};
use crate::matrix::{is_done, play};
use crate::process::Process;
use crate::records::{self, Event};
use crate::stage::{SOON, Stage, email, so_many, together};
use crate::targets::{Fresh, Target, fresh};

/// Kills, spread over the time that all calls take.
const KILLS: u32 = 16;
/// Calls under way at once, so that a kill finds some done, some in the middle, and some not begun.
const AT_ONCE: usize = 6;

struct Call {
    case: &'static Case,
    actor: String,
    caller: Caller,
}

/// A call in a round: what it acted on, and what came back.
struct Sent<'a> {
    call: &'a Call,
    target: Target,
    answer: Result<Answer, String>,
}

#[derive(Default)]
struct Tally {
    before: usize,
    after: usize,
    unanswered: usize,
}

/// A target that no other call of the round touches.
async fn target(stage: &Stage, case: &Case) -> Target {
    let archived = case.fresh == Fresh::Archived;
    if !archived && case.fresh != Fresh::Open {
        return fresh(stage, case.fresh, "vault").await;
    }
    let target = fresh(stage, Fresh::Nothing, "vault").await;
    let project = &target["new"];
    stage.owner.post("/v1/orgs/acme/projects", json!({ "id": project })).await;
    if archived {
        stage.owner.post(&format!("/v1/orgs/acme/projects/{project}/archive"), json!({})).await;
    }
    Target::from([("project", project.clone()), ("org", "acme".into())])
}

/// Calls that can be told from each other afterwards: all that change something, but for a second one on the same logo.
fn can_be_told(case: &Case) -> bool {
    case.changes() && case.but.is_none() && case.fresh != Fresh::Logo
}

async fn calls(stage: &Stage) -> Vec<Call> {
    let mut calls = Vec::new();
    for (n, case) in CASES.iter().enumerate().filter(|(_, case)| can_be_told(case)) {
        // An owner of the organization who is also in the project.
        let name: &'static str = format!("killer-{n}").leak();
        let standing = Standing { name, part: "admin", hub_owner: case.by == By::Hub, ..STANDINGS[0] };
        calls.push(Call { case, actor: email(&standing), caller: stage.cast(&standing).await });
    }
    calls
}

/// Sends every call, and gives what came back until the hub was killed, `kill_after` the first byte.
async fn round<'a>(stage: &Arc<Stage>, calls: &'a [Call], hub: Process, kill_after: Option<Duration>) -> (Vec<Sent<'a>>, Duration) {
    let prepared = calls.iter().map(|call| {
        let (stage, case) = (Arc::clone(stage), call.case);
        async move { target(&stage, case).await }
    });
    let targets = together(prepared.collect()).await;
    // Handshakes are no changes: they come first.
    let ready = calls.iter().map(|call| call.caller.send("GET", "/v1/me", ""));
    assert!(together(ready.collect()).await.iter().all(Answer::is_ok));
    let started = Instant::now();
    let sent = calls.iter().zip(&targets).map(|(call, target)| {
        let (caller, case, target) = (call.caller.clone(), call.case, target.clone());
        async move { play(&caller, case, &target).await }
    });
    let mut all = std::pin::pin!(so_many(AT_ONCE, sent.collect()));
    let in_time = timeout(kill_after.unwrap_or(SOON), &mut all).await;
    assert!(in_time.is_ok() || kill_after.is_some(), "the calls took too long");
    let took = started.elapsed();
    hub.kill().await;
    let answers = match in_time {
        Ok(answers) => answers,
        Err(_) => timeout(SOON, all).await.expect("a killed hub's connections end"),
    };
    let sent = calls.iter().zip(targets).zip(answers).map(|((call, target), answer)| Sent { call, target, answer });
    (sent.collect(), took)
}

async fn check(stage: &Stage, sent: &[Sent<'_>], events: &[Event], tally: &mut Tally) {
    for Sent { call, target, answer } in sent {
        let name = format!("{} {} {}", call.case.method, call.case.route, call.case.body);
        if let Ok(answer) = answer {
            assert!(answer.is_ok(), "{name}: {}: {}", answer.status, answer.text());
        } else {
            tally.unanswered += 1;
        }
        let own = |event: &&Event| event.actor == call.actor && !call.case.also.contains(&event.action.as_str());
        let found: Vec<_> = events.iter().filter(own).collect();
        assert!(found.len() <= 1 && found.iter().all(|event| event.result == "ok"), "{name}: {found:?}");
        assert!(answer.is_err() || found.len() == 1, "{name} was answered, and is not in the records");
        if let Some(seen) = &call.case.seen {
            let done = is_done(&stage.owner, seen, target).await;
            assert_eq!(done, found.len() == 1, "{name}: done {done}, but the records have {found:?} ({answer:?})");
        }
        match found.len() {
            0 => tally.before += 1,
            _ => tally.after += 1,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_in_the_middle_of_a_change_is_before_it_or_after_it() {
    let started = Instant::now();
    let mut stage = Stage::new().await;
    let calls = calls(&stage).await;
    let inner = Arc::get_mut(&mut stage).expect("nobody else holds the stage yet");
    inner.running.take().unwrap().stop().await;
    let data = stage.dir.path().join("data");
    let db = records::open(&stage.database);

    let (mut tally, mut whole, mut starts) = (Tally::default(), None, Vec::new());
    for kill in 0..=KILLS {
        let begun = Instant::now();
        let hub = Process::start(&data).await;
        starts.push(begun.elapsed());
        stage.line.moved(hub.https);
        let link = stage.linked["vault"].link(hub.mqtt, stage.pin).await;
        let mark = records::newest(&db);
        // The first round is not disturbed: it tells how long all of it takes.
        let moment = whole.map(|whole: Duration| whole * (kill - 1) / KILLS);
        let (sent, took) = round(&stage, &calls, hub, moment).await;
        whole.get_or_insert(took);
        link.abort();
        let hub = Process::start(&data).await;
        stage.line.moved(hub.https);
        records::hangs_together(&db);
        let before = tally.after;
        check(&stage, &sent, &records::events(&db, mark), &mut tally).await;
        assert!(kill > 0 || tally.after - before == calls.len(), "undisturbed, every call is done");
        hub.kill().await;
    }
    starts.sort_unstable();
    println!(
        "{} calls x {KILLS} kills: {} before the change, {} after it, {} unanswered; the hub started in {:?} (median); {:?} in all",
        calls.len(),
        tally.before,
        tally.after - calls.len(),
        tally.unanswered,
        starts[starts.len() / 2],
        started.elapsed(),
    );
    assert!(tally.before > 0 && tally.after > calls.len() && tally.unanswered > 0, "the kills missed the calls");
}
