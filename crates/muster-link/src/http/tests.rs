//! Calls against a server that answers from a list, byte for byte.

use std::sync::atomic::{AtomicUsize, Ordering};

use muster_proto::problem::Code;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::test_hub::Authority;
use crate::tls::{Clock, Trust, client_config};

/// A hub whose connections each give these answers, one per request, and then close. Requests are passed on as text.
async fn hub(answers: &'static [&'static str]) -> (Hub, tokio::sync::mpsc::Receiver<String>, Arc<AtomicUsize>) {
    let authority = Authority::new();
    let config = authority.server(&["127.0.0.1"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let (sender, receiver) = tokio::sync::mpsc::channel(16);
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let mut stream = TlsAcceptor::from(Arc::clone(&config)).accept(tcp).await.unwrap();
            for answer in answers {
                let mut request = Vec::new();
                // Every request here fits one read after its head; a body is short.
                while !request.windows(4).any(|four| four == b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap_or(0) > 0 {}
                if request.is_empty() {
                    break;
                }
                sender.send(String::from_utf8(request).unwrap()).await.unwrap();
                stream.write_all(answer.as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
            }
            let _ = stream.shutdown().await;
        }
    });
    let tls = client_config(&Trust::Pin(authority.pin()), None, &Clock::default()).unwrap();
    (Hub::from_url(&url, tls, None).unwrap(), receiver, connections)
}

const NONE: Option<&()> = None;

#[tokio::test]
async fn a_connection_is_kept_for_the_next_call() {
    let (mut hub, mut requests, connections) = hub(&[
        "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{\"a\": 1}",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\n[1,2\r\n3\r\n,3]\r\n0\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n\r\n",
    ])
    .await;
    let first: serde_json::Value = hub.call("POST", "/v1/x?y=1", Some("mp1.secret"), Some(&serde_json::json!({"k": "v"}))).await.unwrap();
    assert_eq!(first["a"], 1);
    let second: Vec<u8> = hub.call("GET", "/v1/list", None, NONE).await.unwrap();
    assert_eq!(second, [1, 2, 3]);
    hub.call::<()>("DELETE", "/v1/x", None, NONE).await.unwrap();
    assert_eq!(connections.load(Ordering::SeqCst), 1);
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("POST /v1/x?y=1 HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
    for line in ["Authorization: Bearer mp1.secret\r\n", "Content-Type: application/json\r\nContent-Length: 9\r\n"] {
        assert!(request.contains(line), "{request}");
    }
    // The server closes after three answers; the fourth call dials again.
    let again: serde_json::Value = hub.call("GET", "/v1/x", None, NONE).await.unwrap();
    assert_eq!((again["a"].as_i64(), connections.load(Ordering::SeqCst)), (Some(1), 2));
}

#[tokio::test]
async fn a_problem_keeps_its_code_and_sentence() {
    let (mut hub, _requests, _) = hub(&["HTTP/1.1 403 Forbidden\r\ncontent-type: application/problem+json\r\ncontent-length: 71\r\n\r\n{\"code\":\"forbidden\",\"status\":403,\"detail\":\"only owners may do this\"}    "]).await;
    let error = hub.call::<()>("GET", "/v1/x", None, NONE).await.unwrap_err();
    assert!(error.problem().is_some_and(|problem| problem.is(Code::Forbidden)), "{error:?}");
    assert_eq!(error.to_string(), "only owners may do this");
}

#[tokio::test]
async fn what_is_not_a_hub_is_said_to_be_none() {
    for (answers, words) in [
        (&["HTTP/1.1 502 Bad Gateway\r\ncontent-length: 6\r\n\r\n<html>"][..], "status 502"),
        (&["SSH-2.0-OpenSSH_9.2\r\n\r\n"][..], "not HTTP"),
        (&["HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n"][..], "over the limit"),
        (&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"][..], "damaged"),
        (&["HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnope"][..], "something else than expected"),
    ] {
        let (mut hub, _requests, _) = hub(answers).await;
        let error = hub.call::<Vec<u8>>("GET", "/v1/x?secret=1", None, NONE).await.unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("GET /v1/x") && !error.contains("secret"), "{error}");
    }
}

#[tokio::test]
async fn a_hub_that_says_nothing_is_given_up() {
    let (mut hub, _requests, connections) = hub(&[""]).await;
    let request = Request { timeout: Duration::from_millis(100), ..Request::new("GET", "/v1/x") };
    // The empty answer is followed by the connection's end.
    assert!(matches!(hub.send(&request).await, Err(CallError::Lost { .. } | CallError::Timeout { .. })));
    assert_eq!(connections.load(Ordering::SeqCst), 1, "a fresh connection's failure is not tried again");
}

#[tokio::test]
async fn a_stream_is_handed_on_as_it_comes() {
    let (mut hub, mut requests, connections) =
        hub(&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\n{\"a\":1\r\n3\r\n}\n\n\r\n0\r\n\r\n"]).await;
    for _ in 0..2 {
        let mut came = Vec::new();
        let request = Request { bearer: Some("mp1.secret"), ..Request::new("GET", "/v1/lines?follow=true") };
        hub.stream(&request, |bytes| {
            came.extend_from_slice(bytes);
            Ok(())
        })
        .await
        .unwrap();
        assert_eq!(came, b"{\"a\":1}\n\n");
        assert!(requests.recv().await.unwrap().contains("Authorization: Bearer mp1.secret\r\n"));
    }
    assert_eq!(connections.load(Ordering::SeqCst), 2, "each on a connection of its own");
    // Whoever takes it may stop it.
    let stopped = hub.stream(&Request::new("GET", "/v1/lines"), |_| Err(io::Error::other("enough"))).await.unwrap_err();
    assert!(stopped.to_string().contains("enough"), "{stopped}");
}

#[tokio::test]
async fn a_stream_that_is_cut_off_or_refused_is_no_whole_one() {
    let take = |answers: &'static [&'static str]| async move {
        let (mut hub, _requests, _) = hub(answers).await;
        let mut came = Vec::new();
        let done = hub
            .stream(&Request::new("GET", "/v1/file"), |bytes| {
                came.extend_from_slice(bytes);
                Ok(())
            })
            .await;
        (done, came)
    };
    let (done, came) = take(&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"]).await;
    assert!(matches!(done, Err(CallError::Lost { .. })), "{done:?}");
    assert_eq!(came, b"hello");
    let (done, _) = take(&["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhello"]).await;
    assert!(matches!(done, Err(CallError::Lost { .. })), "{done:?}");
    let (done, _) = take(&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhelloXX"]).await;
    assert!(matches!(done, Err(CallError::Answer { .. })), "{done:?}");
    let (done, came) =
        take(&["HTTP/1.1 403 Forbidden\r\ncontent-length: 52\r\n\r\n{\"code\":\"forbidden\",\"status\":403,\"detail\":\"not you\"}\n"])
            .await;
    assert!(matches!(done, Err(CallError::Problem(problem)) if problem.is(Code::Forbidden)), "{came:?}");
    assert!(came.is_empty());
    let (done, came) = take(&["HTTP/1.1 200 OK\r\n\r\nuntil the end"]).await;
    assert!(done.is_ok() && came == b"until the end");
}
