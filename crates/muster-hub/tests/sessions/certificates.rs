//! Whose certificate lets in where: one for a session is good for that session's leg on the device's side, and for nothing else.

use super::*;

/// What a request comes to: "let in", the problem's code, or no TLS at all.
async fn asks(hub: &Whole, papers: &Papers, method: &str, path: &str, bearer: &str) -> String {
    let url = format!("https://{}", hub.https).replace("127.0.0.1", "localhost");
    let dialer = Dialer::new(Arc::new(client_tls(hub.running.state.ca.der(), Some(papers))));
    let mut http = Http::new(&url.parse().unwrap(), dialer);
    let body = (method == "POST").then_some(&b"{\"csr\":\"\"}"[..]);
    match http.send(&Request { bearer: Some(bearer), body, ..Request::new(method, path) }).await {
        Err(_) => "no TLS".to_owned(),
        Ok(answer) if answer.status < 400 => "let in".to_owned(),
        Ok(answer) => {
            let problem: Problem = serde_json::from_slice(&answer.body).unwrap();
            // The leg is let in, and what comes then is no WebSocket.
            if problem.detail.contains("speaks WebSocket") { "let in".to_owned() } else { problem.code }
        }
    }
}

/// A session to a device that is on its way, as the device has it.
async fn opening(hub: &Whole, link: &mut Raw<tokio_rustls::client::TlsStream<TcpStream>>) -> (SessionOpen, String) {
    let ticket = hub.open(A, &json!({})).await.unwrap();
    let open = loop {
        match order(&link.packet().await.unwrap()) {
            SessionOrder::Open(signed) if inside(&signed).session == ticket.session => break inside(&signed),
            _ => {}
        }
    };
    let path = open.relay[open.relay.find("/v1/").unwrap()..].to_owned();
    (open, path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_a_session_lets_in_at_that_leg_and_nowhere_else() {
    let hub = Whole::start().await;
    let (a, b) = (hub.device(A).await, hub.device(B).await);
    let mut link = hub.linked(A, &a).await;
    let ((first, path), (second, other_path)) = (opening(&hub, &mut link).await, opening(&hub, &mut link).await);
    let id = first.session.as_str();
    let for_first = a.signs(id);
    assert_eq!(asks(&hub, &for_first, "GET", &path, &first.ticket).await, "let in");

    // Its dates are the device's, whose clock may be wrong.
    let mut ended = named(id);
    (ended.not_before, ended.not_after) = (rcgen::date_time_ymd(1975, 1, 1), rcgen::date_time_ymd(1976, 1, 1));
    assert_eq!(asks(&hub, &a.signs_params(&ended), "GET", &path, &first.ticket).await, "let in");

    // With the other session's own ticket, too.
    assert_eq!(asks(&hub, &for_first, "GET", &other_path, &second.ticket).await, "unauthenticated");
    for (method, path) in [("GET", "/v1/device/self"), ("POST", "/v1/device/renew"), ("GET", "/mqtt"), ("GET", "/v1/me")] {
        assert_eq!(asks(&hub, &for_first, method, path, &first.ticket).await, "unauthenticated", "{method} {path}");
    }
    // The device's own certificate is for all of these, and not for the leg.
    assert_eq!(asks(&hub, &a, "GET", "/v1/device/self", "").await, "let in");
    let refused = hub.leg(&first.relay, &first.ticket, Some(&a)).await.err().unwrap();
    assert_eq!(refused.code, "unauthenticated");
    assert!(refused.detail.contains("made for this session"), "{refused}");

    let stranger = self_signed(id);
    let signed_by_a = a.signs(id);
    let forged: Vec<(&str, Papers)> = vec![
        ("another device's key signed it", b.signs(id).after(&[&a.certificate])),
        ("it signed itself", stranger.after(&[&a.certificate])),
        ("it signed itself, twice", stranger.after(&[&stranger.certificate])),
        ("alone", signed_by_a.after(&[])),
        ("of another session, and that one of the device", a.signs(second.session.as_str()).signs(id)),
        ("a chain of three", signed_by_a.after(&[&a.certificate, hub.running.state.ca.der()])),
        ("below a session's own certificate", signed_by_a.signs(id).after(&[&signed_by_a.certificate])),
        ("the authority in the device's place", signed_by_a.after(&[hub.running.state.ca.der()])),
        ("signed in the name of a device", a.signs(B)),
        ("signed in the name of the device itself", a.signs(A)),
        ("signed in no session's name", a.signs("session")),
        ("of a device of another hub", Whole::start().await.device(A).await.signs(id)),
    ];
    let count = forged.len();
    for (what, papers) in forged {
        for path in [path.as_str(), "/v1/device/self", "/mqtt"] {
            let got = asks(&hub, &papers, "GET", path, &first.ticket).await;
            assert_eq!(got, "no TLS", "{what}: {path}");
        }
    }
    assert_eq!(count, 12);
    // Another device's, made as it should be: it is not this device's session.
    assert_eq!(asks(&hub, &b.signs(id), "GET", &path, &first.ticket).await, "forbidden");
    hub.running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_for_a_session_ends_with_its_device() {
    let hub = Whole::start().await;
    let a = hub.device(A).await;
    let mut link = hub.linked(A, &a).await;
    let (open, path) = opening(&hub, &mut link).await;
    let papers = a.signs(open.session.as_str());
    let set = async |sql: &'static str| {
        let changed = hub.running.state.store.write(move |tx| Ok(tx.execute(sql, [A])?)).await.unwrap();
        assert_eq!(changed, 1, "{sql}");
    };
    for (admission, code) in
        [("revoked", "device_revoked"), ("rejected", "device_rejected"), ("pending", "device_pending"), ("admitted", "let in")]
    {
        let sql = match admission {
            "revoked" => "UPDATE devices SET admission = 'revoked' WHERE uid = ?1",
            "rejected" => "UPDATE devices SET admission = 'rejected' WHERE uid = ?1",
            "pending" => "UPDATE devices SET admission = 'pending' WHERE uid = ?1",
            _ => "UPDATE devices SET admission = 'admitted' WHERE uid = ?1",
        };
        set(sql).await;
        assert_eq!(asks(&hub, &papers, "GET", &path, &open.ticket).await, code, "{admission}");
    }
    // Its key was replaced: whoever still signs with it has a copy.
    set("UPDATE device_keys SET state = 'retired', reason = 'replaced' WHERE uid = ?1").await;
    assert_eq!(asks(&hub, &papers, "GET", &path, &open.ticket).await, "device_revoked");
    let alarms = hub
        .running
        .state
        .store
        .read(|db| Ok(db.query_row("SELECT count(*) FROM audit WHERE action = 'device.clone_alarm'", [], |row| row.get::<_, i64>(0))?));
    assert_eq!(alarms.await.unwrap(), 1);
    hub.running.stop().await;
}

/// A certificate of that name that nobody but itself signed.
fn self_signed(name: &str) -> Papers {
    let pair = rcgen::KeyPair::generate().unwrap();
    let certificate = named(name).self_signed(&pair).unwrap();
    Papers { certificate: certificate.der().clone(), certificate_pem: certificate.pem(), key_pem: pair.serialize_pem(), chain: Vec::new() }
}
