//! Organizations: what they say of themselves, their logo, who leaves, who stays owner, and their end.

use std::collections::{BTreeMap, BTreeSet};

use muster_hub::store::telemetry;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::world::{Client, Device, OWNER, World};

/// Names that hide something.
pub(crate) const HOSTILE: &[&str] = &[
    "",
    " x",
    "x ",
    "a\nb",
    "a\0b",
    "\u{1b}[31m",
    "\u{202e}gpj.exe",
    "a\u{2066}b",
    "x\u{200f}",
    "\u{feff}x",
    "\u{200b}",
    "\u{3164}",
    "a\u{2028}b",
];
/// Names in other scripts, with joiners where the script needs them.
pub(crate) const NAMES: &[&str] = &["株式会社ロボット", "شركة الروبوتات", "Łódź & Söhne", "می\u{200c}خواهم", "👩\u{200d}🔧", "O'Neil <b>"];

/// The header of a PNG of this size, and some bytes.
pub(crate) fn png(width: u32, height: u32, padding: usize) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    bytes.extend(width.to_be_bytes());
    bytes.extend(height.to_be_bytes());
    bytes.extend([8, 6, 0, 0, 0, 0, 0, 0, 0]);
    bytes.resize(bytes.len() + padding, 7);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_organization_says_of_itself() {
    let world = World::new().await;
    let owner = &world.owner;
    let full = json!({
        "id": "zeta", "name": "Zeta", "full_name": "Zeta Robotics GmbH & Co. KG", "description": "Robots.\nAnd more.",
        "location": "Łódź", "website": "https://zeta.example/robots",
    });
    let made = owner.post("/v1/orgs", full.clone()).await.ok(201);
    for (field, value) in full.as_object().unwrap() {
        assert_eq!(&made[field], value, "{field}");
    }
    assert_eq!(owner.get("/v1/orgs/zeta").await.ok(200), made);
    assert!(owner.get("/v1/orgs").await.ok(200)["items"].as_array().unwrap().contains(&made));

    let edited = owner.patch("/v1/orgs/zeta", json!({ "name": "Zeta 2", "location": null, "description": "" })).await.ok(200);
    assert_eq!((&edited["name"], &edited["full_name"]), (&json!("Zeta 2"), &full["full_name"]));
    assert!(edited.get("location").is_none() && edited.get("description").is_none(), "{edited}");
    assert_eq!(edited["website"], full["website"]);
    assert_eq!(owner.patch("/v1/orgs/zeta", json!({})).await.ok(200), edited);
    for good in NAMES {
        assert_eq!(owner.patch("/v1/orgs/zeta", json!({ "name": good, "full_name": good })).await.ok(200)["name"], *good);
    }
    let before = owner.get("/v1/orgs/zeta").await.ok(200);
    for bad in HOSTILE {
        let detail = owner.patch("/v1/orgs/zeta", json!({ "name": bad })).await.problem("invalid").detail;
        assert!(detail.starts_with("name:"), "{detail}");
        if !bad.is_empty() {
            owner.patch("/v1/orgs/zeta", json!({ "location": bad })).await.problem("invalid");
        }
        owner.post("/v1/orgs", json!({ "id": "other", "name": bad })).await.problem("invalid");
    }
    for bad in [
        json!({ "name": null, "id": "new-id" }),
        json!({ "website": "javascript:alert(1)" }),
        json!({ "website": "https://a:b@zeta.example" }),
        json!({ "description": "x".repeat(2001) }),
        json!({ "description": "a\u{202e}b" }),
        json!({ "full_name": 7 }),
    ] {
        owner.patch("/v1/orgs/zeta", bad).await.problem("invalid");
    }
    assert_eq!(owner.get("/v1/orgs/zeta").await.ok(200), before);
    // Of those that it refused, none is there.
    owner.get("/v1/orgs/other").await.problem("not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logo_is_an_image_by_its_bytes_and_served_as_one() {
    let world = World::new().await;
    let viewer = world.joins("vic@acme.example", "acme", "viewer").await;
    let stranger = world.person("eve@evil.example").await;
    let put = async |client: &Client, claim: &str, bytes: Vec<u8>| {
        client.raw("PUT", "/v1/orgs/acme/logo", &[("content-type", claim)], bytes).await
    };
    world.owner.get("/v1/orgs/acme/logo").await.problem("not_found");
    // What it claims to be does not count, in both directions.
    let org = put(&world.owner, "text/html", png(64, 32, 10)).await.ok(200);
    let path = org["logo"].as_str().unwrap().to_owned();
    put(&world.owner, "image/png", b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>".to_vec()).await.problem("media_type");
    put(&world.owner, "image/png", b"GIF89a\x01\0\x01\0\0\0\0".to_vec()).await.problem("media_type");
    put(&world.owner, "image/png", Vec::new()).await.problem("media_type");
    put(&world.owner, "image/png", png(2049, 4, 0)).await.problem("invalid");
    put(&world.owner, "image/png", png(0, 4, 0)).await.problem("invalid");
    put(&world.owner, "image/png", png(4, 4, 256 * 1024)).await.problem("too_large");
    put(&world.owner, "image/png", vec![0x89; 10 << 20]).await.problem("too_large");
    put(&viewer, "image/png", png(8, 8, 0)).await.problem("forbidden");
    put(&stranger, "image/png", png(8, 8, 0)).await.problem("not_found");

    for client in [&world.owner, &viewer] {
        let answer = client.get(&path).await;
        assert_eq!((answer.status, &answer.body[..]), (200, &png(64, 32, 10)[..]));
        for (name, value) in [
            ("content-type", "image/png"),
            ("x-content-type-options", "nosniff"),
            ("cache-control", "private, no-cache"),
            ("content-security-policy", "default-src 'none'; sandbox"),
        ] {
            assert_eq!(answer.headers[name], value, "{name}");
        }
        let tag = answer.headers["etag"].to_str().unwrap().to_owned();
        let again = client.raw("GET", &path, &[("if-none-match", &format!("\"x\", {tag}"))], Vec::new()).await;
        assert_eq!((again.status, again.body.len()), (304, 0));
        assert_eq!(client.raw("GET", &path, &[("if-none-match", "\"x\"")], Vec::new()).await.status, 200);
    }
    stranger.get(&path).await.problem("not_found");
    world.stranger().get(&path).await.problem("unauthenticated");
    let other = put(&world.owner, "image/png", png(8, 8, 0)).await.ok(200)["logo"].clone();
    assert_ne!(other, path);
    world.owner.delete("/v1/orgs/acme/logo").await.ok(204);
    world.owner.get("/v1/orgs/acme/logo").await.problem("not_found");
    assert!(world.owner.get("/v1/orgs/acme").await.ok(200).get("logo").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_has_nothing_left_but_the_records() {
    let world = World::new().await;
    let ben = world.joins("ben@acme.example", "acme", "member").await;
    world.owner.post("/v1/orgs/acme/teams", json!({ "id": "crew" })).await.ok(201);
    world.owner.send("PUT", "/v1/orgs/acme/teams/crew/members/ben@acme.example", None).await.ok(200);
    ben.post("/v1/orgs/acme/projects", json!({ "id": "mine" })).await.ok(201);
    ben.post("/v1/orgs/acme/leave", json!({})).await.ok(204);
    for path in ["", "/projects", "/projects/mine", "/devices", "/members", "/teams/crew", "/audit"] {
        ben.get(&format!("/v1/orgs/acme{path}")).await.problem("not_found");
    }
    ben.post("/v1/orgs/acme/leave", json!({})).await.problem("not_found");
    assert_eq!(ben.get("/v1/me").await.ok(200)["orgs"], json!([]));
    assert_eq!(world.owner.get("/v1/orgs/acme/teams/crew").await.ok(200)["people"], json!([]));
    assert_eq!(world.owner.get("/v1/orgs/acme/projects/mine/participants").await.ok(200)["items"], json!([]));
    assert_eq!(world.owner.get("/v1/orgs/acme/collaborators").await.ok(200)["items"], json!([]));
    let told = world.audit().await;
    for action in ["project.create", "member.leave"] {
        assert!(told.iter().any(|event| event["actor"] == "ben@acme.example" && event["action"] == action), "{action}");
    }
    // A collaborator leaves, and is removed, the same way.
    let cid = world.collaborates("cid@guest.example", "acme", "mine", "view").await;
    assert_eq!(
        world.owner.get("/v1/orgs/acme/collaborators").await.ok(200)["items"][0]["projects"],
        json!([{ "project": "mine", "role": "view" }])
    );
    cid.post("/v1/orgs/acme/leave", json!({})).await.ok(204);
    cid.get("/v1/orgs/acme").await.problem("not_found");
    let dan = world.collaborates("dan@guest.example", "acme", "mine", "view").await;
    world.owner.delete("/v1/orgs/acme/members/dan@guest.example").await.ok(204);
    dan.get("/v1/orgs/acme").await.problem("not_found");
    world.owner.delete("/v1/orgs/acme/members/dan@guest.example").await.problem("not_found");
}

async fn owners(world: &World) -> Vec<String> {
    let sql = "SELECT a.email FROM members m JOIN accounts a ON a.id = m.account WHERE m.org = 'acme' AND m.role = 'owner' ORDER BY 1";
    let read = |db: &Connection| Ok(db.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?);
    world.hub.state.store.read(read).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_owner_stays_however_many_go_at_once() {
    let world = World::new().await;
    world.owner.post("/v1/orgs/acme/leave", json!({})).await.problem("conflict");
    world.owner.put(&format!("/v1/orgs/acme/members/{OWNER}"), json!({ "role": "member" })).await.problem("conflict");
    world.owner.delete(&format!("/v1/orgs/acme/members/{OWNER}")).await.problem("conflict");
    let mut all = vec![(OWNER.to_owned(), world.owner.clone())];
    for n in 0..4 {
        let email = format!("owner-{n}@acme.example");
        all.push((email.clone(), world.joins(&email, "acme", "owner").await));
    }
    assert_eq!(owners(&world).await.len(), 5);
    // Each goes, demotes two others and removes one, all at once.
    let mut tasks = Vec::new();
    for (n, (_, client)) in all.iter().enumerate() {
        let of = |step: usize| format!("/v1/orgs/acme/members/{}", all[(n + step) % all.len()].0);
        for (method, path, body) in [
            ("POST", "/v1/orgs/acme/leave".to_owned(), json!({})),
            ("PUT", of(1), json!({ "role": "viewer" })),
            ("PUT", of(2), json!({ "role": "member" })),
            ("DELETE", of(3), Value::Null),
        ] {
            let client = client.clone();
            tasks.push(tokio::spawn(async move { client.send(method, &path, (!body.is_null()).then_some(body)).await.status }));
        }
    }
    assert_eq!(tasks.len(), 20);
    let mut statuses = BTreeMap::<u16, usize>::new();
    for task in tasks {
        *statuses.entry(task.await.unwrap()).or_default() += 1;
    }
    let left = owners(&world).await;
    assert!(!left.is_empty(), "{statuses:?}");
    assert!(statuses.keys().all(|status| [200, 204, 403, 404, 409].contains(status)), "{statuses:?}");
    // Whoever is left is still in charge, and still cannot go.
    let boss = &all.iter().find(|(email, _)| *email == left[0]).unwrap().1;
    boss.get("/v1/orgs/acme/audit").await.ok(200);
    if left.len() == 1 {
        boss.post("/v1/orgs/acme/leave", json!({})).await.problem("conflict");
    }
}

/// Every row of every table, as text.
async fn dump(world: &World) -> BTreeMap<String, BTreeSet<String>> {
    let read = |db: &Connection| {
        let names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY 1";
        let names = db.prepare(names)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
        let mut tables = BTreeMap::new();
        for name in names {
            let mut columns = db.prepare("SELECT name FROM pragma_table_info(?1)")?;
            let columns = columns.query_map([&name], |row| row.get::<_, String>(0))?.collect::<rusqlite::Result<Vec<_>>>()?;
            // When a token was last used says nothing of whose rows there are.
            let columns: Vec<_> =
                columns.iter().filter(|column| *column != "used_at").map(|column| format!("quote(\"{column}\")")).collect();
            let rows = format!("SELECT {} FROM \"{name}\"", columns.join(" || ' ' || "));
            let rows = db.prepare(&rows)?.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<BTreeSet<String>>>()?;
            tables.insert(name, rows);
        }
        Ok(tables)
    };
    world.hub.state.store.read(read).await.unwrap()
}

/// Something in every table that knows organizations. `n` keeps what must be unique in the hub apart.
async fn furnish(world: &World, org: &'static str, n: u8) {
    let letter = char::from(b'a' + n);
    let uid = format!("d{}", String::from(letter).repeat(15));
    let sql = format!(
        "INSERT INTO accounts (email, name, created_at, kind, org) VALUES ('bot@{org}.service', 'Bot', 0, 'service', '{org}');
         INSERT INTO accounts (email, name, created_at) VALUES ('guest-{n}@guest.example', 'Guest', 0), ('crew-{n}@{org}.example', 'Crew', 0);
         INSERT INTO members SELECT '{org}', id, 'member', 0 FROM accounts WHERE email IN ('bot@{org}.service', 'crew-{n}@{org}.example');
         INSERT INTO auto_joins SELECT '{org}', id, 0 FROM accounts WHERE email = 'crew-{n}@{org}.example';
         INSERT INTO projects (org, id, name, visibility, created_at) VALUES ('{org}', 'yard', 'Yard', 'private', 0);
         INSERT INTO participants SELECT '{org}', 'yard', id, 'view', 0 FROM accounts WHERE email = 'guest-{n}@guest.example';
         INSERT INTO teams (org, id, name, created_at) VALUES ('{org}', 'crew', 'Crew', 0);
         INSERT INTO team_members SELECT '{org}', 'crew', id, 0 FROM accounts WHERE email IN ('guest-{n}@guest.example', 'bot@{org}.service');
         INSERT INTO project_teams VALUES ('{org}', 'yard', 'crew', 'connect', 0);
         INSERT INTO team_avatars VALUES ('{org}', 'crew', 'image/png', 'x', x'00');
         INSERT INTO org_logos VALUES ('{org}', 'image/png', 'x', x'00');
         INSERT INTO access_tokens (id, account, digest, name, created_at, expires_at, org)
             SELECT 'limited-{n}', id, x'00', 'limited', 0, 0, '{org}' FROM accounts WHERE email = '{OWNER}';
         INSERT INTO enrolment_tokens (id, org, digest, admit, limited, created_by, created_at, expires_at)
             VALUES ('token-{n}', '{org}', x'00', 'auto', 1, 'x', 0, 0);
         INSERT INTO enrolment_token_serials VALUES ('token-{n}', 's');
         INSERT INTO devices (uid, org, serial, name, admission, facts, created_at) VALUES ('{uid}', '{org}', 's', 's', 'admitted', '{{}}', 0);
         INSERT INTO device_projects VALUES ('{uid}', '{org}', 'yard');
         INSERT INTO device_keys (key, uid, org, state, since) VALUES (x'0{n}', '{uid}', '{org}', 'current', 0);
         INSERT INTO enrolments (request, uid, org, serial, key, spki, token, pairing_code, state, facts, created_at)
             VALUES ('request-{n}', '{uid}', '{org}', 's', x'0{n}', x'00', 'token-{n}', 'ABCD-2345', 'admitted', '{{}}', 0);
         INSERT INTO device_policies (uid, own_user, t, told_at) VALUES ('{uid}', 0, 0, 0);
         INSERT INTO mqtt_sessions VALUES ('{uid}', 1, NULL, '[]');
         INSERT INTO mqtt_retained VALUES ('{uid}', 't', x'00');
         INSERT INTO presence (uid, online, since, reason, link, last_seen) VALUES ('{uid}', 0, 0, 'x', 0, 0);
         INSERT INTO presence_history (uid, t, online, reason) VALUES ('{uid}', 0, 1, 'birth');
         INSERT INTO device_events (uid, digest, t, received, body) VALUES ('{uid}', x'00', 0, {now}, '{{}}');
         INSERT INTO usage_boots (id, uid, boot, received) VALUES ({n} + 100, '{uid}', 'boot', {now});
         INSERT INTO usage_columns (id, uid, names) VALUES ({n} + 100, '{uid}', '[]');
         INSERT INTO usage_samples VALUES ({n} + 100, 1, 0, {now}, {n} + 100, x'00');
         INSERT INTO fields (id, org, key, title, kind, required, created_at) VALUES ({n} + 100, '{org}', 'site', 'Site', 'text', 0, 0);
         INSERT INTO device_values VALUES ('{uid}', {n} + 100, 'berlin');
         INSERT INTO device_labels VALUES ('{uid}', 'blue');
         INSERT INTO views (org, name, filter, sort, columns, changed_by, changed_at) VALUES ('{org}', 'v', '', '', '[]', 'x', 0);
         INSERT INTO invitations (id, org, email, role, digest, invited_by, created_at, renewed_at, expires_at)
             VALUES ('invitation-{n}', '{org}', 'x@x.example', 'member', x'00', 'x', 0, 0, 0);
         INSERT INTO audit (t, org, actor, action, target, result, details) VALUES (0, '{org}', 'x', 'x', 'x', 'ok', '{{}}');
         INSERT INTO limits VALUES ('{org}', 'own', 'devices', 1000);
         INSERT INTO usage_days VALUES ('{org}', 1, 'runs', '', '', 1);
         INSERT INTO charges (org, day, project, kind, rate, amount) VALUES ('{org}', 1, '', 'x', 1, 1);
         INSERT INTO ledger (t, org, entry, nano, actor) VALUES (0, '{org}', 'top_up', 5, 'x');
         INSERT INTO sessions (id, org, uid, device_name, project, role, email, client_ticket, device_ticket, created_at, ended_at)
             VALUES ('s{letters}', '{org}', '{uid}', 's', 'yard', 'admin', '{OWNER}', x'00', x'00', 0, 1);
         INSERT INTO runs (id, org, uid, device_name, project, role, account, email, command, env, timeout_s, output_max, state, created_at,
             expires_at) VALUES ('r{letters}', '{org}', '{uid}', 's', 'yard', 'admin', 1, '{OWNER}', '{{}}', '[]', 1, 1, 'done', 0, 0);
         INSERT INTO run_output SELECT n, 1, 0, 1, 0, x'00' FROM runs WHERE id = 'r{letters}';",
        letters = String::from(letter).repeat(15),
        now = muster_hub::clock::now(),
    );
    world.hub.state.store.write(move |tx| Ok(tx.execute_batch(&sql)?)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_is_deleted_takes_all_its_own_and_nothing_else() {
    let world = World::new().await;
    for id in ["zeta", "gone"] {
        world.owner.post("/v1/orgs", json!({ "id": id })).await.ok(201);
    }
    let viewer = world.joins("vic@gone.example", "gone", "viewer").await;
    furnish(&world, "zeta", 0).await;
    let before = dump(&world).await;
    furnish(&world, "gone", 1).await;
    // A table that comes later must be furnished here, or nothing is shown about it.
    for (table, rows) in dump(&world).await {
        let empty =
            ["deleted_orgs", "mqtt_queue", "identities", "oidc_logins", "login_codes", "device_logins", "usage_keys", "session_meters"];
        assert!(
            empty.contains(&table.as_str())
                || rows.len() > before[&table].len()
                || ["meta", "migrations", "orgs", "rates"].contains(&table.as_str()),
            "{table}: this test puts nothing there for an organization"
        );
    }
    let alive = "UPDATE sessions SET ended_at = NULL WHERE org = 'gone'";
    let running = "UPDATE runs SET state = 'running' WHERE org = 'gone'";
    world.hub.state.store.write(move |tx| Ok(tx.execute(alive, [])? + tx.execute(running, [])?)).await.unwrap();

    let waits = world.owner.post("/v1/orgs/gone/invitations", json!({ "email": "late@gone.example", "role": "viewer" })).await.ok(201);
    viewer.delete("/v1/orgs/gone?confirm=gone").await.problem("forbidden");
    let told = world.owner.delete("/v1/orgs/gone?confirm=gone").await.problem("conflict").detail;
    for obstacle in [
        "1 device (",
        "1 project that is not archived",
        "1 live session",
        "1 run that has not ended",
        "2 other members",
        "1 collaborator (",
        "1 waiting invitation (",
        "a balance of 0.000000005 credits (",
    ] {
        assert!(told.contains(obstacle), "{obstacle}: {told}");
    }
    let over = "UPDATE sessions SET ended_at = 1 WHERE org = 'gone'";
    let done = "UPDATE runs SET state = 'done' WHERE org = 'gone'";
    world.hub.state.store.write(move |tx| Ok(tx.execute(over, [])? + tx.execute(done, [])?)).await.unwrap();
    world.owner.delete("/v1/orgs/gone/devices/s").await.ok(204);
    world.owner.post("/v1/orgs/gone/projects/yard/archive", json!({})).await.ok(200);
    for email in ["vic@gone.example", "crew-1@gone.example", "guest-1@guest.example"] {
        world.owner.delete(&format!("/v1/orgs/gone/members/{email}")).await.ok(204);
    }
    world.owner.delete(&format!("/v1/orgs/gone/invitations/{}", waits["id"].as_str().unwrap())).await.ok(204);
    // What is left of what was paid is given up by whoever says how much it is.
    for given in ["", "&forfeit=5", "&forfeit=0"] {
        let told = world.owner.delete(&format!("/v1/orgs/gone?confirm=gone{given}")).await.problem("conflict").detail;
        assert!(told.contains("--forfeit 0.000000005") && !told.contains(';'), "{told}");
    }
    world.owner.delete("/v1/orgs/gone?confirm=gone&forfeit=much").await.problem("invalid");
    let forfeit = "forfeit=0.000000005";
    for path in ["/v1/orgs/gone?", "/v1/orgs/gone?confirm=zeta&", "/v1/orgs/gone?confirm=&"].map(|path| format!("{path}{forfeit}")) {
        let told = world.owner.delete(&path).await.problem("invalid").detail;
        assert!(told.contains("?confirm=gone"), "{told}");
    }
    world.owner.delete(&format!("/v1/orgs/gone?confirm=gone&{forfeit}")).await.ok(204);
    world.owner.get("/v1/orgs/gone").await.problem("not_found");
    world.owner.delete("/v1/orgs/gone?confirm=gone").await.problem("not_found");
    // Samples go in slices, as the upkeep does it.
    while world.hub.state.store.write(|tx| telemetry::prune(tx, 0, 100)).await.unwrap() {}

    let after = dump(&world).await;
    let kept = ["audit", "ledger", "usage_days", "charges", "device_keys", "deleted_orgs"];
    let mut looked = 0;
    for (table, rows) in &after {
        for row in &before[table] {
            assert!(rows.contains(row) || row.contains("gone"), "{table} lost what was not its own: {row}");
            looked += 1;
        }
        for row in rows.difference(&before[table]) {
            // People outlive organizations.
            let person = table == "accounts" && !row.contains("service");
            assert!(kept.contains(&table.as_str()) || person, "{table} kept: {row}");
        }
        assert!(kept.contains(&table.as_str()) || rows.iter().all(|row| !row.contains("'gone'")), "{table}: {rows:?}");
    }
    assert!(looked > 50, "{looked}");
    world.owner.get("/v1/orgs/zeta").await.ok(200);

    // Its records stand under the id, so nobody gets it again, to read them.
    let told = world.owner.post("/v1/orgs", json!({ "id": "gone" })).await.problem("exists").detail;
    assert!(told.contains("deleted"), "{told}");
    let fine = world.owner.delete("/v1/orgs/acme?confirm=acme").await.problem("conflict").detail;
    assert!(fine.contains("project that is not archived") && !fine.contains("device"), "{fine}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_on_the_list_stands_in_the_way_whatever_its_admission() {
    let world = World::new().await;
    world.owner.post("/v1/orgs/acme/projects/lab/archive", json!({})).await.ok(200);
    let token = world.enrolment_token(json!({})).await;
    Device::new("robot-1").enrol(&world, &token).await.ok(200);
    let told = world.owner.delete("/v1/orgs/acme?confirm=acme").await.problem("conflict").detail;
    assert_eq!(told, "acme cannot be deleted yet. In the way: 1 device (delete them: muster device delete)");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_who_cannot_log_in_is_not_the_last_one() {
    let world = World::new().await;
    world.joins("bea@acme.example", "acme", "owner").await;
    world.owner.post("/v1/orgs/acme/service-accounts", json!({ "name": "ci" })).await.ok(201);
    let sql = async |sql: &'static str| world.hub.state.store.write(move |tx| Ok(tx.execute(sql, [])?)).await.unwrap();
    // No request makes a program an owner; if one is, it is nobody to leave an organization to.
    sql("INSERT INTO members (org, account, role, since) SELECT 'acme', id, 'owner', 0 FROM accounts WHERE kind = 'service'").await;
    for (gone, back) in [
        ("UPDATE accounts SET disabled_at = 1 WHERE email = 'bea@acme.example'", "UPDATE accounts SET disabled_at = NULL"),
        ("UPDATE accounts SET closed_at = 1 WHERE email = 'bea@acme.example'", "UPDATE accounts SET closed_at = NULL"),
    ] {
        sql(gone).await;
        let told = world.owner.post("/v1/orgs/acme/leave", json!({})).await.problem("conflict").detail;
        assert!(told.contains("last owner of acme"), "{told}");
        world.owner.put(&format!("/v1/orgs/acme/members/{OWNER}"), json!({ "role": "viewer" })).await.problem("conflict");
        // One who is set aside can be taken out all the same.
        world.owner.put("/v1/orgs/acme/members/bea@acme.example", json!({ "role": "member" })).await.ok(200);
        sql(back).await;
        world.owner.put("/v1/orgs/acme/members/bea@acme.example", json!({ "role": "owner" })).await.ok(200);
    }
    world.owner.post("/v1/orgs/acme/leave", json!({})).await.ok(204);
}
