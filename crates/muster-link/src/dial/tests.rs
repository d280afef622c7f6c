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
    assert!("socks5://proxy".parse::<Proxy>().is_err());
}

#[test]
fn families_take_turns() {
    let list = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1"].map(|text| text.parse::<SocketAddr>().unwrap());
    let turns: Vec<bool> = interleave(list.to_vec()).iter().map(SocketAddr::is_ipv6).collect();
    assert_eq!(turns, [true, false, true, true]);
}
