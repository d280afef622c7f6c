//! Every decoder of what arrives from outside, with made-up bytes: none panics, and what decodes also encodes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_proto::api;
use muster_proto::id::{DeviceUid, OrgId, RunId, Serial, SessionId};
use muster_proto::limits::PAYLOAD_MAX;
use muster_proto::mqtt::{self, AdmissionNotice, ConfigWish, DeviceEvent, Heartbeat, Presence, SessionOrder, UsageBatch};
use muster_proto::run::{RunOrder, RunReport};
use muster_proto::session::Control;
use muster_proto::token::{Pin, Token, TokenKind};
use muster_proto::topic::{self, Topic};
use muster_proto::websocket;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn json<T: Serialize + DeserializeOwned>(input: &[u8]) {
    if let Ok(value) = mqtt::decode::<T>(input, PAYLOAD_MAX) {
        mqtt::encode(&value);
    }
}

fuzz_target!(|input: &[u8]| {
    json::<Presence>(input);
    json::<Heartbeat>(input);
    json::<DeviceEvent>(input);
    json::<SessionOrder>(input);
    json::<ConfigWish>(input);
    if let Ok(order) = muster_proto::order::read(input) {
        order.to_bytes();
    }
    if let Ok(report) = mqtt::PolicyReport::decode(input) {
        mqtt::encode(&report);
    }
    json::<AdmissionNotice>(input);
    json::<api::EnrolRequest>(input);
    json::<api::EnrolmentTokenCreate>(input);
    json::<api::LoginRequest>(input);
    json::<api::DeviceEdit>(input);
    json::<api::SessionCreate>(input);
    json::<api::Page<api::Device>>(input);
    if let Ok(order) = RunOrder::decode(input) {
        mqtt::encode(&order);
    }
    if let Ok(report) = RunReport::decode(input) {
        mqtt::encode(&report);
    }
    json::<api::RunCreate>(input);
    json::<api::RunLine>(input);
    if let Ok(batch) = UsageBatch::decode(input) {
        for index in 0..batch.n as usize {
            batch.time_of(index);
        }
    }
    if let Ok(text) = std::str::from_utf8(input) {
        if let Ok(control) = Control::parse(text) {
            control.encode();
        }
        let uid: DeviceUid = "daaaaaaaaaaaaaaa".parse().expect("a valid uid");
        if let Ok(topic) = text.parse::<Topic>() {
            assert_eq!(topic.to_string(), text);
            assert_eq!(topic::may_publish(&uid, text), text.starts_with("muster/v1/daaaaaaaaaaaaaaa/up/"));
        }
        if topic::may_subscribe(&uid, text) {
            assert!(text.starts_with("muster/v1/daaaaaaaaaaaaaaa/down/"));
        }
        for kind in [TokenKind::Enrolment, TokenKind::Personal] {
            if let Ok(token) = Token::parse(text, kind) {
                assert_eq!(token.to_string(), text.trim());
            }
        }
        let _ = (text.parse::<Pin>(), text.parse::<OrgId>(), text.parse::<Serial>(), text.parse::<SessionId>(), text.parse::<RunId>());
    }
    if let Ok(Some((header, used))) = websocket::Header::parse(input) {
        let (bytes, len) = header.encode();
        assert_eq!(bytes[..len], input[..used]);
    }
    let _ = websocket::parse_close(input);
});
