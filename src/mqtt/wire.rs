//! What MQTT runs over: TLS on the hub's MQTT port, or a WebSocket on its HTTPS port. One way to read and write for both.

use std::io;
use std::time::Duration;

use muster_link::dial::{DialError, Dialer, Endpoint};
use muster_link::websocket::{self, Message, Upgrade, UpgradeError, WebSocket};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Longest wait for the kernel to take a message: a network that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// One read. Messages to a device are small and rare.
const READ_SIZE: usize = 2048;
/// The sub-protocol of MQTT (MQTT 5, 6).
const SUBPROTOCOL: &str = "mqtt";

/// Why there is no wire.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The WebSocket on it.
    #[error("{address} does not take MQTT as WebSocket: {why}")]
    Upgrade {
        /// Host and port.
        address: String,
        /// In words.
        why: String,
    },
}

/// MQTT is at the hub where this device enrolled, or where the owner says: a hub cannot send the device elsewhere.
///
/// # Errors
/// One sentence, with what the owner could write.
pub(super) fn check_host(endpoint: &Endpoint, hub: &str, also: &[String]) -> Result<(), String> {
    let hub: Endpoint = hub.parse().map_err(|error| format!("the hub's URL on disk is not valid: {error}"))?;
    let known = |host: &str| host.eq_ignore_ascii_case(&endpoint.host);
    if known(&hub.host) || also.iter().any(|host| known(host)) {
        return Ok(());
    }
    Err(format!(
        "the hub at {} sends this device to MQTT at {host}, which its owner has not allowed; hosts = [{host:?}] under [mqtt] in the configuration \
         does",
        hub.host,
        host = endpoint.host
    ))
}

/// An open connection.
pub(super) enum Wire {
    /// MQTT over TLS.
    Tcp { stream: Box<TlsStream<TcpStream>>, buffer: Vec<u8> },
    /// MQTT in binary messages.
    Websocket(Box<WebSocket>),
}

impl Wire {
    /// Opens one; the endpoint's scheme says which.
    pub(super) async fn open(dialer: &Dialer, endpoint: &Endpoint) -> Result<Self, WireError> {
        let stream = dialer.dial(endpoint).await?;
        if &*endpoint.scheme != "wss" {
            return Ok(Self::Tcp { stream: Box::new(stream), buffer: Vec::new() });
        }
        let address = endpoint.authority();
        let upgrade = Upgrade { host: &address, path: &endpoint.path, protocol: SUBPROTOCOL, bearer: None };
        let (tcp, tls) = stream.into_inner();
        let connect = websocket::connect(tcp, tls.into(), &upgrade);
        let why = match tokio::time::timeout(dialer.timeout, connect).await {
            Ok(Ok(websocket)) => return Ok(Self::Websocket(Box::new(websocket))),
            Ok(Err(UpgradeError::Refused { status, body })) => match serde_json::from_slice::<muster_proto::problem::Problem>(&body) {
                Ok(problem) => problem.detail,
                Err(_) => format!("it answered with status {status}"),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not answer in time".to_owned(),
        };
        Err(WireError::Upgrade { address, why })
    }

    /// The next bytes, never none. May be dropped while it waits.
    pub(super) async fn read(&mut self) -> io::Result<Vec<u8>> {
        match self {
            Self::Tcp { stream, buffer } => {
                // A library's default buffer of 8 KiB and more would be held for every idle hour; a message fits this.
                buffer.reserve(READ_SIZE);
                match stream.read_buf(buffer).await? {
                    0 => Err(closed()),
                    _ => Ok(std::mem::take(buffer)),
                }
            }
            Self::Websocket(websocket) => loop {
                match websocket.read().await.map_err(io::Error::other)? {
                    Some(Message::Binary(bytes)) if bytes.is_empty() => {}
                    Some(Message::Binary(bytes)) => return Ok(bytes.to_vec()),
                    Some(Message::Text(_)) => {
                        return Err(io::Error::new(io::ErrorKind::InvalidData, "the hub sent text where MQTT belongs"));
                    }
                    Some(Message::Close { .. }) | None => return Err(closed()),
                }
            },
        }
    }

    /// Writes all of it, in one record where it fits.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = async {
            match self {
                Self::Tcp { stream, .. } => {
                    stream.write_all(bytes).await?;
                    stream.flush().await
                }
                Self::Websocket(websocket) => {
                    websocket.queue_message(bytes);
                    websocket.flush().await.map_err(io::Error::other)
                }
            }
        };
        tokio::time::timeout(WRITE_TIMEOUT, write)
            .await
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the network takes nothing")))
    }

    /// Ends it in order.
    pub(super) async fn close(self) {
        let close = async {
            match self {
                Self::Tcp { mut stream, .. } => drop(stream.shutdown().await),
                Self::Websocket(websocket) => drop(websocket.shutdown().await),
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), close).await;
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the hub closed the connection")
}
