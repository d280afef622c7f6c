//! Two ends of a session joined by hand, for tests that look at single rules.
#![allow(dead_code, unreachable_pub, reason = "included by several tests; each takes what it needs")]

use std::time::Duration;

use bytes::Bytes;
use muster_proto::id::{SessionId, StreamId};
use muster_proto::session::{Event, Outgoing, ProtocolError, Session, Side, Target, Terminal};

pub fn id() -> SessionId {
    "saaaaaaaaaaaaaaa".parse().unwrap()
}

pub fn tcp() -> Target {
    Target::Tcp { host: "127.0.0.1".into(), port: 22 }
}

pub fn terminal() -> Target {
    Target::Terminal(Terminal { cols: 80, rows: 24, term: "xterm".into(), user: None, command: None, attach: None, errors: false })
}

pub fn bytes(size: usize) -> Bytes {
    Bytes::from(vec![7; size])
}

pub fn receive(session: &mut Session, message: &Outgoing, now: Duration) -> Result<(), ProtocolError> {
    match message {
        Outgoing::Control(text) => session.receive_text(text, now),
        Outgoing::Data { stream, payload } => session.receive_binary(frame(*stream, payload), now),
    }
}

pub fn frame(stream: StreamId, payload: &[u8]) -> Bytes {
    let mut message = stream.0.to_be_bytes().to_vec();
    message.extend_from_slice(payload);
    message.into()
}

pub fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.poll_event()).collect()
}

/// What `session` says now, without answers from the other end.
pub fn said(session: &mut Session, now: Duration) -> Vec<Outgoing> {
    std::iter::from_fn(|| session.poll_transmit(now)).collect()
}

pub fn texts(messages: &[Outgoing]) -> Vec<&str> {
    messages.iter().filter_map(|message| if let Outgoing::Control(text) = message { Some(text.as_str()) } else { None }).collect()
}

pub fn data(message: &Outgoing) -> Option<(StreamId, usize)> {
    if let Outgoing::Data { stream, payload } = message { Some((*stream, payload.len())) } else { None }
}

/// Client and device on a line without delay.
pub struct Pair {
    pub now: Duration,
    pub client: Session,
    pub device: Session,
}

impl Pair {
    /// Two ends that have met.
    pub fn met() -> Self {
        let now = Duration::from_secs(1000);
        let mut pair = Self { now, client: Session::new(Side::Client, id(), now), device: Session::new(Side::Device, id(), now) };
        pair.client.leg_up(now);
        pair.device.leg_up(now);
        pair.run();
        assert_eq!(events(&mut pair.client), [Event::Established]);
        assert_eq!(events(&mut pair.device), [Event::Established]);
        pair
    }

    /// Passes messages until none is left; acknowledgements need time to pass.
    pub fn run(&mut self) {
        loop {
            let to_device = self.client.poll_transmit(self.now);
            if let Some(message) = &to_device {
                receive(&mut self.device, message, self.now).unwrap();
            }
            let to_client = self.device.poll_transmit(self.now);
            if let Some(message) = &to_client {
                receive(&mut self.client, message, self.now).unwrap();
            }
            if to_device.is_none() && to_client.is_none() {
                return;
            }
        }
    }

    /// Lets time pass at both ends.
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.client.tick(self.now);
        self.device.tick(self.now);
        self.run();
    }

    /// A stream opened by the client and accepted.
    pub fn open(&mut self, target: Target) -> StreamId {
        let stream = self.client.open(target).unwrap();
        self.run();
        self.device.accept(stream, serde_json::Value::Null);
        self.run();
        events(&mut self.device);
        events(&mut self.client);
        stream
    }
}
