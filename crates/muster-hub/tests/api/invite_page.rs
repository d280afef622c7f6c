//! The page behind an invitation's link, with its script run as a browser runs it (jsdom from npm).

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::world::{World, token_of};

fn tools() -> PathBuf {
    let place = std::env::var_os("MUSTER_TEST_TOOLS").map(PathBuf::from);
    place.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/test-tools")).join("page")
}

/// Opens a link, takes these steps, and gives what stands there then.
async fn visit(world: &World, link: &str, steps: Value) -> Value {
    let tools = tools();
    assert!(tools.join("installed.json").exists(), "there is no jsdom: run scripts/install-test-tools");
    let mut node = Command::new("node");
    node.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/page/visit.mjs")).arg(tools).arg(link).arg(steps.to_string());
    node.env("NODE_EXTRA_CA_CERTS", world.hub.state.config.data_dir.join("ca.pem"));
    let seen = tokio::task::spawn_blocking(move || node.output().expect("node runs")).await.unwrap();
    let (said, errors) = (String::from_utf8(seen.stdout).unwrap(), String::from_utf8(seen.stderr).unwrap());
    let page: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}{errors}"));
    assert_eq!((&page["blocked"], &page["errors"], &page["images"]), (&json!(false), &json!([]), &json!(0)), "{page}");
    // What stands behind the # goes nowhere but into the bodies of these two requests.
    assert!(
        page["asked"].as_array().unwrap().iter().all(|path| path == "/v1/invitations/look" || path == "/v1/invitations/accept"),
        "{page}"
    );
    page
}

async fn invite(world: &World, wanted: Value) -> Value {
    world.owner.post("/v1/orgs/acme/invitations", wanted).await.ok(201)
}

fn link(world: &World, token: &str) -> String {
    format!("https://{}/invite#{token}", world.hub.https)
}

#[track_caller]
fn says(page: &Value, id: &str, text: &str, bad: bool) {
    assert!(page[id]["text"].as_str().unwrap().contains(text) && page[id]["bad"] == bad, "{text}: {page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_person_makes_an_account_on_the_page() {
    let world = World::new().await;
    // What people wrote is text, whatever it looks like.
    let name = "<img src=x onerror=alert(1)> & \"Söhne\"";
    world.owner.patch("/v1/orgs/acme", json!({ "name": name })).await.ok(200);
    let made = invite(&world, json!({ "email": "bob@new.example", "role": "viewer" })).await;
    let link = link(&world, token_of(&made));
    let page = visit(&world, &link, json!([])).await;
    says(
        &page,
        "what",
        &format!("ada@acme.example invites bob@new.example to {name} (acme) with the viewer role. The link is good until "),
        false,
    );
    assert_eq!((&page["form"], &page["command"]), (&json!(true), &json!(format!("muster invitation accept '{link}'"))), "{page}");
    // Nothing is sent while the two passwords differ, or where something is missing the page's form says it itself.
    let filled = |again: &str| json!({ "name": "Bob", "password": "correct horse battery", "again": again });
    let page = visit(&world, &link, json!([{ "set": filled("correct horse") }, { "submit": "new" }])).await;
    says(&page, "said", "The two passwords differ.", true);
    assert_eq!(page["asked"], json!(["/v1/invitations/look"]), "{page}");
    // What the hub refuses is said in its words, and can be mended.
    let short = json!({ "name": "Bob", "password": "short", "again": "short" });
    let steps = json!([{ "set": short }, { "submit": "new" }, { "set": filled("correct horse battery") }, { "submit": "new" }]);
    let refused = visit(&world, &link, json!([steps[0], steps[1]])).await;
    says(&refused, "said", "password: a password has at least 10 characters", true);
    assert_eq!(refused["form"], true);
    let page = visit(&world, &link, steps).await;
    says(&page, "said", &format!("Your account bob@new.example is ready. Log in with: muster login https://{}", world.hub.https), false);
    assert_eq!((&page["form"], &page["location"]), (&json!(false), &json!(format!("https://{}/invite", world.hub.https))), "{page}");
    let login = json!({ "email": "bob@new.example", "password": "correct horse battery" });
    let token = world.stranger().post("/v1/login", login).await.ok(201)["token"].as_str().unwrap().to_owned();
    let me = world.with_token(&token).get("/v1/me").await.ok(200);
    assert_eq!((&me["name"], &me["orgs"][0]["role"]), (&json!("Bob"), &json!("viewer")), "{me}");
    // The link is used up.
    let page = visit(&world, &link, json!([])).await;
    says(&page, "what", "this invitation was accepted already", true);
    assert_eq!(page["form"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_an_account_is_sent_to_the_command_line_and_a_bad_link_is_told() {
    let world = World::new().await;
    world.person("eve@else.example").await;
    let made = invite(&world, json!({ "email": "eve@else.example", "project": "lab", "project_role": "connect" })).await;
    let page = visit(&world, &link(&world, token_of(&made)), json!([])).await;
    says(&page, "what", "invites eve@else.example to the project lab of acme with the connect role", false);
    says(&page, "said", "eve@else.example has an account here: log in with muster login", false);
    assert_eq!(page["form"], false);
    // Without its end it is asked nothing; with another end it is not known.
    let token = token_of(&made);
    for cut in ["", "mi1", &token[..token.rfind('.').unwrap()], "mi1.<script>.x.y", "mi1.%E0%A4%A", "%"] {
        let page = visit(&world, &link(&world, cut), json!([])).await;
        says(&page, "what", "This link is not whole", true);
        assert_eq!((&page["asked"], &page["form"]), (&json!([]), &json!(false)), "{cut}");
    }
    world.owner.delete(&format!("/v1/orgs/acme/invitations/{}", made["id"].as_str().unwrap())).await.ok(204);
    let page = visit(&world, &link(&world, token), json!([])).await;
    says(&page, "what", "this invitation was withdrawn", true);
}
