//! The HTTPS port: accepts, makes TLS, serves HTTP/1.1 to one router.
//!
//! Strangers reach this code first, so each step has a bound: connections, the handshake's time, the time and size of a head.
//! Whoever speaks no TLS is told so if he speaks HTTP, and otherwise gets a closed connection and a line in the log.
//! A connection that was upgraded to WebSocket leaves this module with its task.
//!
//! It must not bind (`serve.rs` does) and knows no route.

mod leftover;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::peer::{PeerCertificate, RemoteAddr};
use leftover::Held;

/// Connections at once, upgraded ones not counted. The next one waits in the kernel until one ends.
const CONNECTIONS_MAX: usize = 8192;
/// From the first byte to the end of the TLS handshake: several round trips over a bad mobile network.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For each request's head, and for an idle connection until its next one.
const HEAD: Duration = Duration::from_secs(30);
/// Largest head of a request.
const HEAD_MAX: usize = 32 * 1024;
/// How long requests may go on after the stop; long polls are cut off then.
const GRACE: Duration = Duration::from_secs(2);
/// Pause after a failed accept, such as when file descriptors ran out: they come back as connections end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The first byte of a TLS handshake (RFC 8446, 5.1: content type 22).
const TLS_HANDSHAKE: u8 = 22;

/// What hyper runs on; the relay takes it apart after an upgrade.
pub type Stream = TokioIo<TlsStream<TcpStream>>;

/// Serves `router` until `shutdown`, then lets running requests end for a moment.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, router: Router, shutdown: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    while let Some((tcp, from, place)) = next(&listener, &places, &shutdown).await {
        let connection = Connection { acceptor: acceptor.clone(), router: router.clone(), shutdown: shutdown.clone(), from };
        let cut = cut.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = connection.run(tcp) => {}
                () = cut.cancelled() => {}
            }
            drop(place);
        });
    }
    drop(listener);
    tasks.close();
    if timeout(GRACE, tasks.wait()).await.is_err() {
        cut.cancel();
        tasks.wait().await;
    }
}

/// The next connection; `None` at the stop.
async fn next(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let accept = async {
        let place = Arc::clone(places).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((tcp, from)) => return Some((tcp, from, place)),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection on the HTTPS port");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        accepted = accept => accepted,
        () = shutdown.cancelled() => None,
    }
}

struct Connection {
    acceptor: TlsAcceptor,
    router: Router,
    shutdown: CancellationToken,
    from: SocketAddr,
}

impl Connection {
    async fn run(self, tcp: TcpStream) {
        let from = self.from;
        match timeout(HANDSHAKE, handshake(&self.acceptor, tcp)).await {
            Ok(Ok(Some(stream))) => self.http(stream).await,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => tracing::info!(%from, %error, "no TLS on the HTTPS port; connection closed"),
            Err(_) => {
                tracing::info!(%from, "no TLS handshake within {} s on the HTTPS port; connection closed", HANDSHAKE.as_secs());
            }
        }
    }

    async fn http(self, stream: TlsStream<TcpStream>) {
        let peer = PeerCertificate::of(stream.get_ref().1.peer_certificates());
        let from = RemoteAddr(self.from);
        let router = self.router;
        let service = service_fn(move |mut request: http::Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(from);
            let router = router.clone();
            async move {
                // Whoever asked first whether to send the body at all has not sent it.
                let sends = !request.headers().contains_key(http::header::EXPECT);
                let (head, body) = request.into_parts();
                let body = Held::new(body);
                let request = http::Request::from_parts(head, Body::new(body.clone()));
                let answer = router.oneshot(request).await.unwrap_or_else(|never| match never {});
                if sends {
                    body.read_rest().await;
                }
                Ok::<_, Infallible>(answer)
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(HEAD_MAX)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            report(from.0, &error);
        }
    }
}

/// A connection that merely ended is no news; one that was ended for what it sent is.
fn report(from: SocketAddr, error: &hyper::Error) {
    if error.is_parse() || error.is_timeout() {
        tracing::info!(%from, %error, "a connection on the HTTPS port did not speak HTTP; closed");
    } else {
        tracing::debug!(%from, %error, "a connection on the HTTPS port broke");
    }
}

/// TLS, if that is what the peer speaks. `None` after a plain HTTP request was answered, or when nothing came.
async fn handshake(acceptor: &TlsAcceptor, mut tcp: TcpStream) -> io::Result<Option<TlsStream<TcpStream>>> {
    let _ = tcp.set_nodelay(true);
    let mut first = [0; 8];
    let seen = tcp.peek(&mut first).await?;
    match first.first() {
        Some(&TLS_HANDSHAKE) if seen > 0 => acceptor.accept(tcp).await.map(Some),
        _ if seen == 0 => Ok(None),
        _ if is_http(&first[..seen]) => {
            answer_plain(&mut tcp).await?;
            Err(io::Error::new(io::ErrorKind::InvalidData, "plain HTTP was answered with 400"))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the first bytes are neither TLS nor HTTP")),
    }
}

/// Whether bytes may be the start of a request line.
fn is_http(first: &[u8]) -> bool {
    ["GET ", "HEAD ", "POST ", "PUT ", "PATCH ", "DELETE ", "OPTIONS ", "CONNECT ", "PRI "].iter().any(|method| {
        let len = method.len().min(first.len());
        len >= 2 && method.as_bytes()[..len] == first[..len]
    })
}

async fn answer_plain(tcp: &mut TcpStream) -> io::Result<()> {
    const TEXT: &str = "This port speaks HTTPS. Write https:// (or wss://) in place of http:// (or ws://).\n";
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{TEXT}",
        TEXT.len()
    );
    tcp.write_all(answer.as_bytes()).await?;
    tcp.shutdown().await?;
    // Closing with unread bytes would reset the connection, and the peer might never see the answer.
    let mut rest = [0; 1024];
    for _ in 0..HEAD_MAX / rest.len() {
        if tcp.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
