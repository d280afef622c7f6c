//! Hostile and broken input on every route: the answer is a problem with its code, never a 5xx, never a dropped connection.

use std::sync::Arc;
use std::time::Instant;

use muster_proto::problem::{MEDIA_TYPE, Problem};
use serde_json::{Value, json};

use crate::caller::{Answer, Caller};
use crate::cases::CASES;
use crate::stage::{Stage, so_many};
use crate::targets::{Fresh, Target, filled, fresh, place_of};
use crate::told::{self, Told, example, fields, followed};

/// One request and what it must be answered with.
struct Attack {
    name: String,
    method: String,
    path: String,
    kind: &'static str,
    body: Vec<u8>,
    /// Codes that are right; none for anything that is not the hub's failure.
    codes: &'static [&'static str],
}

/// Something for each route to act on, so that it comes as far as to read what is hostile.
async fn target(stage: &Arc<Stage>, told: &Told) -> Target {
    let case = CASES.iter().find(|case| case.method == told.method && case.route == told.path);
    let what = case.map_or(Fresh::Nothing, |case| case.fresh);
    let mut target = fresh(stage, what, place_of(what)).await;
    for (name, value) in [("id", "none"), ("request", "0123456789abcdef0123456789abcdef")] {
        target.entry(name).or_insert_with(|| value.to_owned());
    }
    target
}

/// Waits for nothing: what would stay open is asked without.
fn waits(name: &str) -> bool {
    ["wait", "follow"].contains(&name)
}

async fn strike(caller: &Caller, attacks: Vec<Attack>) -> usize {
    let count = attacks.len();
    let jobs = attacks.into_iter().map(|attack| {
        let caller = caller.clone();
        async move {
            let answer = caller.ask(&attack.method, &attack.path, attack.kind, attack.body).await;
            judge(&attack.name, attack.codes, answer)
        }
    });
    let wrong = so_many(8, jobs.collect()).await.into_iter().flatten();
    let wrong: Vec<String> = wrong.map(|line| line.chars().take(500).collect()).collect();
    assert!(wrong.is_empty(), "{} of {count} were answered wrongly:\n{}", wrong.len(), wrong.join("\n"));
    count
}

/// What is wrong with an answer, if anything.
pub(crate) fn judge(name: &str, codes: &[&str], answer: Result<Answer, String>) -> Option<String> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Some(format!("{name}: {error}")),
    };
    let text: String = answer.text().chars().take(300).collect();
    if answer.status >= 500 {
        return Some(format!("{name}: {}: {text}", answer.status));
    }
    if answer.status >= 400 {
        let Ok(problem) = serde_json::from_slice::<Problem>(&answer.body) else { return Some(format!("{name}: no problem: {text}")) };
        let kind = answer.headers.get("content-type").and_then(|kind| kind.to_str().ok());
        if kind != Some(MEDIA_TYPE) || problem.status != answer.status || problem.detail.len() < 10 || problem.detail.chars().count() > 2001
        {
            return Some(format!("{name}: an ill-formed problem: {kind:?} {text}"));
        }
    }
    if let Some(hidden) = hidden_text(&serde_json::from_slice(&answer.body).unwrap_or_default()) {
        return Some(format!("{name}: {} with {hidden:?}", answer.status));
    }
    (!codes.is_empty() && !codes.contains(&answer.code().as_str()))
        .then(|| format!("{name}: {} where {codes:?} is due: {text}", answer.status))
}

/// A text in an answer that whoever shows it would not show as it is.
fn hidden_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => {
            text.chars().any(|c| c != '\n' && (c.is_control() || "\u{202e}\u{2066}\u{2028}\u{feff}".contains(c))).then(|| text.clone())
        }
        Value::Array(items) => items.iter().find_map(hidden_text),
        Value::Object(fields) => fields.values().find_map(hidden_text),
        _ => None,
    }
}

