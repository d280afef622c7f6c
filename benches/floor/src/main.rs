//! The floor: the same libraries as the daemon, and nothing but one sample published each 10 s over mutual TLS.
//!
//! `floor URL CA.pem CERTIFICATE.pem KEY.pem TOPIC`. No back-off, no spool, no heartbeat: it ends when anything fails.
//! What the daemon costs above this is what its features cost; what both cost is the libraries' and the system's.

use std::error::Error;
use std::time::Duration;

use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::GenericEvent;
use mqtt_protocol_core::mqtt::packet::{GenericPacketTrait as _, Packet, Qos, v5_0};
use mqtt_protocol_core::mqtt::{Connection, Version, role};
use muster_link::dial::Dialer;
use muster_link::tls::{Clock, Identity, Trust, client_config};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const EVERY: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run())
}

async fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, ca, certificate, key, topic] = &arguments[..] else { return Err("floor URL CA CERTIFICATE KEY TOPIC".into()) };
    let identity = Identity::from_pem(&std::fs::read(certificate)?, &std::fs::read(key)?)?;
    let tls = client_config(&Trust::from_pem(&std::fs::read(ca)?)?, Some(&identity), &Clock::default())?;
    let mut stream = Dialer::new(tls).dial(&url.parse()?).await?;
    let mut mqtt = Connection::<role::Client>::new(Version::V5_0);
    let connect = v5_0::Connect::builder().client_id("floor").map_err(text)?.clean_start(true).keep_alive(40).build().map_err(text)?;
    stream.write_all(&output(mqtt.send(connect.into()))?).await?;
    stream.flush().await?;

    let mut timer = tokio::time::interval(EVERY);
    let mut buffer = vec![0; 2048];
    let mut connected = false;
    loop {
        tokio::select! {
            len = stream.read(&mut buffer) => {
                let mut cursor = Cursor::new(&buffer[..len?]);
                if cursor.get_ref().is_empty() {
                    return Err("the broker closed the connection".into());
                }
                while cursor.position() < cursor.get_ref().len() as u64 {
                    output(mqtt.recv(&mut cursor))?;
                    connected = true;
                }
            }
            _ = timer.tick(), if connected => {
                let packet_id = mqtt.acquire_packet_id().map_err(text)?;
                let publish = v5_0::Publish::builder()
                    .topic_name(topic.as_str())
                    .and_then(|builder| builder.qos(Qos::AtLeastOnce).packet_id(packet_id).payload(sample()).build());
                let packet: Packet = publish.map_err(text)?.into();
                stream.write_all(&output(mqtt.send(packet))?).await?;
                stream.flush().await?;
            }
        }
    }
}

/// Bytes to send.
fn output(events: Vec<GenericEvent<u16>>) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for event in events {
        match event {
            GenericEvent::RequestSendPacket { packet, .. } => out.extend(packet.to_continuous_buffer()),
            GenericEvent::NotifyError(error) => return Err(text(error)),
            _ => {}
        }
    }
    Ok(out)
}

fn text(error: impl std::fmt::Debug) -> Box<dyn Error> {
    format!("{error:?}").into()
}

/// Processor, memory and network counters, as they stand in `/proc`.
fn sample() -> Vec<u8> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let number = |text: &str, word: &str| -> u64 {
        let line = text.lines().find(|line| line.trim_start().starts_with(word)).unwrap_or_default();
        line.split_ascii_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    let (stat, memory, network, load) = (read("/proc/stat"), read("/proc/meminfo"), read("/proc/net/dev"), read("/proc/loadavg"));
    let sample = serde_json::json!({
        "cpu": number(&stat, "cpu"),
        "mem_total": number(&memory, "MemTotal"),
        "mem_available": number(&memory, "MemAvailable"),
        "net": number(&network, "eth0"),
        "load": load.split_ascii_whitespace().next(),
    });
    sample.to_string().into_bytes()
}
