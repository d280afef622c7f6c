//! What lies between sockets and meaning, for the daemon, the command line and (WebSocket and TLS only) the hub.
//!
//! `tls` says whom we trust, `dial` opens a connection, `http` makes one JSON call, `websocket` moves messages,
//! `driver` runs a session over legs that may drop.
//! This crate reads no configuration and no environment, prints nothing, and decides nothing about rights.

pub mod dial;
pub mod http;
pub mod tls;
pub mod websocket;
