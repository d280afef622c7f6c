//! Ids of another organization answer, byte for byte, as ids that nobody has.

use std::collections::BTreeMap;

use serde_json::json;

use crate::caller::{Answer, Caller};
use crate::cases::{By, CASES, Case};
use crate::matrix;
use crate::stage::Stage;
use crate::targets::{Target, fresh, place_of};

async fn play(caller: &Caller, case: &Case, target: &Target) -> Answer {
    matrix::play(caller, case, target).await.unwrap()
}

/// Everything of an answer that its reader can see, with the names that he himself gave taken out.
fn as_seen(answer: &Answer, asked: &Target) -> (u16, BTreeMap<String, String>, String) {
    let neutral = |text: &str| asked.iter().fold(text.to_owned(), |text, (name, value)| text.replace(value.as_str(), &format!("<{name}>")));
    let headers = answer.headers.iter().filter(|(name, _)| !["x-request-id", "date"].contains(&name.as_str()));
    let headers = headers.map(|(name, value)| (name.to_string(), neutral(&String::from_utf8_lossy(value.as_bytes())))).collect();
    let request = answer.headers.get("x-request-id").map(|id| id.to_str().unwrap().to_owned()).unwrap_or_default();
    (answer.status, headers, neutral(&answer.text()).replace(&request, "<request>"))
}

/// The same names as nobody has them: as long, and of the same form.
fn unknown(real: &Target) -> Target {
    let turned = |text: &str| {
        let (local, rest) = text.split_once('@').map_or((text, String::new()), |(local, host)| (local, format!("@{host}")));
        // The first character often says what kind of id it is.
        let mut letters: Vec<char> = local.chars().collect();
        for letter in letters.iter_mut().skip(1) {
            *letter = match *letter {
                '0'..='8' | 'a'..='e' => char::from(*letter as u8 + 1),
                '9' => '0',
                'f' => 'a',
                other => other,
            };
        }
        letters.into_iter().collect::<String>() + &rest
    };
    real.iter().map(|(name, value)| (*name, turned(value))).collect()
}

/// The names of the target that the call itself uses.
fn used(case: &Case, target: &Target) -> Vec<&'static str> {
    let text = format!("{}{}{}", case.route, case.query, case.body);
    target.keys().copied().filter(|name| text.contains(&format!("{{{name}}}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_of_another_organization_answer_like_ids_of_nothing() {
    let stage = Stage::new().await;
    let eve = stage.person("eve@evil.example").await;
    eve.post("/v1/orgs", json!({ "id": "evil" })).await;
    let mut pairs = 0;
    for case in CASES {
        let real = fresh(&stage, case.fresh, place_of(case.fresh)).await;
        // From outside, the organization itself is not there.
        let mut nowhere = real.clone();
        nowhere.insert("org", "acne".into());
        let (theirs, none) = (play(&eve, case, &real).await, play(&eve, case, &nowhere).await);
        let name = format!("{} {}", case.method, case.route);
        // What is for owners of the hub is refused before anybody looks for an organization.
        let refused = if case.by == By::Hub { 403 } else { 404 };
        assert_eq!(theirs.status, refused, "{name}: {}", theirs.text());
        assert_eq!(as_seen(&theirs, &real), as_seen(&none, &nowhere), "{name}");
        pairs += 1;
        // In the own organization, where everything is allowed, the other's ids are nothing.
        let ids: Vec<_> = used(case, &real).into_iter().filter(|name| !["org", "new", "number"].contains(name)).collect();
        if ids.is_empty() {
            continue;
        }
        let (mut theirs, mut none) = (real.clone(), unknown(&real));
        for target in [&mut theirs, &mut none] {
            target.insert("org", "evil".into());
        }
        let (first, second) = (play(&eve, case, &theirs).await, play(&eve, case, &none).await);
        assert_eq!(first.status, 404, "{name}: {}", first.text());
        assert_eq!(as_seen(&first, &theirs), as_seen(&second, &none), "{name}");
        pairs += 1;
    }
    println!("{pairs} pairs of answers compared");
    assert!(pairs > CASES.len() + 18, "{pairs}");
    // Nothing of it is in the records of those whose ids they were.
    let audit = stage.owner.get("/v1/orgs/acme/audit?limit=1000").await;
    assert!(!audit.to_string().contains("eve@evil.example"));
}

/// Whether somebody has an account on the hub is nobody's business in an organization where he is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_of_others_answer_like_accounts_of_nobody() {
    let stage = Stage::new().await;
    stage.person("eve@evil.example").await;
    let mut pairs = 0;
    for case in CASES.iter().filter(|case| case.route.contains("{email}")) {
        let real = fresh(&stage, case.fresh, "vault").await;
        let of = |email: &str| Target::from_iter(real.clone().into_iter().chain([("email", email.to_owned())]));
        let (theirs, none) = (of("eve@evil.example"), of("eva@evil.example"));
        let (first, second) = (play(&stage.owner, case, &theirs).await, play(&stage.owner, case, &none).await);
        assert_eq!(first.status, 404, "{} {}: {}", case.method, case.route, first.text());
        assert_eq!(as_seen(&first, &theirs), as_seen(&second, &none), "{} {}", case.method, case.route);
        pairs += 1;
    }
    assert!(pairs >= 6, "{pairs}");
}
