//! The hub's HTTP API as the commands see it: typed calls, whole lists, failures with their exit codes.
//!
//! Knows no files and prints nothing; which hub, which token and whom to trust comes in as arguments.

use std::net::IpAddr;
use std::time::Duration;

use muster_link::dial::{DialError, Dialer, Endpoint, Proxy};
use muster_link::http::{CallError, Hub as Caller, Request};
use muster_link::tls::{Clock, Trust, client_config};
use muster_proto::api::Page;
use muster_proto::network::covers;
use muster_proto::token::{Pin, Token};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use crate::failure::{Exit, Failure};

/// Rows asked for at once, where a whole list is wanted.
const PAGE: usize = 200;
/// Most rows that a hub gives at once. A list without cursors, such as usage, is cut there.
pub const PAGE_MAX: u32 = 1000;
/// Most rows that one list command takes, so that a hub that pages in a circle cannot fill the memory.
const ROWS_MAX: usize = 1_000_000;

/// A hub that is trusted by its authority's pin.
pub struct Hub {
    endpoint: Endpoint,
    dialer: Dialer,
    token: Option<String>,
    /// One connection is kept for the next call; commands call one after the other.
    caller: Mutex<Caller>,
}

impl Hub {
    /// The hub at a normalized URL.
    ///
    /// # Errors
    /// When the URL or the proxy of the environment cannot be used.
    pub fn new(url: &str, pin: Pin, token: Option<&Token>, timeout: Option<Duration>) -> Result<Self, Failure> {
        let endpoint = endpoint(url)?;
        let tls =
            client_config(&Trust::Pin(pin), None, &Clock::default()).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let mut dialer = Dialer::new(tls).via(proxy_for(&endpoint.host, endpoint.port)?);
        if let Some(timeout) = timeout {
            dialer.timeout = timeout;
        }
        let caller = Mutex::new(Caller::new(&endpoint, dialer.clone()));
        Ok(Self { endpoint, dialer, token: token.map(Token::to_string), caller })
    }

    /// How connections to this hub are opened.
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// `GET`.
    ///
    /// # Errors
    /// As every call: the hub's problem, or why it cannot be reached.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.call("GET", path, None::<&()>).await
    }

    /// `POST`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.call("POST", path, Some(body)).await
    }

    /// `PUT`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.call("PUT", path, Some(body)).await
    }

    /// `PATCH`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn patch<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.call("PATCH", path, Some(body)).await
    }

    /// `DELETE`; whatever the hub answers is not looked at.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.call::<serde::de::IgnoredAny>("DELETE", path, None::<&()>).await.map(drop)
    }

    /// `PUT` of something that is not JSON.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn put_bytes<T: DeserializeOwned>(&self, path: &str, media_type: &str, body: &[u8]) -> Result<T, Failure> {
        let request = Request { bearer: self.token.as_deref(), body: Some(body), media_type, ..Request::new("PUT", path) };
        self.caller.lock().await.json(&request).await.map_err(Failure::from)
    }

    /// `POST` of something that is not JSON.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn post_bytes<T: DeserializeOwned>(&self, path: &str, media_type: &str, body: &[u8]) -> Result<T, Failure> {
        let request = Request { bearer: self.token.as_deref(), body: Some(body), media_type, ..Request::new("POST", path) };
        self.caller.lock().await.json(&request).await.map_err(Failure::from)
    }

    /// `GET` of something that is not JSON.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let request = Request { bearer: self.token.as_deref(), ..Request::new("GET", path) };
        self.caller.lock().await.bytes(&request).await.map_err(Failure::from)
    }

    /// A call whose problem the caller looks at.
    ///
    /// # Errors
    /// As [`Self::get`], not yet a failure.
    pub async fn try_call<T: DeserializeOwned>(&self, method: &str, path: &str, body: Option<&impl Serialize>) -> Result<T, CallError> {
        let body = body.map(|body| serde_json::to_vec(body).expect("bodies have text keys and no fallible serializer"));
        let request = Request { bearer: self.token.as_deref(), body: body.as_deref(), ..Request::new(method, path) };
        self.caller.lock().await.json(&request).await
    }

    /// `GET` of an answer of any length, handed on as it comes. Every silence is bounded by `silence`.
    ///
    /// # Errors
    /// As [`Self::get`], or what `take` says.
    pub async fn stream(&self, path: &str, silence: Duration, mut take: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        let request = Request { bearer: self.token.as_deref(), timeout: silence, ..Request::new("GET", path) };
        let mut failed = None;
        let hand_on = |bytes: &[u8]| {
            take(bytes).map_err(|failure| {
                failed = Some(failure);
                std::io::Error::other("what came could not be handed on")
            })
        };
        let done = Caller::new(&self.endpoint, self.dialer.clone()).stream(&request, hand_on).await;
        match failed {
            Some(failure) => Err(failure),
            None => done.map_err(Failure::from),
        }
    }

    async fn call<T: DeserializeOwned>(&self, method: &str, path: &str, body: Option<&impl Serialize>) -> Result<T, Failure> {
        self.try_call(method, path, body).await.map_err(Failure::from)
    }

    /// A whole list, page by page, or its first `most` rows.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn list<T: DeserializeOwned>(&self, path: &str, most: Option<usize>) -> Result<Vec<T>, Failure> {
        let page = most.unwrap_or(PAGE).min(PAGE_MAX as usize);
        self.pages(path, most.unwrap_or(ROWS_MAX), page, |_| (true, true)).await
    }

    /// The first `most` rows of a list for which `look` says (take it, go on), page by page.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn list_while<T: DeserializeOwned>(
        &self,
        path: &str,
        most: usize,
        look: impl Fn(&T) -> (bool, bool),
    ) -> Result<Vec<T>, Failure> {
        self.pages(path, most, PAGE, look).await
    }

    async fn pages<T: DeserializeOwned>(
        &self,
        path: &str,
        most: usize,
        page: usize,
        look: impl Fn(&T) -> (bool, bool),
    ) -> Result<Vec<T>, Failure> {
        let mut rows: Vec<T> = Vec::new();
        let mut cursor: Option<String> = None;
        for _ in 0..ROWS_MAX / PAGE {
            let mut address = format!("{path}{}limit={page}", if path.contains('?') { '&' } else { '?' });
            if let Some(cursor) = &cursor {
                address.push_str("&cursor=");
                address.push_str(&encode(cursor));
            }
            let Page { items, next } = self.get(&address).await?;
            for item in items {
                let (take, go_on) = look(&item);
                if take && rows.len() < most {
                    rows.push(item);
                }
                if !go_on || rows.len() >= most {
                    return Ok(rows);
                }
            }
            if next.is_none() || next == cursor {
                return Ok(rows);
            }
            cursor = next;
        }
        Ok(rows)
    }
}

