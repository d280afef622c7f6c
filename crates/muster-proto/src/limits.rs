//! Every bound of the protocol, with its reason.
//!
//! A bound that is not here does not exist on the wire.

use std::time::Duration;

/// Largest MQTT payload and JSON control message that any decoder accepts, in bytes.
/// A full usage batch is under 8 KiB; eight times that leaves room for new columns.
pub const PAYLOAD_MAX: usize = 64 * 1024;
/// Largest presence payload, in bytes: it is retained per device and serves as the last will.
pub const PRESENCE_MAX: usize = 16 * 1024;
/// Largest heartbeat, in bytes: it is most of an idle device's traffic.
pub const HEARTBEAT_MAX: usize = 120;
/// Largest HTTP request body that the hub reads, in bytes.
pub const HTTP_BODY_MAX: usize = 256 * 1024;
/// Largest certificate request in PEM, in bytes. A P-256 request is under 1 KiB.
pub const CSR_MAX: usize = 8 * 1024;

/// Longest serial number, in characters.
pub const SERIAL_MAX: usize = 64;
/// Longest slug (organization or project id), in characters.
pub const SLUG_MAX: usize = 40;
/// Longest display name, in characters.
pub const NAME_MAX: usize = 100;
/// Longest description of an organization, a team or a project, in characters: a page of text.
pub const DESCRIPTION_MAX: usize = 2000;
/// Longest web address of an organization, in bytes.
pub const WEBSITE_MAX: usize = 500;
/// Largest logo or avatar, in bytes: as much as any body.
pub const IMAGE_MAX: usize = HTTP_BODY_MAX;
/// Most pixels of a logo or avatar in each direction: a viewer must not need a gigabyte to show a small file.
pub const IMAGE_SIDE_MAX: usize = 2048;
/// Most devices in one request that puts them into a project or takes them out: they fit into one body.
pub const ASSIGN_MAX: usize = 5000;

/// Most columns in one usage batch.
pub const USAGE_COLUMNS_MAX: usize = 256;
/// Most samples in one usage batch: ten minutes at one per second.
pub const USAGE_SAMPLES_MAX: usize = 600;
/// Longest column name, in bytes.
pub const COLUMN_NAME_MAX: usize = 64;
/// Most facts a device may state.
pub const FACTS_MAX: usize = 64;

/// Time between two heartbeats.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);
/// Missed heartbeats after which a silent device counts as offline.
pub const HEARTBEATS_MISSED: u32 = 3;
/// MQTT keep alive: longer than the heartbeat, so that an idle link sends no PINGREQ (MQTT 5, 3.1.2.10).
/// The hub drops the link at one and a half times this, the device at `PING_TIMEOUT` after a silent PINGREQ.
pub const MQTT_KEEP_ALIVE: Duration = Duration::from_secs(40);
/// MQTT session expiry: commands wait this long for a device (MQTT 5, 3.1.2.11.2).
pub const MQTT_SESSION_EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// Time between two samples.
pub const SAMPLE_EVERY: Duration = Duration::from_secs(10);
/// Time between two published batches.
pub const USAGE_EVERY: Duration = Duration::from_secs(60);

/// A session order that was not delivered in this time is void.
pub const SESSION_ORDER_EXPIRY: Duration = Duration::from_secs(30);
/// A device that did not answer a session in this time is not reachable.
pub const SESSION_ANSWER: Duration = Duration::from_secs(10);
/// How long the relay, and each end, keep a session whose leg dropped.
pub const SESSION_GRACE: Duration = Duration::from_secs(120);
/// A leg that brought nothing for this time is asked by a ping: under the half minute
/// after which the strictest mobile networks forget a quiet connection.
pub const SESSION_PING_AFTER: Duration = Duration::from_secs(20);
/// A leg that brings nothing for this time after a ping is dead, and is dialled anew.
pub const SESSION_PONG_WITHIN: Duration = Duration::from_secs(15);
/// Largest data payload in one binary session message, in bytes, without the 4-byte stream id.
pub const DATA_MAX: usize = 65_536;
/// Largest session control message, in bytes.
pub const CONTROL_MAX: usize = 16 * 1024;
/// First window of a stream, in bytes.
pub const WINDOW_FIRST: u32 = 256 * 1024;
/// Largest window of a stream, in bytes.
pub const WINDOW_MAX: u32 = 4 * 1024 * 1024;
/// One turn of a stream in the round robin, in bytes: 16 KiB less the headers of a masked frame and of the message (8 and 4),
/// so that it fills one TLS record and no second one.
pub const TURN: usize = 16_372;
/// Largest data payload that a sender makes, in bytes, while nobody else waits: four turns, four TLS records.
pub const DATA_LONG: usize = 4 * TURN;
/// Most streams open at once in one session.
pub const STREAMS_MAX: usize = 4096;

/// An order to run a command that was not delivered in this time is void: nobody waits longer, and a late one would surprise.
pub const RUN_ORDER_EXPIRY: Duration = Duration::from_secs(RUN_WAIT_MAX_S as u64);
/// Longest time, in seconds, that an order may wait for its device; also the usual one.
pub const RUN_WAIT_MAX_S: u32 = 600;
/// Longest command: all arguments, or the shell's text, in bytes. With the environment it leaves room in a payload for escapes.
pub const RUN_COMMAND_MAX: usize = 24 * 1024;
/// Most arguments of a command.
pub const RUN_ARGS_MAX: usize = 1024;
/// Most variables that are added to a command's environment.
pub const RUN_ENV_MAX: usize = 64;
/// All names and values of these variables together, in bytes.
pub const RUN_ENV_BYTES_MAX: usize = 8 * 1024;
/// Longest path in which a command starts, in bytes: `PATH_MAX` of Linux.
pub const RUN_CWD_MAX: usize = 4096;
/// How long a command may run, in seconds, unless its order says otherwise.
pub const RUN_TIMEOUT_DEFAULT_S: u32 = 3600;
/// Longest time that an order may give a command, in seconds: what runs longer is a service, and belongs to the device.
pub const RUN_TIMEOUT_MAX_S: u32 = 24 * 3600;
/// Output that is kept of a command, in bytes, unless its order says otherwise; the middle of more is dropped.
pub const RUN_OUTPUT_DEFAULT: u64 = 1024 * 1024;
/// Most output that an order may ask to be kept, in bytes.
pub const RUN_OUTPUT_MAX: u64 = 16 * 1024 * 1024;
/// Largest piece of output in one report, in bytes: as base64 with its fields it is under `PAYLOAD_MAX`.
pub const RUN_PIECE_MAX: usize = 32 * 1024;
/// Most reports of one run: a piece each five seconds for a day, and all that is kept in full pieces, four times over.
pub const RUN_REPORTS_MAX: u64 = 80_000;
/// Longest sentence in a report, in bytes.
pub const RUN_MESSAGE_MAX: usize = 2048;

/// Shortest back-off ceiling.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// Longest back-off ceiling.
pub const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// Lifetime of a device's certificate.
pub const DEVICE_CERTIFICATE_LIFETIME: Duration = Duration::from_secs(90 * 24 * 3600);
/// Longest time that the hub holds an enrolment poll open.
pub const ENROL_POLL_MAX: Duration = Duration::from_secs(55);
/// Largest policy that a device tells, in bytes: written by hand, and a payload holds it with room for its escapes.
pub const POLICY_MAX: usize = 32 * 1024;
