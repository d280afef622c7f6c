//! End to end: the real hub, daemon and command line, against the real OpenSSH and Mosquitto, over real and broken networks.
//!
//! One test binary, so that the harness is built once. Each test makes its own laboratory (`lab`) in a folder of its own,
//! on addresses of its own, and ends every process that it started.
//! Nothing here looks into the programs: only what a person, a script or the wire can see counts.
//!
//! Times: a laboratory runs with a heartbeat each 2 s (30 s in the field) and a sample each second (10 s in the field).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]
#![expect(unreachable_pub, reason = "one binary; `pub` says what a part of the harness offers to the tests")]

mod bad_input;
mod device;
mod devices;
mod external_broker;
mod fence;
mod forward;
mod hardiness;
mod https;
mod lab;
mod leaving;
mod netns;
mod openssh;
mod organization;
mod presence;
mod process;
mod programs;
mod proxy;
mod quickstart;
mod renewal;
mod revoke;
mod runs;
mod spool;
mod sshd;
mod storage;
mod streams;
mod survival;
mod traffic;
mod wait;
mod wire;