/// Parses a hub's URL.
///
/// # Errors
/// When it cannot be used.
pub fn endpoint(url: &str) -> Result<Endpoint, Failure> {
    Endpoint::hub(url).map_err(|error| Failure::usage(error.to_string()))
}

/// The pin of an unknown hub's authority; nothing but the handshake is sent.
///
/// # Errors
/// When it cannot be reached or shows no authority.
pub async fn probe(url: &str) -> Result<Pin, Failure> {
    let endpoint = endpoint(url)?;
    let proxy = proxy_for(&endpoint.host, endpoint.port)?;
    muster_link::dial::probe(&endpoint, proxy).await?.ok_or_else(|| {
        Failure::new(Exit::Unreachable, format!("{} does not show the authority that signed its certificate", endpoint.authority()))
            .hint("this is not a Muster hub, or something between opens the connection (TLS interception); check the address")
    })
}

/// The proxy that the environment names for a host: HTTPS_PROXY or ALL_PROXY, unless NO_PROXY excepts it.
fn proxy_for(host: &str, port: u16) -> Result<Option<Proxy>, Failure> {
    proxy_in(host, port, |name| std::env::var(name).ok())
}

fn proxy_in(host: &str, port: u16, variable: impl Fn(&str) -> Option<String>) -> Result<Option<Proxy>, Failure> {
    let first =
        |names: &[&'static str]| names.iter().find_map(|name| Some((*name, variable(name).filter(|value| !value.trim().is_empty())?)));
    let Some((name, url)) = first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]) else { return Ok(None) };
    if first(&["no_proxy", "NO_PROXY"]).is_some_and(|(_, list)| excepts(&list, host, port)) || excepts("", host, port) {
        return Ok(None);
    }
    url.parse().map(Some).map_err(|error: muster_link::dial::InvalidProxy| {
        Failure::usage(format!("{name}: {error}")).hint(format!("or reach {host} without a proxy: NO_PROXY={host}"))
    })
}

