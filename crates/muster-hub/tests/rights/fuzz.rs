//! Random requests that follow the hub's own description, more or less: never a 5xx, never a dropped connection.
//!
//! Some are the same each time, some are others: the seed of those is told, and is taken from `MUSTER_FUZZ_SEED` where that is set.
//! With `MUSTER_FUZZ_SECONDS` it goes on for as long.

use std::time::{Duration, Instant};

use muster_hub::random;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Map, Value, json};

use crate::grid::{STANDINGS, Standing};
use crate::hostile::judge;
use crate::stage::{Stage, so_many};
use crate::targets::{Fresh, Target, filled, fresh};
use crate::told::{self, Told, followed};

/// Requests in one go.
const BATCH: usize = 64;
/// Requests of each seed that are sent however long they take.
const LEAST: usize = 6 * BATCH;
/// Seeds that are played each time: those that found something once belong here.
const FIXED: [&str; 2] = ["00000000000000000000000000000000", "6d75737465722066757a7a2073656564"];
/// How long it goes on when nobody says.
const SECONDS: u64 = 4;

/// One request, as indexes into what there is to choose from.
#[derive(Debug, Clone)]
struct Shape {
    operation: Index,
    /// For each name in the path: something real, or a text.
    parts: Vec<Option<String>>,
    query: Vec<(Index, String)>,
    body: Value,
    /// Whether the body follows the description, field by field.
    told: bool,
    values: Vec<Value>,
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9-]{1,12}",
        any::<String>(),
        "\\PC{0,40}",
        Just("acme".to_owned()),
        Just("vault".to_owned()),
        Just("owner".to_owned()),
        Just("name = \"x\" and online = true".to_owned()),
        Just("p1@fresh.example".to_owned()),
    ]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-5_i64..100_000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text().prop_map(Value::from),
    ]
}

fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(3, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((text(), inner), 0..5).prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn shape() -> impl Strategy<Value = Shape> {
    (
        any::<Index>(),
        prop::collection::vec(prop::option::weighted(0.2, text()), 4),
        prop::collection::vec((any::<Index>(), text()), 0..3),
        value(),
        prop::bool::weighted(0.8),
        prop::collection::vec(leaf(), 8),
    )
        .prop_map(|(operation, parts, query, body, told, values)| Shape { operation, parts, query, body, told, values })
}

/// A value that fits a schema in most places, with the random ones where it does not.
fn fitted(schema: &Value, values: &mut impl Iterator<Item = Value>, depth: usize) -> Value {
    let schema = followed(schema);
    let given = values.next().unwrap_or(Value::Null);
    if let Some(choices) = schema["enum"].as_array() {
        let at = given.as_i64().map_or(choices.len(), |n| usize::try_from(n.unsigned_abs()).unwrap_or(0) % (choices.len() + 1));
        return choices.get(at).cloned().unwrap_or(given);
    }
    if let Some(first) = schema["anyOf"].get(0) {
        return if given.is_null() { given } else { fitted(first, values, depth) };
    }
    match schema["type"].as_str() {
        Some("object") if depth < 4 && schema.get("properties").is_some() => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            Value::Object(
                fields
                    .filter_map(|(name, kind)| {
                        let skip = values.next().is_none_or(|value| value.is_null());
                        (!skip).then(|| (name.clone(), fitted(kind, values, depth + 1)))
                    })
                    .collect(),
            )
        }
        Some("array") if depth < 4 => json!([fitted(&schema["items"], values, depth + 1), given]),
        Some("string") => given.as_str().map_or_else(|| json!(given.to_string()), |text| json!(text)),
        Some("integer") => given.as_i64().map_or(json!(3), |number| json!(number)),
        _ => given,
    }
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") }
            },
        )
        .collect()
}

