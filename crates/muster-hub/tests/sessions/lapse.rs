//! A right that goes takes the live session with it, within a second, with a sentence that says why; and nobody else's.

use std::time::{Duration, Instant};

use super::*;

/// How long a session may live on after the answer to the request that took the right.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A hub with a device in `lab`, and people whose sessions live.
struct Scene {
    hub: Whole,
    papers: Papers,
    link: Raw<tokio_rustls::client::TlsStream<TcpStream>>,
}

/// Both legs of a live session.
struct Live {
    ticket: SessionTicket,
    client: WebSocket,
    device: WebSocket,
}

impl Scene {
    async fn new() -> Self {
        let hub = Whole::start().await;
        let papers = hub.device(A).await;
        let link = hub.linked(A, &papers).await;
        Self { hub, papers, link }
    }

    async fn sql(&self, sql: &'static str) {
        let changed = self.hub.running.state.store.write(move |tx| Ok(tx.execute(sql, [])?)).await.unwrap();
        assert!(changed > 0, "{sql}");
    }

    /// Somebody who may have a session: the statements give the right.
    async fn person(&self, email: &str, rights: &[&str]) -> String {
        let token = self.hub.person(email, None).await;
        for right in rights {
            let (sql, email) = (format!("INSERT INTO {right} FROM accounts WHERE email = ?1"), email.to_owned());
            let given = self.hub.running.state.store.write(move |tx| Ok(tx.execute(&sql, [email])?)).await.unwrap();
            assert_eq!(given, 1);
        }
        token
    }

    async fn open(&mut self, token: &str) -> Live {
        let path = format!("/v1/orgs/acme/devices/{A}/sessions");
        let ticket = self.hub.call(token, "POST", &path, &json!({ "project": "lab" })).await.unwrap();
        let ticket: SessionTicket = serde_json::from_value(ticket).unwrap();
        let open = loop {
            // Ends of earlier sessions may stand before it.
            let packet = self.link.packet().await.unwrap();
            self.link.acknowledge(&packet).await;
            match order(&packet) {
                SessionOrder::Open(signed) if inside(&signed).session == ticket.session => break inside(&signed),
                _ => {}
            }
        };
        let mut client = self.hub.leg(&ticket.relay, &ticket.ticket, None).await.unwrap();
        let mut device = self.hub.leg(&open.relay, &open.ticket, Some(&self.papers.signs(open.session.as_str()))).await.unwrap();
        client.queue_text("hi");
        client.flush().await.unwrap();
        assert_eq!(text(&mut device).await, "hi");
        Live { ticket, client, device }
    }

    async fn ask(&self, token: &str, method: &str, path: &str, body: &Value) -> u16 {
        let url = format!("https://{}", self.hub.https).replace("127.0.0.1", "localhost");
        let dialer = Dialer::new(Arc::new(client_tls(self.hub.running.state.ca.der(), None)));
        let mut http = Http::new(&url.parse().unwrap(), dialer);
        let body = (!body.is_null()).then(|| body.to_string().into_bytes());
        let path = format!("/v1/orgs/acme{path}");
        let answer = http.send(&Request { bearer: Some(token), body: body.as_deref(), ..Request::new(method, &path) }).await.unwrap();
        assert!(answer.status < 300, "{method} {path}: {}", String::from_utf8_lossy(&answer.body));
        answer.status
    }
}

impl Live {
    /// It ends now, at both ends, with this in the sentence, and the records say so.
    async fn ends(mut self, hub: &Whole, code: &str, why: &str) {
        let since = Instant::now();
        for leg in [&mut self.client, &mut self.device] {
            let said = text(leg).await;
            assert!(said.contains(why) && said.contains(code), "{said}");
        }
        assert!(since.elapsed() < AT_ONCE, "{:?}", since.elapsed());
        let path = format!("/v1/orgs/acme/sessions/{}", self.ticket.session);
        let deadline = Instant::now() + WAIT;
        loop {
            let session: Session = hub.get(&path).await;
            // Over in the relay before it is over in the record.
            if let Some(reason) = session.end_reason {
                assert_eq!(session.state, SessionState::Ended);
                assert!(reason.contains(why), "{reason}");
                return;
            }
            assert!(Instant::now() < deadline, "its record says that it lives");
            tokio::task::yield_now().await;
        }
    }

    /// It lives: what one end says, the other hears.
    async fn lives(&mut self) {
        self.client.queue_text("still here");
        self.client.flush().await.unwrap();
        assert_eq!(text(&mut self.device).await, "still here");
    }
}

