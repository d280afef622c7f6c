//! A browser, as far as these tests need one: cookies by host, redirects one by one, forms. It obeys the rules for cookies that matter
//! here: `Secure` and `__Host-`, and a form of another site brings no `SameSite=Lax` cookie.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use muster_link::tls::{self, Clock, Trust};
use muster_proto::token::Pin;
use openidconnect::url::{Url, form_urlencoded};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Redirects that a browser follows.
const REDIRECTS: usize = 20;

/// A browser that believes one hub.
pub(crate) struct Browser {
    tls: Arc<rustls::ClientConfig>,
    cookies: BTreeMap<(String, String), String>,
}

/// What it shows.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) url: String,
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Page {
    /// Where it redirects to.
    pub(crate) fn location(&self) -> Option<String> {
        let location = self.headers.get(http::header::LOCATION).filter(|_| (300..400).contains(&self.status))?;
        Some(Url::parse(&self.url).unwrap().join(location.to_str().unwrap()).unwrap().to_string())
    }

    /// A parameter of the address.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        parameter(&self.url, name)
    }

    /// The value of a hidden field.
    pub(crate) fn hidden(&self, name: &str) -> String {
        let at = self.body.find(&format!("name={name} value=\"")).unwrap_or_else(|| panic!("no field {name} in {}", self.body));
        self.body[at..].split('"').nth(1).unwrap().to_owned()
    }

    #[track_caller]
    pub(crate) fn says(&self, what: &str) {
        assert!(self.body.contains(what), "{what:?} is not on {}: {} {}", self.url, self.status, self.body);
    }
}

/// A parameter of an address.
pub(crate) fn parameter(url: &str, name: &str) -> Option<String> {
    Url::parse(url).unwrap().query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

impl Browser {
    pub(crate) fn new(pin: Pin) -> Self {
        let tls = tls::client_config(&Trust::Pin(pin), None, &Clock::default()).unwrap();
        Self { tls, cookies: BTreeMap::new() }
    }

    /// One request, without following.
    pub(crate) async fn send(&mut self, method: &str, url: &str, form: Option<&[(&str, &str)]>) -> Page {
        self.send_with(method, url, form, &[]).await
    }

    pub(crate) async fn send_with(&mut self, method: &str, url: &str, form: Option<&[(&str, &str)]>, headers: &[(&str, &str)]) -> Page {
        let parsed = Url::parse(url).unwrap();
        let host = format!("{}:{}", parsed.host_str().unwrap(), parsed.port_or_known_default().unwrap());
        let path = parsed.query().map_or_else(|| parsed.path().to_owned(), |query| format!("{}?{query}", parsed.path()));
        let mut request = http::Request::builder().method(method).uri(path).header("host", &host).header("accept", "text/html,*/*;q=0.8");
        let cookies: Vec<String> =
            self.cookies.iter().filter(|((of, _), _)| *of == host).map(|((_, name), value)| format!("{name}={value}")).collect();
        if !cookies.is_empty() {
            request = request.header("cookie", cookies.join("; "));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = form.map(|pairs| form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish());
        if body.is_some() {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        let request = request.body(Full::new(Bytes::from(body.unwrap_or_default()))).unwrap();
        let tcp = TcpStream::connect(&host).await.unwrap();
        let response = if parsed.scheme() == "https" {
            let name = rustls_pki_types::ServerName::try_from(parsed.host_str().unwrap().to_owned()).unwrap();
            exchange(TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await.unwrap(), request).await
        } else {
            exchange(tcp, request).await
        };
        let (head, body) = response.into_parts();
        for set in head.headers.get_all("set-cookie") {
            self.keep(&host, parsed.scheme(), set.to_str().unwrap());
        }
        Page { url: url.to_owned(), status: head.status.as_u16(), headers: head.headers, body: String::from_utf8_lossy(&body).into_owned() }
    }

    fn keep(&mut self, host: &str, scheme: &str, set: &str) {
        let mut parts = set.split(';').map(str::trim);
        let (name, value) = parts.next().unwrap().split_once('=').unwrap();
        let more: Vec<String> = parts.map(str::to_lowercase).collect();
        let has = |attribute: &str| more.iter().any(|part| part == attribute);
        if name.starts_with("__Host-") {
            assert!(scheme == "https" && has("secure") && has("path=/") && !more.iter().any(|part| part.starts_with("domain=")), "{set}");
            assert!(has("httponly") && has("samesite=lax"), "{set}");
        }
        let key = (host.to_owned(), name.to_owned());
        if value.is_empty() || has("max-age=0") {
            self.cookies.remove(&key)
        } else {
            self.cookies.insert(key, value.to_owned())
        };
    }

    /// Forgets a host's cookies, or everything.
    pub(crate) fn forget(&mut self) {
        self.cookies.clear();
    }

    /// Opens an address and follows redirects, but not to places where nobody of these tests listens: those are given back.
    pub(crate) async fn open(&mut self, url: &str) -> Page {
        let page = self.send("GET", url, None).await;
        self.follow(page).await
    }

    pub(crate) async fn follow(&mut self, mut page: Page) -> Page {
        for _ in 0..REDIRECTS {
            let Some(next) = page.location() else { return page };
            if is_loopback_callback(&next) {
                return Page { url: next, ..page };
            }
            page = self.send("GET", &next, None).await;
        }
        panic!("too many redirects, at last to {}", page.url);
    }

    /// Logs in at the provider, consents, and comes back to the hub.
    pub(crate) async fn log_in(&mut self, mut page: Page, login: &str) -> Page {
        for _ in 0..4 {
            let prompt = ["login", "consent"].into_iter().find(|prompt| page.body.contains(&format!("name=\"prompt\" value=\"{prompt}\"")));
            let Some(prompt) = prompt else { return page };
            let action = page.body.split("<form").nth(1).unwrap().split("action=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
            let fields = [("prompt", prompt), ("login", login), ("password", "any")];
            let sent = self.send("POST", &action, Some(&fields[..if prompt == "login" { 3 } else { 1 }])).await;
            page = self.follow(sent).await;
        }
        panic!("the provider asks and asks: {}", page.body);
    }

    /// Presses a button of the hub's page.
    pub(crate) async fn press(&mut self, page: &Page, decision: &str) -> Page {
        let action = Url::parse(&page.url).unwrap().join("/v1/login/oidc/confirm").unwrap().to_string();
        let secret = page.hidden("secret");
        let sent = self.send("POST", &action, Some(&[("secret", secret.as_str()), ("decision", decision)])).await;
        self.follow(sent).await
    }
}

/// The `muster` that waits, or nobody.
fn is_loopback_callback(url: &str) -> bool {
    let parsed = Url::parse(url).unwrap();
    parsed.scheme() == "http" && parsed.path() == "/" && parsed.query().is_some_and(|query| query.contains("state="))
}

async fn exchange<S>(stream: S, request: http::Request<Full<Bytes>>) -> http::Response<Bytes>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    http::Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}
