//! The machine against bytes written by hand: the fence, the bounds, the order of things, and hostile input.

use std::time::Duration;

use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode, DisconnectReasonCode};
use muster_proto::id::DeviceUid;
use muster_proto::topic::Up;
use proptest::prelude::*;

use super::bounds::{KEEP_ALIVE_MAX, REFUSALS_MAX};
use super::machine::{Answer, Event, Machine};
use super::outbox::{Down, Subscription};

const A: &str = "daaaaaaaaaaaaaaa";
const B: &str = "dbbbbbbbbbbbbbbb";
const NOW: Duration = Duration::from_secs(1000);

fn uid() -> DeviceUid {
    A.parse().unwrap()
}

fn text(text: &str) -> Vec<u8> {
    let mut bytes = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![kind];
    let mut left = body.len();
    loop {
        let byte = u8::try_from(left % 128).unwrap();
        left /= 128;
        packet.push(if left > 0 { byte | 0x80 } else { byte });
        if left == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

fn connect(client_id: &str, flags: u8, keep_alive: u16, properties: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut body = b"\x00\x04MQTT\x05".to_vec();
    body.push(flags);
    body.extend_from_slice(&keep_alive.to_be_bytes());
    body.push(u8::try_from(properties.len()).unwrap());
    body.extend_from_slice(properties);
    body.extend(text(client_id));
    body.extend_from_slice(rest);
    frame(0x10, &body)
}

fn publish(flags: u8, topic: &str, packet_id: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if let Some(id) = packet_id {
        body.extend_from_slice(&id.to_be_bytes());
    }
    body.push(0);
    body.extend_from_slice(payload);
    frame(0x30 | flags, &body)
}

fn subscribe(filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = vec![0, 9, 0];
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    frame(0x82, &body)
}

fn linked() -> Machine {
    let mut machine = Machine::new(uid(), NOW);
    machine.feed(&connect(A, 0, 40, b"", b""));
    assert!(matches!(machine.poll(NOW), Some(Event::Connect(_))));
    machine.accept(false, Vec::new(), Vec::new());
    assert_eq!(machine.take_output()[..4], [0x20, 0x11, 0, 0]);
    machine
}

#[test]
fn a_device_that_cannot_be_served_now_is_told_when_to_come_back() {
    let told = |packet: &[u8]| packet.windows(15).any(|bytes| bytes == b"\x26\x00\x08retry_in\x00\x0220");
    for (code, expected) in [
        (ConnectReasonCode::ServerBusy, true),
        (ConnectReasonCode::ServerUnavailable, true),
        (ConnectReasonCode::Banned, false),
        (ConnectReasonCode::NotAuthorized, false),
    ] {
        let mut machine = Machine::new(uid(), NOW);
        machine.feed(&connect(A, 0, 40, b"", b""));
        assert!(matches!(machine.poll(NOW), Some(Event::Connect(_))));
        machine.refuse(code, "why");
        assert_eq!(told(&machine.take_output()), expected, "{code:?}");
    }
    for (code, expected) in [(DisconnectReasonCode::ServerBusy, true), (DisconnectReasonCode::ServerShuttingDown, false)] {
        let mut machine = linked();
        machine.disconnect(code, "why");
        assert_eq!(told(&machine.take_output()), expected, "{code:?}");
    }
}

fn all(machine: &mut Machine) -> Vec<Event> {
    std::iter::from_fn(|| machine.poll(NOW)).collect()
}

#[test]
fn announces_what_it_can() {
    let mut machine = Machine::new(uid(), NOW);
    machine.feed(&connect(A, 0, 40, b"", b""));
    machine.poll(NOW);
    machine.accept(true, Vec::new(), Vec::new());
    // Session present; maximum QoS 1, no shared subscriptions, no subscription identifiers, packets of 66 KiB, 32 in flight.
    assert_eq!(machine.take_output(), [0x20, 0x11, 1, 0, 0x0e, 0x24, 1, 0x2a, 0, 0x29, 0, 0x27, 0, 1, 8, 0, 0x21, 0, 32].to_vec());
    assert_eq!(machine.deadline(), NOW + Duration::from_secs(60));
}

#[test]
fn bounds_the_keep_alive() {
    for asked in [0, 301, u16::MAX] {
        let mut machine = Machine::new(uid(), NOW);
        machine.feed(&connect(A, 0, asked, b"", b""));
        machine.poll(NOW);
        machine.accept(false, Vec::new(), Vec::new());
        assert!(machine.take_output().windows(3).any(|bytes| bytes == [0x13, 1, 44]), "{asked}");
        assert_eq!(machine.deadline(), NOW + KEEP_ALIVE_MAX * 3 / 2);
    }
}

#[test]
fn byte_by_byte_and_all_at_once_are_the_same() {
    let mut bytes = connect(A, 0, 40, b"\x22\x00\x00", b"");
    let connect_len = bytes.len();
    bytes.extend(subscribe(&[(&format!("muster/v1/{A}/down/#"), 1)]));
    bytes.extend(publish(0x02, &format!("muster/v1/{A}/up/usage"), Some(5), b"{}"));
    for chunk in [1, 7, connect_len, 4096] {
        let mut machine = Machine::new(uid(), NOW);
        let mut seen = Vec::new();
        for part in bytes.chunks(chunk) {
            machine.feed(part);
            while let Some(event) = machine.poll(NOW) {
                seen.push(match event {
                    Event::Connect(_) => {
                        machine.accept(false, Vec::new(), Vec::new());
                        "connect"
                    }
                    Event::Subscribed(_) => "subscribed",
                    Event::Publish(publish) => {
                        assert_eq!((publish.up, publish.payload.as_slice(), publish.packet_id), (Up::Usage, &b"{}"[..], Some(5)));
                        machine.acknowledge(5, Answer::Stored);
                        "publish"
                    }
                    other => panic!("{other:?}"),
                });
            }
        }
        assert_eq!(seen, ["connect", "subscribed", "publish"], "{chunk}");
        let out = machine.take_output();
        assert!(out.ends_with(&[0x90, 4, 0, 9, 0, 1, 0x40, 2, 0, 5]), "{out:?}");
    }
}

#[test]
fn a_foreign_client_id_is_refused() {
    for client_id in [B, "", "muster-hub", &A[..15]] {
        let mut machine = Machine::new(uid(), NOW);
        machine.feed(&connect(client_id, 0, 40, b"", b""));
        assert!(matches!(&all(&mut machine)[..], [Event::Failed(_)]), "{client_id}");
        let out = machine.take_output();
        assert_eq!((out[0], out[3]), (0x20, 0x85), "{client_id}");
        assert!(machine.is_closed());
    }
}

#[test]
fn a_will_stays_in_the_lane() {
    let will = |topic: &str, flags: u8| {
        let mut machine = Machine::new(uid(), NOW);
        let mut rest = vec![5, 0x18, 0, 0, 0, 3];
        rest.extend(text(topic));
        rest.extend(text("gone"));
        machine.feed(&connect(A, flags, 40, b"", &rest));
        (all(&mut machine), machine.take_output())
    };
    let (events, out) = will(&format!("muster/v1/{A}/up/presence"), 0x2e);
    match &events[..] {
        [Event::Connect(connect)] => {
            let will = connect.will.as_ref().unwrap();
            assert_eq!((&will.up, &will.payload[..], will.delay_s, connect.clean_start), (&Up::Presence, &b"gone"[..], 3, true));
        }
        other => panic!("{other:?}"),
    }
    assert!(out.is_empty());
    for topic in [
        format!("muster/v1/{B}/up/presence"),
        format!("muster/v1/{A}/down/session"),
        format!("muster/v1/{B}/down/session"),
        "$CONTROL/dynamic-security/v1".into(),
        "x".into(),
    ] {
        for flags in [0x0e, 0x2e] {
            let (events, out) = will(&topic, flags);
            assert!(matches!(&events[..], [Event::Failed(_)]), "{topic}");
            assert_eq!((out[0], out[3]), (0x20, 0x87), "{topic}");
        }
    }
    let (_, out) = will(&format!("muster/v1/{A}/up/presence"), 0x36);
    assert_eq!((out[0], out[3]), (0x20, 0x9b));
}

#[test]
fn a_publish_stays_in_the_lane() {
    for topic in [
        format!("muster/v1/{B}/up/usage"),
        format!("muster/v1/{B}/down/session"),
        format!("muster/v1/{A}/down/session"),
        format!("muster/v1/{A}/up/usage/more"),
        format!("muster/v1/{A}/up/"),
        "muster/v1".into(),
        "$SYS/broker".into(),
        format!("$share/x/muster/v1/{A}/up/usage"),
    ] {
        for retain in [0, 1] {
            let mut machine = linked();
            machine.feed(&publish(0x02 | retain, &topic, Some(7), b"x"));
            assert!(matches!(&all(&mut machine)[..], [Event::Crossed(_)]), "{topic}");
            assert_eq!(machine.take_output(), [0x40, 3, 0, 7, 0x87], "{topic}");
            // At QoS 0 there is nobody to tell, and still nothing passes.
            machine.feed(&publish(retain, &topic, None, b"x"));
            assert!(matches!(&all(&mut machine)[..], [Event::Crossed(_)]), "{topic}");
            assert!(machine.take_output().is_empty() && !machine.is_closed());
        }
    }
}

#[test]
fn a_subscription_stays_in_the_lane() {
    let own = format!("muster/v1/{A}/down/#");
    for filter in [
        "#".to_owned(),
        "+/+/+/#".into(),
        format!("muster/v1/{B}/down/#"),
        "muster/v1/+/down/#".into(),
        format!("muster/v1/{A}/up/#"),
        format!("$share/muster-hub/muster/v1/{A}/down/#"),
        "$share/muster-hub/muster/v1/+/up/#".into(),
        "$SYS/#".into(),
    ] {
        let mut machine = linked();
        machine.feed(&subscribe(&[(&filter, 1), (&own, 1)]));
        let events = all(&mut machine);
        assert!(
            matches!(&events[..], [Event::Subscribed(wanted), Event::Crossed(_)] if wanted[..] == [own.clone()]),
            "{filter}: {events:?}"
        );
        assert_eq!(machine.take_output(), [0x90, 5, 0, 9, 0, 0x87, 1], "{filter}");
        assert_eq!(machine.subscriptions(), [Subscription(own.clone(), 1)]);
    }
    let mut machine = linked();
    machine.feed(&subscribe(&[(&format!("muster/v1/{A}/down/a+"), 1), (&own, 2), (&own, 0)]));
    all(&mut machine);
    assert_eq!(machine.take_output(), [0x90, 6, 0, 9, 0, 0x8f, 1, 0]);
}

#[test]
fn stubborn_devices_are_cut_off() {
    let mut machine = linked();
    for _ in 0..REFUSALS_MAX + 5 {
        machine.feed(&publish(0, "x", None, b""));
    }
    let events = all(&mut machine);
    assert_eq!(events.iter().filter(|event| matches!(event, Event::Crossed(_))).count(), REFUSALS_MAX as usize);
    assert!(matches!(events.last(), Some(Event::Failed(_))));
    assert_eq!(machine.take_output()[..3], [0xe0, 0x1e, 0x87]);
}

#[test]
fn delivers_repeats_and_forgets() {
    let down = |id: i64, sent: bool| Down {
        id,
        topic: format!("muster/v1/{A}/down/session"),
        payload: b"hi".to_vec(),
        expires_at: Some(10_500),
        retain: false,
        sent,
    };
    let mut machine = Machine::new(uid(), NOW);
    machine.feed(&connect(A, 0, 40, b"\x21\x00\x02", b""));
    machine.poll(NOW);
    machine.accept(true, vec![Subscription(format!("muster/v1/{A}/down/#"), 1)], vec![down(1, true), down(2, false), down(3, false)]);
    machine.take_output();
    assert!(machine.pump(9_000).is_empty());
    let out = machine.take_output();
    // Receive Maximum 2: two of three; the first says DUP; packet id = id + 1; expiry in whole seconds, rounded up.
    let (first, second) = out.split_at(out.len() / 2);
    assert_eq!((first[0], second[0], out.len() % 2), (0x3a, 0x32, 0));
    let tail = |id: u8| [&[0, id, 5, 2, 0, 0, 0, 2][..], b"hi"].concat();
    assert!(first.ends_with(&tail(2)) && second.ends_with(&tail(3)), "{out:?}");
    assert_eq!(machine.unacknowledged(), [1, 2]);
    machine.feed(&[0x40, 2, 0, 2]);
    assert!(matches!(&all(&mut machine)[..], [Event::Delivered(1)]));
    assert_eq!(machine.pump(20_000), [3], "the third expired while it waited");
    assert_eq!(machine.unacknowledged(), [2]);
    // An acknowledgement of nothing ends the connection.
    machine.feed(&[0x40, 2, 0, 2]);
    assert!(matches!(&all(&mut machine)[..], [Event::Failed(_)]));
}

#[test]
fn good_byes() {
    let goodbye = |bytes: &[u8]| {
        let mut machine = linked();
        machine.feed(bytes);
        let events = all(&mut machine);
        assert!(machine.is_closed());
        match &events[..] {
            [Event::Goodbye { with_will, expiry_s }] => (*with_will, *expiry_s),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(goodbye(&[0xe0, 0]), (false, None));
    assert_eq!(goodbye(&[0xe0, 1, 4]), (true, None));
    assert_eq!(goodbye(&[0xe0, 7, 0, 5, 0x11, 0, 0, 0, 9]), (false, Some(9)));
}

#[test]
fn old_mqtt_is_refused_in_its_own_words() {
    let mut machine = Machine::new(uid(), NOW);
    machine.feed(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a");
    assert!(matches!(&all(&mut machine)[..], [Event::Failed(_)]));
    assert_eq!(machine.take_output(), [0x20, 2, 0, 1]);
}

#[test]
fn what_ends_a_connection() {
    let too_large = [0x30, 0xff, 0xff, 0x7f];
    let qos_2 = publish(0x04, &format!("muster/v1/{A}/up/usage"), Some(1), b"");
    let alias = frame(0x30, b"\x00\x00\x03\x23\x00\x01");
    let again = connect(A, 0, 40, b"", b"");
    let auth = [0xf0, 0];
    for (bytes, code) in
        [(&too_large[..], 0x95), (&qos_2, 0x9b), (&alias, 0x94), (&again, 0x82), (&auth, 0x82), (&[0xd0, 0], 0x82), (&[0, 0], 0x82)]
    {
        let mut machine = linked();
        machine.feed(bytes);
        let events = all(&mut machine);
        assert!(matches!(events.last(), Some(Event::Failed(_))), "{bytes:?}: {events:?}");
        assert!(machine.is_closed());
        let out = machine.take_output();
        assert_eq!((out[0], out[2]), (0xe0, code), "{bytes:?}: {out:?}");
    }
}

#[test]
fn nothing_is_done_before_the_hub_has_agreed() {
    let mut machine = Machine::new(uid(), NOW);
    let mut bytes = connect(A, 0, 40, b"", b"");
    bytes.extend(publish(0x02, &format!("muster/v1/{A}/up/usage"), Some(1), b"{}"));
    machine.feed(&bytes);
    assert!(matches!(&all(&mut machine)[..], [Event::Connect(_)]));
    machine.refuse(ConnectReasonCode::Banned, "revoked by owner@example.com");
    let out = machine.take_output();
    assert_eq!((out[0], out[3]), (0x20, 0x8a));
    assert!(all(&mut machine).is_empty() && machine.is_closed());
    machine.disconnect(DisconnectReasonCode::AdministrativeAction, "late");
    assert!(machine.take_output().is_empty());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic_and_never_pass(
        prefix in prop_oneof![Just(true), Just(false)],
        mutate in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = if prefix { connect(A, 0x0e, 40, b"\x11\x00\x01\x51\x80\x22\x00\x00\x21\x00\x05", &[&[0][..], &text(&format!("muster/v1/{A}/up/presence")), &text("{}")].concat()) } else { Vec::new() };
        bytes.extend(subscribe(&[(&format!("muster/v1/{A}/down/#"), 1)]));
        bytes.extend(publish(0x02, &format!("muster/v1/{A}/up/usage"), Some(1), b"{}"));
        bytes.extend([0x40, 2, 0, 2, 0xc0, 0]);
        bytes.extend(publish(0x00, &format!("muster/v1/{A}/up/heartbeat"), None, b"{}"));
        for (at, value) in mutate {
            let at = usize::from(at) % bytes.len();
            bytes[at] = value;
        }
        bytes.extend(tail);
        let mut machine = Machine::new(uid(), NOW);
        for part in bytes.chunks(11) {
            machine.feed(part);
            while let Some(event) = machine.poll(NOW) {
                match event {
                    Event::Connect(_) => {
                        machine.accept(true, Vec::new(), vec![Down { id: 1, topic: format!("muster/v1/{A}/down/config"), payload: vec![1], expires_at: None, retain: false, sent: false }]);
                        machine.pump(0);
                    }
                    Event::Publish(publish) => {
                        if let Some(id) = publish.packet_id {
                            machine.acknowledge(id, Answer::Invalid);
                        }
                    }
                    Event::Subscribed(filters) => {
                        let own = format!("muster/v1/{A}/down/");
                        prop_assert!(filters.iter().all(|filter| filter.starts_with(&own)));
                        machine.pump(0);
                    }
                    _ => {}
                }
            }
            machine.take_output();
        }
    }
}
/// What an idle device costs beside TLS: ten thousand of them are the goal, at 16 KB each.
#[test]
fn an_idle_link_is_small() {
    type Linked = super::connection::Linked<tokio_rustls::server::TlsStream<tokio::net::TcpStream>>;
    fn room<F: Fn(Box<Linked>) -> T, T>(_: F) -> usize {
        size_of::<T>()
    }
    assert!(size_of::<Linked>() <= 2560, "{}", size_of::<Linked>());
    assert!(room(Linked::run) <= 512, "{}", room(Linked::run));
}