/// Whether a NO_PROXY list names a host, as curl and Go read it: `*`, the host, a domain that it lies in, an address, or a network
/// (`10.0.0.0/8`), each with a port or without. Loopback is never proxied.
fn excepts(list: &str, host: &str, port: u16) -> bool {
    let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
    if host.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback()) {
        return true;
    }
    let host = host.to_ascii_lowercase();
    list.split([',', ' ']).map(|entry| entry.trim().to_ascii_lowercase()).filter(|entry| !entry.is_empty()).any(|entry| {
        let (name, of_port) = match entry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, rest)) => (name, rest.strip_prefix(':')),
            // An address of IPv6 without brackets has no port.
            None if entry.matches(':').count() > 1 => (&*entry, None),
            None => entry.split_once(':').map_or((&*entry, None), |(name, port)| (name, Some(port))),
        };
        if of_port.is_some_and(|of_port| of_port.parse() != Ok(port)) {
            return false;
        }
        if let Some(address) = address {
            return name == "*" || name.parse::<IpAddr>().is_ok_and(|named| named.to_canonical() == address) || is_within(address, name);
        }
        let domain = name.trim_start_matches("*.").trim_start_matches('.');
        name == "*" || host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
    })
}

/// Whether an address lies in a network such as `10.0.0.0/8`.
fn is_within(address: IpAddr, network: &str) -> bool {
    let Some((base, bits)) = network.split_once('/') else { return false };
    let (Ok(base), Ok(bits)) = (base.parse(), bits.parse()) else { return false };
    covers(base, bits, address)
}

/// One segment of a path or one value of a query, percent-encoded (RFC 3986, section 2.3).
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// A query from the values that are there: empty, or `?a=1&b=2`.
pub fn query<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<String>)>) -> String {
    let given: Vec<String> = pairs.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", encode(&value?)))).collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

impl From<DialError> for Failure {
    fn from(error: DialError) -> Self {
        Self::new(Exit::Unreachable, error.to_string())
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Problem(problem) => problem.into(),
            CallError::Dial(error) => error.into(),
            error @ (CallError::Lost { .. } | CallError::Timeout { .. } | CallError::Answer { .. }) => {
                Self::new(Exit::Unreachable, error.to_string())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_queries() {
        assert_eq!(encode("robot-7"), "robot-7");
        assert_eq!(encode("a/b?c#d %ü.."), "a%2Fb%3Fc%23d%20%25%C3%BC..");
        assert_eq!(query([("a", None), ("b", None)]), "");
        assert_eq!(query([("a", Some("x y".into())), ("b", None), ("c", Some("&".into()))]), "?a=x%20y&c=%26");
    }

    #[test]
    fn exceptions_from_the_proxy() {
        for (list, host, yes) in [
            ("", "127.0.0.1", true),
            ("", "::1", true),
            ("", "localhost", true),
            ("", "hub.acme.example", false),
            ("*", "hub.acme.example", true),
            ("acme.example", "Hub.acme.example", true),
            (".acme.example, other", "hub.acme.example", true),
            ("*.acme.example", "hub.acme.example", true),
            ("cme.example", "hub.acme.example", false),
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.0/8", "10.250.3.4", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("192.168.4.0/23, x", "192.168.5.9", true),
            ("0.0.0.0/0", "8.8.8.8", true),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("fd12::1", "fd12:0::1", true),
            ("[fd12::1]:8443", "fd12::1", true),
            ("[fd12::1]:443", "fd12::1", false),
            ("10.0.0.0/33", "10.0.0.1", false),
            ("10.0.0.0/8", "ten.example", false),
            ("hub.acme.example:8443", "hub.acme.example", true),
            ("hub.acme.example:443", "hub.acme.example", false),
            (".acme.example:8443", "hub.acme.example", true),
        ] {
            assert_eq!(excepts(list, host, 8443), yes, "{list} {host}");
        }
    }

    #[test]
    fn the_variable_that_names_an_unusable_proxy_is_named() {
        let with = |set: &[(&str, &str)]| {
            let value = |name: &str| set.iter().find(|(given, _)| *given == name).map(|(_, value)| (*value).to_owned());
            proxy_in("hub.example", 443, value).map(|proxy| proxy.map(|proxy| proxy.to_string())).map_err(|failure| failure.message)
        };
        assert_eq!(with(&[]), Ok(None));
        assert_eq!(with(&[("https_proxy", " "), ("ALL_PROXY", "proxy:1")]), Ok(Some("proxy:1".into())));
        assert_eq!(with(&[("https_proxy", "http://first:1"), ("HTTPS_PROXY", "second:1")]), Ok(Some("first:1".into())));
        assert_eq!(with(&[("HTTPS_PROXY", "socks5://x:1"), ("no_proxy", "hub.example:443")]), Ok(None));
        for name in ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            let refused = with(&[(name, "socks5h://x:1"), ("NO_PROXY", "other.example")]).unwrap_err();
            assert!(refused.starts_with(&format!("{name}: ")) && refused.contains("SOCKS proxies are not supported"), "{refused}");
        }
    }
}
