//! The audit log: filters, files of any length, and the live tail.

use serde_json::{Value, json};

use crate::world::{OWNER, World};

async fn event(world: &World, action: &'static str, target: &str) {
    let target = target.to_owned();
    let entry = muster_hub::audit::Entry::of_hub(Some("acme".parse().unwrap()), action, target);
    world.hub.state.store.write(move |tx| entry.ok(tx)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_by_who_what_on_what_when_and_how_it_ended() {
    let world = World::new().await;
    world.owner.post("/v1/orgs/acme/projects", json!({ "id": "field" })).await.ok(201);
    world.owner.post("/v1/orgs/acme/projects", json!({ "id": "field" })).await.problem("exists");
    event(&world, "test.one", "x%y").await;
    event(&world, "test.two", "robot").await;
    let count =
        async |query: &str| world.owner.get(&format!("/v1/orgs/acme/audit?{query}")).await.ok(200)["items"].as_array().unwrap().len();
    let made = count("action=project.create&result=ok").await;
    assert_eq!(count("action=project.create").await, made + 1);
    assert_eq!(count("action=project.create&result=exists").await, 1);
    assert_eq!(count("result=refused").await, 1);
    assert_eq!(count("action=test.").await, 2);
    assert_eq!(count("action=est.").await, 0, "an action is known by its beginning");
    assert_eq!(count("target=x%25").await, 1, "a text is a text and no pattern");
    assert_eq!(count("actor=ADA%40&action=project&result=exists").await, 1);
    let all = world.audit().await;
    let middle = all.iter().find(|event| event["action"] == "test.one").unwrap();
    assert_eq!(count(&format!("after={}", middle["id"])).await, 1);
    assert_eq!(count(&format!("until={}", all.last().unwrap()["t"])).await, 0);
    assert_eq!(count(&format!("since={}", all.last().unwrap()["t"])).await, all.len());
    // A cursor belongs to its filter.
    let page = world.owner.get("/v1/orgs/acme/audit?limit=1&action=test.").await.ok(200);
    let next = page["next"].as_str().unwrap();
    let page = world.owner.get(&format!("/v1/orgs/acme/audit?limit=1&action=test.&cursor={next}")).await.ok(200);
    assert_eq!((&page["items"][0]["action"], page.get("next")), (&json!("test.one"), None));
    world.owner.get(&format!("/v1/orgs/acme/audit?limit=1&cursor={next}")).await.problem("invalid");
    for bad in ["colour=1", "since=yesterday", "format=xml", "follow=true&format=csv", "format=csv&cursor=x", "follow=perhaps"] {
        world.owner.get(&format!("/v1/orgs/acme/audit?{bad}")).await.problem("invalid");
    }
    world.owner.get(&format!("/v1/orgs/acme/audit?actor={}", "a".repeat(300))).await.problem("invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_many_pages_are_whole() {
    let world = World::new().await;
    let many = |tx: &rusqlite::Transaction<'_>| {
        for n in 0..1700 {
            muster_hub::audit::Entry::of_hub(Some("acme".parse().unwrap()), "test.many", format!("=cmd{n}")).ok(tx)?;
        }
        Ok(())
    };
    world.hub.state.store.write(many).await.unwrap();
    let answer = world.owner.get("/v1/orgs/acme/audit?format=csv&action=test.").await;
    assert_eq!(answer.status, 200);
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (1701, "id,t,actor,action,target,from,result,details"));
    assert!(lines[1].contains(",hub,test.many,'=cmd1699,,ok,{}"), "{}", lines[1]);
    assert!(lines[1700].contains("'=cmd0,"), "{}", lines[1700]);
    let answer = world.owner.get("/v1/orgs/acme/audit?format=jsonl&action=test.&limit=600").await;
    let ids: Vec<i64> = answer
        .body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice::<Value>(line).unwrap()["id"].as_i64().unwrap())
        .collect();
    assert_eq!(ids.len(), 600);
    assert!(ids.windows(2).all(|pair| pair[0] == pair[1] + 1));
    let none = world.owner.get("/v1/orgs/acme/audit?format=jsonl&action=none").await;
    assert!(none.status == 200 && none.body.is_empty());
    world.stranger().get("/v1/orgs/acme/audit?format=csv").await.problem("unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_has_no_hole_and_nothing_twice_also_after_coming_back() {
    let world = World::new().await;
    let mut tail = world.owner.lines("/v1/orgs/acme/audit?follow=true&action=test.").await;
    let writer = {
        let store = world.hub.state.store.clone();
        tokio::spawn(async move {
            for n in 0..500 {
                let action = if n % 2 == 0 { "test.live" } else { "other.live" };
                let entry = muster_hub::audit::Entry::of_hub(Some("acme".parse().unwrap()), action, n.to_string());
                store.write(move |tx| entry.ok(tx)).await.unwrap();
            }
        })
    };
    let (mut seen, mut last) = (Vec::new(), 0);
    while seen.len() < 100 {
        let event = tail.next().await.unwrap();
        last = event["id"].as_i64().unwrap();
        seen.push(event["target"].as_str().unwrap().parse::<u32>().unwrap());
    }
    // The path breaks; the reader comes back with the last number that it has.
    drop(tail);
    let mut tail = world.owner.lines(&format!("/v1/orgs/acme/audit?follow=true&action=test.&after={last}")).await;
    while seen.len() < 250 {
        seen.push(tail.next().await.unwrap()["target"].as_str().unwrap().parse().unwrap());
    }
    writer.await.unwrap();
    assert_eq!(seen, (0..500).step_by(2).collect::<Vec<u32>>());
    // What was before is asked for by its time.
    let mut tail = world.owner.lines("/v1/orgs/acme/audit?follow=true&action=test.&since=0").await;
    assert_eq!(tail.next().await.unwrap()["target"], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tail_ends_with_the_right_and_with_the_token() {
    let world = World::new().await;
    let bob = world.person("bob@acme.example").await;
    let join = |role: &'static str| {
        let sql = "INSERT INTO members (org, account, role, since) SELECT 'acme', id, ?1, 0 FROM accounts WHERE email = 'bob@acme.example'
                   ON CONFLICT DO UPDATE SET role = ?1";
        world.hub.state.store.write(move |tx| Ok(tx.execute(sql, [role])?))
    };
    join("owner").await.unwrap();
    let mut tail = bob.lines("/v1/orgs/acme/audit?follow=true").await;
    event(&world, "test.seen", "x").await;
    assert_eq!(tail.next().await.unwrap()["action"], "test.seen");
    world.owner.put("/v1/orgs/acme/members/bob@acme.example", json!({ "role": "member" })).await.ok(200);
    event(&world, "test.secret", "x").await;
    let last = tail.next().await.unwrap();
    assert!(last["note"].as_str().unwrap().contains("the owner role in acme"), "{last}");
    assert_eq!(tail.next().await, None);
    // A token that is withdrawn.
    let made = world.owner.post("/v1/tokens", json!({ "name": "tail" })).await.ok(201);
    let mut tail = world.with_token(made["token"].as_str().unwrap()).lines("/v1/orgs/acme/audit?follow=true").await;
    world.owner.delete(&format!("/v1/tokens/{}", made["id"].as_str().unwrap())).await.ok(204);
    event(&world, "test.secret", "y").await;
    let last = tail.next().await.unwrap();
    assert!(last["note"].as_str().unwrap().contains("withdrawn"), "{last}");
    assert_eq!(tail.next().await, None);
    assert!(world.audit().await.iter().any(|event| event["actor"] == OWNER));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_bounded_and_their_places_come_back() {
    let world = World::new().await;
    let mut tails = Vec::new();
    for _ in 0..32 {
        tails.push(world.owner.lines("/v1/orgs/acme/audit?follow=true").await);
    }
    let detail = world.owner.get("/v1/orgs/acme/audit?follow=true").await.problem("rate_limited").detail;
    assert!(detail.contains("32 readers"), "{detail}");
    tails.truncate(31);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    // The hub notices that the reader has gone at its next write or look.
    loop {
        let (name, value) = ("/v1/orgs/acme/audit?follow=true", world.hub.state.tails.free());
        if value > 0 {
            drop(world.owner.lines(name).await);
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the place does not come back");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_gives_its_place_back_and_finds_why() {
    let world = World::new().await;
    let free = world.hub.state.tails.free();
    let mut tail = world.owner.lines("/v1/orgs/acme/audit?follow=true&action=test.").await;
    assert_eq!(world.hub.state.tails.free(), free - 1);
    // More than all buffers on the way hold.
    let wide = "x".repeat(20_000);
    for _ in 0..20 {
        let wide = wide.clone();
        let written = world.hub.state.store.write(move |tx| {
            (0..100).try_for_each(|_| muster_hub::audit::Entry::of_hub(Some("acme".parse().unwrap()), "test.wide", wide.clone()).ok(tx))
        });
        written.await.unwrap();
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    // Half a minute: looked at now and then.
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(100));
    while world.hub.state.tails.free() < free {
        assert!(std::time::Instant::now() < deadline, "its place does not come back");
        looks.tick().await;
    }
    let (mut read, mut last) = (0, Value::Null);
    while let Some(line) = tail.next().await {
        (read, last) = (read + 1, line);
    }
    assert!((1..2000).contains(&read), "{read}");
    assert!(last["note"].as_str().unwrap().contains("nothing was read for 30 s; go on with after="), "{last}");
}
