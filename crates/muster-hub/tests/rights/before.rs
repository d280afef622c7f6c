//! Whoever lost the right before a change was written has changed nothing, also where the request was let go on before.
//!
//! A request's rights are looked at when it comes; then its change waits for the one writer. Here the writer is held until the
//! change waits, and what is written right before it takes the person's roles, or the token.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::cases::{CASES, Case};
use crate::grid::{STANDINGS, Standing};
use crate::matrix::play;
use crate::records;
use crate::stage::{Stage, email};
use crate::targets::{Fresh, fresh, place_of};

const WAIT: Duration = Duration::from_secs(20);

/// What is taken from the person, and whether a case rests on it.
type Loss = (&'static str, &'static [&'static str], fn(&Case) -> bool);

const LOSSES: &[Loss] = &[
    (
        "roles",
        &[
            "DELETE FROM members WHERE account = (SELECT id FROM accounts WHERE email = ?1)",
            "DELETE FROM participants WHERE account = (SELECT id FROM accounts WHERE email = ?1)",
            "DELETE FROM team_members WHERE account = (SELECT id FROM accounts WHERE email = ?1)",
            // What the hub lets its owners do in any organization goes as well.
            "UPDATE accounts SET hub_owner = 0 WHERE email = ?1",
        ],
        |case| case.route.starts_with("/v1/orgs/{org}"),
    ),
    ("token", &["DELETE FROM access_tokens WHERE account = (SELECT id FROM accounts WHERE email = ?1)"], |_| true),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_waits_for_the_writer_rests_on_what_its_person_has_when_it_is_written() {
    let stage = Stage::new().await;
    let store = stage.running.as_ref().unwrap().state.store.clone();
    let db = records::open(&stage.database);
    let (mut wrong, mut played) = (Vec::new(), 0);
    for (what, loss, rests_on_it) in LOSSES {
        for (n, case) in CASES.iter().enumerate().filter(|(_, case)| case.changes() && case.but.is_none() && rests_on_it(case)) {
            stage.archive(false).await;
            let standing = Standing { name: format!("late-{what}-{n}").leak(), hub_owner: true, ..STANDINGS[0] };
            let caller = stage.cast(&standing).await;
            let target = fresh(&stage, case.fresh, place_of(case.fresh)).await;
            // So that the token's use is noted already.
            caller.get("/v1/me").await;
            let (actor, mark) = (email(&standing), records::newest(&db));

            let (held, is_held) = tokio::sync::oneshot::channel();
            let answered = Arc::new(AtomicBool::new(false));
            let (queue, who, is_answered) = (store.clone(), actor.clone(), Arc::clone(&answered));
            let thief = tokio::spawn({
                let store = store.clone();
                async move {
                    store
                        .write(move |tx| {
                            held.send(()).unwrap();
                            let deadline = Instant::now() + WAIT;
                            let mut waited = false;
                            // Until the change waits, or was answered without any.
                            while !waited && !is_answered.load(Ordering::Acquire) && Instant::now() < deadline {
                                waited = queue.waiting() > 0;
                                std::thread::yield_now();
                            }
                            for sql in *loss {
                                tx.execute(sql, [&who])?;
                            }
                            Ok(waited)
                        })
                        .await
                        .unwrap()
                }
            });
            is_held.await.unwrap();
            let answer = play(&caller, case, &target).await.unwrap();
            answered.store(true, Ordering::Release);
            let waited = thief.await.unwrap();
            let name = format!("{what}: {} {} {}", case.method, case.route, case.body);
            let changed: Vec<_> = records::events(&db, mark)
                .into_iter()
                .filter(|event| event.actor == actor && event.result == "ok")
                .map(|event| event.action)
                .collect();
            // What asks the hub for nothing that is written may be answered: it changed nothing.
            if !changed.is_empty() || (waited && ![401, 403, 404].contains(&answer.status)) {
                wrong.push(format!("{name}: {} {}; recorded {changed:?}", answer.status, answer.text()));
            }
            played += usize::from(waited);
            if case.fresh == Fresh::Archived {
                stage.archive(false).await;
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {played}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(played > 100, "{played}");
}
