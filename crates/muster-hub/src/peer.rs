//! Who is at the other end of a connection, as the listener saw it: put into every request's extensions.

use std::net::SocketAddr;

use muster_proto::id::SessionId;
use rustls_pki_types::CertificateDer;

use crate::ca::session_named;

/// The client certificate whose chain and signature TLS verified, if one was given.
/// Whether its device may do anything is decided by [`crate::auth`].
#[derive(Debug, Clone, Default)]
pub enum PeerCertificate {
    /// There is none.
    #[default]
    None,
    /// A device's own: the device itself speaks.
    Device(CertificateDer<'static>),
    /// One that a device made for one session: good for that session's leg, and for nothing else.
    Session(SessionCertificate),
}

/// A certificate that a device made for a session.
#[derive(Debug, Clone)]
pub struct SessionCertificate {
    /// The session.
    pub session: SessionId,
    /// The certificate of the device that made it.
    pub device: CertificateDer<'static>,
}

impl PeerCertificate {
    /// What a chain is that TLS verified.
    pub fn of(chain: Option<&[CertificateDer<'_>]>) -> Self {
        let owned = |certificate: &CertificateDer<'_>| CertificateDer::from(certificate.to_vec());
        let Some([leaf, rest @ ..]) = chain else { return Self::None };
        match (session_named(leaf), rest) {
            (None, _) => Self::Device(owned(leaf)),
            (Some(session), [device]) => Self::Session(SessionCertificate { session, device: owned(device) }),
            // TLS lets no such chain in.
            (Some(_), _) => Self::None,
        }
    }
}

/// The peer's address.
#[derive(Debug, Clone, Copy)]
pub struct RemoteAddr(pub SocketAddr);
