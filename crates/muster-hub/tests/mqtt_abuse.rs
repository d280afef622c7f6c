//! Hostile peers on the MQTT port: whatever they send, the hub stays up and a good device is served.

#![allow(clippy::unwrap_used, clippy::large_futures, reason = "a test ends where it fails")]

#[path = "mqtt_common/hub.rs"]
mod mqtt_common;

use std::time::Duration;

use mqtt_common::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn good_device_is_served(hub: &Hub, papers: &Papers) {
    let mut raw = hub.linked(B, papers, true).await;
    assert_eq!(raw.publish(&format!("muster/v1/{B}/up/presence"), &birth(1)).await, 0);
}

#[tokio::test]
async fn garbage_before_and_inside_tls() {
    let hub = Hub::start().await;
    let (a, b) = (hub.device(A, "acme").await, hub.device(B, "acme").await);
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 5000],
        &[0x16, 3, 1, 0xff, 0xff, 1, 2, 3],
        b"\x10\x0c\x00\x04MQTT\x05\x02\x00\x3c\x00\x00\x00",
    ] {
        let mut tcp = TcpStream::connect(hub.addr).await.unwrap();
        let _ = tcp.write_all(garbage).await;
        let _ = tcp.shutdown().await;
        let mut answer = Vec::new();
        let _ = timeout(WAIT, tcp.read_to_end(&mut answer)).await.expect("the hub hangs up");
    }
    for garbage in
        [&b"GET /mqtt HTTP/1.1\r\n\r\n"[..], &[0; 100], &[0xff; 100], &[0x10, 0xff, 0xff, 0xff, 0x7f], &publish(2, "x", Some(1), b"x")]
    {
        let mut raw = hub.raw(&a).await;
        let _ = raw.stream.write_all(garbage).await;
        assert!(raw.end().await.is_none(), "{garbage:?}");
    }
    let mut raw = hub.raw(&a).await;
    raw.send(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a").await;
    assert_eq!(raw.end().await.unwrap(), [0x20, 2, 0, 1], "MQTT 3.1.1 is told so in its own words");
    good_device_is_served(&hub, &b).await;
}

#[tokio::test]
async fn garbage_oversized_and_half_packets_on_a_link() {
    let hub = Hub::start().await;
    let (a, b) = (hub.device(A, "acme").await, hub.device(B, "acme").await);
    let topic = format!("muster/v1/{A}/up/event");
    let oversized = publish(0x02, &topic, Some(1), &vec![b' '; 80_000]);
    let too_many: Vec<u8> = (1..=40_u16).flat_map(|id| publish(0x02, &topic, Some(id), b"{}")).collect();
    for (bytes, code) in [
        (&oversized[..], Some(0x95)),
        (&[0xff; 64], None),
        (&[0x82, 0x02, 0x00, 0x01], None),
        (&[0x30, 0x80, 0x80, 0x80, 0x80, 0x01], None),
        (&publish(0x04, &topic, Some(1), b"{}"), Some(0x9b)),
    ] {
        let mut raw = hub.linked(A, &a, true).await;
        let _ = raw.stream.write_all(bytes).await;
        let last = raw.end().await;
        if let Some(code) = code {
            let last = last.expect("a DISCONNECT");
            assert_eq!((last[0], last[2]), (0xe0, code));
        }
    }
    // As many as one likes at once: they are answered one after the other.
    let mut raw = hub.linked(A, &a, true).await;
    raw.send(&too_many).await;
    for _ in 0..40 {
        assert_eq!(raw.packet().await.unwrap()[0], 0x40);
    }
    // Half a packet, then gone.
    let mut raw = hub.linked(A, &a, true).await;
    raw.send(&oversized[..1000]).await;
    drop(raw);
    good_device_is_served(&hub, &b).await;
}

#[tokio::test]
async fn the_slow_are_shown_the_door() {
    let hub = Hub::start().await;
    let (a, b) = (hub.device(A, "acme").await, hub.device(B, "acme").await);
    // No handshake; a handshake and nothing more; half a CONNECT. Each keeps a place for ten seconds at most.
    let mut silent = TcpStream::connect(hub.addr).await.unwrap();
    let mut mute = hub.raw(&a).await;
    let mut half = hub.raw(&a).await;
    half.send(&connect(A, 2, &[], &[])[..9]).await;
    good_device_is_served(&hub, &b).await;
    let late = Duration::from_secs(15);
    let mut nothing = Vec::new();
    let _ = timeout(late, silent.read_to_end(&mut nothing)).await.expect("hung up on who does not begin");
    assert!(timeout(late, mute.end()).await.expect("hung up on who says nothing").is_none());
    assert!(timeout(late, half.end()).await.expect("hung up on who stops half-way").is_none());
    good_device_is_served(&hub, &b).await;
}

#[tokio::test]
async fn many_strangers_at_once() {
    let hub = Hub::start().await;
    let b = hub.device(B, "acme").await;
    let mut strangers = Vec::new();
    for _ in 0..300 {
        strangers.push(TcpStream::connect(hub.addr).await.unwrap());
    }
    good_device_is_served(&hub, &b).await;
    drop(strangers);
    good_device_is_served(&hub, &b).await;
}
