//! Who is at the other end of a connection, as the listener saw it: put into every request's extensions.

use std::net::SocketAddr;

use rustls_pki_types::CertificateDer;

/// The client certificate whose chain and signature TLS verified, if one was given.
/// Whether its device may do anything is decided by [`crate::auth`].
#[derive(Debug, Clone, Default)]
pub struct PeerCertificate(pub Option<CertificateDer<'static>>);

/// The peer's address.
#[derive(Debug, Clone, Copy)]
pub struct RemoteAddr(pub SocketAddr);
