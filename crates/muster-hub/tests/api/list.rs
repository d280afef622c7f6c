//! The device list over HTTP: filters, orders, pages, cursors, views; and what people throw at it.

use serde_json::{Value, json};

use crate::world::{Client, Device, World};

/// acme with robots 1 to 12 entered by hand: sites in turn, a rack each, labels.
pub(crate) async fn fleet() -> World {
    let world = World::new().await;
    for (key, kind) in [("site", "text"), ("rack", "number"), ("bought", "date"), ("keeper", "person")] {
        world.owner.post("/v1/orgs/acme/fields", json!({ "key": key, "kind": kind })).await.ok(201);
    }
    let stage = json!({ "key": "stage", "kind": "choice", "choices": ["test", "live", "retired"] });
    world.owner.post("/v1/orgs/acme/fields", stage).await.ok(201);
    for n in 1..=12 {
        let site = ["berlin", "bonn", "kyōto"][n % 3];
        let stage = if n % 4 == 0 { "live" } else { "test" };
        let device = json!({
            "id": format!("SN-{n:03}"), "name": format!("robot-{n}"), "labels": if n % 2 == 0 { vec!["even"] } else { vec![] },
            "fields": { "site": site, "rack": n, "stage": stage, "bought": format!("2026-{n:02}-01") },
            "projects": if n <= 3 { vec!["lab"] } else { vec![] },
        });
        let made = world.owner.post("/v1/orgs/acme/devices", device).await.ok(201);
        assert_eq!((&made["manual"], &made["admission"], &made["presence"]), (&json!(true), &json!("admitted"), &json!("never")));
        assert!(made["why"].as_str().unwrap().starts_with("entered by hand"), "{made}");
    }
    world
}

