//! Tests of dialling: each way in which a hub is not reached has its own error with its own sentence.

use super::*;

#[test]
fn urls_parse_to_endpoints() {
    for (url, host, port, path) in [
        ("https://hub.example.com", "hub.example.com", 443, "/"),
        ("https://hub.example.com:8443/", "hub.example.com", 8443, "/"),
        ("mqtts://10.0.0.1", "10.0.0.1", 8883, "/"),
        ("wss://[::1]:9/v1/sessions/s?a=b", "::1", 9, "/v1/sessions/s?a=b"),
        ("https://hub?x=1#y", "hub", 443, "/?x=1"),
    ] {
        let endpoint: Endpoint = url.parse().unwrap();
        assert_eq!((&*endpoint.host, endpoint.port, &*endpoint.path), (host, port, path), "{url}");
    }
    for bad in [
        "",
        "hub.example.com",
        "http://hub",
        "https://",
        "https://hub:0",
        "https://hub:x",
        "https://a:b@hub",
        "https://h b",
        "https://[::1",
        "https://hub/a b",
    ] {
        assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
    }
}

#[test]
fn proxies_parse_and_hide_their_password() {
    let proxy: Proxy = "http://us%3Aer:p%40ss@proxy:8080/".parse().unwrap();
    assert_eq!(proxy.to_string(), "proxy:8080");
    assert!(!format!("{proxy:?}").contains("ss"));
    assert_eq!("proxy".parse::<Proxy>().unwrap().to_string(), "proxy:3128");
    assert_eq!("HTTP://proxy:1".parse::<Proxy>().unwrap().to_string(), "proxy:1");
    for (url, why) in [("socks5://proxy", "SOCKS"), ("SOCKS5h://proxy:1080", "SOCKS"), ("https://proxy", "HTTP"), ("http://", "host")] {
        let refused = url.parse::<Proxy>().unwrap_err().to_string();
        assert!(refused.contains(why), "{url}: {refused}");
    }
}

#[test]
fn a_hub_is_written_with_its_scheme_or_without() {
    for written in ["hub.example.com:8443", "https://hub.example.com:8443", " HTTPS://hub.example.com:8443/ "] {
        assert_eq!(Endpoint::hub(written).unwrap().to_string(), "https://hub.example.com:8443/", "{written}");
    }
    assert_eq!(Endpoint::hub("[::1]").unwrap().authority(), "[::1]:443");
    for (bad, why) in
        [("http://hub", "only encrypted"), ("wss://hub", "starts with https://"), ("hub/v1", "ends with the host"), ("", "host")]
    {
        let refused = Endpoint::hub(bad).unwrap_err().to_string();
        assert!(refused.contains(why), "{bad}: {refused}");
    }
}

#[test]
fn families_take_turns() {
    let list = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"].map(|text| text.parse::<SocketAddr>().unwrap());
    let turns: Vec<bool> = interleave(list.to_vec()).iter().map(SocketAddr::is_ipv6).collect();
    assert_eq!(turns, [true, false, true, true]);
}

/// A proxy that answers its one visitor with `answer`, and connects if that is a yes. Gives the request's head.
async fn proxy(answer: &'static str) -> (Proxy, tokio::task::JoinHandle<String>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://us%65r:pass@{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        let (mut near, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(near.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        near.write_all(answer.as_bytes()).await.unwrap();
        if answer.contains(" 200 ") {
            let target = head.split(' ').nth(1).unwrap().to_owned();
            let mut far = TcpStream::connect(target).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
        }
        head
    });
    (url.parse().unwrap(), task)
}

#[tokio::test]
async fn a_proxy_is_asked_with_its_password_and_its_answer_is_explained() {
    let authority = crate::test_hub::Authority::new();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Endpoint = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(authority.server(&["127.0.0.1"]));
    tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let _ = acceptor.accept(tcp).await;
    });
    let tls = || tls::client_config(&tls::Trust::Pin(authority.pin()), None, &tls::Clock::default()).unwrap();

    let (way, task) = proxy("HTTP/1.1 200 Connection established\r\n\r\n").await;
    drop(Dialer::new(tls()).via(Some(way)).dial(&endpoint).await.unwrap());
    let head = task.await.unwrap();
    assert!(head.starts_with(&format!("CONNECT {} HTTP/1.1\r\n", endpoint.authority())), "{head}");
    // user:pass
    assert!(head.contains("Proxy-Authorization: Basic dXNlcjpwYXNz\r\n"), "{head}");

    for (answer, words) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "user name and a password"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "forbids this address"),
        ("HTTP/1.1 502 Bad Gateway\r\n\r\n", "cannot reach the hub"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
    ] {
        let (way, _task) = proxy(answer).await;
        let error = Dialer::new(tls()).via(Some(way)).dial(&endpoint).await.unwrap_err();
        assert!(matches!(error, DialError::Proxy { .. }) && error.to_string().contains(words), "{error}");
    }
}

#[tokio::test]
async fn one_timeout_spans_the_whole_dial() {
    // Accepts, and never says a word: only the handshake hangs.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Endpoint = format!("https://{}", listener.local_addr().unwrap()).parse().unwrap();
    let tls = tls::client_config(&tls::Trust::Ca(Vec::new()), None, &tls::Clock::default()).unwrap();
    let dialer = Dialer { timeout: Duration::from_millis(200), ..Dialer::new(tls) };
    let error = dialer.dial(&endpoint).await.unwrap_err();
    assert!(matches!(error, DialError::Timeout { stage: "in the TLS handshake", .. }), "{error}");
}

#[tokio::test]
async fn nothing_there_is_said_so() {
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let tls = tls::client_config(&tls::Trust::Ca(Vec::new()), None, &tls::Clock::default()).unwrap();
    let dial = async |url: &str| Dialer::new(tls.clone()).dial(&url.parse().unwrap()).await.unwrap_err();
    assert!(matches!(dial(&format!("https://{closed}")).await, DialError::Refused { .. }));
    assert!(matches!(dial("https://name.invalid").await, DialError::Dns { .. }));
}
