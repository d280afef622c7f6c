//! The embedded MQTT 5 endpoint: accepts TLS connections and WebSockets, and owns the tasks of all links.
//!
//! Strangers are few and short-lived: a bounded number of handshakes at once, each with a deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::bounds::{HANDSHAKE_WAIT, STRANGERS_MAX};
use super::connection::{self, Hub};
use super::lanes::Lanes;
use super::links::Links;
use crate::clock;
use crate::ingest::Ingest;
use crate::metrics::Metrics;
use crate::store::{self, Store, mqtt};

/// How long links may take to end when the hub stops.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// Rest after the system refused a new connection (no descriptors left): it will not be better at once.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// The endpoint. Clones share it.
#[derive(Clone)]
pub struct Endpoint(Arc<Inner>);

struct Inner {
    hub: Arc<Hub>,
    strangers: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Endpoint")
    }
}

impl Endpoint {
    /// The endpoint and the hub's lanes through it. Recovers the sessions that a killed hub left behind.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn open(store: Store, ingest: Ingest, metrics: &Metrics) -> store::Result<(Self, Lanes)> {
        let last_id = store.write(|tx| mqtt::recover(tx, clock::now())).await?;
        let links = Arc::new(Links::default());
        let lanes = Lanes::embedded(store.clone(), ingest.clone(), Arc::clone(&links), last_id);
        let connections = |result| metrics.counter("muster_mqtt_connections_total", "MQTT connections", &[("result", result)]);
        let hub = Arc::new(Hub {
            store,
            ingest,
            links,
            started: Instant::now(),
            linked: metrics.gauge("muster_mqtt_links", "Devices with an MQTT link now", &[]),
            accepted: connections("accepted"),
            refused: connections("refused"),
        });
        let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
        Ok((Self(Arc::new(Inner { hub, strangers, tasks: TaskTracker::new() })), lanes))
    }

    /// Serves MQTT over TLS until cancelled; then ends all links, those of WebSockets too.
    pub async fn serve_tcp(&self, listener: TcpListener, tls: Arc<ServerConfig>, shutdown: CancellationToken) {
        let acceptor = TlsAcceptor::from(tls);
        loop {
            // When all places are taken, new connections wait in the listen queue.
            let Ok(place) = Arc::clone(&self.0.strangers).acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((tcp, from)) => {
                    let endpoint = self.clone();
                    self.0.tasks.spawn(endpoint.greet(tcp, from, acceptor.clone(), place));
                }
                Err(error) => {
                    tracing::warn!(%error, "mqtt: a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_REST).await;
                }
            }
        }
        drop(listener);
        self.stop().await;
    }

    /// Serves one WebSocket that carries MQTT, to its end.
    pub async fn serve_websocket<S>(&self, stream: S, certificate: CertificateDer<'static>, from: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(place) = Arc::clone(&self.0.strangers).try_acquire_owned() else {
            tracing::warn!(%from, "mqtt: too many connections that have not been let in");
            return;
        };
        let endpoint = self.clone();
        self.0.tasks.spawn(async move { endpoint.welcome(stream, certificate, from, place).await });
    }

    /// Ends all links, and waits for them.
    pub async fn stop(&self) {
        self.0.tasks.close();
        self.0.hub.links.end_all();
        if timeout(STOP_WAIT, self.0.tasks.wait()).await.is_err() {
            tracing::warn!(links = self.0.hub.links.len(), "mqtt: some links did not end in time");
        }
    }

    async fn greet(self, tcp: TcpStream, from: SocketAddr, acceptor: TlsAcceptor, place: OwnedSemaphorePermit) {
        // Small packets that somebody waits for. A socket that refuses this is about to fail anyway.
        let _ = tcp.set_nodelay(true);
        let refused = |why: String| {
            self.0.hub.refused.add(1);
            tracing::warn!(%from, why, "mqtt: no TLS with this peer");
        };
        let stream = match timeout(HANDSHAKE_WAIT, acceptor.accept(tcp)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return refused(error.to_string()),
            Err(_) => return refused("no TLS handshake in 10 seconds".into()),
        };
        let Some(certificate) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned() else {
            return refused("no client certificate".into());
        };
        self.welcome(stream, certificate.into_owned(), from, place).await;
    }

    async fn welcome<S>(&self, stream: S, certificate: CertificateDer<'static>, from: SocketAddr, place: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if let Some(linked) = connection::open(Arc::clone(&self.0.hub), stream, certificate, from).await {
            // A task of its own: the room that the handshake needed is given back.
            self.0.tasks.spawn(Box::new(linked).run());
        }
        drop(place);
    }
}