/// A text as a value of a query.
pub(crate) fn encoded(text: &str) -> String {
    text.bytes().map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

pub(crate) fn path(filter: &str, more: &str) -> String {
    format!("/v1/orgs/acme/devices?filter={}{more}", encoded(filter))
}

fn names(page: &Value) -> Vec<&str> {
    page["items"].as_array().unwrap().iter().map(|device| device["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_filtered_and_ordered() {
    let world = fleet().await;
    let all = world.owner.get("/v1/orgs/acme/devices").await.ok(200);
    assert_eq!(all["total"], 12);
    assert_eq!(names(&all)[..3], ["robot-1", "robot-2", "robot-3"]);
    assert_eq!(names(&all)[9..], ["robot-10", "robot-11", "robot-12"]);
    let mut seen = 0;
    for (filter, sort, expected) in [
        ("site = bonn", "rack", &["robot-1", "robot-4", "robot-7", "robot-10"][..]),
        ("site = \"kyōto\" and rack > 5", "-rack", &["robot-11", "robot-8"]),
        ("stage = live", "site,-rack", &["robot-12", "robot-4", "robot-8"]),
        ("label = even and not stage = live", "name", &["robot-2", "robot-6", "robot-10"]),
        ("project = lab", "-bought", &["robot-3", "robot-2", "robot-1"]),
        ("bought >= 2026-10-01 and bought < 2026-12-01", "bought", &["robot-10", "robot-11"]),
        ("id in (SN-001, SN-012, SN-999)", "-id", &["robot-12", "robot-1"]),
        ("rack <= 2 or name ~ T-12", "stage,-name", &["robot-2", "robot-1", "robot-12"]),
        ("keeper is empty and rack = 7", "", &["robot-7"]),
        ("manual and created > now-1h and not online and rack = 1", "cpu,last_seen", &["robot-1"]),
        ("agent != x and rack in (5)", "", &["robot-5"]),
        ("rack > 100", "", &[]),
    ] {
        let page = world.owner.get(&path(filter, &format!("&sort={}", encoded(sort)))).await.ok(200);
        assert_eq!(names(&page), expected, "{filter}");
        assert_eq!(page["total"], expected.len(), "{filter}");
        seen += 1;
    }
    assert_eq!(seen, 12);
    // The old parameters narrow it too.
    assert_eq!(world.owner.get("/v1/orgs/acme/devices?project=lab&admission=admitted&presence=never").await.ok(200)["total"], 3);
    assert_eq!(world.owner.get(&path("rack = 1", "&presence=online")).await.ok(200)["total"], 0);
    world.owner.get("/v1/orgs/acme/devices?project=nowhere").await.problem("not_found");
    for (filter, why) in [
        ("citi = x", "filter: at character 1: unknown field `citi`; did you mean `site`?"),
        ("site = x and", "at character 13: expected a column's name"),
        ("project = nowhere", "there is no project \"nowhere\""),
        ("cpu > 80", "write 0.8, or 80%"),
    ] {
        let problem = world.owner.get(&path(filter, "")).await.problem("invalid");
        assert!(problem.detail.contains(why), "{filter}: {}", problem.detail);
    }
    let problem = world.owner.get("/v1/orgs/acme/devices?sort=-nmae").await.problem("invalid");
    assert!(problem.detail.contains("sort: at character 2: unknown field `nmae`; did you mean `name`"), "{}", problem.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_in_the_next_page_and_pages_hold_each_device_once() {
    let world = fleet().await;
    world.owner.patch("/v1/orgs/acme/devices/SN-005", json!({ "fields": { "site": "bonn" }, "add_labels": ["new"] })).await.ok(200);
    assert_eq!(names(&world.owner.get(&path("label = new and site = bonn", "")).await.ok(200)), ["robot-5"]);
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    let mut first = None;
    loop {
        let page = world.owner.get(&path("", &format!("&sort=-rack&limit=5&cursor={cursor}"))).await.ok(200);
        seen.extend(names(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        first.get_or_insert_with(|| next.to_owned());
        cursor = next.to_owned();
        // One that was seen goes, and one comes that stands before the place.
        if seen.len() == 5 {
            world.owner.delete("/v1/orgs/acme/devices/SN-012").await.ok(204);
            world.owner.post("/v1/orgs/acme/devices", json!({ "id": "SN-100", "fields": { "rack": 100 } })).await.ok(201);
        }
    }
    let expected: Vec<String> = (1..=12).rev().map(|n| format!("robot-{n}")).collect();
    assert_eq!(seen, expected);
    // A cursor is of its filter, its order and its list.
    let cursor = first.unwrap();
    world.owner.get(&path("", &format!("&sort=-rack&limit=2&cursor={cursor}"))).await.ok(200);
    world.owner.post("/v1/orgs", json!({ "id": "other" })).await.ok(201);
    for foreign in [
        path("", &format!("&sort=rack&cursor={cursor}")),
        path("online", &format!("&sort=-rack&cursor={cursor}")),
        format!("/v1/orgs/acme/devices?sort=-rack&presence=never&cursor={cursor}"),
        format!("/v1/orgs/other/devices?sort=-name&cursor={cursor}"),
        format!("/v1/orgs/acme/sessions?cursor={cursor}"),
        format!("/v1/orgs/acme/audit?cursor={cursor}"),
        path("", "&cursor=17"),
        path("", "&cursor=dabcdefghijklmnop"),
        path("", "&cursor=%00%FF"),
        path("", &format!("&sort=-rack&cursor={}", &cursor[..cursor.len() - 2])),
        path("", &format!("&cursor={}", "A".repeat(9000))),
    ] {
        let problem = world.owner.get(&foreign).await.problem("invalid");
        assert!(problem.detail.contains("cursor") || problem.detail.contains("query"), "{foreign}: {}", problem.detail);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collaborator_filters_what_he_sees_and_nothing_else() {
    let world = fleet().await;
    let cy = world.collaborates("cy@guest.example", "acme", "lab", "view").await;
    world.owner.post("/v1/orgs/acme/projects", json!({ "id": "den", "visibility": "private" })).await.ok(201);
    world.owner.patch("/v1/orgs/acme/devices/SN-001", json!({ "add_projects": ["den"] })).await.ok(200);
    assert_eq!(cy.get(&path("", "")).await.ok(200)["total"], 3);
    assert_eq!(cy.get(&path("rack > 0", "")).await.ok(200)["total"], 3);
    assert_eq!(cy.get(&path("project ~ den", "")).await.ok(200)["total"], 0);
    let told = cy.get(&path("project = den", "")).await.problem("invalid").detail;
    assert_eq!(told.replace("den", "xyz"), cy.get(&path("project = xyz", "")).await.problem("invalid").detail.replace("den", "xyz"));
    let file = cy.get("/v1/orgs/acme/devices/export?columns=id,projects").await;
    assert_eq!(String::from_utf8_lossy(&file.body), "id,projects\nSN-001,lab\nSN-002,lab\nSN-003,lab\n");
    // What he lost he does not see any more, from the next page on.
    world.owner.patch("/v1/orgs/acme/devices/SN-002", json!({ "remove_projects": ["lab"] })).await.ok(200);
    assert_eq!(names(&cy.get(&path("", "")).await.ok(200)), ["robot-1", "robot-3"]);
    world.owner.delete("/v1/orgs/acme/projects/lab/participants/cy@guest.example").await.ok(204);
    cy.get(&path("", "")).await.problem("not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn views_are_ones_own_or_shared() {
    let world = fleet().await;
    let (bob, vic) = (world.joins("bob@acme.example", "acme", "member").await, world.joins("vic@acme.example", "acme", "viewer").await);
    let view = |name: &str, shared: bool| json!({ "name": name, "shared": shared, "filter": "site = bonn", "sort": "-rack", "columns": ["name", "site", "usage.cpu"] });
    bob.post("/v1/orgs/acme/views", view("mine", false)).await.ok(201);
    bob.post("/v1/orgs/acme/views", view("ours", true)).await.ok(201);
    bob.post("/v1/orgs/acme/views", view("ours", false)).await.ok(201);
    bob.post("/v1/orgs/acme/views", view("mine", false)).await.problem("exists");
    vic.post("/v1/orgs/acme/views", view("hers", true)).await.problem("forbidden");
    vic.post("/v1/orgs/acme/views", view("mine", false)).await.ok(201);
    let listed =
        |page: Value| page["items"].as_array().unwrap().iter().map(|view| view["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(listed(bob.get("/v1/orgs/acme/views").await.ok(200)), ["mine", "ours", "ours"]);
    assert_eq!(listed(vic.get("/v1/orgs/acme/views").await.ok(200)), ["mine", "ours"]);
    assert_eq!(listed(world.owner.get("/v1/orgs/acme/views").await.ok(200)), ["ours"]);
    world.owner.get("/v1/orgs/acme/devices?view=mine").await.problem("not_found");
    let page = vic.get("/v1/orgs/acme/devices?view=ours&limit=2").await.ok(200);
    assert_eq!((names(&page), &page["total"]), (vec!["robot-10", "robot-7"], &json!(4)));
    let cursor = page["next"].as_str().unwrap();
    assert_eq!(names(&vic.get(&format!("/v1/orgs/acme/devices?view=ours&limit=2&cursor={cursor}")).await.ok(200)), ["robot-4", "robot-1"]);
    assert_eq!(names(&vic.get("/v1/orgs/acme/devices?view=ours&filter=rack%20%3E%205&sort=rack").await.ok(200)), ["robot-7", "robot-10"]);
    vic.patch("/v1/orgs/acme/views/ours?shared=true", json!({ "sort": "name" })).await.problem("forbidden");
    vic.delete("/v1/orgs/acme/views/ours").await.problem("forbidden");
    bob.patch("/v1/orgs/acme/views/ours?shared=true", json!({ "filter": "rack < 3", "sort": "name" })).await.ok(200);
    assert_eq!(names(&vic.get("/v1/orgs/acme/devices?view=ours").await.ok(200)), ["robot-1", "robot-2"]);
    for (wrong, why) in [
        (json!({ "name": "x", "filter": "nmae = y" }), "filter: at character 1"),
        (json!({ "name": "x", "sort": "y" }), "sort: at character 1"),
        (json!({ "name": "x", "columns": ["y"] }), "columns: unknown field `y`"),
        (json!({ "name": "a\u{202e}b" }), "name:"),
        (json!({ "name": "x", "columns": vec!["name"; 101] }), "columns: at most 100"),
    ] {
        let problem = bob.post("/v1/orgs/acme/views", wrong).await.problem("invalid");
        assert!(problem.detail.contains(why), "{}", problem.detail);
    }
    bob.delete("/v1/orgs/acme/views/ours?shared=true").await.ok(204);
    assert_eq!(listed(bob.get("/v1/orgs/acme/views").await.ok(200)), ["mine", "ours"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_change_a_view_at_once_lose_nothing() {
    let world = fleet().await;
    let bob = world.joins("bob@acme.example", "acme", "member").await;
    for round in 0..20 {
        let (name, at) = (format!("v{round}"), format!("/v1/orgs/acme/views/v{round}?shared=true"));
        bob.post("/v1/orgs/acme/views", json!({ "name": name, "shared": true })).await.ok(201);
        let (one, other) =
            tokio::join!(bob.patch(&at, json!({ "filter": "rack > 1" })), world.owner.patch(&at, json!({ "sort": "-rack" })));
        one.ok(200);
        other.ok(200);
        let page = bob.get("/v1/orgs/acme/views").await.ok(200);
        let view = page["items"].as_array().unwrap().iter().find(|view| view["name"] == name.as_str()).unwrap().clone();
        assert_eq!((&view["filter"], &view["sort"]), (&json!("rack > 1"), &json!("-rack")));
        // One that is gone is gone for whoever comes second, and the records say so once.
        let (one, other) = tokio::join!(bob.delete(&at), world.owner.delete(&at));
        let mut codes = [one.status, other.status];
        codes.sort_unstable();
        assert_eq!(codes, [204, 404]);
        bob.patch(&at, json!({ "sort": "name" })).await.problem("not_found");
    }
    let deleted = world.owner.get("/v1/orgs/acme/audit?action=view.delete&result=ok").await.ok(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 20);
}

/// A generator that needs no crate: what it gives is the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

async fn throw(client: &Client, at: &str) -> u16 {
    let answer = client.get(at).await;
    match answer.status {
        200 => drop(answer.ok(200)),
        400 => drop(answer.problem("invalid")),
        status => panic!("{status} for {at}: {}", String::from_utf8_lossy(&answer.body)),
    }
    answer.status
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_is_answered_or_refused() {
    let world = fleet().await;
    let words = [
        "site",
        "rack",
        "online",
        "cpu",
        "last_seen",
        "=",
        "!=",
        "~",
        "<",
        ">=",
        "and",
        "or",
        "not",
        "in",
        "(",
        ")",
        ",",
        "is",
        "empty",
        "\"",
        "\\",
        "80%",
        "now-1h",
        "2026-11-22",
        "robot",
        "\u{0}",
        "\u{202e}",
        "机器人",
        "fact.",
        "usage.\"x\"",
        "'",
        ";",
        "--",
        "DROP TABLE devices",
        "%",
        "*",
        "1e308",
        "NaN",
        "-",
        "\u{1f916}",
    ];
    let (mut dice, mut answered) = (Dice(20_261_122), [0, 0]);
    for _ in 0..400 {
        let text: Vec<&str> = (0..dice.roll(12)).map(|_| words[dice.roll(words.len())]).collect();
        let text = encoded(&text.join(if dice.roll(4) == 0 { "" } else { " " }));
        let at = match dice.roll(4) {
            0 => format!("/v1/orgs/acme/devices?sort={text}"),
            1 => format!("/v1/orgs/acme/devices?cursor={text}"),
            _ => format!("/v1/orgs/acme/devices?filter={text}&limit=2"),
        };
        answered[usize::from(throw(&world.owner, &at).await == 200)] += 1;
    }
    assert!(answered[0] > 100 && answered[1] > 5, "{answered:?}");
    for hostile in [
        format!("filter={}", encoded(&"(".repeat(4000))),
        format!("filter={}", encoded(&"not ".repeat(1000))),
        format!("filter={}", encoded(&vec!["a=b"; 1000].join(" or "))),
        format!("filter={}", "x".repeat(5000)),
        format!("sort={}", vec!["name"; 500].join(",")),
    ] {
        world.owner.get(&format!("/v1/orgs/acme/devices?{hostile}")).await.problem("invalid");
    }
    assert_eq!(world.owner.get("/v1/orgs/acme/devices").await.ok(200)["total"], 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_enrols_takes_over_the_row_that_was_entered_by_hand() {
    let world = fleet().await;
    // A token that admits: at once, with the name, fields and projects of the row.
    let token = world.enrolment_token(json!({ "admit": "auto" })).await;
    let mut device = Device::new("SN-001");
    let state = device.enrol(&world, &token).await.ok(200);
    assert_eq!(state["state"], "admitted", "{state}");
    device.take(&state["identity"]);
    let row = world.owner.get("/v1/orgs/acme/devices/SN-001").await.ok(200);
    assert_eq!((&row["manual"], &row["name"], &row["fields"]["rack"]), (&json!(false), &json!("robot-1"), &json!(1)));
    assert_eq!((&row["projects"], &row["facts"]["hostname"]), (&json!(["lab"]), &json!("SN-001")));
    assert_eq!(device.client(&world).get("/v1/device/self").await.ok(200)["name"], "robot-1");
    // From now on another key is a replacement, whatever its token.
    assert_eq!(Device::new("SN-001").enrol(&world, &token).await.ok(200)["state"], "replacement");
    // A token that leaves pending: an owner admits it, by any of its names.
    let token = world.enrolment_token(json!({ "admit": "manual" })).await;
    for (serial, by_code) in [("SN-002", true), ("SN-003", false)] {
        let waiting = Device::new(serial);
        let state = waiting.enrol(&world, &token).await.ok(200);
        assert_eq!(state["state"], "replacement", "{state}");
        let named = if by_code { state["pairing_code"].as_str().unwrap() } else { serial };
        let row = world.owner.post(&format!("/v1/orgs/acme/devices/{named}/admit"), json!({})).await.ok(200);
        assert_eq!((&row["manual"], &row["replacement"]), (&json!(false), &Value::Null), "{row}");
        assert_eq!(waiting.enrol(&world, &token).await.ok(200)["state"], "admitted");
    }
    // One that was revoked is not let in by a token.
    world.owner.post("/v1/orgs/acme/devices/SN-004/revoke", json!({})).await.ok(200);
    let token = world.enrolment_token(json!({ "admit": "auto" })).await;
    Device::new("SN-004").enrol(&world, &token).await.problem("device_revoked");
    assert_eq!(world.owner.get("/v1/orgs/acme/devices/SN-004").await.ok(200)["manual"], true);
    world.owner.post("/v1/orgs/acme/devices", json!({ "id": "SN-001" })).await.problem("exists");
    assert_eq!(world.owner.get(&path("manual", "")).await.ok(200)["total"], 9);
}