/// Method, path and body of a shape.
fn request(shape: &Shape, operations: &[Told], target: &Target) -> (String, String, Vec<u8>) {
    let told = shape.operation.get(operations);
    let mut parts = shape.parts.iter().cycle();
    let path = told.path.split('/').map(|part| {
        let given = parts.next().and_then(Option::as_deref).filter(|given| part.starts_with('{') && !given.is_empty());
        given.map_or_else(|| filled(part, target), escaped)
    });
    let mut path = path.collect::<Vec<_>>().join("/");
    let may_ask: Vec<_> = told.query.iter().filter(|(name, _)| !["wait", "follow"].contains(&name.as_str())).collect();
    if !may_ask.is_empty() {
        let asked = shape.query.iter().map(|(at, value)| format!("{}={}", at.get(&may_ask).0, escaped(value)));
        path = format!("{path}?{}", asked.collect::<Vec<_>>().join("&"));
    }
    let body = match &told.body {
        Some(schema) if shape.told => fitted(schema, &mut shape.values.iter().cloned().cycle().take(200), 0).to_string().into_bytes(),
        _ if told.method == "GET" => Vec::new(),
        _ => shape.body.to_string().into_bytes(),
    };
    (told.method.clone(), path, body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_requests_never_break_the_hub() {
    let seconds = std::env::var("MUSTER_FUZZ_SECONDS").map_or(SECONDS, |text| text.parse().expect("MUSTER_FUZZ_SECONDS is a number"));
    let own = std::env::var("MUSTER_FUZZ_SEED").unwrap_or_else(|_| random::hex::<16>());
    let stage = Stage::new().await;
    for seed in FIXED {
        play(&stage, seed, Duration::ZERO).await;
    }
    play(&stage, &own, Duration::from_secs(seconds)).await;
}

/// Sends the requests that follow from a seed, for so long and no fewer than [`LEAST`].
async fn play(stage: &std::sync::Arc<Stage>, seed: &str, long: Duration) {
    // Told before anything can go wrong: what a test prints is shown when it fails.
    println!("MUSTER_FUZZ_SEED={seed}");
    let bytes: [u8; 32] = random::sha256(seed.as_bytes());
    let shapes = shape();
    let mut runner = TestRunner::new_with_rng(Config::default(), TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let operations = told::operations();
    let (started, mut sent, mut good) = (Instant::now(), 0, 0);
    while started.elapsed() < long || sent < LEAST {
        // What the last ones did to the place and to themselves is undone: it is the requests that are random.
        stage.archive(false).await;
        stage.write(|tx| tx.execute("DELETE FROM limits", [])).await;
        let fuzzer = stage.cast(&Standing { name: format!("fuzzer-{}-{sent}", &seed[..8.min(seed.len())]).leak(), ..STANDINGS[0] }).await;
        let mut target = fresh(stage, Fresh::Device, "vault").await;
        target.extend(fresh(stage, Fresh::Participant, "vault").await);
        let batch: Vec<Shape> = (0..BATCH).map(|_| shapes.new_tree(&mut runner).unwrap().current()).collect();
        let jobs = batch.iter().map(|shape| {
            let (method, path, body) = request(shape, &operations, &target);
            let caller = fuzzer.clone();
            async move {
                let answer = caller.ask(&method, &path, "application/json", body.clone()).await;
                let good = answer.as_ref().is_ok_and(|answer| answer.is_ok());
                let name = format!("{method} {path} {}", String::from_utf8_lossy(&body));
                // Whether texts hide something is asked elsewhere.
                (judge(&name, &[], answer), good)
            }
        });
        for (wrong, is_good) in so_many(8, jobs.collect()).await {
            assert!(wrong.is_none(), "MUSTER_FUZZ_SEED={seed}: {}", wrong.unwrap());
            good += usize::from(is_good);
        }
        sent += BATCH;
    }
    stage.nobody.get("/readyz").await;
    println!("{sent} random requests on {} routes, {good} of them answered with success", operations.len());
    assert!(sent >= LEAST && good > 0, "{sent} sent, {good} good");
}
