//! What needs no role, because it is one's own: a token that may less than its person may not do it either.

use serde_json::{Value, json};

use crate::caller::Caller;
use crate::stage::Stage;

async fn with_token(stage: &Stage, me: &Caller, wanted: Value) -> Caller {
    let made = me.post("/v1/tokens", wanted).await;
    Caller::new(&stage.line, made["token"].as_str())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lesser_token_makes_no_greater_one_and_changes_nothing_of_its_own() {
    let stage = Stage::new().await;
    let me = stage.person("eva@acme.example").await;
    me.post("/v1/orgs", json!({ "id": "mine" })).await;
    me.post("/v1/orgs/mine/projects", json!({ "id": "yard" })).await;
    let other = me.post("/v1/tokens", json!({ "name": "other" })).await;
    let other = format!("/v1/tokens/{}", other["id"].as_str().unwrap());
    let lesser = [
        json!({ "name": "reads", "scope": "read" }),
        json!({ "name": "reaches", "scope": "reach" }),
        json!({ "name": "of one organization", "org": "mine" }),
        json!({ "name": "of one project", "org": "mine", "project": "yard" }),
        json!({ "name": "reads one project", "scope": "read", "org": "mine", "project": "yard" }),
    ];
    let mut refused = 0;
    for wanted in lesser {
        let (name, reads) = (wanted["name"].clone(), wanted["scope"].is_string());
        let lesser = with_token(&stage, &me, wanted).await;
        let mut calls = vec![
            ("POST", "/v1/tokens", json!({ "name": "greater" })),
            ("POST", "/v1/tokens", json!({ "name": "the same", "scope": "read" })),
            ("POST", "/v1/orgs", json!({ "id": "another" })),
            ("POST", "/v1/orgs/mine/leave", json!({})),
            ("PATCH", "/v1/me", json!({ "name": "Somebody" })),
            ("PUT", "/v1/me/password", json!({ "old": "x", "new": "another password" })),
            ("DELETE", "/v1/me", json!({ "email": "eva@acme.example" })),
            ("DELETE", other.as_str(), Value::Null),
            ("DELETE", "/v1/orgs/mine?confirm=mine", Value::Null),
        ];
        if reads {
            calls.push(("POST", "/v1/orgs/mine/views", json!({ "name": "own" })));
        }
        for (method, path, body) in calls {
            let body = if body.is_null() { String::new() } else { body.to_string() };
            let answer = lesser.send(method, path, &body).await;
            assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"), "{name}: {method} {path}: {}", answer.text());
            refused += 1;
        }
        // What it is for it does, and it may end itself.
        lesser.get("/v1/me").await;
        lesser.get("/v1/orgs/mine").await;
    }
    assert!(refused >= 30, "{refused}");
    me.get("/v1/orgs/mine").await;
    assert!(me.send("DELETE", &other, "").await.is_ok());
}