/// For each route, what `attacks` makes of it.
async fn on_every_route(attacks: impl Fn(&Told, &Target) -> Vec<Attack>) -> usize {
    let stage = Stage::new().await;
    let started = Instant::now();
    let (mut routes, mut all) = (0, Vec::new());
    for told in told::operations() {
        let target = target(&stage, &told).await;
        all.extend(attacks(&told, &target));
        routes += 1;
    }
    assert!(routes > 40, "{routes}");
    let count = strike(&stage.owner, all).await;
    println!("{count} hostile requests on {routes} routes in {:?}", started.elapsed());
    stage.nobody.get("/readyz").await;
    count
}

fn attack(told: &Told, target: &Target, what: &str, body: Vec<u8>, codes: &'static [&'static str]) -> Attack {
    let name = format!("{} {}: {what}", told.method, told.path);
    Attack { name, method: told.method.clone(), path: filled(&told.path, target), kind: "application/json", body, codes }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_are_too_large_too_deep_or_not_json() {
    let deep = ["[", "{\"a\":", "[{\"a\":"].map(|open| open.repeat(100_000 / open.len()).into_bytes());
    let count = on_every_route(|told, target| {
        let mut attacks = Vec::new();
        let takes = told.body.is_some() && !told.device;
        let refused: &[&str] = if takes { &["invalid"] } else { &[] };
        let large: &[&str] = if takes { &["too_large"] } else { &[] };
        if told.method != "GET" {
            attacks.push(attack(told, target, "10 MB", vec![b' '; 10_000_000], large));
            attacks.push(attack(told, target, "a string of 10 MB", [b"\"", &vec![b'a'; 10_000_000][..], b"\""].concat(), large));
            for deep in &deep {
                attacks.push(attack(told, target, "100,000 bytes deep", deep.clone(), refused));
            }
            for text in
                ["", "{", "null", "[]", "7", "\"text\"", "{}{}", "{\"a\":1,}", "\u{feff}{}", "{\"a\":NaN}", "{\"a\":1e999999}", "\0"]
            {
                attacks.push(attack(told, target, text, text.as_bytes().to_vec(), &[]));
            }
            attacks.push(attack(told, target, "no UTF-8", b"{\"name\":\"\xff\xfe\"}".to_vec(), &[]));
            attacks.push(attack(told, target, "half a surrogate", br#"{"name":"\ud800"}"#.to_vec(), &[]));
            attacks.push(Attack { kind: "text/plain", ..attack(told, target, "text/plain", b"{}".to_vec(), &[]) });
        }
        attacks
    });
    assert!(count.await > 300);
}

/// Values that are not of a kind.
fn of_other_kinds(schema: &Value) -> Vec<Value> {
    let kind = followed(schema);
    let fits = |value: &Value| match kind["type"].as_str() {
        Some("string") => value.is_string(),
        Some("integer" | "number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => true,
    };
    let all = [json!("text"), json!(7), json!(true), json!([7]), json!({ "a": 7 })];
    all.into_iter().filter(|value| !fits(value)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_of_the_wrong_kind_and_numbers_beyond_reason() {
    const NUMBERS: [&str; 8] =
        ["-1", "0", "4294967296", "9223372036854775807", "-9223372036854775808", "18446744073709551616", "1e308", "1.5"];
    let count = on_every_route(|told, target| {
        let Some(body) = &told.body else { return Vec::new() };
        let whole = example(body);
        let mut attacks = Vec::new();
        for (field, kind) in fields(body) {
            for wrong in of_other_kinds(&kind) {
                let mut bent = whole.clone();
                bent[&field] = wrong;
                attacks.push(attack(
                    told,
                    target,
                    &bent.to_string(),
                    bent.to_string().into_bytes(),
                    if told.device { &["unauthenticated"] } else { &["invalid"] },
                ));
            }
            for number in NUMBERS.iter().filter(|_| followed(&kind)["type"] == "integer") {
                let mut bent = whole.clone();
                bent[&field] = json!("NUMBER");
                let text = bent.to_string().replace("\"NUMBER\"", number);
                attacks.push(attack(told, target, &text, text.clone().into_bytes(), &[]));
            }
        }
        attacks
    });
    assert!(count.await > 150);
}

/// Names in scripts of the world, which are welcome.
const SCRIPTS: [&str; 14] = [
    "Ångström-Ölçü",
    "Робот семь",
    "ρομπότ",
    "机器人七号",
    "ロボット",
    "로봇",
    "روبوت",
    "רובוט",
    "रोबोट",
    "หุ่นยนต์",
    "რობოტი",
    "ሮቦት",
    "🤖🦾",
    "e\u{301}te\u{301}",
];
/// Texts that would not be seen as what they are, or hurt whoever shows them.
const HIDDEN: [&str; 10] =
    ["a\0b", "a\u{1b}[31mb", "a\nb", "a\tb", "a\u{202e}b", "a\u{2066}b", "a\u{2028}b", "a\u{7f}b", "a\u{85}b", "a\u{feff}b"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_in_every_script_and_texts_that_hide_something() {
    let count = on_every_route(|told, target| {
        let Some(body) = &told.body else { return Vec::new() };
        let whole = example(body);
        let mut attacks = Vec::new();
        for (field, kind) in fields(body) {
            let kind = followed(&kind);
            let list = kind["type"] == "array" && followed(&kind["items"])["type"] == "string";
            if kind["type"] != "string" && !list {
                continue;
            }
            let long = ["x".repeat(200_000), "\u{1f916}".repeat(5_000)];
            for text in SCRIPTS
                .iter()
                .chain(&HIDDEN)
                .copied()
                .chain(["", " ", "'; DROP TABLE devices; --", "%00", "../..", "\u{10ffff}"])
                .chain(long.iter().map(String::as_str))
            {
                let mut bent = whole.clone();
                bent[&field] = if list { json!([text]) } else { json!(text) };
                let shown: String = bent.to_string().chars().take(200).collect();
                attacks.push(attack(told, target, &shown, bent.to_string().into_bytes(), &[]));
            }
        }
        attacks
    });
    assert!(count.await > 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_and_queries_of_all_kinds() {
    const PARTS: [&str; 16] = [
        "%ff%fe",
        "%00",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "%",
        "%zz",
        "a%20b",
        "%F0%9F%A4%96",
        "%E2%80%AE",
        "%0d%0aset-cookie:a",
        "'",
        "-1",
        "null",
        "*",
        "~",
        "%c0%80",
    ];
    const VALUES: [&str; 14] =
        ["", "x", "-1", "0", "99999999999999999999", "1e9", "%ff", "%00", "null", "true", "[]", "AAAA", "'%20or%201=1", "%F0%9F%A4%96"];
    let count = on_every_route(|told, target| {
        let mut attacks = Vec::new();
        let names: Vec<&str> = told.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
        for name in &names {
            for part in PARTS.iter().map(|part| (*part).to_owned()).chain(["a".repeat(5000), "9".repeat(300)]) {
                let path = filled(&told.path.replace(&format!("{{{name}}}"), &part), target);
                let body = told.body.as_ref().map(|body| example(body).to_string().into_bytes()).unwrap_or_default();
                attacks.push(Attack { path: path.clone(), ..attack(told, target, &path, body, &[]) });
            }
        }
        for (name, _) in told.query.iter().filter(|(name, _)| !waits(name)) {
            let bad: &[&str] = if name == "cursor" { &["invalid"] } else { &[] };
            for value in VALUES.iter().map(|value| (*value).to_owned()).chain(["A".repeat(20_000), "7".repeat(400)]) {
                let path = format!("{}?{name}={value}", filled(&told.path, target));
                let codes = if value.is_empty() { &[][..] } else { bad };
                attacks.push(Attack { path: path.clone(), ..attack(told, target, &path, Vec::new(), codes) });
            }
            let path = format!("{}?{name}=1&{name}=2&unknown=3&&=&%00=%00", filled(&told.path, target));
            attacks.push(Attack { path: path.clone(), ..attack(told, target, &path, Vec::new(), &[]) });
        }
        attacks
    });
    assert!(count.await > 600);
}