const PARTICIPANT: &str = "participants (org, project, account, role, since) SELECT 'acme', 'lab', id, 'operate', 0";
const MEMBER: &str = "members (org, account, role, since) SELECT 'acme', id, 'member', 0";
const IN_TEAM: &str = "team_members (org, team, account, since) SELECT 'acme', 'crew', id, 0";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_loses_the_right_loses_the_session_and_nobody_else_does() {
    let mut scene = Scene::new().await;
    scene.sql("UPDATE projects SET visibility = 'private' WHERE id = 'lab'").await;
    scene.sql("INSERT INTO teams (org, id, name, created_at) VALUES ('acme', 'crew', 'Crew', 0)").await;
    scene.sql("INSERT INTO project_teams (org, project, team, role, since) VALUES ('acme', 'lab', 'crew', 'connect', 0)").await;
    let ada = scene.hub.token.clone();
    let mut bystander = scene.open(&ada).await;

    // Leaves by himself, a collaborator.
    let ben = scene.person("ben@guest.example", &[PARTICIPANT]).await;
    let live = scene.open(&ben).await;
    scene.ask(&ben, "POST", "/leave", &Value::Null).await;
    live.ends(&scene.hub, "forbidden", "ben@guest.example no longer belongs to acme").await;

    // A member is removed, with all that he had.
    let cid = scene.person("cid@acme.example", &[MEMBER, PARTICIPANT, IN_TEAM]).await;
    let live = scene.open(&cid).await;
    scene.ask(&ada, "DELETE", "/members/cid@acme.example", &Value::Null).await;
    live.ends(&scene.hub, "forbidden", "cid@acme.example no longer belongs to acme").await;

    // Down to a role that only looks.
    let dan = scene.person("dan@guest.example", &[PARTICIPANT]).await;
    let live = scene.open(&dan).await;
    scene.ask(&ada, "PUT", "/projects/lab/participants/dan@guest.example", &json!({ "role": "view" })).await;
    live.ends(&scene.hub, "forbidden", "only the role view in project lab now, and this needs connect").await;

    // From one sufficient role to another, nothing happens.
    let eve = scene.person("eve@acme.example", &[MEMBER, PARTICIPANT]).await;
    let mut live = scene.open(&eve).await;
    scene.ask(&ada, "PUT", "/projects/lab/participants/eve@acme.example", &json!({ "role": "connect" })).await;
    live.lives().await;
    scene.ask(&ada, "DELETE", "/projects/lab/participants/eve@acme.example", &Value::Null).await;
    live.ends(&scene.hub, "forbidden", "eve@acme.example no longer has a role in project lab").await;

    // Through a team: the person goes, the role goes, the team goes.
    let fay = scene.person("fay@acme.example", &[MEMBER, IN_TEAM]).await;
    let live = scene.open(&fay).await;
    scene.ask(&ada, "DELETE", "/teams/crew/members/fay@acme.example", &Value::Null).await;
    live.ends(&scene.hub, "forbidden", "fay@acme.example no longer has a role in project lab").await;
    scene.ask(&ada, "PUT", "/teams/crew/members/fay@acme.example", &Value::Null).await;
    let live = scene.open(&fay).await;
    scene.ask(&ada, "DELETE", "/projects/lab/teams/crew", &Value::Null).await;
    live.ends(&scene.hub, "forbidden", "fay@acme.example no longer has a role in project lab").await;
    scene.ask(&ada, "PUT", "/projects/lab/teams/crew", &json!({ "role": "connect" })).await;
    let live = scene.open(&fay).await;
    scene.ask(&ada, "DELETE", "/teams/crew", &Value::Null).await;
    live.ends(&scene.hub, "forbidden", "fay@acme.example no longer has a role in project lab").await;

    // An internal project that becomes private.
    scene.ask(&ada, "PATCH", "/projects/lab", &json!({ "visibility": "internal" })).await;
    let live = scene.open(&fay).await;
    scene.ask(&ada, "PATCH", "/projects/lab", &json!({ "visibility": "private" })).await;
    live.ends(&scene.hub, "forbidden", "fay@acme.example no longer has a role in project lab").await;

    // A command beside the hub, which no request of this hub knows of.
    let gil = scene.person("gil@guest.example", &[PARTICIPANT]).await;
    let live = scene.open(&gil).await;
    scene.sql("UPDATE accounts SET disabled_at = 1 WHERE email = 'gil@guest.example'").await;
    scene
        .sql("UPDATE participants SET role = 'maintain' WHERE account = (SELECT id FROM accounts WHERE email = 'gil@guest.example')")
        .await;
    live.ends(&scene.hub, "forbidden", "the account gil@guest.example is no longer in use").await;

    bystander.lives().await;
    scene.hub.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_archived_project_and_a_device_that_left_it_end_their_sessions_and_refuse_new_ones() {
    let mut scene = Scene::new().await;
    let ada = scene.hub.token.clone();
    let live = scene.open(&ada).await;
    scene.ask(&ada, "POST", "/projects/lab/archive", &Value::Null).await;
    live.ends(&scene.hub, "archived", "project lab was archived").await;
    for wanted in [json!({}), json!({ "project": "lab" })] {
        let refused = scene.hub.open(A, &wanted).await.err().unwrap();
        assert_eq!(refused.code, "archived", "{refused}");
    }
    scene.ask(&ada, "POST", "/projects/lab/restore", &Value::Null).await;
    let live = scene.open(&ada).await;
    scene.ask(&ada, "POST", "/projects/lab/devices", &json!({ "remove": [A] })).await;
    live.ends(&scene.hub, "forbidden", "was taken out of project lab").await;
    scene.ask(&ada, "POST", "/projects/lab/devices", &json!({ "add": [A] })).await;
    // In another project it is still there; the session was in the name of this one.
    scene.ask(&ada, "POST", "/projects", &json!({ "id": "yard" })).await;
    scene.ask(&ada, "POST", "/projects/yard/devices", &json!({ "add": [A] })).await;
    let live = scene.open(&ada).await;
    scene.ask(&ada, "PATCH", &format!("/devices/{A}"), &json!({ "remove_projects": ["lab"] })).await;
    live.ends(&scene.hub, "forbidden", "was taken out of project lab").await;
    scene.hub.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_with_the_token_that_opened_it_withdrawn_or_run_out() {
    let mut scene = Scene::new().await;
    let ben = scene.person("ben@guest.example", &[PARTICIPANT]).await;
    let more = async |name: &str| {
        let made = scene.hub.call(&ben, "POST", "/v1/tokens", &json!({ "name": name })).await.unwrap();
        ["id", "token"].map(|key| made[key].as_str().unwrap().to_owned())
    };
    let [[lost, token_of_lost], [short, token_of_short]] = [more("lost").await, more("short").await];
    let (live, mut other) = (scene.open(&token_of_lost).await, scene.open(&ben).await);
    scene.hub.call(&ben, "DELETE", &format!("/v1/tokens/{lost}"), &Value::Null).await.unwrap();
    live.ends(&scene.hub, "forbidden", &format!("the access token {lost} of ben@guest.example was withdrawn")).await;
    other.lives().await;

    // It runs out without anybody's doing.
    let mut live = scene.open(&token_of_short).await;
    let soon = "UPDATE access_tokens SET expires_at = unixepoch('subsec') * 1000 + 4000 WHERE id = ?1";
    scene.hub.running.state.store.write(move |tx| Ok(tx.execute(soon, [short])?)).await.unwrap();
    live.lives().await;
    for leg in [&mut live.client, &mut live.device] {
        let said = tokio::time::timeout(WAIT, text(leg)).await.unwrap();
        assert!(said.contains("expired") && said.contains("of ben@guest.example has expired; log in again"), "{said}");
    }
    other.lives().await;
    // Whatever ends a token counts: a new password withdraws all others.
    scene.sql("DELETE FROM access_tokens WHERE account = (SELECT id FROM accounts WHERE email = 'ben@guest.example')").await;
    other.ends(&scene.hub, "forbidden", "was withdrawn").await;
    scene.hub.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_for_one_project_has_nothing_of_its_persons_sessions_in_another() {
    let mut scene = Scene::new().await;
    scene.sql("INSERT INTO projects (org, id, name, visibility, created_at) VALUES ('acme', 'attic', 'Attic', 'private', 0)").await;
    let in_attic = "participants (org, project, account, role, since) SELECT 'acme', 'attic', id, 'operate', 0";
    let ben = scene.person("ben@guest.example", &[PARTICIPANT, in_attic]).await;
    let narrow = json!({ "name": "attic", "org": "acme", "project": "attic" });
    let made = scene.hub.call(&ben, "POST", "/v1/tokens", &narrow).await.unwrap();
    let narrow = made["token"].as_str().unwrap();
    let mut live = scene.open(&ben).await;
    let path = format!("/v1/orgs/acme/sessions/{}", live.ticket.session);
    for method in ["GET", "DELETE"] {
        let refused = scene.hub.call(narrow, method, &path, &Value::Null).await.unwrap_err();
        assert!(refused.is(muster_proto::problem::Code::NotFound), "{method}: {refused}");
    }
    live.lives().await;
    scene.hub.call(&ben, "DELETE", &path, &Value::Null).await.unwrap();
    live.ends(&scene.hub, "cancelled", "ended by ben@guest.example").await;
    scene.hub.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_while_the_hub_was_down_is_taken_when_it_comes_up() {
    let mut scene = Scene::new().await;
    let ben = scene.person("ben@guest.example", &[PARTICIPANT]).await;
    let live = scene.open(&ben).await;
    let Scene { hub: Whole { running, token, _dir: dir, .. }, papers, .. } = scene;
    running.stop().await;
    drop(live.device);
    let db = muster_hub::store::Store::open(&dir.path().join("hub.db")).unwrap();
    let gone = db.write(|tx| Ok(tx.execute("DELETE FROM participants WHERE role = 'operate'", [])?)).await.unwrap();
    assert_eq!(gone, 1);
    db.close().await;

    let hub = Whole::again(dir, token).await;
    let _link = hub.linked(A, &papers).await;
    let path = format!("/v1/orgs/acme/sessions/{}", live.ticket.session);
    let deadline = Instant::now() + WAIT;
    let reason = loop {
        let session: Session = hub.get(&path).await;
        match session.end_reason {
            Some(reason) => break reason,
            None => assert!(Instant::now() < deadline, "it lives on"),
        }
        tokio::task::yield_now().await;
    };
    assert!(reason.contains("no longer belongs to acme"), "{reason}");
    hub.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_its_person_takes_over_ends_what_somebody_else_did_by_it() {
    let mut scene = Scene::new().await;
    let ada = scene.hub.token.clone();
    let mut bystander = scene.open(&ada).await;
    let mallory = scene.person("ceo@guest.example", &[PARTICIPANT]).await;
    scene.sql("UPDATE accounts SET verified_at = NULL WHERE email = 'ceo@guest.example'").await;
    let live = scene.open(&mallory).await;
    // A login that somebody approved and whose program has not asked for its token yet.
    scene
        .sql(
            "INSERT INTO device_logins (digest, user_code, token_name, created_at, expires_at, interval_s, account, decision)
             SELECT x'00', 'AAAA-AAAA', 'x', 0, 9000000000000, 5, id, 'approved' FROM accounts WHERE email = 'ceo@guest.example'",
        )
        .await;
    let mailed = async |scene: &Scene, place: Value| {
        let mut wanted = json!({ "email": "ceo@guest.example" });
        wanted.as_object_mut().unwrap().extend(place.as_object().unwrap().clone());
        let made = scene.hub.call(&ada, "POST", "/v1/orgs/acme/invitations", &wanted).await.unwrap();
        scene.sql("UPDATE invitations SET mail_digest = digest, digest = x'00' WHERE accepted_at IS NULL").await;
        made["link"].as_str().unwrap().split_once('#').unwrap().1.to_owned()
    };
    // Who is logged in proves nothing with the mailed link: two may know the password.
    scene.ask(&ada, "POST", "/projects", &json!({ "id": "yard" })).await;
    let link = mailed(&scene, json!({ "project": "yard", "project_role": "view" })).await;
    scene.hub.call(&mallory, "POST", "/v1/invitations/accept", &json!({ "token": link })).await.unwrap();
    // Who is not, and reads the mail, takes it over.
    let link = mailed(&scene, json!({ "role": "viewer" })).await;
    let accepted = json!({ "token": link, "name": "The CEO", "password": "a password of her own", "token_name": "first" });
    let made = scene.hub.call("", "POST", "/v1/invitations/accept", &accepted).await.unwrap();
    live.ends(&scene.hub, "forbidden", "was withdrawn").await;
    let refused = scene.hub.call(&mallory, "GET", "/v1/me", &Value::Null).await.err().unwrap();
    assert_eq!(refused.code, "unauthenticated", "{refused}");
    let left = |db: &rusqlite::Connection| Ok(db.query_row("SELECT count(*) FROM device_logins", [], |row| row.get::<_, i64>(0))?);
    assert_eq!(scene.hub.running.state.store.read(left).await.unwrap(), 0);
    // Hers lives, with what the account was given.
    let mut hers = scene.open(made["token"].as_str().unwrap()).await;
    hers.lives().await;
    bystander.lives().await;
    scene.hub.running.stop().await;
}
