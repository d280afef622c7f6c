//! The list as a file: what goes out comes in again, mistakes are told with their place, and nothing is half done.

use serde_json::{Value, json};

use crate::list::{encoded, fleet, path};
use crate::world::{Answer, Client};

const IMPORT: &str = "/v1/orgs/acme/devices/import";

async fn import(client: &Client, query: &str, file: impl Into<Vec<u8>>) -> Answer {
    client.raw("POST", &format!("{IMPORT}{query}"), &[("content-type", "text/csv; charset=utf-8")], file.into()).await
}

async fn export(client: &Client, query: &str) -> String {
    let answer = client.get(&format!("/v1/orgs/acme/devices/export{query}")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], "text/csv; charset=utf-8");
    String::from_utf8(answer.body.to_vec()).unwrap()
}

fn counts(result: &Value) -> (u64, u64, u64, u64) {
    let of = |key: &str| result[key].as_u64().unwrap();
    (of("lines"), of("created"), of("updated"), of("unchanged"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_out_comes_in_again() {
    let world = fleet().await;
    let strange = json!({ "fields": { "site": "=HYPERLINK(\"http://x\")" }, "add_labels": ["späť", "-x"], "name": "机器人, \"zwei\"" });
    world.owner.patch("/v1/orgs/acme/devices/SN-002", strange).await.ok(200);
    let file = export(&world.owner, "?sort=rack").await;
    let mut lines = file.lines();
    assert_eq!(lines.next().unwrap(), "id,name,admission,presence,last_seen,projects,labels,site,rack,bought,keeper,stage");
    assert_eq!(lines.next().unwrap(), "SN-001,robot-1,admitted,never,,lab,,bonn,1,2026-01-01,,test");
    let second = lines.next().unwrap();
    assert!(second.contains("\"'=HYPERLINK(\"\"http://x\"\")\"") && second.contains("\"机器人, \"\"zwei\"\"\""), "{second}");
    assert!(second.contains("'-x;even;späť"), "{second}");
    // As it is: nothing changes.
    assert_eq!(counts(&import(&world.owner, "", file.clone()).await.ok(200)), (12, 0, 0, 12));
    // Into an empty list: everything comes back.
    world.owner.post("/v1/orgs/acme/devices/bulk", json!({ "action": "delete", "all": true })).await.ok(200);
    assert_eq!(counts(&import(&world.owner, "?dry_run=true", file.clone()).await.ok(200)), (12, 12, 0, 0));
    assert_eq!(world.owner.get(&path("", "")).await.ok(200)["total"], 0);
    assert_eq!(counts(&import(&world.owner, "", format!("\u{feff}{file}")).await.ok(200)), (12, 12, 0, 0));
    assert_eq!(export(&world.owner, "?sort=rack").await, file);
    let chosen = export(&world.owner, &format!("?filter={}&columns=name,rack,online,missing&sort=-rack", encoded("rack > 10"))).await;
    assert_eq!(chosen, "name,rack,online,missing\nrobot-12,12,false,\nrobot-11,11,false,\n");
    // As half the world's spreadsheets write it.
    let semicolons = "id;name;site;labels\nSN-001;eins;köln;\"a;b\"\nSN-200;;;\n";
    assert_eq!(counts(&import(&world.owner, "", semicolons).await.ok(200)), (2, 1, 1, 0));
    let first = world.owner.get("/v1/orgs/acme/devices/SN-001").await.ok(200);
    assert_eq!((&first["name"], &first["fields"]["site"], &first["labels"]), (&json!("eins"), &json!("köln"), &json!(["a", "b"])));
    let events = world.audit().await;
    let of = |action: &str| events.iter().filter(|event| event["action"] == action && event["result"] == "ok").count();
    assert_eq!(of("device.import"), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_field_that_is_empty_goes_out_and_comes_in_again() {
    let world = fleet().await;
    world.owner.post("/v1/orgs/acme/fields", json!({ "key": "contract", "kind": "text", "required": true })).await.ok(201);
    let file = export(&world.owner, "").await;
    assert!(file.lines().next().unwrap().contains("contract"), "{file}");
    assert_eq!(counts(&import(&world.owner, "", file.clone()).await.ok(200)), (12, 0, 0, 12));
    // What has a value keeps it, and a new device needs one.
    world.owner.patch("/v1/orgs/acme/devices/SN-001", json!({ "fields": { "contract": "A1" } })).await.ok(200);
    for (line, column) in [("id,contract\nSN-001,\n", "contract"), ("id,contract\nSN-300,\n", "contract")] {
        let result = import(&world.owner, "?dry_run=true", line).await.ok(200);
        assert_eq!(result["mistakes"][0]["column"], column, "{result}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_spreadsheets_save_as_unicode_text_is_read() {
    let world = fleet().await;
    let text = "id\tname\tsite\nSN-001\teins \u{1f916}\tköln\n";
    for (mark, little) in [([0xff, 0xfe], true), ([0xfe, 0xff], false)] {
        let units = text.encode_utf16().flat_map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() });
        let file: Vec<u8> = mark.into_iter().chain(units).collect();
        assert_eq!(counts(&import(&world.owner, "?dry_run=true", file.clone()).await.ok(200)), (1, 0, 1, 0), "little: {little}");
        let detail = import(&world.owner, "", &file[..file.len() - 1]).await.problem("invalid").detail;
        assert!(detail.contains("UTF-16"), "{detail}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_is_told_with_its_place_and_nothing_is_done() {
    let world = fleet().await;
    let before = export(&world.owner, "").await;
    let file = "id,name,rack,stage,keeper,colour,projects\n\
                SN-001,fine,1,test,,,\n\
                SN-002,,many,nowhere,zoe@x.example,,\n\
                ,nameless,1,test,,,\n\
                SN-001,again,1,test,,,\n\
                SN-300,short\n\
                SN-301,\u{7},1,test,,,elsewhere\n";
    let tried = import(&world.owner, "?dry_run=true", file).await.ok(200);
    let told: Vec<(u64, &str)> = tried["mistakes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mistake| (mistake["line"].as_u64().unwrap(), mistake["column"].as_str().unwrap_or("-")))
        .collect();
    assert_eq!(
        told,
        [(1, "colour"), (3, "rack"), (3, "stage"), (3, "keeper"), (4, "id"), (5, "id"), (6, "-"), (7, "name"), (7, "projects")],
        "{tried}"
    );
    let problem = import(&world.owner, "", file).await.problem("invalid");
    assert!(problem.detail.starts_with("nothing was imported: line 1, column colour: there is no such column"), "{}", problem.detail);
    assert_eq!(export(&world.owner, "").await, before);
    for (file, code) in [
        (&b""[..], "invalid"),
        (b"name,site\nx,y\n", "invalid"),
        (b"id\n\xff\xfe\n", "invalid"),
        (b"id,site\nSN-1,\"never closed\n", "invalid"),
        (b"\x00\x01\x02", "invalid"),
        (b"PK\x03\x04 a workbook, not a file of lines", "invalid"),
    ] {
        let answer = import(&world.owner, "", file).await;
        // A quote that is never closed is a text to the end: RFC 4180 leaves that open, and the row is one that was meant.
        if answer.status != 200 {
            answer.problem(code);
        }
    }
    let long: String = std::iter::once("id\n".to_owned()).chain((0..10_001).map(|n| format!("X-{n}\n"))).collect();
    import(&world.owner, "", long).await.problem("too_large");
    import(&world.owner, "", vec![b'a'; 10 * 1024 * 1024]).await.problem("too_large");
    world.owner.post(IMPORT, json!({})).await.problem("media_type");
    let vic = world.joins("vic@acme.example", "acme", "viewer").await;
    import(&vic, "", "id\nX-1\n").await.problem("forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_lines_at_once() {
    let world = fleet().await;
    let lines = (0..1000).map(|n| format!("B-{n:04},box {n},berlin,{n},2026-11-22,live,blue;{n},lab\n"));
    let file: String = std::iter::once("id,name,site,rack,bought,stage,labels,projects\n".to_owned()).chain(lines).collect();
    assert_eq!(counts(&import(&world.owner, "", file).await.ok(200)), (1000, 1000, 0, 0));
    let page = world.owner.get(&path("rack >= 998 and label = blue and project = lab", "&sort=-rack")).await.ok(200);
    assert_eq!((page["total"].as_u64(), page["items"][0]["name"].as_str()), (Some(2), Some("box 999")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_rows_come_in_again_whatever_changed_about_what_is_required() {
    let world = fleet().await;
    let zoe = world.joins("zoe@acme.example", "acme", "member").await;
    world.owner.patch("/v1/orgs/acme/devices/SN-001", json!({ "fields": { "keeper": "zoe@acme.example" } })).await.ok(200);
    // Required since today, and empty so far; a keeper who left; a project that is archived.
    let wanted = json!({ "key": "owner_no", "title": "Owner number", "kind": "text", "required": true });
    world.owner.post("/v1/orgs/acme/fields", wanted).await.ok(201);
    zoe.send("DELETE", "/v1/orgs/acme/members/zoe@acme.example", None).await;
    world.owner.send("DELETE", "/v1/orgs/acme/members/zoe@acme.example", None).await;
    world.owner.post("/v1/orgs/acme/projects/lab/archive", json!({})).await.ok(200);
    let file = export(&world.owner, "?sort=rack").await;
    assert!(file.lines().next().unwrap().ends_with(",owner_no") && file.contains(",lab,") && file.contains("zoe@acme.example"), "{file}");
    assert_eq!(counts(&import(&world.owner, "", file.clone()).await.ok(200)), (12, 0, 0, 12));

    // What is new in a row is looked at as ever.
    world.owner.patch("/v1/orgs/acme/devices/SN-002", json!({ "fields": { "owner_no": "7" } })).await.ok(200);
    for (row, column) in [
        ("id,owner_no\nSN-002,\n", "owner_no"),
        ("id,owner_no\nSN-500,\n", "owner_no"),
        ("id,keeper\nSN-002,zoe@acme.example\n", "keeper"),
        ("id,projects,owner_no\nSN-501,lab,8\n", "projects"),
    ] {
        let tried = import(&world.owner, "?dry_run=true", row).await.ok(200);
        let told: Vec<&Value> = tried["mistakes"].as_array().unwrap().iter().map(|mistake| &mistake["column"]).collect();
        assert!(told.contains(&&json!(column)), "{row}: {tried}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_spreadsheets_save_is_read_and_what_would_be_a_guess_is_refused() {
    let world = fleet().await;
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    // "Unicode text" of Excel: UTF-16 with its mark, tabs, CRLF.
    let unicode = [b"\xff\xfe".to_vec(), utf16("id\tname\tsite\r\nSN-001\tGröße 机\tköln\r\n")].concat();
    assert_eq!(counts(&import(&world.owner, "", unicode).await.ok(200)), (1, 0, 1, 0));
    let first = world.owner.get("/v1/orgs/acme/devices/SN-001").await.ok(200);
    assert_eq!((&first["name"], &first["fields"]["site"]), (&json!("Größe 机"), &json!("köln")));
    let big: Vec<u8> = "\u{feff}id,site\nSN-001,bonn\n".encode_utf16().flat_map(u16::to_be_bytes).collect();
    assert_eq!(counts(&import(&world.owner, "", big).await.ok(200)), (1, 0, 1, 0));
    assert_eq!(counts(&import(&world.owner, "", utf16("id;site\r\nSN-001;bonn\r\n")).await.ok(200)), (1, 0, 0, 1));

    let before = export(&world.owner, "").await;
    for (file, why) in [
        (b"id,site\nSN-001,k\xf6ln\n".to_vec(), "line 2 is not UTF-8 text (perhaps it is Latin-1"),
        (b"id,gr\xf6\xdfe\nSN-001,1\n".to_vec(), "line 1 is not UTF-8 text"),
        ([&b"\xff\xfe"[..], &utf16("id\nSN-001"), b"x"].concat(), "looks like UTF-16, and line 2 is damaged"),
        (b"PK\x03\x04 a workbook".to_vec(), "workbook"),
        (b"id\nSN\0-1\n".to_vec(), "zero bytes"),
    ] {
        for how in ["", "?dry_run=true"] {
            let told = import(&world.owner, how, file.clone()).await.problem("invalid").detail;
            assert!(told.contains(why) && told.contains("CSV UTF-8"), "{told}");
        }
    }
    assert_eq!(export(&world.owner, "").await, before);
}
