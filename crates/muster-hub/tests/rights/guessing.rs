//! Guessing: passwords are bounded per account and per address, tell nothing about who has an account,
//! and take as much work for somebody who does not exist; tokens tell nothing about which part of them is wrong.

use std::net::{IpAddr, Ipv4Addr};

use muster_hub::accounts;
use serde_json::json;

use crate::caller::{Answer, Caller};
use crate::stage::Stage;

const PASSWORD: &str = "correct horse battery";

/// Somebody at another address of this machine.
fn at(stage: &Stage, last: u8) -> Caller {
    Caller::new(&stage.line.from(IpAddr::V4(Ipv4Addr::new(127, 0, 7, last))), None)
}

async fn login(caller: &Caller, email: &str, password: &str) -> Answer {
    caller.send("POST", "/v1/login", &json!({ "email": email, "password": password }).to_string()).await
}

async fn with_password(stage: &Stage, email: &str) {
    stage.person(email).await;
    let hashed = tokio::task::spawn_blocking(|| accounts::hash(PASSWORD)).await.unwrap();
    let email = email.to_owned();
    stage.write(move |tx| tx.execute("UPDATE accounts SET password = ?2 WHERE email = ?1", (email, hashed))).await;
}

/// The answer without the request's own name.
fn told(answer: &Answer) -> (u16, String) {
    let request = answer.headers["x-request-id"].to_str().unwrap();
    (answer.status, answer.text().replace(request, ""))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_cannot_be_guessed_fast() {
    let stage = Stage::new().await;
    for email in ["eva@acme.example", "max@acme.example"] {
        with_password(&stage, email).await;
    }
    // From one address: five attempts on an account, whether it exists or not; then not even the right one is looked at.
    let here = at(&stage, 1);
    let mut answers = Vec::new();
    for email in ["eva@acme.example", "nobody@acme.example"] {
        let mut of_one = Vec::new();
        for _ in 0..5 {
            of_one.push(told(&login(&here, email, "wrong password").await));
        }
        let limited = login(&here, email, PASSWORD).await;
        assert_eq!((limited.status, limited.code().as_str()), (429, "rate_limited"), "{email}");
        assert!(limited.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 1);
        answers.push(of_one);
    }
    assert_eq!(answers[0], answers[1], "who has an account is not told");
    assert!(answers[0].iter().all(|answer| answer.0 == 401));
    // The same account from elsewhere, and another account from here, are free.
    assert_eq!(login(&at(&stage, 2), "eva@acme.example", PASSWORD).await.status, 201);
    assert_eq!(login(&here, "max@acme.example", PASSWORD).await.status, 201);
    // One address over many accounts, and one account over many addresses, have bounds of their own.
    let mut limited = 0;
    for n in 0..40 {
        limited += usize::from(login(&here, &format!("{n}@acme.example"), "wrong password").await.status == 429);
    }
    assert!((15..40).contains(&limited), "{limited} of 40 from one address");
    limited = 0;
    for n in 10..45 {
        limited += usize::from(login(&at(&stage, n), "max@acme.example", "wrong password").await.status == 429);
    }
    assert!((1..30).contains(&limited), "{limited} of 35 on one account");
}

/// Whoever cannot log in costs the hub the same work, and is told the same: nothing tells from outside which of them it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_takes_as_much_work_for_somebody_who_does_not_exist() {
    let stage = Stage::new().await;
    for email in ["eva@acme.example", "aside@acme.example", "closed@acme.example"] {
        with_password(&stage, email).await;
    }
    stage.person("without@acme.example").await;
    let settle = "UPDATE accounts SET disabled_at = 1 WHERE email = 'aside@acme.example'";
    stage.write(move |tx| tx.execute(settle, [])).await;
    // As closing leaves it, and as it would be if closing forgot the password.
    let settle = "UPDATE accounts SET closed_at = 1, password = iif(email = 'closed@acme.example', password, NULL)
                  WHERE email IN ('closed@acme.example', 'without@acme.example')";
    stage.write(move |tx| tx.execute(settle, [])).await;
    stage.person("never@acme.example").await;
    // No e-mail of a person ends so; if a row had another one, it would still be no person's.
    let program = "INSERT INTO accounts (email, name, password, created_at, kind, org)
                   SELECT 'program@acme.example', 'x', password, 1, 'service', 'acme' FROM accounts WHERE email = 'eva@acme.example'";
    stage.write(move |tx| tx.execute(program, [])).await;
    let work = || stage.running.as_ref().unwrap().state.logins.work();
    let mut costs = Vec::new();
    for (n, (email, password)) in [
        ("eva@acme.example", "wrong password"),
        ("nobody@acme.example", PASSWORD),
        ("nobody@acme.example", "nobody has this password"),
        ("never@acme.example", PASSWORD),
        ("without@acme.example", PASSWORD),
        ("aside@acme.example", PASSWORD),
        ("aside@acme.example", "wrong password"),
        ("closed@acme.example", PASSWORD),
        ("program@acme.example", PASSWORD),
    ]
    .into_iter()
    .enumerate()
    {
        let before = work();
        let answer = login(&at(&stage, 100 + u8::try_from(n).unwrap()), email, password).await;
        costs.push((email, work() - before, told(&answer)));
    }
    let (_, cost, said) = &costs[0];
    assert_eq!(said.0, 401);
    assert!(*cost >= 19 * 1024 * 2, "argon2id with what it costs by default: {cost}");
    for (email, its, told) in &costs {
        assert_eq!((its, told), (cost, said), "{email}");
    }
    // The right one costs as much, and a guess beyond the limit costs nothing.
    let before = work();
    assert_eq!(login(&at(&stage, 120), "eva@acme.example", PASSWORD).await.status, 201);
    assert_eq!(work() - before, *cost);
    let here = at(&stage, 121);
    while login(&here, "eva@acme.example", "wrong password").await.status != 429 {}
    let before = work();
    assert_eq!(login(&here, "eva@acme.example", PASSWORD).await.status, 429);
    assert_eq!(work(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_secret_reads_like_a_token_that_never_was() {
    let stage = Stage::new().await;
    let me = stage.person("eva@acme.example").await;
    let made = me.post("/v1/tokens", json!({ "name": "mine" })).await;
    let token = made["token"].as_str().unwrap();
    let turned = |part: usize| {
        let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
        let last = parts[part].pop().unwrap();
        // Not the last character but the last but one: the last may hold spare bits.
        let before = parts[part].pop().unwrap();
        parts[part].push(if before == 'a' { 'b' } else { 'a' });
        parts[part].push(last);
        parts.join(".")
    };
    let mut answers = Vec::new();
    for guess in [turned(1), turned(2)] {
        let answer = Caller::new(&stage.line, Some(&guess)).send("GET", "/v1/me", "").await;
        assert_eq!(answer.status, 401, "{guess}");
        answers.push(told(&answer));
    }
    assert_eq!(answers[0], answers[1]);
    for guess in ["", "mp1", "mp1...", "x", &"a".repeat(10_000), &token[..token.len() - 1], &format!("{token}x")] {
        let answer = Caller::new(&stage.line, Some(guess)).send("GET", "/v1/me", "").await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{guess:.40}");
    }
}
