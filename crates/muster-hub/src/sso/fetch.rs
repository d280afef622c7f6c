//! One HTTP exchange with the provider of single sign-on: bounded in time and size, and never led elsewhere.
//!
//! The provider is named by the operator, and where its own documents point is its word: so only https, or http on this machine where the
//! issuer itself is there. A redirect is an error. Nothing is repeated here.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::config::is_loopback;

/// One exchange: name, dial, TLS, request, the whole answer.
const EXCHANGE: Duration = Duration::from_secs(10);
/// Largest answer: documents of large providers have some tens of KiB.
const ANSWER_MAX: usize = 512 * 1024;

/// Why an exchange failed, in a few words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoAnswer(String);

/// Does the exchanges.
#[derive(Clone)]
pub(super) struct Fetch {
    tls: Arc<ClientConfig>,
    /// The issuer is on this machine, without TLS.
    plain: bool,
    patience: Duration,
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fetch")
    }
}

impl Fetch {
    /// Believes these authorities, or the system's. Dials nobody yet.
    pub(super) fn new(issuer: &str, authorities: Option<&[CertificateDer<'static>]>) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        match authorities {
            Some(list) => {
                for certificate in list {
                    roots.add(certificate.clone())?;
                }
            }
            None => {
                let system = rustls_native_certs::load_native_certs();
                for error in &system.errors {
                    tracing::warn!(%error, "an authority of the system cannot be used for single sign-on");
                }
                roots.add_parsable_certificates(system.certs);
            }
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(muster_link::tls::provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls), plain: issuer.starts_with("http://"), patience: EXCHANGE })
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, NoAnswer> {
        let place = Place::of(&request, self.plain)?;
        let answered = timeout(self.patience, async {
            let tcp = TcpStream::connect((place.host.as_str(), place.port)).await;
            let tcp = tcp.map_err(|error| NoAnswer(format!("{place} cannot be reached: {error}")))?;
            if place.plain {
                return send(tcp, &place, request).await;
            }
            let name = ServerName::try_from(place.host.clone()).map_err(|_| NoAnswer(format!("{place} is not a name for TLS")))?;
            let tls = TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await;
            send(tls.map_err(|error| NoAnswer(format!("{place} is not believed: {error}")))?, &place, request).await
        });
        answered.await.unwrap_or_else(|_| Err(NoAnswer(format!("{place} did not answer within {} s", self.patience.as_secs()))))
    }
}

impl<'c> AsyncHttpClient<'c> for Fetch {
    type Error = NoAnswer;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, NoAnswer>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.exchange(request))
    }
}

/// Where a request goes.
struct Place {
    host: String,
    port: u16,
    plain: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Place {
    fn of(request: &HttpRequest, plain: bool) -> Result<Self, NoAnswer> {
        let uri = request.uri();
        let host = uri.host().unwrap_or_default();
        let default = match uri.scheme_str() {
            Some("https") => 443,
            Some("http") if plain && is_loopback(host) => 80,
            _ => return Err(NoAnswer(format!("it points to {:?}, which is not https", shortened(&uri.to_string())))),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        Ok(Self { host, port: uri.port_u16().unwrap_or(default), plain: default == 80 })
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    place: &Place,
    request: HttpRequest,
) -> Result<HttpResponse, NoAnswer> {
    let broken = |error: hyper::Error| NoAnswer(format!("{place} broke off: {error}"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(ToString::to_string).unwrap_or_default();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    parts.uri = path.parse().map_err(|_| NoAnswer(format!("{place}: the path {:?} cannot be asked for", shortened(&path))))?;
    let host = authority.parse().map_err(|_| NoAnswer(format!("{place} is not a name for HTTP")))?;
    parts.headers.insert(http::header::HOST, host);
    let agent = concat!("muster-hub/", env!("CARGO_PKG_VERSION"));
    parts.headers.insert(http::header::USER_AGENT, http::HeaderValue::from_static(agent));
    let exchange = async {
        let answer = sender.send_request(http::Request::from_parts(parts, Full::new(Bytes::from(body)))).await.map_err(broken)?;
        if answer.status().is_redirection() {
            return Err(NoAnswer(format!(
                "{place} answered with a redirect ({}), which the hub does not follow",
                answer.status().as_u16()
            )));
        }
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => broken(*error),
            Err(_) => NoAnswer(format!("{place} answered with more than {} KiB", ANSWER_MAX / 1024)),
        })?;
        Ok(http::Response::from_parts(head, body.to_bytes().to_vec()))
    };
    // The connection is driven beside the exchange, and ends with it.
    let driven = async {
        let _ = connection.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        answer = exchange => answer,
        () = driven => Err(NoAnswer(format!("{place} broke off"))),
    }
}

/// The beginning of a text of the provider's, for a sentence.
fn shortened(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_never_answers_is_given_up() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("http://{}", silent.local_addr().unwrap());
        let fetch = Fetch { patience: Duration::from_millis(50), ..Fetch::new(&issuer, None).unwrap() };
        let told = fetch.call(http::Request::get(format!("{issuer}/")).body(Vec::new()).unwrap()).await.unwrap_err().to_string();
        assert!(told.ends_with("did not answer within 0 s"), "{told}");
    }

    #[tokio::test]
    async fn a_provider_is_believed_by_its_authority_alone() {
        use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let authority_key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = authority.self_signed(&authority_key).unwrap().der().clone();
        let key = KeyPair::generate().unwrap();
        let names = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let leaf = names.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
        let server = rustls::ServerConfig::builder_with_provider(Arc::new(muster_link::tls::provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap())
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let issuer = format!("https://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
                let mut head = [0; 4096];
                let read = tls.read(&mut head).await.unwrap();
                let host = String::from_utf8_lossy(&head[..read]).to_lowercase().contains("host: 127.0.0.1:");
                let body = if host { "yes" } else { "no" };
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                tls.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let ask = async |authorities: Option<&[CertificateDer<'static>]>, url: &str| {
            let fetch = Fetch::new(&issuer, authorities).unwrap();
            let answer = fetch.call(http::Request::get(url).body(Vec::new()).unwrap()).await;
            answer.map(|answer| String::from_utf8(answer.into_body()).unwrap()).map_err(|error| error.to_string())
        };
        let ours = [root];
        assert_eq!(ask(Some(&ours), &format!("{issuer}/x")).await.as_deref(), Ok("yes"));
        assert!(ask(None, &format!("{issuer}/x")).await.unwrap_err().contains("is not believed"), "the system does not know it");
        let other_name = issuer.replace("127.0.0.1", "localhost");
        assert!(ask(Some(&ours), &other_name).await.unwrap_err().contains("is not believed"), "its certificate does not name that");
        serving.abort();
    }

    #[test]
    fn only_https_or_this_machine() {
        let place = |url: &str, plain| Place::of(&http::Request::get(url).body(Vec::new()).unwrap(), plain).map(|place| place.to_string());
        assert_eq!(place("https://id.example/x?y", false).unwrap(), "id.example:443");
        assert_eq!(place("https://[::1]:8/", false).unwrap(), "::1:8");
        assert_eq!(place("http://127.0.0.1:9/x", true).unwrap(), "127.0.0.1:9");
        for (url, plain) in
            [("http://127.0.0.1/", false), ("http://10.0.0.1/", true), ("http://id.example/", true), ("ftp://127.0.0.1/", true)]
        {
            assert!(place(url, plain).unwrap_err().to_string().contains("not https"), "{url}");
        }
    }
}
