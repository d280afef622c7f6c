//! A hub for these tests: enrolment and a relay over HTTPS and an MQTT 5 endpoint, both with TLS, on threads and ports of their own.
//!
//! It does as it is told in [`Manner`], and notes what it hears.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::GenericEvent;
use mqtt_protocol_core::mqtt::packet::{self, GenericPacketTrait as _, Packet, Property, Qos, v5_0};
use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, PubackReasonCode, SubackReasonCode};
use mqtt_protocol_core::mqtt::{Connection, Version, role};
use muster_proto::mqtt::UsageBatch;
use muster_proto::token::{Token, TokenKind};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, device_key, on_the_wire, run_order, session_order};

/// Messages that wait for a frozen link; a test sends fewer.
const DOWN_MAX: usize = 64;
/// The uid that this hub gives.
pub(crate) const UID: &str = "daaaaaaaaaaaaaaa";

/// How the hub behaves from now on.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    /// Enrolments wait until this is true.
    pub admits: bool,
    /// Enrolments are answered with this problem.
    pub enrol_problem: Option<(u16, &'static str, &'static str)>,
    /// MQTT reads nothing and answers nothing.
    pub frozen: bool,
    /// Published messages are acknowledged.
    pub acknowledges: bool,
    /// CONNECT is refused with this reason and `retry_in`.
    pub refuses: Option<(&'static str, u32)>,
    /// Connections to MQTT are closed at once.
    pub down: bool,
    /// The host that devices are sent to for MQTT, if it is not ours.
    pub mqtt_host: Option<&'static str>,
}

/// A message that a device published.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
}

impl Published {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

struct Shared {
    manner: Manner,
    published: Vec<Published>,
    connects: Vec<(Instant, Option<Vec<u8>>)>,
    enrolments: usize,
    csr: String,
    down: Vec<mpsc::Sender<(String, Vec<u8>)>>,
}

/// The hub. Its thread ends with the process.
pub(crate) struct StubHub {
    pub https: SocketAddr,
    pub authority: Arc<Authority>,
    shared: Arc<Mutex<Shared>>,
}

impl StubHub {
    /// A well-behaved one.
    pub(crate) fn start() -> Self {
        let authority = Arc::new(Authority::new());
        let manner =
            Manner { admits: true, enrol_problem: None, frozen: false, acknowledges: true, refuses: None, down: false, mqtt_host: None };
        let shared = Shared { manner, published: Vec::new(), connects: Vec::new(), enrolments: 0, csr: String::new(), down: Vec::new() };
        let shared = Arc::new(Mutex::new(shared));
        let (ready, addresses) = std::sync::mpsc::sync_channel(1);
        let (for_thread, authority_too) = (Arc::clone(&shared), Arc::clone(&authority));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let https = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let mqtt = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let mqtt_address = mqtt.local_addr().unwrap();
                ready.send(https.local_addr().unwrap()).unwrap();
                let (at_mqtt, at_https) = (TlsAcceptor::from(authority_too.server()), TlsAcceptor::from(authority_too.relay()));
                loop {
                    tokio::select! {
                        Ok((tcp, _)) = https.accept() => {
                            tokio::spawn(serve_http(tcp, at_https.clone(), Arc::clone(&authority_too), Arc::clone(&for_thread), mqtt_address));
                        }
                        Ok((tcp, _)) = mqtt.accept() => {
                            tokio::spawn(serve_mqtt(tcp, at_mqtt.clone(), Arc::clone(&for_thread)));
                        }
                    }
                }
            });
        });
        let https = addresses.recv().unwrap();
        Self { https, authority, shared }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap()
    }

    /// Changes its manner.
    pub(crate) fn behave(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.shared().manner);
    }

    pub(crate) fn url(&self) -> String {
        format!("https://{}", self.https)
    }

    /// An enrolment token that names this hub's authority.
    pub(crate) fn token(&self) -> String {
        Token::from_random(TokenKind::Enrolment, [7; 42], self.authority.pin).to_string()
    }

    /// Sends a message to the device that is linked.
    pub(crate) fn send(&self, lane: &str, payload: &Value) {
        let message = (format!("muster/v1/{UID}/down/{lane}"), payload.to_string().into_bytes());
        self.shared().down.retain(|link| link.try_send(message.clone()).is_ok());
    }

    /// How orders name the device that enrolled last.
    pub(crate) fn device_key(&self) -> String {
        device_key(&self.shared().csr)
    }

    /// Orders a session, signed.
    pub(crate) fn open(&self, open: &Value) {
        self.send("session", &self.sign_session(open));
    }

    /// An order for a session, as it travels.
    pub(crate) fn sign_session(&self, open: &Value) -> Value {
        on_the_wire("open", &self.authority.sign(&session_order(&self.device_key(), open)))
    }

    /// Orders a run, signed.
    pub(crate) fn start_run(&self, run: &str, start: &Value) {
        let order = self.authority.sign(&run_order(&self.device_key(), run, start));
        self.send(&format!("run/{run}"), &on_the_wire("start", &order));
    }

    /// What was published below `up/`.
    pub(crate) fn published(&self, lane: &str) -> Vec<Published> {
        let topic = format!("muster/v1/{UID}/up/{lane}");
        self.shared().published.iter().filter(|message| message.topic == topic).cloned().collect()
    }

    /// Births so far.
    pub(crate) fn births(&self) -> Vec<Value> {
        self.published("presence").iter().map(Published::json).filter(|presence| presence["online"] == true).collect()
    }

    /// Events of this kind so far.
    pub(crate) fn events(&self, kind: &str) -> Vec<Value> {
        self.published("event").iter().map(Published::json).filter(|event| event["kind"] == kind).collect()
    }

    /// Samples so far, as (boot, seq, t), in the order of their coming.
    pub(crate) fn samples(&self) -> Vec<(String, u64, i64)> {
        let mut samples = Vec::new();
        for message in self.published("usage") {
            let batch = UsageBatch::decode(&message.payload).unwrap();
            samples.extend((0..batch.n).map(|i| (batch.boot.clone(), batch.first_seq + u64::from(i), batch.time_of(i as usize))));
        }
        samples
    }

    /// When each CONNECT came, and the will that it carried.
    pub(crate) fn connects(&self) -> Vec<(Instant, Option<Vec<u8>>)> {
        self.shared().connects.clone()
    }

    /// How many enrolment requests came.
    pub(crate) fn enrolments(&self) -> usize {
        self.shared().enrolments
    }
}

