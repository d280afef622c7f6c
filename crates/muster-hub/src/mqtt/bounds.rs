//! Every bound of the MQTT endpoint, with its reason and what happens when it is reached.

use std::time::Duration;

use muster_proto::limits::PAYLOAD_MAX;

/// Largest packet from a device: the largest payload, its topic and properties. Larger ones end the connection (0x95).
#[expect(clippy::cast_possible_truncation, reason = "66 KiB")]
pub const PACKET_MAX: u32 = PAYLOAD_MAX as u32 + 2048;
/// QoS 1 messages that a device may have in flight to the hub; announced as Receive Maximum, more end the connection (0x93).
pub(super) const INFLIGHT_UP_MAX: u16 = 32;
/// QoS 1 messages in flight to a device. The rest waits.
pub(super) const INFLIGHT_DOWN_MAX: usize = 16;
/// Messages that wait for a device. When full, the sender is told and nothing is queued.
pub const QUEUE_MAX: usize = 100;
/// Largest message to a device.
pub const DOWN_MAX: usize = PAYLOAD_MAX;
/// Filters in a session. A device needs one. More are refused (0x97).
pub(super) const SUBSCRIPTIONS_MAX: usize = 8;
/// Refused requests on one connection before it is ended (0x87): each writes a line to the log.
pub(super) const REFUSALS_MAX: u32 = 32;
/// Longest keep alive; a device that asks for more, or for none, is told this one.
pub(super) const KEEP_ALIVE_MAX: Duration = Duration::from_secs(300);
/// Longest session expiry: a week. A longer wish is cut to it.
pub(super) const SESSION_EXPIRY_MAX_S: u32 = 7 * 24 * 3600;
/// Longest will delay, in seconds: an online state must not outlive its device for long.
pub(super) const WILL_DELAY_MAX_S: u32 = 60;
/// Longest TLS handshake.
pub(super) const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);
/// Longest time from the handshake to a whole CONNECT.
pub(super) const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// Connections that have not been let in yet. When full, new ones wait in the listen queue.
pub(super) const STRANGERS_MAX: usize = 1024;
/// Links at once: beyond, the hub accepts and closes. Ten times the fleet that one hub is measured with.
pub(super) const LINKS_MAX: usize = 100_000;
/// Longest time that a device may leave written bytes unread.
pub(super) const WRITE_WAIT: Duration = Duration::from_secs(20);
/// Longest wait for an old connection of the same device to let go of the session.
pub(super) const TAKEOVER_WAIT: Duration = Duration::from_secs(10);
/// Bytes read from a socket at once. On the stack, so an idle link owns none.
pub(super) const READ_AT_ONCE: usize = 8 * 1024;
/// Seconds after which a device is to come back that the hub cannot serve now; it adds up to a quarter by chance.
/// Not said to a device that the hub merely leaves when it stops: its own back-off spreads a fleet wider.
pub(super) const RETRY_IN_S: u32 = 20;
