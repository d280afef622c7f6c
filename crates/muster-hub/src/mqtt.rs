//! MQTT between the hub and its devices: the embedded endpoint, and the lanes through which the hub speaks to a device.
//!
//! The endpoint routes nothing between devices: `up/` goes to [`crate::ingest`], `down/` comes from [`Lanes`].
//! A device is who its certificate says; its client id is its uid; it reaches its own lane and nothing else.
//! `machine` and below are pure; `connection` and `endpoint` hold the sockets.

mod bounds;
mod connection;
mod endpoint;
mod lanes;
mod links;
mod machine;
#[cfg(test)]
mod machine_tests;
mod opening;
mod outbox;
mod websocket;

pub use bounds::{DOWN_MAX, PACKET_MAX, QUEUE_MAX};
pub use endpoint::Endpoint;
pub use lanes::{Lanes, SendError, SendOptions};
pub use outbox::{Down, Subscription};
pub use websocket::Wrapped;