/// This moment, as on the wire.
pub(crate) fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

// ---- HTTPS -----------------------------------------------------------------------------------------------------

async fn serve_http(tcp: TcpStream, tls: TlsAcceptor, authority: Arc<Authority>, shared: Arc<Mutex<Shared>>, mqtt: SocketAddr) {
    let Ok(mut stream) = tls.accept(tcp).await else { return };
    let mut csr = String::new();
    let mut buffer = Vec::new();
    loop {
        let head_end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
        let length =
            head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:").and_then(|n| n.trim().parse().ok()));
        let length: usize = length.unwrap_or(0);
        while buffer.len() < head_end + length {
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
        let body: Vec<u8> = buffer[head_end..head_end + length].to_vec();
        buffer.drain(..head_end + length);
        if head.starts_with("POST /v1/enrol ") {
            shared.lock().unwrap().enrolments += 1;
            csr = serde_json::from_slice::<Value>(&body).unwrap()["csr"].as_str().unwrap().to_owned();
            shared.lock().unwrap().csr.clone_from(&csr);
        } else if head.starts_with("GET /v1/enrol/") {
            // A poll comes on a connection of its own.
            csr = shared.lock().unwrap().csr.clone();
            // A long poll of a kind: looks often, answers after a while.
            let until = Instant::now() + Duration::from_secs(2);
            while !shared.lock().unwrap().manner.admits && Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        if head.starts_with("GET /v1/sessions/") && !head.starts_with("GET /v1/sessions/over/") {
            // The relay: it takes the connection and says nothing, so the session waits.
            while stream.read_buf(&mut buffer).await.is_ok_and(|len| len > 0) {}
            return;
        }
        let manner = shared.lock().unwrap().manner.clone();
        let (status, answer) = if let Some((status, code, detail)) = manner.enrol_problem {
            (status, json!({"code": code, "status": status, "detail": detail}))
        } else if head.contains("/v1/enrol") {
            let admitted = manner.admits;
            let mut state = json!({
                "request": "0123456789abcdef0123456789abcdef", "pairing_code": "ABCD-2345", "org": "acme", "now": now(),
                "state": if admitted { "admitted" } else { "pending" }, "why": "an owner of acme has to admit it",
            });
            if admitted {
                let host = manner.mqtt_host.map_or(mqtt.ip().to_string(), str::to_owned);
                state["identity"] = authority.identity(&csr, &format!("{host}:{}", mqtt.port()));
            }
            (200, state)
        } else {
            // Also a session that is over.
            (404, json!({"code": "not_found", "status": 404, "detail": "nothing here"}))
        };
        let answer = answer.to_string();
        let head = format!("HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", answer.len());
        if stream.write_all((head + &answer).as_bytes()).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

// ---- MQTT ------------------------------------------------------------------------------------------------------

async fn serve_mqtt(tcp: TcpStream, tls: TlsAcceptor, shared: Arc<Mutex<Shared>>) {
    if shared.lock().unwrap().manner.down {
        return;
    }
    let Ok(mut stream) = tls.accept(tcp).await else { return };
    // Without a certificate there is nothing to talk about.
    if stream.get_ref().1.peer_certificates().is_none() {
        return;
    }
    let (sender, mut down) = mpsc::channel(DOWN_MAX);
    shared.lock().unwrap().down.push(sender);
    let mut mqtt = Connection::<role::Server>::new(Version::V5_0);
    let mut buffer = vec![0; 64 * 1024];
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    loop {
        if shared.lock().unwrap().manner.down {
            return;
        }
        let frozen = shared.lock().unwrap().manner.frozen;
        let mut events = Vec::new();
        tokio::select! {
            _ = tick.tick() => {}
            len = stream.read(&mut buffer), if !frozen => {
                let Ok(len @ 1..) = len else { return };
                let mut cursor = Cursor::new(&buffer[..len]);
                while cursor.position() < len as u64 {
                    events.extend(mqtt.recv(&mut cursor));
                }
            }
            Some((topic, payload)) = down.recv(), if !frozen => {
                let packet_id = mqtt.acquire_packet_id().unwrap();
                let publish = v5_0::Publish::builder().topic_name(topic.as_str()).unwrap().qos(Qos::AtLeastOnce).packet_id(packet_id).payload(payload);
                events.extend(mqtt.send(publish.build().unwrap().into()));
            }
        }
        let mut out = Vec::new();
        while !events.is_empty() {
            for event in std::mem::take(&mut events) {
                match event {
                    GenericEvent::RequestSendPacket { packet, .. } => out.extend(packet.to_continuous_buffer()),
                    GenericEvent::NotifyPacketReceived(packet) => {
                        if let Some(answer) = answer(packet, &shared) {
                            events.extend(mqtt.send(answer));
                        }
                    }
                    GenericEvent::NotifyError(_) => return,
                    _ => {}
                }
            }
        }
        if !out.is_empty() && (stream.write_all(&out).await.is_err() || stream.flush().await.is_err()) {
            return;
        }
    }
}

fn answer(packet: Packet, shared: &Mutex<Shared>) -> Option<Packet> {
    let mut shared = shared.lock().unwrap();
    match packet {
        Packet::V5_0Connect(connect) => {
            assert_eq!(connect.client_id(), UID);
            shared.connects.push((Instant::now(), connect.will_payload().map(<[u8]>::to_vec)));
            let (code, properties) = match shared.manner.refuses {
                None => (ConnectReasonCode::Success, vec![Property::TopicAliasMaximum(packet::TopicAliasMaximum::new(8).unwrap())]),
                Some((reason, retry_in)) => (
                    ConnectReasonCode::ServerBusy,
                    vec![
                        Property::ReasonString(packet::ReasonString::new(reason).unwrap()),
                        Property::UserProperty(packet::UserProperty::new("retry_in", retry_in.to_string().as_str()).unwrap()),
                    ],
                ),
            };
            Some(v5_0::Connack::builder().session_present(false).reason_code(code).props(properties).build().unwrap().into())
        }
        Packet::V5_0Subscribe(subscribe) => {
            let codes = vec![SubackReasonCode::GrantedQos1];
            Some(v5_0::Suback::builder().packet_id(subscribe.packet_id()).reason_codes(codes).build().unwrap().into())
        }
        Packet::V5_0Publish(publish) => {
            shared.published.push(Published {
                topic: publish.topic_name().to_owned(),
                payload: publish.payload().as_slice().to_vec(),
                retain: publish.retain(),
            });
            let packet_id = publish.packet_id().filter(|_| shared.manner.acknowledges)?;
            let code = PubackReasonCode::Success;
            Some(v5_0::Puback::builder().packet_id(packet_id).reason_code(code).build().unwrap().into())
        }
        Packet::V5_0Pingreq(_) => Some(v5_0::Pingresp::builder().build().unwrap().into()),
        _ => None,
    }
}
